/* SPDX-License-Identifier: Apache-2.0 */
/* The decoder: entry points, what reads which tag, and errors. _etf_python_decode.py and
 * its parts are the twin; _etf_c_decode.h tells how it works. */
#include "_etf_c_decode.h"

/* Errors. */

static void
set_decode_error(EtfState *state, PyObject *reason, Py_ssize_t offset)
{
    PyObject *error = reason
                          ? PyObject_CallFunction(state->DecodeError, "On", reason, offset)
                          : NULL;
    if (error != NULL) {
        PyErr_SetObject(state->DecodeError, error);
        Py_DECREF(error);
    }
}

PyObject *
etf_fail(EtfDecoder *decoder, EtfBytes start, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    PyObject *reason = PyUnicode_FromFormatV(format, arguments);
    va_end(arguments);
    set_decode_error(decoder->state, reason, start - decoder->begin);
    Py_XDECREF(reason);
    return NULL;
}

int
etf_fail_short(EtfDecoder *decoder, EtfBytes start, uint64_t wanted, Py_ssize_t left)
{
    (void)etf_fail(decoder, start, "the term needs %llu more bytes, %zd are left",
                   (unsigned long long)wanted, left);
    return -1;
}

int
etf_check_depth(EtfDecoder *decoder, EtfBytes start, int depth)
{
    if (ETF_LIKELY(depth < ETF_MAX_DEPTH)) {
        return 0;
    }

    (void)etf_fail(decoder, start, "nested more than %d levels deep", ETF_MAX_DEPTH);
    return -1;
}

/* Terms. */

PyObject *
etf_wrap(PyObject *type, PyObject *argument)
{
    PyObject *object = argument ? PyObject_CallFunctionObjArgs(type, argument, NULL) : NULL;
    Py_XDECREF(argument);
    return object;
}

PyObject *
etf_read_term(EtfDecoder *decoder, EtfBytes limit, int depth, int is_frozen)
{
    EtfBytes start = decoder->position++;

    switch (*start) {
    case ETF_BINARY:
        return etf_read_binary(decoder, start, limit);
    case ETF_BIT_BINARY:
        return etf_read_bits(decoder, start, limit);
    case ETF_SMALL_ATOM_UTF8:
    case ETF_ATOM:
    case ETF_ATOM_UTF8:
    case ETF_SMALL_ATOM:
        return etf_read_atom(decoder, start, limit);
    case ETF_SMALL_INTEGER:
        return etf_read_small_integer(decoder, start, limit);
    case ETF_INTEGER:
        return etf_read_integer(decoder, start, limit);
    case ETF_SMALL_BIG:
    case ETF_LARGE_BIG:
        return etf_read_big(decoder, start, limit);
    case ETF_NEW_FLOAT:
        return etf_read_new_float(decoder, start, limit);
    case ETF_FLOAT:
        return etf_read_float(decoder, start, limit);
    case ETF_SMALL_TUPLE:
    case ETF_LARGE_TUPLE:
        return etf_read_tuple(decoder, start, limit, depth, is_frozen);
    case ETF_NIL:
        return etf_read_nil(decoder, is_frozen);
    case ETF_STRING:
        return etf_read_string(decoder, start, limit, is_frozen);
    case ETF_LIST:
        return etf_read_list(decoder, start, limit, depth, is_frozen);
    case ETF_MAP:
        return etf_read_map(decoder, start, limit, depth, is_frozen);
    default:
        return etf_read_opaque(decoder, start, limit, depth, is_frozen);
    }
}

/* Entry points. */

/* Keys are hashed and compared by Python code, which may find the stack too short. */
static void
replace_recursion_error(EtfDecoder *decoder)
{
    if (PyErr_ExceptionMatches(PyExc_RecursionError)) {
        PyErr_Clear();
        (void)etf_fail(decoder, decoder->begin,
                       "nested too deep for what is left of the stack");
    }
}

/* Reads the one term that the bytes from `position` to `end` are. */
static PyObject *
read_whole(EtfDecoder *decoder, EtfBytes end)
{
    if (etf_need(decoder, decoder->position, end, 1) < 0) {
        return NULL;
    }

    PyObject *value = etf_read_term(decoder, end, 0, 0);
    if (value == NULL) {
        replace_recursion_error(decoder);
        return NULL;
    }

    if (decoder->position != end) {
        Py_DECREF(value);
        return etf_fail(decoder, decoder->position, "%zd bytes follow the term",
                        (Py_ssize_t)(end - decoder->position));
    }

    return value;
}

/* Unfolds a compressed term, whose tag is at `position`, and reads it. */
static PyObject *
read_compressed(EtfDecoder *decoder, EtfBytes end)
{
    EtfBytes from = decoder->position + 1;
    PyObject *inflate = etf_import("hornbeam._etf_inflate", "inflate");
    PyObject *term = inflate ? PyObject_CallFunction(inflate, "y#", (const char *)from,
                                                     (Py_ssize_t)(end - from))
                             : NULL;
    PyObject *value = NULL;
    Py_XDECREF(inflate);
    if (term != NULL && PyBytes_Check(term)) {
        EtfBytes begin = (EtfBytes)PyBytes_AS_STRING(term);
        decoder->begin = decoder->position = begin;
        value = read_whole(decoder, begin + PyBytes_GET_SIZE(term));
    }

    Py_XDECREF(term);
    return value;
}

static PyObject *
decode_bytes(EtfDecoder *decoder, Py_ssize_t length)
{
    EtfBytes begin = decoder->begin;

    if (length == 0) {
        return etf_fail(decoder, begin, "expected version byte %d, got nothing",
                        ETF_VERSION);
    }

    if (begin[0] != ETF_VERSION) {
        return etf_fail(decoder, begin, "expected version byte %d, got %d", ETF_VERSION,
                        (int)begin[0]);
    }

    decoder->position = begin + 1;
    if (length > 1 && begin[1] == ETF_COMPRESSED) {
        return read_compressed(decoder, begin + length);
    }

    return read_whole(decoder, begin + length);
}

static PyObject *
decode_object(PyObject *module, PyObject *data, int is_text)
{
    EtfDecoder decoder = {.state = etf_state(module), .is_text = is_text};

    if (PyBytes_CheckExact(data)) {
        decoder.begin = (EtfBytes)PyBytes_AS_STRING(data);
        return decode_bytes(&decoder, PyBytes_GET_SIZE(data));
    }

    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }

    decoder.begin = (EtfBytes)view.buf;
    PyObject *value = decode_bytes(&decoder, view.len);
    PyBuffer_Release(&view);
    return value;
}

PyObject *
etf_decode(PyObject *module, PyObject *data)
{
    return decode_object(module, data, 1);
}

PyObject *
etf_decode_packet(PyObject *module, PyObject *data)
{
    PyObject *messages = decode_object(module, data, 0);
    if (messages == NULL || PyList_CheckExact(messages)) {
        return messages;
    }

    PyObject *reason = PyUnicode_FromFormat("a packet holds a list of messages, not %s",
                                            Py_TYPE(messages)->tp_name);
    set_decode_error(etf_state(module), reason, 1);
    Py_XDECREF(reason);
    Py_DECREF(messages);
    return NULL;
}
