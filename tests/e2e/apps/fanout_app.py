# SPDX-License-Identifier: Apache-2.0
"""WebSockets that are attached to topics, by the function and by messages."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import FastAPI, Request, WebSocket

from hornbeam_erlang import attach, detach, publish

app = FastAPI()


@app.websocket("/by-function/{topic}")
async def by_function(
    websocket: WebSocket,
    topic: str,
    overflow: Literal["close", "drop_oldest"] = "close",
    max_queue: int = 1000,
) -> None:
    """Attach, then do what the client says: `attach TOPIC`, `detach TOPIC`."""
    await websocket.accept()
    await attach(websocket, topic, overflow=overflow, max_queue=max_queue)
    await websocket.send_text("attached")

    async for text in websocket.iter_text():
        what, _, other = text.partition(" ")

        if what == "attach":
            await attach(websocket, other)
            await websocket.send_text("attached")
        else:
            await websocket.send_text(f"detached {await detach(websocket, other)}")


@app.websocket("/by-message/{topic}")
async def by_message(websocket: WebSocket, topic: str) -> None:
    """As an application without a framework does."""
    await websocket.accept()
    send: Any = websocket.scope["extensions"]["hornbeam.topics"]["send"]
    await send({"type": "hornbeam.topics.attach", "topic": topic})
    await websocket.send_text("attached")

    async for _ in websocket.iter_text():
        await send({"type": "hornbeam.topics.detach", "topic": topic})
        await websocket.send_text("detached")


@app.websocket("/too-early/{topic}")
async def too_early(websocket: WebSocket, topic: str) -> None:
    """Attach before the WebSocket is accepted, and say what comes of it."""
    try:
        await attach(websocket, topic)
    except RuntimeError:
        said = "refused"
    else:
        said = "attached"

    await websocket.accept()
    await websocket.send_text(said)


@app.post("/publish/{topic}")
async def publish_body(request: Request, topic: str) -> int:
    """Publish the body, as bytes where it is not said to be text."""
    body = await request.body()

    if request.headers["content-type"].startswith("text/plain"):
        return publish(topic, body.decode())

    return publish(topic, body)
