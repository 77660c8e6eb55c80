# SPDX-License-Identifier: Apache-2.0
"""Large bodies that a worker writes to the client's socket, which the node lends it."""

from __future__ import annotations

import os
import signal
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest

from e2e.certificates import Authority
from e2e.lending import (
    MEBIBYTE,
    SEND_TIMEOUT_S,
    SIZE,
    ask,
    lent,
    read_slowly,
    sockets_of,
    wait_until_lent,
)
from e2e.observe import Server, serving
from e2e.raw import Connection, Cut, request, wait_until
from e2e.raw_apps.loans import body_of
from node import Node

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="needs abstract names of sockets, and /proc"
)

MANY = 100


@pytest.fixture(scope="module")
def server(node: Node) -> Iterator[Server]:
    with serving(node, "loans") as running:
        yield running


@pytest.fixture
def own_server(node: Node) -> Iterator[Server]:
    """For tests that harm a worker."""
    with serving(node, "loans") as running:
        yield running


@pytest.fixture
def name() -> str:
    return uuid.uuid4().hex


@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "trio"])
@pytest.mark.parametrize("part_bytes", [SIZE, 100_000])
def test_body_of_a_client_that_waits(
    node: Node, name: str, loop: str, part_bytes: int
) -> None:
    """Lent as long as it is written; then the connection serves the next requests."""
    with (
        serving(node, "loans", f"#{{loop => {loop}}}") as server,
        Connection(server.url) as client,
    ):
        for _ in range(2):
            client.send(request(target=f"/sized/{name}?{SIZE},{part_bytes}"))
            incoming = client.start_response()
            wait_until_lent(server, 1)
            answer = incoming.finish()
            assert answer.body == body_of(SIZE)
            assert answer.one("content-length") == b"%d" % SIZE
            wait_until_lent(server, 0)
            assert client.get(f"/error/{name}").text == ""


def test_whole_body_gets_a_length(server: Server, name: str) -> None:
    with Connection(server.url) as client:
        client.send(request(target=f"/announced-later/{name}?{SIZE}"))
        incoming = client.start_response()
        wait_until_lent(server, 1)
        assert incoming.finish().body == body_of(SIZE)


@pytest.mark.parametrize("path", ["beside", "given-up"])
def test_two_halves(server: Server, name: str, path: str) -> None:
    """In their order, and whole, whatever becomes of the send() of the first."""
    with Connection(server.url) as client:
        for size in (SIZE, 200_000):
            assert client.get(f"/{path}/{name}?{size}").body == body_of(size)


def test_one_after_the_other_on_one_connection(server: Server, name: str) -> None:
    """Requests that come together are answered in order."""
    sizes = [SIZE, 10, 300_000, 2 * MEBIBYTE, 131_072, 131_071]

    with Connection(server.url) as client:
        client.send(
            b"".join(request(target=f"/sized/{name}?{size},{size}") for size in sizes)
        )

        for size in sizes:
            assert client.read_response().body == body_of(size)


def test_head_is_not_lent(server: Server, name: str) -> None:
    with Connection(server.url) as client:
        answer = client.exchange("HEAD", f"/sized/{name}?{SIZE},{SIZE}")
        assert (answer.one("content-length"), answer.body) == (b"%d" % SIZE, b"")
        assert client.get(f"/error/{name}").status == 200


def check_kept(server: Server, client: Connection, name: str, *headers: str) -> None:
    """A body that comes whole, though nothing is lent for it."""
    pairs = [(header, value) for header, value in (h.split("=") for h in headers)]
    client.send(request(target=f"/sized/{name}?{SIZE},{SIZE}", headers=pairs))
    incoming = client.start_response()
    incoming.read_until(MEBIBYTE)
    assert lent(server) == 0
    assert incoming.finish().body == body_of(SIZE)


@pytest.mark.parametrize("header", ["Connection=close", "TE=trailers"])
def test_connection_of_cowboy_is_kept(server: Server, name: str, header: str) -> None:
    """It could not be told what was written."""
    with Connection(server.url) as client:
        check_kept(server, client, name, header)


def test_tls_is_kept(
    node: Node, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    authority = Authority(tmp_path_factory.mktemp("tls"))
    options = authority.issue("server").options()

    with serving(node, "loans", options) as server:
        with Connection(server.url, tls=authority.context()) as client:
            check_kept(server, client, name)


def test_http2_is_kept(server: Server, name: str) -> None:
    with httpx.Client(http1=False, http2=True, trust_env=False) as client:
        answer = client.get(f"{server.url}/sized/{name}?{SIZE},{SIZE}")
        assert answer.http_version == "HTTP/2"
        assert answer.content == body_of(SIZE)


@pytest.mark.parametrize("how", ["close", "reset"])
def test_client_that_leaves(server: Server, name: str, how: str) -> None:
    client = Connection(server.url)
    client.send(request(target=f"/sized/{name}?{SIZE},{SIZE}"))
    client.start_response()
    wait_until_lent(server, 1)
    (client.reset if how == "reset" else client.close)()
    wait_until_lent(server, 0)
    wait_until(lambda: server.in_flight() == 0, "the application has left")
    assert ask(server, f"/error/{name}") == "ClientDisconnected"


def test_clients_that_leave_at_any_time(server: Server, name: str) -> None:
    """Nothing of it stays, in the worker and in the node."""

    def leave(number: int) -> None:
        client = Connection(server.url, receive_buffer=4096)
        client.send(request(target=f"/sized/{name}?{MEBIBYTE},{MEBIBYTE}"))

        if number % 4:
            client.start_response().read_until(1000 * (number % 4))

        (client.reset if number % 2 else client.close)()

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(leave, range(300)))

    wait_until(lambda: server.in_flight() == 0, "the applications have left")
    wait_until(lambda: server.connections() == 0, "the connections are gone")
    wait_until_lent(server, 0)
    (worker,) = server.worker_pids()
    # The one that they come through.
    unlent = set(sockets_of(worker))
    assert len(unlent) <= 4, unlent

    with Connection(server.url) as client:
        answer = client.get(f"/sized/{name}?{MEBIBYTE},{MEBIBYTE}")
        assert answer.body == body_of(MEBIBYTE)


@pytest.mark.parametrize("how", ["raises", "returns"])
def test_body_that_is_not_completed_is_cut(server: Server, how: str) -> None:
    with Connection(server.url) as client:
        client.send(request(target=f"/broken/{how}?{SIZE}"))

        with pytest.raises(Cut) as caught:
            client.read_response()

    received = caught.value.received
    assert received == body_of(SIZE)[: len(received)]
    assert len(received) <= SIZE // 2
    wait_until_lent(server, 0)


def test_worker_that_is_killed(own_server: Server, name: str) -> None:
    """Its clients see a cut, others nothing."""
    with Connection(own_server.url) as client, Connection(own_server.url) as other:
        client.send(request(target=f"/sized/{name}?{SIZE},{SIZE}"))
        incoming = client.start_response()
        wait_until_lent(own_server, 1)
        os.kill(own_server.worker_pids()[0], signal.SIGKILL)

        with pytest.raises(Cut):
            incoming.finish()

        assert other.get(f"/sized/{name}?{MEBIBYTE},1000000").body == body_of(MEBIBYTE)


def test_worker_that_is_blocked(node: Node, name: str) -> None:
    """It is ended, and its client is not left waiting."""
    options = "#{heartbeat => 50, stall_timeout => 500, workers => 2}"

    with serving(node, "loans", options) as server, Connection(server.url) as client:
        client.send(request(target=f"/blocked/{name}?{SIZE}"))

        with pytest.raises(Cut):
            client.read_response()


def test_client_that_takes_nothing_is_cut(node: Node, name: str) -> None:
    options = f"#{{send_timeout => {round(SEND_TIMEOUT_S * 1000)}}}"

    with serving(node, "loans", options) as server, Connection(server.url) as client:
        client.send(request(target=f"/sized/{name}?{SIZE},{SIZE}"))
        incoming = client.start_response()
        wait_until_lent(server, 1)
        wait_until_lent(server, 0)
        assert ask(server, f"/error/{name}") == "ClientDisconnected"

        with pytest.raises(Cut):
            incoming.finish()


def test_slow_client_is_not_cut(node: Node, name: str) -> None:
    """All of it takes several times `send_timeout`, but there is always some."""
    options = f"#{{send_timeout => {round(SEND_TIMEOUT_S * 1000)}}}"
    pieces = 12

    with (
        serving(node, "loans", options) as server,
        Connection(server.url, receive_buffer=65536) as client,
    ):
        client.send(request(target=f"/sized/{name}?{SIZE},{SIZE}"))
        incoming = client.start_response()

        read_slowly(incoming, pieces, SIZE // pieces)
        assert incoming.finish().body == body_of(SIZE)


def test_client_that_takes_little_is_not_cut(node: Node, name: str) -> None:
    """Less in `send_timeout` than the third of its buffer that the system waits for."""
    options = f"#{{send_timeout => {round(SEND_TIMEOUT_S * 1000)}}}"

    with (
        serving(node, "loans", options) as server,
        Connection(server.url, receive_buffer=65536) as client,
    ):
        client.send(request(target=f"/sized/{name}?{SIZE},{SIZE}"))
        incoming = client.start_response()
        wait_until_lent(server, 1)

        read_slowly(incoming, 9, 100_000)
        assert incoming.finish().body == body_of(SIZE)


def test_child_of_the_worker_holds_no_socket(server: Server, name: str) -> None:
    """The end of a connection is seen, though a fork was there when it was lent."""
    with Connection(server.url) as client:
        client.send(request(target=f"/sized/{name}?{SIZE},{SIZE}"))
        incoming = client.start_response()
        wait_until_lent(server, 1)
        child = int(ask(server, f"/fork/{name}"))

        try:
            wait_until(lambda: lent(server, child) == 0, "the child has none of them")
            assert incoming.finish().body == body_of(SIZE)
        finally:
            ask(server, f"/fork-end/{name}")


def test_worker_without_descriptors(own_server: Server, name: str) -> None:
    """What can't be lent goes through the pipe."""
    with Connection(own_server.url) as client:
        assert client.get("/descriptors/few").status == 200

        for _ in range(3):
            client.send(request(target=f"/sized/{name}?{SIZE},{SIZE}"))
            incoming = client.start_response()
            incoming.read_until(MEBIBYTE)
            assert lent(own_server) == 0
            assert incoming.finish().body == body_of(SIZE)

        assert client.get("/descriptors/many").status == 200
        client.send(request(target=f"/sized/{name}?{SIZE},{SIZE}"))
        incoming = client.start_response()
        wait_until_lent(own_server, 1)
        assert incoming.finish().body == body_of(SIZE)


def test_many_at_once(server: Server, name: str) -> None:
    """Each gets its own bytes; who asks for little meanwhile is served."""
    sizes = [2 * MEBIBYTE + 1000 * number for number in range(MANY)]

    with ExitStack() as stack:
        clients = [
            stack.enter_context(Connection(server.url, receive_buffer=65536))
            for _ in sizes
        ]

        for client, size in zip(clients, sizes, strict=True):
            client.send(request(target=f"/sized/{name}?{size},{size}"))

        answers = [client.start_response() for client in clients]
        assert ask(server, f"/error/{name}") == ""

        for answer, size in zip(answers, sizes, strict=True):
            assert answer.finish().body == body_of(size)

    wait_until_lent(server, 0)


def test_server_that_stops(node: Node, name: str) -> None:
    """A response under way is completed."""
    with serving(node, "loans") as server, Connection(server.url) as client:
        client.send(request(target=f"/sized/{name}?{SIZE},{SIZE}"))
        incoming = client.start_response()
        wait_until_lent(server, 1)

        with ThreadPoolExecutor(1) as pool:
            stopped = pool.submit(node.eval, f"hornbeam:stop({server.name})")
            assert incoming.finish().body == body_of(SIZE)
            assert stopped.result() == "ok"
