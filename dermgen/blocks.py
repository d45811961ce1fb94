"""What a stage reports: text, notes, warnings, tables and pictures, shown alike on a terminal, a page and a card."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Text:
    """A paragraph; a verdict stands out, and a note helps to read the figures but asks for nothing."""

    text: str
    kind: Literal["text", "verdict", "heading", "note"] = "text"


@dataclass(frozen=True)
class Warning:
    """What a reader must act on before using the figures; `example` names an image and is not published."""

    text: str
    example: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of texts; the first column holds names, and the rows in `main` stand out."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    main: Sequence[int] = ()


@dataclass(frozen=True)
class Picture:
    """A picture file; photographs may be compressed lossily."""

    path: Path
    caption: str
    photographs: bool = False


Block = Text | Warning | Table | Picture


def for_terminal(blocks: Sequence[Block]) -> str:
    """The blocks as plain text; a picture is its path."""
    lines: list[str] = []
    for block in blocks:
        if isinstance(block, Warning):
            lines.append(f"warning: {block.text}" + (f" (for example {block.example})" if block.example else ""))
        elif isinstance(block, Table):
            lines += ["", *_columns(block), ""]
        elif isinstance(block, Picture):
            if block.path.exists():
                lines.append(f"{block.caption}: {block.path}")
        else:
            lines.append(f"note: {block.text}" if block.kind == "note" else block.text)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")


def for_card(blocks: Sequence[Block]) -> str:
    """The blocks as Markdown, without pictures and examples, which name files on this machine."""
    parts = []
    for block in blocks:
        if isinstance(block, Warning):
            parts.append(f"**{sentence(block.text)}**")
        elif isinstance(block, Table):
            rows = [block.head, ["---"] * len(block.head), *block.rows]
            parts.append("\n".join(f"| {' | '.join(map(_cell, row))} |" for row in rows))
        elif isinstance(block, Text):
            form = {"text": "{}", "verdict": "**{}**", "heading": "### {}", "note": "Note: {}"}[block.kind]
            parts.append(form.format(f"{block.text.removesuffix('.')}." if block.kind == "note" else block.text))
    return "\n\n".join(parts)


def _columns(table: Table) -> list[str]:
    widths = [max(len(row[i]) for row in (table.head, *table.rows)) for i in range(len(table.head))]

    def line(row: Sequence[str]) -> str:
        cells = [f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)]
        return "  ".join([f"{row[0]:<{widths[0]}}", *cells]).rstrip()

    return [line(row) for row in (table.head, *table.rows)]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def sentence(text: str) -> str:
    """A clause, as warnings and notes have it, as a sentence: with a capital letter and a full stop."""
    return f"{text[:1].upper()}{text[1:].removesuffix('.')}."


def number(value: float | None) -> str:
    """Three significant digits; – for None."""
    return "–" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def percent(value: float) -> str:
    """With one decimal."""
    return f"{value:.1%}"


def size(n: float) -> str:
    """Bytes as `1.5 GiB`, `2.0 MiB`, `3.0 KiB`."""
    unit, length = next((u, k) for u, k in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)) if n >= k or k == 2**10)
    return f"{n / length:.1f} {unit}"


def p_value(p: float) -> str:
    """As `p = 0.031`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def interval(low: float | None, high: float | None) -> str:
    """Two ends of an interval."""
    return f"{number(low)} to {number(high)}"


def counted(n: int, name: str, plural: str = "") -> str:
    """`1 image`, `2 images`, `1,000 images`."""
    return f"{n:,} {name if n == 1 else plural or name + 's'}"
