# SPDX-License-Identifier: Apache-2.0
"""The client that checks answers sees what is wrong with them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

import faults.load
from faults.load import Kind, Load, Outcome, Result

GOOD = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nx-token: %b\r\n\r\n%b"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nx-token: %b\r\n\r\n"
PLAIN = b"HTTP/1.1 %d X\r\ncontent-length: 0\r\n\r\n"


def answer(token: bytes, body: bytes) -> bytes:
    return GOOD % (len(body), token, body)


def stream(token: bytes, parts: int) -> bytes:
    lines = [b"%d %b\n" % (number, token) for number in range(parts)]
    return CHUNKED % token + b"".join(b"%x\r\n%b\r\n" % (len(x), x) for x in lines)


# What a server says to a request with a token; it closes after an empty one or `!`.
ANSWERS: list[tuple[Kind, Outcome, Callable[[bytes], bytes]]] = [
    ("GET", "ok", lambda token: answer(token, b"GET " + token)),
    ("POST", "ok", lambda token: answer(token, b"POST " + token)),
    ("HEAD", "ok", lambda token: GOOD % (50, token, b"")),
    ("STREAM", "ok", lambda token: stream(token, 3) + b"0\r\n\r\n"),
    ("GET", "wrong", lambda token: answer(b"0-0", b"GET 0-0")),
    ("GET", "wrong", lambda token: answer(token, b"GET 0-0")),
    ("GET", "wrong", lambda token: answer(token, b"GET " + token) + b"more"),
    ("GET", "wrong", lambda token: answer(token, b"GET " + token[:-1])),
    ("STREAM", "wrong", lambda token: stream(token, 2) + b"0\r\n\r\n"),
    ("STREAM", "cut", lambda token: stream(token, 2) + b"!"),
    ("GET", "cut", lambda token: answer(token, b"GET " + token)[:-1] + b"!"),
    ("GET", "wrong", lambda _: PLAIN % 500),
    ("GET", "502", lambda _: PLAIN % 502),
    ("GET", "503", lambda _: PLAIN % 503),
    ("GET", "504", lambda _: PLAIN % 504),
    ("GET", "reset", lambda _: b"!"),
    ("GET", "late", lambda _: b""),
]


@pytest.mark.parametrize(("kind", "outcome", "said"), ANSWERS)
def test_outcomes(
    kind: Kind,
    outcome: Outcome,
    said: Callable[[bytes], bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(faults.load, "LATE_SECONDS", 0.2)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.add(asyncio.current_task())

        while head := await _read_head(reader):
            token = head.split()[1].rpartition(b"/")[2]

            if kind == "POST":
                await reader.readexactly(len(token))

            text = said(token)
            writer.write(text.removesuffix(b"!"))

            if text.endswith(b"!"):
                break

        writer.close()
        await writer.wait_closed()

    served: set[asyncio.Task[None] | None] = set()
    result = asyncio.run(_load(serve, served, kind))
    assert result.counts == {(kind, outcome): 5}
    assert bool(result.failures([kind])) == (outcome != "ok")


def test_nobody_listens() -> None:
    load = Load("http://127.0.0.1:1", rate=50, seconds=0.1, mix={"GET": 1.0})
    result = asyncio.run(load.run())
    assert result.counts == {("GET", "unconnected"): 5}


async def _load(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    served: set[asyncio.Task[None] | None],
    kind: Kind,
) -> Result:
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        result = await Load(url, rate=50, seconds=0.1, mix={kind: 1.0}).run()

    await asyncio.gather(*(task for task in served if task is not None))
    return result


async def _read_head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""
