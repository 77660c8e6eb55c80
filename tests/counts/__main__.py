# SPDX-License-Identifier: Apache-2.0
"""Print what a request takes now, beside the table of bounds; `make counts` runs it.

python -m counts [--update]
"""

from __future__ import annotations

import argparse
import sys

from counts.bounds import (
    Bounds,
    bound_for,
    counted_parts,
    read_bounds,
    write_bounds,
)
from counts.measuring import Uncountable, measured_node


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m counts")
    parser.add_argument("--update", action="store_true", help="write the table anew")
    update = parser.parse_args().update
    now = measure_all()
    before = read_bounds()
    show(now, before)

    if update:
        loads = {load for load, _ in counted_parts()}
        # What cannot be counted here keeps its bound.
        kept = {key: bound for key, bound in before.items() if key[0] in loads}
        write_bounds(kept | now)


def measure_all() -> Bounds:
    found: Bounds = {}

    with measured_node() as measured:
        for load, part in counted_parts():
            try:
                counts = measured.count(load, part)
            except Uncountable as exc:
                sys.stderr.write(f"{load} {part}: {exc}\n")
                continue

            found |= {(load, name): bound_for(count) for name, count in counts.items()}

    return found


def show(now: Bounds, before: Bounds) -> None:
    sys.stdout.write(
        f"{'load':10} {'count':22} {'before':>10} {'now':>10} {'most':>10}\n"
    )

    for (load, name), bound in now.items():
        old = before.get((load, name))
        was, most = (f"{old.measured:g}", f"{old.most:g}") if old else ("", "")
        mark = "  over" if old and bound.measured > old.most else ""
        sys.stdout.write(
            f"{load:10} {name:22} {was:>10} {bound.measured:10g} {most:>10}{mark}\n"
        )


if __name__ == "__main__":
    main()
