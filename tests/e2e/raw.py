# SPDX-License-Identifier: Apache-2.0
"""A strict HTTP/1.1 client on bare sockets.

What goes out is whatever bytes the test wants, also wrong ones and half ones. What
comes back is parsed by h11, after checks of what h11 lets pass: bare line ends, framing
headers where none may be, headers that may be there once only. So a malformed answer
fails the test that got it, whatever that test is about.
"""

from __future__ import annotations

import re
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from urllib.parse import quote, urlsplit

import h11

TIMEOUT_SECONDS = 10.0
"""How long one read or write may take before the test fails."""

_READ_BYTES = 65536
_STATUS_LINE = re.compile(rb"HTTP/1\.1 [1-9][0-9]{2} [\t \x21-\x7e\x80-\xff]*")
_HEADER_LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[ \t]*[^\0\r\n]*")
_ONCE = (b"content-length", b"transfer-encoding", b"date", b"server", b"content-type")

Headers = list[tuple[bytes, bytes]]


class Cut(Exception):
    """The connection ended where a well-formed response would have gone on.

    Args:
        received: what of the response had come: of its head, or of its body.
        is_reset: the server has sent a reset.
    """

    def __init__(self, received: bytes, *, is_reset: bool) -> None:
        super().__init__(received, is_reset)
        self.received = received
        self.is_reset = is_reset


@dataclass(frozen=True, slots=True, kw_only=True)
class Informational:
    """A 1xx response."""

    status: int
    headers: Headers


@dataclass(slots=True, kw_only=True)
class Response:
    """A response that came complete and well-formed."""

    status: int
    reason: bytes
    headers: Headers
    body: bytes = b""
    trailers: Headers = field(default_factory=list)
    informational: list[Informational] = field(default_factory=list)
    keeps_alive: bool = True

    def all(self, name: str) -> list[bytes]:
        """Values of all headers of that name, in order."""
        return [value for key, value in self.headers if key == name.encode()]

    def one(self, name: str) -> bytes | None:
        """Value of the only header of that name, None where there is none."""
        values = self.all(name)
        assert len(values) <= 1, f"{name} comes {len(values)} times: {values}"
        return values[0] if values else None

    @property
    def text(self) -> str:
        return self.body.decode()


class Connection:
    """A client's connection.

    Args:
        url: of the server: `http://…`, `https://…` or `unix:/path`.
        receive_buffer: bytes the kernel holds for a client that does not read.
        tls: with TLS; its end without a goodbye is then a cut as well.
        server_name: what the client asks for in the handshake.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = TIMEOUT_SECONDS,
        receive_buffer: int | None = None,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = "localhost",
    ) -> None:
        self.buffer = b""
        self.socket = _connect(url, timeout, receive_buffer)

        if tls is not None:
            # Closes the socket where the handshake fails.
            self.socket = tls.wrap_socket(
                self.socket, server_hostname=server_name, suppress_ragged_eofs=False
            )

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # Out.

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def drip(self, data: bytes) -> None:
        """Send byte by byte, each in a packet of its own."""
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        for byte in data:
            self.socket.send(bytes((byte,)))

    def close(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        """Close with a reset, as a client that crashes does."""
        self.socket.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        self.socket.close()

    # In.

    def exchange(
        self,
        method: str = "GET",
        target: str = "/",
        headers: Iterable[tuple[str, str]] = (),
        body: bytes | None = None,
    ) -> Response:
        """Send a request and read its response."""
        self.send(request(method, target, headers, body))
        return self.read_response(method)

    def get(self, target: str, *headers: tuple[str, str]) -> Response:
        return self.exchange("GET", target, headers)

    def post(self, target: str, body: bytes, *headers: tuple[str, str]) -> Response:
        return self.exchange("POST", target, headers, body)

    def read_response(self, method: str = "GET") -> Response:
        """Read a whole response.

        Raises:
            Cut: it is not whole.
        """
        return self.start_response(method).finish()

    def start_response(self, method: str = "GET") -> Incoming:
        """Read the head of a response, informational ones before it included."""
        return Incoming(self, method)

    def read_informational(self) -> Informational:
        """Read one 1xx response and no more."""
        return _read_informational(self._take_head())

    def read_eof(self) -> None:
        """Check that the server closes the connection and sends nothing before."""
        rest = self.buffer + self._read_rest()
        assert rest == b"", f"more came before the end: {rest!r}"

    def read_silence(self, seconds: float) -> None:
        """Check that for so long nothing comes, neither bytes nor the end."""
        assert self.buffer == b"", f"something came already: {self.buffer!r}"
        assert not self.is_readable(seconds), f"came: {self.socket.recv(4096)!r}"

    def is_readable(self, seconds: float = 0.0) -> bool:
        readable, _, _ = select.select([self.socket], [], [], seconds)
        return bool(readable)

    def receive(self) -> bytes:
        """Read what is there, b"" at the end.

        Raises:
            Cut: the server has reset the connection.
        """
        if self.buffer:
            data, self.buffer = self.buffer, b""
            return data

        try:
            return self.socket.recv(_READ_BYTES)
        except (ConnectionResetError, ssl.SSLEOFError) as exc:
            raise Cut(b"", is_reset=True) from exc

    def _read_rest(self) -> bytes:
        parts = []

        while data := self.receive():
            parts.append(data)

        return b"".join(parts)

    def _take_head(self) -> bytes:
        data = b""

        while b"\r\n\r\n" not in data:
            try:
                part = self.receive()
            except Cut as exc:
                raise Cut(data, is_reset=True) from exc

            if not part:
                raise Cut(data, is_reset=False)

            data += part

        head, rest = data.split(b"\r\n\r\n", 1)
        self.buffer = rest
        _check_head(head)
        return head + b"\r\n\r\n"


class Incoming:
    """A response whose head is there and whose body comes.

    Args:
        connection: where it comes.
        method: of its request; it decides whether there is a body.
    """

    def __init__(self, connection: Connection, method: str) -> None:
        self._connection = connection
        self._parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
        self._parser.send(
            h11.Request(method=method, target="/", headers=[("host", "x")])
        )
        self._parser.send(h11.EndOfMessage())
        self._body = bytearray()
        self._trailers: Headers = []
        self._is_complete = False
        self.informational: list[Informational] = []
        self.head = self._read_head()

    @property
    def status(self) -> int:
        return self.head.status_code

    def read_part(self) -> bytes:
        """Read what comes next of the body, b"" at its end.

        Raises:
            Cut: the connection ends before the body does.
        """
        while not self._is_complete:
            event = self._parser.next_event()

            if event is h11.NEED_DATA:
                self._feed()
            elif isinstance(event, h11.Data):
                self._body += event.data
                return bytes(event.data)
            else:
                assert isinstance(event, h11.EndOfMessage), event
                self._trailers = list(event.headers)
                self._is_complete = True
                self._connection.buffer = bytes(self._parser.trailing_data[0])

        return b""

    def read_until(self, size: int) -> bytes:
        """Read until so many bytes of the body are there since its beginning."""
        while len(self._body) < size:
            assert self.read_part(), f"the body ends after {bytes(self._body)!r}"

        return bytes(self._body)

    def finish(self) -> Response:
        """Read the rest.

        Raises:
            Cut: the connection ends before the body does.
        """
        while self.read_part():
            pass

        return Response(
            status=self.status,
            reason=bytes(self.head.reason),
            headers=list(self.head.headers),
            body=bytes(self._body),
            trailers=self._trailers,
            informational=self.informational,
            keeps_alive=self._parser.their_state is h11.DONE,
        )

    def _read_head(self) -> h11.Response:
        while True:
            head = self._connection._take_head()

            if not head.startswith(b"HTTP/1.1 1"):
                break

            self.informational.append(_read_informational(head))

        self._parser.receive_data(head)
        event = self._parser.next_event()
        assert isinstance(event, h11.Response), event
        return event

    def _feed(self) -> None:
        try:
            data = self._connection.receive()
        except Cut as exc:
            raise Cut(bytes(self._body), is_reset=True) from exc

        self._parser.receive_data(data)

        # h11 raises at the next event where a body ends before its time.
        if not data and not self._ends_with_connection():
            raise Cut(bytes(self._body), is_reset=False)

    def _ends_with_connection(self) -> bool:
        names = {name for name, _ in self.head.headers}
        return not names & {b"content-length", b"transfer-encoding"}


def request(
    method: str = "GET",
    target: str = "/",
    headers: Iterable[tuple[str, str]] = (),
    body: bytes | None = None,
    *,
    version: str = "1.1",
) -> bytes:
    """The bytes of a request; content-length is added where nothing tells it."""
    lines = [f"{method} {target} HTTP/{version}"]
    given = list(headers)
    names = {name.lower() for name, _ in given}

    if "host" not in names and version == "1.1":
        lines.append("Host: test")

    lines += [f"{name}: {value}" for name, value in given]

    if body is not None and not names & {"content-length", "transfer-encoding"}:
        lines.append(f"Content-Length: {len(body)}")

    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


def chunked(*parts: bytes) -> bytes:
    """Parts of a body as chunks, the last one included."""
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (*parts, b""))


def script(name: str, *steps: object, path: str = "/script") -> str:
    """Target of a request that has `raw_apps/contract.py` take these steps."""
    return f"{path}/{name}?{quote(repr(steps))}"


def wait_until(
    condition: Callable[[], bool], what: str, *, seconds: float = TIMEOUT_SECONDS
) -> None:
    """Ask again and again until a condition holds.

    Raises:
        TimeoutError: it does not within that time.
    """
    deadline = time.monotonic() + seconds

    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s: {what}")

        time.sleep(0.01)


def settled(read: Callable[[], int], *, seconds: float = 0.5) -> int:
    """The value of a counter once it has not changed for so long."""
    value = read()
    since = time.monotonic()

    while time.monotonic() - since < seconds:
        time.sleep(0.02)
        now = read()

        if now != value:
            value, since = now, time.monotonic()

    return value


def _connect(url: str, timeout: float, receive_buffer: int | None) -> socket.socket:
    if url.startswith("unix:"):
        connected = socket.socket(socket.AF_UNIX)
        address: str | tuple[str, int] = url.removeprefix("unix:")
    else:
        parts = urlsplit(url)
        assert parts.hostname is not None and parts.port is not None
        family = socket.AF_INET6 if ":" in parts.hostname else socket.AF_INET
        connected = socket.socket(family)
        address = (parts.hostname, parts.port)

    if receive_buffer is not None:
        # Before the connection is made: it decides on the window that is offered.
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)

    connected.settimeout(timeout)

    try:
        connected.connect(address)
    except BaseException:
        connected.close()
        raise

    return connected


def _read_informational(head: bytes) -> Informational:
    parser = h11.Connection(h11.CLIENT)
    parser.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
    parser.receive_data(head)
    event = parser.next_event()
    assert isinstance(event, h11.InformationalResponse), event
    return Informational(status=event.status_code, headers=list(event.headers))


def _check_head(head: bytes) -> None:
    """Check what h11 lets pass."""
    status_line, *lines = head.split(b"\r\n")
    assert _STATUS_LINE.fullmatch(status_line), f"bad status line: {status_line!r}"

    for line in lines:
        assert _HEADER_LINE.fullmatch(line), f"bad header line: {line!r}"

    names = [line.split(b":")[0].lower() for line in lines]

    for name in _ONCE:
        assert names.count(name) <= 1, f"{name!r} more than once in {head!r}"

    framing = {b"content-length", b"transfer-encoding"}.intersection(names)
    assert len(framing) < 2, f"two framings: {head!r}"

    # RFC 9110 8.6, RFC 9112 6.1.
    if status_line[9:10] == b"1" or status_line[9:12] == b"204":
        assert not framing, f"{status_line!r} has {framing}"
