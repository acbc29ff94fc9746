"""JSON of HoVer-Net: the nuclei of a slide or of an image.

Source: https://github.com/vqdang/hover_net, `__save_json` in infer/base.py and its calls in infer/wsi.py and
infer/tile.py; `process` in models/hovernet/post_proc.py; misc/wsi_handler.py. `nuc` has an object for each
nucleus, with `centroid` [x, y], `type` (a number, or null without types) and `type_prob`.

Of a slide, the coordinates are px of the whole image at `mag`, which HoVer-Net resizes from level 0 by the
power of the objective that the slide states. Of an image, `mag` is null, and they are px of that image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wsi_mitosis.io.detections.common import (
    box_sides,
    candidate_table,
    class_note,
    fault,
    in_short,
    is_plain_number,
    numbers,
    points,
    refuse_placeless,
    text_or_none,
)
from wsi_mitosis.io.detections.formats.format import Document, Fit, Format, ReadOptions
from wsi_mitosis.tables import Detections

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_MAGNIFICATIONS = (0.1, 1000.0)
"""Any that a slide could be read at; beyond them is a mistake."""
UNTYPED = "nucleus"
"""The class of nuclei without a type. It has to be named by `--class`: most nuclei are not in mitosis."""


def _fits(document: Document) -> Fit:
    content = document.data
    return Fit.LIKELY if isinstance(content, dict) and isinstance(content.get("nuc"), dict) else Fit.NO


def _read(document: Document, _options: ReadOptions) -> Detections:
    """Read the centroids of nuclei, in px at the magnification that the file states.

    Raises:
        DetectionsError: if a nucleus is not an object, its centroid or probability is not a number, or the
            magnification is none.
    """
    path, nuclei = document.path, _nuclei(document.data, document.path)
    magnification = _magnification(document.data, path)
    items = list(nuclei.values())
    centres = points([item.get("centroid") for item in items], "centroid", path)
    refuse_placeless(centres, path, what="nuclei")
    classes = [text_or_none(item.get("type")) or UNTYPED for item in items]
    columns = {
        "x": centres[:, 0],
        "y": centres[:, 1],
        "extent": box_sides([item.get("bbox") for item in items]),
        "id": list(nuclei),
        "score": numbers([item.get("type_prob") for item in items], "type_prob", path),
        "detector_class": classes,
    }
    return Detections(
        table=candidate_table(len(items), columns),
        units="px",
        frame="slide",
        class_rule="mitotic",
        format="hovernet",
        notes=(*_scale_note(magnification, path), *class_note(classes, path)),
        magnification=magnification,
    )


def _nuclei(content: Mapping[str, Any], path: Path) -> dict[str, dict[str, Any]]:
    nuclei: dict[str, dict[str, Any]] = content["nuc"]
    for name, item in nuclei.items():
        if not isinstance(item, dict):
            raise fault(f"nucleus {name} is {in_short(item)}, not an object", path, "Write the file again")
    return nuclei


def _magnification(content: Mapping[str, Any], path: Path) -> float | None:
    stated = content.get("mag")
    if stated is None:
        return None
    if not is_plain_number(stated) or not _MAGNIFICATIONS[0] <= stated <= _MAGNIFICATIONS[1]:
        cause = f"the magnification 'mag' is {in_short(stated)}"
        raise fault(cause, path, "It is the power at which HoVer-Net read the slide, such as 40")
    return float(stated)


def _scale_note(magnification: float | None, path: Path) -> tuple[str, ...]:
    if magnification is None:
        return (f"{path.name}: 'mag' is not stated, so that coordinates are taken as px of the whole image",)
    return (f"{path.name}: coordinates are px at {magnification:g}x",)


FORMAT = Format(
    name="hovernet",
    about="HoVer-Net (JSON): nuclei in px at the stated magnification; --class names the types that count.",
    kinds=("json",),
    fits=_fits,
    read=_read,
    endings=(".json", ".json.gz"),
)
