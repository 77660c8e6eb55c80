# SPDX-License-Identifier: Apache-2.0
"""Decoding by hand: all ways in which bytes can be wrong, limits, forms of input."""

from __future__ import annotations

import sys
import threading
import zlib
from typing import Final

import pytest

from etf_support import Codec, each_codec
from hornbeam import _etf_inflate
from hornbeam._etf_tags import (
    MAX_DEPTH,
    MAX_REFERENCE_WORDS,
    MAX_UNCOMPRESSED_BYTES,
)
from hornbeam._terms import Atom, BitString, DecodeError, Fun, Pid, Reference

NODE: Final = b"w\x06n@host"
PID: Final = b"X" + NODE + bytes(12)
UNIQUE: Final = bytes(16)


def term(size_bytes: int, tag: int, length: int, rest: bytes = b"") -> bytes:
    return bytes([131, tag]) + length.to_bytes(size_bytes, "big") + rest


def new_fun(
    parts: bytes, *, free: int = 0, size: int | None = None, rest: bytes = b""
) -> bytes:
    head = b"\1" + UNIQUE + bytes(4) + free.to_bytes(4, "big")
    length = 4 + len(head) + len(parts) if size is None else size
    return term(4, 112, length, head + parts + rest)


FUN_PARTS: Final = b"w\1m" + b"a\1" + b"b\0\0\0\1" + PID
OLD_FUN_PARTS: Final = PID + b"w\1m" + b"a\1" + b"a\2"


def compressed(body: bytes, size: int | None = None) -> bytes:
    length = len(body) if size is None else size
    return term(4, 80, length, zlib.compress(body))


# What is wrong, and where the term at fault begins.
REFUSED: Final = {
    "nothing": (b"", "expected version byte 131, got nothing", 0),
    "version": (b"\x82j", "expected version byte 131, got 130", 0),
    "version_only": (b"\x83", "the term needs 1 more bytes, 0 are left", 1),
    "unknown_tag": (b"\x83\xff", "unknown tag 255", 1),
    "version_twice": (b"\x83\x83j", "unknown tag 131", 1),
    "atom_cache_ref": (b"\x83R\0", "ATOM_CACHE_REF (tag 82) is not taken here", 1),
    "local_ext": (b"\x83y\0\0\0\0j", "LOCAL_EXT (tag 121) is not taken here", 1),
    "compressed_inside": (
        b"\x83h\1P\0\0\0\1x",
        "a compressed term (tag 80) is not taken here",
        3,
    ),
    "trailing": (b"\x83a\1a\2", "2 bytes follow the term", 3),
    "small_integer": (b"\x83a", "the term needs 1 more bytes, 0 are left", 1),
    "integer": (b"\x83b\0\0\0", "the term needs 4 more bytes, 3 are left", 1),
    "small_big": (b"\x83n", "the term needs 1 more bytes, 0 are left", 1),
    "small_big_digits": (
        b"\x83n\2\0\1",
        "the term needs 3 more bytes, 2 are left",
        1,
    ),
    "small_big_sign": (b"\x83n\1\2\1", "expected a sign of 0 or 1, got 2", 1),
    "large_big_length": (
        term(4, 111, 2**32 - 1, b"\0\1"),
        "the term needs 4294967296 more bytes, 2 are left",
        1,
    ),
    "large_big_head": (b"\x83o\0\0", "the term needs 4 more bytes, 2 are left", 1),
    "new_float": (b"\x83F\0\0", "the term needs 8 more bytes, 2 are left", 1),
    "new_float_nan": (
        b"\x83F\x7f\xf8\0\0\0\0\0\0",
        "a float is not finite",
        1,
    ),
    "new_float_infinite": (
        b"\x83F\xff\xf0\0\0\0\0\0\0",
        "a float is not finite",
        1,
    ),
    "float": (b"\x83c1.5", "the term needs 31 more bytes, 3 are left", 1),
    **{
        f"float_text_{text.decode()}": (
            b"\x83c" + text.ljust(31, b"\0"),
            "the text of a float is not a finite number",
            1,
        )
        for text in (b"", b"nan", b"inf", b"1_0", b" 1", b"1.5x", b"1e999", b"e", b"--")
    },
    "float_text_unterminated": (
        b"\x83c" + b"1" * 30 + b"x",
        "the text of a float is not a finite number",
        1,
    ),
    "atom_length": (b"\x83d\0", "the term needs 2 more bytes, 1 are left", 1),
    "atom_name": (b"\x83w\3ab", "the term needs 3 more bytes, 2 are left", 1),
    "atom_not_utf8": (b"\x83w\1\xff", "the atom's name is not UTF-8", 1),
    "atom_surrogate": (b"\x83w\3\xed\xa0\x80", "the atom's name is not UTF-8", 1),
    "atom_too_long": (
        term(2, 100, 256, b"a" * 256),
        "an atom's name has at most 255 characters, not 256",
        1,
    ),
    "atom_too_long_utf8": (
        term(2, 118, 512, "é".encode() * 256),
        "an atom's name has at most 255 characters, not 256",
        1,
    ),
    "binary_head": (b"\x83m\0\0", "the term needs 4 more bytes, 2 are left", 1),
    "binary": (
        term(4, 109, 2**32 - 1, b"abc"),
        "the term needs 4294967295 more bytes, 3 are left",
        1,
    ),
    "bits_head": (b"\x83M\0\0\0\1", "the term needs 5 more bytes, 4 are left", 1),
    "bits": (
        b"\x83M\0\0\0\2\3a",
        "the term needs 2 more bytes, 1 are left",
        1,
    ),
    "bits_9": (
        b"\x83M\0\0\0\1\x09a",
        "9 bits in the last byte of a binary of 1 bytes",
        1,
    ),
    "bits_0": (
        b"\x83M\0\0\0\1\0a",
        "0 bits in the last byte of a binary of 1 bytes",
        1,
    ),
    "bits_8_of_nothing": (
        b"\x83M\0\0\0\0\x08",
        "8 bits in the last byte of a binary of 0 bytes",
        1,
    ),
    "tuple_head": (b"\x83h", "the term needs 1 more bytes, 0 are left", 1),
    "tuple": (b"\x83h\3jj", "the term needs 3 more bytes, 2 are left", 1),
    "tuple_element": (
        b"\x83h\2a\1",
        "the term needs 1 more bytes, 0 are left",
        3,
    ),
    "large_tuple": (
        term(4, 105, 2**32 - 1, b"j"),
        "the term needs 4294967295 more bytes, 1 are left",
        1,
    ),
    "string_head": (b"\x83k\0", "the term needs 2 more bytes, 1 are left", 1),
    "string": (b"\x83k\0\2a", "the term needs 2 more bytes, 1 are left", 1),
    "list_head": (b"\x83l\0\0\0", "the term needs 4 more bytes, 3 are left", 1),
    "list": (
        term(4, 108, 2**32 - 1, b"j"),
        "the term needs 4294967296 more bytes, 1 are left",
        1,
    ),
    "list_without_tail": (
        b"\x83l\0\0\0\1j",
        "the term needs 2 more bytes, 1 are left",
        1,
    ),
    "list_empty_with_tail": (
        b"\x83l\0\0\0\0a\1",
        "a list without elements has a tail",
        1,
    ),
    "list_in_the_tail": (
        b"\x83l\0\0\0\1a\1l\0\0\0\1a\2j",
        "the tail of a list is a list of its own",
        8,
    ),
    "string_in_the_tail": (
        b"\x83l\0\0\0\1a\1k\0\1a",
        "the tail of a list is a list of its own",
        8,
    ),
    "improper_list_in_the_tail": (
        b"\x83l\0\0\0\1a\1l\0\0\0\1a\2a\3",
        "the tail of a list is a list of its own",
        8,
    ),
    "list_in_the_tail_in_a_key": (
        b"\x83t\0\0\0\1l\0\0\0\1a\1k\0\1aj",
        "the tail of a list is a list of its own",
        13,
    ),
    "map_head": (b"\x83t\0", "the term needs 4 more bytes, 1 are left", 1),
    "map": (
        term(4, 116, 2**32 - 1, b"jj"),
        "the term needs 8589934590 more bytes, 2 are left",
        1,
    ),
    "map_same_key_twice": (
        b"\x83t\0\0\0\2a\1ja\1j",
        "two keys of a map are one key in Python, such as 1 and 1.0, or 1 and true",
        1,
    ),
    "map_one_and_true": (
        b"\x83t\0\0\0\2a\1jw\4truej",
        "two keys of a map are one key in Python, such as 1 and 1.0, or 1 and true",
        1,
    ),
    "pid": (b"\x83X" + NODE, "the term needs 13 more bytes, 8 are left", 1),
    "pid_without_node": (
        b"\x83g" + b"a" * 40,
        "expected an atom, got tag 97",
        2,
    ),
    "pid_node_reaches_into_numbers": (
        b"\x83gw\x09" + bytes(10),
        "the term needs 9 more bytes, 1 are left",
        2,
    ),
    "pid_node_not_utf8": (
        b"\x83gw\1\xff" + bytes(9),
        "the atom's name is not UTF-8",
        2,
    ),
    "port": (b"\x83xw", "the term needs 13 more bytes, 1 are left", 1),
    "reference_head": (b"\x83Z\0", "the term needs 2 more bytes, 1 are left", 1),
    "reference_of_no_words": (
        b"\x83Z\0\0" + NODE + bytes(4),
        "a reference has 1 to 5 words, not 0",
        1,
    ),
    "reference_of_6_words": (
        b"\x83r\0\6" + NODE + bytes(25),
        "a reference has 1 to 5 words, not 6",
        1,
    ),
    "reference": (
        b"\x83Z\0\1" + NODE,
        "the term needs 9 more bytes, 8 are left",
        1,
    ),
    "export": (b"\x83qw\1", "the term needs 3 more bytes, 2 are left", 1),
    "export_module": (
        b"\x83q" + b"j" * 9,
        "expected an atom, got tag 106",
        2,
    ),
    "export_function": (
        b"\x83qw\1m" + b"j" * 9,
        "expected an atom, got tag 106",
        5,
    ),
    "export_arity": (
        b"\x83qw\1mw\1fb\0\0\0\1",
        "expected an arity of 0 to 255",
        8,
    ),
    "export_without_arity": (
        b"\x83qw\1mw\1fa",
        "the term needs 1 more bytes, 0 are left",
        1,
    ),
    "fun_head": (b"\x83p\0\0", "the term needs 4 more bytes, 2 are left", 1),
    "fun_size": (
        new_fun(FUN_PARTS, size=1000),
        "the term needs 1000 more bytes, 60 are left",
        1,
    ),
    "fun_small": (new_fun(b"", size=28), "a fun has at least 29 bytes, not 28", 1),
    "fun_free_variables": (
        new_fun(FUN_PARTS, free=2**32 - 1),
        "the term needs 4294967299 more bytes, 31 are left",
        1,
    ),
    "fun_part": (
        new_fun(b"w\1m" + b"a\1" + b"j" + PID),
        "unexpected tag 106 in a fun",
        36,
    ),
    "fun_longer_than_its_parts": (
        new_fun(FUN_PARTS + b"j"),
        "1 bytes follow the parts of a fun",
        62,
    ),
    "fun_followed": (new_fun(FUN_PARTS, rest=b"j"), "1 bytes follow the term", 62),
    "old_fun_head": (b"\x83u\0", "the term needs 4 more bytes, 1 are left", 1),
    "old_fun_parts": (
        b"\x83u\0\0\0\1" + b"j" * 4,
        "the term needs 5 more bytes, 4 are left",
        1,
    ),
    "old_fun_part": (
        b"\x83u\0\0\0\0" + b"a\1" * 4,
        "unexpected tag 97 in a fun",
        6,
    ),
    "compressed_head": (
        b"\x83P\0\0\0",
        "the term needs 4 more bytes, 3 are left",
        1,
    ),
    "compressed_nothing": (
        compressed(b""),
        "the term needs 1 more bytes, 0 are left",
        0,
    ),
    "compressed_not_zlib": (
        term(4, 80, 1, b"abc"),
        "broken compressed term: Error -3 while decompressing data: incorrect header"
        " check",
        1,
    ),
    "compressed_longer": (
        compressed(b"jj", 1),
        "the compressed term does not unfold to 1 bytes",
        1,
    ),
    "compressed_shorter": (
        compressed(b"j", 2),
        "the compressed term does not unfold to 2 bytes",
        1,
    ),
    "compressed_cut": (
        compressed(b"j" * 9)[:-1],
        "the compressed term does not unfold to 9 bytes",
        1,
    ),
    "compressed_followed": (
        compressed(b"j") + b"xx",
        "2 bytes follow the compressed term",
        1,
    ),
    "compressed_twice": (
        compressed(compressed(b"j")[1:]),
        "a compressed term (tag 80) is not taken here",
        0,
    ),
    "compressed_trailing": (compressed(b"jj"), "1 bytes follow the term", 1),
    "compressed_bomb": (
        compressed(b"j", MAX_UNCOMPRESSED_BYTES + 1),
        f"a compressed term unfolds to at most {MAX_UNCOMPRESSED_BYTES} bytes, not"
        f" {MAX_UNCOMPRESSED_BYTES + 1}",
        1,
    ),
}


@each_codec
@pytest.mark.parametrize("name", REFUSED)
def test_wrong_bytes_are_refused(codec: Codec, name: str) -> None:
    """The error says what is wrong and where; both codecs say the same."""
    data, reason, offset = REFUSED[name]

    with pytest.raises(DecodeError) as caught:
        codec.decode(data)

    assert (caught.value.reason, caught.value.offset) == (reason, offset)
    assert str(caught.value) == f"{reason} (at byte {offset})"
    assert isinstance(caught.value, ValueError)


@each_codec
@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\x83j", None),
        (b"\x83t\0\0\0\0", "dict"),
        (b"\x83h\0", "tuple"),
        (b"\x83w\1a", "Atom"),
        (b"\x83l\0\0\0\1a\1a\2", "ImproperList"),
        (b"\x83w\x09undefined", "NoneType"),
    ],
)
def test_packet_is_a_list(codec: Codec, data: bytes, kind: str | None) -> None:
    if kind is None:
        assert codec.decode_packet(data) == []
        return

    with pytest.raises(DecodeError) as caught:
        codec.decode_packet(data)

    assert caught.value.reason == f"a packet holds a list of messages, not {kind}"


@each_codec
def test_old_fun_is_kept(codec: Codec) -> None:
    """FUN_EXT, which current runtimes neither write nor read."""
    data = b"\x83u\0\0\0\1" + OLD_FUN_PARTS + b"a\7"
    decoded = codec.decode(data)
    assert decoded == Fun(data[1:])
    assert codec.encode(decoded) == data


@each_codec
def test_fun_inside_other_terms(codec: Codec) -> None:
    """A fun with a fun in its environment, in a list, in a key."""
    inner = new_fun(FUN_PARTS)[1:]
    outer = new_fun(FUN_PARTS + inner, free=1)[1:]
    data = b"\x83t\0\0\0\1l\0\0\0\2" + outer + inner + b"ja\1"
    (key,) = codec.decode(data)
    assert tuple(key) == (Fun(outer), Fun(inner))


@each_codec
@pytest.mark.parametrize("length", [0, 1, 30, 31, 32, 33, 255])
@pytest.mark.parametrize("tag", [100, 115, 118, 119])
def test_atoms_of_all_lengths(codec: Codec, length: int, tag: int) -> None:
    """Short names are kept in slots by their bytes, long ones are not."""
    name = ("b" * length).encode()
    size_bytes = 1 if tag in (115, 119) else 2

    for _ in range(2):
        assert codec.decode(term(size_bytes, tag, length, name)) == Atom("b" * length)


@each_codec
def test_atoms_of_the_same_bytes_differ_by_encoding(codec: Codec) -> None:
    """Two bytes are one letter in UTF-8, two in Latin-1."""
    for _ in range(2):
        assert codec.decode(b"\x83w\2\xc3\xa9") == Atom("é")
        assert codec.decode(b"\x83s\2\xc3\xa9") == Atom("Ã©")


@each_codec
def test_atoms_that_share_a_slot(codec: Codec) -> None:
    """More atoms than there are slots, and constants among them."""
    names = [f"shared_{number}" for number in range(3000)]

    for name in [*names, *reversed(names)]:
        data = term(1, 119, len(name), name.encode())
        assert codec.decode(data) == Atom(name)
        assert codec.decode(b"\x83w\4true") is True


@each_codec
def test_bits_that_do_not_count_are_dropped(codec: Codec) -> None:
    assert codec.decode(b"\x83M\0\0\0\1\3\xff") == BitString(b"\xe0", 3)


@each_codec
@pytest.mark.parametrize(
    ("opening", "closing"),
    [
        (b"h\1", b""),
        (b"i\0\0\0\1", b""),
        (b"l\0\0\0\1", b"j"),
        (b"t\0\0\0\1a\1", b""),
        # Keys in keys: frozen lists, maps and tuples.
        (b"t\0\0\0\1", b"a\1"),
        (b"t\0\0\0\1l\0\0\0\1", b"ja\1"),
    ],
)
def test_depth_limit(codec: Codec, opening: bytes, closing: bytes) -> None:
    """As many levels as the limit are taken, one more is not."""
    levels = MAX_DEPTH // (2 if opening.startswith(b"t\0\0\0\1l") else 1)
    data = b"\x83" + opening * levels + b"a\1" + closing * levels
    codec.decode(data)

    with pytest.raises(DecodeError, match=f"nested more than {MAX_DEPTH} levels"):
        codec.decode(b"\x83" + opening * (levels + 1) + b"a\1" + closing * (levels + 1))


@each_codec
def test_depth_far_beyond_the_limit(codec: Codec) -> None:
    """No stack is used up by what is refused."""
    for opening in (b"h\1", b"l\0\0\0\1", b"t\0\0\0\1"):
        # Where all levels have their bytes, and where they lack them.
        for rest in (b"", b"j" * 2_000_000):
            with pytest.raises(DecodeError):
                codec.decode(b"\x83" + opening * 500_000 + rest)


@each_codec
def test_deepest_term_on_a_small_stack(codec: Codec) -> None:
    """A thread with 256 KiB of stack decodes the deepest term that is allowed."""
    data = b"\x83" + b"h\1" * MAX_DEPTH + b"j"
    results: list[object] = []
    former = threading.stack_size(256 * 1024)

    try:
        thread = threading.Thread(target=lambda: results.append(codec.decode(data)))
        thread.start()
    finally:
        threading.stack_size(former)

    thread.join()
    assert len(results) == 1


@each_codec
def test_stack_that_the_caller_has_used_up(codec: Codec) -> None:
    """Where Python's stack is too short for a deep term, it is a DecodeError too."""
    # Two equal keys, which are compared; down to each level.
    key = b"t\0\0\0\1" * 400 + b"a\1" + b"a\1" * 400
    data = b"\x83t\0\0\0\2" + key + b"a\1" + key + b"a\1"

    def call_at(depth: int) -> None:
        if depth == 0:
            codec.decode(data)
        else:
            call_at(depth - 1)

    for depth in (0, sys.getrecursionlimit() // 2):
        with pytest.raises(DecodeError):
            call_at(depth)


@each_codec
def test_counts_take_no_memory(codec: Codec) -> None:
    """Containers that promise all that is left, inside one another, are refused.

    If each took places for what it promises, this would be 250 times the data.
    """
    import tracemalloc

    size = 2_000_000
    data = bytearray(b"\x83")

    while len(data) < 250 * 5:
        data += b"l" + (size - len(data) - 6).to_bytes(4, "big")

    data += b"j" * (size - len(data))
    tracemalloc.start()

    try:
        with pytest.raises(DecodeError):
            codec.decode(bytes(data))

        assert tracemalloc.get_traced_memory()[1] < 12 * size
    finally:
        tracemalloc.stop()


@each_codec
def test_compressed_term_up_to_the_limit(codec: Codec) -> None:
    size = MAX_UNCOMPRESSED_BYTES
    body = b"m" + (size - 5).to_bytes(4, "big") + bytes(size - 5)
    data = term(4, 80, size, zlib.compress(body, 1))
    assert len(codec.decode(data)) == size - 5


@each_codec
def test_compressed_bomb_unfolds_no_further_than_it_tells(codec: Codec) -> None:
    """64 MiB that claim to be 100 bytes take no memory."""
    import tracemalloc

    data = term(4, 80, 100, zlib.compress(bytes(MAX_UNCOMPRESSED_BYTES)))
    tracemalloc.start()

    try:
        with pytest.raises(DecodeError, match="does not unfold to 100 bytes"):
            codec.decode(data)

        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@each_codec
def test_python_without_zlib(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zlib", None)

    with pytest.raises(DecodeError, match="this Python has no zlib"):
        codec.decode(compressed(b"j"))


def test_inflate_takes_what_erlang_writes() -> None:
    assert _etf_inflate.inflate(compressed(b"j" * 1000)[2:]) == b"j" * 1000


@each_codec
def test_reference_of_most_words(codec: Codec) -> None:
    words = MAX_REFERENCE_WORDS
    data = b"Z" + words.to_bytes(2, "big") + NODE + bytes(4 + 4 * words)
    assert codec.decode(b"\x83" + data) == Reference(data)


@each_codec
def test_forms_of_input(codec: Codec) -> None:
    """Any contiguous buffer will do."""
    data = b"\x83h\2a\1" + PID
    expected = (1, Pid(PID))
    view = memoryview(b"xx" + data + b"xx")[2:-2]
    assert codec.decode(data) == expected
    assert codec.decode(bytearray(data)) == expected
    assert codec.decode(view) == expected
    assert codec.decode_packet(memoryview(b"\x83k\0\1\5")) == [5]

    with pytest.raises(DecodeError, match="got nothing"):
        codec.decode(bytearray())


@each_codec
def test_what_is_no_input(codec: Codec) -> None:
    with pytest.raises(TypeError):
        codec.decode("\x83j")

    with pytest.raises(TypeError):
        codec.decode(5)

    with pytest.raises(BufferError):
        codec.decode(memoryview(b"\x83\0j\0")[::2])

    with pytest.raises(TypeError):
        codec.decode_packet(None)


@each_codec
def test_input_can_be_changed_afterwards(codec: Codec) -> None:
    """Values hold copies, and the buffer is let go."""
    data = bytearray(b"\x83l\0\0\0\2m\0\0\0\1aM\0\0\0\1\x08bj")
    decoded = codec.decode(data)
    data[:] = bytes(len(data))
    data.clear()
    assert decoded == ["a", b"b"]
