# SPDX-License-Identifier: Apache-2.0
"""One run of a service: a call with one result, or a stream of items.

Each runs where its function belongs, on the event loop or in the pool, and changes over
where that shows only in what the function returns. Every run sends one `result` as its
last message, unless it was cancelled.

A stream computes its next item when it has credit for it, and only then: so a slow
consumer costs no memory, and one of a plain generator no thread.
"""

from __future__ import annotations

import inspect
import threading
import traceback
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from typing import Any, Final, Protocol, cast

from hornbeam import _protocol as protocol
from hornbeam._etf import encode
from hornbeam._loops import Loop, Main, Task, Waiter, create_waiter

__all__ = ("Call", "Run", "describe_failure", "make_run")

MAX_TEXT: Final = 16384
"""Longest text of an exception or its traceback that is sent, in characters."""


class Host(Protocol):
    """What runs need of the registry."""

    def send(self, encoded: bytes) -> None: ...
    def forget(self, invoke_id: int) -> None: ...
    def submit(self, work: Callable[[], None]) -> None: ...
    def spawn(self, loop: Loop | None, main: Main) -> Task: ...


class _Cancelled(Exception):
    """Nobody wants the items any more."""


class Call:
    """A function and its arguments."""

    __slots__ = ("_args", "_kwargs", "function")

    def __init__(
        self,
        function: Callable[..., Any],
        args: list[object],
        kwargs: dict[str, object],
    ) -> None:
        self.function = function
        self._args = args
        self._kwargs = kwargs

    def run(self) -> Any:
        return self.function(*self._args, **self._kwargs)

    def is_async(self) -> bool:
        """Whether it belongs on the event loop."""
        function: Any = self.function

        if not inspect.isroutine(function):
            function = getattr(function, "func", function)  # of a partial

        if not inspect.isroutine(function):
            function = type(function).__call__

        return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(
            function
        )


class Run:
    """A call with one result.

    Args:
        host: the registry.
        invoke_id: the node's number for it.
        call: what runs.
        loop: where the handler was registered.
    """

    def __init__(
        self, host: Host, invoke_id: int, call: Call, loop: Loop | None
    ) -> None:
        self._host = host
        self._invoke_id = invoke_id
        self._call = call
        self._loop = loop
        self._lock = threading.Lock()
        self._task: Task | None = None
        self._is_cancelled = False
        self._is_over = False

    def start(self) -> None:
        """Run, from now on or soon."""
        if self._call.is_async():
            self._spawn(self._run_in_task)
        else:
            self._host.submit(self._run_in_thread)

    def cancel(self) -> None:
        """End it, if it is a task; a thread goes on, for nobody."""
        with self._lock:
            self._is_cancelled = True
            task = self._task

        if task is not None:
            task.cancel()

    def add_credit(self, count: int) -> None:
        """Take credit for items, of which there are none."""

    def _spawn(self, main: Main) -> None:
        task = self._host.spawn(self._loop, main)

        with self._lock:
            self._task = task
            is_cancelled = self._is_cancelled

        if is_cancelled:
            task.cancel()

    async def _run_in_task(self) -> None:
        await self._guard(self._await_result(self._call.run))

    def _run_in_thread(self) -> None:
        if self._is_cancelled:
            self._finish()
            return

        try:
            value = self._call.run()
        except BaseException as exc:
            self._fail(exc)
            return

        if inspect.isawaitable(value):

            async def main() -> None:
                await self._guard(self._await_result(lambda: value))

            self._spawn(main)
        else:
            self._succeed(value)

    async def _guard(self, main: Any) -> None:
        """Report how it ends; let cancellation through, which belongs to the loop."""
        try:
            await main
        except Exception as exc:
            self._fail(exc)
        finally:
            # Of a cancelled one nobody wants to hear.
            self._finish()

    async def _await_result(self, run: Callable[[], Any]) -> None:
        value = run()

        if inspect.isawaitable(value):
            value = await value

        self._succeed(value)

    # The end; the first one counts.

    def _succeed(self, value: object) -> None:
        try:
            encoded = encode(value)
        except Exception as exc:
            self._fail(exc)
        else:
            self._finish(protocol.result(self._invoke_id, encoded))

    def _fail(self, error: BaseException) -> None:
        facts = describe_failure(error)
        self._finish(protocol.result_error(self._invoke_id, facts))

    def _finish(self, message: bytes | None = None) -> None:
        with self._lock:
            if self._is_over:
                return

            self._is_over = True

        self._host.forget(self._invoke_id)

        if message is not None:
            self._host.send(message)


class StreamRun(Run):
    """A stream of items."""

    def __init__(
        self, host: Host, invoke_id: int, call: Call, loop: Loop | None
    ) -> None:
        super().__init__(host, invoke_id, call, loop)
        self._credit = 0
        # There while a task waits for credit.
        self._waiter: Waiter | None = None
        # There while items come from a plain iterator.
        self._iterator: Iterator[object] | None = None
        self._is_stepping = False

    def add_credit(self, count: int) -> None:
        with self._lock:
            self._credit += count
            waiter, self._waiter = self._waiter, None

        if waiter is not None:
            waiter.set()

        self._step_soon()

    def cancel(self) -> None:
        super().cancel()
        self._step_soon()

    def _succeed(self, value: object) -> None:
        """Go on with what the function has returned; from its thread."""
        if isinstance(value, AsyncIterable):
            source = value

            async def main() -> None:
                await self._guard(self._iterate(source))

            self._spawn(main)
        elif isinstance(value, Iterable) and not isinstance(value, str | bytes | dict):
            with self._lock:
                self._iterator = iter(value)

            self._step_soon()
        else:
            kind = type(value).__name__
            self._fail(TypeError(f"a stream is an iterable of items, not {kind}"))

    async def _await_result(self, run: Callable[[], Any]) -> None:
        value = run()

        if inspect.isawaitable(value):
            value = await value

        if isinstance(value, AsyncIterable):
            await self._iterate(value)
            return

        self._succeed(value)

    async def _guard(self, main: Any) -> None:
        try:
            await main
        except Exception as exc:
            self._fail(exc)
        finally:
            if self._iterator is None:
                self._finish()

    # In a task.

    async def _iterate(self, source: AsyncIterable[object]) -> None:
        iterator = aiter(source)

        try:
            await self._produce_all(iterator)
        finally:
            close = getattr(iterator, "aclose", None)

            if close is not None:
                await close()

    async def _produce_all(self, iterator: AsyncIterator[object]) -> None:
        while True:
            await self._wait_for_credit()

            try:
                item = await anext(iterator)
            except StopAsyncIteration:
                self._finish(protocol.result(self._invoke_id, encode(None)))
                return

            self._produce(item)

    async def _wait_for_credit(self) -> None:
        while True:
            with self._lock:
                if self._credit > 0:
                    self._credit -= 1
                    return

                waiter = self._waiter = create_waiter()

            await waiter.wait()

    def _produce(self, item: object) -> None:
        self._host.send(protocol.produce(self._invoke_id, encode(item)))

    # In the pool.

    def _step_soon(self) -> None:
        with self._lock:
            if (
                self._iterator is None
                or self._is_stepping
                or self._is_over
                or (self._credit == 0 and not self._is_cancelled)
            ):
                return

            self._is_stepping = True

        self._host.submit(self._step)

    def _step(self) -> None:
        """Give items as long as there is credit."""
        iterator = cast("Iterator[object]", self._iterator)

        try:
            while self._take_credit():
                self._produce(next(iterator))
        except StopIteration:
            self._finish(protocol.result(self._invoke_id, encode(None)))
        except _Cancelled:
            self._close(iterator)
        except BaseException as exc:
            self._fail(exc)

    def _take_credit(self) -> bool:
        with self._lock:
            if self._is_cancelled:
                raise _Cancelled

            if self._credit == 0:
                self._is_stepping = False
                return False

            self._credit -= 1
            return True

    def _close(self, iterator: Iterator[object]) -> None:
        """Have a generator clean up; nobody hears of how that goes."""
        close = getattr(iterator, "close", None)

        try:
            if close is not None:
                close()
        except BaseException:
            traceback.print_exc()
        finally:
            self._finish()


def make_run(
    host: Host, invoke_id: int, call: Call, loop: Loop | None, *, is_stream: bool
) -> Run:
    """Make the run of an `invoke`."""
    kind = StreamRun if is_stream else Run
    return kind(host, invoke_id, call, loop)


def describe_failure(error: BaseException) -> dict[str, object]:
    """Return what the caller is told of an exception: its type, text and traceback."""
    kind = type(error)
    name = kind.__qualname__

    if kind.__module__ != "builtins":
        name = f"{kind.__module__}.{name}"

    try:
        reason = str(error)
        stack = "".join(traceback.format_exception(error))
    except Exception as exc:
        # An exception of the application may fail to show itself.
        reason = stack = f"(it can't be shown: {exc!r})"

    return {"class": name, "reason": reason[:MAX_TEXT], "stack": stack[-MAX_TEXT:]}
