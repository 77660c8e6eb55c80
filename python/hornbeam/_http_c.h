/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of the module hornbeam._http_c share. */
#ifndef HORNBEAM_HTTP_C_H
#define HORNBEAM_HTTP_C_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

enum { SCOPE_FIELDS = 9, EXTENSIONS = 3, MAX_LENGTH_DIGITS = 19 };

/* Keys of a scope, all of them in the template. */
#define HTTP_KEYS(X)                                                                       \
    X(asgi) X(http_version) X(method) X(scheme) X(path) X(raw_path) X(query_string)        \
    X(root_path) X(headers) X(client) X(server) X(extensions) X(state)

/* Other names that are looked up. */
#define HTTP_NAMES(X) X(type) X(status) X(body) X(more_body) X(window_bytes)

typedef struct {
    PyObject *scope;      /* a scope that is copied and filled in */
    PyObject *asgi;       /* what each scope has a copy of */
    PyObject *extensions[EXTENSIONS];
    PyObject *empty_text;
    PyObject *start_type; /* "http.response.start" */
    PyObject *body_type;  /* "http.response.body" */
#define HTTP_FIELD(name) PyObject *key_##name;
    HTTP_KEYS(HTTP_FIELD)
    HTTP_NAMES(HTTP_FIELD)
#undef HTTP_FIELD
} HttpState;

#if defined(__GNUC__) || defined(__clang__)
#define HTTP_HIDDEN __attribute__((visibility("hidden")))
#else
#define HTTP_HIDDEN
#endif

/* _http_c.c: checks headers as _headers.check_headers does. Sets new references to what
 * goes out and to the content-length, or NULL where there is none. Returns 1; 0: not the
 * usual case; -1: an error is set. */
HTTP_HIDDEN int http_check_headers(PyObject *headers, PyObject *names, PyObject **checked,
                                   PyObject **declared);

/* _http_c_response.c: returns a message `response`, encoded; NULL: an error is set. Py_None:
 * the numbers are not small, or the headers not what http_check_headers makes. */
HTTP_HIDDEN PyObject *http_encode_response(PyObject *request_id, PyObject *status,
                                           PyObject *headers, PyObject *body);

/* _http_c_request.c: adds the type RequestState. */
HTTP_HIDDEN int http_add_request_type(PyObject *module);

#endif
