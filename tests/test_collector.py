# SPDX-License-Identifier: Apache-2.0
"""What a worker does to the garbage collector, and when it keeps its hands off."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from hornbeam._process import YOUNG_OBJECTS

SCRIPT = """
import gc
from hornbeam import _process
# CPython 3.12 begins with some.
frozen = gc.get_freeze_count()
{before}
_process.settle_collector()
print(gc.isenabled(), gc.get_threshold()[0], gc.get_freeze_count() > frozen)
"""


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ("", f"True {YOUNG_OBJECTS} True"),
        ("gc.set_threshold(123)", "True 123 True"),
        ("gc.set_threshold(50_000)", "True 50000 True"),
        ("gc.set_threshold(0)", "True 0 True"),
        ("gc.disable()", f"False {YOUNG_OBJECTS} False"),
    ],
)
def test_thresholds_of_the_application_stay(before: str, said: str) -> None:
    """In a process of its own: this one's collector is pytest's."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(before=before)],
        env=environ,
        capture_output=True,
        check=True,
        text=True,
    )
    assert done.stdout.strip() == said
