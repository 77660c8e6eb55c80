/* SPDX-License-Identifier: Apache-2.0 */
/* The encoder's writers of tuples, lists and maps; see _etf_c_encode.h. */
#include "_etf_c_encode.h"

static int
leave_index(EtfEncoder *encoder, Py_ssize_t index)
{
    return encoder->segments == NULL ? -1 : etf_leave(encoder, PyLong_FromSsize_t(index));
}

static int
write_nil(EtfEncoder *encoder)
{
    const unsigned char nil = ETF_NIL;
    return etf_write_raw(encoder, &nil, 1);
}

/* Lists and tuples. */

static int
write_tuple_head(EtfEncoder *encoder, PyObject *value, Py_ssize_t arity)
{
    if (ETF_LIKELY(arity < 256)) {
        unsigned char head[2] = {ETF_SMALL_TUPLE, (unsigned char)arity};
        return etf_write_raw(encoder, head, sizeof head);
    }

    if (arity > ETF_MAX_TUPLE_ARITY) {
        return etf_fault(encoder, value,
                         PyUnicode_FromFormat("a tuple has at most %d elements, not %zd",
                                              ETF_MAX_TUPLE_ARITY, arity));
    }

    return etf_write_head(encoder, ETF_LARGE_TUPLE, arity);
}

/* Writes the elements of a tuple; no head. */
static int
write_elements(EtfEncoder *encoder, PyObject *tuple, int depth)
{
    Py_ssize_t length = PyTuple_GET_SIZE(tuple);
    for (Py_ssize_t i = 0; i < length; i++) {
        if (etf_write_value(encoder, PyTuple_GET_ITEM(tuple, i), depth + 1) < 0) {
            return leave_index(encoder, i);
        }
    }

    return 0;
}

int
etf_write_tuple(EtfEncoder *encoder, PyObject *value, int depth)
{
    if (etf_check_value_depth(encoder, value, depth) < 0
        || write_tuple_head(encoder, value, PyTuple_GET_SIZE(value)) < 0) {
        return -1;
    }

    return write_elements(encoder, value, depth);
}

int
etf_write_list(EtfEncoder *encoder, PyObject *value, int depth)
{
    if (etf_check_value_depth(encoder, value, depth) < 0) {
        return -1;
    }

    PyObject *list = value;
    if (encoder->is_careful) {
        list = PyList_GetSlice(value, 0, PyList_GET_SIZE(value));
        if (list == NULL) {
            return -1;
        }
    }
    else {
        Py_INCREF(list);
    }

    int status = 0;
    Py_ssize_t length = PyList_GET_SIZE(list);
    if (length > 0
        && (etf_check_length(encoder, value, length) < 0
            || etf_write_head(encoder, ETF_LIST, length) < 0)) {
        status = -1;
    }

    for (Py_ssize_t i = 0; status == 0 && i < length; i++) {
        status = etf_write_value(encoder, PyList_GET_ITEM(list, i), depth + 1);
        if (status < 0) {
            leave_index(encoder, i);
        }
    }

    Py_DECREF(list);
    return status < 0 ? -1 : write_nil(encoder);
}

/* Writes the elements that a FrozenList or an ImproperList has. */
static int
write_list_elements(EtfEncoder *encoder, PyObject *value, int depth)
{
    PyObject *elements = PyObject_GetAttr(value, encoder->state->str_elements);
    if (elements == NULL) {
        return -1;
    }

    int status = -1;
    if (!PyTuple_Check(elements)) {
        PyErr_Format(PyExc_TypeError, "elements of a %s are not a tuple",
                     Py_TYPE(value)->tp_name);
    }
    else if (PyTuple_GET_SIZE(elements) == 0) {
        status = 0;
    }
    else if (etf_check_length(encoder, value, PyTuple_GET_SIZE(elements)) == 0
             && etf_write_head(encoder, ETF_LIST, PyTuple_GET_SIZE(elements)) == 0) {
        status = write_elements(encoder, elements, depth);
    }

    Py_DECREF(elements);
    return status;
}

int
etf_write_frozen_list(EtfEncoder *encoder, PyObject *value, int depth)
{
    if (etf_check_value_depth(encoder, value, depth) < 0
        || write_list_elements(encoder, value, depth) < 0) {
        return -1;
    }

    return write_nil(encoder);
}

int
etf_write_improper_list(EtfEncoder *encoder, PyObject *value, int depth)
{
    if (etf_check_value_depth(encoder, value, depth) < 0
        || write_list_elements(encoder, value, depth) < 0) {
        return -1;
    }

    PyObject *tail = PyObject_GetAttr(value, encoder->state->str_tail);
    if (tail == NULL) {
        return -1;
    }

    int status = etf_write_value(encoder, tail, depth + 1);
    Py_DECREF(tail);
    if (status < 0 && encoder->segments != NULL) {
        return etf_leave(encoder, PyUnicode_FromString(".tail"));
    }

    return status;
}

/* Maps. */

/* KEY_NAMED: None, True and False, which are atoms in Erlang. */
enum { KEY_NUMBER = 0, KEY_STR = 1, KEY_BYTES = 2, KEY_NAMED = 4, KEY_ATOM = 8 };
enum { KEY_BINARIES = KEY_STR | KEY_BYTES, KEY_ATOMS = KEY_NAMED | KEY_ATOM };
enum { KEY_OTHER = 16 };

static inline int
classify_key(EtfEncoder *encoder, PyObject *key)
{
    if (ETF_LIKELY(PyUnicode_CheckExact(key))) {
        return KEY_STR;
    }

    if (PyBytes_CheckExact(key)) {
        return KEY_BYTES;
    }

    if (PyLong_CheckExact(key) || PyFloat_CheckExact(key)) {
        return KEY_NUMBER;
    }

    if (key == Py_None || PyBool_Check(key)) {
        return KEY_NAMED;
    }

    return (PyObject *)Py_TYPE(key) == encoder->state->Atom ? KEY_ATOM : KEY_OTHER;
}

/* Keys that differ in Python may be one key in Erlang only if they are of these kinds. */
static inline int
may_clash(int kinds)
{
    return (kinds & KEY_OTHER) != 0 || (kinds & KEY_BINARIES) == KEY_BINARIES
           || (kinds & KEY_ATOMS) == KEY_ATOMS;
}

/* Writes a pair and returns the kind of its key, or -1. */
static int
write_pair(EtfEncoder *encoder, PyObject *key, PyObject *element, Py_ssize_t index,
           int depth)
{
    if (etf_write_value(encoder, key, depth + 1) < 0) {
        return encoder->segments == NULL
                   ? -1
                   : etf_leave(encoder, PyUnicode_FromFormat(".keys()[%zd]", index));
    }

    if (etf_write_value(encoder, element, depth + 1) < 0) {
        return encoder->segments == NULL ? -1 : etf_leave(encoder, PyTuple_Pack(1, key));
    }

    return classify_key(encoder, key);
}

/* Faults if two keys of the pairs, distinct in Python, are one key in Erlang. */
static int
check_keys(EtfEncoder *encoder, PyObject *value, PyObject *pairs)
{
    PyObject *describe = etf_import("hornbeam._etf_python_encode", "describe_key_clash");
    PyObject *clash = describe ? PyObject_CallFunctionObjArgs(describe, pairs, NULL) : NULL;
    Py_XDECREF(describe);
    if (clash == NULL) {
        return -1;
    }

    if (clash == Py_None) {
        Py_DECREF(clash);
        return 0;
    }

    return etf_fault(encoder, value, clash);
}

static int
write_dict_carefully(EtfEncoder *encoder, PyObject *value, PyObject *entries, int depth)
{
    PyObject *pairs = PyDict_Items(entries);
    if (pairs == NULL) {
        return -1;
    }

    Py_ssize_t length = PyList_GET_SIZE(pairs);
    int kinds = etf_write_head(encoder, ETF_MAP, length);
    for (Py_ssize_t i = 0; kinds >= 0 && i < length; i++) {
        PyObject *pair = PyList_GET_ITEM(pairs, i);
        int kind = write_pair(encoder, PyTuple_GET_ITEM(pair, 0), PyTuple_GET_ITEM(pair, 1),
                              i, depth);
        kinds = kind < 0 ? -1 : kinds | kind;
    }

    int status = kinds < 0 ? -1 : 0;
    if (status == 0 && may_clash(kinds)) {
        status = check_keys(encoder, value, pairs);
    }

    Py_DECREF(pairs);
    return status;
}

int
etf_write_dict(EtfEncoder *encoder, PyObject *value, PyObject *entries, int depth)
{
    if (etf_check_value_depth(encoder, value, depth) < 0
        || etf_check_length(encoder, value, PyDict_GET_SIZE(entries)) < 0) {
        return -1;
    }

    if (encoder->is_careful) {
        return write_dict_carefully(encoder, value, entries, depth);
    }

    int kinds = etf_write_head(encoder, ETF_MAP, PyDict_GET_SIZE(entries));
    Py_ssize_t index = 0;
    Py_ssize_t position = 0;
    PyObject *key, *element;
    while (kinds >= 0 && PyDict_Next(entries, &position, &key, &element)) {
        int kind = write_pair(encoder, key, element, index++, depth);
        kinds = kind < 0 ? -1 : kinds | kind;
    }

    if (kinds >= 0 && may_clash(kinds)) {
        encoder->must_be_careful = 1;
        return -1;
    }

    return kinds < 0 ? -1 : 0;
}

int
etf_write_frozen_map(EtfEncoder *encoder, PyObject *value, int depth)
{
    PyObject *entries = PyObject_GetAttr(value, encoder->state->str_entries);
    if (entries == NULL) {
        return -1;
    }

    int status = -1;
    if (PyDict_Check(entries)) {
        status = etf_write_dict(encoder, value, entries, depth);
    }
    else {
        PyErr_SetString(PyExc_TypeError, "entries of a FrozenMap are not a dict");
    }

    Py_DECREF(entries);
    return status;
}
