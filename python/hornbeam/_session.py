# SPDX-License-Identifier: Apache-2.0
"""What requests of all kinds share: the application's task, and waiting in receive().

Each of them may be answered with an HTTP response, a WebSocket's handshake too; so the
response half is a base class. What the two kinds do differently are the methods below
"For each kind".
"""

from __future__ import annotations

import time
from typing import Final, Protocol

from hornbeam import _protocol as protocol
from hornbeam._asgi import AsgiApp, Message
from hornbeam._failure import format_error, is_disconnect
from hornbeam._http_response import ResponseHost, ResponseSide
from hornbeam._protocol import LogLevel

__all__ = ("ERROR", "UNAVAILABLE", "Session", "SessionHost")

CANCEL_GRACE_S: Final = 5.0
"""How long a cancelled request may clean up before that is worth a warning."""

ERROR: Final = (500, b"Internal Server Error")
UNAVAILABLE: Final = (503, b"Service Unavailable")


class SessionHost(ResponseHost, Protocol):
    """What the sessions of one worker share."""

    app: AsgiApp

    def claim(self, request_id: int, default: None, /) -> object | None:
        """Begin a request; None if that is not to be any more (`Arrivals`)."""

    def log(self, level: LogLevel, text: str, request_id: int | None = None) -> None:
        """Write to the node's log."""

    def forget(self, request_id: int) -> None:
        """Take note that a request is over."""


class Session(ResponseSide):
    """One request of one application; `_begin` comes before all else."""

    __slots__ = ()

    _host: SessionHost

    def start(self) -> None:
        """Run the application, from now on or from the next turn on."""
        self._task = self._host.runtime.spawn(self.run)

    # For each kind.

    def _receive_nowait(self) -> Message | None:
        """Return what receive() gives, None if it has to wait."""
        raise AssertionError("each kind has its own")

    @property
    def _where(self) -> str:
        """What request it is, in words."""
        raise AssertionError("each kind has its own")

    @property
    def _progress(self) -> str:
        """How far it has come, in words that go on after "the application raised"."""
        raise AssertionError("each kind has its own")

    def _conclude(self, answer: tuple[int, bytes]) -> None:
        """End what the application did not, as well as that can be done now.

        Args:
            answer: status and body where no response has started.
        """
        self._give_up(*answer)

    def go_away(self) -> None:
        """Note that the worker is to end; what can take its time is told so."""

    # For the watchdog; from any thread.

    @property
    def has_begun(self) -> bool:
        """Whether the application runs."""
        return self._is_started

    @property
    def where(self) -> str:
        """What request it is, in words."""
        return self._where

    # What the node says.

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
        self._cancelled_s = time.monotonic()
        self._timer = self._host.runtime.call_later(
            CANCEL_GRACE_S, self._warn_of_survivor
        )

        # A task that is cancelled before its first step never runs: run() looks itself.
        if self._is_started and self._task is not None:
            self._task.cancel()

    def _warn_of_survivor(self) -> None:
        self._is_reported = True
        self._log(
            "warning",
            f"was cancelled {CANCEL_GRACE_S:g} s ago and still runs: "
            "the application swallowed the cancellation",
        )

    # The task.

    async def run(self) -> None:
        """Call the application; never raises."""
        self._is_started = True

        if self._host.claim(self._request_id, None) is None:
            # Another worker has it, and the node knows.
            self._leave()
            return

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

        if self._is_reported:
            seconds = time.monotonic() - self._cancelled_s
            self._log("warning", f"has ended, {seconds:.1f} s after it was cancelled")

        self._host.post(protocol.done(self._request_id))
        self._leave()

    def _leave(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

        self._host.forget(self._request_id)

    def _handle_error(self, error: BaseException) -> None:
        cancelled_error = self._host.runtime.cancelled_error

        if self._is_cancelled and isinstance(error, cancelled_error):
            self._conclude(UNAVAILABLE)
            return

        if self._is_gone and is_disconnect(error):
            self._log("debug", "the application left as the client had gone")
        else:
            text = f"the application raised {self._progress}\n{format_error(error)}"
            self._log("error", text)

        self._conclude(ERROR)

    def _handle_return(self) -> None:
        """The application is satisfied, but the request is not answered in full."""
        if not self._is_gone and not self._is_cancelled:
            self._log("error", f"the application returned; expected {self._expected}")

        self._conclude(UNAVAILABLE if self._is_stopping else ERROR)

    def _log(self, level: LogLevel, text: str) -> None:
        self._host.log(level, f"{self._where}: {text}", self._request_id)

    # receive()

    async def receive(self) -> Message:
        """Give the next message of the client, or its end; wait until there is one."""
        while True:
            message = self._receive_nowait()

            if message is not None:
                return message

            waiter = self._host.runtime.create_waiter()

            if self._receivers is None:
                self._receivers = []

            self._receivers.append(waiter)

            try:
                await waiter.wait()
            finally:
                if waiter in self._receivers:
                    self._receivers.remove(waiter)

    def _on_complete(self) -> None:
        if self._receivers:
            self._wake_receivers()

    def _wake_receivers(self) -> None:
        if self._receivers:
            for waiter in self._receivers:
                waiter.set()

            self._receivers.clear()
