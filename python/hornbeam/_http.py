# SPDX-License-Identifier: Apache-2.0
"""One HTTP request: ASGI on one side, messages of the protocol on the other.

Pure but for what its host does: it posts messages, makes waiters and runs the task. The
    node's messages come in through `add_body`, `acknowledge`, `disconnect` and
    `cancel`, all called by the event loop.

The response goes through these phases; `_phase` says what the application may send
next:

    START     http.response.start: a 1xx goes out at once, and the phase stays
    HELD      http.response.start is here, and waits for the first part of the body
    BODY      the head has gone out, the body goes on
    ENDING    the last part is accepted, but not all of it has gone out
    TRAILERS  the body is complete, http.response.trailers are due
    COMPLETE  nothing more
    BROKEN    the body does not fit its content-length: nothing more can be sent well

As in ASGI nothing of a response is sent before its first body message: so a small one
    goes out as one message, and an application that fails in between still gets its 500
    through.

Flow control. At most a window of the response's body is unacknowledged. A part that
does not fit waits in `_pending`, from where acknowledgements take it piece by piece;
its `send()` waits as long. If that `send()` is cancelled, the part stays, so that the
body has no hole. The request's body is bounded by the node, which sends on as `credit`
says.

The methods `send` and `receive` suspend only where they have to wait.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import Any, Final, Protocol

from hornbeam import _protocol as protocol
from hornbeam._asgi import (
    AsgiApp,
    AsgiOrderError,
    ClientDisconnected,
    ContentLengthMismatch,
    Message,
    Scope,
    message_type,
)
from hornbeam._failure import format_error, is_disconnect
from hornbeam._headers import check_headers, check_trailers
from hornbeam._protocol import LogLevel
from hornbeam._runtime import Runtime, Task, Timer, Waiter

__all__ = ("HttpHost", "HttpSession")

CANCEL_GRACE_S: Final = 5.0
"""How long a cancelled request may clean up before that is worth a warning."""


class HttpHost(Protocol):
    """What the sessions of one worker share."""

    app: AsgiApp
    window_bytes: int
    runtime: Runtime

    def post(self, encoded: bytes) -> None:
        """Send a message to the node."""

    def log(self, level: LogLevel, text: str, request_id: int | None = None) -> None:
        """Write to the node's log."""

    def forget(self, request_id: int) -> None:
        """Take note that a request is over."""


class _Phase(enum.Enum):
    """The phases; their values are what the application may do in them, in words."""

    START = "'http.response.start'"
    HELD = "the first 'http.response.body'"
    BODY = "a further 'http.response.body'"
    ENDING = "nothing before the send() of the last body part has returned"
    TRAILERS = "'http.response.trailers'"
    COMPLETE = "nothing more, the response is complete"
    BROKEN = "nothing more, the body does not match its content-length"


# Members as plain names: the lookup on the class would cost on each use.
_START: Final = _Phase.START
_HELD: Final = _Phase.HELD
_BODY: Final = _Phase.BODY
_ENDING: Final = _Phase.ENDING
_TRAILERS: Final = _Phase.TRAILERS
_COMPLETE: Final = _Phase.COMPLETE
_BROKEN: Final = _Phase.BROKEN

_SWITCHING_PROTOCOLS: Final = 101
_EARLY_HINTS: Final = 103
_BODILESS: Final = frozenset((204, 304))

_PLAIN_TEXT: Final = [(b"content-type", b"text/plain; charset=utf-8")]
_ERROR: Final = (500, b"Internal Server Error")
_UNAVAILABLE: Final = (503, b"Service Unavailable")


class _Part:
    """A part of the response's body that waits for room."""

    __slots__ = ("is_last", "rest", "waiter")

    def __init__(self, body: bytes, waiter: Waiter, *, is_last: bool) -> None:
        self.rest = memoryview(body)
        self.is_last = is_last
        self.waiter = waiter


class HttpSession:
    """One request of one application.

    Args:
        host: what it shares with others.
        request_id: the node's number for it.
        scope: its ASGI scope.
        body: what is there of the request's body.
        more: whether more of it will come.
    """

    __slots__ = (
        "_credit_due_bytes",
        "_has_trailers",
        "_host",
        "_is_body_complete",
        "_is_cancelled",
        "_is_gone",
        "_is_head_request",
        "_is_head_sent",
        "_is_started",
        "_is_stopping",
        "_is_waiting_told",
        "_left_bytes",
        "_pending",
        "_phase",
        "_receivers",
        "_request_id",
        "_response_headers",
        "_scope",
        "_status",
        "_task",
        "_timer",
        "_trailers",
        "_unacknowledged_bytes",
        "_unread",
    )

    def __init__(
        self, host: HttpHost, request_id: int, scope: Scope, body: bytes, more: bool
    ) -> None:
        self._host = host
        self._request_id = request_id
        self._scope = scope
        # Now: the scope is the application's, which may change it.
        self._is_head_request = scope["method"] == "HEAD"
        self._task: Task | None = None
        self._timer: Timer | None = None
        self._is_started = False
        # The client has gone, or has its answer already.
        self._is_gone = False
        self._is_cancelled = False
        self._is_stopping = False
        # The request's body.
        self._unread = [body] if body or not more else []
        self._is_body_complete = not more
        self._is_waiting_told = False
        self._credit_due_bytes = 0
        self._receivers: list[Waiter] = []
        # The response.
        self._phase = _START
        self._status = 0
        self._response_headers: list[tuple[bytes, bytes]] = []
        self._is_head_sent = False
        self._has_trailers = False
        self._trailers: list[tuple[bytes, bytes]] | None = None
        # How much body is missing to the content-length; None if that is not to be
        # checked.
        self._left_bytes: int | None = None
        self._unacknowledged_bytes = 0
        self._pending: deque[_Part] | None = None

    def start(self) -> None:
        """Run the application, from now on or from the next turn on."""
        self._task = self._host.runtime.spawn(self.run)

    # What the node says.

    def add_body(self, part: bytes, more: bool) -> None:
        """Take a further part of the request's body."""
        if part or not more:
            self._unread.append(part)

        self._is_body_complete = not more
        self._is_waiting_told = False
        self._wake_receivers()

    def acknowledge(self, sent_bytes: int) -> None:
        """Note that the client has taken that much more of the response's body."""
        self._unacknowledged_bytes -= sent_bytes

        if self._pending:
            self._send_pending()

    def disconnect(self) -> None:
        """Note that the client has gone."""
        self._is_gone = True
        self._wake_receivers()

        if self._pending:
            for part in self._pending:
                part.waiter.set()

            self._pending.clear()

    def cancel(self) -> None:
        """End the application's task; the client has its answer."""
        self.disconnect()
        self._cancel_task()

    def stop(self) -> None:
        """End the application's task; the worker is about to leave."""
        self._is_stopping = True
        self._cancel_task()

    def _cancel_task(self) -> None:
        if self._is_cancelled:
            return

        self._is_cancelled = True
        self._timer = self._host.runtime.call_later(
            CANCEL_GRACE_S, self._warn_of_survivor
        )

        # A task that is cancelled before its first step never runs: run() looks itself.
        if self._is_started and self._task is not None:
            self._task.cancel()

    def _warn_of_survivor(self) -> None:
        self._log(
            "warning",
            f"was cancelled {CANCEL_GRACE_S:g} s ago and still runs: "
            "the application swallowed the cancellation",
        )

    # The task.

    async def run(self) -> None:
        """Call the application; never raises."""
        self._is_started = True

        try:
            if not self._is_cancelled:
                await self._host.app(self._scope, self.receive, self.send)

                if self._pending:
                    await self._drain()
        except GeneratorExit:
            # The loop is torn down around this task.
            raise
        except BaseException as exc:
            self._handle_error(exc)
        else:
            if self._phase is not _COMPLETE:
                self._handle_return()

        if self._timer is not None:
            self._timer.cancel()

        self._host.post(protocol.done(self._request_id))
        self._host.forget(self._request_id)

    async def _drain(self) -> None:
        """Wait for what a cancelled send() has left; its own waiter went with it."""
        assert self._pending
        waiter = self._pending[-1].waiter = self._host.runtime.create_waiter()
        await waiter.wait()

    def _handle_error(self, error: BaseException) -> None:
        cancelled_error = self._host.runtime.cancelled_error

        if self._is_cancelled and isinstance(error, cancelled_error):
            self._give_up(_UNAVAILABLE)
            return

        if self._is_gone and is_disconnect(error):
            self._log("debug", "the application left as the client had gone")
        else:
            when = "after" if self._is_head_sent else "before"
            what = f"the application raised {when} the response started"

            if self._phase is _COMPLETE:
                what = "the application raised after the response was complete"

            self._log("error", f"{what}\n{format_error(error)}")

        self._give_up(_ERROR)

    def _handle_return(self) -> None:
        """The application is satisfied, but the response is not complete."""
        if not self._is_gone and not self._is_cancelled:
            self._log(
                "error", f"the application returned; expected {self._phase.value}"
            )

        self._give_up(_UNAVAILABLE if self._is_stopping else _ERROR)

    def _give_up(self, answer: tuple[int, bytes]) -> None:
        """End a response that the application did not complete."""
        if self._is_gone or self._phase is _COMPLETE:
            return

        self._phase = _COMPLETE

        if self._is_head_sent:
            self._host.post(protocol.abort(self._request_id))
        else:
            status, text = answer
            self._host.post(
                protocol.response(self._request_id, status, _PLAIN_TEXT, text)
            )

        self._wake_receivers()

    def _log(self, level: LogLevel, text: str) -> None:
        scope = self._scope
        where = f"{scope.get('method')} {scope.get('path')}"
        self._host.log(level, f"{where}: {text}", self._request_id)

    # receive()

    async def receive(self) -> Message:
        """Give the next part of the body; after it, wait for the end of the request."""
        while True:
            message = self._receive_nowait()

            if message is not None:
                return message

            waiter = self._host.runtime.create_waiter()
            self._receivers.append(waiter)

            try:
                await waiter.wait()
            finally:
                if waiter in self._receivers:
                    self._receivers.remove(waiter)

    def _receive_nowait(self) -> Message | None:
        if self._phase is _COMPLETE:
            return {"type": "http.disconnect"}

        if self._unread:
            return self._take_body()

        if self._is_gone:
            return {"type": "http.disconnect"}

        if not self._is_body_complete and not self._is_waiting_told:
            self._is_waiting_told = True
            self._send_credit()
            self._host.post(protocol.waiting(self._request_id))

        return None

    def _take_body(self) -> Message:
        unread = self._unread
        body = unread[0] if len(unread) == 1 else b"".join(unread)
        unread.clear()

        if not self._is_body_complete:
            self._credit_due_bytes += len(body)

            if self._credit_due_bytes * 4 >= self._host.window_bytes:
                self._send_credit()

        return {
            "type": "http.request",
            "body": body,
            "more_body": not self._is_body_complete,
        }

    def _send_credit(self) -> None:
        if self._credit_due_bytes and not self._is_gone:
            self._host.post(protocol.credit(self._request_id, self._credit_due_bytes))

        self._credit_due_bytes = 0

    def _wake_receivers(self) -> None:
        if self._receivers:
            for waiter in self._receivers:
                waiter.set()

            self._receivers.clear()

    # send()

    async def send(self, message: Message) -> None:
        """Take a message of the application.

        Raises:
            AsgiOrderError: ASGI does not allow it now.
            ClientDisconnected: the client has gone.
            ContentLengthMismatch: the body is longer or shorter than its
                content-length.
            TypeError, ValueError: something in it is not what ASGI or HTTP want.
        """
        kind = message.get("type") if type(message) is dict else message_type(message)

        if kind == "http.response.body":
            part = self._send_body(message)

            if part is not None:
                await part.waiter.wait()
                self._check_connected()

        elif kind == "http.response.start":
            self._send_start(message)
        else:
            self._send_other(message_type(message), message)

    def _check_connected(self) -> None:
        if self._is_gone and self._phase is not _COMPLETE:
            raise ClientDisconnected("the client has gone")

    def _check_phase(self, phase: _Phase, kind: str) -> None:
        if self._phase is not phase:
            raise AsgiOrderError(self._phase.value, repr(kind))

        self._check_connected()

    def _send_other(self, kind: str, message: Message) -> None:
        if kind == "http.response.trailers":
            self._send_trailers(message)
        elif kind == "http.response.early_hint":
            self._check_phase(_START, kind)
            links = [(b"link", link) for link in message.get("links", ())]
            self._inform(_EARLY_HINTS, links)
        else:
            raise AsgiOrderError(self._phase.value, repr(kind))

    def _send_start(self, message: Message) -> None:
        self._check_phase(_START, "http.response.start")
        status = _check_status(message)
        headers = message.get("headers", ())

        if status < 200:
            self._inform(status, headers)
            return

        self._response_headers, declared = check_headers(headers)
        self._status = status
        self._has_trailers = bool(message.get("trailers", False))

        # Of a response without a body the length is that of the body it would have.
        if status not in _BODILESS and not self._is_head_request:
            self._left_bytes = declared

        self._phase = _HELD

    def _inform(self, status: int, headers: object) -> None:
        checked = check_trailers(headers)
        self._host.post(protocol.inform(self._request_id, status, checked))

    def _send_body(self, message: Message) -> _Part | None:
        """Send a part of the body.

        Returns:
            None, or what has to wait.
        """
        phase = self._phase

        if phase is not _HELD and phase is not _BODY:
            raise AsgiOrderError(phase.value, "'http.response.body'")

        if self._is_gone:
            raise ClientDisconnected("the client has gone")

        body = message.get("body", b"")

        if type(body) is not bytes:
            body = _to_bytes(body)

        is_last = not message.get("more_body", False)
        size = len(body)

        if self._left_bytes is not None:
            self._count_down(size, is_last)

        if (
            phase is _HELD
            and is_last
            and size <= self._host.window_bytes
            and not self._has_trailers
        ):
            self._send_whole(body)
            return None

        if self._pending or size > self._host.window_bytes - self._unacknowledged_bytes:
            return self._enqueue(body, is_last)

        self._send_part(body, is_last)
        return None

    def _count_down(self, size: int, is_last: bool) -> None:
        assert self._left_bytes is not None
        left = self._left_bytes - size

        if left < 0 or (is_last and left > 0):
            self._phase = _BROKEN
            problem = f"{-left} more" if left < 0 else f"{left} less"
            raise ContentLengthMismatch(
                f"the body has {problem} bytes than content-length"
            )

        self._left_bytes = left

    def _send_whole(self, body: bytes) -> None:
        self._phase = _COMPLETE
        self._is_head_sent = True
        self._host.post(
            protocol.response(
                self._request_id, self._status, self._response_headers, body
            )
        )

        if self._receivers:
            self._wake_receivers()

    def _enqueue(self, body: bytes, is_last: bool) -> _Part | None:
        if is_last and self._phase is _HELD:
            self._add_content_length(len(body))

        part = _Part(body, self._host.runtime.create_waiter(), is_last=is_last)

        if self._pending is None:
            self._pending = deque()

        self._pending.append(part)

        if is_last:
            self._phase = _ENDING

        self._send_pending()
        return part if part in self._pending else None

    def _add_content_length(self, size: int) -> None:
        """A body that is known as a whole has a length, also if it does not fit a window."""
        headers = self._response_headers

        if (
            self._status not in _BODILESS
            and not self._has_trailers
            and not any(name == b"content-length" for name, _ in headers)
        ):
            headers.append((b"content-length", b"%d" % size))

    def _send_pending(self) -> None:
        """Send what there is room for.

        The node may owe acknowledgements for up to a quarter of the window; so waiting
        for half of it to be free comes to an end, and avoids a crumb for each
        acknowledgement.
        """
        window = self._host.window_bytes
        pending = self._pending
        assert pending is not None

        while pending:
            part = pending[0]
            room = window - self._unacknowledged_bytes

            if room < min(len(part.rest), (window + 1) // 2):
                return

            piece, part.rest = part.rest[:room], part.rest[room:]
            is_end = not part.rest

            if is_end:
                pending.popleft()
                part.waiter.set()

            self._send_part(bytes(piece), is_end and part.is_last)

    def _send_part(self, body: bytes, is_last: bool) -> None:
        host = self._host
        request_id = self._request_id
        self._unacknowledged_bytes += len(body)
        ends = is_last and not self._has_trailers

        if not self._is_head_sent:
            self._is_head_sent = True
            host.post(
                protocol.start(request_id, self._status, self._response_headers, body)
            )
        elif ends:
            host.post(protocol.last(request_id, body))
        elif body:
            host.post(protocol.data(request_id, body))

        if is_last:
            self._phase = _COMPLETE if ends else _TRAILERS
            self._wake_receivers()
        elif self._phase is _HELD:
            self._phase = _BODY

    def _send_trailers(self, message: Message) -> None:
        self._check_phase(_TRAILERS, "http.response.trailers")
        headers = [*(self._trailers or ()), *check_trailers(message.get("headers", ()))]

        if message.get("more_trailers", False):
            self._trailers = headers
            return

        self._phase = _COMPLETE
        self._host.post(protocol.trailers(self._request_id, headers))
        self._wake_receivers()


def _check_status(message: Message) -> int:
    status = message.get("status")

    if isinstance(status, bool) or not isinstance(status, int):
        raise TypeError(f"status is an int from 100 to 999, not {status!r}")

    # An http.HTTPStatus is an int too.
    number = int(status)

    if not 100 <= number <= 999:
        raise ValueError(f"status is an int from 100 to 999, not {number}")

    if number == _SWITCHING_PROTOCOLS:
        raise ValueError("status 101 would switch protocols, which HTTP in ASGI can't")

    return number


def _to_bytes(body: Any) -> bytes:
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body)

    hint = ", encode it first" if isinstance(body, str) else ""
    raise TypeError(f"a body is bytes, not {type(body).__name__}{hint}")
