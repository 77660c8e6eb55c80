# SPDX-License-Identifier: Apache-2.0
"""WebSockets for the tests of the worker, one kind a path. Runs on all loops."""

from __future__ import annotations

import json
from typing import Any

from hornbeam_erlang import attach, detach, publish, subscribe

ended: list[list[object]] = []
"""Path, code and reason of each WebSocket that was told of its end."""


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await live(scope, receive, send)
    elif scope["type"] == "http":
        while scope["path"] == "/wait" and (await receive())["body"] is not None:
            pass

        await answer(send, ended)
    else:
        await globals()["do_" + scope["path"][1:]](scope, receive, send)


async def live(scope: Any, receive: Any, send: Any) -> None:
    scope["state"]["name"] = "of the lifespan"

    for event in ("startup", "shutdown"):
        assert (await receive())["type"] == f"lifespan.{event}"
        await send({"type": f"lifespan.{event}.complete"})


async def answer(send: Any, result: object) -> None:
    body = json.dumps(result).encode()
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": body})


async def accept(receive: Any, send: Any, **fields: object) -> None:
    assert await receive() == {"type": "websocket.connect"}
    await send({"type": "websocket.accept", **fields})


async def say(send: Any, value: object) -> None:
    await send({"type": "websocket.send", "text": json.dumps(value)})


async def take(scope: Any, receive: Any) -> Any:
    """Return the next message; note the end, which is None."""
    message = await receive()

    if message["type"] == "websocket.disconnect":
        ended.append([scope["path"], message["code"], message["reason"]])
        return None

    return message.get("text", message.get("bytes"))


async def do_echo(scope: Any, receive: Any, send: Any) -> None:
    await accept(receive, send)

    while (payload := await take(scope, receive)) is not None:
        key = "text" if isinstance(payload, str) else "bytes"
        await send({"type": "websocket.send", key: payload})


async def do_scope(scope: Any, receive: Any, send: Any) -> None:
    await accept(receive, send, subprotocol=scope["subprotocols"][-1])
    facts = {key: scope[key] for key in ("type", "scheme", "path", "subprotocols")}
    await say(send, {**facts, "state": scope["state"]})


async def do_refuse(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "websocket.close"})


async def do_deny(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "websocket.http.response.start", "status": 401})
    await send({"type": "websocket.http.response.body", "body": b"who?"})


async def do_fail(scope: Any, receive: Any, send: Any) -> None:
    raise LookupError("before it began")


async def do_raise(scope: Any, receive: Any, send: Any) -> None:
    await accept(receive, send)
    raise LookupError("in the midst of it")


async def do_push(scope: Any, receive: Any, send: Any) -> None:
    """Send for ever and never receive."""
    await accept(receive, send)

    while True:
        await send({"type": "websocket.send", "bytes": bytes(1024)})


async def do_deaf(scope: Any, receive: Any, send: Any) -> None:
    """Receive nothing until a first message, which a topic has, sets it free."""
    await accept(receive, send)

    async with subscribe("wake") as messages:
        await say(send, "deaf")
        await messages.get()

    while await take(scope, receive) is not None:
        pass


async def do_topics(scope: Any, receive: Any, send: Any) -> None:
    await accept(receive, send)
    await attach(scope, "room:*", overflow="drop_oldest", max_queue=5)
    await say(send, await detach(scope, "room:*"))
    await take(scope, receive)


async def do_publish(scope: Any, receive: Any, send: Any) -> None:
    await accept(receive, send)

    while (payload := await take(scope, receive)) is not None:
        await say(send, publish("room:1", payload))
