"""`review.html`: a page in which a reviewer labels figures by keys, without a network and without a server.

The page keeps the work in the browser and saves it as a file, which `recount` reads. Its content security
policy is that of the report: it can load and send nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wsi_mitosis.core.review_files import MOST_NOTE, NAME
from wsi_mitosis.io.atomic import write_text
from wsi_mitosis.io.pages.pictures import Square
from wsi_mitosis.io.pages.template import page_style, render_page, template_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from wsi_mitosis.core.review_files import ReviewFile

CLOSE = Square(side_um=64.0, mpp=0.25)
"""The figure and the cells around it."""
WIDE = Square(side_um=256.0, mpp=0.64)
"""The tissue around the figure."""
MOST_BYTES = 40_000_000
"""Size of a page that a browser opens without delay, and that can be sent."""
MOST_FIGURES = 600
"""Figures of a page."""
CLOSE_CHARS, WIDE_CHARS = 25_000, 35_000
"""Greatest length of a figure's two pictures as text, so that a page is smaller than MOST_BYTES."""


@dataclass(frozen=True)
class Mark:
    """A neighbouring figure.

    Attributes:
        x_um, y_um: Its centre, um to the right of the figure and below it.
        label: The ensemble's label; None in a blind page.
    """

    x_um: float
    y_um: float
    label: str | None


@dataclass(frozen=True)
class Shown:
    """What a page shows of a figure.

    Attributes:
        close, wide: Pictures as data URIs.
        marks: The neighbouring figures in the wide picture.
        says: What others say of the figure, by who says it; empty in a blind page.
        place: Where it is, in words.
    """

    close: str
    wide: str
    marks: Sequence[Mark]
    says: Sequence[tuple[str, str]]
    place: str

    def as_data(self) -> dict[str, Any]:
        """Return it as the page's script reads it."""
        return {
            "close": self.close,
            "wide": self.wide,
            "marks": [[round(mark.x_um, 1), round(mark.y_um, 1), mark.label] for mark in self.marks],
            "says": list(self.says),
            "place": self.place,
        }


@dataclass(frozen=True)
class ReviewPage:
    """A page.

    Attributes:
        title: Name of the folder of results.
        file: What the page saves, before anything is decided. Its reviewer is a placeholder if the page asks
            for the name.
        asks_name: Whether the page asks for the reviewer's name.
        shown: What it shows of each figure of `file`.
    """

    title: str
    file: ReviewFile
    asks_name: bool
    shown: Sequence[Shown]

    def as_data(self) -> dict[str, Any]:
        """Return it as the page's script reads it."""
        file = self.file.as_data()
        return {
            "file": file | {"reviewer": ""} if self.asks_name else file,
            "shown": [one.as_data() for one in self.shown],
            "close_um": CLOSE.side_um,
            "wide_um": WIDE.side_um,
            "name": NAME,
            "most_note": MOST_NOTE,
        }


def write_review_page(path: Path, page: ReviewPage) -> None:
    """Write a page; if it fails, an existing file is not changed."""
    write_text(path, render(page))


def render(page: ReviewPage) -> str:
    """Return the page as HTML."""
    from markupsafe import Markup

    return render_page(
        "review.html.j2",
        style=page_style("review.css"),
        script=template_text("review.js"),
        page=page,
        data=Markup(embedded(page.as_data())),  # noqa: S704 - no text in it can end the element # nosec B704
    )


def embedded(data: Any) -> str:
    """Return data as JSON that can stand in a script element: no text in it can end the element."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
