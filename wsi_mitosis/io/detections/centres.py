"""The centres of a table's candidates, which it gives as points or boxes."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from wsi_mitosis.io.detections.columns import BOX, CENTRE, CORNER_AND_SIZE
from wsi_mitosis.io.detections.common import backward, box_columns, fault, refuse_backward

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    Values: TypeAlias = Mapping[str, NDArray[np.float64]]
    """(rows,) numbers of each coordinate, by role, in the table's unit."""
    Centres: TypeAlias = dict[str, NDArray[np.float64]]
    """(rows,) `x`, `y` and, of boxes, `extent`, in the table's unit."""

_LARGEST_SHARE_OF_FLIPPED = 0.5
"""Share of boxes whose corners may be in reverse order. With more, `x2` and `y2` may be a size."""
_LARGEST_BOX = 1000
"""Width or height that no mitotic figure's box has in any unit: 250 um at 0.25 um/px."""


def find_centres(values: Values, roles: Mapping[str, str], path: Path) -> tuple[Centres, tuple[str, ...]]:
    """Return the centres of the candidates, and notes on how the coordinates were read.

    Args:
        values: The numbers of the coordinates.
        roles: Role to column name, as `resolve_columns` returns it.
        path: The file, for messages.

    Raises:
        DetectionsError: if boxes are impossible, or if `x` and `y` lie outside the box of their row.
    """
    if "x1" not in roles:
        return {axis: values[axis] for axis in CENTRE}, ()
    if "width" in roles and not np.isfinite(values["width"] + values["height"]).any():
        corner = CENTRE if "x" in roles else ("x1", "y1")  # the columns of the size are empty
        return {axis: values[role] for axis, role in zip(CENTRE, corner, strict=True)}, ()
    boxes = _centres_of_boxes(values, roles, path)
    if "x" in roles:
        return _centre_or_corner(boxes, values, roles, path)
    if "width" not in roles:
        return boxes, ()
    near, size = (f"'{roles[a]}' and '{roles[b]}'" for a, b in (("x1", "y1"), ("width", "height")))
    return boxes, (f"{path.name}: {near} are read as the top-left corner of boxes, whose size is {size}",)


def _centres_of_boxes(values: Values, roles: Mapping[str, str], path: Path) -> Centres:
    """Centres and extents of boxes with two corners, or with a corner and a size."""
    if "width" not in roles:
        corners = np.stack([values[role] for role in BOX], axis=1)
        if len(corners) and backward(corners).mean() > _LARGEST_SHARE_OF_FLIPPED:
            refuse_backward(corners, path, what="row")
        return box_columns(corners)
    x1, y1, width, height = (values[role] for role in CORNER_AND_SIZE)
    _refuse_rows((width < 0) | (height < 0), "the box has a negative width or height", path)
    sizes = np.maximum(width, height)
    _refuse_rows(
        (sizes > _LARGEST_BOX) & (np.nanmin(sizes) > _LARGEST_BOX),
        f"all boxes are at least {np.nanmin(sizes):g} wide or high, as an image is and no mitotic figure",
        path,
    )
    return box_columns(np.stack([x1, y1, x1 + width, y1 + height], axis=1))


def _centre_or_corner(
    boxes: Centres, values: Values, roles: Mapping[str, str], path: Path
) -> tuple[Centres, tuple[str, ...]]:
    """The centres if `x` and `y` beside boxes are their corner in all rows, or else a point inside them."""
    x, y = values["x"], values["y"]
    given = np.isfinite(x + y)
    if given.any() and ((x == values["x1"]) & (y == values["y1"]))[given].all():
        note = f"{path.name}: '{roles['x']}' and '{roles['y']}' are the boxes' corner; their centre is taken"
        return boxes, (note,)
    outside = (np.abs(x - boxes["x"]) * 2 > boxes["extent"]) | (np.abs(y - boxes["y"]) * 2 > boxes["extent"])
    _refuse_rows(
        outside, f"the point ('{roles['x']}', '{roles['y']}') is not in the box of the same row", path
    )
    return {"x": x, "y": y, "extent": boxes["extent"]}, ()


def _refuse_rows(flags: NDArray[np.bool_], cause: str, path: Path) -> None:
    if flags.any():
        raise fault(
            f"row {int(np.argmax(flags)) + 1}: {cause}",
            path,
            "Name the columns of the centre with --columns x=...,y=..., or those of the box "
            "with --columns x1=...,y1=...,x2=...,y2=...",
        )
