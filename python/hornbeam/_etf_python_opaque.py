# SPDX-License-Identifier: Apache-2.0
"""The pure Python decoder's readers of identifiers and functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from hornbeam import _etf_tags as tags
from hornbeam._etf_errors import DecodeError, short_of
from hornbeam._etf_python_reader import (
    ATOM_TAGS,
    Mode,
    Reader,
    check_depth,
    unpack_length,
)
from hornbeam._terms import ExternalFun, Fun, Pid, Port, Reference
from hornbeam._terms_atom import read_atom_name
from hornbeam._terms_opaque import check_reference_words

__all__ = ("OPAQUE_READERS",)

# Size, arity, MD5 of the module, index, number of free variables.
_NEW_FUN_HEAD_BYTES: Final = 4 + 1 + 16 + 4 + 4

_INTEGER_TAGS: Final = (tags.SMALL_INTEGER_EXT, tags.INTEGER_EXT)
_PID_TAGS: Final = (tags.PID_EXT, tags.NEW_PID_EXT)
# Module, old index, old unique number, creator: what free variables follow.
_NEW_FUN_PARTS: Final = (ATOM_TAGS, _INTEGER_TAGS, _INTEGER_TAGS, _PID_TAGS)
_OLD_FUN_PARTS: Final = (_PID_TAGS, ATOM_TAGS, _INTEGER_TAGS, _INTEGER_TAGS)

# Tag -> type, size of the numbers behind the node.
_IDENTIFIERS: Final[Mapping[int, tuple[Callable[[bytes], object], int]]] = {
    tags.PID_EXT: (Pid, 9),
    tags.NEW_PID_EXT: (Pid, 12),
    tags.PORT_EXT: (Port, 5),
    tags.NEW_PORT_EXT: (Port, 8),
    tags.V4_PORT_EXT: (Port, 12),
    tags.REFERENCE_EXT: (Reference, 5),
}


def _read_identifier(
    data: bytes, position: int, limit: int, depth: int, mode: Mode
) -> tuple[object, int]:
    start = position - 1
    kind, number_bytes = _IDENTIFIERS[data[start]]

    if limit - position < 1 + number_bytes:
        raise short_of(start, 1 + number_bytes, limit - position)

    _, position = read_atom_name(data, position, limit - number_bytes)
    end = position + number_bytes
    return kind(data[start:end]), end


def _read_reference(
    data: bytes, position: int, limit: int, depth: int, mode: Mode
) -> tuple[object, int]:
    start = position - 1

    if limit - position < 2:
        raise short_of(start, 2, limit - position)

    words = int.from_bytes(data[position : position + 2], "big")
    check_reference_words(words, start)
    creation_bytes = 1 if data[start] == tags.NEW_REFERENCE_EXT else 4
    number_bytes = creation_bytes + 4 * words
    position += 2

    if limit - position < 1 + number_bytes:
        raise short_of(start, 1 + number_bytes, limit - position)

    _, position = read_atom_name(data, position, limit - number_bytes)
    end = position + number_bytes
    return Reference(data[start:end]), end


def _read_export(
    data: bytes, position: int, limit: int, depth: int, mode: Mode
) -> tuple[object, int]:
    start = position - 1

    if limit - position < 3:
        raise short_of(start, 3, limit - position)

    _, position = read_atom_name(data, position, limit - 2)
    _, position = read_atom_name(data, position, limit - 1)

    if data[position] != tags.SMALL_INTEGER_EXT:
        raise DecodeError("expected an arity of 0 to 255", position)

    end = position + 2

    if end > limit:
        raise short_of(start, 1, 0)

    return ExternalFun(data[start:end]), end


def _read_fun(
    data: bytes, position: int, limit: int, depth: int, mode: Mode
) -> tuple[object, int]:
    start = position - 1
    check_depth(depth, start)
    is_new = data[start] == tags.NEW_FUN_EXT
    open_fun = _open_new_fun if is_new else _open_old_fun
    count, position, end = open_fun(data, position, limit)

    if count > end - position:
        raise short_of(start, count, end - position)

    # What is inside is read only to know that it is well-formed.
    part_limit = end - count
    expected = _NEW_FUN_PARTS if is_new else _OLD_FUN_PARTS

    for index in range(count):
        part_limit += 1
        tag = data[position]

        if index < len(expected) and tag not in expected[index]:
            raise DecodeError(f"unexpected tag {tag} in a fun", position)

        _, position = mode.readers[tag](data, position + 1, part_limit, depth + 1, mode)

    if is_new and position != end:
        raise DecodeError(f"{end - position} bytes follow the parts of a fun", position)

    return Fun(data[start:position]), position


def _open_new_fun(data: bytes, position: int, limit: int) -> tuple[int, int, int]:
    """Return the number of terms in it, where they begin, where it ends."""
    start = position - 1

    if limit - position < 4:
        raise short_of(start, 4, limit - position)

    size = unpack_length(data, position)[0]

    if size > limit - position:
        raise short_of(start, size, limit - position)

    if size < _NEW_FUN_HEAD_BYTES:
        raise DecodeError(
            f"a fun has at least {_NEW_FUN_HEAD_BYTES} bytes, not {size}", start
        )

    begin = position + _NEW_FUN_HEAD_BYTES
    free_variables = unpack_length(data, begin - 4)[0]
    return len(_NEW_FUN_PARTS) + free_variables, begin, position + size


def _open_old_fun(data: bytes, position: int, limit: int) -> tuple[int, int, int]:
    """Return the number of terms in it, where they begin, how far they may reach."""
    if limit - position < 4:
        raise short_of(position - 1, 4, limit - position)

    free_variables = unpack_length(data, position)[0]
    return len(_OLD_FUN_PARTS) + free_variables, position + 4, limit


OPAQUE_READERS: Final[Mapping[int, Reader]] = {
    tags.NEW_REFERENCE_EXT: _read_reference,
    tags.NEWER_REFERENCE_EXT: _read_reference,
    tags.EXPORT_EXT: _read_export,
    tags.NEW_FUN_EXT: _read_fun,
    tags.FUN_EXT: _read_fun,
    **dict.fromkeys(_IDENTIFIERS, _read_identifier),
}
