/* SPDX-License-Identifier: Apache-2.0 */
/* The decoder's readers of tuples, lists and maps; see _etf_c_decode.h. */
#include "_etf_c_decode.h"

/* Reads a container's count, and makes sure that the terms that it promises, `terms_each`
 * for each and `extra` more, can be there; -1: an error is set. */
static inline int64_t
open_container(EtfDecoder *decoder, EtfBytes start, EtfBytes limit, int depth,
               int count_bytes, int terms_each, int extra)
{
    if (etf_check_depth(decoder, start, depth) < 0
        || etf_need(decoder, start, limit, (uint64_t)count_bytes) < 0) {
        return -1;
    }

    uint32_t count = count_bytes == 1 ? *decoder->position
                                      : etf_get_uint32(decoder->position);
    decoder->position += count_bytes;
    uint64_t promised = (uint64_t)count * (uint64_t)terms_each + (uint64_t)extra;
    return etf_need(decoder, start, limit, promised) < 0 ? -1 : (int64_t)count;
}

/* Returns a tuple of the next `count` terms. */
static PyObject *
read_tuple_elements(EtfDecoder *decoder, EtfBytes limit, int depth, int is_frozen,
                    int64_t count)
{
    PyObject *elements = PyTuple_New((Py_ssize_t)count);
    if (elements == NULL) {
        return NULL;
    }

    EtfBytes reach = limit - count;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *element = etf_read_term(decoder, ++reach, depth + 1, is_frozen);
        if (element == NULL) {
            Py_DECREF(elements);
            return NULL;
        }
        PyTuple_SET_ITEM(elements, i, element);
    }

    return elements;
}

PyObject *
etf_read_tuple(EtfDecoder *decoder, EtfBytes start, EtfBytes limit, int depth,
               int is_frozen)
{
    int count_bytes = *start == ETF_SMALL_TUPLE ? 1 : 4;
    int64_t count = open_container(decoder, start, limit, depth, count_bytes, 1, 0);
    if (count < 0) {
        return NULL;
    }

    return read_tuple_elements(decoder, limit, depth, is_frozen, count);
}

PyObject *
etf_read_nil(EtfDecoder *decoder, int is_frozen)
{
    return is_frozen ? PyObject_CallNoArgs(decoder->state->FrozenList) : PyList_New(0);
}

PyObject *
etf_read_string(EtfDecoder *decoder, EtfBytes start, EtfBytes limit, int is_frozen)
{
    if (etf_need(decoder, start, limit, 2) < 0) {
        return NULL;
    }

    Py_ssize_t length = (Py_ssize_t)etf_get_uint16(decoder->position);
    decoder->position += 2;
    if (etf_need(decoder, start, limit, (uint64_t)length) < 0) {
        return NULL;
    }

    PyObject *elements = PyList_New(length);
    for (Py_ssize_t i = 0; elements != NULL && i < length; i++) {
        PyObject *number = PyLong_FromLong(decoder->position[i]);
        if (number == NULL) {
            Py_CLEAR(elements);
            break;
        }
        PyList_SET_ITEM(elements, i, number);
    }

    decoder->position += length;
    return is_frozen ? etf_wrap(decoder->state->FrozenList, elements) : elements;
}

/* Makes an ImproperList of the elements, which it takes over, and the tail that follows. */
static PyObject *
read_tail(EtfDecoder *decoder, EtfBytes limit, int depth, int is_frozen, PyObject *elements)
{
    EtfBytes start = decoder->position;
    EtfState *state = decoder->state;
    PyObject *list = NULL;
    PyObject *tail = etf_read_term(decoder, limit, depth + 1, is_frozen);

    if (tail != NULL) {
        PyObject *type = (PyObject *)Py_TYPE(tail);
        if (PyList_Check(tail) || type == state->FrozenList
            || type == state->ImproperList) {
            (void)etf_fail(decoder, start, "the tail of a list is a list of its own");
        }
        else {
            list = PyObject_CallFunctionObjArgs(state->ImproperList, elements, tail, NULL);
        }
    }

    Py_DECREF(elements);
    Py_XDECREF(tail);
    return list;
}

/* Returns a list of the next `count` terms, which a tail follows. */
static PyObject *
read_list_elements(EtfDecoder *decoder, EtfBytes limit, int depth, int64_t count)
{
    PyObject *elements = PyList_New((Py_ssize_t)count);
    if (elements == NULL) {
        return NULL;
    }

    EtfBytes reach = limit - count - 1;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *element = etf_read_term(decoder, ++reach, depth + 1, 0);
        if (element == NULL) {
            Py_DECREF(elements);
            return NULL;
        }
        PyList_SET_ITEM(elements, i, element);
    }

    return elements;
}

PyObject *
etf_read_list(EtfDecoder *decoder, EtfBytes start, EtfBytes limit, int depth, int is_frozen)
{
    int64_t count = open_container(decoder, start, limit, depth, 4, 1, 1);
    if (count < 0) {
        return NULL;
    }

    PyObject *elements = is_frozen
                             ? read_tuple_elements(decoder, limit - 1, depth, 1, count)
                             : read_list_elements(decoder, limit, depth, count);
    if (elements == NULL) {
        return NULL;
    }

    if (*decoder->position == ETF_NIL) {
        decoder->position++;
        return is_frozen ? etf_wrap(decoder->state->FrozenList, elements) : elements;
    }

    if (count == 0) {
        Py_DECREF(elements);
        return etf_fail(decoder, start, "a list without elements has a tail");
    }

    return read_tail(decoder, limit, depth, is_frozen, elements);
}

static int
read_entry(EtfDecoder *decoder, EtfBytes limit, int depth, int is_frozen, PyObject *entries)
{
    PyObject *key = etf_read_term(decoder, limit - 1, depth + 1, 1);
    PyObject *value = key ? etf_read_term(decoder, limit, depth + 1, is_frozen) : NULL;
    int status = value ? PyDict_SetItem(entries, key, value) : -1;
    Py_XDECREF(key);
    Py_XDECREF(value);
    return status;
}

PyObject *
etf_read_map(EtfDecoder *decoder, EtfBytes start, EtfBytes limit, int depth, int is_frozen)
{
    int64_t count = open_container(decoder, start, limit, depth, 4, 2, 0);
    PyObject *entries = count < 0 ? NULL : PyDict_New();
    if (entries == NULL) {
        return NULL;
    }

    EtfBytes reach = limit - 2 * count;
    for (int64_t i = 0; i < count; i++) {
        reach += 2;
        if (read_entry(decoder, reach, depth, is_frozen, entries) < 0) {
            Py_DECREF(entries);
            return NULL;
        }
    }

    if (PyDict_GET_SIZE(entries) != count) {
        Py_DECREF(entries);
        return etf_fail(
            decoder, start,
            "two keys of a map are one key in Python, such as 1 and 1.0, or 1 and"
            " true");
    }

    return is_frozen ? etf_wrap(decoder->state->FrozenMap, entries) : entries;
}
