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
from hornbeam._bridge import CallFailed
from hornbeam._etf import decode, decode_packet, encode, encode_message, pack_batch
from hornbeam._terms import Atom

__all__ = ("LocalNode", "node")

_LENGTH_BYTES: Final = 4


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

    str and bytes are both binaries there, True is the atom `true`, 1 and 1.0 are two
    keys, and the order of a map's entries says nothing.
    """
    packet = pack_batch([encode_message((key,))])
    return _freeze(decode_packet(packet[_LENGTH_BYTES:]))


def _freeze(term: object) -> Hashable:
    if isinstance(term, list | tuple):
        return (type(term).__name__, *map(_freeze, term))

    if isinstance(term, dict):
        return frozenset((_freeze(key), _freeze(value)) for key, value in term.items())

    # With the type, as 1, 1.0 and True are equal in Python.
    return (type(term).__name__, term)


node: Final = LocalNode()
"""The one of this process."""
