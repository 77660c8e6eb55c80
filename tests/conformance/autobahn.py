# SPDX-License-Identifier: Apache-2.0
"""Runs Autobahn's fuzzing client and judges what it found.

The client is a program of its own (`wstest`, for Python 2.7): it is given a
specification as a JSON file, runs its cases one by one against a server, and leaves an
index of their outcomes, a JSON file too, beside a report for readers.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ALL_CASES = ("*",)

CASES_IN_ALL = 517
"""How many `*` stands for: fewer, and something is not tested."""

SHORT_CASES = (
    # Framing, pings, reserved bits, opcodes, fragmentation, UTF-8, closing.
    *(f"{group}.*" for group in (1, 2, 3, 4, 5, 6, 7, 10)),
    # Large messages.
    *("9.1.3", "9.2.3", "9.3.5", "9.4.5", "9.5.4", "9.6.4", "9.7.3", "9.8.3"),
    # Compression, of several kinds of data, in fragments, with each set of parameters.
    *("12.1.1", "12.1.3", "12.2.3", "12.3.4", "12.4.11", "12.5.5"),
    *("13.1.2", "13.2.3", "13.3.4", "13.4.3", "13.5.2", "13.6.3", "13.7.11"),
)
"""A selection that takes seconds; the others take minutes and are more of the same."""

GOOD_VERDICTS = ("OK", "INFORMATIONAL")
"""Autobahn says INFORMATIONAL where the RFC leaves the behaviour open."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What Autobahn says of one case.

    Args:
        case: its number, like `6.4.1`.
        behavior: the verdict on what came back: `OK`, `NON-STRICT`, `FAILED` and more.
        behavior_close: the verdict on how the connection was closed.
    """

    case: str
    behavior: str
    behavior_close: str

    @property
    def is_good(self) -> bool:
        return self.behavior in GOOD_VERDICTS and self.behavior_close in GOOD_VERDICTS

    def __str__(self) -> str:
        return f"{self.case}: {self.behavior}, closing {self.behavior_close}"


@dataclass(frozen=True, slots=True)
class Report:
    """What a run of the client has left.

    Args:
        announced: how many cases the client said that it would run.
        outcomes: one for each case that it has run, in the order of their numbers.
    """

    announced: int
    outcomes: tuple[Outcome, ...]

    def faults(self) -> list[str]:
        """What keeps it from being a success; nothing where it is one."""
        faults = [str(outcome) for outcome in self.outcomes if not outcome.is_good]

        if len(self.outcomes) != self.announced or not self.outcomes:
            faults.append(f"{len(self.outcomes)} of {self.announced} cases were run")

        return faults


class AutobahnError(Exception):
    """The client ended before it had a report; the text has what it said."""


def run(
    wstest: Path,
    url: str,
    folder: Path,
    *,
    cases: Sequence[str] = ALL_CASES,
    timeout: float,
    on_case: Callable[[str], None] = lambda case: None,
) -> Report:
    """Run the client against a server.

    Args:
        wstest: the program.
        url: of the server, with the scheme `ws`.
        folder: where the report goes; it is made where it is not there.
        cases: their numbers; `6.*` stands for a group.
        timeout: seconds for all of it.
        on_case: called with the number of each case before it is run.

    Raises:
        AutobahnError: there is no report, or none in time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    index = folder / "index.json"
    index.unlink(missing_ok=True)
    spec = folder / "spec.json"
    spec.write_text(specification(url, folder, cases))
    output = _run_client(wstest, spec, timeout, on_case)
    announced = re.search(r"will run (\d+) test cases", output)

    if announced is None or not index.exists():
        raise AutobahnError(f"the client left no report; it said:\n{output}")

    return Report(int(announced[1]), parse_index(index.read_text()))


def specification(url: str, folder: Path, cases: Sequence[str]) -> str:
    """The text of a file that tells the client what to do."""
    return json.dumps(
        {
            "outdir": str(folder),
            "servers": [{"agent": "hornbeam", "url": url}],
            "cases": list(cases),
            "exclude-cases": [],
            "exclude-agent-cases": {},
        }
    )


def parse_index(text: str) -> tuple[Outcome, ...]:
    """Read the index of outcomes; its one agent is the server."""
    (cases,) = json.loads(text).values()
    outcomes = [
        Outcome(case, facts["behavior"], facts["behaviorClose"])
        for case, facts in cases.items()
    ]
    return tuple(sorted(outcomes, key=lambda outcome: _numbers(outcome.case)))


def _numbers(case: str) -> list[int]:
    return [int(number) for number in case.split(".")]


def _run_client(
    wstest: Path, spec: Path, timeout: float, on_case: Callable[[str], None]
) -> str:
    command = [str(wstest), "--mode", "fuzzingclient", "--spec", str(spec)]
    # Settings that are meant for our Python are none for that one.
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "COVERAGE"))
    }
    output: list[str] = []

    with subprocess.Popen(
        # Its Python would hold its output back.
        ["timeout", str(timeout), *command],
        env={**env, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None

        for line in process.stdout:
            output.append(line)

            if match := re.match(r"Running test case ID (\S+)", line):
                on_case(match[1])

    if process.returncode == 124:
        raise AutobahnError(f"not done within {timeout:.0f} s: {output[-1:]}")

    return "".join(output)
