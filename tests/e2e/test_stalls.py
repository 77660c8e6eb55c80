# SPDX-License-Identifier: Apache-2.0
"""Event loops that are blocked, and requests that take too long: what others notice."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from e2e.observe import Server, serving
from e2e.raw import Connection, request, wait_until
from node import Node

LOOPS = ["asyncio", "uvloop", "trio"]


@contextmanager
def blocked(server: Server, gate: Path, method: str = "GET") -> Iterator[Connection]:
    """A worker whose loop is held until the file is there, which is at the end."""
    with Connection(server.url) as client:
        block_by(client, gate, method)

        try:
            yield client
        finally:
            gate.touch()


def block_by(client: Connection, gate: Path, method: str) -> None:
    """Send the request that blocks, and return as soon as it has begun."""
    client.send(request(method, f"/block?{quote(str(gate))}", body=b""))
    deadline = time.monotonic() + 20

    while not gate.with_suffix(".begun").exists():
        assert time.monotonic() < deadline, "it has not begun"


def is_stalled(server: Server) -> bool:
    return "stalled" in server.worker_facts("state")


# The log.


@pytest.mark.parametrize("loop", LOOPS)
def test_log_names_the_line(node: Node, tmp_path: Path, loop: str) -> None:
    """While the loop is blocked, once; and how long it was when it is over."""
    options = f"#{{heartbeat => 100, loop => {loop}}}"

    before = len(node.logged())

    with serving(node, "stalls", options) as server:
        pid = server.worker_pids()[0]
        # It may get no time to run before, which is told as well.
        place = r"ms at \S*/stalls\.py:\d+ in hold_the_loop"
        report = rf"\(process {pid}\) has been blocked for \d+ {place}"

        with blocked(server, tmp_path / "gate") as client:
            node.wait_for_output(report, since=before)
            wait_until(lambda: is_stalled(server), "it is shown")
            (tmp_path / "gate").touch()
            assert client.read_response().status == 200

        node.wait_for_output(rf"{place}[^\0]*loop_unblocked", since=before)
        text = node.logged()[before:]

    assert "hold_the_loop(gate)" in text
    assert re.search(r"requests under way: \d+ GET /block", text)
    assert len(re.findall(report, text)) == 1


def test_stopped_process_is_logged_without_a_stack(node: Node) -> None:
    with serving(node, "stalls", "#{heartbeat => 100}") as server:
        pid = server.worker_pids()[0]

        with stopped(pid):
            node.wait_for_output(rf"\(process {pid}\) has been blocked for")
            node.wait_for_output("does not say where")

        wait_until(lambda: server.worker_facts("state") == ["ready"], "it is back")


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)

    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


# What has not begun.


@pytest.mark.parametrize("loop", LOOPS)
def test_posts_behind_a_blocked_loop(node: Node, tmp_path: Path, loop: str) -> None:
    """They are served while it is blocked, by the other worker, each once."""
    options = f"#{{workers => 2, heartbeat => 100, loop => {loop}}}"

    with serving(node, "stalls", options) as server, ExitStack() as stack:
        clients = [stack.enter_context(Connection(server.url)) for _ in range(20)]
        first = stack.enter_context(Connection(server.url))
        gate = tmp_path / "gate"
        marks = [tmp_path / f"once-{number}" for number in range(len(clients))]

        for client in [first, *clients]:
            client.get("/hello/connected")

        # At once: half of them get to the worker that is blocked.
        block_by(first, gate, "POST")

        for number, (client, mark) in enumerate(zip(clients, marks, strict=True)):
            target = f"/once?{quote(str(mark))}"
            client.send(request("POST", target, body=f"body {number}".encode()))

        try:
            texts = [client.read_response("POST").text for client in clients]
        finally:
            gate.touch()

        blocked_pid = first.read_response("POST").text
        assert [text.partition(" ")[2] for text in texts] == [
            f"body {number}" for number in range(len(clients))
        ]
        assert blocked_pid not in {text.partition(" ")[0] for text in texts}
        wait_until(lambda: server.in_flight() == 0, "none is left")
        # Its answer to the heartbeat may come behind that to the request.
        wait_until(
            lambda: server.worker_facts("state") == ["ready", "ready"],
            "the one that was blocked serves again",
        )
        # And the first ones.
        assert sum(map(int, server.worker_facts("served"))) == 2 * len(clients) + 2


def test_posts_of_a_worker_that_is_killed(node: Node, tmp_path: Path) -> None:
    """What has begun fails; what has not waits for the successor."""
    options = "#{heartbeat => 100, stall_timeout => 1500}"

    with serving(node, "stalls", options) as server, Connection(server.url) as client:
        with blocked(server, tmp_path / "gate", "POST") as first:
            mark = tmp_path / "once"
            client.send(request("POST", f"/once?{quote(str(mark))}", body=b"late"))
            assert first.read_response("POST").status == 502
            answer = client.read_response("POST")
            assert (answer.status, answer.text.partition(" ")[2]) == (200, "late")


def test_others_do_not_wait(node: Node, tmp_path: Path) -> None:
    """Long before it is stalled, what has a free worker to go to goes there."""
    options = "#{workers => 2, heartbeat => 30000, stall_timeout => infinity}"

    with serving(node, "stalls", options) as server, Connection(server.url) as client:
        with blocked(server, tmp_path / "gate"):
            for number in range(100):
                assert client.get(f"/hello/{number}").text == str(number)

            assert not is_stalled(server)


# Timeouts.


def test_timeout_in_the_queue(node: Node, tmp_path: Path) -> None:
    """Who waits for a place for as long as an answer may take gets 504, not 503."""
    options = "#{timeout => 400, queue_timeout => infinity, max_concurrency => 1}"

    with serving(node, "stalls", options) as server, Connection(server.url) as client:
        with blocked(server, tmp_path / "gate") as first:
            began = time.monotonic()
            assert client.get("/hello/1").status == 504
            assert time.monotonic() - began > 0.3
            assert first.read_response().status == 504


def test_queue_timeout_comes_first(node: Node, tmp_path: Path) -> None:
    options = "#{timeout => 30000, queue_timeout => 300, max_concurrency => 1}"

    with serving(node, "stalls", options) as server, Connection(server.url) as client:
        with blocked(server, tmp_path / "gate"):
            assert client.get("/hello/1").status == 503


def test_timeout_does_not_need_heartbeats(node: Node, tmp_path: Path) -> None:
    """It is looked after by itself, however long the beats are."""
    options = "#{timeout => 200, heartbeat => 60000, stall_timeout => infinity}"

    with serving(node, "stalls", options) as server:
        with blocked(server, tmp_path / "gate") as client:
            began = time.monotonic()
            assert client.read_response().status == 504
            assert time.monotonic() - began < 20


def test_timeout_while_the_body_comes(node: Node) -> None:
    options = "#{timeout => 300, body_timeout => 20000}"

    with serving(node, "stalls", options) as server, Connection(server.url) as client:
        client.send(request("POST", "/upload", [("Content-Length", "10")]) + b"half ")
        assert client.read_response("POST").status == 504
        wait_until(lambda: server.in_flight() == 0, "the application has ended")


def test_timeout_of_a_busy_thread(node: Node) -> None:
    """The loop of a WSGI worker is free: 504, and a successor, but no stall."""
    options = (
        "#{timeout => 2400, heartbeat => 800, threads => 2, shutdown_timeout => 1}"
    )

    with serving(node, "stalls", options, attribute="wsgi") as server:
        before = server.worker_pids()

        with Connection(server.url) as client:
            assert client.get("/").status == 504

        wait_until(lambda: before != server.worker_pids() != [], "it is replaced")
        assert f"(process {before[0]}) has been blocked" not in node.logged()


def test_cancelled_task_cleans_up(node: Node, tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    with serving(node, "stalls", "#{timeout => 200}") as server:
        with Connection(server.url) as client:
            assert client.get(f"/tidy?{quote(str(mark))}").status == 504
            wait_until(mark.exists, "it has cleaned up")
            wait_until(lambda: server.in_flight() == 0, "it has ended")


def test_swallowed_cancellation_keeps_its_place(node: Node, tmp_path: Path) -> None:
    """It is told of, and others wait until it has ended."""
    gate = tmp_path / "gate"
    options = "#{timeout => 1000, queue_timeout => 300, max_concurrency => 1}"

    with serving(node, "stalls", options) as server:
        with Connection(server.url) as client:
            assert client.get(f"/stubborn?{quote(str(gate))}").status == 504
            assert server.in_flight() == 1
            assert client.get("/hello/1").status in (503, 504)

        node.wait_for_output("GET /stubborn: was cancelled 5 s ago and still runs")
        assert server.in_flight() == 1
        gate.touch()
        node.wait_for_output("GET /stubborn: has ended, ")
        wait_until(lambda: server.in_flight() == 0, "its place is free")

        # An idle one lives for as long as that took.
        with Connection(server.url) as client:
            assert client.get("/hello/2").text == "2"
