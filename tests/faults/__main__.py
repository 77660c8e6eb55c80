# SPDX-License-Identifier: Apache-2.0
"""Run long tests, all or those that are named, one after another.

    make soak
    make soak SOAK=kills
    make soak SOAK='echo kills'

Each is a module with a command line of its own: `python -m faults.kills --help`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

SOAKS = {
    "echo": ("e2e.soak", "1,000 WebSockets echo for a minute"),
    "models": ("faults.models", "state machines of sessions and pool, 1,000 runs each"),
    "kills": ("faults.kills", "2,000 requests a second, a worker killed each second"),
}


def run(names: list[str]) -> dict[str, int]:
    """The exit status of each; what they print goes where ours does."""
    statuses = {}

    for name in names:
        module, what = SOAKS[name]
        sys.stdout.write(f"{name}: {what}\n")
        sys.stdout.flush()
        began = time.monotonic()
        statuses[name] = subprocess.run([sys.executable, "-m", module]).returncode
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
