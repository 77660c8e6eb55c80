# SPDX-License-Identifier: Apache-2.0
"""What is published goes to the WebSockets that are attached to its topic."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from e2e.support import serving
from e2e.talk import closing, connect, ended, get, take, take_json
from node import Node


@pytest.fixture(scope="module")
def raw(node: Node) -> Iterator[str]:
    with serving(node, "websocket_raw:app") as url:
        yield url


@pytest.fixture(scope="module")
def fastapi(node: Node) -> Iterator[str]:
    with serving(node, "websocket_fastapi:app") as url:
        yield url


@pytest.fixture(scope="module")
def quart(node: Node) -> Iterator[str]:
    with serving(node, "websocket_quart:app") as url:
        yield url


@pytest.fixture
def name() -> str:
    return uuid.uuid4().hex


def test_attachment(raw: str, name: str) -> None:
    """What is published goes to all who are attached, and to nobody afterwards."""
    with connect(raw, f"/attach?{name}") as first:
        assert take_json(first) == "attached"

        with connect(raw, f"/attach?{name}") as second:
            assert take_json(second) == "attached"
            assert get(raw, f"/publish/{name}?one") == 2
            assert (take(first), take(second)) == ("one", "one")

        while get(raw, f"/publish/{name}?two") == 2:
            pass

        assert take(first) == "two"


def test_fastapi_rooms(fastapi: str, name: str) -> None:
    with (
        connect(fastapi, f"/rooms/{name}") as first,
        connect(fastapi, f"/rooms/{name}") as second,
    ):
        assert (take(first), take(second)) == ("attached", "attached")
        first.send("hello")
        assert (take(first), take(second)) == ("hello", "hello")
        second.send("leave")
        assert take_json(second) is True
        second.send("leave")
        assert take_json(second) is False
        second.send("from outside")
        assert take(first) == "from outside"


def test_quart_rooms(quart: str, name: str) -> None:
    with connect(quart, f"/rooms/{name}") as client:
        assert take(client) == "attached"


def test_what_goes_out(raw: str, node: Node, name: str) -> None:
    """Text as text, bytes as bytes, from Erlang too; what is neither is left out."""
    with connect(raw, f"/attach?{name}:%23") as client:
        assert take_json(client) == "attached"

        for topic, message, count in [
            (name, '<<"größe"/utf8>>', "1"),
            (f"{name}:a", "<<255, 0>>", "1"),
            (f"{name}:a:b", "#{a => 1}", "0"),
            (f"{name}:c", "<<>>", "1"),
        ]:
            reached = node.eval(f'hornbeam_pubsub:publish(<<"{topic}">>, {message})')
            assert reached == count

        assert [take(client) for _ in range(3)] == ["größe", b"\xff\0", ""]


def test_client_that_does_not_keep_up(raw: str, node: Node, name: str) -> None:
    """It is closed with 1013, and the application told so."""
    with connect(raw, f"/attach?{name}", max_queue=1) as client:
        assert take_json(client) == "attached"
        node.eval(
            f'[hornbeam_pubsub:publish(<<"{name}">>, binary:copy(<<"x">>, 65536))'
            " || _ <- lists:seq(1, 2000)], ok"
        )
        # Now it reads, what was on its way and the end.
        assert closing(client)[0] == 1013

    assert ended(raw, name)[0] == 1013
