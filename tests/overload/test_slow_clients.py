# SPDX-License-Identifier: Apache-2.0
"""Many clients that send or take a byte a second; `soak_slow.py` has thousands."""

from __future__ import annotations

import time

import pytest

from e2e.http2 import INITIAL_WINDOW, Client
from e2e.observe import Server
from e2e.raw import Connection, wait_until
from e2e.support import serving
from node import Node
from overload.soak_overload import TESTS_DIR
from overload.soak_slow import run, slow_clients

EACH = 200
SECONDS = 2.0
SLACK_MS = 500.0

CUTTING = (
    "#{workers => 2, header_timeout => 700, timeout => 1000, send_timeout => 1000,"
    " shutdown_timeout => 1000, keepalive => 500}"
)


def test_ordinary_traffic_beside_them(node: Node) -> None:
    report = run(node, EACH, SECONDS)
    print(report)  # noqa: T201
    report.check(EACH, SLACK_MS)


def test_they_are_cut(node: Node) -> None:
    """Each kind by its time limit; then nothing is left of them."""
    with serving(
        node, "overload.apps.busy:app", CUTTING, name="cutting", app_dir=TESTS_DIR
    ) as url:
        server = Server(node, "cutting", url)

        with slow_clients(url, heads=50, bodies=50, readers=50) as clients:
            wait_until(lambda: server.connections() == 0, "all are cut", seconds=20)
            # They notice when they send or take their next byte.
            deadline = time.monotonic() + 2.5
            wait_until(lambda: time.monotonic() > deadline, "a round of all of them")
            cut = clients.finish()

        wait_until(lambda: server.in_flight() == 0, "the application is told")

    assert cut == {"heads": {"408": 50}, "bodies": {"504": 50}, "readers": {}}


def test_streams_without_a_window_are_cut(node: Node) -> None:
    """All that HTTP/2 allows on a connection, and the connection is of use after it."""
    with serving(
        node, "overload.apps.busy:app", CUTTING, name="windows", app_dir=TESTS_DIR
    ) as url:
        server = Server(node, "windows", url)

        with Client(url, settings={INITIAL_WINDOW: 0}) as client:
            streams = [client.request("/trickle") for _ in range(100)]

            for stream_id in streams:
                assert client.finish(stream_id).reset == "INTERNAL_ERROR"

            wait_until(lambda: server.in_flight() == 0, "the application is told")
            stream_id = client.request("/order")
            client.give_window(100, stream_id)
            assert client.finish(stream_id).text == "[]"


@pytest.mark.parametrize("begun", [b"", b"\x82\xfe\xff\xff\0\0\0\0half of it"])
def test_websocket_that_falls_silent(node: Node, begun: bytes) -> None:
    """Also in the middle of a message."""
    options = "#{websocket_ping => 200, websocket_timeout => 600}"

    with serving(
        node, "overload.apps.busy:app", options, name="silent", app_dir=TESTS_DIR
    ) as url:
        server = Server(node, "silent", url)

        with Connection(url) as client:
            client.send(
                b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\n"
                b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n" + begun
            )
            wait_until(lambda: server.in_flight() == 1, "it is open")
            wait_until(
                lambda: server.connections() == server.in_flight() == 0, "it is cut"
            )
