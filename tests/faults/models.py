# SPDX-License-Identifier: Apache-2.0
"""The state machines of the test suites, at length.

    python -m faults.models --runs 3000

The sessions of the worker (`test_session_machine.py`, `test_wsgi_machine.py`) and the
pool of the node (`prop_pool.erl`); the suites themselves run a few dozen of each.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

SESSIONS = [sys.executable, "-m", "pytest", "-q", "--timeout", "0"]
POOL = ["rebar3", "ct", "--suite", "test/hornbeam_prop_SUITE"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m faults.models")
    parser.add_argument("--runs", type=int, default=1000, help="of each machine")
    runs = parser.parse_args().runs
    environ = {**os.environ, "HORNBEAM_MODEL_RUNS": str(runs)}
    files = ["tests/test_session_machine.py", "tests/test_wsgi_machine.py"]
    commands = ([*SESSIONS, *files], POOL)
    sys.exit(
        max(subprocess.run(command, env=environ).returncode for command in commands)
    )


if __name__ == "__main__":
    main()
