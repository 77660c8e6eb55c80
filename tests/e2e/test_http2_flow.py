# SPDX-License-Identifier: Apache-2.0
"""HTTP/2: who does not read, or is not read, costs a window, and holds nobody else."""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable, Iterator

import pytest

from e2e.http2 import INITIAL_WINDOW, Client, Stream
from e2e.observe import FREEING, Server, resident_bytes, serving
from e2e.raw import settled, wait_until
from node import Node

KIBIBYTE = 1 << 10
MEBIBYTE = 1 << 20

WINDOW_BYTES = 65536
PART_BYTES = 65536

MAX_GROWTH_BYTES = 8 * MEBIBYTE
STREAMS = 90


@pytest.fixture
def own_server() -> Iterator[Server]:
    """On a node of its own: memory that earlier tests have left free hides growth."""
    with Node(env=FREEING) as node, serving(node, "http2") as running:
        with Client(running.url) as client:
            # The first large body makes buffers and heaps that are kept.
            assert len(client.get(f"/download/warm?{MEBIBYTE},65536").body) == MEBIBYTE

        yield running


@pytest.fixture(scope="module")
def server(node: Node) -> Iterator[Server]:
    with serving(node, "http2", "#{shutdown_timeout => 500}") as running:
        yield running


@pytest.fixture
def name() -> str:
    return uuid.uuid4().hex


def ask(server: Server, target: str) -> str:
    with Client(server.url) as client:
        answer = client.get(target)

    assert answer.status == 200, answer
    return answer.text


def progress(server: Server, name: str) -> int:
    return int(ask(server, f"/progress/{name}"))


def memory(server: Server) -> Callable[[], dict[str, int]]:
    """A function that says how much node and worker have grown since."""

    def read() -> dict[str, int]:
        return {
            "node": resident_bytes(server.node.os_pid),
            "worker": resident_bytes(server.worker_pids()[0]),
            "erlang": int(server.node.eval("erlang:memory(total)")),
        }

    before = read()
    return lambda: {who: size - before[who] for who, size in read().items()}


def expected_digest(size: int) -> str:
    data = (bytes(range(256)) * (PART_BYTES // 256 + 1))[:PART_BYTES]
    return hashlib.sha256(data * (size // PART_BYTES)).hexdigest()


def test_client_that_gives_no_window(own_server: Server, name: str) -> None:
    """Of 256 MiB a window or two leave the application; then all of them come."""
    size = 256 * MEBIBYTE
    grown = memory(own_server)

    with Client(own_server.url, gives_window=False) as client:
        stream_id = client.request(f"/download/{name}?{size},{PART_BYTES}")
        stream = client.streams[stream_id]
        client.pump(lambda: len(stream.received) == 65535, "the window is used up")
        held = settled(lambda: progress(own_server, name))
        assert held <= 65535 + WINDOW_BYTES + 2 * PART_BYTES
        assert max(grown().values()) < MAX_GROWTH_BYTES, grown()

        digest = hashlib.sha256(stream.body)
        received = drain(client, stream, digest.update)
        assert received + 65535 == size
        assert digest.hexdigest() == expected_digest(size)
        assert max(grown().values()) < MAX_GROWTH_BYTES, grown()


def drain(client: Client, stream: Stream, take: Callable[[bytes], None]) -> int:
    """Open the windows and take what comes, to the end; how much that was."""
    stream.received.clear()
    client.gives_window = True
    taken = 0

    for stream_id, each in client.streams.items():
        if each is stream:
            client.give_window(MEBIBYTE, stream_id)

    client.give_window(MEBIBYTE)

    while not stream.is_over:
        client.read(1)
        take(bytes(stream.body))
        taken += len(stream.received)
        stream.received.clear()

    assert stream.reset is None
    return taken


def test_many_streams_on_a_stalled_connection(own_server: Server, name: str) -> None:
    """Each costs a window; the connection is of use again when it is read."""
    size = MEBIBYTE
    grown = memory(own_server)
    # Each stream has a window of its own, the connection's is for all of them.
    settings = {INITIAL_WINDOW: 16 * MEBIBYTE}

    with Client(own_server.url, settings=settings, gives_window=False) as client:
        ids = [
            client.request(f"/download/{name}-{n}?{size},{PART_BYTES}")
            for n in range(STREAMS)
        ]
        client.pump(
            lambda: (
                sum(len(each.received) for each in client.streams.values()) == 65535
            ),
            "the connection's window is used up",
        )
        names = [f"{name}-{n}" for n in range(STREAMS)]
        held = settled(lambda: sum(progress(own_server, each) for each in names))
        assert held <= STREAMS * (WINDOW_BYTES + 2 * PART_BYTES)
        growth = grown()
        assert growth["erlang"] < 2 * STREAMS * WINDOW_BYTES + MAX_GROWTH_BYTES, growth

        client.gives_window = True
        client.give_window(2**31 - 1 - 65535)

        for stream_id in ids:
            assert len(client.finish(stream_id).received) == size


def test_one_slow_stream_holds_no_other(server: Server, name: str) -> None:
    with Client(server.url, gives_window=False) as client:
        client.give_window(64 * MEBIBYTE)
        slow = client.request(f"/download/{name}?{MEBIBYTE},{PART_BYTES}")
        stream = client.streams[slow]
        client.pump(lambda: len(stream.received) == 65535, "its window is used up")

        for _ in range(20):
            assert client.get("/hello").text == "hello"

        client.give_window(MEBIBYTE, slow)
        assert len(client.finish(slow).body) == MEBIBYTE


def test_client_that_stalls_is_cut(node: Node, name: str) -> None:
    """After `send_timeout` its stream is reset, and the application is told."""
    with (
        serving(node, "http2", "#{send_timeout => 300}") as server,
        Client(server.url, gives_window=False) as client,
    ):
        stream_id = client.request(f"/download/{name}?{MEBIBYTE},{PART_BYTES}")
        assert client.finish(stream_id).reset == "INTERNAL_ERROR"
        assert len(client.streams[stream_id].received) == 65535
        wait_until(lambda: ask(server, f"/outcome/{name}") != "", "it is told")
        assert ask(server, f"/outcome/{name}") == "ClientDisconnected"


def test_stall_at_the_end_is_cut(node: Node, name: str) -> None:
    """Also where the application has sent all and is gone."""
    size = 100_000

    with (
        serving(node, "http2", "#{send_timeout => 300, window => 262144}") as server,
        Client(server.url, gives_window=False) as client,
    ):
        stream_id = client.request(f"/download/{name}?{size},{size}")
        wait_until(lambda: ask(server, f"/outcome/{name}") == "complete", "all is sent")
        assert client.finish(stream_id).reset == "INTERNAL_ERROR"


def test_slow_client_is_not_cut(node: Node, name: str) -> None:
    """As long as it takes something, however long all of it takes."""
    began = time.monotonic()

    with (
        serving(node, "http2", "#{send_timeout => 1500}") as server,
        Client(server.url, gives_window=False) as client,
    ):
        stream_id = client.request(f"/download/{name}?200000,100000")
        stream = client.streams[stream_id]

        while not stream.is_over:
            before = len(stream.received)
            client.give_window(15000, stream_id)
            client.give_window(15000)
            client.pump(lambda: len(stream.received) > before, "some more comes")  # noqa: B023
            settled(lambda: len(stream.received), seconds=0.25)

        assert stream.reset is None
        assert len(stream.received) == 200000
        assert time.monotonic() - began > 1.5


def test_client_that_reads_nothing_at_all(node: Node, name: str) -> None:
    """Its socket fills up: the connection is closed."""
    options = "#{send_timeout => 300}"
    settings = {INITIAL_WINDOW: 2**31 - 1}

    with (
        serving(node, "http2", options) as server,
        Client(server.url, settings=settings, receive_buffer=4096) as client,
    ):
        client.give_window(2**31 - 1 - 65535)
        client.request(f"/download/{name}?{64 * MEBIBYTE},{PART_BYTES}")
        wait_until(lambda: ask(server, f"/outcome/{name}") != "", "it is told")
        assert ask(server, f"/outcome/{name}") == "ClientDisconnected"


def test_application_that_reads_nothing(own_server: Server, name: str) -> None:
    """Its stream's window closes; others upload beside it, over and over."""
    grown = memory(own_server)

    with Client(own_server.url) as client:
        held = client.request(f"/upload/{name}", method="POST", ends=False)
        body = b"x" * MEBIBYTE
        sent = send_until_held(client, held, body, 65535)
        assert sent == 65535
        assert progress(own_server, name) == 0

        for _ in range(8):
            echoed = client.finish(client.request("/echo", method="POST", body=body))
            assert len(echoed.body) == MEBIBYTE

        assert max(grown().values()) < 2 * MAX_GROWTH_BYTES, grown()
        ask(own_server, f"/opener/{name}")
        client.send_body(held, body[sent:])
        assert client.finish(held).text == hashlib.sha256(body).hexdigest()


def send_until_held(client: Client, stream_id: int, body: bytes, at_least: int) -> int:
    """Send so much, and on until the server gives no window for a while."""
    sent = 0

    def send() -> int:
        nonlocal sent
        client.read()
        sent += client.send_some(stream_id, body[sent:])
        return sent

    wait_until(lambda: send() >= at_least, "the server gives window")
    return settled(send, seconds=0.2)


def test_many_that_are_not_read_starve_nobody(server: Server, name: str) -> None:
    """The connection has window for one more, whatever the others hold."""
    with Client(server.url) as client:
        ids = [
            client.request(f"/upload/{name}", method="POST", ends=False)
            for _ in range(STREAMS)
        ]
        client.pump(
            lambda: client.h2.outbound_flow_control_window > 65535, "window comes"
        )
        body = b"y" * 100_000

        for stream_id in ids:
            assert client.send_some(stream_id, body) == 65535

        echoed = client.finish(client.request("/echo", method="POST", body=body))
        assert echoed.body == body
        client.get(f"/opener/{name}")

        for stream_id in ids:
            client.send_body(stream_id, body[65535:])

        digest = hashlib.sha256(body).hexdigest()
        assert {client.finish(each).text for each in ids} == {digest}


@pytest.mark.parametrize(
    ("window", "comes"), [(4096, 65535), (65536, 65535), (MEBIBYTE, MEBIBYTE)]
)
def test_uploads_with_other_windows(node: Node, window: int, comes: int) -> None:
    """What the option says comes unread; no less than the protocol gives."""
    with (
        serving(node, "http2", f"#{{window => {window}}}") as server,
        Client(server.url) as client,
    ):
        held = client.request("/upload/w", method="POST", ends=False)
        body = b"z" * (3 * MEBIBYTE)
        sent = send_until_held(client, held, body, comes)
        assert sent == comes
        ask(server, "/opener/w")
        client.send_body(held, body[sent:])
        assert client.finish(held).text == hashlib.sha256(body).hexdigest()


def test_body_timeout(node: Node) -> None:
    """The application waits, and nothing comes."""
    with (
        serving(node, "http2", "#{body_timeout => 200}") as server,
        Client(server.url) as client,
    ):
        stream_id = client.request("/echo", method="POST", body=b"x", ends=False)
        stream = client.streams[stream_id]
        client.pump(lambda: stream.is_over, "there is an answer")
        assert stream.status == 408
        assert client.get("/hello").status == 200


def test_max_body(node: Node) -> None:
    with (
        serving(node, "http2", "#{max_body => 1000}") as server,
        Client(server.url) as client,
    ):
        large = client.request("/echo", method="POST", body=b"x" * 1001, ends=False)
        stream = client.streams[large]
        client.pump(lambda: stream.is_over, "there is an answer")
        assert stream.status == 413
        edge = client.request("/echo", method="POST", body=b"x" * 1000)
        assert len(client.finish(edge).body) == 1000
