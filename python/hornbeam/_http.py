# SPDX-License-Identifier: Apache-2.0
"""One HTTP request: ASGI on one side, messages of the protocol on the other.

Pure but for what its host does: it posts messages, makes waiters and runs the task. The
node's messages come in through `add_body`, `acknowledge`, `disconnect` and `cancel`, by
the event loop. The response half is in `_http_response`.

The methods `send` and `receive` suspend only where they have to wait.
"""

from __future__ import annotations

from typing import Final, Protocol

from hornbeam import _protocol as protocol
from hornbeam._asgi import AsgiApp, Message, Scope
from hornbeam._failure import format_error, is_disconnect
from hornbeam._http_response import ResponseHost, ResponseSide
from hornbeam._protocol import LogLevel
from hornbeam._runtime import Task, Timer, Waiter

__all__ = ("HttpHost", "HttpSession")

CANCEL_GRACE_S: Final = 5.0
"""How long a cancelled request may clean up before that is worth a warning."""

_ERROR: Final = (500, b"Internal Server Error")
_UNAVAILABLE: Final = (503, b"Service Unavailable")


class HttpHost(ResponseHost, Protocol):
    """What the sessions of one worker share."""

    app: AsgiApp

    def log(self, level: LogLevel, text: str, request_id: int | None = None) -> None:
        """Write to the node's log."""

    def forget(self, request_id: int) -> None:
        """Take note that a request is over."""


class HttpSession(ResponseSide):
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
        "_host",
        "_is_body_complete",
        "_is_cancelled",
        "_is_started",
        "_is_stopping",
        "_is_waiting_told",
        "_received_bytes",
        "_receivers",
        "_scope",
        "_task",
        "_timer",
        "_unread",
    )

    def __init__(
        self, host: HttpHost, request_id: int, scope: Scope, body: bytes, more: bool
    ) -> None:
        # The method now: the scope is the application's, which may change it.
        super().__init__(host, request_id, is_head_request=scope["method"] == "HEAD")
        self._host = host
        self._scope = scope
        self._task: Task | None = None
        self._timer: Timer | None = None
        self._is_started = False
        self._is_cancelled = False
        self._is_stopping = False
        self._unread = [body] if body or not more else []
        self._is_body_complete = not more
        self._is_waiting_told = False
        self._received_bytes = len(body)
        self._credit_due_bytes = 0
        self._receivers: list[Waiter] = []

    def start(self) -> None:
        """Run the application, from now on or from the next turn on."""
        self._task = self._host.runtime.spawn(self.run)

    # What the node says.

    def add_body(self, part: bytes, more: bool) -> None:
        """Take a further part of the request's body."""
        if part or not more:
            self._unread.append(part)

        self._received_bytes += len(part)
        self._is_body_complete = not more
        self._is_waiting_told = False
        self._wake_receivers()

    def disconnect(self) -> None:
        """Note that the client has gone."""
        super().disconnect()
        self._wake_receivers()

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
            if not self._is_complete:
                self._handle_return()

        if self._timer is not None:
            self._timer.cancel()

        self._host.post(protocol.done(self._request_id))
        self._host.forget(self._request_id)

    def _handle_error(self, error: BaseException) -> None:
        cancelled_error = self._host.runtime.cancelled_error

        if self._is_cancelled and isinstance(error, cancelled_error):
            self._give_up(*_UNAVAILABLE)
            return

        if self._is_gone and is_disconnect(error):
            self._log("debug", "the application left as the client had gone")
        else:
            when = "after" if self._is_head_sent else "before"
            what = f"the application raised {when} the response started"

            if self._is_complete:
                what = "the application raised after the response was complete"

            self._log("error", f"{what}\n{format_error(error)}")

        self._give_up(*_ERROR)

    def _handle_return(self) -> None:
        """The application is satisfied, but the response is not complete."""
        if not self._is_gone and not self._is_cancelled:
            self._log("error", f"the application returned; expected {self._expected}")

        self._give_up(*(_UNAVAILABLE if self._is_stopping else _ERROR))

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
        if self._is_complete:
            return {"type": "http.disconnect"}

        if self._unread:
            return self._take_body()

        if self._is_gone:
            return {"type": "http.disconnect"}

        if not self._is_body_complete and not self._is_waiting_told:
            self._is_waiting_told = True
            self._send_credit()
            self._host.post(protocol.waiting(self._request_id, self._received_bytes))

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

    def _on_complete(self) -> None:
        if self._receivers:
            self._wake_receivers()

    def _wake_receivers(self) -> None:
        if self._receivers:
            for waiter in self._receivers:
                waiter.set()

            self._receivers.clear()
