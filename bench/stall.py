# SPDX-License-Identifier: Apache-2.0
"""Measure what one request in a hundred that blocks the event loop does to the others.

Usage: bench/stall.py [--seconds S] [--rate R] [--servers hornbeam,uvicorn]

Two workers. Requests are sent at a fixed rate, whatever becomes of the earlier ones,
over connections that are kept open and used in turn; a latency counts from when the
request was due. Every hundredth keeps its worker's loop for 500 ms: at the default of
150 a second, one of the two workers is blocked for three quarters of the time, and
never should both be. The others have a free worker all the time, and wait if they are
not sent there.
"""

import argparse
import asyncio
import sys
import time
from collections import deque

from hello import running

BURN_EVERY = 100
CONNECTIONS = 32
SERVERS = ("hornbeam", "uvicorn")


class Client:
    """An open-loop client over a pool of connections."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.idle: deque[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = deque()
        self.latencies: list[float] = []
        self.failures = 0

    async def request(self, path: str, due: float) -> None:
        try:
            if self.idle:
                reader, writer = self.idle.popleft()
            else:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)

            writer.write(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(2)
        except (OSError, asyncio.IncompleteReadError):
            self.failures += 1
            return

        if not head.startswith(b"HTTP/1.1 200"):
            self.failures += 1

        self.idle.append((reader, writer))

        if path != "/burn":
            self.latencies.append(time.perf_counter() - due)

    async def run(self, rate: float, seconds: float) -> None:
        for _ in range(CONNECTIONS):
            self.idle.append(await asyncio.open_connection("127.0.0.1", self.port))

        began = time.perf_counter()
        tasks = set()

        for number in range(int(rate * seconds)):
            due = began + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            path = "/burn" if number % BURN_EVERY == BURN_EVERY - 1 else "/"
            task = asyncio.create_task(self.request(path, due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        await asyncio.gather(*tasks)

        for _, writer in self.idle:
            writer.close()


def report(server: str, client: Client) -> None:
    ordered = sorted(client.latencies)

    def at(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000

    sys.stdout.write(
        f"{server:9} {len(ordered)} others: p50 {at(0.5):.1f} ms, p90 {at(0.9):.1f},"
        f" p99 {at(0.99):.1f}, p99.9 {at(0.999):.1f}, max {ordered[-1] * 1000:.1f};"
        f" failed: {client.failures}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rate", type=float, default=150)
    parser.add_argument("--servers", default=",".join(SERVERS))
    args = parser.parse_args()

    for index, server in enumerate(args.servers.split(",")):
        port = 18200 + index

        with running(server, port, 2, app="stall_app:app"):
            client = Client(port)
            asyncio.run(client.run(args.rate, args.seconds))

        report(server, client)


if __name__ == "__main__":
    main()
