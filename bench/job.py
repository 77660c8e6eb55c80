# SPDX-License-Identifier: Apache-2.0
"""What a job is, and what jobs have in common: a server, its costs, a run of wrk."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench import load, measure
from bench.figures import MEMORY_UNIT, Sample
from bench.load import Done, Request
from bench.servers import Server, Setup, running

ASGI_PEERS = ("uvicorn", "granian", "hypercorn", "gunicorn", "daphne")
WARM_UP_S = 1.0
CONNECTIONS = 64


@dataclass(frozen=True)
class Options:
    """What a run of the bench is asked for."""

    seconds: float = 6.0
    """Of load, for each figure."""
    scale: float = 1.0
    """Of the numbers of sockets."""

    def count(self, sockets: int) -> int:
        return max(1, round(sockets * self.scale))


Run = Callable[[str, Options, Path], Sample]
"""Measures one server: its name, the options, where its log goes."""


@dataclass(frozen=True)
class Case:
    """One way a job is done; most jobs have one."""

    run: Run
    label: str = ""


@dataclass(frozen=True)
class Job:
    """Something that is measured."""

    name: str
    title: str
    each: str
    """What is counted: request, message."""
    cases: tuple[Case, ...]
    peers: tuple[str, ...] = ASGI_PEERS


def served(setup: Setup, measured: Callable[[Server, Options], Sample]) -> Run:
    """Measure a server that is there for this alone."""

    def run(name: str, options: Options, log: Path) -> Sample:
        with running(name, setup, log) as server:
            return measured(server, options)

    return run


class Costs:
    """CPU and memory of a server from now on."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._before = measure.cpu_us(server.pids())

    def sample(self, count: float) -> Sample:
        """What it has taken for each of so many.

        Without any there is nothing to share the CPU time among.
        """
        pids = self._server.pids()
        after = measure.cpu_us(pids)
        peak = sum(measure.memory_bytes(pids, "VmHWM").values())
        sample: Sample = {"peak_mib": peak / MEMORY_UNIT}

        if count <= 0:
            return sample

        used = {
            part: us - self._before.get(part, 0.0)
            for part, us in after.items()
            if us > 0
        }
        sample["cpu_us"] = sum(used.values()) / count

        # The parts say something where there are several.
        if len(used) > 1:
            sample |= {f"cpu_{part}_us": us / count for part, us in used.items()}

        return sample


def latencies(times_s: list[float]) -> Sample:
    """The figures of how long each took."""
    if not times_s:
        return {}

    return {
        "p50_ms": measure.percentile(times_s, 50) * 1000,
        "p99_ms": measure.percentile(times_s, 99) * 1000,
    }


def hammer(
    request: Request, *, connections: int = CONNECTIONS, payload_bytes: int = 0
) -> Callable[[Server, Options], Sample]:
    """Ask with wrk; the rate is also in MB/s where a payload is given."""

    def measured(server: Server, options: Options) -> Sample:
        load.probe(server, request)
        load.wrk(server, request, min(WARM_UP_S, options.seconds), connections)
        costs = Costs(server)
        done = load.wrk(server, request, options.seconds, connections)
        sample = costs.sample(done.requests) | of_done(done)
        load.probe(server, request)

        if payload_bytes:
            sample["mb_per_s"] = sample["rate"] * payload_bytes / 1e6

        return sample

    return measured


def of_done(done: Done) -> Sample:
    return {
        "rate": done.requests / done.seconds,
        "p50_ms": done.p50_ms,
        "p99_ms": done.p99_ms,
        "wrong": done.wrong,
    }
