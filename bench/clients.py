# SPDX-License-Identifier: Apache-2.0
"""Connections of our own, for what wrk cannot do: many at once that say little.

All are plain asyncio protocols in this process, which read what comes as bytes: frames
that a server sends are known beforehand to the byte.
"""

import asyncio
import base64
import os
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

from bench.servers import HOST, Failed, Server

# The listening queues of all servers are longer than that.
CONNECTS_AT_ONCE = 100
CONNECT_TIMEOUT_S = 15
SMALL_FRAME = 125
MASK = bytes(4)

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run on uvloop where it is installed: the client must not be the slower end."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work)

    return uvloop.run(work)


class Connection(asyncio.Protocol):
    """Sends a request; what follows the head of the answer goes to `received`.

    `opened` is done when the head is there, `closed` when the connection has ended.
    """

    def __init__(self, request: bytes, status: int) -> None:
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self.transport: asyncio.Transport
        self._request = request
        self._expected = f"HTTP/1.1 {status} ".encode()
        self._head = b""

    def received(self, data: bytes) -> None:
        """Take bytes of the body, or frames."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self.opened.done():
            self.received(data)
            return

        self._head += data
        head, end, rest = self._head.partition(b"\r\n\r\n")

        if not end:
            return

        if not head.startswith(self._expected):
            self.opened.set_exception(Failed(f"answered {head[:200]!r}"))
            self.transport.abort()
            return

        self.opened.set_result(None)

        if rest:
            self.received(rest)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(
                exc or ConnectionError("closed without an answer")
            )

        if not self.closed.done():
            self.closed.set_result(None)


C = TypeVar("C", bound=Connection)


async def open_all(server: Server, make: Callable[[], C], count: int) -> list[C]:
    """Open so many connections, and wait until each has its answer's head.

    Raises:
        Failed: One was not answered as expected.
        OSError: One was refused or closed.
    """
    loop = asyncio.get_running_loop()
    limit = asyncio.Semaphore(CONNECTS_AT_ONCE)

    async def connect() -> C:
        async with limit:
            _, connection = await asyncio.wait_for(
                loop.create_connection(make, HOST, server.port), CONNECT_TIMEOUT_S
            )
            await asyncio.wait_for(connection.opened, CONNECT_TIMEOUT_S)
            return connection

    return list(await asyncio.gather(*(connect() for _ in range(count))))


def close_all(connections: "list[C]") -> None:
    for connection in connections:
        connection.transport.abort()


def get(server: Server, path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {HOST}:{server.port}\r\n\r\n".encode()


def handshake(server: Server, path: str) -> bytes:
    """Ask for a WebSocket."""
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET {path} HTTP/1.1\r\nHost: {HOST}:{server.port}\r\n"
        "Connection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    ).encode()


def text_frame(payload: bytes, *, from_client: bool) -> bytes:
    """A whole text message (RFC 6455 5.2); a mask of noughts leaves the payload as is.

    Raises:
        ValueError: The payload is not small.
    """
    if len(payload) > SMALL_FRAME:
        raise ValueError(f"{len(payload)} bytes, expected at most {SMALL_FRAME}")

    if from_client:
        return bytes((0x81, 0x80 | len(payload))) + MASK + payload

    return bytes((0x81, len(payload))) + payload
