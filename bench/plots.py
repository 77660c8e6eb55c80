# SPDX-License-Identifier: Apache-2.0
"""Bar charts as SVG text: one for each figure of a job that servers are compared by."""

from html import escape

from bench.figures import FIGURES
from bench.run import HORNBEAM, Result

PLOTTED = ("rate", "p99_ms", "cpu_us", "idle_kib", "start_s", "failed")

WIDTH = 720
LABEL_WIDTH = 190
VALUE_WIDTH = 90
BAR_HEIGHT = 22
GAP = 6
HEAD = 44
OURS, THEIRS = "#2b7a4b", "#8a97a5"

Bar = tuple[str, float, bool]
"""Label, value, and whether it is Hornbeam's."""


def of_result(result: Result) -> dict[str, str]:
    """Charts by file name."""
    charts = {}

    for name in PLOTTED:
        bars = [
            (
                " ".join(filter(None, (outcome.case, outcome.server))),
                outcome.figures[name],
                outcome.server == HORNBEAM,
            )
            for outcome in result.outcomes
            if name in outcome.figures
        ]

        if bars:
            heading = f"{result.name}: {result.each}, {FIGURES[name].heading}"
            charts[f"{result.name}-{name}"] = chart(heading, name, bars)

    return charts


def chart(heading: str, figure: str, bars: list[Bar]) -> str:
    """Horizontal bars from nought on."""
    height = HEAD + len(bars) * (BAR_HEIGHT + GAP) + GAP
    most = max(value for _, value, _ in bars) or 1
    hint = {1: " (more is better)", -1: " (less is better)"}
    shown = heading + hint.get(FIGURES[figure].better, "")
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}"'
        ' font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{GAP}" y="24" font-size="15">{escape(shown)}</text>',
    ]

    for index, (label, value, ours) in enumerate(bars):
        top = HEAD + index * (BAR_HEIGHT + GAP)
        length = (WIDTH - LABEL_WIDTH - VALUE_WIDTH) * value / most
        text = f"{value:,.{FIGURES[figure].digits}f}"
        baseline = top + BAR_HEIGHT * 0.7
        lines += [
            f'<text x="{LABEL_WIDTH - GAP}" y="{baseline:.1f}"'
            f' text-anchor="end">{escape(label)}</text>',
            f'<rect x="{LABEL_WIDTH}" y="{top}" width="{length:.1f}"'
            f' height="{BAR_HEIGHT}" fill="{OURS if ours else THEIRS}"/>',
            f'<text x="{LABEL_WIDTH + length + GAP:.1f}" y="{baseline:.1f}">'
            f"{text}</text>",
        ]

    return "\n".join([*lines, "</svg>"]) + "\n"
