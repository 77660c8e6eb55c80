# SPDX-License-Identifier: Apache-2.0
"""The sessions as state machines: whatever the application, the client and the node do,
in whatever order, beside what the protocol says.

What the application may send is a table here, too, made from ASGI and not from the
code, and so is what may follow what on the wire (docs/protocol.md).

HORNBEAM_MODEL_RUNS runs more of them: `make soak SOAK=models`.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
)

from hornbeam import _http_response, _websocket
from hornbeam._asgi import (
    AsgiOrderError,
    ClientDisconnected,
    ContentLengthMismatch,
    Message,
)
from hornbeam._http import HttpSession
from hornbeam._terms import Atom
from hornbeam._websocket import MIN_MESSAGE_BYTES, WebSocketSession
from machines import machine_settings
from step_runtime import Cancelled, Puppet, StepTask, spend_turn

MACHINE = machine_settings(runs=60, steps=30)

# What may follow what on the wire. The answer to a file leads back, or to the end.
HTTP_WIRE = {
    "open": {
        "inform": "open",
        "credit": "open",
        "waiting": "open",
        "response": "ended",
        "start": "body",
        "file": "file",
        "abort": "ended",
    },
    "body": {
        "data": "body",
        "last": "ended",
        "trailers": "ended",
        "abort": "ended",
        "file": "file",
        "credit": "body",
        "waiting": "body",
    },
    # The application may give up while the node opens the file.
    "file": {
        "response": "ended",
        "abort": "ended",
        "credit": "file",
        "waiting": "file",
    },
    "ended": {"credit": "ended", "done": "over"},
    "gone": {"done": "over"},
    "over": {},
}

# What the application may do, and where that leads. What is not in here is refused.
# `trailed` is a response that has announced trailers.
HTTP_ORDER = {
    ("start", "start"): "head",
    ("start", "start_trailers"): "trailed",
    ("start", "inform"): "start",
    ("start", "hint"): "start",
    ("head", "more"): "head",
    ("head", "last"): "ending",
    ("head", "file"): "file",
    ("trailed", "more"): "trailed",
    ("trailed", "last"): "ending_trailed",
    ("trailed", "file"): "trailed",
    ("trailers", "more_trailers"): "trailers",
    ("trailers", "trailers"): "complete",
}

TRAILERS = [(b"x", b"y")]
HTTP_MESSAGES: dict[str, dict[str, Any]] = {
    "start": {"type": "http.response.start", "status": 200},
    "start_trailers": {"type": "http.response.start", "status": 200, "trailers": True},
    "inform": {"type": "http.response.start", "status": 199},
    "hint": {"type": "http.response.early_hint", "links": []},
    "more": {"type": "http.response.body", "more_body": True},
    "last": {"type": "http.response.body"},
    "file": {"type": "http.response.pathsend", "path": "/tmp/x"},
    "trailers": {"type": "http.response.trailers", "headers": TRAILERS},
    "more_trailers": {
        "type": "http.response.trailers",
        "headers": TRAILERS,
        "more_trailers": True,
    },
}


class Call:
    """What the application has under way."""

    def __init__(
        self, kind: str, task: StepTask, first: int = 0, size: int = 0
    ) -> None:
        self.kind = kind
        self.task = task
        self.end_bytes = first + size
        """How much body will have been sent when it returns."""
        self.is_cancelled = False


class SessionMachine(RuleBasedStateMachine):
    """What both kinds have."""

    puppet: Puppet

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.wire = "open"
        self.is_gone = False
        self.is_ended = False
        self.is_stopped = False
        self.unacknowledged_bytes = 0
        self.received_bytes = 0
        self.credited_bytes = 0
        self.window = 0
        # All parts are small here, and wait for a turn; so do some of the messages.
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(_http_response, "PACED_PART_BYTES", 1)
        self.patch.setattr(_websocket, "PACED_MESSAGE_BYTES", 2 * MIN_MESSAGE_BYTES)

    @rule()
    def spend_turn(self) -> None:
        """Others have sent what may leave in this turn; so parts wait for the next."""
        spend_turn(self.puppet.pacer)

    def begin(self, puppet: Puppet) -> None:
        self.puppet = puppet
        puppet.on_sent = self.observe
        puppet.on_received = self.take

    def observe(self, message: tuple[Any, ...]) -> None:
        """Take a message of the session."""
        raise NotImplementedError

    def take(self, message: Message) -> None:
        """Take a message that the application gets."""
        raise NotImplementedError

    def teardown(self) -> None:
        try:
            if hasattr(self, "puppet"):
                self._end()
        finally:
            self.patch.undo()

    def _end(self) -> None:
        try:
            self.finish()
        finally:
            self.puppet.runtime.close()

    def finish(self) -> None:
        """Whatever has happened: once it is to end, it does, and nobody waits."""
        self.settle_down()
        self.puppet.end()
        self.settle_down()

        while self.unacknowledged_bytes and not self.puppet.is_over:
            self.acknowledge(self.unacknowledged_bytes)
            self.settle_down()

        self.answer_all()
        self.settle_down()
        assert self.puppet.is_over
        assert [message[0] for message in self.puppet.sent].count("done") == 1
        assert self.puppet.sent[-1] == ("done",)
        waiting = [call.kind for call in self.calls if not call.task.done()]
        assert not waiting, f"wait for ever: {waiting}"

    def answer_all(self) -> None:
        """Answer what the node has been asked."""

    def acknowledge(self, sent_bytes: int) -> None:
        self.unacknowledged_bytes -= sent_bytes
        self.puppet.session.acknowledge(sent_bytes)

    def check(self) -> None:
        """Look at what has come of what the application has called."""
        for call in list(self.calls):
            if call.task.done():
                self.calls.remove(call)
                self.check_outcome(call)

    def check_outcome(self, call: Call) -> None:
        """Look at how a call has ended."""
        raise NotImplementedError

    def check_wait(self, call: Call) -> None:
        """A call still waits, when all have gone as far as they can."""
        raise NotImplementedError

    def is_alive(self) -> bool:
        """Whether the node still knows of the request."""
        return not self.puppet.is_over

    @rule()
    def turn(self) -> None:
        self.puppet.runtime.turn()
        self.check()

    @rule()
    def settle_down(self) -> None:
        self.puppet.runtime.settle()
        self.check()

        for call in self.calls:
            self.check_wait(call)

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def cancel_call(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(self.calls))
        call.is_cancelled = True
        call.task.cancel()

    @precondition(lambda self: not self.is_ended)
    @rule(error=st.sampled_from([None, None, RuntimeError("x"), OSError("x")]))
    def end(self, error: Exception | None) -> None:
        self.is_ended = True
        self.puppet.end(error)

    @precondition(lambda self: self.is_alive() and self.unacknowledged_bytes > 0)
    @rule(data=st.data())
    def acknowledge_some(self, data: st.DataObject) -> None:
        self.acknowledge(data.draw(st.integers(1, self.unacknowledged_bytes)))

    @precondition(lambda self: self.is_alive())
    @rule()
    def stop(self) -> None:
        self.is_stopped = True
        self.puppet.session.stop()

    @precondition(lambda self: len(self.calls) < 6)
    @rule()
    def receive(self) -> None:
        self.calls.append(Call("receive", self.puppet.receive()))
        self.check()


class HttpMachine(SessionMachine):
    """One HTTP request."""

    @initialize(
        window=st.integers(1, 24),
        body=st.binary(max_size=6),
        more=st.booleans(),
        is_head=st.booleans(),
        starts=st.booleans(),
    )
    def begin_request(
        self, window: int, body: bytes, more: bool, is_head: bool, starts: bool
    ) -> None:
        puppet = Puppet(window)
        self.begin(puppet)
        scope = {"method": "HEAD" if is_head else "GET", "path": "/"}
        puppet.session = HttpSession(puppet, 1, scope, body, more)
        self.is_head = is_head
        self.window = window
        self.phase = "start"
        # The request's body: what has come, what the application has got of it.
        self.arrived = body
        self.more = more
        self.got = b""
        self.is_end_got = False
        # The response's: what was accepted, and what has gone out.
        self.given = b""
        self.gone_out = b""
        self.left_bytes: int | None = None
        self.is_whole = False
        self.file_head: object = None
        self.is_file_asked = False
        self.told_bytes = -1
        puppet.session.start()

        if starts:
            puppet.runtime.turn()

    # What is seen on the wire.

    def observe(self, message: tuple[Any, ...]) -> None:
        kind = message[0]

        if kind == "done" and self.wire != "ended":
            # Without an end only where nobody waits for one.
            assert self.is_gone
            self.wire = "over"
            return

        assert not self.is_gone, f"{kind} after the client had gone"
        assert kind in HTTP_WIRE[self.wire], f"{kind} in {self.wire}"

        if kind == "response" and message[1] == 200:
            self.is_whole = True

        self.wire = HTTP_WIRE[self.wire][kind]

        if kind in ("start", "data", "last"):
            self.count_out(message[-1])
        elif self.is_whole and kind == "response":
            self.gone_out += message[-1]
        elif kind == "file":
            self.is_file_asked = True
            self.file_head = message[1]
        elif kind == "credit":
            self.credited_bytes += message[1]
            assert message[1] > 0
        elif kind == "waiting":
            assert message[1] == len(self.arrived) == len(self.got)
            assert self.credited_bytes == len(self.got)
            assert self.more
            self.told_bytes = message[1]

    def count_out(self, part: bytes) -> None:
        self.gone_out += part
        self.unacknowledged_bytes += len(part)
        assert self.unacknowledged_bytes <= self.window
        assert self.given.startswith(self.gone_out)

    # The application.

    @precondition(lambda self: len(self.calls) < 6)
    @rule(
        kind=st.sampled_from([*HTTP_MESSAGES, "start", "more", "more", "more"]),
        body=st.binary(max_size=40),
        declared=st.none() | st.integers(0, 60),
    )
    def send(self, kind: str, body: bytes, declared: int | None) -> None:
        if kind == "file" and self.given != self.gone_out:
            # It would wait for that: see test_file_waits_for_its_turn.
            return

        message = dict(HTTP_MESSAGES[kind])
        self.note_end_of_body()
        expected = self.expect(kind, body)

        if kind in ("more", "last"):
            message["body"] = body

        if kind == "start" and declared is not None:
            message["headers"] = [(b"content-length", b"%d" % declared)]

        first = len(self.given)

        if expected is None:
            self.accept(kind, body, declared)

        task = self.puppet.send(message)
        call = Call(kind, task, first, len(body) if kind in ("more", "last") else 0)

        if expected is None:
            self.calls.append(call)
            self.check()
        else:
            assert isinstance(task.error, expected), (kind, self.phase, task.error)

    def expect(self, kind: str, body: bytes) -> type[Exception] | None:
        """Say what the application is to get for its pains."""
        if (self.phase, kind) not in HTTP_ORDER:
            return AsgiOrderError

        if (self.phase, kind) == ("trailed", "file"):
            return ValueError

        if self.is_gone:
            return ClientDisconnected

        if kind in ("more", "last") and self.left_bytes is not None:
            left = self.left_bytes - len(body)

            if left < 0 or (kind == "last" and left > 0):
                self.phase = "broken"
                return ContentLengthMismatch

            self.left_bytes = left

        return None

    def accept(self, kind: str, body: bytes, declared: int | None) -> None:
        self.phase = HTTP_ORDER[self.phase, kind]

        if kind in ("more", "last"):
            self.given += body
        elif kind == "start" and not self.is_head:
            self.left_bytes = declared

    def note_end_of_body(self) -> None:
        """The response goes on when all of its body is out."""
        if self.given == self.gone_out and self.wire != "over":
            if self.phase == "ending" and self.wire == "ended":
                self.phase = "complete"
            elif self.phase == "ending_trailed":
                self.phase = "trailers"

    def check(self) -> None:
        super().check()
        self.note_end_of_body()

        if self.puppet.is_over and not self.is_gone:
            self.phase = "complete"

        assert self.credited_bytes <= len(self.got)

        if self.more and not self.is_gone and self.wire not in ("ended", "over"):
            assert (len(self.got) - self.credited_bytes) * 4 < self.window

    def check_outcome(self, call: Call) -> None:
        error = call.task.error

        if isinstance(error, Cancelled):
            assert call.is_cancelled
        elif call.kind == "receive":
            assert error is None
        elif call.kind == "file" and error is not None:
            is_lost = self.is_gone or self.puppet.is_over
            assert isinstance(error, ClientDisconnected if is_lost else OSError)
            self.phase = "broken" if self.file_head is None else "head"
        elif error is not None:
            is_lost = self.is_gone or self.puppet.is_over
            assert isinstance(error, ClientDisconnected) and is_lost, (call.kind, error)
        else:
            assert len(self.gone_out) >= call.end_bytes

    def check_wait(self, call: Call) -> None:
        assert not self.is_gone and not self.puppet.is_over, call.kind

        if call.kind == "receive":
            assert self.got == self.arrived
            assert self.wire != "ended"
            assert self.is_end_got or self.told_bytes == len(self.arrived)
        elif call.kind == "file":
            assert self.is_file_asked
        else:
            assert call.end_bytes > len(self.gone_out) or self.phase == "ending"
            # What has to come before it can go on.
            assert self.unacknowledged_bytes * 4 >= self.window

    def take(self, message: Message) -> None:
        if message["type"] == "http.disconnect":
            assert self.is_gone or self.wire in ("ended", "over")
            return

        self.got += message["body"]
        assert message["more_body"] in (True, False)
        assert not self.is_end_got
        self.is_end_got = not message["more_body"]
        assert self.arrived.startswith(self.got)

        if self.is_end_got:
            assert self.got == self.arrived and not self.more

    # The node.

    @precondition(lambda self: self.is_alive() and self.more)
    @rule(part=st.binary(max_size=8), more=st.booleans())
    def add_body(self, part: bytes, more: bool) -> None:
        self.arrived += part
        self.more = more
        session = self.puppet.session
        assert isinstance(session, HttpSession)
        session.add_body(part, more)

    @precondition(lambda self: self.is_alive())
    @rule()
    def disconnect(self) -> None:
        self.go("disconnect")

    @precondition(lambda self: self.is_alive() and self.wire == "open")
    @rule()
    def cancel(self) -> None:
        self.go("cancel")

    def go(self, how: str) -> None:
        self.note_end_of_body()
        self.is_gone = True
        self.wire = "gone"
        getattr(self.puppet.session, how)()

    @precondition(lambda self: self.is_alive() and self.puppet.is_start_held)
    @rule()
    def send_held_start(self) -> None:
        self.puppet.is_start_held = False
        self.puppet.session.send_held_start()

    @precondition(lambda self: self.is_alive() and self.is_file_asked)
    @rule(is_opened=st.booleans())
    def answer_file(self, is_opened: bool) -> None:
        self.is_file_asked = False

        if is_opened:
            self.puppet.session.handle_opened()
            self.phase = "complete"
            self.wire = "gone" if self.is_gone else "ended"
            return

        self.puppet.session.handle_refused("enoent", 0)

        if not self.is_gone:
            self.wire = "body" if self.file_head is None else "open"

    def answer_all(self) -> None:
        if self.is_alive() and self.is_file_asked:
            self.answer_file(is_opened=True)


TestHttpSession = HttpMachine.TestCase
TestHttpSession.settings = MACHINE


def begin_http(window: int) -> Puppet:
    """Start a request whose response has begun."""
    puppet = Puppet(window)
    puppet.session = HttpSession(puppet, 1, {"method": "GET", "path": "/"}, b"", False)
    puppet.session.start()
    puppet.runtime.turn()
    puppet.send(dict(HTTP_MESSAGES["start"]))
    return puppet


def test_application_returns_while_a_task_sends() -> None:
    """What a task of its own was sending goes out, and the task goes on."""
    puppet = begin_http(2)
    more = puppet.send({**HTTP_MESSAGES["more"], "body": b"abc"})
    last = puppet.send({**HTTP_MESSAGES["last"], "body": b"d"})
    puppet.end()
    puppet.runtime.settle()
    assert puppet.sent == [("start", 200, [], b"ab")]
    puppet.session.acknowledge(2)
    puppet.runtime.settle()
    assert puppet.sent[1:] == [("data", b"c"), ("last", b"d"), ("done",)]
    assert more.done() and last.done()
    assert more.error is None and last.error is None


def test_empty_part_behind_one_that_is_cut() -> None:
    """Nothing of it is left out, and yet the client does not get what it ends."""
    puppet = begin_http(1)
    more = puppet.send({**HTTP_MESSAGES["more"], "body": b"ab"})
    empty = puppet.send({**HTTP_MESSAGES["more"], "body": b""})
    puppet.end(RuntimeError())
    puppet.runtime.settle()
    assert puppet.sent[1:] == [("abort",), ("done",)]
    assert isinstance(more.error, ClientDisconnected)
    assert isinstance(empty.error, ClientDisconnected)


def test_application_raises_while_a_task_sends() -> None:
    puppet = begin_http(2)
    more = puppet.send({**HTTP_MESSAGES["more"], "body": b"abc"})
    puppet.end(RuntimeError())
    puppet.runtime.settle()
    assert puppet.sent[1:] == [("abort",), ("done",)]
    assert isinstance(more.error, ClientDisconnected)


def test_application_returns_while_a_file_is_opened() -> None:
    puppet = begin_http(2)
    file = puppet.send(dict(HTTP_MESSAGES["file"]))
    puppet.end()
    puppet.runtime.settle()
    assert [message[0] for message in puppet.sent] == ["file", "response", "done"]
    assert isinstance(file.error, ClientDisconnected)


def test_file_waits_for_its_turn() -> None:
    """A task that ends the body while another's file waits for room."""
    puppet = begin_http(2)
    more = puppet.send({**HTTP_MESSAGES["more"], "body": b"abc"})
    file = puppet.send(dict(HTTP_MESSAGES["file"]))
    last = puppet.send(dict(HTTP_MESSAGES["last"]))
    puppet.session.acknowledge(2)
    puppet.runtime.settle()
    assert puppet.sent[1:] == [("data", b"c"), ("last", b"")]
    assert more.error is None and last.error is None
    assert isinstance(file.error, AsgiOrderError)


# RFC 6455 7.4.1.
PROTOCOL_ERROR = 1002

# What may follow what on the wire of a WebSocket.
WEBSOCKET_WIRE = {
    "connecting": {
        "accept": "open",
        "response": "ended",
        "start": "denied",
        "abort": "ended",
    },
    "denied": {"data": "denied", "last": "ended", "abort": "ended"},
    "open": {"message": "open", "credit": "open", "close": "closing"},
    "closing": {"credit": "closing", "done": "over"},
    "ended": {"done": "over"},
    "gone": {"done": "over"},
    "over": {},
}

# What the application may do, and where that leads.
WEBSOCKET_ORDER = {
    ("connecting", "accept"): "open",
    ("connecting", "close"): "closed",
    ("connecting", "deny"): "denying",
    ("denying", "deny_more"): "denying",
    ("denying", "deny_last"): "denied",
    ("open", "text"): "open",
    ("open", "close"): "closed",
}

WEBSOCKET_MESSAGES: dict[str, dict[str, Any]] = {
    "accept": {"type": "websocket.accept"},
    "close": {"type": "websocket.close", "code": 3000},
    "text": {"type": "websocket.send"},
    "deny": {"type": "websocket.http.response.start", "status": 401},
    "deny_more": {"type": "websocket.http.response.body", "more_body": True},
    "deny_last": {"type": "websocket.http.response.body"},
}


class WebSocketMachine(SessionMachine):
    """One WebSocket."""

    @initialize(window=st.integers(1, 6 * MIN_MESSAGE_BYTES), starts=st.booleans())
    def begin_session(self, window: int, starts: bool) -> None:
        puppet = Puppet(window)
        self.begin(puppet)
        scope: dict[str, Any] = {
            "path": "/",
            "subprotocols": [],
            "extensions": {"hornbeam.topics": {}},
        }
        puppet.session = self.session = WebSocketSession(puppet, 1, scope)
        self.window = window
        self.wire = "connecting"
        self.phase = "connecting"
        self.is_leaving = False
        # What the client sends, and what of it the application has got.
        self.arrived: list[str] = []
        self.got: list[str] = []
        self.is_connect_got = False
        self.end_code: int | None = None
        self.is_end_got = False
        self.texts = 0
        self.given: list[bytes] = []
        self.gone_out: list[bytes] = []
        puppet.session.start()

        if starts:
            puppet.runtime.turn()

    def observe(self, message: tuple[Any, ...]) -> None:
        kind = message[0]

        if kind == "done" and self.is_gone:
            self.wire = "over"
            return

        assert not self.is_gone, f"{kind} after the end"
        assert kind in WEBSOCKET_WIRE[self.wire], f"{kind} in {self.wire}"
        self.wire = WEBSOCKET_WIRE[self.wire][kind]

        if kind == "message":
            self.count_message(message[2])
        elif kind == "credit":
            assert message[1] > 0
            self.credited_bytes += message[1]
        elif kind in ("start", "data", "last"):
            self.unacknowledged_bytes += len(message[-1])
            assert self.unacknowledged_bytes <= self.window

    def count_message(self, data: bytes) -> None:
        before_bytes = self.unacknowledged_bytes
        self.unacknowledged_bytes += max(len(data), MIN_MESSAGE_BYTES)
        assert (
            self.unacknowledged_bytes <= self.window or before_bytes * 4 < self.window
        )
        # In the order in which they were given; one that was cancelled is missing.
        assert data not in self.gone_out
        self.gone_out.append(data)
        self.given = self.given[self.given.index(data) :]

    # The application.

    @precondition(lambda self: len(self.calls) < 6)
    @rule(
        kind=st.sampled_from([*WEBSOCKET_MESSAGES, "accept", "text", "text", "text"]),
        size=st.integers(0, 5 * MIN_MESSAGE_BYTES),
    )
    def send(self, kind: str, size: int) -> None:
        message = dict(WEBSOCKET_MESSAGES[kind])
        self.note_end_of_denial()

        if kind == "text":
            self.texts += 1
            message["text"] = f"{self.texts}".ljust(size, ".")
            self.given.append(message["text"].encode())
        elif kind in ("deny_more", "deny_last"):
            message["body"] = b"." * size

        expected = self.expect(kind)
        call = Call(kind, self.puppet.send(message))

        if expected is None:
            self.phase = WEBSOCKET_ORDER[self.phase, kind]
            self.calls.append(call)
            self.check()

            if kind == "accept" and self.is_leaving:
                self.check_farewell()
        else:
            assert isinstance(call.task.error, expected), (kind, self.phase)

    def expect(self, kind: str) -> type[Exception] | None:
        is_legal = (self.phase, kind) in WEBSOCKET_ORDER

        if is_legal and not self.is_gone:
            return None

        if is_legal or self.phase == "closed":
            return ClientDisconnected

        # Of both, either says what is wrong.
        return (AsgiOrderError, ClientDisconnected)  # type: ignore[return-value]

    def note_end_of_denial(self) -> None:
        if self.puppet.is_over:
            self.phase = "closed"
            self.is_gone = True

    def check(self) -> None:
        super().check()
        self.note_end_of_denial()
        credit = sum(max(len(text), MIN_MESSAGE_BYTES) for text in self.got)
        assert self.credited_bytes <= credit

        if not self.is_gone and self.wire == "open":
            assert (credit - self.credited_bytes) * 4 < self.window

    def check_outcome(self, call: Call) -> None:
        error = call.task.error

        if isinstance(error, Cancelled):
            assert call.is_cancelled
        elif error is not None:
            assert call.kind in ("text", "deny_more", "deny_last")
            assert isinstance(error, ClientDisconnected)
            assert self.is_gone or self.wire in ("closing", "ended", "over")

    def check_wait(self, call: Call) -> None:
        assert not self.is_gone, call.kind

        if call.kind == "receive":
            assert self.is_connect_got
            assert self.got == self.arrived
            assert self.end_code is None and self.wire != "ended"
        else:
            assert call.kind in ("text", "deny_more", "deny_last")
            assert self.wire in ("open", "denied")
            assert self.unacknowledged_bytes * 4 >= self.window

    def take(self, message: Message) -> None:
        kind = message["type"]

        if kind == "websocket.connect":
            assert not self.is_connect_got
            self.is_connect_got = True
        elif kind == "websocket.receive":
            assert not self.is_end_got
            self.got.append(message["text"])
            assert self.got == self.arrived[: len(self.got)]
        else:
            assert self.got == self.arrived
            assert self.end_code is None or message["code"] in (self.end_code, 1012)
            assert self.is_gone or self.end_code or self.wire in ("ended", "over")
            self.is_end_got = True

            # With the end of a faulty client the application's answers end, too.
            if self.end_code == PROTOCOL_ERROR and self.phase == "open":
                self.is_gone = True
                self.wire = "gone"

    # The node.

    @precondition(lambda self: self.is_alive() and self.wire == "open")
    @precondition(lambda self: self.end_code is None)
    @rule(size=st.integers(0, 3 * MIN_MESSAGE_BYTES))
    def add_message(self, size: int) -> None:
        self.arrived.append(f"{len(self.arrived)}".ljust(size, "."))
        self.session.add_message(Atom("text"), self.arrived[-1].encode())

    @precondition(lambda self: self.is_alive() and self.wire in ("open", "closing"))
    @rule(code=st.sampled_from([1000, 1005, 1006]))
    def close(self, code: int) -> None:
        self.end_with(code)
        self.session.close(code, b"")

    @precondition(lambda self: self.is_alive() and self.wire == "open")
    @rule()
    def fault(self) -> None:
        if self.end_code is None:
            self.end_code = PROTOCOL_ERROR

        self.session.end(PROTOCOL_ERROR, b"")

    @precondition(
        lambda self: self.is_alive() and self.wire in ("connecting", "denied")
    )
    @rule()
    def disconnect(self) -> None:
        self.end_with(1006)
        self.session.disconnect()

    @precondition(lambda self: self.is_alive() and self.wire == "connecting")
    @rule()
    def cancel(self) -> None:
        self.end_with(1006)
        self.session.cancel()

    def end_with(self, code: int) -> None:
        self.is_gone = True
        self.wire = "gone"

        if self.end_code is None:
            self.end_code = code

    @precondition(lambda self: self.is_alive() and not self.is_leaving)
    @rule()
    def go_away(self) -> None:
        self.is_leaving = True
        was_open = self.wire == "open"
        self.session.go_away()

        if was_open:
            self.check_farewell()

    def check_farewell(self) -> None:
        assert self.puppet.sent[-1] == ("close", 1012, b"")
        self.end_with(1012)


TestWebSocketSession = WebSocketMachine.TestCase
TestWebSocketSession.settings = MACHINE


def test_application_returns_while_a_task_receives() -> None:
    """A WebSocket that the application's return has closed: nothing more will come."""
    puppet = Puppet(1000)
    puppet.session = WebSocketSession(
        puppet,
        1,
        {"path": "/", "subprotocols": [], "extensions": {"hornbeam.topics": {}}},
    )
    puppet.session.start()
    puppet.runtime.turn()
    puppet.receive()
    puppet.send({"type": "websocket.accept"})
    waiting = puppet.receive()
    puppet.end()
    puppet.runtime.settle()
    assert puppet.sent == [("accept", None, []), ("close", 1000, b""), ("done",)]
    assert waiting.done()
    assert puppet.received[-1]["type"] == "websocket.disconnect"


def test_close_after_the_end_of_a_faulty_client() -> None:
    """Its end was taken, and answered: a close of the application comes too late."""
    puppet = Puppet(1)
    scope: dict[str, Any] = {
        "path": "/",
        "subprotocols": [],
        "extensions": {"hornbeam.topics": {}},
    }
    puppet.session = session = WebSocketSession(puppet, 1, scope)
    session.start()
    puppet.send({"type": "websocket.accept"})
    session.end(PROTOCOL_ERROR, b"")
    puppet.receive()
    puppet.receive()
    puppet.runtime.settle()
    assert puppet.sent[-1] == ("close", PROTOCOL_ERROR, b"")
    late = puppet.send({"type": "websocket.close"})
    puppet.runtime.settle()
    assert isinstance(late.error, ClientDisconnected)
    assert puppet.sent[-1] == ("close", PROTOCOL_ERROR, b"")
