/* SPDX-License-Identifier: Apache-2.0 */
/* The type RequestState: what a request has in hand, and the usual way of its response.
 * _request_state.py has the twin, and says what the fields are. */
#include "_http_c.h"

#include <stddef.h>
#include <structmember.h>

/* The phases of a response that are known here; numbers as in _request_state.py. */
enum { PHASE_START = 0, PHASE_HELD = 1, PHASE_COMPLETE = 5 };

enum { FIRST_FINAL_STATUS = 200, NO_CONTENT = 204, NOT_MODIFIED = 304, LAST_STATUS = 999 };

/* All are objects: Python reads an object's slot faster than a number or a flag. */
#define NONE_FIELDS(X)                                                                     \
    X(file) X(host) X(left_bytes) X(loan) X(pending) X(receivers) X(request_id)                    \
    X(response_headers) X(scope) X(task) X(timer) X(trailers) X(unread)

#define FALSE_FIELDS(X)                                                                    \
    X(has_trailers) X(is_body_complete) X(is_cancelled) X(is_gone) X(is_head_request)      \
    X(is_head_sent) X(is_reported) X(is_started) X(is_stopping) X(is_waiting_told)

#define ZERO_FIELDS(X)                                                                     \
    X(cancelled_s) X(credit_due_bytes) X(phase) X(received_bytes) X(status)                \
    X(unacknowledged_bytes)

#define FIELDS(X) NONE_FIELDS(X) FALSE_FIELDS(X) ZERO_FIELDS(X)

typedef struct {
    PyObject_HEAD
#define FIELD(name) PyObject *name;
    FIELDS(FIELD)
#undef FIELD
} Request;

#define SET(request, name, value) Py_XSETREF((request)->name, (value))

/* Life. */

static PyObject *
request_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    Request *request = (Request *)type->tp_alloc(type, 0);
    if (request == NULL) {
        return NULL;
    }

#define DEFAULT(name) request->name = Py_NewRef(Py_None);
    NONE_FIELDS(DEFAULT)
#undef DEFAULT
#define DEFAULT(name) request->name = Py_NewRef(Py_False);
    FALSE_FIELDS(DEFAULT)
#undef DEFAULT
/* A small number is there already; START is 0, too. */
#define DEFAULT(name) request->name = PyLong_FromLong(0);
    ZERO_FIELDS(DEFAULT)
#undef DEFAULT
    return (PyObject *)request;
}

/* Whether the scope's method is HEAD; -1: an error is set. */
static int
is_head_request(HttpState *state, PyObject *scope)
{
    PyObject *method = PyDict_CheckExact(scope)
                           ? PyDict_GetItemWithError(scope, state->key_method)
                           : NULL;
    if (method == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }

    return PyUnicode_Check(method) && PyUnicode_CompareWithASCIIString(method, "HEAD") == 0;
}

PyDoc_STRVAR(begin_doc,
             "_begin(host, request_id, scope, body, more, /)\n--\n\n"
             "Set the fields of a request that has come; all others have their defaults.");

static PyObject *
begin(PyObject *self, PyTypeObject *defining, PyObject *const *args, Py_ssize_t count,
      PyObject *names)
{
    Request *request = (Request *)self;
    HttpState *state = (HttpState *)PyType_GetModuleState(defining);

    if (count != 5 || names != NULL || !PyBytes_CheckExact(args[3])) {
        PyErr_SetString(PyExc_TypeError,
                        "_begin() takes host, request_id, scope, body as bytes, more");
        return NULL;
    }

    PyObject *body = args[3];
    int more = PyObject_IsTrue(args[4]);
    int is_head = is_head_request(state, args[2]);
    if (more < 0 || is_head < 0) {
        return NULL;
    }

    int has_part = PyBytes_GET_SIZE(body) > 0 || !more;
    PyObject *unread = PyList_New(has_part);
    if (unread == NULL) {
        return NULL;
    }
    if (has_part) {
        PyList_SET_ITEM(unread, 0, Py_NewRef(body));
    }

    SET(request, unread, unread);
    SET(request, host, Py_NewRef(args[0]));
    SET(request, request_id, Py_NewRef(args[1]));
    SET(request, scope, Py_NewRef(args[2]));
    SET(request, is_head_request, PyBool_FromLong(is_head));
    SET(request, is_body_complete, PyBool_FromLong(!more));
    SET(request, received_bytes, PyLong_FromSsize_t(PyBytes_GET_SIZE(body)));
    return request->received_bytes ? Py_NewRef(Py_None) : NULL;
}

static int
request_traverse(PyObject *self, visitproc visit, void *arg)
{
    Request *request = (Request *)self;
    Py_VISIT(Py_TYPE(self));
#define VISIT(name) Py_VISIT(request->name);
    FIELDS(VISIT)
#undef VISIT
    return 0;
}

static int
request_clear(PyObject *self)
{
    Request *request = (Request *)self;
#define CLEAR(name) Py_CLEAR(request->name);
    FIELDS(CLEAR)
#undef CLEAR
    return 0;
}

static void
request_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    (void)request_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

/* The response. */

/* What is no small number, or not set any more, is no phase that is known here. */
static long
phase_of(Request *request)
{
    int overflow = 0;
    return request->phase != NULL && PyLong_CheckExact(request->phase)
               ? PyLong_AsLongAndOverflow(request->phase, &overflow)
               : -1;
}

/* These return 1; 0: not for here; -1: an error is set. */

/* Takes a message that has `type`, `status`, `headers` and nothing else. */
static int
take_start(HttpState *state, Request *request, PyObject *message, PyObject *names)
{
    PyObject *status = PyDict_GetItemWithError(message, state->key_status);
    PyObject *headers = PyDict_GetItemWithError(message, state->key_headers);
    int overflow = 0;

    if (status == NULL || headers == NULL || PyDict_GET_SIZE(message) != 3
        || !PyLong_CheckExact(status)) {
        return PyErr_Occurred() ? -1 : 0;
    }

    long number = PyLong_AsLongAndOverflow(status, &overflow);
    if (overflow != 0 || number < FIRST_FINAL_STATUS || number > LAST_STATUS) {
        return 0;
    }

    /* To check headers may run code of the application, which has the message as well. */
    PyObject *checked, *declared;
    Py_INCREF(status);
    Py_INCREF(headers);
    int result = http_check_headers(headers, names, &checked, &declared);
    Py_DECREF(headers);
    if (result <= 0 || phase_of(request) != PHASE_START) {
        Py_XDECREF(checked);
        Py_XDECREF(declared);
        Py_DECREF(status);
        return result < 0 ? result : 0;
    }
    if (number == NO_CONTENT || number == NOT_MODIFIED || request->is_head_request == Py_True) {
        Py_CLEAR(declared);
    }

    SET(request, response_headers, checked);
    SET(request, left_bytes, declared ? declared : Py_NewRef(Py_None));
    SET(request, status, status);
    SET(request, phase, PyLong_FromLong(PHASE_HELD));
    return 1;
}

/* Whether there is room for that much, which is what is left of the content-length. */
static int
is_fitting(HttpState *state, Request *request, Py_ssize_t size)
{
    PyObject *left = request->left_bytes;
    int overflow = 0;

    if (left != Py_None
        && (left == NULL || !PyLong_CheckExact(left)
            || PyLong_AsLongLongAndOverflow(left, &overflow) != size)) {
        return 0;
    }

    PyObject *window = PyObject_GetAttr(request->host, state->key_window_bytes);
    if (window == NULL) {
        return -1;
    }

    long long room = PyLong_AsLongLongAndOverflow(window, &overflow);
    Py_DECREF(window);
    if (room == -1 && PyErr_Occurred()) {
        return -1;
    }

    return size <= room;
}

/* Takes the only part of a body; sets the encoded message. */
static int
take_body(HttpState *state, Request *request, PyObject *message, PyObject **encoded)
{
    PyObject *body = PyDict_GetItemWithError(message, state->key_body);
    PyObject *more = PyDict_GetItemWithError(message, state->key_more_body);

    if (body == NULL || !PyBytes_CheckExact(body) || (more != NULL && more != Py_False)
        || request->has_trailers != Py_False) {
        return PyErr_Occurred() ? -1 : 0;
    }

    /* The host is Python code, which may run any other. */
    Py_INCREF(body);
    int result = is_fitting(state, request, PyBytes_GET_SIZE(body));
    if (result > 0 && phase_of(request) == PHASE_HELD) {
        *encoded = http_encode_response(request->request_id, request->status,
                                        request->response_headers, body);
        result = *encoded == NULL ? -1 : *encoded != Py_None;
    }
    if (result > 0) {
        SET(request, phase, PyLong_FromLong(PHASE_COMPLETE));
        SET(request, is_head_sent, Py_NewRef(Py_True));
        if (request->left_bytes != Py_None) {
            SET(request, left_bytes, PyLong_FromLong(0));
        }
    }
    else {
        Py_CLEAR(*encoded);
    }

    Py_DECREF(body);
    return result;
}

PyDoc_STRVAR(take_doc,
             "_take_usual(message, names, /)\n--\n\n"
             "Take what an application sends, if it is the usual and in order; else None."
             " Returns what is to be posted: nothing for the start of a response.");

static PyObject *
take(PyObject *self, PyTypeObject *defining, PyObject *const *args, Py_ssize_t count,
     PyObject *names)
{
    if (count != 2 || names != NULL || !PyDict_CheckExact(args[1])) {
        PyErr_SetString(PyExc_TypeError, "_take_usual() takes a message and a dict of names");
        return NULL;
    }

    Request *request = (Request *)self;
    HttpState *state = (HttpState *)PyType_GetModuleState(defining);
    if (!PyDict_CheckExact(args[0]) || request->is_gone != Py_False
        || request->host == NULL) {
        Py_RETURN_NONE;
    }

    PyObject *kind = PyDict_GetItemWithError(args[0], state->key_type);
    PyObject *encoded = NULL;
    int result = kind == NULL && PyErr_Occurred() ? -1 : 0;

    if (kind != NULL && PyUnicode_CheckExact(kind)) {
        long phase = phase_of(request);
        if (phase == PHASE_START
            && (kind == state->start_type || PyUnicode_Compare(kind, state->start_type) == 0)) {
            result = take_start(state, request, args[0], args[1]);
        }
        else if (phase == PHASE_HELD
                 && (kind == state->body_type
                     || PyUnicode_Compare(kind, state->body_type) == 0)) {
            result = take_body(state, request, args[0], &encoded);
        }
    }

    if (result < 0) {
        return NULL;
    }
    if (result == 0) {
        Py_RETURN_NONE;
    }

    return encoded ? encoded : PyBytes_FromStringAndSize(NULL, 0);
}

/* The type. */

#define MEMBER(name) {"_" #name, T_OBJECT_EX, offsetof(Request, name), 0, NULL},
static PyMemberDef request_members[] = {
    FIELDS(MEMBER)
    {"_response_host", T_OBJECT_EX, offsetof(Request, host), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};
#undef MEMBER

static PyMethodDef request_methods[] = {
    {"_begin", (PyCFunction)(void (*)(void))begin,
     METH_METHOD | METH_FASTCALL | METH_KEYWORDS, begin_doc},
    {"_take_usual", (PyCFunction)(void (*)(void))take,
     METH_METHOD | METH_FASTCALL | METH_KEYWORDS, take_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot request_slots[] = {
    {Py_tp_doc, "The state of one request, whose fields all have defaults."},
    {Py_tp_new, (void *)request_new},
    {Py_tp_members, request_members},
    {Py_tp_methods, request_methods},
    {Py_tp_traverse, (void *)request_traverse},
    {Py_tp_clear, (void *)request_clear},
    {Py_tp_dealloc, (void *)request_dealloc},
    {0, NULL},
};

static PyType_Spec request_spec = {
    .name = "hornbeam._http_c.RequestState",
    .basicsize = sizeof(Request),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = request_slots,
};

int
http_add_request_type(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &request_spec, NULL);
    int result = type ? PyModule_AddObjectRef(module, "RequestState", type) : -1;
    Py_XDECREF(type);
    return result;
}
