# SPDX-License-Identifier: Apache-2.0
"""Mixed traffic with aborts, then with reloads and kills as well: what is left of it?

    PYTHONPATH=tests .venv/bin/python -m overload.soak_leaks --seconds 7200

Half of the time the workers live, so that what they leak is seen; in the other half
they are reloaded and killed, and servers come and go. `test_leaks.py` has the short
version.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import resource
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import count

from websockets.asyncio.client import connect as connect_websocket
from websockets.exceptions import WebSocketException

from e2e.observe import Server
from e2e.support import serving
from node import Node
from overload import census
from overload.client import Wrong, connect
from overload.http2_client import connect_http2
from overload.soak_overload import TESTS_DIR

AT_A_TIME = 8
"""Clients of each kind."""

OPTIONS = (
    "#{workers => 2, max_concurrency => 20, max_queue => 20, keepalive => 1000,"
    " shutdown_timeout => 2000, send_timeout => 2000}"
)

WARM_UP_SECONDS = 2.0
RELOAD_SECONDS = 1.0
KILL_SECONDS = 0.7

Counts = Counter[str]


async def ask(url: str, chance: random.Random) -> str:
    """A few requests on one connection."""
    client = await connect(url)

    try:
        for number in range(chance.randrange(1, 5)):
            await client.work(number, chance.randrange(3))
    finally:
        client.leave()

    return "asked"


async def ask_http2(url: str, chance: random.Random) -> str:
    """Several at a time, some of which are cancelled."""
    client = await connect_http2(url)

    try:
        work = [client.work(number, 2) for number in range(5)]
        cancelled = client.send("/trickle"), client.send("/hold")
        await asyncio.gather(*work)

        for stream_id in cancelled:
            client.cancel(stream_id)
    finally:
        client.leave(resets=chance.random() < 0.5)

    return "asked http2"


ABORTED = (
    b"GET /hold HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /trickle HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /work/1?50 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /work/1?50 HTTP/1.1\r\nHost: x\r\n\r\nGET /hold HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nhalf",
    b"POST /upload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nha",
    b"GET /work/1 HTTP/1.1\r\nHost:",
    b"rubbish\r\n\r\n",
)


async def abort(url: str, chance: random.Random) -> str:
    """Begin something, and leave."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))

    try:
        writer.write(chance.choice(ABORTED))
        await asyncio.wait_for(reader.read(1000), chance.choice((0.001, 0.02, 0.1)))
    except TimeoutError:
        pass
    except asyncio.TimeoutError:  # Another one before Python 3.11.
        pass
    finally:
        if chance.random() < 0.5:
            writer.transport.abort()
        else:
            writer.close()

    return "aborted"


async def talk(url: str, chance: random.Random) -> str:
    """Over a WebSocket, with or without a goodbye."""
    client = await connect_websocket(
        url.replace("http", "ws"), proxy=None, compression=None, close_timeout=1
    )

    try:
        message = chance.randbytes(chance.choice((1, 100, 100_000)))
        await client.send(message)

        if await client.recv() != message:
            raise AssertionError("another echo")
    finally:
        if chance.random() < 0.5:
            client.transport.abort()
        else:
            await client.close()

    return "talked"


CLIENTS: tuple[Callable[[str, random.Random], Awaitable[str]], ...] = (
    ask,
    ask_http2,
    abort,
    talk,
)


async def traffic(url: str, seconds: float, seed: int) -> Counts:
    """All kinds of clients for so long; what fails because of faults is counted."""
    counts: Counts = Counter()
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds

    async def run(
        client: Callable[[str, random.Random], Awaitable[str]], chance: random.Random
    ) -> None:
        while loop.time() < end:
            try:
                counts[await client(url, chance)] += 1
            except (Wrong, OSError, WebSocketException):  # noqa: PERF203  # each fails by itself
                counts[f"{client.__name__} failed"] += 1

    seeds = count(seed)
    await asyncio.gather(
        *(
            run(client, random.Random(next(seeds)))
            for client in CLIENTS
            for _ in range(AT_A_TIME)
        )
    )
    return counts


async def turmoil(server: Server, seconds: float, seed: int) -> Counts:
    """Traffic while workers are reloaded and killed, and servers come and go."""
    loop = asyncio.get_running_loop()
    chance = random.Random(seed)
    counts: Counts = Counter()
    running = asyncio.ensure_future(traffic(server.url, seconds, seed))

    async def repeat(pause: float, action: Callable[[], str]) -> None:
        while not running.done():
            counts[await loop.run_in_executor(None, action)] += 1
            await asyncio.sleep(pause)

    def reload() -> str:
        answer = server.node.eval(f"hornbeam:reload({server.name})")
        return "reloaded" if answer == "ok" else "reload failed"

    def kill() -> str:
        # None may be there, or not any more.
        with contextlib.suppress(IndexError, ProcessLookupError):
            os.kill(chance.choice(server.worker_pids()), signal.SIGKILL)
            return "killed"

        return "nobody to kill"

    def come_and_go() -> str:
        with serving(
            server.node, "overload.apps.busy:app", name="passing", app_dir=TESTS_DIR
        ):
            return "came and went"

    await asyncio.gather(
        running,
        repeat(RELOAD_SECONDS, reload),
        repeat(KILL_SECONDS, kill),
        repeat(RELOAD_SECONDS, come_and_go),
    )
    # Those in between may all have met a kill.
    counts[reload()] += 1
    return counts + running.result()


def run(
    node: Node, seconds: float, *, warm_up_seconds: float = WARM_UP_SECONDS
) -> Counts:
    """Both halves, each with a check that nothing is left of it."""
    with serving(
        node, "overload.apps.busy:app", OPTIONS, name="leaks", app_dir=TESTS_DIR
    ) as url:
        server = Server(node, "leaks", url)
        asyncio.run(turmoil(server, warm_up_seconds, seed=1))
        asyncio.run(traffic(url, warm_up_seconds, seed=2))
        before = census.take(server)
        counts = asyncio.run(traffic(url, seconds / 2, seed=3))
        lived = census.take(server)
        census.check(before, lived)
        counts += asyncio.run(turmoil(server, seconds / 2, seed=4))
        # Workers as old as those of the first count.
        asyncio.run(traffic(url, warm_up_seconds, seed=5))
        after = census.take(server)
        census.check(before, after)

    counts.update({f"more {k}": v for k, v in census.growth(before, after).items()})
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    args = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    with Node() as node:
        counts = run(node, args.seconds)

    for what, number in counts.items():
        sys.stdout.write(f"{what}: {number}\n")


if __name__ == "__main__":
    main()
