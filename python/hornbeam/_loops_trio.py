# SPDX-License-Identifier: Apache-2.0
"""trio's part of `_loops`, apart because it imports trio."""

from __future__ import annotations

import contextvars
from collections.abc import Awaitable, Callable

import trio

from hornbeam._loops import Main

__all__ = ("TrioLoop", "TrioWaiter", "create_waiter", "current_loop")


class TrioWaiter:
    """A trio event that may be set from any thread."""

    __slots__ = ("_event", "_token")

    def __init__(self, token: trio.lowlevel.TrioToken) -> None:
        self._token = token
        self._event = trio.Event()

    def set(self) -> None:
        _call_threadsafe(self._token, self._event.set)

    def wait(self) -> Awaitable[None]:
        return self._event.wait()


class TrioLoop:
    """A run of trio. Tasks are system tasks, which end with it."""

    cancelled_error: type[BaseException] = trio.Cancelled

    def __init__(self, token: trio.lowlevel.TrioToken) -> None:
        self._token = token
        self._context = contextvars.copy_context()

    def is_current(self) -> bool:
        return _current_token() is self._token

    def spawn(self, main: Main) -> _TrioTask | None:
        task = _TrioTask(self._token, main)
        context = self._context.copy()

        def start() -> None:
            trio.lowlevel.spawn_system_task(task.run, context=context)

        return task if _call_threadsafe(self._token, start) else None


class _TrioTask:
    def __init__(self, token: trio.lowlevel.TrioToken, main: Main) -> None:
        self._token = token
        self._main = main
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        with self._scope:
            await self._main()

    def cancel(self) -> None:
        _call_threadsafe(self._token, self._scope.cancel)


def current_loop() -> TrioLoop | None:
    token = _current_token()
    return None if token is None else TrioLoop(token)


def create_waiter() -> TrioWaiter | None:
    token = _current_token()
    return None if token is None else TrioWaiter(token)


def _current_token() -> trio.lowlevel.TrioToken | None:
    try:
        return trio.lowlevel.current_trio_token()
    except RuntimeError:
        return None


def _call_threadsafe(
    token: trio.lowlevel.TrioToken, callback: Callable[[], object]
) -> bool:
    """Call in a turn of the loop; say whether it has not ended."""
    try:
        token.run_sync_soon(callback)
    except trio.RunFinishedError:
        return False

    return True
