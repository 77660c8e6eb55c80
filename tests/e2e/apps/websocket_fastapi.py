# SPDX-License-Identifier: Apache-2.0
"""WebSockets of FastAPI as its documentation shows them, and of Starlette."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Cookie, Depends, FastAPI, WebSocket, WebSocketException, status
from fastapi.responses import JSONResponse
from starlette.endpoints import WebSocketEndpoint
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocketDisconnect

from hornbeam_erlang import attach, detach, publish

app = FastAPI()
left: list[int] = []


@app.get("/left")
async def read_left() -> list[int]:
    return left


async def authenticate(
    websocket: WebSocket, login: Annotated[str | None, Cookie()] = None
) -> str:
    if login is None:
        raise WebSocketException(code=status.WS_1008_POLICY_VIOLATION)

    return login


@app.websocket("/items/{item_id}")
async def item(
    websocket: WebSocket,
    item_id: int,
    login: Annotated[str, Depends(authenticate)],
    q: str | None = None,
) -> None:
    await websocket.accept()
    await websocket.send_json({"item": item_id, "login": login, "q": q})
    await websocket.send_json(await websocket.receive_json())
    await websocket.send_bytes(await websocket.receive_bytes())
    await websocket.close(4000, "enough")


@app.websocket("/echo")
async def echo(websocket: WebSocket) -> None:
    await websocket.accept()

    try:
        while True:
            await websocket.send_text(await websocket.receive_text())
    except WebSocketDisconnect as exc:
        left.append(exc.code)


@app.websocket("/uncaught")
async def uncaught(websocket: WebSocket) -> None:
    await websocket.accept()

    while True:
        await websocket.receive_text()


@app.websocket("/denied")
async def denied(websocket: WebSocket) -> None:
    response = JSONResponse({"detail": "pay first"}, 402, headers={"x-price": "5"})
    await websocket.send_denial_response(response)


@app.websocket("/rooms/{name}")
async def room(websocket: WebSocket, name: str) -> None:
    await websocket.accept()
    await attach(websocket, f"room:{name}")
    await websocket.send_text("attached")

    async for text in websocket.iter_text():
        if text == "leave":
            await websocket.send_json(await detach(websocket, f"room:{name}"))
        else:
            publish(f"room:{name}", text)


class Endpoint(WebSocketEndpoint):
    encoding = "json"

    async def on_receive(self, websocket: WebSocket, data: Any) -> None:
        await websocket.send_json({"got": data})

    async def on_disconnect(self, websocket: WebSocket, close_code: int) -> None:
        left.append(close_code)


app.router.routes.append(WebSocketRoute("/endpoint", Endpoint))
