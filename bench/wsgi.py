# SPDX-License-Identifier: Apache-2.0
"""Measure WSGI applications under Hornbeam and gunicorn's gthread, side by side.

Usage: bench/wsgi.py [--rounds N] [--seconds S] [--connections C] [--threads T]

A plain application and a page of Flask, with one worker and with two. Rounds are
interleaved; each figure is the median over them, of the kind that `hello.py` gives.
Needs `wrk`, gunicorn and Flask.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import count

from hello import (
    PYTHON,
    ROOT,
    TICK_US,
    WRK_REQUESTS,
    Round,
    await_http,
    parts,
    report,
)

APPS = ("hello", "page")
SERVERS = ("hornbeam", "gunicorn")
WARM_UP_SECONDS = 1

_ports = count(18500)


def command(server: str, app: str, port: int, workers: int, threads: int) -> list[str]:
    if server == "gunicorn":
        return [
            str(PYTHON), "-m", "gunicorn", f"wsgi_app:{app}", "-k", "gthread",
            "--bind", f"127.0.0.1:{port}", "--workers", str(workers),
            "--threads", str(threads), "--log-level", "warning",
        ]  # fmt: skip

    paths = [str(p) for p in (ROOT / "_build" / "default").glob("*/*/ebin")]
    start = (
        f'ok = hornbeam:start("wsgi_app:{app}", #{{bind => "127.0.0.1:{port}",'
        f' workers => {workers}, threads => {threads}, python => "{PYTHON}"}}).'
    )
    return [
        "erl", "-noinput", "+sbwt", "none", "+sbwtdcpu", "none", "+sbwtdio", "none",
        "-pa", *paths, "-eval", start,
    ]  # fmt: skip


@contextlib.contextmanager
def running(words: list[str], url: str) -> Iterator[int]:
    process = subprocess.Popen(words, cwd=ROOT / "bench", start_new_session=True)

    try:
        await_http(url)
        yield process.pid
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


def measure(server: str, app: str, workers: int, args: argparse.Namespace) -> Round:
    port = next(_ports)
    url = f"http://127.0.0.1:{port}/"
    load = ["wrk", "-t1", f"-c{args.connections}", url]

    with running(command(server, app, port, workers, args.threads), url) as pid:
        warm_up = [*load, f"-d{WARM_UP_SECONDS}s"]
        subprocess.run(warm_up, check=True, capture_output=True)
        before = parts(pid)
        timed = [*load, f"-d{args.seconds}s"]
        done = subprocess.run(timed, check=True, capture_output=True, text=True)
        after = parts(pid)

    match = WRK_REQUESTS.search(done.stdout)

    if match is None or "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        raise SystemExit(f"{server}: the run failed:\n{done.stdout}")

    requests, seconds = int(match[1]), float(match[2])
    cpu = {k: (v - before.get(k, 0)) * TICK_US / requests for k, v in after.items()}
    return Round(requests / seconds, cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--threads", type=int, default=8)
    args = parser.parse_args()

    for app in APPS:
        for workers in (1, 2):
            results: dict[str, list[Round]] = {server: [] for server in SERVERS}

            for _ in range(args.rounds):
                for server in SERVERS:
                    results[server].append(measure(server, app, workers, args))

            sys.stdout.write(f"{app}, workers: {workers}\n")

            for server in SERVERS:
                report(server, results[server])


if __name__ == "__main__":
    main()
