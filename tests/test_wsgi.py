# SPDX-License-Identifier: Apache-2.0
"""The session of a WSGI request: what applications may do, and what the node gets."""

from __future__ import annotations

import contextvars
import gzip
import io
import random
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from wsgiref.validate import validator

import pytest

from fake_node import TIMEOUT_S
from hornbeam._asgi import ClientDisconnected, ContentLengthMismatch
from hornbeam._etf import decode_packet, pack_batch
from hornbeam._loan import LoanHost
from hornbeam._protocol import NODE_READ_BYTES
from hornbeam._terms import Atom
from hornbeam._wsgi import WsgiSession
from hornbeam._wsgi_body import ErrorLog, FileWrapper
from hornbeam._wsgi_environ import EnvironFactory
from hornbeam._wsgi_response import WsgiOrderError
from wsgi_puppet import request_fields

WINDOW_BYTES = 1000
PLAIN = [(b"content-type", b"text/plain; charset=utf-8")]
TEXT = [("Content-Type", "text/plain")]
TEXT_SENT = [(b"content-type", b"text/plain")]
ERROR = ("response", 500, PLAIN, b"Internal Server Error")

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Sent = tuple[Any, ...]

MESSAGE = Atom("message")

CONTEXT: contextvars.ContextVar[str] = contextvars.ContextVar("context")


class Exchange:
    """One request, with the test as its node; the application is in a thread."""

    def __init__(
        self,
        app: Callable[..., Iterable[bytes]],
        *,
        method: bytes = b"GET",
        body: bytes = b"",
        more: bool = False,
        headers: Sequence[tuple[bytes, bytes]] = (),
        validate: bool = True,
        window_bytes: int = WINDOW_BYTES,
        loans: LoanHost | None = None,
    ) -> None:
        self.wsgi_app = validator(app) if validate else app
        common = {
            "wsgi.version": (1, 0),
            "wsgi.multithread": True,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
        }
        self.environs = EnvironFactory("", common)
        self.window_bytes = window_bytes
        self.loans = loans
        self.context = contextvars.copy_context()
        self.packets: list[list[Sent]] = []
        self._arrived = threading.Condition()
        self.is_forgotten = False
        self._thread: threading.Thread | None = None
        fields = request_fields(method, headers)
        self.session = WsgiSession(self, 1, fields, body, more)

    # The host.

    def submit(self, function: Callable[[], None]) -> None:
        self._thread = threading.Thread(target=function, daemon=True)
        self._thread.start()

    def send(self, messages: Sequence[bytes]) -> None:
        packet: list[Any] = list(decode_packet(pack_batch(list(messages))[4:]))
        shown = [
            (head.name, *(fields if head.name == "log" else fields[1:]))
            for head, *fields in packet
        ]

        with self._arrived:
            self.packets.append(shown)
            self._arrived.notify_all()

    def claim(self, request_id: int, default: None, /) -> object:
        assert request_id == 1
        return True

    def forget(self, request_id: int) -> None:
        assert request_id == 1
        self.is_forgotten = True

    def find_loans(self) -> LoanHost | None:
        return self.loans

    # The test.

    @property
    def sent(self) -> list[Sent]:
        return [message for packet in self.packets for message in packet]

    def start(self) -> Exchange:
        self.session.start()
        return self

    def wait_for(self, condition: Callable[[list[Sent]], object]) -> None:
        with self._arrived:
            assert self._arrived.wait_for(lambda: condition(self.sent), TIMEOUT_S)

    def finish(self) -> list[Sent]:
        assert self._thread is not None
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()
        assert self.is_forgotten
        assert self.sent[-1] == ("done",)
        return self.sent[:-1]

    @property
    def body(self) -> bytes:
        parts = ("response", "start", "data", "last")
        return b"".join(message[-1] for message in self.sent if message[0] in parts)


def exchange(app: Callable[..., Iterable[bytes]], **options: Any) -> list[Sent]:
    """Run a request to its end."""
    return Exchange(app, **options).start().finish()


def logged(sent: list[Sent]) -> str:
    reports = [message[2] for message in sent if message[0] == "log"]
    return "\n".join(report[MESSAGE].decode() for report in reports)


def messages(sent: list[Sent]) -> list[Sent]:
    return [message for message in sent if message[0] != "log"]


class Parts:
    """An iterable without a length, that notes whether it was closed."""

    def __init__(self, parts: Iterable[bytes]) -> None:
        self.parts = iter(parts)
        self.is_closed = False

    def __iter__(self) -> Iterator[bytes]:
        return self.parts

    def close(self) -> None:
        self.is_closed = True


# Whole responses.


def hello(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", TEXT)
    return [b"hello"]


def test_list_is_one_response_in_one_packet() -> None:
    wanted = Exchange(hello, validate=False).start()
    wanted.finish()
    assert wanted.packets == [[("response", 200, TEXT_SENT, b"hello"), ("done",)]]


def test_parts_of_a_list_are_joined() -> None:
    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", TEXT)
        return [b"a", b"", b"b"]

    assert exchange(app, validate=False) == [("response", 200, TEXT_SENT, b"ab")]


def test_empty_body() -> None:
    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("204 No Content", [])
        return []

    assert exchange(app, validate=False) == [("response", 204, [], b"")]
    # Not known to be empty before it was asked for, and closed.
    assert exchange(app) == [("response", 204, [], b"")]


def test_body_that_reaches_its_length_is_whole() -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [*TEXT, ("Content-Length", "5")])
        yield b"hello"

    headers = [*TEXT_SENT, (b"content-length", b"5")]
    assert exchange(app, validate=False) == [("response", 200, headers, b"hello")]


def test_large_list_goes_in_pieces_with_a_length() -> None:
    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [])
        return [b"x" * 2500]

    wanted = Exchange(app, validate=False).start()
    wanted.wait_for(lambda sent: sent)
    assert wanted.sent == [("start", 200, [(b"content-length", b"2500")], b"x" * 1000)]
    wanted.session.acknowledge(1000)
    wanted.wait_for(lambda sent: len(sent) == 2)
    wanted.session.acknowledge(1000)
    wanted.finish()
    assert wanted.body == b"x" * 2500
    assert wanted.sent[-2] == ("last", b"x" * 500)


def test_piece_of_a_large_part_is_one_read_of_the_node() -> None:
    window = NODE_READ_BYTES

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [])
        return [b"x" * 2 * window]

    wanted = Exchange(app, validate=False, window_bytes=window).start()
    wanted.wait_for(lambda sent: sent)
    size = len(wanted.sent[0][-1])
    wanted.session.acknowledge(size)
    wanted.wait_for(lambda sent: len(sent) == 2)
    wanted.session.acknowledge(size)
    wanted.finish()
    assert wanted.body == b"x" * 2 * window
    # With its head and all around it.
    assert 0.9 * window < size < window - 100
    assert wanted.sent[1] == ("data", b"x" * size)


@pytest.mark.parametrize("status", ["200 OK", "299 ", "404 Not Found", "599 X Y"])
def test_statuses(status: str) -> None:
    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response(status, TEXT)
        return [b""]

    assert exchange(app, validate=False)[0][1] == int(status[:3])


# Streams.


def test_each_part_goes_out_before_the_next_is_asked_for() -> None:
    go_on = threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        yield b""
        yield b"one"
        assert go_on.wait(TIMEOUT_S)
        yield b"two"

    wanted = Exchange(app).start()
    wanted.wait_for(lambda sent: sent)
    assert wanted.sent == [("start", 200, TEXT_SENT, b"one")]
    go_on.set()
    assert wanted.finish()[1:] == [("data", b"two"), ("last", b"")]


def test_write() -> None:
    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        write = start_response("200 OK", TEXT)
        write(b"a")
        write(b"b")
        return [b"c"]

    sent = exchange(app, validate=False)
    assert sent == [("start", 200, TEXT_SENT, b"a"), ("data", b"b"), ("last", b"c")]


def test_stream_waits_for_the_client() -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", TEXT)

        for _ in range(10):
            yield b"x" * 400

    wanted = Exchange(app).start()
    wanted.wait_for(lambda sent: len(sent) == 2)

    for _ in range(20):
        wanted.session.acknowledge(200)

    wanted.finish()
    assert wanted.body == b"x" * 4000


def test_client_that_leaves_ends_a_stream_that_waits() -> None:
    parts = Parts(b"x" * 600 for _ in range(1000))

    def app(environ: Environ, start_response: StartResponse) -> Parts:
        start_response("200 OK", TEXT)
        return parts

    wanted = Exchange(app, validate=False).start()
    wanted.wait_for(lambda sent: sent)
    wanted.session.disconnect()
    sent = wanted.finish()
    assert parts.is_closed
    assert [m[1].name for m in sent if m[0] == "log"] == ["debug"]


# close().


def test_close_comes_after_the_response_and_before_done() -> None:
    class Closing(Parts):
        def close(self) -> None:
            super().close()
            seen.extend(wanted.sent)

    seen: list[Sent] = []

    def app(environ: Environ, start_response: StartResponse) -> Parts:
        start_response("200 OK", TEXT)
        return Closing([b"x"])

    wanted = Exchange(app)
    wanted.start().finish()
    assert seen == [("start", 200, TEXT_SENT, b"x"), ("last", b"")]


@pytest.mark.parametrize("fails", [False, True])
def test_close_is_called_whatever_happens(fails: bool) -> None:
    def generate() -> Iterator[bytes]:
        yield b"x"

        if fails:
            raise RuntimeError("oh")

    parts = Parts(generate())

    def app(environ: Environ, start_response: StartResponse) -> Parts:
        start_response("200 OK", TEXT)
        return parts

    sent = messages(exchange(app, validate=False))
    assert parts.is_closed
    assert sent[-1] == (("abort",) if fails else ("last", b""))


def test_close_that_fails_is_logged() -> None:
    class Failing(Parts):
        def close(self) -> None:
            raise RuntimeError("in close")

    def app(environ: Environ, start_response: StartResponse) -> Parts:
        start_response("200 OK", TEXT)
        return Failing([b"x"])

    sent = exchange(app, validate=False)
    assert messages(sent)[-1] == ("last", b"")
    assert "close() of the body raised" in logged(sent)


# Faults of applications.


def no_start(environ: Environ, start_response: StartResponse) -> list[bytes]:
    return [b"x"]


def fails(environ: Environ, start_response: StartResponse) -> list[bytes]:
    raise RuntimeError("oh")


def exits(environ: Environ, start_response: StartResponse) -> list[bytes]:
    raise SystemExit(3)


def starts_twice(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", TEXT)
    start_response("200 OK", TEXT)
    return []


def text(environ: Environ, start_response: StartResponse) -> list[Any]:
    start_response("200 OK", TEXT)
    return ["text"]


def nothing(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", TEXT)


def splits(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [("X", "a\r\nSet-Cookie: b")])
    return []


def bad_status(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response(200, TEXT)
    return []


def no_number(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("OK", TEXT)
    return []


def informs(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("103 Early Hints", TEXT)
    return []


def no_latin1(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [("X", "\u20ac")])
    return []


def bytes_header(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [(b"X", b"y")])
    return []


def dict_headers(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", {"X": "y"})
    return []


def too_short(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [("Content-Length", "3")])
    return [b"x"]


def too_long(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [("Content-Length", "3")])
    return [b"xxxx"]


@pytest.mark.parametrize(
    ("app", "shown"),
    [
        (no_start, "start_response() was not called before the body"),
        (fails, "RuntimeError: oh"),
        (exits, "SystemExit: 3"),
        (starts_twice, "a second call needs exc_info"),
        (text, "a part of a WSGI body is bytes, not str, encode it first"),
        (nothing, "NoneType"),
        (splits, "CR, LF or NUL"),
        (bad_status, "status is a str such as '200 OK', not 200"),
        (no_number, "status is like '200 OK', from 200 to 999, not 'OK'"),
        (informs, "status is like '200 OK', from 200 to 999"),
        (no_latin1, "a header is Latin-1 text"),
        (bytes_header, "a header is a (name, value) pair of str"),
        (dict_headers, "headers are a list of (name, value) pairs, not dict"),
        (too_short, "the body has 2 less bytes than content-length"),
        (too_long, "the body has 1 more bytes than content-length"),
    ],
)
def test_fault_before_the_response_is_500(app: Callable[..., Any], shown: str) -> None:
    sent = exchange(app, validate=False)
    assert messages(sent) == [ERROR]
    assert shown in logged(sent)
    assert "GET /x: the application raised before the response started" in logged(sent)


def test_fault_in_a_stream_breaks_it_off() -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        yield b"x"
        raise RuntimeError("oh")

    sent = exchange(app)
    assert messages(sent) == [("start", 200, TEXT_SENT, b"x"), ("abort",)]
    assert "raised after the response started" in logged(sent)


def test_stream_longer_than_its_length() -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Length", "3")])
        yield b"abc"
        yield b"d"

    sent = exchange(app, validate=False)
    assert [m[0] for m in messages(sent)] == ["response"]
    assert "the body has 1 more bytes than content-length" in logged(sent)


def test_stream_shorter_than_its_length() -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Length", "3")])
        yield b"a"

    sent = exchange(app, validate=False)
    assert [m[0] for m in messages(sent)] == ["start", "abort"]


def test_head_has_the_length_of_what_is_not_sent() -> None:
    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [*TEXT, ("Content-Length", "3000")])
        return [b""]

    (response,) = exchange(app, method=b"HEAD", validate=False)
    assert response[2][1] == (b"content-length", b"3000")


# exc_info.


def test_error_page_in_place_of_the_response() -> None:
    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", TEXT)

        try:
            raise RuntimeError("oh")
        except RuntimeError:
            start_response("500 Oh", [("X", "y")], sys.exc_info())

        return [b"page"]

    sent = exchange(app, validate=False)
    assert sent == [("response", 500, [(b"x", b"y")], b"page")]


def test_error_page_too_late_raises_the_error() -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        yield b"x"

        try:
            raise RuntimeError("the first")
        except RuntimeError:
            start_response("500 Oh", [("X", "y")], sys.exc_info())

    sent = exchange(app)
    assert messages(sent)[-1] == ("abort",)
    assert "RuntimeError: the first" in logged(sent)


# Hop-by-hop.


def test_headers_of_the_connection_are_left_out() -> None:
    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [("Connection", "close"), ("Upgrade", "x"), *TEXT])
        return [b"x"]

    assert exchange(app, validate=False)[0][2] == TEXT_SENT


# Early hints.


def test_early_hints() -> None:
    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        environ["wsgi.early_hints"]([("Link", "</a.css>; rel=preload")])
        start_response("200 OK", TEXT)
        write_late = environ["wsgi.early_hints"]
        write_late([("Link", "</b.css>")])
        return [b"x"]

    hint = ("inform", 103, [(b"link", b"</a.css>; rel=preload")])
    late = ("inform", 103, [(b"link", b"</b.css>")])
    assert exchange(app)[:2] == [hint, late]


def test_early_hints_after_the_start_do_nothing() -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        yield b"x"
        environ["wsgi.early_hints"]([("Link", "</a.css>")])

    assert [m[0] for m in exchange(app)] == ["start", "last"]


# The request's body.


def echo(environ: Environ, start_response: StartResponse) -> list[bytes]:
    body = environ["wsgi.input"].read()
    start_response("200 OK", TEXT)
    return [body]


def test_whole_body() -> None:
    assert exchange(echo, body=b"abc", validate=False)[0][3] == b"abc"
    assert exchange(echo, validate=False)[0][3] == b""


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        (b"abc", [(b"transfer-encoding", b"chunked")], ("3", None)),
        (b"", [(b"transfer-encoding", b"chunked")], ("0", None)),
        (b"abc", [], ("3", None)),
        (b"abc", [(b"content-length", b"3")], ("3", None)),
        (b"", [], (None, None)),
    ],
    ids=["chunked", "chunked, empty", "HTTP/2", "with a length", "none"],
)
def test_length_of_a_body_that_is_there(
    body: bytes,
    headers: list[tuple[bytes, bytes]],
    expected: tuple[str | None, str | None],
) -> None:
    """Many applications take a body without a length for none."""
    seen: list[Environ] = []

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        seen.append(environ)
        start_response("200 OK", TEXT)
        return [b""]

    exchange(app, body=body, headers=headers)
    names = ("CONTENT_LENGTH", "HTTP_TRANSFER_ENCODING")
    assert tuple(seen[0].get(name) for name in names) == expected


def test_body_that_arrives_in_parts() -> None:
    wanted = Exchange(echo, body=b"ab", more=True, validate=False).start()
    wanted.wait_for(lambda sent: ("waiting", 2) in sent)
    wanted.session.add_body(b"cd", True)
    wanted.wait_for(lambda sent: ("waiting", 4) in sent)
    wanted.session.add_body(b"", False)
    wanted.finish()
    assert wanted.body == b"abcd"


def test_lines_of_a_body() -> None:
    lines: list[bytes] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        stream = environ["wsgi.input"]
        lines.append(stream.readline())
        lines.append(stream.read(2))
        lines.extend(stream)
        start_response("200 OK", TEXT)
        return [b""]

    wanted = Exchange(app, body=b"one\ntw", more=True).start()
    wanted.session.add_body(b"o\nthree", True)
    wanted.session.add_body(b"\nfour", False)
    wanted.finish()
    assert lines == [b"one\n", b"tw", b"o\n", b"three\n", b"four"]


def test_credit_for_what_was_read() -> None:
    wanted = Exchange(echo, body=b"x" * 600, more=True, validate=False).start()
    wanted.wait_for(lambda sent: ("credit", 600) in sent)
    wanted.session.add_body(b"x" * 100, True)
    wanted.wait_for(lambda sent: ("waiting", 700) in sent)
    assert ("credit", 100) in wanted.sent
    wanted.session.add_body(b"", False)
    wanted.finish()


def test_client_that_leaves_during_its_upload() -> None:
    raised: list[BaseException] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        try:
            environ["wsgi.input"].read()
        except OSError as exc:
            raised.append(exc)
            raise

        return []

    wanted = Exchange(app, body=b"x", more=True, validate=False).start()
    wanted.wait_for(lambda sent: ("waiting", 1) in sent)
    wanted.session.disconnect()
    assert [m[0] for m in wanted.finish()] == ["credit", "waiting", "log"]
    assert isinstance(raised[0], ClientDisconnected)


# The end from outside.


ENDS = [
    ("disconnect", "the client has gone"),
    ("cancel", "the time for an answer was over"),
    ("stop", "the worker is to end"),
]


@pytest.mark.parametrize(("end", "why"), ENDS)
@pytest.mark.parametrize("later", ["disconnect", "cancel", "stop"])
def test_error_says_what_has_ended_the_request(end: str, why: str, later: str) -> None:
    """To who reads and to who writes, and whatever else happens then."""
    texts: list[str] = []
    go_on = threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        write = start_response("200 OK", TEXT)

        for call in (environ["wsgi.input"].read, lambda: write(b"x")):
            try:
                call()
            except OSError as exc:
                texts.append(str(exc))

            assert go_on.wait(TIMEOUT_S)

        return []

    wanted = Exchange(app, body=b"x", more=True, validate=False).start()
    wanted.wait_for(lambda sent: ("waiting", 1) in sent)
    getattr(wanted.session, end)()
    getattr(wanted.session, later)()
    go_on.set()
    wanted.finish()
    assert texts == [f"the body ended too early: {why}", why]


@pytest.mark.parametrize(("end", "why"), ENDS)
def test_error_says_why_there_is_no_room(end: str, why: str) -> None:
    texts: list[str] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        write = start_response("200 OK", TEXT)

        try:
            write(b"x" * 100_000)
        except OSError as exc:
            texts.append(str(exc))

        return []

    wanted = Exchange(app, validate=False).start()
    wanted.wait_for(lambda sent: any(m[0] == "start" for m in sent))
    getattr(wanted.session, end)()
    wanted.finish()
    assert texts == [why]


def test_cancelled_request_notices_when_it_writes() -> None:
    go_on = threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        assert go_on.wait(TIMEOUT_S)
        start_response("200 OK", TEXT)
        return [b"late"]

    wanted = Exchange(app, validate=False).start()
    wanted.session.cancel()
    go_on.set()
    assert messages(wanted.finish()) == []


def test_request_that_is_left_when_the_worker_stops() -> None:
    go_on = threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        assert go_on.wait(TIMEOUT_S)
        start_response("200 OK", TEXT)
        return [b"late"]

    wanted = Exchange(app, validate=False).start()
    wanted.session.stop()
    go_on.set()
    unavailable = ("response", 503, PLAIN, b"Service Unavailable")
    assert messages(wanted.finish()) == [unavailable]


def test_read_behind_one_that_was_cut() -> None:
    """What comes later would seem to follow what the first read had got and lost."""
    reads: list[bytes | str] = []
    has_failed = threading.Event()
    go_on = threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        for _ in range(2):
            try:
                reads.append(environ["wsgi.input"].read(4))
            except OSError as exc:
                reads.append(type(exc).__name__)

            has_failed.set()
            assert go_on.wait(TIMEOUT_S)

        return hello(environ, start_response)

    wanted = Exchange(app, body=b"ab", more=True, validate=False).start()
    wanted.session.stop()
    assert has_failed.wait(TIMEOUT_S)
    wanted.session.add_body(b"cdef", False)
    go_on.set()
    wanted.finish()
    assert reads == ["ClientDisconnected", "ClientDisconnected"]


# Context.


def test_context_does_not_pass_from_request_to_request() -> None:
    seen: list[str] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        seen.append(CONTEXT.get("fresh"))
        CONTEXT.set("used")
        return hello(environ, start_response)

    shared = Exchange(app, validate=False)
    calls: list[Callable[[], None]] = []
    shared.submit = calls.append  # type: ignore[method-assign, assignment]  # run below
    shared.session.start()
    second = Exchange(app, validate=False)
    second.context = shared.context
    second.submit = calls.append  # type: ignore[method-assign, assignment]  # run below
    second.session.start()

    for call in calls:
        call()

    assert seen == ["fresh", "fresh"]


# wsgi.errors.


def test_errors_go_to_the_log_by_line() -> None:
    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        errors = environ["wsgi.errors"]
        errors.write("one\ntw")
        errors.writelines(["o\n", "rest"])
        return hello(environ, start_response)

    sent = exchange(app)
    shown = [message[1:] for message in sent if message[0] == "log"]
    assert shown == [
        (Atom("error"), {MESSAGE: line, Atom("request_id"): 1})
        for line in (b"one", b"two", b"rest")
    ]


def test_errors_flush_and_bound() -> None:
    lines: list[str] = []
    log = ErrorLog(lines.append)
    log.write("a")
    log.flush()
    log.flush()
    log.write("x" * 70000)
    assert lines == ["a", "x" * 70000]

    with pytest.raises(TypeError, match="takes str, not bytes"):
        log.write(b"x")  # type: ignore[arg-type]  # that is the fault


# FileWrapper.


def test_file_wrapper() -> None:
    file = io.BytesIO(b"abcde")
    wrapper = FileWrapper(file, 2)
    assert list(wrapper) == [b"ab", b"cd", b"e"]
    wrapper.close()
    assert file.closed
    FileWrapper(iter_file()).close()


def iter_file() -> Any:
    class Readable:
        def read(self, size: int, /) -> bytes:
            return b""

    return Readable()


# What else may go wrong.


def test_order_and_length_errors_are_what_they_say() -> None:
    assert issubclass(WsgiOrderError, RuntimeError)
    assert issubclass(ContentLengthMismatch, RuntimeError)


# Files.


def file_app(
    path: str, offset: int = 0, headers: Sequence[tuple[str, str]] = ()
) -> Callable[..., Any]:
    def app(environ: Environ, start_response: StartResponse) -> FileWrapper:
        start_response("200 OK", list(headers))
        file = open(path, "rb")  # the wrapper closes it
        file.seek(offset)
        return FileWrapper(file)

    return app


def test_large_file_is_sent_by_the_node(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"x" * 5000)
    wanted = Exchange(file_app(str(path), 100), validate=False).start()
    wanted.wait_for(lambda sent: sent)
    assert wanted.sent == [("file", (200, []), str(path).encode(), 100, None)]
    wanted.session.handle_opened()
    assert len(wanted.finish()) == 1


def test_length_of_a_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"x" * 5000)
    app = file_app(str(path), headers=[("Content-Length", "5000")])
    wanted = Exchange(app, validate=False).start()
    wanted.wait_for(lambda sent: sent)
    assert wanted.sent[0][4] == 5000
    wanted.session.handle_opened()
    wanted.finish()


def test_file_that_the_node_refuses_goes_as_parts(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"x" * 1001)
    wanted = Exchange(file_app(str(path)), validate=False).start()
    wanted.wait_for(lambda sent: sent)
    wanted.session.handle_refused("eacces", 0)
    wanted.wait_for(lambda sent: len(sent) > 1)
    wanted.session.acknowledge(1000)
    wanted.finish()
    assert wanted.body == b"x" * 1001


def test_client_that_leaves_while_the_node_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"x" * 5000)
    wanted = Exchange(file_app(str(path)), validate=False).start()
    wanted.wait_for(lambda sent: sent)
    wanted.session.disconnect()
    assert [m[0] for m in wanted.finish()] == ["file", "log"]


def small(folder: Path) -> Any:
    (folder / "small").write_bytes(b"x" * 10)
    return open(folder / "small", "rb")


def deleted(folder: Path) -> Any:
    (folder / "gone").write_bytes(b"x" * 900)
    file = open(folder / "gone", "rb")
    (folder / "gone").unlink()
    return file


def replaced(folder: Path) -> Any:
    file = deleted(folder)
    (folder / "gone").write_bytes(b"y" * 5000)
    return file


def compressed(folder: Path) -> Any:
    with gzip.open(folder / "x.gz", "wb") as packed:
        packed.write(random.Random(1).randbytes(900))

    return gzip.open(folder / "x.gz")


def memory(folder: Path) -> Any:
    return io.BytesIO(b"x" * 900)


@pytest.mark.parametrize("make", [small, deleted, replaced, compressed, memory])
def test_files_whose_bytes_are_sent_as_others(
    make: Callable[[Path], Any], tmp_path: Path
) -> None:
    file, again = make(tmp_path), make(tmp_path)

    def app(environ: Environ, start_response: StartResponse) -> FileWrapper:
        start_response("200 OK", TEXT)
        return FileWrapper(file)

    wanted = Exchange(app, validate=False)
    wanted.start().finish()
    assert wanted.body == again.read()
    assert file.closed
    again.close()
