# SPDX-License-Identifier: Apache-2.0
"""Golden vectors made by Erlang: every term, every packet of the wire protocol."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

from etf_support import (
    TWIN,
    VECTORS_DIR,
    Codec,
    bytes_for_text,
    each_codec,
    packet_vectors,
    term_vectors,
)
from hornbeam._terms import (
    Atom,
    BitString,
    DecodeError,
    ExternalFun,
    FrozenList,
    FrozenMap,
    Fun,
    ImproperList,
    Pid,
    Port,
    Reference,
)

TERMS: Final = term_vectors()
PACKETS: Final = packet_vectors("protocol")
MALFORMED: Final = packet_vectors("malformed")

NODE: Final = b"w\x06n@host"
OK: Final = Atom("ok")
A: Final = Atom("a")
X: Final = Atom("x")

# What each term is in Python.
VALUES: Final[dict[str, Any]] = {
    "int_zero": 0,
    "int_255": 255,
    "int_256": 256,
    "int_minus_one": -1,
    "int32_max": 2**31 - 1,
    "int32_min": -(2**31),
    "int32_max_plus_one": 2**31,
    "int32_min_minus_one": -(2**31) - 1,
    "int64_max": 2**63 - 1,
    "int64_min": -(2**63),
    "int64_min_minus_one": -(2**63) - 1,
    "int_2_to_64": 2**64,
    "int_minus_2_to_64": -(2**64),
    "big_255_bytes": 2**2040 - 1,
    "big_256_bytes": 2**2040,
    "big_256_bytes_negative": -(2**2040),
    "float_zero": 0.0,
    "float_minus_zero": -0.0,
    "float_one_half": 0.5,
    "float_large": 1.7976931348623157e308,
    "float_tiny": 5e-324,
    "float_text": 1.5,
    "float_text_negative": -2.5e-7,
    "float_text_short": 2.5,
    "atom_ok": OK,
    "atom_empty": Atom(""),
    "atom_undefined": None,
    "atom_nil": Atom("nil"),
    "atom_true": True,
    "atom_false": False,
    "atom_umlaut": Atom("größe"),
    "atom_japanese": Atom("日本"),
    "atom_255_letters": Atom("x" * 255),
    "atom_255_wide_letters": Atom("日" * 255),
    "atom_latin1_tag": Atom("größe"),
    "list_empty": [],
    "list_bytes": [1, 2, 3],
    "list_integers": [256, 1],
    "list_text": [97, 98, 99],
    "list_nested": [[], [[]], [A, [Atom("b")]]],
    "list_improper": ImproperList((1,), 2),
    "list_improper_longer": ImproperList((A, "b"), (Atom("c"),)),
    "tuple_empty": (),
    "tuple_one": (1,),
    "tuple_255": (A,) * 255,
    "tuple_256": (A,) * 256,
    "map_empty": {},
    "map_mixed_keys": {2: "two", A: 1, "k": [X]},
    "map_of_40": {number: number * number for number in range(1, 41)},
    "map_key_list": {FrozenList((A, Atom("b"))): 1},
    "map_key_text": {FrozenList(b"abc"): 1},
    "map_key_nil": {FrozenList(): 1},
    "map_key_map": {FrozenMap({A: FrozenList((1, 300))}): 1},
    "map_key_tuple": {(1, FrozenList((X,)), FrozenMap()): 1},
    "map_key_improper": {ImproperList((A,), Atom("b")): 1},
    "binary_empty": "",
    "binary_ascii": "abc",
    "binary_utf8": "größe",
    "binary_not_utf8": b"\xff\xfe\x00",
    "binary_nul": "\0",
    "bits_3": BitString(b"\xa0", 3),
    "bits_17": BitString(b"ab\x80", 1),
    "fun_external": ExternalFun(b"qw\x05listsw\x03mapa\x02"),
    "compressed": [("compress me", 1.5)] * 50,
    "nested": {"items": [{"price": 1.25, "tags": ("a", None)}]},
    "bytes_of_python": b"abc",
    "bytes_of_python_empty": b"",
    "atom_ext": OK,
    "small_atom_ext": OK,
    "atom_utf8_ext": OK,
    "small_big_without_bytes": 0,
    "small_big_with_zeros": 5,
    "small_big_minus_zero": 0,
    "large_big_of_one_byte": -7,
    "list_ext_empty": [],
    "list_ext_of_bytes": [1],
    "large_tuple_of_one": (1,),
    "string_empty": [],
    "pid": Pid(b"X" + NODE + bytes.fromhex("00000053000000015e0be100")),
    "pid_of_otp_25": Pid(b"X" + NODE + bytes.fromhex("00000053000000015e0be100")),
    "pid_ext": Pid(b"g" + NODE + bytes.fromhex("000000530000000103")),
    "reference": Reference(
        b"Z\0\3" + NODE + bytes.fromhex("5e0be100000000010000000200000003")
    ),
    "reference_of_5_words": Reference(
        b"Z\0\5"
        + NODE
        + bytes.fromhex("5e0be1000000000100000002000000030000000400000005")
    ),
    "new_reference_ext": Reference(
        b"r\0\3" + NODE + bytes.fromhex("02000000010000000200000003")
    ),
    "reference_ext": Reference(b"e" + NODE + bytes.fromhex("0000000902")),
    "port": Port(b"Y" + NODE + bytes.fromhex("000000055e0be100")),
    "port_ext": Port(b"f" + NODE + bytes.fromhex("0000000502")),
    "v4_port": Port(b"x" + NODE + bytes.fromhex("00000001000000055e0be100")),
    "fun_local": Fun(TERMS["fun_local"][1:]),
}

# Erlang itself would write these in another way than Python or an old node does.
REWRITTEN: Final = {
    *(name for name in VALUES if name.startswith(("float_text", "small_big_"))),
    *("atom_latin1_tag", "atom_ext", "small_atom_ext", "atom_utf8_ext"),
    *("binary_not_utf8", "compressed", "large_big_of_one_byte", "large_tuple_of_one"),
    *("list_bytes", "list_text", "list_ext_empty", "map_key_text", "string_empty"),
}


def test_each_term_has_a_value() -> None:
    """No vector is left out, none is left over."""
    assert VALUES.keys() == TERMS.keys()


@each_codec
@pytest.mark.parametrize("name", VALUES)
def test_term_decodes_to_its_value(codec: Codec, name: str) -> None:
    """Erlang's bytes give the value, of the right types."""
    decoded = codec.decode(TERMS[name])
    assert decoded == VALUES[name]
    assert repr(decoded) == repr(VALUES[name])


@each_codec
@pytest.mark.parametrize("name", [name for name in VALUES if name != "compressed"])
def test_term_in_a_packet_has_bytes(codec: Codec, name: str) -> None:
    """In a packet the same term has bytes where a value has str."""
    packet = b"\x83l\0\0\0\1" + TERMS[name][1:] + b"j"
    assert repr(codec.decode_packet(packet)) == repr([bytes_for_text(VALUES[name])])


@each_codec
@pytest.mark.parametrize("name", VALUES)
def test_term_goes_back_as_it_came(codec: Codec, name: str) -> None:
    """What was decoded is encoded to Erlang's bytes, or at least to the same term."""
    value = codec.decode(TERMS[name])
    encoded = codec.encode(value)

    if name not in REWRITTEN:
        assert encoded == TERMS[name]

    assert repr(codec.decode(encoded)) == repr(value)


@each_codec
@pytest.mark.parametrize("name", VALUES)
def test_term_cut_anywhere_is_refused(codec: Codec, name: str) -> None:
    """A term of which bytes are missing is never taken for another."""
    whole = TERMS[name]

    for length in range(len(whole)):
        with pytest.raises(DecodeError):
            codec.decode(whole[:length])


@each_codec
@pytest.mark.parametrize("name", VALUES)
def test_bytes_behind_a_term_are_refused(codec: Codec, name: str) -> None:
    """One term, and nothing else."""
    for rest in (b"\0", b"j", TERMS[name]):
        with pytest.raises(DecodeError, match=r"bytes follow"):
            codec.decode(TERMS[name] + rest)


@each_codec
@pytest.mark.parametrize("name", PACKETS)
def test_packet_decodes_to_its_messages(codec: Codec, name: str) -> None:
    """A golden packet holds the messages that its index tells."""
    packet, messages, _ = PACKETS[name]
    decoded = codec.decode_packet(packet)
    assert repr(decoded) == repr(messages)
    assert decoded == messages


@each_codec
@pytest.mark.parametrize("name", PACKETS)
def test_messages_encode_to_the_packet(codec: Codec, name: str) -> None:
    """Python writes messages exactly as Erlang does, in both directions."""
    packet, messages, _ = PACKETS[name]
    batch = codec.pack_batch([codec.encode_message(message) for message in messages])
    assert batch == len(packet).to_bytes(4, "big") + packet


@each_codec
@pytest.mark.parametrize("name", PACKETS)
def test_packet_cut_anywhere_is_refused(codec: Codec, name: str) -> None:
    packet = PACKETS[name][0]

    for length in range(len(packet)):
        with pytest.raises(DecodeError):
            codec.decode_packet(packet[:length])

    with pytest.raises(DecodeError, match=r"1 bytes follow"):
        codec.decode_packet(packet + b"\0")


@each_codec
@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_packet_is_refused(codec: Codec, name: str) -> None:
    with pytest.raises(DecodeError):
        codec.decode_packet(MALFORMED[name][0])


def test_vectors_are_what_the_script_makes(tmp_path: Path) -> None:
    """Nobody has edited them, and the script still makes them."""
    script = Path(__file__).parents[1] / "scripts" / "make_vectors.escript"
    subprocess.run([script, tmp_path], check=True, timeout=60)
    made = {path.relative_to(tmp_path) for path in tmp_path.rglob("*.*")}
    kept = {path.relative_to(VECTORS_DIR) for path in VECTORS_DIR.rglob("*.*")}
    # The table of topics is written by hand.
    assert made == kept - {Path("README.md"), Path("topics.json")}

    for path in made:
        assert _lines(tmp_path / path) == _lines(VECTORS_DIR / path), path


def _lines(path: Path) -> list[bytes]:
    lines = path.read_bytes().split(b"\n")
    # How well zlib compresses depends on its version.
    return [line for line in lines if not line.startswith(b'{"name": "compressed"')]


def test_malformed_packets_would_decode_if_they_were_whole() -> None:
    """The malformed packets that have one fault each are near a good one."""
    assert TWIN.decode_packet(MALFORMED["bad_trailing"][0][:-1])
    assert TWIN.decode(MALFORMED["bad_not_a_list"][0])
    assert TWIN.decode(MALFORMED["bad_improper_list"][0])
