# SPDX-License-Identifier: Apache-2.0
"""WebSockets of Quart."""

from __future__ import annotations

import asyncio

from quart import Quart, abort, websocket

from hornbeam_erlang import attach

app = Quart(__name__)
left: list[str] = []


@app.get("/left")
async def read_left() -> list[str]:
    return left


@app.websocket("/echo")
async def echo() -> None:
    try:
        while True:
            await websocket.send(await websocket.receive())
    except asyncio.CancelledError:
        # So Quart tells that the client has left.
        left.append("echo")
        raise


@app.websocket("/accept")
async def accept() -> None:
    await websocket.accept(headers={"x-greeting": "hi"}, subprotocol="v1")
    await websocket.send(websocket.requested_subprotocols[0])
    await websocket.close(4000, "enough")


@app.websocket("/forbidden")
async def forbidden() -> None:
    abort(401)


@app.websocket("/rooms/<name>")
async def room(name: str) -> None:
    await websocket.accept()
    await attach(websocket, f"room:{name}")
    await websocket.send("attached")
    await websocket.receive()
