# SPDX-License-Identifier: Apache-2.0
"""A real worker has told the garbage collector to let what is loaded alone."""

from __future__ import annotations

from ast import literal_eval

from e2e.observe import serving
from e2e.raw import Connection
from hornbeam._process import YOUNG_OBJECTS
from node import Node


def test_worker_settles_its_collector(node: Node) -> None:
    with serving(node, "aborts") as server, Connection(server.url) as client:
        said = literal_eval(client.get("/collector").body.decode())

    assert said["young"] == YOUNG_OBJECTS
    # asyncio alone makes that many containers.
    assert said["frozen"] > 1000
