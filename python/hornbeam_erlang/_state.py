# SPDX-License-Identifier: Apache-2.0
"""State that all workers and the Erlang code of the node share.

Each function waits for its answer; `hornbeam_erlang.aio` has them as coroutines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from hornbeam._etf import decode
from hornbeam_erlang import _requests
from hornbeam_erlang._client import ask

__all__ = (
    "state_add",
    "state_cas",
    "state_decr",
    "state_delete",
    "state_get",
    "state_get_multi",
    "state_incr",
    "state_keys",
    "state_pop",
    "state_set",
    "state_set_multi",
    "state_update",
)


# `Any`: a value is what the application once put there.
def state_get(key: object, default: Any = None) -> Any:
    """Return the value under a key.

    Args:
        key: anything that can cross; a str and the bytes of its UTF-8 are one key.
        default: what to return if there is nothing.

    Raises:
        EncodeError: the key can't cross.
        UnknownAtom: the key has an atom that the node does not know.
        HornbeamError: the node can't be asked.
    """
    return ask(_requests.state_get(key, default))


def state_set(key: object, value: object, ttl: float | None = None) -> None:
    """Put a value under a key.

    Args:
        key: as for `state_get`.
        value: anything that can cross; Python gets back what Python set.
        ttl: after how many seconds it is gone again; None keeps it.

    Raises:
        EncodeError: key or value can't cross.
        StateFull: the state has reached its bound.
        TypeError: ttl is no number.
        ValueError: ttl is negative or not finite.
        HornbeamError: the node can't be asked.
    """
    ask(_requests.state_set(key, value, ttl))


def state_delete(key: object) -> bool:
    """Remove a key.

    Returns:
        Whether it was there.

    Raises:
        EncodeError: the key can't cross.
        HornbeamError: the node can't be asked.
    """
    return ask(_requests.state_delete(key))


def state_incr(key: object, delta: int = 1) -> int:
    """Add to the integer under a key, in one step for all workers.

    Args:
        key: as for `state_get`; if there is nothing under it, that counts as 0.
        delta: how much to add; may be negative.

    Returns:
        The new value. A ttl that the key has stays.

    Raises:
        NotAnInteger: (a TypeError) the value there is none; it names the key.
        TypeError: delta is no int.
        EncodeError: the key can't cross.
        StateFull: the state has reached its bound.
        HornbeamError: the node can't be asked.
    """
    return ask(_requests.state_incr(key, delta))


def state_decr(key: object, delta: int = 1) -> int:
    """Subtract from the integer under a key; otherwise as `state_incr`."""
    return ask(_requests.state_decr(key, delta))


def state_get_multi(keys: Iterable[Any]) -> dict[Any, Any]:
    """Return the values under several keys, in one round trip.

    Args:
        keys: hashable, and otherwise as for `state_get`.

    Returns:
        A dict of those keys that are there.

    Raises:
        EncodeError: a key can't cross; it says which.
        TypeError: a key is not hashable.
        HornbeamError: the node can't be asked.
    """
    return ask(_requests.state_get_multi(keys))


def state_set_multi(mapping: Mapping[Any, object], ttl: float | None = None) -> None:
    """Put several values under their keys, in one round trip: all of them, or none.

    Args:
        mapping: keys and values, each as for `state_set`.
        ttl: for all of them; as for `state_set`.

    Raises:
        EncodeError: a key or value can't cross; it says which.
        StateFull: they are more than there is room for; none was set.
        TypeError, ValueError: ttl is no such number.
        HornbeamError: the node can't be asked.
    """
    ask(_requests.state_set_multi(mapping, ttl))


def state_keys(prefix: str | bytes | None = None) -> list[Any]:
    """Return the keys that are text or bytes and begin with a prefix.

    The cost grows with the matches, not with what else there is.

    Args:
        prefix: None gives all keys, also those that are no text.

    Returns:
        The keys as they were set, in no particular order.

    Raises:
        TypeError: the prefix is neither text nor bytes.
        HornbeamError: the node can't be asked.
    """
    return ask(_requests.state_keys(prefix))


def state_add(key: object, value: object, ttl: float | None = None) -> bool:
    """Put a value under a key if there is nothing.

    Args:
        key, value, ttl: as for `state_set`.

    Returns:
        Whether it was put there.

    Raises:
        EncodeError, StateFull, TypeError, ValueError, HornbeamError: as `state_set`.
    """
    return ask(_requests.state_add(key, value, ttl))


def state_cas(key: object, expected: object, new: object) -> bool:
    """Compare and set: put a value under a key if a certain one is there.

    Args:
        key: as for `state_get`.
        expected: what has to be there; a key that is not there has no value, not None.
        new: what to put there. A ttl that the key has stays.

    Returns:
        Whether it was put there.

    Raises:
        EncodeError, StateFull, HornbeamError: as `state_set`.
    """
    return ask(_requests.state_cas(key, expected, new))


def state_pop(key: object, default: Any = None) -> Any:
    """Take the value under a key away; only one caller gets it.

    Args:
        key, default: as for `state_get`.

    Returns:
        The value, or the default if there was nothing.

    Raises:
        EncodeError: the key can't cross.
        HornbeamError: the node can't be asked.
    """
    return ask(_requests.state_pop(key, default))


def state_update(key: object, fn: Callable[[Any], Any], default: Any = None) -> Any:
    """Change the value under a key by a function, as if nobody else were there.

    Reads, calls, compares and sets; again from the beginning if somebody else has set
    another value meanwhile. So the function may be called several times.

    Args:
        key: as for `state_get`.
        fn: gets the value and returns the new one.
        default: what `fn` gets if there is nothing.

    Returns:
        The new value. A ttl that the key has stays.

    Raises:
        EncodeError, StateFull, HornbeamError: as `state_set`.
        Exception: whatever `fn` raises; then nothing is changed.
    """
    while True:
        encoded = ask(_requests.state_get_encoded(key))
        new = fn(default if encoded is None else decode(encoded))

        if encoded is None:
            request = _requests.state_add(key, new, None)
        else:
            request = _requests.state_cas_encoded(key, encoded, new)

        if ask(request):
            return new
