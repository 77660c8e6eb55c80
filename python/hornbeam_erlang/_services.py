# SPDX-License-Identifier: Apache-2.0
"""Services under paths, in Python or Erlang, which run where they are registered."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Any, Final, cast

from hornbeam import _protocol as protocol
from hornbeam import _terms
from hornbeam._bridge import CallFailed
from hornbeam._etf import decode
from hornbeam._protocol import IncomingMessage
from hornbeam._slots import STREAM_CREDIT, Slot, StreamSlot
from hornbeam_erlang import _requests
from hornbeam_erlang._client import Request, ask, begin, bridge, send, translate

__all__ = (
    "AsyncStream",
    "Execution",
    "Stream",
    "await_result",
    "execute",
    "execute_async",
    "register_hook",
    "stream",
    "stream_async",
    "unregister_hook",
)

TIMEOUT_S: Final = 30.0


def register_hook(path: str, handler: object) -> None:
    """Offer a service under a path to all workers, Erlang processes and nodes.

    It lives as long as this worker, so each worker that is to run it registers it, best
    when its lifespan starts up. A call goes to one of them.

    Coroutine functions and asynchronous generators run on the event loop of the worker,
    all others in a pool of threads.

    Args:
        path: its name.
        handler: an object, whose methods are called by name; a class, which is made an
            object without arguments; or a function. One that is registered already is
            replaced.

    Raises:
        TypeError: path is no str.
        HornbeamError: the node can't be asked.
    """
    request = _requests.register_hook(path)
    hooks = bridge().hooks
    # Before the node knows: a call may come at once.
    hooks.add(path, handler)

    try:
        ask(request)
    except BaseException:
        hooks.remove(path)
        raise


def unregister_hook(path: str) -> bool:
    """Offer a service of this worker no more; say whether it did.

    Raises:
        HornbeamError: the node can't be asked.
    """
    request = _requests.unregister_hook(path)
    was_there = bridge().hooks.remove(path)
    ask(request)
    return was_there


def execute(
    path: str, *args: object, timeout: float | None = TIMEOUT_S, **kwargs: object
) -> Any:
    """Run a service and wait for its result.

    Don't wait in a coroutine for a service that may be one of this same worker and has
    coroutines: the event loop would wait for itself. Await `aio.execute` there.

    Args:
        path: of the service.
        args: the name of a method first if the service is an object; then its
            arguments.
        timeout: seconds until it is given up; None waits for ever.
        kwargs: its keyword arguments.

    Returns:
        What it returns.

    Raises:
        ServiceNotFound: (a LookupError) there is none; it lists similar paths.
        CallTimeout: (a TimeoutError) it took too long.
        RemoteError: it failed: class, reason and stack are those of its exception.
        ServiceDown: (a ConnectionError) its worker died meanwhile.
        EncodeError: an argument can't cross.
        HornbeamError: the node can't be asked.
    """
    return ask(_requests.execute(path, args, kwargs, timeout))


class Execution:
    """A service that runs; made by `execute_async`, for `await_result`."""

    __slots__ = ("_request", "_slot")

    def __init__(self, request: Request[Any]) -> None:
        self._request = request
        self._slot = begin(request)

    def __repr__(self) -> str:
        state = "done" if self.done() else "running"
        return f"<Execution of {self._request.subject!r}, {state}>"

    def done(self) -> bool:
        """Tell whether there is a result, or a failure."""
        return self._slot.done

    def wait(self, timeout: float | None = None) -> Any:
        """Wait for the result, in a thread; as `await_result`."""
        try:
            return decode(cast(bytes, bridge().caller.wait(self._slot, timeout)))
        except CallFailed as exc:
            raise translate(self._request, exc) from None

    async def wait_async(self) -> Any:
        """Wait for the result, in a task; as `aio.await_result`."""
        try:
            return decode(cast(bytes, await bridge().caller.wait_async(self._slot)))
        except CallFailed as exc:
            raise translate(self._request, exc) from None


def execute_async(
    path: str, *args: object, timeout: float | None = TIMEOUT_S, **kwargs: object
) -> Execution:
    """Have a service run, and go on; `await_result` gets the result.

    Args:
        path, args, timeout, kwargs: as for `execute`.

    Raises:
        EncodeError: an argument can't cross.
        HornbeamError: the node can't be asked.
    """
    return Execution(_requests.execute(path, args, kwargs, timeout))


def await_result(execution: Execution, timeout: float | None = None) -> Any:
    """Wait for what `execute_async` has begun; for one thread at a time.

    Args:
        execution: what it returned.
        timeout: seconds to wait; the service goes on, and this may be called again.
            None waits as long as the service may run.

    Raises:
        TimeoutError: it is not done yet.
        ServiceNotFound, CallTimeout, RemoteError, ServiceDown: as `execute`.
    """
    return execution.wait(timeout)


# Streams.


class _Consumer:
    """What both kinds of streams share: credit, and what messages mean."""

    __slots__ = ("_given", "_is_over", "_request", "_slot")

    def __init__(self, request: Request[int]) -> None:
        self._request = request
        self._slot = StreamSlot()
        self._given = 0
        self._is_over = False

    def close(self) -> None:
        """Want no more items; the service is told. Again does nothing."""
        if not self._is_over:
            self._is_over = True
            bridge().caller.close_stream(self._slot)

    def __del__(self) -> None:
        # It may not have come as far as having a slot.
        if not getattr(self, "_is_over", True):
            self.close()

    def _give_credit(self) -> None:
        """Ask for more at the half, so that items flow while these are worked on."""
        if self._given <= STREAM_CREDIT // 2:
            stream_id = cast(int, self._slot.stream_id)
            count = STREAM_CREDIT - self._given
            self._given = STREAM_CREDIT
            send(_requests.stream_credit(stream_id, count))

    def _read(self, message: IncomingMessage) -> tuple[Any] | None:
        """Return the item, None at the end."""
        head = message[0]

        if head == protocol.ITEM:
            self._given -= 1
            return (decode(cast(bytes, message[2])),)

        self._is_over = True

        if head == protocol.STREAM_END:
            return None

        name, facts = cast("tuple[_terms.Atom, dict[object, object]]", message[2])
        raise translate(self._request, CallFailed(name.name, facts))

    def _fail(self, failure: CallFailed) -> Exception:
        self._is_over = True
        return translate(self._request, failure)


class Stream(_Consumer):
    """Items of a service, for one thread; made by `stream`."""

    __slots__ = ()

    def __init__(self, request: Request[int]) -> None:
        super().__init__(request)
        slot = begin(request, self._slot)

        try:
            bridge().caller.wait(slot)
        except CallFailed as exc:
            raise self._fail(exc) from None

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._is_over:
            raise StopIteration

        self._give_credit()
        item = self._read(bridge().caller.take_item(self._slot))

        if item is None:
            raise StopIteration

        return item[0]


class AsyncStream(_Consumer):
    """Items of a service, for one task; made by `stream_async`."""

    __slots__ = ("_start",)

    def __init__(self, request: Request[int]) -> None:
        super().__init__(request)
        self._start: Slot | None = None

    async def __aenter__(self) -> AsyncStream:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        self.close()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def aclose(self) -> None:
        """Want no more items; as `close`."""
        self.close()

    async def __anext__(self) -> Any:
        if self._is_over:
            raise StopAsyncIteration

        if self._slot.stream_id is None:
            await self._open()

        self._give_credit()
        item = self._read(await bridge().caller.take_item_async(self._slot))

        if item is None:
            raise StopAsyncIteration

        return item[0]

    async def _open(self) -> None:
        """Call the service; a wait that was cancelled is gone on with."""
        if self._start is None:
            self._start = begin(self._request, self._slot)

        try:
            await bridge().caller.wait_async(self._start)
        except CallFailed as exc:
            raise self._fail(exc) from None


def stream(
    path: str, *args: object, timeout: float | None = TIMEOUT_S, **kwargs: object
) -> Stream:
    """Run a service that gives items, and iterate over them.

    The service computes no more than a few items ahead. It is told when the iteration
    ends: by `close()`, the end of a `with`, or when the iterator is let go of.

    Args:
        path, args, kwargs: as for `execute`.
        timeout: seconds to wait for an item; None waits for ever.

    Raises:
        ServiceNotFound, EncodeError, HornbeamError: at once, as `execute`.
        CallTimeout, RemoteError, ServiceDown: while iterating.
    """
    return Stream(_requests.stream(path, args, kwargs, timeout))


def stream_async(
    path: str, *args: object, timeout: float | None = TIMEOUT_S, **kwargs: object
) -> AsyncStream:
    """Run a service that gives items, and iterate with `async for`.

    In all else as `stream`; the service is called with the first item that is asked
    for, and errors come then.
    """
    return AsyncStream(_requests.stream(path, args, kwargs, timeout))
