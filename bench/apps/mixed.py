# SPDX-License-Identifier: Apache-2.0
"""Quick answers beside a handler that blocks its worker, as mistakes do.

Answers the process id of the worker in ten digits; /block computes for half a second
before, on the event loop.
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
        end_s = time.perf_counter() + BLOCK_S

        while time.perf_counter() < end_s:
            pass

    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": b"%010d" % os.getpid()})
