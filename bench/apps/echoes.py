# SPDX-License-Identifier: Apache-2.0
"""WebSockets that echo and a hello, and where many are idle. Tests serve it, too."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

Message = dict[str, Any]

HEADERS = [(b"content-length", b"5")]


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[Message]],
    send: Callable[[Message], Awaitable[None]],
) -> None:
    if scope["type"] == "websocket":
        await _echo(receive, send)
    elif scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await send({"type": "http.response.body", "body": b"hello"})
    else:
        raise RuntimeError("no lifespan here")


async def _echo(
    receive: Callable[[], Awaitable[Message]],
    send: Callable[[Message], Awaitable[None]],
) -> None:
    await receive()
    await send({"type": "websocket.accept"})

    while (message := await receive())["type"] == "websocket.receive":
        await send(
            {
                "type": "websocket.send",
                "text": message.get("text"),
                "bytes": message.get("bytes"),
            }
        )
