# SPDX-License-Identifier: Apache-2.0
"""The body of a response, part by part: what leaves, what waits, and for what.

Flow control. At most a window of the response's body is unacknowledged. A part that
does not fit waits in `_pending`, from where acknowledgements take it piece by piece;
its `send()` waits as long. So does one that comes when the turn of the event loop has
sent its share, see `_pacer`. If that `send()` is cancelled the part stays, so that the
body has no hole.

A large body of known length does not pass through the node: its parts wait in
`_pending` as well, from where `send_pending` writes them to the client's socket, see
`_loan`.
"""

from __future__ import annotations

import socket
from collections import deque
from typing import Final, Protocol

from hornbeam import _protocol as protocol
from hornbeam._loan import BORROW_BYTES, BORROWING_PART_BYTES, Loan, LoanHost
from hornbeam._pacer import Pacer
from hornbeam._request_state import BODY, COMPLETE, ENDING, HELD, TRAILERS, RequestState
from hornbeam._runtime import Runtime, Waiter

__all__ = ("BODILESS", "BodySide", "Part", "ResponseHost")

BODILESS: Final = frozenset((204, 304))
"""Statuses of responses without a body."""


class ResponseHost(Protocol):
    """What the responses of one worker share."""

    window_bytes: int
    pacer: Pacer
    runtime: Runtime

    @property
    def loans(self) -> LoanHost | None:
        """None: the node lends no sockets."""

    def post(self, encoded: bytes) -> None:
        """Send a message to the node."""

    def post_part(self, encoded: bytes) -> None:
        """Send a part of the body; like `post`, but a large one need not wait."""

    def note_held_start(self) -> None:
        """Call `send_held_start` of the response soon."""


class Part:
    """A part of the response's body that waits for room."""

    __slots__ = ("is_cut", "is_last", "rest", "waiter")

    def __init__(self, body: bytes, waiter: Waiter, *, is_last: bool) -> None:
        self.rest = memoryview(body)
        self.is_last = is_last
        # It will not be sent, also where nothing is left of it.
        self.is_cut = False
        self.waiter = waiter


class BodySide(RequestState):
    """The body of the response to one request.

    A base class as that of the whole response is one, for the same reason.
    """

    __slots__ = ()

    _pending: deque[Part] | None
    _response_host: ResponseHost

    # For the response.

    def _on_complete(self) -> None:
        """Take note that nothing more of the response will come."""
        raise AssertionError("the session has its own")

    def disconnect(self) -> None:
        """Note that the client has gone."""
        raise AssertionError("the response has its own")

    def _has_turn(self) -> bool:
        return self._response_host.pacer.admits(self._request_id)

    def _enqueue(self, body: bytes, *, is_last: bool) -> Part | None:
        if is_last and self._phase == HELD:
            self._add_content_length(len(body))
        elif self._phase == HELD:
            # Its head goes with it, also where its turn is still to come.
            self._phase = BODY

        if self._loan is None and self._is_worth_a_loan(len(body), is_last):
            self._borrow()

        part = Part(body, self._response_host.runtime.create_waiter(), is_last=is_last)

        if self._pending is None:
            self._pending = deque()

        self._pending.append(part)

        if is_last:
            self._phase = ENDING

        self.send_pending()
        return part if part in self._pending else None

    def _add_content_length(self, size: int) -> None:
        """A body that is known as a whole has a length, also if it is cut in parts."""
        headers = self._response_headers

        if (
            self._status not in BODILESS
            and not self._has_trailers
            and not any(name == b"content-length" for name, _ in headers)
        ):
            headers.append((b"content-length", b"%d" % size))

    def _send_part(self, body: bytes | memoryview, *, is_last: bool) -> None:
        host = self._response_host
        request_id = self._request_id
        self._unacknowledged_bytes += len(body)
        ends = is_last and not self._has_trailers

        if not self._is_head_sent:
            self._is_head_sent = True
            host.post_part(
                protocol.start(request_id, self._status, self._response_headers, body)
            )
        elif ends:
            host.post_part(protocol.last(request_id, body))
        elif body:
            host.post_part(protocol.data(request_id, body))

        if ends:
            self._phase = COMPLETE
            self._on_complete()
        elif is_last:
            self._phase = TRAILERS
        elif self._phase == HELD:
            self._phase = BODY

    async def _drain(self) -> None:
        """Wait for what is before: a cancelled send() has left it, or another task's.

        Behind it, and not with the waiter of the last part: its own task may wait.
        """
        assert self._pending
        waiter = self._response_host.runtime.create_waiter()
        self._pending.append(Part(b"", waiter, is_last=False))
        await waiter.wait()

    # For the session, and the pacer.

    def acknowledge(self, sent_bytes: int) -> None:
        """Note that the client has taken that much more of the response's body."""
        self._unacknowledged_bytes -= sent_bytes

        if self._pending:
            self.send_pending()

    def send_pending(self) -> None:
        """Send what there is room for, in the client's window and in this turn.

        The node may owe acknowledgements for up to a quarter of the window; so waiting
        for half of it to be free comes to an end, and avoids a crumb for each
        acknowledgement.
        """
        pending = self._pending
        assert pending is not None

        if self._loan is not None and not self._loan.is_kept:
            self._write_pending(self._loan, pending)
            return

        window = self._response_host.window_bytes

        while pending:
            part = pending[0]
            room = window - self._unacknowledged_bytes

            if room < min(len(part.rest), (window + 1) // 2):
                return

            if not self._has_turn():
                self._response_host.pacer.wait(self)
                return

            size = protocol.piece_bytes(len(part.rest), room)
            piece, part.rest = part.rest[:size], part.rest[size:]
            is_end = not part.rest

            if is_end:
                pending.popleft()
                part.waiter.set()

            self._send_part(piece, is_last=is_end and part.is_last)

    # By the client's own socket.

    def take_loan(self, client: socket.socket | None) -> bool:
        """Take the client's socket; None: this process has no place for it.

        Returns:
            Whether it was taken.
        """
        loan = self._loan

        if loan is None or self._is_gone or self._phase == COMPLETE:
            return False

        if client is None:
            self._response_host.post(protocol.written(self._request_id, 0))
            loan.keep()
        else:
            loan.take(client)

        if self._pending:
            self.send_pending()

        return True

    def handle_kept(self) -> None:
        """Note that the node lends no socket for this."""
        if self._loan is not None:
            self._loan.keep()

            if self._pending:
                self.send_pending()

    def handle_stall(self) -> None:
        """Note that the client has taken nothing of the body for `send_timeout`."""
        self._lose_client()

    def _is_worth_a_loan(self, size: int, is_last: bool) -> bool:
        """Tell whether the rest of the body, which begins with so much, is."""
        left = self._left_bytes
        host = self._response_host

        return (
            host.loans is not None
            and size >= BORROWING_PART_BYTES
            and (size if left is None else left + size) >= BORROW_BYTES
            and (left is not None or (is_last and not self._is_head_sent))
            and not self._has_trailers
            and not self._is_head_request
            and self._status not in BODILESS
            and self._scope.get("type") == "http"
            and self._scope.get("http_version") == "1.1"
        )

    def _borrow(self) -> None:
        """Have the head go out, and the socket asked for behind it."""
        host = self._response_host
        assert host.loans is not None

        if not self._is_head_sent:
            self._is_head_sent = True
            host.post(
                protocol.start(
                    self._request_id, self._status, self._response_headers, b""
                )
            )

        host.post(protocol.borrow(self._request_id))
        self._loan = Loan(host.loans, self)

    def _write_pending(self, loan: Loan, pending: deque[Part]) -> None:
        pacer = self._response_host.pacer

        while pending and loan.is_here:
            part = pending[0]

            if part.rest:
                # No window holds back who has spent the budget.
                if pacer.left_bytes <= 0:
                    pacer.wait(self)
                    return

                try:
                    written = loan.write(part.rest)
                except OSError:
                    self._lose_client()
                    return

                if not written:
                    return

                pacer.left_bytes -= written
                part.rest = part.rest[written:]

            if not part.rest:
                pending.popleft()
                part.waiter.set()

                if part.is_last:
                    self._end_loan(loan)
                    self._send_part(b"", is_last=True)

    def _end_loan(self, loan: Loan) -> None:
        loan.give_back()
        self._response_host.post(protocol.written(self._request_id, loan.written_bytes))

    def _lose_client(self) -> None:
        """End a response that the client does not take: the node cuts it."""
        assert self._loan is not None
        self._end_loan(self._loan)
        self._response_host.post(protocol.abort(self._request_id))
        self.disconnect()
