# SPDX-License-Identifier: Apache-2.0
"""The response half of an HTTP request: what `send()` takes, and the messages it makes.

The response goes through these phases; `_phase` says what the application may send
next:

    START     http.response.start: a 1xx goes out at once, and the phase stays
    HELD      http.response.start is here, and waits for the first part of the body
    BODY      the head has gone out, the body goes on
    ENDING    the last part is accepted, but not all of it has gone out
    TRAILERS  the body is complete, http.response.trailers are due
    COMPLETE  nothing more
    BROKEN    the body does not fit its content-length: nothing more can be sent well

The head of a response waits for its first body message: so a small response goes out
as one message, and an application that fails in between still gets its 500 through. But
not for long: soon the host has it go out alone. A client may wait for it (an event
stream before its first event), and the node's clock for the start of the response runs.

How the parts of a body leave, and what they wait for, is in `_http_body`.

No table drives the phases, as elsewhere in this package: `send()` runs twice for each
request, and a lookup by enum members costs more than all its comparisons.
"""

from __future__ import annotations

from typing import Any, Final

from hornbeam import _protocol as protocol
from hornbeam._asgi import (
    AsgiOrderError,
    ClientDisconnected,
    ContentLengthMismatch,
    Message,
    message_type,
)
from hornbeam._headers import HEADER_NAMES, check_headers, check_trailers
from hornbeam._http_body import BODILESS, BodySide, Part, ResponseHost
from hornbeam._http_file import FileOffer, file_path
from hornbeam._loan import BORROW_BYTES, BORROWING_PART_BYTES
from hornbeam._pacer import PACED_PART_BYTES
from hornbeam._request_state import (
    BODY,
    BROKEN,
    COMPLETE,
    ENDING,
    HELD,
    START,
    TRAILERS,
)

__all__ = ("ResponseHost", "ResponseSide")


# What the application may do in each phase, in words.
_EXPECTED: Final = {
    START: "'http.response.start'",
    HELD: "the first 'http.response.body'",
    BODY: "a further 'http.response.body'",
    ENDING: "nothing before the send() of the last body part has returned",
    TRAILERS: "'http.response.trailers'",
    COMPLETE: "nothing more, the response is complete",
    BROKEN: "nothing more, the body does not match its content-length",
}

_SWITCHING_PROTOCOLS: Final = 101
_EARLY_HINTS: Final = 103

# Of these there is no extension in the scope; some applications do not look there.
_IGNORED: Final = frozenset(("http.response.push", "http.response.debug"))

_PLAIN_TEXT: Final = [(b"content-type", b"text/plain; charset=utf-8")]


class ResponseSide(BodySide):
    """The response to one request.

    A base class of the session and not a part of it: one object more for each request
    would cost, and one that has to tell the session of its end would make a reference
    cycle.
    """

    __slots__ = ()

    # For the session.

    @property
    def _is_complete(self) -> bool:
        return self._phase == COMPLETE

    @property
    def _expected(self) -> str:
        """What the application may do now, in words."""
        return _EXPECTED[self._phase]

    def send_held_start(self) -> None:
        """Have the head not wait any longer for the first part of the body."""
        if self._phase == HELD and not self._is_gone:
            self._send_part(b"", is_last=False)

    def disconnect(self) -> None:
        """Note that the client has gone."""
        self._is_gone = True
        self._wake_senders()

    def _wake_senders(self) -> None:
        """Let all that wait in send() see that it was in vain."""
        if self._loan is not None:
            self._loan.give_back()

        if self._pending:
            for part in self._pending:
                part.is_cut = True
                part.waiter.set()

            self._pending.clear()

        if self._file is not None:
            self._file.waiter.set()

    def handle_opened(self) -> None:
        """Note that the node has opened the file that it was asked to send."""
        offer = self._file

        if offer is None or self._phase == COMPLETE:
            return

        self._phase = COMPLETE
        self._is_head_sent = True
        offer.open()
        self._on_complete()

    def handle_refused(self, reason: str, size_bytes: int) -> None:
        """Note that the node can't send the file."""
        if self._file is not None:
            self._file.refuse(reason, size_bytes)

    def _give_up(self, status: int, text: bytes) -> None:
        """End a response that the application did not complete, as well as possible."""
        if self._is_gone or self._phase == COMPLETE:
            return

        request_id = self._request_id
        self._phase = COMPLETE
        self._wake_senders()

        if self._is_head_sent:
            self._response_host.post(protocol.abort(request_id))
        else:
            self._response_host.post(
                protocol.response(request_id, status, _PLAIN_TEXT, text)
            )

        self._on_complete()

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
        usual = self._take_usual(message, HEADER_NAMES)

        if usual is not None:
            if usual:
                self._response_host.post(usual)
                self._on_complete()
            else:
                self._response_host.note_held_start()

            return

        kind = message.get("type") if type(message) is dict else message_type(message)

        if kind == "http.response.body":
            part = self._send_body(message)

            if part is not None:
                await part.waiter.wait()
                self._check_sent(part)

        elif kind == "http.response.start":
            self._send_start(message)
        elif kind == "http.response.pathsend":
            await self._send_file(message)
        else:
            self._send_other(message_type(message), message)

    def _check_connected(self) -> None:
        if self._is_gone and self._phase != COMPLETE:
            raise ClientDisconnected("the client has gone")

    def _check_sent(self, part: Part) -> None:
        self._check_connected()

        if part.is_cut:
            raise ClientDisconnected("the response was cut")

    def _check_phase(self, phase: int, kind: str) -> None:
        if self._phase != phase:
            raise AsgiOrderError(_EXPECTED[self._phase], repr(kind))

        self._check_connected()

    def _send_other(self, kind: str, message: Message) -> None:
        if kind == "http.response.trailers":
            self._send_trailers(message)
        elif kind == "http.response.early_hint":
            self._check_phase(START, kind)
            links = [(b"link", link) for link in message.get("links", ())]
            self._inform(_EARLY_HINTS, links)
        elif kind not in _IGNORED:
            raise AsgiOrderError(_EXPECTED[self._phase], repr(kind))

    def _send_start(self, message: Message) -> None:
        self._check_phase(START, "http.response.start")
        status = _check_status(message)
        headers = message.get("headers", ())

        if status < 200:
            self._inform(status, headers)
            return

        self._response_headers, declared = check_headers(headers)
        self._status = status
        self._has_trailers = bool(message.get("trailers", False))

        # Of a response without a body the length is that of the body it would have.
        if status not in BODILESS and not self._is_head_request:
            self._left_bytes = declared

        self._phase = HELD
        self._response_host.note_held_start()

    def _inform(self, status: int, headers: object) -> None:
        checked = check_trailers(headers)
        self._response_host.post(protocol.inform(self._request_id, status, checked))

    def _send_body(self, message: Message) -> Part | None:
        """Send a part of the body.

        Returns:
            None, or what has to wait.
        """
        phase = self._phase

        if phase != HELD and phase != BODY:
            raise AsgiOrderError(_EXPECTED[phase], "'http.response.body'")

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
            phase == HELD
            and is_last
            and size <= self._response_host.window_bytes
            and not self._has_trailers
        ):
            self._send_whole(body)
            return None

        if (
            self._pending
            or self._loan is not None
            or (
                size >= BORROWING_PART_BYTES
                and size + (self._left_bytes or 0) >= BORROW_BYTES
            )
            or size > self._response_host.window_bytes - self._unacknowledged_bytes
            or (size >= PACED_PART_BYTES and not self._has_turn())
        ):
            return self._enqueue(body, is_last=is_last)

        self._send_part(body, is_last=is_last)
        return None

    def _count_down(self, size: int, is_last: bool) -> None:
        assert self._left_bytes is not None
        left = self._left_bytes - size

        if left < 0 or (is_last and left > 0):
            self._phase = BROKEN
            problem = f"{-left} more" if left < 0 else f"{left} less"
            raise ContentLengthMismatch(
                f"the body has {problem} bytes than content-length"
            )

        self._left_bytes = left

    def _send_whole(self, body: bytes) -> None:
        self._phase = COMPLETE
        self._is_head_sent = True
        self._response_host.post(
            protocol.response(
                self._request_id, self._status, self._response_headers, body
            )
        )

        self._on_complete()

    async def _send_file(self, message: Message) -> None:
        """Have the node send a file as the rest of the body.

        Returns when the node has opened it: so it may be unlinked, and a client that is
        slow to take it costs the application nothing.
        """
        self._check_file_may_come()

        if self._has_trailers:
            raise ValueError("no trailers can follow a file that the server sends")

        path = file_path(message)

        while self._pending:
            await self._drain()
            # Another task may have gone on meanwhile.
            self._check_file_may_come()

        self._check_connected()

        if self._loan is not None and self._loan.is_here:
            self._end_loan(self._loan)

        waiter = self._response_host.runtime.create_waiter()
        offer = self._file = FileOffer(path, self._left_bytes, waiter)
        # Whether the head has gone: it may have while others were waited for.
        head = None if self._is_head_sent else (self._status, self._response_headers)
        self._phase = ENDING
        self._response_host.post(
            protocol.file(self._request_id, head, path, 0, self._left_bytes)
        )
        await waiter.wait()
        self._file = None

        if not offer.is_opened:
            if self._phase == COMPLETE:
                raise ClientDisconnected("the response was cut")

            self._phase = BROKEN if head is None else HELD
            self._check_connected()
            assert offer.error is not None
            raise offer.error

    def _check_file_may_come(self) -> None:
        if self._phase != HELD and self._phase != BODY:
            raise AsgiOrderError(_EXPECTED[self._phase], "'http.response.pathsend'")

    def _send_trailers(self, message: Message) -> None:
        self._check_phase(TRAILERS, "http.response.trailers")
        headers = [*(self._trailers or ()), *check_trailers(message.get("headers", ()))]

        if message.get("more_trailers", False):
            self._trailers = headers
            return

        self._phase = COMPLETE
        self._response_host.post(protocol.trailers(self._request_id, headers))
        self._on_complete()


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
