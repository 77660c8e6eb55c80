# SPDX-License-Identifier: Apache-2.0
"""Requests of all kinds that go on until a file is there, and a lifespan.

What happens is written to the file that SHUTDOWN_LOG names, a line each. What waits
goes on when there is a file of that name with `.go` behind it: nobody can ask a server
that stops.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

LOG = os.environ["SHUTDOWN_LOG"]


def write(line: str) -> None:
    with Path(LOG).open("a") as log:
        log.write(f"{line}\n")


async def go() -> None:
    # The event is a file.
    while not os.access(f"{LOG}.go", os.F_OK):  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await live(receive, send)
        return

    kind = scope["path"].strip("/") or "hello"
    write(f"{kind} began")

    try:
        await KINDS[kind](receive, send)
    except asyncio.CancelledError:
        write(f"{kind} cancelled")
        raise


async def live(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    write("lifespan.shutdown")

    if os.environ.get("SHUTDOWN_HANGS"):
        await asyncio.sleep(3600)

    await send({"type": "lifespan.shutdown.complete"})


async def answer(send: Any, *parts: bytes, content_type: bytes = b"text/plain") -> None:
    await start(send, content_type)

    for part in parts:
        await send({"type": "http.response.body", "body": part, "more_body": True})

    await send({"type": "http.response.body", "body": b""})


async def start(send: Any, content_type: bytes = b"text/plain") -> None:
    headers = [(b"content-type", content_type)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def hello(receive: Any, send: Any) -> None:
    await answer(send, b"hello")


async def slow(receive: Any, send: Any) -> None:
    await go()
    await answer(send, b"slow")


async def stream(receive: Any, send: Any) -> None:
    await start(send)
    await send({"type": "http.response.body", "body": b"first ", "more_body": True})
    await go()
    await send({"type": "http.response.body", "body": b"last"})


async def events(receive: Any, send: Any) -> None:
    """Until the client leaves, or for ever: it is cut."""
    await start(send, b"text/event-stream")

    while True:
        part = b"data: tick\n\n"
        await send({"type": "http.response.body", "body": part, "more_body": True})
        await asyncio.sleep(0.02)


async def upload(receive: Any, send: Any) -> None:
    size, more = 0, True

    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)

    await answer(send, b"%d" % size)


async def socket(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    message = await receive()
    assert message["type"] == "websocket.disconnect"
    write(f"socket {message['code']}")


async def never(receive: Any, send: Any) -> None:
    await asyncio.sleep(3600)


KINDS = {
    each.__name__: each for each in (hello, slow, stream, events, upload, socket, never)
}
