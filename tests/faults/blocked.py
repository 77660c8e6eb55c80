# SPDX-License-Identifier: Apache-2.0
"""Requests at a steady rate while one in a hundred blocks its worker for half a second.

    make soak SOAK=blocked

With two workers that is half of what two cores can do. A request counts from when it
was due. On a machine that does nothing else the 99th percentile of the others is to be
below 50 ms: `--p99 50`.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from e2e.raw import Connection, request
from faults.kills import serving
from faults.load import SAFE, Kind, Load, Result
from node import Node

ONE_IN = 100
BLOCK_MS = 500
RATE = 188.0
"""Two workers' half of a core each, at 0.3 ms for each of the other requests."""

P99_MS = 250.0
"""Half of what it takes to wait for a blocked worker: the machine may be busy."""


def run(node: Node, folder: Path, *, rate: float, seconds: float) -> Result:
    """Both kinds of requests; gives what became of the quick ones."""
    with serving(node, folder, "workers => 2") as server:

        async def load() -> Result:
            async with _blocking(server.url, ONE_IN / rate):
                mix: dict[Kind, float] = {"GET": 0.9, "POST": 0.1}
                return await Load(server.url, rate=rate, seconds=seconds, mix=mix).run()

        return asyncio.run(load())


@asynccontextmanager
async def _blocking(url: str, every_seconds: float) -> AsyncIterator[None]:
    async def block_steadily() -> None:
        asked = []

        while not is_over.is_set():
            asked.append(asyncio.create_task(asyncio.to_thread(_block, url)))
            await asyncio.sleep(every_seconds)

        await asyncio.gather(*asked)

    is_over = asyncio.Event()
    blocking = asyncio.create_task(block_steadily())
    yield
    is_over.set()
    await blocking


def _block(url: str) -> None:
    with Connection(url) as client:
        client.send(request("POST", f"/block/{BLOCK_MS}"))
        assert client.read_response("POST").status == 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=RATE)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--p99", type=float, default=P99_MS, help="at most so many ms")
    args = parser.parse_args()

    with Node() as node, TemporaryDirectory() as folder:
        result = run(node, Path(folder), rate=args.rate, seconds=args.seconds)

    p99_ms = result.quantile_ms(0.99)
    sys.stdout.write(f"{result}\n99th percentile {p99_ms:.1f} ms\n")

    if failures := result.failures([*SAFE, "POST"]):
        sys.exit(f"failed: {failures}: {result.examples}")

    if p99_ms > args.p99:
        sys.exit(f"the 99th percentile is above {args.p99:.0f} ms")


if __name__ == "__main__":
    main()
