# SPDX-License-Identifier: Apache-2.0
"""The response of a WSGI request: what comes of it, and the messages it makes.

Used by the application's thread; only the window and the loan are shared
with the event loop.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final, Protocol, TypeAlias, cast

from hornbeam import _protocol as protocol
from hornbeam._asgi import ClientDisconnected, ContentLengthMismatch
from hornbeam._headers import check_headers, check_trailers
from hornbeam._loan import BORROW_BYTES, BORROWING_PART_BYTES, LoanHost
from hornbeam._wsgi_loan import ThreadLoan
from hornbeam._wsgi_window import ResponseWindow

__all__ = (
    "CLIENT_GONE",
    "ExcInfo",
    "Write",
    "WsgiOrderError",
    "WsgiResponse",
)

ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None]
Write: TypeAlias = Callable[[bytes], None]

CLIENT_GONE: Final = "the client has gone"
_EARLY_HINTS: Final = 103
_BODILESS: Final = frozenset((204, 304))
# RFC 9110 7.6.1: of the connection, which is the node's (PEP 3333, "Other HTTP
# features").
_HOP_BY_HOP: Final = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
_PLAIN_TEXT: Final = [(b"content-type", b"text/plain; charset=utf-8")]


class WsgiOrderError(RuntimeError):
    """The application did something that WSGI does not allow at this point."""


class ResponseHost(Protocol):
    """What the responses of one worker share."""

    def send(self, messages: Sequence[bytes]) -> None:
        """Send messages to the node as one packet; from any thread."""

    def find_loans(self) -> LoanHost | None:
        """Return what large bodies are sent by; None: the node lends no sockets."""


class WsgiResponse:
    """The response to one request.

    Args:
        request_id: the node's number for the request.
        window: shared with whoever hears of acknowledgements.
        host: what it shares with others.
        is_head_request: whether the client wants no body.
    """

    __slots__ = (
        "_file_answer",
        "_headers",
        "_host",
        "_is_complete",
        "_is_file_refused",
        "_is_head_request",
        "_is_head_sent",
        "_left_bytes",
        "_loan",
        "_post",
        "_request_id",
        "_status",
        "_window",
        "has_lost_client",
        "held",
    )

    held: list[bytes]
    """The last messages, when they were asked to be held back."""

    has_lost_client: bool
    """The client has not taken what was written to its socket; the node knows."""

    def __init__(
        self,
        request_id: int,
        window: ResponseWindow,
        host: ResponseHost,
        *,
        is_head_request: bool,
    ) -> None:
        self._request_id = request_id
        self._window = window
        self._host = host
        self._post = host.send
        self._is_head_request = is_head_request
        # 0 before start_response() was called.
        self._status = 0
        self._headers: list[tuple[bytes, bytes]] = []
        # How much body is missing to the content-length; None if that is not checked.
        self._left_bytes: int | None = None
        self._is_head_sent = False
        self._is_complete = False
        self._is_file_refused = False
        # There while the node is asked.
        self._file_answer: threading.Event | None = None
        # The client's socket, if it was asked for.
        self._loan: ThreadLoan | None = None
        self.has_lost_client = False
        self.held = []

    @property
    def is_head_sent(self) -> bool:
        return self._is_head_sent

    @property
    def is_complete(self) -> bool:
        return self._is_complete

    def start_response(
        self,
        status: str,
        headers: list[tuple[str, str]],
        exc_info: ExcInfo | None = None,
        /,
    ) -> Write:
        """Take status and headers, which go out with the first part of the body.

        Args:
            status: such as `200 OK`.
            headers: pairs of str.
            exc_info: of the exception that this response tells of; allows a second
                call.

        Returns:
            `write(data)`, for applications that can't give an iterable.

        Raises:
            WsgiOrderError: it was called before, without `exc_info`.
            TypeError, ValueError: what PEP 3333 or HTTP does not allow.
            BaseException: that of `exc_info`, if the headers have gone out.
        """
        if exc_info is not None:
            try:
                if self._is_head_sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                # PEP 3333: a traceback refers to this frame.
                exc_info = None
        elif self._status:
            raise WsgiOrderError(
                "start_response() was called before; a second call needs exc_info"
            )

        code = _parse_status(status)
        checked, declared = check_headers(_encode_headers(headers))
        self._status, self._headers = code, checked
        is_bodiless = code in _BODILESS or self._is_head_request
        self._left_bytes = None if is_bodiless else declared
        return self.write

    def send_hints(self, headers: list[tuple[str, str]]) -> None:
        """Send `103 Early Hints`; nothing happens once the response has started.

        Raises:
            TypeError, ValueError: a header is not allowed in HTTP.
        """
        checked = check_trailers(_encode_headers(headers))

        if not self._is_head_sent:
            self._post([protocol.inform(self._request_id, _EARLY_HINTS, checked)])

    def write(self, data: bytes) -> None:
        """Send a part of the body, and wait until that may be done.

        Raises:
            WsgiOrderError: start_response() was not called.
            ContentLengthMismatch: it is more than the content-length says.
            ClientDisconnected: the client has gone or its answer, or the worker is to
                end; the text says which.
            TypeError: it is no bytes.
        """
        self._write(data, hold=False)

    def finish(self, parts: Sequence[bytes] = (), *, hold: bool) -> None:
        """Send the last parts of the body and its end.

        Args:
            parts: all of them.
            hold: put the last message into `held` instead.

        Raises:
            WsgiOrderError, ContentLengthMismatch, ClientDisconnected, TypeError: as
                `write`.
        """
        for part in parts:
            _check_part(part)

        data = parts[0] if len(parts) == 1 else b"".join(parts)

        if self._is_complete and not data:
            return

        self._check_started()

        if self._left_bytes is not None and len(data) < self._left_bytes:
            raise ContentLengthMismatch(
                f"the body has {self._left_bytes - len(data)} less bytes than "
                "content-length"
            )

        if not self._is_head_sent and len(data) > self._window.size_bytes:
            self._add_content_length(len(data))

        self._write(data, hold=hold, is_last=True)

    def offer_file(self, path: str, offset: int, size: int) -> bool:
        """Ask the node to send the rest of the body from a file; say whether it will.

        Args:
            path: absolute.
            offset: where in the file.
            size: how many bytes there are from there.
        """
        if not self._status or self._is_head_sent:
            return False

        if self._left_bytes not in (None, size):
            return False

        answer = self._file_answer = threading.Event()

        # After that: whoever closes it answers.
        if self._window.is_closed:
            return False

        head = (self._status, self._headers)
        message = protocol.file(
            self._request_id, head, os.fsencode(path), offset, self._left_bytes
        )
        self._post([message])
        answer.wait()

        if self._is_file_refused:
            return False

        self._is_head_sent = self._is_complete = True
        return True

    def handle_opened(self) -> None:
        """Note that the node has opened the file; by the event loop."""
        if self._file_answer is not None:
            self._file_answer.set()

    def handle_refused(self) -> None:
        """Note that it can't be sent, or need not be; by the event loop."""
        self._is_file_refused = True

        if self._file_answer is not None:
            self._file_answer.set()

    def take_loan(self, client: socket.socket | None) -> bool:
        """Take the client's socket, or that there is no place for it.

        By the event loop, as the next two.
        """
        loan = self._loan

        if loan is None:
            return False

        if client is None:
            self._post([protocol.written(self._request_id, 0)])
            loan.keep()
            return True

        return loan.take(client)

    def handle_kept(self) -> None:
        """Note that the node lends no socket for this."""
        if self._loan is not None:
            self._loan.keep()

    def end_loan(self) -> None:
        """Note that the client's socket is not to be written to any more."""
        if self._loan is not None:
            self._loan.end()

    def give_up(self, status: int, text: bytes) -> None:
        """End a response that the application did not complete, as well as possible."""
        if self._is_complete:
            return

        self._is_complete = True

        if self._loan is not None:
            self._loan.give_back()

        request_id = self._request_id

        if self._is_head_sent:
            self._post([protocol.abort(request_id)])
        else:
            self._post([protocol.response(request_id, status, _PLAIN_TEXT, text)])

    # How parts go out.

    def _check_started(self) -> None:
        if not self._status:
            raise WsgiOrderError("start_response() was not called before the body")

    def _add_content_length(self, size: int) -> None:
        """A body that is known as a whole has a length, also if it is cut in pieces."""
        headers = self._headers

        if self._status not in _BODILESS and not any(
            name == b"content-length" for name, _ in headers
        ):
            headers.append((b"content-length", b"%d" % size))

    def _write(self, data: bytes, *, hold: bool, is_last: bool = False) -> None:
        _check_part(data)

        why_closed = self._window.why_closed

        if why_closed is not None:
            raise ClientDisconnected(why_closed)

        # PEP 3333: the head waits for the first part that is not empty.
        if not data and not is_last:
            return

        self._check_started()
        is_last = self._count(len(data)) or is_last

        if not self._is_head_sent and is_last and len(data) <= self._window.size_bytes:
            self._is_head_sent = True
            message = protocol.response(
                self._request_id, self._status, self._headers, data
            )
            self._end(message, hold=hold)
            return

        self._write_pieces(data, hold=hold, is_last=is_last)

    def _count(self, size: int) -> bool:
        """Count down to the content-length; say whether that is reached."""
        if self._is_complete:
            raise ContentLengthMismatch(
                f"the body has {size} more bytes than content-length"
            )

        if self._left_bytes is None:
            return False

        left = self._left_bytes - size

        if left < 0:
            raise ContentLengthMismatch(
                f"the body has {-left} more bytes than content-length"
            )

        self._left_bytes = left
        return left == 0

    def _write_pieces(self, data: bytes, *, hold: bool, is_last: bool) -> None:
        rest = memoryview(data)

        if self._loan is None and self._is_worth_a_loan(len(data), is_last=is_last):
            self._borrow()

        if self._loan is not None and self._loan.is_here:
            self._write_to_client(self._loan, rest, hold=hold, is_last=is_last)
            return

        window_bytes = self._window.size_bytes

        while rest:
            size = protocol.piece_bytes(len(rest), window_bytes)
            taken = self._window.take(size)
            piece, rest = rest[:taken], rest[taken:]

            if is_last and not rest and self._is_head_sent:
                self._end(protocol.last(self._request_id, piece), hold=hold)
                return

            self._send_piece(piece)

        if is_last:
            if not self._is_head_sent:
                self._send_piece(b"")

            self._end(protocol.last(self._request_id, b""), hold=hold)

    def _send_piece(self, piece: bytes | memoryview) -> None:
        request_id = self._request_id

        if self._is_head_sent:
            self._post([protocol.data(request_id, piece)])
            return

        self._is_head_sent = True
        self._post([protocol.start(request_id, self._status, self._headers, piece)])

    def _end(self, *messages: bytes, hold: bool) -> None:
        self._is_complete = True

        if hold:
            self.held.extend(messages)
        else:
            self._post(messages)

    # By the client's own socket.

    def _is_worth_a_loan(self, size: int, *, is_last: bool) -> bool:
        """Tell whether the rest of the body, which begins with so much, is."""
        left = self._left_bytes

        return (
            size >= BORROWING_PART_BYTES
            and (size if left is None else size + left) >= BORROW_BYTES
            # Whose length was added if it had none.
            and (left is not None or (is_last and not self._is_head_sent))
            and not self._is_head_request
            and self._status not in _BODILESS
            and self._host.find_loans() is not None
        )

    def _borrow(self) -> None:
        """Have the head go out, ask for the socket behind it, and wait for that."""
        loans = self._host.find_loans()

        if loans is None:
            return

        loan = self._loan = ThreadLoan(loans)

        # After that: whoever closes it ends the loan.
        if self._window.why_closed is not None:
            raise ClientDisconnected(self._window.why_closed)

        messages = [protocol.borrow(self._request_id)]

        if not self._is_head_sent:
            self._is_head_sent = True
            messages.insert(
                0, protocol.start(self._request_id, self._status, self._headers, b"")
            )

        self._post(messages)
        loan.wait()

    def _write_to_client(
        self, loan: ThreadLoan, data: memoryview, *, hold: bool, is_last: bool
    ) -> None:
        try:
            loan.write(data)
        except OSError as exc:
            raise self._lose_client(loan) from exc

        if is_last:
            loan.give_back()
            written = protocol.written(self._request_id, loan.written_bytes)
            self._end(written, protocol.last(self._request_id, b""), hold=hold)

    def _lose_client(self, loan: ThreadLoan) -> ClientDisconnected:
        """End a response that the client does not take: the node cuts it."""
        loan.give_back()

        if not self._window.is_closed:
            self.has_lost_client = True
            self._window.close(CLIENT_GONE)
            written = protocol.written(self._request_id, loan.written_bytes)
            self._post([written, protocol.abort(self._request_id)])

        assert self._window.why_closed is not None
        return ClientDisconnected(self._window.why_closed)


def _check_part(data: object) -> None:
    if type(data) is not bytes:
        hint = ", encode it first" if isinstance(data, str) else ""
        raise TypeError(
            f"a part of a WSGI body is bytes, not {type(data).__name__}{hint}"
        )


def _parse_status(status: object) -> int:
    """Return the number of a status line such as `200 OK`."""
    if not isinstance(status, str):
        raise TypeError(f"status is a str such as '200 OK', not {status!r}")

    code, _, _ = status.partition(" ")

    if not (len(code) == 3 and code.isascii() and code.isdigit() and code >= "200"):
        raise ValueError(f"status is like '200 OK', from 200 to 999, not {status!r}")

    return int(code)


def _encode_headers(headers: object) -> list[tuple[bytes, bytes]]:
    """Return the headers as bytes, without those of the connection."""
    if not isinstance(headers, list | tuple):
        raise TypeError(
            f"headers are a list of (name, value) pairs, not {type(headers).__name__}"
        )

    encoded = []

    for pair in cast("Sequence[Any]", headers):
        try:
            name, value = pair
            pair = (name.encode("latin-1"), value.encode("latin-1"))
        except UnicodeEncodeError as exc:
            raise ValueError(f"a header is Latin-1 text: {exc}") from None
        except (TypeError, ValueError, AttributeError):
            raise TypeError(
                f"a header is a (name, value) pair of str, not {pair!r}"
            ) from None

        if name.lower() not in _HOP_BY_HOP:
            encoded.append(pair)

    return encoded
