# SPDX-License-Identifier: Apache-2.0
"""An application whose lifespan does what the variable LIFESPAN says.

What happens is written to the file that LIFE_LOG names, a line each, as nobody can ask
a worker that has ended.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from pathlib import Path

from e2e.raw_apps.toolbox import Receive, Routes, Scope, Send, read_body, respond

routes = Routes()

_ticks = 0


def write(line: str) -> None:
    path = os.environ.get("LIFE_LOG")

    if path:
        with Path(path).open("a") as log:
            log.write(f"{line}\n")


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await lifespan(scope, receive, send)
    else:
        await routes(scope, receive, send)


async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    mode = os.environ.get("LIFESPAN", "complete")
    write("asked")

    if mode == "raises":
        raise RuntimeError("no lifespan, thank you")

    if mode == "returns":
        return

    if mode == "failed-early":
        await send({"type": "lifespan.startup.failed", "message": "no database"})
        return

    message = await receive()
    write(message["type"])

    if mode == "silent":
        await asyncio.sleep(3600)

    if mode == "failed-late":
        await asyncio.sleep(0.05)
        await send({"type": "lifespan.startup.failed", "message": "no database"})
        return

    scope["state"]["shared"] = []
    scope["state"]["number"] = 1
    task = asyncio.ensure_future(_tick())
    await send({"type": "lifespan.startup.complete"})
    message = await receive()
    write(message["type"])
    task.cancel()

    if mode == "shutdown-raises":
        raise RuntimeError("shutdown went wrong")

    if mode == "shutdown-silent":
        await asyncio.sleep(3600)

    await send({"type": "lifespan.shutdown.complete"})


async def _tick() -> None:
    global _ticks

    while True:
        await asyncio.sleep(0.01)
        _ticks += 1


@routes.add
async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send, "hello")


@routes.add
async def ticks(scope: Scope, receive: Receive, send: Send) -> None:
    """How often the task of the startup has ticked."""
    await respond(send, str(_ticks))


@routes.add
async def state(scope: Scope, receive: Receive, send: Send) -> None:
    """Changes the state, and answers what it was."""
    found = scope.get("state")
    await respond(send, repr(found))

    if found is not None:
        found["shared"].append(1)
        found["number"] += 1
        found["own"] = True


@routes.add
async def upload(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers when the body is there; tells of its end, however it comes."""
    write("upload began")

    try:
        await respond(send, await read_body(receive))
    except BaseException as exc:
        write(type(exc).__name__)
        raise
    finally:
        write("upload ended")


@routes.add
async def slow(scope: Scope, receive: Receive, send: Send) -> None:
    """Does not look at its client, and takes an hour."""
    write("slow began")

    try:
        await asyncio.sleep(3600)
    except BaseException as exc:
        write(type(exc).__name__)
        raise


@routes.add
async def block(scope: Scope, receive: Receive, send: Send) -> None:
    """/block/HOW: holds the event loop, with or without the interpreter's lock."""
    how = scope["path"].rpartition("/")[2]
    write("blocked")

    if how == "sleep":
        time.sleep(3600)  # noqa: ASYNC251
    elif how == "c":
        # PyDLL keeps the interpreter's lock, as a bad extension does.
        ctypes.PyDLL(None).sleep(3600)
    else:
        while True:
            pass
