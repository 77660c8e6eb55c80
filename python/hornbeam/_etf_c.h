/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of the C codec share: tags, limits and the module's state.
 *
 * The tags and limits are those of _etf_tags.py. A test compares the limits. */
#ifndef HORNBEAM_ETF_C_H
#define HORNBEAM_ETF_C_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stddef.h>
#include <stdint.h>

enum {
    ETF_VERSION = 131,
    ETF_NEW_FLOAT = 70,
    ETF_BIT_BINARY = 77,
    ETF_COMPRESSED = 80,
    ETF_ATOM_CACHE_REF = 82,
    ETF_NEW_PID = 88,
    ETF_NEW_PORT = 89,
    ETF_NEWER_REFERENCE = 90,
    ETF_SMALL_INTEGER = 97,
    ETF_INTEGER = 98,
    ETF_FLOAT = 99,
    ETF_ATOM = 100,
    ETF_REFERENCE = 101,
    ETF_PORT = 102,
    ETF_PID = 103,
    ETF_SMALL_TUPLE = 104,
    ETF_LARGE_TUPLE = 105,
    ETF_NIL = 106,
    ETF_STRING = 107,
    ETF_LIST = 108,
    ETF_BINARY = 109,
    ETF_SMALL_BIG = 110,
    ETF_LARGE_BIG = 111,
    ETF_NEW_FUN = 112,
    ETF_EXPORT = 113,
    ETF_NEW_REFERENCE = 114,
    ETF_SMALL_ATOM = 115,
    ETF_MAP = 116,
    ETF_FUN = 117,
    ETF_ATOM_UTF8 = 118,
    ETF_SMALL_ATOM_UTF8 = 119,
    ETF_V4_PORT = 120,
    ETF_LOCAL = 121,
};

#define ETF_MAX_DEPTH 512
#define ETF_MAX_ATOM_CHARACTERS 255
#define ETF_MAX_TUPLE_ARITY 16777215
#define ETF_MAX_INTEGER_BYTES 524287
#define ETF_MAX_LENGTH UINT32_MAX
#define ETF_MAX_REFERENCE_WORDS 5

/* Atoms by the bytes of their name, one to a slot: a later one takes the place of an
 * earlier one, so that what a peer sends can't make it grow. Names in ASCII only, whose
 * bytes are the same under all atom tags. A slot of `undefined` holds None, and so on. */
#define ETF_ATOM_SLOTS 512
#define ETF_ATOM_SLOT_NAME_BYTES 31

typedef struct {
    PyObject *value; /* NULL: the slot is free */
    unsigned char length;
    unsigned char name[ETF_ATOM_SLOT_NAME_BYTES];
} EtfAtomSlot;

/* Objects of the Python modules that the codec stands on; owned. */
#define ETF_OBJECTS(X)                                                                     \
    X(Atom, "hornbeam._terms", "Atom")                                                     \
    X(BitString, "hornbeam._terms", "BitString")                                           \
    X(ExternalFun, "hornbeam._terms", "ExternalFun")                                       \
    X(FrozenList, "hornbeam._terms", "FrozenList")                                         \
    X(FrozenMap, "hornbeam._terms", "FrozenMap")                                           \
    X(Fun, "hornbeam._terms", "Fun")                                                       \
    X(ImproperList, "hornbeam._terms", "ImproperList")                                     \
    X(Pid, "hornbeam._terms", "Pid")                                                       \
    X(Port, "hornbeam._terms", "Port")                                                     \
    X(Reference, "hornbeam._terms", "Reference")                                           \
    X(DecodeError, "hornbeam._etf_errors", "DecodeError")                                  \
    X(EncodeError, "hornbeam._etf_errors", "EncodeError")                                  \
    X(encode_error, "hornbeam._etf_errors", "encode_error")

/* Names of attributes, and a word; interned, owned. */
#define ETF_NAMES(X)                                                                       \
    X(bit_length)                                                                          \
    X(data)                                                                                \
    X(elements)                                                                            \
    X(entries)                                                                             \
    X(etf)                                                                                 \
    X(last_byte_bits)                                                                      \
    X(little)                                                                              \
    X(tail)                                                                                \
    X(to_bytes)

typedef struct {
#define ETF_FIELD(field, module, name) PyObject *field;
    ETF_OBJECTS(ETF_FIELD)
#undef ETF_FIELD
#define ETF_FIELD(name) PyObject *str_##name;
    ETF_NAMES(ETF_FIELD)
#undef ETF_FIELD
    EtfAtomSlot atoms[ETF_ATOM_SLOTS];
} EtfState;

#if defined(__GNUC__) || defined(__clang__)
#define ETF_HIDDEN __attribute__((visibility("hidden")))
#define ETF_LIKELY(condition) __builtin_expect(!!(condition), 1)
#else
#define ETF_HIDDEN
#define ETF_LIKELY(condition) (condition)
#endif

/* _etf_c.c: return a new reference to module.name, or NULL with an error set. */
ETF_HIDDEN PyObject *etf_import(const char *module, const char *name);

/* _etf_c_decode.c, _etf_c_encode.c: the module's functions. */
ETF_HIDDEN PyObject *etf_decode(PyObject *module, PyObject *data);
ETF_HIDDEN PyObject *etf_decode_packet(PyObject *module, PyObject *data);
ETF_HIDDEN PyObject *etf_encode(PyObject *module, PyObject *value);
ETF_HIDDEN PyObject *etf_encode_message(PyObject *module, PyObject *message);
ETF_HIDDEN PyObject *etf_pack_batch(PyObject *module, PyObject *messages);
ETF_HIDDEN PyObject *etf_write_some(PyObject *module, PyObject *args);

static inline EtfState *
etf_state(PyObject *module)
{
    return (EtfState *)PyModule_GetState(module);
}

static inline void
etf_put_uint32(unsigned char *to, uint32_t number)
{
    to[0] = (unsigned char)(number >> 24);
    to[1] = (unsigned char)(number >> 16);
    to[2] = (unsigned char)(number >> 8);
    to[3] = (unsigned char)number;
}

static inline uint32_t
etf_get_uint16(const unsigned char *from)
{
    return (uint32_t)from[0] << 8 | from[1];
}

static inline uint32_t
etf_get_uint32(const unsigned char *from)
{
    return etf_get_uint16(from) << 16 | etf_get_uint16(from + 2);
}

#endif
