# SPDX-License-Identifier: Apache-2.0
"""WebSockets of a worker as a process, with a node in Python."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fake_node import FakeNode, Response, find_pythons, read_status
from hornbeam._etf import encode
from hornbeam._pacer import TURN_BYTES
from hornbeam._terms import Atom

LOOPS = ("asyncio", "uvloop", "trio")
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def node() -> Iterator[FakeNode]:
    """A worker that tests leave as they found it."""
    with FakeNode("sockets:app") as running:
        running.wait_ready()
        yield running


@pytest.fixture
def start() -> Iterator[Callable[..., FakeNode]]:
    """Start workers that are gone after the test."""
    nodes: list[FakeNode] = []

    def start_worker(**options: Any) -> FakeNode:
        nodes.append(FakeNode("sockets:app", **options))
        nodes[-1].wait_ready()
        return nodes[-1]

    yield start_worker

    for running in nodes:
        running.__exit__(None, None, None)


def ended(node: FakeNode) -> Any:
    return json.loads(node.get("/ended").body)


def answer(node: FakeNode, path: str) -> Response:
    return node.respond(node.websocket(path))


@pytest.mark.parametrize("loop", LOOPS)
def test_life_of_a_websocket(start: Callable[..., FakeNode], loop: str) -> None:
    node = start(loop=Atom(loop))
    socket = node.open("/echo")

    for payload in ("é", "", b"\xff", b"", "x" * 100_000):
        node.say(socket, payload)
        assert node.hear(socket) == payload

    node.hang_up(socket, 4001, "später".encode())
    assert ended(node) == [["/echo", 4001, "später"]]
    assert node.shutdown() == {"lifespan": Atom("complete")}
    assert node.logged() == []


@pytest.mark.parametrize("python", find_pythons(), ids=os.path.basename)
def test_other_pythons(start: Callable[..., FakeNode], python: str) -> None:
    # The C codec is built for the tests' own interpreter.
    node = start(python=python, env={"HORNBEAM_CODEC": "python"})
    socket = node.open("/echo")

    for payload in ("é", b"\xff"):
        node.say(socket, payload)
        assert node.hear(socket) == payload

    node.hang_up(socket)
    assert answer(node, "/deny").status == 401
    node.shutdown()


def test_scope(node: FakeNode) -> None:
    socket = node.websocket("/scope", b"v1", b"v2")
    assert node.expect("accept", socket)[2:] == (b"v2", [])
    assert json.loads(node.hear(socket)) == {
        "type": "websocket",
        "scheme": "ws",
        "path": "/scope",
        "subprotocols": ["v1", "v2"],
        "state": {"name": "of the lifespan"},
    }
    assert node.expect("close", socket)[2:] == (1000, b"")
    node.expect("done", socket)


def test_refusals(node: FakeNode) -> None:
    assert answer(node, "/refuse").status == 403
    denial = answer(node, "/deny")
    assert (denial.status, denial.body, denial.kinds) == (401, b"who?", ["response"])
    assert answer(node, "/fail").status == 500
    assert node.expect("log", Atom("error"))


def test_failure_of_the_application(node: FakeNode) -> None:
    socket = node.open("/raise")
    assert node.expect("close", socket)[2:] == (1011, b"")
    node.expect("done", socket)
    _, level, report = node.expect("log", Atom("error"))
    text = report[Atom("message")].decode()
    assert text.startswith("WebSocket /raise: the application raised on an open")
    assert "LookupError: in the midst of it" in text
    assert report[Atom("request_id")] == socket
    assert level == Atom("error")


def test_many_at_once(node: FakeNode) -> None:
    sockets = [node.open("/echo") for _ in range(100)]

    for number, socket in enumerate(sockets):
        node.say(socket, f"{number}")

    assert [node.hear(socket) for socket in sockets] == [f"{n}" for n in range(100)]

    for socket in sockets:
        node.hang_up(socket)


@pytest.mark.parametrize("loop", LOOPS)
def test_client_that_reads_nothing(start: Callable[..., FakeNode], loop: str) -> None:
    """The application waits in send(): a window is under way, memory stays."""
    node = start(loop=Atom(loop), acknowledge=False)
    socket = node.open("/push")

    for _ in range(64):
        node.expect("message", socket)

    resident = read_status(node.pid, "VmRSS")
    node.ping(1)
    assert not node.has("message", socket)
    node.send((Atom("ack"), socket, 1024))
    node.expect("message", socket)
    node.ping(2)
    assert not node.has("message", socket)
    node.hang_up(socket, 1006)
    assert read_status(node.pid, "VmRSS") - resident < 1024
    assert [level for level, _ in node.logged()] == ["debug"]


@pytest.mark.parametrize("loop", LOOPS)
def test_small_answer_among_large_messages(
    start: Callable[..., FakeNode], loop: str
) -> None:
    """It waits for what leaves in a turn or two, and not for all of them."""
    count, payload = 200, bytes(25600)
    node = start(loop=Atom(loop))
    sockets = [node.open("/echo") for _ in range(count)]
    said = [(Atom("message"), one, Atom("binary"), payload) for one in sockets]
    node.send(*said, node.make_message("/ended"))
    node.wait(
        lambda: sum(m[0] == Atom("message") for m in node.messages) == count, "all"
    )

    with node._changed:
        heads = [message[0] for message in node.messages]

    before = heads[: heads.index(Atom("response"))].count(Atom("message"))
    # trio runs tasks in any order: it may even be the first.
    assert before * len(payload) <= 2 * (TURN_BYTES + len(payload))

    for socket in sockets:
        assert node.hear(socket) == payload


def test_application_that_takes_nothing(node: FakeNode) -> None:
    """No credit before it does; then for all that came."""
    socket = node.open("/deaf")
    assert node.hear(socket) == '"deaf"'

    for _ in range(4):
        node.say(socket, "x" * 16384)

    node.ping(1)
    assert not node.has("credit", socket)
    node.send((Atom("publish"), b"wake", encode(None)))
    assert [node.expect("credit", socket)[2] for _ in range(4)] == 4 * [16384]
    node.hang_up(socket)


def test_cancelled_handshake(node: FakeNode) -> None:
    """The node's timeout; `cancel` and what is late are for whoever is there."""
    socket = node.open("/echo")
    node.send((Atom("cancel"), socket))
    node.expect("done", socket)
    node.send(
        (Atom("cancel"), socket),
        (Atom("disconnect"), socket),
        (Atom("ack"), socket, 5),
        (Atom("message"), socket, Atom("text"), b"late"),
        (Atom("ending"), socket, 1002, b""),
        (Atom("closed"), socket, 1000, b""),
    )
    node.ping(1)


def test_fault_of_the_client(node: FakeNode) -> None:
    """What came before it, in one batch with it, is answered first."""
    socket = node.open("/echo")
    node.send(
        (Atom("message"), socket, Atom("text"), b"before"),
        (Atom("ending"), socket, 1002, b"why"),
    )
    assert node.hear(socket) == "before"
    assert node.expect("close", socket)[2:] == (1002, b"")
    node.expect("done", socket)


@pytest.mark.parametrize("loop", LOOPS)
def test_shutdown_ends_websockets(start: Callable[..., FakeNode], loop: str) -> None:
    """At once and with a word, however long requests may take."""
    node = start(loop=Atom(loop))
    sockets = [node.open("/echo") for _ in range(3)]
    node.send((Atom("shutdown"), 60000))

    for socket in sockets:
        assert node.expect("close", socket)[2:] == (1012, b"")
        node.expect("done", socket)

    assert node.expect("stopped")[1] == {Atom("lifespan"): Atom("complete")}
    assert node.wait_exit() == 0


def test_shutdown_cancels_what_does_not_end(start: Callable[..., FakeNode]) -> None:
    node = start(acknowledge=False)
    socket = node.open("/deaf")
    node.send((Atom("shutdown"), 50))
    assert node.expect("close", socket)[2:] == (1012, b"")
    node.expect("stopped")
    assert node.wait_exit() == 0


@pytest.mark.parametrize(
    ("target", "fields", "text"),
    [
        ("http", ("message", Atom("text"), b"x"), "of a WebSocket for a request"),
        ("http", ("closed", 1000, b""), "of a WebSocket for a request"),
        ("http", ("ending", 1002, b""), "of a WebSocket for a request"),
        ("websocket", ("body", b"x", False), "a body for a WebSocket"),
        ("websocket", ("message", Atom("ping"), b"x"), "text or binary"),
        ("websocket", ("message", Atom("text"), b"\xff"), "a text message"),
    ],
)
def test_hostile_messages(
    start: Callable[..., FakeNode], target: str, fields: tuple[Any, ...], text: str
) -> None:
    """The node is broken: the worker says so and leaves."""
    node = start()
    is_http = target == "http"
    request_id = node.request("/wait", more=True) if is_http else node.open("/echo")
    node.send((Atom(fields[0]), request_id, *fields[1:]))
    assert node.wait_exit() == 70
    assert text in node.output


# Topics.


def test_attach_and_detach(start: Callable[..., FakeNode]) -> None:
    node = start()
    node.held_functions.update(("attach", "detach"))
    socket = node.open("/topics")
    _, call_id, function, args = node.expect("call")
    assert (function.name, args) == (
        "attach",
        (socket, b"room:*", Atom("drop_oldest"), 5),
    )
    node.ping(1)
    assert not node.has("message", socket)
    node.send((Atom("reply"), call_id, Atom("ok"), True))
    _, call_id, function, args = node.expect("call")
    assert (function.name, args) == ("detach", (socket, b"room:*"))
    node.send((Atom("reply"), call_id, Atom("ok"), False))
    assert node.hear(socket) == "false"
    node.hang_up(socket)


def test_attach_where_the_client_has_left(start: Callable[..., FakeNode]) -> None:
    node = start()
    node.held_functions.add("attach")
    socket = node.open("/topics")
    _, call_id, _, _ = node.expect("call")
    node.send((Atom("closed"), socket, 1001, b""))
    error = (Atom("not_open"), {Atom("request_id"): socket})
    node.send((Atom("reply"), call_id, Atom("error"), error))
    node.expect("done", socket)
    assert [level for level, _ in node.logged()] == ["debug"]


def test_node_that_knows_no_attachments(start: Callable[..., FakeNode]) -> None:
    node = start()
    socket = node.open("/topics")
    assert node.expect("close", socket)[2:] == (1011, b"")
    _, _, report = node.expect("log", Atom("error"))
    assert b"attach failed: unknown_function" in report[Atom("message")]


def test_calls_and_subscriptions_of_a_websocket(node: FakeNode) -> None:
    socket = node.open("/publish")
    node.say(socket, "hello")
    assert node.hear(socket) == "0"
    node.hang_up(socket)
