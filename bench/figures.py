# SPDX-License-Identifier: Apache-2.0
"""The figures that jobs give: what each is called in tables, its unit, its digits."""

from dataclasses import dataclass

Sample = dict[str, float]
"""One round's figures by name."""


@dataclass(frozen=True)
class Figure:
    """How a figure is shown."""

    heading: str
    digits: int = 0
    better: int = 0
    """1 where more is better, -1 where less is."""


FIGURES = {
    "rate": Figure("per second", 0, 1),
    "mb_per_s": Figure("MB/s", 0, 1),
    "p50_ms": Figure("p50 ms", 2, -1),
    "p99_ms": Figure("p99 ms", 2, -1),
    "max_ms": Figure("worst ms", 1, -1),
    "start_s": Figure("first answer s", 2, -1),
    "cpu_s": Figure("CPU s", 2, -1),
    "cpu_us": Figure("CPU µs each", 1, -1),
    "cpu_node_us": Figure("of it node", 1, -1),
    "cpu_python_us": Figure("of it Python", 1, -1),
    "cpu_redis_us": Figure("of it Redis", 1, -1),
    "peak_mib": Figure("peak MiB", 0, -1),
    "idle_kib": Figure("KiB per connection", 1, -1),
    "idle_node_kib": Figure("of it node", 1, -1),
    "idle_python_kib": Figure("of it Python", 1, -1),
    "asked": Figure("asked", 0, 0),
    "failed": Figure("failed", 0, -1),
    "wrong": Figure("wrong", 0, -1),
}

# What a server that answers wrongly has not.
MERITS = ("rate", "mb_per_s")
MEMORY_UNIT = 1024 * 1024
