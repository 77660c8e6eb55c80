# SPDX-License-Identifier: Apache-2.0
"""A client of our own for chunked responses: each is read to its end and compared.

wrk counts no response that is not over when time is up, which are many where each takes
long; and it does not look at them.
"""

import socket
import threading
import time
from dataclasses import dataclass, field

from bench.load import TIMEOUT_S
from bench.servers import HOST, Server

READ_BYTES = 256 * 1024
LAST_CHUNK = b"\r\n0\r\n\r\n"


@dataclass
class Transfers:
    """What was got, and until the last was over."""

    seconds: float = 0.0
    wrong: int = 0
    times_s: list[float] = field(default_factory=list)
    """Of the right ones."""


def download_for(
    server: Server, path: str, body: bytes, connections: int, seconds: float
) -> Transfers:
    """Download on so many connections; none begins when time is up, all end.

    Each has one response at least.
    """
    got = Transfers()
    lock = threading.Lock()
    began = time.perf_counter()
    request = f"GET {path} HTTP/1.1\r\nHost: {HOST}:{server.port}\r\n\r\n".encode()

    def work() -> None:
        while True:
            times_s, failed = _download(server, request, body, began + seconds)

            with lock:
                got.times_s += times_s
                got.wrong += failed

            if time.perf_counter() - began >= seconds:
                return

    threads = [threading.Thread(target=work) for _ in range(connections)]

    for thread in threads:
        thread.start()

    for thread in threads:
        thread.join()

    got.seconds = time.perf_counter() - began
    return got


def _download(
    server: Server, request: bytes, body: bytes, until: float
) -> tuple[list[float], bool]:
    """Ask on one connection until it is time or an answer is wrong."""
    times_s: list[float] = []

    try:
        with socket.create_connection((HOST, server.port), TIMEOUT_S) as connection:
            while True:
                began = time.perf_counter()
                connection.sendall(request)

                if not is_right(_read(connection), body):
                    return times_s, True

                now = time.perf_counter()
                times_s.append(now - began)

                if now >= until:
                    return times_s, False
    except OSError:
        return times_s, True


def _read(connection: socket.socket) -> bytes:
    """A response up to its last chunk, or what there was of it."""
    data = bytearray()

    while not data.endswith(LAST_CHUNK):
        part = connection.recv(READ_BYTES)

        if not part:
            break

        data += part

    return bytes(data)


def is_right(response: bytes, body: bytes) -> bool:
    """Whether that is a chunked response 200 with that body, however it is cut."""
    head, _, chunks = response.partition(b"\r\n\r\n")
    return head.startswith(b"HTTP/1.1 200 ") and dechunk(chunks) == body


def dechunk(data: bytes) -> bytes | None:
    """The body of a chunked message without trailers; None where it is malformed."""
    parts: list[bytes] = []
    position = 0

    while True:
        end = data.find(b"\r\n", position)

        try:
            size = int(data[position:end], 16) if end >= 0 else -1
        except ValueError:
            return None

        begin = end + 2
        position = begin + size + 2

        if size < 0 or data[begin + size : position] != b"\r\n":
            return None

        if size == 0:
            return b"".join(parts) if position == len(data) else None

        parts.append(data[begin : begin + size])
