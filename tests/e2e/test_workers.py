# SPDX-License-Identifier: Apache-2.0
"""Workers that die, hang or are busy, and how requests are spread over them."""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from e2e.observe import Server, serving, survivors
from e2e.raw import Connection, Cut, Response, request, wait_until
from node import Node

HOW_TO_DIE = ["exit", "kill", "segfault", "abort"]


@pytest.fixture
def server(node: Node) -> Iterator[Server]:
    """Two workers, which are replaced at once when they die for the first time."""
    with serving(node, "faults", "#{workers => 2}") as running:
        yield running


@pytest.fixture
def quiet_server(node: Node) -> Iterator[Server]:
    """Two workers that say nothing unless they are asked to."""
    with serving(node, "faults", "#{workers => 2, heartbeat => 30000}") as running:
        yield running


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """The file that has one request kill its worker."""
    path = tmp_path / "marker"
    path.touch()
    return path


def die(how: str, marker: Path) -> str:
    return f"/dies/{how}?{quote(str(marker))}"


def hold(server: Server) -> tuple[Connection, int]:
    """A request that a worker works on until `x` is sent; and that worker's process."""
    client = Connection(server.url)
    before = in_flight(server)
    target = f"/hold/{uuid.uuid4().hex}"
    client.send(request("POST", target, [("Content-Length", "1")]))
    wait_until(lambda: sum(in_flight(server).values()) > sum(before.values()), "held")
    after = in_flight(server)
    return client, next(pid for pid in after if after[pid] > before.get(pid, 0))


def wait_for_stall(server: Server, pid: int) -> None:
    """Of one of the workers: others may get no time to run."""
    wait_until(
        lambda: (
            (str(pid), "stalled")
            in zip(
                server.worker_facts("os_pid"),
                server.worker_facts("state"),
                strict=True,
            )
        ),
        "it is noticed",
    )


def are_alike(server: Server) -> bool:
    """Whether no worker is preferred because it has said something lately.

    One that has requests and has been silent for some time comes after the others,
    and is probed: here all that have requests are silent and answered their probes.
    """
    answer = server.node.eval(
        f"[{{_, _, Workers, _, _, _}}] = ets:lookup(hornbeam_selection, {server.name}),"
        " lists:all(fun(Worker) -> Load = element(5, Worker),"
        " not hornbeam_load:is_suspect(Load)"
        " andalso (hornbeam_load:in_flight(Load) =:= 0"
        " orelse hornbeam_load:is_quiet(Load)) end, Workers)"
    )
    return answer == "true"


def in_flight(server: Server) -> dict[int, int]:
    numbers = (int(number) for number in server.worker_facts("in_flight"))
    return dict(zip(server.worker_pids(), numbers, strict=True))


def release(client: Connection) -> Response:
    client.send(b"x")
    return client.read_response("POST")


def wait_for_workers(server: Server, count: int = 2) -> None:
    wait_until(
        lambda: server.worker_facts("state") == ["ready"] * count,
        "all workers are ready",
    )


# Death.


@pytest.mark.parametrize("how", HOW_TO_DIE)
def test_post_of_a_dead_worker(server: Server, marker: Path, how: str) -> None:
    """502, as nobody knows what it has done already; the connection goes on."""
    before = server.worker_pids()

    with Connection(server.url) as client:
        answer = client.post(die(how, marker), b"body")
        assert answer.status == 502
        assert client.get("/hello").text == "hello"

    assert not marker.exists()
    wait_for_workers(server)
    assert len(set(server.worker_pids()) & set(before)) == 1


@pytest.mark.parametrize("how", HOW_TO_DIE)
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_safe_request_of_a_dead_worker(
    server: Server, marker: Path, how: str, method: str
) -> None:
    """Is tried once more, on another one."""
    with Connection(server.url) as client:
        answer = client.exchange(method, die(how, marker))

    assert answer.status == 200
    assert not marker.exists()


def test_only_once_more(node: Node) -> None:
    """A request that kills each worker it meets kills two of them, not all."""
    with serving(node, "faults", "#{workers => 3}") as server:
        before = server.worker_pids()

        with Connection(server.url) as client:
            answer = client.get("/dies/always")

        assert answer.status == 502
        wait_for_workers(server, 3)
        assert len(set(server.worker_pids()) & set(before)) == 1


def test_no_retry_where_it_is_off(node: Node, marker: Path) -> None:
    with serving(node, "faults", "#{workers => 2, retry => false}") as server:
        with Connection(server.url) as client:
            assert client.get(die("exit", marker)).status == 502


def test_worker_dies_within_a_response(server: Server, marker: Path) -> None:
    """Cut, and not tried again: part of the answer has gone out."""
    with Connection(server.url) as client:
        client.send(request(target=die("in-body", marker)))

        with pytest.raises(Cut) as caught:
            client.read_response()

    assert caught.value.received == b"part"


def test_single_worker_comes_back(node: Node, marker: Path) -> None:
    """A safe request waits for the successor."""
    with serving(node, "faults") as server, Connection(server.url) as client:
        assert client.get(die("exit", marker)).status == 200
        assert server.worker_facts("restarts") == ["1"]


def test_others_do_not_notice(server: Server) -> None:
    """Requests in the other worker go on, and so do connections of the dead one."""
    first, first_pid = hold(server)
    second, second_pid = hold(server)
    assert first_pid != second_pid

    with first, second, Connection(server.url) as idle:
        assert idle.get("/hello").text == "hello"
        os.kill(first_pid, signal.SIGKILL)
        assert first.read_response("POST").status == 502
        assert release(second).text == str(second_pid)
        assert idle.get("/hello").text == "hello"


def test_all_in_flight_are_told(node: Node) -> None:
    """Fifty requests of a worker that dies: fifty answers."""
    with serving(node, "faults") as server:
        clients = [hold(server)[0] for _ in range(50)]

        try:
            os.kill(server.worker_pids()[0], signal.SIGKILL)
            assert [client.read_response("POST").status for client in clients] == [
                502
            ] * 50
        finally:
            for client in clients:
                client.close()

        wait_for_workers(server, 1)
        wait_until(lambda: server.in_flight() == 0, "no place is lost")


def test_death_while_idle(server: Server) -> None:
    """Nobody notices but the log."""
    logged = len(server.node.logged())
    before = server.worker_pids()

    for pid in before:
        os.kill(pid, signal.SIGKILL)

    assert survivors(before) == []

    with Connection(server.url) as client:
        assert client.get("/hello").text == "hello"

    wait_until(lambda: server.worker_facts("restarts") == ["1", "1"], "both have ended")
    wait_for_workers(server)
    log = server.node.logged()[logged:]
    assert log.count("ended by signal 9 (SIGKILL)") == 2


def test_dying_again_and_again(node: Node, tmp_path: Path) -> None:
    """Restarts come later and later, the node lives, and the server comes back."""
    with serving(node, "faults") as server:
        for number in range(4):
            marker = tmp_path / str(number)
            marker.touch()

            # An idle one would not live for as long as a start may take.
            with Connection(server.url) as client:
                assert client.post(die("exit", marker), b"x").status == 502

            wait_for_workers(server, 1)

        assert server.worker_facts("restarts") == ["4"]

        with Connection(server.url) as client:
            assert client.get("/hello").text == "hello"


def test_stopped_process(node: Node) -> None:
    """SIGSTOP: no new requests go there; SIGCONT brings it back with nothing lost."""
    options = "#{workers => 2, heartbeat => 50}"

    with serving(node, "faults", options) as server:
        held, pid = hold(server)

        with held:
            os.kill(pid, signal.SIGSTOP)

            try:
                wait_for_stall(server, pid)
                assert pid not in spread(server, 20)
            finally:
                os.kill(pid, signal.SIGCONT)

            assert release(held).text == str(pid)
            wait_for_workers(server)
            assert pid in spread(server, 20)


# Blocked loops.


def test_blocked_loop_gets_no_requests(node: Node, tmp_path: Path) -> None:
    """After two missed beats new requests go to the other worker."""
    options = "#{workers => 2, heartbeat => 50}"
    gate = tmp_path / "gate"

    with serving(node, "faults", options) as server, Connection(server.url) as blocked:
        try:
            blocked.send(request(target=f"/blocks-until?{quote(str(gate))}"))
            wait_until(lambda: server.in_flight() == 1, "it has come")
            (pid,) = (pid for pid, count in in_flight(server).items() if count == 1)
            wait_for_stall(server, pid)
            pids = spread(server, 50)
            assert not blocked.is_readable()
        finally:
            gate.touch()

        assert blocked.read_response().text == str(pid)
        assert len(pids) == 1
        assert pid not in pids
        wait_for_workers(server)
        assert pid in spread(server, 20)


def test_blocked_loop_is_killed(node: Node) -> None:
    """After `stall_timeout`; its request gets its 502, and there is a successor."""
    options = "#{heartbeat => 50, stall_timeout => 500, timeout => infinity}"
    logged = len(node.logged())

    with serving(node, "faults", options) as server:
        before = server.worker_pids()

        with Connection(server.url) as client:
            began = time.monotonic()
            client.send(request("POST", "/blocks/60", body=b""))
            assert client.read_response("POST").status == 502
            assert 0.4 < time.monotonic() - began < 5
            wait_for_workers(server, 1)
            assert client.get("/hello").text == "hello"

        assert survivors(before) == []
        assert "event loop was blocked for" in node.logged()[logged:]


# Spreading.


def spread(server: Server, count: int) -> Counter[int]:
    """The workers that so many requests of one connection get to, one by one."""
    pids: Counter[int] = Counter()
    held = server.in_flight()

    with Connection(server.url) as client:
        for _ in range(count):
            pids[int(client.get("/worker").text)] += 1
            # The answer may be here before the worker's place is free.
            wait_until(lambda: server.in_flight() <= held, "it is over")

    return pids


def test_one_connection_is_spread(server: Server) -> None:
    """Each request is dispatched by itself, evenly where all are idle."""
    assert sorted(spread(server, 40).values()) == [20, 20]


def test_the_busy_one_gets_less(quiet_server: Server) -> None:
    """Among workers that are as quiet, the one with the fewest requests is next."""
    server = quiet_server
    held = []

    for _ in range(4):
        wait_until(lambda: are_alike(server), "no worker has spoken lately")
        held.append(hold(server))

    assert sorted(Counter(pid for _, pid in held).values()) == [2, 2]
    idle_pid = held[0][1]

    for client, pid in held:
        if pid == idle_pid:
            release(client)

    wait_until(lambda: in_flight(server)[idle_pid] == 0, "one of them is idle")
    assert set(spread(server, 20)) == {idle_pid}

    for client, pid in held:
        if pid != idle_pid:
            release(client)

        client.close()
