# SPDX-License-Identifier: Apache-2.0
"""Workers of a WSGI application: how they start, time out, are replaced, die, stop."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from e2e.observe import Server, Watch
from e2e.raw import Connection, Cut, request, wait_until
from e2e.support import unique
from e2e.wsgi import get, serving, target
from node import Node

TIMELY_SECONDS = 3.0
"""How long after `timeout` an answer may come, on a machine that does other things."""


def get_pid(server: Server) -> int:
    return int(get(server, "/os_pid").text)


class Traffic:
    """Requests one after the other, from some clients, until the block is over."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._is_over = threading.Event()
        self.statuses: list[int] = []
        self.slowest_seconds = 0.0

    def run(self) -> None:
        with Connection(self._server.url) as connection:
            while not self._is_over.is_set():
                before = time.monotonic()
                answer = connection.get("/hello")
                self.slowest_seconds = max(
                    self.slowest_seconds, time.monotonic() - before
                )
                self.statuses.append(answer.status)

    def end(self) -> None:
        self._is_over.set()


@contextmanager
def traffic(server: Server, clients: int = 2) -> Iterator[Traffic]:
    load = Traffic(server)

    with ThreadPoolExecutor(clients) as pool:
        runs = [pool.submit(load.run) for _ in range(clients)]

        try:
            yield load
        finally:
            load.end()

        for run in runs:
            # An exception of the client is the test's.
            run.result()


# Starting.


@pytest.mark.parametrize("worker_class", ["auto", "wsgi"])
def test_worker_class(node: Node, worker_class: str) -> None:
    options = f"#{{worker_class => {worker_class}, lifespan => auto}}"

    with serving(node, options) as server:
        assert server.worker_facts("worker_class") == ["wsgi"]
        assert server.worker_facts("lifespan") == ["off"]
        assert get(server, "/hello").text == "hello"


@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "trio"])
def test_loops(node: Node, loop: str, tmp_path: Path) -> None:
    """Threads do not care which loop reads for them, also at the end."""
    with serving(node, f"#{{loop => {loop}}}") as server, traffic(server):
        gate, told = tmp_path / "gate", tmp_path / "told"

        with Connection(server.url) as connection:
            connection.send(request(target=target("/waits", until=gate, tells=told)))
            wait_until(told.exists, "the request runs")
            gate.touch()
            assert connection.read_response().status == 200


def test_state_is_shared(node: Node) -> None:
    """Two workers, many threads: each number comes once."""
    key = unique("key")

    with (
        serving(node, "#{workers => 2, threads => 4}") as server,
        ThreadPoolExecutor(8) as pool,
    ):
        answers = list(pool.map(lambda _: get(server, f"/count?{key}"), range(100)))

    pairs = [answer.text.split(" by ") for answer in answers]
    assert sorted(int(number) for number, _ in pairs) == list(range(1, 101))
    assert {worker for _, worker in pairs} == {"1", "2"}


# Timeouts.


def test_busy_request(node: Node) -> None:
    """504 in time; others are served meanwhile, and the worker is replaced."""
    options = (
        "#{threads => 4, timeout => 2000, heartbeat => 100, shutdown_timeout => 500}"
    )
    logged = len(node.logged())

    with serving(node, options) as server, traffic(server) as load:
        before = get_pid(server)
        old = Watch([before])
        sent = time.monotonic()
        answer = get(server, "/busy")
        assert answer.status == 504
        assert 2.0 <= time.monotonic() - sent < 2.0 + TIMELY_SECONDS
        wait_until(lambda: get_pid(server) != before, "a new worker has taken over")
        assert old.survivors(10) == []
        load.end()
        assert set(load.statuses) == {200}
        assert load.slowest_seconds < TIMELY_SECONDS
        wait_until(
            lambda: server.worker_facts("restarts") == ["1"], "the old one is no more"
        )

    log = node.logged()[logged:]
    assert re.search(r"request_ids: \[\d+\]\s+what: worker_replaced_after_timeout", log)
    assert "worker_drained" in log


def test_all_threads_busy(node: Node) -> None:
    """Requests wait for the new worker, and are served by it."""
    options = (
        "#{threads => 2, timeout => 2000, heartbeat => 100, shutdown_timeout => 300}"
    )

    with serving(node, options) as server, ThreadPoolExecutor(3) as pool:
        stuck = [pool.submit(get, server, "/busy") for _ in range(2)]
        wait_until(lambda: server.in_flight() == 2, "all threads are busy")
        # Their threads stay busy, and the new worker is not ready yet.
        assert [each.result().status for each in stuck] == [504, 504]
        assert pool.submit(get, server, "/hello").result().text == "hello"


def test_requests_beside_a_busy_one(node: Node, tmp_path: Path) -> None:
    """One that streams in the old worker goes on until it is complete."""
    options = "#{threads => 4, timeout => 2000, heartbeat => 100}"
    gate, over = tmp_path / "gate", tmp_path / "over"

    with serving(node, options) as server, Connection(server.url) as connection:
        before = get_pid(server)
        old = Watch([before])
        connection.send(request(target=target("/stream", until=gate, tells=over)))
        stream = connection.start_response()
        stream.read_until(7)
        assert get(server, "/busy").status == 504
        wait_until(lambda: get_pid(server) != before, "a new worker has taken over")
        Path(f"{gate}-1").touch()
        Path(f"{gate}-2").touch()
        assert stream.finish().body.endswith(b"part 2\n")
        # The request that is busy has its answer: nobody waits for it.
        assert old.survivors(10) == []


# Ends.


def test_killed_worker(node: Node, tmp_path: Path) -> None:
    """What is safe is sent to another one, the rest is 502; others never notice."""
    gate, told = tmp_path / "gate", tmp_path / "told"
    path = target("/waits", until=gate, tells=told)

    with serving(node, "#{workers => 1}") as server, ThreadPoolExecutor(1) as pool:
        with Connection(server.url) as connection:
            connection.send(request("POST", path, body=b""))
            wait_until(told.exists, "the request runs")
            os.kill(server.worker_pids()[0], signal.SIGKILL)
            assert connection.read_response("POST").status == 502

        told.unlink()
        wait_until(lambda: len(server.worker_pids()) == 1, "there is a new worker")
        first = get_pid(server)
        retried = pool.submit(get, server, path)
        wait_until(told.exists, "the request runs")
        gate.touch()
        os.kill(first, signal.SIGKILL)
        answer = retried.result()
        assert (answer.status, answer.text.isdigit()) == (200, True)


def test_killed_worker_cuts_a_stream(node: Node, tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    with serving(node) as server, Connection(server.url) as connection:
        path = target("/stream", until=gate, tells=tmp_path / "over")
        connection.send(request(target=path))
        answer = connection.start_response()
        answer.read_until(7)
        os.kill(server.worker_pids()[0], signal.SIGKILL)

        with pytest.raises(Cut):
            answer.finish()


def test_stop_with_a_running_request(node: Node, tmp_path: Path) -> None:
    """It ends well, and with it the server."""
    gate, told = tmp_path / "gate", tmp_path / "told"

    with serving(node) as server, ThreadPoolExecutor(1) as pool:
        with Connection(server.url) as connection:
            connection.send(request(target=target("/waits", until=gate, tells=told)))
            wait_until(told.exists, "the request runs")
            stopping = pool.submit(node.stop_server, server.name)
            wait_until(lambda: is_closed(server), "no new connection is taken")
            gate.touch()
            assert connection.read_response().status == 200

        stopping.result()


def test_stop_with_a_busy_request(node: Node) -> None:
    """503 when `shutdown_timeout` is over, though its thread goes on."""
    with (
        serving(node, "#{shutdown_timeout => 300}") as server,
        ThreadPoolExecutor(1) as pool,
    ):
        workers = Watch(server.worker_pids())
        stuck = pool.submit(get, server, "/busy")
        wait_until(lambda: server.in_flight() == 1, "the request runs")
        before = time.monotonic()
        node.stop_server(server.name)
        assert time.monotonic() - before < TIMELY_SECONDS
        assert workers.survivors(5) == []

        with pytest.raises(Cut):
            stuck.result()


def is_closed(server: Server) -> bool:
    try:
        with Connection(server.url):
            return False
    except (ConnectionRefusedError, ConnectionResetError):
        return True
