# SPDX-License-Identifier: Apache-2.0
"""The loops behind their interface: what each of them must do alike."""

from __future__ import annotations

import asyncio
import contextvars
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, cast

import pytest

from hornbeam import _runtime_asyncio
from hornbeam._runtime import LoopUnavailable, Runtime, make_runtime
from hornbeam._settings import LoopName
from worker_support import LOOPS, pass_turns, run, until

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")

on_each_loop = pytest.mark.parametrize("loop", LOOPS)


@on_each_loop
def test_name(loop: str) -> None:
    async def test(runtime: Runtime) -> None:
        assert runtime.name == loop
        assert runtime.is_eager == (loop != "trio" and sys.version_info >= (3, 12))

    run(test, loop)


@on_each_loop
def test_waiter(loop: str) -> None:
    async def test(runtime: Runtime) -> None:
        for is_early in (True, False):
            waiter = runtime.create_waiter()

            if is_early:
                waiter.set()
            else:
                runtime.call_soon(waiter.set)

            await waiter.wait()
            waiter.set()

    run(test, loop)


@on_each_loop
def test_cancelled_waiter_can_be_set(loop: str) -> None:
    async def test(runtime: Runtime) -> None:
        waiter = runtime.create_waiter()

        async def main() -> None:
            await waiter.wait()

        task = runtime.spawn(main)
        await pass_turns(runtime)
        task.cancel()
        await until(runtime, task.done)
        waiter.set()

    run(test, loop)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_factory_of_tasks(loop: str) -> None:
    """An application's own makes the tasks of requests too, as long as it is set."""
    made: list[str] = []

    async def test(runtime: Runtime) -> None:
        waiter = runtime.create_waiter()

        async def main() -> None:
            await waiter.wait()

        def make(its_loop: Any, coroutine: Any, **options: Any) -> Any:
            made.append(coroutine.__name__)
            return asyncio.Task(coroutine, loop=its_loop, **options)

        running = asyncio.get_running_loop()
        tasks = [runtime.spawn(main)]
        running.set_task_factory(make)
        tasks.append(runtime.spawn(main))
        assert made == ["main"]
        # Whether such tasks begin at once is the factory's affair.
        assert not runtime.is_eager
        running.set_task_factory(None)
        tasks.append(runtime.spawn(main))
        waiter.set()
        await asyncio.gather(*cast("list[asyncio.Task[None]]", tasks))
        assert made == ["main"]

    run(test, loop)


@on_each_loop
def test_cancelled_task_gets_the_error(loop: str) -> None:
    caught: list[BaseException] = []

    async def test(runtime: Runtime) -> None:
        async def main() -> None:
            try:
                await runtime.create_waiter().wait()
            except BaseException as exc:
                caught.append(exc)
                raise

        task = runtime.spawn(main)
        await pass_turns(runtime)
        assert not task.done()
        task.cancel()
        await until(runtime, task.done)
        assert isinstance(caught[0], runtime.cancelled_error)

    run(test, loop)


@on_each_loop
def test_calls_come_in_order(loop: str) -> None:
    async def test(runtime: Runtime) -> None:
        calls: list[int] = []

        for number in range(10):
            runtime.call_soon(partial(calls.append, number))

        assert calls == []
        await until(runtime, lambda: len(calls) == 10)
        assert calls == list(range(10))

    run(test, loop)


@on_each_loop
def test_call_from_a_thread_wakes_the_loop(loop: str) -> None:
    async def test(runtime: Runtime) -> None:
        waiter = runtime.create_waiter()
        timer = threading.Timer(0.02, runtime.call_soon_threadsafe, [waiter.set])
        timer.start()
        await waiter.wait()

    run(test, loop)


@on_each_loop
def test_call_after_the_end_is_not_made(loop: str) -> None:
    runtime = make_runtime(loop, 2)  # type: ignore[arg-type]  # one of LOOPS
    calls: list[int] = []

    async def main() -> None:
        pass

    runtime.run(main)
    runtime.call_soon_threadsafe(lambda: calls.append(1))
    assert calls == []


@on_each_loop
def test_timer(loop: str) -> None:
    async def test(runtime: Runtime) -> None:
        calls: list[str] = []
        waiter = runtime.create_waiter()
        began = time.monotonic()
        cancelled = runtime.call_later(0.005, lambda: calls.append("cancelled"))
        runtime.call_later(0.03, waiter.set)
        cancelled.cancel()
        await waiter.wait()
        # To the millisecond, as uvloop has it.
        assert time.monotonic() - began > 0.02
        assert calls == []

    run(test, loop)


@on_each_loop
def test_reader(loop: str) -> None:
    async def test(runtime: Runtime) -> None:
        read, write = os.pipe()
        got: list[bytes] = []

        def on_readable() -> None:
            got.append(os.read(read, 1))

            if len(got) == 2:
                runtime.remove_reader(read)

        runtime.add_reader(read, on_readable)
        os.write(write, b"abc")
        await until(runtime, lambda: len(got) == 2)
        await pass_turns(runtime, 20)
        assert got == [b"a", b"b"]
        # Again, and removed twice.
        runtime.add_reader(read, on_readable)
        await until(runtime, lambda: len(got) == 3)
        runtime.remove_reader(read)
        runtime.remove_reader(read)
        os.close(read)
        os.close(write)

    run(test, loop)


@on_each_loop
def test_writer(loop: str) -> None:
    async def test(runtime: Runtime) -> None:
        read, write = os.pipe()
        os.set_blocking(write, False)
        calls = 0

        def on_writable() -> None:
            nonlocal calls
            calls += 1

            if calls == 2:
                runtime.remove_writer(write)

        runtime.add_writer(write, on_writable)
        await until(runtime, lambda: calls == 2)
        await pass_turns(runtime)
        assert calls == 2

        fill(write)
        runtime.add_writer(write, on_writable)
        await pass_turns(runtime)
        assert calls == 2
        os.read(read, 1 << 20)
        await until(runtime, lambda: calls > 2)
        runtime.remove_writer(write)
        runtime.remove_writer(write)
        os.close(read)
        os.close(write)

    run(test, loop)


@on_each_loop
def test_writers_one_after_the_other(loop: str) -> None:
    """A descriptor may be closed, and its number another's, before the loop turns."""

    async def test(runtime: Runtime) -> None:
        for _ in range(20):
            read, write = os.pipe()
            fill(write)
            calls: list[str] = []
            runtime.add_writer(write, partial(calls.append, "first"))
            runtime.remove_writer(write)
            runtime.add_writer(write, partial(calls.append, "second"))
            await pass_turns(runtime, 2)
            assert not calls
            os.read(read, 1 << 20)
            await until(runtime, partial(bool, calls))
            runtime.remove_writer(write)
            assert set(calls) == {"second"}
            os.close(read)
            os.close(write)

    run(test, loop)


def fill(write: int) -> None:
    os.set_blocking(write, False)

    with suppress(BlockingIOError):
        while True:
            os.write(write, bytes(65536))


@on_each_loop
@pytest.mark.parametrize("how", ["now", "soon", "threadsafe", "reader", "again"])
def test_tasks_have_fresh_contexts(loop: str, how: str) -> None:
    """A task sees nothing of the one that was running when it was started."""
    seen: list[str] = []

    async def test(runtime: Runtime) -> None:
        async def main() -> None:
            seen.append(variable.get("none"))
            variable.set("of the task")

        def spawn() -> None:
            runtime.spawn(main)

        read, write = os.pipe()

        def on_readable() -> None:
            os.read(read, 1)
            runtime.remove_reader(read)
            spawn()

        starters: dict[str, Callable[[], object]] = {
            "now": lambda: runtime.call_soon(spawn),
            "soon": lambda: runtime.call_soon(lambda: runtime.call_soon(spawn)),
            "threadsafe": lambda: runtime.call_soon_threadsafe(spawn),
            "reader": lambda: runtime.add_reader(read, on_readable),
            "again": lambda: runtime.call_soon_threadsafe(
                lambda: runtime.add_reader(read, on_readable)
            ),
        }

        async def other() -> None:
            variable.set("of another one")
            starters[how]()
            starters["now"]()

        os.write(write, b"x")
        runtime.spawn(other)
        await until(runtime, lambda: len(seen) == 2)
        os.close(read)
        os.close(write)

    run(test, loop)
    assert seen == ["none", "none"]


@on_each_loop
def test_tasks_see_the_context_of_the_start(loop: str) -> None:
    """What was set before the loop began holds for all."""
    seen: list[str] = []

    async def test(runtime: Runtime) -> None:
        async def main() -> None:
            seen.append(variable.get("none"))

        def spawn() -> None:
            runtime.spawn(main)

        runtime.call_soon(spawn)
        await until(runtime, lambda: bool(seen))

    token = variable.set("from the start")
    run(test, loop)
    variable.reset(token)
    assert seen == ["from the start"]


@on_each_loop
def test_tasks_that_are_left_are_cancelled(loop: str) -> None:
    ended: list[str] = []

    async def test(runtime: Runtime) -> None:
        async def main() -> None:
            try:
                await runtime.create_waiter().wait()
            finally:
                ended.append("task")

        runtime.spawn(main)
        await pass_turns(runtime)

    run(test, loop)
    assert ended == ["task"]


def test_task_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that swallows its cancellation holds the end up for a bounded time."""
    monkeypatch.setattr(_runtime_asyncio, "END_TIMEOUT_S", 0.05)
    tasks: list[Any] = []
    swallowed: list[BaseException] = []

    async def wait() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError as exc:
            swallowed.append(exc)

    async def stubborn() -> None:
        while True:
            await wait()

    async def main() -> None:
        tasks.append(asyncio.ensure_future(stubborn()))
        await asyncio.sleep(0)

    began = time.monotonic()
    make_runtime("asyncio", 1).run(main)
    assert time.monotonic() - began < 10
    assert len(swallowed) == 1
    assert not tasks[0].done()
    # It is still there, and would complain of it.
    tasks[0]._log_destroy_pending = False
    tasks[0].get_coro().close()


def test_generators_are_closed() -> None:
    ended: list[str] = []

    async def generate() -> Any:
        try:
            yield 1
        finally:
            ended.append("generator")

    async def test(runtime: Runtime) -> None:
        generator = generate()
        ended.append(str(await generator.__anext__()))
        kept.append(generator)

    kept: list[Any] = []
    run(test)
    assert ended == ["1", "generator"]


def test_pool_size() -> None:
    async def test(runtime: Runtime) -> None:
        barrier = threading.Barrier(2)
        names: set[str] = set()

        def work() -> None:
            barrier.wait(10)
            names.add(threading.current_thread().name)

        await asyncio.gather(*(asyncio.to_thread(work) for _ in range(8)))
        assert len(names) == 2
        assert all(name.startswith("hornbeam") for name in names)

    run(test)


def test_loops_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("uvloop", "trio", "hornbeam._runtime_trio"):
        monkeypatch.setitem(sys.modules, name, None)

    loops: tuple[LoopName, ...] = ("uvloop", "trio")

    for loop in loops:
        with pytest.raises(LoopUnavailable) as caught:
            make_runtime(loop, 1)

        assert caught.value.loop == loop
        assert caught.value.message

    runtime = make_runtime("auto", 1)
    assert runtime.name == "asyncio"

    async def main() -> None:
        pass

    runtime.run(main)
