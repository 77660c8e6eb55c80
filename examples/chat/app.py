# SPDX-License-Identifier: Apache-2.0
"""A chat: rooms that span all workers and nodes, with a page to talk in.

Start it with `make run APP_DIR=examples/chat WORKERS=2` and open http://127.0.0.1:8000
in two windows.

What one says is published to the topic of the room. The node hands it to the sockets
that are attached to that topic, whatever worker they belong to, without passing Python
again.
"""

import json
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, WebSocket
from fastapi import Path as InPath
from fastapi.responses import FileResponse

from hornbeam_erlang import attach, publish, state_decr, state_incr

app = FastAPI(title="Hornbeam chat")

PAGE = Path(__file__).with_name("page.html")
MAX_TEXT = 1000

# Of what a topic takes only harmless letters.
Room = Annotated[str, InPath(pattern="^[a-z0-9-]{1,32}$")]


@app.get("/")
async def page() -> FileResponse:
    """Give the page that talks to the WebSocket below."""
    return FileResponse(PAGE)


@app.websocket("/rooms/{room}")
async def chat(websocket: WebSocket, room: Room, name: str = "somebody") -> None:
    """Tell the room what this client says; the node tells this client the rest."""
    await websocket.accept()
    topic = f"chat:{room}"
    await attach(websocket, topic)
    online = state_incr(f"{topic}:online")
    tell(topic, kind="joined", name=name, online=online)

    try:
        async for text in websocket.iter_text():
            tell(topic, kind="said", name=name, text=text[:MAX_TEXT])
    finally:
        online = state_decr(f"{topic}:online")
        tell(topic, kind="left", name=name, online=online)


def tell(topic: str, **message: str | int) -> None:
    """Publish a message as the page expects it."""
    publish(topic, json.dumps(message))
