# SPDX-License-Identifier: Apache-2.0
"""Back-pressure: who does not read costs a window, whatever the size of the body."""

from __future__ import annotations

import hashlib
import os
import threading
import time
import uuid
from collections.abc import Iterator

import pytest

from e2e.observe import FREEING, Server, resident_bytes, serving
from e2e.raw import Connection, request, settled, wait_until
from node import Node

MEBIBYTE = 1 << 20
GIBIBYTE = 1 << 30
LARGE_BYTES = GIBIBYTE if os.environ.get("HORNBEAM_FULL") == "1" else GIBIBYTE // 4
PART_BYTES = 65536

MAX_GROWTH_BYTES = 8 * MEBIBYTE

# What Linux holds of a loopback connection: tcp_wmem and tcp_rmem at their largest.
MAX_SOCKET_BYTES = 12 * MEBIBYTE


@pytest.fixture
def server() -> Iterator[Server]:
    """On a node of its own: memory that earlier tests have left free hides growth."""
    with Node(env=FREEING) as node, serving(node, "flow") as running:
        warm_up(running)
        yield running


@pytest.fixture
def name() -> str:
    return uuid.uuid4().hex


class Memory:
    """How much node and worker have grown, in RAM and in what Erlang counts itself."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._pids = {
            "node": server.node.os_pid,
            "worker": server.worker_pids()[0],
        }
        self._before = self._read()

    def _read(self) -> dict[str, int]:
        sizes = {who: resident_bytes(pid) for who, pid in self._pids.items()}
        sizes["erlang"] = int(self._server.node.eval("erlang:memory(total)"))
        return sizes

    def growth(self) -> dict[str, int]:
        after = self._read()
        return {who: after[who] - self._before[who] for who in after}

    def check(
        self, *, held_by_application: int = 0, limit: int = MAX_GROWTH_BYTES
    ) -> None:
        growth = self.growth()
        print("growth in KiB:", {who: size // 1024 for who, size in growth.items()})  # noqa: T201
        growth["worker"] -= held_by_application
        assert max(growth.values()) < limit, growth


def warm_up(server: Server) -> None:
    """The first large body makes buffers and heaps that are kept."""
    name = uuid.uuid4().hex
    ask(server, f"/open/{name}", "POST")

    with Connection(server.url) as client:
        assert len(client.get(f"/download/{name}?{MEBIBYTE},65536").body) == MEBIBYTE
        assert client.post(f"/upload/{name}", b"x" * MEBIBYTE).status == 200


def ask(server: Server, target: str, method: str = "GET") -> str:
    with Connection(server.url) as connection:
        answer = connection.exchange(method, target, [("Connection", "close")])

    assert answer.status == 200, answer
    return answer.text


def progress(server: Server, name: str) -> int:
    return int(ask(server, f"/progress/{name}"))


@pytest.mark.parametrize("part_bytes", [PART_BYTES, 16 * MEBIBYTE])
def test_client_that_reads_nothing(server: Server, name: str, part_bytes: int) -> None:
    """A gigabyte for it: the application's send() waits, and nothing piles up.

    However large the parts are: what the application holds itself is its own affair.
    """
    memory = Memory(server)

    with Connection(server.url) as client:
        client.send(request(target=f"/download/{name}?{GIBIBYTE},{part_bytes}"))
        assert client.start_response().status == 200
        sent = settled_progress(server, name)
        memory.check(held_by_application=part_bytes)
        assert sent < MAX_SOCKET_BYTES + part_bytes

    wait_until(lambda: server.in_flight() == 0, "the application has left")
    assert ask(server, f"/error/{name}") == "ClientDisconnected"


def settled_progress(server: Server, name: str) -> int:
    return settled(lambda: progress(server, name))


def test_slow_reader_gets_everything(server: Server, name: str) -> None:
    """It stops for a while, goes on, and misses nothing."""
    size = 32 * MEBIBYTE
    expected = hashlib.sha256(bytes(range(256)) * (size // 256)).hexdigest()
    digest = hashlib.sha256()

    with Connection(server.url) as client:
        client.send(request(target=f"/download/{name}?{size},{PART_BYTES}"))
        incoming = client.start_response()
        assert settled_progress(server, name) < size

        while part := incoming.read_part():
            digest.update(part)

    assert digest.hexdigest() == expected


@pytest.mark.parametrize("is_chunked", [False, True])
def test_application_that_reads_nothing(
    server: Server, name: str, is_chunked: bool
) -> None:
    """A gigabyte to it: the client is held, and nothing piles up."""
    memory = Memory(server)

    with Connection(server.url) as client:
        sender = Sender(client, f"/upload/{name}", GIBIBYTE, is_chunked)
        sender.send_until_held()
        memory.check()
        assert 0 < sender.sent < MAX_SOCKET_BYTES
        assert progress(server, name) == 0

    ask(server, f"/open/{name}", "POST")


@pytest.mark.parametrize("is_chunked", [False, True])
def test_application_that_stops_to_read(
    server: Server, name: str, is_chunked: bool
) -> None:
    """Its window has grown by then: it costs more, but as little of a gigabyte."""
    memory = Memory(server)
    ask(server, f"/open/{name}", "POST")

    with Connection(server.url) as client:
        sender = Sender(client, f"/upload/{name}?{MEBIBYTE}", GIBIBYTE, is_chunked)
        sender.send_until_held()

        while (taken := progress(server, name)) < MEBIBYTE:
            # Somebody got no time to run.
            sender.send_until_held()

        # It takes all that is there at once, which is up to a window and some reads.
        assert MEBIBYTE <= taken < 3 * MEBIBYTE
        memory.check()
        assert sender.sent - taken < MAX_SOCKET_BYTES

    ask(server, f"/open/{name}-rest", "POST")


@pytest.mark.parametrize("garbage", [b"x", b"f", b"0", b"5;", b"0\r\nX: y\r\n"])
def test_garbage_in_place_of_chunks(server: Server, name: str, garbage: bytes) -> None:
    """Ends the connection, however much of it comes, also where nobody reads."""
    memory = Memory(server)
    headers = [("Transfer-Encoding", "chunked")]
    deadline = time.monotonic() + 10

    with Connection(server.url) as client:
        client.send(request("POST", f"/upload/{name}", headers) + garbage)

        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            # For a moment it is read, and dropped.
            while time.monotonic() < deadline:
                client.send(garbage[-6:] * 20_000)

    memory.check()
    ask(server, f"/open/{name}", "POST")


def test_slow_application_gets_everything(server: Server, name: str) -> None:
    """When it begins to read at last, all of the body is there."""
    size = 32 * MEBIBYTE

    with Connection(server.url) as client:
        sender = Sender(client, f"/upload/{name}", size, is_chunked=False)
        sender.send_until_held()
        assert sender.sent < size
        ask(server, f"/open/{name}", "POST")
        sender.send_rest()
        assert client.read_response("POST").text == sender.digest.hexdigest()


@pytest.mark.parametrize(
    ("size", "is_chunked"), [(LARGE_BYTES, False), (64 * MEBIBYTE, True)]
)
def test_large_body_there_and_back(
    server: Server, name: str, size: int, is_chunked: bool
) -> None:
    """Echoed while it comes: the same digest arrives, and no one holds the body."""
    memory = Memory(server)
    began = time.monotonic()

    with Connection(server.url) as client:
        sender = Sender(client, "/echo-stream", size, is_chunked)
        thread = threading.Thread(target=sender.send_rest)
        thread.start()
        incoming = client.start_response("POST")
        digest = hashlib.sha256()
        received = 0

        while part := incoming.read_part():
            digest.update(part)
            received += len(part)

        thread.join()

    seconds = time.monotonic() - began
    print(f"{received >> 20} MiB there and back in {seconds:.1f} s")  # noqa: T201
    memory.check()
    assert received == size
    assert digest.hexdigest() == sender.digest.hexdigest()


def test_many_clients_that_read_nothing(server: Server, name: str) -> None:
    """Each costs less than two megabytes, and others are served meanwhile."""
    memory = Memory(server)
    clients = [Connection(server.url, receive_buffer=4096) for _ in range(20)]

    try:
        for number, client in enumerate(clients):
            target = f"/download/{name}-{number}?{GIBIBYTE},{PART_BYTES}"
            client.send(request(target=target))

        names = [f"{name}-{number}" for number in range(len(clients))]
        settled(lambda: sum(progress(server, each) for each in names))
        memory.check(limit=2 * len(clients) * MEBIBYTE)
    finally:
        for client in clients:
            client.close()


class Sender:
    """Sends a body, and notices when the server takes no more."""

    def __init__(
        self, client: Connection, target: str, size: int, is_chunked: bool
    ) -> None:
        self._socket = client.socket
        self._size = size
        self._is_chunked = is_chunked
        self._part = os.urandom(PART_BYTES)
        self._pending = b""
        self.sent = 0
        self.digest = hashlib.sha256()
        framing = (
            ("Transfer-Encoding", "chunked")
            if is_chunked
            else ("Content-Length", str(size))
        )
        client.send(request("POST", target, [framing]))

    def send_until_held(self, seconds: float = 0.5) -> None:
        """Send until the socket takes nothing for so long, or all is sent."""
        timeout = self._socket.gettimeout()
        self._socket.settimeout(seconds)

        try:
            while self.sent < self._size:
                self._send_some()
        except TimeoutError:
            pass
        finally:
            self._socket.settimeout(timeout)

    def send_rest(self) -> None:
        while self.sent < self._size or self._pending:
            self._send_some()

        if self._is_chunked:
            self._socket.sendall(b"0\r\n\r\n")

    def _send_some(self) -> None:
        if not self._pending:
            self._pending = self._next()

        count = self._socket.send(self._pending)
        self._pending = self._pending[count:]

    def _next(self) -> bytes:
        part = self._part[: self._size - self.sent]
        self.sent += len(part)
        self.digest.update(part)
        return b"%x\r\n%b\r\n" % (len(part), part) if self._is_chunked else part


def test_growth_is_noticed(server: Server) -> None:
    """The measure itself: ten megabytes more in the node are seen."""
    memory = Memory(server)
    server.node.eval(
        "spawn(fun() -> Ballast = binary:copy(<<1>>, 10485760),"
        " register(ballast, self()), receive stop -> byte_size(Ballast) end end)"
    )
    wait_until(
        lambda: server.node.eval("whereis(ballast)") != "undefined", "it is there"
    )
    growth = memory.growth()
    assert min(growth["node"], growth["erlang"]) > MAX_GROWTH_BYTES, growth


def test_reader_that_takes_nothing_is_cut(node: Node, name: str) -> None:
    """After `send_timeout` without a byte taken it is cut off, and send() raises."""
    with serving(node, "flow", "#{send_timeout => 300}") as server:
        with Connection(server.url, receive_buffer=4096) as client:
            client.send(request(target=f"/download/{name}?{GIBIBYTE},{PART_BYTES}"))
            wait_until(lambda: server.connections() == 0, "the connection is cut")
            wait_until(
                lambda: ask(server, f"/error/{name}") == "ClientDisconnected",
                "the application is told",
            )


def test_reader_that_is_steady_is_not_cut(node: Node, name: str) -> None:
    """`send_timeout` is for 64 KiB, not for a window of any size."""
    window = 16 * MEBIBYTE
    options = f"#{{send_timeout => 1500, window => {window}}}"

    with (
        serving(node, "flow", options) as server,
        Connection(server.url, receive_buffer=PART_BYTES) as client,
    ):
        client.send(request(target=f"/download/{name}?{window},{window}"))
        incoming = client.start_response()
        received = 0

        while part := incoming.read_part():
            received += len(part)
            # All of it takes longer than that time.
            time.sleep(len(part) / (5 * MEBIBYTE))

    assert received == window
