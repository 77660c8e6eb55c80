# SPDX-License-Identifier: Apache-2.0
"""Many clients that send or take a byte a second; `soak_slow.py` has thousands."""

from __future__ import annotations

import os
import resource
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from e2e.http2 import INITIAL_WINDOW, Client
from e2e.observe import Server
from e2e.raw import Connection, wait_until
from e2e.support import make_client, serving
from node import Node
from overload.soak_overload import TESTS_DIR
from overload.soak_slow import run, slow_clients

EACH = 200
SECONDS = 2.0
SLACK_MS = 500.0

AT_ONCE = 2000
CONNECT_SECONDS = 10.0
SYSTEM_LIMIT = Path("/proc/sys/net/core/somaxconn")

CUTTING = (
    "#{workers => 2, header_timeout => 700, timeout => 1000, send_timeout => 1000,"
    " shutdown_timeout => 1000}"
)


@pytest.fixture
def descriptors() -> Iterator[None]:
    """Enough of them for this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.skipif(not SYSTEM_LIMIT.exists(), reason="needs Linux")
@pytest.mark.usefixtures("descriptors")
def test_thousands_connect_at_once(node: Node) -> None:
    """No connection has to be tried again because the node is not as fast."""
    count = min(AT_ONCE, int(SYSTEM_LIMIT.read_text()))

    with serving(
        node, "overload.apps.busy:app", name="burst", app_dir=TESTS_DIR
    ) as url:
        parts = urlsplit(url)
        assert parts.port is not None
        address = (parts.hostname, parts.port)

        with ExitStack() as sockets:
            os.kill(node.os_pid, signal.SIGSTOP)

            try:
                for _ in range(count):
                    connected = socket.create_connection(address, CONNECT_SECONDS)
                    sockets.enter_context(connected)
            finally:
                os.kill(node.os_pid, signal.SIGCONT)

        with make_client(url) as client:
            assert client.get("/work/1").text == "1"


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
            assert client.receive().startswith(b"HTTP/1.1 101 ")
            wait_until(
                lambda: server.connections() == server.in_flight() == 0, "it is cut"
            )
