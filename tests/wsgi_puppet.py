# SPDX-License-Identifier: Apache-2.0
"""A WSGI application that does step by step what a test wants, in its thread.

One of the two threads moves at a time: the test acts, then waits until the application
waits, for the test or for the node. So what happens depends on the test alone.
"""

from __future__ import annotations

import io
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal
from unittest import mock

from fake_node import TIMEOUT_S
from hornbeam import _wsgi, _wsgi_response, _wsgi_window
from hornbeam._etf import decode_packet, pack_batch
from hornbeam._settings import Settings
from hornbeam._wsgi import WsgiSession
from hornbeam._wsgi_host import WsgiHost
from hornbeam._wsgi_threads import ThreadPool

Standing = Literal["running", "idle", "blocked", "over"]
Step = Callable[[], Any]
Sent = tuple[Any, ...]

POOL = ThreadPool(1)
"""Shared by all requests: one that keeps the thread is noticed by the next."""


class Return(Exception):
    """What a step raises to have the application return, with its value."""

    def __init__(self, value: object) -> None:
        super().__init__()
        self.value = value


class Leave(Exception):
    """What a step raises to have the application raise, with the error."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


class Stage:
    """Where the application's thread stands."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.standing: Standing = "running"

    def enter(self, standing: Standing) -> None:
        with self._changed:
            self.standing = standing
            self._changed.notify_all()

    def settle(self) -> Standing:
        """Wait until it waits."""
        with self._changed:
            moved = self._changed.wait_for(
                lambda: self.standing != "running", TIMEOUT_S
            )
            assert moved, "the application neither ends nor waits for anything known"

        return self.standing


def request_fields(
    method: bytes, headers: Sequence[tuple[bytes, bytes]] = ()
) -> tuple[object, ...]:
    """What the node says of a request for /x."""
    client, server = (b"127.0.0.1", 1), (b"127.0.0.1", 2)
    return (method, b"http", b"1.1", b"/x", b"", headers, client, server, {})


class Puppet:
    """One request; the test is its application and its node.

    Args:
        window_bytes: of a body, in each direction.
        method, body, more: of the request.
        is_claimed: False if another worker has it by then.
    """

    def __init__(
        self,
        window_bytes: int,
        *,
        method: bytes = b"GET",
        body: bytes = b"",
        more: bool = False,
        is_claimed: bool = True,
    ) -> None:
        self.stage = Stage()
        self.sent: list[Sent] = []
        self.on_sent: Callable[[Sent], None] = lambda message: None
        self.outcomes: list[tuple[object, type[BaseException] | None]] = []
        self.failures: list[AssertionError] = []
        self.calls = self.forgotten = 0
        self.environ: dict[str, Any] = {}
        self.start_response: Callable[..., Any] = lambda *_: None
        self._steps: queue.SimpleQueue[Step] = queue.SimpleQueue()
        self._undo = ExitStack()
        noted = _noted_threading(self.stage)

        for module in (_wsgi, _wsgi_response, _wsgi_window):
            self._undo.enter_context(mock.patch.object(module, "threading", noted))

        host = WsgiHost(
            self.app,
            Settings(app="x", threads=1, window_bytes=window_bytes),
            self.send,
            self.forget,
            lambda _request_id, _default: True if is_claimed else None,
            lambda: None,
        )
        host.submit = POOL.submit
        fields = request_fields(method)
        self.session: WsgiSession = host.make_session(1, fields, body, more)

    def close(self) -> None:
        self._undo.close()

    # The host.

    def send(self, messages: Sequence[bytes]) -> None:
        packet: Any = decode_packet(pack_batch(list(messages))[4:])

        for head, *fields in packet:
            # A log's first is no number.
            message = (head.name, *(fields if head.name == "log" else fields[1:]))
            self.sent.append(message)

            try:
                self.on_sent(message)
            except AssertionError as exc:
                # The application could catch it.
                self.failures.append(exc)

    def forget(self, request_id: int) -> None:
        assert request_id == 1
        self.forgotten += 1
        self.stage.enter("over")

    # The application.

    def app(self, environ: dict[str, Any], start_response: Any) -> Any:
        self.calls += 1
        self.environ, self.start_response = environ, start_response
        return self.obey()

    def obey(self) -> Any:
        """Take steps, until one makes the application return or raise."""
        while True:
            self.stage.enter("idle")
            step = self._steps.get()

            try:
                self.outcomes.append((step(), None))
            except Return as order:
                return order.value
            except Leave as order:
                raise order.error from None
            except Exception as exc:
                self.outcomes.append((None, type(exc)))

    # The test.

    def act(self, function: Callable[[], object]) -> Standing:
        """Do what the node does, and let the application run until it waits."""
        function()
        return self.settle()

    def do(self, step: Step) -> Standing:
        """Have the application do something, and run until it waits."""
        assert self.stage.standing == "idle"
        self.stage.enter("running")
        self._steps.put(step)
        return self.settle()

    def settle(self) -> Standing:
        standing = self.stage.settle()

        for failure in self.failures:
            raise failure

        return standing

    def is_thread_back(self) -> bool:
        """Whether the only thread of the pool takes another job."""
        done = threading.Event()
        POOL.submit(done.set)
        return done.wait(TIMEOUT_S)


class Body:
    """An iterable of which the test gives the parts."""

    def __init__(self, puppet: Puppet) -> None:
        self._puppet = puppet

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        part: bytes = self._puppet.obey()
        return part


@dataclass(slots=True)
class Closes:
    """Counts calls of `close()`.

    Args:
        error: what it raises.
    """

    error: type[Exception] | None
    count: int = 0

    def __call__(self) -> None:
        self.count += 1

        if self.error is not None:
            raise self.error("x")


class ClosableBody(Body):
    def __init__(self, puppet: Puppet, closes: Closes) -> None:
        super().__init__(puppet)
        self.close = closes


class ClosableList(list[bytes]):
    def __init__(self, parts: Sequence[bytes], closes: Closes) -> None:
        super().__init__(parts)
        self.close = closes


class CountedFile(io.FileIO):
    """A file that counts when it is closed, and not that it is once more."""

    def __init__(self, path: str, closes: Closes) -> None:
        super().__init__(path)
        self._closes = closes

    def close(self) -> None:
        if not self.closed:
            self._closes()

        super().close()


def _noted_threading(stage: Stage) -> SimpleNamespace:
    """Make what the session uses of `threading`, telling the stage who waits.

    Whoever wakes a thread notes so before it runs, or the test could take it for one
    that waits still.
    """

    class Condition(threading.Condition):
        has_waiter = False

        def wait(self, timeout: float | None = None) -> bool:
            assert timeout is None
            self.has_waiter = True
            stage.enter("blocked")
            return super().wait()

        def notify_all(self) -> None:
            if self.has_waiter:
                self.has_waiter = False
                stage.enter("running")

            super().notify_all()

    class Event(threading.Event):
        has_waiter = False

        def wait(self, timeout: float | None = None) -> bool:
            assert timeout is None

            if not self.is_set():
                self.has_waiter = True
                stage.enter("blocked")

            return super().wait()

        def set(self) -> None:
            if self.has_waiter:
                self.has_waiter = False
                stage.enter("running")

            super().set()

    return SimpleNamespace(Condition=Condition, Event=Event, Lock=threading.Lock)
