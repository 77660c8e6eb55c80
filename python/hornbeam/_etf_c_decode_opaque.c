/* SPDX-License-Identifier: Apache-2.0 */
/* The decoder's readers of identifiers and functions, which are kept as their encoding; see
 * _etf_c_decode.h. */
#include "_etf_c_decode.h"

/* Size, arity, MD5 of the module, index, number of free variables. */
#define NEW_FUN_HEAD_BYTES (4 + 1 + 16 + 4 + 4)

/* Makes an object of the bytes from `start` to `position`. */
static PyObject *
make_encoded(EtfDecoder *decoder, PyObject *type, EtfBytes start)
{
    return etf_wrap(
        type, PyBytes_FromStringAndSize((const char *)start, decoder->position - start));
}

/* Reads the name of a node and skips the numbers behind it. */
static PyObject *
read_identifier(EtfDecoder *decoder, EtfBytes start, EtfBytes limit, PyObject *type,
                int number_bytes)
{
    if (etf_need(decoder, start, limit, 1 + (uint64_t)number_bytes) < 0
        || etf_skip_atom(decoder, limit - number_bytes) < 0) {
        return NULL;
    }

    decoder->position += number_bytes;
    return make_encoded(decoder, type, start);
}

static PyObject *
read_reference(EtfDecoder *decoder, EtfBytes start, EtfBytes limit)
{
    if (etf_need(decoder, start, limit, 2) < 0) {
        return NULL;
    }

    int words = (int)etf_get_uint16(decoder->position);
    decoder->position += 2;
    if (words < 1 || words > ETF_MAX_REFERENCE_WORDS) {
        return etf_fail(decoder, start, "a reference has 1 to %d words, not %d",
                        ETF_MAX_REFERENCE_WORDS, words);
    }

    int creation_bytes = *start == ETF_NEW_REFERENCE ? 1 : 4;
    return read_identifier(decoder, start, limit, decoder->state->Reference,
                           creation_bytes + 4 * words);
}

static PyObject *
read_export(EtfDecoder *decoder, EtfBytes start, EtfBytes limit)
{
    if (etf_need(decoder, start, limit, 3) < 0 || etf_skip_atom(decoder, limit - 2) < 0
        || etf_skip_atom(decoder, limit - 1) < 0) {
        return NULL;
    }

    if (*decoder->position != ETF_SMALL_INTEGER) {
        return etf_fail(decoder, decoder->position, "expected an arity of 0 to 255");
    }

    decoder->position++;
    if (etf_need(decoder, start, limit, 1) < 0) {
        return NULL;
    }

    decoder->position++;
    return make_encoded(decoder, decoder->state->ExternalFun, start);
}

/* Returns where a new fun ends, and moves to the terms in it, of which it tells how many
 * are free variables. */
static EtfBytes
open_new_fun(EtfDecoder *decoder, EtfBytes start, EtfBytes limit, uint32_t *free_variables)
{
    if (etf_need(decoder, start, limit, 4) < 0) {
        return NULL;
    }

    uint32_t size = etf_get_uint32(decoder->position);
    if (etf_need(decoder, start, limit, size) < 0) {
        return NULL;
    }

    if (size < NEW_FUN_HEAD_BYTES) {
        (void)etf_fail(decoder, start, "a fun has at least %d bytes, not %zd",
                       NEW_FUN_HEAD_BYTES, (Py_ssize_t)size);
        return NULL;
    }

    EtfBytes end = decoder->position + size;
    decoder->position += NEW_FUN_HEAD_BYTES;
    *free_variables = etf_get_uint32(decoder->position - 4);
    return end;
}

static EtfBytes
open_old_fun(EtfDecoder *decoder, EtfBytes start, EtfBytes limit, uint32_t *free_variables)
{
    if (etf_need(decoder, start, limit, 4) < 0) {
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
        return etf_is_atom_tag(tag);
    case 'i':
        return tag == ETF_SMALL_INTEGER || tag == ETF_INTEGER;
    default:
        return tag == ETF_PID || tag == ETF_NEW_PID;
    }
}

static PyObject *
read_fun(EtfDecoder *decoder, EtfBytes start, EtfBytes limit, int depth, int is_frozen)
{
    int is_new = *start == ETF_NEW_FUN;
    /* Module, old index, old unique number, creator; in an old fun the creator is first. */
    const char *kinds = is_new ? "aiip" : "paii";
    uint32_t free_variables;
    EtfBytes end;
    if (etf_check_depth(decoder, start, depth) < 0
        || (end = (is_new ? open_new_fun : open_old_fun)(decoder, start, limit,
                                                         &free_variables))
               == NULL) {
        return NULL;
    }

    int64_t count = 4 + (int64_t)free_variables;
    if (etf_need(decoder, start, end, (uint64_t)count) < 0) {
        return NULL;
    }

    /* What is inside is read only to know that it is well-formed. */
    EtfBytes reach = end - count;
    for (int64_t i = 0; i < count; i++) {
        unsigned char tag = *decoder->position;
        if (i < 4 && !is_fun_part(kinds[i], tag)) {
            return etf_fail(decoder, decoder->position, "unexpected tag %d in a fun",
                            (int)tag);
        }

        PyObject *part = etf_read_term(decoder, ++reach, depth + 1, is_frozen);
        if (part == NULL) {
            return NULL;
        }
        Py_DECREF(part);
    }

    if (is_new && decoder->position != end) {
        return etf_fail(decoder, decoder->position, "%zd bytes follow the parts of a fun",
                        (Py_ssize_t)(end - decoder->position));
    }

    return make_encoded(decoder, decoder->state->Fun, start);
}

static PyObject *
refuse(EtfDecoder *decoder, EtfBytes start)
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
        return etf_fail(decoder, start, "unknown tag %d", (int)*start);
    }

    return etf_fail(decoder, start, "%s (tag %d) is not taken here", name, (int)*start);
}

PyObject *
etf_read_opaque(EtfDecoder *decoder, EtfBytes start, EtfBytes limit, int depth,
                int is_frozen)
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
