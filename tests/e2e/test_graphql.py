# SPDX-License-Identifier: Apache-2.0
"""GraphQL subscriptions of strawberry, by both of the protocols that clients speak."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from e2e.reference import serving_any
from e2e.sockets import TIMEOUT_SECONDS, SyncConnection, connect
from e2e.support import make_client, unique, wait_for_gate
from node import Node


@dataclass(frozen=True)
class Protocol:
    """The names that a protocol has for its messages."""

    name: str
    start: str
    item: str
    stop: str


MODERN = Protocol("graphql-transport-ws", "subscribe", "next", "complete")
LEGACY = Protocol("graphql-ws", "start", "data", "stop")

EACH_PROTOCOL = pytest.mark.parametrize(
    "protocol", [MODERN, LEGACY], ids=lambda protocol: protocol.name
)


@pytest.fixture(scope="module")
def client(node: Node) -> Iterator[httpx.Client]:
    with serving_any(node, "graphql_app:app") as url, make_client(url) as client:
        yield client


class Speaker:
    """A client of one of the protocols."""

    def __init__(self, socket: SyncConnection, protocol: Protocol) -> None:
        self._socket = socket
        self._protocol = protocol

    def send(self, kind: str, **fields: Any) -> None:
        self._socket.send(json.dumps({"type": kind, **fields}))

    def take(self) -> dict[str, Any]:
        """The next message that is no sign of life."""
        while True:
            message: dict[str, Any] = json.loads(self._socket.recv(TIMEOUT_SECONDS))

            if message["type"] != "ka":
                return message

    def begin(self) -> None:
        self.send("connection_init")
        assert self.take()["type"] == "connection_ack"

    def subscribe(self, name: str, query: str) -> None:
        self.send(self._protocol.start, id=name, payload={"query": query})

    def stop(self, name: str) -> None:
        self.send(self._protocol.stop, id=name)

    def take_items(self, name: str) -> list[Any]:
        """What a subscription gives, to its end; the only one that runs."""
        items = []

        while (message := self.take())["type"] == self._protocol.item:
            assert message["id"] == name
            items.append(message["payload"])

        assert message == {"type": "complete", "id": name}
        return items


@pytest.fixture
def speak(client: httpx.Client, protocol: Protocol) -> Iterator[Speaker]:
    url = str(client.base_url).rstrip("/")

    with connect(url, "/graphql/", protocols=[protocol.name]) as socket:
        assert socket.subprotocol == protocol.name
        speaker = Speaker(socket, protocol)
        speaker.begin()
        yield speaker


def test_query(client: httpx.Client) -> None:
    """Beside the subscriptions: by HTTP."""
    answer = client.post("/graphql/", json={"query": '{ hello(name: "you") }'})
    assert answer.json() == {"data": {"hello": "hello you"}}


@EACH_PROTOCOL
def test_subscription(speak: Speaker) -> None:
    """All of its items in order, then its end; again on the same socket."""
    for number in (0, 1, 500):
        name = f"s{number}"
        speak.subscribe(name, f"subscription {{ count(to: {number}) }}")
        expected = [{"data": {"count": each}} for each in range(number)]
        assert speak.take_items(name) == expected


@EACH_PROTOCOL
def test_several_at_once(speak: Speaker) -> None:
    """Each has its own items, in its own order."""
    names = [f"s{each}" for each in range(10)]

    for name in names:
        speak.subscribe(name, "subscription { count(to: 50) }")

    seen: dict[str, list[Any]] = {name: [] for name in names}
    running = set(names)

    while running:
        message = speak.take()

        if message["type"] == "complete":
            running.remove(message["id"])
        else:
            seen[message["id"]].append(message["payload"]["data"]["count"])

    assert all(items == list(range(50)) for items in seen.values())


@EACH_PROTOCOL
def test_stopped(client: httpx.Client, speak: Speaker) -> None:
    """The generator is closed when the client wants no more."""
    name = unique("endless")
    speak.subscribe("s", f'subscription {{ endless(name: "{name}") }}')
    assert speak.take()["payload"] == {"data": {"endless": name}}
    speak.stop("s")
    wait_for_gate(client, name)


@EACH_PROTOCOL
def test_client_that_leaves(client: httpx.Client, protocol: Protocol) -> None:
    """So it is when the socket is closed, or gone."""
    url = str(client.base_url).rstrip("/")

    for is_rude in (False, True):
        name = unique("endless")

        with connect(url, "/graphql/", protocols=[protocol.name]) as socket:
            speaker = Speaker(socket, protocol)
            speaker.begin()
            speaker.subscribe("s", f'subscription {{ endless(name: "{name}") }}')
            speaker.take()

            if is_rude:
                socket.socket.shutdown(2)

        wait_for_gate(client, name)


@EACH_PROTOCOL
def test_failure_in_a_subscription(speak: Speaker, protocol: Protocol) -> None:
    """It is told, and the socket goes on."""
    speak.subscribe("s", "subscription { failing }")
    messages = [speak.take() for _ in range(2)]
    assert messages[0]["payload"] == {"data": {"failing": 1}}
    assert "on purpose" in json.dumps(messages[1])

    if speak.take()["type"] != "complete":
        raise AssertionError("the subscription goes on")

    speak.subscribe("t", "subscription { count(to: 2) }")
    assert len(speak.take_items("t")) == 2


def test_pings_of_the_protocol(client: httpx.Client) -> None:
    url = str(client.base_url).rstrip("/")

    with connect(url, "/graphql/", protocols=[MODERN.name]) as socket:
        speaker = Speaker(socket, MODERN)
        speaker.begin()
        speaker.send("ping")
        assert speaker.take() == {"type": "pong"}


def test_broken_message(client: httpx.Client) -> None:
    """What the protocol does not allow ends the socket with the code that it names."""
    url = str(client.base_url).rstrip("/")

    with connect(url, "/graphql/", protocols=[MODERN.name]) as socket:
        socket.send('{"type": "nonsense"}')

        with pytest.raises(ConnectionClosed):
            socket.recv(TIMEOUT_SECONDS)

        assert socket.close_code == 4400


def test_protocol_that_nobody_speaks(client: httpx.Client) -> None:
    url = str(client.base_url).rstrip("/")

    with connect(url, "/graphql/", protocols=["other"]) as socket:
        with pytest.raises(ConnectionClosed):
            socket.recv(TIMEOUT_SECONDS)

        assert socket.close_code == 4406
