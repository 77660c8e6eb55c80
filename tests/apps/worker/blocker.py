# SPDX-License-Identifier: Apache-2.0
"""Holds the event loop until a file is there, and remembers what it has begun."""

from __future__ import annotations

import ctypes
import json
import os
import time
from typing import Any

begun: list[str] = []


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        raise NotImplementedError

    begun.append(scope["path"])

    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return

    body = b""
    more = scope["method"] == "POST"

    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)

    name = scope["query_string"].decode()

    if scope["path"] == "/block":
        block(name)
    elif scope["path"] == "/hold":
        hold(name)

    text = json.dumps(begun).encode() if scope["path"] == "/begun" else body
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": text})


def block(name: str) -> None:
    """Without the interpreter's lock, and with no function of Python's under way."""
    os.close(os.open(f"{name}.begun", os.O_CREAT | os.O_EXCL))

    while not os.access(name, os.F_OK):
        time.sleep(0.005)


def hold(name: str) -> None:
    """With the interpreter's lock."""
    libc = ctypes.PyDLL(None)
    open(f"{name}.begun", "x").close()

    while libc.access(name.encode(), 0):
        libc.usleep(5000)


def wsgi(environ: Any, start_response: Any) -> list[bytes]:
    begun.append(environ["PATH_INFO"])

    if environ["PATH_INFO"] == "/block":
        block(environ["QUERY_STRING"])

    start_response("200 OK", [])
    return [json.dumps(begun).encode()]
