# SPDX-License-Identifier: Apache-2.0
"""Run long tests, all or those that are named, one after another.

    make soak
    make soak SOAK=kills
    make soak SOAK='echo kills'

Each is a command of its own, most a module with options, as `python -m faults.kills
--help` tells.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

_PYTHON = (sys.executable, "-m")
_SUITES = ("rebar3", "ct", "--readable=compact", "--suite")
_TREE_SECONDS = 60

# What it runs, and what that does.
SOAKS = {
    "echo": ((*_PYTHON, "e2e.soak"), "1,000 WebSockets echo for a minute"),
    "models": (
        (*_PYTHON, "faults.models"),
        "state machines of requests and pool, 1,000 runs each",
    ),
    "kills": (
        (*_PYTHON, "faults.kills"),
        "2,000 requests a second, a worker killed each second",
    ),
    "tree": (
        (*_SUITES, "test/hornbeam_kill_SUITE"),
        "processes of the supervision tree are killed under load, each and at random",
    ),
    "hostile": (
        (*_SUITES, "test/hornbeam_hostile_SUITE", "--repeat", "5"),
        "workers that say what makes no sense, five times",
    ),
    "blocked": (
        (*_PYTHON, "faults.blocked"),
        "one request in 100 computes for half a second: the 99th percentile of others",
    ),
    "overload": (
        (*_PYTHON, "overload.soak_overload"),
        "ten times what a server can do, for each kind of server",
    ),
    "slow": (
        (*_PYTHON, "overload.soak_slow"),
        "4,000 clients that send or take a byte a second, beside ordinary ones",
    ),
    "leaks": (
        (*_PYTHON, "overload.soak_leaks", "--seconds", "180"),
        "mixed traffic with aborts, reloads and kills; what is left of it",
    ),
}
_ENVIRONMENT = {"KILL_SECONDS": str(_TREE_SECONDS)}


def run(names: list[str]) -> dict[str, int]:
    """The exit status of each; what they print goes where ours does."""
    statuses = {}

    for name in names:
        command, what = SOAKS[name]
        sys.stdout.write(f"{name}: {what}\n")
        sys.stdout.flush()
        began = time.monotonic()
        environment = _ENVIRONMENT | os.environ
        statuses[name] = subprocess.run(command, env=environment).returncode
        seconds = time.monotonic() - began
        verdict = "failed" if statuses[name] else "passed"
        sys.stdout.write(f"{name}: {verdict} after {seconds:.0f} s\n")

    return statuses


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SOAKS))
    names = parser.parse_args().names

    if unknown := [name for name in names if name not in SOAKS]:
        parser.error(
            f"no such soak: {', '.join(unknown)}; there are {', '.join(SOAKS)}"
        )

    sys.exit(any(run(names or list(SOAKS)).values()))


if __name__ == "__main__":
    main()
