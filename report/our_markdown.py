"""The little Markdown that this repository writes: tables, `code`, *emphasis*, links; everything else is text."""

import re
from dataclasses import dataclass

from markupsafe import Markup, escape

INLINE = re.compile(r"`([^`]+)`|\*\*([^*]+)\*\*|\*([^*\s][^*]*)\*|\[([^\]]+)\]\(([^)\s]+)\)")
SPLIT = re.compile(r"(?<!\\)\|")


@dataclass(frozen=True)
class Table:
    """Cells as text, still in Markdown."""

    header: list[str]
    numeric: list[bool]
    rows: list[list[str]]


@dataclass(frozen=True)
class Page:
    """One of tables/<profile>/*.md: its title, its table, the notes below."""

    title: str
    table: Table
    notes: list[str]


def inline(text: str) -> Markup:
    """Text as HTML. A link becomes its words: the page has no neighbours where it is sent by mail."""
    found, place = Markup(""), 0
    for match in INLINE.finditer(text):
        code, strong, emphasis, words, _ = match.groups()
        tag = "code" if code else "strong" if strong else "em" if emphasis else ""
        body = escape(code) if code else inline(strong or emphasis or words)
        found += escape(text[place:match.start()]) + (Markup(f"<{tag}>") + body + Markup(f"</{tag}>") if tag else body)
        place = match.end()
    return found + escape(text[place:])


def table(lines: list[str]) -> Table:
    """The first table among the lines; empty where there is none. Short rows are filled, long ones cut."""
    cells = [split(line) for line in lines if line.startswith("|")]
    if len(cells) < 2:
        return Table([], [], [])
    width = len(cells[0])
    rows = [[*row, *[""] * (width - len(row))][:width] for row in cells[2:]]
    return Table(cells[0], [mark.endswith(":") for mark in cells[1]], rows)


def split(line: str) -> list[str]:
    return [cell.strip().replace(r"\|", "|") for cell in SPLIT.split(line.strip())[1:-1]]


def page(text: str) -> Page:
    """A file of tables/<profile>/."""
    lines = text.splitlines()
    title = next((line[2:] for line in lines if line.startswith("# ")), "")
    return Page(title, table(lines), [line[2:] for line in lines if line.startswith("- ")])


def section(text: str, heading: str) -> list[str]:
    """The lines below `## heading`, up to the next heading of that depth; none where there is no such heading."""
    lines = text.splitlines()
    if f"## {heading}" not in lines:
        return []
    rest = lines[lines.index(f"## {heading}") + 1:]
    return rest[:next((place for place, line in enumerate(rest) if line.startswith("## ")), len(rest))]
