# SPDX-License-Identifier: Apache-2.0
"""Server-sent events to many clients."""

import asyncio
import re
import time

from bench import clients
from bench.clients import Connection
from bench.figures import Sample
from bench.job import Case, Costs, Job, Options, latencies, served
from bench.servers import Server, Setup

LISTENERS = 500
# As bench/apps/events.py has it.
INTERVAL_S = 0.1

_EVENT = re.compile(rb"data: (\d+)\n\n")


class Listener(Connection):
    """Takes how old each event is when it comes."""

    def __init__(self, server: Server) -> None:
        super().__init__(clients.get(server, "/events"), 200)
        self.ages_s: list[float] = []
        self._data = b""

    def received(self, data: bytes) -> None:
        now_ns = time.monotonic_ns()
        self._data += data
        end = 0

        for event in _EVENT.finditer(self._data):
            self.ages_s.append((now_ns - int(event[1])) / 1e9)
            end = event.end()

        self._data = self._data[end:]


def _events(server: Server, options: Options) -> Sample:
    return clients.run(_listen(server, options))


async def _listen(server: Server, options: Options) -> Sample:
    count = options.count(LISTENERS)
    listeners = await clients.open_all(server, lambda: Listener(server), count)

    # What came while others were still connecting is not of the measured time.
    for listener in listeners:
        listener.ages_s.clear()

    costs = Costs(server)
    began = time.perf_counter()
    await asyncio.sleep(options.seconds)
    seconds = time.perf_counter() - began
    ages_s = [age for listener in listeners for age in listener.ages_s]
    sample = costs.sample(len(ages_s)) | latencies(ages_s)
    # One who got nothing, in more than an interval.
    silent = sum(not listener.ages_s for listener in listeners)
    lost = sum(listener.closed.done() for listener in listeners)
    clients.close_all(listeners)
    wrong = max(silent if options.seconds > 2 * INTERVAL_S else 0, lost)
    return sample | {"rate": len(ages_s) / seconds, "wrong": wrong}


JOBS = (
    Job(
        "sse",
        "500 clients, an event every 0.1 s each, 5,000 per second in all; latency is"
        " from the making of an event to its receipt",
        "event",
        (Case(served(Setup("events:app"), _events)),),
    ),
)
