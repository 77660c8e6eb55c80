# SPDX-License-Identifier: Apache-2.0
"""Requests at a steady rate, whatever becomes of those before.

A request counts from when it was due: one that has to wait for a connection, because
others are stuck, has waited as a user would have.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from bench import clients
from bench.figures import Sample
from bench.job import latencies
from bench.servers import HOST, Server

REQUEST_TIMEOUT_S = 10.0
# As bench/apps/mixed.py has it: the process id of the worker.
ANSWER_DIGITS = 10


_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Answers:
    """What came back."""

    asked: int = 0
    failed: int = 0
    times_s: list[float] = field(default_factory=list)
    workers: set[int] = field(default_factory=set)
    """Process ids of those who have answered."""

    def sample(self) -> Sample:
        slowest = {"max_ms": max(self.times_s) * 1000} if self.times_s else {}
        return latencies(self.times_s) | slowest


async def ask(
    server: Server,
    answers: Answers,
    *,
    per_second: float,
    connections: int,
    goes_on: Callable[[], bool],
) -> None:
    """Ask for as long as `goes_on` says, and wait for all answers."""
    due: asyncio.Queue[float | None] = asyncio.Queue()
    workers = [
        asyncio.create_task(_serve(server, due, answers)) for _ in range(connections)
    ]
    next_s = time.perf_counter()

    while goes_on():
        due.put_nowait(next_s)
        answers.asked += 1
        next_s += 1 / per_second
        await asyncio.sleep(max(0.0, next_s - time.perf_counter()))

    for _ in workers:
        due.put_nowait(None)

    await asyncio.gather(*workers)


async def _serve(
    server: Server, due: "asyncio.Queue[float | None]", answers: Answers
) -> None:
    connection = _Connection(server)

    while (due_s := await due.get()) is not None:
        pid = await connection.try_ask()

        if pid is None:
            answers.failed += 1
        else:
            answers.times_s.append(time.perf_counter() - due_s)
            answers.workers.add(pid)

    connection.close()


class _Connection:
    """Asks the mixed application for its quick answer; connects when it must."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._request = clients.get(server, "/")
        self._streams: _Streams | None = None

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    async def try_ask(self) -> int | None:
        """Return the process id that the answer tells; None where there is none."""
        # A connection that the server has closed is no place for a request.
        if self._streams is not None and self._streams[0].at_eof():
            self.close()

        try:
            return await asyncio.wait_for(self._ask(), REQUEST_TIMEOUT_S)
        # asyncio's own until Python 3.11.
        except (OSError, EOFError, ValueError, asyncio.TimeoutError):
            self.close()
            return None

    async def _ask(self) -> int:
        if self._streams is None:
            self._streams = await asyncio.open_connection(HOST, self._server.port)

        reader, writer = self._streams
        writer.write(self._request)
        head = await reader.readuntil(b"\r\n\r\n")

        if not head.startswith(b"HTTP/1.1 200 "):
            raise ValueError(f"answered {head[:100]!r}")

        pid = int(await reader.readexactly(ANSWER_DIGITS))

        if b"connection: close" in head.lower():
            self.close()

        return pid
