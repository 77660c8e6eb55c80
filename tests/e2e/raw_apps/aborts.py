# SPDX-License-Identifier: Apache-2.0
"""An application whose clients leave, and that counts what is left of them."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections import Counter

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

_ended: Counter[str] = Counter()


@application.add
async def objects(scope: Scope, receive: Receive, send: Send) -> None:
    """What is alive in this process: Python objects, tasks, threads, memory blocks."""
    gc.collect()
    counts = {
        "objects": len(gc.get_objects()),
        "tasks": len(asyncio.all_tasks()),
        "threads": threading.active_count(),
        "blocks": sys.getallocatedblocks(),
    }
    await respond(send, repr(counts))


@application.add
async def collector(scope: Scope, receive: Receive, send: Send) -> None:
    """What the garbage collector is set to, and how much it leaves alone."""
    said = {"young": gc.get_threshold()[0], "frozen": gc.get_freeze_count()}
    await respond(send, repr(said))


@application.add
async def ended(scope: Scope, receive: Receive, send: Send) -> None:
    """How often each handler below has come to its `finally`."""
    await respond(send, repr(dict(_ended)))


@application.add
async def never(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers nothing until the client has gone."""
    try:
        while (await receive())["type"] != "http.disconnect":
            pass
    finally:
        _ended["never"] += 1


@application.add
async def forever(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers until the client has gone."""
    try:
        await start(send)

        while True:
            await send_part(send, b"x" * 16384)
            await asyncio.sleep(0)
    finally:
        _ended["forever"] += 1


@application.add
async def swallow(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads all of a body that will not all come, and wants to answer then."""
    try:
        while (await receive()).get("more_body"):
            pass

        await respond(send)
    finally:
        _ended["swallow"] += 1


@application.add
async def late(scope: Scope, receive: Receive, send: Send) -> None:
    """Looks at nothing, and answers a while after the client has gone."""
    try:
        await asyncio.sleep(0.01)
        await respond(send, b"late")
    finally:
        _ended["late"] += 1


@application.add
async def blocked_send(scope: Scope, receive: Receive, send: Send) -> None:
    """Sends more than anybody takes; leaves how that ended, and that it cleaned up."""
    name = rest_of_path(scope)
    outcome: list[object] = []

    try:
        await start(send)

        while True:
            await send_part(send, b"x" * 65536)
    except OSError as exc:
        outcome.append(type(exc).__name__)
        raise
    finally:
        # Cleaning up may take more than one step.
        await asyncio.sleep(0)
        outcome.append("cleaned up")
        gate(name).open(outcome)


@application.add
async def two_tasks(scope: Scope, receive: Receive, send: Send) -> None:
    """Streams, while another task waits for the disconnect: as frameworks do it."""
    name = rest_of_path(scope)
    listening = asyncio.ensure_future(receive())
    await start(send)
    await send_part(send, b"first")
    message = await listening

    if message["type"] == "http.request":
        message = await receive()

    gate(name).open(message)
    await end(send)
