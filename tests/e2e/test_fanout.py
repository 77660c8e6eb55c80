# SPDX-License-Identifier: Apache-2.0
"""What is published reaches the WebSockets that are attached to the topic."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.sync.client import ClientConnection, connect
from websockets.uri import parse_uri

from e2e.support import TIMEOUT_SECONDS, make_client, serving, unique
from node import Node, literal

LARGE_BYTES = 65536
WORKERS = 2


@pytest.fixture(scope="module")
def url(node: Node) -> Iterator[str]:
    with serving(node, "fanout_app:app", f"#{{workers => {WORKERS}}}") as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with make_client(url) as client:
        yield client


@pytest.fixture
def topic() -> str:
    return unique("topic")


def publish(client: httpx.Client, topic: str, message: str | bytes) -> int:
    kind = "text/plain" if isinstance(message, str) else "application/octet-stream"
    answer = client.post(
        f"/publish/{topic}",
        content=message.encode() if isinstance(message, str) else message,
        headers={"content-type": kind},
    )
    assert answer.status_code == 200
    reached: int = answer.json()
    return reached


@contextmanager
def attached(url: str, path: str) -> Iterator[ClientConnection]:
    """A client that reads, once its WebSocket is attached."""
    with connect(f"ws{url.removeprefix('http')}/{path}", proxy=None) as websocket:
        assert websocket.recv(TIMEOUT_SECONDS) == "attached"
        yield websocket


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS

    while not condition():
        assert time.monotonic() < deadline, "the condition was never met"
        time.sleep(0.005)


class Sleeper:
    """A client that does not read before it is told to, with a small buffer."""

    def __init__(self, url: str, path: str) -> None:
        target = urlsplit(url)
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.settimeout(TIMEOUT_SECONDS)
        self.socket.connect((target.hostname, target.port))
        self.protocol = ClientProtocol(
            parse_uri(f"ws://{target.netloc}/{path}"), max_size=None
        )
        self.protocol.send_request(self.protocol.connect())
        self.messages: list[bytes] = []
        self.flush()

        while self.messages != [b"attached"]:
            self.read()

    def __enter__(self) -> Sleeper:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def flush(self) -> None:
        for data in self.protocol.data_to_send():
            if data:
                self.socket.sendall(data)

    def read(self) -> bool:
        """Read once; whether there may be more."""
        data = self.socket.recv(65536)

        if data:
            self.protocol.receive_data(data)
        else:
            self.protocol.receive_eof()

        for event in self.protocol.events_received():
            if isinstance(event, Frame) and event.opcode is Opcode.TEXT:
                self.messages.append(bytes(event.data))

        self.flush()
        return bool(data)

    def numbers(self) -> list[int]:
        """What `flood` has put into those messages that came."""
        return [int(message.split()[0]) for message in self.messages[1:]]


def numbered(number: int) -> str:
    return f"{number} ".ljust(LARGE_BYTES)


def test_text_and_bytes_to_all_workers(
    url: str, client: httpx.Client, topic: str
) -> None:
    """One publish reaches the sockets of all workers, each once."""
    with (
        attached(url, f"by-function/{topic}") as one,
        attached(url, f"by-function/{topic}") as two,
        attached(url, f"by-message/{topic}") as three,
    ):
        assert publish(client, topic, "čaj ☕") == 3
        assert publish(client, topic, b"\x00\xff") == 3
        assert publish(client, topic, "") == 3

        for each in (one, two, three):
            received = [each.recv(TIMEOUT_SECONDS) for _ in range(3)]
            assert received == ["čaj ☕", b"\x00\xff", ""]


def test_from_erlang(url: str, client: httpx.Client, topic: str, node: Node) -> None:
    """A binary of Erlang is a text where it can be one; patterns work as elsewhere."""
    with attached(url, f"by-function/{topic}:*") as websocket:
        publish_it = f"hornbeam_pubsub:publish({literal(topic + ':x')}, "
        assert node.eval(publish_it + literal("☕") + ")") == "1"
        assert node.eval(publish_it + "<<255>>)") == "1"
        assert node.eval(publish_it + "#{})") == "0"
        assert node.eval(publish_it + "<<>>)") == "1"
        received = [websocket.recv(TIMEOUT_SECONDS) for _ in range(3)]
        assert received == ["☕", b"\xff", ""]


def test_two_topics_and_detach(url: str, client: httpx.Client, topic: str) -> None:
    """From one reply to the other, no more and no less."""
    other = unique("other")

    with attached(url, f"by-function/{topic}") as websocket:

        def ask(what: str) -> object:
            websocket.send(what)
            return websocket.recv(TIMEOUT_SECONDS)

        assert publish(client, other, "before") == 0
        assert ask(f"attach {other}") == "attached"
        assert ask(f"attach {other}") == "attached"
        assert publish(client, topic, "one") == 1
        assert publish(client, other, "two") == 1
        assert [websocket.recv(TIMEOUT_SECONDS) for _ in range(2)] == ["one", "two"]
        assert ask(f"detach {topic}") == "detached True"
        assert ask(f"detach {topic}") == "detached False"
        assert publish(client, topic, "after") == 0
        assert publish(client, other, "three") == 1
        assert websocket.recv(TIMEOUT_SECONDS) == "three"


def test_detached_by_message(url: str, client: httpx.Client, topic: str) -> None:
    with attached(url, f"by-message/{topic}") as websocket:
        assert publish(client, topic, "in") == 1
        assert websocket.recv(TIMEOUT_SECONDS) == "in"
        websocket.send("detach")
        assert websocket.recv(TIMEOUT_SECONDS) == "detached"
        assert publish(client, topic, "out") == 0


def test_not_before_it_is_accepted(url: str, topic: str) -> None:
    """The node knows the WebSocket, but nothing may be sent to it."""
    target = f"ws{url.removeprefix('http')}/too-early/{topic}"

    with connect(target, proxy=None) as websocket:
        assert websocket.recv(TIMEOUT_SECONDS) == "refused"


def test_ends_with_the_websocket(url: str, client: httpx.Client, topic: str) -> None:
    """Closed well, or cut."""
    with attached(url, f"by-function/{topic}"):
        sleeper = Sleeper(url, f"by-function/{topic}")
        assert publish(client, topic, "m") == 2
        sleeper.socket.close()
        wait_until(lambda: publish(client, topic, "m") == 1)

    wait_until(lambda: publish(client, topic, "m") == 0)


def test_too_slow_is_closed(
    url: str, client: httpx.Client, topic: str, node: Node
) -> None:
    """It gets what it had room for, in order, and 1013; others get all."""
    path = f"by-function/{topic}"

    with (
        Sleeper(url, f"{path}?max_queue=5") as sleeper,
        attached(url, path) as websocket,
    ):
        sent = 0

        while publish(client, topic, numbered(sent)) == 2:
            assert websocket.recv(TIMEOUT_SECONDS) == numbered(sent)
            sent += 1
            assert sent < 1000, "what waits for it is not bounded"

        assert websocket.recv(TIMEOUT_SECONDS) == numbered(sent)

        while sleeper.read():
            pass

        assert sleeper.protocol.close_code == 1013
        assert sleeper.protocol.close_reason == "the client does not keep up"
        received = sleeper.numbers()
        assert received == list(range(len(received)))
        # All but what waited in the node, and the one too many.
        assert sent - 6 <= len(received) <= sent


def test_too_slow_loses_the_oldest(
    url: str, client: httpx.Client, topic: str, node: Node
) -> None:
    """It stays, and goes on with the newest when it reads again."""
    path = f"by-function/{topic}?overflow=drop_oldest&max_queue=5"
    before = dropped(node)

    with Sleeper(url, path) as sleeper:
        sent = 0

        while sent < 50 or dropped(node) < before + 20:
            assert publish(client, topic, numbered(sent)) == 1
            sent += 1
            assert sent < 1000, "nothing is ever dropped"

        while sleeper.numbers()[-1:] != [sent - 1]:
            assert sleeper.read()

        received = sleeper.numbers()
        assert received == sorted(set(received))
        assert received[-5:] == list(range(sent - 5, sent))
        assert len(received) == sent - (dropped(node) - before)
        # As before.
        assert publish(client, topic, numbered(sent)) == 1

        while sleeper.numbers()[-1] != sent:
            assert sleeper.read()


def dropped(node: Node) -> int:
    return int(node.eval("maps:get(dropped, hornbeam_fanout:info())"))
