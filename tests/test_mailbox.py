# SPDX-License-Identifier: Apache-2.0
"""The queue of a subscription, on all loops."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest
import trio

from hornbeam._loops import create_waiter, current_loop
from hornbeam._mailbox import Mailbox, MailboxClosed

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]

RUNS: list[Run] = [
    lambda main: asyncio.run(main()),
    lambda main: trio.run(main),
]


@pytest.fixture(params=RUNS, ids=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Run:
    made: Run = request.param
    return made


def test_order_and_loss(run: Run) -> None:
    async def main() -> None:
        mailbox: Mailbox[int] = Mailbox(3)

        for n in range(5):
            mailbox.put(n)

        assert mailbox.dropped == 2
        mailbox.count_dropped(10)
        assert mailbox.dropped == 12
        assert [await mailbox.get() for _ in range(3)] == [2, 3, 4]

    run(main)


def test_other_threads_put(run: Run) -> None:
    async def main() -> None:
        mailbox: Mailbox[int] = Mailbox(1000)
        thread = threading.Thread(target=lambda: [*map(mailbox.put, range(500))])
        thread.start()
        assert [await mailbox.get() for _ in range(500)] == list(range(500))
        await anyio.to_thread.run_sync(thread.join)

    run(main)


def test_close(run: Run) -> None:
    """What is there is still given; who waits is woken."""

    async def main() -> None:
        mailbox: Mailbox[int] = Mailbox(3)
        mailbox.put(1)
        mailbox.close()
        mailbox.put(2)
        assert await mailbox.get() == 1

        with pytest.raises(MailboxClosed):
            await mailbox.get()

        waiting: Mailbox[int] = Mailbox(1)
        ended: list[bool] = []

        async def wait() -> None:
            with pytest.raises(MailboxClosed):
                await waiting.get()

            ended.append(True)

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            waiting.close()

        assert ended == [True]

    run(main)


def test_one_task_at_a_time(run: Run) -> None:
    async def main() -> None:
        mailbox: Mailbox[int] = Mailbox(1)

        async with anyio.create_task_group() as group:
            group.start_soon(mailbox.get)
            await anyio.wait_all_tasks_blocked()

            with pytest.raises(RuntimeError, match="another task waits"):
                await mailbox.get()

            group.cancel_scope.cancel()

        # The one that was cancelled is out of the way, and took nothing.
        mailbox.put(5)
        assert await mailbox.get() == 5

    run(main)


def test_no_loop() -> None:
    assert current_loop() is None

    with pytest.raises(RuntimeError, match="a task of asyncio or trio"):
        create_waiter()


def test_waiter_after_its_loop(run: Run) -> None:
    """Who comes too late does no harm."""
    waiters: list[Any] = []
    loops: list[Any] = []

    async def main() -> None:
        waiters.append(create_waiter())
        loop = current_loop()
        assert loop is not None
        assert loop.is_current()
        loops.append(loop)

    run(main)
    thread = threading.Thread(target=waiters[0].set)
    thread.start()
    thread.join()
    assert not loops[0].is_current()

    async def never() -> None:
        raise AssertionError

    assert loops[0].spawn(never) is None
