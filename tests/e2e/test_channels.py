# SPDX-License-Identifier: Apache-2.0
"""Channels on Django: groups, sessions, subprotocols, refusals, failures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from e2e import sockets
from e2e.reference import serving_any
from e2e.sockets import TIMEOUT_SECONDS, SyncConnection
from e2e.support import make_client, unique
from node import Node

CLIENTS = 30


@pytest.fixture(scope="module")
def client(node: Node) -> Iterator[httpx.Client]:
    """A client of the HTTP side."""
    with serving_any(node, "channels_app:app") as url, make_client(url) as client:
        yield client


@pytest.fixture(scope="module")
def url(client: httpx.Client) -> str:
    return str(client.base_url).rstrip("/")


def connect(
    url: str, path: str, *, origin: str = "http://127.0.0.1", **options: Any
) -> Any:
    """As a page of this host does; Channels lets in no other."""
    return sockets.connect(url, path, origin=origin, **options)


def take(socket: SyncConnection) -> str | bytes:
    return socket.recv(TIMEOUT_SECONDS)


def close_code(client: httpx.Client, room: str) -> int:
    return int(client.get(f"/close-code/{room}").json()["code"])


def test_group(url: str) -> None:
    """All of a room hear all that is said there, in order, and nobody else does."""
    room, other = unique("room"), unique("room")

    with ExitStack() as stack:
        sockets = [
            stack.enter_context(connect(url, f"/chat/{room}")) for _ in range(CLIENTS)
        ]
        outside = stack.enter_context(connect(url, f"/chat/{other}"))
        said: list[str | bytes] = ["größe", b"\0\xff", "x" * 100_000, "last"]

        for text in said:
            sockets[0].send(text)

        for socket in sockets:
            assert [take(socket) for _ in said] == said

        outside.send("alone")
        assert take(outside) == "alone"


@pytest.mark.parametrize("code", [1000, 3001, 4999])
def test_close_code_of_the_client(client: httpx.Client, url: str, code: int) -> None:
    room = unique("room")

    with connect(url, f"/chat/{room}") as socket:
        socket.close(code, "bye")

    assert close_code(client, room) == code


def test_client_that_vanishes(client: httpx.Client, url: str) -> None:
    """Without a close frame: 1006."""
    room = unique("room")

    with connect(url, f"/chat/{room}") as socket:
        socket.socket.shutdown(2)
        assert close_code(client, room) == 1006


def test_session(client: httpx.Client, url: str) -> None:
    """The cookie that a view of Django has set is known to the consumer."""
    assert client.get("/remember/Ann").json() == {"name": "Ann"}
    cookie = f"sessionid={client.cookies['sessionid']}; other=1"
    headers = {"Cookie": cookie}

    with connect(url, "/session?a=%20b", additional_headers=headers) as socket:
        assert json.loads(take(socket)) == {
            "name": "Ann",
            "cookies": ["other", "sessionid"],
            "path": "/session",
            "query": "a=%20b",
        }
        socket.send('{"x": [1, null]}')
        assert json.loads(take(socket)) == {"echo": {"x": [1, None]}}

    with connect(url, "/session") as socket:
        assert json.loads(take(socket))["name"] is None


def test_subprotocol_and_close(url: str) -> None:
    with connect(url, "/protocols", protocols=["first", "second"]) as socket:
        assert socket.subprotocol == "second"

        with pytest.raises(ConnectionClosed):
            take(socket)

        assert (socket.close_code, socket.close_reason) == (4002, "that was all")


@pytest.mark.parametrize(
    ("path", "origin"),
    [("/protocols", "http://127.0.0.1"), ("/session", "http://elsewhere.example")],
)
def test_refused(url: str, path: str, origin: str) -> None:
    """By the consumer, and for its origin by Channels: 403."""
    with (
        pytest.raises(InvalidStatus) as refused,
        connect(url, path, origin=origin),
    ):
        raise AssertionError("it was let in")

    assert refused.value.response.status_code == 403


def test_consumer_in_a_thread(url: str) -> None:
    with connect(url, "/in-thread") as socket:
        for number in range(20):
            socket.send(str(number))

        heard = [take(socket) for _ in range(20)]
        assert heard == [f"heard {number}" for number in range(20)]


def test_consumer_that_fails(url: str) -> None:
    """The client is told of an internal error: 1011."""
    with connect(url, "/failing") as socket:
        socket.send("x")

        with pytest.raises(ConnectionClosed):
            take(socket)

        assert socket.close_code == 1011
