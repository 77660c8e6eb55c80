# SPDX-License-Identifier: Apache-2.0
"""WSGI applications without a framework; all wrapped in wsgiref's validator.

What waits, waits for a file that the test makes, named in the query: `until=PATH`.
What has happened is told by files, too: `tells=PATH`.
"""

from __future__ import annotations

import contextvars
import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl
from wsgiref.validate import validator

from hornbeam_erlang import state_get, state_incr, worker_id

Environ = dict[str, Any]
StartResponse = Callable[..., Any]

TEXT = [("Content-Type", "text/plain; charset=utf-8")]
PATIENCE_SECONDS = 10.0

VISITOR: contextvars.ContextVar[str] = contextvars.ContextVar("visitor", default="-")

_running_lock = threading.Lock()
_running = {"now": 0, "most": 0}


def query(environ: Environ) -> dict[str, str]:
    return dict(parse_qsl(environ["QUERY_STRING"]))


def wait_for(path: str) -> None:
    """Wait until a file is there."""
    deadline = time.monotonic() + PATIENCE_SECONDS

    while not Path(path).exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} was never made")

        time.sleep(0.005)


def text(start_response: StartResponse, body: str) -> Iterable[bytes]:
    start_response("200 OK", TEXT)
    return [body.encode()]


def hello(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    return text(start_response, "hello")


def os_pid(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    return text(start_response, str(os.getpid()))


def environ_of(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Give what of the environ is text or a number."""
    plain = {k: v for k, v in environ.items() if isinstance(v, str | int | bool)}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(plain).encode()]


# Bodies.


def echo(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    stream = environ["wsgi.input"]

    def generate() -> Iterator[bytes]:
        while part := stream.read(65536):
            yield part

    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return generate()


def digest(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Read all at once, then find the end again and again."""
    stream = environ["wsgi.input"]
    body = stream.read(100_000_000)
    assert [stream.read(1), stream.readline(), stream.readlines()] == [b"", b"", []]
    return text(start_response, f"{len(body)} {hashlib.sha256(body).hexdigest()}")


def lines(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    numbered = enumerate(environ["wsgi.input"])
    return text(
        start_response, "|".join(f"{n}:{line.decode()}" for n, line in numbered)
    )


def half_read(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Answer before the body is there."""
    return text(start_response, environ["wsgi.input"].read(1).decode())


# Responses.


def stream(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Three parts, each but the first waiting for the file UNTIL-NUMBER."""
    names = query(environ)
    start_response("200 OK", TEXT)

    try:
        yield b"part 0\n"

        for number in (1, 2):
            wait_for(f"{names['until']}-{number}")
            yield b"part %d\n" % number
    finally:
        Path(names["tells"]).touch()


def endless(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Go on for ever, and tell when it is over after all."""
    start_response("200 OK", TEXT)

    try:
        while True:
            yield bytes(1000)
    finally:
        Path(query(environ)["tells"]).touch()


class ClosedBody:
    """A body that tells when it is closed."""

    def __init__(self, tells: str) -> None:
        self._tells = Path(tells)

    def __iter__(self) -> Iterator[bytes]:
        yield b"a body"

    def close(self) -> None:
        self._tells.touch()


def closed(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", TEXT)
    return ClosedBody(query(environ)["tells"])


def writes(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    write = start_response("200 OK", TEXT)
    write(b"written, ")
    wait_for(query(environ)["until"])
    write(b"and ")
    return [b"returned"]


def error_page(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Replace the response that was to be."""
    start_response("200 OK", [*TEXT, ("X-First", "1")])

    try:
        raise RuntimeError("on second thoughts")
    except RuntimeError:
        start_response("503 Not Now", TEXT, sys.exc_info())

    return [b"an error page"]


def late_error(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Replace a response that has begun, which can't be."""
    start_response("200 OK", TEXT)
    yield b"begun"

    try:
        raise RuntimeError("too late")
    except RuntimeError:
        start_response("500 Too Late", TEXT, sys.exc_info())


def sized(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [*TEXT, ("Content-Length", "5")])
    return [b"sized"]


def empty(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("204 No Content", [])
    return []


def hints(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    environ["wsgi.early_hints"]([("Link", "</style.css>; rel=preload; as=style")])
    wait_for(query(environ)["until"])
    return text(start_response, "hinted")


def file_of(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """A file, with its length where the query says `sized`."""
    path = Path(query(environ)["path"])
    headers = [("Content-Type", "application/octet-stream")]

    if "sized" in query(environ):
        headers.append(("Content-Length", str(path.stat().st_size)))

    start_response("200 OK", headers)
    body: Iterable[bytes] = environ["wsgi.file_wrapper"](path.open("rb"))
    return body


def several_headers(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    cookies = [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("X-Latin", "h\xe9")]
    start_response("299 Of Our Own", [*TEXT, *cookies])
    return [b""]


# What goes on around requests.


def count(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    number = state_incr(environ["QUERY_STRING"])
    assert state_get(environ["QUERY_STRING"]) >= number
    return text(start_response, f"{number} by {worker_id()}")


def visitor(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Give what an earlier request has left in this thread, and leave something."""
    before = VISITOR.get()
    VISITOR.set(environ["QUERY_STRING"])
    return text(start_response, before)


def at_once(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Give how many requests ever ran at the same time."""
    with _running_lock:
        _running["now"] += 1
        _running["most"] = max(_running.values())

    time.sleep(0.02)

    with _running_lock:
        _running["now"] -= 1

    return text(start_response, str(_running["most"]))


def waits(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Tell that the request is here, wait, and answer."""
    Path(query(environ)["tells"]).touch()
    wait_for(query(environ)["until"])
    return text(start_response, str(os.getpid()))


def busy(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Never answer, as a thread can't be ended."""
    while True:
        time.sleep(0.01)


def fails(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    raise RuntimeError("the application failed")


def breaks_off(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", TEXT)
    yield b"begun"
    raise RuntimeError("the application failed")


def logs(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    environ["wsgi.errors"].write(f"a line for the log: {environ['QUERY_STRING']}\n")
    return hello(environ, start_response)


ROUTES = {
    f"/{handler.__name__}": handler
    for handler in (
        *(at_once, breaks_off, busy, closed, count, digest, echo, empty, endless),
        *(error_page, fails, half_read, hello, hints, late_error, lines, logs, os_pid),
        *(several_headers, sized, stream, visitor, waits, writes),
    )
}
ROUTES |= {"/environ": environ_of, "/file": file_of}


def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    path = "/" + environ["PATH_INFO"].split("/")[1]
    return ROUTES.get(path, hello)(environ, start_response)


app = validator(application)
