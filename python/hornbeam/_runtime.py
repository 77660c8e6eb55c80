# SPDX-License-Identifier: Apache-2.0
"""The event loops that a worker can run on, behind one small interface.

The loop's own names don't appear above this module. All methods are for the loop's
thread, except `call_soon_threadsafe`.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Literal, Protocol, TypeAlias

from hornbeam._settings import LoopName

__all__ = ("LoopUnavailable", "Runtime", "Task", "Timer", "Waiter", "make_runtime")

RuntimeName: TypeAlias = Literal["asyncio", "uvloop", "trio"]
Main: TypeAlias = Callable[[], Coroutine[Any, Any, None]]


class Waiter(Protocol):
    """A one-time event."""

    def set(self) -> None:
        """Wake who waits; again does nothing."""

    def wait(self) -> Awaitable[None]:
        """Wait until `set` is called; only once, by one task."""


class Task(Protocol):
    """A running task."""

    def cancel(self) -> object:
        """Have it end by the loop's own kind of cancellation."""

    def done(self) -> bool:
        """Say whether it has ended."""


class Timer(Protocol):
    """A call that will happen."""

    def cancel(self) -> object:
        """Have it not happen."""


class Runtime(Protocol):
    """An event loop."""

    @property
    def name(self) -> RuntimeName: ...

    @property
    def is_eager(self) -> bool:
        """Whether `spawn` runs the task's first step before it returns."""

    @property
    def cancelled_error(self) -> type[BaseException]:
        """What a cancelled task gets thrown."""

    def run(self, main: Main) -> None:
        """Run the loop until `main` has ended; cancel what tasks are left."""

    def spawn(self, main: Main) -> Task:
        """Start a task in a fresh copy of the context that `run` was called in.

        `main` must not raise.
        """

    def create_waiter(self) -> Waiter:
        """Make an event for one task to wait for."""

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Call in the next turn of the loop."""

    def call_soon_threadsafe(self, callback: Callable[[], None]) -> None:
        """Call in a turn of the loop soon, from any thread; not after its end."""

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Call after so many seconds."""

    def add_reader(self, descriptor: int, callback: Callable[[], None]) -> None:
        """Call whenever the descriptor is readable."""

    def remove_reader(self, descriptor: int) -> None:
        """Call no more; does nothing if there is no reader."""

    def add_writer(self, descriptor: int, callback: Callable[[], None]) -> None:
        """Call whenever the descriptor is writable."""

    def remove_writer(self, descriptor: int) -> None:
        """Call no more; does nothing if there is no writer."""


class LoopUnavailable(Exception):
    """The wanted loop can't be imported.

    Args:
        loop: its name.
        message: what the import said.
    """

    loop: str
    message: str

    def __init__(self, loop: str, message: str) -> None:
        super().__init__(loop, message)
        self.loop = loop
        self.message = message


def make_runtime(loop: LoopName, threads: int) -> Runtime:
    """Make the runtime that the settings ask for.

    Args:
        loop: `auto` is uvloop where it can be imported, else asyncio.
        threads: size of the pool that asyncio runs blocking functions in.

    Raises:
        LoopUnavailable: the package is not installed, or does not work here.
    """
    if loop == "trio":
        try:
            trio = importlib.import_module("hornbeam._runtime_trio")
        except ImportError as exc:
            raise LoopUnavailable(loop, str(exc)) from exc

        return trio.TrioRuntime()  # type: ignore[no-any-return]  # imported by name

    from hornbeam._runtime_asyncio import AsyncioRuntime

    if loop == "asyncio":
        return AsyncioRuntime("asyncio", None, threads)

    try:
        uvloop = importlib.import_module("uvloop")
    except ImportError as exc:
        if loop == "auto":
            return AsyncioRuntime("asyncio", None, threads)

        raise LoopUnavailable(loop, str(exc)) from exc

    return AsyncioRuntime("uvloop", uvloop.new_event_loop, threads)
