# SPDX-License-Identifier: Apache-2.0
"""HTTP/2: what one client can cost. Each limit holds, and other connections go on."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import hpack
import hyperframe.frame as frames
import pytest

from e2e.http2 import PREFACE, Client, Frames
from e2e.observe import Server, resident_bytes, serving
from e2e.raw import wait_until
from node import Node

CALM = "connection ENHANCE_YOUR_CALM"
MEBIBYTE = 1 << 20
MAX_STREAMS = 100
MAX_FRAMES = 200_000
# Of 9 bytes: more than two request lines and heads of HTTP/1.1 and 64 KiB.
FRAMES_OF_A_HEAD = 20_000
MAX_RESETS = 200
MAX_CANCELS = 500
MAX_BLOCK_BYTES = 24574


@pytest.fixture(scope="module")
def server(node: Node) -> Iterator[Server]:
    # The bystander is idle for as long as a flood lasts.
    options = "#{shutdown_timeout => 500, keepalive => 600000}"

    with serving(node, "http2", options) as running:
        yield running


@pytest.fixture(autouse=True)
def bystander(server: Server) -> Iterator[None]:
    """A connection that lives through each of the tests."""
    with Client(server.url) as client:
        assert client.get("/hello").text == "hello"
        yield
        assert client.get("/hello").text == "hello"
        assert client.goaways == []


@pytest.fixture
def frames_to(server: Server) -> Iterator[Frames]:
    with Frames(server.url) as connection:
        yield connection


@contextmanager
def flooding(connection: Frames, data: bytes) -> Iterator[None]:
    """Write in another thread: the answers have to be read meanwhile."""

    def flood() -> None:
        try:
            connection.socket.sendall(data)
        except OSError:
            # That is what the flood is for.
            pass

    thread = threading.Thread(target=flood)
    thread.start()

    try:
        yield
    finally:
        connection.socket.close()
        thread.join()


def end_of(connection: Frames) -> str:
    """How the server ends the connection, whatever it answers before."""
    while (outcome := connection.outcome()) != "closed":
        if outcome.startswith("connection"):
            return outcome

    return outcome


# Floods.


def headers_then_reset(connection: Frames, count: int) -> Iterator[bytes]:
    for stream_id in range(1, 2 * count, 2):
        yield connection.get(stream_id).serialize()
        yield frames.RstStreamFrame(stream_id, error_code=8).serialize()


def test_rapid_reset(frames_to: Frames) -> None:
    """CVE-2023-44487: requests that are cancelled as they are made."""
    data = b"".join(headers_then_reset(frames_to, 4 * MAX_CANCELS))

    with flooding(frames_to, data):
        assert end_of(frames_to) == CALM


def test_some_cancels_are_fine(server: Server) -> None:
    """A client that changes its mind now and then."""
    with Client(server.url) as client:
        for _ in range(MAX_CANCELS // 5):
            client.reset(client.request("/hello"))

        assert client.get("/hello").text == "hello"


def test_resets_that_the_client_provokes(frames_to: Frames) -> None:
    """CVE-2019-9514: each stream is malformed, and to be reset."""
    data = b"".join(
        frames_to.get(stream_id, (b"connection", b"x")).serialize()
        for stream_id in range(1, 4 * MAX_RESETS, 2)
    )

    with flooding(frames_to, data):
        assert end_of(frames_to) == CALM


FLOODS: dict[str, Callable[[Frames], bytes]] = {
    # CVE-2019-9512.
    "ping": lambda _: frames.PingFrame(0, b"12345678").serialize(),
    # CVE-2019-9515.
    "settings": lambda _: frames.SettingsFrame(0).serialize(),
    "settings ack": lambda _: frames.SettingsFrame(0, flags=["ACK"]).serialize(),
    # CVE-2019-9518.
    "empty data": lambda _: frames.DataFrame(1).serialize(),
    "priority": lambda _: frames.PriorityFrame(1, depends_on=3).serialize(),
    "window update": lambda _: frames.WindowUpdateFrame(
        0, window_increment=1
    ).serialize(),
    "unknown": lambda _: b"\0\0\0\xee\0\0\0\0\0",
}


@pytest.mark.parametrize("flood", FLOODS)
def test_flood_of_frames(frames_to: Frames, flood: str) -> None:
    begins = frames.HeadersFrame(1, frames_to.block(), flags=["END_HEADERS"])
    data = FLOODS[flood](frames_to) * (MAX_FRAMES + 1)

    with flooding(frames_to, begins.serialize() + data):
        assert end_of(frames_to) == CALM


def test_flood_whose_answers_are_not_read(node: Node, server: Server) -> None:
    """They pile up nowhere."""
    before = int(node.eval("erlang:memory(total)"))
    flood = frames.PingFrame(0, b"12345678").serialize() * MAX_FRAMES

    with Frames(server.url) as connection:
        connection.send(flood)
        assert int(node.eval("erlang:memory(total)")) - before < 8 * MEBIBYTE


# Headers.


def literal(name: bytes, value: bytes) -> bytes:
    """A header that is not to be indexed, with short names and values."""
    return b"\0" + bytes((len(name),)) + name + bytes((len(value),)) + value


def in_frames(connection: Frames, block: bytes, size: int) -> Iterator[frames.Frame]:
    """A header block in a HEADERS frame and as many CONTINUATION frames as it needs."""
    parts = [block[at : at + size] for at in range(0, len(block), size)]
    yield frames.HeadersFrame(1, parts[0], flags=["END_STREAM"])

    for part in parts[1:-1]:
        yield frames.ContinuationFrame(1, part)

    yield frames.ContinuationFrame(1, parts[-1], flags=["END_HEADERS"])


def test_headers_in_many_frames(frames_to: Frames) -> None:
    """Allowed, as long as it is not too much."""
    block = frames_to.block() + literal(b"x", b"y" * 100) * 50
    frames_to.send(*in_frames(frames_to, block, 10))
    assert frames_to.outcome() == "200"


def test_header_block_at_its_largest(frames_to: Frames) -> None:
    """What is too large for `max_header_size` alone is answered."""
    block = frames_to.block() + literal(b"x", b"y" * 100) * 230
    assert 16384 < len(block) <= MAX_BLOCK_BYTES
    frames_to.send(*in_frames(frames_to, block, 16384))
    assert frames_to.outcome() == "431"
    frames_to.send(frames_to.get(3))
    assert frames_to.outcome() == "200"


def test_continuation_flood(frames_to: Frames) -> None:
    """A head that does not end: its size is limited over all frames."""
    frames_to.send(frames.HeadersFrame(1, frames_to.block()))
    part = frames.ContinuationFrame(1, literal(b"x", b"y" * 100) * 100).serialize()

    with flooding(frames_to, part * 100):
        assert end_of(frames_to) == CALM


def test_empty_continuation_flood(frames_to: Frames) -> None:
    """And so is their number."""
    frames_to.send(frames.HeadersFrame(1, frames_to.block()))
    data = frames.ContinuationFrame(1).serialize() * (MAX_FRAMES + 1)

    with flooding(frames_to, data):
        assert end_of(frames_to) == CALM


def test_more_frames_than_a_head_of_http1(node: Node, frames_to: Frames) -> None:
    """Before its first head is there, nobody knows that a connection speaks HTTP/2."""
    head = frames.HeadersFrame(1, frames_to.block(), flags=["END_STREAM"])
    empty = frames.ContinuationFrame(1).serialize() * FRAMES_OF_A_HEAD
    frames_to.send(head)
    assert protocol_of(node, frames_to) == "http1"
    frames_to.send(empty)
    # It is looked after once in a second.
    wait_until(lambda: protocol_of(node, frames_to) != "http1", "it is known")
    frames_to.send(frames.ContinuationFrame(1, flags=["END_HEADERS"]))
    assert frames_to.outcome() == "200"


def protocol_of(node: Node, connection: Frames) -> str:
    """What the connection is taken to speak by who looks after it."""
    _, port = connection.socket.getsockname()
    return node.eval(
        "hd([hornbeam_connection:protocol(Activity) || Pid <- processes(),"
        " {dictionary, Words} <- [process_info(Pid, dictionary)],"
        " lists:member({'$initial_call', {hornbeam_reaper, init, 1}}, Words),"
        " {_, Socket, _, Activity, _} <- ets:tab2list(element(2, sys:get_state(Pid))),"
        f" {{ok, {{_, {port}}}}} <- [inet:peername(Socket)]] ++ [gone])"
    )


def test_head_that_never_ends(node: Node) -> None:
    """A frame now and then: idle all the same."""
    with (
        serving(node, "http2", "#{header_timeout => 500}") as server,
        Frames(server.url) as connection,
    ):
        connection.send(frames.HeadersFrame(1, connection.block()))
        assert end_of(connection) == "connection NO_ERROR"


def test_too_many_headers(frames_to: Frames) -> None:
    """`max_headers`, which Cowboy does not count here. The host is one of them."""
    few = [(b"x-%d" % number, b"") for number in range(99)]
    many = [*few, (b"x-99", b""), (b"x-100", b"")]
    frames_to.send(frames_to.get(1, *few))
    assert frames_to.outcome() == "200"
    frames_to.send(frames_to.get(3, *many))
    assert frames_to.outcome() == "431"


def test_too_large_headers(frames_to: Frames) -> None:
    frames_to.send(frames_to.get(1, (b"x", b"y" * 16000)))
    assert frames_to.outcome() == "200"


def test_small_bomb(frames_to: Frames) -> None:
    """Few bytes that stand for many: counted as what they stand for."""
    large = (b"x", b"y" * 3000)
    frames_to.send(frames_to.get(1, *([large] * 20)))
    assert frames_to.outcome() == "431"
    frames_to.send(frames_to.get(3))
    assert frames_to.outcome() == "200"


def test_bomb(node: Node, frames_to: Frames) -> None:
    """16 KB that stand for 60 MB: the connection ends, and the memory is free."""
    before = resident_bytes(node.os_pid)
    encoder = hpack.Encoder()
    encoder.encode([(b"x", b"y" * 4000)])
    start = frames_to.block() + encoder_literal(b"x", b"y" * 4000)
    # 62: the newest entry of the table.
    block = start + bytes((0x80 | 62,)) * (16384 - len(start))
    frames_to.send(frames.HeadersFrame(1, block, flags=["END_STREAM", "END_HEADERS"]))
    assert frames_to.outcome() in (CALM, "closed")
    wait_until(
        lambda: int(node.eval("erlang:memory(binary)")) < 32 * MEBIBYTE,
        "the memory is free",
    )
    assert resident_bytes(node.os_pid) - before < 300 * MEBIBYTE


def encoder_literal(name: bytes, value: bytes) -> bytes:
    """With incremental indexing: it goes into the table."""
    length = len(value) - 127
    size = b"\x7f" + bytes((length & 127 | 128, length >> 7))
    return b"\x40" + bytes((len(name),)) + name + size + value


@pytest.mark.parametrize("name", ["", "x"])
def test_headers_of_no_length(frames_to: Frames, name: str) -> None:
    """CVE-2019-9516: an empty name is malformed, an empty value is not."""
    frames_to.send(frames_to.get(1, (name.encode(), b"")))
    assert frames_to.outcome() == ("200" if name else "stream PROTOCOL_ERROR")


def test_number_without_an_end(frames_to: Frames) -> None:
    """An integer of 16 KB in a header block."""
    block = b"\xff" + b"\xff" * 16000
    frames_to.send(frames.HeadersFrame(1, block, flags=["END_STREAM", "END_HEADERS"]))
    assert frames_to.outcome() == "connection COMPRESSION_ERROR"


def test_table_beyond_its_size(frames_to: Frames) -> None:
    """The client's table can't be made larger than was offered."""
    block = b"\x3f\xe1\xff\x03" + frames_to.block()
    frames_to.send(frames.HeadersFrame(1, block, flags=["END_STREAM", "END_HEADERS"]))
    assert frames_to.outcome() == "connection COMPRESSION_ERROR"


def test_long_target(frames_to: Frames) -> None:
    """`max_request_line_size`."""
    block = frames_to.block((b":path", b"/hello?" + b"x" * 8190), without=b":path")
    frames_to.send(frames.HeadersFrame(1, block, flags=["END_STREAM", "END_HEADERS"]))
    assert frames_to.outcome() == "414"


# Streams and time.


def test_too_many_streams(server: Server) -> None:
    """One more is refused, and may be tried again; one that is over makes room."""
    name = uuid.uuid4().hex

    with Client(server.url) as client:
        ids = [client.request(f"/after/{name}") for _ in range(MAX_STREAMS)]
        settings = client.h2.remote_settings
        client.pump(lambda: settings.max_concurrent_streams == MAX_STREAMS, "settings")
        # What a client would not do.
        settings.update({3: 1000})
        settings.acknowledge()
        one_more = client.finish(client.request("/hello"))
        assert one_more.reset == "REFUSED_STREAM"

        with Client(server.url) as other:
            assert other.get(f"/opener/{name}").status == 200

        assert {client.finish(each).status for each in ids} == {200}
        assert client.get("/hello").text == "hello"


def test_too_many_streams_before_settings(server: Server) -> None:
    """A client that acknowledges nothing is not bound by them, yet has no more."""
    name = uuid.uuid4().hex

    with Frames(server.url, greets=False) as connection:
        connection.send(PREFACE, frames.SettingsFrame(0))
        path = (b":path", b"/after/" + name.encode())

        for stream_id in range(1, 2 * MAX_STREAMS + 3, 2):
            block = connection.block(path, without=b":path")
            flags = ["END_STREAM", "END_HEADERS"]
            connection.send(frames.HeadersFrame(stream_id, block, flags=flags))

        assert connection.outcome() == "503"

        with Client(server.url) as other:
            assert other.get(f"/opener/{name}").status == 200

        assert [connection.outcome() for _ in range(MAX_STREAMS)] == ["200"] * 100


def test_settings_that_nobody_acknowledges(node: Node) -> None:
    with (
        serving(node, "http2", "#{header_timeout => 300}") as server,
        Frames(server.url, greets=False) as connection,
    ):
        connection.send(PREFACE, frames.SettingsFrame(0), connection.get(1))
        assert connection.outcome() == "200"
        assert end_of(connection) == "connection SETTINGS_TIMEOUT"


@pytest.mark.parametrize("begun", [PREFACE[:10], PREFACE])
def test_preface_that_does_not_end(node: Node, begun: bytes) -> None:
    with (
        serving(node, "http2", "#{header_timeout => 300}") as server,
        Frames(server.url, greets=False) as connection,
    ):
        connection.send(begun)
        assert b"200" not in connection.socket.recv(1000)
        assert end_of(connection) == "closed"


# Windows.


@pytest.mark.parametrize(
    ("stream_id", "outcome"),
    [(0, "connection FLOW_CONTROL_ERROR"), (1, "stream FLOW_CONTROL_ERROR")],
)
def test_window_of_the_client_overflows(
    frames_to: Frames, stream_id: int, outcome: str
) -> None:
    path = (b":path", b"/upload/" + uuid.uuid4().hex.encode())
    block = frames_to.block(path, without=b":path")
    frames_to.send(
        frames.HeadersFrame(1, block, flags=["END_HEADERS"]),
        frames.WindowUpdateFrame(stream_id, window_increment=2**31 - 1),
    )
    assert frames_to.outcome() == outcome


def test_client_that_exceeds_its_window(server: Server) -> None:
    """Only its stream ends."""
    name = uuid.uuid4().hex

    with Frames(server.url) as connection:
        path = (b":path", b"/upload/" + name.encode())
        block = connection.block(path, without=b":path")
        connection.send(frames.HeadersFrame(1, block, flags=["END_HEADERS"]))
        connection.send(*[frames.DataFrame(1, b"x" * 16384)] * 5)
        assert connection.outcome() == "stream FLOW_CONTROL_ERROR"
        connection.send(connection.get(3))
        assert connection.outcome() == "200"

        with Client(server.url) as other:
            other.get(f"/opener/{name}")
