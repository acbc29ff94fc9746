"""Markdown that is legible as plain text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table with aligned columns, and an empty line."""
    cells = [[plain(cell) for cell in row] for row in (header, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    rule = " | ".join("-" * width for width in widths)
    yield from (f"| {line} |" for line in (lines[0], rule, *lines[1:]))
    yield ""


def plain(value: str) -> str:
    """Return text on one line, with `|` escaped for tables."""
    return " ".join(value.split()).replace("|", "\\|")


def number(value: float | None) -> str:
    """Format a value with three decimals; None is `undefined`."""
    return "undefined" if value is None else f"{value:.3f}"
