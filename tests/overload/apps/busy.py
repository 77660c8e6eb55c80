# SPDX-License-Identifier: Apache-2.0
"""Applications that take a while, and say in which order they were asked.

`/work/NUMBER?MILLISECONDS` answers the number after so long. The rest is ASGI only:
`/hold` ends when its client leaves, `/trickle` sends for ever, `/upload` answers how
much came, `/order` lists the numbers of `/work` in the order in which the application
got them, and `/alive` counts what is alive in the process. WebSockets echo.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from e2e.raw_apps.toolbox import Receive, Scope, Send, respond, send_part, start

_PART = b"x" * 65536

_ORDER_LENGTH = 1000

_order: list[int] = []


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await _echo(receive, send)
    elif scope["type"] == "http":
        _, name, *rest = scope["path"].split("/")
        await _HANDLERS[name](scope, receive, send, "/".join(rest))
    else:
        raise RuntimeError("no lifespan here")


async def _work(scope: Scope, receive: Receive, send: Send, number: str) -> None:
    if len(_order) < _ORDER_LENGTH:
        _order.append(int(number))

    await asyncio.sleep(int(scope["query_string"] or b"0") / 1000)
    await respond(send, number)


async def _hold(scope: Scope, receive: Receive, send: Send, _: str) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _trickle(scope: Scope, receive: Receive, send: Send, _: str) -> None:
    await start(send)

    while True:
        await send_part(send, _PART)


async def _upload(scope: Scope, receive: Receive, send: Send, _: str) -> None:
    size = 0

    while True:
        message = await receive()

        if message["type"] == "http.disconnect":
            return

        size += len(message["body"])

        if not message["more_body"]:
            await respond(send, str(size))
            return


async def _read_order(scope: Scope, receive: Receive, send: Send, _: str) -> None:
    await respond(send, json.dumps(_order))


async def _alive(scope: Scope, receive: Receive, send: Send, _: str) -> None:
    """What is alive in this process."""
    gc.collect()
    counts = {
        "pid": os.getpid(),
        "objects": len(gc.get_objects()),
        "tasks": len(asyncio.all_tasks()),
        "threads": threading.active_count(),
        "blocks": sys.getallocatedblocks(),
    }
    await respond(send, json.dumps(counts))


async def _echo(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})

    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


_HANDLERS: dict[str, Callable[..., Any]] = {
    "work": _work,
    "hold": _hold,
    "trickle": _trickle,
    "upload": _upload,
    "order": _read_order,
    "alive": _alive,
}


def wsgi(
    environ: dict[str, Any], start_response: Callable[..., Any]
) -> Iterable[bytes]:
    number = environ["PATH_INFO"].removeprefix("/work/")
    time.sleep(int(environ["QUERY_STRING"] or "0") / 1000)
    start_response("200 OK", [("Content-Length", str(len(number)))])
    return [number.encode()]
