# SPDX-License-Identifier: Apache-2.0
"""Erlang terms as Python values: equality, hashes, texts, copies, what they refuse."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import pytest

from hornbeam import _etf_errors, _terms, _terms_atom
from hornbeam._etf_tags import MAX_CACHED_ATOMS
from hornbeam._terms import (
    Atom,
    BitString,
    DecodeError,
    EncodeError,
    ExternalFun,
    FrozenList,
    FrozenMap,
    Fun,
    ImproperList,
    Pid,
    Port,
    Reference,
)

NODE: Final = b"w\x06n@host"
OLD_NODE: Final = b"d\0\6n@host"
CREATION: Final = b"\0\0\0\3"


def number(value: int) -> bytes:
    return value.to_bytes(4, "big")


PID: Final = b"X" + NODE + number(83) + number(1) + CREATION
PORT: Final = b"Y" + NODE + number(5) + CREATION
REFERENCE: Final = b"Z\0\3" + NODE + CREATION + number(1) + number(2) + number(3)
EXPORT: Final = b"qw\5listsw\3mapa\2"

# A value, one that equals it, one that does not, and its text.
TERMS: Final[dict[str, tuple[Any, Any, Any, str]]] = {
    "atom": (Atom("ok"), Atom("ok"), Atom("error"), "Atom('ok')"),
    "pid": (
        Pid(PID),
        Pid(b"g" + OLD_NODE + number(83) + number(1) + b"\3"),
        Pid(PID[:-1] + b"\4"),
        "<Pid n@host 83.1>",
    ),
    "port": (
        Port(PORT),
        Port(b"f" + OLD_NODE + number(5) + b"\3"),
        Port(b"Yw\1n" + number(5) + CREATION),
        "<Port n@host 5>",
    ),
    "port_of_64_bits": (
        Port(b"x" + NODE + number(1) + number(5) + CREATION),
        Port(b"x" + OLD_NODE + number(1) + number(5) + CREATION),
        Port(PORT),
        "<Port n@host 4294967301>",
    ),
    "reference": (
        Reference(REFERENCE),
        Reference(b"r\0\3" + NODE + b"\3" + number(1) + number(2) + number(3)),
        Reference(b"Z\0\2" + NODE + CREATION + number(1) + number(2)),
        "<Reference n@host 1.2.3>",
    ),
    "old_reference": (
        Reference(b"e" + NODE + number(9) + b"\3"),
        Reference(b"Z\0\1" + NODE + CREATION + number(9)),
        Reference(b"e" + NODE + number(9) + b"\2"),
        "<Reference n@host 9>",
    ),
    "external_fun": (
        ExternalFun(EXPORT),
        ExternalFun(b"qd\0\5listsd\0\3mapa\2"),
        ExternalFun(EXPORT[:-1] + b"\3"),
        "<ExternalFun lists:map/2>",
    ),
    "fun": (Fun(b"p..."), Fun(b"p..."), Fun(b"u..."), "<Fun of 4 bytes>"),
    "bit_string": (
        BitString(b"\xa0", 3),
        BitString(b"\xbf", 3),
        BitString(b"\xa0", 4),
        "BitString(data=b'\\xa0', last_byte_bits=3)",
    ),
    "improper_list": (
        ImproperList((1, 2), 3),
        ImproperList([1, 2], 3),  # type: ignore[arg-type]  # taken, as a convenience
        ImproperList((1, 2), 4),
        "ImproperList(elements=(1, 2), tail=3)",
    ),
    "frozen_list": (
        FrozenList((1, "a")),
        FrozenList(iter([1, "a"])),
        FrozenList((1,)),
        "FrozenList([1, 'a'])",
    ),
    "frozen_map": (
        FrozenMap({"a": 1, "b": 2}),
        FrozenMap([("b", 2), ("a", 1)]),
        FrozenMap({"a": 1}),
        "FrozenMap({'a': 1, 'b': 2})",
    ),
}

each_term = pytest.mark.parametrize("name", TERMS)


@each_term
def test_equality_and_hash(name: str) -> None:
    """Terms are equal by what they hold, also where old nodes encode them otherwise."""
    term, same, other, _ = TERMS[name]
    assert term == same
    assert hash(term) == hash(same)
    assert term != other
    assert len({term, same, other}) == 2
    assert term != "something else"
    assert term not in (None, 1, (1, "a"), [1, "a"], {"a": 1, "b": 2}, object())


@each_term
def test_text(name: str) -> None:
    term, _, _, text = TERMS[name]
    assert repr(term) == text


@each_term
@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, lambda term: pickle.loads(pickle.dumps(term))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_copies_are_equal(name: str, duplicate: Callable[[Any], Any]) -> None:
    term = TERMS[name][0]
    made = duplicate(term)
    assert made == term
    assert type(made) is type(term)
    assert repr(made) == repr(term)
    assert hash(made) == hash(term)


@each_term
def test_terms_can_not_be_changed(name: str) -> None:
    term = TERMS[name][0]

    for attribute in ("name", "etf", "data", "elements", "entries", "new"):
        with pytest.raises((AttributeError, TypeError)):
            setattr(term, attribute, 1)

        with pytest.raises((AttributeError, TypeError)):
            delattr(term, attribute)

    assert not hasattr(term, "__dict__")


def test_all_that_the_module_offers() -> None:
    assert set(_terms.__all__) == {
        name for name in vars(_terms) if not name.startswith("_")
    }


# Atoms.


@pytest.fixture
def cached(monkeypatch: pytest.MonkeyPatch) -> dict[str, Atom]:
    """An empty cache of atoms, whatever other tests have put into the real one."""
    cache: dict[str, Atom] = {}
    monkeypatch.setattr(_terms_atom, "_cached_atoms", cache)
    return cache


@pytest.mark.usefixtures("cached")
def test_atom() -> None:
    atom = Atom("größe")
    assert atom.name == "größe"
    assert atom.etf == b"w\7gr\xc3\xb6\xc3\x9fe"
    assert Atom("größe") is atom
    assert str not in Atom.__mro__

    match atom:
        case Atom("größe"):
            pass
        case _:
            raise AssertionError


@pytest.mark.usefixtures("cached")
def test_atom_of_a_subclass_of_str() -> None:
    class Name(str):
        __slots__ = ()

        def __hash__(self) -> int:
            return 1

    atom = Atom(Name("plain"))
    assert type(atom.name) is str
    assert atom is Atom("plain")


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("x" * 256, ValueError, "an atom's name has at most 255 characters, not 256"),
        ("a\ud800", ValueError, "surrogates not allowed"),
        (b"ok", TypeError, "an atom's name is a str, not bytes"),
        (None, TypeError, "an atom's name is a str, not NoneType"),
        ([], TypeError, "an atom's name is a str, not list"),
    ],
)
def test_names_that_no_atom_has(name: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        Atom(name)


def test_longest_atoms() -> None:
    assert Atom("x" * 255).etf == b"w\xff" + b"x" * 255
    assert Atom("é" * 255).etf == b"v\1\xfe" + "é".encode() * 255


def test_atoms_beyond_the_cache(cached: dict[str, Atom]) -> None:
    """They are equal, but made anew each time."""
    for count in range(MAX_CACHED_ATOMS - 2):
        Atom(str(count))

    Atom("kept")
    last = Atom("the last one")
    assert last is Atom("the last one")
    assert len(cached) == MAX_CACHED_ATOMS
    beyond = Atom("beyond")
    assert beyond is not Atom("beyond")
    assert beyond == Atom("beyond")
    assert hash(beyond) == hash(Atom("beyond"))
    assert Atom("kept") is cached["kept"]


# Identifiers.


def test_node_of_an_identifier() -> None:
    for identifier in (Pid(PID), Port(PORT), Reference(REFERENCE)):
        assert identifier.node == Atom("n@host")


@pytest.mark.parametrize(
    ("make", "etf", "text"),
    [
        (Pid, b"", "not the encoding of a Pid"),
        (Pid, PORT, "not the encoding of a Pid"),
        (Pid, PID[:-1], "the term needs 12 more bytes, 11 are left"),
        (Pid, PID + b"x", "1 bytes follow the term"),
        (Pid, b"X" + b"a\1", "expected an atom, got tag 97"),
        (Pid, b"X", "the term needs 1 more bytes, 0 are left"),
        (Pid, b"Xd\0", "the term needs 2 more bytes, 1 are left"),
        (Pid, b"Xw\1", "the term needs 1 more bytes, 0 are left"),
        (Pid, b"Xw\1\xff", "the atom's name is not UTF-8"),
        (Pid, b"Xv\1\0" + b"a" * 256, "an atom's name has at most 255 characters"),
        (Port, PID, "not the encoding of a Port"),
        (Port, PORT[:-5], "the term needs 8 more bytes, 3 are left"),
        (Reference, PID, "not the encoding of a Reference"),
        (Reference, REFERENCE[:-1], "the term needs 16 more bytes, 15 are left"),
        (Reference, b"Z\0\0", "a reference has 1 to 5 words, not 0"),
        (Reference, b"Z\0\6", "a reference has 1 to 5 words, not 6"),
        (ExternalFun, PID, "not the encoding of a ExternalFun"),
        (ExternalFun, EXPORT[:-1], "expected an arity of 0 to 255"),
        (ExternalFun, EXPORT[:-2] + b"b\0", "expected an arity of 0 to 255"),
        (ExternalFun, EXPORT + b"x", "1 bytes follow the term"),
        (Fun, b"", "not the encoding of a Fun"),
        (Fun, b"x", "not the encoding of a Fun"),
    ],
)
def test_encodings_of_something_else(
    make: Callable[[bytes], object], etf: bytes, text: str
) -> None:
    with pytest.raises(DecodeError, match=text):
        make(etf)


# Collections.


def test_bit_string_that_is_none() -> None:
    for data, bits in ((b"", 1), (b"a", 0), (b"a", 8), (b"a", -1)):
        with pytest.raises(ValueError, match="of whose last byte 1 to 7 bits count"):
            BitString(data, bits)


def test_improper_list_that_is_none() -> None:
    with pytest.raises(ValueError, match="at least one element"):
        ImproperList((), 1)

    for tail in ([], [1], FrozenList(), ImproperList((1,), 2)):
        with pytest.raises(ValueError, match="is not a list"):
            ImproperList((1,), tail)


def test_frozen_list_is_a_sequence() -> None:
    frozen = FrozenList([1, 2, 3])
    assert isinstance(frozen, Sequence)
    assert frozen[1] == 2
    assert frozen[1:] == (2, 3)
    assert len(frozen) == 3
    assert list(frozen) == [1, 2, 3]
    assert 2 in frozen

    with pytest.raises(TypeError, match="unhashable"):
        FrozenList([[]])


def test_frozen_map_is_a_mapping() -> None:
    frozen = FrozenMap({"a": 1})
    assert isinstance(frozen, Mapping)
    assert frozen["a"] == 1
    assert dict(frozen) == {"a": 1}
    assert len(frozen) == 1
    assert frozen.get("b") is None

    with pytest.raises(TypeError, match="unhashable"):
        FrozenMap({"a": []})


def test_frozen_map_holds_a_copy() -> None:
    entries: dict[object, object] = {"a": 1}
    frozen = FrozenMap(entries)
    entries["b"] = 2
    assert len(frozen) == 1


# Errors.


def test_errors_survive_pickling() -> None:
    """They cross process borders, as in test runners and executors."""
    encode_error = EncodeError("set is not supported", "set", "value[0]")
    decode_error = DecodeError("unknown tag 5", 7)

    for error in (encode_error, decode_error):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert vars(again) == vars(error)


def test_error_texts() -> None:
    assert str(EncodeError("too much", "list")) == "value: too much"
    assert str(DecodeError("too little", 3)) == "too little (at byte 3)"


def test_all_that_the_errors_module_offers() -> None:
    for name in _etf_errors.__all__:
        assert getattr(_terms, name) is getattr(_etf_errors, name)


def test_long_paths_are_cut() -> None:
    assert _etf_errors.format_path([2, ("a",), 1]) == "value[1]['a'][2]"
    assert _etf_errors.format_path([1] * 16) == "value" + "[1]" * 16
    assert _etf_errors.format_path([1] * 17) == (
        "value" + "[1]" * 12 + "...(1 more)..." + "[1]" * 4
    )
