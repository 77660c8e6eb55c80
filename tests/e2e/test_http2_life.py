# SPDX-License-Identifier: Apache-2.0
"""HTTP/2 connections: how they begin, where they may not, how they end."""

from __future__ import annotations

import select
import threading
import time
import uuid
from collections.abc import Iterator

import hyperframe.frame as frames
import pytest

from e2e.http2 import PREFACE, Client, Frames
from e2e.observe import Server, serving
from e2e.raw import Connection, Cut, request, wait_until
from node import Node

BOTH = "['HTTP/1.1', 'HTTP/2']"
UPGRADE = (
    ("Connection", "Upgrade, HTTP2-Settings"),
    ("Upgrade", "h2c"),
    ("HTTP2-Settings", "AAMAAABkAAQCAAAAAAIAAAAA"),
)
QUICK_SECONDS = 3.0


@pytest.fixture(scope="module")
def server(node: Node) -> Iterator[Server]:
    with serving(node, "http2", "#{shutdown_timeout => 500}") as running:
        yield running


@pytest.fixture(scope="module")
def http1_only(node: Node) -> Iterator[Server]:
    options = "#{http_version => ['HTTP/1.1'], header_timeout => 1000}"
    with serving(node, "http2", options) as running:
        yield running


@pytest.fixture(scope="module")
def http2_only(node: Node) -> Iterator[Server]:
    with serving(node, "http2", "#{http_version => ['HTTP/2']}") as running:
        yield running


@pytest.fixture
def name() -> str:
    return uuid.uuid4().hex


def ask(server: Server, target: str) -> str:
    with Client(server.url) as client:
        answer = client.get(target)

    assert answer.status == 200, answer
    return answer.text


# The upgrade from HTTP/1.1.


def upgraded(server: Server, target: str, *, before: bytes = b"") -> Frames:
    """A connection that has changed with a request of HTTP/1.1, behind others."""
    connection = Frames(server.url, greets=False)
    connection.send(before + request(target=target, headers=UPGRADE))
    answer = b""

    while b"HTTP/1.1 101 " not in answer or not answer.endswith(b"\r\n\r\n"):
        answer += connection.socket.recv(1)

    earlier, _, _ = answer.partition(b"HTTP/1.1 101 ")
    assert earlier.count(b"HTTP/1.1 200 ") == before.count(b"HTTP/1.1\r\n")
    # RFC 7540 3.5: the server's settings are the first frame.
    assert isinstance(connection.read_frame(), frames.SettingsFrame)
    connection.send(PREFACE, frames.SettingsFrame(0))
    connection.send(frames.SettingsFrame(0, flags=["ACK"]))
    return connection


def test_upgrade(server: Server) -> None:
    """Its request is answered as stream 1, others follow."""
    with upgraded(server, "/hello") as connection:
        assert connection.status_of(1) == "200"
        connection.send(connection.get(3))
        assert connection.status_of(3) == "200"


def test_upgrade_that_waits(node: Node, name: str) -> None:
    """In the queue, and then refused: as a frame behind the settings."""
    options = "#{max_concurrency => 1, max_queue => 0, shutdown_timeout => 300}"

    with serving(node, "http2", options) as server, Client(server.url) as busy:
        held = busy.request(f"/part/{name}")
        busy.pump(lambda: bool(busy.streams[held].body), "the worker is busy")

        with upgraded(server, "/hello") as connection:
            assert connection.status_of(1) == "503"

        busy.reset(held)


@pytest.fixture(autouse=True, scope="module")
def quiet(node: Node) -> Iterator[None]:
    """None of all this is a fault of the server's."""
    before = len(node.logged())
    yield
    assert "ERROR REPORT" not in node.logged()[before:]


@pytest.mark.parametrize("target", ["/hello\x01", "/" + "x" * 8200])
def test_upgrade_of_what_is_refused(server: Server, target: str) -> None:
    """It gets its answer in HTTP/1.1."""
    with Connection(server.url) as connection:
        connection.send(
            request(target="/x", headers=UPGRADE).replace(b"/x", target.encode())
        )
        answer = connection.read_response()
        assert answer.status in (400, 414)
        connection.read_eof()


def test_upgrade_with_a_body(server: Server) -> None:
    """Nothing of it is taken for frames."""
    with Connection(server.url) as connection:
        headers = [*UPGRADE, ("Content-Length", "24")]
        connection.send(request("POST", "/echo", headers, PREFACE))
        assert connection.read_response("POST").status == 400
        connection.read_eof()


def test_upgrade_behind_usual_requests(server: Server) -> None:
    """It waits until they have their responses."""
    with upgraded(server, "/hello", before=2 * request(target="/hello")) as connection:
        assert connection.status_of(1) == "200"


def test_upgrade_behind_another_request(server: Server, name: str) -> None:
    """A response that is due would get lost: the connection ends.

    TE makes the first one Cowboy's, which reads what comes behind it.
    """
    with Connection(server.url) as connection:
        first = request(target=f"/after/{name}", headers=[("TE", "trailers")])
        connection.send(first)
        connection.send(request(target="/hello", headers=UPGRADE))

        # Closed, or reset as not all was read.
        try:
            assert connection.receive() == b""
        except Cut as exc:
            assert exc.received == b""


@pytest.mark.parametrize("settings", ["!", "AAMAAABkAAQAAP__"])
def test_upgrade_with_settings_that_cowboy_does_not_read(
    server: Server, settings: str
) -> None:
    """It takes the usual alphabet of base64 for that of URLs: `nghttp -u` gets 400."""
    headers = [*UPGRADE[:2], ("HTTP2-Settings", settings)]

    with Connection(server.url) as connection:
        connection.send(request(target="/hello", headers=headers))
        assert connection.read_response().status == 400


# The option http_version.


def test_http1_only_serves_http1(http1_only: Server) -> None:
    with Connection(http1_only.url) as connection:
        assert connection.get("/hello").text == "hello"
        assert connection.post("/echo", b"body").text == "body"


def test_http1_only_byte_by_byte(http1_only: Server) -> None:
    """Also a method that begins as the preface does."""
    with Connection(http1_only.url) as connection:
        connection.drip(request("PRIME", "/hello"))
        assert connection.read_response().text == "hello"


@pytest.mark.parametrize("by_byte", [False, True])
def test_http1_only_refuses_the_preface(http1_only: Server, by_byte: bool) -> None:
    with Connection(http1_only.url) as connection:
        if by_byte:
            connection.drip(PREFACE[:16])
        else:
            connection.send(PREFACE + frames.SettingsFrame(0).serialize())

        assert connection.read_response().status == 505


def test_http1_only_ignores_the_upgrade(http1_only: Server) -> None:
    """RFC 9110 7.8; the connection ends behind it."""
    with Connection(http1_only.url) as connection:
        answer = connection.get("/scope", *UPGRADE)
        assert answer.status == 200
        assert "'http_version': '1.1'" in answer.text
        assert answer.one("connection") == b"close"
        connection.read_eof()


def test_http1_only_streams_the_answer_to_an_upgrade(
    http1_only: Server, name: str
) -> None:
    with Connection(http1_only.url) as connection:
        answer = connection.get(f"/download/{name}?100000,1000", *UPGRADE)
        assert len(answer.body) == 100000


def test_http1_only_ends_who_says_nothing(http1_only: Server) -> None:
    """`header_timeout`, as for others."""
    with Connection(http1_only.url) as connection:
        connection.read_eof()


@pytest.mark.parametrize("begun", [b"P", b"PRI * HT"])
def test_http1_only_answers_half_a_head(http1_only: Server, begun: bytes) -> None:
    """Also where it could still become the preface: what has come is part of a head."""
    with Connection(http1_only.url) as connection:
        connection.send(begun)
        assert connection.read_response().status == 408
        connection.read_eof()


def test_http1_only_stops_at_once(node: Node) -> None:
    """Connections that have sent nothing do not hold the server."""
    with (
        serving(node, "http2", "#{http_version => ['HTTP/1.1']}") as server,
        Connection(server.url) as connection,
    ):
        wait_until(lambda: server.connections() == 1, "it is accepted")
        began = time.monotonic()
        node.stop_server(server.name)
        assert time.monotonic() - began < QUICK_SECONDS
        connection.read_eof()


def test_http2_only(http2_only: Server) -> None:
    with Client(http2_only.url) as client:
        assert client.get("/hello").text == "hello"


@pytest.mark.parametrize("headers", [(), UPGRADE])
def test_http2_only_refuses_http1(
    http2_only: Server, headers: tuple[tuple[str, str], ...]
) -> None:
    with Connection(http2_only.url) as connection:
        connection.send(request(target="/hello", headers=headers))
        assert connection.read_response().status == 505
        connection.read_eof()


# Idle connections.


def test_idle_connection_ends(node: Node) -> None:
    """With GOAWAY, after `keepalive`; pings are no requests."""
    with (
        serving(node, "http2", "#{keepalive => 300}") as server,
        Frames(server.url) as connection,
    ):
        began = time.monotonic()
        connection.send(connection.get(1))
        assert connection.status_of(1) == "200"
        pings = 0

        connection.send(frames.PingFrame(0, b"12345678"))

        while not isinstance(frame := connection.read_frame(), frames.GoAwayFrame):
            # Each answer is followed by another ping.
            if isinstance(frame, frames.PingFrame):
                pings += 1
                time.sleep(0.02)
                connection.send(frames.PingFrame(0, b"12345678"))

        # It is looked at once a second.
        assert 0.3 < time.monotonic() - began < QUICK_SECONDS + 2
        assert pings > 3
        assert (frame.last_stream_id, frame.error_code) == (2**31 - 1, 0)
        assert connection.status_of(3) in ("connection NO_ERROR", "closed")


def test_busy_connection_stays(node: Node, name: str) -> None:
    """A stream that runs, with nothing on the wire for longer than `keepalive`."""
    with (
        serving(node, "http2", "#{keepalive => 600}") as server,
        Client(server.url) as client,
    ):
        client.get("/hello")
        held = client.request(f"/part/{name}")
        stream = client.streams[held]
        client.pump(lambda: bool(stream.body), "it has begun")
        # Two sweeps, of one second each.
        client.read(2.2)
        ask(server, f"/opener/{name}")
        assert client.finish(held).text == "first last"


def test_connection_of_a_client_that_went_away(node: Node, name: str) -> None:
    """It said GOAWAY while a request ran, and never closes: idle all the same."""
    with (
        serving(node, "http2", "#{keepalive => 600}") as server,
        Frames(server.url) as connection,
    ):
        path = (b":path", b"/after/" + name.encode())
        block = connection.block(path, without=b":path")
        flags = ["END_HEADERS", "END_STREAM"]
        connection.send(frames.HeadersFrame(1, block, flags=flags))
        wait_until(lambda: server.in_flight() == 1, "it runs")
        connection.send(frames.GoAwayFrame(0))
        assert connection.outcome() == "connection NO_ERROR"
        ask(server, f"/opener/{name}")
        assert connection.outcome() == "200"
        assert connection.outcome() == "closed"


# The end of the server.


class Stopping:
    """A server that stops in another thread."""

    def __init__(self, server: Server) -> None:
        self._began = time.monotonic()
        self._thread = threading.Thread(
            target=server.node.stop_server, args=(server.name,)
        )
        self._thread.start()

    def took(self) -> float:
        self._thread.join()
        return time.monotonic() - self._began


def test_stop_of_idle_connections_is_quick(node: Node) -> None:
    with serving(node, "http2") as server, Client(server.url) as client:
        assert client.get("/hello").status == 200
        stopping = Stopping(server)
        client.await_close()
        assert stopping.took() < QUICK_SECONDS
        assert {code for _, code in client.goaways} == {"NO_ERROR"}


def test_stop_with_a_client_that_does_not_read_is_bounded(node: Node) -> None:
    """`shutdown_timeout` cuts it."""
    with (
        serving(node, "http2", "#{shutdown_timeout => 300}") as server,
        Client(server.url, gives_window=False) as client,
    ):
        stream_id = client.request("/download/x?1000000,1000")
        stream = client.streams[stream_id]
        client.pump(lambda: len(stream.body) == 65535, "the window is used up")
        assert Stopping(server).took() < QUICK_SECONDS


def test_running_streams_finish(node: Node) -> None:
    """They have until `shutdown_timeout`; what is new then is not taken."""
    with serving(node, "http2") as server, Frames(server.url) as connection:
        block = connection.block((b":path", b"/echo"), without=b":path")
        connection.send(frames.HeadersFrame(1, block, flags=["END_HEADERS"]))
        wait_until(lambda: server.in_flight() == 1, "it runs")
        stopping = Stopping(server)
        announced, last = next_goaway(connection), next_goaway(connection)
        assert (announced.last_stream_id, announced.error_code) == (2**31 - 1, 0)
        assert (last.last_stream_id, last.error_code) == (1, 0)
        connection.send(connection.get(3))
        # Longer than Cowboy would wait by itself.
        assert not select.select([connection.socket], [], [], 3.2)[0]
        connection.send(frames.DataFrame(1, b"body", flags=["END_STREAM"]))
        assert connection.status_of(1) == "200"
        # The end of the connection, too, without a word of the client.
        assert connection.status_of(3) == "closed"
        assert stopping.took() < 3.2 + QUICK_SECONDS


def next_goaway(connection: Frames) -> frames.GoAwayFrame:
    while not isinstance(frame := connection.read_frame(), frames.GoAwayFrame):
        assert frame is not None

    return frame
