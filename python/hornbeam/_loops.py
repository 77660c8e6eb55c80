# SPDX-License-Identifier: Apache-2.0
"""The event loop that runs the calling task, whichever it is, as other threads use it.

`_runtime` is the worker's own loop. This is for code that may run on another one: an
application's thread with a loop of its own, or the tests of an application.
"""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from threading import get_ident
from typing import Any, Protocol, TypeAlias

__all__ = ("Loop", "Main", "Task", "Waiter", "create_waiter", "current_loop")

Main: TypeAlias = Callable[[], Coroutine[Any, Any, None]]


class Waiter(Protocol):
    """A one-time event for one task."""

    def set(self) -> None:
        """Wake who waits, from any thread; again does nothing."""

    def wait(self) -> Awaitable[object]:
        """Wait until `set` is called; only in the loop that made it."""


class Task(Protocol):
    """A task that was started from another thread."""

    def cancel(self) -> None:
        """Have it end by the loop's own kind of cancellation; from any thread."""


class Loop(Protocol):
    """An event loop, seen from any thread."""

    @property
    def cancelled_error(self) -> type[BaseException]:
        """What a cancelled task gets thrown."""

    def is_current(self) -> bool:
        """Whether it is the loop that runs the caller."""

    def spawn(self, main: Main) -> Task | None:
        """Start a task; `main` must not raise. None if the loop has ended."""


def current_loop() -> Loop | None:
    """Return the loop that runs the calling task; None outside of tasks."""
    try:
        return AsyncioLoop(asyncio.get_running_loop())
    except RuntimeError:
        pass

    # Who runs a trio task has imported it.
    if "trio" not in sys.modules:
        return None

    loop: Loop | None = importlib.import_module("hornbeam._loops_trio").current_loop()
    return loop


def create_waiter() -> Waiter:
    """Make an event for the calling task.

    Raises:
        RuntimeError: there is none.
    """
    try:
        return AsyncioWaiter(asyncio.get_running_loop())
    except RuntimeError:
        pass

    if "trio" in sys.modules:
        waiter: Waiter | None = importlib.import_module(
            "hornbeam._loops_trio"
        ).create_waiter()

        if waiter is not None:
            return waiter

    raise RuntimeError("this waits in a task of asyncio or trio, and there is none")


class AsyncioWaiter:
    """A future, as long as its loop runs."""

    __slots__ = ("_future", "_loop", "_thread")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread = get_ident()
        self._future: asyncio.Future[None] = loop.create_future()

    def set(self) -> None:
        if get_ident() == self._thread:
            self._settle()
        else:
            _call_threadsafe(self._loop, self._settle)

    def wait(self) -> Awaitable[None]:
        return self._future

    def _settle(self) -> None:
        if not self._future.done():
            self._future.set_result(None)


class AsyncioLoop:
    """asyncio's own loop, uvloop's or another of that interface."""

    cancelled_error: type[BaseException] = asyncio.CancelledError

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        # Tasks inherit nothing of who happens to cause them.
        self._context = contextvars.copy_context()
        # The loop itself only has weak references.
        self._tasks: set[asyncio.Task[None]] = set()

    def is_current(self) -> bool:
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False

    def spawn(self, main: Main) -> Task | None:
        task = _AsyncioTask(self, main)
        context = self._context.copy()
        return task if _call_threadsafe(self._loop, task.start, context) else None

    def create_task(self, main: Main) -> asyncio.Task[None]:
        task = self._loop.create_task(main())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def call(self, callback: Callable[[], object]) -> None:
        _call_threadsafe(self._loop, callback)


class _AsyncioTask:
    def __init__(self, loop: AsyncioLoop, main: Main) -> None:
        self._loop = loop
        self._main = main
        self._task: asyncio.Task[None] | None = None
        self._is_cancelled = False

    def start(self) -> None:
        if not self._is_cancelled:
            self._task = self._loop.create_task(self._main)

    def cancel(self) -> None:
        self._loop.call(self._cancel)

    def _cancel(self) -> None:
        self._is_cancelled = True

        if self._task is not None:
            self._task.cancel()


def _call_threadsafe(
    loop: asyncio.AbstractEventLoop,
    callback: Callable[[], object],
    context: contextvars.Context | None = None,
) -> bool:
    """Call in a turn of the loop; say whether it has not ended."""
    try:
        loop.call_soon_threadsafe(callback, context=context)
    except RuntimeError:
        if not loop.is_closed():
            raise

        return False

    return True


class BackgroundLoop:
    """An asyncio loop in a thread of its own, where there is no other; never ends."""

    cancelled_error: type[BaseException] = asyncio.CancelledError

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: AsyncioLoop | None = None

    def is_current(self) -> bool:
        return self._loop is not None and self._loop.is_current()

    def spawn(self, main: Main) -> Task | None:
        return self._running().spawn(main)

    def _running(self) -> AsyncioLoop:
        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                self._loop = AsyncioLoop(loop)
                name = "hornbeam stand-in"
                threading.Thread(
                    target=loop.run_forever, name=name, daemon=True
                ).start()

            return self._loop
