# SPDX-License-Identifier: Apache-2.0
"""An application that fails in every way there is."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import time
from pathlib import Path
from typing import NoReturn
from urllib.parse import unquote

from e2e.raw_apps.toolbox import (
    Receive,
    Routes,
    Scope,
    Send,
    end,
    gate,
    read_body,
    respond,
    rest_of_path,
    send_part,
    start,
)

application = Routes()

requests: list[str] = []


@application.add
async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send, "hello")


@application.add
async def worker(scope: Scope, receive: Receive, send: Send) -> None:
    """Which process this is."""
    await respond(send, str(os.getpid()))


@application.add
async def hold(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with its process when the body is there."""
    name = rest_of_path(scope)
    gate(f"{name}-held").open()
    await read_body(receive)
    await respond(send, str(os.getpid()))


@application.add
async def raises(scope: Scope, receive: Receive, send: Send) -> None:
    """/raises/WHEN?SECRET"""
    secret = unquote(scope["query_string"].decode())
    when = rest_of_path(scope)

    if when == "before-start":
        _fail(secret)

    await start(send, headers=_headers_for(when))

    if when == "after-start":
        _fail(secret)

    await send_part(send, b"part")

    if when != "after-end":
        _fail(secret)

    await end(send)
    _fail(secret)


def _headers_for(when: str) -> list[tuple[bytes, bytes]]:
    return [(b"content-length", b"8")] if when == "in-sized-body" else []


def _fail(secret: str) -> NoReturn:
    if secret == "cancelled":
        raise asyncio.CancelledError

    if secret == "exit":
        raise SystemExit(3)

    raise ZeroDivisionError(f"the secret is {secret}")


@application.add
async def returns(scope: Scope, receive: Receive, send: Send) -> None:
    """/returns/WHEN"""
    when = rest_of_path(scope)

    if when != "before-start":
        await start(send)

    if when == "in-body":
        await send_part(send, b"part")


@application.add
async def slow(scope: Scope, receive: Receive, send: Send) -> None:
    """Never answers, and leaves how it was ended."""
    name = rest_of_path(scope)

    try:
        await asyncio.sleep(3600)
    except BaseException as exc:
        gate(name).open(type(exc).__name__)
        raise


@application.add
async def stubborn(scope: Scope, receive: Receive, send: Send) -> None:
    """Swallows its cancellation, and tries to answer then."""
    name = rest_of_path(scope)

    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        pass

    try:
        await respond(send, "after all")
    except OSError as exc:
        gate(name).open(type(exc).__name__)


@application.add
async def late(scope: Scope, receive: Receive, send: Send) -> None:
    """/late/SECONDS: starts at once and ends after that time."""
    await start(send)
    await send_part(send, b"early, ")
    await asyncio.sleep(float(rest_of_path(scope)))
    await end(send, b"late")


@application.add
async def blocks(scope: Scope, receive: Receive, send: Send) -> None:
    """/blocks/SECONDS: holds the event loop."""
    time.sleep(float(rest_of_path(scope)))  # noqa: ASYNC251
    await respond(send, str(os.getpid()))


@application.add
async def blocks_until(scope: Scope, receive: Receive, send: Send) -> None:
    """/blocks-until?FILE: holds the event loop until the file is there."""
    path = Path(unquote(scope["query_string"].decode()))

    while not path.exists():  # noqa: ASYNC240
        time.sleep(0.01)  # noqa: ASYNC251

    await respond(send, str(os.getpid()))


@application.add
async def dies(scope: Scope, receive: Receive, send: Send) -> None:
    """/dies/HOW?MARKER: removes the file and ends the process, if the file is there."""
    how = rest_of_path(scope)
    marker = Path(unquote(scope["query_string"].decode()))
    await read_body(receive)

    if how == "in-body":
        await start(send)
        await send_part(send, b"part")

    if how != "always":
        try:
            marker.unlink()  # noqa: ASYNC240
        except FileNotFoundError:
            await respond(send, str(os.getpid()))
            return

    if how == "in-body":
        # Behind what was just sent.
        await asyncio.sleep(0.05)

    _die(how)


def _die(how: str) -> None:
    if how == "segfault":
        ctypes.string_at(0)
    elif how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "abort":
        os.abort()

    os._exit(3)
