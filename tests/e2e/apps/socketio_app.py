# SPDX-License-Identifier: Apache-2.0
"""socket.io: events with answers, rooms, binary data, sessions."""

# python-socketio has no type annotations.
# mypy: disable-error-code="import-untyped, misc, untyped-decorator"

from __future__ import annotations

import asyncio
from typing import Any

import socketio

server = socketio.AsyncServer(
    async_mode="asgi", cors_allowed_origins=[], ping_interval=1, ping_timeout=1
)
app = socketio.ASGIApp(server)

_left: dict[str, asyncio.Event] = {}


@server.event
async def connect(sid: str, environ: dict[str, Any], auth: Any) -> bool | None:
    if auth == "wrong":
        raise socketio.exceptions.ConnectionRefusedError("not you")

    await server.save_session(sid, {"user": auth, "path": environ["PATH_INFO"]})
    return None


@server.event
async def disconnect(sid: str, reason: str) -> None:
    user = (await server.get_session(sid))["user"]
    _left.setdefault(str(user), asyncio.Event()).set()


@server.event
async def wait_for_leave(sid: str, user: str) -> str:
    await asyncio.wait_for(_left.setdefault(user, asyncio.Event()).wait(), 10)
    return "left"


@server.event
async def whoami(sid: str) -> list[str]:
    return [str((await server.get_session(sid))["user"]), server.transport(sid)]


@server.event
async def echo(sid: str, *args: Any) -> Any:
    """Acknowledge with what came."""
    return list(args)


@server.event
async def join(sid: str, room: str) -> None:
    await server.enter_room(sid, room)


@server.event
async def say(sid: str, room: str, text: Any) -> None:
    """Tell the room, but not who said it."""
    await server.emit("said", text, room=room, skip_sid=sid)


@server.event
async def count(sid: str, number: int) -> None:
    """Emit so many events in a row."""
    for each in range(number):
        await server.emit("number", each, to=sid)


@server.event
async def bye(sid: str) -> None:
    await server.disconnect(sid)
