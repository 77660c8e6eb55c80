# SPDX-License-Identifier: Apache-2.0
"""Bodies that are written to the client's socket: loans, and responses with one."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hornbeam._asgi import ClientDisconnected, ContentLengthMismatch
from hornbeam._http import HttpSession
from hornbeam._loan import BORROW_BYTES, BORROWING_PART_BYTES, WRITE_BYTES
from step_runtime import Cancelled, Puppet, StepRuntime, StepTask
from worker_support import body, start

SIZE = 4 << 20
"""More than a pair of sockets holds."""

HALF = SIZE // 2
TIMEOUT_S = 30.0
WINDOW = 65536
PATTERN = bytes(range(251))


def body_of(size: int) -> bytes:
    return (PATTERN * (size // len(PATTERN) + 1))[:size]


class Runtime(StepRuntime):
    """One whose sockets are watched by the test."""

    def __init__(self) -> None:
        super().__init__()
        self.writers: dict[int, Callable[[], None]] = {}

    def add_writer(self, descriptor: int, callback: Callable[[], None]) -> None:
        assert descriptor not in self.writers
        self.writers[descriptor] = callback

    def remove_writer(self, descriptor: int) -> None:
        self.writers.pop(descriptor, None)

    def poll(self) -> bool:
        """Call those whose socket can be written to; say whether there was one."""
        _, writable, _ = select.select([], list(self.writers), [], 0)
        callbacks = [self.writers[descriptor] for descriptor in writable]

        for callback in callbacks:
            callback()

        return bool(callbacks)


class Loans:
    """A worker's part of loans; the clients are ends of pairs of sockets."""

    def __init__(self, runtime: Runtime, send_timeout_s: float | None) -> None:
        self.runtime: Any = runtime
        self.send_timeout_s = send_timeout_s
        self.given_back = 0

    def give_back(self, client: socket.socket) -> None:
        assert client.fileno() not in self.runtime.writers
        self.given_back += 1
        client.close()


class Lent(Puppet):
    """A request whose client's socket the test lends."""

    def __init__(
        self, send_timeout_s: float | None = TIMEOUT_S, **scope: object
    ) -> None:
        super().__init__(WINDOW)
        self.runtime = Runtime()
        self._end = self.runtime.create_waiter()
        self.lender = Loans(self.runtime, send_timeout_s)
        self.loans = self.lender
        whole = {"type": "http", "http_version": "1.1", "method": "GET", "path": "/"}
        self.session = HttpSession(self, 1, {**whole, **scope}, b"", False)
        self.client, self.here = socket.socketpair()
        self.client.setblocking(False)
        self.session.start()
        self.runtime.settle()

    def close(self) -> None:
        self.runtime.close()
        self.client.close()
        self.here.close()

    @property
    def http(self) -> HttpSession:
        assert isinstance(self.session, HttpSession)
        return self.session

    @property
    def kinds(self) -> list[str]:
        return [message[0] for message in self.sent]

    def lend(self) -> bool:
        """Let a descriptor of the client's socket arrive, the worker's own."""
        return self.http.take_loan(self.here.dup())

    def begin(self, size: int = SIZE) -> None:
        self.send(start(headers=[(b"content-length", b"%d" % size)]))

    def part(self, data: bytes, *, more_body: bool = False) -> StepTask:
        return self.send(body(data, more_body=more_body))

    def receive_all(self, size: int = SIZE) -> bytes:
        """Let the client read, and the worker go on, until it has so much."""
        received = bytearray()

        while len(received) < size:
            readable, _, _ = select.select([self.client], [], [], 0)

            if readable:
                received += self.client.recv(min(1 << 20, size - len(received)))
            else:
                is_going = self.runtime.poll()
                assert self.runtime.turn() or is_going, "nothing goes on"

        self.runtime.settle()
        return bytes(received)

    def receive_some(self) -> bytes:
        """Let the client read what is there, and nothing go on."""
        received = bytearray()

        while select.select([self.client], [], [], 0)[0]:
            received += self.client.recv(1 << 20)

        return bytes(received)

    def fill(self) -> None:
        """Have it write until there is no more room."""
        while not self.runtime.writers:
            assert self.runtime.turn()

    def expire(self) -> None:
        """Let the time of all timers be over."""
        timers, self.runtime.timers = self.runtime.timers, []

        for timer in timers:
            if not timer.is_cancelled:
                timer.callback()


@pytest.fixture
def lent() -> Iterator[Lent]:
    made = Lent()
    yield made
    made.close()


def make(**options: Any) -> Lent:
    return Lent(**options)


# When the socket is asked for.


@pytest.mark.parametrize(
    ("announced", "part", "is_last", "asks"),
    [
        (BORROW_BYTES, BORROW_BYTES, True, True),
        (BORROW_BYTES - 1, BORROW_BYTES - 1, True, False),
        (BORROW_BYTES, BORROWING_PART_BYTES, False, True),
        (BORROW_BYTES, BORROWING_PART_BYTES - 1, False, False),
        (None, BORROW_BYTES, True, True),
        (None, BORROW_BYTES, False, False),
    ],
)
def test_size(
    lent: Lent, announced: int | None, part: int, is_last: bool, asks: bool
) -> None:
    headers = [] if announced is None else [(b"content-length", b"%d" % announced)]
    lent.send(start(headers=headers))
    lent.part(body_of(part), more_body=not is_last)
    assert ("borrow" in lent.kinds) is asks

    if asks:
        size = b"%d" % (announced or part)
        head = ("start", 200, [(b"content-length", size)], b"")
        assert lent.sent == [head, ("borrow",)]


@pytest.mark.parametrize(
    "scope",
    [
        {"method": "HEAD"},
        {"http_version": "2"},
        {"http_version": "1.0"},
        {"http_version": None},
        {"type": "websocket"},
    ],
)
def test_scope_that_gets_none(scope: dict[str, object]) -> None:
    lent = make(**scope)
    lent.begin()
    lent.part(body_of(SIZE))
    assert "borrow" not in lent.kinds
    lent.close()


@pytest.mark.parametrize("status", [204, 304])
def test_status_that_gets_none(lent: Lent, status: int) -> None:
    lent.send(start(status, [(b"content-length", b"%d" % SIZE)]))
    lent.part(body_of(SIZE))
    assert "borrow" not in lent.kinds


def test_trailers_get_none(lent: Lent) -> None:
    lent.send(start(headers=[(b"content-length", b"%d" % SIZE)], trailers=True))
    lent.part(body_of(SIZE))
    assert "borrow" not in lent.kinds


def test_node_that_does_not_lend(lent: Lent) -> None:
    lent.loans = None
    lent.begin()
    lent.part(body_of(SIZE))
    assert "borrow" not in lent.kinds


def test_behind_small_parts(lent: Lent) -> None:
    """What is large of a body can come later."""
    lent.begin(SIZE + 10)
    lent.part(body_of(10), more_body=True)
    lent.part(body_of(SIZE))
    assert lent.kinds == ["start", "borrow"]


def test_is_asked_for_once(lent: Lent) -> None:
    lent.begin()
    lent.part(body_of(HALF), more_body=True)
    lent.part(body_of(HALF))
    assert lent.kinds == ["start", "borrow"]


# A body that is written.


def test_whole(lent: Lent) -> None:
    lent.begin()
    task = lent.part(body_of(SIZE))
    assert lent.lend()
    assert not task.done()
    assert lent.receive_all() == body_of(SIZE)
    assert task.done()
    assert task.error is None
    assert lent.sent[1:] == [("borrow",), ("written", SIZE), ("last", b"")]
    assert lent.lender.given_back == 1
    lent.end()
    lent.runtime.settle()
    assert lent.kinds[-1] == "done"


def test_each_part_waits_for_its_turn(lent: Lent) -> None:
    lent.begin()
    first = lent.part(body_of(SIZE)[:HALF], more_body=True)
    second = lent.part(body_of(SIZE)[HALF:])
    lent.lend()
    assert lent.receive_all() == body_of(SIZE)
    assert (first.error, second.error) == (None, None)
    assert lent.sent[2:] == [("written", SIZE), ("last", b"")]


def test_part_that_comes_when_it_is_here(lent: Lent) -> None:
    """All that follows goes to the socket, however small it is."""
    lent.begin(HALF + 3)
    lent.part(body_of(HALF), more_body=True)
    lent.lend()
    lent.receive_all(HALF)

    for last in (False, False, True):
        task = lent.part(b"x", more_body=not last)
        lent.runtime.settle()
        assert task.done()

    assert lent.receive_all(3) == b"xxx"
    assert lent.sent[2:] == [("written", HALF + 3), ("last", b"")]


def test_empty_last_part(lent: Lent) -> None:
    lent.begin(HALF)
    lent.part(body_of(HALF), more_body=True)
    lent.lend()
    lent.receive_all(HALF)
    assert lent.kinds == ["start", "borrow"]
    lent.part(b"")
    assert lent.sent[2:] == [("written", HALF), ("last", b"")]


def test_memory_of_a_body(lent: Lent) -> None:
    """No copy of it is made, and it goes with its last byte."""
    lent.begin()
    data = bytearray(body_of(SIZE))
    lent.send(body(memoryview(bytes(data))))
    lent.lend()
    pending = lent.http._pending
    assert pending is not None
    (part,) = pending
    assert isinstance(part.rest, memoryview)
    assert lent.receive_all() == data
    assert not pending


def test_cancelled_send_leaves_its_part(lent: Lent) -> None:
    lent.begin()
    first = lent.part(body_of(SIZE)[:HALF], more_body=True)
    first.cancel()
    lent.runtime.settle()
    assert isinstance(first.error, Cancelled)
    lent.part(body_of(SIZE)[HALF:])
    lent.lend()
    assert lent.receive_all() == body_of(SIZE)


def test_more_than_announced(lent: Lent) -> None:
    """Is found before it is written."""
    lent.begin(HALF)
    lent.part(body_of(HALF), more_body=True)
    lent.lend()
    lent.receive_all(HALF)
    task = lent.part(b"x")
    assert isinstance(task.error, ContentLengthMismatch)
    lent.end(task.error)
    lent.runtime.settle()
    assert lent.kinds[2:] == ["abort", "done"]
    assert lent.lender.given_back == 1

    with pytest.raises(BlockingIOError):
        lent.client.recv(1)


def test_file_behind_what_was_written(lent: Lent) -> None:
    """The node counts on from there: it gets the socket back before."""
    lent.begin(2 * HALF)
    lent.part(body_of(HALF), more_body=True)
    lent.lend()
    lent.receive_all(HALF)
    lent.send({"type": "http.response.pathsend", "path": "/srv/f"})
    assert lent.sent[2:] == [("written", HALF), ("file", None, b"/srv/f", 0, HALF)]
    assert lent.lender.given_back == 1


def test_file_behind_what_waits_to_be_written(lent: Lent) -> None:
    lent.begin(2 * HALF)
    lent.part(body_of(HALF), more_body=True)
    lent.send({"type": "http.response.pathsend", "path": "/srv/f"})
    lent.lend()
    lent.receive_all(HALF)
    assert lent.sent[2:] == [("written", HALF), ("file", None, b"/srv/f", 0, HALF)]


def test_file_behind_what_was_kept(lent: Lent) -> None:
    """What was not lent is not given back."""
    lent.begin(SIZE)
    lent.part(body_of(BORROW_BYTES), more_body=True)
    lent.http.handle_kept()
    lent.http.acknowledge(WINDOW)
    lent.http.acknowledge(WINDOW)
    lent.runtime.settle()
    lent.send({"type": "http.response.pathsend", "path": "/srv/f"})
    assert "written" not in lent.kinds
    assert lent.kinds[-1] == "file"


# Turns of the event loop.


def test_others_have_their_turn(lent: Lent) -> None:
    """A client that reads as fast as the worker writes does not hold up the others."""
    lent.begin(16 * WRITE_BYTES)
    task = lent.part(body_of(16 * WRITE_BYTES))
    received = bytearray()
    writes = []
    write = lent.here.dup()

    class Eager(socket.socket):
        """One whose client takes all at once."""

        def send(self, data: Any, flags: int = 0, /) -> int:
            writes.append(len(data))
            received.extend(data)
            return len(data)

    lent.http.take_loan(Eager(fileno=write.detach()))
    turns = 1

    while not task.done():
        assert sum(writes) <= turns * WRITE_BYTES
        assert lent.runtime.turn()
        turns += 1

    assert received == body_of(16 * WRITE_BYTES)


# What can go wrong with it.


def test_kept(lent: Lent) -> None:
    """It goes the usual way, a window at a time."""
    lent.begin()
    task = lent.part(body_of(SIZE))
    lent.http.handle_kept()
    received = b""
    heads = 0

    while not task.done():
        parts = [message for message in lent.sent[2 + heads :]]
        heads += len(parts)
        assert sum(len(part[1]) for part in parts) <= WINDOW
        received += b"".join(part[1] for part in parts)
        lent.http.acknowledge(sum(len(part[1]) for part in parts))
        lent.runtime.turn()

    received += b"".join(part[1] for part in lent.sent[2 + heads :])
    assert received == body_of(SIZE)
    assert lent.kinds[-1] == "last"
    assert "written" not in lent.kinds


def test_kept_for_all_of_the_body(lent: Lent) -> None:
    lent.begin()
    lent.part(body_of(HALF), more_body=True)
    lent.http.handle_kept()

    while lent.http._pending:
        lent.http.acknowledge(WINDOW)
        lent.runtime.settle()

    lent.part(body_of(HALF))
    assert lent.kinds.count("borrow") == 1


def test_no_place_for_it(lent: Lent) -> None:
    """The node gets it back with nothing written, and the body comes as usual."""
    lent.begin()
    lent.part(body_of(SIZE))
    assert lent.http.take_loan(None)
    assert lent.sent[2] == ("written", 0)
    kind, part = lent.sent[3]
    assert (kind, part) == ("data", body_of(SIZE)[: len(part)])


@pytest.mark.parametrize("how", ["disconnect", "raises"])
def test_arrives_too_late(lent: Lent, how: str) -> None:
    """It is left to whoever has got it."""
    lent.begin()
    task = lent.part(body_of(SIZE), more_body=False)

    if how == "disconnect":
        lent.http.disconnect()
        lent.runtime.settle()
        assert isinstance(task.error, ClientDisconnected)
    else:
        lent.end(RuntimeError("x"))
        lent.runtime.settle()
        assert lent.kinds[2:] == ["abort", "done"]

    client = lent.here.dup()
    assert not lent.http.take_loan(client)
    assert not lent.http.take_loan(None)
    assert "written" not in lent.kinds
    client.close()


def test_arrives_for_who_has_not_asked(lent: Lent) -> None:
    lent.begin()
    client = lent.here.dup()
    assert not lent.http.take_loan(client)
    lent.http.handle_kept()
    client.close()


@pytest.mark.parametrize("is_full", [False, True])
def test_client_that_leaves(lent: Lent, is_full: bool) -> None:
    """As the worker sees it: the node is to end what is left."""
    lent.begin()
    task = lent.part(body_of(SIZE))

    if is_full:
        lent.lend()
        lent.fill()
        lent.client.close()
        assert lent.runtime.poll()
    else:
        lent.client.close()
        lent.lend()

    lent.runtime.settle()
    assert isinstance(task.error, ClientDisconnected)
    kinds = [message[0] for message in lent.sent[2:]]
    assert kinds == ["written", "abort"]
    assert lent.lender.given_back == 1
    lent.receive()
    lent.receive()
    assert lent.received[-1] == {"type": "http.disconnect"}


def test_node_that_says_the_client_has_gone(lent: Lent) -> None:
    lent.begin()
    task = lent.part(body_of(SIZE))
    lent.lend()
    lent.fill()
    lent.http.disconnect()
    lent.runtime.settle()
    assert isinstance(task.error, ClientDisconnected)
    assert lent.lender.given_back == 1
    assert not lent.runtime.writers


def test_blocked_until_there_is_room(lent: Lent) -> None:
    """Nothing runs meanwhile."""
    lent.begin()
    lent.part(body_of(SIZE))
    lent.lend()
    lent.fill()
    lent.runtime.settle()
    assert not lent.runtime.poll()
    assert not lent.runtime.turn()
    assert lent.receive_all() == body_of(SIZE)
    assert not lent.runtime.writers


# Stalls.


def test_client_that_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    lent = make()
    now_s = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    lent.begin()
    task = lent.part(body_of(SIZE))
    lent.lend()
    lent.fill()
    now_s += TIMEOUT_S - 1
    lent.expire()
    lent.runtime.settle()
    assert not task.done()
    now_s += 2
    lent.expire()
    lent.runtime.settle()
    assert isinstance(task.error, ClientDisconnected)
    assert lent.kinds[2:] == ["written", "abort"]
    lent.close()


def test_client_that_has_for_ever() -> None:
    lent = make(send_timeout_s=None)
    lent.begin()
    lent.part(body_of(SIZE))
    lent.lend()
    lent.fill()
    assert not lent.runtime.timers
    assert lent.receive_all() == body_of(SIZE)
    lent.close()


def test_timer_of_a_client_that_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    lent = make()
    now_s = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    lent.begin(2 * SIZE)
    task = lent.part(body_of(2 * SIZE))
    lent.lend()
    lent.fill()
    now_s += TIMEOUT_S - 1
    lent.receive_all(SIZE)
    now_s += 2
    lent.expire()
    lent.runtime.settle()
    assert not task.done()
    assert lent.receive_all(SIZE) == body_of(2 * SIZE)[SIZE:]
    assert all(timer.is_cancelled for timer in lent.runtime.timers)
    lent.close()


def test_other_part_moves_no_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's time is over, though the application has more for it."""
    lent = make()
    now_s = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    lent.begin(SIZE + 10)
    lent.part(body_of(SIZE), more_body=True)
    lent.lend()
    lent.fill()

    for _ in range(3):
        now_s += TIMEOUT_S / 2
        lent.part(b"x", more_body=True)
        lent.expire()
        lent.runtime.settle()

    assert lent.kinds[2:] == ["written", "abort"]
    lent.close()


def test_time_in_which_nobody_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop was blocked, and has taken up the timer first."""
    lent = make()
    now_s = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    lent.begin()
    lent.part(body_of(SIZE))
    lent.lend()
    lent.fill()
    received = lent.receive_some()
    now_s += 2 * TIMEOUT_S
    lent.expire()
    assert received + lent.receive_all(SIZE - len(received)) == body_of(SIZE)
    lent.close()


# What stays.


@pytest.mark.parametrize("end", ["complete", "gone", "kept", "never"])
def test_no_reference_cycle(end: str) -> None:
    lent = make()
    lent.begin(BORROW_BYTES)
    lent.part(body_of(BORROW_BYTES))

    if end == "complete":
        lent.lend()
        lent.receive_all(BORROW_BYTES)
    elif end == "gone":
        lent.lend()
        lent.http.disconnect()
    elif end == "kept":
        lent.http.handle_kept()
        lent.http.acknowledge(WINDOW)

    lent.end(RuntimeError("x"))
    lent.runtime.settle()
    assert lent.is_over
    loan = lent.http._loan
    assert loan is not None
    assert loan._borrower is None
    assert loan._timer is None
    lent.close()
