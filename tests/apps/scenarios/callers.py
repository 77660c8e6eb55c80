# SPDX-License-Identifier: Apache-2.0
"""Where an application's code can run; each runs a scenario to its end."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Awaitable, Callable

import anyio

from apps.scenarios import plain, tasks

THREADS = ("task", "endpoint_thread", "own_thread", "background")
"""Callers of the plain scenarios."""


async def run_plain(caller: str, name: str, key: str) -> str:
    """Run a plain scenario; return the traceback, or nothing."""
    outcome: list[str] = []

    def work() -> None:
        outcome.append(_report(lambda: plain.SCENARIOS[name](key)))

    await _CALLERS[caller](work)
    return outcome[0]


async def run_task(name: str, key: str) -> str:
    """Run a scenario that is a coroutine; return the traceback, or nothing."""
    try:
        await tasks.SCENARIOS[name](key)
    except Exception:
        return traceback.format_exc()

    return ""


def _report(work: Callable[[], None]) -> str:
    try:
        work()
    except Exception:
        return traceback.format_exc()

    return ""


async def _in_task(work: Callable[[], None]) -> None:
    work()


async def _in_endpoint_thread(work: Callable[[], None]) -> None:
    """As frameworks run a `def` endpoint."""
    await anyio.to_thread.run_sync(work)


async def _in_own_thread(work: Callable[[], None]) -> None:
    """In a thread that no framework knows of."""
    thread = threading.Thread(target=work)
    thread.start()
    await anyio.to_thread.run_sync(thread.join)


async def _in_background(work: Callable[[], None]) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(_in_task, work)


_CALLERS: dict[str, Callable[[Callable[[], None]], Awaitable[None]]] = {
    "task": _in_task,
    "endpoint_thread": _in_endpoint_thread,
    "own_thread": _in_own_thread,
    "background": _in_background,
}
