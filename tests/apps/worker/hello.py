# SPDX-License-Identifier: Apache-2.0
"""The smallest application."""

from typing import Any

HEADERS = [[b"content-type", b"text/plain"]]


async def app(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": b"Hello from ASGI!"})


application = app
