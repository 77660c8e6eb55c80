/* SPDX-License-Identifier: Apache-2.0 */
/* The module hornbeam._http_c: what is done once per request, in C.
 *
 * Only for the usual case. What is unusual or wrong gets None, and the Python code that
 * calls this does all of it again and says what is wrong; so there is one place for each
 * rule and its error, and what is here can be left out. No lock, and no state but caches. */
#include "_http_c.h"

#include <string.h>

static HttpState *
http_state(PyObject *module)
{
    return (HttpState *)PyModule_GetState(module);
}

/* Headers. */

static int
has_line_break(const char *bytes, Py_ssize_t size)
{
    for (Py_ssize_t i = 0; i < size; i++) {
        if (bytes[i] == '\r' || bytes[i] == '\n' || bytes[i] == '\0') {
            return 1;
        }
    }

    return 0;
}

static int
is_blank(char byte)
{
    return byte == ' ' || byte == '\t';
}

/* A value that goes out as it is. */
static int
is_plain_value(PyObject *value)
{
    const char *bytes = PyBytes_AS_STRING(value);
    Py_ssize_t size = PyBytes_GET_SIZE(value);
    return !has_line_break(bytes, size)
           && (size == 0 || !(is_blank(bytes[0]) || is_blank(bytes[size - 1])));
}

static int
is_name(PyObject *name, const char *text, Py_ssize_t size)
{
    return PyBytes_GET_SIZE(name) == size
           && memcmp(PyBytes_AS_STRING(name), text, (size_t)size) == 0;
}

/* The number, or NULL without an error. */
static PyObject *
parse_length(PyObject *value)
{
    const char *bytes = PyBytes_AS_STRING(value);
    Py_ssize_t size = PyBytes_GET_SIZE(value);
    unsigned long long number = 0;

    if (size == 0 || size > MAX_LENGTH_DIGITS) {
        return NULL;
    }
    for (Py_ssize_t i = 0; i < size; i++) {
        if (bytes[i] < '0' || bytes[i] > '9') {
            return NULL;
        }
        number = number * 10 + (unsigned long long)(bytes[i] - '0');
    }

    return PyLong_FromUnsignedLongLong(number);
}

/* The pair as it goes out; NULL without an error: not for here. */
static PyObject *
check_pair(PyObject *pair, PyObject *names, PyObject **declared)
{
    int is_tuple = PyTuple_CheckExact(pair);
    if (!is_tuple && !PyList_CheckExact(pair)) {
        return NULL;
    }
    if (PySequence_Fast_GET_SIZE(pair) != 2) {
        return NULL;
    }

    PyObject *name = PySequence_Fast_GET_ITEM(pair, 0);
    PyObject *value = PySequence_Fast_GET_ITEM(pair, 1);
    if (!PyBytes_CheckExact(name) || !PyBytes_CheckExact(value)) {
        return NULL;
    }

    PyObject *lower = PyDict_GetItemWithError(names, name);
    if (lower == NULL || !is_plain_value(value) || is_name(lower, "transfer-encoding", 17)) {
        return NULL;
    }
    if (is_name(lower, "content-length", 14)
        && (*declared != NULL || (*declared = parse_length(value)) == NULL)) {
        return NULL;
    }
    if (is_tuple && lower == name) {
        return Py_NewRef(pair);
    }

    /* A list may lose the value while the tuple is made, see below. */
    Py_INCREF(value);
    PyObject *made = PyTuple_Pack(2, lower, value);
    Py_DECREF(value);
    return made;
}

int
http_check_headers(PyObject *headers, PyObject *names, PyObject **checked,
                   PyObject **declared)
{
    *checked = *declared = NULL;
    if (!PyList_CheckExact(headers)) {
        return 0;
    }

    Py_ssize_t size = PyList_GET_SIZE(headers);
    if ((*checked = PyList_New(size)) == NULL) {
        return -1;
    }
    /* Up to Python 3.11 whatever makes a container may have garbage collected, which may
     * run code of the application, which may change the list. */
    for (Py_ssize_t i = 0; i < size; i++) {
        PyObject *pair = PyList_GET_SIZE(headers) == size
                             ? check_pair(PyList_GET_ITEM(headers, i), names, declared)
                             : NULL;
        if (pair == NULL) {
            Py_CLEAR(*checked);
            Py_CLEAR(*declared);
            return PyErr_Occurred() ? -1 : 0;
        }
        PyList_SET_ITEM(*checked, i, pair);
    }

    return 1;
}

PyDoc_STRVAR(check_headers_doc,
             "check_headers(headers, names, /)\n--\n\n"
             "Check headers whose names are known in lower case; None if that is not"
             " enough.");

static PyObject *
check_headers(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count != 2 || !PyDict_CheckExact(args[1])) {
        PyErr_SetString(PyExc_TypeError, "check_headers() takes headers and a dict of names");
        return NULL;
    }

    PyObject *checked, *declared;
    int status = http_check_headers(args[0], args[1], &checked, &declared);
    if (status < 0) {
        return NULL;
    }
    if (status == 0) {
        Py_RETURN_NONE;
    }

    PyObject *length = declared ? declared : Py_NewRef(Py_None);
    PyObject *result = PyTuple_Pack(2, checked, length);
    Py_DECREF(checked);
    Py_DECREF(length);
    return result;
}

/* Scopes. */

/* A borrowed str for bytes that were seen before; NULL without an error otherwise. */
static PyObject *
known_text(PyObject *texts, PyObject *bytes)
{
    return PyBytes_CheckExact(bytes) ? PyDict_GetItemWithError(texts, bytes) : NULL;
}

static int
is_address(PyObject *address)
{
    return PyTuple_CheckExact(address) && PyTuple_GET_SIZE(address) == 2
           && PyBytes_CheckExact(PyTuple_GET_ITEM(address, 0));
}

static PyObject *
make_client(PyObject *client)
{
    if (client == Py_None) {
        return Py_NewRef(client);
    }

    PyObject *host = PyTuple_GET_ITEM(client, 0);
    PyObject *text = PyUnicode_DecodeUTF8(
        PyBytes_AS_STRING(host), PyBytes_GET_SIZE(host), NULL);
    PyObject *made = text ? PyTuple_Pack(2, text, PyTuple_GET_ITEM(client, 1)) : NULL;
    Py_XDECREF(text);
    return made;
}

static PyObject *
make_extensions(HttpState *state)
{
    PyObject *extensions = PyDict_New();

    for (int i = 0; extensions != NULL && i < EXTENSIONS; i++) {
        PyObject *facts = PyDict_New();
        if (facts == NULL || PyDict_SetItem(extensions, state->extensions[i], facts) < 0) {
            Py_CLEAR(extensions);
        }
        Py_XDECREF(facts);
    }

    return extensions;
}

/* Takes over the reference to the value, which may be NULL with an error set. */
static int
set_new(PyObject *dict, PyObject *key, PyObject *value)
{
    int result = value ? PyDict_SetItem(dict, key, value) : -1;
    Py_XDECREF(value);
    return result;
}

/* Texts of a scope that were decoded before; borrowed. */
typedef struct {
    PyObject *method, *scheme, *http_version, *host;
} KnownTexts;

static int
fill_scope(HttpState *state, PyObject *scope, PyObject *fields, const KnownTexts *known)
{
    PyObject *server = PyTuple_GET_ITEM(fields, 7);
    PyObject *path = PyTuple_GET_ITEM(fields, 3);

#define FIELD(i) PyTuple_GET_ITEM(fields, i)
#define SET(name, value) (PyDict_SetItem(scope, state->key_##name, value) < 0)
#define SET_NEW(name, value) (set_new(scope, state->key_##name, value) < 0)
    int failed = SET_NEW(asgi, PyDict_Copy(state->asgi))
                 || SET(http_version, known->http_version)
                 || SET(method, known->method)
                 || SET(scheme, known->scheme)
                 || SET_NEW(path, PyUnicode_DecodeUTF8(PyBytes_AS_STRING(path),
                                                       PyBytes_GET_SIZE(path), "replace"))
                 || SET(raw_path, path)
                 || SET(query_string, FIELD(4))
                 || SET(headers, FIELD(5))
                 || SET_NEW(client, make_client(FIELD(6)))
                 || SET_NEW(extensions, make_extensions(state));
    if (!failed && server != Py_None) {
        failed = SET_NEW(server, PyTuple_Pack(2, known->host, PyTuple_GET_ITEM(server, 1)));
    }
#undef SET_NEW
#undef SET
#undef FIELD
    return failed ? -1 : 0;
}

/* Whether the fields are the usual ones; those that were never seen are not. */
static int
is_usual(PyObject *fields, PyObject *texts, KnownTexts *known)
{
    if (!PyTuple_CheckExact(fields) || PyTuple_GET_SIZE(fields) != SCOPE_FIELDS) {
        return 0;
    }

    PyObject *path = PyTuple_GET_ITEM(fields, 3);
    PyObject *client = PyTuple_GET_ITEM(fields, 6);
    PyObject *server = PyTuple_GET_ITEM(fields, 7);
    PyObject *extra = PyTuple_GET_ITEM(fields, 8);
    return PyBytes_CheckExact(path)
           && memchr(PyBytes_AS_STRING(path), '%', (size_t)PyBytes_GET_SIZE(path)) == NULL
           && PyDict_CheckExact(extra) && PyDict_GET_SIZE(extra) == 0
           && (known->method = known_text(texts, PyTuple_GET_ITEM(fields, 0))) != NULL
           && (known->scheme = known_text(texts, PyTuple_GET_ITEM(fields, 1))) != NULL
           && (known->http_version = known_text(texts, PyTuple_GET_ITEM(fields, 2))) != NULL
           && (client == Py_None || is_address(client))
           && (server == Py_None
               || (is_address(server)
                   && (known->host = known_text(texts, PyTuple_GET_ITEM(server, 0)))
                          != NULL));
}

PyDoc_STRVAR(make_scope_doc,
             "make_scope(fields, texts, state, /)\n--\n\n"
             "Make the scope of a request to an application that is mounted at the root;"
             " None where a field is out of the ordinary. `texts` holds those that were"
             " decoded before.");

static PyObject *
make_scope(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 3 || !PyDict_CheckExact(args[1])) {
        PyErr_SetString(PyExc_TypeError,
                        "make_scope() takes fields, a dict of texts and a state");
        return NULL;
    }

    KnownTexts known = {NULL, NULL, NULL, NULL};
    if (!is_usual(args[0], args[1], &known)) {
        if (PyErr_Occurred()) {
            return NULL;
        }
        Py_RETURN_NONE;
    }

    HttpState *state = http_state(module);
    PyObject *scope = PyDict_Copy(state->scope);
    if (scope == NULL) {
        return NULL;
    }
    if (fill_scope(state, scope, args[0], &known) < 0
        || (args[2] != Py_None
            && set_new(scope, state->key_state,
                       PyDict_CheckExact(args[2]) ? PyDict_Copy(args[2])
                                                  : PyObject_CallOneArg(
                                                      (PyObject *)&PyDict_Type, args[2]))
                   < 0)) {
        Py_DECREF(scope);
        return NULL;
    }

    return scope;
}

/* The module. */

static PyMethodDef http_methods[] = {
    {"check_headers", (PyCFunction)(void (*)(void))check_headers, METH_FASTCALL,
     check_headers_doc},
    {"make_scope", (PyCFunction)(void (*)(void))make_scope, METH_FASTCALL, make_scope_doc},
    {NULL, NULL, 0, NULL},
};

static int
make_template(HttpState *state)
{
    static const char *const extensions[EXTENSIONS] = {
        "http.response.trailers", "http.response.early_hint", "http.response.pathsend"};

    for (int i = 0; i < EXTENSIONS; i++) {
        if ((state->extensions[i] = PyUnicode_InternFromString(extensions[i])) == NULL) {
            return -1;
        }
    }

    state->empty_text = PyUnicode_InternFromString("");
    state->asgi = Py_BuildValue("{s:s,s:s}", "version", "3.0", "spec_version", "2.5");
    state->scope = Py_BuildValue("{s:s}", "type", "http");
    if (state->empty_text == NULL || state->asgi == NULL || state->scope == NULL) {
        return -1;
    }

    /* All but `state`, which is not always there, in the order of the Python code. */
#define HTTP_PLACE(name)                                                                   \
    if (PyDict_SetItem(state->scope, state->key_##name, Py_None) < 0) {                    \
        return -1;                                                                         \
    }
    HTTP_KEYS(HTTP_PLACE)
#undef HTTP_PLACE
    if (PyDict_DelItem(state->scope, state->key_state) < 0) {
        return -1;
    }

    return PyDict_SetItem(state->scope, state->key_root_path, state->empty_text);
}

static int
http_exec(PyObject *module)
{
    HttpState *state = http_state(module);

#define HTTP_LOAD(name)                                                                    \
    if ((state->key_##name = PyUnicode_InternFromString(#name)) == NULL) {                 \
        return -1;                                                                         \
    }
    HTTP_KEYS(HTTP_LOAD)
    HTTP_NAMES(HTTP_LOAD)
#undef HTTP_LOAD

    state->start_type = PyUnicode_InternFromString("http.response.start");
    state->body_type = PyUnicode_InternFromString("http.response.body");
    if (state->start_type == NULL || state->body_type == NULL || make_template(state) < 0) {
        return -1;
    }

    return http_add_request_type(module);
}

static int
http_traverse(PyObject *module, visitproc visit, void *arg)
{
    HttpState *state = http_state(module);
    if (state != NULL) {
        Py_VISIT(state->scope);
        Py_VISIT(state->asgi);
    }

    return 0;
}

static int
http_clear(PyObject *module)
{
    HttpState *state = http_state(module);
    if (state == NULL) {
        return 0;
    }

    Py_CLEAR(state->scope);
    Py_CLEAR(state->asgi);
    Py_CLEAR(state->empty_text);
    Py_CLEAR(state->start_type);
    Py_CLEAR(state->body_type);
    for (int i = 0; i < EXTENSIONS; i++) {
        Py_CLEAR(state->extensions[i]);
    }
#define HTTP_CLEAR(name) Py_CLEAR(state->key_##name);
    HTTP_KEYS(HTTP_CLEAR)
    HTTP_NAMES(HTTP_CLEAR)
#undef HTTP_CLEAR

    return 0;
}

static void
http_free(void *module)
{
    (void)http_clear((PyObject *)module);
}

static PyModuleDef_Slot http_slots[] = {
    {Py_mod_exec, (void *)http_exec},
    {0, NULL},
};

static PyModuleDef http_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "hornbeam._http_c",
    .m_doc = "What is done once per request, in C, for the usual case.",
    .m_size = sizeof(HttpState),
    .m_methods = http_methods,
    .m_slots = http_slots,
    .m_traverse = http_traverse,
    .m_clear = http_clear,
    .m_free = http_free,
};

PyMODINIT_FUNC
PyInit__http_c(void)
{
    return PyModuleDef_Init(&http_module);
}
