# SPDX-License-Identifier: Apache-2.0
"""The session of a WSGI request as a state machine: whatever the application, the
client and the node do, in whatever order.

What the application may do is said here from PEP 3333 and not from the code, and so is
what may follow what on the wire (docs/protocol.md).

HORNBEAM_MODEL_RUNS runs more of them: `make soak SOAK=models`.
"""

from __future__ import annotations

import gc
import sys
import tempfile
import weakref
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
)

from hornbeam._asgi import ClientDisconnected, ContentLengthMismatch
from hornbeam._wsgi_body import FileWrapper
from hornbeam._wsgi_response import WsgiOrderError
from machines import machine_settings
from wsgi_puppet import (
    Body,
    ClosableBody,
    ClosableList,
    Closes,
    CountedFile,
    Leave,
    Puppet,
    Return,
)

MAX_TURNS = 500

# What may follow what on the wire; `log` may be anywhere.
WIRE = {
    "open": {
        "inform": "open",
        "credit": "open",
        "waiting": "open",
        "response": "ended",
        "start": "body",
        "file": "file",
    },
    "body": {
        "data": "body",
        "last": "ended",
        "abort": "ended",
        "credit": "body",
        "waiting": "body",
    },
    # A worker that leaves does not wait for the node's answer.
    "file": {"response": "ended"},
    "ended": {"credit": "ended", "waiting": "ended", "done": "over"},
    "over": {},
}
# To a client that has gone, or has its answer: of the response nothing.
GONE = ("inform", "credit", "waiting", "done")

FILE_BYTES = bytes(range(64))
BLOCK_BYTES = 10
FILE = tempfile.NamedTemporaryFile()  # for as long as the module
FILE.write(FILE_BYTES)
FILE.flush()
READS = ("read", "read", "read1", "readline", "readlines", "iterate")


class WsgiMachine(RuleBasedStateMachine):
    """One request of a WSGI application."""

    @initialize(
        window=st.integers(1, 24),
        body=st.binary(max_size=6),
        more=st.booleans(),
        method=st.sampled_from([b"GET", b"GET", b"POST", b"HEAD"]),
        is_claimed=st.sampled_from([True] * 9 + [False]),
    )
    def begin(
        self, window: int, body: bytes, more: bool, method: bytes, is_claimed: bool
    ) -> None:
        self.puppet = Puppet(
            window, method=method, body=body, more=more, is_claimed=is_claimed
        )
        self.puppet.on_sent = self.observe
        self.window, self.is_head, self.is_claimed = (
            window,
            method == b"HEAD",
            is_claimed,
        )
        self.wire = "open"
        # The request's body: what has come, what the application has got of it.
        self.arrived, self.more, self.got = body, more, b""
        self.has_lost = False
        self.credited_bytes = 0
        # The response: what was accepted, and what has gone out.
        self.status = 0
        self.declared: int | None = None
        self.given = self.gone_out = b""
        self.unacknowledged_bytes = 0
        self.end: str | None = None
        # What ends it.
        self.is_gone = self.is_stopping = self.has_failed = False
        self.place = "call"
        self.pending: tuple[Any, ...] | None = None
        self.closes: Closes | None = None
        self.body: weakref.ref[Body] | None = None
        self.puppet.act(self.puppet.session.start)

    # What is seen on the wire; the application's thread is the only one that runs.

    def observe(self, message: tuple[Any, ...]) -> None:
        kind = message[0]

        if kind == "log":
            return

        if self.is_gone:
            assert kind in GONE, f"{kind} after the client had gone"
            self.wire = "over" if kind == "done" else self.wire
        else:
            assert kind in WIRE[self.wire], f"{kind} in {self.wire}"
            self.wire = WIRE[self.wire][kind]

        if kind in ("start", "data", "last"):
            self.unacknowledged_bytes += len(message[-1])
            assert self.unacknowledged_bytes <= self.window

        if kind in ("start", "data", "last") or (
            kind == "response" and message[1] == self.status
        ):
            self.gone_out += message[-1]
            assert self.given.startswith(self.gone_out)

        if self.wire == "ended" and self.end is None:
            is_own = kind == "last" or (kind == "response" and message[1] < 500)
            self.end = "whole" if is_own else "broken"

        self.observe_credit(kind, message)

    def observe_credit(self, kind: str, message: tuple[Any, ...]) -> None:
        unread_bytes = sum(map(len, self.puppet.session._unread))
        taken_bytes = len(self.arrived) - unread_bytes

        if kind == "credit":
            assert message[1] > 0
            self.credited_bytes += message[1]
            assert self.credited_bytes <= taken_bytes
        elif kind == "waiting":
            assert self.more
            # Or the node would not send what is waited for.
            assert message[1] == self.credited_bytes == len(self.arrived)

    # What the application does.

    def is_idle(self) -> bool:
        return self.puppet.stage.standing == "idle"

    def is_over(self) -> bool:
        return self.puppet.stage.standing == "over"

    def is_cut(self) -> bool:
        return self.is_gone or self.is_stopping

    def do(self, pending: tuple[Any, ...], step: Any) -> None:
        self.pending = pending
        self.puppet.do(step)
        self.check()

    def check(self) -> None:
        """Look at what has come of what the application has called."""
        if self.puppet.outcomes:
            ((value, error),) = self.puppet.outcomes
            self.puppet.outcomes.clear()
            assert self.pending is not None
            kind, *facts = self.pending
            self.pending = None
            getattr(self, f"check_{kind}")(value, error, *facts)
        elif self.puppet.stage.standing == "blocked":
            self.check_wait()

    def check_wait(self) -> None:
        """It waits for what has not come, and only while somebody can give it."""
        assert not self.is_cut()

        if self.pending is not None and self.pending[0] == "read":
            assert self.more
        else:
            assert self.wire == "file" or self.unacknowledged_bytes > 0

    @precondition(is_idle)
    @rule(kind=st.sampled_from(READS), size=st.integers(-1, 12))
    def read(self, kind: str, size: int) -> None:
        source = self.puppet.environ["wsgi.input"]

        def step() -> bytes:
            if kind == "readlines":
                return b"".join(source.readlines())

            if kind == "iterate":
                return next(iter(source), b"")

            data: bytes = getattr(source, kind)(size)
            return data

        self.do(("read", kind, size), step)

    def check_read(
        self, data: bytes, error: type[BaseException] | None, kind: str, size: int
    ) -> None:
        if error is not None:
            assert error is ClientDisconnected
            # What a read had got by then is lost with it, so all others fail as well.
            assert self.is_cut() and (self.more or self.has_lost)
            self.has_lost = True
            return

        assert not (self.has_lost and (data or size)), "read on behind what was lost"
        assert self.arrived.startswith(self.got + data)
        self.got += data
        is_end = not self.more and self.got == self.arrived

        if size == 0 and kind in ("read", "read1", "readline"):
            assert data == b""
        elif kind in ("readline", "iterate"):
            limited = kind == "readline" and len(data) == size
            assert data.endswith(b"\n") or limited or is_end
            assert data.count(b"\n") <= 1
        elif kind == "read1":
            assert data or is_end
        elif kind == "read" and size > 0:
            assert len(data) == size or (len(data) < size and is_end)
        else:
            assert is_end

    @precondition(is_idle)
    @rule(
        status=st.sampled_from([200, 200, 204, 304]),
        declared=st.none() | st.integers(0, 40),
        has_exc_info=st.booleans(),
    )
    def start_response(
        self, status: int, declared: int | None, has_exc_info: bool
    ) -> None:
        headers = [] if declared is None else [("Content-Length", str(declared))]
        expected: type[BaseException] | None = None

        if has_exc_info:
            expected = None if self.wire == "open" else KeyError
        elif self.status:
            expected = WsgiOrderError

        if expected is None:
            self.status = status
            is_bodiless = self.is_head or status in (204, 304)
            self.declared = None if is_bodiless else declared

        def step() -> None:
            try:
                raise KeyError("x")
            except KeyError:
                exc_info = (sys.exc_info(),) if has_exc_info else ()
                self.puppet.start_response(f"{status} X", headers, *exc_info)

        self.do(("start", expected), step)

    def check_start(
        self, _: object, error: type[BaseException] | None, expected: object
    ) -> None:
        assert error is expected

    @precondition(is_idle)
    @rule()
    def hint(self) -> None:
        hints = self.puppet.environ["wsgi.early_hints"]
        self.do(("start", None), lambda: hints([("Link", "</x>")]))

    def expect(self, size: int) -> type[BaseException] | None:
        """Say what the application gets for another part of the body."""
        if self.is_cut():
            return ClientDisconnected

        if not size:
            return None

        if not self.status:
            return WsgiOrderError

        if self.declared is not None and len(self.given) + size > self.declared:
            return ContentLengthMismatch

        return None

    @precondition(lambda self: self.is_idle() and self.status)
    @rule(data=st.binary(max_size=40))
    def write(self, data: bytes) -> None:
        expected = self.expect(len(data))

        if expected is None:
            self.given += data

        # `write` is what start_response() returns, each time.
        write = self.puppet.session._response.write
        self.do(("write", expected), lambda: write(data))

    def check_write(
        self, _: object, error: type[BaseException] | None, expected: object
    ) -> None:
        is_interrupted = self.is_cut() and error is ClientDisconnected
        assert error is expected or is_interrupted

    @precondition(is_idle)
    @rule(
        error=st.sampled_from([RuntimeError, OSError, ClientDisconnected, SystemExit])
    )
    def leave(self, error: type[BaseException]) -> None:
        self.has_failed = True

        def step() -> None:
            raise Leave(error("x"))

        self.do(("leave",), step)

    def give(self, value: object) -> None:
        """Return what the body is made of."""

        def step() -> None:
            raise Return(value)

        self.place = "next"
        self.do(("give",), step)

    def note_end(self, data: bytes = b"") -> None:
        """Say what comes of a body that ends with this."""
        size = len(self.given) + len(data)
        is_right = self.declared is None or self.declared == size
        # A response that is complete takes an empty end from whoever is still there.
        is_complete = self.wire == "ended" and not data

        if is_complete or (self.status and is_right and not self.is_cut()):
            self.given += data
        else:
            self.has_failed = True

    closings = st.sampled_from([None, Closes(None), Closes(KeyError)])

    def new_closes(self, closing: Closes | None) -> Closes | None:
        if closing is not None:
            self.closes = replace(closing)

        return self.closes

    @precondition(lambda self: self.is_idle() and self.place == "call")
    @rule(parts=st.lists(st.binary(max_size=20), max_size=3), closing=closings)
    def return_list(self, parts: list[bytes], closing: Closes | None) -> None:
        closes = self.new_closes(closing)
        self.note_end(b"".join(parts))
        self.give(parts if closes is None else ClosableList(parts, closes))

    @precondition(lambda self: self.is_idle() and self.place == "call")
    @rule(closing=closings)
    def return_iterable(self, closing: Closes | None) -> None:
        closes = self.new_closes(closing)
        body = (
            Body(self.puppet) if closes is None else ClosableBody(self.puppet, closes)
        )
        self.body = weakref.ref(body)
        self.give(body)

    @precondition(lambda self: self.is_idle() and self.place == "call")
    @rule()
    def return_what_is_none(self) -> None:
        self.has_failed = True
        self.give(None)

    @precondition(
        lambda self: self.is_idle() and self.place == "call" and not self.given
    )
    @rule(declared=st.none() | st.just(len(FILE_BYTES)))
    def return_file(self, declared: int | None) -> None:
        if not self.status:
            self.start_response(200, declared, False)

        self.closes = closes = Closes(None)
        wrapper = FileWrapper(CountedFile(FILE.name, closes), BLOCK_BYTES)
        self.note_end(FILE_BYTES)

        if self.has_failed and self.declared is not None and not self.is_cut():
            # As much of it goes out as was declared.
            for at in range(0, len(FILE_BYTES), BLOCK_BYTES):
                block = FILE_BYTES[at : at + BLOCK_BYTES]

                if self.expect(len(block)) is None:
                    self.given += block
                else:
                    break

        self.give(wrapper)

    @precondition(lambda self: self.is_idle() and self.place == "next")
    @rule(part=st.binary(max_size=30))
    def yield_part(self, part: bytes) -> None:
        expected = self.expect(len(part))

        if expected is None:
            self.given += part
        else:
            self.has_failed = True

        self.give(part)

    @precondition(lambda self: self.is_idle() and self.place == "next")
    @rule()
    def end_iteration(self) -> None:
        self.note_end()

        def step() -> None:
            raise Leave(StopIteration())

        self.do(("give",), step)

    # What the node does.

    def is_alive(self) -> bool:
        return not self.is_over()

    @precondition(lambda self: self.is_alive() and self.more and not self.is_gone)
    @rule(part=st.binary(max_size=12), more=st.sampled_from([True, True, False]))
    def add_body(self, part: bytes, more: bool) -> None:
        room = self.window - (len(self.arrived) - self.credited_bytes)
        part = part[: max(0, room)]

        if b"n" in part:
            part = part.replace(b"n", b"\n")

        self.arrived += part
        self.more = more
        self.puppet.act(lambda: self.puppet.session.add_body(part, more))
        self.check()

    @precondition(lambda self: self.is_alive() and self.unacknowledged_bytes > 0)
    @rule(data=st.data())
    def acknowledge_some(self, data: st.DataObject) -> None:
        self.acknowledge(data.draw(st.integers(1, self.unacknowledged_bytes)))

    def acknowledge(self, size: int) -> None:
        self.unacknowledged_bytes -= size
        self.puppet.act(lambda: self.puppet.session.acknowledge(size))
        self.check()

    @precondition(lambda self: self.wire == "file" and not self.is_cut())
    @rule(is_opened=st.booleans())
    def answer_file(self, is_opened: bool) -> None:
        session = self.puppet.session

        if is_opened:
            self.wire, self.end, self.gone_out = "ended", "whole", self.given
            self.puppet.act(session.handle_opened)
        else:
            self.wire = "open"
            self.puppet.act(lambda: session.handle_refused("enoent", 0))

        self.check()

    @precondition(is_alive)
    @rule(way=st.sampled_from(["disconnect", "cancel", "stop"]))
    def cut(self, way: str) -> None:
        if self.puppet.stage.standing == "blocked" and self.pending in (
            ("give",),
            ("leave",),
        ):
            # In a part or the end of the body, which does not get out any more.
            self.has_failed = True

        if way == "stop":
            self.is_stopping = True
        else:
            self.is_gone = True

        self.puppet.act(getattr(self.puppet.session, way))
        self.check()

    @precondition(is_over)
    @rule()
    def stay_over(self) -> None:
        assert self.puppet.forgotten == 1

    # The end.

    def teardown(self) -> None:
        if not hasattr(self, "puppet"):
            return

        try:
            for _ in range(MAX_TURNS):
                if self.is_over():
                    break

                self.go_on()

            self.check_end()
        finally:
            self.puppet.close()

    def go_on(self) -> None:
        """Give the application what it waits for."""
        if self.is_idle():
            if self.place == "call":
                self.leave(RuntimeError)
            else:
                self.end_iteration()
        elif self.wire == "file":
            self.answer_file(True)
        elif self.pending is not None and self.pending[0] == "read":
            self.add_body(b"", False)
        else:
            self.acknowledge(self.unacknowledged_bytes)

    def check_end(self) -> None:
        """Whatever has happened: it has ended, once, and nothing is left of it."""
        puppet = self.puppet
        assert self.is_over(), f"waits for ever: {self.pending}"
        assert puppet.is_thread_back()
        assert puppet.forgotten == 1
        assert puppet.calls == self.is_claimed
        assert self.closes is None or self.closes.count == 1

        if not self.is_claimed:
            assert not puppet.sent
            return

        assert puppet.sent[-1] == ("done",)
        assert [message[0] for message in puppet.sent].count("done") == 1
        self.check_response()
        self.check_leftovers()

    def check_response(self) -> None:
        if self.is_gone:
            return

        if self.end == "whole":
            assert self.gone_out == self.given
        else:
            assert self.end == "broken"
            assert self.has_failed

        # What was complete before the application failed stays so.
        if not self.has_failed:
            assert self.end == "whole"

    def check_leftovers(self) -> None:
        if self.body is not None and self.body() is not None:
            # In a circle, with the frames of an error that it has raised.
            gc.collect()
            assert self.body() is None, gc.get_referrers(self.body())


TestWsgiSession = WsgiMachine.TestCase
TestWsgiSession.settings = machine_settings(runs=80, steps=25)
