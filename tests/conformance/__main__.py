# SPDX-License-Identifier: Apache-2.0
"""`make conformance`: every case of Autobahn's against an echo application.

Takes the path of `wstest` and the cases, all of them where none is named. The report
for readers is `build/autobahn/index.html`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from conformance.autobahn import ALL_CASES, CASES_IN_ALL, Report, run
from conformance.server import echo_server
from node import ROOT, Node

TIMEOUT_SECONDS = 3600.0


def main(wstest: Path, cases: list[str]) -> int:
    """Run the cases, print what is not as it should be, give the exit status."""
    folder = ROOT / "build" / "autobahn"

    with Node() as node, echo_server(node) as url:
        report = run(
            wstest,
            url,
            folder,
            cases=cases or ALL_CASES,
            timeout=TIMEOUT_SECONDS,
            on_case=Progress().show,
        )

    faults = report.faults()

    if not cases and len(report.outcomes) != CASES_IN_ALL:
        faults.append(f"there should be {CASES_IN_ALL} cases")

    for fault in faults:
        say(f"\nconformance: {fault}")

    say(
        f"\nconformance: {summary(report)}; see {folder.relative_to(ROOT)}/index.html\n"
    )
    return 1 if faults else 0


def summary(report: Report) -> str:
    good = [outcome for outcome in report.outcomes if outcome.is_good]
    return f"{len(good)} of {report.announced} cases are OK"


class Progress:
    """A line for each group of cases, a dot for each case."""

    def __init__(self) -> None:
        self._group = ""

    def show(self, case: str) -> None:
        group = case.rpartition(".")[0]

        if group != self._group:
            self._group = group
            say(f"\n{group:>5} ")

        say(".")


def say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
