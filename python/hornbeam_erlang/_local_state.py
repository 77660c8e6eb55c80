# SPDX-License-Identifier: Apache-2.0
"""The shared state of the stand-in: a dict that tells keys apart as Erlang does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Final, NamedTuple

from hornbeam._bridge import CallFailed
from hornbeam._etf import decode, decode_packet, encode, pack_batch
from hornbeam._terms import Atom

__all__ = ("LocalState",)

_LENGTH_BYTES: Final = 4
_KEY: Final = Atom("key")


class _Row(NamedTuple):
    key: bytes
    """The key as encoded."""
    value: bytes
    expires: float | None
    """The instant from which on it is gone."""


class LocalState:
    """Answers the calls `state_*` of `docs/protocol.md`; for any number of threads.

    Args:
        clock: seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._rows: dict[Hashable, _Row] = {}

    def get(self, key: object) -> bytes | None:
        with self._lock:
            return self._read(identify(key))

    def set(self, key: object, value: bytes, ttl_ms: int | None) -> bool:
        with self._lock:
            self._write(key, value, ttl_ms)
            return True

    def delete(self, key: object) -> bool:
        return self.pop(key) is not None

    def incr(self, key: object, delta: int) -> int:
        with self._lock:
            encoded = self._read(identify(key))
            value = 0 if encoded is None else decode(encoded)

            if type(value) is not int:
                raise CallFailed("not_an_integer", {})

            self._replace(key, encode(value + delta))
            return value + delta

    def get_multi(self, keys: list[object]) -> list[bytes | None]:
        with self._lock:
            return [self._read(identify(key)) for key in keys]

    def set_multi(self, pairs: list[tuple[object, bytes]], ttl_ms: int | None) -> bool:
        with self._lock:
            for key, value in pairs:
                self._write(key, value, ttl_ms)

            return True

    def keys(self, prefix: str | bytes | None) -> list[bytes]:
        wanted = prefix.encode() if isinstance(prefix, str) else prefix

        with self._lock:
            return [
                self._rows[name].key
                for name in list(self._rows)
                if self._read(name) is not None and _begins(name, wanted)
            ]

    def add(self, key: object, value: bytes, ttl_ms: int | None) -> bool:
        with self._lock:
            if self._read(identify(key)) is not None:
                return False

            self._write(key, value, ttl_ms)
            return True

    def cas(self, key: object, expected: bytes, new: bytes) -> bool:
        with self._lock:
            present = self._read(identify(key))

            if present is None or not _is_same(present, expected):
                return False

            self._replace(key, new)
            return True

    def pop(self, key: object) -> bytes | None:
        with self._lock:
            name = identify(key)
            value = self._read(name)
            self._rows.pop(name, None)
            return value

    def clear(self) -> None:
        with self._lock:
            self._rows.clear()

    # Rows; under the lock.

    def _read(self, name: Hashable) -> bytes | None:
        row = self._rows.get(name)

        if row is None:
            return None

        if row.expires is not None and row.expires <= self._clock():
            del self._rows[name]
            return None

        return row.value

    def _write(self, key: object, value: bytes, ttl_ms: int | None) -> None:
        expires = None if ttl_ms is None else self._clock() + ttl_ms / 1000
        self._rows[identify(key)] = _Row(_encode_key(key), value, expires)

    def _replace(self, key: object, value: bytes) -> None:
        """Write and let the row live as long as it would have."""
        row = self._rows.get(identify(key))
        expires = None if row is None else row.expires
        self._rows[identify(key)] = _Row(_encode_key(key), value, expires)


def identify(key: object) -> Hashable:
    """Return something equal and hashable for all keys that are one term in Erlang.

    str and bytes are both binaries there, True is the atom `true`, 1 and 1.0 are two
    keys, and the order of a map's entries says nothing.
    """
    return _identify_encoded(_encode_key(key))


def _encode_key(key: object) -> bytes:
    match key:
        case (Atom() as head, bytes() as encoded) if head == _KEY:
            return encoded

    return encode(key)


def _identify_encoded(encoded: bytes) -> Hashable:
    # As the protocol reads it: every binary is bytes.
    packet = pack_batch([encoded[1:]])
    return _freeze(decode_packet(packet[_LENGTH_BYTES:])[0])


def _freeze(term: object) -> Hashable:
    if isinstance(term, list | tuple):
        return (type(term).__name__, *map(_freeze, term))

    if isinstance(term, dict):
        return frozenset((_freeze(key), _freeze(value)) for key, value in term.items())

    # With the type, as 1, 1.0 and True are equal in Python.
    return (type(term).__name__, term)


def _begins(name: Hashable, prefix: bytes | None) -> bool:
    match name:
        case ("bytes", bytes() as text):
            return prefix is None or text.startswith(prefix)

    return prefix is None


def _is_same(present: bytes, expected: bytes) -> bool:
    """Tell whether two values are one term in Erlang."""
    return present == expected or (
        _identify_encoded(present) == _identify_encoded(expected)
    )
