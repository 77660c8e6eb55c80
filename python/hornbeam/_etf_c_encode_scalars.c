/* SPDX-License-Identifier: Apache-2.0 */
/* The encoder's writers of numbers, text and bytes; see _etf_c_encode.h. */
#include "_etf_c_encode.h"

#include <math.h>

/* Numbers. */

static int
write_digits(EtfEncoder *encoder, PyObject *digits, int is_negative)
{
    Py_ssize_t length = PyBytes_GET_SIZE(digits);
    int head_bytes = length < 256 ? 3 : 6;
    unsigned char *to = etf_extend(encoder, (size_t)head_bytes + (size_t)length);
    if (to == NULL) {
        return -1;
    }

    if (length < 256) {
        to[0] = ETF_SMALL_BIG;
        to[1] = (unsigned char)length;
    }
    else {
        to[0] = ETF_LARGE_BIG;
        etf_put_uint32(to + 1, (uint32_t)length);
    }

    to[head_bytes - 1] = (unsigned char)is_negative;
    memcpy(to + head_bytes, PyBytes_AS_STRING(digits), (size_t)length);
    return 0;
}

/* Returns the bytes of an int's absolute value, the lowest first; NULL: see the writers. */
static PyObject *
make_digits(EtfEncoder *encoder, PyObject *value, PyObject *absolute)
{
    EtfState *state = encoder->state;
    PyObject *bits = PyObject_CallMethodObjArgs(absolute, state->str_bit_length, NULL);
    Py_ssize_t length = bits ? PyLong_AsSsize_t(bits) : -1;
    Py_XDECREF(bits);
    if (length < 0) {
        return NULL;
    }

    length = length / 8 + (length % 8 != 0);
    if (length > ETF_MAX_INTEGER_BYTES) {
        (void)etf_fault(encoder, value,
                        PyUnicode_FromFormat("an integer has at most %d bytes, not %zd",
                                             ETF_MAX_INTEGER_BYTES, length));
        return NULL;
    }

    PyObject *count = PyLong_FromSsize_t(length);
    PyObject *digits = count ? PyObject_CallMethodObjArgs(absolute, state->str_to_bytes,
                                                          count, state->str_little, NULL)
                             : NULL;
    Py_XDECREF(count);
    return digits;
}

static int
write_big(EtfEncoder *encoder, PyObject *value, int is_negative)
{
    /* Not PyNumber_Absolute, which a subclass may have made its own. */
    PyObject *absolute = PyLong_Type.tp_as_number->nb_absolute(value);
    PyObject *digits = absolute ? make_digits(encoder, value, absolute) : NULL;
    int status = digits ? write_digits(encoder, digits, is_negative) : -1;
    Py_XDECREF(absolute);
    Py_XDECREF(digits);
    return status;
}

static int
write_int64(EtfEncoder *encoder, long long number)
{
    uint64_t magnitude = number < 0 ? 0 - (uint64_t)number : (uint64_t)number;
    unsigned char big[11] = {ETF_SMALL_BIG, 0, number < 0};
    unsigned char length = 0;

    for (; magnitude != 0; magnitude >>= 8) {
        big[3 + length++] = (unsigned char)magnitude;
    }

    big[1] = length;
    return etf_write_raw(encoder, big, (size_t)3 + length);
}

int
etf_write_int(EtfEncoder *encoder, PyObject *value)
{
    int overflow;
    long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (number == -1 && PyErr_Occurred()) {
        return -1;
    }

    if (overflow != 0) {
        return write_big(encoder, value, overflow < 0);
    }

    if (0 <= number && number <= 255) {
        unsigned char small[2] = {ETF_SMALL_INTEGER, (unsigned char)number};
        return etf_write_raw(encoder, small, sizeof small);
    }

    if (INT32_MIN <= number && number <= INT32_MAX) {
        return etf_write_head(encoder, ETF_INTEGER, (Py_ssize_t)number);
    }

    return write_int64(encoder, number);
}

int
etf_write_float(EtfEncoder *encoder, PyObject *value)
{
    double number = PyFloat_AS_DOUBLE(value);
    if (!isfinite(number)) {
        const char *text = isnan(number) ? "nan" : number > 0 ? "inf" : "-inf";
        return etf_fault(
            encoder, value,
            PyUnicode_FromFormat("%s has no Erlang form; expected a finite float", text));
    }

    uint64_t bits;
    memcpy(&bits, &number, sizeof bits);
    unsigned char *to = etf_extend(encoder, 9);
    if (to == NULL) {
        return -1;
    }

    to[0] = ETF_NEW_FLOAT;
    etf_put_uint32(to + 1, (uint32_t)(bits >> 32));
    etf_put_uint32(to + 5, (uint32_t)bits);
    return 0;
}

/* Text and bytes. */

/* Turns the UnicodeEncodeError that is set into a fault. */
static int
fault_surrogate(EtfEncoder *encoder, PyObject *value)
{
    if (!PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)) {
        return -1;
    }

    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    Py_ssize_t index = 0;
    int status = PyUnicodeEncodeError_GetStart(error, &index);
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(traceback);
    if (status < 0) {
        return -1;
    }

    return etf_fault(
        encoder, value,
        PyUnicode_FromFormat("a lone surrogate at index %zd has no UTF-8 form", index));
}

int
etf_write_str(EtfEncoder *encoder, PyObject *value)
{
    PyObject *utf8 = NULL;
    const char *text;
    Py_ssize_t length;

    if (PyUnicode_IS_COMPACT_ASCII(value)) {
        text = (const char *)PyUnicode_1BYTE_DATA(value);
        length = PyUnicode_GET_LENGTH(value);
    }
    else {
        /* Not PyUnicode_AsUTF8AndSize: the str would keep the bytes. */
        utf8 = PyUnicode_AsUTF8String(value);
        if (utf8 == NULL) {
            return fault_surrogate(encoder, value);
        }
        text = PyBytes_AS_STRING(utf8);
        length = PyBytes_GET_SIZE(utf8);
    }

    int status = etf_check_length(encoder, value, length);
    if (status == 0) {
        status = etf_write_head(encoder, ETF_BINARY, length);
    }
    if (status == 0) {
        status = etf_write_raw(encoder, text, (size_t)length);
    }

    Py_XDECREF(utf8);
    return status;
}

/* Writes the head of a binary and returns where its `length` bytes go; or NULL. */
static unsigned char *
extend_binary(EtfEncoder *encoder, Py_ssize_t length)
{
    int head_bytes = encoder->is_message ? 5 : 6;
    unsigned char *to = etf_extend(encoder, (size_t)head_bytes + (size_t)length);
    if (to == NULL) {
        return NULL;
    }

    to[0] = encoder->is_message ? ETF_BINARY : ETF_BIT_BINARY;
    etf_put_uint32(to + 1, (uint32_t)length);
    if (!encoder->is_message) {
        to[5] = length == 0 ? 0 : 8;
    }

    return to + head_bytes;
}

static int
write_binary(EtfEncoder *encoder, PyObject *value, const char *bytes, Py_ssize_t length)
{
    if (etf_check_length(encoder, value, length) < 0) {
        return -1;
    }

    unsigned char *to = extend_binary(encoder, length);
    if (to == NULL) {
        return -1;
    }

    memcpy(to, bytes, (size_t)length);
    return 0;
}

int
etf_write_bytes(EtfEncoder *encoder, PyObject *value)
{
    return write_binary(encoder, value, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value));
}

int
etf_write_bytearray(EtfEncoder *encoder, PyObject *value)
{
    /* Not as a buffer, for which a subclass may have Python code. */
    return write_binary(encoder, value, PyByteArray_AS_STRING(value),
                        PyByteArray_GET_SIZE(value));
}

int
etf_write_memoryview(EtfEncoder *encoder, PyObject *value)
{
    Py_buffer view;
    if (PyObject_GetBuffer(value, &view, PyBUF_FULL_RO) < 0) {
        if (!PyErr_ExceptionMatches(PyExc_ValueError)) {
            return -1;
        }
        PyErr_Clear();
        return etf_fault(encoder, value,
                         PyUnicode_FromString("the memoryview has been released"));
    }

    int status = etf_check_length(encoder, value, view.len);
    if (status == 0) {
        unsigned char *to = extend_binary(encoder, view.len);
        status = to == NULL ? -1 : PyBuffer_ToContiguous(to, &view, view.len, 'C');
    }

    PyBuffer_Release(&view);
    return status;
}

/* Terms of _terms.py. */

/* Returns a new reference to an attribute, which is of type bytes; or NULL. */
static PyObject *
get_bytes(PyObject *value, PyObject *name)
{
    PyObject *bytes = PyObject_GetAttr(value, name);
    if (bytes != NULL && !PyBytes_Check(bytes)) {
        PyErr_Format(PyExc_TypeError, "%R of a %s is not bytes", name,
                     Py_TYPE(value)->tp_name);
        Py_CLEAR(bytes);
    }

    return bytes;
}

/* Atoms, identifiers and functions keep their encoding. */
int
etf_write_etf(EtfEncoder *encoder, PyObject *value)
{
    PyObject *etf = get_bytes(value, encoder->state->str_etf);
    if (etf == NULL) {
        return -1;
    }

    int status = etf_write_raw(encoder, PyBytes_AS_STRING(etf),
                               (size_t)PyBytes_GET_SIZE(etf));
    Py_DECREF(etf);
    return status;
}

int
etf_write_bit_string(EtfEncoder *encoder, PyObject *value)
{
    PyObject *bits = PyObject_GetAttr(value, encoder->state->str_last_byte_bits);
    PyObject *data = bits ? get_bytes(value, encoder->state->str_data) : NULL;
    long last_byte_bits = data ? PyLong_AsLong(bits) : -1;
    int status = -1;

    if (last_byte_bits >= 0) {
        unsigned char last = (unsigned char)last_byte_bits;
        Py_ssize_t length = PyBytes_GET_SIZE(data);
        status = etf_check_length(encoder, value, length);
        if (status == 0) {
            status = etf_write_head(encoder, ETF_BIT_BINARY, length);
        }
        if (status == 0) {
            status = etf_write_raw(encoder, &last, 1);
        }
        if (status == 0) {
            status = etf_write_raw(encoder, PyBytes_AS_STRING(data), (size_t)length);
        }
    }

    Py_XDECREF(bits);
    Py_XDECREF(data);
    return status;
}
