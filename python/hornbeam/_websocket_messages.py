# SPDX-License-Identifier: Apache-2.0
"""Check what an application sends on a WebSocket. Pure.

Each function takes a message of ASGI and returns what the protocol needs of it, or
raises a TypeError or ValueError that says what was expected.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from hornbeam import _topics
from hornbeam._asgi import Message
from hornbeam._headers import check_trailers
from hornbeam._protocol import BINARY, TEXT
from hornbeam._terms import Atom

__all__ = (
    "ATTACH",
    "DETACH",
    "as_response",
    "parse_accept",
    "parse_attach",
    "parse_close",
    "parse_detach",
    "parse_send",
)

ATTACH: Final = "hornbeam.topics.attach"
DETACH: Final = "hornbeam.topics.detach"

MAX_REASON_BYTES: Final = 123
"""A close frame holds 125 bytes, two of which are the code."""

DEFAULT_MAX_QUEUE: Final = 1000
MAX_MAX_QUEUE: Final = 2**31 - 1

_OVERFLOWS: Final = ("close", "drop_oldest")

# RFC 6455 7.4 and the registry: 1004 to 1006 and 1015 never travel.
_CODES: Final = (range(1000, 1004), range(1007, 1015), range(3000, 5000))
_CODES_TEXT: Final = "1000 to 1003, 1007 to 1014 or 3000 to 4999"

_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
# What the handshake itself says.
_HANDSHAKE: Final = re.compile(rb"connection|upgrade|sec-websocket-.*")


def parse_send(message: Message) -> tuple[Atom, bytes]:
    """Return kind and payload of a `websocket.send`."""
    text, data = message.get("text"), message.get("bytes")

    if (text is None) == (data is None):
        which = "neither" if text is None else "both"
        raise ValueError(f"'websocket.send' takes 'text' or 'bytes', got {which}")

    if data is None:
        return TEXT, _encode("text", text)

    if isinstance(data, bytes | bytearray | memoryview):
        return BINARY, bytes(data)

    hint = ", which goes under 'text'" if isinstance(data, str) else ""
    raise TypeError(f"'bytes' is bytes, not {type(data).__name__}{hint}")


def parse_close(message: Message) -> tuple[int, bytes]:
    """Return code and reason of a `websocket.close`."""
    code = message.get("code")

    if code is None:
        code = 1000

    if isinstance(code, bool) or not isinstance(code, int):
        raise TypeError(f"'code' is an int: {_CODES_TEXT}; not {type(code).__name__}")

    if not any(code in codes for codes in _CODES):
        raise ValueError(f"'code' is {_CODES_TEXT}, not {code}")

    reason = message.get("reason")
    encoded = b"" if reason is None else _encode("reason", reason)

    if len(encoded) > MAX_REASON_BYTES:
        raise ValueError(
            f"'reason' has {len(encoded)} bytes in UTF-8, at most {MAX_REASON_BYTES} "
            "fit into a close frame"
        )

    return int(code), encoded


def parse_accept(
    message: Message, offered: Sequence[str]
) -> tuple[bytes | None, list[tuple[bytes, bytes]]]:
    """Return subprotocol and headers of a `websocket.accept`.

    Args:
        message: the message.
        offered: the subprotocols that the client knows.
    """
    headers = check_trailers(message.get("headers") or ())

    for name, _ in headers:
        if _HANDSHAKE.fullmatch(name):
            hint = ""

            if name == b"sec-websocket-protocol":
                hint = "; give a subprotocol as 'subprotocol'"

            text = f"header {name.decode()} is for the server to set{hint}"
            raise ValueError(f"'websocket.accept': {text}")

    return _check_subprotocol(message.get("subprotocol"), offered), headers


def _check_subprotocol(subprotocol: object, offered: Sequence[str]) -> bytes | None:
    if subprotocol is None:
        return None

    if not isinstance(subprotocol, str):
        kind = type(subprotocol).__name__
        raise TypeError(f"'subprotocol' is a str or None, not {kind}")

    if not _TOKEN.fullmatch(subprotocol):
        raise ValueError(f"'subprotocol' is a token of HTTP, not {subprotocol!r}")

    # A client must fail the connection for one that it has not asked for.
    if subprotocol not in offered:
        known = ", ".join(map(repr, offered)) or "none"
        raise ValueError(
            f"'subprotocol' is one that the client offers ({known}), "
            f"not {subprotocol!r}"
        )

    return subprotocol.encode()


def as_response(kind: str, message: Message) -> Message:
    """Return the message of HTTP that a `websocket.http.response.*` stands for."""
    response: Message = {"type": kind.removeprefix("websocket.")}
    keys = ("status", "headers") if kind.endswith(".start") else ("body", "more_body")
    response.update((key, message[key]) for key in keys if key in message)
    status = response.get("status")

    if isinstance(status, int) and 100 <= status < 200:
        raise ValueError(f"status is from 200 on where a handshake is denied: {status}")

    return response


# Topics.


def parse_attach(message: Message) -> tuple[bytes, Atom, int]:
    """Return pattern, overflow and length of the queue of an attachment."""
    overflow = message.get("overflow", "close")
    max_queue = message.get("max_queue", DEFAULT_MAX_QUEUE)

    if overflow not in _OVERFLOWS:
        raise ValueError(f"overflow is 'close' or 'drop_oldest', not {overflow!r}")

    if isinstance(max_queue, bool) or not isinstance(max_queue, int):
        raise TypeError(f"max_queue is an int, not {type(max_queue).__name__}")

    if not 1 <= max_queue <= MAX_MAX_QUEUE:
        raise ValueError(f"max_queue is from 1 to {MAX_MAX_QUEUE}, not {max_queue}")

    return parse_detach(message), Atom(overflow), int(max_queue)


def parse_detach(message: Message) -> bytes:
    """Return the pattern of an attachment or of its end."""
    pattern: Any = message.get("topic")
    _topics.check_pattern(pattern)
    return _encode("topic", pattern)


def _encode(name: str, text: object) -> bytes:
    if not isinstance(text, str):
        hint = ", which goes under 'bytes'" if name == "text" else ""
        raise TypeError(f"'{name}' is a str, not {type(text).__name__}{hint}")

    try:
        return text.encode()
    except UnicodeEncodeError as exc:
        raise ValueError(f"'{name}' has no UTF-8: {exc}") from None
