# SPDX-License-Identifier: Apache-2.0
"""One request of a WSGI application (PEP 3333): a thread on one side, messages on the
other.

The node's messages come in through `add_body`, `acknowledge`, `disconnect` and
`cancel`, by the event loop; the application runs in a thread of the worker's pool, in a
context of its own. A thread can't be ended from outside: a request that is cancelled
notices when it reads or writes.
"""

from __future__ import annotations

import contextvars
import io
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol, TypeAlias

from hornbeam import _protocol as protocol
from hornbeam._asgi import ClientDisconnected
from hornbeam._failure import format_error, is_disconnect
from hornbeam._loan import LoanHost
from hornbeam._protocol import LogLevel
from hornbeam._wsgi_body import ErrorLog, FileWrapper, RequestBody
from hornbeam._wsgi_environ import Environ, EnvironFactory
from hornbeam._wsgi_response import CLIENT_GONE, WsgiResponse
from hornbeam._wsgi_window import ResponseWindow

__all__ = ("WsgiApp", "WsgiHost", "WsgiSession")

WsgiApp: TypeAlias = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]

BUFFER_BYTES: Final = 65536
"""How much of a body that is still arriving is read ahead."""

# Why nothing more comes, or goes out.
_TIME_OVER: Final = "the time for an answer was over"
_WORKER_ENDS: Final = "the worker is to end"

_ERROR: Final = (500, b"Internal Server Error")
_UNAVAILABLE: Final = (503, b"Service Unavailable")


class WsgiHost(Protocol):
    """What the requests of one worker share."""

    wsgi_app: WsgiApp
    environs: EnvironFactory
    window_bytes: int
    context: contextvars.Context

    def claim(self, request_id: int, default: None, /) -> object | None:
        """Begin a request; None if that is not to be any more (`Arrivals`)."""

    def submit(self, function: Callable[[], None]) -> None:
        """Call in a thread of the pool."""

    def send(self, messages: Sequence[bytes]) -> None:
        """Send messages to the node as one packet; from any thread."""

    def forget(self, request_id: int) -> None:
        """Take note that a request is over; from any thread."""

    def find_loans(self) -> LoanHost | None:
        """Return what large bodies are sent by; None: the node lends no sockets."""


class WsgiSession:
    """One request of one application.

    Args:
        host: what it shares with others.
        request_id: the node's number for it.
        fields: the node's scope.
        body: what is there of the request's body.
        more: whether more of it will come.
    """

    __slots__ = (
        "_body_changed",
        "_credit_due_bytes",
        "_environ",
        "_host",
        "_is_body_complete",
        "_is_gone",
        "_is_stopping",
        "_received_bytes",
        "_request_id",
        "_response",
        "_unread",
        "_window",
        "has_begun",
    )

    has_begun: bool
    """Whether the application runs."""

    def __init__(
        self, host: WsgiHost, request_id: int, fields: object, body: bytes, more: bool
    ) -> None:
        self._host = host
        self._request_id = request_id
        self._environ = host.environs.make(fields)
        self._window = ResponseWindow(host.window_bytes)
        self._response = WsgiResponse(
            request_id,
            self._window,
            host,
            is_head_request=self._environ["REQUEST_METHOD"] == "HEAD",
        )
        self.has_begun = False
        self._is_gone = False
        self._is_stopping = False
        # The body; where it is not all there, the thread waits for more.
        self._body_changed = threading.Condition(threading.Lock()) if more else None
        self._unread = deque([body] if body else ())
        self._is_body_complete = not more
        self._received_bytes = len(body)
        self._credit_due_bytes = 0

    @property
    def where(self) -> str:
        """What request it is, in words."""
        environ = self._environ
        return f"{environ.get('REQUEST_METHOD')} {environ.get('RAW_URI')}"

    def start(self) -> None:
        """Run the application in a thread."""
        context = self._host.context.copy()
        self._host.submit(lambda: context.run(self.run))

    # What the node says; in the event loop's thread.

    def add_body(self, part: bytes, more: bool) -> None:
        """Take a further part of the request's body."""
        assert self._body_changed is not None  # the node sends none after the last

        with self._body_changed:
            if part:
                self._unread.append(part)

            self._received_bytes += len(part)
            self._is_body_complete = not more
            self._body_changed.notify_all()

    def acknowledge(self, sent_bytes: int) -> None:
        """Note that the client has taken that much more of the response's body."""
        self._window.acknowledge(sent_bytes)

    def disconnect(self) -> None:
        """Note that the client has gone."""
        self._is_gone = True
        self._cut(CLIENT_GONE)

    def _cut(self, why: str) -> None:
        """Let whoever reads or writes notice that nothing comes of it any more."""
        self._window.close(why)

        if self._body_changed is not None:
            with self._body_changed:
                self._body_changed.notify_all()

        self._response.handle_refused()
        self._response.end_loan()

    def handle_opened(self) -> None:
        """Note that the node has opened the file that it was asked to send."""
        self._response.handle_opened()

    def handle_refused(self, reason: str, size_bytes: int) -> None:
        """Note that the node can't send the file: its bytes go as others do."""
        self._response.handle_refused()

    def take_loan(self, client: socket.socket | None) -> bool:
        """Take the client's socket; None: this process has no place for it.

        Returns:
            Whether it was taken.
        """
        return self._response.take_loan(client)

    def handle_kept(self) -> None:
        """Note that the node lends no socket for this."""
        self._response.handle_kept()

    def go_away(self) -> None:
        """Nothing: a request has `shutdown_timeout` to end."""

    def cancel(self) -> None:
        """Note that the client has its answer already."""
        self._is_gone = True
        self._cut(_TIME_OVER)

    def stop(self) -> None:
        """Note that the worker is about to leave."""
        self._is_stopping = True
        self._cut(_WORKER_ENDS)

    def send_held_start(self) -> None:
        """Nothing: heads go out with the first part of the body (PEP 3333)."""

    # The application's thread.

    def run(self) -> None:
        """Call the application; never raises."""
        if self._host.claim(self._request_id, None) is None:
            # Another worker has it.
            self._host.forget(self._request_id)
            return

        self.has_begun = True
        environ = self._environ
        log = ErrorLog(self._write_error)

        try:
            self._add_files(environ, log)
            result = self._host.wsgi_app(environ, self._response.start_response)
            self._send_result(result)
        except BaseException as exc:
            # SystemExit too: it would end the thread alone.
            self._handle_error(exc)

        log.flush()
        self._host.send([*self._response.held, protocol.done(self._request_id)])
        self._host.forget(self._request_id)

    def _add_files(self, environ: Environ, log: ErrorLog) -> None:
        environ["wsgi.errors"] = log
        environ["wsgi.early_hints"] = self._response.send_hints

        if not self._is_body_complete:
            environ["wsgi.input"] = io.BufferedReader(RequestBody(self), BUFFER_BYTES)
            return

        body = b"".join(self._unread)
        environ["wsgi.input"] = io.BytesIO(body)

        # As RFC 9112 7.1.3 has it for a body that is decoded. Many applications take
        # one without a length for none, or would decode it once more.
        is_chunked = environ.pop("HTTP_TRANSFER_ENCODING", None) is not None

        if (is_chunked or body) and "CONTENT_LENGTH" not in environ:
            environ["CONTENT_LENGTH"] = str(len(body))

    def _send_result(self, result: Iterable[bytes]) -> None:
        response = self._response
        close = getattr(result, "close", None)

        try:
            if isinstance(result, FileWrapper) and self._send_file(result):
                return

            if isinstance(result, list | tuple):
                response.finish(result, hold=close is None)
            else:
                for part in result:
                    response.write(part)

                response.finish(hold=close is None)
        finally:
            if close is not None:
                self._close(close)

    def _send_file(self, wrapper: FileWrapper) -> bool:
        """Have the node send a file that is worth it; say whether it does."""
        located = wrapper.locate()

        if located is None or located[2] <= self._host.window_bytes:
            return False

        return self._response.offer_file(*located)

    def _close(self, close: Callable[[], object]) -> None:
        try:
            close()
        except Exception as exc:
            self._log("error", f"close() of the body raised\n{format_error(exc)}")

    def _handle_error(self, error: BaseException) -> None:
        is_gone = self._is_gone or self._response.has_lost_client

        if is_gone and is_disconnect(error):
            self._log("debug", "the application left as the client had gone")
        elif self._is_stopping and is_disconnect(error):
            self._log("debug", "the application left as the worker is to end")
        else:
            self._log("error", f"{self._describe_error()}\n{format_error(error)}")

        if not is_gone:
            self._response.give_up(*(_UNAVAILABLE if self._is_stopping else _ERROR))

    def _describe_error(self) -> str:
        if self._response.is_complete:
            return "the application raised after the response was complete"

        when = "after" if self._response.is_head_sent else "before"
        return f"the application raised {when} the response started"

    def _log(self, level: LogLevel, text: str) -> None:
        text = f"{self.where}: {text}"
        self._host.send([protocol.log(level, text, self._request_id)])

    def _write_error(self, line: str) -> None:
        """Write a line of `wsgi.errors`."""
        self._host.send([protocol.log("error", line, self._request_id)])

    def take_body(self, limit_bytes: int) -> bytes:
        """Wait for body, return at most that much of it; `b""` at its end.

        Raises:
            ClientDisconnected: the end will not come; the text says why.
        """
        assert self._body_changed is not None  # else the application reads a BytesIO

        with self._body_changed:
            is_told = False

            while True:
                if self._unread:
                    return self._take_part(limit_bytes)

                if self._is_body_complete:
                    return b""

                why_cut = self._window.why_closed

                if why_cut is not None:
                    raise ClientDisconnected(f"the body ended too early: {why_cut}")

                if not is_told:
                    self._tell_waiting()
                    is_told = True

                self._body_changed.wait()

    def _tell_waiting(self) -> None:
        waiting = protocol.waiting(self._request_id, self._received_bytes)
        self._host.send([*self._due_credit(), waiting])

    def _take_part(self, limit_bytes: int) -> bytes:
        part = self._unread.popleft()

        if len(part) > limit_bytes:
            self._unread.appendleft(part[limit_bytes:])
            part = part[:limit_bytes]

        if not self._is_body_complete:
            self._credit_due_bytes += len(part)

            if self._credit_due_bytes * 4 >= self._host.window_bytes:
                self._host.send(self._due_credit())

        return part

    def _due_credit(self) -> list[bytes]:
        due_bytes, self._credit_due_bytes = self._credit_due_bytes, 0
        return [protocol.credit(self._request_id, due_bytes)] if due_bytes else []
