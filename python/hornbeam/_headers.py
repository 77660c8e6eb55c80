# SPDX-License-Identifier: Apache-2.0
"""Check the headers of a response, so that none can split it.

Names are tokens (RFC 9110 5.1) and go out in lower case; values have no CR, LF or NUL
(5.5), and white space around them is dropped. `transfer-encoding` is left out: the
framing is the node's business. Order and duplicates stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from hornbeam._usual import check_usual_headers

__all__ = ("HEADER_NAMES", "check_headers", "check_trailers")

MAX_CACHED_NAMES: Final = 1024

_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_MAX_LENGTH_DIGITS: Final = 19
_SHOWN_BYTES: Final = 80

# Given name -> name in lower case. Applications use few names, and the same ones each
# time; bounded, as some make names from what a client sent.
HEADER_NAMES: Final[dict[bytes, bytes]] = {}


def check_headers(headers: object) -> tuple[list[tuple[bytes, bytes]], int | None]:
    """Check and normalise the headers of a response.

    Returns:
        The headers, and the number under `content-length`, None where there is none.

    Raises:
        TypeError: they are no iterable of pairs of bytes.
        ValueError: a name or value is not allowed in HTTP, or `content-length` is no
            number or comes with two different ones.
    """
    return check_usual_headers(headers, HEADER_NAMES) or _check_all(headers)


def _check_all(headers: object) -> tuple[list[tuple[bytes, bytes]], int | None]:
    checked: list[tuple[bytes, bytes]] = []
    declared: int | None = None

    for pair in headers if type(headers) is list else _iterate(headers):
        try:
            name, value = pair
        except (TypeError, ValueError):
            raise TypeError(
                f"a header is a [name, value] pair of bytes, not {_show(pair)}"
            ) from None

        if type(name) is not bytes or type(value) is not bytes:
            name, value = _to_bytes("name", name), _to_bytes("value", value)

        name = HEADER_NAMES.get(name) or _check_name(name)

        # Three searches are faster than one with a pattern.
        if b"\n" in value or b"\r" in value or b"\0" in value:
            raise ValueError(
                f"the value of header {_show(name)} has a CR, LF or NUL: {_show(value)}"
            )

        value = value.strip(b" \t")

        if name == b"content-length":
            is_repeated = declared is not None
            declared = _parse_length(value, declared)

            if is_repeated:
                continue

        if name != b"transfer-encoding":
            checked.append((name, value))

    return checked, declared


def check_trailers(headers: object) -> list[tuple[bytes, bytes]]:
    """Check and normalise trailers, or headers of a 1xx: they have no length to tell.

    Raises:
        TypeError, ValueError: as `check_headers`.
    """
    checked, declared = check_headers(headers)

    if declared is not None:
        return [pair for pair in checked if pair[0] != b"content-length"]

    return checked


def _iterate(headers: object) -> Iterable[Any]:
    if isinstance(headers, Iterable) and not isinstance(headers, str | bytes | dict):
        return headers

    raise TypeError(
        f"headers are an iterable of [name, value] pairs of bytes, "
        f"not {type(headers).__name__}"
    )


def _check_name(name: bytes) -> bytes:
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"{_show(name)} is no header name, which is a token")

    lower = name.lower()

    if len(HEADER_NAMES) < MAX_CACHED_NAMES:
        HEADER_NAMES[name] = lower

    return lower


def _to_bytes(what: str, text: object) -> bytes:
    if isinstance(text, bytes | bytearray | memoryview):
        return bytes(text)

    hint = ", encode it first" if isinstance(text, str) else ""
    raise TypeError(f"a header's {what} is bytes, not {_show(text)}{hint}")


def _parse_length(value: bytes, earlier: int | None) -> int:
    if not value.isdigit() or len(value) > _MAX_LENGTH_DIGITS:
        raise ValueError(f"content-length is a number of bytes, not {_show(value)}")

    length = int(value)

    if earlier is not None and length != earlier:
        raise ValueError(f"two content-length headers, {earlier} and {length}")

    return length


def _show(value: object) -> str:
    if isinstance(value, bytes | str):
        value = value[:_SHOWN_BYTES]

    return f"{type(value).__name__} {value!r}"[: 2 * _SHOWN_BYTES]
