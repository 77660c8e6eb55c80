# SPDX-License-Identifier: Apache-2.0
"""trio."""

from __future__ import annotations

import contextvars
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from hornbeam._runtime import Main, RuntimeName, Task, Timer, Waiter

__all__ = ("TrioRuntime",)


class TrioWaiter:
    """A trio event behind the interface of `Waiter`."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = trio.Event()

    def set(self) -> None:
        self._event.set()

    def wait(self) -> Awaitable[None]:
        return self._event.wait()


class TrioTask:
    """A task of the nursery with a cancel scope of its own."""

    __slots__ = ("_is_done", "_main", "_scope")

    def __init__(self, main: Main) -> None:
        self._main = main
        self._scope = trio.CancelScope()
        self._is_done = False

    async def run(self) -> None:
        try:
            with self._scope:
                await self._main()
        finally:
            self._is_done = True

    def cancel(self) -> None:
        self._scope.cancel()

    def done(self) -> bool:
        return self._is_done


class TrioRuntime:
    """trio's loop. Tasks live in one nursery, which `run` opens."""

    name: Final[RuntimeName] = "trio"
    is_eager: Final = False
    cancelled_error: Final = trio.Cancelled

    def __init__(self) -> None:
        self._context = contextvars.copy_context()
        self._readers: dict[int, Task] = {}
        self._writers: dict[int, Task] = {}
        self._nursery: trio.Nursery
        self._token: trio.lowlevel.TrioToken

    def run(self, main: Main) -> None:
        trio.run(self._run, main)

    async def _run(self, main: Main) -> None:
        self._context = contextvars.copy_context()
        self._token = trio.lowlevel.current_trio_token()

        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await main()
            nursery.cancel_scope.cancel()

    def spawn(self, main: Main) -> Task:
        task = TrioTask(main)
        # The task copies the context that start_soon() is called in.
        self._context.copy().run(self._nursery.start_soon, task.run)
        return task

    def create_waiter(self) -> Waiter:
        return TrioWaiter()

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._token.run_sync_soon(callback)

    def call_soon_threadsafe(self, callback: Callable[[], None]) -> None:
        try:
            self._token.run_sync_soon(callback)
        except trio.RunFinishedError:
            pass

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        async def wait() -> None:
            await trio.sleep(delay_s)
            callback()

        return self.spawn(wait)

    def add_reader(self, descriptor: int, callback: Callable[[], None]) -> None:
        self._readers[descriptor] = self._watch(
            trio.lowlevel.wait_readable, descriptor, callback
        )

    def remove_reader(self, descriptor: int) -> None:
        _cancel(self._readers.pop(descriptor, None))

    def add_writer(self, descriptor: int, callback: Callable[[], None]) -> None:
        self._writers[descriptor] = self._watch(
            trio.lowlevel.wait_writable, descriptor, callback
        )

    def remove_writer(self, descriptor: int) -> None:
        _cancel(self._writers.pop(descriptor, None))

    def _watch(
        self,
        wait: Callable[[int], Awaitable[None]],
        descriptor: int,
        callback: Callable[[], None],
    ) -> Task:
        async def watch() -> None:
            while True:
                # It may have been removed meanwhile, and closed: then its number may be
                # that of another, for which another task waits.
                await trio.lowlevel.checkpoint_if_cancelled()
                await wait(descriptor)
                callback()

        return self.spawn(watch)


def _cancel(watcher: Task | None) -> None:
    if watcher is not None:
        watcher.cancel()
