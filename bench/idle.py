# SPDX-License-Identifier: Apache-2.0
"""Measure the memory of idle connections under Hornbeam and uvicorn, side by side.

Usage: bench/idle.py [--connections N] [--rounds N] [--workers W]

Opens that many connections of each kind, keep-alive ones that have had one answer and
WebSockets that have had one echo, lets them be, and tells by how much the server has
grown per connection. Memory is the proportional set size (PSS) of all processes of the
server, so that pages that workers share count once; for Hornbeam the node and the
Python workers apart. Each measurement has a server of its own. Figures are the medians
over the rounds.
"""

import argparse
import base64
import contextlib
import os
import re
import resource
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ROOT / ".venv" / "bin" / "python"

SERVERS = ("hornbeam", "uvicorn")
WARM_UP = 200
SETTLE_POLL_S = 0.5
SETTLE_POLLS = 20
SETTLED_BYTES = 128 * 1024
LONG_MS = 3_600_000
# Connections, the server's own files, and room.
SPARE_FILES = 500

MASK = bytes(4)
ECHOED = b"hello"


@dataclass(frozen=True)
class Growth:
    """By how much the parts of a server have grown, in bytes per connection."""

    pss: dict[str, float]
    rss: dict[str, float]


def children(pid: int) -> list[int]:
    found = []

    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += [int(child), *children(int(child))]

    return found


def memory(pid: int, key: str) -> dict[str, int]:
    """Bytes of `Pss` or `Rss`, by the kind of process."""
    sizes: dict[str, int] = {}

    for each in [pid, *children(pid)]:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            name = Path(f"/proc/{each}/comm").read_text().strip()
            rollup = Path(f"/proc/{each}/smaps_rollup").read_text()
            found = re.search(rf"^{key}:\s+(\d+) kB", rollup, re.M)
            assert found is not None
            part = "node" if name.startswith(("beam", "erl")) else "python"
            sizes[part] = sizes.get(part, 0) + int(found[1]) * 1024

    return sizes


def settled_memory(pid: int, key: str) -> dict[str, int]:
    """The same, once it does not change any more."""
    before = memory(pid, key)

    for _ in range(SETTLE_POLLS):
        time.sleep(SETTLE_POLL_S)
        after = memory(pid, key)

        if abs(sum(after.values()) - sum(before.values())) < SETTLED_BYTES:
            return after

        before = after

    return before


def command(server: str, port: int, workers: int, connections: int) -> list[str]:
    if server == "uvicorn":
        return [
            str(PYTHON), "-m", "uvicorn", "idle_app:app", "--port", str(port),
            "--workers", str(workers), "--no-access-log", "--log-level", "warning",
            "--timeout-keep-alive", str(LONG_MS // 1000), "--lifespan", "off",
            "--ws-ping-interval", "3600", "--ws-per-message-deflate", "false",
        ]  # fmt: skip

    paths = [str(path) for path in (ROOT / "_build" / "default").glob("*/*/ebin")]
    options = (
        f'bind => "127.0.0.1:{port}", workers => {workers}, python => "{PYTHON}",'
        f" keepalive => {LONG_MS}, header_timeout => {LONG_MS},"
        f" websocket_timeout => {LONG_MS}, websocket_ping => infinity,"
        f" max_concurrency => {connections + WARM_UP},"
        f" max_connections => {2 * connections + WARM_UP}, lifespan => off"
    )
    return [
        "erl", "-noinput", "+sbwt", "none", "+sbwtdcpu", "none", "+sbwtdio", "none",
        "-pa", *paths, "-eval", f'ok = hornbeam:start("idle_app:app", #{{{options}}}).',
    ]  # fmt: skip


@contextlib.contextmanager
def running(server: str, workers: int, connections: int) -> Iterator[tuple[int, int]]:
    """Run a server; gives its process id and its port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]

    process = subprocess.Popen(
        command(server, port, workers, connections),
        cwd=ROOT / "bench",
        start_new_session=True,
    )

    try:
        await_http(f"http://127.0.0.1:{port}/")
        yield process.pid, port
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)

        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def await_http(url: str) -> None:
    deadline = time.monotonic() + 30

    while not answers(url):
        if time.monotonic() > deadline:
            raise SystemExit(f"no answer from {url}")

        time.sleep(0.05)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1):
            return True
    except OSError:
        return False


def read_until(connection: socket.socket, end: bytes) -> None:
    data = b""

    while not data.endswith(end):
        part = connection.recv(4096)

        if not part:
            raise SystemExit(f"the server has closed after {data!r}")

        data += part


def open_keep_alive(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    read_until(connection, b"\r\n\r\nhello")
    return connection


def open_websocket(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    key = base64.b64encode(os.urandom(16))
    connection.sendall(
        b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n\r\n" % key
    )
    read_until(connection, b"\r\n\r\n")
    # A text frame; a mask of zeros leaves it as it is.
    connection.sendall(bytes((0x81, 0x80 | len(ECHOED))) + MASK + ECHOED)
    read_until(connection, bytes((0x81, len(ECHOED))) + ECHOED)
    return connection


KINDS: dict[str, Callable[[int], socket.socket]] = {
    "keep-alive": open_keep_alive,
    "WebSocket": open_websocket,
}


def measure(server: str, kind: str, args: argparse.Namespace) -> Growth:
    with running(server, args.workers, args.connections) as (pid, port):
        # What the first ones make, others share: code, caches, arenas.
        held = [KINDS[kind](port) for _ in range(WARM_UP)]
        before = {key: settled_memory(pid, key) for key in ("Pss", "Rss")}
        held += [KINDS[kind](port) for _ in range(args.connections)]
        after = {key: settled_memory(pid, key) for key in ("Pss", "Rss")}

        for connection in held:
            connection.close()

    def per_connection(key: str) -> dict[str, float]:
        return {
            part: (size - before[key].get(part, 0)) / args.connections
            for part, size in after[key].items()
        }

    return Growth(per_connection("Pss"), per_connection("Rss"))


def report(server: str, kind: str, rounds: list[Growth]) -> None:
    parts = sorted({part for growth in rounds for part in growth.pss})
    each = {
        part: statistics.median(growth.pss.get(part, 0.0) for growth in rounds)
        for part in parts
    }
    pss = statistics.median(sum(growth.pss.values()) for growth in rounds)
    rss = statistics.median(sum(growth.rss.values()) for growth in rounds)
    split = " + ".join(f"{part} {size / 1024:.1f}" for part, size in each.items())
    sys.stdout.write(
        f"{kind:10} {server:9} {pss / 1024:6.1f} KiB PSS each ({split}), "
        f"{rss / 1024:6.1f} KiB RSS\n"
    )


def raise_file_limit(wanted: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise SystemExit(f"{wanted} open files are needed, {hard} allowed: ulimit -Hn")

    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    # The servers inherit it.
    raise_file_limit(args.connections + WARM_UP + SPARE_FILES)
    results: dict[tuple[str, str], list[Growth]] = {}

    for _ in range(args.rounds):
        for kind in KINDS:
            for server in SERVERS:
                growth = measure(server, kind, args)
                results.setdefault((kind, server), []).append(growth)

    for (kind, server), rounds in results.items():
        report(server, kind, rounds)


if __name__ == "__main__":
    main()
