# SPDX-License-Identifier: Apache-2.0
"""Results as Markdown tables, JSON and plots; and the page that keeps a report."""

import json
from dataclasses import asdict
from pathlib import Path

from bench import machine, plots, targets
from bench.figures import FIGURES
from bench.job import Options
from bench.run import Outcome, Result

BEGIN = "<!-- results: `make bench REPORT=` writes what follows -->"
END = "<!-- end of results -->"


def describe(rounds: int, options: Options) -> dict[str, str]:
    """What is told of a run beside its figures."""
    facts = machine.describe()
    facts["rounds"] = str(rounds)
    facts["seconds of load"] = f"{options.seconds:g}"

    if options.scale != 1:
        facts["scale of sockets"] = f"{options.scale:g}"

    return facts


def write(folder: Path, about: dict[str, str], results: list[Result]) -> None:
    """Write all files of a run; again after each job, as runs get stopped."""
    folder.mkdir(parents=True, exist_ok=True)
    raw = {
        "about": about,
        "jobs": [
            asdict(result)
            | {"medians": [outcome.figures for outcome in result.outcomes]}
            for result in results
        ],
    }
    (folder / "results.json").write_text(json.dumps(raw, indent=1) + "\n")
    (folder / "results.md").write_text(page(about, results))

    for result in results:
        for name, svg in plots.of_result(result).items():
            (folder / f"{name}.svg").write_text(svg)


def keep(path: Path, about: dict[str, str], results: list[Result]) -> None:
    """Put the tables into a page, between its two marks.

    Raises:
        ValueError: It has no such marks.
    """
    text = path.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)

    if not begin or not end:
        raise ValueError(f"{path} lacks a line {BEGIN!r} before one {END!r}")

    path.write_text(f"{before}{begin}\n\n{page(about, results)}\n{end}{after}")


def page(about: dict[str, str], results: list[Result]) -> str:
    facts = markdown([("run", ""), *about.items()])
    return f"{facts}\n\n{tables(results)}\n"


def tables(results: list[Result]) -> str:
    return "\n\n".join([*map(table, results), *targets.section(results)])


def table(result: Result) -> str:
    """A heading, and a row for each server that was asked."""
    shown = [
        name
        for name in FIGURES
        if any(name in outcome.figures for outcome in result.outcomes)
    ]

    # Nobody needs a column of noughts.
    if not any(outcome.figures.get("wrong") for outcome in result.outcomes):
        shown = [name for name in shown if name != "wrong"]

    has_cases = any(outcome.case for outcome in result.outcomes)
    heads = [*(["case"] if has_cases else []), f"each {result.each}"]
    rows = [(*heads, *(FIGURES[name].heading for name in shown))]

    for outcome in result.outcomes:
        label = [outcome.case] if has_cases else []
        rows.append((*label, outcome.server, *_cells(outcome, shown)))

    notes = [f"{each.server}: {each.problem}." for each in _with_problems(result)]
    heading = f"### {result.name}\n\n{result.title}."
    return "\n\n".join([heading, markdown(rows), *notes])


def markdown(rows: "list[tuple[str, ...]]") -> str:
    """A table; the first row is its head."""
    head, *rest = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, "|---" * len(rows[0]) + "|", *rest])


def _cells(outcome: Outcome, shown: list[str]) -> list[str]:
    figures = outcome.figures
    return [
        f"{figures[name]:,.{FIGURES[name].digits}f}" if name in figures else "–"
        for name in shown
    ]


def _with_problems(result: Result) -> list[Outcome]:
    """Once for each server, whatever the case."""
    found = {(o.server, o.problem): o for o in result.outcomes if o.problem}
    return list(found.values())
