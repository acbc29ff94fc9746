"""SQLite databases of SlideRunner, as those of the MIDOG 2021 training set."""

from __future__ import annotations

from typing import Any

import numpy as np

from wsi_mitosis.io.detections.common import box_columns, candidate_table, numbers, text_or_none
from wsi_mitosis.io.detections.formats.format import Document, Fit, Format, ReadOptions
from wsi_mitosis.io.detections.sqlite import rows_of
from wsi_mitosis.tables import Detections

_TABLES = {"Slides", "Annotations", "Annotations_coordinates", "Classes"}
_QUERY = """
    SELECT annotation.uid, slide.filename, class.name,
           box.count, box.left, box.top, box.right, box.bottom
    FROM Annotations AS annotation
    LEFT JOIN Slides AS slide ON slide.uid = annotation.slide
    LEFT JOIN Classes AS class ON class.uid = annotation.agreedClass
    LEFT JOIN (
        SELECT annoId, COUNT(*) AS count,
               MIN(coordinateX) AS left, MIN(coordinateY) AS top,
               MAX(coordinateX) AS right, MAX(coordinateY) AS bottom
        FROM Annotations_coordinates GROUP BY annoId
    ) AS box ON box.annoId = annotation.uid
    WHERE COALESCE(annotation.deleted, 0) = 0
    ORDER BY annotation.uid
"""


def _fits(document: Document) -> Fit:
    return Fit.LIKELY if document.data.keys() >= _TABLES else Fit.NO


def _read(document: Document, _options: ReadOptions) -> Detections:
    """Read SlideRunner's annotations that are not deleted, with the class that its experts agreed on.

    The centre of a box, circle or polygon is that of the bounding box of its coordinates, level-0 px.

    Raises:
        DetectionsError: if the database is damaged.
    """
    path = document.path
    rows = rows_of(path, _QUERY)
    corners = [numbers([row[at] for row in rows], "coordinate", path) for at in range(4, 8)]
    columns: dict[str, Any] = {
        "id": [str(row[0]) for row in rows],
        "slide": [text_or_none(row[1]) for row in rows],
        "detector_class": [text_or_none(row[2]) for row in rows],
        **box_columns(np.stack(corners, axis=1)),
    }
    columns["extent"][[row[3] == 1 for row in rows]] = np.nan
    return Detections(candidate_table(len(rows), columns), "px", "slide", "mitotic", "sliderunner")


FORMAT = Format(
    name="sliderunner",
    about="SlideRunner's database (SQLite).",
    kinds=("sqlite",),
    fits=_fits,
    read=_read,
    endings=(".sqlite",),
)
