# SPDX-License-Identifier: Apache-2.0
"""Hostile input: a value or an error, the same from both codecs, and nothing leaks.

`scripts/codec_asan.sh` runs these tests with a C codec that has AddressSanitizer in it,
and with more rounds: `HORNBEAM_FUZZ_ROUNDS` multiplies them.
"""

from __future__ import annotations

import gc
import os
import random
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etf_support import (
    CODECS,
    Codec,
    each_codec,
    needs_both,
    packet_vectors,
    term_vectors,
    values,
    without_deadline,
)
from hornbeam import _etf_python_encode, _terms_atom
from hornbeam._etf_tags import MAX_CACHED_ATOMS
from hornbeam._terms import Atom, DecodeError, EncodeError, FrozenList, ImproperList

ROUNDS: Final = int(os.environ.get("HORNBEAM_FUZZ_ROUNDS", "1"))

TERMS: Final = [data for name, data in term_vectors().items() if len(data) < 400]
PACKETS: Final = [packet for packet, _, _ in packet_vectors("protocol").values()]

# Bytes that matter to a decoder: tags, small counts, the ends of ranges.
TELLING: Final = bytes(
    [
        *range(6),
        8,
        9,
        70,
        77,
        80,
        82,
        *range(88, 91),
        *range(97, 122),
        127,
        128,
        131,
        255,
    ]
)


def outcome(decode: Callable[[bytes], object], data: bytes) -> str:
    """Decode and tell what came of it; anything but a DecodeError is a failure."""
    try:
        return repr(decode(data))
    except DecodeError as error:
        return str(error)


def check_agreement(data: bytes) -> None:
    """Both codecs make the same of the bytes, and encode it to the same bytes."""
    c_codec, twin = CODECS
    assert outcome(c_codec.decode, data) == outcome(twin.decode, data), data.hex()
    assert outcome(c_codec.decode_packet, data) == outcome(twin.decode_packet, data)

    try:
        value = c_codec.decode(data)
    except DecodeError:
        return

    assert c_codec.encode(value) == twin.encode(value), data.hex()
    assert repr(c_codec.decode(c_codec.encode(value))) == repr(value), data.hex()


def mutations(seed: int, rounds: int) -> Iterator[bytes]:
    """Good terms and packets with some bytes changed, put in or taken out."""
    chance = random.Random(seed)
    corpus = TERMS + PACKETS

    for _ in range(rounds):
        data = bytearray(chance.choice(corpus))

        for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
            place = chance.randrange(1, len(data) + 1)

            match chance.randrange(5):
                case 0:
                    data[place : place + 1] = bytes([chance.choice(TELLING)])
                case 1:
                    data[place:place] = bytes([chance.choice(TELLING)])
                case 2:
                    del data[place : place + chance.randrange(1, 5)]
                case 3:
                    data[place:place] = chance.choice(corpus)[1:]
                case _:
                    data[place : place + 1] = chance.randbytes(1)

        yield bytes(data)


@needs_both
def test_random_bytes() -> None:
    """Bytes at random, and bytes at random among those that matter."""
    chance = random.Random(1)

    for _ in range(4000 * ROUNDS):
        length = chance.randrange(40)
        check_agreement(b"\x83" + chance.randbytes(length))
        check_agreement(b"\x83" + bytes(chance.choices(TELLING, k=length)))


@needs_both
def test_mutated_terms() -> None:
    for data in mutations(2, 8000 * ROUNDS):
        check_agreement(data)


@needs_both
@without_deadline
@given(data=st.binary(max_size=60))
def test_arbitrary_bytes(data: bytes) -> None:
    check_agreement(data)
    check_agreement(b"\x83" + data)


@needs_both
@without_deadline
@given(value=values, at=st.integers(1), byte=st.integers(0, 255))
def test_value_with_a_byte_changed(value: object, at: int, byte: int) -> None:
    data = bytearray(CODECS[0].encode(value))
    data[at % len(data)] = byte
    check_agreement(bytes(data))


@needs_both
def test_values_cut_and_followed() -> None:
    """Whole, byte by byte, and with more behind: the same from both codecs."""
    for data in TERMS + PACKETS:
        for length in range(len(data) + 1):
            check_agreement(data[:length])

        check_agreement(data + b"\0")


# Values that can't be encoded.


class Unfriendly:
    """Makes trouble wherever it is asked for anything."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)

    def __eq__(self, other: object) -> bool:
        raise AssertionError("compared")

    def __repr__(self) -> str:
        raise AssertionError("shown")

    def __len__(self) -> int:
        raise AssertionError("measured")


def random_value(chance: random.Random, depth: int) -> Any:
    """A value that often has something wrong in it."""
    parts: list[Callable[[], object]] = [
        lambda: chance.choice((None, True, 1, -(2**40), 2**90, 1.5, "ä", b"k", "k")),
        lambda: chance.choice(("\ud800", float("nan"), Unfriendly(), {1}, 1j)),
        lambda: chance.choice((Atom("k"), Atom("undefined"), bytearray(b"x"))),
    ]

    if depth == 0:
        return chance.choice(parts)()

    def some() -> list[Any]:
        return [random_value(chance, depth - 1) for _ in range(chance.randrange(4))]

    def keys() -> list[Any]:
        texts = (
            "k",
            b"k",
            1,
            None,
            Atom("undefined"),
            ("k",),
            (b"k",),
            FrozenList("k"),
        )
        return chance.choices([*texts, FrozenList((b"k",))], k=3)

    parts += [
        some,
        lambda: tuple(some()),
        lambda: dict(zip(keys(), some(), strict=False)),
        lambda: ImproperList((1, *some()), 2),
    ]
    return chance.choice(parts)()


def attempt(encode: Callable[[object], bytes], value: object) -> object:
    """Encode, or tell why that can't be done."""
    try:
        return encode(value)
    except EncodeError as error:
        return str(error), error.value_type


@needs_both
def test_values_with_faults() -> None:
    """Both codecs refuse the same values in the same words."""
    chance = random.Random(3)
    c_codec, twin = CODECS

    refused = 0

    for _ in range(3000 * ROUNDS):
        value = random_value(chance, 4)
        result = attempt(c_codec.encode, value)
        assert result == attempt(twin.encode, value)
        assert attempt(c_codec.encode_message, value) == attempt(
            twin.encode_message, value
        )
        refused += isinstance(result, tuple)

    assert 500 * ROUNDS < refused < 2500 * ROUNDS


@each_codec
def test_containers_changed_meanwhile(codec: Codec) -> None:
    """Another thread changes what is encoded: the result is some state of it."""
    shared: list[Any] = [{("k", 1): 1, (b"l", 1): 2} for _ in range(50)]
    table: dict[Any, Any] = {number: shared for number in range(5)}
    done = threading.Event()

    def meddle() -> None:
        chance = random.Random(4)

        while not done.is_set():
            if chance.random() < 0.5 and len(shared) > 1:
                shared.pop()
                table.pop(chance.randrange(5), None)
            else:
                shared.append({("k", 1): 1, (b"l", 1): 2})
                table[chance.randrange(5)] = shared[:]

    meddler = threading.Thread(target=meddle)
    former = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    meddler.start()

    try:
        for _ in range(30):
            assert isinstance(codec.decode(codec.encode(table)), dict)
    finally:
        done.set()
        meddler.join()
        sys.setswitchinterval(former)


@each_codec
def test_containers_changed_in_between(
    codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of a value is lost if other code empties it while it is encoded."""
    mixed: dict[object, object] = {"k": [1], b"l": [2]}
    inner = [mixed, *([number] for number in range(1000, 1100))]
    table = {number: [inner, [number]] for number in range(1000, 1050)}
    expected = codec.encode(table)
    describe_key_clash = _etf_python_encode.describe_key_clash

    def meddle(pairs: Iterable[tuple[object, object]]) -> str | None:
        for container in (mixed, inner, table):
            container.clear()

        gc.collect()
        return describe_key_clash(pairs)

    # Of all Python code, this is what runs in the middle of the work of either codec.
    monkeypatch.setattr(_etf_python_encode, "describe_key_clash", meddle)
    encoded = codec.encode(table)
    assert table == {}
    # The parts that are looked at later are empty by then.
    assert expected.startswith(encoded[: encoded.index(b"M\0\0\0\1\x08l")])
    assert len(codec.decode(encoded)) == 50


# Memory.


def workload(codec: Codec) -> Callable[[], None]:
    """A round of good and bad input of all kinds.

    All values are made anew, so that a reference too many keeps something alive.
    """
    bad = [
        data for data in mutations(5, 300) if "at byte" in outcome(codec.decode, data)
    ]
    seeds: list[int] = []

    while len(seeds) < 50:
        seed = random.randrange(2**32)

        if not isinstance(attempt(codec.encode, faulty_value(seed)), bytes):
            seeds.append(seed)

    def run() -> None:
        messages = []

        for data in TERMS + PACKETS:
            value = codec.decode(data)
            codec.encode(value)
            messages.append(codec.encode_message(value))

        codec.decode_packet(codec.pack_batch(messages)[4:])

        for data in bad:
            with suppress(DecodeError):
                codec.decode(data)

        for seed in seeds:
            with suppress(EncodeError):
                codec.encode(faulty_value(seed))

        # More than fits into what is there for small values.
        codec.encode([bytes(65536), {"k": 1, b"l": 2}])

        with suppress(EncodeError):
            codec.encode([bytes(65536), {1}])

    return run


def faulty_value(seed: int) -> object:
    return random_value(random.Random(seed), 4)


@pytest.mark.unmeasured
@each_codec
def test_nothing_leaks(codec: Codec) -> None:
    """100,000 operations, half of them failing, leave no memory behind.

    A leak of one small object in one of a thousand operations would be seen.
    """
    run = workload(codec)
    rounds = 200

    for _ in range(10):
        run()

    gc.collect()
    blocks = sys.getallocatedblocks()
    resident_kib = _resident_kib()

    for _ in range(rounds):
        run()

    gc.collect()
    assert sys.getallocatedblocks() - blocks < 50
    assert _resident_kib() - resident_kib < 4096


def _resident_kib() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    return pages * resource.getpagesize() // 1024


@pytest.mark.unmeasured
@each_codec
def test_references_are_balanced(codec: Codec) -> None:
    """Shared objects have as many references after the work as before."""
    run = workload(codec)
    run()
    gc.collect()
    # Not None, True and small integers: from Python 3.12 on they are not counted.
    watched: list[object] = [Atom("ok"), Atom, ImproperList, DecodeError, EncodeError]
    before = [sys.getrefcount(thing) for thing in watched]

    for _ in range(50):
        run()

    gc.collect()
    after = [sys.getrefcount(thing) for thing in watched]
    # The C codec's slots, and the tables of types, hold a few.
    assert all(abs(new - old) < 10 for new, old in zip(after, before, strict=True))


@each_codec
def test_errors_leave_no_cycles(codec: Codec) -> None:
    """What an error held is free as soon as it was handled, without a collector."""
    value = [[{1}]]
    gc.collect()
    gc.disable()

    try:
        for _ in range(10):
            with pytest.raises(EncodeError):
                codec.encode(value)

            with pytest.raises(DecodeError):
                codec.decode(b"\x83h\1h\1\xff")

        assert not [thing for thing in gc.get_objects() if type(thing) is EncodeError]
        assert not [thing for thing in gc.get_objects() if type(thing) is DecodeError]
    finally:
        gc.enable()


@each_codec
def test_ever_new_atoms_fill_no_memory(
    codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache of atoms is bounded; atoms beyond it are equal all the same."""
    # One of its own, so that the atoms of other tests go on being kept.
    cached: dict[str, Atom] = {}
    monkeypatch.setattr(_terms_atom, "_cached_atoms", cached)

    def decode(number: int) -> object:
        name = f"{codec.CODEC}_{number:027}".encode()
        return codec.decode(b"\x83w" + bytes([len(name)]) + name)

    for number in range(MAX_CACHED_ATOMS + 1000):
        decode(number)

    gc.collect()
    blocks = sys.getallocatedblocks()

    for number in range(20_000):
        decode(10_000 + number)

    gc.collect()
    assert len(cached) == MAX_CACHED_ATOMS
    assert sys.getallocatedblocks() - blocks < 200
    assert decode(9_999_999) == decode(9_999_999)
    assert decode(9_999_999) is not decode(8_888_888)


# Allocations that fail. In a process of its own, as nobody survives that for certain.

NO_MEMORY: Final = """
import _testcapi
from hornbeam import _etf_c as codec
from hornbeam._terms import *

value = {
    "k": [1, -(2**70), 1.5, None, "ä", b"b" * 2000, (Atom("no_memory"), {})],
    ("k", FrozenList((1,))): ImproperList((1,), BitString(b"a", 1)),
}
calls = {
    "encode": (codec.encode, value),
    "refuse": (codec.encode, [[{("a",): [{1}]}]]),
    "refuse_key": (codec.encode, [{"k": 1, b"k": 2}]),
    "decode": (codec.decode, codec.encode(value)),
    "packet": (codec.decode_packet, codec.pack_batch([codec.encode_message(1)])[4:]),
    "malformed": (codec.decode, codec.encode(value)[:-1]),
    "batch": (codec.pack_batch, [b"j", b"j"]),
}
failed = 0

for name, (function, argument) in calls.items():
    try:
        expected = repr(function(argument))
    except (EncodeError, DecodeError) as error:
        expected = str(error)

    for nth in range(400):
        outcome = None
        _testcapi.set_nomemory(nth, nth + 1)

        try:
            outcome = function(argument)
        except MemoryError:
            outcome = MemoryError
        except (EncodeError, DecodeError) as error:
            outcome = error
        finally:
            _testcapi.remove_mem_hooks()

        if outcome is MemoryError:
            failed += 1
        elif isinstance(outcome, Exception):
            assert str(outcome) == expected, (name, nth, outcome)
        else:
            assert repr(outcome) == expected, (name, nth, outcome)

print(failed)
"""


@needs_both
def test_failing_allocations() -> None:
    """Whichever allocation fails, it is a MemoryError."""
    pytest.importorskip("_testcapi")
    # Not measured by coverage, which would need memory too.
    environ = {k: v for k, v in os.environ.items() if not k.startswith("COV")}
    environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-c", NO_MEMORY],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100
