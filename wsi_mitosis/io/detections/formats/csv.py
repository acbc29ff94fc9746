"""Tables of text with a header: separated by commas, semicolons or tabs, and QuPath's measurement tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsi_mitosis.io.detections.delimited import read_delimited
from wsi_mitosis.io.detections.formats.format import Document, Fit, Format, ReadOptions

if TYPE_CHECKING:
    from wsi_mitosis.tables import Detections


def _fits(_document: Document) -> Fit:
    return Fit.POSSIBLE


def _read(document: Document, options: ReadOptions) -> Detections:
    return read_delimited(document.data, document.path, options)


FORMAT = Format(
    name="csv",
    about="A table with a header, separated by commas, semicolons or tabs, such as QuPath's measurements.",
    kinds=("text",),
    fits=_fits,
    read=_read,
    endings=(".csv", ".tsv", ".txt"),
    is_table=True,
)
