# SPDX-License-Identifier: Apache-2.0
"""What the tests of HTTP/2 ask for."""

from __future__ import annotations

import asyncio
import hashlib

from e2e.raw_apps.toolbox import (
    Receive,
    Routes,
    Scope,
    Send,
    end,
    gate,
    read_body,
    respond,
    rest_of_path,
    send_part,
    start,
)

application = Routes()

_progress: dict[str, int] = {}
_outcomes: dict[str, str] = {}


@application.add
async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send, b"hello")


@application.add
async def scope(scope: Scope, receive: Receive, send: Send) -> None:
    """What the application was told."""
    told = {key: scope[key] for key in ("http_version", "scheme", "method", "path")}
    told["headers"] = sorted(map(tuple, scope["headers"]))
    await respond(send, repr(told))


@application.add
async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send, await read_body(receive))


@application.add
async def after(scope: Scope, receive: Receive, send: Send) -> None:
    """/after/NAME: answers when the gate is opened."""
    await gate(rest_of_path(scope)).wait()
    await respond(send, rest_of_path(scope))


@application.add
async def opener(scope: Scope, receive: Receive, send: Send) -> None:
    """/opener/NAME: opens the gate."""
    gate(rest_of_path(scope)).open()
    await respond(send)


@application.add
async def part(scope: Scope, receive: Receive, send: Send) -> None:
    """/part/NAME: a part, and the rest when the gate is opened."""
    await start(send)
    await send_part(send, b"first ")
    await gate(rest_of_path(scope)).wait()
    await end(send, b"last")


@application.add
async def progress(scope: Scope, receive: Receive, send: Send) -> None:
    """Bytes that have passed for that name."""
    await respond(send, str(_progress.get(rest_of_path(scope), 0)))


@application.add
async def outcome(scope: Scope, receive: Receive, send: Send) -> None:
    """How the handler of that name has ended."""
    await respond(send, _outcomes.get(rest_of_path(scope), ""))


@application.add
async def download(scope: Scope, receive: Receive, send: Send) -> None:
    """/download/NAME?SIZE,PART,END: streamed, with trailers where END says so."""
    name = rest_of_path(scope)
    query = scope["query_string"].decode().split(",")
    size, part, how = int(query[0]), int(query[1]), query[2:]
    data = bytes(range(256)) * (part // 256 + 1)
    message = {"type": "http.response.start", "status": 200}
    await send({**message, "trailers": how == ["trailers"]})

    try:
        for sent in range(0, size, part):
            await send_part(send, data[: min(part, size - sent)])
            _progress[name] = min(sent + part, size)
    except OSError as exc:
        _outcomes[name] = type(exc).__name__
        raise

    await end(send)

    if how == ["trailers"]:
        trailers = [(b"x-size", str(size).encode())]
        await send({"type": "http.response.trailers", "headers": trailers})

    _outcomes[name] = "complete"


@application.add
async def upload(scope: Scope, receive: Receive, send: Send) -> None:
    """/upload/NAME: reads nothing before the gate is opened; answers with a digest."""
    name = rest_of_path(scope)
    await gate(name).wait()
    digest, more = hashlib.sha256(), True

    while more:
        message = await receive()

        if message["type"] == "http.disconnect":
            _outcomes[name] = "disconnect"
            return

        digest.update(message["body"])
        _progress[name] = _progress.get(name, 0) + len(message["body"])
        more = message["more_body"]

    await respond(send, digest.hexdigest())


@application.add
async def ignore(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers without a look at the body."""
    await respond(send, b"ignored")


@application.add
async def disconnect(scope: Scope, receive: Receive, send: Send) -> None:
    """/disconnect/NAME: streams, until it is told that the client has gone."""
    name = rest_of_path(scope)
    await start(send)
    await send_part(send, b"begun")

    while (await receive())["type"] != "http.disconnect":
        pass

    try:
        while True:
            await send_part(send, b"more")
            await asyncio.sleep(0)
    except OSError as exc:
        gate(name).open(type(exc).__name__)


@application.add
async def status(scope: Scope, receive: Receive, send: Send) -> None:
    """/status/N: streamed, with a body that some statuses have not."""
    await start(send, int(rest_of_path(scope)))
    await send_part(send, b"body")
    await end(send)


@application.add
async def empty(scope: Scope, receive: Receive, send: Send) -> None:
    """A streamed response with no bytes, whose head has gone out long before."""
    await start(send)
    await send_part(send, b"")
    await gate(rest_of_path(scope)).wait()
    await end(send)


@application.add
async def early(scope: Scope, receive: Receive, send: Send) -> None:
    """Early hints, twice."""
    for name in (b"a", b"b"):
        links = [(b"link", b"</" + name + b".css>; rel=preload")]
        await start(send, 103, links)

    await respond(send, b"final")


@application.add
async def fields(scope: Scope, receive: Receive, send: Send) -> None:
    """/fields/N: headers of so many bytes together; some come more than once."""
    headers = [
        (b"set-cookie", b"a=1"),
        (b"set-cookie", b"b=2"),
        (b"vary", b"a"),
        (b"vary", b"b"),
        (b"connection", b"keep-alive"),
        (b"x-large", b"~" * int(rest_of_path(scope))),
    ]
    await respond(send, b"fields", headers=headers)


@application.add
async def breaks(scope: Scope, receive: Receive, send: Send) -> None:
    """Raises within its response."""
    await start(send)
    await send_part(send, b"begun")
    raise RuntimeError("broken on purpose")


@application.add
async def fails(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("failed on purpose")
