# SPDX-License-Identifier: Apache-2.0
"""Topics and patterns; with the table that the Erlang side has too."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hornbeam import _topics
from hornbeam._etf import encode
from hornbeam._hub import Hub, Published
from node import ROOT

TABLE: dict[str, Any] = json.loads((ROOT / "tests/vectors/topics.json").read_text())


class Taker:
    def __init__(self) -> None:
        self.taken: list[object] = []
        self.dropped = 0

    def deliver(self, message: Published) -> None:
        self.taken.append(message.value())

    def count_dropped(self, count: int) -> None:
        self.dropped += count


@pytest.mark.parametrize(("pattern", "topic", "expected"), TABLE["matches"])
def test_matching(pattern: str, topic: str, expected: bool) -> None:
    """By the hub, which treats patterns and plain topics apart."""
    hub, taker = Hub(), Taker()
    _topics.check_pattern(pattern)
    hub.add(pattern, taker)
    assert hub.deliver(topic, encode(1)) == expected
    assert taker.taken == [1] * expected


@pytest.mark.parametrize("pattern", TABLE["invalid_patterns"])
def test_invalid_pattern(pattern: str) -> None:
    with pytest.raises(ValueError, match="'#' before its last segment"):
        _topics.check_pattern(pattern)


@pytest.mark.parametrize("topic", TABLE["invalid_topics"])
def test_invalid_topic(topic: str) -> None:
    with pytest.raises(ValueError, match="only subscribe"):
        _topics.check_topic(topic)


@pytest.mark.parametrize("check", [_topics.check_topic, _topics.check_pattern])
def test_no_text(check: Any) -> None:
    with pytest.raises(TypeError, match="a topic is a str, not bytes"):
        check(b"a")

    with pytest.raises(ValueError, match="not empty"):
        check("")


def test_hub_counts_subscriptions() -> None:
    """One may be there several times, under one pattern or several."""
    hub, one, other = Hub(), Taker(), Taker()
    assert hub.deliver("a:b", encode(0)) == 0

    for pattern in ("a:b", "a:b", "a:*", "#"):
        hub.add(pattern, one)

    hub.add("a:b", other)
    assert hub.deliver("a:b", encode(1)) == 5
    assert (one.taken, other.taken) == ([1] * 4, [1])
    assert hub.remove("a:b", one) is True
    assert hub.remove("a:*", one) is True
    assert hub.remove("a:*", one) is False
    assert hub.remove("none", one) is False
    assert hub.deliver("a:b", encode(2)) == 3
    hub.count_dropped(7)
    assert (one.dropped, other.dropped) == (14, 7)
    hub.clear()
    assert hub.deliver("a:b", encode(3)) == 0


@pytest.mark.parametrize(("value", "is_shared"), [("text", True), ([1], False)])
def test_copies(value: object, is_shared: bool) -> None:
    """What can be changed is decoded for each subscriber anew."""
    message = Published("t", encode(value))
    first, second = message.value(), message.value()
    assert first == second == value
    assert (first is second) == is_shared
