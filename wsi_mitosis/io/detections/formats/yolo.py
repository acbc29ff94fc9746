"""Text of YOLO: a file for each image, with a line for each object and numbers between blanks.

Sources: https://docs.ultralytics.com/datasets/detect (class, centre, width and height, as shares of the
image's), /datasets/segment (class and corners) and /datasets/obb (class and four corners). Files that the
detector itself writes (`save_txt`, `save_conf`) have a confidence at the end of a line.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from wsi_mitosis.io import limits
from wsi_mitosis.io.detections.common import candidate_table, fault, in_short
from wsi_mitosis.io.detections.formats.format import Document, Fit, Format, ReadOptions
from wsi_mitosis.io.detections.shapes import read_shapes
from wsi_mitosis.tables import Detections

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from wsi_mitosis.errors import DetectionsError

_CLASS = re.compile(r"\d{1,4}")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_BOX = 4
"""Numbers of a box, beside the class and perhaps a confidence."""
_LEAST_CORNERS = 6
"""Numbers of a triangle, the outline with fewest corners."""
_SLACK = 0.01
"""How far an outline may pass the edges of the image, as a share of it: rounded, or turned boxes."""
_POSE_POINT = 3
"""Numbers of a point of a pose: x, y and whether it is visible, 0, 1 or 2."""
_NAMES_FILES = ("data.yaml", "classes.txt")
_MOST_NAMES_KIB = 128
"""PyYAML reads about this much in a second; a thousand names need 20 KiB."""
_REMEDY = "Write one line for each object: class x_center y_center width height [confidence], from 0 to 1"


class _Object(NamedTuple):
    """An object: a class, the corners of its outline or the centre of its box, and a confidence."""

    number: int
    corners: list[list[float]]
    score: float


def is_yolo(text: str) -> bool:
    """Return whether the first line is a whole number, the class, and four or more other numbers.

    A table has names in its first line, so that no file fits both.
    """
    number, *others = [field for field in text.lstrip().split("\n", 1)[0].split(" ") if field]
    return (
        _CLASS.fullmatch(number) is not None
        and len(others) >= _BOX
        and all(_NUMBER.fullmatch(other) for other in others)
    )


def _fits(document: Document) -> Fit:
    return Fit.LIKELY if is_yolo(document.data) else Fit.NO


def _read(document: Document, _options: ReadOptions) -> Detections:
    """Read objects as fractions of level 0's width and height, slide frame.

    The names of classes are those of `data.yaml` or `classes.txt` in the same folder. Without them, classes
    are numbers, and do not say which one is the mitotic figures if there may be several.

    Raises:
        DetectionsError: if a line is not an object of YOLO, or may be one of two kinds; or if the names of
            the classes cannot be read, or lack a class.
    """
    path = document.path
    objects = list(_objects(document.data, path))
    shapes = read_shapes([{"geometry": _geometry(item.corners)} for item in objects])
    names = _names(path)
    x, y = shapes.centres().T
    columns: dict[str, Any] = {
        "x": x,
        "y": y,
        "score": [item.score for item in objects],
        "detector_class": [_named(item.number, names, path) for item in objects],
    }
    numbers = range(max(item.number for item in objects) + 1)
    unnamed = tuple(map(str, numbers)) if names is None and len(numbers) > 1 else None
    table = candidate_table(len(objects), columns)
    return Detections(table, "fraction", "slide", "any", "yolo", file_classes=unnamed)


def _geometry(corners: list[list[float]]) -> dict[str, Any]:
    if len(corners) == 1:
        return {"type": "Point", "coordinates": corners[0]}
    return {"type": "Polygon", "coordinates": [corners]}


def _objects(text: str, path: Path) -> Iterator[_Object]:
    for at, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield _object(line.split(), at, path)


def _object(fields: Sequence[str], at: int, path: Path) -> _Object:
    number, *others = fields
    if not _CLASS.fullmatch(number):
        raise fault(f"line {at}: the class is {in_short(number)}, not a whole number", path, _REMEDY)
    for other in others:
        if not _NUMBER.fullmatch(other):
            raise fault(f"line {at}: {in_short(other)} is not a number", path, _REMEDY)
    values = list(map(float, others))
    _refuse_doubtful(others, values, at, path)
    corners, score = _parted(values)
    _refuse_outside(corners, score, at, path)
    return _Object(int(number), corners[:1] if len(values) <= _BOX + 1 else corners, score)


def _refuse_doubtful(fields: Sequence[str], values: Sequence[float], at: int, path: Path) -> None:
    """Refuse a line of too few numbers, and one that may be of two kinds."""
    if len(values) < _BOX:
        raise fault(f"line {at} has {len(values)} numbers after the class", path, _REMEDY)
    if len(values) == _LEAST_CORNERS and fields[-1].isdecimal():
        cause = f"line {at} may be a triangle, or a box with a confidence and the number of a track"
        raise fault(cause, path, "Write the boxes without numbers of tracks")
    seen = values[_BOX + _POSE_POINT - 1 :: _POSE_POINT]
    if len(values) > _BOX + 1 and (len(values) - _BOX) % _POSE_POINT == 0 and set(seen) <= {0, 1, 2}:
        raise fault(f"line {at} may be a pose, whose points say if they are visible", path, _REMEDY)


def _parted(values: Sequence[float]) -> tuple[list[list[float]], float]:
    """Pairs of numbers, and the confidence; an odd number of values ends in one."""
    pairs = [[x, y] for x, y in zip(values[0::2], values[1::2], strict=False)]
    return pairs, values[-1] if len(values) % 2 else float("nan")


def _refuse_outside(corners: Sequence[list[float]], score: float, at: int, path: Path) -> None:
    flat = [value for corner in corners for value in corner]
    slack = 0 if len(flat) == _BOX else _SLACK
    outside = next((value for value in flat if not -slack <= value <= 1 + slack), None)
    if outside is not None:
        cause = f"line {at}: {outside:g} is no share of the image's width or height, from 0 to 1"
        raise fault(cause, path, f"{_REMEDY}. Give numbers in pixels as a table with a header")
    if not np.isnan(score) and not 0 <= score <= 1:
        raise fault(f"line {at}: the confidence {score:g} is not within 0 to 1", path, _REMEDY)


def _named(number: int, names: dict[int, str] | None, path: Path) -> str:
    if names is None:
        return str(number)
    if number not in names:
        cause = f"class {number} has no name in {' or '.join(_NAMES_FILES)} beside it"
        raise fault(cause, path, "Add its name, or move the names to another folder")
    return names[number]


def _names(path: Path) -> dict[int, str] | None:
    """The names of the classes, by their numbers; None if no file beside the objects states them."""
    readers = zip(_NAMES_FILES, (_yaml_names, _listed_names), strict=True)
    found = {
        name: names
        for name, read in readers
        if (at := path.with_name(name)) != path and at.is_file() and (names := read(at)) is not None
    }
    (first, names), *others = found.items() if found else [("", None)]
    for name, other in others:
        if other != names:
            raise fault(f"'{first}' and '{name}' beside it name the classes differently", path, "Keep one")
    return names


def _text_of(path: Path) -> str:
    try:
        if path.stat().st_size > _MOST_NAMES_KIB << 10:
            raise _unreadable(path, f"the file has more than {_MOST_NAMES_KIB} KiB")
        return limits.read_text(path)
    except (OSError, ValueError) as error:
        raise _unreadable(path, str(error)) from error


def _unreadable(path: Path, why: str) -> DetectionsError:
    return fault(f"the names of the classes cannot be read: {why}", path, "Correct this file or move it")


def _listed_names(path: Path) -> dict[int, str]:
    """The names of `classes.txt`, one in each line, the first of class 0."""
    return {number: line.strip() for number, line in enumerate(_text_of(path).strip().splitlines())}


def _yaml_names(path: Path) -> dict[int, str] | None:
    """The `names` of `data.yaml`, a list or an object; None if it has none."""
    import yaml

    try:
        # This loader makes texts, lists and objects only.
        content = yaml.load(_text_of(path), Loader=yaml.BaseLoader)  # noqa: S506 # nosec B506
    except (yaml.YAMLError, RecursionError) as error:
        raise _unreadable(path, "it is not YAML") from error
    if not isinstance(content, dict):
        raise _unreadable(path, "it is not an object")
    if content.get("kpt_shape"):
        raise _unreadable(path, "its objects are poses (kpt_shape), which have no outline")
    names = content.get("names")
    return _checked(names, path) if names else None


def _checked(names: Any, path: Path) -> dict[int, str]:
    """The names of classes by number, from a list or an object."""
    pairs = list(
        enumerate(names) if isinstance(names, list) else names.items() if isinstance(names, dict) else ()
    )
    if not pairs or not all(
        _CLASS.fullmatch(str(number)) and isinstance(name, str) for number, name in pairs
    ):
        raise _unreadable(path, "'names' is neither a list of names nor an object with names by number")
    return {int(number): name.strip() for number, name in pairs}


FORMAT = Format(
    name="yolo",
    about="Text of YOLO: boxes, turned boxes and outlines as fractions of the image, a file for each slide.",
    kinds=("text",),
    fits=_fits,
    read=_read,
    endings=(".txt",),
)
