# SPDX-License-Identifier: Apache-2.0
"""Workers that compute without awaiting: what the others, and the log, make of it."""

from __future__ import annotations

import inspect
import select
from contextlib import ExitStack
from pathlib import Path

from e2e.observe import Server
from e2e.raw import Connection, request, wait_until
from faults import app
from faults.blocked import run
from faults.kills import serving
from node import Node

HELD = 3
QUEUED = 5
BLOCK_MS = 5000


def loads(server: Server) -> list[int]:
    return list(map(int, server.worker_facts("in_flight")))


def test_what_has_not_begun_goes_elsewhere(node: Node, tmp_path: Path) -> None:
    """Unsafe requests as well, which nobody has begun; and the log names the line."""
    output_before = len(node.logged())

    with serving(node, tmp_path, "workers => 2") as server, ExitStack() as stack:

        def send(target: str) -> Connection:
            client = stack.enter_context(Connection(server.url))
            client.send(request("POST", target))
            return client

        # One has some that stay, so that all that follows goes to the other.
        held: dict[int, list[Connection]] = {0: [], 1: []}

        for number in range(2 * HELD):
            before = loads(server)
            client = send("/hold")
            wait_until(lambda: server.in_flight() > number, "it has come")  # noqa: B023
            held[0 if loads(server)[0] > before[0] else 1].append(client)

        free = min(held, key=lambda worker: len(held[worker]))

        for client in held[free]:
            client.close()

        wait_until(lambda: loads(server)[free] == 0, "one has nothing")
        blocking = send(f"/block/{BLOCK_MS}")
        queued = [send(f"/echo/{number}") for number in range(QUEUED)]

        for number, client in enumerate(queued):
            assert client.read_response("POST").body == b"POST %d" % number

        # Which of both workers blocks is chance where others have overtaken it.
        stay = len(held[1 - free]) + 1
        wait_until(lambda: sum(loads(server)) == stay, "the others are over")
        assert not select.select([blocking.socket], [], [], 0)[0], "it blocks still"
        assert blocking.read_response("POST").status == 200

    lines, first = inspect.getsourcelines(app._block)
    log = node.logged()[output_before:]
    assert "has been blocked for" in log
    places = [f"app.py:{first + number} in _block" for number in range(len(lines))]
    assert any(place in log for place in places)


def test_mixed_load(node: Node, tmp_path: Path) -> None:
    """One in a hundred requests computes for half a second: the others do not wait."""
    result = run(node, tmp_path, rate=60, seconds=5)
    assert result.failures(["GET", "POST"]) == {}, result.examples
    # Nearly all the time one of both is blocked: half would wait.
    assert result.quantile_ms(0.75) < 250
