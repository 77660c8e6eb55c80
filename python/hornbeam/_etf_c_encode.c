/* SPDX-License-Identifier: Apache-2.0 */
/* The encoder, in C; _etf_python_encode.py is its twin.
 *
 * Writers return 0, or -1 in one of three cases:
 *
 *   - Python's error is set, as when memory is short;
 *   - the value has no Erlang form: `segments` is not NULL, no error is set, and each
 *     container on the way out adds its step to `segments`; `finish` makes the EncodeError;
 *   - `must_be_careful` is set: the same is to be done again, with `is_careful`.
 *
 * At first no Python code runs while a value is encoded, and nothing is allocated that
 * could start the garbage collector. So nobody can change a container meanwhile, and the
 * codec needs no copies and no references of its own. To look at keys that may clash in
 * Erlang, and to tell of a fault, takes more than that; then the careful way copies each
 * list and dict before it looks at the elements, as the twin does. */
#include "_etf_c.h"

#include <math.h>
#include <string.h>

#define STACK_BYTES 1024

typedef struct {
    EtfState *state;
    unsigned char *data;
    size_t length;
    size_t capacity;
    PyObject *heap; /* a bytes object that holds `data`; NULL: it is in `stack` */
    int is_message; /* bytes become plain binaries */
    int is_careful; /* copy containers, as others may change them */
    int must_be_careful;
    /* Of a value that has no Erlang form. */
    PyObject *segments; /* list of steps, innermost first; NULL: no such fault */
    PyObject *culprit;
    PyObject *reason;
    unsigned char stack[STACK_BYTES];
} Encoder;

static int write_value(Encoder *encoder, PyObject *value, int depth);

/* Faults. */

/* Notes that `culprit` has no Erlang form. Takes over the reference to `reason`; NULL with
 * no error set: its type is not supported. */
static int
fault(Encoder *encoder, PyObject *culprit, PyObject *reason)
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

/* Adds a step to the place of a fault. Takes over the reference to `segment`. */
static int
leave(Encoder *encoder, PyObject *segment)
{
    if (segment != NULL && encoder->segments != NULL) {
        /* If that fails, Python's error is set, and is what `finish` reports. */
        (void)PyList_Append(encoder->segments, segment);
    }

    Py_XDECREF(segment);
    return -1;
}

static int
leave_index(Encoder *encoder, Py_ssize_t index)
{
    return encoder->segments == NULL ? -1 : leave(encoder, PyLong_FromSsize_t(index));
}

static int
check_depth(Encoder *encoder, PyObject *value, int depth)
{
    if (ETF_LIKELY(depth < ETF_MAX_DEPTH)) {
        return 0;
    }

    return fault(encoder, value,
                 PyUnicode_FromFormat("nested more than %d levels deep, or contains itself",
                                      ETF_MAX_DEPTH));
}

static int
check_length(Encoder *encoder, PyObject *value, Py_ssize_t length)
{
    if (ETF_LIKELY((uint64_t)length <= ETF_MAX_LENGTH)) {
        return 0;
    }

    return fault(encoder, value,
                 PyUnicode_FromFormat("too long: %zd, at most %zu", length,
                                      (size_t)ETF_MAX_LENGTH));
}

/* Output. */

static int
grow(Encoder *encoder, size_t needed)
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

/* Returns where `count` bytes can be written, which then are part of the output; or NULL. */
static inline unsigned char *
extend(Encoder *encoder, size_t count)
{
    if (!ETF_LIKELY(count <= encoder->capacity - encoder->length)
        && grow(encoder, encoder->length + count) < 0) {
        return NULL;
    }

    unsigned char *to = encoder->data + encoder->length;
    encoder->length += count;
    return to;
}

static int
write_raw(Encoder *encoder, const void *bytes, size_t count)
{
    unsigned char *to = extend(encoder, count);
    if (to == NULL) {
        return -1;
    }

    memcpy(to, bytes, count);
    return 0;
}

static int
write_head(Encoder *encoder, unsigned char tag, Py_ssize_t length)
{
    unsigned char *to = extend(encoder, 5);
    if (to == NULL) {
        return -1;
    }

    to[0] = tag;
    etf_put_uint32(to + 1, (uint32_t)length);
    return 0;
}

static int
write_nil(Encoder *encoder)
{
    const unsigned char nil = ETF_NIL;
    return write_raw(encoder, &nil, 1);
}

/* Writes the head of a binary and returns where its `length` bytes go; or NULL. */
static unsigned char *
extend_binary(Encoder *encoder, Py_ssize_t length)
{
    int head_bytes = encoder->is_message ? 5 : 6;
    unsigned char *to = extend(encoder, (size_t)head_bytes + (size_t)length);
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

/* Scalars. */

static int
write_digits(Encoder *encoder, PyObject *digits, int is_negative)
{
    Py_ssize_t length = PyBytes_GET_SIZE(digits);
    int head_bytes = length < 256 ? 3 : 6;
    unsigned char *to = extend(encoder, (size_t)head_bytes + (size_t)length);
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

/* Returns the bytes of an int's absolute value, the lowest first; NULL: a fault or error. */
static PyObject *
make_digits(Encoder *encoder, PyObject *value, PyObject *absolute)
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
        (void)fault(encoder, value,
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
write_big(Encoder *encoder, PyObject *value, int is_negative)
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
write_int64(Encoder *encoder, long long number)
{
    uint64_t magnitude = number < 0 ? 0 - (uint64_t)number : (uint64_t)number;
    unsigned char big[11] = {ETF_SMALL_BIG, 0, number < 0};
    unsigned char length = 0;

    for (; magnitude != 0; magnitude >>= 8) {
        big[3 + length++] = (unsigned char)magnitude;
    }

    big[1] = length;
    return write_raw(encoder, big, (size_t)3 + length);
}

static int
write_int(Encoder *encoder, PyObject *value)
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
        return write_raw(encoder, small, sizeof small);
    }

    if (INT32_MIN <= number && number <= INT32_MAX) {
        return write_head(encoder, ETF_INTEGER, (Py_ssize_t)number);
    }

    return write_int64(encoder, number);
}

static int
write_float(Encoder *encoder, PyObject *value)
{
    double number = PyFloat_AS_DOUBLE(value);
    if (!isfinite(number)) {
        const char *text = isnan(number) ? "nan" : number > 0 ? "inf" : "-inf";
        return fault(encoder, value,
                     PyUnicode_FromFormat("%s has no Erlang form; expected a finite float",
                                          text));
    }

    uint64_t bits;
    memcpy(&bits, &number, sizeof bits);
    unsigned char *to = extend(encoder, 9);
    if (to == NULL) {
        return -1;
    }

    to[0] = ETF_NEW_FLOAT;
    etf_put_uint32(to + 1, (uint32_t)(bits >> 32));
    etf_put_uint32(to + 5, (uint32_t)bits);
    return 0;
}

/* Turns the UnicodeEncodeError that is set into a fault. */
static int
fault_surrogate(Encoder *encoder, PyObject *value)
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

    return fault(encoder, value,
                 PyUnicode_FromFormat("a lone surrogate at index %zd has no UTF-8 form",
                                      index));
}

static int
write_str(Encoder *encoder, PyObject *value)
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

    int status = check_length(encoder, value, length);
    if (status == 0) {
        status = write_head(encoder, ETF_BINARY, length);
    }
    if (status == 0) {
        status = write_raw(encoder, text, (size_t)length);
    }

    Py_XDECREF(utf8);
    return status;
}

static int
write_binary(Encoder *encoder, PyObject *value, const char *bytes, Py_ssize_t length)
{
    if (check_length(encoder, value, length) < 0) {
        return -1;
    }

    unsigned char *to = extend_binary(encoder, length);
    if (to == NULL) {
        return -1;
    }

    memcpy(to, bytes, (size_t)length);
    return 0;
}

static int
write_bytes(Encoder *encoder, PyObject *value)
{
    return write_binary(encoder, value, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value));
}

static int
write_memoryview(Encoder *encoder, PyObject *value)
{
    Py_buffer view;
    if (PyObject_GetBuffer(value, &view, PyBUF_FULL_RO) < 0) {
        if (!PyErr_ExceptionMatches(PyExc_ValueError)) {
            return -1;
        }
        PyErr_Clear();
        return fault(encoder, value,
                     PyUnicode_FromString("the memoryview has been released"));
    }

    int status = check_length(encoder, value, view.len);
    if (status == 0) {
        unsigned char *to = extend_binary(encoder, view.len);
        status = to == NULL ? -1 : PyBuffer_ToContiguous(to, &view, view.len, 'C');
    }

    PyBuffer_Release(&view);
    return status;
}

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
static int
write_etf(Encoder *encoder, PyObject *value)
{
    PyObject *etf = get_bytes(value, encoder->state->str_etf);
    if (etf == NULL) {
        return -1;
    }

    int status = write_raw(encoder, PyBytes_AS_STRING(etf), (size_t)PyBytes_GET_SIZE(etf));
    Py_DECREF(etf);
    return status;
}

static int
write_bit_string(Encoder *encoder, PyObject *value)
{
    PyObject *bits = PyObject_GetAttr(value, encoder->state->str_last_byte_bits);
    PyObject *data = bits ? get_bytes(value, encoder->state->str_data) : NULL;
    long last_byte_bits = data ? PyLong_AsLong(bits) : -1;
    int status = -1;

    if (last_byte_bits >= 0) {
        unsigned char last = (unsigned char)last_byte_bits;
        Py_ssize_t length = PyBytes_GET_SIZE(data);
        status = check_length(encoder, value, length);
        if (status == 0) {
            status = write_head(encoder, ETF_BIT_BINARY, length);
        }
        if (status == 0) {
            status = write_raw(encoder, &last, 1);
        }
        if (status == 0) {
            status = write_raw(encoder, PyBytes_AS_STRING(data), (size_t)length);
        }
    }

    Py_XDECREF(bits);
    Py_XDECREF(data);
    return status;
}

/* Containers. */

static int
write_tuple_head(Encoder *encoder, PyObject *value, Py_ssize_t arity)
{
    if (ETF_LIKELY(arity < 256)) {
        unsigned char head[2] = {ETF_SMALL_TUPLE, (unsigned char)arity};
        return write_raw(encoder, head, sizeof head);
    }

    if (arity > ETF_MAX_TUPLE_ARITY) {
        return fault(encoder, value,
                     PyUnicode_FromFormat("a tuple has at most %d elements, not %zd",
                                          ETF_MAX_TUPLE_ARITY, arity));
    }

    return write_head(encoder, ETF_LARGE_TUPLE, arity);
}

/* Writes the elements of a tuple; no head. */
static int
write_elements(Encoder *encoder, PyObject *tuple, int depth)
{
    Py_ssize_t length = PyTuple_GET_SIZE(tuple);
    for (Py_ssize_t i = 0; i < length; i++) {
        if (write_value(encoder, PyTuple_GET_ITEM(tuple, i), depth + 1) < 0) {
            return leave_index(encoder, i);
        }
    }

    return 0;
}

static int
write_tuple(Encoder *encoder, PyObject *value, int depth)
{
    if (check_depth(encoder, value, depth) < 0
        || write_tuple_head(encoder, value, PyTuple_GET_SIZE(value)) < 0) {
        return -1;
    }

    return write_elements(encoder, value, depth);
}

static int
write_list(Encoder *encoder, PyObject *value, int depth)
{
    if (check_depth(encoder, value, depth) < 0) {
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
        && (check_length(encoder, value, length) < 0
            || write_head(encoder, ETF_LIST, length) < 0)) {
        status = -1;
    }

    for (Py_ssize_t i = 0; status == 0 && i < length; i++) {
        status = write_value(encoder, PyList_GET_ITEM(list, i), depth + 1);
        if (status < 0) {
            leave_index(encoder, i);
        }
    }

    Py_DECREF(list);
    return status < 0 ? -1 : write_nil(encoder);
}

/* Writes the elements that a FrozenList or an ImproperList has. */
static int
write_list_elements(Encoder *encoder, PyObject *value, int depth)
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
    else if (check_length(encoder, value, PyTuple_GET_SIZE(elements)) == 0
             && write_head(encoder, ETF_LIST, PyTuple_GET_SIZE(elements)) == 0) {
        status = write_elements(encoder, elements, depth);
    }

    Py_DECREF(elements);
    return status;
}

static int
write_frozen_list(Encoder *encoder, PyObject *value, int depth)
{
    if (check_depth(encoder, value, depth) < 0
        || write_list_elements(encoder, value, depth) < 0) {
        return -1;
    }

    return write_nil(encoder);
}

static int
write_improper_list(Encoder *encoder, PyObject *value, int depth)
{
    if (check_depth(encoder, value, depth) < 0
        || write_list_elements(encoder, value, depth) < 0) {
        return -1;
    }

    PyObject *tail = PyObject_GetAttr(value, encoder->state->str_tail);
    if (tail == NULL) {
        return -1;
    }

    int status = write_value(encoder, tail, depth + 1);
    Py_DECREF(tail);
    if (status < 0 && encoder->segments != NULL) {
        return leave(encoder, PyUnicode_FromString(".tail"));
    }

    return status;
}

enum { KEY_PLAIN = 0, KEY_STR = 1, KEY_BYTES = 2, KEY_OTHER = 4 };

/* Keys that are all KEY_PLAIN or KEY_STR differ in Erlang if they do in Python; so do keys
 * that are all KEY_BYTES. */
static inline int
classify_key(PyObject *key)
{
    if (ETF_LIKELY(PyUnicode_CheckExact(key))) {
        return KEY_STR;
    }

    if (PyBytes_CheckExact(key)) {
        return KEY_BYTES;
    }

    if (PyLong_CheckExact(key) || PyFloat_CheckExact(key) || PyBool_Check(key)
        || key == Py_None) {
        return KEY_PLAIN;
    }

    return KEY_OTHER;
}

static inline int
may_clash(int kinds)
{
    return (kinds & KEY_OTHER) != 0 || kinds == (KEY_STR | KEY_BYTES);
}

/* Writes a pair and returns the kind of its key, or -1. */
static int
write_pair(Encoder *encoder, PyObject *key, PyObject *element, Py_ssize_t index, int depth)
{
    if (write_value(encoder, key, depth + 1) < 0) {
        return encoder->segments == NULL
                   ? -1
                   : leave(encoder, PyUnicode_FromFormat(".keys()[%zd]", index));
    }

    if (write_value(encoder, element, depth + 1) < 0) {
        return encoder->segments == NULL ? -1 : leave(encoder, PyTuple_Pack(1, key));
    }

    return classify_key(key);
}

/* Faults if two keys of the pairs, distinct in Python, are one key in Erlang. */
static int
check_keys(Encoder *encoder, PyObject *value, PyObject *pairs)
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

    return fault(encoder, value, clash);
}

static int
write_dict_carefully(Encoder *encoder, PyObject *value, PyObject *entries, int depth)
{
    PyObject *pairs = PyDict_Items(entries);
    if (pairs == NULL) {
        return -1;
    }

    Py_ssize_t length = PyList_GET_SIZE(pairs);
    int kinds = write_head(encoder, ETF_MAP, length);
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

/* Writes the dict `entries`, which is `value` or what a FrozenMap holds. */
static int
write_dict(Encoder *encoder, PyObject *value, PyObject *entries, int depth)
{
    if (check_depth(encoder, value, depth) < 0
        || check_length(encoder, value, PyDict_GET_SIZE(entries)) < 0) {
        return -1;
    }

    if (encoder->is_careful) {
        return write_dict_carefully(encoder, value, entries, depth);
    }

    int kinds = write_head(encoder, ETF_MAP, PyDict_GET_SIZE(entries));
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

static int
write_frozen_map(Encoder *encoder, PyObject *value, int depth)
{
    PyObject *entries = PyObject_GetAttr(value, encoder->state->str_entries);
    if (entries == NULL) {
        return -1;
    }

    int status = -1;
    if (PyDict_Check(entries)) {
        status = write_dict(encoder, value, entries, depth);
    }
    else {
        PyErr_SetString(PyExc_TypeError, "entries of a FrozenMap are not a dict");
    }

    Py_DECREF(entries);
    return status;
}

/* Values. */

/* The types of _terms.py; 1: it is none of them. */
static int
write_term(Encoder *encoder, PyObject *value, int depth)
{
    EtfState *state = encoder->state;
    PyObject *type = (PyObject *)Py_TYPE(value);

    if (type == state->Atom || type == state->Pid || type == state->Reference
        || type == state->Port || type == state->ExternalFun || type == state->Fun) {
        return write_etf(encoder, value);
    }

    if (type == state->BitString) {
        return write_bit_string(encoder, value);
    }

    if (type == state->ImproperList) {
        return write_improper_list(encoder, value, depth);
    }

    if (type == state->FrozenList) {
        return write_frozen_list(encoder, value, depth);
    }

    if (type == state->FrozenMap) {
        return write_frozen_map(encoder, value, depth);
    }

    return 1;
}

/* Floats, buffers, and subclasses of the builtin types, which count as their base. */
static int
write_other(Encoder *encoder, PyObject *value, int depth)
{
    int status = write_term(encoder, value, depth);
    if (status <= 0) {
        return status;
    }

    if (PyUnicode_Check(value)) {
        return write_str(encoder, value);
    }

    if (PyBytes_Check(value)) {
        return write_bytes(encoder, value);
    }

    if (PyByteArray_Check(value)) {
        /* Not as a buffer, for which a subclass may have Python code. */
        return write_binary(encoder, value, PyByteArray_AS_STRING(value),
                            PyByteArray_GET_SIZE(value));
    }

    if (PyMemoryView_Check(value)) {
        return write_memoryview(encoder, value);
    }

    if (PyLong_Check(value)) {
        return write_int(encoder, value);
    }

    if (PyFloat_Check(value)) {
        return write_float(encoder, value);
    }

    if (PyList_Check(value)) {
        return write_list(encoder, value, depth);
    }

    if (PyTuple_Check(value)) {
        return write_tuple(encoder, value, depth);
    }

    if (PyDict_Check(value)) {
        return write_dict(encoder, value, value, depth);
    }

    return fault(encoder, value, NULL);
}

static int
write_value(Encoder *encoder, PyObject *value, int depth)
{
    if (PyUnicode_CheckExact(value)) {
        return write_str(encoder, value);
    }

    if (PyBytes_CheckExact(value)) {
        return write_bytes(encoder, value);
    }

    if (PyTuple_CheckExact(value)) {
        return write_tuple(encoder, value, depth);
    }

    if (PyLong_CheckExact(value)) {
        return write_int(encoder, value);
    }

    if (PyList_CheckExact(value)) {
        return write_list(encoder, value, depth);
    }

    if (PyDict_CheckExact(value)) {
        return write_dict(encoder, value, value, depth);
    }

    if (value == Py_None) {
        return write_raw(encoder, "w\x09undefined", 11);
    }

    if (value == Py_True) {
        return write_raw(encoder, "w\x04true", 6);
    }

    if (value == Py_False) {
        return write_raw(encoder, "w\x05"
                                  "false", 7);
    }

    return write_other(encoder, value, depth);
}

/* Entry points. */

static void
raise_fault(Encoder *encoder)
{
    PyObject *reason = encoder->reason ? encoder->reason : Py_None;
    PyObject *error = PyObject_CallFunctionObjArgs(encoder->state->encode_error, reason,
                                                   encoder->culprit, encoder->segments,
                                                   NULL);
    if (error != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        Py_DECREF(error);
    }
}

static PyObject *
finish(Encoder *encoder, int status)
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
start(Encoder *encoder, PyObject *module, int is_message, int is_careful)
{
    encoder->state = etf_state(module);
    encoder->data = encoder->stack;
    encoder->length = 0;
    encoder->capacity = STACK_BYTES;
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
    Encoder encoder;
    start(&encoder, module, is_message, 0);
    int status = write_value(&encoder, value, 0);

    if (status < 0 && encoder.must_be_careful && !PyErr_Occurred()) {
        Py_XDECREF(encoder.heap);
        start(&encoder, module, is_message, 1);
        status = write_value(&encoder, value, 0);
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

/* Returns the length of a packet behind its length field, or 0 with an error set. */
static uint64_t
measure_batch(PyObject *module, PyObject *messages, PyObject *sequence)
{
    Py_ssize_t count = PySequence_Fast_GET_SIZE(sequence);
    uint64_t length = count == 0 ? 2 : 7;

    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *message = PySequence_Fast_GET_ITEM(sequence, i);
        if (!PyBytes_Check(message)) {
            PyErr_Format(PyExc_TypeError, "a batch is made of bytes, not %s",
                         Py_TYPE(message)->tp_name);
            return 0;
        }
        length += (uint64_t)PyBytes_GET_SIZE(message);
    }

    if (length <= ETF_MAX_LENGTH) {
        return length;
    }

    PyObject *reason = PyUnicode_FromFormat("a packet has at most %llu bytes, not %llu",
                                            (unsigned long long)ETF_MAX_LENGTH,
                                            (unsigned long long)length);
    PyObject *error = reason ? PyObject_CallFunction(etf_state(module)->EncodeError, "Os",
                                                     reason, Py_TYPE(messages)->tp_name)
                             : NULL;
    if (error != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
    }
    Py_XDECREF(reason);
    Py_XDECREF(error);
    return 0;
}

static void
join_batch(unsigned char *to, PyObject *sequence)
{
    Py_ssize_t count = PySequence_Fast_GET_SIZE(sequence);
    *to++ = ETF_VERSION;
    if (count > 0) {
        *to++ = ETF_LIST;
        etf_put_uint32(to, (uint32_t)count);
        to += 4;
    }

    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *message = PySequence_Fast_GET_ITEM(sequence, i);
        size_t length = (size_t)PyBytes_GET_SIZE(message);
        memcpy(to, PyBytes_AS_STRING(message), length);
        to += length;
    }

    *to = ETF_NIL;
}

PyObject *
etf_pack_batch(PyObject *module, PyObject *messages)
{
    PyObject *sequence = PySequence_Fast(messages, "messages are not a sequence");
    if (sequence == NULL) {
        return NULL;
    }

    PyObject *packet = NULL;
    uint64_t length = measure_batch(module, messages, sequence);
    if (length > 0) {
        packet = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(4 + length));
    }

    if (packet != NULL) {
        unsigned char *to = (unsigned char *)PyBytes_AS_STRING(packet);
        etf_put_uint32(to, (uint32_t)length);
        join_batch(to + 4, sequence);
    }

    Py_DECREF(sequence);
    return packet;
}
