# SPDX-License-Identifier: Apache-2.0
"""Many WebSockets that echo for a while; every message is checked.

    make soak SOAK=echo

Each socket has a few messages under way all the time, of text and bytes and of many
sizes, and wants each of them back once, in order, to the last bit. `test_soak.py` has
the short version.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import resource
import sys
import time
from collections import deque
from contextlib import AbstractContextManager
from dataclasses import dataclass

from websockets.asyncio.client import ClientConnection

from e2e.reference import serving_any
from e2e.sockets import connect_later
from node import ROOT, Node

UNDER_WAY = 4
"""Messages of one socket that are sent and not back yet."""

OPENING = 50
"""Handshakes at a time."""

GRACE_SECONDS = 60.0
"""How long the last echoes and the closing may take; one that is lost runs into it."""

# Most messages are short; some are longer than a window.
SIZES = (0, 1, 5, 20, 100, 125, 126, 500, 2000, 65535, 65536, 100_000)
WEIGHTS = (5, 10, 20, 20, 20, 5, 5, 5, 5, 0.02, 0.02, 0.02)


@dataclass
class Result:
    """What a run has seen; a message that was wrong has ended it."""

    sockets: int
    messages: int = 0
    payload_bytes: int = 0
    seconds: float = 0.0
    slowest_ms: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.sockets} sockets, {self.messages} messages, "
            f"{self.payload_bytes / 1e6:.1f} MB each way in {self.seconds:.1f} s "
            f"({self.messages / self.seconds:.0f} messages/s); none lost, doubled, "
            f"changed or out of order; slowest echo {self.slowest_ms:.0f} ms"
        )


class Wrong(AssertionError):
    """An echo that is not what was sent."""


async def soak(url: str, path: str, sockets: int, seconds: float, seed: int) -> Result:
    """Echo on so many sockets for so long.

    Raises:
        Wrong: an echo was doubled, changed or out of order.
        TimeoutError: one was lost.
    """
    result = Result(sockets)
    opening = asyncio.Semaphore(OPENING)
    clients = [
        Client(number, random.Random(seed + number), result)
        for number in range(sockets)
    ]
    opened = await asyncio.gather(
        *(open_one(url, path, opening) for _ in range(sockets))
    )
    runs = (
        client.run(socket, seconds)
        for client, socket in zip(clients, opened, strict=True)
    )
    await asyncio.wait_for(asyncio.gather(*runs), seconds + GRACE_SECONDS)
    return result


async def open_one(url: str, path: str, opening: asyncio.Semaphore) -> ClientConnection:
    async with opening:
        return await connect_later(url, path, ping_interval=None, compression=None)


class Client:
    """One socket of the run."""

    def __init__(self, number: int, chance: random.Random, result: Result) -> None:
        self._number = number
        self._chance = chance
        self._result = result
        self._sent: deque[tuple[str | bytes, float]] = deque()
        self._count = 0

    async def run(self, socket: ClientConnection, seconds: float) -> None:
        begin = time.monotonic()

        while time.monotonic() - begin < seconds:
            while len(self._sent) < UNDER_WAY:
                await self._send(socket)

            await self._check(socket)

        while self._sent:
            await self._check(socket)

        self._result.seconds = max(self._result.seconds, time.monotonic() - begin)
        await self._end(socket)

    async def _send(self, socket: ClientConnection) -> None:
        self._count += 1
        (size,) = self._chance.choices(SIZES, WEIGHTS)
        filling = self._chance.randbytes((size + 1) // 2).hex()[:size]
        message: str | bytes = f"{self._number} {self._count} ü{filling}"

        if self._chance.random() < 0.5:
            message = str(message).encode()

        self._sent.append((message, time.monotonic()))
        self._result.payload_bytes += len(message)
        await socket.send(message)

    async def _check(self, socket: ClientConnection) -> None:
        echo = await socket.recv()
        message, sent_at = self._sent.popleft()

        if echo != message:
            raise Wrong(f"sent {message[:60]!r}, got {echo[:60]!r}")

        self._result.messages += 1
        delay_ms = (time.monotonic() - sent_at) * 1000
        self._result.slowest_ms = max(self._result.slowest_ms, delay_ms)

    async def _end(self, socket: ClientConnection) -> None:
        """Close, and see that nothing comes that was not asked for."""
        await socket.close()

        async for more in socket:
            raise Wrong(f"got {more[:60]!r}, which was not sent")

        if socket.close_code != 1000:
            raise Wrong(f"the socket ended with {socket.close_code}")


def serving_echoes(node: Node, options: str) -> AbstractContextManager[str]:
    """Serve the application with which sockets are measured, too."""
    return serving_any(node, "echoes:app", options, app_dir=ROOT / "bench" / "apps")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sockets", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    # The node inherits it. Each socket is a file at either end.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    options = f"#{{workers => {args.workers}}}"

    with Node() as node, serving_echoes(node, options) as url:
        result = asyncio.run(soak(url, "/", args.sockets, args.seconds, seed=args.seed))

    sys.stdout.write(f"{result}\n")


if __name__ == "__main__":
    main()
