# SPDX-License-Identifier: Apache-2.0
"""More requests than a server can do; `soak_overload.py` does it for longer."""

from __future__ import annotations

import pytest

from e2e.observe import Server
from e2e.raw import Connection, wait_until
from e2e.support import serving
from node import Node
from overload.client import Answer, Wrong, check
from overload.soak_overload import KINDS, TESTS_DIR, cpu_seconds, run

SECONDS = 1.0
SHARE = 0.5
"""Of the capacity: the machine may be busy with other tests."""

SLACK_MS = 500

GROWTH_BYTES = 16 << 20
REFUSALS = 1000
MAX_REFUSAL_CPU_SECONDS = 0.002


@pytest.mark.parametrize("kind", KINDS)
def test_ten_times_the_capacity(node: Node, kind: str) -> None:
    """What is served stays; the rest is told at once, and not done; nothing is left."""
    report = run(node, kind, SECONDS)
    print(report)  # noqa: T201
    report.check(share=SHARE, slack_ms=SLACK_MS, growth_bytes=GROWTH_BYTES)


def test_refusals_are_cheap(node: Node) -> None:
    """With a full queue: they cost the node little, and the workers nothing."""
    options = "#{max_concurrency => 1, max_queue => 0, shutdown_timeout => 1000}"

    with serving(
        node, "overload.apps.busy:app", options, name="refusing", app_dir=TESTS_DIR
    ) as url:
        server = Server(node, "refusing", url)

        with Connection(url) as holder, Connection(url) as client:
            holder.send(b"GET /hold HTTP/1.1\r\nHost: x\r\n\r\n")
            wait_until(lambda: server.in_flight() == 1, "the only place is taken")
            assert client.get("/order").status == 503
            (worker,) = server.worker_pids()
            before = cpu_seconds(node.os_pid), cpu_seconds(worker)

            for _ in range(REFUSALS):
                answer = client.get("/order")
                assert answer.status == 503
                assert answer.one("retry-after") == b"1"
                assert answer.keeps_alive

            node_seconds = cpu_seconds(node.os_pid) - before[0]
            worker_seconds = cpu_seconds(worker) - before[1]

    print(f"{node_seconds / REFUSALS * 1e6:.0f} µs for each refusal")  # noqa: T201
    assert node_seconds / REFUSALS < MAX_REFUSAL_CPU_SECONDS
    # It beats, and does nothing else.
    assert worker_seconds < 0.1


GOOD = Answer(503, {b"retry-after": b"1"}, b"all workers are busy\n")


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, {}, b"8"),
        Answer(200, {}, b""),
        Answer(500, GOOD.headers, GOOD.body),
        Answer(503, {}, GOOD.body),
        Answer(503, {**GOOD.headers, b"connection": b"close"}, GOOD.body),
        Answer(503, GOOD.headers, b""),
    ],
)
def test_wrong_answers_are_seen(answer: Answer) -> None:
    """The check of the load can fail."""
    with pytest.raises(Wrong):
        check(answer, 7)


def test_right_answers() -> None:
    assert check(Answer(200, {}, b"7"), 7)
    assert not check(GOOD, 7)
