# SPDX-License-Identifier: Apache-2.0
"""The services that this process offers under paths, and who asks for them.

The node says `invoke`; `_hook_run` has the run that comes of it. Coroutine functions
and asynchronous generators run on the event loop, all else in a pool of threads. The
messages come from whichever thread reads the pipe, so nothing here waits.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, cast

from hornbeam import _protocol as protocol
from hornbeam._etf import decode
from hornbeam._hook_run import Call, Run, describe_failure, make_run
from hornbeam._loops import BackgroundLoop, Loop, Main, Task, current_loop
from hornbeam._protocol import IncomingMessage
from hornbeam._terms import Atom

__all__ = ("Hooks",)

DEFAULT_THREADS: Final = 8

_STREAM: Final = Atom("stream")


class Hooks:
    """Handlers by path, and their runs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handlers: dict[str, tuple[object, Loop | None]] = {}
        self._runs: dict[int, Run] = {}
        self._send: Callable[[bytes], None]
        self._loop: Loop | None = None
        self._background = BackgroundLoop()
        self._threads = DEFAULT_THREADS
        self._pool: ThreadPoolExecutor | None = None

    def attach(
        self,
        send: Callable[[bytes], None],
        loop: Loop | None = None,
        threads: int = DEFAULT_THREADS,
    ) -> None:
        """Say where results go and asynchronous handlers run.

        Args:
            send: sends a message to the node, from any thread.
            loop: None is the loop that registers them, where there is one.
            threads: size of the pool for the others.
        """
        self._send = send
        self._loop = loop
        self._threads = threads

    # The registry.

    def add(self, path: str, handler: object) -> None:
        """Register a handler, in place of one that is there; a class is called."""
        instance = handler() if inspect.isclass(handler) else handler

        with self._lock:
            self._handlers[path] = (instance, current_loop())

    def remove(self, path: str) -> bool:
        """Take a handler away; say whether there was one."""
        with self._lock:
            return self._handlers.pop(path, None) is not None

    def paths(self) -> list[str]:
        """Return the paths of all handlers."""
        with self._lock:
            return sorted(self._handlers)

    def clear(self) -> None:
        """Take all handlers away, and cancel what runs."""
        with self._lock:
            self._handlers.clear()
            runs = list(self._runs.values())

        for run in runs:
            run.cancel()

    # The node's messages.

    def handle_invoke(self, message: IncomingMessage) -> None:
        """Start a run."""
        _, invoke_id, path, method, args, kwargs, kind = cast(
            "tuple[Atom, int, bytes, bytes | None, bytes, bytes, Atom]", message
        )

        try:
            call, loop = self._find(path.decode(), method, args, kwargs)
        except Exception as exc:
            self._send(protocol.result_error(invoke_id, describe_failure(exc)))
            return

        run = make_run(self, invoke_id, call, loop, is_stream=kind is _STREAM)

        with self._lock:
            self._runs[invoke_id] = run

        run.start()

    def handle_cancel(self, message: IncomingMessage) -> None:
        """End a run: who asked has gone."""
        run = self._find_run(message)

        if run is not None:
            run.cancel()

    def handle_credit(self, message: IncomingMessage) -> None:
        """Let a run give more items."""
        run = self._find_run(message)

        if run is not None:
            run.add_credit(cast(int, message[2]))

    # For the runs.

    def send(self, encoded: bytes) -> None:
        """Send a message to the node."""
        self._send(encoded)

    def forget(self, invoke_id: int) -> None:
        """Take note that a run is over."""
        with self._lock:
            self._runs.pop(invoke_id, None)

    def submit(self, work: Callable[[], None]) -> None:
        """Do something in a thread of the pool."""
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(
                    self._threads, thread_name_prefix="hornbeam-service"
                )

            pool = self._pool

        pool.submit(work)

    def spawn(self, loop: Loop | None, main: Main) -> Task:
        """Start a task on the loop of a handler, or on another if that has ended."""
        for candidate in (self._loop, loop, self._background):
            task = None if candidate is None else candidate.spawn(main)

            if task is not None:
                return task

        raise AssertionError("the background loop never ends")

    # Finding.

    def _find_run(self, message: IncomingMessage) -> Run | None:
        with self._lock:
            return self._runs.get(cast(int, message[1]))

    def _find(
        self, path: str, method: bytes | None, args: bytes, kwargs: bytes
    ) -> tuple[Call, Loop | None]:
        with self._lock:
            found = self._handlers.get(path)

        if found is None:
            raise LookupError(f"this worker has no service {path!r} any more")

        handler, loop = found
        name = None if method is None else method.decode()
        given = cast("list[object]", decode(args))
        return resolve(handler, name, given, _read_keywords(kwargs)), loop


def resolve(
    handler: object,
    method: str | None,
    args: list[object],
    kwargs: dict[str, object],
) -> Call:
    """Find what to call.

    Of an object it is the method of that name. A function, and an object that has no
    such method but can be called, gets the name back as its first argument: whoever
    asked could not know.

    Raises:
        AttributeError: there is nothing to call.
    """
    is_object = not inspect.isroutine(handler) and not isinstance(
        handler, functools.partial
    )

    if is_object and method is not None and not method.startswith("_"):
        function = getattr(handler, method, None)

        if callable(function):
            return Call(function, args, kwargs)

    if callable(handler):
        return Call(handler, args if method is None else [method, *args], kwargs)

    names = [name for name in dir(handler) if not name.startswith("_")]
    methods = [name for name in names if callable(getattr(handler, name, None))]
    wanted = "no method named" if method is None else f"no method {method!r}"
    raise AttributeError(
        f"{type(handler).__name__} has {wanted}; it has {', '.join(methods) or 'none'}"
    )


def _read_keywords(encoded: bytes) -> dict[str, Any]:
    """Erlang code may write names as atoms."""
    given = cast("Mapping[object, object]", decode(encoded))
    return {
        name.name if isinstance(name, Atom) else str(name): value
        for name, value in given.items()
    }
