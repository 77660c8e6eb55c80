# SPDX-License-Identifier: Apache-2.0
"""Thousands of clients that send or take a byte a second, beside ordinary ones.

    PYTHONPATH=tests .venv/bin/python -m overload.soak_slow --seconds 60

What ordinary clients wait must not become twice as long, and memory stays bounded.
`test_slow_clients.py` has the short version.

Their arrival is a load of another kind, and has a figure of its own: all at once they
connect, and all readers are sent as much as fits the server's and the system's buffers
before anybody is slow. They are clients of a byte a second once that is over.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import resource
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from e2e.observe import Server, resident_bytes
from e2e.support import serving
from node import Node
from overload.client import Load, Result, connect, percentile
from overload.soak_overload import TESTS_DIR

PER_SECOND = 100
WORK_MS = 5

END_SECONDS = 30.0

LOOK_SECONDS = 1.0
"""Between two looks whether the slow clients are all there."""

ARRIVAL_SECONDS = 60.0

QUIET_BYTES = 1 << 20
"""Less than that comes into the node between two looks when none is sent a beginning.

A hundred ordinary requests, their answers and some thousand single bytes do.
"""

NODE_BYTES_EACH = 400_000
"""Two windows of a response, a connection's process, and the allocators' slack."""

WORKER_BYTES_EACH = 200_000


@dataclass
class Report:
    before: Result
    arrival: Result
    beside: Result
    node_growth_bytes: int
    workers_growth_bytes: int
    cut: dict[str, dict[str, int]]

    def __str__(self) -> str:
        return (
            f"before: {self.before}\nwhile they come: {self.arrival}\n"
            f"beside: {self.beside}\n"
            f"growth: node {self.node_growth_bytes >> 20} MiB, "
            f"workers {self.workers_growth_bytes >> 20} MiB; cut off: {self.cut}"
        )

    def check(self, each: int, slack_ms: float) -> None:
        """Check what must hold.

        Args:
            each: so many slow clients of either kind there were.
            slack_ms: what p99 may rise by besides, for the machine's other work.
        """
        refused = (self.before.refused, self.arrival.refused, self.beside.refused)
        assert refused == (0, 0, 0)
        before_ms = percentile(self.before.served_ms, 99)
        assert percentile(self.beside.served_ms, 99) < 2 * before_ms + slack_ms
        assert self.node_growth_bytes < (32 << 20) + 2 * each * NODE_BYTES_EACH
        assert self.workers_growth_bytes < (32 << 20) + 2 * each * WORKER_BYTES_EACH


class SlowClients:
    """The process of `slow.py`."""

    def __init__(self, url: str, **counts: int) -> None:
        words = [f"--{kind}={count}" for kind, count in counts.items()]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "overload.slow", url, *words],
            cwd=TESTS_DIR,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def is_ready(self, seconds: float) -> bool:
        """Whether all are there; waits up to so long."""
        output = self._process.stdout
        assert output is not None

        if not select.select([output], [], [], seconds)[0]:
            return False

        assert output.readline() == "ready\n"
        return True

    def finish(self) -> dict[str, dict[str, int]]:
        """How many of each kind were cut off, by the status that they got."""
        output, _ = self._process.communicate("", timeout=END_SECONDS)
        found: dict[str, dict[str, int]] = json.loads(output)
        return found

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextmanager
def slow_clients(url: str, **counts: int) -> Iterator[SlowClients]:
    """They are all there when the block begins."""
    clients = SlowClients(url, **counts)

    try:
        assert clients.is_ready(ARRIVAL_SECONDS)
        yield clients
    finally:
        clients.close()


def run(node: Node, each: int, seconds: float) -> Report:
    """Measure ordinary traffic without and with so many slow clients of two kinds."""
    options = (
        f"#{{workers => 2, max_concurrency => {2 * each + 1000}, keepalive => 120000,"
        " timeout => infinity, send_timeout => infinity, shutdown_timeout => 1000}"
    )

    with serving(
        node, "overload.apps.busy:app", options, name="slow", app_dir=TESTS_DIR
    ) as url:
        server = Server(node, "slow", url)
        asyncio.run(_measure(url, 1.0))
        before = asyncio.run(_measure(url, seconds))
        sizes = _memory(server)

        with closing(SlowClients(url, bodies=each, readers=each)) as clients:
            arrival = _measure_arrival(server, clients, 2 * each)
            beside = asyncio.run(_measure(url, seconds))
            grown = _memory(server)
            cut = clients.finish()

    return Report(
        before=before,
        arrival=arrival,
        beside=beside,
        node_growth_bytes=grown[0] - sizes[0],
        workers_growth_bytes=grown[1] - sizes[1],
        cut=cut,
    )


async def _measure(url: str, seconds: float) -> Result:
    load = Load(functools.partial(connect, url), WORK_MS)

    try:
        return await load.open(PER_SECOND, seconds)
    finally:
        load.close()


def _measure_arrival(server: Server, clients: SlowClients, count: int) -> Result:
    """Ordinary traffic until all of so many clients are there and are slow.

    Raises:
        TimeoutError: they are not.
    """
    result = Result()
    deadline = time.monotonic() + ARRIVAL_SECONDS
    is_ready = is_there = False

    while not is_there:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{server.in_flight()} of {count}, ready: {is_ready}")

        earlier_bytes = _input_bytes(server.node)
        result.add(asyncio.run(_measure(server.url, LOOK_SECONDS)))
        is_ready = is_ready or clients.is_ready(0)
        is_quiet = _input_bytes(server.node) - earlier_bytes < QUIET_BYTES
        is_there = is_ready and is_quiet and server.in_flight() == count

    return result


def _input_bytes(node: Node) -> int:
    """What has come into the node, from clients and workers."""
    return int(node.eval("element(2, element(1, erlang:statistics(io)))"))


def _memory(server: Server) -> tuple[int, int]:
    return (
        resident_bytes(server.node.os_pid),
        sum(resident_bytes(pid) for pid in server.worker_pids()),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--each", type=int, default=2000)
    args = parser.parse_args()
    # The node inherits it.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    with Node() as node:
        report = run(node, args.each, args.seconds)

    sys.stdout.write(f"{report}\n")
    report.check(args.each, slack_ms=20)


if __name__ == "__main__":
    main()
