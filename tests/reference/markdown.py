"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from wsi_mitosis.core.markdown import plain


def line(cells: Iterable[object]) -> str:
    """Return one line of a table."""
    return f"| {' | '.join(plain(str(cell)) for cell in cells)} |"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table without the columns that are empty in every row."""
    rows = list(rows)
    kept = [at for at in range(len(columns)) if any(str(row[at]) for row in rows)]
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"{line([one[at] for at in kept])}\n" for one in lines)


def unwrapped(docstring: str | None) -> str:
    """Return the first paragraph of a docstring in one line."""
    return " ".join((docstring or "").split("\n\n")[0].split())
