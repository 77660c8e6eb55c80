# SPDX-License-Identifier: Apache-2.0
"""The documentation as data: fenced blocks, tables, headings and links of its pages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from node import ROOT

DOCS = ROOT / "docs"

_FENCE = re.compile(
    r"^(?:<!-- (?P<directive>[^>]+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FILE_NAME = re.compile(r"(?:#|%%) (\S*\w\.\w[\w.]*)\n")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block."""

    page: Path
    line: int
    language: str
    text: str
    directive: str | None
    """What a comment on the line before it asks the tests to do with it."""

    @property
    def file_name(self) -> str | None:
        """The name of the file that the block shows, which its first line tells."""
        match = _FILE_NAME.match(self.text)
        return match and match[1]

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def find_pages() -> list[Path]:
    """All pages, the README of the repository among them."""
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", *DOCS.rglob("*.md")]
    return sorted(pages)


def read_blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(
            page=page,
            line=text.count("\n", 0, match.start("text")),
            language=match["language"],
            text=match["text"],
            directive=match["directive"],
        )
        for match in _FENCE.finditer(text)
    ]


def read_prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", page.read_text())


def read_anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as code forges make them."""
    prose = read_prose(page)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in _HEADING.findall(prose)
    }


def read_links(page: Path) -> list[str]:
    return _LINK.findall(read_prose(page))


def read_table(text: str, *columns: str) -> Iterator[dict[str, str]]:
    """The rows of all tables in a text that have exactly these columns.

    Raises:
        AssertionError: There is no such table.
    """
    header = re.escape("| " + " | ".join(columns) + " |")
    tables = re.findall(rf"^{header}\n\|[-|]+\|\n((?:\|.*\n?)+)", text, flags=re.M)
    assert tables, f"there is no table with the columns {', '.join(columns)}"

    for row in "".join(table.rstrip("\n") + "\n" for table in tables).splitlines():
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        yield dict(zip(columns, cells, strict=True))


def read_code(cell: str) -> list[str]:
    """What stands in backquotes."""
    return re.findall(r"`([^`]+)`", cell)
