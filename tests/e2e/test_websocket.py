# SPDX-License-Identifier: Apache-2.0
"""WebSockets of a node and its workers, with real clients, on raw ASGI."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect as connect_async

from e2e.observe import Server, resident_bytes
from e2e.support import TIMEOUT_SECONDS, make_client, serving
from e2e.talk import (
    answer_of,
    closing,
    connect,
    cut,
    end_of,
    ended,
    get,
    refusal,
    take,
    take_json,
)
from node import Node

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def raw(node: Node) -> Iterator[str]:
    with serving(node, "websocket_raw:app") as url:
        yield url


@pytest.fixture
def name() -> str:
    return uuid.uuid4().hex


# Messages.


def test_echo(raw: str, name: str) -> None:
    with connect(raw, f"/echo?{name}") as client:
        for payload in ("é", "", b"\xff\0", b"", "x" * 70_000, b"y" * 70_000):
            client.send(payload)
            assert take(client) == payload

        client.close(4001, "später")

    assert ended(raw, name) == [4001, "später"]


def test_fragments(raw: str) -> None:
    with connect(raw, "/echo") as client:
        client.send(["ab", "", "cd", "é"])
        assert take(client) == "abcdé"
        client.send([b"a" * 1000, b"b", b"c" * 70_000])
        assert take(client) == b"a" * 1000 + b"b" + b"c" * 70_000


def test_large_messages(raw: str) -> None:
    """Far beyond the window, several at once."""
    payload = bytes(range(256)) * (5 * MIB // 256)

    with connect(raw, "/echo") as client:
        client.send(payload)
        assert take(client) == payload
        client.send([payload[:MIB], payload[MIB:]])
        assert take(client) == payload


def test_compression(node: Node) -> None:
    options = "#{websocket_compress => true}"
    payload = "compress me " * 50_000

    with (
        serving(node, "websocket_raw:app", options) as url,
        connect(url, "/echo", compression="deflate") as client,
    ):
        assert (
            "permessage-deflate"
            in answer_of(client).headers["sec-websocket-extensions"]
        )

        for text in (payload, "", payload[:5]):
            client.send(text)
            assert take(client) == text


def test_no_compression_where_it_is_not_on(raw: str) -> None:
    with connect(raw, "/echo", compression="deflate") as client:
        assert "sec-websocket-extensions" not in answer_of(client).headers
        client.send("plain")
        assert take(client) == "plain"


def test_pings(raw: str) -> None:
    with connect(raw, "/silent") as client:
        assert client.ping(b"payload").wait(TIMEOUT_SECONDS)


@contextlib.asynccontextmanager
async def many(url: str, path: str, count: int) -> AsyncIterator[list[Any]]:
    async with contextlib.AsyncExitStack() as stack:
        yield await asyncio.gather(
            *(
                stack.enter_async_context(
                    connect_async(
                        url.replace("http", "ws", 1) + path,
                        open_timeout=TIMEOUT_SECONDS,
                        compression=None,
                        proxy=None,
                    )
                )
                for _ in range(count)
            )
        )


def test_many_at_once(raw: str) -> None:
    """Each gets its own back, all of it, in order."""

    async def talk(client: Any, number: int) -> None:
        texts = [f"{number}:{count}" for count in range(10)]

        for text in texts:
            await client.send(text)

        for text in texts:
            assert await asyncio.wait_for(client.recv(), TIMEOUT_SECONDS) == text

    async def test() -> None:
        async with many(raw, "/echo", 200) as clients:
            talks = (talk(client, number) for number, client in enumerate(clients))
            await asyncio.gather(*talks)

    asyncio.run(test())


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_loops(node: Node, loop: str) -> None:
    with serving(node, "websocket_raw:app", f"#{{loop => {loop}}}") as url:
        with connect(url, "/echo") as client:
            client.send("x")
            assert take(client) == "x"

        assert end_of(url, "/raise") == (1011, "")


# The handshake.


def test_scope(raw: str) -> None:
    path = "/scope/a%20b?q=%20"
    headers = [("x-a", "1"), ("cookie", "b=2")]
    subprotocols = ["old", "v1", "v2"]

    with connect(
        raw, path, subprotocols=subprotocols, additional_headers=headers
    ) as client:
        facts = take_json(client)
        assert client.subprotocol == "v2"

    seen = dict(facts.pop("headers"))
    client_host, client_port = facts.pop("client")
    host, port = facts.pop("server")
    assert raw == f"http://{host}:{port}"
    assert client_host == "127.0.0.1"
    assert client_port > 0
    assert seen["x-a"] == "1"
    assert seen["cookie"] == "b=2"
    assert seen["sec-websocket-version"] == "13"
    assert facts == {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": "/scope/a b",
        "raw_path": "/scope/a%20b",
        "query_string": "q=%20",
        "root_path": "",
        "subprotocols": ["old", "v1", "v2"],
        "extensions": ["hornbeam.topics", "websocket.http.response"],
    }


def test_headers_of_the_answer(raw: str) -> None:
    with connect(raw, "/scope") as client:
        assert client.subprotocol is None
        headers = answer_of(client).headers
        assert headers.get_all("set-cookie") == ["a=1", "b=2"]
        assert headers["x-greeting"] == "hi"
        assert answer_of(client).status_code == 101


def test_refusal(raw: str, name: str) -> None:
    response = refusal(raw, f"/refuse?{name}")
    assert (response.status_code, response.body) == (403, b"")
    assert ended(raw, name) == [1006, ""]


def test_denial(raw: str, name: str) -> None:
    response = refusal(raw, f"/deny?{name}")
    assert (response.status_code, response.body) == (401, b"who are you?")
    assert response.headers["www-authenticate"] == "Basic"
    assert response.headers["x-why"] == "login"
    assert ended(raw, name) == [1006, ""]


def test_denial_is_a_response_like_others(raw: str) -> None:
    """With a length, where the body is known, and the connection can be used again."""
    headers = {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    }

    with make_client(raw) as client:
        long = client.get("/long_denial", headers=headers)
        assert (long.status_code, len(long.content)) == (503, 1_000_000)
        assert long.headers["content-length"] == "1000000"
        assert client.get("/deny", headers=headers).content == b"who are you?"


@pytest.mark.parametrize("path", ["/raise_early", "/return_early"])
def test_application_that_fails_in_the_handshake(
    raw: str, node: Node, path: str
) -> None:
    response = refusal(raw, path)
    assert response.status_code == 500
    assert b"secret" not in response.body
    node.wait_for_output(f"WebSocket {path}: the application r")


def test_application_that_does_not_answer(node: Node, name: str) -> None:
    with serving(node, "websocket_raw:app", "#{timeout => 1000}") as url:
        assert refusal(url, f"/hang?{name}").status_code == 504
        assert ended(url, name) == ["CancelledError"]


# Ends.


@pytest.mark.parametrize(
    ("code", "reason"),
    [(1000, ""), (1001, "away"), (1008, "é" * 61), (3000, ""), (4999, "x" * 123)],
)
def test_codes_of_the_application(raw: str, name: str, code: int, reason: str) -> None:
    query = str(httpx.QueryParams({"code": code, "reason": reason, "n": name}))
    assert end_of(raw, f"/close?{query}") == (code, reason)
    assert ended(raw, name) == [code, reason]


@pytest.mark.parametrize(
    ("code", "reason"),
    [(1000, ""), (1001, "bye"), (3999, "é" * 61)],
)
def test_codes_of_the_client(raw: str, name: str, code: int, reason: str) -> None:
    """Also for one that never sent a message."""
    with connect(raw, f"/silent?{name}") as client:
        client.close(code, reason)
        assert client.close_code == code

    assert ended(raw, name) == [code, reason]


def test_close_without_a_code(raw: str, name: str) -> None:
    with connect(raw, f"/silent?{name}") as client:
        # A masked close frame without a payload.
        client.socket.sendall(b"\x88\x80\0\0\0\0")
        closing(client)

    assert ended(raw, name) == [1005, ""]


@pytest.mark.parametrize("path", ["/silent", "/echo"])
def test_client_that_vanishes(raw: str, name: str, path: str) -> None:
    with connect(raw, f"{path}?{name}") as client:
        cut(client)

    assert ended(raw, name) == [1006, ""]


def test_client_that_vanishes_while_the_application_sends(
    raw: str, node: Node, name: str
) -> None:
    """One that never receives is told by its send(), which does not fill the log."""
    before = len(node.logged())

    with connect(raw, f"/push?{name}") as client:
        assert take(client) == "0" * 100
        assert take(client) == "0" * 99 + "1"
        cut(client)

    assert ended(raw, name) == ["ClientDisconnected"]
    assert "Traceback" not in node.logged()[before:]


def test_client_that_closes_while_the_application_sends(raw: str, name: str) -> None:
    # Without a limit the client reads on while it closes.
    with connect(raw, f"/push?{name}", max_queue=None) as client:
        assert take(client) == "0" * 100

    assert ended(raw, name) == ["ClientDisconnected"]


def test_application_that_returns(raw: str) -> None:
    assert end_of(raw, "/return") == (1000, "")


def test_application_that_raises(raw: str, node: Node) -> None:
    assert end_of(raw, "/raise") == (1011, "")
    node.wait_for_output("WebSocket /raise: the application raised on an open WebSoc")
    node.wait_for_output("LookupError: secret of an open WebSocket")


def test_text_that_is_no_utf8(raw: str, name: str) -> None:
    with connect(raw, f"/silent?{name}") as client:
        take(client)
        client.socket.sendall(b"\x81\x81\0\0\0\0\xff")
        assert closing(client)[0] == 1007

    assert ended(raw, name)[0] == 1007


def test_server_that_stops(node: Node) -> None:
    """The client gets 1001, long before `shutdown_timeout` is over."""
    with contextlib.ExitStack() as stack:
        with serving(node, "websocket_raw:app") as url:
            clients = [stack.enter_context(connect(url, "/silent")) for _ in range(3)]
            assert [take_json(client) for client in clients] == 3 * ["hi"]

        assert [closing(client)[0] for client in clients] == 3 * [1001]


def test_application_ends_with_the_server(node: Node) -> None:
    """It is told so, and may still use the node."""
    key = uuid.uuid4().hex

    with (
        serving(node, "websocket_raw:app", name="ending") as url,
        connect(url, f"/last?{key}") as client,
    ):
        assert take_json(client) == "hi"
        node.eval("hornbeam:stop(ending)")

    assert node.eval(f'hornbeam_state:get(<<"{key}">>)') == "1001"


def test_worker_that_dies(node: Node) -> None:
    """The client is told that it may connect again, and can."""
    with serving(node, "websocket_raw:app", name="dying") as url:
        with connect(url, "/silent") as client:
            take(client)
            (pid,) = Server(node, "dying", url).worker_pids()
            os.kill(pid, signal.SIGKILL)
            assert closing(client)[0] == 1012

        with connect(url, "/echo") as client:
            client.send("again")
            assert take(client) == "again"


# Flow control.


def test_client_that_reads_nothing(node: Node, raw: str, name: str) -> None:
    """The application's send() waits; what is under way is bounded."""
    with connect(raw, f"/flood?{name}", max_queue=1) as client:
        take(client)
        before = resident_bytes(node.os_pid)
        sent = settle(node, f"flood:{name}")
        assert sent * 65536 < 32 * MIB
        assert resident_bytes(node.os_pid) - before < 16 * MIB
        cut(client)

    assert ended(raw, name) == ["ClientDisconnected"]


def settle(node: Node, key: str) -> int:
    """Wait until a counter stands still, and return it."""
    expression = f'timer:sleep(100), hornbeam_state:get(<<"{key}">>)'
    seen = [-2, -1]

    while seen[-1] != seen[-2]:
        seen.append(int(node.eval(expression)))

    return seen[-1]


def test_application_that_takes_nothing(raw: str, name: str) -> None:
    """The client is not read any more, and nothing is lost when it is again."""
    frame = b"\x82\xfe\xff\xff\0\0\0\0" + bytes(0xFFFF)
    stream = memoryview(frame * 1024)
    sent = 0

    with connect(raw, f"/deaf?{name}") as client:
        assert take_json(client) == "deaf"

        while can_write(client.socket):
            assert sent < len(stream) - MIB, "all of it was taken"
            sent += client.socket.send(stream[sent : sent + MIB], socket.MSG_DONTWAIT)

        get(raw, f"/publish/{name}")
        frames = -(-sent // len(frame))
        client.socket.sendall(stream[sent : frames * len(frame)])
        client.send(b"last")
        assert take_json(client) == frames * 0xFFFF + len(b"last")

    assert ended(raw, name)[0] == 1000


def can_write(connection: socket.socket) -> bool:
    """Tell whether a socket takes something, now or within a moment."""
    return bool(select.select([], [connection], [], 0.5)[1])


# With the rest of Hornbeam.


def test_state_of_the_lifespan(raw: str) -> None:
    """A shallow copy for each: what is set on it is its own, objects are shared."""
    with connect(raw, "/state") as first, connect(raw, "/state") as second:
        assert take_json(first) == {
            "greeting": {"text": "of the lifespan", "count": 1},
            "mine": True,
        }
        assert take_json(second)["greeting"]["count"] == 2


def test_subscription_ends_with_its_websocket(raw: str, name: str) -> None:
    with connect(raw, f"/subscribe?{name}") as client:
        assert take_json(client) == "subscribed"
        assert get(raw, f"/publish/{name}?hello") == 1
        assert take_json(client) == "hello"

    ended(raw, name)
    assert get(raw, f"/publish/{name}?nobody") == 0


def test_http_beside_websockets(node: Node) -> None:
    """Of one worker, while WebSockets are open; nothing is left of them."""
    # In one where none of earlier tests are just ending.
    with serving(node, "websocket_raw:app") as url:
        before = get(url, "/tasks/")

        with connect(url, "/silent") as first, connect(url, "/echo"):
            take(first)
            assert get(url, "/tasks/") == before + 2

        while get(url, "/tasks/") != before:
            pass
