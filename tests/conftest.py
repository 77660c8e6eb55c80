# SPDX-License-Identifier: Apache-2.0
"""Fixtures that tests of several modules share."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from node import APPS_DIR, Node

# How long an example takes says nothing: machines do other things as well.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")

MAX_PROCESSES = 8
"""Each of them has a node of its own."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One process more than cores, since tests wait for the half of their time."""
    return min(len(os.sched_getaffinity(0)) + 1, MAX_PROCESSES)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, bool, bool]:
    """Do without coverage of this process where only that of the workers counts.

    Following the lines of clients and oracles takes more time than to run them.
    """
    trace, trace_threads = sys.gettrace(), threading.gettrace()
    is_coverage = type(trace).__module__.startswith("coverage")

    if not (is_coverage and _is_unmeasured(item)):
        return (yield)

    sys.settrace(None)
    threading.settrace(None)

    try:
        return (yield)
    finally:
        threading.settrace(trace_threads)
        sys.settrace(trace)


def _is_unmeasured(item: pytest.Item) -> bool:
    is_client = item.path.parent.name in ("e2e", "conformance", "faults", "overload")
    return is_client or item.get_closest_marker("unmeasured") is not None


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    """A node that all tests share: leave it as you found it, or take `fresh_node`."""
    with Node() as running:
        yield running


@pytest.fixture
def fresh_node() -> Iterator[Node]:
    """A node that the test may kill."""
    with Node() as running:
        yield running


Serve = Callable[..., str]


@pytest.fixture
def serve(node: Node) -> Iterator[Serve]:
    """Start a server on the shared node as `Node.start_server` does, for this test.

    Each server gets a name of its own and is stopped when the test is over.
    """
    numbers = count(1)
    names: list[str] = []

    def start(app: str, options: str = "#{}", *, app_dir: str | Path = APPS_DIR) -> str:
        name = f"test_{next(numbers)}"
        url = node.start_server(app, options, name=name, app_dir=app_dir)
        names.append(name)
        return url

    yield start

    for name in names:
        # A test may have stopped it, or killed what ran it.
        node.eval(f"hornbeam:stop({name})")
