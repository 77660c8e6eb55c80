# SPDX-License-Identifier: Apache-2.0
"""State that all workers and the Erlang code of the node share."""

from __future__ import annotations

import math
from typing import Any, Final

from hornbeam._etf import decode
from hornbeam._terms import Atom
from hornbeam_erlang._client import call, encode_value

__all__ = ("state_decr", "state_delete", "state_get", "state_incr", "state_set")

_STATE_GET: Final = Atom("state_get")
_STATE_SET: Final = Atom("state_set")
_STATE_INCR: Final = Atom("state_incr")
_STATE_DELETE: Final = Atom("state_delete")


# `Any`: a value is what the application once put there.
def state_get(key: object, default: Any = None) -> Any:
    """Return the value under a key.

    Args:
        key: anything that can cross; a str and the bytes of its UTF-8 are one key.
        default: what to return if there is nothing.

    Raises:
        EncodeError: the key can't cross.
        HornbeamError: the node can't be asked.
    """
    encoded = call(_STATE_GET, (key,))

    if encoded is None:
        return default

    return decode(encoded)  # type: ignore[arg-type]  # bytes, says the protocol


def state_set(key: object, value: object, ttl: float | None = None) -> None:
    """Put a value under a key.

    Args:
        key: as for `state_get`.
        value: anything that can cross; Python gets back what Python set.
        ttl: after how many seconds it is gone again; None keeps it.

    Raises:
        EncodeError: key or value can't cross.
        TypeError: ttl is no number.
        ValueError: ttl is negative or not finite.
        HornbeamError: the node can't be asked.
    """
    ttl_ms = None if ttl is None else _milliseconds(ttl)
    call(_STATE_SET, (key, encode_value(value), ttl_ms))


def state_incr(key: object, delta: int = 1) -> int:
    """Add to the integer under a key, in one step for all workers.

    Args:
        key: as for `state_get`; if there is nothing under it, that counts as 0.
        delta: how much to add; may be negative.

    Returns:
        The new value.

    Raises:
        NotAnInteger: (a TypeError) the value there is none; it names the key.
        TypeError: delta is no int.
        EncodeError: the key can't cross.
        HornbeamError: the node can't be asked.
    """
    _check_delta(delta)
    return call(_STATE_INCR, (key, delta))  # type: ignore[return-value]  # by protocol


def state_decr(key: object, delta: int = 1) -> int:
    """Subtract from the integer under a key; otherwise as `state_incr`."""
    _check_delta(delta)
    return state_incr(key, -delta)


def state_delete(key: object) -> bool:
    """Remove a key.

    Returns:
        Whether it was there.

    Raises:
        EncodeError: the key can't cross.
        HornbeamError: the node can't be asked.
    """
    return bool(call(_STATE_DELETE, (key,)))


def _check_delta(delta: object) -> None:
    if type(delta) is bool or not isinstance(delta, int):
        raise TypeError(f"delta is an int, not {type(delta).__name__}")


def _milliseconds(ttl: float) -> int:
    if isinstance(ttl, bool) or not isinstance(ttl, int | float):
        raise TypeError(f"ttl is a number of seconds or None, not {type(ttl).__name__}")

    if not math.isfinite(ttl) or ttl < 0:
        raise ValueError(f"ttl is a number of seconds from 0 on, not {ttl}")

    # Up, so that a very short time is not none.
    return math.ceil(ttl * 1000)
