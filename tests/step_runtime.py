# SPDX-License-Identifier: Apache-2.0
"""A runtime without a loop, and sessions in it that a test moves step by step.

Nothing runs by itself: `turn()` lets every task that can go on do so, once, in the
order in which they came to be able to. So a test can have any number of things happen
between two turns, which no real loop lets it do at will, and nothing waits for real
time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any

from hornbeam import _asgi
from hornbeam._etf import decode_packet, pack_batch
from hornbeam._loan import LoanHost
from hornbeam._pacer import Pacer
from hornbeam._protocol import LogLevel
from hornbeam._session import Session
from hornbeam._terms import Atom

__all__ = ("Cancelled", "Puppet", "StepRuntime", "StepTask", "spend_turn")

Main = Callable[[], Coroutine[Any, Any, Any]]


def spend_turn(pacer: Pacer) -> None:
    """Have another response send all that may leave in this turn."""
    pacer.left_bytes = 1
    assert pacer.admits(1 << 30)
    pacer.left_bytes = 0


class Cancelled(BaseException):
    """What a cancelled task gets."""


class StepWaiter:
    """An event for one task."""

    def __init__(self, runtime: StepRuntime) -> None:
        self._runtime = runtime
        self._is_set = False
        self._task: StepTask | None = None

    def set(self) -> None:
        self._is_set = True

        if self._task is not None:
            self._runtime.make_ready(self._task)

    def wait(self) -> Awaitable[None]:
        return self._wait()

    async def _wait(self) -> None:
        assert self._task is None, "two tasks wait for one event"

        if not self._is_set:
            await self

    def __await__(self) -> Generator[StepWaiter, None, None]:
        self._task = self._runtime.running
        yield self


class StepTask:
    """A task that goes as far as it can when it is stepped.

    Args:
        runtime: that it belongs to.
        main: what it runs.
    """

    def __init__(self, runtime: StepRuntime, main: Main) -> None:
        self._runtime = runtime
        self._coroutine = main()
        self._is_cancelled = False
        self._is_done = False
        self.result: object = None
        self.error: BaseException | None = None

    def cancel(self) -> None:
        if not self._is_done:
            self._is_cancelled = True
            self._runtime.make_ready(self)

    def done(self) -> bool:
        return self._is_done

    def step(self) -> None:
        if self._is_done:
            return

        is_cancelled, self._is_cancelled = self._is_cancelled, False
        outer, self._runtime.running = self._runtime.running, self

        try:
            if is_cancelled:
                self._coroutine.throw(Cancelled())
            else:
                self._coroutine.send(None)
        except StopIteration as stop:
            self._is_done = True
            self.result = stop.value
        except BaseException as exc:
            self._is_done = True
            self.error = exc
        finally:
            self._runtime.running = outer

    def close(self) -> None:
        """Tear it down, as a loop that ends does."""
        self._coroutine.close()


class StepTimer:
    """A call that a test makes."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback = callback
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class StepRuntime:
    """See the module."""

    name = "asyncio"
    is_eager = False
    cancelled_error = Cancelled

    def __init__(self) -> None:
        self.running: StepTask | None = None
        self.timers: list[StepTimer] = []
        self._tasks: list[StepTask] = []
        self._ready: list[StepTask] = []
        self._callbacks: list[Callable[[], None]] = []

    def spawn(self, main: Main) -> StepTask:
        task = StepTask(self, main)
        self._tasks.append(task)
        self.make_ready(task)
        return task

    def start(self, main: Main) -> StepTask:
        """Spawn a task and let it go as far as it can at once."""
        task = StepTask(self, main)
        self._tasks.append(task)
        task.step()
        return task

    def create_waiter(self) -> StepWaiter:
        return StepWaiter(self)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> StepTimer:
        timer = StepTimer(callback)
        self.timers.append(timer)
        return timer

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)

    def make_ready(self, task: StepTask) -> None:
        if task not in self._ready:
            self._ready.append(task)

    def turn(self) -> bool:
        """Let tasks go on, then make calls; say whether there were any."""
        ready, self._ready = self._ready, []
        callbacks, self._callbacks = self._callbacks, []

        for task in ready:
            task.step()

        for callback in callbacks:
            callback()

        return bool(ready or callbacks)

    def settle(self) -> None:
        """Let tasks go on until all of them wait."""
        while self.turn():
            pass

    def close(self) -> None:
        """Tear down what is left."""
        for task in self._tasks:
            task.close()


class Puppet:
    """The host of one session, whose application does what the test says.

    `call` starts a task of the application, as `asyncio.create_task` would; the call of
    the application itself waits until it is told to `end`.

    Args:
        window_bytes: of the flow control.
    """

    session: Session

    def __init__(self, window_bytes: int) -> None:
        self.app: _asgi.AsgiApp = self._run
        self.runtime: Any = StepRuntime()
        self.window_bytes = window_bytes
        self.loans: LoanHost | None = None
        self.pacer = Pacer(lambda: self.runtime.call_soon(self.pacer.renew))
        self.sent: list[tuple[Any, ...]] = []
        """The messages of the session, headed by str."""
        self.received: list[_asgi.Message] = []
        """What the application has got."""
        self.is_over = False
        self.is_start_held = False
        self._end: StepWaiter = self.runtime.create_waiter()
        self._error: Exception | None = None
        self.on_sent: Callable[[tuple[Any, ...]], None] = _ignore
        """Called with each message of the session, as it is sent."""
        self.on_received: Callable[[_asgi.Message], None] = _ignore
        """Called with each message that the application gets."""

    # The host.

    def post(self, encoded: bytes) -> None:
        (message,) = decode_packet(pack_batch([encoded])[4:])
        assert isinstance(message, tuple)
        head, request_id, *fields = message
        assert request_id == 1
        sent = (head.name, *fields)
        self.sent.append(sent)
        self.on_sent(sent)

    def post_part(self, encoded: bytes) -> None:
        self.post(encoded)

    def claim(self, request_id: int, default: None, /) -> object:
        return True

    def note_held_start(self) -> None:
        self.is_start_held = True

    def log(self, level: LogLevel, text: str, request_id: int | None = None) -> None:
        pass

    def forget(self, request_id: int) -> None:
        assert not self.is_over
        self.is_over = True

    async def call_service(self, function: Atom, args: tuple[object, ...]) -> object:
        raise AssertionError("no topics here")

    async def _run(
        self, scope: _asgi.Scope, receive: _asgi.Receive, send: _asgi.Send
    ) -> None:
        await self._end.wait()

        if self._error is not None:
            raise self._error

    # For tests.

    def end(self, error: Exception | None = None) -> None:
        """Have the call of the application return, or raise that."""
        self._error = error
        self._end.set()

    def send(self, message: _asgi.Message) -> StepTask:
        """Let the application send."""
        return self._start(lambda: self._send(message))

    def receive(self) -> StepTask:
        """Let the application receive."""
        return self._start(self._receive)

    def _start(self, main: Main) -> StepTask:
        task: StepTask = self.runtime.start(main)
        return task

    async def _send(self, message: _asgi.Message) -> None:
        await self.session.send(message)

    async def _receive(self) -> None:
        message = await self.session.receive()
        self.received.append(message)
        self.on_received(message)


def _ignore(message: object) -> None:
    pass
