# SPDX-License-Identifier: Apache-2.0
"""A client of HTTP/2 that does what it is told: windows, resets, frames of any kind.

`Client` speaks through the h2 library, which fails a test whose server breaks the
protocol. `Frames` writes and reads bare frames, wrong ones too.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from urllib.parse import urlsplit

import h2.config
import h2.connection
import h2.events
import h2.settings
import hpack
import hyperframe.frame as frames

from e2e.raw import TIMEOUT_SECONDS

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
INITIAL_WINDOW = int(h2.settings.SettingCodes.INITIAL_WINDOW_SIZE)

_READ_BYTES = 262144

Headers = list[tuple[bytes, bytes]]

ERRORS = {
    0: "NO_ERROR",
    1: "PROTOCOL_ERROR",
    2: "INTERNAL_ERROR",
    3: "FLOW_CONTROL_ERROR",
    4: "SETTINGS_TIMEOUT",
    5: "STREAM_CLOSED",
    6: "FRAME_SIZE_ERROR",
    7: "REFUSED_STREAM",
    8: "CANCEL",
    9: "COMPRESSION_ERROR",
    10: "CONNECT_ERROR",
    11: "ENHANCE_YOUR_CALM",
}


@dataclass(slots=True)
class Stream:
    """What has come on a stream."""

    headers: Headers = field(default_factory=list)
    informational: list[Headers] = field(default_factory=list)
    received: bytearray = field(default_factory=bytearray)
    trailers: Headers = field(default_factory=list)
    is_ended: bool = False
    reset: str | None = None

    @property
    def status(self) -> int:
        return int(dict(self.headers).get(b":status", b"0"))

    @property
    def body(self) -> bytes:
        return bytes(self.received)

    @property
    def text(self) -> str:
        return self.received.decode()

    @property
    def is_over(self) -> bool:
        return self.is_ended or self.reset is not None

    def all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]


class Client:
    """A connection.

    Args:
        url: of the server.
        settings: the client's settings.
        gives_window: whether what was received is acknowledged at once; otherwise the
            windows are what they are, until the test gives some.
        receive_buffer: bytes the kernel holds for a client that does not read.
    """

    def __init__(
        self,
        url: str,
        *,
        settings: Mapping[int, int] | None = None,
        gives_window: bool = True,
        receive_buffer: int | None = None,
    ) -> None:
        self.authority = urlsplit(url).netloc
        self.streams: dict[int, Stream] = {}
        self.goaways: list[tuple[int, str]] = []
        self.is_closed = False
        self.gives_window = gives_window
        self.socket = connect(url, receive_buffer)
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(
                client_side=True,
                header_encoding=None,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self.h2.update_settings({})
        self.h2.clear_outbound_data_buffer()

        for code, value in (settings or {}).items():
            self.h2.local_settings[code] = value

        self.h2.local_settings.acknowledge()
        self.h2.initiate_connection()
        self.flush()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.socket.close()

    # Out.

    def request(
        self,
        path: str,
        *,
        method: str = "GET",
        headers: Iterable[tuple[str, str]] = (),
        body: bytes | None = None,
        ends: bool = True,
    ) -> int:
        """Send a request; a body of any size goes out as the windows allow.

        Args:
            ends: False: the stream stays open for more of the body.
        """
        stream_id = self.h2.get_next_available_stream_id()
        self.streams[stream_id] = Stream()
        pseudo = [
            (":method", method),
            (":scheme", "http"),
            (":authority", self.authority),
            (":path", path),
        ]
        self.h2.send_headers(
            stream_id, [*pseudo, *headers], end_stream=ends and body is None
        )
        self.flush()

        if body is not None:
            self.send_body(stream_id, body, ends=ends)

        return stream_id

    def get(self, path: str) -> Stream:
        """Send a request and wait for its response."""
        return self.finish(self.request(path))

    def send_body(self, stream_id: int, body: bytes, *, ends: bool = True) -> None:
        sent = 0

        while sent < len(body):
            self.pump(
                lambda: self.h2.local_flow_control_window(stream_id) > 0,
                "the server gives window",
            )
            sent += self.send_some(stream_id, body[sent:])

        if ends:
            self.h2.end_stream(stream_id)
            self.flush()

    def send_some(self, stream_id: int, body: bytes) -> int:
        """Send what the windows allow, and say how much that was."""
        sent = 0

        while sent < len(body):
            window = self.h2.local_flow_control_window(stream_id)
            size = min(window, self.h2.max_outbound_frame_size, len(body) - sent)

            if size <= 0:
                break

            self.h2.send_data(stream_id, body[sent : sent + size])
            self.flush()
            sent += size

        return sent

    def reset(self, stream_id: int, code: int = 8) -> None:
        self.h2.reset_stream(stream_id, code)
        self.flush()

    def give_window(self, size: int, stream_id: int | None = None) -> None:
        """Let the server send so much more."""
        self.h2.increment_flow_control_window(size, stream_id)
        self.flush()

    def flush(self) -> None:
        if data := self.h2.data_to_send():
            self.socket.sendall(data)

    # In.

    def finish(self, stream_id: int) -> Stream:
        """Wait until the stream is over."""
        stream = self.streams[stream_id]
        self.pump(lambda: stream.is_over, f"stream {stream_id} is over")
        return stream

    def pump(
        self, is_done: Callable[[], bool], what: str, timeout: float = TIMEOUT_SECONDS
    ) -> None:
        """Read until something is so.

        Raises:
            TimeoutError: it is not in time.
            ConnectionError: the server has closed the connection.
        """
        deadline = time.monotonic() + timeout

        while not is_done():
            left = deadline - time.monotonic()

            if left <= 0:
                raise TimeoutError(f"not within {timeout} s: {what}")

            self.read(left)

            if self.is_closed and not is_done():
                raise ConnectionError(f"closed, {self.goaways}; not so: {what}")

    def read(self, seconds: float = 0.0) -> None:
        """Handle what is there, or what comes within so many seconds."""
        if not select.select([self.socket], [], [], seconds)[0]:
            return

        try:
            data = self.socket.recv(_READ_BYTES)
        except ConnectionResetError:
            data = b""

        if not data:
            self.is_closed = True
            return

        for event in self.h2.receive_data(data):
            self._handle(event)

        try:
            self.flush()
        except (BrokenPipeError, ConnectionResetError):
            # What the server has said before it closed is still to be read.
            pass

    def await_close(self) -> None:
        self.pump(lambda: self.is_closed, "the connection is closed")

    def _handle(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ConnectionTerminated):
            code = ERRORS[int(event.error_code or 0)]
            self.goaways.append((event.last_stream_id or 0, code))
            return

        stream = self.streams.get(getattr(event, "stream_id", None) or 0)

        if stream is None:
            return

        if isinstance(event, h2.events.InformationalResponseReceived):
            stream.informational.append(list(event.headers))
        elif isinstance(event, h2.events.ResponseReceived):
            stream.headers = list(event.headers)
        elif isinstance(event, h2.events.TrailersReceived):
            stream.trailers = list(event.headers)
        elif isinstance(event, h2.events.DataReceived):
            stream.received += event.data

            if self.gives_window and event.flow_controlled_length:
                self.h2.acknowledge_received_data(
                    event.flow_controlled_length, event.stream_id
                )
        elif isinstance(event, h2.events.StreamEnded):
            stream.is_ended = True
        elif isinstance(event, h2.events.StreamReset):
            stream.reset = ERRORS[int(event.error_code)]


class Frames:
    """A connection of bare frames. The preface and both SETTINGS are exchanged."""

    def __init__(self, url: str, *, greets: bool = True) -> None:
        self.authority = urlsplit(url).netloc.encode()
        self.socket = connect(url, None)
        self.encoder = hpack.Encoder()
        self._decoder = hpack.Decoder()
        self._buffer = b""

        if greets:
            self.send(PREFACE, frames.SettingsFrame(0))
            settings = self.read_frame()
            assert isinstance(settings, frames.SettingsFrame)
            self.send(frames.SettingsFrame(0, flags=["ACK"]))

    def __enter__(self) -> Frames:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.socket.close()

    def send(self, *parts: bytes | frames.Frame) -> None:
        data = b"".join(
            part if isinstance(part, bytes) else part.serialize() for part in parts
        )
        self.socket.sendall(data)

    def block(self, *fields: tuple[bytes, bytes], without: bytes = b"") -> bytes:
        """A header block of a GET request, with some fields more or one less."""
        pseudo = [
            (b":method", b"GET"),
            (b":scheme", b"http"),
            (b":authority", self.authority),
            (b":path", b"/hello"),
        ]
        chosen = [each for each in pseudo if each[0] != without]
        return bytes(self.encoder.encode([*chosen, *fields], huffman=False))

    def get(self, stream_id: int, *fields: tuple[bytes, bytes]) -> frames.HeadersFrame:
        return frames.HeadersFrame(
            stream_id, self.block(*fields), flags=["END_HEADERS", "END_STREAM"]
        )

    def read_frame(self) -> frames.Frame | None:
        """The next frame, None at the end of the connection."""
        while True:
            if len(self._buffer) >= 9:
                frame, length = frames.Frame.parse_frame_header(
                    memoryview(self._buffer[:9])
                )

                if len(self._buffer) >= 9 + length:
                    frame.parse_body(memoryview(self._buffer[9 : 9 + length]))
                    self._buffer = self._buffer[9 + length :]
                    return frame

            try:
                data = self.socket.recv(_READ_BYTES)
            except ConnectionResetError:
                return None

            if not data:
                return None

            self._buffer += data

    def outcome(self) -> str:
        """What the server makes of what was sent: the first answer of substance.

        `connection CODE`, `stream CODE`, a status, `ping`, or `closed`.
        """
        while (frame := self.read_frame()) is not None:
            if isinstance(frame, frames.GoAwayFrame):
                return f"connection {ERRORS[frame.error_code]}"

            if isinstance(frame, frames.RstStreamFrame):
                return f"stream {ERRORS[frame.error_code]}"

            if isinstance(frame, frames.HeadersFrame):
                fields = dict(self._decoder.decode(frame.data, raw=True))
                return fields[b":status"].decode()

            if isinstance(frame, frames.PingFrame):
                return "ping"

        return "closed"

    def status_of(self, stream_id: int) -> str:
        """The status of a stream's response, or how the connection ended before it."""
        while (frame := self.read_frame()) is not None:
            if isinstance(frame, frames.GoAwayFrame):
                return f"connection {ERRORS[frame.error_code]}"

            if isinstance(frame, frames.HeadersFrame):
                fields = dict(self._decoder.decode(frame.data, raw=True))

                if frame.stream_id == stream_id:
                    return fields[b":status"].decode()

        return "closed"


def connect(url: str, receive_buffer: int | None) -> socket.socket:
    parts = urlsplit(url)
    assert parts.hostname is not None and parts.port is not None
    made = socket.socket()

    if receive_buffer is not None:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)

    made.settimeout(TIMEOUT_SECONDS)
    made.connect((parts.hostname, parts.port))
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made
