# SPDX-License-Identifier: Apache-2.0
"""Load for a server that is to refuse most of it; every answer is checked.

`Connection` sends requests for `/work/NUMBER` of `apps/busy.py`, one at a time. The
answer has to be that number, or a whole 503 with Retry-After that leaves the connection
open: anything else raises `Wrong`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol
from urllib.parse import urlsplit


class Wrong(AssertionError):
    """An answer that must not be."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[bytes, bytes]
    body: bytes


class Connection(asyncio.Protocol):
    """A connection of HTTP/1.1; make it with `connect`."""

    is_shared = False

    def __init__(self) -> None:
        self._buffer = b""
        self._unasked = b""
        self._answer: asyncio.Future[Answer] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, body = self._buffer.partition(b"\r\n\r\n")

        if not end:
            return

        status_line, *lines = head.split(b"\r\n")
        headers = dict(line.lower().split(b": ", 1) for line in lines)
        size = int(headers[b"content-length"])

        if len(body) < size:
            return

        waiting, self._answer = self._answer, None

        if waiting is None or len(body) > size:
            self._unasked = self._buffer

        self._buffer = b""

        if waiting is not None and not waiting.done():
            waiting.set_result(Answer(int(status_line.split()[1]), headers, body))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(Wrong(f"closed instead of an answer: {exc}"))

    def get(self, target: str) -> asyncio.Future[Answer]:
        assert self._transport is not None and self._answer is None

        if self._unasked:
            raise Wrong(f"came unasked: {self._unasked!r}")

        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        return self._answer

    async def work(self, number: int, milliseconds: int) -> bool:
        """Ask for work; whether it was done, rather than refused."""
        return check(await self.get(f"/work/{number}?{milliseconds}"), number)

    def leave(self, *, resets: bool = False) -> None:
        """Close, whatever is under way."""
        assert self._transport is not None
        (self._transport.abort if resets else self._transport.close)()


def check(answer: Answer, number: int) -> bool:
    """Whether the work was done; False: it was refused as it should be."""
    if answer.status == 200 and answer.body == str(number).encode():
        return True

    is_refusal = (
        answer.status == 503
        and answer.headers.get(b"retry-after") == b"1"
        and b"connection" not in answer.headers
        and b"busy" in answer.body
    )

    if not is_refusal:
        raise Wrong(f"to {number}: {answer}")

    return False


async def connect(url: str) -> Connection:
    parts = urlsplit(url)
    assert parts.hostname is not None and parts.port is not None
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(Connection, parts.hostname, parts.port)
    return connection


@dataclass
class Result:
    """What came of a load."""

    seconds: float = 0.0
    served_in_time: int = 0
    served_ms: list[float] = field(default_factory=list)
    refused_ms: list[float] = field(default_factory=list)

    @property
    def served(self) -> int:
        return len(self.served_ms)

    @property
    def refused(self) -> int:
        return len(self.refused_ms)

    @property
    def offered(self) -> int:
        return len(self.served_ms) + len(self.refused_ms)

    @property
    def served_per_second(self) -> float:
        return self.served_in_time / self.seconds

    def add(self, later: Result) -> None:
        """Count what came after it as well."""
        self.seconds += later.seconds
        self.served_in_time += later.served_in_time
        self.served_ms += later.served_ms
        self.refused_ms += later.refused_ms

    def __str__(self) -> str:
        served, refused = (
            f"(p50 {percentile(times, 50):.1f} ms, p99 {percentile(times, 99):.1f} ms)"
            for times in (self.served_ms, self.refused_ms)
        )
        return (
            f"{self.offered} offered in {self.seconds:.1f} s, {self.served} served "
            f"{served}, {self.served_per_second:.0f} a second, {self.refused} refused "
            f"{refused}"
        )


def percentile(values: list[float], percent: int) -> float:
    """A percentile; 0 of nothing."""
    ordered = sorted(values) or [0.0]
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


class Client(Protocol):
    """What a load sends its requests on."""

    is_shared: bool

    async def work(self, number: int, milliseconds: int) -> bool: ...

    def leave(self) -> None: ...


Connect = Callable[[], Awaitable[Client]]


class Load:
    """Requests for work, each with a number of its own.

    Args:
        connect: makes a connection that is free for one request, or for several at a
            time: then it goes round.
        milliseconds: how long one takes.
    """

    def __init__(self, connect: Connect, milliseconds: int) -> None:
        self._connect = connect
        self._milliseconds = milliseconds
        self._numbers: Iterator[int] = count(1)
        self._idle: deque[Client] = deque()

    async def connect(self, count: int) -> None:
        """Have so many connections; others are made where these don't do."""
        self._idle.extend([await self._connect() for _ in range(count)])

    async def closed(self, clients: int, seconds: float) -> Result:
        """So many clients, each of which asks again when it has its answer."""
        result = Result()
        began = time.monotonic()

        async def run() -> None:
            while time.monotonic() - began < seconds:
                await self._ask(time.monotonic(), result)

        await asyncio.gather(*(run() for _ in range(clients)))
        result.seconds = time.monotonic() - began
        result.served_in_time = len(result.served_ms)
        return result

    async def open(self, per_second: float, seconds: float) -> Result:
        """Requests that come when they come, whatever became of earlier ones.

        Times count from when each was due.
        """
        result = Result()
        tasks: set[asyncio.Task[None]] = set()
        failed: list[BaseException] = []
        began = time.monotonic()

        def settle(task: asyncio.Task[None]) -> None:
            tasks.discard(task)

            if (exc := task.exception()) is not None:
                failed.append(exc)

        for number in range(int(per_second * seconds)):
            due = began + number / per_second

            if (early := due - time.monotonic()) > 0:
                await asyncio.sleep(early)

            task = asyncio.ensure_future(self._ask(due, result))
            tasks.add(task)
            task.add_done_callback(settle)

        # What was served by now belongs to the time of the load, the rest does not.
        result.seconds = time.monotonic() - began
        result.served_in_time = len(result.served_ms)
        await asyncio.gather(*tasks, return_exceptions=True)

        if failed:
            raise failed[0]

        return result

    def close(self) -> None:
        for connection in self._idle:
            connection.leave()

    async def _ask(self, due: float, result: Result) -> None:
        connection = self._idle.pop() if self._idle else await self._connect()

        if connection.is_shared:
            self._idle.appendleft(connection)

        served = await connection.work(next(self._numbers), self._milliseconds)

        if not connection.is_shared:
            self._idle.append(connection)

        kind = result.served_ms if served else result.refused_ms
        kind.append((time.monotonic() - due) * 1000)
