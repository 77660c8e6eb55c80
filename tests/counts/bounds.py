# SPDX-License-Identifier: Apache-2.0
"""The table of bounds, `bounds.md`: what was measured, and the most that may be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from counts.loads import LOADS
from counts.measuring import Counts
from docs_pages import read_table

TABLE = Path(__file__).parent / "bounds.md"
COLUMNS = ("load", "count", "measured", "most")

PARTS_OF_ALL = ("work", "calls", "worker", "system")
BATCHED_LOADS = ("hello", "websocket")

FACTOR = 1.3
"""The room that an update of the table gives, ..."""
SLACK = 0.5
"""... and the least of it: counts near nothing come with chance."""

ALWAYS = {
    *("connection_reductions", "writer_reductions", "worker_reductions", "words"),
    *("functions", "messages", "packets_out", "packets_in"),
    *("python_calls", "python_instructions"),
    *("batched_packets_out", "batched_packets_in", "batched_python_calls"),
    *("node_transfers", "worker_system_calls"),
}
"""What no request can do without: none of it means that nothing was counted."""

ADVICE = (
    "Find out what has become dearer: docs/performance.md tells how to look. Where that"
    " has a reason, raise the bound in tests/counts/bounds.md; `make counts` prints the"
    " present figures."
)


@dataclass(frozen=True)
class Bound:
    """How much of something a request may take."""

    measured: float
    most: float


Bounds = dict[tuple[str, str], Bound]


def counted_parts() -> list[tuple[str, str]]:
    """All loads with the parts that are counted of them."""
    loads = [name for name in LOADS if name != "spin"]
    parts = [(load, part) for load in loads for part in PARTS_OF_ALL]
    return parts + [(load, "batched") for load in BATCHED_LOADS]


def read_bounds() -> Bounds:
    return {
        (row["load"], row["count"]): Bound(float(row["measured"]), float(row["most"]))
        for row in read_table(TABLE.read_text(), *COLUMNS)
    }


def find_faults(load: str, counts: Counts, bounds: Bounds) -> list[str]:
    """What is over its bound, has none, or was not counted at all."""
    faults = []

    for name, count in counts.items():
        bound = bounds.get((load, name))

        if bound is None:
            faults.append(f"{load}: {name} has no bound")
        elif count > bound.most:
            faults.append(
                f"{load}: {name} is {count:.2f} for each request, at most"
                f" {bound.most:g} is expected ({bound.measured:g} when it was set)."
                f" {ADVICE}"
            )
        elif count == 0 and name in ALWAYS:
            faults.append(f"{load}: {name} was not counted")

    return faults


def bound_for(count: float) -> Bound:
    """The bound of something that was measured now."""
    return Bound(round(count, 2), round(max(count * FACTOR, count + SLACK), 2))


def write_bounds(bounds: Bounds) -> None:
    """Replace the rows of the table."""
    head, rule, _ = TABLE.read_text().partition("|---|---|---|---|\n")
    rows = [
        f"| {load} | {count} | {bound.measured:g} | {bound.most:g} |\n"
        for (load, count), bound in bounds.items()
    ]
    TABLE.write_text(head + rule + "".join(rows))
