# SPDX-License-Identifier: Apache-2.0
"""An application of a version, of which tests make others with other text in it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

VERSION = b"one"
STARTUP = "completes"

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

PARTS = 5

leaked: list[bytes] = []


async def app(scope: Message, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await run_lifespan(receive, send)
    elif scope["type"] == "websocket":
        await echo_messages(receive, send)
    elif scope["path"] == "/stream":
        await stream(send)
    elif scope["path"] == "/leak":
        leaked.append(os.urandom(1 << 20))
        await respond(send, VERSION)
    else:
        await respond(send, VERSION + b" " + await read_body(receive))


async def run_lifespan(receive: Receive, send: Send) -> None:
    await receive()

    if STARTUP == "hangs":
        await asyncio.sleep(3600)

    if STARTUP == "fails":
        await send({"type": "lifespan.startup.failed", "message": "no database"})
        return

    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def echo_messages(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})

    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


async def stream(send: Send) -> None:
    """Parts that come one by one, all of the same version."""
    await send({"type": "http.response.start", "status": 200, "headers": []})

    for _ in range(PARTS):
        await send({"type": "http.response.body", "body": VERSION, "more_body": True})
        await asyncio.sleep(0.02)

    await send({"type": "http.response.body"})


async def read_body(receive: Receive) -> bytes:
    body = b""
    more = True

    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)

    return body


async def respond(send: Send, body: bytes) -> None:
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
