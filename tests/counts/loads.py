# SPDX-License-Identifier: Apache-2.0
"""The loads: one request at a time on one connection, or sixteen at once.

The client is a bare socket that knows where an answer ends, so that nothing of its own
can change the counts.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from node import Node

TIMEOUT_S = 30.0
BATCH = 16
"""Requests that reach the worker as one packet, in the batched load."""

_HANDSHAKE = (
    b"GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
_BROWSER = (
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Firefox/128.0\r\n"
    b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n"
    b"Accept-Language: en-GB,en;q=0.7,de;q=0.3\r\n"
    b"Accept-Encoding: gzip, deflate, br, zstd\r\n"
    b"Referer: https://www.example.com/articles/2024/a-page-before\r\n"
    b"Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n"
    b"Upgrade-Insecure-Requests: 1\r\n"
    b"Sec-Fetch-Dest: document\r\n"
    b"Sec-Fetch-Mode: navigate\r\n"
    b"Sec-Fetch-Site: same-origin\r\n"
    b"Cache-Control: no-cache\r\n"
    b"Priority: u=0, i\r\n"
)
_TEXT = b"a message that comes back just as it was sent, 64 bytes in all.."


@dataclass(frozen=True)
class Load:
    """One kind of request, of `tests/apps/counted.py`."""

    title: str
    request: bytes
    end: bytes
    """What the answer ends with, and does not have before."""
    handshake: bytes = b""
    """What has to be answered first."""
    times: int = 100
    """How often it is asked while one thing is counted."""


def _ask(path: bytes, headers: bytes = b"", body: bytes = b"") -> bytes:
    method = b"POST" if body else b"GET"
    length = b"Content-Length: %d\r\n" % len(body) if body else b""
    head = b"%b %b HTTP/1.1\r\nHost: localhost\r\n" % (method, path)
    return head + headers + length + b"\r\n" + body


LOADS = {
    "hello": Load("GET, 13 bytes back", _ask(b"/"), b"Hello, world!"),
    "browser": Load(
        "the same with 12 headers of a browser", _ask(b"/", _BROWSER), b"Hello, world!"
    ),
    "post": Load(
        "POST of 1 KiB",
        _ask(b"/read", b"Content-Type: text/plain\r\n", bytes(1024)),
        b"Thank you.",
    ),
    "large": Load("64 KiB back", _ask(b"/large"), b"end"),
    "chunks": Load(
        "100 chunks of 64 bytes back", _ask(b"/chunks"), b"\r\n0\r\n\r\n", times=25
    ),
    "websocket": Load(
        "a message of 64 bytes, echoed",
        b"\x81\xc0\0\0\0\0" + _TEXT,
        b"\x81\x40" + _TEXT,
        _HANDSHAKE,
    ),
    "spin": Load("a hundred calls more than hello", _ask(b"/spin"), b"Hello, world!"),
}


class Client:
    """One connection, asked one thing at a time."""

    def __init__(self, url: str, load: Load) -> None:
        parts = urlsplit(url)
        assert parts.hostname and parts.port
        address = (parts.hostname, parts.port)
        self._load = load
        self._socket = socket.create_connection(address, TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        if load.handshake:
            self._socket.sendall(load.handshake)
            self._read(b"\r\n\r\n")

    def ask(self, times: int = 1) -> None:
        for _ in range(times):
            self.send()
            self.await_answer()

    def ask_for(self, path: bytes) -> bytes:
        """Ask for something else, whose text ends with the last word or a full stop."""
        self._socket.sendall(_ask(path))
        end = b"." if path.endswith(b"/stop") else path.rpartition(b"/")[2]
        return self._read(end).rpartition(b"\r\n\r\n")[2]

    def send(self) -> None:
        self._socket.sendall(self._load.request)

    def await_answer(self) -> None:
        self._read(self._load.end)

    def close(self) -> None:
        self._socket.close()

    def _read(self, end: bytes) -> bytes:
        data = b""

        while not data.endswith(end):
            part = self._socket.recv(1 << 20)

            if not part:
                raise ConnectionError(f"closed after {data!r}")

            data += part

        return data


@contextmanager
def connected(url: str, load: Load) -> Iterator[Client]:
    client = Client(url, load)

    try:
        yield client
    finally:
        client.close()


def ask_in_batches(node: Node, clients: list[Client], rounds: int) -> None:
    """Have all of them ask at once: the writer sees all requests before it writes."""
    for _ in range(rounds):
        node.eval("hornbeam_counts:suspend_writer()")

        for client in clients:
            client.send()

        node.eval(f"hornbeam_counts:resume_writer({len(clients)})")

        for client in clients:
            client.await_answer()
