# SPDX-License-Identifier: Apache-2.0
"""What the readers of the pure Python decoder share.

A reader makes one value. It is called with the data, the position after the term's tag,
the limit, the number of containers around the term, and the mode; it returns the value
and where the term ends. Readers are looked up by tag in the table of the mode.

The limit is how far a term may reach: the end of the data, less one byte for each term
that the containers around it have promised and that is still to come. So a count that
the data can't hold is refused before memory is taken for it, at any depth, and the tag
of a promised term is always there.

A container calls its elements' readers itself, so a level of nesting costs one frame of
Python's stack.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from hornbeam import _etf_tags as tags
from hornbeam._etf_errors import DecodeError

__all__ = ("ATOM_TAGS", "Mode", "Reader", "check_depth", "unpack_length")

Reader: TypeAlias = Callable[[bytes, int, int, int, "Mode"], tuple[object, int]]

ATOM_TAGS: Final = (
    tags.ATOM_EXT,
    tags.SMALL_ATOM_EXT,
    tags.ATOM_UTF8_EXT,
    tags.SMALL_ATOM_UTF8_EXT,
)

unpack_length: Final = struct.Struct(">I").unpack_from


class Mode:
    """How values are made of terms.

    Args:
        readers: by tag.
        is_frozen: lists and maps become hashable; for what is inside the key of a map.
    """

    __slots__ = ("in_key", "is_frozen", "readers")

    readers: list[Reader]
    """By tag, one for each byte."""
    is_frozen: bool
    """Whether lists and maps become hashable."""
    in_key: Mode
    """The mode for the keys of maps."""

    def __init__(self, readers: Mapping[int, Reader], *, is_frozen: bool) -> None:
        self.readers = [readers.get(tag, _read_unknown) for tag in range(256)]
        self.is_frozen = is_frozen
        self.in_key = self if is_frozen else Mode(readers, is_frozen=True)


def check_depth(depth: int, start: int) -> None:
    if depth >= tags.MAX_DEPTH:
        raise DecodeError(f"nested more than {tags.MAX_DEPTH} levels deep", start)


def _read_unknown(
    data: bytes, position: int, limit: int, depth: int, mode: Mode
) -> tuple[object, int]:
    start = position - 1
    tag = data[start]

    if tag in _REFUSED:
        raise DecodeError(f"{_REFUSED[tag]} (tag {tag}) is not taken here", start)

    raise DecodeError(f"unknown tag {tag}", start)


_REFUSED: Final = {
    # Right after the version byte it is taken; that does not come here.
    tags.COMPRESSED: "a compressed term",
    # Means something on a connection between nodes only.
    tags.ATOM_CACHE_REF: "ATOM_CACHE_REF",
    # Of term_to_binary/2 with the option `local`: for the node that made it.
    tags.LOCAL_EXT: "LOCAL_EXT",
}
