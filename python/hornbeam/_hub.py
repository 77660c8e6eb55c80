# SPDX-License-Identifier: Apache-2.0
"""Fans the messages on topics out to the subscriptions of this process.

A message crosses from the node once, however many subscriptions match. For any thread.
"""

from __future__ import annotations

import threading
from typing import Final, Protocol

from hornbeam import _topics
from hornbeam._etf import decode

__all__ = ("Hub", "Published", "Subscriber")

# What all subscribers may share, because nobody can change it.
_SHARED: Final = (str, bytes, int, float, type(None))


class Published:
    """A message on a topic; each subscriber that asks gets a copy of its own."""

    __slots__ = ("_encoded", "_is_shared", "_value", "topic")

    def __init__(self, topic: str, encoded: bytes) -> None:
        self.topic = topic
        self._encoded = encoded
        self._is_shared = False
        self._value: object = None

    def value(self) -> object:
        """Decode the message."""
        if self._is_shared:
            return self._value

        value = decode(self._encoded)

        if isinstance(value, _SHARED):
            self._value = value
            self._is_shared = True

        return value


class Subscriber(Protocol):
    """Who takes messages."""

    def deliver(self, message: Published) -> None:
        """Take a message; must not raise, nor wait."""

    def count_dropped(self, count: int) -> None:
        """Note that so many messages may be missing."""


class Hub:
    """The subscriptions of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Topic or pattern -> its subscribers, in order. Lists are replaced and never
        # changed, so that a delivery goes through the one that it has found.
        self._by_pattern: dict[str, tuple[Subscriber, ...]] = {}
        # The patterns with wildcards among them, split.
        self._wild: dict[str, tuple[str, ...]] = {}

    def add(self, pattern: str, subscriber: Subscriber) -> None:
        """Have a subscriber get what matches; one may be added many times."""
        with self._lock:
            present = self._by_pattern.get(pattern, ())
            self._by_pattern[pattern] = (*present, subscriber)

            if _topics.is_pattern(pattern):
                self._wild[pattern] = _topics.split(pattern)

    def remove(self, pattern: str, subscriber: Subscriber) -> bool:
        """Take back one `add`; say whether there was one."""
        with self._lock:
            left = list(self._by_pattern.get(pattern, ()))

            if subscriber not in left:
                return False

            left.remove(subscriber)

            if left:
                self._by_pattern[pattern] = tuple(left)
            else:
                del self._by_pattern[pattern]
                self._wild.pop(pattern, None)

            return True

    def deliver(self, topic: str, encoded: bytes) -> int:
        """Give a message to all whose pattern matches; return how many there are."""
        found = self._find(topic)

        if not found:
            return 0

        message = Published(topic, encoded)

        for subscriber in found:
            subscriber.deliver(message)

        return len(found)

    def count_dropped(self, count: int) -> None:
        """Tell all that the node has dropped messages; of whose topics is not known."""
        with self._lock:
            everyone = [
                subscriber
                for subscribers in self._by_pattern.values()
                for subscriber in subscribers
            ]

        for subscriber in everyone:
            subscriber.count_dropped(count)

    def clear(self) -> None:
        """Forget all subscriptions."""
        with self._lock:
            self._by_pattern.clear()
            self._wild.clear()

    def _find(self, topic: str) -> tuple[Subscriber, ...]:
        with self._lock:
            found = self._by_pattern.get(topic, ())

            if self._wild:
                segments = _topics.split(topic)

                for pattern, wanted in self._wild.items():
                    if _topics.matches(wanted, segments):
                        found += self._by_pattern[pattern]

            return found
