# SPDX-License-Identifier: Apache-2.0
"""What is left of traffic with faults; `soak_leaks.py` looks for longer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from e2e.observe import Server
from e2e.raw import Connection, request, wait_until
from e2e.support import serving
from node import Node
from overload import census
from overload.soak_leaks import run
from overload.soak_overload import TESTS_DIR

SECONDS = 6.0
WARM_UP_SECONDS = 1.5


def test_nothing_is_left_of_mixed_traffic() -> None:
    """Aborts, reloads, kills, servers that come and go: all is as it was."""
    with Node() as node:
        counts = run(node, SECONDS, warm_up_seconds=WARM_UP_SECONDS)

    print(dict(counts))  # noqa: T201

    for what in ("asked", "asked http2", "aborted", "talked"):
        assert counts[what] > 20, counts

    for what in ("reloaded", "killed", "came and went"):
        assert counts[what] >= 1, counts


# The measure itself.


@pytest.fixture(scope="module")
def server(node: Node) -> Iterator[Server]:
    with serving(
        node, "overload.apps.busy:app", name="counted", app_dir=TESTS_DIR
    ) as url:
        yield Server(node, "counted", url)


LEAK = """
    spawn(fun() ->
        register(leak, self()),
        open_port({spawn, cat}, []),
        ets:insert(ets:new(leak, []), {1}),
        Binary = binary:copy(<<1>>, 4194304),
        persistent_term:put(leak, 1),
        receive stop -> byte_size(Binary) end,
        persistent_term:erase(leak)
    end), ok
"""


def test_leaks_of_the_node_are_seen(server: Server) -> None:
    before = census.take(server)
    server.node.eval(LEAK)
    wait_until(lambda: server.node.eval("whereis(leak)") != "undefined", "it is there")

    try:
        after = census.take(server)
    finally:
        server.node.eval("leak ! stop")

    with pytest.raises(AssertionError) as caught:
        census.check(before, after)

    for what in ("processes", "ports", "tables", "rows", "binary", "persistent"):
        assert what in str(caught.value).split(" of ")[0]


def test_request_that_stays_is_seen(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is counted before all is quiet."""
    monkeypatch.setattr(census, "QUIET_SECONDS", 0.3)

    with Connection(server.url) as client:
        client.send(request(target="/hold"))
        wait_until(lambda: server.in_flight() == 1, "it stays")

        with pytest.raises(TimeoutError, match="all requests are over"):
            census.take(server)
