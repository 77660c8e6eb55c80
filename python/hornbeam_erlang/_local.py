# SPDX-License-Identifier: Apache-2.0
"""The stand-in for the node where there is none: tests, a REPL, another server.

It lives in this process and forgets all with it. Values are kept as encoded and keys
are told apart as in Erlang, so that what can't cross fails alike.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Final

from hornbeam import _protocol as protocol
from hornbeam._channel import CallFailed
from hornbeam._etf import decode, encode
from hornbeam._terms import Atom

__all__ = ("LocalNode", "node")


class LocalNode:
    """Answers the calls of `docs/protocol.md` from a dict; for any number of threads.

    Args:
        clock: seconds that only go forward.
    """

    is_closed: Final = False

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        # Key -> value as encoded, and the instant from which on it is gone.
        self._rows: dict[Hashable, tuple[bytes, float | None]] = {}
        self._functions: Mapping[str, Callable[..., object]] = {
            "state_get": self._get,
            "state_set": self._set,
            "state_incr": self._incr,
            "state_delete": self._delete,
        }

    def call(self, function: Atom, args: tuple[object, ...]) -> object:
        """Answer a call.

        Raises:
            EncodeError: an argument has no Erlang form.
            CallFailed: as the node would fail.
        """
        # For the error alone, which is to be the same.
        protocol.call(0, function, args)
        answer = self._functions.get(function.name)

        if answer is None:
            raise CallFailed("unknown_function", {})

        with self._lock:
            return answer(*args)

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._rows.clear()

    def _get(self, key: object) -> bytes | None:
        row_key = _identify(key)
        row = self._rows.get(row_key)

        if row is None:
            return None

        encoded, expires = row

        if expires is not None and expires <= self._clock():
            del self._rows[row_key]
            return None

        return encoded

    def _set(self, key: object, encoded: bytes, ttl_ms: int | None) -> bool:
        expires = None if ttl_ms is None else self._clock() + ttl_ms / 1000
        self._rows[_identify(key)] = (encoded, expires)
        return True

    def _incr(self, key: object, delta: int) -> int:
        encoded = self._get(key)
        value = 0 if encoded is None else decode(encoded)

        if type(value) is not int:
            raise CallFailed("not_an_integer", {})

        row_key = _identify(key)
        _, expires = self._rows.get(row_key, (None, None))
        self._rows[row_key] = (encode(value + delta), expires)
        return value + delta

    def _delete(self, key: object) -> bool:
        was_there = self._get(key) is not None
        self._rows.pop(_identify(key), None)
        return was_there


def _identify(key: object) -> Hashable:
    """Return something equal and hashable for all keys that are one term in Erlang.

    str and bytes are both binaries there, 1 and 1.0 are two keys, and the order of a
    map's entries says nothing.
    """
    if isinstance(key, str):
        return key.encode()

    if isinstance(key, bytes | bytearray | memoryview):
        return bytes(key)

    if isinstance(key, list | tuple):
        return (type(key).__name__, *map(_identify, key))

    if isinstance(key, dict):
        return frozenset(
            (_identify(name), _identify(value)) for name, value in key.items()
        )

    # 1, 1.0 and True are equal in Python; 0.0 and -0.0 as well, which Erlang tells
    # apart from OTP 27 on.
    return (type(key).__name__, repr(key))


node: Final = LocalNode()
"""The one of this process."""
