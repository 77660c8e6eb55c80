# SPDX-License-Identifier: Apache-2.0
"""What the tests of applications use: the stand-in by hand, and the fixture."""

from __future__ import annotations

import pytest

import hornbeam_erlang as erlang
from hornbeam_erlang.testing import StandIn, stand_in
from node import ROOT

pytest_plugins = ["pytester"]

TESTS = """
from hornbeam_erlang import state_incr

def test_one(hornbeam_state):
    assert state_incr("n") == 1
    hornbeam_state.register_function("f", int)

def test_other(hornbeam_state):
    assert state_incr("n") == 1
"""


@pytest.fixture
def empty() -> StandIn:
    stand_in.clear()
    return stand_in


def test_fixture_starts_clean(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if it were installed.
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "python"))
    pytester.makepyfile(TESTS)
    outcome = pytester.runpytest_subprocess("-p", "hornbeam_erlang._pytest")
    outcome.assert_outcomes(passed=2)


def test_clear(empty: StandIn) -> None:
    erlang.state_set("k", 1)
    erlang.register_hook("service", lambda: 1)
    empty.register_function("f", int)
    erlang.subscribe("t", lambda topic, message: None)
    assert erlang.publish("t", 1) == 1
    empty.clear()
    assert erlang.state_get("k") is None
    assert erlang.publish("t", 1) == 0

    with pytest.raises(erlang.FunctionNotFound):
        erlang.call("f")

    with pytest.raises(erlang.ServiceNotFound):
        erlang.execute("service")


def test_functions(empty: StandIn) -> None:
    empty.register_function("twice", lambda value: value * 2)
    assert erlang.call("twice", "ab") == "abab"
    assert empty.unregister_function("twice") is True
    assert empty.unregister_function("twice") is False


def test_advance(empty: StandIn) -> None:
    erlang.state_set("k", 1, ttl=60)
    empty.advance(59)
    assert erlang.state_get("k") == 1
    empty.advance(1)
    assert erlang.state_get("k") is None
