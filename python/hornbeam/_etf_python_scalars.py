# SPDX-License-Identifier: Apache-2.0
"""The pure Python decoder's readers of numbers, atoms and binaries."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Final

from hornbeam import _etf_tags as tags
from hornbeam._etf_errors import DecodeError, short_of
from hornbeam._etf_python_reader import ATOM_TAGS, Mode, Reader, unpack_length
from hornbeam._terms import Atom, BitString
from hornbeam._terms_atom import read_atom_name

__all__ = ("SCALAR_READERS", "read_bytes", "read_text")

_CONSTANTS: Final = {"undefined": None, "true": True, "false": False}

_FLOAT_TEXT_BYTES: Final = 31
_FLOAT_CHARACTERS: Final = frozenset(b"0123456789+-.eE")

_unpack_int32: Final = struct.Struct(">i").unpack_from
_unpack_float: Final = struct.Struct(">d").unpack_from


def _read_small_integer(
    data: bytes, position: int, limit: int, depth: int, mode: Mode
) -> tuple[object, int]:
    if position >= limit:
        raise short_of(position - 1, 1, limit - position)

    return data[position], position + 1


def _read_integer(
    data: bytes, position: int, limit: int, depth: int, mode: Mode
) -> tuple[object, int]:
    if limit - position < 4:
        raise short_of(position - 1, 4, limit - position)

    return _unpack_int32(data, position)[0], position + 4


def _read_big(
    data: bytes, position: int, limit: int, depth: int, mode: Mode
) -> tuple[object, int]:
    start = position - 1
    length_bytes = 1 if data[start] == tags.SMALL_BIG_EXT else 4

    if limit - position < length_bytes:
        raise short_of(start, length_bytes, limit - position)

    sign_at = position + length_bytes
    length = int.from_bytes(data[position:sign_at], "big")

    if limit - sign_at < length + 1:
        raise short_of(start, length + 1, limit - sign_at)

    if data[sign_at] > 1:
        raise DecodeError(f"expected a sign of 0 or 1, got {data[sign_at]}", start)

    end = sign_at + 1 + length
    number = int.from_bytes(data[sign_at + 1 : end], "little")
    return (-number if data[sign_at] else number), end


def _read_new_float(
    data: bytes, position: int, limit: int, depth: int, mode: Mode
) -> tuple[object, int]:
    if limit - position < 8:
        raise short_of(position - 1, 8, limit - position)

    number = _unpack_float(data, position)[0]

    if not math.isfinite(number):
        raise DecodeError("a float is not finite", position - 1)

    return number, position + 8


def _read_float(
    data: bytes, position: int, limit: int, depth: int, mode: Mode
) -> tuple[object, int]:
    end = position + _FLOAT_TEXT_BYTES

    if end > limit:
        raise short_of(position - 1, _FLOAT_TEXT_BYTES, limit - position)

    digits = data[position:end].split(b"\0", 1)[0]

    try:
        # float() takes more, such as spaces and underscores.
        number = float(digits) if _FLOAT_CHARACTERS.issuperset(digits) else math.nan
    except ValueError:
        number = math.nan

    if not math.isfinite(number):
        raise DecodeError("the text of a float is not a finite number", position - 1)

    return number, end


def _read_atom(
    data: bytes, position: int, limit: int, depth: int, mode: Mode
) -> tuple[object, int]:
    name, end = read_atom_name(data, position - 1, limit)
    return (_CONSTANTS[name] if name in _CONSTANTS else Atom(name)), end


def read_bytes(
    data: bytes, position: int, limit: int, depth: int, mode: Mode
) -> tuple[object, int]:
    if limit - position < 4:
        raise short_of(position - 1, 4, limit - position)

    begin = position + 4
    end = begin + unpack_length(data, position)[0]

    if end > limit:
        raise short_of(position - 1, end - begin, limit - begin)

    return data[begin:end], end


def read_text(
    data: bytes, position: int, limit: int, depth: int, mode: Mode
) -> tuple[object, int]:
    raw, end = read_bytes(data, position, limit, depth, mode)

    try:
        return raw.decode(), end  # type: ignore[attr-defined]  # it is bytes
    except UnicodeDecodeError:
        return raw, end


def _read_bits(
    data: bytes, position: int, limit: int, depth: int, mode: Mode
) -> tuple[object, int]:
    start = position - 1

    if limit - position < 5:
        raise short_of(start, 5, limit - position)

    begin = position + 5
    end = begin + unpack_length(data, position)[0]
    bits = data[begin - 1]

    if end > limit:
        raise short_of(start, end - begin, limit - begin)

    if bits > 8 or (bits == 0) != (begin == end):
        raise DecodeError(
            f"{bits} bits in the last byte of a binary of {end - begin} bytes", start
        )

    raw = data[begin:end]
    return (raw if bits in (0, 8) else BitString(raw, bits)), end


SCALAR_READERS: Final[Mapping[int, Reader]] = {
    tags.SMALL_INTEGER_EXT: _read_small_integer,
    tags.INTEGER_EXT: _read_integer,
    tags.SMALL_BIG_EXT: _read_big,
    tags.LARGE_BIG_EXT: _read_big,
    tags.NEW_FLOAT_EXT: _read_new_float,
    tags.FLOAT_EXT: _read_float,
    tags.BIT_BINARY_EXT: _read_bits,
    **dict.fromkeys(ATOM_TAGS, _read_atom),
}
