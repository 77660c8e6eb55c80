# SPDX-License-Identifier: Apache-2.0
"""Measure one message to many WebSockets under Hornbeam and uvicorn, side by side.

Usage: bench/fanout.py [--sockets N] [--rounds N] [--publishes N] [--bytes N]

Under Hornbeam the sockets are attached to a topic, to which Python publishes once;
under uvicorn the application sends to one after the other. Both with one worker and the
same client, a raw one in this process, on the same cores. Rounds are interleaved. Each
figure is the median over the rounds: milliseconds from the request to publish until the
last socket has its message, and CPU (user + system of every process of the server) for
each publish. Needs uvicorn[standard] and Starlette.
"""

import argparse
import asyncio
import base64
import contextlib
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from hello import PYTHON, ROOT, TICK_US, await_http, parts

BENCH = ROOT / "bench"
# The listening queues of both are longer than that.
CONNECTS_AT_ONCE = 100
TIMEOUT_S = 120


@dataclass(frozen=True)
class Round:
    """What one publish took, in the middle of some."""

    last_receipt_ms: float
    cpu_ms: dict[str, float]
    """By part of the server, the mean over the round."""


class Receivers:
    """Counts the bytes that a publish owes to all sockets."""

    def __init__(self) -> None:
        self.owing = 0
        self.done: asyncio.Future[float] | None = None

    def expect(self, count: int) -> "asyncio.Future[float]":
        self.owing = count
        self.done = asyncio.get_running_loop().create_future()
        return self.done

    def received(self, count: int) -> None:
        self.owing -= count

        if self.owing == 0 and self.done is not None:
            self.done.set_result(time.perf_counter())

        if self.owing < 0:
            raise SystemExit("more was received than was published")


class Socket(asyncio.Protocol):
    """A WebSocket that is connected, and counts what it gets."""

    def __init__(self, receivers: Receivers, port: int) -> None:
        self.receivers = receivers
        self.port = port
        self.head = b""
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        key = base64.b64encode(os.urandom(16)).decode()
        transport.write(
            f"GET /connect HTTP/1.1\r\nhost: 127.0.0.1:{self.port}\r\n"
            "connection: Upgrade\r\nupgrade: websocket\r\n"
            f"sec-websocket-version: 13\r\nsec-websocket-key: {key}\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        if self.opened.done():
            self.receivers.received(len(data))
            return

        self.head += data

        if not self.head.endswith(b"\r\n\r\n"):
            return

        if not self.head.startswith(b"HTTP/1.1 101 "):
            raise SystemExit(f"no handshake: {self.head!r}")

        self.opened.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(exc or ConnectionError("closed"))


async def connect_all(receivers: Receivers, port: int, count: int) -> list[Socket]:
    loop = asyncio.get_running_loop()
    limit = asyncio.Semaphore(CONNECTS_AT_ONCE)

    async def connect() -> Socket:
        async with limit:
            _, socket = await loop.create_connection(
                lambda: Socket(receivers, port), "127.0.0.1", port
            )
            await socket.opened
            return socket

    sockets = await asyncio.gather(*(connect() for _ in range(count)))

    while True:
        if (await get(port, "/count"))["connected"] == count:
            return sockets

        await asyncio.sleep(0.01)


async def get(port: int, path: str) -> dict[str, int]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n"
        "connection: close\r\n\r\n".encode()
    )
    answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")

    if not head.startswith(b"HTTP/1.1 200 "):
        raise SystemExit(f"{path}: {answer!r}")

    result: dict[str, int] = json.loads(body)
    return result


def frame_bytes(payload: int) -> int:
    """Return what a server's frame takes (RFC 6455 5.2)."""
    if payload < 126:
        return payload + 2

    return payload + (4 if payload < 65536 else 10)


async def measure(pid: int, port: int, args: argparse.Namespace) -> Round:
    receivers = Receivers()
    sockets = await connect_all(receivers, port, args.sockets)
    await publish(port, receivers, args)
    before = parts(pid)
    times = [await publish(port, receivers, args) for _ in range(args.publishes)]
    after = parts(pid)
    cpu = {
        part: (ticks - before.get(part, 0)) * TICK_US / 1000 / args.publishes
        for part, ticks in after.items()
    }
    assert len(sockets) == args.sockets
    return Round(statistics.median(times) * 1000, cpu)


async def publish(port: int, receivers: Receivers, args: argparse.Namespace) -> float:
    """Return the seconds until all have it."""
    done = receivers.expect(args.sockets * frame_bytes(args.bytes))
    began = time.perf_counter()
    request = asyncio.create_task(get(port, f"/publish?bytes={args.bytes}"))
    last = await asyncio.wait_for(done, TIMEOUT_S)
    answer = await request

    if answer["reached"] != args.sockets:
        raise SystemExit(f"reached {answer['reached']} of {args.sockets}")

    return last - began


def command(server: str, port: int) -> list[str]:
    if server == "uvicorn":
        return [
            str(PYTHON), "-m", "uvicorn", "fanout_app:app", "--port", str(port),
            "--no-access-log", "--log-level", "warning",
        ]  # fmt: skip

    paths = [str(p) for p in (ROOT / "_build" / "default").glob("*/*/ebin")]
    start = (
        f'ok = hornbeam:start("fanout_app:app", #{{bind => "127.0.0.1:{port}",'
        f' workers => 1, max_concurrency => 100000, python => "{PYTHON}"}}).'
    )
    return [
        "erl", "-noinput", "+Bi", "+sbwt", "none", "+sbwtdcpu", "none",
        "+sbwtdio", "none", "-pa", *paths, "-eval", start,
    ]  # fmt: skip


@contextlib.contextmanager
def running(server: str, port: int) -> Iterator[int]:
    # uvicorn finds the package of the application's imports here.
    env = {**os.environ, "PYTHONPATH": str(ROOT / "python")}
    process = subprocess.Popen(
        command(server, port), cwd=BENCH, env=env, start_new_session=True
    )
    try:
        await_http(f"http://127.0.0.1:{port}/count")
        yield process.pid
    finally:
        # Thousands of sockets would be closed one by one.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=30)


def report(server: str, rounds: list[Round]) -> None:
    last_ms = statistics.median(r.last_receipt_ms for r in rounds)
    total = statistics.median(sum(r.cpu_ms.values()) for r in rounds)
    names = sorted({name for r in rounds for name in r.cpu_ms})
    each = {n: statistics.median(r.cpu_ms.get(n, 0.0) for r in rounds) for n in names}
    cpu = " + ".join(f"{name} {ms:.1f}" for name, ms in each.items())
    sys.stdout.write(
        f"{server:9} {last_ms:8.1f} ms to the last receipt  "
        f"{total:7.1f} ms CPU/publish ({cpu})\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sockets", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--publishes", type=int, default=20)
    parser.add_argument("--bytes", type=int, default=100, help="of a message")
    parser.add_argument("--port", type=int, default=18190)
    args = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)

    if most != resource.RLIM_INFINITY and most < args.sockets + 1000:
        raise SystemExit(f"only {most} open files are allowed")

    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    servers = ("hornbeam", "uvicorn")
    results: dict[str, list[Round]] = {server: [] for server in servers}

    for number in range(args.rounds):
        for index, server in enumerate(servers):
            port = args.port + 2 * number + index

            with running(server, port) as pid:
                results[server].append(asyncio.run(measure(pid, port, args)))

    for server in servers:
        report(server, results[server])


if __name__ == "__main__":
    main()
