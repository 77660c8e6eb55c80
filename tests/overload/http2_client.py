# SPDX-License-Identifier: Apache-2.0
"""The same over HTTP/2: many requests at a time on each connection."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import h2.config
import h2.connection
import h2.events

from overload.client import Answer, Wrong, check

MAX_STREAMS = 90
"""That work on a connection; the server allows a few more."""


@dataclass
class _Stream:
    answer: asyncio.Future[Answer]
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""


class Http2Connection(asyncio.Protocol):
    """A connection of HTTP/2 with prior knowledge; make it with `connect_http2`."""

    is_shared = True

    def __init__(self) -> None:
        self._streams: dict[int, _Stream] = {}
        self._room = asyncio.Semaphore(MAX_STREAMS)
        self._transport: asyncio.Transport | None = None
        self._h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding=None)
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._h2.initiate_connection()
        self._flush()

    def data_received(self, data: bytes) -> None:
        for event in self._h2.receive_data(data):
            self._handle(event)

        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail_all(f"closed instead of an answer: {exc}")

    async def work(self, number: int, milliseconds: int) -> bool:
        """Ask for work; whether it was done, rather than refused."""
        async with self._room:
            stream_id = self.send(f"/work/{number}?{milliseconds}")
            return check(await self._streams[stream_id].answer, number)

    def send(self, path: str) -> int:
        """Send a request; the id of its stream."""
        stream_id = self._h2.get_next_available_stream_id()
        self._streams[stream_id] = _Stream(asyncio.get_running_loop().create_future())
        fields = [
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "x"),
            (":path", path),
        ]
        self._h2.send_headers(stream_id, fields, end_stream=True)
        self._flush()
        return stream_id

    def cancel(self, stream_id: int) -> None:
        """Reset a stream, unless it is over."""
        if self._streams.pop(stream_id, None) is not None:
            self._h2.reset_stream(stream_id, 8)
            self._flush()

    def leave(self, *, resets: bool = False) -> None:
        assert self._transport is not None
        self._streams.clear()
        (self._transport.abort if resets else self._transport.close)()

    def _handle(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ConnectionTerminated):
            self._fail_all(f"ended instead of an answer: {event}")
            return

        stream = self._streams.get(getattr(event, "stream_id", None) or 0)

        if stream is None:
            return

        if isinstance(event, h2.events.ResponseReceived):
            stream.headers = dict(event.headers)
        elif isinstance(event, h2.events.DataReceived):
            stream.body += event.data
            self._h2.acknowledge_received_data(
                event.flow_controlled_length, event.stream_id
            )
        elif isinstance(event, h2.events.StreamReset):
            del self._streams[event.stream_id]
            _fail(stream, f"reset instead of an answer: {event}")
        elif isinstance(event, h2.events.StreamEnded):
            del self._streams[event.stream_id]
            status = int(stream.headers[b":status"])

            if not stream.answer.done():
                stream.answer.set_result(Answer(status, stream.headers, stream.body))

    def _fail_all(self, why: str) -> None:
        for stream in self._streams.values():
            _fail(stream, why)

        self._streams.clear()

    def _flush(self) -> None:
        assert self._transport is not None

        if data := self._h2.data_to_send():
            self._transport.write(data)


def _fail(stream: _Stream, why: str) -> None:
    if not stream.answer.done():
        stream.answer.set_exception(Wrong(why))
        # Nobody may wait for it: that is no fault.
        stream.answer.exception()


async def connect_http2(url: str) -> Http2Connection:
    parts = urlsplit(url)
    assert parts.hostname is not None and parts.port is not None
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(
        Http2Connection, parts.hostname, parts.port
    )
    return connection
