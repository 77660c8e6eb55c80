/* SPDX-License-Identifier: Apache-2.0 */
/* The decoder's readers of numbers, atoms and binaries; see _etf_c_decode.h. */
#include "_etf_c_decode.h"

#include <math.h>
#include <string.h>

#define FLOAT_TEXT_BYTES 31

/* Numbers. */

PyObject *
etf_read_small_integer(EtfDecoder *decoder, EtfBytes start, EtfBytes limit)
{
    if (etf_need(decoder, start, limit, 1) < 0) {
        return NULL;
    }

    return PyLong_FromLong(*decoder->position++);
}

PyObject *
etf_read_integer(EtfDecoder *decoder, EtfBytes start, EtfBytes limit)
{
    if (etf_need(decoder, start, limit, 4) < 0) {
        return NULL;
    }

    uint32_t bits = etf_get_uint32(decoder->position);
    decoder->position += 4;
    return PyLong_FromLongLong(bits < 0x80000000u ? (long long)bits
                                                  : (long long)bits - 0x100000000ll);
}

PyObject *
etf_read_big(EtfDecoder *decoder, EtfBytes start, EtfBytes limit)
{
    int length_bytes = *start == ETF_SMALL_BIG ? 1 : 4;
    if (etf_need(decoder, start, limit, (uint64_t)length_bytes) < 0) {
        return NULL;
    }

    uint64_t length = length_bytes == 1 ? *decoder->position
                                        : etf_get_uint32(decoder->position);
    decoder->position += length_bytes;
    if (etf_need(decoder, start, limit, length + 1) < 0) {
        return NULL;
    }

    unsigned char sign = *decoder->position;
    if (sign > 1) {
        return etf_fail(decoder, start, "expected a sign of 0 or 1, got %d", (int)sign);
    }

    PyObject *number = _PyLong_FromByteArray(decoder->position + 1, (size_t)length, 1, 0);
    decoder->position += length + 1;
    if (number == NULL || sign == 0) {
        return number;
    }

    PyObject *negative = PyNumber_Negative(number);
    Py_DECREF(number);
    return negative;
}

PyObject *
etf_read_new_float(EtfDecoder *decoder, EtfBytes start, EtfBytes limit)
{
    if (etf_need(decoder, start, limit, 8) < 0) {
        return NULL;
    }

    uint64_t bits = (uint64_t)etf_get_uint32(decoder->position) << 32
                    | etf_get_uint32(decoder->position + 4);
    double number;
    memcpy(&number, &bits, sizeof number);
    decoder->position += 8;
    if (!isfinite(number)) {
        return etf_fail(decoder, start, "a float is not finite");
    }

    return PyFloat_FromDouble(number);
}

PyObject *
etf_read_float(EtfDecoder *decoder, EtfBytes start, EtfBytes limit)
{
    char text[FLOAT_TEXT_BYTES + 1] = {0};
    double number = -1.0;
    if (etf_need(decoder, start, limit, FLOAT_TEXT_BYTES) < 0) {
        return NULL;
    }

    memcpy(text, decoder->position, FLOAT_TEXT_BYTES);
    decoder->position += FLOAT_TEXT_BYTES;
    /* PyOS_string_to_double takes more, such as "nan". */
    if (text[strspn(text, "0123456789+-.eE")] == '\0') {
        number = PyOS_string_to_double(text, NULL, NULL);
    }
    else {
        number = Py_HUGE_VAL;
    }

    if (number == -1.0 && PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_ValueError)) {
            return NULL;
        }
        PyErr_Clear();
        number = Py_HUGE_VAL;
    }

    if (!isfinite(number)) {
        return etf_fail(decoder, start, "the text of a float is not a finite number");
    }

    return PyFloat_FromDouble(number);
}

/* Atoms. */

/* Reads the atom's tag and length; its name is then at `position`; -1: an error is set. */
static Py_ssize_t
open_atom(EtfDecoder *decoder, EtfBytes limit)
{
    EtfBytes start = decoder->position;
    if (etf_need(decoder, start, limit, 1) < 0) {
        return -1;
    }

    unsigned char tag = *decoder->position;
    if (!etf_is_atom_tag(tag)) {
        (void)etf_fail(decoder, start, "expected an atom, got tag %d", (int)tag);
        return -1;
    }

    decoder->position++;
    int length_bytes = tag == ETF_SMALL_ATOM_UTF8 || tag == ETF_SMALL_ATOM ? 1 : 2;
    if (etf_need(decoder, start, limit, (uint64_t)length_bytes) < 0) {
        return -1;
    }

    uint32_t length = length_bytes == 1 ? *decoder->position
                                        : etf_get_uint16(decoder->position);
    decoder->position += length_bytes;
    return etf_need(decoder, start, limit, length) < 0 ? -1 : (Py_ssize_t)length;
}

/* Returns the name at `position`, checked, as a str. */
static PyObject *
make_atom_name(EtfDecoder *decoder, EtfBytes start, Py_ssize_t length)
{
    const char *bytes = (const char *)decoder->position;
    int is_utf8 = *start == ETF_SMALL_ATOM_UTF8 || *start == ETF_ATOM_UTF8;
    PyObject *name = is_utf8 ? PyUnicode_DecodeUTF8(bytes, length, NULL)
                             : PyUnicode_DecodeLatin1(bytes, length, NULL);
    decoder->position += length;

    if (name == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
            return NULL;
        }
        PyErr_Clear();
        return etf_fail(decoder, start, "the atom's name is not UTF-8");
    }

    if (PyUnicode_GET_LENGTH(name) > ETF_MAX_ATOM_CHARACTERS) {
        (void)etf_fail(decoder, start, "an atom's name has at most %d characters, not %zd",
                       ETF_MAX_ATOM_CHARACTERS, PyUnicode_GET_LENGTH(name));
        Py_CLEAR(name);
    }

    return name;
}

/* Moves behind an atom; -1: an error is set. */
int
etf_skip_atom(EtfDecoder *decoder, EtfBytes limit)
{
    EtfBytes start = decoder->position;
    Py_ssize_t length = open_atom(decoder, limit);
    PyObject *name = length < 0 ? NULL : make_atom_name(decoder, start, length);
    if (name == NULL) {
        return -1;
    }

    Py_DECREF(name);
    return 0;
}

static PyObject *
make_atom(EtfState *state, PyObject *name)
{
    PyObject *constant = NULL;

    if (PyUnicode_CompareWithASCIIString(name, "undefined") == 0) {
        constant = Py_None;
    }
    else if (PyUnicode_CompareWithASCIIString(name, "true") == 0) {
        constant = Py_True;
    }
    else if (PyUnicode_CompareWithASCIIString(name, "false") == 0) {
        constant = Py_False;
    }

    if (constant != NULL) {
        Py_INCREF(constant);
        return constant;
    }

    return PyObject_CallFunctionObjArgs(state->Atom, name, NULL);
}

/* Returns the slot for a name, or NULL if the name is none that is kept. */
static inline EtfAtomSlot *
find_slot(EtfState *state, EtfBytes name, Py_ssize_t length)
{
    if (length > ETF_ATOM_SLOT_NAME_BYTES) {
        return NULL;
    }

    uint32_t hash = 2166136261u; /* FNV-1a */
    unsigned char all = 0;
    for (Py_ssize_t i = 0; i < length; i++) {
        hash = (hash ^ name[i]) * 16777619u;
        all |= name[i];
    }

    if (all >= 0x80) {
        return NULL;
    }

    return &state->atoms[(hash ^ hash >> 16) % ETF_ATOM_SLOTS];
}

PyObject *
etf_read_atom(EtfDecoder *decoder, EtfBytes start, EtfBytes limit)
{
    decoder->position = start;
    Py_ssize_t length = open_atom(decoder, limit);
    if (length < 0) {
        return NULL;
    }

    EtfState *state = decoder->state;
    EtfBytes bytes = decoder->position;
    EtfAtomSlot *slot = find_slot(state, bytes, length);
    if (slot != NULL && slot->value != NULL && slot->length == length
        && memcmp(slot->name, bytes, (size_t)length) == 0) {
        decoder->position += length;
        Py_INCREF(slot->value);
        return slot->value;
    }

    PyObject *name = make_atom_name(decoder, start, length);
    PyObject *atom = name ? make_atom(state, name) : NULL;
    Py_XDECREF(name);
    if (atom != NULL && slot != NULL) {
        PyObject *former = slot->value;
        Py_INCREF(atom);
        slot->value = atom;
        slot->length = (unsigned char)length;
        memcpy(slot->name, bytes, (size_t)length);
        Py_XDECREF(former);
    }

    return atom;
}

/* Binaries. */

/* Reads a length of four bytes; as many bytes follow then. -1: an error is set. */
static inline int64_t
read_length(EtfDecoder *decoder, EtfBytes start, EtfBytes limit)
{
    if (etf_need(decoder, start, limit, 4) < 0) {
        return -1;
    }

    uint32_t length = etf_get_uint32(decoder->position);
    decoder->position += 4;
    return etf_need(decoder, start, limit, length) < 0 ? -1 : (int64_t)length;
}

PyObject *
etf_read_binary(EtfDecoder *decoder, EtfBytes start, EtfBytes limit)
{
    int64_t length = read_length(decoder, start, limit);
    if (length < 0) {
        return NULL;
    }

    const char *bytes = (const char *)decoder->position;
    decoder->position += length;
    if (decoder->is_text) {
        PyObject *text = PyUnicode_DecodeUTF8(bytes, (Py_ssize_t)length, NULL);
        if (text != NULL || !PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
            return text;
        }
        PyErr_Clear();
    }

    return PyBytes_FromStringAndSize(bytes, (Py_ssize_t)length);
}

PyObject *
etf_read_bits(EtfDecoder *decoder, EtfBytes start, EtfBytes limit)
{
    if (etf_need(decoder, start, limit, 5) < 0) {
        return NULL;
    }

    uint32_t length = etf_get_uint32(decoder->position);
    int bits = decoder->position[4];
    decoder->position += 5;
    if (etf_need(decoder, start, limit, length) < 0) {
        return NULL;
    }

    if (bits > 8 || (bits == 0) != (length == 0)) {
        return etf_fail(decoder, start, "%d bits in the last byte of a binary of %zd bytes",
                        bits, (Py_ssize_t)length);
    }

    const char *bytes = (const char *)decoder->position;
    decoder->position += length;
    if (bits == 0 || bits == 8) {
        return PyBytes_FromStringAndSize(bytes, (Py_ssize_t)length);
    }

    return PyObject_CallFunction(decoder->state->BitString, "y#i", bytes,
                                 (Py_ssize_t)length, bits);
}
