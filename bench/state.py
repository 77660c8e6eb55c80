# SPDX-License-Identifier: Apache-2.0
"""Measure shared state and pub/sub under Hornbeam and with Redis, side by side.

Usage: python -m bench.state [--rounds N] [--scale F] [--redis-python PATH]
           [--redis-server PATH]

`--redis-python` is a Python that has redis-py and hiredis; without it only Hornbeam is
measured. Rounds are interleaved, so that a machine that is busy for a while is busy for
all. Each figure is the median over the rounds: microseconds of wall time for each call,
and of CPU, of client and server together.
"""

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from bench import measure as proc
from bench.servers import ROOT

BENCH = ROOT / "bench"
START_TIMEOUT_S = 30

# What, how many calls, and what Redis does in its place.
WORK: list[tuple[str, int, str | None]] = [
    ("incr", 20000, "incr"),
    ("incr_thread", 20000, None),
    ("incr_aio", 10000, "incr_aio"),
    ("incr_aio_100_tasks", 20000, "incr_aio_100_tasks"),
    ("get_multi_100", 100000, "get_multi_100"),
    ("publish_1", 3000, "publish_1"),
    ("publish_100", 300, "publish_100"),
    ("publish_1000", 50, "publish_1000"),
]

Measure = Callable[[str, int], tuple[float, float]]


def cpu_of_all(pid: int) -> float:
    """CPU seconds of a process and those it has started."""
    return sum(proc.cpu_us(proc.tree(pid)).values()) / 1e6


def measure_hornbeam(pid: int, url: str) -> Measure:
    def measure(what: str, count: int) -> tuple[float, float]:
        before = cpu_of_all(pid)

        with urllib.request.urlopen(f"{url}/{what}/{count}", timeout=300) as answer:
            wall_s = json.load(answer)["wall_s"]

        return wall_s, cpu_of_all(pid) - before

    return measure


def measure_redis(pid: int, python: str, url: str) -> Measure:
    def measure(what: str, count: int) -> tuple[float, float]:
        before = cpu_of_all(pid)
        command = [python, str(BENCH / "state_redis.py"), url, what, str(count)]
        printed = subprocess.run(command, check=True, capture_output=True).stdout
        answer = json.loads(printed)
        # Of the client without its start, of the server all.
        return answer["wall_s"], answer["cpu_s"] + cpu_of_all(pid) - before

    return measure


@contextlib.contextmanager
def ending(process: "subprocess.Popen[bytes]") -> Iterator[int]:
    try:
        yield process.pid
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def await_answer(url: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S

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


@contextlib.contextmanager
def hornbeam(port: int) -> Iterator[Measure]:
    env = {
        **os.environ,
        "APP": "state_app:app",
        "APP_DIR": str(BENCH),
        "BIND": f"127.0.0.1:{port}",
        "WORKERS": "1",
        "OPTS": "#{timeout => infinity, stall_timeout => 600000}",
        "RUN_PYTHON": sys.executable,
    }
    process = subprocess.Popen(
        [str(ROOT / "scripts" / "run.sh")],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}"

    with ending(process) as pid:
        await_answer(f"{url}/incr/1")
        yield measure_hornbeam(pid, url)


@contextlib.contextmanager
def redis(server: str, python: str, port: int) -> Iterator[dict[str, Measure]]:
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/redis.sock"
        options = ["--port", str(port), "--unixsocket", path, "--save", ""]
        process = subprocess.Popen(
            [server, *options, "--dir", folder],
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

        with ending(process) as pid:
            while not Path(path).exists():
                time.sleep(0.01)

            yield {
                "redis unix": measure_redis(pid, python, f"unix://{path}"),
                "redis tcp": measure_redis(pid, python, f"redis://127.0.0.1:{port}"),
            }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="of the counts")
    parser.add_argument("--redis-server", default="redis-server")
    parser.add_argument("--redis-python")
    parser.add_argument("--port", type=int, default=18090)
    arguments = parser.parse_args()

    with contextlib.ExitStack() as stack:
        systems: dict[str, Measure] = {
            "hornbeam": stack.enter_context(hornbeam(arguments.port))
        }

        if arguments.redis_python:
            systems |= stack.enter_context(
                redis(
                    arguments.redis_server,
                    arguments.redis_python,
                    arguments.port + 1,
                )
            )

        print(f"{'':20} {'':12} {'wall µs':>10} {'CPU µs':>10}")

        for what, count, redis_what in WORK:
            report(what, round(count * arguments.scale), redis_what, systems, arguments)


def report(
    what: str,
    count: int,
    redis_what: str | None,
    systems: dict[str, Measure],
    arguments: argparse.Namespace,
) -> None:
    results: dict[str, list[tuple[float, float]]] = {}

    for _ in range(arguments.rounds):
        for name, measure in systems.items():
            used = what if name == "hornbeam" else redis_what

            if used is not None:
                results.setdefault(name, []).append(measure(used, count))

    for name, runs in results.items():
        wall, cpu = (
            statistics.median(run[n] for run in runs) * 1e6 / count for n in (0, 1)
        )
        print(f"{what:20} {name:12} {wall:10.2f} {cpu:10.2f}", flush=True)


if __name__ == "__main__":
    main()
