# SPDX-License-Identifier: Apache-2.0
"""What there is of everything that could leak, in a node and in its workers."""

from __future__ import annotations

import json
import os
from ast import literal_eval

from e2e.observe import Server, resident_bytes
from e2e.raw import Connection, settled, wait_until

QUIET_SECONDS = 60.0

_ROWS = "lists:sum([N || T <- ets:all(), N <- [ets:info(T, size)], is_integer(N)])"

# Without what the logger notes of a module when that logs for the first time.
_TERMS = """
    length([K || {K, _} <- persistent_term:get(),
                 not is_tuple(K) orelse element(1, K) =/= logger_config])
"""

_NODE = f"""
    [erlang:garbage_collect(P) || P <- processes()],
    [length(processes()), length(erlang:ports()), length(ets:all()), {_ROWS},
     {_TERMS}, erlang:system_info(atom_count),
     erlang:memory(binary), erlang:memory(ets), erlang:memory(total)]
"""

_NODE_KEYS = (
    "processes",
    "ports",
    "tables",
    "rows",
    "persistent terms",
    "atoms",
    "binary bytes",
    "ets bytes",
    "erlang bytes",
)

MAX_GROWTH = {
    # Modules and caches that are loaded late, and the logger's texts.
    "atoms": 1000,
    "binary bytes": 2 << 20,
    "ets bytes": 1 << 20,
    "erlang bytes": 8 << 20,
    # Allocators give little back.
    "node resident bytes": 64 << 20,
    "worker resident bytes": 16 << 20,
    "worker objects": 500,
    "worker blocks": 5000,
}
"""What is not listed must not grow at all."""


def take(server: Server) -> dict[str, int]:
    """Wait until the server is quiet, and count."""
    wait_until_quiet(server)
    workers = server.worker_pids()
    alive = _alive(server)
    # The sweep of the node, once a second, forgets the connections.
    settled(lambda: int(server.node.eval(_ROWS)), seconds=1.2)
    # As above.
    server.node.eval(_NODE)
    values = literal_eval(server.node.eval(_NODE))
    counts: dict[str, int] = dict(zip(_NODE_KEYS, values, strict=True))
    counts["node files"] = _files(server.node.os_pid)
    counts["node resident bytes"] = resident_bytes(server.node.os_pid)
    counts["workers"] = len(workers)
    counts["worker files"] = sum(map(_files, workers))
    counts["worker resident bytes"] = sum(map(resident_bytes, workers))
    counts |= {f"worker {what}": count for what, count in alive.items()}
    return counts


def wait_until_quiet(server: Server) -> None:
    """Until nothing is under way, and all workers are there."""
    wait_until(
        lambda: server.in_flight() == server.queue() == server.connections() == 0,
        "all requests are over and all connections closed",
        seconds=QUIET_SECONDS,
    )
    wait_until(
        lambda: set(server.worker_facts("state")) == {"ready"},
        "all workers are ready",
        seconds=QUIET_SECONDS,
    )


def growth(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {what: after[what] - before[what] for what in after}


def check(before: dict[str, int], after: dict[str, int]) -> None:
    """Check that all is back where it was."""
    grown = growth(before, after)
    leaks = {
        what: count for what, count in grown.items() if count > MAX_GROWTH.get(what, 0)
    }
    assert not leaks, f"{leaks} of {before} -> {after}"


def _alive(server: Server) -> dict[str, int]:
    """Counts of each worker, added up; of as many as can be told apart."""
    found: dict[int, dict[str, int]] = {}
    workers = set(server.worker_pids())

    # The second time: what asking makes is there already.
    for _ in range(2):
        found.clear()

        while set(found) != workers:
            with Connection(server.url) as client:
                counts = json.loads(client.get("/alive").body)
                found[counts.pop("pid")] = counts

    wait_until(lambda: server.connections() == 0, "the questions are over")
    return {
        what: sum(counts[what] for counts in found.values())
        for what in next(iter(found.values()))
    }


def _files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))
