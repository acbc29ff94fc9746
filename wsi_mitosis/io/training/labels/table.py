"""Any table of labelled figures on slides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsi_mitosis.core import qupath
from wsi_mitosis.core.matching import match_slides
from wsi_mitosis.errors import DatasetError, DetectionsError
from wsi_mitosis.io.detections import read_detections
from wsi_mitosis.io.detections.columns import alias_key, names_classes
from wsi_mitosis.io.slides import find_slides
from wsi_mitosis.io.training.labels.common import (
    STAGE,
    Listing,
    joined_subtypes,
    listing,
    missing,
    unknown,
)
from wsi_mitosis.io.training.labels.rows import LABELS, LabelRow, coordinates, read_label_rows
from wsi_mitosis.tables import ALIASES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

OTHER_UNITS = ("_um", f"_{qupath.MICRO_SIGN.casefold()}m", "_mm")
QUPATH = tuple(map(alias_key, qupath.CENTROID_COLUMNS_PX))
"""QuPath's own columns, which are in its own frame."""
NEEDED = ("slide", "x", "y", "label")


def _in_level0(aliases: tuple[str, ...]) -> tuple[str, ...]:
    keys = map(alias_key, aliases)
    return tuple(key for key in keys if not key.endswith(OTHER_UNITS) and key not in QUPATH)


ROLES = {
    "slide": tuple(map(alias_key, ALIASES["slide"])),
    "x": _in_level0(ALIASES["x"]),
    "y": _in_level0(ALIASES["y"]),
    "label": ("label", *map(alias_key, ALIASES["detector_class"])),
    "domain": ("domain",),
    "id": tuple(map(alias_key, ALIASES["id"])),
    "subtypes": ("subtypes", "subtype"),
}
"""What a column may be called, best first; coordinates are level-0 px in the slide frame."""


def read_table(csv: Path, images: Path, domain: str | None) -> Listing:
    """Read a table `slide, x, y, label[, domain][, id][, subtypes]`.

    Args:
        csv: The table.
        images: The folder with the slides, in itself or in folders below.
        domain: The domain of all figures, for a table without that column; the table's name if None.

    Raises:
        DatasetError: if columns or slides are missing, or a cell is not what it should be.
        InputError: if the folder has no slides, or a name fits two.
    """
    rows = read_label_rows(csv)
    roles = _roles(rows[0].cells, csv)
    _check_classes(rows, roles["label"])
    if domain is not None and "domain" in roles:
        raise DatasetError(
            f"has a column '{roles['domain']}', which --domain would overrule",
            subject=csv,
            stage=STAGE,
            remedy="Leave out one of the two",
        )
    named = [row.text(roles["slide"]) for row in rows]
    found = find_slides([str(images)], recursive=True)
    matches = match_slides(named, found.sources)
    for error in matches.refused.values():
        raise error
    sources = matches.slides
    for slide in dict.fromkeys(sources.values()):
        if slide in found.faults:
            raise DatasetError(found.faults[slide], subject=images, stage=STAGE)
    if absent := sorted(set(named) - sources.keys()):
        raise missing(absent, images)
    slides = [sources[name].relative for name in named]
    x, y = _centres(rows, roles, csv)
    places = [f"{name}:{a:.12g}:{b:.12g}" for name, a, b in zip(slides, x, y, strict=True)]
    columns = {
        **unknown(len(rows)),
        "source_id": [row.text(roles["id"]) for row in rows] if "id" in roles else places,
        "slide": slides,
        "domain": [row.text(roles["domain"]) if "domain" in roles else domain or csv.stem for row in rows],
        "label": [row.label(roles["label"]) for row in rows],
        "label_source": ["csv"] * len(rows),
        "subtypes": [joined_subtypes([row.cells[roles["subtypes"]]]) for row in rows]
        if "subtypes" in roles
        else [""] * len(rows),
        "x_px0": x,
        "y_px0": y,
    }
    return listing(columns, [sources[name].path for name in named], on_slides=True)


def _centres(
    rows: Sequence[LabelRow], roles: Mapping[str, str], csv: Path
) -> tuple[list[float], list[float]]:
    """Return x and y of the figures' centres, level-0 px, slide frame.

    They are what a table of detections with these columns has: its reader knows boxes, units and shares.

    Raises:
        DatasetError: if a cell is not a number, or they are unclear or in another unit or frame.
    """
    coordinates(rows, roles["x"], roles["y"], csv)  # names the row
    try:
        found = read_detections(csv)
    except DetectionsError as error:
        raise _not_level0(error.cause, csv) from error
    if (found.units, found.frame) != ("px", "slide") or len(found.table) != len(rows):
        raise _not_level0(f"its coordinates are in {found.units}, in the frame of {found.frame}", csv)
    return found.table["x"].tolist(), found.table["y"].tolist()


def _not_level0(cause: str, csv: Path) -> DatasetError:
    remedy = "Give the centres of the figures in level-0 px of the slide, in columns x and y"
    return DatasetError(cause, subject=csv, stage=STAGE, remedy=remedy)


def _check_classes(rows: Sequence[LabelRow], label: str) -> None:
    """Refuse a table in which another column of classes contradicts the labels."""
    for name in rows[0].cells:
        if name == label or not names_classes(name):
            continue
        said = [(row, LABELS.get(row.cells[name].strip().casefold())) for row in rows]
        other = [row for row, value in said if value not in (None, row.label(label))]
        if other:
            raise DatasetError(
                f"column '{name}' contradicts '{label}' in {len(other)} of {len(rows)} rows: '{label}' is "
                f"'{other[0].cells[label]}' here, and '{name}' is '{other[0].cells[name]}'",
                subject=other[0].place,
                stage=STAGE,
                remedy="Leave out the column that is not the label",
            )


def _roles(header: Mapping[str, str], csv: Path) -> dict[str, str]:
    """Role to the name of its column."""
    names = {alias_key(name): name for name in reversed(list(header))}
    roles = {}
    for role, aliases in ROLES.items():
        if present := [names[alias] for alias in aliases if alias in names]:
            roles[role] = present[0]
    if absent := [role for role in NEEDED if role not in roles]:
        known = "; ".join(f"{role}: {', '.join(ROLES[role])}" for role in absent)
        raise DatasetError(
            f"no column for {', '.join(absent)}; there are {', '.join(header)}",
            subject=csv,
            stage=STAGE,
            remedy=f"Call it as one of these ({known})",
        )
    return roles
