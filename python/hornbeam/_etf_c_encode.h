/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of the encoder share.
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
#ifndef HORNBEAM_ETF_C_ENCODE_H
#define HORNBEAM_ETF_C_ENCODE_H

#include "_etf_c.h"

#include <string.h>

#define ETF_STACK_BYTES 1024

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
    unsigned char stack[ETF_STACK_BYTES];
} EtfEncoder;

/* _etf_c_encode.c */

/* `depth` is the number of containers around the value. */
ETF_HIDDEN int etf_write_value(EtfEncoder *encoder, PyObject *value, int depth);
/* Makes room for `needed` bytes of output. */
ETF_HIDDEN int etf_grow(EtfEncoder *encoder, size_t needed);
/* Notes that `culprit` has no Erlang form, and returns -1. Takes over the reference to
 * `reason`; NULL with no error set: its type is not supported. */
ETF_HIDDEN int etf_fault(EtfEncoder *encoder, PyObject *culprit, PyObject *reason);
/* Adds a step to the place of a fault, and returns -1. Takes over the reference to
 * `segment`; NULL with an error set is allowed. */
ETF_HIDDEN int etf_leave(EtfEncoder *encoder, PyObject *segment);
/* Return 0 if one more container, or a thing of that length, is allowed; else -1. */
ETF_HIDDEN int etf_check_value_depth(EtfEncoder *encoder, PyObject *value, int depth);
ETF_HIDDEN int etf_check_length(EtfEncoder *encoder, PyObject *value, Py_ssize_t length);

/* _etf_c_encode_scalars.c */

ETF_HIDDEN int etf_write_int(EtfEncoder *encoder, PyObject *value);
ETF_HIDDEN int etf_write_float(EtfEncoder *encoder, PyObject *value);
ETF_HIDDEN int etf_write_str(EtfEncoder *encoder, PyObject *value);
ETF_HIDDEN int etf_write_bytes(EtfEncoder *encoder, PyObject *value);
ETF_HIDDEN int etf_write_bytearray(EtfEncoder *encoder, PyObject *value);
ETF_HIDDEN int etf_write_memoryview(EtfEncoder *encoder, PyObject *value);
ETF_HIDDEN int etf_write_etf(EtfEncoder *encoder, PyObject *value);
ETF_HIDDEN int etf_write_bit_string(EtfEncoder *encoder, PyObject *value);

/* _etf_c_encode_containers.c */

ETF_HIDDEN int etf_write_tuple(EtfEncoder *encoder, PyObject *value, int depth);
ETF_HIDDEN int etf_write_list(EtfEncoder *encoder, PyObject *value, int depth);
ETF_HIDDEN int etf_write_improper_list(EtfEncoder *encoder, PyObject *value, int depth);
ETF_HIDDEN int etf_write_frozen_list(EtfEncoder *encoder, PyObject *value, int depth);
/* Writes the dict `entries`, which is `value` or what a FrozenMap holds. */
ETF_HIDDEN int etf_write_dict(EtfEncoder *encoder, PyObject *value, PyObject *entries,
                              int depth);
ETF_HIDDEN int etf_write_frozen_map(EtfEncoder *encoder, PyObject *value, int depth);

/* Returns where `count` bytes can be written, which then are output; or NULL. */
static inline unsigned char *
etf_extend(EtfEncoder *encoder, size_t count)
{
    if (!ETF_LIKELY(count <= encoder->capacity - encoder->length)
        && etf_grow(encoder, encoder->length + count) < 0) {
        return NULL;
    }

    unsigned char *to = encoder->data + encoder->length;
    encoder->length += count;
    return to;
}

static inline int
etf_write_raw(EtfEncoder *encoder, const void *bytes, size_t count)
{
    unsigned char *to = etf_extend(encoder, count);
    if (to == NULL) {
        return -1;
    }

    memcpy(to, bytes, count);
    return 0;
}

static inline int
etf_write_head(EtfEncoder *encoder, unsigned char tag, Py_ssize_t length)
{
    unsigned char *to = etf_extend(encoder, 5);
    if (to == NULL) {
        return -1;
    }

    to[0] = tag;
    etf_put_uint32(to + 1, (uint32_t)length);
    return 0;
}

#endif
