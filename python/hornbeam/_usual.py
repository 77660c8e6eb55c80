# SPDX-License-Identifier: Apache-2.0
"""The usual case of what is done once per request: in C where that was built.

Both functions return None for what is not usual; the callers' Python code then does all
of it. So without the extension everything is the same, but slower. The codec that is
asked for (see `_etf`) decides on these too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, TypeAlias

from hornbeam._asgi import Scope
from hornbeam._etf import CODEC

__all__ = ("check_usual_headers", "load_usual", "make_usual_scope")

CheckedHeaders: TypeAlias = tuple[list[tuple[bytes, bytes]], int | None]


def _no_headers(_headers: object, _names: dict[bytes, bytes], /) -> None:
    return None


def _no_scope(
    _fields: object, _texts: dict[bytes, str], _state: Mapping[str, Any] | None, /
) -> None:
    return None


check_usual_headers: Callable[[object, dict[bytes, bytes]], CheckedHeaders | None]
make_usual_scope: Callable[
    [object, dict[bytes, str], Mapping[str, Any] | None], Scope | None
]


def load_usual(name: str) -> Any:
    """Return what the extension has under a name; None without one."""
    if CODEC != "c":
        return None

    try:
        return getattr(import_module("hornbeam._http_c"), name)
    except ImportError:
        return None


check_usual_headers = load_usual("check_headers") or _no_headers
make_usual_scope = load_usual("make_scope") or _no_scope
