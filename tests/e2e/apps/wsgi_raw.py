# SPDX-License-Identifier: Apache-2.0
"""WSGI applications without a framework; all wrapped in wsgiref's validator."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.validate import validator

from hornbeam_erlang import state_get, state_incr, worker_id

Environ = dict[str, Any]
StartResponse = Callable[..., Any]

TEXT = [("Content-Type", "text/plain; charset=utf-8")]


def hello(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", TEXT)
    return [b"hello"]


def environ_of(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Give what of the environ is text or a number."""
    plain = {k: v for k, v in environ.items() if isinstance(v, str | int | bool)}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(plain).encode()]


def echo(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    stream = environ["wsgi.input"]

    def generate() -> Iterator[bytes]:
        while part := stream.read(65536):
            yield part

    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return generate()


def count(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    number = state_incr(environ["QUERY_STRING"])
    assert state_get(environ["QUERY_STRING"]) >= number
    start_response("200 OK", TEXT)
    return [f"{number} by {worker_id()}".encode()]


def fails(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    raise RuntimeError("the application failed")


def breaks_off(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", TEXT)
    yield b"begun"
    raise RuntimeError("the application failed")


def logs(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    environ["wsgi.errors"].write("a line for the log\n")
    return hello(environ, start_response)


def busy(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Never answer, as a thread can't be ended."""
    while True:
        time.sleep(0.01)


ROUTES = {
    "/busy": busy,
    "/environ": environ_of,
    "/echo": echo,
    "/count": count,
    "/fails": fails,
    "/breaks_off": breaks_off,
    "/logs": logs,
}


def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    path = "/" + environ["PATH_INFO"].split("/")[1]
    return ROUTES.get(path, hello)(environ, start_response)


app = validator(application)
