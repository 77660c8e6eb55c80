# SPDX-License-Identifier: Apache-2.0
"""A WSGI application with large bodies, which go to the client's own socket."""

from __future__ import annotations

import io
import os
import resource
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from e2e.raw_apps.loans import body_of

Environ = dict[str, Any]
StartResponse = Callable[..., Any]

WAIT_SECONDS: Final = 20.0

_errors: dict[str, str] = {}
_closes: dict[str, int] = {}
_gates: dict[str, threading.Event] = {}
_children: dict[str, tuple[int, int]] = {}


def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """/FUNCTION/NAME?SIZE,PART; the function is one of those below."""
    _, function, name = environ["PATH_INFO"].split("/")
    numbers = [int(number) for number in environ["QUERY_STRING"].split(",") if number]

    if function in _SIMPLE:
        start_response("200 OK", [])
        return [_SIMPLE[function](name).encode()]

    try:
        return _BODIES[function](environ, start_response, name, *numbers)
    except BaseException as exc:
        _errors[name] = type(exc).__name__
        raise


def _gate(name: str) -> threading.Event:
    return _gates.setdefault(name, threading.Event())


class Parts:
    """An iterable that notes what ended it, and how often it was closed."""

    def __init__(self, name: str, parts: Iterable[bytes]) -> None:
        self._name = name
        self._parts = iter(parts)

    def __iter__(self) -> Iterator[bytes]:
        return self._parts

    def close(self) -> None:
        _closes[self._name] = _closes.get(self._name, 0) + 1


def _start(start_response: StartResponse, size: int, status: str = "200 OK") -> Any:
    return start_response(status, [("Content-Length", str(size))])


def _cut(size: int, part: int) -> list[bytes]:
    body = body_of(size)
    return [body[begin : begin + part] for begin in range(0, size, part)]


def _listed(
    environ: Environ, start_response: StartResponse, name: str, size: int, part: int
) -> Iterable[bytes]:
    _start(start_response, size)
    return _cut(size, part)


def _iterated(
    environ: Environ, start_response: StartResponse, name: str, size: int, part: int
) -> Iterable[bytes]:
    _start(start_response, size)
    return Parts(name, _cut(size, part))


def _written(
    environ: Environ, start_response: StartResponse, name: str, size: int, part: int
) -> Iterable[bytes]:
    write = _start(start_response, size)

    for each in _cut(size, part):
        write(each)

    return []


def _whole(
    environ: Environ, start_response: StartResponse, name: str, size: int
) -> Iterable[bytes]:
    start_response("200 OK", [])
    return [body_of(size)]


def _unknown(
    environ: Environ, start_response: StartResponse, name: str, size: int, part: int
) -> Iterable[bytes]:
    start_response("200 OK", [])
    return Parts(name, _cut(size, part))


def _crumbs(
    environ: Environ, start_response: StartResponse, name: str, size: int
) -> Iterable[bytes]:
    """A small part, a large one, and the rest in small ones."""
    body = body_of(size)
    _start(start_response, size)
    large = size - 5000
    rest = [body[begin : begin + 7] for begin in range(large, size, 7)]
    return Parts(name, [body[:10], b"", body[10:large], b"", *rest])


def _bytes_file(
    environ: Environ, start_response: StartResponse, name: str, size: int
) -> Iterable[bytes]:
    _start(start_response, size)
    wrapper: Iterable[bytes] = environ["wsgi.file_wrapper"](io.BytesIO(body_of(size)))
    return wrapper


def _bodiless(
    environ: Environ, start_response: StartResponse, name: str, status: int
) -> Iterable[bytes]:
    _start(start_response, 1 << 20, f"{status} Nothing")
    return Parts(name, [body_of(1 << 20)])


def _raising(
    environ: Environ, start_response: StartResponse, name: str, size: int
) -> Iterable[bytes]:
    def parts() -> Iterator[bytes]:
        yield body_of(size // 2)
        raise RuntimeError("in the midst of a body")

    _start(start_response, size)
    return Parts(name, parts())


def _short(
    environ: Environ, start_response: StartResponse, name: str, size: int
) -> Iterable[bytes]:
    _start(start_response, size)
    return Parts(name, [body_of(size // 2)])


def _long(
    environ: Environ, start_response: StartResponse, name: str, size: int
) -> Iterable[bytes]:
    _start(start_response, size)
    return Parts(name, [body_of(size // 2), body_of(size)])


def _replaced(
    environ: Environ, start_response: StartResponse, name: str, size: int
) -> Iterable[bytes]:
    """An error page for a body that has begun: raises (PEP 3333)."""
    _start(start_response, size)(body_of(size // 2))

    try:
        raise RuntimeError("in the midst of a body")
    except RuntimeError as exc:
        error = (RuntimeError, exc, exc.__traceback__)
        start_response("500 Oh", [], error)

    return []


def _paused(
    environ: Environ, start_response: StartResponse, name: str, size: int
) -> Iterable[bytes]:
    """The first half, then the rest when /open/NAME is asked for."""

    def parts() -> Iterator[bytes]:
        body = body_of(size)
        yield body[: size // 2]
        assert _gate(name).wait(WAIT_SECONDS)
        yield body[size // 2 :]

    _start(start_response, size)
    return Parts(name, parts())


def _blocked(
    environ: Environ, start_response: StartResponse, name: str, size: int
) -> Iterable[bytes]:
    """The first half, then C code that lets nobody else run."""
    _start(start_response, size)(body_of(size // 2))
    sum(range(1 << 34))
    return []


def _swallowing(
    environ: Environ, start_response: StartResponse, name: str, size: int
) -> Iterable[bytes]:
    """Goes on writing when the client has gone."""
    write = _start(start_response, size)
    body = body_of(size)
    _note(name, lambda: write(body[: size // 2]))
    _note(name, lambda: write(body[size // 2 :]))
    return []


def _note(name: str, act: Callable[[], object]) -> None:
    try:
        act()
    except Exception as exc:
        _errors[name] = f"{_errors.get(name, '')} {type(exc).__name__}"


_BODIES: Final[dict[str, Callable[..., Iterable[bytes]]]] = {
    "listed": _listed,
    "iterated": _iterated,
    "written": _written,
    "whole": _whole,
    "unknown": _unknown,
    "crumbs": _crumbs,
    "bytes-file": _bytes_file,
    "bodiless": _bodiless,
    "raising": _raising,
    "short": _short,
    "long": _long,
    "replaced": _replaced,
    "paused": _paused,
    "blocked": _blocked,
    "swallowing": _swallowing,
}


def _error(name: str) -> str:
    return _errors.get(name, "")


def _closed(name: str) -> str:
    return str(_closes.get(name, 0))


def _open(name: str) -> str:
    _gate(name).set()
    return ""


def _fork(name: str) -> str:
    """A child that stays until /fork-end/NAME."""
    read, write = os.pipe()
    child = os.fork()

    if child == 0:
        os.close(write)
        os.read(read, 1)
        os._exit(0)

    os.close(read)
    _children[name] = child, write
    return str(child)


def _fork_end(name: str) -> str:
    child, write = _children.pop(name)
    os.close(write)
    os.waitpid(child, 0)
    return ""


def _descriptors(name: str) -> str:
    """/descriptors/few has no more of them opened, /descriptors/many ends that."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = min(hard, 4096)

    if name == "few":
        soft = os.dup(0)
        os.close(soft)

    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return ""


_SIMPLE: Final[dict[str, Callable[[str], str]]] = {
    "error": _error,
    "closed": _closed,
    "open": _open,
    "fork": _fork,
    "fork-end": _fork_end,
    "descriptors": _descriptors,
}
