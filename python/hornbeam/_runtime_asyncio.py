# SPDX-License-Identifier: Apache-2.0
"""asyncio and uvloop."""

from __future__ import annotations

import asyncio
import contextvars
import sys
from asyncio import AbstractEventLoop, Future
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from hornbeam._runtime import Main, RuntimeName, Task, Timer, Waiter

__all__ = ("AsyncioRuntime",)

END_TIMEOUT_S: Final = 2.0
"""How long tasks that are left at the end may take to be cancelled."""


class AsyncioWaiter:
    """An asyncio future behind the interface of `Waiter`."""

    __slots__ = ("_future",)

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._future: Future[None] = loop.create_future()

    def set(self) -> None:
        if not self._future.done():
            self._future.set_result(None)

    def wait(self) -> Awaitable[None]:
        return self._future


class AsyncioRuntime:
    """asyncio's own loop, or uvloop's.

    Args:
        name: `asyncio` or `uvloop`.
        new_loop: makes the loop; None is asyncio's default.
        threads: size of the pool of `run_in_executor` and `to_thread`.
    """

    cancelled_error: Final = asyncio.CancelledError

    def __init__(
        self,
        name: RuntimeName,
        new_loop: Callable[[], AbstractEventLoop] | None,
        threads: int,
    ) -> None:
        self.name: RuntimeName = name
        # Task(eager_start=True) came with 3.12.
        self.is_eager = sys.version_info >= (3, 12)
        self._loop = (new_loop or asyncio.new_event_loop)()
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="hornbeam")
        self._loop.set_default_executor(self._executor)
        # Callbacks run in this context and not in the one of the task that happens to
        # schedule them, so that a request's tasks inherit nothing of another's.
        self._context = contextvars.copy_context()

    def run(self, main: Main) -> None:
        asyncio.set_event_loop(self._loop)
        self._context = contextvars.copy_context()

        try:
            self._loop.run_until_complete(main())
            self._cancel_rest()
        finally:
            # A thread of the application that does not end must not hold the worker
            # here.
            self._executor.shutdown(wait=False, cancel_futures=True)
            asyncio.set_event_loop(None)
            self._loop.close()

    def _cancel_rest(self) -> None:
        tasks = asyncio.all_tasks(self._loop)

        for task in tasks:
            task.cancel()

        if tasks:
            self._loop.run_until_complete(asyncio.wait(tasks, timeout=END_TIMEOUT_S))

        self._loop.run_until_complete(self._loop.shutdown_asyncgens())

    if sys.version_info >= (3, 12):

        def spawn(self, main: Main) -> Task:
            if self._loop.get_task_factory() is not None:
                return self._spawn_by_factory(main)

            # Callbacks run in our context, which the task copies.
            return asyncio.Task(main(), loop=self._loop, eager_start=True)
    else:

        def spawn(self, main: Main) -> Task:
            if self._loop.get_task_factory() is not None:
                return self._spawn_by_factory(main)

            # A task without a name formats one, which takes a quarter of its creation.
            return asyncio.Task(main(), loop=self._loop, name="hornbeam request")

    def _spawn_by_factory(self, main: Main) -> Task:
        """As the application wants its tasks made."""
        # Nobody knows whether they begin at once; if that is not counted on, what they
        # say leaves a turn later at worst.
        self.is_eager = False
        return self._loop.create_task(main())

    def create_waiter(self) -> Waiter:
        return AsyncioWaiter(self._loop)

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._loop.call_soon(callback, context=self._context)

    def call_soon_threadsafe(self, callback: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, context=self._context)
        except RuntimeError:
            if not self._loop.is_closed():
                raise

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        return self._loop.call_later(delay_s, callback, context=self._context)

    def add_reader(self, descriptor: int, callback: Callable[[], None]) -> None:
        # The handle copies the context that this is called in. A copy here too, as a
        # context can't be entered twice, and this may be called in it.
        self._context.copy().run(self._loop.add_reader, descriptor, callback)

    def remove_reader(self, descriptor: int) -> None:
        self._loop.remove_reader(descriptor)

    def add_writer(self, descriptor: int, callback: Callable[[], None]) -> None:
        self._context.copy().run(self._loop.add_writer, descriptor, callback)

    def remove_writer(self, descriptor: int) -> None:
        self._loop.remove_writer(descriptor)
