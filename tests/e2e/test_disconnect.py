# SPDX-License-Identifier: Apache-2.0
"""Clients that leave: the application is told, can clean up, and nothing stays."""

from __future__ import annotations

import asyncio
import os
import socket
import statistics
import struct
import time
import uuid
from ast import literal_eval
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from e2e.observe import Server, serving
from e2e.raw import Connection, request, settled, wait_until
from node import Node

NOTICE_SECONDS = 0.1
"""Within that time receive() is to tell that the client has gone."""

ABORTS = 10_000
ABORTS_AT_A_TIME = 50
ABORT_SECONDS = 60.0


@pytest.fixture(scope="module")
def server(node: Node) -> Iterator[Server]:
    with serving(node, "aborts") as running:
        yield running


@pytest.fixture
def name() -> str:
    return uuid.uuid4().hex


def ask(server: Server, target: str, method: str = "GET") -> Any:
    with Connection(server.url) as connection:
        answer = connection.exchange(method, target, [("Connection", "close")])

    assert answer.status == 200, answer
    return literal_eval(answer.text)


def leave(client: Connection, how: str) -> None:
    if how == "reset":
        client.reset()
    else:
        client.close()


@pytest.mark.parametrize("how", ["close", "reset"])
def test_disconnect_is_told_in_time(node: Node, how: str) -> None:
    """From the client's close() to receive()'s answer, on the clock that both share."""
    delays = []

    with serving(node, "contract") as server:
        for _ in range(20):
            name = uuid.uuid4().hex

            with Connection(server.url) as client:
                client.send(request(target=f"/until-disconnect/{name}"))
                assert ask_contract(server, f"/wait/{name}-waits") is None
                leave(client, how)
                left = time.monotonic()

            delays.append(ask_contract(server, f"/wait/{name}")["noticed"] - left)

    median_ms = statistics.median(delays) * 1000
    print(f"{how}: noticed after {median_ms:.2f} ms, at most {max(delays) * 1000:.2f}")  # noqa: T201
    assert statistics.median(delays) < NOTICE_SECONDS


def ask_contract(server: Server, target: str) -> Any:
    with Connection(server.url) as connection:
        answer = connection.get(target)

    return literal_eval(answer.text)


@pytest.mark.parametrize("how", ["close", "reset"])
def test_waiting_send_raises(server: Server, name: str, how: str) -> None:
    """A send() that waits for the client's reading ends with it, and `finally` runs."""
    client = Connection(server.url)
    client.send(request(target=f"/blocked-send/{name}"))
    assert client.start_response().status == 200
    leave(client, how)
    assert ask(server, f"/wait/{name}") == ["ClientDisconnected", "cleaned up"]


def test_disconnect_within_a_stream(server: Server, name: str) -> None:
    """A task that listens while another one streams is told as well."""
    with Connection(server.url) as client:
        client.send(request(target=f"/two-tasks/{name}"))
        client.start_response().read_until(5)

    assert ask(server, f"/wait/{name}") == {"type": "http.disconnect"}


def test_leaving_of_one_is_not_that_of_others(server: Server, name: str) -> None:
    """Each request has its own client."""
    with Connection(server.url) as stays:
        stays.send(request(target=f"/two-tasks/{name}"))
        incoming = stays.start_response()
        incoming.read_until(5)

        with Connection(server.url) as leaves:
            leaves.send(request(target=f"/two-tasks/{name}-left"))
            leaves.start_response().read_until(5)

        assert ask(server, f"/wait/{name}-left") == {"type": "http.disconnect"}
        assert ask(server, f"/is-open/{name}") is False


def test_disconnect_is_no_error_in_the_log(server: Server, name: str) -> None:
    """An application that ends by the OSError of send() has done nothing wrong."""
    before = len(server.node.logged())
    client = Connection(server.url)
    client.send(request(target=f"/blocked-send/{name}"))
    client.start_response()
    client.close()
    ask(server, f"/wait/{name}")
    wait_until(lambda: server.in_flight() == 0, "the request is over")
    assert "Traceback" not in server.node.logged()[before:]


# Ten thousand of them.


KINDS = {
    "before-response": (b"GET /never HTTP/1.1\r\nHost: x\r\n\r\n", 0, "never"),
    "mid-response": (b"GET /forever HTTP/1.1\r\nHost: x\r\n\r\n", 1, "forever"),
    "mid-upload": (
        b"POST /swallow HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"
        + b"x" * 5000,
        0,
        "swallow",
    ),
    "mid-chunk": (
        b"POST /swallow HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5\r\nhello\r\nff\r\nhalf",
        0,
        "swallow",
    ),
    "before-late-answer": (b"GET /late HTTP/1.1\r\nHost: x\r\n\r\n", 0, "late"),
    "pipelined": (2 * b"GET /never HTTP/1.1\r\nHost: x\r\n\r\n", 0, None),
    "mid-head": (b"GET /never HTTP/1.1\r\nHost:", 0, None),
}


def test_nothing_is_left_of_aborted_requests() -> None:
    """No process, port, table row or Python object, after 10,000 of several kinds."""
    with Node() as node, serving(node, "aborts") as server:
        asyncio.run(abort_many(server, 700))
        wait_until_quiet(server)
        before = count_all(server)
        began = time.monotonic()
        asyncio.run(abort_many(server, ABORTS))
        seconds = time.monotonic() - began
        wait_until_quiet(server)
        after = count_all(server)
        ended = ask(server, "/ended")

    print(f"{ABORTS} aborted requests in {seconds:.1f} s: {before} -> {after}")  # noqa: T201
    growth = {what: after[what] - before[what] for what in after}
    assert all(growth[what] <= 0 for what in EXACT), growth
    # Caches and modules that are loaded late; a leak of one thing each would be 10,000.
    assert growth["atoms"] < 1000, growth
    assert growth["objects"] < 200, growth
    assert growth["blocks"] < 2000, growth
    assert growth["bytes"] < 1 << 20, growth
    assert seconds < ABORT_SECONDS
    # Not all get as far as the application, but most of each kind do.
    assert all(ended[kind] > ABORTS / 20 for kind in ("never", "forever", "swallow"))


ROWS = "lists:sum([N || T <- ets:all(), N <- [ets:info(T, size)], is_integer(N)])"

EXACT = ("processes", "ports", "rows", "tables", "tasks", "threads", "files")


async def abort_many(server: Server, count: int) -> None:
    numbers = iter(range(count))
    kinds = list(KINDS.values())

    async def work() -> None:
        for number in numbers:
            payload, read_bytes, _ = kinds[number % len(kinds)]
            await abort(server.url, payload, read_bytes, resets=number % 3 == 0)

    await asyncio.gather(*(work() for _ in range(ABORTS_AT_A_TIME)))


async def abort(url: str, payload: bytes, read_bytes: int, *, resets: bool) -> None:
    """Send, read a little or nothing, and leave."""
    loop = asyncio.get_running_loop()
    parts = urlsplit(url)

    with socket.socket() as client:
        client.setblocking(False)
        await loop.sock_connect(client, (parts.hostname, parts.port))
        await loop.sock_sendall(client, payload)

        if read_bytes:
            assert await loop.sock_recv(client, 65536)
        else:
            # Long enough for most to reach the application.
            await asyncio.sleep(0.002)

        if resets:
            linger = struct.pack("ii", 1, 0)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


def wait_until_quiet(server: Server) -> None:
    """Until nothing is under way, and the node's sweep, once a second, has passed."""
    wait_until(
        lambda: server.in_flight() == server.queue() == server.connections() == 0,
        "all requests are over and all connections closed",
        seconds=30,
    )
    settled(lambda: int(server.node.eval(ROWS)), seconds=1.2)


# Of binaries those that a process holds. The rest is a cache of the VM's: up to a MiB
# of buffers for sockets in each of its threads, how many of them is chance.
BYTES = (
    "erlang:memory(total) - erlang:memory(binary)"
    " + lists:sum([Size || P <- processes(),"
    " {binary, Held} <- [process_info(P, binary)], {_, Size, _} <- Held])"
)


def count_all(server: Server) -> dict[str, int]:
    """What could be left, in the node and in its worker."""
    node_counts = literal_eval(
        server.node.eval(
            "[erlang:garbage_collect(P) || P <- processes()],"
            f"[length(processes()), length(erlang:ports()), length(ets:all()), {ROWS},"
            f" erlang:system_info(atom_count), {BYTES}]"
        )
    )
    names = ("processes", "ports", "tables", "rows", "atoms", "bytes")
    # The second time, so that what asking makes is there already.
    ask(server, "/objects")
    counts: dict[str, int] = dict(zip(names, node_counts, strict=True))
    counts |= ask(server, "/objects")
    # The connections that asked have gone as well.
    wait_until_quiet(server)
    counts["files"] = sum(
        len(list_descriptors(pid))
        for pid in [server.node.os_pid, *server.worker_pids()]
    )
    return counts


def list_descriptors(pid: int) -> list[str]:
    return os.listdir(f"/proc/{pid}/fd")
