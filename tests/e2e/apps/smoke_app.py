# SPDX-License-Identifier: Apache-2.0
"""Plain ASGI on the standard library: what each interpreter and each loop must do."""

# What is printed here, the tests wait for.
# ruff: noqa: T201

from __future__ import annotations

import asyncio
import hashlib
import json
import platform
import sys
import threading
from contextvars import ContextVar
from typing import Any

from hornbeam_erlang import state_incr

_lifespan: list[str] = []
_name: ContextVar[bytes] = ContextVar("_name", default=b"nobody")


def is_on_trio() -> bool:
    """Tell the loop without importing one that does not run."""
    trio = sys.modules.get("trio")
    return trio is not None and trio.lowlevel.in_trio_run()


async def pause() -> None:
    """Give way to others, on any loop."""
    if is_on_trio():
        await sys.modules["trio"].sleep(0.001)
    else:
        await asyncio.sleep(0.001)


def loop_name() -> str:
    if is_on_trio():
        return "trio"

    return type(asyncio.get_running_loop()).__module__.partition(".")[0]


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await run_lifespan(scope, receive, send)
        return

    path = scope["path"]

    if path == "/about":
        await answer_json(scope, send)
    elif path == "/echo":
        await echo(receive, send)
    elif path == "/digest":
        await digest(receive, send)
    elif path == "/context":
        await swap_context(scope, send)
    elif path == "/raise":
        raise RuntimeError("raised on purpose")
    else:
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body"})


async def run_lifespan(scope: dict[str, Any], receive: Any, send: Any) -> None:
    assert (await receive())["type"] == "lifespan.startup"
    await pause()
    _lifespan.append("started")
    scope["state"]["token"] = "from startup"
    await send({"type": "lifespan.startup.complete"})
    assert (await receive())["type"] == "lifespan.shutdown"
    await pause()
    await send({"type": "lifespan.shutdown.complete"})
    print(f"smoke: shut down on {platform.python_version()} {loop_name()}", flush=True)


async def answer_json(scope: dict[str, Any], send: Any) -> None:
    counted: list[int] = []
    key = scope["query_string"].decode()
    thread = threading.Thread(target=lambda: counted.append(state_incr(key)))
    thread.start()
    thread.join()
    counted.append(state_incr(key))
    about = {
        "python": platform.python_version(),
        "loop": loop_name(),
        "lifespan": _lifespan,
        "token": scope["state"]["token"],
        "counted": counted,
    }
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(about).encode()})


async def swap_context(scope: dict[str, Any], send: Any) -> None:
    """Give what a context variable was before this request set it."""
    before = _name.get()
    _name.set(scope["query_string"])
    await pause()
    is_own = _name.get() == scope["query_string"]
    body = b"%s %s" % (before, str(is_own).encode())
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def echo(receive: Any, send: Any) -> None:
    """Send each part back as it comes, and give way in between."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    more = True

    while more:
        message = await receive()
        more = message["more_body"]
        await pause()
        await send(
            {
                "type": "http.response.body",
                "body": message["body"],
                "more_body": more,
            }
        )


async def digest(receive: Any, send: Any) -> None:
    total = hashlib.sha256()

    while (message := await receive()).get("more_body"):
        total.update(message["body"])

    total.update(message["body"])
    body = total.hexdigest().encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
