# SPDX-License-Identifier: Apache-2.0
"""A shared counter, and what more workers, connections, streams give."""

import contextlib
import shutil
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bench import load
from bench.figures import Sample
from bench.job import (
    CONNECTIONS,
    WARM_UP_S,
    Case,
    Costs,
    Job,
    Options,
    hammer,
    of_done,
    served,
)
from bench.jobs.http import HELLO
from bench.load import Request
from bench.run import HORNBEAM
from bench.servers import Failed, Server, Setup, Skip, running, spawned

HIT = Request(path="/hit")
REDIS_TIMEOUT_S = 10.0
H2_CONNECTIONS = 4
H2_STREAMS = 100


def _counter(name: str, options: Options, log: Path) -> Sample:
    with contextlib.ExitStack() as stack:
        setup = Setup("counter:app", workers=2)
        pids: tuple[int, ...] = ()

        if name != HORNBEAM:
            socket, pid = stack.enter_context(_redis(log.with_suffix(".redis.log")))
            setup = replace(setup, env={"BENCH_REDIS": socket})
            pids = (pid,)

        server = stack.enter_context(running(name, setup, log))
        return _hit(replace(server, others=pids), options)


def _hit(server: Server, options: Options) -> Sample:
    load.wrk(server, HIT, min(WARM_UP_S, options.seconds), CONNECTIONS)
    before = _await_rest(server)
    costs = Costs(server)
    done = load.wrk(server, HIT, options.seconds, CONNECTIONS)
    sample = costs.sample(done.requests) | of_done(done)
    counted = _await_rest(server) - before
    # Those that were under way when time was up may have been counted or not; and our
    # own question may have been asked several times.
    lost = max(0, done.requests - counted)
    return sample | {"wrong": sample["wrong"] + lost}


def _await_rest(server: Server) -> int:
    """The counter, once what was under way has been counted."""
    last = _ask(server)

    while (now := _ask(server)) != last + 1:
        last = now

    return now


def _ask(server: Server) -> int:
    with urllib.request.urlopen(f"{server.url}hit", timeout=load.TIMEOUT_S) as answer:
        return int(answer.read())


@contextlib.contextmanager
def _redis(log: Path) -> Iterator[tuple[str, int]]:
    """Run Redis without a disk; gives its socket and process id."""
    if (program := shutil.which("redis-server")) is None:
        raise Skip("redis-server is not installed")

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "redis.sock")
        command = [
            program, "--port", "0", "--unixsocket", str(path), "--save", "",
            "--appendonly", "no", "--dir", folder,
        ]  # fmt: skip

        with spawned(command, log) as process:
            deadline = time.monotonic() + REDIS_TIMEOUT_S

            while not path.exists():
                if time.monotonic() > deadline or process.poll() is not None:
                    raise Failed(f"redis-server did not start: see {log}")

                time.sleep(0.01)

            yield str(path), process.pid


def _streams(server: Server, options: Options) -> Sample:
    load.probe(server, HELLO)
    warm_up = min(WARM_UP_S, options.seconds)
    load.h2load(server, HELLO, warm_up, H2_CONNECTIONS, H2_STREAMS)
    costs = Costs(server)
    done = load.h2load(server, HELLO, options.seconds, H2_CONNECTIONS, H2_STREAMS)
    return costs.sample(done.requests) | of_done(done)


COUNTER = Job(
    "counter",
    "A counter that 2 workers share, 64 connections; elsewhere in Redis, through a"
    " Unix socket, whose CPU time and memory count",
    "request",
    (Case(_counter),),
)
GROWING = (
    Job(
        "workers",
        "hello with 1 and 2 workers",
        "request",
        tuple(
            Case(served(Setup("hello:app", workers), hammer(HELLO)), str(workers))
            for workers in (1, 2)
        ),
        ("uvicorn", "granian", "hypercorn", "gunicorn"),
    ),
    Job(
        "connections",
        "hello on 16, 64 and 1,024 connections, one worker",
        "request",
        tuple(
            Case(
                served(Setup("hello:app"), hammer(HELLO, connections=count)),
                str(count),
            )
            for count in (16, 64, 1024)
        ),
    ),
    Job(
        "http2",
        f"hello on HTTP/2 without TLS, {H2_CONNECTIONS} connections with {H2_STREAMS}"
        " streams each, one worker",
        "request",
        (Case(served(Setup("hello:app", http2=True), _streams)),),
        ("hypercorn", "granian"),
    ),
)
