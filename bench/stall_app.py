# SPDX-License-Identifier: Apache-2.0
"""/burn keeps the event loop for half a second; all else answers at once."""

import time

BURN_S = 0.5


async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("only HTTP here")

    if scope["path"] == "/burn":
        end = time.perf_counter() + BURN_S

        while time.perf_counter() < end:
            pass

    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-length", b"2")],
        }
    )
    await send({"type": "http.response.body", "body": b"ok"})
