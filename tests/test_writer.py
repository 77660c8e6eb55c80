# SPDX-License-Identifier: Apache-2.0
"""How messages are put into packets."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator

import pytest

from fake_node import TIMEOUT_S
from hornbeam import _writer
from hornbeam._etf import CODEC
from hornbeam._protocol import PacketSplitter
from hornbeam._writer import MAX_BATCH_BYTES, PacketWriter


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    yield read_end, write_end
    os.close(read_end)
    os.close(write_end)


def sizes_of_packets(pipe: tuple[int, int], messages: list[bytes]) -> list[int]:
    """What the messages are written as; all has to fit into the pipe."""
    read_end, write_end = pipe
    writer = PacketWriter(write_end, lambda: None, lambda _: None)
    writer.outbox.extend(messages)
    writer.write()
    assert writer.outbox == []
    packets = list(PacketSplitter().feed(os.read(read_end, 1 << 20)))
    # A version byte, a list's head of five, and its end.
    joined = b"".join(packet[6:-1] for packet in packets)
    assert joined == b"".join(messages)
    return [len(packet) - 7 for packet in packets]


@pytest.mark.parametrize(
    ("sizes", "packets"),
    [
        ([1], [1]),
        ([10, 20, 30], [60]),
        ([MAX_BATCH_BYTES // 2] * 2, [MAX_BATCH_BYTES]),
    ],
)
def test_small_messages_share_a_packet(
    pipe: tuple[int, int], sizes: list[int], packets: list[int]
) -> None:
    _enlarge(pipe[1])
    assert sizes_of_packets(pipe, [b"m" * size for size in sizes]) == packets


@pytest.mark.parametrize(
    ("sizes", "packets"),
    [
        ([MAX_BATCH_BYTES, 1], [MAX_BATCH_BYTES, 1]),
        ([1, MAX_BATCH_BYTES], [1, MAX_BATCH_BYTES]),
        ([1, MAX_BATCH_BYTES + 9, 1, 2], [1, MAX_BATCH_BYTES + 9, 3]),
        ([40_000, 40_000, 20_000], [40_000, 60_000]),
    ],
)
def test_large_ones_do_not(
    pipe: tuple[int, int], sizes: list[int], packets: list[int]
) -> None:
    """The node would hold all of a packet for the slowest of its clients."""
    _enlarge(pipe[1])
    assert sizes_of_packets(pipe, [b"m" * size for size in sizes]) == packets


@pytest.mark.skipif(CODEC != "c", reason="os.write lets other threads run")
def test_a_short_packet_does_not_let_other_threads_run(pipe: tuple[int, int]) -> None:
    """Who gives the interpreter away waits until another thread gives it back."""
    writer = PacketWriter(pipe[1], lambda: None, lambda _: None)
    gate, has_run = threading.Lock(), threading.Event()
    gate.acquire()

    def run() -> None:
        gate.acquire()
        has_run.set()

    other = threading.Thread(target=run)
    other.start()
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(TIMEOUT_S)

    try:
        gate.release()

        for _ in range(200):
            writer.write(b"m")

        had_run = has_run.is_set()
    finally:
        sys.setswitchinterval(interval_s)

    other.join(TIMEOUT_S)
    assert has_run.is_set()
    assert not had_run


def _enlarge(descriptor: int) -> None:
    fcntl = pytest.importorskip("fcntl")
    fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, 1 << 19)


class Left(BaseException):
    """In place of the end of the process."""


@pytest.fixture
def lefts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Says, of each time the process would have left, with what error it did."""
    errors: list[str] = []

    def leave() -> None:
        errors.append(type(sys.exc_info()[1]).__name__)
        raise Left

    monkeypatch.setattr(_writer, "leave_in_disorder", leave)
    return errors


def test_half_a_packet_is_out(pipe: tuple[int, int], lefts: list[str]) -> None:
    """The node would take the next one for the rest of it."""

    class Poll:
        def poll(self) -> None:
            raise TimeoutError("a signal handler of the application")

    writer = PacketWriter(pipe[1], lambda: None, lambda _: None)
    writer._poll = Poll()  # type: ignore[assignment]  # what is called of it

    with pytest.raises(Left):
        writer.write(b"x" * (1 << 20))

    assert lefts == ["TimeoutError"]


@pytest.mark.parametrize(
    ("outbox", "encoded", "is_left"),
    [([b"a"], None, True), ([b"a"], b"b", True), ([], b"b", False)],
)
def test_no_memory_for_a_packet(
    pipe: tuple[int, int],
    lefts: list[str],
    monkeypatch: pytest.MonkeyPatch,
    outbox: list[bytes],
    encoded: bytes | None,
    is_left: bool,
) -> None:
    """It is the caller's affair, unless messages of others are lost."""

    def pack(messages: list[bytes]) -> bytes:
        raise MemoryError

    monkeypatch.setattr(_writer, "pack_batch", pack)
    writer = PacketWriter(pipe[1], lambda: None, lambda _: None)
    writer.outbox.extend(outbox)

    with pytest.raises(Left if is_left else MemoryError):
        writer.write(encoded)

    assert bool(lefts) == is_left
