# SPDX-License-Identifier: Apache-2.0
"""What the raw applications share: routes by the first part of the path, and gates.

A gate is opened once, and may leave a value then; other requests wait for it by its
name. That needs a server with one worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Handler = Callable[[Scope, Receive, Send], Awaitable[None]]

WAIT_SECONDS = 10.0


class Gate:
    """Something that happens once, and may leave a value."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.value: object = None

    def open(self, value: object = None) -> None:
        self.value = value
        self._event.set()

    def is_open(self) -> bool:
        return self._event.is_set()

    async def wait(self) -> object:
        await self._event.wait()
        return self.value


_gates: dict[str, Gate] = {}


def gate(name: str) -> Gate:
    return _gates.setdefault(name, Gate())


class Routes:
    """An ASGI application that looks at the first part of the path."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {
            "open": _open,
            "wait": _wait,
            "is-open": _is_open,
        }

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "http":
            return _refuse()

        name = scope["path"].removeprefix(scope["root_path"]).split("/")[1:2]
        return self._handlers.get("".join(name), _missing)(scope, receive, send)

    def add(self, handler: Handler) -> Handler:
        """Serve `/name` and all below it with the coroutine function `name`."""
        self._handlers[handler.__name__.replace("_", "-")] = handler
        return handler


def rest_of_path(scope: Scope) -> str:
    """What follows the first part of the path."""
    return str(scope["path"].removeprefix(scope["root_path"]).split("/", 2)[2])


async def respond(
    send: Send,
    body: bytes | str = b"",
    status: int = 200,
    headers: Iterable[Iterable[bytes]] = (),
) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send(
        {
            "type": "http.response.body",
            "body": body.encode() if isinstance(body, str) else body,
        }
    )


async def start(
    send: Send, status: int = 200, headers: Iterable[Iterable[bytes]] = ()
) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def send_part(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def end(send: Send, body: bytes = b"") -> None:
    await send({"type": "http.response.body", "body": body})


async def read_body(receive: Receive) -> bytes:
    parts = []

    while True:
        message = await receive()
        assert message["type"] == "http.request", message
        parts.append(message["body"])

        if not message["more_body"]:
            return b"".join(parts)


async def _open(scope: Scope, receive: Receive, send: Send) -> None:
    """POST /open/NAME"""
    gate(rest_of_path(scope)).open()
    await respond(send)


async def _wait(scope: Scope, receive: Receive, send: Send) -> None:
    """GET /wait/NAME: the value as Python writes it."""
    value = await asyncio.wait_for(gate(rest_of_path(scope)).wait(), WAIT_SECONDS)
    await respond(send, repr(value))


async def _is_open(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send, repr(gate(rest_of_path(scope)).is_open()))


async def _missing(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send, f"no handler for {scope['path']}", 404)


async def _refuse() -> None:
    raise RuntimeError("no lifespan here")
