# SPDX-License-Identifier: Apache-2.0
"""An application that gives back what it was sent, and dies in the ways it is told to.

The environment variable FAULTS names a folder. While it has a file named `import` or
`shutdown`, the process does there what the file says: see `_HOW_TO_DIE`.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hornbeam import _session

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

_FOLDER = Path(os.environ.get("FAULTS", "/nowhere"))


def _segfault() -> None:
    ctypes.string_at(0)


def _exceed() -> None:
    """Use more than the kernel allows, which then kills: as it does out of memory."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))

    while True:
        pass


def _raise() -> None:
    raise ZeroDivisionError("told to")


def _promise() -> None:
    """Say on the pipe to the node that 4 GiB come, of which these are the first."""
    os.write(4, b"\xff\xff\xff\xff" + os.urandom(4096))


_HOW_TO_DIE: dict[str, Callable[[], object]] = {
    "abort": os.abort,
    "deafen": lambda: os.close(3),
    "exit": lambda: os._exit(3),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "limit": _exceed,
    "promise": _promise,
    "raise": _raise,
    "segfault": _segfault,
}


def _die_if_told(where: str) -> None:
    try:
        how = (_FOLDER / where).read_text()
    except FileNotFoundError:
        return

    _HOW_TO_DIE[how]()


_die_if_told("import")


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await _live(receive, send)
    elif scope["type"] == "websocket":
        await _talk(receive, send)
    else:
        _, route, *rest = scope["path"].split("/")
        await _ROUTES[route](scope, rest, receive, send)


async def _live(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    _die_if_told("shutdown")
    await send({"type": "lifespan.shutdown.complete"})


async def _talk(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})

    while (message := await receive())["type"] == "websocket.receive":
        text = message.get("text") or ""

        if text.startswith("die "):
            _HOW_TO_DIE[text.removeprefix("die ")]()
        elif text == "who":
            text = str(os.getpid())

        await send({"type": "websocket.send", "text": text})


async def _echo(scope: Scope, rest: list[str], receive: Receive, send: Send) -> None:
    """/echo/TOKEN: answers with the method and with the token, of the body if any."""
    body = await _read(receive)
    token = rest[0].encode()
    answer = scope["method"].encode() + b" " + (body or token)
    await _respond(send, token, answer)


async def _stream(scope: Scope, rest: list[str], receive: Receive, send: Send) -> None:
    """/stream/TOKEN: three parts, with some time between them."""
    token = rest[0].encode()
    headers = [(b"x-token", token)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})

    for number in range(3):
        part = b"%d %b\n" % (number, token)
        more = number < 2
        await send({"type": "http.response.body", "body": part, "more_body": more})
        await asyncio.sleep(0.01)


async def _die(scope: Scope, rest: list[str], receive: Receive, send: Send) -> None:
    """/die/HOW/WHEN/TOKEN, where there is the file TOKEN, which is removed then.

    WHEN is `before` anything is sent, after the `start`, or after an `inform`.
    """
    how, when, token = rest
    marker = _FOLDER / token

    if when != "unread":
        await _read(receive)

    if how != "always" and not marker.exists():
        await _respond(send, token.encode(), str(os.getpid()).encode())
        return

    marker.unlink(missing_ok=True)

    if when == "start":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        part = {"type": "http.response.body", "body": b"part", "more_body": True}
        await send(part)
        # Behind what was just sent.
        await asyncio.sleep(0.05)

    _HOW_TO_DIE["exit" if how == "always" else how]()


async def _block(scope: Scope, rest: list[str], receive: Receive, send: Send) -> None:
    """/block/MS: computes for so long on the event loop."""
    end = time.perf_counter() + int(rest[0]) / 1000

    while time.perf_counter() < end:
        pass

    await _respond(send, b"", b"")


async def _hold(scope: Scope, rest: list[str], receive: Receive, send: Send) -> None:
    """Ends when its client leaves."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _pid(scope: Scope, rest: list[str], receive: Receive, send: Send) -> None:
    await _respond(send, b"", str(os.getpid()).encode())


def _address_space_bytes() -> int:
    pages = Path("/proc/self/statm").read_text().split()[0]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


async def _limit_memory(
    scope: Scope, rest: list[str], receive: Receive, send: Send
) -> None:
    """/limit_memory/BYTES: has room for so many more from now on."""
    used = _address_space_bytes()
    resource.setrlimit(
        resource.RLIMIT_AS, (used + int(rest[0]), resource.RLIM_INFINITY)
    )
    await _respond(send, b"", b"")


async def _take_memory(
    scope: Scope, rest: list[str], receive: Receive, send: Send
) -> None:
    """/take_memory/BYTES: takes so many for a moment."""
    bytearray(int(rest[0]))
    await _respond(send, b"", b"")


async def _swallow(scope: Scope, rest: list[str], receive: Receive, send: Send) -> None:
    """Goes on for as long as the file `swallow` is there, also when it is cancelled.

    Which is reported sooner than usual.
    """
    vars(_session)["CANCEL_GRACE_S"] = 0.2

    while (_FOLDER / "swallow").exists():
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0.02)


_ROUTES = {
    "limit_memory": _limit_memory,
    "take_memory": _take_memory,
    "swallow": _swallow,
    "echo": _echo,
    "stream": _stream,
    "die": _die,
    "block": _block,
    "hold": _hold,
    "pid": _pid,
}


async def _read(receive: Receive) -> bytes:
    body = b""

    while (message := await receive())["type"] == "http.request":
        body += message.get("body", b"")

        if not message.get("more_body", False):
            break

    return body


async def _respond(send: Send, token: bytes, body: bytes) -> None:
    length = b"%d" % len(body)
    headers = [(b"x-token", token), (b"content-length", length)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
