# SPDX-License-Identifier: Apache-2.0
"""What Hornbeam is to reach beside its peers in the same run, and whether it has."""

from collections.abc import Callable
from dataclasses import dataclass

from bench.figures import FIGURES
from bench.run import HORNBEAM, Result


@dataclass(frozen=True)
class Target:
    """A bound for the ratio of Hornbeam's figure to a peer's."""

    job: str
    figure: str
    peer: str
    """Its name, or `best`: the peer with the best figure."""
    bound: float
    at_least: bool
    """The ratio must not be lower; otherwise not higher."""
    of_peer: str | None = None
    """The peer's figure, where it is another."""

    def meets(self, ratio: float) -> bool:
        return ratio >= self.bound if self.at_least else ratio <= self.bound


def at_least(job: str, figure: str, peer: str, bound: float) -> Target:
    return Target(job, figure, peer, bound, True)


def at_most(
    job: str, figure: str, peer: str, bound: float, of_peer: str | None = None
) -> Target:
    return Target(job, figure, peer, bound, False, of_peer)


TARGETS = (
    at_most("hello", "cpu_us", "uvicorn", 0.95),
    at_most("hello", "cpu_node_us", "cowboy", 1.35, "cpu_us"),
    at_most("hello", "cpu_python_us", "uvicorn", 12 / 48, "cpu_us"),
    at_least("hello", "rate", "uvicorn", 1.6),
    at_least("hello", "rate", "granian", 0.8),
    at_least("fastapi", "rate", "uvicorn", 1.2),
    at_least("fastapi", "rate", "granian", 1.2),
    at_least("upload", "mb_per_s", "uvicorn", 1.0),
    at_least("download", "mb_per_s", "uvicorn", 1.0),
    at_least("chunks", "rate", "uvicorn", 2.0),
    at_least("ws-echo", "rate", "uvicorn", 1.2),
    at_least("broadcast", "rate", "uvicorn", 10.0),
    at_least("counter", "rate", "uvicorn", 2.0),
    at_most("mixed", "p99_ms", "best", 0.1),
    at_most("idle-ws", "idle_kib", "uvicorn", 1 / 3),
)
# Seconds, not a ratio.
COLD_START_JOB = "cold-start"
COLD_START_MOST_S = 1.5


def section(results: list[Result]) -> list[str]:
    """The table of those targets for which both figures are there."""
    figures = {
        (result.name, outcome.server): outcome.figures
        for result in results
        for outcome in result.outcomes
        if not outcome.case
    }
    rows = [row for target in TARGETS if (row := _row(target, figures)) is not None]
    rows += _cold_start(figures)

    if not rows:
        return []

    head = (
        "| job | figure | beside | target | reached | met |\n|---|---|---|---|---|---|"
    )
    return ["### Targets", "\n".join([head, *rows])]


Figures = dict[tuple[str, str], dict[str, float]]


def _row(target: Target, figures: Figures) -> str | None:
    ours = figures.get((target.job, HORNBEAM), {}).get(target.figure)
    theirs = _of_peer(target, figures)

    if ours is None or not theirs:
        return None

    ratio = ours / theirs
    heading = FIGURES[target.figure].heading
    word = "at least" if target.at_least else "at most"
    met = "yes" if target.meets(ratio) else "no"
    return (
        f"| {target.job} | {heading} | {target.peer} | {word} {target.bound:.2f}"
        f" | {ratio:.2f} | {met} |"
    )


def _of_peer(target: Target, figures: Figures) -> float | None:
    name = target.of_peer or target.figure

    if target.peer != "best":
        return figures.get((target.job, target.peer), {}).get(name)

    best: Callable[..., float] = max if FIGURES[name].better > 0 else min
    found = [
        each[name]
        for (job, server), each in figures.items()
        if job == target.job and server != HORNBEAM and name in each
    ]
    return best(found) if found else None


def _cold_start(figures: Figures) -> list[str]:
    ours = figures.get((COLD_START_JOB, HORNBEAM), {}).get("start_s")
    theirs = figures.get((COLD_START_JOB, "uvicorn"), {}).get("start_s")

    if ours is None or theirs is None:
        return []

    more = ours - theirs
    met = "yes" if more <= COLD_START_MOST_S else "no"
    return [
        f"| {COLD_START_JOB} | seconds more | uvicorn | at most {COLD_START_MOST_S:.2f}"
        f" | {more:.2f} | {met} |"
    ]
