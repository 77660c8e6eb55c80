# SPDX-License-Identifier: Apache-2.0
"""Terms that Python keeps as their encoding, to send them back exactly as they came."""

from __future__ import annotations

from struct import Struct
from typing import ClassVar, final

from hornbeam import _etf_tags as tags
from hornbeam._etf_errors import DecodeError, short_of
from hornbeam._terms_atom import Atom, Frozen, read_atom_name

__all__ = ("ExternalFun", "Fun", "Pid", "Port", "Reference")

_Content = tuple[str | int | bytes, ...]


class _Encoded(Frozen):
    """Base of the terms of this module.

    Equality is by content: old and new nodes encode some of them in different ways.

    Args:
        etf: the encoding, without the version byte.

    Raises:
        DecodeError: it is not the encoding of such a term.
    """

    __slots__ = ("_content", "etf")

    _tags: ClassVar[frozenset[int]]
    _content: _Content
    etf: bytes
    """The encoding, without the version byte."""

    def __init__(self, etf: bytes) -> None:
        if not etf or etf[0] not in self._tags:
            raise DecodeError(f"not the encoding of a {type(self).__name__}", 0)

        content, end = self._parse(etf)

        if end != len(etf):
            raise DecodeError(f"{len(etf) - end} bytes follow the term", end)

        self._fill(etf=bytes(etf), _content=content)

    def _parse(self, etf: bytes) -> tuple[_Content, int]:
        """Return what makes two of them equal, and where the term ends."""
        raise AssertionError("each type of term has its own")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Encoded) or type(other) is not type(self):
            return NotImplemented

        return self._content == other._content

    def __hash__(self) -> int:
        return hash((type(self), self._content))

    def __reduce__(self) -> tuple[type[_Encoded], tuple[bytes]]:
        return type(self), (self.etf,)


class _Identifier(_Encoded):
    """Base of what a node names: the content is the node, numbers, and its creation."""

    __slots__ = ()

    @property
    def node(self) -> Atom:
        """The node that it belongs to."""
        return Atom(str(self._content[0]))

    def __repr__(self) -> str:
        numbers = ".".join(f"{number!r}" for number in self._content[1:-1])
        return f"<{type(self).__name__} {self.node.name} {numbers}>"


@final
class Pid(_Identifier):
    """An Erlang process; opaque, can be compared and sent back."""

    __slots__ = ()

    _tags = frozenset((tags.PID_EXT, tags.NEW_PID_EXT))

    def _parse(self, etf: bytes) -> tuple[_Content, int]:
        creation = "B" if etf[0] == tags.PID_EXT else "I"
        return _read_node_and_numbers(etf, 1, ">II" + creation)


@final
class Port(_Identifier):
    """An Erlang port; opaque, can be compared and sent back."""

    __slots__ = ()

    _tags = frozenset((tags.PORT_EXT, tags.NEW_PORT_EXT, tags.V4_PORT_EXT))

    def _parse(self, etf: bytes) -> tuple[_Content, int]:
        number = "Q" if etf[0] == tags.V4_PORT_EXT else "I"
        creation = "B" if etf[0] == tags.PORT_EXT else "I"
        return _read_node_and_numbers(etf, 1, f">{number}{creation}")


@final
class Reference(_Identifier):
    """An Erlang reference; opaque, can be compared and sent back."""

    __slots__ = ()

    _tags = frozenset(
        (tags.REFERENCE_EXT, tags.NEW_REFERENCE_EXT, tags.NEWER_REFERENCE_EXT)
    )

    def _parse(self, etf: bytes) -> tuple[_Content, int]:
        if etf[0] == tags.REFERENCE_EXT:
            return _read_node_and_numbers(etf, 1, ">IB")

        words = int.from_bytes(etf[1:3], "big")
        check_reference_words(words, 0)
        creation = "B" if etf[0] == tags.NEW_REFERENCE_EXT else "I"
        content, end = _read_node_and_numbers(etf, 3, f">{creation}{words}I")
        node, creation_number, *ids = content
        return (node, *ids, creation_number), end


@final
class ExternalFun(_Encoded):
    """An Erlang function by name, `fun Module:Function/Arity`."""

    __slots__ = ()

    _tags = frozenset((tags.EXPORT_EXT,))

    def _parse(self, etf: bytes) -> tuple[_Content, int]:
        module, position = read_atom_name(etf, 1, len(etf))
        function, position = read_atom_name(etf, position, len(etf))
        end = position + 2

        if len(etf) < end or etf[position] != tags.SMALL_INTEGER_EXT:
            raise DecodeError("expected an arity of 0 to 255", position)

        return (module, function, etf[position + 1]), end

    def __repr__(self) -> str:
        module, function, arity = self._content
        return f"<ExternalFun {module!s}:{function!s}/{arity!s}>"


@final
class Fun(_Encoded):
    """An Erlang function with its environment; opaque, can be sent back."""

    __slots__ = ()

    _tags = frozenset((tags.NEW_FUN_EXT, tags.FUN_EXT))

    def _parse(self, etf: bytes) -> tuple[_Content, int]:
        # The decoder, which makes these, has checked what is inside.
        return (etf,), len(etf)

    def __repr__(self) -> str:
        return f"<Fun of {len(self.etf)} bytes>"


def _read_node_and_numbers(
    etf: bytes, start: int, number_format: str
) -> tuple[_Content, int]:
    node, position = read_atom_name(etf, start, len(etf))
    layout = Struct(number_format)
    end = position + layout.size

    if end > len(etf):
        raise short_of(0, layout.size, len(etf) - position)

    return (node, *layout.unpack_from(etf, position)), end


def check_reference_words(words: int, offset: int) -> None:
    """Raise DecodeError where no reference has that many words of id."""
    if not 1 <= words <= tags.MAX_REFERENCE_WORDS:
        limit = tags.MAX_REFERENCE_WORDS
        raise DecodeError(f"a reference has 1 to {limit} words, not {words}", offset)
