# SPDX-License-Identifier: Apache-2.0
"""A worker whose loop is blocked: what it says, and what it gives back."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from fake_node import FakeNode, find_pythons
from hornbeam._pipes import Pipes
from hornbeam._terms import Atom
from hornbeam._watchdog import Watchdog, WatchdogHost

LOOPS = ("asyncio", "uvloop", "trio")

TICK_NS = 10_000_000
BEGIN_SECONDS = 30.0

PING, REVOKE, INSPECT = Atom("ping"), Atom("revoke"), Atom("inspect")


class Blocked:
    """A worker whose loop is held by request `first` until `release` is called."""

    def __init__(self, node: FakeNode, gate: Path, path: str = "/block") -> None:
        self.node = node
        self._gate = gate
        self.first = node.request(path, query=str(gate).encode())
        # A loop may begin what comes next before it: trio's order is by chance.
        begun = gate.with_name(f"{gate.name}.begun")
        deadline = time.monotonic() + BEGIN_SECONDS

        while not begun.exists():
            assert time.monotonic() < deadline, "the first request has not begun"
            time.sleep(0.005)

    def release(self) -> None:
        self._gate.touch()
        assert self.node.respond(self.first).status == 200

    def begun(self) -> list[str]:
        """What the application has begun, without the request that asks."""
        paths: list[str] = json.loads(self.node.get("/begun").body)
        return paths[:-1]


@pytest.fixture
def block(tmp_path: Path) -> Iterator[Callable[..., Blocked]]:
    """Start a worker and block its loop."""
    nodes: list[FakeNode] = []

    def start(path: str = "/block", **options: Any) -> Blocked:
        node = FakeNode("blocker:app", **options)
        nodes.append(node)
        node.wait_ready()
        return Blocked(node, tmp_path / "gate", path)

    yield start

    for node in nodes:
        node.__exit__(None, None, None)


def revoke(blocked: Blocked, *returned: tuple[int, bytes]) -> None:
    """Ask for what has not begun, and wait for it."""
    blocked.node.send((REVOKE,))

    for request_id, body in returned:
        blocked.node.expect("returned", request_id, body)


@pytest.mark.parametrize("loop", LOOPS)
def test_what_has_not_begun_goes_back(block: Callable[..., Blocked], loop: str) -> None:
    """With its body, while the loop is blocked; and is not begun later."""
    blocked = block(loop=Atom(loop))
    node = blocked.node
    plain = node.request("/plain")
    posted = node.request("/posted", method="POST", body=b"a", more=True)
    node.send((Atom("body"), posted, b"b", True), (Atom("body"), posted, b"c", False))
    socket = node.websocket("/socket")
    revoke(blocked, (plain, b""), (posted, b"abc"), (socket, b""))
    assert not node.has("done")
    later = node.request("/later")
    blocked.release()
    assert node.respond(later).status == 200
    assert blocked.begun() == ["/block", "/later"]
    assert not any(node.has("done", key) for key in (plain, posted, socket))
    assert node.shutdown() == {"lifespan": Atom("off")}


def test_one_turn(tmp_path: Path) -> None:
    """What came in the packet of the blocking request has not begun either."""
    gate = tmp_path / "gate"

    with FakeNode("blocker:app") as node:
        node.wait_ready()
        packet = [node.make_message("/block", query=str(gate).encode())]
        packet += [node.make_message(f"/{number}") for number in range(5)]
        node.send(*packet, (REVOKE,))

        for message in packet[1:]:
            node.expect("returned", message[1], b"")

        gate.touch()
        assert node.respond(packet[0][1]).status == 200
        assert json.loads(node.get("/begun").body) == ["/block", "/begun"]


def test_upload_under_way_stays(block: Callable[..., Blocked]) -> None:
    """The node may have sent more of it."""
    blocked = block()
    upload = blocked.node.request("/upload", method="POST", body=b"a", more=True)
    plain = blocked.node.request("/plain")
    revoke(blocked, (plain, b""))
    blocked.node.send((Atom("body"), upload, b"b", False))
    assert not blocked.node.has("returned", upload)
    blocked.release()
    assert blocked.node.respond(upload).body == b"ab"
    assert blocked.begun() == ["/block", "/upload"]


def test_client_leaves_before_it_goes_back(block: Callable[..., Blocked]) -> None:
    """What comes for a request that has gone back is dropped."""
    blocked = block()
    plain = blocked.node.request("/plain")
    blocked.node.send((Atom("cancel"), plain), (Atom("disconnect"), plain))
    revoke(blocked, (plain, b""))
    blocked.node.send((Atom("cancel"), plain), (Atom("disconnect"), plain))
    blocked.release()
    assert blocked.begun() == ["/block"]
    assert [level for level, _ in blocked.node.logged()] == ["info"]


def test_free_loop_gives_nothing_back(block: Callable[..., Blocked]) -> None:
    """It begins what comes anyway; who asks is late."""
    blocked = block()
    blocked.release()

    for _ in range(20):
        ids = [blocked.node.request("/plain") for _ in range(10)]
        blocked.node.send((REVOKE,), (INSPECT,))
        assert [blocked.node.respond(key).status for key in ids] == [200] * 10

    assert not blocked.node.has("returned")
    assert not blocked.node.has("blocked")


class Loop:
    """The pipes of a loop of which the test says how far it is."""

    def __init__(self) -> None:
        self.rounds = 0
        self.is_wanted = False
        self.reads = 0

    def take_directly(self, *_: object) -> None:
        pass

    def is_loop_wanted(self) -> bool:
        return self.is_wanted

    def read_for_loop(self) -> int:
        self.reads += 1
        return 0


def test_late_at_the_second_look() -> None:
    """What has come just now is for the loop to read, also where the process was held
    up: then the watchdog was as well."""
    loop = Loop()
    watchdog = Watchdog(cast(Pipes, loop), cast(WatchdogHost, None))
    seen = []

    for rounds, is_wanted in [(0, True), (0, True), (1, True), (1, True), (1, True)]:
        loop.rounds, loop.is_wanted = rounds, is_wanted
        assert watchdog.look(was_busy=True)
        seen.append(loop.reads)

    # The loop comes round in the third; the fourth and the fifth are without a round.
    assert seen == [0, 0, 0, 0, 1]
    loop.is_wanted = False
    assert not watchdog.look(was_busy=True)
    loop.is_wanted = True
    assert watchdog.look(was_busy=True)
    assert loop.reads == 1


def test_what_was_answered_goes_out(tmp_path: Path) -> None:
    """A response of the turn that blocks does not wait for its end."""
    with FakeNode("blocker:app") as node:
        node.wait_ready()
        blocking = node.make_message("/block", query=str(tmp_path / "never").encode())
        node.send(node.make_message("/plain"), blocking)
        node.expect("response")


@pytest.mark.parametrize("loop", LOOPS)
def test_inspection(block: Callable[..., Blocked], loop: str) -> None:
    """The line that blocks, the stack, and what is under way."""
    blocked = block(loop=Atom(loop))
    blocked.node.request("/waits")
    blocked.node.send((INSPECT,), (PING, 1))
    _, report = blocked.node.expect("blocked")
    facts = {key.name: fact for key, fact in report.items()}
    file, _, rest = facts["location"].decode().rpartition(":")
    line, _, function = rest.partition(" in ")
    assert Path(file).name == "blocker.py"
    assert function == "block"
    source = Path(file).read_text().splitlines()
    assert source[int(line) - 1].strip() in facts["stack"].decode()
    assert " in app\n" in facts["stack"].decode()
    assert facts["requests"] == [(blocked.first, b"GET /block")]
    blocked.release()
    blocked.node.expect("pong", 1)


def test_interpreter_held(block: Callable[..., Blocked]) -> None:
    """Nothing of the worker runs; afterwards there is nothing to say."""
    blocked = block("/hold")
    plain = blocked.node.request("/plain")
    blocked.node.send((REVOKE,), (INSPECT,), (PING, 1))
    blocked.release()
    blocked.node.expect("pong", 1)
    assert blocked.node.respond(plain).status == 200
    assert not blocked.node.has("returned")


def test_threads_of_wsgi(tmp_path: Path) -> None:
    """A request for which there is no thread has not begun; the loop is free."""
    gate = tmp_path / "gate"

    with FakeNode("blocker:wsgi", threads=1) as node:
        node.wait_ready()
        first = node.request("/block", query=str(gate).encode())
        second = node.request("/second")
        node.send((REVOKE,), (PING, 1))
        node.expect("pong", 1)
        node.expect("returned", second, b"")
        gate.touch()
        assert node.respond(first).status == 200
        assert json.loads(node.get("/third").body) == ["/block", "/third"]


def test_end_without_what_went_back_to_the_node(tmp_path: Path) -> None:
    """A request that no thread will ever look at does not hold up the worker's end."""
    never = str(tmp_path / "never").encode()

    with FakeNode("blocker:wsgi", threads=1) as node:
        node.wait_ready()
        first, second = node.request("/block", query=never), node.request("/second")
        node.send((REVOKE,))
        node.expect("returned", second, b"")
        node.send((Atom("cancel"), first), (Atom("shutdown"), Atom("infinity")))
        node.expect("stopped")


def test_request_goes_back_while_the_worker_ends(tmp_path: Path) -> None:
    """The same where it is the last that is waited for."""
    never = str(tmp_path / "never").encode()

    with FakeNode("blocker:wsgi", threads=1) as node:
        node.wait_ready()
        first, second = node.request("/block", query=never), node.request("/second")
        node.send((Atom("cancel"), first), (Atom("shutdown"), Atom("infinity")))
        node.ping(1)
        node.ping(2)
        assert not node.has("stopped")
        node.send((REVOKE,))
        node.expect("returned", second, b"")
        node.expect("stopped")


@pytest.mark.parametrize("python", find_pythons(), ids=os.path.basename)
def test_other_pythons(tmp_path: Path, python: str) -> None:
    """From 3.12 on a task's first step is made as the request is handled."""
    gate = tmp_path / "gate"
    env = {"HORNBEAM_CODEC": "python"}

    with FakeNode("blocker:app", python=python, env=env) as node:
        node.wait_ready()
        packet = [node.make_message("/block", query=str(gate).encode())]
        packet += [node.make_message(f"/{number}") for number in range(5)]
        node.send(*packet, (REVOKE,), (INSPECT,), (PING, 1))

        for message in packet[1:]:
            node.expect("returned", message[1], b"")

        _, report = node.expect("blocked")
        assert b"blocker.py" in report[Atom("location")]
        gate.touch()
        assert node.respond(packet[0][1]).status == 200
        assert json.loads(node.get("/begun").body) == ["/block", "/begun"]


def test_idle_worker_takes_no_time() -> None:
    """The looks do not add up to a tick of the clock in two seconds."""
    with FakeNode("blocker:app") as node:
        node.wait_ready()
        node.get("/plain")
        before_ns = cpu_ns(node.pid)
        end = time.monotonic() + 2

        for number in range(1, 9):
            node.ping(number)
            time.sleep(max(0.0, end - time.monotonic()) / (9 - number))

        assert cpu_ns(node.pid) - before_ns <= TICK_NS


def cpu_ns(pid: int) -> int:
    """Of all threads; the kernel counts ticks for whoever runs when the clock ticks."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads)
