# SPDX-License-Identifier: Apache-2.0
"""The codec against others: an Erlang runtime, erlang-py, and the ErlPort library."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator
from typing import Any, Final

import erlang  # type: ignore[import-untyped]  # erlang-py has no types
import pytest
from emqx.erlport import erlterms  # type: ignore[import-untyped]  # it has no types
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from etf_support import (
    Codec,
    Erlang,
    atoms,
    bit_strings,
    bytes_for_text,
    each_codec,
    erlang_text,
    floats,
    integers,
    term_vectors,
    values,
    without_deadline,
)
from hornbeam._etf_tags import MAX_INTEGER_BYTES
from hornbeam._terms import Atom, BitString, DecodeError, ImproperList

# How Erlang is to write a term: minor versions of the format, and compressed.
FORMS: Final = (b"0", b"1", b"2", b"c", b"9")

YES: Final = b"yes"


@pytest.fixture(scope="module")
def oracle() -> Iterator[Erlang]:
    with Erlang() as running:
        yield running


def framed(first: bytes, second: bytes) -> bytes:
    return struct.pack(">I", len(first)) + first + second


# Many values at once, as a question takes a while.
many_values = st.lists(values, min_size=20, max_size=60)

few_examples = settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


# A real runtime.


@pytest.mark.unmeasured
@each_codec
@few_examples
@given(batch=many_values)
def test_erlang_reads_what_python_writes(
    codec: Codec, oracle: Erlang, batch: list[object]
) -> None:
    """Erlang decodes a value to the term that its source text means."""
    items = []

    for value in batch:
        text = erlang_text(value).encode()
        items += [
            framed(text, codec.encode(value)),
            framed(text, b"\x83" + codec.encode_message(value)),
        ]

    assert set(oracle.ask("same_as_text", items)) == {YES}


@pytest.mark.unmeasured
@each_codec
@few_examples
@given(batch=many_values)
def test_python_reads_what_erlang_writes(
    codec: Codec, oracle: Erlang, batch: list[object]
) -> None:
    """Python decodes what Erlang makes of a source text, in all forms of the format."""
    for form in FORMS:
        texts = [form + erlang_text(value).encode() for value in batch]

        for value, data in zip(batch, oracle.ask("encode", texts), strict=True):
            # Erlang can't tell str from bytes; a packet's decoder gives bytes for both.
            decoded = in_packet(codec, data)
            assert decoded == bytes_for_text(value), data.hex()
            # 1, 1.0 and True are equal; their texts are not.
            assert erlang_text(decoded) == erlang_text(value)


def in_packet(codec: Codec, data: bytes) -> Any:
    """Decode a term as a part of a packet."""
    if data[1:2] == b"P":
        inflated = zlib.decompress(data[6:])
        assert codec.decode(data) == codec.decode(b"\x83" + inflated)
        data = b"\x83" + inflated

    (value,) = codec.decode_packet(b"\x83l\0\0\0\1" + data[1:] + b"j")
    return value


@each_codec
@pytest.mark.parametrize("form", FORMS)
def test_random_terms_go_to_python_and_back(
    codec: Codec, oracle: Erlang, form: bytes
) -> None:
    """Any term that Erlang makes comes back to it as it was."""
    chance = random.Random(form)
    seeds = [form + chance.randbytes(4) for _ in range(60)]
    terms = oracle.ask("random", seeds)
    back = [framed(data, codec.encode(codec.decode(data))) for data in terms]
    assert set(oracle.ask("same", back)) == {YES}


@each_codec
def test_batches_are_lists_of_messages(codec: Codec, oracle: Erlang) -> None:
    batches: list[list[object]] = [
        [],
        [(Atom("ok"), 1)],
        [(Atom("ok"), n) for n in range(300)],
    ]
    items = [
        framed(
            erlang_text(batch).encode(),
            codec.pack_batch([codec.encode_message(message) for message in batch])[4:],
        )
        for batch in batches
    ]
    assert set(oracle.ask("same_as_text", items)) == {YES}


@each_codec
def test_limits_are_ones_that_erlang_has(codec: Codec, oracle: Erlang) -> None:
    """The largest of each that is encoded, Erlang takes."""
    values: list[object] = [
        2 ** (8 * MAX_INTEGER_BYTES) - 1,
        -(2 ** (8 * MAX_INTEGER_BYTES)) + 1,
        Atom("日" * 255),
        Atom("x" * 255),
        (None,) * 100_000,
        [1] * 100_000,
        {number: number for number in range(10_000)},
        b"x" * 1_000_000,
    ]
    answers = oracle.ask("is_term", [codec.encode(value) for value in values])
    assert set(answers) == {YES}


@each_codec
def test_keys_that_are_one_in_erlang(codec: Codec, oracle: Erlang) -> None:
    """What the encoder refuses as a clash, Erlang would refuse too."""
    one = codec.encode({"k": 1})[6:-2]
    other = codec.encode({b"k": 1})[6:-2]
    both = b"\x83t\0\0\0\2" + one + b"a\1" + other + b"a\2"
    assert oracle.ask("is_term", [both]) == [b"no"]


# Erlang takes these, as it does not look closely; no Erlang makes them.
LENIENT: Final = (
    # Bytes behind a term: the question looks for them, `binary_to_term/1` does not.
    "bytes follow",
    "expected a sign of 0 or 1",
    "the tail of a list is a list of its own",
    "a list without elements has a tail",
    "a reference has 1 to 5 words",
    "two keys of a map are one key in Python",
    "the text of a float is not a finite number",
    # Erlang trusts the size of a fun, and takes whatever is in it.
    "in a fun",
    "parts of a fun",
    "a fun has at least",
)


@each_codec
def test_mutated_terms_are_judged_as_erlang_does(codec: Codec, oracle: Erlang) -> None:
    """What one takes, the other takes too, but for what is listed above."""
    chance = random.Random(7)
    good = [
        data
        for name, data in term_vectors().items()
        if len(data) < 300 and "fun" not in name and name != "compressed"
    ]
    mutated = []

    for _ in range(3000):
        changed = bytearray(chance.choice(good))
        place = chance.randrange(1, len(changed))
        changed[place : place + chance.choice((0, 1, 1, 1))] = chance.randbytes(1)
        mutated.append(bytes(changed))

    taken = 0

    for data, answer in zip(mutated, oracle.ask("is_term", mutated), strict=True):
        refusal = refusal_of(codec, data)

        if refusal is None:
            # Identifiers may have numbers of more bits than a runtime would use.
            has_identifier = any(tag in data for tag in b"XYZefgrxqpu")
            assert answer == YES or has_identifier, data.hex()
            taken += 1
        elif answer == YES:
            assert any(text in refusal for text in LENIENT), (data.hex(), refusal)

    assert 300 < taken < 2700


def refusal_of(codec: Codec, data: bytes) -> str | None:
    try:
        codec.decode(data)
    except DecodeError as error:
        return error.reason

    return None


# erlang-py.


def from_erlang_py(term: Any) -> Any:
    """What a packet's decoder gives for a term of erlang-py."""
    match term:
        case erlang.OtpErlangAtom():
            name = term.value
            return Atom(name if isinstance(name, str) else name.decode("latin-1"))
        case erlang.OtpErlangBinary():
            whole = term.bits in (0, 8)
            return term.value if whole else BitString(term.value, term.bits)
        case erlang.OtpErlangList():
            parts = [from_erlang_py(part) for part in term.value]
            return (
                ImproperList(tuple(parts[:-1]), parts[-1]) if term.improper else parts
            )
        case bytes():
            return list(term)
        case list():
            return [from_erlang_py(part) for part in term]
        case tuple():
            return tuple(map(from_erlang_py, term))
        case dict():
            return {from_erlang_py(k): from_erlang_py(v) for k, v in term.items()}
        case _:
            return term


def to_erlang_py(value: Any) -> Any:
    """The term of erlang-py for what a packet's decoder gives."""
    match value:
        case Atom(name):
            return erlang.OtpErlangAtom(name)
        case bytes():
            return erlang.OtpErlangBinary(value)
        case BitString(data, bits):
            return erlang.OtpErlangBinary(data, bits)
        case ImproperList(elements, tail):
            parts = [to_erlang_py(part) for part in (*elements, tail)]
            return erlang.OtpErlangList(parts, improper=True)
        case list():
            return [to_erlang_py(part) for part in value]
        case tuple():
            return tuple(map(to_erlang_py, value))
        case dict():
            return {to_erlang_py(k): to_erlang_py(v) for k, v in value.items()}
        case _:
            return value


def _containers_of(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.lists(parts, max_size=4),
        st.lists(parts, max_size=4).map(tuple),
        st.dictionaries(st.one_of(atoms, st.binary(max_size=9)), parts, max_size=4),
        st.builds(
            ImproperList,
            st.lists(parts, min_size=1, max_size=3).map(tuple),
            st.one_of(integers, atoms),
        ),
    )


packet_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        integers,
        floats,
        st.binary(max_size=20),
        atoms,
        bit_strings,
    ),
    _containers_of,
    max_leaves=20,
)


@each_codec
@without_deadline
@given(value=packet_values)
def test_erlang_py_reads_what_python_writes(codec: Codec, value: object) -> None:
    term = erlang.binary_to_term(b"\x83" + codec.encode_message(value))
    assert repr(from_erlang_py(term)) == repr(value)


@each_codec
@without_deadline
@given(value=packet_values, compressed=st.booleans())
def test_python_reads_what_erlang_py_writes(
    codec: Codec, value: object, compressed: bool
) -> None:
    data = erlang.term_to_binary([to_erlang_py(value)], compressed=compressed)
    assert repr(codec.decode_packet(data)) == repr([value])


# The ErlPort library. It has neither maps nor bits, and its atoms are bytes.


def from_erlport(term: Any) -> Any:
    match term:
        case erlterms.Atom():
            return Atom(term.decode())
        case erlterms.ImproperList():
            return ImproperList(tuple(map(from_erlport, term)), from_erlport(term.tail))
        case list():
            return [from_erlport(part) for part in term]
        case tuple():
            return tuple(map(from_erlport, term))
        case _:
            return term


def to_erlport(value: Any) -> Any:
    match value:
        case Atom(name):
            return erlterms.Atom(name.encode())
        case ImproperList(elements, tail):
            return erlterms.ImproperList(
                list(map(to_erlport, elements)), to_erlport(tail)
            )
        case list():
            return [to_erlport(part) for part in value]
        case tuple():
            return tuple(map(to_erlport, value))
        case _:
            return value


def _sequences_of(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.lists(parts, max_size=4),
        st.lists(parts, max_size=4).map(tuple),
        st.builds(
            ImproperList,
            st.lists(parts, min_size=1, max_size=3).map(tuple),
            st.one_of(integers, st.binary(max_size=5)),
        ),
    )


erlport_values = st.recursive(
    st.one_of(
        st.none(),
        # No booleans: it writes lists of them as strings.
        integers,
        floats,
        st.binary(max_size=20),
        # Its atoms are Latin-1 where it writes them, UTF-8 where it reads ours.
        st.text(st.characters(max_codepoint=127), max_size=20)
        .filter(lambda name: name not in ("undefined", "true", "false"))
        .map(Atom),
    ),
    _sequences_of,
    max_leaves=20,
)


@each_codec
@without_deadline
@given(value=erlport_values)
def test_erlport_reads_what_python_writes(codec: Codec, value: object) -> None:
    term, rest = erlterms.decode(b"\x83" + codec.encode_message(value))
    assert rest == b""
    assert repr(from_erlport(term)) == repr(value)


@each_codec
@without_deadline
@given(value=erlport_values)
def test_python_reads_what_erlport_writes(codec: Codec, value: object) -> None:
    data = erlterms.encode([to_erlport(value)])
    assert repr(codec.decode_packet(data)) == repr([value])


@each_codec
def test_booleans_of_erlport(codec: Codec) -> None:
    data = erlterms.encode([(True, False)])
    assert codec.decode_packet(data) == [(True, False)]
    assert erlterms.decode(codec.encode([True, False])) == ([True, False], b"")


def test_oracle_tells_terms_apart(oracle: Erlang) -> None:
    """The runtime's answers are not always yes."""
    assert oracle.ask("same_as_text", [framed(b"1.0", b"\x83a\1")]) == [b"1"]
    assert oracle.ask("same", [framed(b"\x83a\1", b"\x83a\2")]) == [b"1 / 2"]
    assert oracle.ask("is_term", [b"\x83a", b"\x83j"]) == [b"no", YES]
