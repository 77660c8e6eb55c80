# SPDX-License-Identifier: Apache-2.0
"""Measure the hello application under Hornbeam and uvicorn, side by side.

Usage: bench/hello.py [--rounds N] [--seconds S] [--connections C] [--workers W]

Rounds are interleaved, so that a machine that is busy for a while is busy for both.
Each figure is the median over the rounds: requests per second, CPU microseconds per
request (user + system of every process of the server; for Hornbeam the node and the
Python workers apart). Needs `wrk`.
"""

import argparse
import contextlib
import os
import re
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ROOT / ".venv" / "bin" / "python"
TICK_US = 1_000_000 / os.sysconf("SC_CLK_TCK")
WRK_REQUESTS = re.compile(r"(\d+) requests in ([\d.]+)s")


@dataclass(frozen=True)
class Round:
    """One measured run of one server."""

    requests_per_second: float
    cpu_us: dict[str, float]
    """CPU microseconds per request by part of the server."""


def children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += [int(child), *children(int(child))]

    return found


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def parts(pid: int) -> dict[str, int]:
    """CPU ticks so far, by the kind of process."""
    ticks: dict[str, int] = {}
    for each in [pid, *children(pid)]:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            name = Path(f"/proc/{each}/comm").read_text().strip()
            part = "beam" if name.startswith(("beam", "erl")) else "python"
            ticks[part] = ticks.get(part, 0) + cpu_ticks(each)

    return ticks


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


def command(server: str, port: int, workers: int) -> list[str]:
    if server == "uvicorn":
        return [
            str(PYTHON), "-m", "uvicorn", "hello_app:app", "--port", str(port),
            "--workers", str(workers), "--no-access-log", "--log-level", "warning",
        ]  # fmt: skip

    paths = [str(p) for p in (ROOT / "_build" / "default").glob("*/*/ebin")]
    start = (
        f'ok = hornbeam:start("hello_app:app", #{{bind => "127.0.0.1:{port}",'
        f' workers => {workers}, python => "{PYTHON}"}}).'
    )
    return [
        "erl", "-noinput", "+sbwt", "none", "+sbwtdcpu", "none", "+sbwtdio", "none",
        "-pa", *paths, "-eval", start,
    ]  # fmt: skip


@contextlib.contextmanager
def running(server: str, port: int, workers: int) -> Iterator[int]:
    process = subprocess.Popen(
        command(server, port, workers), cwd=ROOT / "bench", start_new_session=True
    )
    try:
        await_http(f"http://127.0.0.1:{port}/")
        yield process.pid
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


def measure(server: str, port: int, args: argparse.Namespace) -> Round:
    load = ["wrk", "-t1", f"-c{args.connections}", f"http://127.0.0.1:{port}/"]
    with running(server, port, args.workers) as pid:
        subprocess.run([*load, "-d1s"], check=True, capture_output=True)
        before = parts(pid)
        done = subprocess.run(
            [*load, f"-d{args.seconds}s"], check=True, capture_output=True, text=True
        )
        after = parts(pid)

    match = WRK_REQUESTS.search(done.stdout)
    if match is None or "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        raise SystemExit(f"{server}: the run failed:\n{done.stdout}")

    requests, seconds = int(match[1]), float(match[2])
    cpu = {k: (v - before.get(k, 0)) * TICK_US / requests for k, v in after.items()}
    return Round(requests / seconds, cpu)


def report(server: str, rounds: list[Round]) -> None:
    rate = statistics.median(r.requests_per_second for r in rounds)
    names = sorted({name for r in rounds for name in r.cpu_us})
    each = {n: statistics.median(r.cpu_us.get(n, 0.0) for r in rounds) for n in names}
    total = statistics.median(sum(r.cpu_us.values()) for r in rounds)
    split = " + ".join(f"{name} {us:.1f}" for name, us in each.items())
    sys.stdout.write(
        f"{server:9} {rate:9.0f} requests/s  {total:6.1f} us CPU/request ({split})\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    servers = ("hornbeam", "uvicorn")
    results: dict[str, list[Round]] = {server: [] for server in servers}
    for number in range(args.rounds):
        for index, server in enumerate(servers):
            port = 18000 + 10 * number + index
            results[server].append(measure(server, port, args))

    for server in servers:
        report(server, results[server])


if __name__ == "__main__":
    main()
