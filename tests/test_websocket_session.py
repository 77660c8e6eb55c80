# SPDX-License-Identifier: Apache-2.0
"""The WebSocket session: its stages, its ends, its flow control, its topics."""

from __future__ import annotations

import asyncio
import gc
import random
import weakref
from collections import ChainMap
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbeam._asgi import (
    AsgiApp,
    AsgiOrderError,
    ClientDisconnected,
    ContentLengthMismatch,
    Message,
    Receive,
    Scope,
    Send,
)
from hornbeam._bridge import CallFailed
from hornbeam._errors import RemoteError
from hornbeam._pacer import TURN_BYTES
from hornbeam._protocol import ProtocolError
from hornbeam._runtime import Runtime
from hornbeam._terms import Atom
from hornbeam._websocket import PACED_MESSAGE_BYTES
from step_runtime import spend_turn
from worker_support import LOOPS, Dialogue, raised_by, run, sends, until

PLAIN = [(b"content-type", b"text/plain; charset=utf-8")]
ERROR = ("response", 500, PLAIN, b"Internal Server Error")
UNAVAILABLE = ("response", 503, PLAIN, b"Service Unavailable")
FORBIDDEN: tuple[Any, ...] = ("response", 403, [], b"")

CONNECT = {"type": "websocket.connect"}
ACCEPT: Message = {"type": "websocket.accept"}
CLOSE: Message = {"type": "websocket.close"}
ACCEPTED: tuple[Any, ...] = ("accept", None, [])

ATTACH: Message = {"type": "hornbeam.topics.attach", "topic": "room:1"}
DETACH: Message = {"type": "hornbeam.topics.detach", "topic": "room:1"}


def text(payload: object = "x", **more: object) -> Message:
    return {"type": "websocket.send", "text": payload, **more}


def binary(payload: object, **more: object) -> Message:
    return {"type": "websocket.send", "bytes": payload, **more}


def close(**fields: object) -> Message:
    return {"type": "websocket.close", **fields}


def deny(status: object = 401, **more: object) -> Message:
    return {"type": "websocket.http.response.start", "status": status, **more}


def part(body: object = b"", **more: object) -> Message:
    return {"type": "websocket.http.response.body", "body": body, **more}


def left(code: int, reason: str = "") -> Message:
    return {"type": "websocket.disconnect", "code": code, "reason": reason}


def dialogue(app: AsgiApp, **options: Any) -> Dialogue:
    """Run a session to its end."""
    dialogues = []

    async def test(runtime: Runtime) -> None:
        dialogues.append(Dialogue(runtime, app, **options))
        await dialogues[0].finish()

    run(test)
    return dialogues[0]


def play(
    app: AsgiApp,
    act: Callable[[Dialogue], None],
    *,
    loop: str = "asyncio",
    **options: Any,
) -> Dialogue:
    """Run a session; act as the node when the application waits."""
    dialogues = []

    async def test(runtime: Runtime) -> None:
        dialogues.append(Dialogue(runtime, app, **options))
        dialogues[0].session.start()
        await dialogues[0].turn()
        act(dialogues[0])
        await dialogues[0].end()

    run(test, loop)
    return dialogues[0]


def receives(got: list[Message], count: int, *first: Message) -> AsgiApp:
    """Make an application that sends these and then takes so many messages."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in first:
            await send(dict(message))

        got.extend([await receive() for _ in range(count)])

    return app


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    assert await receive() == CONNECT
    await send(ACCEPT)

    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


# What is sent.


@pytest.mark.parametrize(
    ("messages", "sent"),
    [
        pytest.param(
            [ACCEPT, text("é"), binary(b"\xff")],
            [
                ACCEPTED,
                ("message", Atom("text"), "é".encode()),
                ("message", Atom("binary"), b"\xff"),
                ("close", 1000, b""),
            ],
            id="messages",
        ),
        pytest.param(
            [ACCEPT, text("", bytes=None), binary(b"", text=None)],
            [
                ACCEPTED,
                ("message", Atom("text"), b""),
                ("message", Atom("binary"), b""),
                ("close", 1000, b""),
            ],
            id="empty messages, both keys",
        ),
        pytest.param(
            [ACCEPT, binary(bytearray(b"a")), binary(memoryview(b"abcd")[::2])],
            [
                ACCEPTED,
                ("message", Atom("binary"), b"a"),
                ("message", Atom("binary"), b"ac"),
                ("close", 1000, b""),
            ],
            id="bytearray and memoryview",
        ),
        pytest.param(
            [
                {
                    "type": "websocket.accept",
                    "subprotocol": "v2",
                    "headers": [[b"Set-Cookie", b"a=1"], (b"set-cookie", b"b=2 ")],
                }
            ],
            [
                ("accept", b"v2", [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]),
                ("close", 1000, b""),
            ],
            id="subprotocol and headers",
        ),
        pytest.param(
            [{"type": "websocket.accept", "subprotocol": None, "headers": None}],
            [ACCEPTED, ("close", 1000, b"")],
            id="None in accept",
        ),
        pytest.param(
            [{**ACCEPT, "headers": [(b"content-length", b"3")]}],
            [ACCEPTED, ("close", 1000, b"")],
            id="a length of what has no body",
        ),
        pytest.param(
            [ACCEPT, close(code=4000, reason="Schluß")],
            [ACCEPTED, ("close", 4000, "Schluß".encode())],
            id="close",
        ),
        pytest.param(
            [ACCEPT, close(code=None, reason=None)],
            [ACCEPTED, ("close", 1000, b"")],
            id="defaults of close",
        ),
        pytest.param([CLOSE], [FORBIDDEN], id="close before accept"),
        pytest.param([close(code=4001, reason="x")], [FORBIDDEN], id="code of a 403"),
        pytest.param([close(reason=[{}])], [FORBIDDEN], id="reason as of FastAPI"),
        pytest.param(
            [deny(401, headers=[(b"X", b"y")]), part(b"no")],
            [("response", 401, [(b"x", b"y")], b"no")],
            id="denial",
        ),
        pytest.param(
            [deny(404), part(b"a", more_body=True), part(b"b", more_body=True), part()],
            [("start", 404, [], b"a"), ("data", b"b"), ("last", b"")],
            id="streamed denial",
        ),
        pytest.param(
            [deny(401, trailers=True), part(b"no")],
            [("response", 401, [], b"no")],
            id="no trailers",
        ),
    ],
)
def test_messages(messages: list[Message], sent: list[tuple[Any, ...]]) -> None:
    done = dialogue(sends(*messages), subprotocols=("v1", "v2"))
    assert done.sent == [*sent, ("done",)]
    assert done.logs == []


def test_message_that_is_no_dict() -> None:
    class Odd(ChainMap[str, Any]):
        pass

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(Odd(dict(ACCEPT)))
        await send(Odd(text("a")))

    assert dialogue(app).kinds == ["accept", "message", "close", "done"]


# Order.

NOT_YET = "'websocket.accept', 'websocket.close' or 'websocket.http.response.start'"
OPEN = "'websocket.send' or 'websocket.close'"


@pytest.mark.parametrize(
    ("messages", "expected", "answer"),
    [
        ([text()], f"{NOT_YET}, got 'websocket.send'", ERROR),
        ([part()], f"{NOT_YET}, got 'websocket.http.response.body'", ERROR),
        ([{"type": "lifespan.startup"}], f"{NOT_YET}, got 'lifespan.startup'", ERROR),
        ([ATTACH], f"{NOT_YET}, got 'hornbeam.topics.attach'", ERROR),
        ([ACCEPT, ACCEPT], f"{OPEN}, got 'websocket.accept'", ("close", 1011, b"")),
        (
            [ACCEPT, deny()],
            f"{OPEN}, got 'websocket.http.response.start'",
            ("close", 1011, b""),
        ),
        (
            [ACCEPT, {"type": "http.response.body"}],
            f"{OPEN}, got 'http.response.body'",
            ("close", 1011, b""),
        ),
        (
            [deny(), text()],
            "the first 'websocket.http.response.body', got 'websocket.send'",
            ERROR,
        ),
        (
            [deny(), deny()],
            "the first 'websocket.http.response.body', "
            "got 'websocket.http.response.start'",
            ERROR,
        ),
        (
            [deny(), {"type": "websocket.http.response.trailers"}],
            "the first 'websocket.http.response.body', "
            "got 'websocket.http.response.trailers'",
            ERROR,
        ),
        (
            [deny(), part(more_body=True), ACCEPT],
            "a further 'websocket.http.response.body', got 'websocket.accept'",
            ("abort",),
        ),
        (
            [deny(), part(), part()],
            "nothing more, the response is complete, "
            "got 'websocket.http.response.body'",
            ("response", 401, [], b""),
        ),
    ],
)
def test_order(messages: list[Message], expected: str, answer: tuple[Any, ...]) -> None:
    done = dialogue(sends(*messages))
    assert f"AsgiOrderError: expected {expected}\n" in f"{done.errors}\n"
    assert done.sent[-2:] == [answer, ("done",)]


@pytest.mark.parametrize("first", [[CLOSE], [ACCEPT, CLOSE]])
@pytest.mark.parametrize(
    "late", [text(), CLOSE, ACCEPT, deny(), part(), ATTACH, DETACH]
)
def test_send_after_the_end(first: list[Message], late: Message) -> None:
    """As a closed socket does: an OSError, whatever it is."""
    caught: list[BaseException] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in first:
            await send(message)

        caught.append(await raised_by(send(late)))

    done = dialogue(app)
    assert len(done.sent) == len(first) + 1
    assert isinstance(caught[0], ClientDisconnected)
    assert isinstance(caught[0], OSError)


# What is refused.


@pytest.mark.parametrize(
    ("message", "kind", "expected"),
    [
        ({"type": "websocket.send"}, ValueError, "'text' or 'bytes', got neither"),
        (text(None, bytes=None), ValueError, "'text' or 'bytes', got neither"),
        (text("a", bytes=b"b"), ValueError, "'text' or 'bytes', got both"),
        (text(b"a"), TypeError, "'text' is a str, not bytes, which goes under 'bytes'"),
        (text(1), TypeError, "'text' is a str, not int"),
        (text("\ud800"), ValueError, "'text' has no UTF-8"),
        (binary("a"), TypeError, "'bytes' is bytes, not str, which goes under 'text'"),
        (binary(7), TypeError, "'bytes' is bytes, not int"),
        (close(code="1000"), TypeError, "'code' is an int: 1000 to 1003, .* not str"),
        (close(code=True), TypeError, "not bool"),
        (close(reason=b"x"), TypeError, "'reason' is a str, not bytes"),
        (close(reason="\udc00"), ValueError, "'reason' has no UTF-8"),
        (
            close(reason="é" * 62),
            ValueError,
            "'reason' has 124 bytes in UTF-8, at most 123",
        ),
        ({"type": None}, TypeError, "a str under 'type', got nothing"),
        ([], TypeError, "send\\(\\) takes a dict"),
        ({**ATTACH, "topic": 1}, TypeError, "a topic is a str, not int"),
        ({**ATTACH, "topic": "#:a"}, ValueError, "'#' before its last segment"),
        ({**DETACH, "topic": ""}, ValueError, "not empty"),
        ({**ATTACH, "overflow": "drop"}, ValueError, "'close' or 'drop_oldest', not"),
        ({**ATTACH, "max_queue": 0}, ValueError, "max_queue is from 1 to"),
        ({**ATTACH, "max_queue": 2**31}, ValueError, "max_queue is from 1 to"),
        ({**ATTACH, "max_queue": True}, TypeError, "max_queue is an int, not bool"),
        ({**ATTACH, "max_queue": "9"}, TypeError, "max_queue is an int, not str"),
    ],
)
def test_bad_message(message: Any, kind: type[Exception], expected: str) -> None:
    """It is refused, nothing goes out, and the session can go on."""
    caught: list[BaseException] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        caught.append(await raised_by(send(message)))
        await send(text("on"))

    done = dialogue(app)
    assert done.kinds == ["accept", "message", "close", "done"]
    assert done.calls == []
    assert type(caught[0]) is kind

    with pytest.raises(kind, match=expected):
        raise caught[0]


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000])
def test_bad_code(code: int) -> None:
    done = dialogue(sends(ACCEPT, close(code=code)))
    text = f"'code' is 1000 to 1003, 1007 to 1014 or 3000 to 4999, not {code}"
    assert text in done.errors
    assert done.sent[-2:] == [("close", 1011, b""), ("done",)]


@pytest.mark.parametrize("code", [1000, 1003, 1007, 1014, 3000, 4999])
def test_good_code(code: int) -> None:
    done = dialogue(sends(ACCEPT, close(code=code, reason="é" * 61 + "x")))
    assert done.sent[1] == ("close", code, ("é" * 61 + "x").encode())


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"subprotocol": b"v1"}, "'subprotocol' is a str or None, not bytes"),
        ({"subprotocol": "a b"}, "'subprotocol' is a token of HTTP, not 'a b'"),
        ({"subprotocol": ""}, "'subprotocol' is a token of HTTP, not ''"),
        ({"subprotocol": "v3"}, "the client offers ('v1', 'v2'), not 'v3'"),
        (
            {"headers": [(b"Sec-WebSocket-Protocol", b"v1")]},
            "header sec-websocket-protocol is for the server to set; "
            "give a subprotocol as 'subprotocol'",
        ),
        (
            {"headers": [(b"sec-websocket-extensions", b"x")]},
            "header sec-websocket-extensions is for the server to set",
        ),
        ({"headers": [(b"Upgrade", b"h2")]}, "header upgrade is for the server to set"),
        ({"headers": [(b"connection", b"x")]}, "header connection is for the server"),
        ({"headers": [(b":status", b"200")]}, "b':status' is no header name"),
        ({"headers": [(b"a", b"b\r\nc: d")]}, "has a CR, LF or NUL"),
        ({"headers": [("a", b"b")]}, "a header's name is bytes, not str 'a'"),
        ({"headers": 7}, "headers are an iterable"),
    ],
)
def test_bad_accept(fields: Message, expected: str) -> None:
    done = dialogue(sends({**ACCEPT, **fields}), subprotocols=("v1", "v2"))
    assert expected in done.errors
    assert done.sent == [ERROR, ("done",)]


def test_subprotocol_that_nobody_offered() -> None:
    done = dialogue(sends({**ACCEPT, "subprotocol": "chat"}))
    assert "the client offers (none), not 'chat'" in done.errors


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (deny(None), "status is an int"),
        (deny("401"), "status is an int"),
        (deny(99), "status is an int from 100 to 999"),
        (deny(103), "status is from 200 on where a handshake is denied: 103"),
        (deny(101), "status is from 200 on where a handshake is denied: 101"),
        (deny(401, headers=[(b"a", b"\n")]), "CR, LF or NUL"),
    ],
)
def test_bad_denial(message: Message, expected: str) -> None:
    done = dialogue(sends(message))
    assert expected in done.errors
    assert done.sent == [ERROR, ("done",)]


def test_denial_that_does_not_fit_its_length() -> None:
    start = deny(401, headers=[(b"content-length", b"1")])
    done = dialogue(sends(start, part(b"ab")))
    assert ContentLengthMismatch.__name__ in done.errors
    assert done.sent == [ERROR, ("done",)]


# Errors of the application.


@pytest.mark.parametrize(
    ("messages", "when", "sent"),
    [
        ([], "before it accepted the WebSocket", [ERROR]),
        ([ACCEPT], "on an open WebSocket", [ACCEPTED, ("close", 1011, b"")]),
        ([CLOSE], "after the WebSocket was closed", [FORBIDDEN]),
        (
            [ACCEPT, CLOSE],
            "after the WebSocket was closed",
            [ACCEPTED, ("close", 1000, b"")],
        ),
        ([deny()], "while it denied the WebSocket", [ERROR]),
        (
            [deny(), part(b"a", more_body=True)],
            "while it denied the WebSocket",
            [("start", 401, [], b"a"), ("abort",)],
        ),
    ],
)
def test_application_raises(
    messages: list[Message], when: str, sent: list[Any]
) -> None:
    """The client is told, without detail; the log has the traceback."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await sends(*messages)(scope, receive, send)
        raise LookupError("secret")

    done = dialogue(app)
    assert done.sent == [*sent, ("done",)]
    assert f"WebSocket /ws: the application raised {when}\nTraceback" in done.errors
    assert "LookupError: secret" in done.errors
    assert "hornbeam/_session.py" not in done.errors


@pytest.mark.parametrize(
    ("messages", "expected", "sent"),
    [
        ([], NOT_YET, [ERROR]),
        ([deny()], "the first 'websocket.http.response.body'", [ERROR]),
        (
            [deny(), part(b"a", more_body=True)],
            "a further 'websocket.http.response.body'",
            [("start", 401, [], b"a"), ("abort",)],
        ),
    ],
)
def test_application_returns_early(
    messages: list[Message], expected: str, sent: list[Any]
) -> None:
    done = dialogue(sends(*messages))
    assert f"the application returned; expected {expected}" in done.errors
    assert done.sent == [*sent, ("done",)]


class WebSocketDisconnect(Exception):
    """As Starlette names it."""


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (ClientDisconnected("x"), "debug"),
        (WebSocketDisconnect(1001), "debug"),
        (LookupError("x"), "error"),
    ],
)
def test_errors_after_the_client_has_left(error: Exception, level: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        await receive()
        await receive()
        raise error

    done = play(app, lambda node: node.session.close(1001, b""))
    assert [logged for logged, _ in done.logs] == [level]
    assert done.sent == [ACCEPTED, ("done",)]


def test_error_of_that_kind_while_the_client_is_there() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        raise ClientDisconnected("of another socket")

    done = dialogue(app)
    assert "of another socket" in done.errors
    assert done.sent == [ACCEPTED, ("close", 1011, b""), ("done",)]


# What is received.


@pytest.mark.parametrize("loop", LOOPS)
def test_receive(loop: str) -> None:
    got: list[Message] = []

    def act(node: Dialogue) -> None:
        node.text("é")
        node.text("")
        node.binary(b"\xff")
        node.binary(b"")
        node.session.close(4321, "bis später".encode())

    done = play(receives(got, 7, ACCEPT), act, loop=loop)
    assert got == [
        CONNECT,
        {"type": "websocket.receive", "text": "é"},
        {"type": "websocket.receive", "text": ""},
        {"type": "websocket.receive", "bytes": b"\xff"},
        {"type": "websocket.receive", "bytes": b""},
        left(4321, "bis später"),
        left(4321, "bis später"),
    ]
    assert done.sent == [ACCEPTED, ("done",)]
    assert done.logs == []


def test_the_first_end_counts() -> None:
    got: list[Message] = []

    def act(node: Dialogue) -> None:
        node.session.close(1001, b"")
        node.session.close(1006, b"late")
        node.session.disconnect()

    play(receives(got, 2, ACCEPT), act)
    assert got == [CONNECT, left(1001)]


@pytest.mark.parametrize("loop", LOOPS)
def test_answers_before_a_fault_of_the_client(loop: str) -> None:
    """What came before it is served; the node is told when that is done."""
    caught: list[BaseException] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await echo(scope, receive, send)
        caught.append(await raised_by(send(text("late"))))

    def act(node: Dialogue) -> None:
        node.text("a")
        node.text("b")
        node.session.end(1002, b"why")

    done = play(app, act, loop=loop)
    assert done.sent == [
        ACCEPTED,
        ("message", Atom("text"), b"a"),
        ("message", Atom("text"), b"b"),
        ("close", 1002, b""),
        ("done",),
    ]
    assert isinstance(caught[0], ClientDisconnected)


def test_fault_of_the_client_reaches_receive() -> None:
    got: list[Message] = []
    done = play(
        receives(got, 3, ACCEPT), lambda node: node.session.end(1007, "wü".encode())
    )
    assert got == [CONNECT, left(1007, "wü"), left(1007, "wü")]
    assert done.sent == [ACCEPTED, ("close", 1007, b""), ("done",)]


@pytest.mark.parametrize("code", [1000, 1011])
def test_application_that_ends_at_a_fault_of_the_client(code: int) -> None:
    """Without having asked for more: the node gets its one `close` all the same."""
    got: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receives(got, 2, ACCEPT)(scope, receive, send)

        if code == 1011:
            raise ValueError("mine")

    def act(node: Dialogue) -> None:
        node.text("a")
        node.session.end(1002, b"why")

    assert play(app, act).sent[1:] == [("close", code, b""), ("done",)]


def test_node_that_waits_no_longer_for_answers() -> None:
    """Sends fail from then on; the end remains the first."""
    got: list[Message] = []
    caught: list[BaseException] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receives(got, 2, ACCEPT)(scope, receive, send)
        caught.append(await raised_by(send(text("late"))))
        got.append(await receive())

    def act(node: Dialogue) -> None:
        node.session.end(1002, b"why")
        node.text("a")
        node.session.close(1002, b"why")

    assert play(app, act).sent == [ACCEPTED, ("done",)]
    assert isinstance(caught[0], ClientDisconnected)
    assert got[-1] == left(1002, "why")


@pytest.mark.parametrize("late", ["close", "fault", "shutdown"])
def test_fault_of_a_client_that_is_gone(late: str) -> None:
    """The first end counts, and is said once."""
    got: list[Message] = []

    def act(node: Dialogue) -> None:
        match late:
            case "close":
                node.session.end(1002, b"why")
                node.session.close(1006, b"")
            case "fault":
                node.session.end(1002, b"why")
                node.session.end(1007, b"other")
            case "shutdown":
                node.session.end(1002, b"why")
                node.session.go_away()

    done = play(receives(got, 2, ACCEPT), act)
    assert got == [CONNECT, left(1002, "why")]
    assert done.kinds.count("close") == (0 if late == "close" else 1)


def test_client_that_leaves_during_the_handshake() -> None:
    got: list[Message] = []
    caught: list[BaseException] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        got.extend([await receive(), await receive(), await receive()])

        late = (ACCEPT, CLOSE, deny())
        caught.extend([await raised_by(send(message)) for message in late])

        await send(ACCEPT)

    done = play(app, lambda node: node.session.disconnect())
    assert got == [CONNECT, left(1006), left(1006)]
    assert [type(error) for error in caught] == 3 * [ClientDisconnected]
    assert done.sent == [("done",)]
    assert [level for level, _ in done.logs] == ["debug"]


@pytest.mark.parametrize("messages", [[CLOSE], [deny(), part()]])
def test_receive_after_a_refusal(messages: list[Message]) -> None:
    got: list[Message] = []
    dialogue(receives(got, 3, *messages))
    assert got == [CONNECT, left(1006), left(1006)]


def test_receive_after_the_own_close_waits_for_the_client() -> None:
    """What was under way still comes, then the client's answer."""
    got: list[Message] = []

    def act(node: Dialogue) -> None:
        assert node.kinds == ["accept", "close"]
        node.text("late")
        node.session.close(4000, b"bye")

    play(receives(got, 3, ACCEPT, close(code=4000)), act)
    assert got[1:] == [{"type": "websocket.receive", "text": "late"}, left(4000, "bye")]


def test_text_that_is_no_utf8_is_the_nodes_fault() -> None:
    async def test(runtime: Runtime) -> None:
        session = Dialogue(runtime, echo).session

        with pytest.raises(ProtocolError, match="a text message"):
            session.add_message(Atom("text"), b"\xff")

        with pytest.raises(ProtocolError, match="text or binary"):
            session.add_message(Atom("ping"), b"")

    run(test)


@pytest.mark.parametrize("loop", LOOPS)
def test_echo(loop: str) -> None:
    def act(node: Dialogue) -> None:
        for number in range(50):
            node.text(f"{number}")

        node.session.close(1000, b"")

    # All of them are there before the end is, but answers to a client that has left
    # are an error.
    done = play(echo, act, loop=loop)
    assert done.sent == [ACCEPTED, ("done",)]
    assert [level for level, _ in done.logs] == ["debug"]

    async def test(runtime: Runtime) -> None:
        node = Dialogue(runtime, echo)
        node.session.start()

        for number in range(50):
            node.text(f"{number}")
            await until(runtime, lambda n=number: len(node.sent) == n + 2)  # type: ignore[misc]

        assert node.sent[1:] == [
            ("message", Atom("text"), f"{number}".encode()) for number in range(50)
        ]
        node.session.close(1000, b"")
        await node.end()

    run(test, loop)


def test_cancelled_receive_loses_nothing() -> None:
    """Also when the message came in the very turn of the cancellation."""
    got: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        await receive()
        task = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        scope["node"].text("a")
        task.cancel()
        assert isinstance(await raised(task), asyncio.CancelledError)
        got.append(await receive())

    async def test(runtime: Runtime) -> None:
        node = Dialogue(runtime, app)
        node.scope["node"] = node
        await node.finish()

    run(test)
    assert got == [{"type": "websocket.receive", "text": "a"}]


async def raised(task: asyncio.Future[Any]) -> BaseException | None:
    await asyncio.wait([task])
    return asyncio.CancelledError() if task.cancelled() else task.exception()


def test_two_tasks_in_receive() -> None:
    got: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        await receive()
        got.extend(await asyncio.gather(receive(), receive(), receive()))

    def act(node: Dialogue) -> None:
        node.text("a")
        node.text("b")
        node.session.close(1000, b"")

    play(app, act)
    assert sorted(message["type"] for message in got) == [
        "websocket.disconnect",
        "websocket.receive",
        "websocket.receive",
    ]


# Flow control from the client.


def test_credit() -> None:
    """By what is taken; from a quarter of the window on; 64 bytes at least."""
    seen: list[list[int]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        await receive()

        for _ in range(6):
            await receive()
            sent = scope["node"].sent
            seen.append([message[1] for message in sent if message[0] == "credit"])

    async def test(runtime: Runtime) -> None:
        node = Dialogue(runtime, app, window=1000)
        node.scope["node"] = node
        node.session.start()

        for size in (1, 0, 64, 65, 250, 249):
            node.binary(bytes(size))

        await node.end()

    run(test)
    assert seen == [[], [], [], [257], [257, 250], [257, 250]]


def test_no_credit_after_the_end() -> None:
    def act(node: Dialogue) -> None:
        node.text("x" * 100)
        node.session.close(1000, b"")

    done = play(receives([], 3, ACCEPT), act, window=100)
    assert done.sent == [ACCEPTED, ("done",)]


# Flow control to the client.


def payloads(node: Dialogue) -> list[bytes]:
    return [message[2] for message in node.sent if message[0] == "message"]


@pytest.mark.parametrize("loop", LOOPS)
def test_send_waits_for_room(loop: str) -> None:
    async def test(runtime: Runtime) -> None:
        messages = [binary(bytes([n]) * 100) for n in range(6)]
        node = Dialogue(runtime, sends(ACCEPT, *messages), window=300)
        node.session.start()
        await until(runtime, lambda: len(payloads(node)) == 3)
        await node.turn()
        assert len(payloads(node)) == 3
        node.session.acknowledge(99)
        await node.turn()
        assert len(payloads(node)) == 3
        node.session.acknowledge(1)
        await until(runtime, lambda: len(payloads(node)) == 4)
        await node.turn()
        assert len(payloads(node)) == 4
        node.session.acknowledge(300)
        await node.end()
        assert payloads(node) == [bytes([n]) * 100 for n in range(6)]

    run(test, loop)


def test_small_messages_count_for_more() -> None:
    async def test(runtime: Runtime) -> None:
        node = Dialogue(runtime, sends(ACCEPT, *(5 * [text("")])), window=256)
        node.session.start()
        await node.turn()
        assert len(payloads(node)) == 4
        node.session.acknowledge(64)
        await node.end()
        assert len(payloads(node)) == 5

    run(test)


def test_message_that_is_larger_than_the_window() -> None:
    """It goes whole when nothing is under way but what the node may hold back."""

    async def test(runtime: Runtime) -> None:
        messages = [binary(b"a" * 100), binary(b"b" * 1000), binary(b"c")]
        node = Dialogue(runtime, sends(ACCEPT, *messages), window=400)
        node.session.start()
        await node.turn()
        assert payloads(node) == [b"a" * 100]
        node.session.acknowledge(1)
        await node.turn()
        assert payloads(node) == [b"a" * 100, b"b" * 1000]
        node.session.acknowledge(1000 - 300)
        await node.turn()
        assert len(payloads(node)) == 2
        node.session.acknowledge(64)
        await node.end()
        assert payloads(node)[2] == b"c"

    run(test)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("how", ["closed", "own close", "shutdown"])
def test_end_frees_a_waiting_send(loop: str, how: str) -> None:
    caught: list[BaseException] = []

    async def test(runtime: Runtime) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send(ACCEPT)
            await send(text("x" * 100))
            runtime.call_later(0.001, lambda: end(send))
            caught.append(await raised_by(send(text("y"))))

        def end(send: Send) -> None:
            match how:
                case "closed":
                    node.session.close(1000, b"")
                case "own close":
                    coroutine: Any = send(close(code=4000))

                    with pytest.raises(StopIteration):
                        coroutine.send(None)
                case "shutdown":
                    node.session.go_away()

        node = Dialogue(runtime, app, window=100)
        await node.finish()
        assert payloads(node) == [b"x" * 100]

    run(test, loop)
    assert isinstance(caught[0], ClientDisconnected)


LARGE = b"x" * PACED_MESSAGE_BYTES


async def sent_in_a_spent_turn(node: Dialogue) -> list[int]:
    """Start it where others have sent what may leave; return the sizes that do."""
    node.pacer._schedule = lambda: None
    spend_turn(node.pacer)
    node.session.start()
    await node.turn()
    return list(map(len, payloads(node)))


@pytest.mark.parametrize("loop", LOOPS)
def test_large_message_waits_for_its_turn(loop: str) -> None:
    """So does what follows it on its WebSocket; the budget is spent once."""

    async def test(runtime: Runtime) -> None:
        node = Dialogue(runtime, sends(ACCEPT, binary(LARGE), text("behind")))
        assert await sent_in_a_spent_turn(node) == []
        # Nothing but its turn is waited for.
        node.session.acknowledge(0)
        await node.turn()
        assert payloads(node) == []
        node.pacer.renew()
        assert node.pacer.left_bytes == TURN_BYTES - len(LARGE)
        await node.end()
        assert payloads(node) == [LARGE, b"behind"]
        # Whoever posts it counts it.
        assert node.pacer.left_bytes == TURN_BYTES

    run(test, loop)


def test_small_message_waits_for_no_turn() -> None:
    async def test(runtime: Runtime) -> None:
        node = Dialogue(runtime, sends(ACCEPT, binary(LARGE[1:])))
        assert await sent_in_a_spent_turn(node) == [len(LARGE) - 1]
        await node.end()

    run(test)


def test_turn_has_a_budget_for_all_messages() -> None:
    """A message is counted when it is let go, not when its task comes to send it."""
    count, size = 12, TURN_BYTES // 4

    async def test(runtime: Runtime) -> None:
        nodes = [
            Dialogue(runtime, sends(ACCEPT, binary(bytes(size)))) for _ in range(count)
        ]
        pacer = nodes[0].pacer
        turns = [0]

        for node in nodes:
            node.pacer = pacer
            await sent_in_a_spent_turn(node)

        for _ in range(3):
            pacer.renew()
            await nodes[0].turn()
            turns.append(sum(len(payloads(node)) for node in nodes))

        assert turns == [0, 4, 8, 12]

        for node in nodes:
            await node.end()

    run(test)


def test_turn_that_comes_when_nobody_waits_any_more() -> None:
    """The client has gone meanwhile, or the task was cancelled."""
    caught: list[BaseException] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        caught.append(await raised_by(send(binary(LARGE))))

    async def test(runtime: Runtime) -> None:
        node = Dialogue(runtime, app)
        assert await sent_in_a_spent_turn(node) == []
        node.session.close(1001, b"")
        node.pacer.renew()
        await node.end()
        assert payloads(node) == []

    run(test)
    assert isinstance(caught[0], ClientDisconnected)


def test_cancelled_send_leaves_its_turn_to_the_next() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        first = asyncio.ensure_future(send(binary(LARGE + b"1")))
        second = asyncio.ensure_future(send(binary(LARGE + b"2")))
        await asyncio.sleep(0)
        first.cancel()
        await second

    async def test(runtime: Runtime) -> None:
        node = Dialogue(runtime, app)
        assert await sent_in_a_spent_turn(node) == []
        node.pacer.renew()
        await node.end()
        assert payloads(node) == [LARGE + b"2"]

    run(test)


def test_messages_of_many_tasks_keep_their_order() -> None:
    """None overtakes one that waits, also in the turn in which that is woken."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        await send(text("0" * 100))
        await asyncio.gather(*(send(text(f"{n}" * 100)) for n in range(1, 5)))

    async def test(runtime: Runtime) -> None:
        node = Dialogue(runtime, app, window=100)
        node.session.start()

        while not node.is_over:
            await node.turn()
            node.session.acknowledge(100)

        assert payloads(node) == [f"{n}".encode() * 100 for n in range(5)]

    run(test)


@pytest.mark.parametrize("woken", [False, True])
def test_cancelled_send_has_sent_nothing(woken: bool) -> None:
    """Neither lost nor doubled, and who waits behind it is not forgotten."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        await send(text("0" * 100))
        first = asyncio.ensure_future(send(text("a" * 100)))
        second = asyncio.ensure_future(send(text("b" * 100)))
        await asyncio.sleep(0)

        if woken:
            scope["node"].session.acknowledge(100)

        first.cancel()
        await asyncio.sleep(0)

        if not woken:
            scope["node"].session.acknowledge(100)

        assert isinstance(await raised(first), asyncio.CancelledError)
        await second
        scope["node"].session.acknowledge(100)
        await send(text("a" * 100))

    async def test(runtime: Runtime) -> None:
        node = Dialogue(runtime, app, window=100)
        node.scope["node"] = node
        await node.finish()
        assert payloads(node) == [b"0" * 100, b"b" * 100, b"a" * 100]

    run(test)


@settings(max_examples=60, deadline=None)
@given(
    window=st.integers(1, 400),
    sizes=st.lists(st.integers(0, 500), max_size=12),
    tasks=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_messages_arrive(
    window: int, sizes: list[int], tasks: int, seed: int
) -> None:
    """Whatever node and application do, each goes once, in order, within the bound.

    The node holds acknowledgements back as long as it may.
    """
    # A draw of Hypothesis can end the test: not while its tasks run.
    draw = random.Random(seed).randint

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(ACCEPT)

        async def push(sizes: list[int]) -> None:
            for size in sizes:
                await send(binary(bytes(size)))

        await asyncio.gather(*(push(sizes[n::tasks]) for n in range(tasks)))

    async def test(runtime: Runtime) -> None:
        node = Dialogue(runtime, app, window=window)
        node.session.start()
        acknowledged = 0

        while not node.is_over:
            await node.turn()
            out = [max(64, len(payload)) for payload in payloads(node)]
            under_way = sum(out) - acknowledged
            assert under_way <= max(window, (out or [0])[-1] + window / 4)
            held = draw(0, (window - 1) // 4)

            if under_way > held:
                taken = draw(1, under_way - held)
                node.session.acknowledge(taken)
                acknowledged += taken

        assert sorted(map(len, payloads(node))) == sorted(sizes)

    run(test)


def test_denial_waits_for_its_client() -> None:
    async def test(runtime: Runtime) -> None:
        node = Dialogue(runtime, sends(deny(), part(b"x" * 150)), window=100)
        node.session.start()
        await node.turn()
        assert node.sent == [("start", 401, [(b"content-length", b"150")], b"x" * 100)]
        node.session.acknowledge(100)
        await node.end()
        assert node.sent[1:] == [("last", b"x" * 50), ("done",)]

    run(test)


def test_client_that_leaves_during_a_denial() -> None:
    caught: list[BaseException] = []
    got: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(deny())
        caught.append(await raised_by(send(part(b"x" * 150))))
        got.append(await receive())

    play(app, lambda node: node.session.disconnect(), window=100)
    assert isinstance(caught[0], ClientDisconnected)
    assert got == [left(1006)]


def test_head_of_a_denial_does_not_wait_for_ever() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(deny())
        assert scope["node"].held_starts == 1
        scope["node"].session.send_held_start()
        await send(part(b"x"))

    async def test(runtime: Runtime) -> None:
        node = Dialogue(runtime, app)
        node.scope["node"] = node
        assert await node.finish() == [("start", 401, [], b""), ("last", b"x")]

    run(test)


# Cancellation, and the worker's end.


async def for_ever(runtime: Runtime) -> None:
    await runtime.create_waiter().wait()


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    ("how", "before", "sent"),
    [
        ("cancel", [], []),
        ("stop", [], [UNAVAILABLE]),
        ("stop", [ACCEPT], [ACCEPTED, ("close", 1012, b"")]),
        ("stop", [ACCEPT, CLOSE], [ACCEPTED, ("close", 1000, b"")]),
        ("stop", [CLOSE], [FORBIDDEN]),
        ("stop", [deny()], [UNAVAILABLE]),
    ],
)
def test_cancellation(
    loop: str, how: str, before: list[Message], sent: list[Any]
) -> None:
    """The task is cancelled, the client gets the best that there is."""

    async def test(runtime: Runtime) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await sends(*before)(scope, receive, send)
            await for_ever(runtime)

        node = Dialogue(runtime, app)
        node.session.start()
        await node.turn()
        getattr(node.session, how)()
        assert await node.end() == sent
        assert node.logs == []

    run(test, loop)


def test_application_that_swallows_the_cancellation() -> None:
    async def test(runtime: Runtime) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send(ACCEPT)

            try:
                await for_ever(runtime)
            except asyncio.CancelledError:
                pass

        node = Dialogue(runtime, app)
        node.session.start()
        await node.turn()
        node.session.stop()
        assert await node.end() == [ACCEPTED, ("close", 1012, b"")]

    run(test)


@pytest.mark.parametrize("loop", LOOPS)
def test_go_away(loop: str) -> None:
    """The worker is to end: the client may come again, the application cleans up."""
    got: list[Message] = []
    caught: list[BaseException] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        got.extend([await receive(), await receive(), await receive()])
        caught.append(await raised_by(send(text())))

    def act(node: Dialogue) -> None:
        node.text("x")
        node.session.go_away()
        node.session.go_away()
        node.session.close(1000, b"")

    done = play(app, act, loop=loop)
    assert done.sent == [ACCEPTED, ("close", 1012, b""), ("done",)]
    assert got[1:] == [{"type": "websocket.receive", "text": "x"}, left(1012)]
    assert isinstance(caught[0], ClientDisconnected)


def test_go_away_during_the_handshake() -> None:
    got: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["node"].session.go_away()
        await send(ACCEPT)
        got.extend([await receive(), await receive()])

    async def test(runtime: Runtime) -> None:
        node = Dialogue(runtime, app)
        node.scope["node"] = node
        assert await node.finish() == [ACCEPTED, ("close", 1012, b"")]

    run(test)
    assert got[1] == left(1012)


@pytest.mark.parametrize("before", [[CLOSE], [ACCEPT, CLOSE]])
def test_go_away_after_the_end(before: list[Message]) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await sends(*before)(scope, receive, send)
        scope["node"].session.go_away()

    async def test(runtime: Runtime) -> None:
        node = Dialogue(runtime, app)
        node.scope["node"] = node
        assert len(await node.finish()) == len(before)

    run(test)


def test_nothing_is_left_of_a_session() -> None:
    """Without the garbage collector, as the extension makes a cycle."""
    kept: list[weakref.ref[Any]] = []

    class Token:
        pass

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["token"] = token = Token()
        kept.append(weakref.ref(token))
        await send(ACCEPT)

    async def test(runtime: Runtime) -> None:
        node = Dialogue(runtime, app)
        await node.finish()
        del node.scope
        await node.turn()
        assert kept[0]() is None

    gc.collect()
    gc.disable()

    try:
        run(test)
    finally:
        gc.enable()


# Topics.


def test_topics() -> None:
    got: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        raw = scope["extensions"]["hornbeam.topics"]["send"]
        await send(ATTACH)
        got.append(await raw({**ATTACH, "overflow": "drop_oldest", "max_queue": 7}))
        got.append(await raw(DETACH))
        await send(DETACH)
        got.append(await raw(text("a")))

    done = dialogue(app)
    assert got == [True, True, None]
    assert done.calls == [
        ("attach", 1, b"room:1", Atom("close"), 1000),
        ("attach", 1, b"room:1", Atom("drop_oldest"), 7),
        ("detach", 1, b"room:1"),
        ("detach", 1, b"room:1"),
    ]
    assert done.kinds == ["accept", "message", "close", "done"]


@pytest.mark.parametrize(
    ("failure", "kind", "text"),
    [
        (CallFailed("not_open", {}), ClientDisconnected, "the client has gone"),
        (CallFailed("other", {}), RemoteError, "attach failed: other"),
    ],
)
def test_attachment_that_fails(
    failure: Exception, kind: type[Exception], text: str
) -> None:
    caught: list[BaseException] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        caught.append(await raised_by(send(ATTACH)))

    async def test(runtime: Runtime) -> None:
        node = Dialogue(runtime, app)
        node.answer = failure
        await node.finish()

    run(test)

    with pytest.raises(kind, match=text):
        raise caught[0]


def test_attach_after_the_client_has_left() -> None:
    caught: list[BaseException] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        await receive()
        await receive()
        caught.append(await raised_by(send(ATTACH)))

    done = play(app, lambda node: node.session.close(1000, b""))
    assert isinstance(caught[0], ClientDisconnected)
    assert done.calls == []


def test_unknown_topic_message() -> None:
    done = dialogue(sends(ACCEPT, {"type": "hornbeam.topics.list"}))
    expected = f"expected {OPEN}, got 'hornbeam.topics.list'"
    assert f"{AsgiOrderError.__name__}: {expected}" in done.errors
