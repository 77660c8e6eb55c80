# SPDX-License-Identifier: Apache-2.0
"""A client that sends requests at a steady rate and checks every answer.

Requests are sent when they are due, whether or not earlier ones were answered (an open
loop), each on a connection of its own for as long as it lasts; connections are kept and
used again. Each request has a token that the application (`app.py`) gives back, so that
an answer to another request is found, and so is half a one.

    load = Load(url, rate=2000, seconds=60)
    result = asyncio.run(load.run())
    assert result.failures(SAFE) == {}
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

Kind = Literal["GET", "HEAD", "OPTIONS", "POST", "PUT", "STREAM"]
Outcome = Literal[
    "ok", "502", "503", "504", "cut", "reset", "wrong", "late", "unconnected"
]

SAFE: tuple[Kind, ...] = ("GET", "HEAD", "OPTIONS")
"""The requests that the server may send to another worker."""

MIX: Mapping[Kind, float] = {
    "GET": 0.8,
    "HEAD": 0.05,
    "OPTIONS": 0.05,
    "POST": 0.05,
    "STREAM": 0.05,
}

LATE_SECONDS = 15.0
"""An answer that takes longer is none."""

_TICK_SECONDS = 0.002
_SHOWN = 5

_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n")
_TOKEN = re.compile(rb"\r\nx-token: ([^\r]*)\r\n")
_CHUNKED = b"\r\ntransfer-encoding: chunked\r\n"
_CLOSES = b"\r\nconnection: close\r\n"


@dataclass
class Result:
    """What became of each request."""

    counts: Counter[tuple[Kind, Outcome]] = field(default_factory=Counter)
    delays_ms: list[float] = field(default_factory=list)
    examples: dict[Outcome, list[str]] = field(default_factory=dict)
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    connections: int = 0

    def total(self) -> int:
        return sum(self.counts.values())

    def failures(self, kinds: Collection[Kind]) -> dict[Outcome, int]:
        """What was not `ok`, of requests of these kinds."""
        failed: Counter[Outcome] = Counter()

        for (kind, outcome), count in self.counts.items():
            if kind in kinds and outcome != "ok":
                failed[outcome] += count

        return dict(failed)

    def count(self, outcome: Outcome) -> int:
        return sum(n for (_, seen), n in self.counts.items() if seen == outcome)

    def quantile_ms(self, part: float) -> float:
        ordered = sorted(self.delays_ms)
        return ordered[min(len(ordered) - 1, int(len(ordered) * part))]

    def add(self, kind: Kind, outcome: Outcome, delay_ms: float, shown: str) -> None:
        self.counts[kind, outcome] += 1
        self.delays_ms.append(delay_ms)

        if outcome != "ok":
            examples = self.examples.setdefault(outcome, [])

            if len(examples) < _SHOWN:
                examples.append(shown)

    def __str__(self) -> str:
        counts = ", ".join(
            f"{kind} {outcome} {count}"
            for (kind, outcome), count in sorted(self.counts.items())
        )
        return (
            f"{self.total()} requests in {self.seconds:.1f} s "
            f"({self.total() / self.seconds:.0f}/s) on {self.connections} connections: "
            f"{counts}; p50 {self.quantile_ms(0.5):.1f} ms, "
            f"p99 {self.quantile_ms(0.99):.1f} ms, worst {self.quantile_ms(1):.0f} ms; "
            f"the client took {self.cpu_seconds / self.seconds:.0%} of a core"
        )


class Load:
    """One run.

    Args:
        url: of a server with `app.py`.
        rate: requests a second.
        seconds: how long they are sent.
        mix: how often each kind comes.
        seed: of the choice.
    """

    def __init__(
        self,
        url: str,
        *,
        rate: float,
        seconds: float,
        mix: Mapping[Kind, float] = MIX,
        seed: int = 0,
    ) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None and parts.port is not None
        self._host, self._port = parts.hostname, parts.port
        self._rate = rate
        self._seconds = seconds
        self._kinds, self._weights = list(mix), list(mix.values())
        self._chance = random.Random(seed)
        self._idle: deque[_Client] = deque()
        self._clients: set[_Client] = set()
        self._under_way: set[Exchange] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._all_done = asyncio.Event()
        self.result = Result()

    async def run(self) -> Result:
        """Send all, wait for all, close all."""
        begin, cpu = time.monotonic(), time.process_time()
        count = int(self._rate * self._seconds)
        sent = 0

        while sent < count:
            due = min(count, int((time.monotonic() - begin) * self._rate) + 1)

            for kind in self._choose(due - sent):
                self._begin(Exchange(kind, begin + sent / self._rate, self._ended))
                sent += 1

            await asyncio.sleep(_TICK_SECONDS)

        while self._under_way:
            self._all_done.clear()
            await self._all_done.wait()

        for client in self._clients:
            client.close()

        await asyncio.gather(*(client.closed.wait() for client in self._clients))

        self.result.seconds = time.monotonic() - begin
        self.result.cpu_seconds = time.process_time() - cpu
        return self.result

    def is_answered(self, until: float) -> bool:
        """Whether all that were due by then are over; for other threads."""
        return all(exchange.due > until for exchange in list(self._under_way))

    def _choose(self, count: int) -> list[Kind]:
        return self._chance.choices(self._kinds, self._weights, k=count)

    def _begin(self, exchange: Exchange) -> None:
        self._under_way.add(exchange)
        exchange.start_timer()

        while self._idle:
            # The oldest first, so that none is idle long enough to be closed.
            client = self._idle.popleft()

            if client.is_open():
                client.send(exchange)
                return

        task = asyncio.create_task(self._connect(exchange))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, exchange: Exchange) -> None:
        loop = asyncio.get_running_loop()

        try:
            _, client = await loop.create_connection(_Client, self._host, self._port)
        except OSError as exc:
            exchange.end("unconnected", repr(exc), None)
            return

        self.result.connections += 1
        # What was closed in between is of no interest at the end.
        self._clients = {each for each in self._clients if each.is_open()} | {client}
        client.send(exchange)

    def _ended(
        self, exchange: Exchange, outcome: Outcome, shown: str, client: _Client | None
    ) -> None:
        delay_ms = (time.monotonic() - exchange.due) * 1000
        self.result.add(exchange.kind, outcome, delay_ms, shown)
        self._under_way.discard(exchange)

        if client is not None and client.is_open():
            self._idle.append(client)

        if not self._under_way:
            self._all_done.set()


Ended = Callable[["Exchange", Outcome, str, "_Client | None"], None]

_tokens = iter(range(1, 1 << 62))


class Exchange:
    """A request and what becomes of it, which is told once."""

    def __init__(self, kind: Kind, due: float, ended: Ended) -> None:
        self.kind: Kind = kind
        self.due = due
        self.token = b"%x-%x" % (next(_tokens), random.getrandbits(32))
        self._ended: Ended | None = ended
        self._timer: asyncio.TimerHandle | None = None
        self._client: _Client | None = None

    def start_timer(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(LATE_SECONDS, self._late)

    def request(self, client: _Client) -> bytes:
        """The bytes that go out."""
        self._client = client
        method = b"GET" if self.kind == "STREAM" else self.kind.encode()
        path = b"/stream/" if self.kind == "STREAM" else b"/echo/"
        head = b"%b %b%b HTTP/1.1\r\nHost: a\r\n" % (method, path, self.token)

        if self.kind not in ("POST", "PUT"):
            return head + b"\r\n"

        return head + b"Content-Length: %d\r\n\r\n%b" % (len(self.token), self.token)

    def end(self, outcome: Outcome, shown: str, client: _Client | None) -> None:
        ended, self._ended = self._ended, None

        if self._timer is not None:
            self._timer.cancel()

        if ended is not None:
            ended(self, outcome, shown, client)

    def judge(self, status: int, head: bytes, body: bytes) -> Outcome:
        """What a complete answer is worth."""
        if status != 200:
            known: dict[int, Outcome] = {502: "502", 503: "503", 504: "504"}
            return known.get(status, "wrong")

        token = _TOKEN.search(head)
        expected = self.expected()
        is_good = token is not None and token[1] == self.token and body == expected
        return "ok" if is_good else "wrong"

    def expected(self) -> bytes:
        """The body of a good answer."""
        if self.kind == "HEAD":
            return b""

        if self.kind == "STREAM":
            return b"".join(b"%d %b\n" % (number, self.token) for number in range(3))

        return self.kind.encode() + b" " + self.token

    def _late(self) -> None:
        if self._client is not None:
            self._client.abort()

        self.end("late", f"{self.kind} {self.token!r}", None)


class _Client(asyncio.Protocol):
    """One connection, with one request at a time."""

    def __init__(self) -> None:
        self._exchange: Exchange | None = None
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self.closed = asyncio.Event()

    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def send(self, exchange: Exchange) -> None:
        if self._transport is None:
            exchange.end("reset", "closed just after it was opened", None)
            return

        self._exchange = exchange
        self._transport.write(exchange.request(self))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        self._exchange = None

        if self._transport is not None:
            self._transport.abort()

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.closed.set()
        exchange, self._exchange = self._exchange, None

        if exchange is not None:
            # Of a stream this is how it says that it is not complete.
            begun = b"\r\n\r\n" in self._buffer
            shown = f"{exchange.kind} {exc!r} after {self._buffer[-200:]!r}"
            exchange.end("cut" if begun else "reset", shown, None)

    def data_received(self, data: bytes) -> None:
        self._buffer += data

        if self._exchange is None:
            # Nothing was asked for.
            self.abort()
            return

        split = self._split(self._exchange.kind)

        if split is None:
            return

        head, body, rest = split
        self._finish(head, body, rest)

    # Internal.

    def _split(self, kind: Kind) -> tuple[bytes, bytes, bytes] | None:
        """Head, body and what follows, once the response is complete."""
        end = self._buffer.find(b"\r\n\r\n")

        if end < 0:
            return None

        head, rest = self._buffer[: end + 2], self._buffer[end + 4 :]

        if _CHUNKED in head:
            return _split_chunked(head, rest)

        length = _LENGTH.search(head)
        size = 0 if kind == "HEAD" or length is None else int(length[1])
        return None if len(rest) < size else (head, rest[:size], rest[size:])

    def _finish(self, head: bytes, body: bytes, rest: bytes) -> None:
        exchange, self._exchange = self._exchange, None
        assert exchange is not None
        status = _STATUS.match(head)
        outcome: Outcome = "wrong"

        if status is not None and not rest:
            outcome = exchange.judge(int(status[1]), head, body)

        shown = f"{exchange.kind} {exchange.token!r}: {self._buffer[:400]!r}"
        self._buffer = b""

        if (_CLOSES in head or outcome == "wrong") and self._transport is not None:
            self._transport.close()

        exchange.end(outcome, shown, self)


def _split_chunked(head: bytes, rest: bytes) -> tuple[bytes, bytes, bytes] | None:
    body = b""

    while (end := rest.find(b"\r\n")) >= 0:
        size = int(rest[:end], 16)

        if len(rest) < end + 4 + size:
            return None

        body += rest[end + 2 : end + 2 + size]
        rest = rest[end + 4 + size :]

        if size == 0:
            return head, body, rest

    return None
