# SPDX-License-Identifier: Apache-2.0
"""Messages on topics, to and from all workers and the Erlang code of all nodes."""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, Final, Generic, TypeAlias, TypeVar

from hornbeam._bridge import Bridge
from hornbeam._hub import Published
from hornbeam._loops import current_loop
from hornbeam._mailbox import Mailbox, MailboxClosed
from hornbeam_erlang import _requests
from hornbeam_erlang._client import ask, ask_async, bridge, send

__all__ = ("Callback", "Subscription", "publish", "subscribe")

Callback: TypeAlias = Callable[[str, Any], Awaitable[object] | object]
"""What is called with topic and message."""

MAX_QUEUE: Final = 1000

_Item = TypeVar("_Item")

_logger: Final = logging.getLogger("hornbeam_erlang")


def publish(topic: str, message: object) -> int:
    """Send a message to all who have subscribed to its topic, on all connected nodes.

    Args:
        topic: text in segments, which `:` or `/` separate; no pattern.
        message: anything that can cross. Each subscriber gets a copy.

    Returns:
        How many subscriptions it reached.

    Raises:
        EncodeError: the message can't cross.
        TypeError: the topic is no str.
        ValueError: the topic is empty or a pattern.
        HornbeamError: the node can't be asked.
    """
    return ask(_requests.publish(topic, message))


def subscribe(
    topic: str, callback: Callback | None = None, *, max_queue: int = MAX_QUEUE
) -> Subscription:
    """Get the messages on a topic.

    Without a callback it is an async context manager and iterator:

        async with subscribe("room:*") as messages:
            async for message in messages:
                print(messages.topic, message)

    With one, messages are on their way when this returns, until `close()` is called or
    the worker ends. A plain function is called on the event loop of the worker, so it
    must not block; a coroutine function is awaited, for one message after another.
    Exceptions of either go to the log.

    Args:
        topic: a topic, or a pattern: a segment `*` stands for any one segment, a last
            segment `#` for the rest.
        callback: called with topic and message.
        max_queue: how many messages may wait; beyond that the oldest is lost, which
            `dropped` counts.

    Raises:
        TypeError: the topic is no str, or max_queue no int.
        ValueError: the pattern is empty or has `#` in the midst, or max_queue is below
            1.
        HornbeamError: the node can't be asked.
    """
    subscription = Subscription(topic, max_queue)

    if callback is not None:
        subscription._start(callback)

    return subscription


class Subscription:
    """Messages on a topic, for one task. Made by `subscribe`."""

    pattern: str
    """What was subscribed to."""

    topic: str | None
    """The topic of the last message; None before there was one."""

    def __init__(self, pattern: str, max_queue: int = MAX_QUEUE) -> None:
        if isinstance(max_queue, bool) or not isinstance(max_queue, int):
            kind = type(max_queue).__name__
            raise TypeError(f"max_queue is an int, not {kind}")

        if max_queue < 1:
            raise ValueError(f"max_queue is at least 1, not {max_queue}")

        self._request = _requests.subscribe(pattern)
        self.pattern = pattern
        self.topic = None
        self._mailbox: Mailbox[Published] = Mailbox(max_queue)
        self._bridge: Bridge | None = None
        self._callback: Callback | None = None
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<Subscription {self.pattern!r}, {self.dropped} dropped>"

    @property
    def dropped(self) -> int:
        """How many messages were lost.

        Those that the node dropped because this worker did not read count for all its
        subscriptions, as it does not say of which topic they were.
        """
        return self._mailbox.dropped

    async def __aenter__(self) -> Subscription:
        """Subscribe.

        Raises:
            RuntimeError: it is in use already, or was closed.
            HornbeamError: the node can't be asked.
        """
        self._join()

        try:
            await ask_async(self._request)
        except BaseException:
            # The node may have it by now; if not, it does not mind.
            self.close()
            raise

        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        self.close()

    async def get(self) -> Any:
        """Wait for the next message.

        Raises:
            RuntimeError: nothing is subscribed, or another task waits already.
        """
        message = await self._take()

        if message is None:
            raise RuntimeError("this subscription was closed")

        return message.value()

    def __aiter__(self) -> AsyncIterator[Any]:
        """Iterate over messages.

        If nothing is subscribed yet it is for the iteration, which ends when it is let
        go of or its task is cancelled.
        """
        return _Messages(self, lambda message: message.value())

    def with_topics(self) -> AsyncIterator[tuple[str, Any]]:
        """Iterate over pairs of topic and message."""
        return _Messages(self, lambda message: (message.topic, message.value()))

    def close(self) -> None:
        """Get no more messages; again does nothing. From any thread."""
        bridge, self._bridge = self._bridge, None

        if bridge is None or self._is_closed:
            return

        self._is_closed = True
        self._mailbox.close()

        # Where it was not there, as in a fork, the node knows nothing of it.
        if bridge.hub.remove(self.pattern, self) and not bridge.caller.is_closed:
            send(_requests.unsubscribe(self.pattern))

    def is_idle(self) -> bool:
        """Tell whether it has not been used yet."""
        return self._bridge is None and not self._is_closed

    # For the hub.

    def deliver(self, message: Published) -> None:
        """Take a message."""
        if self._callback is None:
            self._mailbox.put(message)
        else:
            self._call(self._callback, message)

    def count_dropped(self, count: int) -> None:
        """Note that messages may be missing."""
        self._mailbox.count_dropped(count)

    # Inside.

    def _join(self) -> None:
        if self._bridge is not None or self._is_closed:
            state = "was closed" if self._is_closed else "is in use"
            raise RuntimeError(f"this subscription {state}; call subscribe() again")

        self._bridge = bridge()
        # Before the node is asked, so that no message is missed.
        self._bridge.hub.add(self.pattern, self)

    async def _take(self) -> Published | None:
        if self.is_idle():
            raise RuntimeError("not subscribed yet: use `async with subscribe(...)`")

        try:
            message = await self._mailbox.get()
        except MailboxClosed:
            return None

        self.topic = message.topic
        return message

    # With a callback.

    def _start(self, callback: Any) -> None:
        if not callable(callback):
            kind = type(callback).__name__
            raise TypeError(f"callback is a function of topic and message, not {kind}")

        is_async = inspect.iscoroutinefunction(callback)

        if not is_async:
            self._callback = callback

        self._join()

        try:
            ask(self._request)
        except BaseException:
            self.close()
            raise

        if is_async:
            bridge().hooks.spawn(current_loop(), lambda: self._feed(callback))

    async def _feed(self, callback: Callable[[str, Any], Awaitable[object]]) -> None:
        while True:
            message = await self._take()

            if message is None:
                return

            try:
                await callback(message.topic, message.value())
            except Exception:
                self._log(message)

    def _call(self, callback: Callback, message: Published) -> None:
        self.topic = message.topic

        try:
            callback(message.topic, message.value())
        except Exception:
            self._log(message)

    def _log(self, message: Published) -> None:
        _logger.exception("the callback for a message on %r failed", message.topic)


class _Messages(Generic[_Item]):
    """Iterates over a subscription; where nothing is subscribed, for its own life."""

    __slots__ = ("_is_owner", "_read", "_subscription")

    def __init__(
        self, subscription: Subscription, read: Callable[[Published], _Item]
    ) -> None:
        self._subscription = subscription
        self._read = read
        self._is_owner = False

    def __aiter__(self) -> AsyncIterator[_Item]:
        return self

    async def __anext__(self) -> _Item:
        if self._subscription.is_idle():
            self._is_owner = True
            await self._subscription.__aenter__()

        try:
            message = await self._subscription._take()
        except BaseException:
            # At once and not with the last reference, which the traceback may have.
            self._close_own()
            raise

        if message is None:
            raise StopAsyncIteration

        return self._read(message)

    def __del__(self) -> None:
        self._close_own()

    def _close_own(self) -> None:
        if self._is_owner:
            self._subscription.close()
