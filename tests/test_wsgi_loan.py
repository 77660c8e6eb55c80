# SPDX-License-Identifier: Apache-2.0
"""Bodies that a WSGI request's thread writes to a socket, with the test as the node
and as the client."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from fake_node import TIMEOUT_S
from hornbeam._asgi import ClientDisconnected
from hornbeam._loan import BORROW_BYTES, BORROWING_PART_BYTES, LoanHost
from hornbeam._runtime import Runtime
from hornbeam._wsgi_loan import ThreadLoan
from test_wsgi import (
    ERROR,
    Environ,
    Exchange,
    Parts,
    Sent,
    StartResponse,
    logged,
    messages,
)

WINDOW_BYTES = 65536
HUGE = 16 << 20
"""More than the buffers of a pair of sockets hold."""


class Loans:
    """What loans share, as a worker has it."""

    def __init__(self, send_timeout_s: float | None = None) -> None:
        self.send_timeout_s = send_timeout_s
        self.returned: list[socket.socket] = []

    @property
    def runtime(self) -> Runtime:
        raise AssertionError("a thread has no event loop")

    def give_back(self, client: socket.socket) -> None:
        self.returned.append(client)
        client.close()


@pytest.fixture
def loans() -> Loans:
    return Loans()


def connect_tcp() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        return listener.accept()[0], client


@pytest.fixture(params=[connect_tcp, socket.socketpair], ids=["tcp", "unix"])
def pair(
    request: pytest.FixtureRequest,
) -> Iterator[tuple[socket.socket, socket.socket]]:
    """The socket that is lent, not blocking as the node's are, and the client's."""
    lent, client = request.param()
    lent.setblocking(False)
    client.settimeout(TIMEOUT_S)

    with lent, client:
        yield lent, client


def read(client: socket.socket, size: int) -> bytes:
    received = bytearray()

    while len(received) < size:
        received += client.recv(size - len(received))

    return bytes(received)


def is_stuck(lent: socket.socket) -> bool:
    """Whether there is no room: its thread waits, or is about to."""
    return not select.select((), (lent,), (), 0)[1]


def wait_until(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S

    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.001)


# The loan alone.


def test_all_is_written(
    loans: Loans, pair: tuple[socket.socket, socket.socket]
) -> None:
    lent, client = pair
    loan = ThreadLoan(loans)
    assert loan.take(lent)
    assert loan.wait()
    body = bytes(range(256)) * (HUGE // 256)

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(loan.write, memoryview(body))
        assert read(client, HUGE) == body
        writing.result(TIMEOUT_S)

    loan.write(memoryview(b"more"))
    assert read(client, 4) == b"more"
    assert loan.written_bytes == HUGE + 4
    loan.give_back()
    loan.give_back()
    assert loans.returned == [lent]
    assert not loan.is_here
    assert client.recv(1) == b""


def test_kept(loans: Loans) -> None:
    loan = ThreadLoan(loans)
    loan.keep()
    assert not loan.wait()
    assert not loan.is_here


@pytest.mark.parametrize("end", [ThreadLoan.end, ThreadLoan.give_back])
def test_late_socket_is_not_taken(
    loans: Loans,
    pair: tuple[socket.socket, socket.socket],
    end: Callable[[ThreadLoan], None],
) -> None:
    loan = ThreadLoan(loans)
    end(loan)
    assert not loan.take(pair[0])
    assert loans.returned == []
    assert not loan.is_here


def test_end_wakes_who_waits_for_the_socket(loans: Loans) -> None:
    loan = ThreadLoan(loans)

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(loan.wait)
        loan.end()
        assert not waiting.result(TIMEOUT_S)


def test_end_wakes_who_waits_for_room(
    loans: Loans, pair: tuple[socket.socket, socket.socket]
) -> None:
    """Closed by the thread itself: it may be about to use the descriptor."""
    lent, _client = pair
    loan = ThreadLoan(loans)
    loan.take(lent)

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(loan.write, memoryview(bytes(HUGE)))
        wait_until(lambda: is_stuck(lent))
        loan.end()

        with pytest.raises(BrokenPipeError):
            writing.result(TIMEOUT_S)

    assert loans.returned == [lent]

    with pytest.raises(ConnectionAbortedError):
        loan.write(memoryview(b"x"))


def test_end_closes_what_nobody_writes_to(
    loans: Loans, pair: tuple[socket.socket, socket.socket]
) -> None:
    lent, client = pair
    loan = ThreadLoan(loans)
    loan.take(lent)
    loan.end()
    assert loans.returned == [lent]
    assert client.recv(1) == b""


def test_client_that_takes_nothing(pair: tuple[socket.socket, socket.socket]) -> None:
    loan = ThreadLoan(Loans(send_timeout_s=0.05))
    loan.take(pair[0])

    with pytest.raises(TimeoutError):
        loan.write(memoryview(bytes(HUGE)))

    assert 0 < loan.written_bytes < HUGE


def test_deadline_moves_with_what_is_taken(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    lent, client = pair
    send_timeout_s = 1.0
    loan = ThreadLoan(Loans(send_timeout_s))
    loan.take(lent)
    begin_s = time.monotonic()

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(loan.write, memoryview(bytes(HUGE)))
        left = HUGE

        while left:
            # Slow for longer than the timeout, then not any more.
            if time.monotonic() - begin_s < 1.5 * send_timeout_s:
                time.sleep(send_timeout_s / 20)

            left -= len(client.recv(65536))

        writing.result(TIMEOUT_S)

    assert time.monotonic() - begin_s > send_timeout_s


# The request's side.


def sized(size: int, *parts: bytes) -> Callable[..., Iterable[bytes]]:
    """An application that announces that many bytes, and gives these parts."""

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", str(size))])
        return Parts(parts)

    return app


def borrowing(app: Callable[..., Iterable[bytes]], loans: Loans) -> Exchange:
    """A request whose thread has asked for the socket, and waits for it."""
    exchange = Exchange(app, validate=False, window_bytes=WINDOW_BYTES, loans=loans)
    exchange.start()
    exchange.wait_for(lambda sent: ("borrow",) in sent)
    return exchange


def start_of(size: int) -> Sent:
    return ("start", 200, [(b"content-length", b"%d" % size)], b"")


def test_head_goes_out_with_the_question(
    loans: Loans, pair: tuple[socket.socket, socket.socket]
) -> None:
    """The end of the response is one packet with that of the request."""
    lent, client = pair
    body = bytes(BORROW_BYTES)

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [])
        return [body]

    asked = borrowing(app, loans)
    assert asked.session.take_loan(lent)
    assert read(client, len(body)) == body
    asked.finish()
    assert asked.packets == [
        [start_of(len(body)), ("borrow",)],
        [("written", len(body)), ("last", b""), ("done",)],
    ]
    assert loans.returned == [lent]


@pytest.mark.parametrize(
    ("total", "first"),
    [
        (BORROW_BYTES - 1, BORROW_BYTES - 1),
        (BORROW_BYTES, BORROWING_PART_BYTES - 1),
    ],
)
def test_what_is_too_small_goes_by_the_pipe(
    loans: Loans, total: int, first: int
) -> None:
    app = sized(total, bytes(first))
    sent = Exchange(app, validate=False, window_bytes=1 << 20, loans=loans)
    sent.start().finish()
    assert ("borrow",) not in sent.sent


def test_smallest_that_is_lent(
    loans: Loans, pair: tuple[socket.socket, socket.socket]
) -> None:
    """Each part behind the first is written to the socket, however small."""
    lent, client = pair
    first, rest = BORROWING_PART_BYTES, BORROW_BYTES - BORROWING_PART_BYTES
    asked = borrowing(sized(BORROW_BYTES, bytes(first), b"x", bytes(rest - 1)), loans)
    asked.session.take_loan(lent)
    body = read(client, BORROW_BYTES)
    assert body == bytes(first) + b"x" + bytes(rest - 1)
    asked.finish()
    assert asked.sent[2:] == [("written", BORROW_BYTES), ("last", b""), ("done",)]


def test_small_part_before_is_sent_before(
    loans: Loans, pair: tuple[socket.socket, socket.socket]
) -> None:
    asked = borrowing(sized(BORROW_BYTES + 1, b"x", bytes(BORROW_BYTES)), loans)
    head = (*start_of(BORROW_BYTES + 1)[:-1], b"x")
    assert asked.packets == [[head], [("borrow",)]]
    asked.session.take_loan(pair[0])
    read(pair[1], BORROW_BYTES)
    asked.finish()


def test_lent_for_once(loans: Loans) -> None:
    """What the node keeps goes by the pipe, and nothing is asked for again."""
    size = WINDOW_BYTES // 2
    asked = borrowing(sized(5 * size, *[bytes(size)] * 5), loans)
    asked.session.handle_kept()

    for _ in range(5):
        asked.session.acknowledge(size)

    asked.finish()
    assert len(asked.body) == 5 * size
    assert [kind for kind, *_ in asked.sent].count("borrow") == 1


def test_no_place_for_a_descriptor(loans: Loans) -> None:
    """The node is told that it has its socket back, before more comes by the pipe."""
    asked = borrowing(sized(BORROW_BYTES, bytes(BORROW_BYTES)), loans)
    assert asked.session.take_loan(None)
    asked.session.acknowledge(BORROW_BYTES)
    asked.finish()
    assert asked.sent[2] == ("written", 0)
    assert len(asked.body) == BORROW_BYTES


def test_node_that_lends_nothing() -> None:
    app = sized(BORROW_BYTES, bytes(BORROW_BYTES))
    sent = Exchange(app, validate=False, window_bytes=WINDOW_BYTES).start()
    sent.session.acknowledge(BORROW_BYTES)
    sent.finish()
    assert ("borrow",) not in sent.sent


def test_socket_that_nobody_asked_for(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    assert not Exchange(sized(1, b"x")).session.take_loan(pair[0])


ENDS = [
    ("disconnect", "the client has gone", [], "debug"),
    ("cancel", "the time for an answer was over", [], "debug"),
    ("stop", "the worker is to end", [("abort",)], "debug"),
]


@pytest.mark.parametrize(("end", "why", "said", "level"), ENDS)
@pytest.mark.parametrize("place", ["before", "stuck", "between"])
def test_end_of_a_request(
    loans: Loans,
    pair: tuple[socket.socket, socket.socket],
    place: str,
    end: str,
    why: str,
    said: list[Sent],
    level: str,
) -> None:
    """Before the socket has come, while it has no room, between two parts."""
    lent, client = pair
    may_go_on = threading.Event()
    caught = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        headers = [("Content-Length", str(BORROW_BYTES + HUGE))]
        write = start_response("200 OK", headers)

        try:
            write(bytes(BORROW_BYTES))
            assert may_go_on.wait(TIMEOUT_S)
            write(bytes(HUGE))
        except ClientDisconnected as exc:
            caught.append(str(exc))
            raise

        raise AssertionError("it was written")

    asked = borrowing(app, loans)

    if place != "before":
        asked.session.take_loan(lent)
        read(client, BORROW_BYTES)

    if place == "stuck":
        may_go_on.set()
        wait_until(lambda: is_stuck(lent))

    getattr(asked.session, end)()

    if place == "before":
        assert not asked.session.take_loan(lent)
    elif place == "between":
        wait_until(lambda: loans.returned)

    may_go_on.set()
    sent = asked.finish()
    assert caught == [why]
    assert messages(sent)[2:] == said
    assert [message[1].name for message in sent if message[0] == "log"] == [level]
    assert loans.returned == ([] if place == "before" else [lent])


@pytest.mark.parametrize("how", ["leaves", "takes nothing"])
def test_client_is_lost(pair: tuple[socket.socket, socket.socket], how: str) -> None:
    """Whoever notices first says so; the application goes on in vain."""
    lent, client = pair
    loans = Loans(send_timeout_s=None if how == "leaves" else 0.05)
    body = Parts([bytes(HUGE)])

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", str(HUGE))])
        return body

    asked = borrowing(app, loans)
    asked.session.take_loan(lent)

    if how == "leaves":
        client.close()

    (_, _, written, *rest) = messages(asked.finish())
    assert written[0] == "written"
    assert 0 <= written[1] < HUGE
    assert rest == [("abort",)]
    assert loans.returned == [lent]
    assert body.is_closed
    assert "the client had gone" in logged(asked.sent)


def test_read_behind_a_client_that_was_lost(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    """The rest of its request won't come."""

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        write = start_response("200 OK", [("Content-Length", str(HUGE))])

        with pytest.raises(ClientDisconnected):
            write(bytes(HUGE))

        environ["wsgi.input"].read()
        raise AssertionError("it was read")

    loans = Loans(send_timeout_s=0.05)
    asked = Exchange(
        app, validate=False, more=True, window_bytes=WINDOW_BYTES, loans=loans
    ).start()
    asked.wait_for(lambda sent: ("borrow",) in sent)
    asked.session.take_loan(pair[0])
    assert "the client had gone" in logged(asked.finish())


@pytest.mark.parametrize("size", [BORROW_BYTES * 2, BORROW_BYTES - 1])
def test_wrong_length(
    loans: Loans, pair: tuple[socket.socket, socket.socket], size: int
) -> None:
    """A body that ends early, and one that has too much in its last part."""
    parts = [bytes(BORROW_BYTES - 2), bytes(2)]
    parts = parts if size > BORROW_BYTES else [*parts, b""]
    asked = borrowing(sized(max(size, BORROW_BYTES + 1), *parts), loans)
    asked.session.take_loan(pair[0])
    assert read(pair[1], BORROW_BYTES) == bytes(BORROW_BYTES)
    sent = asked.finish()
    assert messages(sent)[2:] == [("abort",)]
    assert "ContentLengthMismatch" in logged(sent)
    assert loans.returned == [pair[0]]


def test_fault_before_anything_was_sent(loans: Loans) -> None:
    app = sized(BORROW_BYTES, bytes(BORROW_BYTES + 1))
    sent = Exchange(app, validate=False, window_bytes=WINDOW_BYTES, loans=loans)
    assert messages(sent.start().finish()) == [ERROR]


def of_unknown_length(environ: Environ, start_response: StartResponse) -> Parts:
    start_response("200 OK", [])
    return Parts([bytes(BORROW_BYTES), bytes(BORROW_BYTES)])


def late_length(environ: Environ, start_response: StartResponse) -> list[bytes]:
    """A head without a length has gone out when the rest is known."""
    start_response("200 OK", [])(b"x")
    return [bytes(BORROW_BYTES)]


def whole(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [])
    return [bytes(BORROW_BYTES)]


def no_content(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("204 No Content", [])
    return [bytes(BORROW_BYTES)]


def not_modified(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("304 Not Modified", [("Content-Length", str(BORROW_BYTES))])
    return [bytes(BORROW_BYTES)]


@pytest.mark.parametrize(
    ("app", "method"),
    [
        (of_unknown_length, b"GET"),
        (late_length, b"GET"),
        (no_content, b"GET"),
        (not_modified, b"GET"),
        (sized(BORROW_BYTES, bytes(BORROW_BYTES)), b"HEAD"),
        (whole, b"HEAD"),
    ],
)
def test_nothing_is_asked_for(
    loans: Loans, app: Callable[..., Iterable[bytes]], method: bytes
) -> None:
    sent = Exchange(
        app, validate=False, method=method, window_bytes=WINDOW_BYTES, loans=loans
    )
    # More than is ever sent.
    sent.session.acknowledge(HUGE)
    sent.start().finish()
    assert ("borrow",) not in sent.sent


class Leaving(Exchange):
    """The client leaves just before the socket is asked for."""

    def find_loans(self) -> LoanHost | None:
        self.session.disconnect()
        return super().find_loans()


def test_client_that_leaves_before_the_question(loans: Loans) -> None:
    """The node would not answer."""
    app = sized(BORROW_BYTES, bytes(BORROW_BYTES))
    left = Leaving(app, validate=False, window_bytes=WINDOW_BYTES, loans=loans)
    assert messages(left.start().finish()) == []


def test_first_end_is_the_reason(loans: Loans) -> None:
    caught = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        try:
            start_response("200 OK", [])(bytes(BORROW_BYTES))
        except ClientDisconnected as exc:
            caught.append(str(exc))

        return []

    ended = Exchange(app, validate=False, window_bytes=WINDOW_BYTES, loans=loans)
    ended.session.disconnect()
    ended.session.stop()
    ended.start().finish()
    assert caught == ["the client has gone"]
