# SPDX-License-Identifier: Apache-2.0
"""Fixtures that tests of several modules share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from node import APPS_DIR, Node

MAX_PROCESSES = 8
"""Each of them has a node of its own."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One process more than cores, since tests wait for the half of their time."""
    return min(len(os.sched_getaffinity(0)) + 1, MAX_PROCESSES)


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
