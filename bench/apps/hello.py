# SPDX-License-Identifier: Apache-2.0
"""The smallest useful ASGI application, for measuring what the server costs."""

from collections.abc import Awaitable, Callable
from typing import Any

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

BODY = b"Hello, world!"
START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/plain"), (b"content-length", b"13")],
}
END = {"type": "http.response.body", "body": BODY}


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await live(receive, send)
        return

    await send(START)
    await send(END)


async def live(receive: Receive, send: Send) -> None:
    """Answer the lifespan's messages."""
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})

        if message["type"] == "lifespan.shutdown":
            return
