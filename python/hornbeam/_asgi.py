# SPDX-License-Identifier: Apache-2.0
"""The types of the ASGI interface, and the errors that an application gets from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

__all__ = (
    "AsgiApp",
    "AsgiOrderError",
    "ClientDisconnected",
    "ContentLengthMismatch",
    "Message",
    "Receive",
    "Scope",
    "Send",
)

# The specification's own types. `Any`: what is in there belongs to the application.
Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
AsgiApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


class AsgiOrderError(RuntimeError):
    """A message came that ASGI does not allow at this point.

    Args:
        expected: what the application may do now.
        got: what it did.
    """

    expected: str
    got: str

    def __init__(self, expected: str, got: str) -> None:
        super().__init__(expected, got)
        self.expected = expected
        self.got = got

    def __str__(self) -> str:
        return f"expected {self.expected}, got {self.got}"


class ClientDisconnected(OSError):
    """The client has gone, or its response will not be: nothing more can be sent."""


class ContentLengthMismatch(RuntimeError):
    """The body of a response is not as long as its content-length says."""


def message_type(message: object) -> str:
    """Return the type of a message that an application sent.

    Raises:
        TypeError: it is no mapping with a str under 'type'.
    """
    if not isinstance(message, MutableMapping):
        raise TypeError(
            f"send() takes a dict with a 'type', not {type(message).__name__}"
        )

    kind = message.get("type")

    if not isinstance(kind, str):
        shown = "nothing" if kind is None else repr(kind)
        raise TypeError(f"a message needs a str under 'type', got {shown}")

    return kind
