# SPDX-License-Identifier: Apache-2.0
"""Bodies of any size, and how far they have got."""

from __future__ import annotations

import hashlib

from e2e.raw_apps.toolbox import (
    Receive,
    Routes,
    Scope,
    Send,
    end,
    gate,
    respond,
    rest_of_path,
    send_part,
    start,
)

application = Routes()

_progress: dict[str, int] = {}
_errors: dict[str, str] = {}


@application.add
async def progress(scope: Scope, receive: Receive, send: Send) -> None:
    """How many bytes of the body of that name have passed through the application."""
    await respond(send, str(_progress.get(rest_of_path(scope), 0)))


@application.add
async def error(scope: Scope, receive: Receive, send: Send) -> None:
    """What ended the response of that name early, if anything did."""
    await respond(send, _errors.get(rest_of_path(scope), ""))


@application.add
async def download(scope: Scope, receive: Receive, send: Send) -> None:
    """/download/NAME?SIZE,PART: a body of so many bytes in parts of so many."""
    name = rest_of_path(scope)
    size, part = map(int, scope["query_string"].split(b","))
    data = bytes(range(256)) * (part // 256)
    await start(send)

    try:
        for sent in range(0, size, part):
            await send_part(send, data)
            _progress[name] = sent + part
    except OSError as exc:
        _errors[name] = type(exc).__name__
        raise

    await end(send)


@application.add
async def upload(scope: Scope, receive: Receive, send: Send) -> None:
    """/upload/NAME?SIZE: reads nothing before the gate is opened, then counts.

    With a size it stops there, until the gate NAME-rest is opened.
    """
    name = rest_of_path(scope)
    pause = int(scope["query_string"] or 0)
    await gate(name).wait()
    digest, more = hashlib.sha256(), True

    while more:
        if pause and _progress.get(name, 0) >= pause:
            await gate(f"{name}-rest").wait()

        message = await receive()
        digest.update(message["body"])
        _progress[name] = _progress.get(name, 0) + len(message["body"])
        more = message["more_body"]

    await respond(send, digest.hexdigest())


@application.add
async def echo_stream(scope: Scope, receive: Receive, send: Send) -> None:
    """Sends each part of the body as it comes."""
    await start(send)
    more = True

    while more:
        message = await receive()
        await send_part(send, message["body"])
        more = message["more_body"]

    await end(send)
