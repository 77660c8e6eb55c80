# SPDX-License-Identifier: Apache-2.0
"""The lifespan of an application: one task that lives as long as the worker.

Phases, and what moves them (`_advance` is the one place that does):

    STARTING ─ startup.complete ─▶ SERVING ─ stop() ─▶ STOPPING ─ .complete ─▶ STOPPED
       │ startup.failed               │ startup.failed    │ shutdown.failed, or too late
       ├──────────────▶ FAILED ◀──────┴───────────────────┘
       │ raises or returns first        or the application raises
       └──────────────▶ UNSUPPORTED

An application that returns after startup.complete has nothing to shut down: STOPPED.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, TypeAlias

from hornbeam._asgi import AsgiApp, AsgiOrderError, Message, message_type
from hornbeam._failure import describe, format_error
from hornbeam._protocol import LogLevel
from hornbeam._runtime import Runtime, Task, Waiter

__all__ = ("Lifespan", "Phase")

Log: TypeAlias = Callable[[LogLevel, str], None]
ShutdownOutcome: TypeAlias = Literal["complete", "failed"]


class Phase(enum.Enum):
    """Where a lifespan is."""

    STARTING = "starting"
    SERVING = "serving"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"
    UNSUPPORTED = "unsupported"


_TRANSITIONS: Final[Mapping[tuple[Phase, str], Phase]] = {
    (Phase.STARTING, "lifespan.startup.complete"): Phase.SERVING,
    (Phase.STARTING, "lifespan.startup.failed"): Phase.FAILED,
    (Phase.STARTING, "return"): Phase.UNSUPPORTED,
    (Phase.STARTING, "raise"): Phase.UNSUPPORTED,
    (Phase.SERVING, "lifespan.startup.failed"): Phase.FAILED,
    (Phase.SERVING, "shutdown"): Phase.STOPPING,
    (Phase.SERVING, "return"): Phase.STOPPED,
    (Phase.SERVING, "raise"): Phase.FAILED,
    (Phase.STOPPING, "lifespan.shutdown.complete"): Phase.STOPPED,
    (Phase.STOPPING, "lifespan.shutdown.failed"): Phase.FAILED,
    (Phase.STOPPING, "timeout"): Phase.FAILED,
    (Phase.STOPPING, "return"): Phase.STOPPED,
    (Phase.STOPPING, "raise"): Phase.FAILED,
}

_EXPECTED: Final[Mapping[Phase, str]] = {
    Phase.STARTING: "'lifespan.startup.complete' or 'lifespan.startup.failed'",
    Phase.SERVING: "nothing before receive() gives 'lifespan.shutdown'",
    Phase.STOPPING: "'lifespan.shutdown.complete' or 'lifespan.shutdown.failed'",
    Phase.STOPPED: "nothing more",
    Phase.FAILED: "nothing more",
    Phase.UNSUPPORTED: "nothing more",
}


class Lifespan:
    """The lifespan of one worker's application.

    Args:
        app: the application.
        runtime: the loop that it runs on.
        log: where an error goes that nobody waits for.
    """

    __slots__ = (
        "_app",
        "_changed",
        "_is_startup_given",
        "_log",
        "_runtime",
        "_shutdown_asked",
        "_task",
        "message",
        "phase",
        "state",
    )

    state: dict[str, Any]
    """What the application puts there is copied, shallow, into each request's scope."""
    message: str
    """Why it failed, or is not supported."""
    phase: Phase

    def __init__(self, app: AsgiApp, runtime: Runtime, log: Log) -> None:
        self.state = {}
        self.message = ""
        self.phase = Phase.STARTING
        self._app = app
        self._runtime = runtime
        self._log = log
        self._is_startup_given = False
        self._shutdown_asked = runtime.create_waiter()
        self._changed: Waiter | None = None
        self._task: Task | None = None

    # For the worker.

    async def start(self, timeout_s: float | None) -> bool:
        """Run the application's startup; `phase` tells how it ended.

        Returns:
            Whether it ended in time.
        """
        self._task = self._runtime.spawn(self._run)
        await self._wait_while(Phase.STARTING, timeout_s)

        if self.phase is Phase.SERVING:
            # An application that fails right after it said complete has failed to
            # start.
            await self._pass_turn()

        return self.phase is not Phase.STARTING

    async def stop(self, timeout_s: float | None) -> ShutdownOutcome:
        """Run the application's shutdown; `message` tells why it failed."""
        if self.phase is Phase.SERVING:
            self._advance("shutdown")
            self._shutdown_asked.set()
            await self._wait_while(Phase.STOPPING, timeout_s)

        if self.phase is Phase.STOPPING:
            self.message = f"no lifespan.shutdown.complete within {timeout_s:g} s"
            self._advance("timeout")

        self.cancel()
        return "complete" if self.phase is Phase.STOPPED else "failed"

    def cancel(self) -> None:
        """End the task, if it still runs."""
        if self._task is not None and not self._task.done():
            self._task.cancel()

    # For the application.

    async def receive(self) -> Message:
        """Give startup, and shutdown when its time has come."""
        if not self._is_startup_given:
            self._is_startup_given = True
            return {"type": "lifespan.startup"}

        await self._shutdown_asked.wait()
        # A further call waits until the task is cancelled.
        self._shutdown_asked = self._runtime.create_waiter()
        return {"type": "lifespan.shutdown"}

    async def send(self, message: Message) -> None:
        """Take the application's answer.

        Raises:
            AsgiOrderError: it is not the time for this one.
            TypeError: it is no ASGI message.
        """
        kind = message_type(message)

        if "." not in kind or (self.phase, kind) not in _TRANSITIONS:
            raise AsgiOrderError(_EXPECTED[self.phase], repr(kind))

        if kind.endswith(".failed"):
            self.message = str(message.get("message", ""))

        if self.phase is Phase.SERVING:
            self._log("error", f"lifespan failed while serving: {self.message}")

        self._advance(kind)

    # The task.

    async def _run(self) -> None:
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }

        try:
            await self._app(scope, self.receive, self.send)
        except BaseException as exc:
            self._raised(exc)
            return

        if self.phase is Phase.STARTING:
            self.message = "the application returned without an answer to startup"

        if (self.phase, "return") in _TRANSITIONS:
            self._advance("return")

    def _raised(self, error: BaseException) -> None:
        # After its own last word there is nothing to add; and a task that this class
        # has cancelled raises as well.
        if (self.phase, "raise") not in _TRANSITIONS:
            return

        was = self.phase
        self.message = describe(error)

        if was is not Phase.STARTING:
            self._log(
                "error", f"lifespan failed while {was.value}\n{format_error(error)}"
            )

        self._advance("raise")

    # Internal.

    def _advance(self, event: str) -> None:
        self.phase = _TRANSITIONS[self.phase, event]

        if self._changed is not None:
            self._changed.set()

    async def _wait_while(self, phase: Phase, timeout_s: float | None) -> None:
        if self.phase is not phase:
            return

        waiter = self._changed = self._runtime.create_waiter()
        timer = None

        if timeout_s is not None:
            timer = self._runtime.call_later(timeout_s, waiter.set)

        await waiter.wait()
        self._changed = None

        if timer is not None:
            timer.cancel()

    async def _pass_turn(self) -> None:
        waiter = self._runtime.create_waiter()
        self._runtime.call_soon(waiter.set)
        await waiter.wait()
