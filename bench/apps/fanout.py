# SPDX-License-Identifier: Apache-2.0
"""One message to all WebSockets, as each server has it.

Under Hornbeam each is attached to a topic, to which `/publish` publishes once.
Elsewhere the application keeps them, and `/publish` sends to one after the other.
"""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from hornbeam_erlang import attach, publish, under_hornbeam

TOPIC = "everybody"

connected: dict[WebSocket, None] = {}


async def connect(websocket: WebSocket) -> None:
    await websocket.accept()

    if under_hornbeam():
        await attach(websocket, TOPIC)

    connected[websocket] = None

    async for _ in websocket.iter_text():
        pass

    del connected[websocket]


async def send_to_all(request: Request) -> JSONResponse:
    text = "x" * int(request.query_params["bytes"])

    if under_hornbeam():
        return JSONResponse({"reached": publish(TOPIC, text)})

    for websocket in list(connected):
        await websocket.send_text(text)

    return JSONResponse({"reached": len(connected)})


async def count(request: Request) -> JSONResponse:
    return JSONResponse({"connected": len(connected)})


app = Starlette(
    routes=[
        WebSocketRoute("/connect", connect),
        Route("/publish", send_to_all),
        Route("/", count),
    ]
)
