# SPDX-License-Identifier: Apache-2.0
"""Who may have a request: each goes exactly one way, with its whole body if any."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hornbeam import _protocol as protocol
from hornbeam._arrivals import Arrivals
from machines import machine_settings


class Model(RuleBasedStateMachine):
    """The reader, the loop and the watchdog, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.arrivals = Arrivals()
        self.bodies: dict[int, bytes] = {}
        """What was read of each request."""
        self.open: set[int] = set()
        """Those whose body is not all there."""
        self.began: list[int] = []
        self.returned: list[int] = []

    @rule(body=st.binary(max_size=3), more=st.booleans())
    def read_request(self, body: bytes, more: bool) -> None:
        key = len(self.bodies) + 1
        self.bodies[key] = body
        self.arrivals.add((protocol.REQUEST, key, (), body, more))

        if more:
            self.open.add(key)

    @rule()
    def read_websocket(self) -> None:
        key = len(self.bodies) + 1
        self.bodies[key] = b""
        self.arrivals.add((protocol.WEBSOCKET, key, (), []))

    @rule(data=st.data(), part=st.binary(max_size=3), more=st.booleans())
    def read_body(self, data: st.DataObject, part: bytes, more: bool) -> None:
        if not self.open:
            return

        key = data.draw(st.sampled_from(sorted(self.open)))
        self.bodies[key] += part
        self.arrivals.add_body((protocol.BODY, key, part, more))

        if not more:
            self.open.discard(key)

    @rule(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        if not self.bodies:
            return

        # Each is begun at most once: its task runs once.
        key = data.draw(st.sampled_from(sorted(self.bodies)))

        if key not in self.began and self.arrivals.claim(key, None) is not None:
            self.began.append(key)

    @rule()
    def take_back(self) -> None:
        for key, body in self.arrivals.take_back():
            assert key not in self.open
            assert body == self.bodies[key]
            self.returned.append(key)

    @invariant()
    def each_goes_one_way(self) -> None:
        gone = Counter(self.began + self.returned)
        assert all(times == 1 for times in gone.values())

        for key in self.bodies:
            assert self.arrivals.has(key) is (key not in gone)


TestModel = Model.TestCase
TestModel.settings = machine_settings(runs=60, steps=30)


@pytest.fixture
def busy_switching() -> Iterator[None]:
    """Threads take turns as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_race(busy_switching: None) -> None:
    """The loop begins what the watchdog takes back at the same time."""
    arrivals = Arrivals()
    count = 20000
    began: list[int] = []
    returned: list[int] = []

    for key in range(count):
        arrivals.add((protocol.REQUEST, key, (), b"", key % 2 == 0))
        arrivals.add_body((protocol.BODY, key, b"x", False))

    def begin() -> None:
        began.extend(
            key for key in range(count) if arrivals.claim(key, None) is not None
        )

    def take_back() -> None:
        while len(arrivals):
            returned.extend(key for key, _ in arrivals.take_back())

    threads = [threading.Thread(target=run) for run in (begin, take_back, take_back)]

    for thread in threads:
        thread.start()

    for thread in threads:
        thread.join(30)

    assert sorted(began + returned) == list(range(count))
