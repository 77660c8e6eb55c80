# SPDX-License-Identifier: Apache-2.0
"""WebSockets of FastAPI, Starlette and Quart, with real clients."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from e2e.support import serving
from e2e.talk import answer_of, closing, connect, get, refusal, take, take_json
from node import Node


@pytest.fixture(scope="module")
def fastapi(node: Node) -> Iterator[str]:
    with serving(node, "websocket_fastapi:app") as url:
        yield url


@pytest.fixture(scope="module")
def quart(node: Node) -> Iterator[str]:
    with serving(node, "websocket_quart:app") as url:
        yield url


def test_fastapi(fastapi: str) -> None:
    path = "/items/3?q=x"
    cookie = [("cookie", "login=anna")]

    with connect(fastapi, path, additional_headers=cookie) as client:
        assert take_json(client) == {"item": 3, "login": "anna", "q": "x"}
        client.send('{"a": [1]}')
        assert take_json(client) == {"a": [1]}
        client.send(b"bytes")
        assert take(client) == b"bytes"
        assert closing(client) == (4000, "enough")


def test_fastapi_refusals(fastapi: str) -> None:
    assert refusal(fastapi, "/items/3").status_code == 403
    assert refusal(fastapi, "/no/such").status_code == 403
    denied = refusal(fastapi, "/denied")
    assert (denied.status_code, denied.headers["x-price"]) == (402, "5")
    assert json.loads(denied.body) == {"detail": "pay first"}


def test_fastapi_disconnects(fastapi: str, node: Node) -> None:
    """Whether the application catches it or not."""
    before = len(node.logged())

    with connect(fastapi, "/echo") as client, connect(fastapi, "/uncaught") as other:
        client.send("x")
        assert take(client) == "x"
        client.close(3999)
        other.close(1001)

    while 3999 not in get(fastapi, "/left"):
        pass

    assert "WebSocketDisconnect" not in node.logged()[before:]


def test_starlette_endpoint(fastapi: str) -> None:
    with connect(fastapi, "/endpoint") as client:
        client.send('{"a": 1}')
        assert take_json(client) == {"got": {"a": 1}}
        client.send("no JSON")
        assert closing(client)[0] == 1003


def test_quart(quart: str) -> None:
    with connect(quart, "/echo") as client:
        for payload in ("é", b"\xff", "x" * 100_000):
            client.send(payload)
            assert take(client) == payload

    while "echo" not in get(quart, "/left"):
        pass

    with connect(quart, "/accept", subprotocols=["v1"]) as client:
        assert client.subprotocol == "v1"
        assert answer_of(client).headers["x-greeting"] == "hi"
        assert take(client) == "v1"
        assert closing(client)[0] == 4000


def test_quart_refusals(quart: str) -> None:
    assert refusal(quart, "/forbidden").status_code == 401
    assert refusal(quart, "/no/such").status_code == 404
