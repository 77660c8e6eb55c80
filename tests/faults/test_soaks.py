# SPDX-License-Identifier: Apache-2.0
"""The list of long tests: what it names is there, and the guide has it."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys

import pytest

from docs_pages import DOCS, read_code, read_table
from faults.__main__ import SOAKS

ROOT = DOCS.parent
OPERATIONS = DOCS / "how-to" / "operations.md"


def test_all_are_there() -> None:
    for command, _ in SOAKS.values():
        if command[0] == sys.executable:
            assert importlib.util.find_spec(command[2]) is not None, command
        else:
            suite = command[command.index("--suite") + 1]
            assert (ROOT / f"{suite}.erl").exists(), command


def test_all_are_documented() -> None:
    rows = read_table(OPERATIONS.read_text(), "soak", "what it does")
    shown = [(read_code(row["soak"])[0], row["what it does"]) for row in rows]
    assert shown == [(name, what) for name, (_, what) in SOAKS.items()]


@pytest.mark.parametrize("names", [["nonsense"], ["echo", "nonsense"]])
def test_unknown_name(names: list[str]) -> None:
    """Before anything is run."""
    command = [sys.executable, "-m", "faults", *names]
    done = subprocess.run(command, cwd=ROOT / "tests", capture_output=True, text=True)
    assert done.returncode == 2
    assert re.search(
        r"no such soak: nonsense; there are echo, models, kills", done.stderr
    )
