/* SPDX-License-Identifier: Apache-2.0 */
/* Batches of encoded messages. */
#include "_etf_c.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* Of one write without letting other threads run: it takes some microseconds. */
#define MAX_HELD_BYTES 16384

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

static ssize_t
write_once(int descriptor, const Py_buffer *data)
{
    if (data->len <= MAX_HELD_BYTES) {
        return write(descriptor, data->buf, (size_t)data->len);
    }

    ssize_t written;
    Py_BEGIN_ALLOW_THREADS
    written = write(descriptor, data->buf, (size_t)data->len);
    Py_END_ALLOW_THREADS
    return written;
}

PyObject *
etf_write_some(PyObject *Py_UNUSED(module), PyObject *args)
{
    int descriptor;
    Py_buffer data;
    if (!PyArg_ParseTuple(args, "iy*:write_some", &descriptor, &data)) {
        return NULL;
    }

    ssize_t written;
    do {
        written = write_once(descriptor, &data);
    } while (written < 0 && errno == EINTR && PyErr_CheckSignals() == 0);

    PyBuffer_Release(&data);
    if (written >= 0) {
        return PyLong_FromSsize_t(written);
    }
    /* What a handler of a signal has raised. */
    return PyErr_Occurred() ? NULL : PyErr_SetFromErrno(PyExc_OSError);
}
