# SPDX-License-Identifier: Apache-2.0
"""What ends a loan, and what comes before and behind it."""

from __future__ import annotations

import os
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from e2e.lending import MEBIBYTE, SIZE, ask, lent, wait_until_lent
from e2e.observe import Server, serving, survivors
from e2e.raw import Connection, Cut, Incoming, request, wait_until
from e2e.raw_apps import loans
from e2e.raw_apps.loans import body_of
from node import Node

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="needs abstract names of sockets, and /proc"
)

STOP_S = 10.0
"""What takes longer waits for something that does not come."""


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


def borrow(server: Server, client: Connection, name: str, size: int = SIZE) -> Incoming:
    """Have a body written to a client that does not read it."""
    client.send(request(target=f"/sized/{name}?{size},{size}"))
    incoming = client.start_response()
    wait_until_lent(server, 1)
    return incoming


CONNECTIONS = (
    "[Pid || Table <- ets:all(), ets:info(Table, name) =:= hornbeam_reaper,"
    " {Pid, _, _, _, _} <- ets:tab2list(Table), is_process_alive(Pid)]"
)
"""The processes of connections, as an expression."""


# Ends.


@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "trio"])
def test_stop_that_does_not_wait(node: Node, name: str, loop: str) -> None:
    """A client that does not read is cut, and holds up nobody."""
    options = f"#{{shutdown_timeout => 300, loop => {loop}}}"

    with serving(node, "loans", options) as server, Connection(server.url) as client:
        incoming = borrow(server, client, name)
        workers = server.worker_pids()
        begun_s = time.monotonic()
        assert node.eval(f"hornbeam:stop({server.name})") == "ok"
        assert time.monotonic() - begun_s < STOP_S
        assert not survivors(workers)

        with pytest.raises(Cut):
            incoming.finish()


def test_node_that_is_killed(fresh_node: Node, name: str) -> None:
    """Its worker leaves, and the client sees that."""
    with serving(fresh_node, "loans") as server, Connection(server.url) as client:
        incoming = borrow(server, client, name)
        workers = server.worker_pids()
        os.kill(fresh_node.os_pid, signal.SIGKILL)
        assert not survivors(workers)

        with pytest.raises(Cut):
            incoming.finish()


def test_connection_that_is_killed(node: Node, name: str) -> None:
    """Whoever does that: the client is not left waiting, the worker has nothing."""
    with (
        serving(node, "loans", "#{heartbeat => 50}") as server,
        Connection(server.url) as client,
    ):
        incoming = borrow(server, client, name)
        node.eval(f"[exit(Pid, kill) || Pid <- {CONNECTIONS}]")
        wait_until(lambda: server.in_flight() == 0, "the application has left")

        with pytest.raises(Cut):
            incoming.finish()


@pytest.mark.parametrize("is_late", [False, True])
def test_worker_that_sleeps(own_server: Server, name: str, is_late: bool) -> None:
    """It has nothing of a client that has left meanwhile, asked for or there."""
    server = own_server
    (worker,) = server.worker_pids()
    client = Connection(server.url)

    if is_late:
        client.send(request(target=f"/sized/{name}?{SIZE},{SIZE}"))
        os.kill(worker, signal.SIGSTOP)
    else:
        borrow(server, client, name)
        os.kill(worker, signal.SIGSTOP)

    client.close()
    wait_until(lambda: server.connections() == 0, "the connection has ended")
    os.kill(worker, signal.SIGCONT)
    wait_until(lambda: server.in_flight() == 0, "the application has left")
    wait_until_lent(server, 0)
    assert ask(server, f"/sized/{name}?10,10")


@pytest.mark.parametrize("how", ["close", "reset", "shutdown"])
def test_client_that_sends_too_much_and_leaves(
    server: Server, name: str, how: str
) -> None:
    """The node does not read it any more, and so does not see it leave."""
    client = Connection(server.url)
    borrow(server, client, name)
    client.socket.setblocking(False)
    sent = 0

    try:
        while True:
            sent += client.socket.send(request(target="/missing") * 1000)
    except BlockingIOError:
        assert sent > 65536

    if how == "shutdown":
        client.socket.shutdown(1)
        client.socket.setblocking(True)
        received = client.socket.recv(SIZE)
        assert received

    (client.reset if how == "reset" else client.close)()
    wait_until_lent(server, 0)
    wait_until(lambda: server.in_flight() == 0, "the application has left")


def test_reload(own_server: Server, name: str) -> None:
    """The old worker writes what it has begun."""
    server = own_server

    with Connection(server.url) as client:
        incoming = borrow(server, client, name)

        with ThreadPoolExecutor(1) as pool:
            reloaded = pool.submit(server.node.eval, f"hornbeam:reload({server.name})")
            wait_until(lambda: ask(server, "/error/x") == "", "others are served")
            assert incoming.finish().body == body_of(SIZE)
            assert reloaded.result() == "ok"

        assert client.get(f"/sized/{name}?{MEBIBYTE},1000000").status == 200


def test_unix_socket(node: Node, name: str, tmp_path: Path) -> None:
    path = tmp_path / "s"
    options = f'#{{bind => "unix:{path}"}}'

    with serving(node, "loans", options) as server:
        with Connection(f"unix:{path}") as client:
            for _ in range(2):
                assert borrow(server, client, name).finish().body == body_of(SIZE)
                wait_until_lent(server, 0)

            borrow(server, client, name)

        wait_until_lent(server, 0)
        wait_until(lambda: server.in_flight() == 0, "the application has left")


# What comes before and behind.


def test_unusual_requests_behind_it(server: Server, name: str) -> None:
    """Those are for Cowboy, which gets the connection back."""
    for header in ("TE: trailers", "Connection: close", "Transfer-Encoding: chunked"):
        with Connection(server.url) as client:
            client.send(
                request(target=f"/sized/{name}?{MEBIBYTE},{MEBIBYTE}")
                + b"POST /answered/last?300000 HTTP/1.1\r\nHost: a\r\n"
                + f"{header}\r\n".encode()
                + (b"\r\n0\r\n\r\n" if "chunked" in header else b"\r\n")
            )
            assert client.read_response().body == body_of(MEBIBYTE)
            assert client.read_response().body == body_of(300_000)


def test_websocket_behind_it(server: Server, name: str) -> None:
    """It is answered when the body is there; the application has none."""
    upgrade = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="),
    ]

    with Connection(server.url) as client:
        incoming = borrow(server, client, name)
        client.send(request(target="/ws", headers=upgrade))
        assert incoming.finish().body == body_of(SIZE)
        assert client.read_response().status in (403, 500)


@pytest.mark.parametrize("when", ["first", "last"])
@pytest.mark.parametrize("body_size", [10, 50_000, 300_000])
def test_request_with_a_body(server: Server, when: str, body_size: int) -> None:
    with Connection(server.url) as client:
        for _ in range(2):
            answer = client.post(f"/answered/{when}?{SIZE}", bytes(body_size))
            assert answer.body == body_of(SIZE)

            if not answer.keeps_alive:
                return


@pytest.mark.parametrize("part", [1000, 16_000])
@pytest.mark.parametrize("size", [300_000, SIZE])
def test_small_parts_before_it(server: Server, name: str, part: int, size: int) -> None:
    """What the node has to write is written before."""
    with Connection(server.url, receive_buffer=4096) as client:
        client.send(request(target=f"/small-first/{name}?{size},{part}"))
        incoming = client.start_response()
        assert incoming.finish().body == body_of(size)
        assert client.get("/error/x").status == 200


def test_file_behind_it(server: Server, name: str) -> None:
    """Both whole, and the connection serves on."""
    file = Path(loans.__file__).read_bytes()

    with Connection(server.url) as client:
        for _ in range(3):
            client.send(request(target=f"/file-behind/{name}?{SIZE}"))
            incoming = client.start_response()
            wait_until_lent(server, 1)
            assert incoming.finish().body == body_of(SIZE) + file
            assert lent(server) == 0
