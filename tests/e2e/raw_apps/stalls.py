# SPDX-License-Identifier: Apache-2.0
"""An application that blocks its loop, and requests that must not be served twice."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from pathlib import Path
from urllib.parse import unquote

from e2e.raw_apps.toolbox import (
    Receive,
    Routes,
    Scope,
    Send,
    read_body,
    respond,
    rest_of_path,
)

application = Routes()


def query(scope: Scope) -> Path:
    return Path(unquote(scope["query_string"].decode()))


@application.add
async def block(scope: Scope, receive: Receive, send: Send) -> None:
    """/block?FILE: makes FILE.begun, holds the event loop until FILE is there."""
    gate = query(scope)
    gate.with_suffix(".begun").touch()
    hold_the_loop(gate)
    await respond(send, str(os.getpid()))


def hold_the_loop(gate: Path) -> None:
    while not gate.exists():
        time.sleep(0.01)


@application.add
async def once(scope: Scope, receive: Receive, send: Send) -> None:
    """/once?FILE: makes the file, and fails if it is there."""
    body = await read_body(receive)
    query(scope).open("x").close()
    await respond(send, f"{os.getpid()} {body.decode()}")


@application.add
async def stubborn(scope: Scope, receive: Receive, send: Send) -> None:
    """/stubborn?FILE: swallows its cancellation and goes on until the file is there."""
    gate = query(scope)

    while not gate.exists():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.01)


@application.add
async def tidy(scope: Scope, receive: Receive, send: Send) -> None:
    """/tidy?FILE: cleans up when it is cancelled, which takes a moment."""
    try:
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0.05)
        query(scope).write_text("tidied up")


@application.add
async def upload(scope: Scope, receive: Receive, send: Send) -> None:
    await read_body(receive)
    await respond(send, "uploaded")


@application.add
async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send, rest_of_path(scope))


def wsgi(environ: dict[str, str], start_response: object) -> list[bytes]:
    """Busy for ever, in its thread."""
    while True:
        time.sleep(0.01)
