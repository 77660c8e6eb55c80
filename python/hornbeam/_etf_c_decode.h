/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of the decoder share.
 *
 * A reader makes one value of the term whose tag is at `start`, and moves `position` behind
 * it. `limit` is how far the term may reach: the end of the data, less one byte for each
 * term that the containers around it have promised and that is still to come. So
 *
 *   - a count that the data can't hold is refused before memory is taken for it, at any
 *     depth: all containers under way together take as many places as there are bytes;
 *   - the tag of a promised term is always there, and needs no check.
 *
 * `depth` is the number of containers around the term; `is_frozen` is set inside the key of
 * a map, where lists and maps must be hashable.
 *
 * A reader returns NULL with an error set; hostile data cause a DecodeError, no other. */
#ifndef HORNBEAM_ETF_C_DECODE_H
#define HORNBEAM_ETF_C_DECODE_H

#include "_etf_c.h"

typedef const unsigned char *EtfBytes;

typedef struct {
    EtfState *state;
    EtfBytes begin;
    EtfBytes position;
    int is_text; /* binaries that are UTF-8 become str */
} EtfDecoder;

/* _etf_c_decode.c */

/* Reads the term at `position`. */
ETF_HIDDEN PyObject *etf_read_term(EtfDecoder *decoder, EtfBytes limit, int depth,
                                   int is_frozen);
/* Sets a DecodeError for the term at `start`, and returns NULL. */
ETF_HIDDEN PyObject *etf_fail(EtfDecoder *decoder, EtfBytes start, const char *format, ...);
/* Sets the DecodeError for a term that lacks bytes, and returns -1. */
ETF_HIDDEN int etf_fail_short(EtfDecoder *decoder, EtfBytes start, uint64_t wanted,
                              Py_ssize_t left);
/* Returns 0 if one more container is allowed, else -1 with an error set. */
ETF_HIDDEN int etf_check_depth(EtfDecoder *decoder, EtfBytes start, int depth);
/* Makes an object of a type of _terms.py from one argument, which it takes over; the
 * argument may be NULL with an error set. */
ETF_HIDDEN PyObject *etf_wrap(PyObject *type, PyObject *argument);

/* _etf_c_decode_scalars.c */

ETF_HIDDEN PyObject *etf_read_small_integer(EtfDecoder *decoder, EtfBytes start,
                                            EtfBytes limit);
ETF_HIDDEN PyObject *etf_read_integer(EtfDecoder *decoder, EtfBytes start, EtfBytes limit);
ETF_HIDDEN PyObject *etf_read_big(EtfDecoder *decoder, EtfBytes start, EtfBytes limit);
ETF_HIDDEN PyObject *etf_read_new_float(EtfDecoder *decoder, EtfBytes start,
                                        EtfBytes limit);
ETF_HIDDEN PyObject *etf_read_float(EtfDecoder *decoder, EtfBytes start, EtfBytes limit);
ETF_HIDDEN PyObject *etf_read_atom(EtfDecoder *decoder, EtfBytes start, EtfBytes limit);
ETF_HIDDEN PyObject *etf_read_binary(EtfDecoder *decoder, EtfBytes start, EtfBytes limit);
ETF_HIDDEN PyObject *etf_read_bits(EtfDecoder *decoder, EtfBytes start, EtfBytes limit);
/* Moves behind the atom at `position`; -1: there is none, an error is set. */
ETF_HIDDEN int etf_skip_atom(EtfDecoder *decoder, EtfBytes limit);

/* _etf_c_decode_containers.c */

ETF_HIDDEN PyObject *etf_read_tuple(EtfDecoder *decoder, EtfBytes start, EtfBytes limit,
                                    int depth, int is_frozen);
ETF_HIDDEN PyObject *etf_read_nil(EtfDecoder *decoder, int is_frozen);
ETF_HIDDEN PyObject *etf_read_string(EtfDecoder *decoder, EtfBytes start, EtfBytes limit,
                                     int is_frozen);
ETF_HIDDEN PyObject *etf_read_list(EtfDecoder *decoder, EtfBytes start, EtfBytes limit,
                                   int depth, int is_frozen);
ETF_HIDDEN PyObject *etf_read_map(EtfDecoder *decoder, EtfBytes start, EtfBytes limit,
                                  int depth, int is_frozen);

/* _etf_c_decode_opaque.c: all other tags, also those that are none. */

ETF_HIDDEN PyObject *etf_read_opaque(EtfDecoder *decoder, EtfBytes start, EtfBytes limit,
                                     int depth, int is_frozen);

/* Returns 0 if `count` bytes are left from `position` on, else -1 with an error set. */
static inline int
etf_need(EtfDecoder *decoder, EtfBytes start, EtfBytes limit, uint64_t count)
{
    Py_ssize_t left = limit - decoder->position;
    if (ETF_LIKELY(count <= (uint64_t)left)) {
        return 0;
    }

    return etf_fail_short(decoder, start, count, left);
}

static inline int
etf_is_atom_tag(unsigned char tag)
{
    return tag == ETF_SMALL_ATOM_UTF8 || tag == ETF_ATOM || tag == ETF_ATOM_UTF8
           || tag == ETF_SMALL_ATOM;
}

#endif
