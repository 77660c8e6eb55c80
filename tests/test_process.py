# SPDX-License-Identifier: Apache-2.0
"""What a worker makes of its process; the rest is seen in `test_worker.py`."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import hornbeam

COUNT_FAULTS = """
import resource
from hornbeam import _process

_process._keep_heap()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def churn(rounds):
    for _ in range(rounds):
        [bytes(200_000) + b"x" for _ in range(16)]

churn(3)
before = faults()
churn(20)
print(faults() - before)
"""
PYTHON_DIR = str(Path(hornbeam.__file__).parents[1])
# Of the parts in one round.
ROUND_PAGES = 16 * 200_000 // os.sysconf("SC_PAGESIZE")


def count_faults(**environment: str) -> int:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    result = subprocess.run(
        [sys.executable, "-c", COUNT_FAULTS],
        env={**kept, **environment, "PYTHONPATH": PYTHON_DIR},
        capture_output=True,
        check=True,
        text=True,
    )
    return int(result.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="an affair of glibc")
def test_memory_of_parts_is_used_again() -> None:
    """Not given back and fetched anew, unless the user has said so."""
    assert count_faults() < ROUND_PAGES
    told = {"MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_MMAP_THRESHOLD_": "65536"}
    assert count_faults(**told) > 10 * ROUND_PAGES


SIGNAL_AT_FORK = """
import os, signal, sys

number = int(sys.argv[1])
os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), number))
from hornbeam import _process

_process._ignore_signals()
before = signal.pthread_sigmask(signal.SIG_BLOCK, ())

if not (pid := os.fork()):
    os._exit(0)

assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_signal_that_comes_as_a_fork_begins() -> None:
    """It ends the fork, which is no worker: before it could say that, too."""
    result = subprocess.run(
        [sys.executable, "-c", SIGNAL_AT_FORK, str(int(signal.SIGTERM))],
        env={**os.environ, "PYTHONPATH": PYTHON_DIR},
        capture_output=True,
        check=True,
        text=True,
    )
    assert int(result.stdout) == -signal.SIGTERM
