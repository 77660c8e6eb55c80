# SPDX-License-Identifier: Apache-2.0
"""HTTP/2: malformed frames and requests, each with what RFC 9113 makes of it.

Never a hang (the client waits no longer than `HANG_SECONDS`), and another connection
is served all the while. Where Cowboy is stricter than the RFC, or differs without harm,
the row says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import hyperframe.frame as frames
import pytest

from e2e.http2 import PREFACE, Client, Frames
from e2e.observe import Server, serving
from node import Node

PROTOCOL = "connection PROTOCOL_ERROR"
SIZE = "connection FRAME_SIZE_ERROR"
CLOSED = "connection STREAM_CLOSED"
COMPRESSION = "connection COMPRESSION_ERROR"
FLOW = "connection FLOW_CONTROL_ERROR"
MALFORMED = "stream PROTOCOL_ERROR"

HANG_SECONDS = 3.0

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = range(5)
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(5, 10)

END_STREAM = 1
ACK = 1
END_HEADERS = 4
PADDED = 8
HAS_PRIORITY = 32


@pytest.fixture(scope="module")
def server(node: Node) -> Iterator[Server]:
    # The bystander may be idle for longer than by default.
    with serving(
        node, "http2", "#{keepalive => 60000, shutdown_timeout => 500}"
    ) as running:
        yield running


@pytest.fixture(scope="module")
def bystander(server: Server) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


@pytest.fixture
def connection(server: Server) -> Iterator[Frames]:
    with Frames(server.url) as connected:
        connected.socket.settimeout(HANG_SECONDS)
        yield connected


def raw(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """A frame of any kind with any payload."""
    head = len(payload).to_bytes(3, "big") + bytes((kind, flags))
    return head + stream_id.to_bytes(4, "big") + payload


def number(value: int, size: int = 4) -> bytes:
    return value.to_bytes(size, "big")


def setting(code: int, value: int) -> bytes:
    return raw(SETTINGS, 0, 0, number(code, 2) + number(value))


def opened(connection: Frames, *fields: tuple[bytes, bytes]) -> bytes:
    """A request on stream 1 whose body is to come, and that is not answered before."""
    block = connection.block((b":path", b"/echo"), *fields, without=b":path")
    return raw(HEADERS, END_HEADERS, 1, block)


def pending(connection: Frames, flags: int) -> bytes:
    """A request on stream 1 that is not answered at all."""
    block = connection.block((b":path", b"/after/never"), without=b":path")
    return raw(HEADERS, END_HEADERS | flags, 1, block)


def padded(connection: Frames, kind: int, padding: int) -> bytes:
    """A frame that says it is padded so much, and is not."""
    body = connection.block() if kind == HEADERS else b"x"
    flags = PADDED | (END_HEADERS if kind == HEADERS else 0)
    return raw(kind, flags, 1, bytes((padding,)) + body[: padding // 2])


Make = Callable[[Frames], bytes]

FRAMES: dict[str, tuple[Make, str]] = {
    # Streams.
    "DATA on stream 0": (lambda c: raw(DATA, 0, 0, b"x"), PROTOCOL),
    "DATA on an idle stream": (lambda c: raw(DATA, 0, 1, b"x"), PROTOCOL),
    "DATA on a half-closed stream": (
        lambda c: pending(c, END_STREAM) + raw(DATA, 0, 1, b"x"),
        "stream STREAM_CLOSED",
    ),
    "HEADERS on stream 0": (
        lambda c: raw(HEADERS, END_HEADERS, 0, c.block()),
        PROTOCOL,
    ),
    "HEADERS on an even stream": (lambda c: c.get(2).serialize(), PROTOCOL),
    "HEADERS on a half-closed stream": (
        lambda c: pending(c, END_STREAM) * 2,
        CLOSED,
    ),
    "HEADERS on a lower stream": (
        lambda c: c.get(3).serialize() + c.get(1).serialize(),
        # PROTOCOL_ERROR in RFC 9113 5.1.1; Cowboy takes it for one that was closed.
        CLOSED,
    ),
    "trailers without END_STREAM": (
        lambda c: opened(c) + raw(HEADERS, END_HEADERS, 1, c.encoder.encode([])),
        # A stream error in the RFC; Cowboy ends the connection.
        PROTOCOL,
    ),
    "PRIORITY on stream 0": (lambda c: raw(PRIORITY, 0, 0, bytes(5)), PROTOCOL),
    "RST_STREAM on stream 0": (lambda c: raw(RST_STREAM, 0, 0, bytes(4)), PROTOCOL),
    "RST_STREAM on an idle stream": (
        lambda c: raw(RST_STREAM, 0, 1, bytes(4)),
        PROTOCOL,
    ),
    "SETTINGS on a stream": (lambda c: raw(SETTINGS, 0, 1), PROTOCOL),
    "PING on a stream": (lambda c: raw(PING, 0, 1, bytes(8)), PROTOCOL),
    "GOAWAY on a stream": (lambda c: raw(GOAWAY, 0, 1, bytes(8)), PROTOCOL),
    "WINDOW_UPDATE on an idle stream": (
        lambda c: raw(WINDOW_UPDATE, 0, 1, number(1)),
        PROTOCOL,
    ),
    "CONTINUATION on stream 0": (
        lambda c: raw(CONTINUATION, END_HEADERS, 0),
        PROTOCOL,
    ),
    "CONTINUATION without HEADERS": (
        lambda c: raw(CONTINUATION, END_HEADERS, 1, c.block()),
        PROTOCOL,
    ),
    "PUSH_PROMISE of a client": (
        lambda c: opened(c) + raw(PUSH_PROMISE, END_HEADERS, 1, number(2) + c.block()),
        PROTOCOL,
    ),
    # Sizes.
    "larger than allowed": (lambda c: raw(DATA, 0, 1, bytes(16385)), SIZE),
    "unknown and larger than allowed": (
        lambda c: raw(0xEE, 0, 0, bytes(16385)),
        SIZE,
    ),
    "PRIORITY of 4 bytes": (
        lambda c: raw(PRIORITY, 0, 1, bytes(4)),
        "stream FRAME_SIZE_ERROR",
    ),
    "RST_STREAM of 3 bytes": (
        lambda c: opened(c) + raw(RST_STREAM, 0, 1, bytes(3)),
        SIZE,
    ),
    "SETTINGS of 5 bytes": (lambda c: raw(SETTINGS, 0, 0, bytes(5)), SIZE),
    "SETTINGS acknowledged with a payload": (
        lambda c: raw(SETTINGS, ACK, 0, bytes(6)),
        SIZE,
    ),
    "PING of 7 bytes": (lambda c: raw(PING, 0, 0, bytes(7)), SIZE),
    "PING of 9 bytes": (lambda c: raw(PING, 0, 0, bytes(9)), SIZE),
    "GOAWAY of 7 bytes": (lambda c: raw(GOAWAY, 0, 0, bytes(7)), SIZE),
    "WINDOW_UPDATE of 3 bytes": (lambda c: raw(WINDOW_UPDATE, 0, 0, bytes(3)), SIZE),
    "HEADERS with no room for the priority": (
        lambda c: raw(HEADERS, END_HEADERS | HAS_PRIORITY, 1, bytes(4)),
        SIZE,
    ),
    "padded DATA of 0 bytes": (
        lambda c: opened(c) + raw(DATA, PADDED, 1),
        SIZE,
    ),
    "DATA with more padding than frame": (
        lambda c: opened(c) + padded(c, DATA, 200),
        PROTOCOL,
    ),
    "HEADERS with more padding than frame": (
        lambda c: padded(c, HEADERS, 200),
        PROTOCOL,
    ),
    "padding that is not zero": (
        lambda c: opened(c) + raw(DATA, PADDED, 1, b"\2xyz"),
        # The RFC allows to ignore it.
        PROTOCOL,
    ),
    # Values.
    "ENABLE_PUSH of 2": (lambda c: setting(2, 2), PROTOCOL),
    "INITIAL_WINDOW_SIZE too large": (lambda c: setting(4, 2**31), FLOW),
    "MAX_FRAME_SIZE too small": (lambda c: setting(5, 16383), PROTOCOL),
    "MAX_FRAME_SIZE too large": (lambda c: setting(5, 2**24), PROTOCOL),
    "ENABLE_CONNECT_PROTOCOL of 2": (lambda c: setting(8, 2), PROTOCOL),
    "WINDOW_UPDATE of 0": (lambda c: raw(WINDOW_UPDATE, 0, 0, bytes(4)), PROTOCOL),
    "WINDOW_UPDATE of 0 on a stream": (
        lambda c: opened(c) + raw(WINDOW_UPDATE, 0, 1, bytes(4)),
        MALFORMED,
    ),
    "PRIORITY on itself": (
        lambda c: raw(PRIORITY, 0, 1, number(1) + b"\0"),
        MALFORMED,
    ),
    "HEADERS with a priority on itself": (
        lambda c: raw(
            HEADERS, END_HEADERS | HAS_PRIORITY, 1, number(1) + b"\0" + c.block()
        ),
        # A stream error in RFC 7540; RFC 9113 has no priorities.
        PROTOCOL,
    ),
    # Header blocks.
    "DATA within a header block": (
        lambda c: raw(HEADERS, 0, 1, c.block()) + raw(DATA, 0, 1, b"x"),
        PROTOCOL,
    ),
    "PING within a header block": (
        lambda c: raw(HEADERS, 0, 1, c.block()) + raw(PING, 0, 0, bytes(8)),
        PROTOCOL,
    ),
    "HEADERS within a header block": (
        lambda c: raw(HEADERS, 0, 1, c.block()) + c.get(3).serialize(),
        PROTOCOL,
    ),
    "another stream's CONTINUATION": (
        lambda c: raw(HEADERS, 0, 1, c.block()) + raw(CONTINUATION, END_HEADERS, 3),
        PROTOCOL,
    ),
    "an unknown frame within a header block": (
        lambda c: raw(HEADERS, 0, 1, c.block()) + raw(0xEE, 0, 0),
        PROTOCOL,
    ),
    "SETTINGS within a header block": (
        lambda c: raw(HEADERS, 0, 1, c.block()) + raw(SETTINGS, 0, 0),
        PROTOCOL,
    ),
    "a header block that is none": (
        lambda c: raw(HEADERS, END_HEADERS, 1, b"\x7f\xff\xff\xff"),
        COMPRESSION,
    ),
    "an index of 0": (lambda c: raw(HEADERS, END_HEADERS, 1, b"\x80"), COMPRESSION),
    "an index beyond the table": (
        lambda c: raw(HEADERS, END_HEADERS, 1, b"\xff\x7f"),
        COMPRESSION,
    ),
    "Huffman padding that is none": (
        lambda c: raw(HEADERS, END_HEADERS, 1, b"\0\x81\0\x81\0"),
        COMPRESSION,
    ),
    "a table size within the block": (
        lambda c: raw(HEADERS, END_HEADERS, 1, c.block() + b"\x20"),
        COMPRESSION,
    ),
    # What is to be ignored.
    "an unknown frame": (
        lambda c: raw(0xEE, 255, 7, b"x") + c.get(1).serialize(),
        "200",
    ),
    "an unknown setting": (lambda c: setting(99, 7) + c.get(1).serialize(), "200"),
    "unknown flags": (lambda c: raw(PING, 0xFE, 0, bytes(8)), "ping"),
    "a reserved bit": (
        lambda c: raw(HEADERS, END_HEADERS | END_STREAM, 2**31 + 1, c.block()),
        "200",
    ),
    "PRIORITY on an idle stream": (
        lambda c: raw(PRIORITY, 0, 9, bytes(5)) + c.get(1).serialize(),
        "200",
    ),
    "an acknowledgement of nothing": (
        lambda c: raw(PING, ACK, 0, bytes(8)) + c.get(1).serialize(),
        "200",
    ),
}


@pytest.mark.parametrize("case", FRAMES)
def test_frames(connection: Frames, bystander: Client, case: str) -> None:
    make, expected = FRAMES[case]
    connection.send(make(connection))
    outcome = connection.outcome()

    # What the request before it is answered with may be there first.
    while outcome in ("200", "stream NO_ERROR") and expected != "200":
        outcome = connection.outcome()

    assert outcome == expected

    if not expected.startswith("connection"):
        connection.send(connection.get(21))
        assert connection.status_of(21) == "200"

    assert bystander.get("/hello").text == "hello"


@pytest.mark.parametrize(
    "preface",
    [
        PREFACE[:-1] + b"x",
        PREFACE + raw(PING, 0, 0, bytes(8)),
        PREFACE + raw(SETTINGS, ACK, 0),
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
    ],
)
def test_preface(server: Server, bystander: Client, preface: bytes) -> None:
    """It ends the connection, if need be without a word."""
    with Frames(server.url, greets=False) as connection:
        connection.send(preface)
        assert connection.outcome() in (PROTOCOL, "closed")

    assert bystander.get("/hello").text == "hello"


def field(name: str, value: str = "x") -> tuple[bytes, bytes]:
    return (name.encode("latin-1"), value.encode("latin-1"))


# Requests: what stands in place of, or beside, a good one; and the answer.
# RFC 9113 8.1.1: a malformed request is a stream error, or gets an answer that says so.
REQUESTS: dict[str, tuple[str, tuple[tuple[bytes, bytes], ...], str]] = {
    "good": ("", (field("x-a"),), "200"),
    "no :method": (":method", (), MALFORMED),
    "no :scheme": (":scheme", (), MALFORMED),
    "no :path": (":path", (), MALFORMED),
    "no :authority and no host": (":authority", (), MALFORMED),
    "host alone": (":authority", (field("host", "a"),), "200"),
    "two :method": ("", (field(":method", "GET"),), MALFORMED),
    "two :path": ("", (field(":path", "/"),), MALFORMED),
    "two :authority": ("", (field(":authority", "a"),), MALFORMED),
    "an unknown pseudo-header": ("", (field(":x"),), MALFORMED),
    "a response's pseudo-header": ("", (field(":status", "200"),), MALFORMED),
    "a pseudo-header behind others": (
        ":path",
        (field("x-a"), field(":path", "/hello")),
        MALFORMED,
    ),
    ":protocol without CONNECT": ("", (field(":protocol", "websocket"),), MALFORMED),
    "a name in upper case": ("", (field("X-A"),), MALFORMED),
    "an empty name": ("", (field(""),), MALFORMED),
    "a space in a name": ("", (field("x a"),), "400"),
    "a colon in a name": ("", (field("x:a"),), "400"),
    "CR LF in a name": ("", (field("x\r\na"),), "400"),
    "CR LF in a value": ("", (field("x", "a\r\nb: c"),), "400"),
    "LF in a value": ("", (field("x", "a\nb"),), "400"),
    "NUL in a value": ("", (field("x", "a\0b"),), "400"),
    "a space before a value": ("", (field("x", " a"),), "400"),
    "a tab behind a value": ("", (field("x", "a\t"),), "400"),
    "a value that is empty": ("", (field("x", ""),), "200"),
    "connection": ("", (field("connection", "close"),), MALFORMED),
    "keep-alive": ("", (field("keep-alive"),), MALFORMED),
    "proxy-connection": ("", (field("proxy-connection"),), "400"),
    "transfer-encoding": ("", (field("transfer-encoding", "chunked"),), MALFORMED),
    "upgrade": ("", (field("upgrade", "h2c"),), MALFORMED),
    "te of trailers": ("", (field("te", "trailers"),), "200"),
    "te of something else": ("", (field("te", "gzip"),), MALFORMED),
    # Stricter than the RFC: it is for proxies.
    "proxy-authorization": ("", (field("proxy-authorization"),), MALFORMED),
    "host that differs": ("", (field("host", "elsewhere"),), "400"),
    "host without the port": ("", (field("host", "127.0.0.1"),), "400"),
    "two hosts": ("", (field("host", "a"), field("host", "b")), "400"),
    "an empty :authority": (":authority", (field(":authority", ""),), "400"),
    "a user in :authority": (":authority", (field(":authority", "a@b"),), MALFORMED),
    "a path in :authority": (":authority", (field(":authority", "a/b"),), MALFORMED),
    "a port below 0": (":authority", (field(":authority", "a:-1"),), "400"),
    "a port too large": (":authority", (field(":authority", "a:65536"),), "400"),
    "an empty :path": (":path", (field(":path", ""),), MALFORMED),
    ":path without a slash": (":path", (field(":path", "hello"),), "400"),
    ":path with a host": (":path", (field(":path", "http://a/hello"),), "400"),
    ":path of * to GET": (":path", (field(":path", "*"),), "400"),
    "a space in :path": (":path", (field(":path", "/hello x"),), "400"),
    "CR LF in :path": (":path", (field(":path", "/hello\r\n"),), "400"),
    "NUL in the query": (":path", (field(":path", "/hello?\0"),), "400"),
    # Cut off, as in HTTP/1.1.
    "a fragment": (":path", (field(":path", "/hello#x"),), "200"),
    "an empty :scheme": (":scheme", (field(":scheme", ""),), "400"),
    ":scheme of another protocol": (":scheme", (field(":scheme", "ftp"),), "400"),
    # What a proxy that ends TLS may pass on.
    ":scheme of https": (":scheme", (field(":scheme", "https"),), "200"),
    "an empty :method": (":method", (field(":method", ""),), "400"),
    "a space in :method": (":method", (field(":method", "GET /x"),), "400"),
    "CR LF in :method": (":method", (field(":method", "GET\r\n"),), "400"),
    "CONNECT": (":method", (field(":method", "CONNECT"),), MALFORMED),
    "TRACE": (":method", (field(":method", "TRACE"),), "501"),
    "content-length of 1 and no body": ("", (field("content-length", "1"),), MALFORMED),
    "content-length of 0 and no body": ("", (field("content-length", "0"),), "200"),
    "content-length that is none": ("", (field("content-length", "x"),), MALFORMED),
    "two content-lengths": (
        "",
        (field("content-length", "0"), field("content-length", "0")),
        MALFORMED,
    ),
}


@pytest.mark.parametrize("case", REQUESTS)
def test_requests(connection: Frames, bystander: Client, case: str) -> None:
    without, fields, expected = REQUESTS[case]
    pseudo = [each for each in fields if each[0].startswith(b":")]
    regular = [each for each in fields if not each[0].startswith(b":")]
    # In order, but where the order is the point.
    ordered = [*regular, *pseudo] if "behind" in case else [*pseudo, *regular]
    block = connection.block(*ordered, without=without.encode())
    connection.send(raw(HEADERS, END_HEADERS | END_STREAM, 1, block))
    assert connection.outcome() == expected
    connection.send(connection.get(3))
    assert connection.outcome() == "200"
    assert bystander.get("/hello").text == "hello"


BODIES: dict[str, tuple[str, list[tuple[int, bytes]], str]] = {
    "as long as it says": ("4", [(END_STREAM, b"body")], "200"),
    "in two parts": ("4", [(0, b"bo"), (END_STREAM, b"dy")], "200"),
    "an end of its own": ("4", [(0, b"body"), (END_STREAM, b"")], "200"),
    "shorter": ("5", [(END_STREAM, b"body")], MALFORMED),
    "longer": ("3", [(END_STREAM, b"body")], MALFORMED),
    "longer, and goes on": ("3", [(0, b"body")], MALFORMED),
    "more than nothing": ("0", [(END_STREAM, b"body")], MALFORMED),
    "with a sign": ("+4", [(END_STREAM, b"body")], "400"),
    "below zero": ("-4", [(END_STREAM, b"body")], MALFORMED),
    "twice in one": ("4, 4", [(END_STREAM, b"body")], MALFORMED),
}


# Cowboy forgets a stream whose head was malformed; what was sent on it before the
# client knows is taken for a fault. Only a client that is broken gets there.
ENDS_THE_CONNECTION = ("below zero", "twice in one")


@pytest.mark.parametrize("case", BODIES)
def test_content_length(connection: Frames, bystander: Client, case: str) -> None:
    length, parts, expected = BODIES[case]
    connection.send(opened(connection, field("content-length", length)))
    connection.send(*[raw(DATA, flags, 1, part) for flags, part in parts])
    assert connection.outcome() == expected

    if case not in ENDS_THE_CONNECTION:
        connection.send(connection.get(3))
        assert connection.status_of(3) == "200"

    assert bystander.get("/hello").text == "hello"


def test_frames_byte_by_byte(connection: Frames) -> None:
    for byte in connection.get(1).serialize():
        connection.send(bytes((byte,)))

    assert connection.outcome() == "200"


def test_half_a_frame(connection: Frames, bystander: Client) -> None:
    """A client that leaves within one."""
    connection.send(connection.get(1).serialize()[:-5])
    connection.socket.close()
    assert bystander.get("/hello").text == "hello"


def test_goaway_of_a_client(connection: Frames) -> None:
    """What is under way is answered, then the connection ends."""
    connection.send(connection.get(1), frames.GoAwayFrame(0))
    assert [connection.outcome() for _ in range(2)] in (
        ["200", "connection NO_ERROR"],
        ["connection NO_ERROR", "200"],
    )
