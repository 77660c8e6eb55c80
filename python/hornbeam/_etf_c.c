/* SPDX-License-Identifier: Apache-2.0 */
/* The module hornbeam._etf_c: the codec of _etf_python.py, in C.
 *
 * Both pass the same tests, down to the texts of their errors. Rare paths (errors,
 * compressed terms, clashing keys) call the Python modules that the twin stands on. There
 * is no state outside the module object and no lock: a forked child can use it as it is. */
#include "_etf_c.h"

PyObject *
etf_import(const char *module_name, const char *name)
{
    /* Interned, as the interpreter's cache of attributes keeps each str that it meets. */
    PyObject *attribute = PyUnicode_InternFromString(name);
    PyObject *module = attribute ? PyImport_ImportModule(module_name) : NULL;
    PyObject *object = module ? PyObject_GetAttr(module, attribute) : NULL;
    Py_XDECREF(attribute);
    Py_XDECREF(module);
    return object;
}

PyDoc_STRVAR(decode_doc,
             "decode(data, /)\n--\n\n"
             "Decode version byte and one term; binaries that are UTF-8 come as str.");
PyDoc_STRVAR(decode_packet_doc,
             "decode_packet(data, /)\n--\n\n"
             "Decode a packet, without its length, to its messages; all binaries come as"
             " bytes.");
PyDoc_STRVAR(encode_doc,
             "encode(value, /)\n--\n\n"
             "Encode a value as version byte and term; bytes stay apart from str.");
PyDoc_STRVAR(encode_message_doc,
             "encode_message(message, /)\n--\n\n"
             "Encode a message of the wire protocol: no version byte, bytes as plain"
             " binaries.");
PyDoc_STRVAR(pack_batch_doc,
             "pack_batch(messages, /)\n--\n\n"
             "Join encoded messages to one packet, with its length in front.");
PyDoc_STRVAR(write_some_doc,
             "write_some(descriptor, data, /)\n--\n\n"
             "Write as much as a pipe takes; what is short while other threads wait.");

static PyMethodDef etf_methods[] = {
    {"decode", etf_decode, METH_O, decode_doc},
    {"decode_packet", etf_decode_packet, METH_O, decode_packet_doc},
    {"encode", etf_encode, METH_O, encode_doc},
    {"encode_message", etf_encode_message, METH_O, encode_message_doc},
    {"pack_batch", etf_pack_batch, METH_O, pack_batch_doc},
    {"write_some", etf_write_some, METH_VARARGS, write_some_doc},
    {NULL, NULL, 0, NULL},
};

static int
etf_exec(PyObject *module)
{
    EtfState *state = etf_state(module);

#define ETF_LOAD(field, from, name)                                                        \
    if ((state->field = etf_import(from, name)) == NULL) {                                 \
        return -1;                                                                         \
    }
    ETF_OBJECTS(ETF_LOAD)
#undef ETF_LOAD
#define ETF_LOAD(name)                                                                     \
    if ((state->str_##name = PyUnicode_InternFromString(#name)) == NULL) {                 \
        return -1;                                                                         \
    }
    ETF_NAMES(ETF_LOAD)
#undef ETF_LOAD

    /* For the test that compares them with those of _etf_tags.py. */
#define ETF_LIMIT(name)                                                                    \
    if (PyModule_AddIntConstant(module, #name, (long)ETF_##name) < 0) {                    \
        return -1;                                                                         \
    }
    ETF_LIMIT(MAX_DEPTH)
    ETF_LIMIT(MAX_ATOM_CHARACTERS)
    ETF_LIMIT(MAX_TUPLE_ARITY)
    ETF_LIMIT(MAX_INTEGER_BYTES)
    ETF_LIMIT(MAX_REFERENCE_WORDS)
#undef ETF_LIMIT

    return PyModule_AddStringConstant(module, "CODEC", "c");
}

static int
etf_traverse(PyObject *module, visitproc visit, void *arg)
{
    EtfState *state = etf_state(module);
    if (state == NULL) {
        return 0;
    }

#define ETF_VISIT(field, from, name) Py_VISIT(state->field);
    ETF_OBJECTS(ETF_VISIT)
#undef ETF_VISIT
    for (size_t i = 0; i < ETF_ATOM_SLOTS; i++) {
        Py_VISIT(state->atoms[i].value);
    }

    return 0;
}

static int
etf_clear(PyObject *module)
{
    EtfState *state = etf_state(module);
    if (state == NULL) {
        return 0;
    }

#define ETF_CLEAR(field, from, name) Py_CLEAR(state->field);
    ETF_OBJECTS(ETF_CLEAR)
#undef ETF_CLEAR
#define ETF_CLEAR(name) Py_CLEAR(state->str_##name);
    ETF_NAMES(ETF_CLEAR)
#undef ETF_CLEAR
    for (size_t i = 0; i < ETF_ATOM_SLOTS; i++) {
        Py_CLEAR(state->atoms[i].value);
    }

    return 0;
}

static void
etf_free(void *module)
{
    (void)etf_clear((PyObject *)module);
}

static PyModuleDef_Slot etf_slots[] = {
    {Py_mod_exec, (void *)etf_exec},
    {0, NULL},
};

static PyModuleDef etf_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "hornbeam._etf_c",
    .m_doc = "The External Term Format codec in C; hornbeam._etf picks it.",
    .m_size = sizeof(EtfState),
    .m_methods = etf_methods,
    .m_slots = etf_slots,
    .m_traverse = etf_traverse,
    .m_clear = etf_clear,
    .m_free = etf_free,
};

PyMODINIT_FUNC
PyInit__etf_c(void)
{
    return PyModuleDef_Init(&etf_module);
}
