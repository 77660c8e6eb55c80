# SPDX-License-Identifier: Apache-2.0
"""CPU and memory of a server: of its first process and all that descend from it."""

import math
import os
import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

TICK_US = 1_000_000 / os.sysconf("SC_CLK_TCK")
KIB = 1024

NODE = "node"
PYTHON = "python"
REDIS = "redis"

_PROC = Path("/proc")
# Fields of /proc/PID/stat behind the name of the program, from the state on.
_UTIME, _STIME, _CUTIME, _CSTIME, _START_TIME = 11, 12, 13, 14, 19


def tree(pid: int) -> list[int]:
    """A process and all that descend from it and are alive."""
    found = [pid]

    for parent in found:
        found += _children(parent)

    return found


def part_of(program: str) -> str:
    """The part of a server that a program is, by the name that the kernel has."""
    if program.startswith(("beam", "erl")):
        return NODE

    return REDIS if program.startswith("redis") else PYTHON


def cpu_us(pids: Iterable[int]) -> dict[str, float]:
    """CPU microseconds so far, user and system, by part of the server.

    Children that have died and were waited for are counted with their parent; those of
    the node are Python workers.
    """
    used: dict[str, float] = {}

    for pid in pids:
        if (stat := _stat(pid)) is None:
            continue

        program, fields = stat
        part = part_of(program)
        own = int(fields[_UTIME]) + int(fields[_STIME])
        of_dead = int(fields[_CUTIME]) + int(fields[_CSTIME])
        heir = PYTHON if part == NODE else part
        used[part] = used.get(part, 0.0) + own * TICK_US
        used[heir] = used.get(heir, 0.0) + of_dead * TICK_US

    return used


def memory_bytes(pids: Iterable[int], key: str) -> dict[str, int]:
    """Bytes by part of the server.

    Args:
        pids: The processes; those that have gone count nothing.
        key: `Pss`, where pages that processes share are shared out between them; or
            `VmHWM`, the most that was resident at any time, shared pages in each.
    """
    file = "status" if key.startswith("Vm") else "smaps_rollup"
    line = re.compile(rf"^{key}:\s+(\d+) kB", re.MULTILINE)
    sizes: dict[str, int] = {}

    for pid in pids:
        stat, text = _stat(pid), _read(pid, file)

        if stat is None or (found := line.search(text)) is None:
            continue

        part = part_of(stat[0])
        sizes[part] = sizes.get(part, 0) + int(found[1]) * KIB

    return sizes


def start_time(pid: int) -> str | None:
    """What tells a process from a later one with its id; None where it has gone."""
    stat = _stat(pid)
    return None if stat is None or stat[1][0] == "Z" else stat[1][_START_TIME]


def percentile(values: Sequence[float], percent: float) -> float:
    """The least value that so many per cent do not exceed.

    Raises:
        ValueError: There are no values.
    """
    if not values:
        raise ValueError("no percentile of no values")

    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def median_of(samples: Iterable[dict[str, float]]) -> dict[str, float]:
    """The median of each figure over the samples that have it."""
    values: dict[str, list[float]] = {}

    for sample in samples:
        for name, value in sample.items():
            values.setdefault(name, []).append(value)

    return {name: statistics.median(each) for name, each in values.items()}


def _children(pid: int) -> list[int]:
    found: list[int] = []

    for task in (_PROC / str(pid) / "task").glob("*"):
        found += map(int, _read(pid, f"task/{task.name}/children").split())

    return found


def _stat(pid: int) -> tuple[str, list[str]] | None:
    """The name of its program and the fields behind that; None where it has gone."""
    head, _, rest = _read(pid, "stat").rpartition(")")
    return (head.partition("(")[2], rest.split()) if head else None


def _read(pid: int, name: str) -> str:
    try:
        return (_PROC / str(pid) / name).read_text()
    except OSError:
        return ""
