"""What a format of detections is: how a file of it is recognised, and how its candidates are read.

A new format is one module of this package with a FORMAT, its entries in `formats.REGISTRY` and in
`tables.DetectionFormat`, and its tests. Recognition by content, `--format` and the names that a folder is
searched for follow from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from wsi_mitosis.tables import DecimalSign, DetectionFormat, Detections
    from wsi_mitosis.units import LengthUnit

Kind = Literal["text", "parquet", "json", "xml", "sqlite"]
"""What a file is, whatever program wrote it. It decides what `Document.data` is."""


class Fit(IntEnum):
    """How well a document fits a format."""

    NO = 0
    """It is of another format; `--format` is refused too."""
    POSSIBLE = 1
    """It is read as this format if it fits no other one better, or if `--format` says so."""
    LIKELY = 2
    """It has what only this format has."""


@dataclass(frozen=True)
class Document:
    """An opened detections file.

    Attributes:
        path: The file, for messages; a database is read from it.
        kind: What the file is.
        data: By kind: the decoded text; the bytes of a Parquet file; the object or list of JSON; the root
            Element of XML; the names of the columns of each table of a SQLite database.
    """

    path: Path
    kind: Kind
    data: Any


@dataclass(frozen=True)
class ReadOptions:
    """What the user states about a file. None means that the file itself decides.

    Attributes:
        columns: For a table: a role of ALIASES (or one of its aliases) to the name of a column.
        units: Unit of the coordinates.
        decimal: For a table: the decimal sign.
    """

    columns: Mapping[str, str]
    units: LengthUnit | None = None
    decimal: DecimalSign | None = None


@dataclass(frozen=True)
class Format:
    """A format of detections.

    Attributes:
        name: As for `--format`.
        about: What it is and who writes it, for the reference of options.
        kinds: The kinds of files that it has.
        fits: How well a document of one of `kinds` fits. It has to accept any content.
        read: Reads a document that fits, without converting its coordinates. It raises DetectionsError if the
            document makes no sense.
        endings: The endings of its files' names, in lower case, that a folder is searched for.
        is_table: Whether it obeys `--columns` and `--decimal`.
    """

    name: DetectionFormat
    about: str
    kinds: tuple[Kind, ...]
    fits: Callable[[Document], Fit]
    read: Callable[[Document, ReadOptions], Detections]
    endings: tuple[str, ...] = ()
    is_table: bool = False

    def fit(self, document: Document) -> Fit:
        """Return how well a document of any kind fits."""
        return self.fits(document) if document.kind in self.kinds else Fit.NO
