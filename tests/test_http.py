# SPDX-License-Identifier: Apache-2.0
"""The HTTP session: what applications may do, and what the node gets of it."""

from __future__ import annotations

import asyncio
import re
from collections import ChainMap
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbeam import _protocol as protocol
from hornbeam import _session
from hornbeam._asgi import (
    AsgiOrderError,
    ClientDisconnected,
    ContentLengthMismatch,
    Message,
    Receive,
    Scope,
    Send,
)
from hornbeam._etf import pack_batch
from hornbeam._pacer import PACED_PART_BYTES, Pacer
from hornbeam._protocol import NODE_READ_BYTES
from hornbeam._runtime import Runtime
from step_runtime import spend_turn
from worker_support import (
    LOOPS,
    Exchange,
    body,
    pass_turns,
    raised_by,
    run,
    sends,
    start,
    until,
)

CL = b"content-length"
PLAIN = [(b"content-type", b"text/plain; charset=utf-8")]
ERROR = ("response", 500, PLAIN, b"Internal Server Error")
UNAVAILABLE = ("response", 503, PLAIN, b"Service Unavailable")

TRAILERS: Message = {"type": "http.response.trailers", "headers": [(b"x", b"y")]}
MORE_TRAILERS: Message = {**TRAILERS, "more_trailers": True}
HINT: Message = {"type": "http.response.early_hint", "links": [b"</a>", b"</b>"]}


class Mapping(ChainMap[str, Any]):
    """A message that is no dict."""


def exchange(app: Any, **options: Any) -> Exchange:
    """Run a request to its end."""
    exchanges = []

    async def test(runtime: Runtime) -> None:
        exchanges.append(Exchange(runtime, app, **options))
        await exchanges[0].finish()

    run(test)
    return exchanges[0]


# What is sent.


@pytest.mark.parametrize(
    ("messages", "sent"),
    [
        pytest.param(
            [start(200, [[b"A", b"b"]]), body(b"x")],
            [("response", 200, [(b"a", b"b")], b"x")],
            id="whole",
        ),
        pytest.param(
            [start(), {"type": "http.response.body"}],
            [("response", 200, [], b"")],
            id="defaults of body",
        ),
        pytest.param(
            [{"type": "http.response.start", "status": 204}, body()],
            [("response", 204, [], b"")],
            id="defaults of start",
        ),
        pytest.param(
            [start(HTTPStatus.NOT_FOUND), body(bytearray(b"x"))],
            [("response", 404, [], b"x")],
            id="HTTPStatus and bytearray",
        ),
        pytest.param(
            [start(), body(memoryview(b"abcd")[::2])],
            [("response", 200, [], b"ac")],
            id="memoryview with gaps",
        ),
        pytest.param(
            [start(), body(b"x", more_body=False)],
            [("response", 200, [], b"x")],
            id="explicit end",
        ),
        pytest.param(
            [start(), body(b"a", more_body=True), body(b"b")],
            [("start", 200, [], b"a"), ("last", b"b")],
            id="two parts",
        ),
        pytest.param(
            [
                start(),
                body(more_body=True),
                body(more_body=True),
                body(b"b", more_body=True),
                body(),
            ],
            [("start", 200, [], b""), ("data", b"b"), ("last", b"")],
            id="head first, empty parts",
        ),
        pytest.param(
            [start(103, [(b"Link", b"</s>")]), start(199), start(), body(b"x")],
            [
                ("inform", 103, [(b"link", b"</s>")]),
                ("inform", 199, []),
                ("response", 200, [], b"x"),
            ],
            id="informational",
        ),
        pytest.param(
            [HINT, {"type": "http.response.early_hint"}, start(), body()],
            [
                ("inform", 103, [(b"link", b"</a>"), (b"link", b"</b>")]),
                ("inform", 103, []),
                ("response", 200, [], b""),
            ],
            id="early hints",
        ),
        pytest.param(
            [start(trailers=True), body(b"x"), TRAILERS],
            [("start", 200, [], b"x"), ("trailers", [(b"x", b"y")])],
            id="trailers",
        ),
        pytest.param(
            [
                start(trailers=True),
                body(b"x", more_body=True),
                body(),
                MORE_TRAILERS,
                TRAILERS,
            ],
            [("start", 200, [], b"x"), ("trailers", [(b"x", b"y"), (b"x", b"y")])],
            id="trailers in two messages after two parts",
        ),
        pytest.param(
            [start(200, [(CL, b"2")]), body(b"a", more_body=True), body(b"b")],
            [("start", 200, [(CL, b"2")], b"a"), ("last", b"b")],
            id="content-length",
        ),
        pytest.param(
            [Mapping(start(201)), Mapping(body(b"x"))],
            [("response", 201, [], b"x")],
            id="mappings that are no dicts",
        ),
    ],
)
def test_messages(messages: list[Message], sent: list[tuple[Any, ...]]) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    done = exchange(app)
    assert done.sent == [*sent, ("done",)]
    assert done.logs == []


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("status", [200, 204, 304])
@pytest.mark.parametrize("declared", [b"5", b"0", b"9"])
def test_length_of_a_body_that_is_not_sent(
    method: str, status: int, declared: bytes
) -> None:
    """The length of a response to HEAD, of a 204 or 304 is not that of its body."""
    app = sends(start(status, [(CL, declared)]), body(b"12345"))
    done = exchange(app, method=method)
    bodiless = method == "HEAD" or status != 200

    if bodiless or declared == b"5":
        assert done.sent[0] == ("response", status, [(CL, declared)], b"12345")
    else:
        assert done.sent[0] == ERROR


def test_method_is_that_of_the_request() -> None:
    """A middleware that changes the scope does not change what the client wants."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["method"] = "GET"
        await send(start(200, [(CL, b"5")]))
        await send(body(b""))

    assert exchange(app, method="HEAD").kinds == ["response", "done"]


def test_head_waits_for_the_body() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await receive()
        await send(body(b"x"))

    async def test(runtime: Runtime) -> None:
        request = Exchange(runtime, app, more=True)
        request.session.start()
        await request.turn()
        assert request.kinds == ["waiting"]
        request.session.add_body(b"", False)
        await until(runtime, lambda: request.is_over)
        assert request.kinds == ["waiting", "response", "done"]

    run(test)


def test_held_start_is_sent_on_demand() -> None:
    """An event stream's head does not wait for the first event for ever."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(200, [(b"a", b"b")]))
        await receive()
        await send(body(b"x"))

    async def test(runtime: Runtime) -> None:
        request = Exchange(runtime, app, more=True)
        request.session.send_held_start()
        request.session.start()
        await request.turn()
        assert request.held_starts == 1
        request.session.send_held_start()
        request.session.send_held_start()
        request.session.add_body(b"", False)
        await until(runtime, lambda: request.is_over)
        assert request.sent[1:] == [
            ("start", 200, [(b"a", b"b")], b""),
            ("last", b"x"),
            ("done",),
        ]

    run(test)


# What applications may not do.


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([body()], "expected 'http.response.start', got 'http.response.body'"),
        (
            [start(), start()],
            "expected the first 'http.response.body', got 'http.response.start'",
        ),
        (
            [start(), start(103)],
            "expected the first 'http.response.body', got 'http.response.start'",
        ),
        (
            [start(), HINT],
            "expected the first 'http.response.body', got 'http.response.early_hint'",
        ),
        (
            [start(), body(more_body=True), start()],
            "expected a further 'http.response.body', got 'http.response.start'",
        ),
        (
            [start(trailers=True), body(), body()],
            "expected 'http.response.trailers', got 'http.response.body'",
        ),
        (
            [start(trailers=True), TRAILERS],
            "expected the first 'http.response.body', got 'http.response.trailers'",
        ),
        (
            [start(), body(), body()],
            "expected nothing more, the response is complete, got 'http.response.body'",
        ),
        (
            [start(), body(), TRAILERS],
            "expected nothing more, the response is complete, "
            "got 'http.response.trailers'",
        ),
        (
            [{"type": "http.response.zerocopysend"}],
            "expected 'http.response.start', got 'http.response.zerocopysend'",
        ),
        (
            [{"type": "websocket.accept"}],
            "expected 'http.response.start', got 'websocket.accept'",
        ),
    ],
)
def test_order(messages: list[Message], text: str) -> None:
    """A message out of order raises; the error says what was expected and what came."""
    caught: list[BaseException] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages[:-1]:
            await send(message)

        caught.append(await raised_by(send(messages[-1])))

    exchange(app)
    (error,) = caught
    assert isinstance(error, AsgiOrderError)
    assert isinstance(error, RuntimeError)
    assert str(error) == text


@pytest.mark.parametrize(
    ("message", "kind", "text"),
    [
        (start(True), TypeError, "status is an int from 100 to 999, not True"),
        (start("200"), TypeError, "status is an int from 100 to 999, not '200'"),  # type: ignore[arg-type]  # wrong on purpose
        (
            {"type": "http.response.start"},
            TypeError,
            "status is an int from 100 to 999, not None",
        ),
        (start(99), ValueError, "status is an int from 100 to 999, not 99"),
        (start(1000), ValueError, "status is an int from 100 to 999, not 1000"),
        (start(101), ValueError, "status 101 would switch protocols"),
        (start(200, 5), TypeError, "headers are an iterable of [name, value] pairs"),
        (start(200, [(b"a b", b"c")]), ValueError, "is no header name"),
        (start(103, [(b"a", b"\n")]), ValueError, "has a CR, LF or NUL"),
        (
            {"type": "http.response.early_hint", "links": ["</a>"]},
            TypeError,
            "a header's value is bytes, not str '</a>', encode it first",
        ),
        ({}, TypeError, "a message needs a str under 'type', got nothing"),
        ({"type": 5}, TypeError, "a message needs a str under 'type', got 5"),
        (None, TypeError, "send() takes a dict with a 'type', not NoneType"),
    ],
)
def test_bad_message(message: Any, kind: type[Exception], text: str) -> None:
    """It raises, sends nothing, and a good answer can still be given."""
    caught: list[BaseException] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        caught.append(await raised_by(send(message)))
        await send(start(400))
        await send(body(b"bad"))

    done = exchange(app)
    assert type(caught[0]) is kind
    assert text in str(caught[0])
    assert done.sent == [("response", 400, [], b"bad"), ("done",)]


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ("text", "a body is bytes, not str, encode it first"),
        (None, "a body is bytes, not NoneType"),
        ([b"x"], "a body is bytes, not list"),
    ],
)
def test_bad_body(part: object, text: str) -> None:
    done = exchange(sends(start(), body(part)))
    assert done.sent[0] == ERROR
    assert f"TypeError: {text}" in done.errors


def test_bad_trailers() -> None:
    bad: Message = {"type": "http.response.trailers", "headers": [(b"a", b"\r")]}
    done = exchange(sends(start(trailers=True), body(), bad))
    assert done.kinds == ["start", "abort", "done"]
    assert "ValueError" in done.errors


@pytest.mark.parametrize(
    ("declared", "messages", "kinds", "text"),
    [
        (b"2", [body(b"abc")], ["response"], "1 more bytes than content-length"),
        (b"2", [body(b"a")], ["response"], "1 less bytes than content-length"),
        (
            b"2",
            [body(b"abc", more_body=True)],
            ["response"],
            "1 more bytes than content-length",
        ),
        (
            b"2",
            [body(b"ab", more_body=True), body(b"c")],
            ["start", "abort"],
            "1 more bytes than content-length",
        ),
        (
            b"5",
            [body(b"ab", more_body=True), body()],
            ["start", "abort"],
            "3 less bytes than content-length",
        ),
    ],
)
@pytest.mark.parametrize("swallows", [False, True])
def test_content_length_mismatch(
    declared: bytes,
    messages: list[Message],
    kinds: list[str],
    text: str,
    swallows: bool,
) -> None:
    """The application gets an error, the client never a well-formed wrong response."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(200, [(CL, declared)]))

        for message in messages[:-1]:
            await send(message)

        try:
            await send(messages[-1])
        except ContentLengthMismatch as exc:
            assert text in str(exc)
            broken = await raised_by(send(body()))
            assert "the body does not match its content-length" in str(broken)

            if not swallows:
                raise

    done = exchange(app)
    assert done.kinds == [*kinds, "done"]
    assert "content-length" in done.errors

    if kinds == ["response"]:
        assert done.sent[0] == ERROR


# Applications that fail.


class Odd(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


@pytest.mark.parametrize(
    "error",
    [
        ValueError,
        SystemExit,
        KeyboardInterrupt,
        asyncio.CancelledError,
        # It has not gone.
        ClientDisconnected,
        Odd,
    ],
)
@pytest.mark.parametrize(
    ("before", "kinds", "when"),
    [
        ([], ["response"], "before the response started"),
        ([start()], ["response"], "before the response started"),
        ([HINT], ["inform", "response"], "before the response started"),
        ([start(), body(more_body=True)], ["start", "abort"], "after the response"),
        (
            [start(trailers=True), body(b"x")],
            ["start", "abort"],
            "after the response started",
        ),
        ([start(), body()], ["response"], "after the response was complete"),
    ],
)
def test_application_raises(
    error: type[BaseException], before: list[Message], kinds: list[str], when: str
) -> None:
    """Logged with a traceback; 500 while that is possible, else the response is cut."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in before:
            await send(message)

        raise error("boom")

    done = exchange(app, method="PUT", path="/ünicode")
    assert done.kinds == [*kinds, "done"]
    assert done.errors.startswith(f"PUT /ünicode: the application raised {when}")
    assert error.__name__ in done.errors
    assert "hornbeam/_session.py" not in done.errors
    assert len(done.logs) == 1

    if "after" not in when:
        assert done.sent[-2] == ERROR


@pytest.mark.parametrize(
    ("messages", "kinds", "text"),
    [
        ([], ["response"], "expected 'http.response.start'"),
        ([start()], ["response"], "expected the first 'http.response.body'"),
        ([start(103)], ["inform", "response"], "expected 'http.response.start'"),
        (
            [start(), body(more_body=True)],
            ["start", "abort"],
            "expected a further 'http.response.body'",
        ),
        (
            [start(trailers=True), body()],
            ["start", "abort"],
            "expected 'http.response.trailers'",
        ),
    ],
)
def test_application_returns_early(
    messages: list[Message], kinds: list[str], text: str
) -> None:
    done = exchange(sends(*messages))
    assert done.kinds == [*kinds, "done"]
    assert done.errors == f"GET /: the application returned; {text}"


def test_nothing_of_the_error_reaches_the_client() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("secret")

    done = exchange(app)
    assert done.sent[0] == ERROR
    assert "secret" in done.errors


# The request's body.


@pytest.mark.parametrize("loop", LOOPS)
def test_body_comes_in_order_then_the_end(loop: str) -> None:
    got: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        got.extend([await receive() for _ in range(4)])

    async def test(runtime: Runtime) -> None:
        request = Exchange(runtime, app, body=b"a", more=True)
        request.session.start()
        await request.turn()
        request.session.add_body(b"b", True)
        request.session.add_body(b"", True)
        request.session.add_body(b"c", True)
        await request.turn()
        request.session.add_body(b"", False)
        await request.turn()
        request.session.disconnect()
        await until(runtime, lambda: request.is_over)

    run(test, loop)
    assert got == [
        {"type": "http.request", "body": b"a", "more_body": True},
        {"type": "http.request", "body": b"bc", "more_body": True},
        {"type": "http.request", "body": b"", "more_body": False},
        {"type": "http.disconnect"},
    ]


def test_empty_body() -> None:
    got: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        got.append(await receive())
        await send(start())
        await send(body())
        got.append(await receive())
        got.append(await receive())

    exchange(app)
    assert got == [
        {"type": "http.request", "body": b"", "more_body": False},
        {"type": "http.disconnect"},
        {"type": "http.disconnect"},
    ]


def test_completed_response_wakes_receive() -> None:
    got: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def listen() -> None:
            got.append(await receive())
            got.append(await receive())

        listener = asyncio.ensure_future(listen())
        await asyncio.sleep(0)
        await send(start())
        await send(body())
        await listener

    exchange(app)
    assert [message["type"] for message in got] == ["http.request", "http.disconnect"]


def test_two_tasks_in_receive() -> None:
    """All who wait learn of the end; a cancelled one leaves nothing behind."""
    got: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def listen() -> None:
            got.append(await receive())

        await receive()
        tasks = [asyncio.ensure_future(listen()) for _ in range(3)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        await asyncio.wait(tasks)

    async def test(runtime: Runtime) -> None:
        request = Exchange(runtime, app)
        request.session.start()
        await request.turn()
        request.session.disconnect()
        await until(runtime, lambda: request.is_over)

    run(test)
    assert got == [{"type": "http.disconnect"}] * 2


def test_credit_and_waiting() -> None:
    """Credit is held back to a quarter of the window, but not while somebody waits."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["more_body"]:
            pass

        await send(start())
        await send(body())

    async def test(runtime: Runtime) -> None:
        request = Exchange(runtime, app, body=b"x" * 24, more=True, window=100)
        session, sent = request.session, request.sent
        session.start()
        await request.turn()
        assert sent == [("credit", 24), ("waiting", 24)]
        session.add_body(b"x" * 25, True)
        await request.turn()
        assert sent[2:] == [("credit", 25), ("waiting", 49)]
        session.add_body(b"x" * 51, False)
        await until(runtime, lambda: request.is_over)
        assert request.kinds[4:] == ["response", "done"]

    run(test)


def test_waiting_is_told_once() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.gather(receive(), receive())

    async def test(runtime: Runtime) -> None:
        request = Exchange(runtime, app, more=True)
        request.session.start()
        await request.turn()
        assert request.sent == [("waiting", 0)]
        request.session.disconnect()
        await until(runtime, lambda: request.is_over)

    run(test)


def test_credit_is_held_back() -> None:
    """Below a quarter of the window there is none, unless somebody waits."""
    taken: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for size in (24, 1, 24, 26):
            # As if the application was slow: the part is there when it asks.
            requests[0].session.add_body(b"x" * size, True)
            taken.append(len((await receive())["body"]))

        await receive()

    requests: list[Exchange] = []

    async def test(runtime: Runtime) -> None:
        requests.append(Exchange(runtime, app, more=True, window=100))
        request = requests[0]
        request.session.start()
        await request.turn()
        assert request.sent == [("credit", 25), ("credit", 50), ("waiting", 75)]
        request.session.cancel()
        await until(runtime, lambda: request.is_over)

    run(test)
    assert taken == [24, 1, 24, 26]


def test_waiting_is_not_told_after_the_body() -> None:
    """Who waits for the client to leave is not waiting for body."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await receive()

    async def test(runtime: Runtime) -> None:
        request = Exchange(runtime, app, body=b"x")
        request.session.start()
        await request.turn()
        assert request.sent == []
        request.session.disconnect()
        await until(runtime, lambda: request.is_over)

    run(test)


# Clients that leave.


@pytest.mark.parametrize("loop", LOOPS)
def test_send_raises_after_disconnect(loop: str) -> None:
    caught: list[BaseException] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(b"x", more_body=True))
        await receive()
        assert (await receive())["type"] == "http.disconnect"
        caught.append(await raised_by(send(body(b"y"))))
        await send(body(b"z"))

    async def test(runtime: Runtime) -> None:
        request = Exchange(runtime, app)
        request.session.start()
        await request.turn()
        request.session.disconnect()
        await until(runtime, lambda: request.is_over)
        assert request.kinds == ["start", "done"]
        assert [level for level, _ in request.logs] == ["debug"]

    run(test, loop)
    assert isinstance(caught[0], ClientDisconnected)
    assert isinstance(caught[0], OSError)


@pytest.mark.parametrize(
    "message", [start(), start(103), HINT], ids=lambda message: repr(message["type"])
)
def test_any_send_raises_after_disconnect(message: Message) -> None:
    async def test(runtime: Runtime) -> None:
        request = Exchange(runtime, sends(message))
        request.session.disconnect()
        assert (await request.finish()) == []
        assert [level for level, _ in request.logs] == ["debug"]

    run(test)


def test_body_that_came_before_the_client_left_is_given() -> None:
    """Who posts and leaves at once is served all the same."""
    got: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        got.append(await receive())
        got.append(await receive())

    async def test(runtime: Runtime) -> None:
        request = Exchange(runtime, app, body=b"x")
        request.session.disconnect()
        await request.finish()
        assert request.logs == []

    run(test)
    assert got == [
        {"type": "http.request", "body": b"x", "more_body": False},
        {"type": "http.disconnect"},
    ]


class ClientDisconnect(Exception):
    """As Starlette names it."""


class Group(Exception):
    """As an exception group, which Python 3.10 lacks."""

    def __init__(self, *exceptions: BaseException) -> None:
        super().__init__("group")
        self.exceptions = exceptions


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


def in_context(error: Exception, context: BaseException) -> Exception:
    error.__context__ = context
    return error


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (ClientDisconnected("gone"), "debug"),
        (ClientDisconnect(), "debug"),
        (caused(ValueError(), ClientDisconnected("gone")), "debug"),
        (in_context(RuntimeError(), ClientDisconnected("gone")), "debug"),
        (Group(ClientDisconnect(), Group(ClientDisconnected("gone"))), "debug"),
        (Group(ClientDisconnect(), ValueError()), "error"),
        (Group(), "error"),
        (ValueError(), "error"),
        (OSError(), "error"),
    ],
)
def test_errors_after_disconnect(error: Exception, level: str) -> None:
    """That the client has gone is no error; what else fails afterwards still is."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise error

    async def test(runtime: Runtime) -> None:
        request = Exchange(runtime, app)
        request.session.disconnect()
        await request.finish()
        assert request.kinds == ["done"]
        assert [got for got, _ in request.logs] == [level]

    run(test)


# Requests that are cancelled.


@pytest.mark.parametrize("loop", LOOPS)
def test_cancel(loop: str) -> None:
    cleaned: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()

        try:
            await receive()
            await receive()
            await wait_for_ever()
        finally:
            cleaned.append((await receive())["type"])

    async def wait_for_ever() -> None:
        await runtimes[0].create_waiter().wait()

    runtimes: list[Runtime] = []

    async def test(runtime: Runtime) -> None:
        runtimes.append(runtime)
        request = Exchange(runtime, app)
        request.session.start()
        await request.turn()
        request.session.cancel()
        request.session.cancel()
        await until(runtime, lambda: request.is_over)
        assert request.kinds == ["done"]
        assert request.logs == []

    run(test, loop)
    assert cleaned == ["http.disconnect"]


@pytest.mark.parametrize("loop", LOOPS)
def test_cancel_before_the_first_step(loop: str) -> None:
    """A task that never ran is not run, and is done all the same."""
    calls: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        calls.append(scope)

    async def test(runtime: Runtime) -> None:
        request = Exchange(runtime, app)
        request.session.cancel()
        request.session.start()
        await until(runtime, lambda: request.is_over)
        assert request.kinds == ["done"]

    run(test, loop)
    assert calls == []


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    ("before", "sent"),
    [
        ([], [UNAVAILABLE]),
        ([start()], [UNAVAILABLE]),
        ([start(), body(more_body=True)], [("start", 200, [], b""), ("abort",)]),
        ([start(), body(b"x")], [("response", 200, [], b"x")]),
    ],
)
def test_stop(loop: str, before: list[Message], sent: list[Any]) -> None:
    """What a worker that leaves cancels gets a 503 if that is still possible."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in before:
            await send(message)

        await runtimes[0].create_waiter().wait()

    runtimes: list[Runtime] = []

    async def test(runtime: Runtime) -> None:
        runtimes.append(runtime)
        request = Exchange(runtime, app)
        request.session.start()
        await request.turn()
        request.session.stop()
        await until(runtime, lambda: request.is_over)
        assert request.sent == [*sent, ("done",)]
        assert request.logs == []

    run(test, loop)


def test_application_that_returns_when_stopped() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            return

    async def test(runtime: Runtime) -> None:
        request = Exchange(runtime, app)
        request.session.start()
        await request.turn()
        request.session.stop()
        await until(runtime, lambda: request.is_over)
        assert request.sent == [UNAVAILABLE, ("done",)]
        assert request.logs == []

    run(test)


def test_swallowed_cancellation_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_session, "CANCEL_GRACE_S", 0.01)
    release: list[asyncio.Future[None]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            release.append(asyncio.get_running_loop().create_future())
            await release[0]

    async def test(runtime: Runtime) -> None:
        request = Exchange(runtime, app)
        request.session.start()
        await request.turn()
        request.session.cancel()
        waiter = runtime.create_waiter()
        runtime.call_later(0.05, waiter.set)
        await waiter.wait()
        ((level, text),) = request.logs
        assert level == "warning"
        assert "swallowed the cancellation" in text
        request.session.cancel()
        release[0].set_result(None)
        await until(runtime, lambda: request.is_over)
        ended = request.logs[1:]
        assert [level for level, _ in ended] == ["warning"]
        assert re.search(r"has ended, \d+\.\d s after it was cancelled", ended[0][1])

    run(test)


def test_error_while_cleaning_up_is_logged() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            raise ValueError("cleaning up")

    async def test(runtime: Runtime) -> None:
        request = Exchange(runtime, app)
        request.session.start()
        await request.turn()
        request.session.cancel()
        await until(runtime, lambda: request.is_over)
        assert "ValueError: cleaning up" in request.errors

    run(test)


def test_loop_that_is_torn_down_around_the_task() -> None:
    """A coroutine that is closed sends nothing."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await receive()

    async def test(runtime: Runtime) -> None:
        request = Exchange(runtime, app)
        coroutine = request.session.run()
        coroutine.send(None)
        coroutine.close()
        assert request.sent == []
        assert request.logs == []

    run(test)


# Flow control of the response.


def pieces(request: Exchange) -> Iterator[int]:
    """The sizes of the body messages."""
    for message in request.sent:
        if message[0] in ("start", "data", "last", "response"):
            yield len(message[-1])


@pytest.mark.parametrize("loop", LOOPS)
def test_send_waits_for_acknowledgement(loop: str) -> None:
    steps: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())

        for step in range(4):
            await send(body(b"x" * 50, more_body=True))
            steps.append(step)

        await send(body(b"y"))

    async def test(runtime: Runtime) -> None:
        request = Exchange(runtime, app, window=100)
        request.session.start()
        await request.turn()
        assert steps == [0, 1]
        request.session.acknowledge(49)
        await request.turn()
        assert steps == [0, 1]
        request.session.acknowledge(1)
        await request.turn()
        assert steps == [0, 1, 2]
        request.session.acknowledge(150)
        await until(runtime, lambda: request.is_over)
        assert request.sent[-2] == ("last", b"y")

    run(test, loop)


@pytest.mark.parametrize("is_head", [False, True])
def test_large_body_is_cut_and_has_its_length(is_head: bool) -> None:
    data = bytes(range(250))

    async def test(runtime: Runtime) -> None:
        app = sends(start(200, [(b"a", b"b")]), body(data))
        method = "HEAD" if is_head else "GET"
        request = Exchange(runtime, app, window=100, method=method)
        request.session.start()
        await request.turn()
        assert request.sent == [
            ("start", 200, [(b"a", b"b"), (CL, b"250")], data[:100])
        ]

        while not request.is_over:
            request.session.acknowledge(100)
            await request.turn()

        assert request.kinds == ["start", "data", "last", "done"]
        assert request.body == data

    run(test)


@pytest.mark.parametrize(
    ("status", "headers", "options", "length"),
    [
        (200, [], {}, b"250"),
        (200, [(CL, b"250")], {}, b"250"),
        (304, [], {}, None),
        (200, [], {"trailers": True}, None),
    ],
)
def test_length_of_a_large_body(
    status: int, headers: Any, options: dict[str, Any], length: bytes | None
) -> None:
    async def test(runtime: Runtime) -> None:
        app = sends(start(status, headers, **options), body(b"x" * 250))
        request = Exchange(runtime, app, window=100)
        request.session.start()
        await request.turn()
        expected = [] if length is None else [(CL, length)]
        assert request.sent[0][2] == expected
        request.session.disconnect()
        await until(runtime, lambda: request.is_over)

    run(test)


def test_exactly_a_window_is_one_message() -> None:
    done = exchange(sends(start(), body(b"x" * 100)), window=100)
    assert done.kinds == ["response", "done"]


@pytest.mark.parametrize("loop", LOOPS)
def test_disconnect_frees_a_waiting_send(loop: str) -> None:
    caught: list[BaseException] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        caught.append(await raised_by(send(body(b"x" * 200))))

    async def test(runtime: Runtime) -> None:
        request = Exchange(runtime, app, window=100)
        request.session.start()
        await request.turn()
        request.session.disconnect()
        await until(runtime, lambda: request.is_over)
        assert request.kinds == ["start", "done"]

    run(test, loop)
    assert isinstance(caught[0], ClientDisconnected)


def test_cancelled_send_leaves_no_hole() -> None:
    """What a cancelled send() has not got out yet still goes, before what follows."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())

        try:
            await asyncio.wait_for(send(body(b"a" * 150, more_body=True)), 0.001)
        except asyncio.TimeoutError:
            await send(body(b"b" * 100))

    async def test(runtime: Runtime) -> None:
        request = Exchange(runtime, app, window=100)
        request.session.start()
        waiter = runtime.create_waiter()
        runtime.call_later(0.05, waiter.set)
        await waiter.wait()

        while not request.is_over:
            request.session.acknowledge(list(pieces(request))[-1])
            await request.turn()

        assert request.body == b"a" * 150 + b"b" * 100
        assert request.kinds[-2:] == ["last", "done"]

    run(test)


@pytest.mark.parametrize("leaves", [False, True])
def test_return_after_a_cancelled_last_send(leaves: bool) -> None:
    """The request is done when the body is out, or the client gone."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        task = asyncio.ensure_future(send(body(b"a" * 150)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert "the send() of the last" in str(await raised_by(send(body())))

    async def test(runtime: Runtime) -> None:
        request = Exchange(runtime, app, window=100)
        request.session.start()
        await pass_turns(runtime, 10)
        assert request.kinds == ["start"]

        if leaves:
            request.session.disconnect()
        else:
            request.session.acknowledge(100)

        await until(runtime, lambda: request.is_over)
        assert request.kinds == ["start", *([] if leaves else ["last"]), "done"]
        assert request.errors == ""

    run(test)


# A turn of the event loop that others have spent.

PART = b"p" * PACED_PART_BYTES


def test_part_waits_for_its_turn() -> None:
    """Its head goes with it, and what comes behind it comes behind it."""

    async def test(runtime: Runtime) -> None:
        app = sends(start(), body(PART, more_body=True), body(b"y"))
        request = Exchange(runtime, app)
        turns = hold_turns(request)
        request.session.start()
        await request.turn()
        request.session.send_held_start()
        assert request.sent == []
        turns.pop()()
        assert await request.end() == [("start", 200, [], PART), ("last", b"y")]

    run(test)


def test_part_whose_send_is_cancelled_before_its_turn() -> None:
    """It stays, as one does that waits for its window: the body has no hole."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        task = asyncio.ensure_future(send(body(PART, more_body=True)))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        await send(body(b"rest"))

    async def test(runtime: Runtime) -> None:
        request = Exchange(runtime, app)
        turns = hold_turns(request)
        request.session.start()
        await pass_turns(runtime, 10)
        assert request.sent == []
        turns.pop()()
        assert await request.end() == [("start", 200, [], PART), ("last", b"rest")]

    run(test)


@pytest.mark.parametrize("leaves", [False, True])
def test_end_before_the_turn_of_a_part(leaves: bool) -> None:
    """Nothing of it was sent: where there is a client, it gets a whole answer."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        task = asyncio.ensure_future(send(body(PART, more_body=True)))
        await asyncio.sleep(0)

        if leaves:
            await task
        else:
            task.cancel()
            raise RuntimeError("no")

    async def test(runtime: Runtime) -> None:
        request = Exchange(runtime, app)
        turns = hold_turns(request)
        request.session.start()
        await pass_turns(runtime, 2)

        if leaves:
            request.session.disconnect()

        sent = await request.end()
        assert [message[1] for message in sent] == ([] if leaves else [500])
        turns.pop()()
        assert request.kinds[-1] == "done"

    run(test)


def hold_turns(request: Exchange) -> list[Callable[[], None]]:
    """Have others spend this turn; what is returned gets the call for the next one."""
    turns: list[Callable[[], None]] = []
    request.pacer = Pacer(lambda: turns.append(request.pacer.renew))
    spend_turn(request.pacer)
    return turns


def test_small_room_is_not_used_for_a_crumb() -> None:
    """A part that does not fit waits until half of the window is free."""

    async def test(runtime: Runtime) -> None:
        request = Exchange(runtime, sends(start(), body(b"x" * 300)), window=100)
        request.session.start()
        await request.turn()
        request.session.acknowledge(49)
        assert list(pieces(request)) == [100]
        request.session.acknowledge(1)
        assert list(pieces(request)) == [100, 50]
        request.session.disconnect()
        await until(runtime, lambda: request.is_over)

    run(test)


def test_part_of_a_large_body_is_one_read_of_the_node() -> None:
    """What fits into the window is not cut for that."""
    window = NODE_READ_BYTES

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(b"x" * window, more_body=True))
        await send(body(b"x" * 3 * window))

    async def test(runtime: Runtime) -> None:
        request = Exchange(runtime, app, window=window)
        request.session.start()
        sent: list[int] = []

        while not request.is_over:
            await request.turn()
            sent = list(pieces(request))
            request.session.acknowledge(sent[-1])

        first, *cut, last = sent
        assert first == window
        assert sum(sent) == 4 * window
        assert 0 < last < 0.1 * window
        assert len(cut) == 3

        for size in cut:
            assert 0.9 * window < size
            assert len(pack_batch([protocol.data(1 << 31, b"x" * size)])) < window

    run(test)


def test_small_part_does_not_overtake_a_large_one() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        large = asyncio.ensure_future(send(body(b"a" * 150, more_body=True)))
        await receive()
        await receive()
        await send(body(b"b", more_body=True))
        await large
        await send(body())

    async def test(runtime: Runtime) -> None:
        request = Exchange(runtime, app, body=b"x", more=True, window=100)
        request.session.start()
        await request.turn()
        # Room for the small part, and not for what is left of the large one.
        request.session.acknowledge(30)
        request.session.add_body(b"", False)
        await request.turn()
        assert list(pieces(request)) == [100]
        request.session.acknowledge(70)
        await until(runtime, lambda: request.is_over)
        assert request.body == b"a" * 150 + b"b"

    run(test)


def test_two_tasks_in_send() -> None:
    """Parts don't mix, and go out in the order of the calls."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await asyncio.gather(
            *(send(body(letter * 150, more_body=True)) for letter in (b"a", b"b", b"c"))
        )
        await send(body())

    async def test(runtime: Runtime) -> None:
        request = Exchange(runtime, app, window=100)
        request.session.start()

        while not request.is_over:
            await request.turn()
            request.session.acknowledge(100)

        assert request.body == b"a" * 150 + b"b" * 150 + b"c" * 150

    run(test)


@settings(max_examples=60, deadline=None)
@given(
    window=st.integers(1, 40),
    parts=st.lists(st.binary(max_size=100), min_size=1, max_size=8),
)
def test_any_body_arrives(window: int, parts: list[bytes]) -> None:
    """All arrives, never with more than a window under way; and it ends
    also if the node keeps back each acknowledgement of less than a quarter."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())

        for part in parts[:-1]:
            await send(body(part, more_body=True))

        await send(body(parts[-1]))

    async def test(runtime: Runtime) -> None:
        request = Exchange(runtime, app, window=window)
        request.session.start()
        acknowledged = 0

        for _ in range(1000):
            await pass_turns(runtime, 2)
            due = len(request.body) - acknowledged
            assert due <= window

            if request.is_over:
                break

            if due * 4 >= window:
                acknowledged += due
                request.session.acknowledge(due)
        else:
            raise AssertionError("the response does not end")

        assert request.body == b"".join(parts)

    run(test)
