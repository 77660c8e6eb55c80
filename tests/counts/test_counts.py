# SPDX-License-Identifier: Apache-2.0
"""A request takes no more than it did: counts that no machine changes, with bounds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from counts import bounds as table
from counts.bounds import Bound, counted_parts, find_faults, read_bounds
from counts.measuring import Measured, Uncountable, measured_node, read_summary

# What is counted runs in other processes.
pytestmark = pytest.mark.unmeasured

STRACE = """\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 67.32    0.004816          17       272           epoll_wait
 32.68    0.002338          11       200        12 read
------ ----------- ----------- --------- --------- ----------------
100.00    0.007154          15       472        12 total
"""


@pytest.fixture(scope="module")
def measured() -> Iterator[Measured]:
    with measured_node() as running:
        yield running


@pytest.mark.parametrize(("load", "part"), counted_parts())
def test_counts(load: str, part: str, measured: Measured) -> None:
    bounds = read_bounds()

    try:
        counts = measured.count_least(
            load, part, lambda found: not find_faults(load, found, bounds)
        )
    except Uncountable as exc:
        pytest.skip(str(exc))

    faults = find_faults(load, counts, bounds)
    assert not faults, "\n".join(faults)


def test_all_bounds_belong_to_a_load() -> None:
    loads = {load for load, _ in counted_parts()}
    assert {load for load, _ in read_bounds()} == loads


# That the counts count.


def test_dearer_application_is_noticed(measured: Measured) -> None:
    """A hundred calls more than hello, and an object that each of them keeps."""
    try:
        counts = measured.count("spin", "worker")
    except Uncountable as exc:
        pytest.skip(str(exc))

    bounds = {("spin", name): bound for (_, name), bound in hello_bounds().items()}
    faults = find_faults("spin", counts, bounds)
    assert len(faults) == 3
    assert all("docs/performance.md" in fault for fault in faults)


def test_more_work_of_the_node_is_noticed(measured: Measured) -> None:
    """What a hundred chunks take is over the bounds of hello."""
    bounds = {("chunks", name): bound for (_, name), bound in hello_bounds().items()}
    of_work = find_faults("chunks", measured.count("chunks", "work"), bounds)
    assert {"chunks: connection_reductions", "chunks: words"} <= names_of(of_work)
    of_calls = find_faults("chunks", measured.count("chunks", "calls"), bounds)
    assert {"chunks: ets", "chunks: messages"} <= names_of(of_calls)


def test_tables_and_timers_are_counted(measured: Measured) -> None:
    counted = measured.node.eval(
        "hornbeam_counts:await_no_connections(), hornbeam_counts:start(calls),"
        " Table = ets:new(table, []),"
        " [ets:lookup(Table, Key) || Key <- lists:seq(1, 100)],"
        " [erlang:send_after(1, self(), Key) || Key <- lists:seq(1, 50)],"
        " [erlang:start_timer(1, self(), Key) || Key <- lists:seq(1, 50)],"
        " [spawn(erlang, now, []) || _ <- lists:seq(1, 30)],"
        " #{ets := Ets, timers := Timers, spawns := Spawns} = hornbeam_counts:stop(),"
        " {Ets > 100, Timers >= 100, Spawns >= 30}"
    )
    assert counted == "{true,true,true}"


def hello_bounds() -> table.Bounds:
    return {key: bound for key, bound in read_bounds().items() if key[0] == "hello"}


def names_of(faults: list[str]) -> set[str]:
    return {" ".join(fault.split()[:2]) for fault in faults}


def test_least_of_three_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = iter([{"a": 3.0, "b": 1.0}, {"a": 2.0, "b": 5.0}, {"a": 4.0, "b": 4.0}])
    measured = object.__new__(Measured)
    monkeypatch.setattr(measured, "count", lambda load, part: next(counted))
    assert measured.count_least("x", "y", lambda found: False) == {"a": 2.0, "b": 1.0}
    assert next(counted, None) is None


def test_what_is_enough_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = iter([{"a": 3.0}])
    measured = object.__new__(Measured)
    monkeypatch.setattr(measured, "count", lambda load, part: next(counted))
    assert measured.count_least("x", "y", lambda found: True) == {"a": 3.0}


# The table, and what strace writes.


def test_count_at_its_bound_is_no_fault() -> None:
    bounds = {("hello", "ets"): Bound(7.0, 9.0)}
    assert find_faults("hello", {"ets": 9.0}, bounds) == []
    (fault,) = find_faults("hello", {"ets": 9.01}, bounds)
    assert fault.startswith(
        "hello: ets is 9.01 for each request, at most 9 is expected"
    )
    assert "bounds.md" in fault


def test_what_was_not_counted_is_a_fault() -> None:
    bounds = {("hello", "ets"): Bound(7, 9), ("hello", "messages"): Bound(7, 9)}
    assert find_faults("hello", {"ets": 0.0}, bounds) == []
    (fault,) = find_faults("hello", {"messages": 0.0}, bounds)
    assert fault == "hello: messages was not counted"


def test_what_has_no_bound_is_a_fault() -> None:
    assert find_faults("hello", {"ets": 1.0}, {}) == ["hello: ets has no bound"]


def test_table_is_written_as_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = {("a", "ets"): table.bound_for(7.014), ("b", "words"): Bound(0, 0.5)}
    assert written["a", "ets"] == Bound(7.01, 9.12)
    assert table.bound_for(0.0) == Bound(0, 0.5)
    copy = tmp_path / "bounds.md"
    copy.write_text(table.TABLE.read_text())
    monkeypatch.setattr(table, "TABLE", copy)
    table.write_bounds(written)
    assert read_bounds() == written


def test_summary_of_strace_is_read() -> None:
    assert read_summary(STRACE) == {"epoll_wait": 272, "read": 200}
