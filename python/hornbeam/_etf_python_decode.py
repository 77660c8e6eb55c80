# SPDX-License-Identifier: Apache-2.0
"""The decoder of the pure Python codec: entry points, readers of containers.

`_etf_python_reader` tells what a reader is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from hornbeam import _etf_tags as tags
from hornbeam._etf_errors import DecodeError, short_of
from hornbeam._etf_inflate import inflate
from hornbeam._etf_python_opaque import OPAQUE_READERS
from hornbeam._etf_python_reader import Mode, Reader, check_depth
from hornbeam._etf_python_scalars import SCALAR_READERS, read_bytes, read_text
from hornbeam._terms import FrozenList, FrozenMap, ImproperList

__all__ = ("decode", "decode_packet")


def decode(data: bytes | bytearray | memoryview) -> object:
    """Decode version byte and one term; binaries that are UTF-8 come as str.

    Raises:
        DecodeError: the data are not exactly that.
        TypeError: the data are not bytes-like.
    """
    return _decode(data, _VALUE_MODE)


def decode_packet(data: bytes | bytearray | memoryview) -> list[object]:
    """Decode a packet, without its length, to its messages; all binaries come as bytes.

    Raises:
        DecodeError: the data are not version byte and a list.
        TypeError: the data are not bytes-like.
    """
    messages = _decode(data, _PACKET_MODE)

    if not isinstance(messages, list):
        kind = type(messages).__name__
        raise DecodeError(f"a packet holds a list of messages, not {kind}", 1)

    return messages


def _decode(data: bytes | bytearray | memoryview, mode: Mode) -> object:
    raw = data if type(data) is bytes else _copy(data)

    if not raw or raw[0] != tags.VERSION:
        got = raw[0] if raw else "nothing"
        raise DecodeError(f"expected version byte {tags.VERSION}, got {got}", 0)

    start = 1

    if raw[1:2] == bytes((tags.COMPRESSED,)):
        raw, start = inflate(raw[2:]), 0

    if start == len(raw):
        raise short_of(start, 1, 0)

    try:
        value, end = mode.readers[raw[start]](raw, start + 1, len(raw), 0, mode)
    except RecursionError:
        # Of keys, which are compared, or where the caller has used up most of the
        # stack.
        raise DecodeError("nested too deep for what is left of the stack", 0) from None

    if end != len(raw):
        raise DecodeError(f"{len(raw) - end} bytes follow the term", end)

    return value


def _copy(data: bytes | bytearray | memoryview) -> bytes:
    view = memoryview(data)

    if not view.c_contiguous:
        raise BufferError("the bytes to decode are not contiguous")

    return view.tobytes()


def _read_tuple(
    data: bytes, position: int, limit: int, depth: int, mode: Mode
) -> tuple[object, int]:
    start = position - 1
    count_bytes = 1 if data[start] == tags.SMALL_TUPLE_EXT else 4
    count, position, limit = _open(data, position, limit, depth, count_bytes, 1)
    readers = mode.readers
    elements = []

    for _ in range(count):
        limit += 1
        element, position = readers[data[position]](
            data, position + 1, limit, depth + 1, mode
        )
        elements.append(element)

    return tuple(elements), position


def _read_nil(
    data: bytes, position: int, limit: int, depth: int, mode: Mode
) -> tuple[object, int]:
    return (FrozenList() if mode.is_frozen else []), position


def _read_string(
    data: bytes, position: int, limit: int, depth: int, mode: Mode
) -> tuple[object, int]:
    if limit - position < 2:
        raise short_of(position - 1, 2, limit - position)

    begin = position + 2
    end = begin + int.from_bytes(data[position:begin], "big")

    if end > limit:
        raise short_of(position - 1, end - begin, limit - begin)

    elements = data[begin:end]
    return (FrozenList(elements) if mode.is_frozen else list(elements)), end


def _read_list(
    data: bytes, position: int, limit: int, depth: int, mode: Mode
) -> tuple[object, int]:
    start = position - 1
    # One more than the elements, the tail.
    count, position, limit = _open(data, position, limit, depth, 4, 1, extra=1)
    readers = mode.readers
    elements = []

    for _ in range(count):
        limit += 1
        element, position = readers[data[position]](
            data, position + 1, limit, depth + 1, mode
        )
        elements.append(element)

    if data[position] == tags.NIL_EXT:
        return (FrozenList(elements) if mode.is_frozen else elements), position + 1

    if not elements:
        raise DecodeError("a list without elements has a tail", start)

    tail, end = readers[data[position]](data, position + 1, limit + 1, depth + 1, mode)

    if isinstance(tail, list | FrozenList | ImproperList):
        raise DecodeError("the tail of a list is a list of its own", position)

    return ImproperList(tuple(elements), tail), end


def _read_map(
    data: bytes, position: int, limit: int, depth: int, mode: Mode
) -> tuple[object, int]:
    start = position - 1
    count, position, limit = _open(data, position, limit, depth, 4, 2)
    readers, in_key = mode.readers, mode.in_key
    entries: dict[object, object] = {}

    for _ in range(count):
        limit += 1
        key, position = in_key.readers[data[position]](
            data, position + 1, limit, depth + 1, in_key
        )
        limit += 1
        element, position = readers[data[position]](
            data, position + 1, limit, depth + 1, mode
        )
        entries[key] = element

    if len(entries) != count:
        raise DecodeError(
            "two keys of a map are one key in Python, such as 1 and 1.0, or 1 and true",
            start,
        )

    return (FrozenMap(entries) if mode.is_frozen else entries), position


def _open(
    data: bytes,
    position: int,
    limit: int,
    depth: int,
    count_bytes: int,
    terms_each: int,
    extra: int = 0,
) -> tuple[int, int, int]:
    """Read a container's count.

    Returns:
        The count, where the first term begins, and the limit before it.
    """
    start = position - 1
    check_depth(depth, start)

    if limit - position < count_bytes:
        raise short_of(start, count_bytes, limit - position)

    begin = position + count_bytes
    count = int.from_bytes(data[position:begin], "big")
    promised = count * terms_each + extra

    if promised > limit - begin:
        raise short_of(start, promised, limit - begin)

    return count, begin, limit - promised


_READERS: Final[Mapping[int, Reader]] = {
    **SCALAR_READERS,
    **OPAQUE_READERS,
    tags.SMALL_TUPLE_EXT: _read_tuple,
    tags.LARGE_TUPLE_EXT: _read_tuple,
    tags.NIL_EXT: _read_nil,
    tags.STRING_EXT: _read_string,
    tags.LIST_EXT: _read_list,
    tags.MAP_EXT: _read_map,
}

_VALUE_MODE: Final = Mode({**_READERS, tags.BINARY_EXT: read_text}, is_frozen=False)
_PACKET_MODE: Final = Mode({**_READERS, tags.BINARY_EXT: read_bytes}, is_frozen=False)
