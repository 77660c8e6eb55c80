# SPDX-License-Identifier: Apache-2.0
"""The command line of the bench; `make bench` gives it what it was given.

    python -m bench --job hello,fastapi --peers uvicorn --rounds 5 --seconds 5

Results go to `bench/results/`: the rounds as JSON, the medians as Markdown, plots as
SVG, and the servers' logs. Exits with status 1 where Hornbeam failed or answered
wrongly.
"""

import argparse
import resource
import signal
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path

from bench import report
from bench.job import Options
from bench.jobs import JOBS
from bench.run import HORNBEAM, Result, run_job
from bench.servers import COMMANDS, ROOT

RESULTS = ROOT / "bench" / "results"
# Of sockets at either end, and room.
FILES = 16_000
# For `--peers`: Hornbeam alone.
NONE = "none"


def main() -> int:
    arguments = _parse()
    signal.signal(signal.SIGTERM, _leave)
    _raise_file_limit()
    options = Options(arguments.seconds, arguments.scale)
    folder = arguments.results / time.strftime("%Y%m%d-%H%M%S")
    about = report.describe(arguments.rounds, options)
    results: list[Result] = []

    try:
        for name in arguments.job:
            job = JOBS[name]
            results.append(
                run_job(
                    job,
                    arguments.peers,
                    arguments.rounds,
                    options,
                    folder / "logs",
                    lambda line: print(line, flush=True),
                )
            )
            report.write(folder, about, results)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130

    print(report.tables(results))
    print(f"in {folder}")

    if arguments.report is not None:
        report.keep(arguments.report, about, results)

    return 1 if any(_is_broken(result) for result in results) else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__.split("\n")[0])
    peers = [name for name in COMMANDS if name != HORNBEAM]
    parser.add_argument("--job", type=_choice(JOBS), default=list(JOBS))
    parser.add_argument("--peers", type=_choice(peers), default=peers)
    parser.add_argument("--rounds", type=_at_least(int, 1), default=3)
    parser.add_argument("--seconds", type=_at_least(float, 0.1), default=6.0)
    parser.add_argument("--scale", type=_at_least(float, 0), default=1.0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--report", type=Path, help="a page to put the tables into")
    parser.add_argument("--list", action="store_true", help="tell the jobs")
    arguments = parser.parse_args()

    if arguments.list:
        for job in JOBS.values():
            print(f"{job.name:12} {job.title}")

        raise SystemExit

    return arguments


Names = Callable[[str], list[str]]


def _choice(known: Collection[str]) -> Names:
    """Some of the known names, in their order; all where none is given."""

    def names(text: str) -> list[str]:
        asked = {name.strip() for name in text.split(",") if name.strip()}

        if unknown := asked - {*known, NONE}:
            raise argparse.ArgumentTypeError(
                f"{', '.join(sorted(unknown))}: expected some of {', '.join(known)}"
            )

        return [name for name in known if not asked or name in asked]

    return names


def _at_least(kind: "type[int] | type[float]", least: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = kind(text)

        if value < least:
            raise argparse.ArgumentTypeError(f"{value}: expected at least {least}")

        return value

    number.__name__ = kind.__name__  # what argparse calls a wrong one
    return number


def _leave(signal_number: int, frame: object) -> None:
    """End as Ctrl-C does, with all servers."""
    raise KeyboardInterrupt


def _raise_file_limit() -> None:
    """Servers and loads inherit it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)

    if most != resource.RLIM_INFINITY and most < FILES:
        print(f"only {most} open files are allowed: `--scale` may help")

    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _is_broken(result: Result) -> bool:
    return any(
        outcome.server == HORNBEAM
        and ((outcome.problem and not outcome.skipped) or outcome.figures.get("wrong"))
        for outcome in result.outcomes
    )


if __name__ == "__main__":
    sys.exit(main())
