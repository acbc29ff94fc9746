"""Parquet tables, such as a figures table of `wsi-mitosis`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsi_mitosis.io.detections.delimited import read_parquet
from wsi_mitosis.io.detections.formats.format import Document, Fit, Format, ReadOptions

if TYPE_CHECKING:
    from wsi_mitosis.tables import Detections


def _fits(_document: Document) -> Fit:
    return Fit.POSSIBLE


def _read(document: Document, options: ReadOptions) -> Detections:
    return read_parquet(document.data, document.path, options)


FORMAT = Format(
    name="parquet",
    about="A Parquet table, such as a figures table of wsi-mitosis.",
    kinds=("parquet",),
    fits=_fits,
    read=_read,
    endings=(".parquet",),
    is_table=True,
)
