# SPDX-License-Identifier: Apache-2.0
"""Workers that die under load; `make soak SOAK=kills` does it for a minute."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from pathlib import Path

from e2e.raw import wait_until
from faults.kills import (
    ask,
    count_after,
    plain_start_ms,
    ready_after,
    run,
    serving,
    started_at,
    wait_until_all_ready,
)
from faults.load import SAFE, Load
from node import Node

RATE = 400
SECONDS = 4.0
EVERY = 0.7

# The machine may be busy: a start that comes too late by a second was not at once.
SLACK_MS = 1000.0


def test_kills_under_load(fresh_node: Node, tmp_path: Path) -> None:
    """Requests that may be sent twice never fail; nothing is wrong, nothing stays."""
    report = run(fresh_node, tmp_path, rate=RATE, seconds=SECONDS, every=EVERY)
    print(report)  # noqa: T201
    assert report.killed >= 3
    assert report.load.failures(SAFE) == {}, report.load.examples
    assert report.load.count("wrong") == 0, report.load.examples
    # Others fail in their own way, or not at all.
    assert set(report.load.failures(["POST"])) <= {"502"}
    assert set(report.load.failures(["STREAM"])) <= {"cut"}


def test_all_workers_at_once(fresh_node: Node, tmp_path: Path) -> None:
    """What comes while there is no worker waits for the first that is ready again."""
    with serving(fresh_node, tmp_path) as server:
        load = Load(server.url, rate=RATE, seconds=3, mix={"GET": 1.0})

        async def kill_all_in_between() -> None:
            sending = asyncio.create_task(load.run())

            for _ in range(2):
                await asyncio.sleep(0.5)
                await asyncio.to_thread(wait_until_all_ready, server)

                # Who has met one death is tried once more, and no more than that.
                await asyncio.to_thread(
                    wait_until, lambda: server.in_flight() == 0, "all are answered"
                )
                pids = await asyncio.to_thread(server.worker_pids)

                # None of them does anything between the first end and the last.
                for sent in (signal.SIGSTOP, signal.SIGKILL):
                    for pid in pids:
                        os.kill(pid, sent)

            await sending

        asyncio.run(kill_all_in_between())
        assert load.result.failures(SAFE) == {}, load.result.examples
        # Each of both was started twice again; nobody may have asked since the end.
        wait_until(
            lambda: server.worker_facts("restarts") == ["2", "2"], "both have ended"
        )
        wait_until_all_ready(server)


def test_no_worker_within_the_queue_time(fresh_node: Node, tmp_path: Path) -> None:
    """Requests wait for `queue_timeout`, and then get 503."""
    options = "workers => 2, queue_timeout => 200"

    with serving(fresh_node, tmp_path, options) as server:
        (tmp_path / "import").write_text("exit")

        for pid in server.worker_pids():
            os.kill(pid, signal.SIGKILL)

        load = Load(server.url, rate=50, seconds=0.5, mix={"GET": 1.0})
        asyncio.run(load.run())
        assert load.result.failures(SAFE) == {"503": load.result.total()}
        assert load.result.quantile_ms(0) > 100
        (tmp_path / "import").unlink()
        wait_until_all_ready(server)
        assert ask(server, "/echo/x") == 200


def test_successor_is_started_at_once(fresh_node: Node, tmp_path: Path) -> None:
    """A dead worker is replaced in the time that a start takes, every time."""
    with serving(fresh_node, tmp_path) as server:
        starts = [plain_start_ms(fresh_node, tmp_path) for _ in range(3)]
        deaths = []
        until_started = []

        for worker_id, pid in enumerate(server.worker_pids(), start=1):
            deaths.append((worker_id, time.time()))
            os.kill(pid, signal.SIGKILL)
            fresh_node.wait_for_output(rf"SIGKILL.*\n.*\n.*\n +worker_id: {worker_id}")
            wait_until_all_ready(server)
            successor = server.worker_pids()[worker_id - 1]
            until_started.append((started_at(successor) - deaths[-1][1]) * 1000)

        # The log is behind what the node does.
        wait_until(
            lambda: count_after(fresh_node.output, deaths) == 2, "both are in the log"
        )
        delays = ready_after(fresh_node.output, deaths)
        waits = re.findall(r"restart_in_ms: (\d+)", fresh_node.output)
        print(f"from death to ready {delays} ms, plain starts {starts} ms")  # noqa: T201
        print(f"of it until the process is there {until_started} ms")  # noqa: T201
        assert max(delays) < max(starts) + SLACK_MS
        assert max(until_started) < SLACK_MS
        assert waits == ["0", "0"]
