# SPDX-License-Identifier: Apache-2.0
"""The code blocks of the ASGI guide, cut out of its text.

`seed/asgi_guide.txt` is the guide as it was written down, without the indentation of
its code: no line begins with white space, empty lines are missing. `BLOCKS` says where
each block begins and how deep each of its lines is: a digit a line, for levels of four
spaces. Where the depth of a line is a choice (it ends a block, or is a comment), it is
the one that the text around it describes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

GUIDE = Path(__file__).resolve().parent / "seed" / "asgi_guide.txt"

_INDENT = "    "


@dataclass(frozen=True, slots=True)
class Block:
    """Where a block is in the guide.

    Args:
        name: what the tests call it.
        first_line: number of its first line, from 1.
        depths: a digit for each line.
    """

    name: str
    first_line: int
    depths: str

    @property
    def lines(self) -> range:
        return range(self.first_line, self.first_line + len(self.depths))


BLOCKS = (
    Block("hello", 4, "001233322332"),
    Block("start_hello", 16, "0"),
    Block("fastapi", 42, "000000110011121111001111"),
    Block("start_fastapi", 66, "0110"),
    Block("starlette", 71, "0000010110110"),
    Block("lifespan", 86, "000000111111110001"),
    Block("start_lifespan", 104, "0110"),
    Block("streaming", 115, "012333222344433223332"),
    Block("sse", 137, "00000122001221"),
    Block("body", 153, "01222333422233322332"),
    Block("early_hints", 175, "01223334322233322332"),
    Block("middleware", 197, "0121233455554323000"),
    Block("start_configured", 217, "01111111110"),
    Block("errors", 229, "01212333223321233322332"),
)

# What statements look like, and no line of prose, heading or table does.
CODE = re.compile(
    r"(async |def |class |from \S+ import |import |await |return |yield |raise |if "
    r"|else|for |while |try|except |global |@|#|%%|hornbeam:)"
    r"|.*[({\[]$|[)}\]]|\S+ = |\S+ => "
)


def read_lines() -> list[str]:
    """The lines of the guide as they are."""
    return GUIDE.read_text(encoding="utf-8").split("\n")


def read_block(name: str) -> str:
    """The code of a block, indented."""
    lines = read_lines()
    (block,) = (block for block in BLOCKS if block.name == name)
    return "".join(
        f"{_INDENT * int(depth)}{lines[number - 1]}\n"
        for number, depth in zip(block.lines, block.depths, strict=True)
    )


def read_table(heading: str) -> list[list[str]]:
    """The cells of the rows of the first table after a heading, without its head."""
    lines = iter(read_lines())
    rows: list[list[str]] = []

    for line in lines:
        if line == heading:
            break

    for line in lines:
        if line.endswith(" |"):
            cells = line.removeprefix("| ").removesuffix(" |").split(" | ")
            rows.append(cells)
        elif rows and not line.startswith("|-"):
            break

    return rows[1:]
