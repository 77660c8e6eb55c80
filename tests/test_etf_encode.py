# SPDX-License-Identifier: Apache-2.0
"""Encoding by hand: what counts as what, what is refused in which words, the limits."""

from __future__ import annotations

import enum
import mmap
import sys
from collections import OrderedDict, defaultdict, namedtuple
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

import pytest

from etf_support import Codec, each_codec
from hornbeam._etf_tags import (
    MAX_DEPTH,
    MAX_INTEGER_BYTES,
    MAX_LENGTH,
    MAX_TUPLE_ARITY,
)
from hornbeam._terms import (
    Atom,
    BitString,
    EncodeError,
    FrozenList,
    FrozenMap,
    ImproperList,
    Pid,
)

PID: Final = Pid(b"Xw\x06n@host" + bytes(12))


class Color(enum.IntEnum):
    RED = 300


class Word(str, enum.Enum):
    HELLO = "hé"


class Text(str):
    __slots__ = ()

    def encode(self, *_: str) -> bytes:
        raise AssertionError("not for the codec")

    def __str__(self) -> str:
        raise AssertionError("not for the codec")


class Number(int):
    def __abs__(self) -> int:
        raise AssertionError("not for the codec")

    def __int__(self) -> int:
        raise AssertionError("not for the codec")

    def __index__(self) -> int:
        raise AssertionError("not for the codec")


class Real(float):
    def __float__(self) -> float:
        raise AssertionError("not for the codec")


class Data(bytes):
    def __bytes__(self) -> bytes:
        raise AssertionError("not for the codec")

    def __getitem__(self, _: Any) -> Any:
        raise AssertionError("not for the codec")

    def __buffer__(self, _: int) -> memoryview:
        raise AssertionError("not for the codec")


class Store(bytearray):
    def __getitem__(self, _: Any) -> Any:
        raise AssertionError("not for the codec")

    def __buffer__(self, _: int) -> memoryview:
        raise AssertionError("not for the codec")


class Elements(list[object]):
    def __iter__(self) -> Any:
        raise AssertionError("not for the codec")

    def __len__(self) -> int:
        return 99

    def __getitem__(self, _: Any) -> Any:
        raise AssertionError("not for the codec")

    def copy(self) -> Any:
        raise AssertionError("not for the codec")


class Row(tuple[object, ...]):
    __slots__ = ()

    def __iter__(self) -> Any:
        raise AssertionError("not for the codec")

    def __len__(self) -> int:
        return 99

    def __getitem__(self, _: Any) -> Any:
        raise AssertionError("not for the codec")


class Table(dict[object, object]):
    def items(self) -> Any:
        raise AssertionError("not for the codec")

    def __iter__(self) -> Any:
        raise AssertionError("not for the codec")

    def __len__(self) -> int:
        return 99


Point = namedtuple("Point", "x y")

# Bytes without the version byte, of a value and, if it differs, of a message.
ENCODED: Final[list[tuple[object, bytes] | tuple[object, bytes, bytes]]] = [
    (None, b"w\x09undefined"),
    (True, b"w\4true"),
    (False, b"w\5false"),
    (0, b"a\0"),
    (255, b"a\xff"),
    (256, b"b\0\0\1\0"),
    (-1, b"b\xff\xff\xff\xff"),
    (2**31, b"n\4\0\0\0\0\x80"),
    (-(2**63), b"n\x08\1\0\0\0\0\0\0\0\x80"),
    (2**64, b"n\x09\0\0\0\0\0\0\0\0\0\1"),
    (-(2**64), b"n\x09\1\0\0\0\0\0\0\0\0\1"),
    (2**2040 - 1, b"n\xff\0" + b"\xff" * 255),
    (-(2**2040), b"o\0\0\1\0\1" + bytes(255) + b"\1"),
    (1.5, b"F\x3f\xf8\0\0\0\0\0\0"),
    (-0.0, b"F\x80\0\0\0\0\0\0\0"),
    ("", b"m\0\0\0\0"),
    ("abc", b"m\0\0\0\3abc"),
    ("é", b"m\0\0\0\2\xc3\xa9"),
    ("日", b"m\0\0\0\3\xe6\x97\xa5"),
    ("🐝", b"m\0\0\0\4\xf0\x9f\x90\x9d"),
    (b"", b"M\0\0\0\0\0", b"m\0\0\0\0"),
    (b"abc", b"M\0\0\0\3\x08abc", b"m\0\0\0\3abc"),
    (bytearray(b"abc"), b"M\0\0\0\3\x08abc", b"m\0\0\0\3abc"),
    (memoryview(b"xabc")[1:], b"M\0\0\0\3\x08abc", b"m\0\0\0\3abc"),
    (memoryview(b"axbxc")[::2], b"M\0\0\0\3\x08abc", b"m\0\0\0\3abc"),
    (memoryview(b"abcd").cast("H"), b"M\0\0\0\4\x08abcd", b"m\0\0\0\4abcd"),
    (memoryview(b""), b"M\0\0\0\0\0", b"m\0\0\0\0"),
    ([], b"j"),
    ([1, [2]], b"l\0\0\0\2a\1l\0\0\0\1a\2jj"),
    ((), b"h\0"),
    ((1,) * 255, b"h\xff" + b"a\1" * 255),
    ((1,) * 256, b"i\0\0\1\0" + b"a\1" * 256),
    ({}, b"t\0\0\0\0"),
    ({"a": 1, 2: ()}, b"t\0\0\0\2m\0\0\0\1aa\1a\2h\0"),
    (Atom("ok"), b"w\2ok"),
    (Atom("é" * 200), b"v\1\x90" + "é".encode() * 200),
    (PID, PID.etf),
    (BitString(b"a\x80", 1), b"M\0\0\0\2\1a\x80"),
    (ImproperList((1, 2), 3), b"l\0\0\0\2a\1a\2a\3"),
    (FrozenList((1,)), b"l\0\0\0\1a\1j"),
    (FrozenList(), b"j"),
    (FrozenMap({1: 2}), b"t\0\0\0\1a\1a\2"),
    # Subclasses count as their base, whatever they make of its methods.
    (Color.RED, b"b\0\0\1\x2c"),
    (Word.HELLO, b"m\0\0\0\3h\xc3\xa9"),
    (Text("é"), b"m\0\0\0\2\xc3\xa9"),
    (Text("e"), b"m\0\0\0\1e"),
    (Number(7), b"a\7"),
    (Number(-(2**70)), b"n\x09\1\0\0\0\0\0\0\0\0\x40"),
    (Real(1.5), b"F\x3f\xf8\0\0\0\0\0\0"),
    (Data(b"a"), b"M\0\0\0\1\x08a", b"m\0\0\0\1a"),
    (Store(b"a"), b"M\0\0\0\1\x08a", b"m\0\0\0\1a"),
    (Elements([1, 2]), b"l\0\0\0\2a\1a\2j"),
    (Row((1, 2)), b"h\2a\1a\2"),
    (Table({1: 2}), b"t\0\0\0\1a\1a\2"),
    (Point(1, 2), b"h\2a\1a\2"),
    (OrderedDict(a=1), b"t\0\0\0\1m\0\0\0\1aa\1"),
    (defaultdict(int, a=1), b"t\0\0\0\1m\0\0\0\1aa\1"),
]


@each_codec
@pytest.mark.parametrize("row", ENCODED, ids=lambda row: type(row[0]).__name__)
def test_encoded(codec: Codec, row: tuple[object, bytes]) -> None:
    """Each type of value has these bytes, as a value and as a part of a message."""
    value, *encodings = row
    assert codec.encode(value) == b"\x83" + encodings[0]
    assert codec.encode_message(value) == encodings[-1]


@each_codec
def test_large_values(codec: Codec) -> None:
    """Output grows as needed, by small steps and by large ones."""
    large = b"x" * 1_000_000
    assert codec.encode(large) == b"\x83M\0\x0f\x42\x40\x08" + large
    assert (
        codec.encode_message([large, "ä" * 500_000, 1])
        == (b"l\0\0\0\3m\0\x0f\x42\x40" + large + b"m\0\x0f\x42\x40")
        + "ä".encode() * 500_000
        + b"a\1j"
    )

    for length in range(1000, 1050):
        assert codec.encode_message((b"a" * length, 1)) == (
            b"h\2m" + length.to_bytes(4, "big") + b"a" * length + b"a\1"
        )
        assert codec.encode([1] * length) == (
            b"\x83l" + length.to_bytes(4, "big") + b"a\1" * length + b"j"
        )


EXPECTED: Final = (
    "expected None, bool, int, float, str, bytes, list, tuple, dict, Atom or another"
    " Erlang term"
)


class Price:
    class Currency:
        pass


DEEP: Any = 1

for _ in range(20):
    DEEP = [DEEP]

# The value, where the error is, what is wrong, the type of the culprit.
REFUSED: Final[dict[str, tuple[object, str, str, str]]] = {
    "set": ({1}, "value", f"set is not supported; {EXPECTED}", "set"),
    "in_containers": (
        {"items": [1, 2, 3, ({"price": Decimal(1)},)]},
        "value['items'][3][0]['price']",
        f"decimal.Decimal is not supported; {EXPECTED}",
        "decimal.Decimal",
    ),
    "nested_class": (
        [Price.Currency()],
        "value[0]",
        f"test_etf_encode.Price.Currency is not supported; {EXPECTED}",
        "test_etf_encode.Price.Currency",
    ),
    "class": (int, "value", f"type is not supported; {EXPECTED}", "type"),
    "in_a_key": (
        {1: 2, ("a", frozenset()): 3},
        "value.keys()[1][1]",
        f"frozenset is not supported; {EXPECTED}",
        "frozenset",
    ),
    "in_an_improper_list": (
        ImproperList((1, 2j), 3),
        "value[1]",
        f"complex is not supported; {EXPECTED}",
        "complex",
    ),
    "in_a_tail": (
        [ImproperList((1,), 2j)],
        "value[0].tail",
        f"complex is not supported; {EXPECTED}",
        "complex",
    ),
    "in_a_frozen_list": (
        FrozenList((1, 2j)),
        "value[1]",
        f"complex is not supported; {EXPECTED}",
        "complex",
    ),
    "in_a_frozen_map": (
        FrozenMap({b"k": 2j}),
        "value[b'k']",
        f"complex is not supported; {EXPECTED}",
        "complex",
    ),
    "behind_keys_of_all_kinds": (
        {None: {True: {5: {1.5: {(1,): {Color.RED: {Text("t"): ...}}}}}}},
        "value[None][True][5][1.5][<tuple>][300]['t']",
        f"ellipsis is not supported; {EXPECTED}",
        "ellipsis",
    ),
    "behind_long_keys": (
        {"k" * 100: {10**100: {Atom("a"): ...}}},
        f"value['{'k' * 59}...][<int>][<hornbeam._terms_atom.Atom>]",
        f"ellipsis is not supported; {EXPECTED}",
        "ellipsis",
    ),
    "far_inside": (
        [DEEP, DEEP[:] + [...]],
        "value[1][1]",
        f"ellipsis is not supported; {EXPECTED}",
        "ellipsis",
    ),
    "nan": (
        [float("nan")],
        "value[0]",
        "nan has no Erlang form; expected a finite float",
        "float",
    ),
    "infinity": (
        Real("inf"),
        "value",
        "inf has no Erlang form; expected a finite float",
        "test_etf_encode.Real",
    ),
    "minus_infinity": (
        {"x": float("-inf")},
        "value['x']",
        "-inf has no Erlang form; expected a finite float",
        "float",
    ),
    "surrogate": (
        {"name": "ab\ud800"},
        "value['name']",
        "a lone surrogate at index 2 has no UTF-8 form",
        "str",
    ),
    "str_and_bytes_keys": (
        [{"k": 1, "l": 2, b"k": 3}],
        "value[0]",
        "keys 'k' and b'k' are one key in Erlang",
        "dict",
    ),
    "none_and_undefined_keys": (
        {None: 1, Atom("undefined"): 2},
        "value",
        "keys None and <hornbeam._terms_atom.Atom> are one key in Erlang",
        "dict",
    ),
    "true_keys": (
        {Atom("true"): 1, True: 2},
        "value",
        "keys <hornbeam._terms_atom.Atom> and True are one key in Erlang",
        "dict",
    ),
    "tuple_keys": (
        {("k", 1): 1, (b"k", 1): 2},
        "value",
        "keys <tuple> and <tuple> are one key in Erlang",
        "dict",
    ),
    "frozen_list_keys": (
        {FrozenList(("k",)): 1, FrozenList((b"k",)): 2},
        "value",
        "keys <hornbeam._terms_collections.FrozenList> and"
        " <hornbeam._terms_collections.FrozenList> are one key in Erlang",
        "dict",
    ),
    "frozen_map_keys_in_another_order": (
        {FrozenMap({"k": 1, "l": 2}): 1, FrozenMap({b"l": 2, b"k": 1}): 2},
        "value",
        "keys <hornbeam._terms_collections.FrozenMap> and"
        " <hornbeam._terms_collections.FrozenMap> are one key in Erlang",
        "dict",
    ),
    "keys_of_a_frozen_map": (
        FrozenMap({"k": 1, b"k": 2}),
        "value",
        "keys 'k' and b'k' are one key in Erlang",
        "hornbeam._terms_collections.FrozenMap",
    ),
    "long_keys": (
        {"k" * 99: 1, b"k" * 99: 2},
        "value",
        f"keys '{'k' * 59}... and b'{'k' * 58}... are one key in Erlang",
        "dict",
    ),
    "integer": (
        2 ** (8 * MAX_INTEGER_BYTES),
        "value",
        "an integer has at most 524287 bytes, not 524288",
        "int",
    ),
    "tuple": (
        (None,) * (MAX_TUPLE_ARITY + 1),
        "value",
        "a tuple has at most 16777215 elements, not 16777216",
        "tuple",
    ),
}


@each_codec
@pytest.mark.parametrize("name", REFUSED)
def test_refused(codec: Codec, name: str) -> None:
    """The error says where and what, in the same words for both codecs."""
    value, path, reason, value_type = REFUSED[name]

    for encode in (codec.encode, codec.encode_message):
        with pytest.raises(EncodeError) as caught:
            encode(value)

        error = caught.value
        assert (error.path, error.reason) == (path, reason)
        assert error.value_type == value_type
        assert str(error) == f"{path}: {reason}"
        assert isinstance(error, TypeError)
        assert isinstance(error, ValueError)


@each_codec
def test_keys_that_are_not_one_in_erlang(codec: Codec) -> None:
    """The check for clashing keys lets these pass."""
    for value in (
        {"k": 1, b"l": 2},
        {1: 1, "1": 2, 1.5: 3, None: 4, True + 1: 5},
        {b"1": 1, 1: 2},
        {("k",): 1, (b"l",): 2, "k": 3},
        {(1,): 1, (1, 1): 2, FrozenList((1,)): 3, FrozenMap({1: 1}): 4},
        {FrozenMap({1: 2, 3: 4}): 1, FrozenMap({1: 4, 3: 2}): 2},
        {Atom("k"): 1, "k": 2},
        {Atom("undefined"): 1},
        {BitString(b"\x80", 1): 1, BitString(b"\x80", 2): 2, b"\x80": 3},
        {Color.RED: 1, 1: 2},
        {PID: 1, Pid(PID.etf[:-1] + b"\1"): 2},
    ):
        decoded = codec.decode(codec.encode(value))
        assert len(decoded) == len(value)


@each_codec
@pytest.mark.parametrize(
    "wrap",
    [
        lambda value: [value],
        lambda value: (value,),
        lambda value: {"k": value},
        lambda value: ImproperList((value,), 1),
        lambda value: ImproperList((1,), (value,)),
    ],
)
def test_depth_limit(codec: Codec, wrap: Callable[[object], object]) -> None:
    """As many levels as the limit are taken, one more is not."""
    value: object = None
    levels = 0

    while levels < MAX_DEPTH:
        value = wrap(value)
        levels += 2 if isinstance(value, ImproperList) and value.elements == (1,) else 1

    assert codec.decode(codec.encode(value)) is not None

    with pytest.raises(EncodeError) as caught:
        codec.encode(wrap(value))

    limit = f"nested more than {MAX_DEPTH} levels deep, or contains itself"
    assert caught.value.reason == limit
    assert len(caught.value.path) < 300
    assert "...(" in caught.value.path


@each_codec
def test_values_that_contain_themselves(codec: Codec) -> None:
    """A cycle ends at the depth limit."""
    in_list: list[object] = []
    in_list.append(in_list)
    in_dict: dict[str, object] = {}
    in_dict["self"] = (in_dict,)

    for value in (in_list, in_dict):
        with pytest.raises(EncodeError, match="contains itself"):
            codec.encode(value)


@each_codec
def test_deep_keys(codec: Codec) -> None:
    """Keys count as levels too, also where clashes are looked for."""
    key: object = "k"

    for _ in range(MAX_DEPTH - 1):
        key = (key,)

    assert codec.encode({key: 1, b"k": 2})

    with pytest.raises(EncodeError, match="nested more"):
        codec.encode({(key,): 1})


@each_codec
def test_stack_that_the_caller_has_used_up(codec: Codec) -> None:
    """Where Python's stack is too short for a value, it is an EncodeError, or none."""
    value: object = None

    for _ in range(MAX_DEPTH):
        value = [value]

    def call_at(depth: int) -> bytes:
        return codec.encode(value) if depth == 0 else call_at(depth - 1)

    try:
        encoded = call_at(sys.getrecursionlimit() // 2)
    except EncodeError as error:
        assert error.reason == "nested too deep for what is left of the stack"
        assert codec.CODEC == "python"
    else:
        assert encoded == call_at(0)


@each_codec
def test_integer_up_to_the_limit(codec: Codec) -> None:
    largest = 2 ** (8 * MAX_INTEGER_BYTES) - 1
    assert codec.decode(codec.encode(-largest)) == -largest


@each_codec
def test_tuple_up_to_the_limit(codec: Codec) -> None:
    """It is not the arity that is refused; to encode all would take a while."""
    with pytest.raises(EncodeError, match=r"^value\[0\]: set is not supported"):
        codec.encode(({1}, *(None,) * (MAX_TUPLE_ARITY - 1)))


@each_codec
def test_binary_beyond_the_limit(codec: Codec) -> None:
    """4 GiB of bytes, which take no memory as nobody looks at them."""
    with mmap.mmap(-1, MAX_LENGTH + 1) as huge, memoryview(huge) as view:
        with pytest.raises(EncodeError) as caught:
            codec.encode([view])

        assert (
            caught.value.reason == f"too long: {MAX_LENGTH + 1}, at most {MAX_LENGTH}"
        )
        assert caught.value.path == "value[0]"
        del caught


@each_codec
def test_released_memoryview(codec: Codec) -> None:
    view = memoryview(b"abc")
    view.release()

    with pytest.raises(
        EncodeError, match=r"value\[0\]: the memoryview has been released"
    ):
        codec.encode([view])


@each_codec
def test_buffers_are_let_go(codec: Codec) -> None:
    """A bytearray can be resized after it was encoded, also where that failed."""
    data = bytearray(b"abc")
    codec.encode(data)

    with pytest.raises(EncodeError):
        codec.encode([data, {1}])

    data.extend(b"def")


@each_codec
def test_slots_with_something_else(codec: Codec) -> None:
    """Who goes behind a term's back gets an error, and no crash."""
    atom = Atom("slots_with_something_else")
    bits = BitString(b"a", 1)
    frozen_list = FrozenList((1,))
    frozen_map = FrozenMap()
    object.__setattr__(atom, "etf", 5)
    object.__setattr__(bits, "data", 5)
    object.__setattr__(frozen_list, "elements", 5)
    object.__setattr__(frozen_map, "entries", 5)

    for value in (atom, bits, frozen_list, frozen_map):
        with pytest.raises(TypeError):
            codec.encode(value)

    object.__delattr__(frozen_list, "elements")

    with pytest.raises(AttributeError):
        codec.encode(frozen_list)


# Batches.


@each_codec
def test_pack_batch(codec: Codec) -> None:
    assert codec.pack_batch([]) == b"\0\0\0\2\x83j"
    assert codec.pack_batch([b"a\1"]) == b"\0\0\0\x09\x83l\0\0\0\1a\1j"
    assert codec.pack_batch((b"a\1", b"h\0")) == b"\0\0\0\x0b\x83l\0\0\0\2a\1h\0j"


@each_codec
def test_batch_of_something_else(codec: Codec) -> None:
    with pytest.raises(TypeError, match="a batch is made of bytes, not str"):
        codec.pack_batch([b"j", "j"])  # type: ignore[list-item]  # that is the test

    with pytest.raises(TypeError):
        codec.pack_batch(5)  # type: ignore[arg-type]  # that is the test


@each_codec
def test_batch_beyond_the_limit(codec: Codec) -> None:
    """More than four bytes of length can tell is refused before memory is taken."""
    part = bytes(2**26)

    with pytest.raises(EncodeError) as caught:
        codec.pack_batch([part] * 64)

    assert (
        caught.value.reason
        == f"a packet has at most {MAX_LENGTH} bytes, not 4294967303"
    )
    assert caught.value.value_type == "list"
