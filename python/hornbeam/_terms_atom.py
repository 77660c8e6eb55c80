# SPDX-License-Identifier: Apache-2.0
"""The atom, its encoding, and the base of immutable values."""

from __future__ import annotations

from typing import Final, NoReturn, final

from hornbeam import _etf_tags as tags
from hornbeam._etf_errors import DecodeError, short_of

__all__ = ("Atom",)


class Frozen:
    """Base of values whose slots are filled once, by `_fill`."""

    __slots__ = ()

    def _fill(self, **slots: object) -> None:
        for name, value in slots.items():
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} can't be changed")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} can't be changed")


@final
class Atom(Frozen):
    """An Erlang atom.

    Atoms of one name are equal, and nearly always the same object: the first
    `MAX_CACHED_ATOMS` are kept. An atom is not a `str` and equals none.

    Args:
        name: at most 255 characters.

    Raises:
        TypeError: the name is not a `str`.
        ValueError: it is too long or holds a lone surrogate.
    """

    __slots__ = ("etf", "name")
    __match_args__ = ("name",)

    name: str
    """The atom's text."""
    etf: bytes
    """Its encoding, without the version byte."""

    def __new__(cls, name: str) -> Atom:
        cached = _cached_atoms.get(name) if type(name) is str else None
        return cached or _make_atom(name)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Atom):
            return NotImplemented

        return self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"Atom({self.name!r})"

    def __reduce__(self) -> tuple[type[Atom], tuple[str]]:
        return Atom, (self.name,)


# Bounded, so that a peer that sends ever new atoms can't fill memory.
_cached_atoms: Final[dict[str, Atom]] = {}


def _make_atom(name: str) -> Atom:
    if not isinstance(name, str):
        raise TypeError(f"an atom's name is a str, not {type(name).__name__}")

    text = str.__str__(name)  # of a subclass: the plain str

    if len(text) > tags.MAX_ATOM_CHARACTERS:
        raise ValueError(_too_long(len(text)))

    utf8 = text.encode()
    short = len(utf8) < 256
    head = bytes([tags.SMALL_ATOM_UTF8_EXT if short else tags.ATOM_UTF8_EXT])
    length = len(utf8).to_bytes(1 if short else 2, "big")
    atom = object.__new__(Atom)
    atom._fill(name=text, etf=head + length + utf8)

    if len(_cached_atoms) < tags.MAX_CACHED_ATOMS:
        return _cached_atoms.setdefault(text, atom)

    return atom


# Tag -> size of the length field, encoding of the name.
_ENCODED_ATOMS: Final = {
    tags.SMALL_ATOM_UTF8_EXT: (1, "utf-8"),
    tags.ATOM_UTF8_EXT: (2, "utf-8"),
    tags.ATOM_EXT: (2, "latin-1"),
    tags.SMALL_ATOM_EXT: (1, "latin-1"),
}


def read_atom_name(data: bytes, start: int, limit: int) -> tuple[str, int]:
    """Read the atom whose tag is at `start`.

    Returns:
        Its name, and where it ends.

    Raises:
        DecodeError: there is something else, or it does not end before `limit`.
    """
    if start >= limit:
        raise short_of(start, 1, 0)

    length_bytes, encoding = _ENCODED_ATOMS.get(data[start], (0, ""))

    if not length_bytes:
        raise DecodeError(f"expected an atom, got tag {data[start]}", start)

    position = start + 1 + length_bytes

    if position > limit:
        raise short_of(start, length_bytes, limit - start - 1)

    length = int.from_bytes(data[start + 1 : position], "big")
    end = position + length

    if end > limit:
        raise short_of(start, length, limit - position)

    try:
        name = data[position:end].decode(encoding)
    except UnicodeDecodeError:
        raise DecodeError("the atom's name is not UTF-8", start) from None

    if len(name) > tags.MAX_ATOM_CHARACTERS:
        raise DecodeError(_too_long(len(name)), start)

    return name, end


def _too_long(length: int) -> str:
    limit = tags.MAX_ATOM_CHARACTERS
    return f"an atom's name has at most {limit} characters, not {length}"
