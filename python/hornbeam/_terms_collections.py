# SPDX-License-Identifier: Apache-2.0
"""Lists, maps and bits of Erlang that have no counterpart in Python."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from hornbeam._terms_atom import Frozen

__all__ = ("BitString", "FrozenList", "FrozenMap", "ImproperList")


@final
@dataclass(frozen=True, slots=True)
class BitString:
    """Bits that don't fill whole bytes.

    Raises:
        ValueError: no data, or a number of bits out of range.
    """

    data: bytes
    """The bits from the most significant one on; unused ones of the last byte are 0."""
    last_byte_bits: int
    """How many bits of the last byte count, 1 to 7."""

    def __post_init__(self) -> None:
        if not self.data or not 1 <= self.last_byte_bits <= 7:
            raise ValueError(
                "a BitString has data, of whose last byte 1 to 7 bits count"
            )

        unused = 8 - self.last_byte_bits
        last = self.data[-1] >> unused << unused
        object.__setattr__(self, "data", self.data[:-1] + bytes([last]))


@final
@dataclass(frozen=True, slots=True)
class ImproperList:
    """A list that ends in something else than a list, `[1, 2 | tail]`.

    Raises:
        ValueError: no elements, or a tail that is a list.
    """

    elements: tuple[object, ...]
    """At least one."""
    tail: object
    """What follows them; not a list."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "elements", tuple(self.elements))

        if not self.elements:
            raise ValueError("an ImproperList has at least one element")

        if isinstance(self.tail, list | FrozenList | ImproperList):
            raise ValueError("the tail of an ImproperList is not a list")


@final
class FrozenList(Frozen, Sequence[object]):
    """A list inside a map's key. It equals other FrozenLists, not lists or tuples.

    Args:
        elements: hashable ones.

    Raises:
        TypeError: an element is not hashable.
    """

    __slots__ = ("_hash", "elements")

    elements: tuple[object, ...]
    _hash: int

    def __init__(self, elements: Iterable[object] = ()) -> None:
        kept = tuple(elements)
        # Once, here: it would else be done again at each level of a deep key.
        self._fill(elements=kept, _hash=hash((FrozenList, kept)))

    def __getitem__(self, index: Any) -> Any:
        return self.elements[index]

    def __len__(self) -> int:
        return len(self.elements)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FrozenList):
            return NotImplemented

        return self.elements == other.elements

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"FrozenList({list(self.elements)!r})"

    def __reduce__(self) -> tuple[type[FrozenList], tuple[tuple[object, ...]]]:
        return FrozenList, (self.elements,)


@final
class FrozenMap(Frozen, Mapping[object, object]):
    """A map inside a map's key. It equals other FrozenMaps, not dicts.

    Args:
        entries: a mapping with hashable values, or pairs.

    Raises:
        TypeError: a value is not hashable.
    """

    __slots__ = ("_hash", "entries")

    entries: dict[object, object]
    """For the encoders; not to be changed."""
    _hash: int

    def __init__(
        self, entries: Mapping[Any, object] | Iterable[tuple[object, object]] = ()
    ) -> None:
        kept = dict(entries)
        self._fill(entries=kept, _hash=hash((FrozenMap, frozenset(kept.items()))))

    def __getitem__(self, key: object) -> object:
        return self.entries[key]

    def __iter__(self) -> Iterator[object]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FrozenMap):
            return NotImplemented

        return self.entries == other.entries

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"FrozenMap({self.entries!r})"

    def __reduce__(self) -> tuple[type[FrozenMap], tuple[dict[object, object]]]:
        return FrozenMap, (self.entries,)
