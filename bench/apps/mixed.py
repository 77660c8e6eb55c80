# SPDX-License-Identifier: Apache-2.0
"""Quick answers beside a handler that blocks its worker, as mistakes do.

Answers the process id of the worker in ten digits; /block sleeps half a second before,
on the event loop.
"""

import os
import time
from typing import Any

from hello import Receive, Send, live

BLOCK_S = 0.5
HEADERS = [(b"content-length", b"10")]


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await live(receive, send)
        return

    if scope["path"] == "/block":
        time.sleep(BLOCK_S)  # noqa: ASYNC251 that is the point

    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": b"%010d" % os.getpid()})
