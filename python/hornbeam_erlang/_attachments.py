# SPDX-License-Identifier: Apache-2.0
"""WebSockets that get what is published to a topic from the node itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from hornbeam._errors import HornbeamError
from hornbeam_erlang._client import under_hornbeam

__all__ = ("attach", "detach")

_EXTENSION: Final = "hornbeam.topics"


async def attach(
    websocket: Any,
    topic: str,
    *,
    overflow: Literal["close", "drop_oldest"] = "close",
    max_queue: int = 1000,
) -> None:
    """Have what is published to a topic go to a WebSocket, without passing Python.

    When this returns it is in force. A published str goes out as a text message, bytes
    as a binary one; anything else is left out, and logged. A message goes out once,
    however many of the attached patterns match. Attaching to the same pattern again
    changes `overflow` and `max_queue`.

    Args:
        websocket: one that was accepted: an object with an ASGI scope under `.scope`,
            as of Starlette, FastAPI, Quart and Channels, or the scope itself.
        topic: a topic, or a pattern as of `subscribe`.
        overflow: what happens to a client that does not keep up: `close` ends its
            WebSocket with code 1013, `drop_oldest` loses the oldest message.
        max_queue: how many messages may wait for the client.

    Raises:
        HornbeamError: this is no WebSocket of Hornbeam.
        OSError: the WebSocket is closed.
        RuntimeError: it was not accepted yet.
        TypeError, ValueError: an argument is not what it should be.
    """
    send = _find_send(websocket)
    await send(
        {
            "type": "hornbeam.topics.attach",
            "topic": topic,
            "overflow": overflow,
            "max_queue": max_queue,
        }
    )


async def detach(websocket: Any, topic: str) -> bool:
    """End what `attach` has begun, and say whether there was anything.

    Args:
        websocket: as of `attach`.
        topic: the pattern that was attached.

    Raises:
        HornbeamError, OSError, RuntimeError, TypeError, ValueError: as `attach`.
    """
    send = _find_send(websocket)
    return bool(await send({"type": "hornbeam.topics.detach", "topic": topic}))


def _find_send(websocket: Any) -> Any:
    """Return the send() of the scope, which takes what frameworks refuse."""
    scope = websocket if isinstance(websocket, Mapping) else _scope_of(websocket)
    extension = (scope.get("extensions") or {}).get(_EXTENSION)

    if isinstance(extension, Mapping) and "send" in extension:
        return extension["send"]

    if not under_hornbeam():
        raise HornbeamError(
            "only a WebSocket that Hornbeam serves can be attached to a topic, and "
            "this code does not run under Hornbeam"
        )

    kind = scope.get("type")
    raise HornbeamError(
        f"a scope of type {kind!r} without the extension {_EXTENSION!r} can't be "
        "attached to a topic; expected that of a WebSocket"
    )


def _scope_of(websocket: Any) -> Mapping[str, Any]:
    scope = getattr(websocket, "scope", None)

    if isinstance(scope, Mapping):
        return scope

    raise TypeError(
        "expected a WebSocket with an ASGI scope under '.scope', or the scope, "
        f"not {type(websocket).__name__}"
    )
