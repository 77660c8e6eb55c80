# SPDX-License-Identifier: Apache-2.0
"""Errors of the codec, and the words for the place of a fault.

* `EncodeError`, a TypeError and ValueError: the caller's value has no Erlang form.
* `DecodeError`, a ValueError: the peer's bytes are not what the format allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

__all__ = ("DecodeError", "EncodeError")

SUPPORTED: Final = (
    "None, bool, int, float, str, bytes, list, tuple, dict, Atom or another Erlang term"
)

PathSegment = int | str | tuple[object]
"""A step into a value: an index, literal text, or the key of a mapping in a 1-tuple."""

_MAX_KEY_TEXT: Final = 60
_MAX_INTEGER_BITS: Final = 256
# Of a deep path the first and the last steps are named.
_PATH_HEAD: Final = 12
_PATH_TAIL: Final = 4


class EncodeError(TypeError, ValueError):
    """A value, or a part of it, can't be encoded.

    Args:
        reason: what is wrong with the part.
        value_type: the name of its type.
        path: where it is.
    """

    reason: str
    """What is wrong, without the place."""
    value_type: str
    """Name of the offending part's type, such as `set` or `decimal.Decimal`."""
    path: str
    """Where the offending part is, such as `value['items'][3]`."""

    def __init__(self, reason: str, value_type: str, path: str = "value") -> None:
        super().__init__(reason, value_type, path)
        self.reason = reason
        self.value_type = value_type
        self.path = path

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class DecodeError(ValueError):
    """Bytes are not a term of the External Term Format, or break a limit of the codec.

    Args:
        reason: what is wrong.
        offset: at which byte of the input the term at fault begins.
    """

    reason: str
    """What is wrong, without the place."""
    offset: int
    """Where the term at fault begins: in the input, or if compressed, unfolded."""

    def __init__(self, reason: str, offset: int) -> None:
        super().__init__(reason, offset)
        self.reason = reason
        self.offset = offset

    def __str__(self) -> str:
        return f"{self.reason} (at byte {self.offset})"


def encode_error(
    reason: str | None, value: object, segments: Sequence[PathSegment]
) -> EncodeError:
    """Make the error for `value`, whose place the steps tell, innermost first.

    Without a reason the type is not supported.
    """
    value_type = name_type(value)

    if reason is None:
        reason = f"{value_type} is not supported; expected {SUPPORTED}"

    return EncodeError(reason, value_type, format_path(segments))


def name_type(value: object) -> str:
    """Name the type of a value, with its module unless it is a builtin."""
    kind = type(value)

    if kind.__module__ == "builtins":
        return kind.__qualname__

    return f"{kind.__module__}.{kind.__qualname__}"


def format_path(segments: Sequence[PathSegment]) -> str:
    """Write a path as Python would, such as `value['items'][3]`."""
    steps = [_format_segment(segment) for segment in reversed(segments)]
    omitted = len(steps) - _PATH_HEAD - _PATH_TAIL

    if omitted > 0:
        steps[_PATH_HEAD:-_PATH_TAIL] = [f"...({omitted} more)..."]

    return "value" + "".join(steps)


def _format_segment(segment: PathSegment) -> str:
    if isinstance(segment, str):
        return segment

    if isinstance(segment, int):
        return f"[{segment}]"

    return f"[{describe_key(segment[0])}]"


def describe_key(key: object) -> str:
    """Show a key, shortened; without running code of a type that is not ours."""
    if isinstance(key, str):
        text = repr(str.__getitem__(key, slice(_MAX_KEY_TEXT + 1)))
    elif isinstance(key, int) and int.bit_length(key) <= _MAX_INTEGER_BITS:
        text = repr(key) if isinstance(key, bool) else int.__repr__(key)
    elif type(key) is bytes:
        text = repr(key[: _MAX_KEY_TEXT + 1])
    elif key is None or type(key) is float:
        text = repr(key)
    else:
        text = f"<{name_type(key)}>"

    if len(text) > _MAX_KEY_TEXT:
        return text[:_MAX_KEY_TEXT] + "..."

    return text


def short_of(offset: int, wanted: int, left: int) -> DecodeError:
    """Make the error for a term that needs more bytes than are left for it."""
    return DecodeError(f"the term needs {wanted} more bytes, {left} are left", offset)
