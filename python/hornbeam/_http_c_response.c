/* SPDX-License-Identifier: Apache-2.0 */
/* Encodes a whole response in one go: what the codec's encoder makes of such a message. */
#include "_http_c.h"

#include <stdint.h>
#include <string.h>

enum {
    SMALL_INTEGER = 97,
    INTEGER = 98,
    SMALL_TUPLE = 104,
    NIL = 106,
    LIST = 108,
    BINARY = 109,
    BINARY_HEAD_BYTES = 5,
    LIST_HEAD_BYTES = 5,
    PAIR_BYTES = 2 + 2 * BINARY_HEAD_BYTES,
    MAX_INTEGER_BYTES = 5,
};

static const char RESPONSE_HEAD[] = {SMALL_TUPLE, 5, 'w', 8, 'r', 'e', 's',
                                     'p',         'o', 'n', 's', 'e'};

static unsigned char *
put_uint32(unsigned char *to, uint32_t number)
{
    *to++ = (unsigned char)(number >> 24);
    *to++ = (unsigned char)(number >> 16);
    *to++ = (unsigned char)(number >> 8);
    *to++ = (unsigned char)number;
    return to;
}

static unsigned char *
put_integer(unsigned char *to, uint32_t number)
{
    if (number < 256) {
        *to++ = SMALL_INTEGER;
        *to++ = (unsigned char)number;
        return to;
    }

    *to++ = INTEGER;
    return put_uint32(to, number);
}

static unsigned char *
put_binary(unsigned char *to, PyObject *bytes)
{
    size_t size = (size_t)PyBytes_GET_SIZE(bytes);
    *to++ = BINARY;
    to = put_uint32(to, (uint32_t)size);
    memcpy(to, PyBytes_AS_STRING(bytes), size);
    return to + size;
}

static unsigned char *
put_headers(unsigned char *to, PyObject *headers)
{
    Py_ssize_t count = PyList_GET_SIZE(headers);

    if (count > 0) {
        *to++ = LIST;
        to = put_uint32(to, (uint32_t)count);
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *pair = PyList_GET_ITEM(headers, i);
        *to++ = SMALL_TUPLE;
        *to++ = 2;
        to = put_binary(to, PyTuple_GET_ITEM(pair, 0));
        to = put_binary(to, PyTuple_GET_ITEM(pair, 1));
    }

    *to++ = NIL;
    return to;
}

/* The number, or -1 where it has more than 32 bits. */
static long long
small_number(PyObject *number)
{
    int overflow = 0;
    if (number == NULL || !PyLong_CheckExact(number)) {
        return -1;
    }

    long long value = PyLong_AsLongLongAndOverflow(number, &overflow);
    return overflow == 0 && value <= INT32_MAX ? value : -1;
}

/* Whether these are what check_headers() makes, and not too much for 32 bits. */
static int
measure_headers(PyObject *headers, size_t *size)
{
    if (headers == NULL || !PyList_CheckExact(headers)) {
        return 0;
    }

    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(headers); i++) {
        PyObject *pair = PyList_GET_ITEM(headers, i);
        if (!PyTuple_CheckExact(pair) || PyTuple_GET_SIZE(pair) != 2
            || !PyBytes_CheckExact(PyTuple_GET_ITEM(pair, 0))
            || !PyBytes_CheckExact(PyTuple_GET_ITEM(pair, 1))) {
            return 0;
        }
        *size += PAIR_BYTES + (size_t)PyBytes_GET_SIZE(PyTuple_GET_ITEM(pair, 0))
                 + (size_t)PyBytes_GET_SIZE(PyTuple_GET_ITEM(pair, 1));
    }

    return *size <= INT32_MAX;
}

PyObject *
http_encode_response(PyObject *request_id, PyObject *status, PyObject *headers,
                     PyObject *body)
{
    long long id = small_number(request_id);
    long long code = small_number(status);
    size_t size = sizeof(RESPONSE_HEAD) + 2 * MAX_INTEGER_BYTES + LIST_HEAD_BYTES + 1
                  + BINARY_HEAD_BYTES + (size_t)PyBytes_GET_SIZE(body);

    if (id < 0 || code < 0 || PyBytes_GET_SIZE(body) > INT32_MAX
        || !measure_headers(headers, &size)) {
        Py_RETURN_NONE;
    }

    /* Now `size` is the most that it can be. */
    unsigned char small[1024];
    PyObject *large = NULL;
    unsigned char *begin = small;
    if (size > sizeof(small)) {
        large = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
        if (large == NULL) {
            return NULL;
        }
        begin = (unsigned char *)PyBytes_AS_STRING(large);
    }

    unsigned char *to = begin;
    memcpy(to, RESPONSE_HEAD, sizeof(RESPONSE_HEAD));
    to = put_integer(to + sizeof(RESPONSE_HEAD), (uint32_t)id);
    to = put_integer(to, (uint32_t)code);
    to = put_headers(to, headers);
    to = put_binary(to, body);

    if (large == NULL) {
        return PyBytes_FromStringAndSize((const char *)small, to - begin);
    }

    /* On failure it sets an error and `large` to NULL. */
    (void)_PyBytes_Resize(&large, to - begin);
    return large;
}
