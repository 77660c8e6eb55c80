/* SPDX-License-Identifier: Apache-2.0 */
/* The decoder, in C; _etf_python_decode.py and its parts are its twin.
 *
 * A reader makes one value of the term whose tag is at `position`, and moves `position`
 * behind it. `limit` is how far the term may reach: the end of the data, less one byte for
 * each term that the containers around it have promised and that is still to come. So
 *
 *   - a count that the data can't hold is refused before memory is taken for it, at any
 *     depth: all containers under way together take as many places as there are bytes;
 *   - the tag of a promised term is always there, and needs no check.
 *
 * A reader returns NULL with an error set; hostile data cause a DecodeError, nothing else. */
#include "_etf_c.h"

#include <math.h>
#include <string.h>

typedef const unsigned char *Bytes;

typedef struct {
    EtfState *state;
    Bytes begin;
    Bytes position;
    int is_text; /* binaries that are UTF-8 become str */
} Decoder;

#define FLOAT_TEXT_BYTES 31
/* Size, arity, MD5 of the module, index, number of free variables. */
#define NEW_FUN_HEAD_BYTES (4 + 1 + 16 + 4 + 4)

static PyObject *read_term(Decoder *decoder, Bytes limit, int depth, int is_frozen);

/* Errors. */

static void
set_decode_error(EtfState *state, PyObject *reason, Py_ssize_t offset)
{
    PyObject *error = reason ? PyObject_CallFunction(state->DecodeError, "On", reason, offset)
                             : NULL;
    if (error != NULL) {
        PyErr_SetObject(state->DecodeError, error);
        Py_DECREF(error);
    }
}

static PyObject *
fail(Decoder *decoder, Bytes start, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    PyObject *reason = PyUnicode_FromFormatV(format, arguments);
    va_end(arguments);
    set_decode_error(decoder->state, reason, start - decoder->begin);
    Py_XDECREF(reason);
    return NULL;
}

static int
fail_short(Decoder *decoder, Bytes start, uint64_t wanted, Py_ssize_t left)
{
    (void)fail(decoder, start, "the term needs %llu more bytes, %zd are left",
               (unsigned long long)wanted, left);
    return -1;
}

/* Returns 0 if `count` bytes are left from `position` on, else -1 with an error set. */
static inline int
need(Decoder *decoder, Bytes start, Bytes limit, uint64_t count)
{
    Py_ssize_t left = limit - decoder->position;
    if (ETF_LIKELY(count <= (uint64_t)left)) {
        return 0;
    }

    return fail_short(decoder, start, count, left);
}

static int
check_depth(Decoder *decoder, Bytes start, int depth)
{
    if (ETF_LIKELY(depth < ETF_MAX_DEPTH)) {
        return 0;
    }

    (void)fail(decoder, start, "nested more than %d levels deep", ETF_MAX_DEPTH);
    return -1;
}

/* Reads a length of four bytes, and checks that as many bytes follow; -1: an error is set. */
static inline int64_t
read_length(Decoder *decoder, Bytes start, Bytes limit)
{
    if (need(decoder, start, limit, 4) < 0) {
        return -1;
    }

    uint32_t length = etf_get_uint32(decoder->position);
    decoder->position += 4;
    return need(decoder, start, limit, length) < 0 ? -1 : (int64_t)length;
}

/* Numbers. */

static PyObject *
read_small_integer(Decoder *decoder, Bytes start, Bytes limit)
{
    if (need(decoder, start, limit, 1) < 0) {
        return NULL;
    }

    return PyLong_FromLong(*decoder->position++);
}

static PyObject *
read_integer(Decoder *decoder, Bytes start, Bytes limit)
{
    if (need(decoder, start, limit, 4) < 0) {
        return NULL;
    }

    uint32_t bits = etf_get_uint32(decoder->position);
    decoder->position += 4;
    return PyLong_FromLongLong(bits < 0x80000000u ? (long long)bits
                                                  : (long long)bits - 0x100000000ll);
}

static PyObject *
read_big(Decoder *decoder, Bytes start, Bytes limit)
{
    int length_bytes = *start == ETF_SMALL_BIG ? 1 : 4;
    if (need(decoder, start, limit, (uint64_t)length_bytes) < 0) {
        return NULL;
    }

    uint64_t length = length_bytes == 1 ? *decoder->position
                                        : etf_get_uint32(decoder->position);
    decoder->position += length_bytes;
    if (need(decoder, start, limit, length + 1) < 0) {
        return NULL;
    }

    unsigned char sign = *decoder->position;
    if (sign > 1) {
        return fail(decoder, start, "expected a sign of 0 or 1, got %d", (int)sign);
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

static PyObject *
read_new_float(Decoder *decoder, Bytes start, Bytes limit)
{
    if (need(decoder, start, limit, 8) < 0) {
        return NULL;
    }

    uint64_t bits = (uint64_t)etf_get_uint32(decoder->position) << 32
                    | etf_get_uint32(decoder->position + 4);
    double number;
    memcpy(&number, &bits, sizeof number);
    decoder->position += 8;
    if (!isfinite(number)) {
        return fail(decoder, start, "a float is not finite");
    }

    return PyFloat_FromDouble(number);
}

static PyObject *
read_float(Decoder *decoder, Bytes start, Bytes limit)
{
    char text[FLOAT_TEXT_BYTES + 1] = {0};
    double number = -1.0;
    if (need(decoder, start, limit, FLOAT_TEXT_BYTES) < 0) {
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
        return fail(decoder, start, "the text of a float is not a finite number");
    }

    return PyFloat_FromDouble(number);
}

/* Atoms. */

static inline int
is_atom_tag(unsigned char tag)
{
    return tag == ETF_SMALL_ATOM_UTF8 || tag == ETF_ATOM || tag == ETF_ATOM_UTF8
           || tag == ETF_SMALL_ATOM;
}

/* Reads the atom's tag and length; its name is then at `position`; -1: an error is set. */
static Py_ssize_t
open_atom(Decoder *decoder, Bytes limit)
{
    Bytes start = decoder->position;
    if (need(decoder, start, limit, 1) < 0) {
        return -1;
    }

    unsigned char tag = *decoder->position;
    if (!is_atom_tag(tag)) {
        (void)fail(decoder, start, "expected an atom, got tag %d", (int)tag);
        return -1;
    }

    decoder->position++;
    int length_bytes = tag == ETF_SMALL_ATOM_UTF8 || tag == ETF_SMALL_ATOM ? 1 : 2;
    if (need(decoder, start, limit, (uint64_t)length_bytes) < 0) {
        return -1;
    }

    uint32_t length = length_bytes == 1 ? *decoder->position
                                        : etf_get_uint16(decoder->position);
    decoder->position += length_bytes;
    return need(decoder, start, limit, length) < 0 ? -1 : (Py_ssize_t)length;
}

/* Returns the name at `position`, checked, as a str. */
static PyObject *
make_atom_name(Decoder *decoder, Bytes start, Py_ssize_t length)
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
        return fail(decoder, start, "the atom's name is not UTF-8");
    }

    if (PyUnicode_GET_LENGTH(name) > ETF_MAX_ATOM_CHARACTERS) {
        (void)fail(decoder, start, "an atom's name has at most %d characters, not %zd",
                   ETF_MAX_ATOM_CHARACTERS, PyUnicode_GET_LENGTH(name));
        Py_CLEAR(name);
    }

    return name;
}

/* Moves behind an atom; -1: an error is set. */
static int
skip_atom(Decoder *decoder, Bytes limit)
{
    Bytes start = decoder->position;
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
find_slot(EtfState *state, Bytes name, Py_ssize_t length)
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

static PyObject *
read_atom(Decoder *decoder, Bytes start, Bytes limit)
{
    decoder->position = start;
    Py_ssize_t length = open_atom(decoder, limit);
    if (length < 0) {
        return NULL;
    }

    EtfState *state = decoder->state;
    Bytes bytes = decoder->position;
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

static PyObject *
read_binary(Decoder *decoder, Bytes start, Bytes limit)
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

static PyObject *
read_bits(Decoder *decoder, Bytes start, Bytes limit)
{
    if (need(decoder, start, limit, 5) < 0) {
        return NULL;
    }

    uint32_t length = etf_get_uint32(decoder->position);
    int bits = decoder->position[4];
    decoder->position += 5;
    if (need(decoder, start, limit, length) < 0) {
        return NULL;
    }

    if (bits > 8 || (bits == 0) != (length == 0)) {
        return fail(decoder, start, "%d bits in the last byte of a binary of %zd bytes", bits,
                    (Py_ssize_t)length);
    }

    const char *bytes = (const char *)decoder->position;
    decoder->position += length;
    if (bits == 0 || bits == 8) {
        return PyBytes_FromStringAndSize(bytes, (Py_ssize_t)length);
    }

    return PyObject_CallFunction(decoder->state->BitString, "y#i", bytes, (Py_ssize_t)length,
                                 bits);
}

/* Containers. */

/* Reads a container's count, and makes sure that the terms that it promises, `terms_each`
 * for each and `extra` more, can be there; -1: an error is set. */
static inline int64_t
open_container(Decoder *decoder, Bytes start, Bytes limit, int depth, int count_bytes,
               int terms_each, int extra)
{
    if (check_depth(decoder, start, depth) < 0
        || need(decoder, start, limit, (uint64_t)count_bytes) < 0) {
        return -1;
    }

    uint32_t count = count_bytes == 1 ? *decoder->position
                                      : etf_get_uint32(decoder->position);
    decoder->position += count_bytes;
    uint64_t promised = (uint64_t)count * (uint64_t)terms_each + (uint64_t)extra;
    return need(decoder, start, limit, promised) < 0 ? -1 : (int64_t)count;
}

/* Makes an object of a type of _terms.py from one argument, which it takes over; the
 * argument may be NULL with an error set. */
static PyObject *
wrap(PyObject *type, PyObject *argument)
{
    PyObject *object = argument ? PyObject_CallFunctionObjArgs(type, argument, NULL) : NULL;
    Py_XDECREF(argument);
    return object;
}

/* Returns a tuple of the next `count` terms. */
static PyObject *
read_tuple_elements(Decoder *decoder, Bytes limit, int depth, int is_frozen, int64_t count)
{
    PyObject *elements = PyTuple_New((Py_ssize_t)count);
    if (elements == NULL) {
        return NULL;
    }

    Bytes reach = limit - count;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *element = read_term(decoder, ++reach, depth + 1, is_frozen);
        if (element == NULL) {
            Py_DECREF(elements);
            return NULL;
        }
        PyTuple_SET_ITEM(elements, i, element);
    }

    return elements;
}

static PyObject *
read_tuple(Decoder *decoder, Bytes start, Bytes limit, int depth, int is_frozen)
{
    int count_bytes = *start == ETF_SMALL_TUPLE ? 1 : 4;
    int64_t count = open_container(decoder, start, limit, depth, count_bytes, 1, 0);
    if (count < 0) {
        return NULL;
    }

    return read_tuple_elements(decoder, limit, depth, is_frozen, count);
}

static PyObject *
read_nil(Decoder *decoder, int is_frozen)
{
    return is_frozen ? PyObject_CallNoArgs(decoder->state->FrozenList) : PyList_New(0);
}

static PyObject *
read_string(Decoder *decoder, Bytes start, Bytes limit, int is_frozen)
{
    if (need(decoder, start, limit, 2) < 0) {
        return NULL;
    }

    Py_ssize_t length = (Py_ssize_t)etf_get_uint16(decoder->position);
    decoder->position += 2;
    if (need(decoder, start, limit, (uint64_t)length) < 0) {
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
    return is_frozen ? wrap(decoder->state->FrozenList, elements) : elements;
}

/* Makes an ImproperList of the elements, which it takes over, and the tail that follows. */
static PyObject *
read_tail(Decoder *decoder, Bytes limit, int depth, int is_frozen, PyObject *elements)
{
    Bytes start = decoder->position;
    EtfState *state = decoder->state;
    PyObject *list = NULL;
    PyObject *tail = read_term(decoder, limit, depth + 1, is_frozen);

    if (tail != NULL) {
        PyObject *type = (PyObject *)Py_TYPE(tail);
        if (PyList_Check(tail) || type == state->FrozenList || type == state->ImproperList) {
            (void)fail(decoder, start, "the tail of a list is a list of its own");
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
read_list_elements(Decoder *decoder, Bytes limit, int depth, int64_t count)
{
    PyObject *elements = PyList_New((Py_ssize_t)count);
    if (elements == NULL) {
        return NULL;
    }

    Bytes reach = limit - count - 1;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *element = read_term(decoder, ++reach, depth + 1, 0);
        if (element == NULL) {
            Py_DECREF(elements);
            return NULL;
        }
        PyList_SET_ITEM(elements, i, element);
    }

    return elements;
}

static PyObject *
read_list(Decoder *decoder, Bytes start, Bytes limit, int depth, int is_frozen)
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
        return is_frozen ? wrap(decoder->state->FrozenList, elements) : elements;
    }

    if (count == 0) {
        Py_DECREF(elements);
        return fail(decoder, start, "a list without elements has a tail");
    }

    return read_tail(decoder, limit, depth, is_frozen, elements);
}

static int
read_entry(Decoder *decoder, Bytes limit, int depth, int is_frozen, PyObject *entries)
{
    PyObject *key = read_term(decoder, limit - 1, depth + 1, 1);
    PyObject *value = key ? read_term(decoder, limit, depth + 1, is_frozen) : NULL;
    int status = value ? PyDict_SetItem(entries, key, value) : -1;
    Py_XDECREF(key);
    Py_XDECREF(value);
    return status;
}

static PyObject *
read_map(Decoder *decoder, Bytes start, Bytes limit, int depth, int is_frozen)
{
    int64_t count = open_container(decoder, start, limit, depth, 4, 2, 0);
    PyObject *entries = count < 0 ? NULL : PyDict_New();
    if (entries == NULL) {
        return NULL;
    }

    Bytes reach = limit - 2 * count;
    for (int64_t i = 0; i < count; i++) {
        reach += 2;
        if (read_entry(decoder, reach, depth, is_frozen, entries) < 0) {
            Py_DECREF(entries);
            return NULL;
        }
    }

    if (PyDict_GET_SIZE(entries) != count) {
        Py_DECREF(entries);
        return fail(decoder, start,
                    "two keys of a map are one key in Python, such as 1 and 1.0, or 1 and"
                    " true");
    }

    return is_frozen ? wrap(decoder->state->FrozenMap, entries) : entries;
}

/* Identifiers and functions, which are kept as their encoding. */

/* Makes an object of the bytes from `start` to `position`. */
static PyObject *
make_encoded(Decoder *decoder, PyObject *type, Bytes start)
{
    return wrap(type, PyBytes_FromStringAndSize((const char *)start,
                                                decoder->position - start));
}

/* Reads the name of a node and skips the numbers behind it. */
static PyObject *
read_identifier(Decoder *decoder, Bytes start, Bytes limit, PyObject *type, int number_bytes)
{
    if (need(decoder, start, limit, 1 + (uint64_t)number_bytes) < 0
        || skip_atom(decoder, limit - number_bytes) < 0) {
        return NULL;
    }

    decoder->position += number_bytes;
    return make_encoded(decoder, type, start);
}

static PyObject *
read_reference(Decoder *decoder, Bytes start, Bytes limit)
{
    if (need(decoder, start, limit, 2) < 0) {
        return NULL;
    }

    int words = (int)etf_get_uint16(decoder->position);
    decoder->position += 2;
    if (words < 1 || words > ETF_MAX_REFERENCE_WORDS) {
        return fail(decoder, start, "a reference has 1 to %d words, not %d",
                    ETF_MAX_REFERENCE_WORDS, words);
    }

    int creation_bytes = *start == ETF_NEW_REFERENCE ? 1 : 4;
    return read_identifier(decoder, start, limit, decoder->state->Reference,
                           creation_bytes + 4 * words);
}

static PyObject *
read_export(Decoder *decoder, Bytes start, Bytes limit)
{
    if (need(decoder, start, limit, 3) < 0 || skip_atom(decoder, limit - 2) < 0
        || skip_atom(decoder, limit - 1) < 0) {
        return NULL;
    }

    if (*decoder->position != ETF_SMALL_INTEGER) {
        return fail(decoder, decoder->position, "expected an arity of 0 to 255");
    }

    decoder->position++;
    if (need(decoder, start, limit, 1) < 0) {
        return NULL;
    }

    decoder->position++;
    return make_encoded(decoder, decoder->state->ExternalFun, start);
}

/* Returns where a new fun ends, and moves to the terms in it, of which it tells how many
 * are free variables. */
static Bytes
open_new_fun(Decoder *decoder, Bytes start, Bytes limit, uint32_t *free_variables)
{
    if (need(decoder, start, limit, 4) < 0) {
        return NULL;
    }

    uint32_t size = etf_get_uint32(decoder->position);
    if (need(decoder, start, limit, size) < 0) {
        return NULL;
    }

    if (size < NEW_FUN_HEAD_BYTES) {
        (void)fail(decoder, start, "a fun has at least %d bytes, not %zd", NEW_FUN_HEAD_BYTES,
                   (Py_ssize_t)size);
        return NULL;
    }

    Bytes end = decoder->position + size;
    decoder->position += NEW_FUN_HEAD_BYTES;
    *free_variables = etf_get_uint32(decoder->position - 4);
    return end;
}

static Bytes
open_old_fun(Decoder *decoder, Bytes start, Bytes limit, uint32_t *free_variables)
{
    if (need(decoder, start, limit, 4) < 0) {
        return NULL;
    }

    *free_variables = etf_get_uint32(decoder->position);
    decoder->position += 4;
    return limit;
}

/* What comes before the free variables, by the first letter of its kind. */
static int
is_fun_part(char kind, unsigned char tag)
{
    switch (kind) {
    case 'a':
        return is_atom_tag(tag);
    case 'i':
        return tag == ETF_SMALL_INTEGER || tag == ETF_INTEGER;
    default:
        return tag == ETF_PID || tag == ETF_NEW_PID;
    }
}

static PyObject *
read_fun(Decoder *decoder, Bytes start, Bytes limit, int depth, int is_frozen)
{
    int is_new = *start == ETF_NEW_FUN;
    /* Module, old index, old unique number, creator; in an old fun the creator is first. */
    const char *kinds = is_new ? "aiip" : "paii";
    uint32_t free_variables;
    Bytes end;
    if (check_depth(decoder, start, depth) < 0
        || (end = (is_new ? open_new_fun : open_old_fun)(decoder, start, limit,
                                                         &free_variables))
               == NULL) {
        return NULL;
    }

    int64_t count = 4 + (int64_t)free_variables;
    if (need(decoder, start, end, (uint64_t)count) < 0) {
        return NULL;
    }

    /* What is inside is read only to know that it is well-formed. */
    Bytes reach = end - count;
    for (int64_t i = 0; i < count; i++) {
        unsigned char tag = *decoder->position;
        if (i < 4 && !is_fun_part(kinds[i], tag)) {
            return fail(decoder, decoder->position, "unexpected tag %d in a fun", (int)tag);
        }

        PyObject *part = read_term(decoder, ++reach, depth + 1, is_frozen);
        if (part == NULL) {
            return NULL;
        }
        Py_DECREF(part);
    }

    if (is_new && decoder->position != end) {
        return fail(decoder, decoder->position, "%zd bytes follow the parts of a fun",
                    (Py_ssize_t)(end - decoder->position));
    }

    return make_encoded(decoder, decoder->state->Fun, start);
}

/* Terms. */

static PyObject *
refuse(Decoder *decoder, Bytes start)
{
    const char *name;

    switch (*start) {
    case ETF_COMPRESSED: /* right after the version byte it is taken, and not seen here */
        name = "a compressed term";
        break;
    case ETF_ATOM_CACHE_REF: /* means something on a connection between nodes only */
        name = "ATOM_CACHE_REF";
        break;
    case ETF_LOCAL: /* of term_to_binary/2 with `local`: for the node that made it */
        name = "LOCAL_EXT";
        break;
    default:
        return fail(decoder, start, "unknown tag %d", (int)*start);
    }

    return fail(decoder, start, "%s (tag %d) is not taken here", name, (int)*start);
}

static PyObject *
read_opaque(Decoder *decoder, Bytes start, Bytes limit, int depth, int is_frozen)
{
    EtfState *state = decoder->state;

    switch (*start) {
    case ETF_PID:
        return read_identifier(decoder, start, limit, state->Pid, 9);
    case ETF_NEW_PID:
        return read_identifier(decoder, start, limit, state->Pid, 12);
    case ETF_PORT:
        return read_identifier(decoder, start, limit, state->Port, 5);
    case ETF_NEW_PORT:
        return read_identifier(decoder, start, limit, state->Port, 8);
    case ETF_V4_PORT:
        return read_identifier(decoder, start, limit, state->Port, 12);
    case ETF_REFERENCE:
        return read_identifier(decoder, start, limit, state->Reference, 5);
    case ETF_NEW_REFERENCE:
    case ETF_NEWER_REFERENCE:
        return read_reference(decoder, start, limit);
    case ETF_EXPORT:
        return read_export(decoder, start, limit);
    case ETF_NEW_FUN:
    case ETF_FUN:
        return read_fun(decoder, start, limit, depth, is_frozen);
    default:
        return refuse(decoder, start);
    }
}

static PyObject *
read_term(Decoder *decoder, Bytes limit, int depth, int is_frozen)
{
    Bytes start = decoder->position++;

    switch (*start) {
    case ETF_BINARY:
        return read_binary(decoder, start, limit);
    case ETF_BIT_BINARY:
        return read_bits(decoder, start, limit);
    case ETF_SMALL_ATOM_UTF8:
    case ETF_ATOM:
    case ETF_ATOM_UTF8:
    case ETF_SMALL_ATOM:
        return read_atom(decoder, start, limit);
    case ETF_SMALL_INTEGER:
        return read_small_integer(decoder, start, limit);
    case ETF_INTEGER:
        return read_integer(decoder, start, limit);
    case ETF_SMALL_BIG:
    case ETF_LARGE_BIG:
        return read_big(decoder, start, limit);
    case ETF_NEW_FLOAT:
        return read_new_float(decoder, start, limit);
    case ETF_FLOAT:
        return read_float(decoder, start, limit);
    case ETF_SMALL_TUPLE:
    case ETF_LARGE_TUPLE:
        return read_tuple(decoder, start, limit, depth, is_frozen);
    case ETF_NIL:
        return read_nil(decoder, is_frozen);
    case ETF_STRING:
        return read_string(decoder, start, limit, is_frozen);
    case ETF_LIST:
        return read_list(decoder, start, limit, depth, is_frozen);
    case ETF_MAP:
        return read_map(decoder, start, limit, depth, is_frozen);
    default:
        return read_opaque(decoder, start, limit, depth, is_frozen);
    }
}

/* Entry points. */

/* Keys are hashed and compared by Python code, which may find the stack too short. */
static void
replace_recursion_error(Decoder *decoder)
{
    if (PyErr_ExceptionMatches(PyExc_RecursionError)) {
        PyErr_Clear();
        (void)fail(decoder, decoder->begin, "nested too deep for what is left of the stack");
    }
}

/* Reads the one term that the bytes from `position` to `end` are. */
static PyObject *
read_whole(Decoder *decoder, Bytes end)
{
    if (need(decoder, decoder->position, end, 1) < 0) {
        return NULL;
    }

    PyObject *value = read_term(decoder, end, 0, 0);
    if (value == NULL) {
        replace_recursion_error(decoder);
        return NULL;
    }

    if (decoder->position != end) {
        Py_DECREF(value);
        return fail(decoder, decoder->position, "%zd bytes follow the term",
                    (Py_ssize_t)(end - decoder->position));
    }

    return value;
}

/* Unfolds a compressed term, whose tag is at `position`, and reads it. */
static PyObject *
read_compressed(Decoder *decoder, Bytes end)
{
    Bytes from = decoder->position + 1;
    PyObject *inflate = etf_import("hornbeam._etf_inflate", "inflate");
    PyObject *term = inflate ? PyObject_CallFunction(inflate, "y#", (const char *)from,
                                                     (Py_ssize_t)(end - from))
                             : NULL;
    PyObject *value = NULL;
    Py_XDECREF(inflate);
    if (term != NULL && PyBytes_Check(term)) {
        Bytes begin = (Bytes)PyBytes_AS_STRING(term);
        decoder->begin = decoder->position = begin;
        value = read_whole(decoder, begin + PyBytes_GET_SIZE(term));
    }

    Py_XDECREF(term);
    return value;
}

static PyObject *
decode_bytes(Decoder *decoder, Py_ssize_t length)
{
    Bytes begin = decoder->begin;

    if (length == 0) {
        return fail(decoder, begin, "expected version byte %d, got nothing", ETF_VERSION);
    }

    if (begin[0] != ETF_VERSION) {
        return fail(decoder, begin, "expected version byte %d, got %d", ETF_VERSION,
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
    Decoder decoder = {.state = etf_state(module), .is_text = is_text};

    if (PyBytes_CheckExact(data)) {
        decoder.begin = (Bytes)PyBytes_AS_STRING(data);
        return decode_bytes(&decoder, PyBytes_GET_SIZE(data));
    }

    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }

    decoder.begin = (Bytes)view.buf;
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
