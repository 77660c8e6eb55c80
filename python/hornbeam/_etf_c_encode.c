/* SPDX-License-Identifier: Apache-2.0 */
/* The encoder: entry points, what writes which type, and faults. _etf_python_encode.py is
 * the twin; _etf_c_encode.h tells how it works. */
#include "_etf_c_encode.h"

/* Faults. */

int
etf_fault(EtfEncoder *encoder, PyObject *culprit, PyObject *reason)
{
    if (!encoder->is_careful || PyErr_Occurred()) {
        Py_XDECREF(reason);
        encoder->must_be_careful = 1;
        return -1;
    }

    encoder->segments = PyList_New(0);
    if (encoder->segments == NULL) {
        Py_XDECREF(reason);
        return -1;
    }

    Py_INCREF(culprit);
    encoder->culprit = culprit;
    encoder->reason = reason;
    return -1;
}

int
etf_leave(EtfEncoder *encoder, PyObject *segment)
{
    if (segment != NULL && encoder->segments != NULL) {
        /* If that fails, Python's error is set, and is what `finish` reports. */
        (void)PyList_Append(encoder->segments, segment);
    }

    Py_XDECREF(segment);
    return -1;
}

int
etf_check_value_depth(EtfEncoder *encoder, PyObject *value, int depth)
{
    if (ETF_LIKELY(depth < ETF_MAX_DEPTH)) {
        return 0;
    }

    return etf_fault(
        encoder, value,
        PyUnicode_FromFormat("nested more than %d levels deep, or contains itself",
                             ETF_MAX_DEPTH));
}

int
etf_check_length(EtfEncoder *encoder, PyObject *value, Py_ssize_t length)
{
    if (ETF_LIKELY((uint64_t)length <= ETF_MAX_LENGTH)) {
        return 0;
    }

    return etf_fault(
        encoder, value,
        PyUnicode_FromFormat("too long: %zd, at most %zu", length, (size_t)ETF_MAX_LENGTH));
}

/* Output. */

int
etf_grow(EtfEncoder *encoder, size_t needed)
{
    size_t capacity = encoder->capacity * 2;
    if (capacity < needed) {
        capacity = needed;
    }

    if (capacity > (size_t)PY_SSIZE_T_MAX / 2) {
        PyErr_NoMemory();
        return -1;
    }

    if (encoder->heap == NULL) {
        encoder->heap = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)capacity);
        if (encoder->heap == NULL) {
            return -1;
        }
        memcpy(PyBytes_AS_STRING(encoder->heap), encoder->stack, encoder->length);
    }
    else if (_PyBytes_Resize(&encoder->heap, (Py_ssize_t)capacity) < 0) {
        return -1;
    }

    encoder->data = (unsigned char *)PyBytes_AS_STRING(encoder->heap);
    encoder->capacity = capacity;
    return 0;
}

/* Values. */

/* The types of _terms.py; 1: it is none of them. */
static int
write_term(EtfEncoder *encoder, PyObject *value, int depth)
{
    EtfState *state = encoder->state;
    PyObject *type = (PyObject *)Py_TYPE(value);

    if (type == state->Atom || type == state->Pid || type == state->Reference
        || type == state->Port || type == state->ExternalFun || type == state->Fun) {
        return etf_write_etf(encoder, value);
    }

    if (type == state->BitString) {
        return etf_write_bit_string(encoder, value);
    }

    if (type == state->ImproperList) {
        return etf_write_improper_list(encoder, value, depth);
    }

    if (type == state->FrozenList) {
        return etf_write_frozen_list(encoder, value, depth);
    }

    if (type == state->FrozenMap) {
        return etf_write_frozen_map(encoder, value, depth);
    }

    return 1;
}

/* Floats, buffers, and subclasses of the builtin types, which count as their base. */
static int
write_other(EtfEncoder *encoder, PyObject *value, int depth)
{
    int status = write_term(encoder, value, depth);
    if (status <= 0) {
        return status;
    }

    if (PyUnicode_Check(value)) {
        return etf_write_str(encoder, value);
    }

    if (PyBytes_Check(value)) {
        return etf_write_bytes(encoder, value);
    }

    if (PyByteArray_Check(value)) {
        return etf_write_bytearray(encoder, value);
    }

    if (PyMemoryView_Check(value)) {
        return etf_write_memoryview(encoder, value);
    }

    if (PyLong_Check(value)) {
        return etf_write_int(encoder, value);
    }

    if (PyFloat_Check(value)) {
        return etf_write_float(encoder, value);
    }

    if (PyList_Check(value)) {
        return etf_write_list(encoder, value, depth);
    }

    if (PyTuple_Check(value)) {
        return etf_write_tuple(encoder, value, depth);
    }

    if (PyDict_Check(value)) {
        return etf_write_dict(encoder, value, value, depth);
    }

    return etf_fault(encoder, value, NULL);
}

int
etf_write_value(EtfEncoder *encoder, PyObject *value, int depth)
{
    if (PyUnicode_CheckExact(value)) {
        return etf_write_str(encoder, value);
    }

    if (PyBytes_CheckExact(value)) {
        return etf_write_bytes(encoder, value);
    }

    if (PyTuple_CheckExact(value)) {
        return etf_write_tuple(encoder, value, depth);
    }

    if (PyLong_CheckExact(value)) {
        return etf_write_int(encoder, value);
    }

    if (PyList_CheckExact(value)) {
        return etf_write_list(encoder, value, depth);
    }

    if (PyDict_CheckExact(value)) {
        return etf_write_dict(encoder, value, value, depth);
    }

    if (value == Py_None) {
        return etf_write_raw(encoder, "w\011undefined", 11);
    }

    if (value == Py_True) {
        return etf_write_raw(encoder, "w\004true", 6);
    }

    if (value == Py_False) {
        return etf_write_raw(encoder, "w\005false", 7);
    }

    return write_other(encoder, value, depth);
}

/* Entry points. */

static void
raise_fault(EtfEncoder *encoder)
{
    PyObject *reason = encoder->reason ? encoder->reason : Py_None;
    PyObject *error = PyObject_CallFunctionObjArgs(
        encoder->state->encode_error, reason, encoder->culprit, encoder->segments, NULL);
    if (error != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        Py_DECREF(error);
    }
}

static PyObject *
finish(EtfEncoder *encoder, int status)
{
    PyObject *result = NULL;

    if (status < 0) {
        if (!PyErr_Occurred()) {
            raise_fault(encoder);
        }
        Py_XDECREF(encoder->heap);
    }
    else if (encoder->heap == NULL) {
        result = PyBytes_FromStringAndSize((const char *)encoder->stack,
                                           (Py_ssize_t)encoder->length);
    }
    else if (_PyBytes_Resize(&encoder->heap, (Py_ssize_t)encoder->length) == 0) {
        result = encoder->heap;
    }

    Py_XDECREF(encoder->segments);
    Py_XDECREF(encoder->culprit);
    Py_XDECREF(encoder->reason);
    return result;
}

static void
start(EtfEncoder *encoder, PyObject *module, int is_message, int is_careful)
{
    encoder->state = etf_state(module);
    encoder->data = encoder->stack;
    encoder->length = 0;
    encoder->capacity = ETF_STACK_BYTES;
    encoder->heap = NULL;
    encoder->is_message = is_message;
    encoder->is_careful = is_careful;
    encoder->must_be_careful = 0;
    encoder->segments = NULL;
    encoder->culprit = NULL;
    encoder->reason = NULL;
    if (!is_message) {
        encoder->stack[encoder->length++] = ETF_VERSION;
    }
}

static PyObject *
encode(PyObject *module, PyObject *value, int is_message)
{
    EtfEncoder encoder;
    start(&encoder, module, is_message, 0);
    int status = etf_write_value(&encoder, value, 0);

    if (status < 0 && encoder.must_be_careful && !PyErr_Occurred()) {
        Py_XDECREF(encoder.heap);
        start(&encoder, module, is_message, 1);
        status = etf_write_value(&encoder, value, 0);
    }

    return finish(&encoder, status);
}

PyObject *
etf_encode(PyObject *module, PyObject *value)
{
    return encode(module, value, 0);
}

PyObject *
etf_encode_message(PyObject *module, PyObject *message)
{
    return encode(module, message, 1);
}
