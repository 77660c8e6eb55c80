# SPDX-License-Identifier: Apache-2.0
"""WebSockets in raw ASGI, one kind a path. How each of them ended can be asked for.

A WebSocket with a query string has a name: its parameter `n`, or all of it. `GET
/ended/NAME` waits until the one of that name is over, and tells what its application
saw.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs, unquote

from hornbeam_erlang import (
    Subscription,
    attach,
    publish,
    state_incr,
    state_set,
    subscribe,
)

Route = Callable[[Any, Any, Any], Awaitable[None]]

_endings: dict[str, asyncio.Future[list[Any]]] = defaultdict(
    lambda: asyncio.get_running_loop().create_future()
)
subscriptions: list[Subscription] = []


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await live(scope, receive, send)
    elif scope["type"] == "http":
        await answer(scope, send)
    else:
        await run(scope, receive, send)


async def live(scope: Any, receive: Any, send: Any) -> None:
    scope["state"]["greeting"] = {"text": "of the lifespan", "count": 0}

    for event in ("startup", "shutdown"):
        assert (await receive())["type"] == f"lifespan.{event}"
        await send({"type": f"lifespan.{event}.complete"})


async def answer(scope: Any, send: Any) -> None:
    _, verb, name = scope["path"].split("/", 2)
    result: object

    match verb:
        case "ended":
            result = await _endings[name]
        case "dropped":
            result = [subscription.dropped for subscription in subscriptions]
        case "publish":
            result = publish(name, scope["query_string"].decode())
        case "tasks":
            result = len(asyncio.all_tasks())

    body = json.dumps(result).encode()
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": body})


async def run(scope: Any, receive: Any, send: Any) -> None:
    name = parameters(scope).get("n") or scope["query_string"].decode()
    seen: list[object] = []

    async def watch() -> Any:
        message = await receive()

        if message["type"] == "websocket.disconnect":
            seen[:] = [message["code"], message["reason"]]

        return message

    route: Route = globals()["do_" + scope["path"].split("/")[1]]

    try:
        await route(scope, watch, send)
    except BaseException as exc:
        seen.append(type(exc).__name__)
        raise
    finally:
        _endings[name].set_result(seen) if name else None


def parameters(scope: Any) -> dict[str, str]:
    query = parse_qs(scope["query_string"].decode(), keep_blank_values=True)
    return {name: values[0] for name, values in query.items()}


async def accept(receive: Any, send: Any, **fields: object) -> None:
    assert await receive() == {"type": "websocket.connect"}
    await send({"type": "websocket.accept", **fields})


async def say(send: Any, value: object) -> None:
    await send({"type": "websocket.send", "text": json.dumps(value)})


async def wait_for_end(receive: Any) -> None:
    while (await receive())["type"] != "websocket.disconnect":
        pass


async def do_echo(scope: Any, receive: Any, send: Any) -> None:
    await accept(receive, send)

    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


async def do_scope(scope: Any, receive: Any, send: Any) -> None:
    """Tell the scope, and greet in the headers, with what subprotocol is known."""
    known = [name for name in scope["subprotocols"] if name.startswith("v")]
    headers = [(b"set-cookie", b"a=1"), (b"Set-Cookie", b"b=2"), (b"x-greeting", b"hi")]
    await accept(
        receive, send, headers=headers, subprotocol=known[-1] if known else None
    )
    facts = {
        key: scope[key]
        for key in (
            *("type", "asgi", "http_version", "scheme", "path", "root_path"),
            *("client", "server", "subprotocols"),
        )
    }
    facts["raw_path"] = scope["raw_path"].decode()
    facts["query_string"] = scope["query_string"].decode()
    facts["headers"] = [[n.decode(), v.decode()] for n, v in scope["headers"]]
    facts["extensions"] = sorted(scope["extensions"])
    await say(send, facts)


async def do_state(scope: Any, receive: Any, send: Any) -> None:
    await accept(receive, send)
    scope["state"]["mine"] = True
    scope["state"]["greeting"]["count"] += 1
    await say(send, scope["state"])


async def do_refuse(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.close", "code": 4000})
    await wait_for_end(receive)


async def do_deny(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send(
        {
            "type": "websocket.http.response.start",
            "status": 401,
            "headers": [(b"www-authenticate", b"Basic"), (b"x-why", b"login")],
        }
    )

    for part in (b"who ", b"are ", b"you?"):
        body = {"type": "websocket.http.response.body", "body": part}
        await send({**body, "more_body": part != b"you?"})

    await wait_for_end(receive)


async def do_long_denial(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "websocket.http.response.start", "status": 503})
    body = {"type": "websocket.http.response.body", "body": bytes(1_000_000)}
    await send(body)


async def do_close(scope: Any, receive: Any, send: Any) -> None:
    await accept(receive, send)
    query = parameters(scope)
    code = int(query["code"])
    await send({"type": "websocket.close", "code": code, "reason": query["reason"]})
    await wait_for_end(receive)


async def do_return(scope: Any, receive: Any, send: Any) -> None:
    await accept(receive, send)


async def do_raise(scope: Any, receive: Any, send: Any) -> None:
    await accept(receive, send)
    raise LookupError("secret of an open WebSocket")


async def do_raise_early(scope: Any, receive: Any, send: Any) -> None:
    raise LookupError("secret of a handshake")


async def do_return_early(scope: Any, receive: Any, send: Any) -> None:
    await receive()


async def do_hang(scope: Any, receive: Any, send: Any) -> None:
    """Never answer the handshake."""
    await asyncio.get_running_loop().create_future()


async def do_silent(scope: Any, receive: Any, send: Any) -> None:
    """Say one word, then only listen."""
    await accept(receive, send)
    await say(send, "hi")
    await wait_for_end(receive)


async def do_last(scope: Any, receive: Any, send: Any) -> None:
    """Note the code of the end where the test finds it."""
    await accept(receive, send)
    await say(send, "hi")

    while (message := await receive())["type"] != "websocket.disconnect":
        pass

    state_set(scope["query_string"].decode(), message["code"])


async def do_push(scope: Any, receive: Any, send: Any) -> None:
    """Send for ever and never receive."""
    await accept(receive, send)
    number = 0

    while True:
        await send({"type": "websocket.send", "text": f"{number:0100}"})
        number += 1


async def do_flood(scope: Any, receive: Any, send: Any) -> None:
    """Send as much as somebody takes, and count it."""
    await accept(receive, send)

    while True:
        await send({"type": "websocket.send", "bytes": bytes(65536)})
        state_incr(f"flood:{scope['query_string'].decode()}")


async def do_deaf(scope: Any, receive: Any, send: Any) -> None:
    """Take nothing until something is published to the own name."""
    await accept(receive, send)

    async with subscribe(scope["query_string"].decode()) as messages:
        await say(send, "deaf")
        await messages.get()

    size = 0

    while (message := await receive())["type"] == "websocket.receive":
        size += len(message["bytes"])

        if message["bytes"] == b"last":
            await say(send, size)


async def do_subscribe(scope: Any, receive: Any, send: Any) -> None:
    """Pass on what is published; ends with its client."""
    await accept(receive, send)
    topic = scope["query_string"].decode()

    async def pass_on() -> None:
        async with subscribe(topic) as messages:
            await say(send, "subscribed")

            async for message in messages:
                await say(send, message)

    task = asyncio.ensure_future(pass_on())
    await wait_for_end(receive)
    task.cancel()
    await asyncio.wait([task])


async def do_attach(scope: Any, receive: Any, send: Any) -> None:
    await accept(receive, send)
    await attach(scope, unquote(scope["query_string"].decode()))
    await say(send, "attached")
    await wait_for_end(receive)
