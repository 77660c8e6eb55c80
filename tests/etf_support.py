# SPDX-License-Identifier: Apache-2.0
"""What the tests of the codec share: both codecs, values, the vectors, an Erlang."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import IO, Any, Protocol, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st

from hornbeam._terms import (
    Atom,
    BitString,
    FrozenList,
    FrozenMap,
    ImproperList,
)

VECTORS_DIR = Path(__file__).with_name("vectors")
ORACLE = Path(__file__).with_name("etf_oracle.escript")


# Codecs.


class Codec(Protocol):
    """What both codec modules offer."""

    CODEC: str

    def decode(self, data: Any, /) -> Any: ...

    def decode_packet(self, data: Any, /) -> list[Any]: ...

    def encode(self, value: object, /) -> bytes: ...

    def encode_message(self, message: object, /) -> bytes: ...

    def pack_batch(self, messages: Sequence[bytes], /) -> bytes: ...


def load_codec(module_name: str) -> Codec:
    return cast(Codec, import_module(module_name))


TWIN = load_codec("hornbeam._etf_python")


def load_codecs() -> list[Codec]:
    """Both codecs; the C one may be missing only where it can't be built."""
    try:
        return [load_codec("hornbeam._etf_c"), TWIN]
    except ImportError:
        if any(map(shutil.which, ("cc", "gcc", "clang"))):
            raise RuntimeError(
                "the codec's C extension is not built; run scripts/build_ext.sh PYTHON"
            ) from None

        return [TWIN]


CODECS = load_codecs()

each_codec = pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.CODEC)

needs_both = pytest.mark.skipif(len(CODECS) < 2, reason="no C compiler here")

# Machines that do other things as well are slow at times.
without_deadline = settings(deadline=None)


# Values. Each is a value that comes back from Erlang as it was.

atoms = (
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    .filter(lambda name: name not in ("undefined", "true", "false"))
    .map(Atom)
)

bit_strings = st.builds(BitString, st.binary(min_size=1, max_size=9), st.integers(1, 7))

integers = st.one_of(
    st.integers(-300, 300),
    st.integers(-(2**66), 2**66),
    st.builds(
        lambda bits, offset, sign: sign * ((1 << bits) + offset),
        st.integers(0, 2100),
        st.integers(-1, 1),
        st.sampled_from((1, -1)),
    ),
)

floats = st.floats(allow_nan=False, allow_infinity=False)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)

scalars = st.one_of(
    st.none(),
    st.booleans(),
    integers,
    floats,
    texts,
    st.binary(max_size=20),
    atoms,
    bit_strings,
)


def _hashable_containers(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    elements = st.lists(parts, max_size=4)
    return st.one_of(
        elements.map(tuple),
        elements.map(FrozenList),
        st.dictionaries(_scalar_keys, parts, max_size=3).map(FrozenMap),
        st.builds(
            ImproperList,
            st.lists(parts, min_size=1, max_size=3).map(tuple),
            st.one_of(_scalar_keys, st.tuples(parts)),
        ),
    )


# Without bytes and None: no two keys that differ here are one in Erlang.
_scalar_keys = st.one_of(st.booleans(), integers, texts, atoms, bit_strings)
keys = st.recursive(_scalar_keys, _hashable_containers, max_leaves=6)


def _containers(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    elements = st.lists(parts, max_size=5)
    return st.one_of(
        elements,
        elements.map(tuple),
        st.dictionaries(keys, parts, max_size=4),
        st.dictionaries(st.binary(max_size=9), parts, max_size=3),
        st.builds(
            ImproperList,
            st.lists(parts, min_size=1, max_size=3).map(tuple),
            st.one_of(scalars, st.tuples(parts)),
        ),
    )


values = st.recursive(scalars, _containers, max_leaves=25)


def erlang_text(value: object) -> str:
    """Write a value as Erlang source, maps in order; knows nothing of the codec."""
    match value:
        case None:
            return "undefined"
        case bool():
            return "true" if value else "false"
        case Atom(name):
            return "'" + "".join(f"\\x{{{ord(letter):x}}}" for letter in name) + "'"
        case int():
            return f"{'-' if value < 0 else ''}16#{abs(value):x}"
        case float():
            return f"{value:.17e}"
        case str():
            return erlang_text(value.encode())
        case bytes():
            return f"<<{','.join(map(str, value))}>>"
        case BitString(data, bits):
            last = f"{data[-1] >> (8 - bits)}:{bits}"
            return f"<<{','.join([*map(str, data[:-1]), last])}>>"
        case tuple():
            return f"{{{_join(value)}}}"
        case list() | FrozenList():
            return f"[{_join(value)}]"
        case ImproperList(elements, tail):
            return f"[{_join(elements)}|{erlang_text(tail)}]"
        case dict() | FrozenMap():
            pairs = (f"{erlang_text(k)}=>{erlang_text(v)}" for k, v in value.items())
            return f"#{{{','.join(sorted(pairs))}}}"
        case _:
            raise TypeError(type(value))


def _join(elements: Iterable[object]) -> str:
    return ",".join(map(erlang_text, elements))


def bytes_for_text(value: Any) -> Any:
    """The same value with bytes in place of str, as a packet's decoder gives it."""
    match value:
        case str():
            return value.encode()
        case list():
            return [bytes_for_text(element) for element in value]
        case tuple():
            return tuple(map(bytes_for_text, value))
        case FrozenList(elements=elements):
            return FrozenList(map(bytes_for_text, elements))
        case ImproperList(elements, tail):
            return ImproperList(bytes_for_text(elements), bytes_for_text(tail))
        case dict():
            return {bytes_for_text(k): bytes_for_text(v) for k, v in value.items()}
        case FrozenMap():
            return FrozenMap(bytes_for_text(value.entries))
        case _:
            return value


# Vectors.


def term_vectors() -> dict[str, bytes]:
    """The bytes of `terms.json`, by name."""
    return {
        vector["name"]: bytes.fromhex(vector["hex"]) for vector in _load("terms.json")
    }


def packet_vectors(index: str) -> dict[str, tuple[bytes, list[Any], str]]:
    """Packets by name: bytes, messages, who sends them."""
    return {
        entry["name"]: (
            (VECTORS_DIR / entry["file"]).read_bytes(),
            [_untagged(message) for message in entry.get("messages", ())],
            entry["from"],
        )
        for entry in _load(f"{index}.json")
    }


def _load(name: str) -> list[dict[str, Any]]:
    return cast(list[dict[str, Any]], json.loads((VECTORS_DIR / name).read_text()))


def _untagged(tagged: Any) -> Any:
    match tagged:
        case {"atom": name}:
            return Atom(name)
        case {"binary": text}:
            return text.encode("ascii")
        case {"hex": digits}:
            return bytes.fromhex(digits)
        case {"tuple": elements}:
            return tuple(map(_untagged, elements))
        case {"map": pairs}:
            return {_untagged(key): _untagged(value) for key, value in pairs}
        case list():
            return [_untagged(element) for element in tagged]
        case _:
            return tagged


# Erlang.


class Erlang:
    """A runtime that answers questions about terms; `etf_oracle.escript` has the list.

    A question is asked for many items at once. Questions and answers are framed in a
    way of their own, so that the codec under test has no part in it.
    """

    _process: subprocess.Popen[bytes]

    def __enter__(self) -> Erlang:
        self._process = subprocess.Popen(
            ["escript", str(ORACLE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "ERL_CRASH_DUMP_SECONDS": "0"},
        )
        return self

    def __exit__(self, *_: object) -> None:
        # It leaves when its input ends.
        self._process.communicate(timeout=30)

    def ask(self, question: str, items: Sequence[bytes]) -> list[bytes]:
        """Ask a question about each item."""
        request = b"".join(
            (question.encode().ljust(16), *(_with_length(item) for item in items))
        )
        writer = cast(IO[bytes], self._process.stdin)
        writer.write(_with_length(request))
        writer.flush()
        answers = _split(self._read())
        assert len(answers) == len(items), answers[:1]
        return answers

    def _read(self) -> bytes:
        reader = cast(IO[bytes], self._process.stdout)
        (length,) = struct.unpack(">I", reader.read(4))
        return reader.read(length)


def _with_length(item: bytes) -> bytes:
    return struct.pack(">I", len(item)) + item


def _split(joined: bytes) -> list[bytes]:
    items = []
    position = 0

    while position < len(joined):
        (length,) = struct.unpack_from(">I", joined, position)
        items.append(joined[position + 4 : position + 4 + length])
        position += 4 + length

    return items
