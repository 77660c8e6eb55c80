# SPDX-License-Identifier: Apache-2.0
"""Files that the server is asked to send."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any
from urllib.parse import unquote_to_bytes

from e2e.raw_apps.toolbox import (
    Receive,
    Routes,
    Scope,
    Send,
    end,
    gate,
    read_body,
    respond,
    rest_of_path,
    send_part,
    start,
)

application = Routes()


async def send_file(send: Send, path: object) -> None:
    await send({"type": "http.response.pathsend", "path": path})


def headers(asked: dict[str, Any]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in asked["headers"]]


@application.add
async def file(scope: Scope, receive: Receive, send: Send) -> None:
    """/file/NAME?JSON: what comes of the send() of the file opens the gate NAME.

    In the JSON: `path`; `status`; `headers`; `parts` of the body before it; whether to
    `read` the request first, and to `unlink` the file after it.
    """
    defaults = {"status": 200, "headers": [], "parts": [], "unlink": False}
    asked = {**defaults, **json.loads(unquote_to_bytes(scope["query_string"]))}

    if asked.get("read"):
        await read_body(receive)

    await start(send, asked["status"], headers(asked))

    for part in asked["parts"]:
        await send_part(send, part.encode())

    try:
        await send_file(send, asked["path"])
    except Exception as exc:
        gate(rest_of_path(scope)).open(f"{type(exc).__name__}: {exc}")
        raise

    if asked["unlink"]:
        os.unlink(asked["path"])

    message = await asyncio.wait_for(receive(), 10)
    gate(rest_of_path(scope)).open(message["type"])


@application.add
async def fallback(scope: Scope, receive: Receive, send: Send) -> None:
    """Sends something else where there is no such file."""
    await start(send, headers=[(b"x-kind", b"a")])

    try:
        await send_file(send, "/nonexistent/file")
    except FileNotFoundError:
        await end(send, b"instead of it")


@application.add
async def wrong(scope: Scope, receive: Receive, send: Send) -> None:
    """/wrong/WHAT: what a send() says that makes no sense."""
    what = rest_of_path(scope)

    try:
        if what == "first":
            await send_file(send, __file__)
        elif what == "trailers":
            await send({"type": "http.response.start", "status": 200, "trailers": True})
            await send_file(send, __file__)
        else:
            await start(send)
            paths: dict[str, object] = {
                "none": None,
                "number": 7,
                "empty": "",
                "nul": "/tmp/\0",
            }
            await send_file(send, paths[what])
    except Exception as exc:
        if what == "first":
            await start(send)

        text = f"{type(exc).__name__}: {exc}".encode()

        if what == "trailers":
            await send_part(send, text)
            await send({"type": "http.response.body"})
            await send({"type": "http.response.trailers", "headers": []})
        else:
            await end(send, text)


@application.add
async def twice(scope: Scope, receive: Receive, send: Send) -> None:
    """A body after a file; what that says, the gate /twice has."""
    await start(send)
    await send_file(send, __file__)

    try:
        await end(send, b"more")
    except Exception as exc:
        gate("twice").open(f"{type(exc).__name__}: {exc}")


@application.add
async def ignored(scope: Scope, receive: Receive, send: Send) -> None:
    """Messages of extensions that are not there."""
    push = {"type": "http.response.push", "path": "/x", "headers": []}
    debug = {"type": "http.response.debug", "info": {"template": "t"}}
    await send(push)
    await start(send)
    await send(debug)
    await send_part(send, b"a")
    await send(push)
    await end(send, b"b")
    await send(debug)


@application.add
async def cwd(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send, os.getcwd())
