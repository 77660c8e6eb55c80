# SPDX-License-Identifier: Apache-2.0
"""Thousands of connections that say nothing, what each takes; and a cold start."""

import asyncio
import time
from collections.abc import Callable

from bench import clients, measure
from bench.clients import Connection
from bench.figures import Sample
from bench.job import Case, Job, Options, hammer, served
from bench.jobs.http import HELLO
from bench.jobs.sockets import Echoer
from bench.servers import Failed, Server, Setup

SOCKETS = 5000
# What the first ones make, others share: code, caches, arenas.
FIRST = 200
SETTLE_POLL_S = 0.5
SETTLE_POLLS = 20
SETTLED_BYTES = 128 * 1024


class Idle(Connection):
    """Has had one answer."""

    def __init__(self, server: Server) -> None:
        super().__init__(clients.get(server, "/"), 200)


class IdleWebSocket(Echoer):
    """Has had one echo."""

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self.echoed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        was_open = self.opened.done()
        super().data_received(data)

        if not was_open and self.opened.done() and not self.opened.exception():
            self.transport.write(self.asked)

    def received(self, data: bytes) -> None:
        self._data += data

        if self._data == self.answer and not self.echoed.done():
            self.echoed.set_result(None)


def _keep_alive(server: Server, options: Options) -> Sample:
    async def measured() -> Sample:
        held, sample = await _grow(server, options, lambda: Idle(server))
        # The loop rests meanwhile, as the connections do.
        sample |= hammer(HELLO)(server, options)
        await _end(server, held)
        return sample

    return clients.run(measured())


def _websockets(server: Server, options: Options) -> Sample:
    async def measured() -> Sample:
        held, sample = await _grow(server, options, lambda: IdleWebSocket(server))
        await _end(server, held)
        return sample

    return clients.run(measured())


async def _grow(
    server: Server, options: Options, make: Callable[[], Connection]
) -> tuple[list[Connection], Sample]:
    """Open the connections; by how much the server has grown for each."""
    count = options.count(SOCKETS)
    held = await _open(server, make, FIRST)
    before = await _settled_bytes(server)
    held += await _open(server, make, count)
    after = await _settled_bytes(server)
    growth = {
        part: (size - before.get(part, 0)) / count / measure.KIB
        for part, size in after.items()
    }
    sample: Sample = {"idle_kib": sum(growth.values())}

    if measure.NODE in growth:
        sample |= {f"idle_{part}_kib": size for part, size in growth.items()}

    return held, sample


async def _open(
    server: Server, make: Callable[[], Connection], count: int
) -> list[Connection]:
    opened = await clients.open_all(server, make, count)
    echoes = [each.echoed for each in opened if isinstance(each, IdleWebSocket)]
    await asyncio.wait_for(asyncio.gather(*echoes), clients.CONNECT_TIMEOUT_S)
    return opened


async def _end(server: Server, held: list[Connection]) -> None:
    """A server that closes them holds no idle connections."""
    await asyncio.sleep(0.1)
    lost = sum(connection.closed.done() for connection in held)
    clients.close_all(held)

    if lost:
        raise Failed(f"{server.name} has closed {lost} of {len(held)} connections")


async def _settled_bytes(server: Server) -> dict[str, int]:
    """Proportional set size by part, once it does not change any more."""
    before = measure.memory_bytes(server.pids(), "Pss")

    for _ in range(SETTLE_POLLS):
        await asyncio.sleep(SETTLE_POLL_S)
        after = measure.memory_bytes(server.pids(), "Pss")

        if abs(sum(after.values()) - sum(before.values())) < SETTLED_BYTES:
            return after

        before = after

    return before


def _cold_start(server: Server, options: Options) -> Sample:
    """It has answered when it is given to us."""
    start_s = time.perf_counter() - server.spawned_s
    cpu_us = sum(measure.cpu_us(server.pids()).values())
    return {"start_s": start_s, "cpu_s": cpu_us / 1e6}


JOBS = (
    Job(
        "idle",
        "5,000 idle keep-alive connections, beside 64 that ask for hello; memory is"
        " PSS",
        "request",
        (Case(served(Setup("hello:app"), _keep_alive)),),
    ),
    Job(
        "idle-ws",
        "5,000 idle WebSockets that have had one echo each; memory is PSS",
        "connection",
        (Case(served(Setup("echoes:app"), _websockets)),),
    ),
    Job(
        "cold-start",
        "From the start of the process to the first answer of a FastAPI application",
        "start",
        (Case(served(Setup("items:app"), _cold_start)),),
    ),
)
