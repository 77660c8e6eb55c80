# SPDX-License-Identifier: Apache-2.0
"""How much of bodies leaves in a turn of the event loop."""

from __future__ import annotations

import pytest

from hornbeam._pacer import BLOCKED_BYTES_PER_S, TURN_BYTES, Pacer


class Stream:
    """A response with parts to send."""

    def __init__(self, turns: Turns, request_id: int, parts: list[int]) -> None:
        self.turns = turns
        self.request_id = request_id
        self.parts = parts

    def send_pending(self) -> None:
        while self.parts:
            if not self.turns.pacer.admits(self.request_id):
                self.turns.pacer.wait(self)
                return

            size = self.parts.pop(0)
            self.turns.pacer.left_bytes -= size
            self.turns.sent[-1].append((self.request_id, size))


class Turns:
    """A pacer whose turns a test takes."""

    def __init__(self) -> None:
        self.scheduled = 0
        self.pacer = Pacer(self.schedule)
        self.sent: list[list[tuple[int, int]]] = [[]]
        """What has left, by turn."""

    def schedule(self) -> None:
        self.scheduled += 1

    def turn(self) -> bool:
        """Take one; False if none was asked for."""
        if not self.scheduled:
            return False

        assert self.scheduled == 1, "each call adds a budget"
        self.scheduled = 0
        self.sent.append([])
        self.pacer.renew()
        return True

    def all_sent(self, *streams: list[int]) -> list[list[tuple[int, int]]]:
        """Have streams of such parts begin in one turn, and go on to their end."""
        for number, parts in enumerate(streams):
            Stream(self, number + 1, list(parts)).send_pending()

        while self.turn():
            pass

        return self.sent


@pytest.fixture
def turns() -> Turns:
    return Turns()


def test_what_fits_leaves_at_once(turns: Turns) -> None:
    half = TURN_BYTES // 2
    assert turns.all_sent([half - 1], [half]) == [[(1, half - 1), (2, half)]]


def test_rest_leaves_in_order_a_budget_a_turn(turns: Turns) -> None:
    quarter = TURN_BYTES // 4
    sent = turns.all_sent(*([quarter] for _ in range(10)))
    assert [len(parts) for parts in sent] == [4, 4, 2]
    assert [one for parts in sent for one, _ in parts] == list(range(1, 11))


def test_turn_has_at_least_a_part(turns: Turns) -> None:
    large = 3 * TURN_BYTES
    sent = turns.all_sent([large], [large], [large])
    assert sent == [[(1, large)], [(2, large)], [(3, large)]]


def test_who_streams_alone_never_waits(turns: Turns) -> None:
    assert len(turns.all_sent([TURN_BYTES] * 9)) == 1
    assert turns.pacer.left_bytes < 0


def test_queue_has_each_once(turns: Turns) -> None:
    """An acknowledgement that comes while it waits has it ask again."""
    turns.pacer.left_bytes = 0
    streams = [Stream(turns, number, [1]) for number in (1, 2)]

    for stream in streams * 3:
        stream.send_pending()

    assert turns.turn()
    assert turns.sent[-1] == [(1, 1), (2, 1)]
    assert not turns.turn()


def test_blocked_time_counts(turns: Turns) -> None:
    """While the pipe is full, a turn has room for less."""
    turns.pacer.charge(TURN_BYTES / 2 / BLOCKED_BYTES_PER_S)
    assert turns.pacer.left_bytes == TURN_BYTES // 2
    turns.pacer.charge(1.0)
    assert not turns.pacer.admits(1)


def test_new_turn_is_of_those_who_wait(turns: Turns) -> None:
    """What comes from the node meanwhile does not let others overtake them."""
    turns.pacer.left_bytes = 0
    turns.pacer.begin_turn()
    assert turns.pacer.left_bytes == TURN_BYTES
    turns.pacer.left_bytes = 0
    Stream(turns, 1, [1]).send_pending()
    turns.pacer.begin_turn()
    assert turns.pacer.left_bytes == 0
    assert not turns.pacer.admits(2)
    assert turns.turn()
    assert turns.sent[-1] == [(1, 1)]
