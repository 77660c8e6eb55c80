# SPDX-License-Identifier: Apache-2.0
"""Large bodies of known length, which a worker writes to the client's own socket."""

from __future__ import annotations

import asyncio
import os
import resource
from pathlib import Path

from e2e.raw_apps.toolbox import (
    Receive,
    Routes,
    Scope,
    Send,
    end,
    gate,
    respond,
    rest_of_path,
    send_part,
    start,
)

application = Routes()

PATTERN = bytes(range(251))
"""Its length is no divisor of anything: a part that is lost or doubled shows."""

FILE_SIZE = Path(__file__).stat().st_size

_errors: dict[str, str] = {}
_children: dict[str, tuple[int, int]] = {}


def body_of(size: int) -> bytes:
    return (PATTERN * (size // len(PATTERN) + 1))[:size]


@application.add
async def error(scope: Scope, receive: Receive, send: Send) -> None:
    """/error/NAME: what ended the response of that name early, if anything did."""
    await respond(send, _errors.get(rest_of_path(scope), ""))


@application.add
async def sized(scope: Scope, receive: Receive, send: Send) -> None:
    """/sized/NAME?SIZE,PART: a body of so many bytes in parts of so many."""
    name = rest_of_path(scope)
    size, part = map(int, scope["query_string"].split(b","))
    body = body_of(size)
    await start(send, headers=[(b"content-length", b"%d" % size)])

    try:
        for begin in range(0, size, part):
            is_last = begin + part >= size
            await (end if is_last else send_part)(send, body[begin : begin + part])
    except BaseException as exc:
        _errors[name] = type(exc).__name__
        raise


@application.add
async def announced_later(scope: Scope, receive: Receive, send: Send) -> None:
    """/announced-later/NAME?SIZE: a whole body without a length of its own."""
    await start(send)
    await end(send, body_of(int(scope["query_string"])))


@application.add
async def broken(scope: Scope, receive: Receive, send: Send) -> None:
    """/broken/HOW?SIZE: half of the body, and then raises or returns."""
    size = int(scope["query_string"])
    await start(send, headers=[(b"content-length", b"%d" % size)])
    await send_part(send, body_of(size // 2))

    if rest_of_path(scope) == "raises":
        raise RuntimeError("in the midst of a body")


@application.add
async def beside(scope: Scope, receive: Receive, send: Send) -> None:
    """/beside/NAME?SIZE: a second task sends while the first one waits in send()."""
    size = int(scope["query_string"])
    body = body_of(size)
    await start(send, headers=[(b"content-length", b"%d" % size)])
    first = asyncio.ensure_future(send_part(send, body[: size // 2]))
    await asyncio.sleep(0)
    await end(send, body[size // 2 :])
    await first


@application.add
async def given_up(scope: Scope, receive: Receive, send: Send) -> None:
    """/given-up/NAME?SIZE: the send() of the first half is cancelled, not the half."""
    size = int(scope["query_string"])
    body = body_of(size)
    await start(send, headers=[(b"content-length", b"%d" % size)])
    first = asyncio.ensure_future(send_part(send, body[: size // 2]))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    await end(send, body[size // 2 :])


@application.add
async def fork(scope: Scope, receive: Receive, send: Send) -> None:
    """/fork/NAME: fork a child that stays; /fork-end/NAME ends it."""
    read, write = os.pipe()
    child = os.fork()

    if child == 0:
        os.close(write)
        os.read(read, 1)
        os._exit(0)

    os.close(read)
    _children[rest_of_path(scope)] = child, write
    await respond(send, str(child))


@application.add
async def fork_end(scope: Scope, receive: Receive, send: Send) -> None:
    child, write = _children.pop(rest_of_path(scope))
    os.close(write)
    await asyncio.to_thread(os.waitpid, child, 0)
    await respond(send)


@application.add
async def descriptors(scope: Scope, receive: Receive, send: Send) -> None:
    """/descriptors/few has no more of them opened, /descriptors/many ends that."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = min(hard, 4096)

    if rest_of_path(scope) == "few":
        soft = os.dup(0)
        os.close(soft)

    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    await respond(send)


@application.add
async def blocked(scope: Scope, receive: Receive, send: Send) -> None:
    """/blocked/NAME?SIZE: the first half, then C code that lets nobody else run."""
    size = int(scope["query_string"])
    await start(send, headers=[(b"content-length", b"%d" % size)])
    await send_part(send, body_of(size // 2))
    gate(rest_of_path(scope)).open()
    await asyncio.sleep(0)
    sum(range(1 << 34))


@application.add
async def small_first(scope: Scope, receive: Receive, send: Send) -> None:
    """/small-first/NAME?SIZE,PART: a body that begins with parts of a few bytes."""
    size, part = map(int, scope["query_string"].split(b","))
    body = body_of(size)
    await start(send, headers=[(b"content-length", b"%d" % size)])
    half = size // 2

    for begin in range(0, half, part):
        await send_part(send, body[begin : min(begin + part, half)])

    await end(send, body[half:])


@application.add
async def answered(scope: Scope, receive: Receive, send: Send) -> None:
    """/answered/first?SIZE answers before it reads its body, /answered/last after."""
    body = body_of(int(scope["query_string"]))
    is_first = rest_of_path(scope) == "first"

    if is_first:
        await respond(send, body)

    while (await receive()).get("more_body"):
        pass

    if not is_first:
        await respond(send, body)


@application.add
async def file_behind(scope: Scope, receive: Receive, send: Send) -> None:
    """/file-behind/NAME?SIZE: so much, and then this file."""
    size = int(scope["query_string"])
    length = size + FILE_SIZE
    await start(send, headers=[(b"content-length", b"%d" % length)])
    await send_part(send, body_of(size))
    await send({"type": "http.response.pathsend", "path": __file__})
