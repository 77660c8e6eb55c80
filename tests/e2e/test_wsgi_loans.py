# SPDX-License-Identifier: Apache-2.0
"""Large bodies of WSGI applications, which their threads write to the client's socket.

What is the node's part in it is seen in `test_loans`.
"""

from __future__ import annotations

import os
import signal
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

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
from e2e.raw import Connection, Cut, Incoming, request, wait_until
from e2e.raw_apps.loans import body_of
from node import Node

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="needs abstract names of sockets, and /proc"
)

THREADS = 8


@pytest.fixture(scope="module")
def server(node: Node) -> Iterator[Server]:
    with serving(node, "loans_wsgi", f"#{{threads => {THREADS}}}") as running:
        yield running


@pytest.fixture
def own_server(node: Node) -> Iterator[Server]:
    """For tests that harm a worker."""
    with serving(node, "loans_wsgi", f"#{{threads => {THREADS}}}") as running:
        yield running


@pytest.fixture
def name() -> str:
    return uuid.uuid4().hex


def begin(server: Server, client: Connection, target: str) -> Incoming:
    """Send a request, and read the head; its body is on its way then, and stuck."""
    client.send(request(target=target))
    incoming = client.start_response()
    wait_until_lent(server, 1)
    return incoming


@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "trio"])
def test_body_of_a_client_that_waits(node: Node, name: str, loop: str) -> None:
    """Lent as long as it is written; then the connection serves the next request."""
    with (
        serving(node, "loans_wsgi", f"#{{loop => {loop}}}") as server,
        Connection(server.url) as client,
    ):
        for _ in range(2):
            answer = begin(server, client, f"/listed/{name}?{SIZE},{SIZE}").finish()
            assert answer.body == body_of(SIZE)
            assert answer.one("content-length") == b"%d" % SIZE
            wait_until_lent(server, 0)
            assert client.get(f"/error/{name}").text == ""


@pytest.mark.parametrize(
    "target",
    [
        f"iterated/NAME?{SIZE},100000",
        f"written/NAME?{SIZE},100000",
        f"whole/NAME?{SIZE}",
        f"crumbs/NAME?{SIZE}",
        f"bytes-file/NAME?{SIZE}",
    ],
)
def test_ways_to_give_a_body(server: Server, name: str, target: str) -> None:
    with Connection(server.url) as client:
        answer = begin(server, client, f"/{target.replace('NAME', name)}").finish()
        assert answer.body == body_of(SIZE)
        assert answer.one("content-length") == b"%d" % SIZE
        wait_until_lent(server, 0)
        closes = int("iterated" in target or "crumbs" in target)
        assert client.get(f"/closed/{name}").text == str(closes)


@pytest.mark.parametrize(
    "target",
    # In small parts, of unknown length, and small as a whole.
    [f"iterated/x?{SIZE},10000", f"unknown/x?{SIZE},{SIZE}", "listed/x?131071,131071"],
)
def test_body_that_goes_by_the_pipe(server: Server, target: str) -> None:
    size = int(target.partition("?")[2].partition(",")[0])

    with Connection(server.url) as client:
        client.send(request(target=f"/{target}"))
        incoming = client.start_response()
        assert lent(server) == 0
        assert incoming.finish().body == body_of(size)


def test_one_after_the_other_on_one_connection(server: Server, name: str) -> None:
    """Requests that come together are answered in order."""
    sizes = [SIZE, 10, 300_000, 2 * MEBIBYTE, 131_072, 131_071]

    with Connection(server.url) as client:
        client.send(
            b"".join(request(target=f"/listed/{name}?{size},{size}") for size in sizes)
        )

        for size in sizes:
            assert client.read_response().body == body_of(size)


def test_responses_without_a_body(server: Server, name: str) -> None:
    with Connection(server.url) as client:
        for method, target in (
            ("HEAD", f"/listed/{name}?{SIZE},{SIZE}"),
            ("HEAD", f"/iterated/{name}?{SIZE},{SIZE}"),
            ("GET", f"/bodiless/{name}?204"),
            ("GET", f"/bodiless/{name}?304"),
        ):
            assert client.exchange(method, target).body == b""

        assert client.get(f"/error/{name}").text == ""
        assert client.get(f"/closed/{name}").text == "3"


def test_http2_is_kept(server: Server, name: str) -> None:
    with httpx.Client(http1=False, http2=True, trust_env=False) as client:
        answer = client.get(f"{server.url}/iterated/{name}?{SIZE},{SIZE}")
        assert answer.http_version == "HTTP/2"
        assert answer.content == body_of(SIZE)


def test_http10_is_kept(server: Server, name: str) -> None:
    with Connection(server.url) as client:
        client.send(f"GET /listed/{name}?{SIZE},{SIZE} HTTP/1.0\r\n\r\n".encode())
        incoming = client.start_response()
        assert lent(server) == 0
        assert incoming.finish().body == body_of(SIZE)


@pytest.mark.parametrize("how", ["close", "reset"])
def test_client_that_leaves(server: Server, name: str, how: str) -> None:
    """As the thread waits for room; what it was to write is closed, once."""
    client = Connection(server.url)
    begin(server, client, f"/iterated/{name}?{SIZE},{SIZE}")
    (client.reset if how == "reset" else client.close)()
    wait_until_lent(server, 0)
    wait_until(lambda: server.in_flight() == 0, "the application has left")
    assert ask(server, f"/closed/{name}") == "1"
    client = Connection(server.url)
    begin(server, client, f"/written/{name}?{SIZE},{SIZE}")
    (client.reset if how == "reset" else client.close)()
    wait_until(lambda: server.in_flight() == 0, "the application has left")
    assert ask(server, f"/error/{name}") == "ClientDisconnected"


@pytest.mark.parametrize("how", ["close", "reset"])
def test_client_that_leaves_between_two_parts(
    server: Server, name: str, how: str
) -> None:
    """The socket is given back at once, though the thread is elsewhere."""
    client = Connection(server.url)
    incoming = begin(server, client, f"/paused/{name}?{2 * MEBIBYTE}")
    incoming.read_until(MEBIBYTE)
    (client.reset if how == "reset" else client.close)()
    wait_until_lent(server, 0)
    assert server.in_flight() == 1
    ask(server, f"/open/{name}")
    wait_until(lambda: server.in_flight() == 0, "the application has left")
    assert ask(server, f"/closed/{name}") == "1"


def test_clients_that_leave_at_any_time(server: Server, name: str) -> None:
    """Nothing of it stays, in the worker and in the node."""

    def leave(number: int) -> None:
        client = Connection(server.url, receive_buffer=4096)
        client.send(request(target=f"/iterated/{name}?{MEBIBYTE},200000"))

        if number % 4:
            client.start_response().read_until(1000 * (number % 4))

        (client.reset if number % 2 else client.close)()

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(leave, range(200)))

    wait_until(lambda: server.in_flight() == 0, "the applications have left")
    wait_until(lambda: server.connections() == 0, "the connections are gone")
    wait_until_lent(server, 0)
    # The loop's own, and the one that they come through.
    unlent = set(sockets_of(server.worker_pids()[0]))
    assert len(unlent) <= 4, unlent

    with Connection(server.url) as client:
        answer = client.get(f"/listed/{name}?{MEBIBYTE},{MEBIBYTE}")
        assert answer.body == body_of(MEBIBYTE)


@pytest.mark.parametrize("how", ["raising", "short", "long", "replaced"])
def test_body_that_is_not_completed_is_cut(server: Server, name: str, how: str) -> None:
    with Connection(server.url) as client:
        client.send(request(target=f"/{how}/{name}?{SIZE}"))

        with pytest.raises(Cut) as caught:
            client.read_response()

    received = caught.value.received
    assert received == body_of(SIZE)[: len(received)]
    assert len(received) <= SIZE // 2
    wait_until_lent(server, 0)
    assert ask(server, f"/closed/{name}") == str(int(how != "replaced"))


def test_client_that_takes_nothing_is_cut(node: Node, name: str) -> None:
    """The application sees that it has gone, whatever it does next."""
    options = f"#{{send_timeout => {round(SEND_TIMEOUT_S * 1000)}, threads => 2}}"

    with (
        serving(node, "loans_wsgi", options) as server,
        Connection(server.url) as client,
    ):
        incoming = begin(server, client, f"/swallowing/{name}?{2 * SIZE}")
        wait_until_lent(server, 0)
        wait_until(lambda: server.in_flight() == 0, "the application has left")
        assert ask(server, f"/error/{name}") == " ClientDisconnected" * 2

        with pytest.raises(Cut):
            incoming.finish()


def test_slow_client_is_not_cut(node: Node, name: str) -> None:
    """All of it takes several times `send_timeout`, but there is always some."""
    options = f"#{{send_timeout => {round(SEND_TIMEOUT_S * 1000)}, threads => 2}}"
    pieces = 8

    with (
        serving(node, "loans_wsgi", options) as server,
        Connection(server.url, receive_buffer=65536) as client,
    ):
        client.send(request(target=f"/listed/{name}?{SIZE},{SIZE}"))
        incoming = client.start_response()

        read_slowly(incoming, pieces, SIZE // pieces)
        assert incoming.finish().body == body_of(SIZE)


def test_worker_that_is_killed(own_server: Server, name: str) -> None:
    """Its clients see a cut, others nothing."""
    with Connection(own_server.url) as client, Connection(own_server.url) as other:
        incoming = begin(own_server, client, f"/listed/{name}?{SIZE},{SIZE}")
        os.kill(own_server.worker_pids()[0], signal.SIGKILL)

        with pytest.raises(Cut):
            incoming.finish()

        answer = other.get(f"/listed/{name}?{MEBIBYTE},{MEBIBYTE}")
        assert answer.body == body_of(MEBIBYTE)


def test_worker_that_is_blocked(node: Node, name: str) -> None:
    """It is ended, and its clients are not left waiting."""
    options = "#{heartbeat => 50, stall_timeout => 500, threads => 2, workers => 2}"

    with (
        serving(node, "loans_wsgi", options) as server,
        Connection(server.url) as client,
    ):
        client.send(request(target=f"/blocked/{name}?{2 * MEBIBYTE}"))

        with pytest.raises(Cut):
            client.read_response()


def test_child_of_the_worker_holds_no_socket(server: Server, name: str) -> None:
    """The end of a connection is seen, though a fork was there when it was lent."""
    with Connection(server.url) as client:
        incoming = begin(server, client, f"/listed/{name}?{SIZE},{SIZE}")
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
            client.send(request(target=f"/listed/{name}?{SIZE},{SIZE}"))
            incoming = client.start_response()
            incoming.read_until(MEBIBYTE)
            assert lent(own_server) == 0
            assert incoming.finish().body == body_of(SIZE)

        assert client.get("/descriptors/many").status == 200
        answer = begin(own_server, client, f"/listed/{name}?{SIZE},{SIZE}").finish()
        assert answer.body == body_of(SIZE)


def test_more_at_once_than_threads(server: Server, name: str) -> None:
    """Each gets its own bytes, in its turn."""
    sizes = [2 * MEBIBYTE + 1000 * number for number in range(5 * THREADS)]

    with ExitStack() as stack:
        clients = [stack.enter_context(Connection(server.url)) for _ in sizes]

        for client, size in zip(clients, sizes, strict=True):
            client.send(request(target=f"/listed/{name}?{size},{size}"))

        for client, size in zip(clients, sizes, strict=True):
            assert client.read_response().body == body_of(size)

    wait_until_lent(server, 0)


def test_server_that_stops(node: Node, name: str) -> None:
    """A response under way is completed."""
    with serving(node, "loans_wsgi") as server, Connection(server.url) as client:
        incoming = begin(server, client, f"/listed/{name}?{SIZE},{SIZE}")

        with ThreadPoolExecutor(1) as pool:
            stopped = pool.submit(node.eval, f"hornbeam:stop({server.name})")
            assert incoming.finish().body == body_of(SIZE)
            assert stopped.result() == "ok"


@pytest.mark.parametrize("is_unix", [False, True], ids=["tcp", "unix"])
@pytest.mark.parametrize("path", ["iterated", "paused"])
def test_worker_that_is_to_end(
    node: Node, name: str, path: str, is_unix: bool, tmp_path: Path
) -> None:
    """One that takes too long is cut, be it that its thread waits for the client."""
    bind = f"unix:{tmp_path}/x" if is_unix else "127.0.0.1:0"
    options = f'#{{bind => "{bind}", threads => 1, shutdown_timeout => 500}}'

    with (
        serving(node, "loans_wsgi", options) as server,
        Connection(server.url) as client,
    ):
        part = f",{SIZE}" if path == "iterated" else ""
        incoming = begin(server, client, f"/{path}/{name}?{SIZE}{part}")

        with ThreadPoolExecutor(1) as pool:
            stopped = pool.submit(node.eval, f"hornbeam:stop({server.name})")
            assert stopped.result() == "ok"

            with pytest.raises(Cut):
                incoming.finish()
