# SPDX-License-Identifier: Apache-2.0
"""Look at exceptions that an application let go."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import Final

from hornbeam._asgi import ClientDisconnected

__all__ = ("MAX_TEXT", "describe", "format_error", "is_disconnect")

MAX_TEXT: Final = 65536
"""Longest text of a traceback that is sent to the node's log, in characters."""

# Raised by Starlette when receive() gave `http.disconnect` or `websocket.disconnect`,
# or for an OSError of send(); known by their names, as it need not be installed.
_DISCONNECT_NAMES: Final = frozenset(("ClientDisconnect", "WebSocketDisconnect"))


def describe(error: BaseException) -> str:
    """Return type and text of an error, as the last line of its traceback has them."""
    return "".join(traceback.format_exception_only(type(error), error)).strip()


def format_error(error: BaseException) -> str:
    """Return the traceback without our own first frame; cut in the middle if long."""
    frames = error.__traceback__
    own = frames.tb_next if frames is not None else None

    try:
        text = "".join(traceback.format_exception(type(error), error, own)).rstrip()
    except Exception as exc:
        # An exception of the application may fail to show itself.
        return f"{type(error).__name__} (its traceback can't be shown: {exc!r})"

    if len(text) <= MAX_TEXT:
        return text

    half = MAX_TEXT // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters ...\n{text[-half:]}"


def is_disconnect(error: BaseException) -> bool:
    """Tell whether an error says no more than that the client has gone.

    So does a group of such errors, and one that was raised because of one.
    """
    members = getattr(error, "exceptions", None)

    # Groups by their attribute: Python 3.10 has them from a package.
    if isinstance(members, tuple):
        return bool(members) and all(map(is_disconnect, members))

    return any(
        isinstance(link, ClientDisconnected) or type(link).__name__ in _DISCONNECT_NAMES
        for link in _chain(error)
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error

    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__
