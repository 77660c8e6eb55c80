# SPDX-License-Identifier: Apache-2.0
"""More clients than the node may have files."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator

import pytest

from e2e.observe import Server
from e2e.raw import Connection, settled, wait_until
from e2e.support import serving
from node import Node
from overload.soak_overload import TESTS_DIR

FILES = 256
CLIENTS = 300


@pytest.fixture
def node() -> Iterator[Node]:
    """One that inherits a low limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, hard))

    try:
        started = Node()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    with started:
        yield started


def test_connections_leave_some(node: Node) -> None:
    """A worker that dies is replaced, and nobody is lost who waits to be accepted."""
    options = "#{keepalive => 60000, header_timeout => 60000}"

    with serving(
        node, "overload.apps.busy:app", options, name="files", app_dir=TESTS_DIR
    ) as url:
        server = Server(node, "files", url)
        clients = [Connection(url) for _ in range(CLIENTS)]

        try:
            open_at_once = settled(server.connections)
            assert FILES * 3 // 4 < open_at_once < FILES
            (worker,) = server.worker_pids()
            os.kill(worker, signal.SIGKILL)
            wait_until(
                lambda: (
                    server.worker_pids() not in ([], [worker])
                    and server.worker_facts("state") == ["ready"]
                ),
                "another one is there",
            )
            assert clients[0].get("/work/1").text == "1"

            for client in clients[: CLIENTS // 2]:
                client.close()

            assert clients[-1].get("/work/2").text == "2"
        finally:
            for client in clients:
                client.close()

        assert "out of file descriptors" not in node.logged()
