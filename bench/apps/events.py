# SPDX-License-Identifier: Apache-2.0
"""Server-sent events: the time, every tenth of a second, for as long as one listens."""

import asyncio
import time
from typing import Any

from hello import Receive, Send, live

INTERVAL_S = 0.1
HEADERS = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await live(receive, send)
    elif scope["path"] == "/events":
        await _stream(receive, send)
    else:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ready"})


async def _stream(receive: Receive, send: Send) -> None:
    ticking = asyncio.create_task(_tick(send))

    while (await receive())["type"] != "http.disconnect":
        pass

    ticking.cancel()


async def _tick(send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})

    while True:
        # The clock that the client has too.
        body = b"data: %d\n\n" % time.monotonic_ns()
        await send({"type": "http.response.body", "body": body, "more_body": True})
        await asyncio.sleep(INTERVAL_S)
