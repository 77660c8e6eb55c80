# SPDX-License-Identifier: Apache-2.0
"""The encoder of the pure Python codec.

A writer appends one value to a bytearray. Which one is looked up by the value's type in
one of three tables that differ in how bytes are written and maps are ordered:

* `_VALUE_WRITERS`: bytes as BIT_BINARY_EXT, so that they come back apart from str.
* `_MESSAGE_WRITERS`: bytes as BINARY_EXT.
* `_CANONICAL_WRITERS`: the same bytes for all keys that are one key in Erlang.

A container calls its elements' writers itself, so a level of nesting costs one frame of
Python's stack. A writer raises `_Fault`; each container on the way out adds its step to
it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from hornbeam import _etf_tags as tags
from hornbeam._etf_errors import PathSegment, describe_key, encode_error
from hornbeam._terms import (
    Atom,
    BitString,
    ExternalFun,
    FrozenList,
    FrozenMap,
    Fun,
    ImproperList,
    Pid,
    Port,
    Reference,
)

__all__ = ("describe_key_clash", "encode", "encode_message")

_Writer: TypeAlias = Callable[[bytearray, Any, int, "_Writers"], None]
_Writers: TypeAlias = Mapping[type, _Writer]

_pack_tag_and_length: Final = struct.Struct(">BI").pack
_pack_float: Final = struct.Struct(">Bd").pack
_pack_int32: Final = struct.Struct(">Bi").pack

# Of these types, keys that differ in Python may be one key in Erlang only if there are
# two types of binaries or of atoms.
_BINARY_TYPES: Final = frozenset((str, bytes))
_NAMED_TYPES: Final = frozenset((bool, type(None)))
_PLAIN_KEY_TYPES: Final = _BINARY_TYPES | _NAMED_TYPES | {int, float, Atom}


class _Fault(Exception):
    """A part of the value can't be encoded; `segments` collects its place."""

    def __init__(self, value: object, reason: str | None) -> None:
        super().__init__(reason)
        self.value = value
        self.reason = reason
        self.segments: list[PathSegment] = []


def encode(value: object) -> bytes:
    """Encode a value as version byte and term; bytes stay apart from str.

    Raises:
        EncodeError: a part of the value has no Erlang form.
    """
    out = bytearray((tags.VERSION,))
    _write(out, value, _VALUE_WRITERS)
    return bytes(out)


def encode_message(message: object) -> bytes:
    """Encode a message of the wire protocol: no version byte, bytes as plain binaries.

    Raises:
        EncodeError: a part of the message has no Erlang form.
    """
    out = bytearray()
    _write(out, message, _MESSAGE_WRITERS)
    return bytes(out)


def describe_key_clash(pairs: Iterable[tuple[object, object]]) -> str | None:
    """Say which two keys of the pairs are one key in Erlang, or None if no two are.

    The keys are ones that can be encoded.
    """
    seen: dict[bytes, object] = {}

    for key, _ in pairs:
        out = bytearray()
        _writer_of(key, _CANONICAL_WRITERS)(out, key, 0, _CANONICAL_WRITERS)
        first = seen.setdefault(bytes(out), key)

        if first is not key:
            names = f"{describe_key(first)} and {describe_key(key)}"
            return f"keys {names} are one key in Erlang"

    return None


def _write(out: bytearray, value: object, writers: _Writers) -> None:
    try:
        _writer_of(value, writers)(out, value, 0, writers)
    except _Fault as fault:
        error = encode_error(fault.reason, fault.value, fault.segments)
    except RecursionError:
        error = encode_error("nested too deep for what is left of the stack", value, ())
    else:
        return

    try:
        # Out here, so that it does not keep the frames of all levels as its context.
        raise error
    finally:
        # The error has this frame in its traceback: a cycle.
        del error


def _writer_of(value: object, writers: _Writers) -> _Writer:
    writer = writers.get(type(value))

    if writer is not None:
        return writer

    for base in (str, bytes, bytearray, int, float, list, tuple, dict):
        if isinstance(value, base):
            return writers[base]

    raise _Fault(value, None)


# Scalars. The arguments: where to write, what, how many containers are around it, and
# the table of writers for parts of it.


def _write_none(out: bytearray, value: Any, depth: int, writers: _Writers) -> None:
    out += b"w\x09undefined"


def _write_bool(out: bytearray, value: Any, depth: int, writers: _Writers) -> None:
    out += b"w\x04true" if value else b"w\x05false"


def _write_int(out: bytearray, value: Any, depth: int, writers: _Writers) -> None:
    number = int.__int__(value)

    if 0 <= number <= 255:
        out += bytes((tags.SMALL_INTEGER_EXT, number))
    elif -(2**31) <= number < 2**31:
        out += _pack_int32(tags.INTEGER_EXT, number)
    else:
        _write_big(out, value, number)


def _write_big(out: bytearray, value: int, number: int) -> None:
    length = (number.bit_length() + 7) // 8

    if length > tags.MAX_INTEGER_BYTES:
        limit = tags.MAX_INTEGER_BYTES
        raise _Fault(value, f"an integer has at most {limit} bytes, not {length}")

    if length < 256:
        out += bytes((tags.SMALL_BIG_EXT, length, number < 0))
    else:
        out += _pack_tag_and_length(tags.LARGE_BIG_EXT, length)
        out.append(number < 0)

    out += abs(number).to_bytes(length, "little")


def _write_float(out: bytearray, value: Any, depth: int, writers: _Writers) -> None:
    number = float.__float__(value)

    if not math.isfinite(number):
        raise _Fault(value, f"{number} has no Erlang form; expected a finite float")

    out += _pack_float(tags.NEW_FLOAT_EXT, number)


def _write_str(out: bytearray, value: Any, depth: int, writers: _Writers) -> None:
    try:
        utf8 = str.encode(value)
    except UnicodeEncodeError as error:
        reason = f"a lone surrogate at index {error.start} has no UTF-8 form"
        raise _Fault(value, reason) from None

    _check_length(value, len(utf8))
    out += _pack_tag_and_length(tags.BINARY_EXT, len(utf8))
    out += utf8


def _write_etf(out: bytearray, value: Any, depth: int, writers: _Writers) -> None:
    out += value.etf


def _write_bytes_as_bits(
    out: bytearray, value: Any, depth: int, writers: _Writers
) -> None:
    raw = _bytes_of(value)
    out += _pack_tag_and_length(tags.BIT_BINARY_EXT, len(raw))
    out.append(8 if raw else 0)
    out += raw


def _write_bytes(out: bytearray, value: Any, depth: int, writers: _Writers) -> None:
    raw = _bytes_of(value)
    out += _pack_tag_and_length(tags.BINARY_EXT, len(raw))
    out += raw


def _bytes_of(value: bytes | bytearray | memoryview) -> bytes | bytearray:
    if not isinstance(value, memoryview):
        # By the base's method, whatever a subclass makes of it.
        is_bytes = isinstance(value, bytes)
        read: Any = bytes.__getitem__ if is_bytes else bytearray.__getitem__
        raw: bytes | bytearray = read(value, slice(None))
        _check_length(value, len(raw))
        return raw

    try:
        view = memoryview(value)
    except ValueError:
        raise _Fault(value, "the memoryview has been released") from None

    with view:
        _check_length(value, view.nbytes)
        return view.tobytes()


def _write_bit_string(
    out: bytearray, value: Any, depth: int, writers: _Writers
) -> None:
    _check_length(value, len(value.data))
    out += _pack_tag_and_length(tags.BIT_BINARY_EXT, len(value.data))
    out.append(value.last_byte_bits)
    out += value.data


# Containers.


def _write_sequence(out: bytearray, value: Any, depth: int, writers: _Writers) -> None:
    elements, end = _open_sequence(out, value, depth)
    index = 0

    try:
        for index, element in enumerate(elements):  # noqa: B007  # for the fault's path
            writer = writers.get(type(element)) or _writer_of(element, writers)
            writer(out, element, depth + 1, writers)
    except _Fault as fault:
        at_tail = isinstance(value, ImproperList) and index == len(value.elements)
        fault.segments.append(".tail" if at_tail else index)
        raise

    out += end


def _open_sequence(
    out: bytearray, value: Any, depth: int
) -> tuple[Sequence[object], bytes]:
    """Write a sequence's head; return its elements and what ends it."""
    _check_depth(value, depth)

    if isinstance(value, tuple):
        _write_tuple_head(out, value)
        return tuple.__getitem__(value, slice(None)), b""

    if isinstance(value, ImproperList):
        elements: Sequence[object] = (*value.elements, value.tail)
        _write_list_head(out, value, len(value.elements))
        return elements, b""

    # A copy: another thread may change the list meanwhile.
    elements = list.copy(value) if isinstance(value, list) else value.elements

    if elements:
        _write_list_head(out, value, len(elements))

    return elements, b"j"


def _write_tuple_head(out: bytearray, value: tuple[object, ...]) -> None:
    arity = tuple.__len__(value)

    if arity > tags.MAX_TUPLE_ARITY:
        limit = tags.MAX_TUPLE_ARITY
        raise _Fault(value, f"a tuple has at most {limit} elements, not {arity}")

    if arity < 256:
        out += bytes((tags.SMALL_TUPLE_EXT, arity))
    else:
        out += _pack_tag_and_length(tags.LARGE_TUPLE_EXT, arity)


def _write_list_head(out: bytearray, value: object, length: int) -> None:
    _check_length(value, length)
    out += _pack_tag_and_length(tags.LIST_EXT, length)


def _write_map(out: bytearray, value: Any, depth: int, writers: _Writers) -> None:
    pairs = _open_map(out, value, depth)
    index = 0
    step: PathSegment | None = None

    try:
        for index, (key, element) in enumerate(pairs):  # noqa: B007
            step = None
            writer = writers.get(type(key)) or _writer_of(key, writers)
            writer(out, key, depth + 1, writers)
            step = (key,)
            writer = writers.get(type(element)) or _writer_of(element, writers)
            writer(out, element, depth + 1, writers)
    except _Fault as fault:
        fault.segments.append(step or f".keys()[{index}]")
        raise

    _check_keys(value, pairs)


def _open_map(
    out: bytearray, value: Any, depth: int
) -> Sequence[tuple[object, object]]:
    """Write a map's head; return its pairs."""
    _check_depth(value, depth)
    entries = value.entries if isinstance(value, FrozenMap) else value
    # A copy: another thread may change the dict meanwhile.
    pairs = list(dict.items(entries))
    _check_length(value, len(pairs))
    out += _pack_tag_and_length(tags.MAP_EXT, len(pairs))
    return pairs


def _check_keys(value: object, pairs: Sequence[tuple[object, object]]) -> None:
    kinds = {type(key) for key, _ in pairs}

    if (
        kinds <= _PLAIN_KEY_TYPES
        and not kinds >= _BINARY_TYPES
        and (Atom not in kinds or kinds.isdisjoint(_NAMED_TYPES))
    ):
        return

    clash = describe_key_clash(pairs)

    if clash is not None:
        raise _Fault(value, clash)


def _write_canonical_map(
    out: bytearray, value: Any, depth: int, writers: _Writers
) -> None:
    """Write the pairs in the order of their bytes; for `find_key_clash`."""
    parts = []

    for key, element in value.items():
        part = bytearray()
        _writer_of(key, writers)(part, key, depth, writers)
        _writer_of(element, writers)(part, element, depth, writers)
        parts.append(bytes(part))

    out += _pack_tag_and_length(tags.MAP_EXT, len(parts))
    out += b"".join(sorted(parts))


def _check_depth(value: object, depth: int) -> None:
    if depth >= tags.MAX_DEPTH:
        raise _Fault(
            value, f"nested more than {tags.MAX_DEPTH} levels deep, or contains itself"
        )


def _check_length(value: object, length: int) -> None:
    if length > tags.MAX_LENGTH:
        raise _Fault(value, f"too long: {length}, at most {tags.MAX_LENGTH}")


_VALUE_WRITERS: Final[_Writers] = {
    type(None): _write_none,
    bool: _write_bool,
    int: _write_int,
    float: _write_float,
    str: _write_str,
    bytes: _write_bytes_as_bits,
    bytearray: _write_bytes_as_bits,
    memoryview: _write_bytes_as_bits,
    list: _write_sequence,
    tuple: _write_sequence,
    dict: _write_map,
    BitString: _write_bit_string,
    FrozenList: _write_sequence,
    FrozenMap: _write_map,
    ImproperList: _write_sequence,
    **dict.fromkeys((Atom, ExternalFun, Fun, Pid, Port, Reference), _write_etf),
}

_MESSAGE_WRITERS: Final[_Writers] = {
    **_VALUE_WRITERS,
    bytes: _write_bytes,
    bytearray: _write_bytes,
    memoryview: _write_bytes,
}

_CANONICAL_WRITERS: Final[_Writers] = {
    **_MESSAGE_WRITERS,
    FrozenMap: _write_canonical_map,
}
