# SPDX-License-Identifier: Apache-2.0
"""Messages and packets: the golden vectors, and what must be refused."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hornbeam import _protocol as protocol
from hornbeam._etf import decode_packet, encode_message, pack_batch
from hornbeam._protocol import PacketSplitter, ProtocolError
from hornbeam._settings import Settings
from hornbeam._terms import Atom

VECTORS = Path(__file__).parent / "vectors"
PACKETS = json.loads((VECTORS / "protocol.json").read_text())
MALFORMED = json.loads((VECTORS / "malformed.json").read_text())


def to_term(shown: Any) -> Any:
    """Make the term that the vectors show as JSON; see their README."""
    if isinstance(shown, list):
        return [to_term(element) for element in shown]

    if not isinstance(shown, dict):
        return shown

    ((kind, value),) = shown.items()
    makers: dict[str, Any] = {
        "atom": Atom,
        "binary": str.encode,
        "hex": bytes.fromhex,
        "tuple": lambda elements: tuple(map(to_term, elements)),
        "map": lambda pairs: {to_term(key): to_term(value) for key, value in pairs},
    }
    return makers[kind](value)


def read_packet(vector: dict[str, Any]) -> bytes:
    return (VECTORS / str(vector["file"])).read_bytes()


def name_of(vector: dict[str, Any]) -> str:
    return str(vector["name"])


def from_side(side: str) -> list[dict[str, Any]]:
    return [vector for vector in PACKETS if vector["from"] == side]


# The golden vectors.


@pytest.mark.parametrize("vector", from_side("node"), ids=name_of)
def test_golden_packets_of_the_node(vector: dict[str, Any]) -> None:
    messages = protocol.parse_packet(read_packet(vector))
    assert messages == to_term(vector["messages"])

    for message in messages:
        protocol.check_message(message)

        if message[0] is protocol.CONFIGURE:
            Settings.parse(message)


def rebuild(message: tuple[Any, ...]) -> bytes:
    """Make a worker's message by the constructor of its head."""
    head, *fields = message

    match head.name:
        case "ready" | "stopped":
            return constructor(head.name)(named(fields[0]))
        case "failed":
            return protocol.failed(fields[0].name, named(fields[1]))
        case "log":
            report = named(fields[1])
            return protocol.log(
                fields[0].name, report["message"].decode(), report.get("request_id")
            )
        case "blocked":
            report = named(fields[0])
            begun = [(key, where.decode()) for key, where in report["requests"]]
            return protocol.blocked(
                report["location"].decode(), report["stack"].decode(), begun
            )
        case "result" if fields[1] == Atom("error"):
            return protocol.result_error(fields[0], named(fields[2]))
        case "result":
            return protocol.result(fields[0], fields[2])
        case name:
            return constructor(name)(*fields)


def constructor(name: str) -> Callable[..., bytes]:
    return cast(Callable[..., bytes], getattr(protocol, name))


def named(facts: dict[Atom, Any]) -> dict[str, Any]:
    return {key.name: fact for key, fact in facts.items()}


@pytest.mark.parametrize("vector", from_side("worker"), ids=name_of)
def test_golden_packets_of_the_worker(vector: dict[str, Any]) -> None:
    """What the constructors make are the terms of the vectors."""
    expected = to_term(vector["messages"])
    packet = pack_batch([rebuild(message) for message in expected])
    assert decode_packet(packet[4:]) == expected
    assert decode_packet(read_packet(vector)) == expected


@pytest.mark.parametrize("vector", MALFORMED, ids=name_of)
def test_malformed_packets(vector: dict[str, Any]) -> None:
    packet = read_packet(vector)

    with pytest.raises(ProtocolError) as caught:
        for message in protocol.parse_packet(packet):
            protocol.check_message(message)

    assert len(caught.value.first_bytes) <= protocol.SHOWN_BYTES


# Forms.


@pytest.mark.parametrize(
    "messages",
    [
        [1],
        [[]],
        [()],
        [("ping", 1)],
        [(1, 2)],
        [(Atom("ping"), 1), b"ping"],
    ],
)
def test_messages_are_tuples_headed_by_an_atom(messages: list[object]) -> None:
    packet = pack_batch([encode_message(message) for message in messages])

    with pytest.raises(ProtocolError, match="a tuple headed by an atom"):
        protocol.parse_packet(packet[4:])


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ((Atom("hello"),), "unknown message"),
        ((Atom("ping"),), "takes 1 fields, not 0"),
        ((Atom("ping"), 1, 2), "takes 1 fields, not 2"),
        ((Atom("ping"), b"1"), "wrong type"),
        ((Atom("ping"), True), "wrong type"),
        ((Atom("request"), 1, (), b"", 1), "wrong type"),
        ((Atom("request"), 1, [], b"", False), "wrong type"),
        ((Atom("request"), 1, (), [], False), "wrong type"),
        ((Atom("body"), None, b"", False), "wrong type"),
        ((Atom("reply"), 1, b"ok", 2), "wrong type"),
        ((Atom("configure"), []), "wrong type"),
        ((Atom("shutdown"), b"1"), "wrong type"),
        ((Atom("websocket"), 1, (), ()), "wrong type"),
        ((Atom("message"), 1, b"text", b""), "wrong type"),
        ((Atom("message"), 1, Atom("text"), "x"), "wrong type"),
        ((Atom("closed"), 1, Atom("normal"), b""), "wrong type"),
        ((Atom("closed"), 1, 1000), "takes 3 fields, not 2"),
    ],
)
def test_forms(message: tuple[object, ...], text: str) -> None:
    with pytest.raises(ProtocolError, match=text):
        protocol.check_message(message)


@pytest.mark.parametrize(
    ("timeout", "seconds"), [(0, 0.0), (1500, 1.5), (Atom("infinity"), None)]
)
def test_timeouts(timeout: object, seconds: float | None) -> None:
    assert protocol.parse_timeout_ms(timeout) == seconds


@pytest.mark.parametrize("timeout", [-1, True, 1.5, Atom("never"), None])
def test_bad_timeouts(timeout: object) -> None:
    with pytest.raises(ProtocolError, match="a timeout is milliseconds or infinity"):
        protocol.parse_timeout_ms(timeout)


def test_text_that_is_no_utf8_is_escaped() -> None:
    assert protocol.encode_text("a\udcffb") == b"a\\udcffb"


# The stream.


@given(
    packets=st.lists(st.binary(max_size=50), max_size=8),
    cuts=st.lists(st.integers(0, 400), max_size=12),
)
def test_packets_come_whole_however_they_are_cut(
    packets: list[bytes], cuts: list[int]
) -> None:
    stream = b"".join(struct.pack(">I", len(packet)) + packet for packet in packets)
    splitter = PacketSplitter()
    got: list[bytes | memoryview] = []
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})

    for begin, end in zip(edges, edges[1:], strict=False):
        got += splitter.feed(stream[begin:end])

    assert got == packets


def test_byte_by_byte() -> None:
    stream = b"\0\0\0\2ab\0\0\0\0\0\0\0\1c"
    splitter = PacketSplitter()
    got = [packet for byte in stream for packet in splitter.feed(bytes([byte]))]
    assert got == [b"ab", b"", b"c"]


@pytest.mark.parametrize("first", [b"", b"\0\0\0\1x", b"\0\0\0\1"])
def test_too_long_a_packet_is_refused_at_its_length(first: bytes) -> None:
    limit = protocol.MAX_PACKET_BYTES
    splitter = PacketSplitter()
    splitter.feed(first)
    rest = b"x" if first == b"\0\0\0\1" else b""
    assert splitter.feed(rest + struct.pack(">I", limit)) in ([], [b"x"])

    splitter = PacketSplitter()
    splitter.feed(first)

    with pytest.raises(ProtocolError, match=f"a packet of {limit + 1} bytes"):
        splitter.feed(rest + struct.pack(">I", limit + 1))


def test_more_is_read_where_much_of_a_packet_is_missing() -> None:
    """Also of what comes behind it: long packets seldom come alone."""
    usual, most = protocol.READ_BYTES, protocol.MAX_READ_BYTES
    short = protocol.VIEWED_BYTES
    length = usual + short
    splitter = PacketSplitter()
    assert splitter.read_bytes == usual
    assert splitter.feed(struct.pack(">I", length)) == []
    assert splitter.read_bytes == most
    assert splitter.feed(b"x" * usual) == []
    assert splitter.read_bytes == most
    assert splitter.feed(b"x") == []
    assert splitter.read_bytes == usual
    assert splitter.feed(b"x" * (short - 1) + b"\0") == [b"x" * length]
    assert splitter.read_bytes == usual


@given(
    sizes=st.lists(st.sampled_from([0, 1, 3, 16_383, 16_384, 70_000]), max_size=8),
    reads=st.lists(st.sampled_from([1, 4, 5, 16_384, 65_536, 262_144]), min_size=1),
)
def test_long_packets_come_whole_however_they_are_read(
    sizes: list[int], reads: list[int]
) -> None:
    packets = [bytes([index]) * size for index, size in enumerate(sizes)]
    stream = b"".join(struct.pack(">I", len(packet)) + packet for packet in packets)
    splitter = PacketSplitter()
    got: list[bytes | memoryview] = []
    # What is left is read at once.
    reads.append(len(stream))

    for size in reads:
        got += splitter.feed(stream[:size]) if stream else []
        stream = stream[size:]

    assert got == packets


def test_part_of_a_body_has_the_form_that_the_node_does_not_copy() -> None:
    """It takes the bytes as they are, in `hornbeam_protocol:decode/1`."""
    assert pack_batch([protocol.data(70_000, b"abc")])[4:] == (
        b"\x83l\0\0\0\1h\3w\4datab\0\1\x11\x70m\0\0\0\3abcj"
    )


def test_view_of_a_part_is_sent_as_its_bytes() -> None:
    """A large body is cut without a copy of each piece."""
    body = b"head middle tail"
    view = memoryview(body)[5:11]
    assert protocol.start(1, 200, [], view) == protocol.start(1, 200, [], b"middle")
    assert protocol.data(1, view) == protocol.data(1, b"middle")
    assert protocol.last(1, view[:0]) == protocol.last(1, b"")
