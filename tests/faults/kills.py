# SPDX-License-Identifier: Apache-2.0
"""Workers are killed under load: how many requests notice, and what is left behind.

    make soak SOAK=kills

`test_kills.py` has the short version.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from pathlib import Path

from e2e.observe import Server, survivors
from e2e.raw import Connection, wait_until
from faults.leaks import memory_bytes, take_stock, wait_for_stock
from faults.load import SAFE, Load, Result
from node import Node, literal

TESTS_DIR = Path(__file__).resolve().parent.parent

WAIT_SECONDS = 30.0

# A queue for all that come while no worker is there.
OPTIONS = "workers => 2, keepalive => 60000, max_queue => 20000, queue_timeout => 10000"

_names = count(1)
_READY = re.compile(
    r"^=INFO REPORT==== (\S+) ===\n +what: worker_ready\n +worker_id: (\d+)$", re.M
)
_LOG_TIME = "%d-%b-%Y::%H:%M:%S.%f"


@dataclass
class Report:
    """What a run has seen."""

    load: Result
    killed: int = 0
    plain_start_ms: float = 0.0
    until_ready_ms: list[float] = field(default_factory=list)
    memory_grown_bytes: int = 0

    def __str__(self) -> str:
        ready = sorted(self.until_ready_ms) or [0.0]
        return (
            f"{self.load}\n{self.killed} workers killed; from death to ready "
            f"{statistics.median(ready):.0f} ms (worst {ready[-1]:.0f} ms), "
            f"a plain start before the load {self.plain_start_ms:.0f} ms; "
            f"the node's memory grew by {self.memory_grown_bytes / 1e6:.1f} MB; "
            "no process, port, table or descriptor left"
        )


@contextmanager
def serving(node: Node, folder: Path, options: str = OPTIONS) -> Iterator[Server]:
    """Serve `app.py` for a block."""
    name = f"faults_{next(_names)}"
    env = f'#{{"FAULTS" => {literal(str(folder))}}}'
    url = node.start_server(
        "faults.app:application",
        f"#{{env => {env}, {options}}}",
        name=name,
        app_dir=TESTS_DIR,
    )

    try:
        yield Server(node, name, url)
    finally:
        node.eval(f"hornbeam:stop({name})")


def wait_until_all_ready(server: Server, workers: int = 2) -> None:
    deadline = time.monotonic() + WAIT_SECONDS

    while server.worker_facts("state") != ["ready"] * workers:
        assert time.monotonic() < deadline, server.worker_facts("state")
        time.sleep(0.02)


class Killer(threading.Thread):
    """Kills one worker after another, each in its turn, as often as it is told to.

    A request that has met one death is tried once more, and no more than that: so the
    next one comes when all that may have met the last are over.

    `deaths` has the worker's id and when it was, by the clock that the log has.
    """

    def __init__(self, server: Server, load: Load, every_seconds: float) -> None:
        super().__init__(daemon=True)
        self._server = server
        self._load = load
        self._every_seconds = every_seconds
        self._is_over = threading.Event()
        self.deaths: list[tuple[int, float]] = []

    def run(self) -> None:
        last_id = 0

        while not self._is_over.wait(self._every_seconds):
            running = self._running()
            later = [worker_id for worker_id in running if worker_id > last_id]

            if running:
                last_id = min(later or running)
                self.deaths.append((last_id, time.time()))
                os.kill(running[last_id], signal.SIGKILL)
                self._await_answers(last_id, running[last_id])

    def _await_answers(self, worker_id: int, pid: int) -> None:
        wait_until(lambda: self._running().get(worker_id) != pid, "it is known")
        known = time.monotonic()
        wait_until(
            lambda: self._load.is_answered(known),
            "who has met the death is answered",
            seconds=WAIT_SECONDS,
        )

    def stop(self) -> None:
        self._is_over.set()
        self.join()

    def _running(self) -> dict[int, int]:
        ids = self._server.worker_facts("worker_id")
        pids = self._server.worker_facts("os_pid")
        return {
            int(worker_id): int(pid)
            for worker_id, pid in zip(ids, pids, strict=True)
            if pid != "none"
        }


def run(
    node: Node, folder: Path, *, rate: float, seconds: float, every: float
) -> Report:
    """Load, kill, and look at what is left.

    Raises:
        AssertionError: something was left behind.
    """
    with serving(node, folder) as server:
        asyncio.run(Load(server.url, rate=rate / 4, seconds=1).run())
        wait_for_no_connections(server)
        before, memory = take_stock(node), memory_bytes(node)
        pids = server.worker_pids()
        plain_ms = plain_start_ms(node, folder)
        load = Load(server.url, rate=rate, seconds=seconds)
        killer = Killer(server, load, every)
        killer.start()
        result = asyncio.run(load.run())
        killer.stop()
        wait_until_all_ready(server)
        wait_for_no_connections(server)
        assert survivors(pids) == []
        wait_for_stock(node, before)
        grown = memory_bytes(node) - memory
        # The log is behind what the node does.
        wait_until(
            lambda: count_after(node.output, killer.deaths) == len(killer.deaths),
            "all that were killed have a successor in the log",
        )
        until_ready = ready_after(node.output, killer.deaths)

    return Report(result, len(killer.deaths), plain_ms, until_ready, grown)


def wait_for_no_connections(server: Server) -> None:
    deadline = time.monotonic() + WAIT_SECONDS

    while server.connections() or server.in_flight():
        assert time.monotonic() < deadline, "connections or requests are still there"
        time.sleep(0.02)


def plain_start_ms(node: Node, folder: Path) -> float:
    """How long a server with one worker takes to start."""
    began = time.monotonic()

    with serving(node, folder, "workers => 1"):
        return (time.monotonic() - began) * 1000


def ready_events(log: str) -> list[tuple[int, float]]:
    """Which workers were ready, and when, as the node has logged."""
    return [
        (int(worker_id), datetime.strptime(at, _LOG_TIME).timestamp())
        for at, worker_id in _READY.findall(log)
    ]


def count_after(log: str, deaths: list[tuple[int, float]]) -> int:
    """Of how many that were killed the log has a successor."""
    events = ready_events(log)
    return sum(any(who == each and s > at for who, s in events) for each, at in deaths)


def ready_after(log: str, deaths: list[tuple[int, float]]) -> list[float]:
    """How long it took until each worker that was killed had a successor, in ms."""
    events = ready_events(log)
    found = []

    for worker_id, at in deaths:
        later = [seconds for other, seconds in events if other == worker_id]
        found.append(min(s for s in later if s > at) - at)

    return [seconds * 1000 for seconds in found]


def started_at(pid: int) -> float:
    """When a process was started, by the clock of `time.time`; in steps of 10 ms."""
    ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    since_boot = ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + since_boot


def ask(server: Server, target: str, method: str = "GET") -> int:
    """The status of one request."""
    with Connection(server.url) as client:
        return client.exchange(method, target).status


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=2000.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--every", type=float, default=1.0)
    args = parser.parse_args()

    with Node() as node:
        report = run(
            node,
            Path("/nowhere"),
            rate=args.rate,
            seconds=args.seconds,
            every=args.every,
        )

    sys.stdout.write(f"{report}\n")
    failures = report.load.failures(SAFE)
    wrong = report.load.count("wrong")

    if failures or wrong:
        sys.exit(f"failed: {failures}, {wrong} wrong: {report.load.examples}")


if __name__ == "__main__":
    main()
