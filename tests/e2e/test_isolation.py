# SPDX-License-Identifier: Apache-2.0
"""What an application does in its process does not get to the bridge, nor to others."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
import uuid
from ast import literal_eval
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from e2e.observe import Server, python_processes, serving, survivors
from e2e.raw import Connection, request, wait_until
from node import Node


@pytest.fixture(scope="module")
def server(node: Node) -> Iterator[Server]:
    with serving(node, "isolation") as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Connection]:
    """A client whose worker is the same, and still serves, when the test is over."""
    before = server.worker_pids()

    with Connection(server.url) as connection:
        yield connection

        assert connection.get("/hello").text == "hello"

    assert server.worker_pids() == before


@pytest.fixture
def name() -> str:
    return uuid.uuid4().hex


# Output and input.


PRINTS = [
    "print",
    "stderr",
    "os-write",
    "os-write-2",
    "c",
    "logging",
    "subprocess",
    "system",
]


@pytest.mark.parametrize("how", [*PRINTS, "flood"])
def test_printing(server: Server, client: Connection, name: str, how: str) -> None:
    """Reaches the output of the node, and nobody else's."""
    text = f"{how}-{name}"
    assert client.get(f"/prints/{how}?{text}").text == "printed"
    server.node.wait_for_output(re.escape(text))


def test_printing_while_importing(server: Server) -> None:
    """In the node's output as well, and whatever the letters."""
    server.node.wait_for_output("imported: čaj")


def test_printing_and_serving(server: Server, client: Connection, name: str) -> None:
    """Requests that print in every way, side by side: nothing is lost."""
    kinds = ("print", "os-write", "c")
    targets = [f"/prints/{kinds[n % 3]}?{name}-{n}-end" for n in range(60)]

    for _ in range(5):
        client.send(b"".join(request(target=target) for target in targets))
        assert {client.read_response().text for _ in targets} == {"printed"}

    for number in range(60):
        server.node.wait_for_output(f"{name}-{number}-end")


def test_without_output(node: Node) -> None:
    """An application that closes its standard output and error is served on."""
    with serving(node, "isolation") as server, Connection(server.url) as client:
        assert client.get("/closes-output").text == "closed"
        assert client.get("/missing").status == 404
        # What it can't print is an error of its own.
        assert client.get("/prints/print?x").status == 500
        assert client.get("/hello").text == "hello"


def test_input_is_empty(client: Connection) -> None:
    """Reading it ends at once, in place of waiting for a terminal."""
    assert client.get("/reads-input").text == "''"


# Processes.


def test_descriptors_are_not_inherited(client: Connection) -> None:
    """Not even by programs that get all there is: the pipes stay with the worker."""
    own, inherited = literal_eval(client.get("/descriptors").text)
    assert set(own) == {3, 4}
    assert not set(own.values()) & set(inherited.values())


@pytest.mark.parametrize(
    ("how", "status"),
    [("exits", 5), ("executes", 6), ("calls", 7), ("raises", 1), ("answers", 1)],
)
def test_fork(client: Connection, how: str, status: int) -> None:
    """Whatever the child does, it says nothing in the parent's name.

    One that comes back to the event loop, by an error or a return, ends there.
    """
    answer = client.get(f"/forks/{how}")
    assert (answer.status, answer.text) == (200, str(status))


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(client: Connection, method: str) -> None:
    assert client.get(f"/pool/{method}").text == "[0, 1, 4, 9, 16]"


def test_programs_end_with_the_worker(node: Node) -> None:
    """The helpers of multiprocessing see that their parent has gone."""
    before = python_processes(node)

    with serving(node, "isolation") as server, Connection(server.url) as client:
        assert client.get("/pool/forkserver").status == 200
        started = [pid for pid in python_processes(node) if pid not in before]
        assert len(started) > 1
        os.kill(server.worker_pids()[0], signal.SIGKILL)
        assert survivors(started) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_of_a_terminal(
    server: Server, client: Connection, number: signal.Signals
) -> None:
    """Are for the node, which ends its workers in order."""
    os.kill(server.worker_pids()[0], number)
    assert client.get("/hello").text == "hello"


def test_thread_that_does_not_end(node: Node) -> None:
    """Holds up the end of its worker for no more than moments."""
    with serving(node, "isolation") as server, Connection(server.url) as client:
        assert client.get("/leaves-thread").text == "left"
        pids = server.worker_pids()
        began = time.monotonic()
        node.stop_server(server.name)
        assert time.monotonic() - began < 5

    assert survivors(pids) == []


def test_exit_handlers_run(node: Node, tmp_path: Path) -> None:
    """A worker that is stopped ends as Python programs do."""
    path = tmp_path / "exited"

    with serving(node, "isolation") as server, Connection(server.url) as client:
        assert client.get(f"/at-exit?{quote(str(path))}").text == "registered"
        assert not path.exists()

    assert path.exists()


# Calls.


def test_calls_from_threads_and_loop(client: Connection, name: str) -> None:
    """Nine callers at a time: each gets its own answer, none is lost."""
    assert client.get(f"/counts/{name}").text == "1800"


def test_calls_while_the_loop_is_blocked(client: Connection, name: str) -> None:
    """A thread needs no help of the event loop."""
    assert literal_eval(client.get(f"/counts-while-blocked/{name}").text) == (True, 100)


def test_calls_of_many_requests(server: Server, client: Connection, name: str) -> None:
    """From the event loop, which serves others meanwhile: every number comes once."""
    numbers: list[int] = []

    def ask() -> None:
        with Connection(server.url) as connection:
            for _ in range(10):
                connection.send(10 * request(target=f"/counts-fast/{name}"))
                numbers.extend(int(connection.read_response().text) for _ in range(10))

    threads = [threading.Thread(target=ask) for _ in range(10)]

    for thread in threads:
        thread.start()

    for thread in threads:
        thread.join()

    assert sorted(numbers) == list(range(1, 1001))


def test_counting_across_workers(node: Node, name: str) -> None:
    """The state is the node's: workers share it."""
    with serving(node, "isolation", "#{workers => 2}") as server:
        numbers = []

        with Connection(server.url) as client:
            for _ in range(40):
                numbers.append(int(client.get(f"/counts-fast/{name}").text))
                # The answer may be here before the worker's place is free.
                wait_until(lambda: server.in_flight() == 0, "it is over")

        assert numbers == list(range(1, 41))
        assert set(server.worker_facts("served")) == {"20"}
