# SPDX-License-Identifier: Apache-2.0
"""Runs jobs: rounds interleaved between servers, and what became of each."""

import asyncio
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from bench.figures import MERITS, Sample
from bench.job import Case, Job, Options
from bench.measure import median_of
from bench.servers import Failed, Skip

HORNBEAM = "hornbeam"
# asyncio's is one of its own until Python 3.11.
TIMEOUTS = (asyncio.TimeoutError, subprocess.SubprocessError)


@dataclass
class Outcome:
    """What one server did in one case of a job."""

    server: str
    case: str = ""
    samples: list[Sample] = field(default_factory=list)
    problem: str = ""
    """Why there are no figures, or not all."""
    skipped: bool = False

    @property
    def figures(self) -> Sample:
        """Medians over the rounds. A server that answered wrongly has no throughput."""
        figures = median_of(self.samples)
        wrong = sum(sample.get("wrong", 0) for sample in self.samples)

        if wrong:
            figures = {k: v for k, v in figures.items() if k not in MERITS}
            figures["wrong"] = wrong

        return figures


@dataclass(frozen=True)
class Result:
    """What became of a job."""

    name: str
    title: str
    each: str
    outcomes: list[Outcome]


def run_job(
    job: Job,
    peers: Iterable[str],
    rounds: int,
    options: Options,
    logs: Path,
    say: Callable[[str], None],
) -> Result:
    """Run a job for Hornbeam and those of its peers that are asked for.

    What a server fails at once it is not asked again in later rounds.
    """
    servers = [HORNBEAM, *(peer for peer in job.peers if peer in peers)]
    outcomes = {
        (case.label, server): Outcome(server, case.label)
        for case in job.cases
        for server in servers
    }

    for number in range(1, rounds + 1):
        for case in job.cases:
            for server in servers:
                outcome = outcomes[case.label, server]
                log = logs / f"{job.name}-{server}.log"
                _run_round(case, outcome, options, log)
                say(_progress(job, outcome, number, rounds))

    return Result(job.name, job.title, job.each, list(outcomes.values()))


def _run_round(case: Case, outcome: Outcome, options: Options, log: Path) -> None:
    if outcome.problem:
        return

    try:
        outcome.samples.append(case.run(outcome.server, options, log))
    except Skip as exc:
        outcome.problem = str(exc)
        outcome.skipped = True
    # A load that was refused or cut off is the server's failure: the others go on.
    except (Failed, OSError, EOFError, ValueError, *TIMEOUTS) as exc:
        outcome.problem = str(exc) or repr(exc)


def _progress(job: Job, outcome: Outcome, number: int, rounds: int) -> str:
    name = " ".join(filter(None, (job.name, outcome.case, outcome.server)))

    if outcome.problem:
        return f"{name}: {outcome.problem}"

    shown = ", ".join(
        f"{name} {outcome.samples[-1][name]:.1f}"
        for name in ("rate", "p99_ms", "cpu_us", "idle_kib", "start_s", "wrong")
        if name in outcome.samples[-1]
    )
    return f"{name} {number}/{rounds}: {shown}"
