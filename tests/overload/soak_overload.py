# SPDX-License-Identifier: Apache-2.0
"""Ten times what a server can do, for a while; every answer is checked.

    PYTHONPATH=tests .venv/bin/python -m overload.soak_overload --seconds 60

First the capacity is measured, by as many clients as can be served and wait. Then ten
times as many requests come, whatever becomes of the earlier ones. What is served is to
stay what it was, the rest is told so at once, memory is flat, nothing that was refused
has reached the application, and the first requests afterwards are served as ever.
`test_overload.py` has the short version.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import os
import resource
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from e2e.observe import Server, resident_bytes
from e2e.support import serving
from node import Node
from overload.client import Client, Load, Result, connect, percentile
from overload.http2_client import connect_http2

TESTS_DIR = Path(__file__).resolve().parent.parent

WORKERS = 2
PLACES = 4
"""In each worker."""

WORK_MS = 100
MAX_QUEUE = 20
FACTOR = 10
HTTP2_CONNECTIONS = 4

OPTIONS = (
    f"#{{workers => {WORKERS}, threads => {PLACES}, max_concurrency => {PLACES},"
    f" max_queue => {MAX_QUEUE}, queue_timeout => 20000, keepalive => 120000}}"
)

KINDS: dict[str, tuple[str, Callable[[str], Awaitable[Client]]]] = {
    "http1": ("app", connect),
    "http2": ("app", connect_http2),
    "wsgi": ("wsgi", connect),
}


@dataclass
class Report:
    """What a run has seen."""

    capacity: Result
    overload: Result
    after: Result
    served_by_workers: int
    served_to_clients: int
    queue_after: int
    in_flight_after: int
    growth_bytes: dict[str, int] = field(default_factory=dict)
    node_cpu_seconds: float = 0.0

    def __str__(self) -> str:
        cost_us = self.node_cpu_seconds / self.overload.offered * 1e6
        return (
            f"capacity: {self.capacity}\noverload: {self.overload}; "
            f"the node took {cost_us:.0f} µs of CPU for each\n"
            f"after: {self.after}\ngrowth: {self.growth_bytes}"
        )

    def check(self, *, share: float, slack_ms: float, growth_bytes: int) -> None:
        """Check what must hold.

        Args:
            share: of the capacity that is to be served under overload, at least.
            slack_ms: what answers may take besides, for the machine's other work.
            growth_bytes: what each process may grow by.
        """
        assert self.capacity.refused == self.after.refused == 0
        assert self.overload.refused > self.overload.offered / 2
        served = self.overload.served_per_second
        assert served > share * self.capacity.served_per_second
        assert percentile(self.overload.refused_ms, 50) < WORK_MS + slack_ms
        as_ever_ms = 2 * percentile(self.capacity.served_ms, 50)
        assert percentile(self.after.served_ms, 50) < as_ever_ms + slack_ms
        assert self.queue_after == self.in_flight_after == 0
        assert self.served_by_workers == self.served_to_clients
        assert all(each < growth_bytes for each in self.growth_bytes.values())


async def overload(server: Server, load: Load, seconds: float) -> Report:
    """Measure the capacity, exceed it, and see what is left of that."""
    loop = asyncio.get_running_loop()
    places = WORKERS * PLACES
    warm_up = await load.closed(places, 0.3)
    capacity = await load.closed(places + MAX_QUEUE // 2, min(10.0, seconds / 2))
    per_second = FACTOR * capacity.served_per_second
    # What a load needs for the first time is no growth.
    first = await load.open(per_second, min(10.0, seconds / 3))
    before, cpu_before = _memory(server), cpu_seconds(server.node.os_pid)
    over = await load.open(per_second, seconds)
    cpu = cpu_seconds(server.node.os_pid) - cpu_before
    after = await load.closed(2, 0.5)
    memory = await loop.run_in_executor(None, _memory, server)
    results = (warm_up, capacity, first, over, after)
    return Report(
        capacity=capacity,
        overload=over,
        after=after,
        served_by_workers=sum(map(int, server.worker_facts("served"))),
        served_to_clients=sum(result.served for result in results),
        queue_after=server.queue(),
        in_flight_after=server.in_flight(),
        growth_bytes={what: memory[what] - before[what] for what in memory},
        node_cpu_seconds=cpu,
    )


def run(node: Node, kind: str, seconds: float) -> Report:
    """The whole of it for one kind of server."""
    attribute, connect_to = KINDS[kind]
    name = f"overload_{kind}"

    with serving(
        node, f"overload.apps.busy:{attribute}", OPTIONS, name=name, app_dir=TESTS_DIR
    ) as url:
        return asyncio.run(_run(Server(node, name, url), kind, connect_to, seconds))


async def _run(
    server: Server,
    kind: str,
    connect_to: Callable[[str], Awaitable[Client]],
    seconds: float,
) -> Report:
    load = Load(functools.partial(connect_to, server.url), WORK_MS)

    if kind == "http2":
        await load.connect(HTTP2_CONNECTIONS)

    try:
        return await overload(server, load, seconds)
    finally:
        load.close()


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has taken so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory(server: Server) -> dict[str, int]:
    node = server.node
    node.eval("[erlang:garbage_collect(P) || P <- processes()], ok")
    sizes = {
        "node": resident_bytes(node.os_pid),
        "erlang": int(node.eval("erlang:memory(total)")),
    }
    sizes.update(
        (f"worker {number}", resident_bytes(pid))
        for number, pid in enumerate(server.worker_pids())
    )
    return sizes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--kind", choices=[*KINDS], action="append")
    args = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    for kind in args.kind or KINDS:
        with Node() as node:
            report = run(node, kind, args.seconds)

        sys.stdout.write(f"{kind}\n{report}\n")
        report.check(share=0.9, slack_ms=0, growth_bytes=16 << 20)


if __name__ == "__main__":
    main()
