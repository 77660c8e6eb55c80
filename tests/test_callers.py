# SPDX-License-Identifier: Apache-2.0
"""Many callers of one worker at once: no wrong answer, no hang.

For a second; with HORNBEAM_FULL=1 for a minute.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from node import Node
from test_scenarios import FUNCTIONS

SECONDS = 60 if os.environ.get("HORNBEAM_FULL") == "1" else 1
# A third of it is for the calls of each thread.
WSGI_SECONDS = max(SECONDS, 4)
GRACE_S = 60
MAX_BLOCKED_MS = 250.0
"""Generous, for machines that do other things."""


@pytest.fixture(scope="module", params=["uvloop", "asyncio", "trio"])
def url(node: Node, request: pytest.FixtureRequest) -> Iterator[str]:
    node.eval(FUNCTIONS)
    options = (
        f"#{{loop => {request.param}, workers => 1, timeout => infinity,"
        f' env => #{{"SECONDS" => "{SECONDS}"}}}}'
    )
    name = f"callers_{request.param}"
    app = "apps.scenarios.load:app"
    yield node.start_server(app, options, name=name, app_dir="tests")
    node.stop_server(name)


def ask(url: str, kind: str) -> dict[str, Any]:
    address = f"{url}/{kind}/k{uuid.uuid4().hex}"
    response = httpx.get(address, timeout=SECONDS + GRACE_S, trust_env=False)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


@pytest.mark.timeout(SECONDS + 2 * GRACE_S)
@pytest.mark.parametrize("kind", ["threads", "tasks", "both"])
def test_many_callers(url: str, kind: str) -> None:
    """200 threads, 200 tasks, and both, with each answer checked."""
    answer = ask(url, kind)
    assert answer["wrong"] == []
    assert answer["calls"] > 200


def test_thread_while_the_loop_is_blocked(url: str) -> None:
    """It reads for itself: the loop is blocked until all answers have come."""
    answer = ask(url, "blocked")
    assert (answer["calls"], answer["done"]) == (100, True)
    assert answer["max_ms"] < MAX_BLOCKED_MS


@pytest.mark.timeout(WSGI_SECONDS + 2 * GRACE_S)
def test_wsgi_threads(node: Node) -> None:
    """Each request of a WSGI application calls from a thread of its own."""
    node.eval(FUNCTIONS)
    threads = 16
    options = (
        f"#{{threads => {threads}, timeout => infinity,"
        f' env => #{{"SECONDS" => "{WSGI_SECONDS}", "REQUESTS" => "{threads}"}}}}'
    )
    app = "apps.scenarios.load_wsgi:application"
    url = node.start_server(app, options, name="callers_wsgi", app_dir="tests")

    with ThreadPoolExecutor(threads) as pool:
        answers = list(pool.map(ask, [url] * threads, ["request"] * threads))

    node.stop_server("callers_wsgi")
    assert [answer["wrong"] for answer in answers] == [[]] * threads
    assert sum(answer["calls"] for answer in answers) > 200
    assert len({answer["thread"] for answer in answers}) == threads
