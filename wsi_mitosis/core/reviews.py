"""What a reviewer left on a slide: figures, marks on figures that are none, and areas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsi_mitosis.core import qupath
from wsi_mitosis.core.classes import is_of_figures, label_of_class
from wsi_mitosis.errors import DetectionsError, listed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from wsi_mitosis.tables import ReviewLabel
    from wsi_mitosis.units import Bounds, Frame, Mpp

STAGE = "reading the review"
OBJECT_COLUMNS = (
    *("feature", "object_id", "kind", "class", "x", "y", "width", "height", "extent", "whole_extent"),
    *qupath.REVIEW_MEASUREMENTS,
)
"""The columns of a reviewed file's objects, a row for each point or area:

feature                int            number of its feature in the file, from 1
object_id              str or None    its id, in lower case
kind                   str            QuPath's type of object, such as "annotation"
class                  str or None    its class
x, y                   float64        its centre, px, in the file's own frame
width, height          float64        the sides of its bounding box, px; 0 for a point
extent                 float64        the longer one of them
whole_extent           float64        the same of all parts of its feature
p_atypical, result     float64        measurements that this program wrote; NaN without
"""


@dataclass(frozen=True)
class Review:
    """A slide as its reviewer left it.

    Attributes:
        figures: A row per figure in the order of the file: `figure_id` (str or None), `x_px0`, `y_px0`
            (float64, slide frame), `label` ("atypical" or "typical"), `feature` (number, from 1), `width`,
            `height` (px).
        marks: What the reviewer drew to say that there is no figure: the same columns, with `class` in
            place of `label`.
        areas: Numbers of the features, from 1, that are areas and may be regions.
        notes: What the user should know about the file.
    """

    figures: pd.DataFrame
    marks: pd.DataFrame
    areas: tuple[int, ...]
    notes: tuple[str, ...]


def placed_objects(objects: pd.DataFrame, *, frame: Frame, mpp: Mpp, bounds: Bounds | None) -> pd.DataFrame:
    """Return the objects with `x_px0`, `y_px0` (slide frame) and `extent_um`, `whole_um`.

    Args:
        objects: OBJECT_COLUMNS.
        frame: Frame of their coordinates.
        mpp: um per level-0 px along x and y.
        bounds: The slide's bounds, whose corner is the origin of the `qupath` frame; None for (0, 0).
    """
    left, top = qupath.frame_origin(frame, bounds)
    return objects.assign(
        x_px0=objects["x"] + left,
        y_px0=objects["y"] + top,
        extent_um=objects["extent"] * mpp.mean,
        whole_um=objects["whole_extent"] * mpp.mean,
    )


def reviewed_figures(
    objects: pd.DataFrame,
    machine: pd.DataFrame,
    slide: str,
    *,
    labels: Mapping[str, ReviewLabel] | None = None,
) -> Review:
    """Turn the objects of a reviewed file into figures.

    Areas wider than 50 um are no figures, whatever their class. Every other object must have a class of known
    meaning, so that no count includes an object that nobody decided about. Ids are evidence and not proof:
    QuPath does not replace what it imported before, copies objects with their ids, and old versions wrote the
    type of an object as its id. Objects of one id at one place are one object; of those at different places,
    the one nearest to the ensemble's figure of that id keeps it.

    Args:
        objects: As from `placed_objects`.
        machine: The ensemble's figures: `figure_id`, `x_px0`, `y_px0`.
        slide: The slide's name, for messages.
        labels: Meanings of further classes, by `class_key`.

    Raises:
        DetectionsError: for an object without a class or of an unknown class, and for two objects at one
            place with different classes; names the object.
    """
    known = {name: label_of_class(name, labels or {}) for name in objects["class"].dropna().unique()}
    objects = objects.assign(
        label=pd.Series([known.get(name) for name in objects["class"]], objects.index, dtype=object)
    )
    large = _are_large(objects, machine)
    areas, small = objects[large], objects[~large]
    _check_decided(small, slide)
    each, copies = _without_copies(small, machine, slide)
    figures = each[each["label"] != "none"]
    is_drawn = ~figures["figure_id"].isin(set(machine["figure_id"].dropna()))
    drawn, others = _once(figures[is_drawn], slide, _place_keys(figures[is_drawn]))
    figures = pd.concat([figures[~is_drawn], drawn]).sort_index()
    copies += others
    notes = _notes_on_areas(areas, figures, slide)
    if copies:
        notes += (f"{slide}: copies of other objects of the review, which are counted once: {copies}",)
    return Review(
        figures[["figure_id", "x_px0", "y_px0", "label", "feature", "width", "height"]].reset_index(
            drop=True
        ),
        _marks(each, machine),
        tuple(areas.loc[_may_be_regions(areas), "feature"].drop_duplicates()),
        notes,
    )


def _are_large(objects: pd.DataFrame, machine: pd.DataFrame) -> NDArray[np.bool_]:
    """(n,) which objects are too wide for figures.

    Merged figures are judged part by part. The small parts of a region in several parts belong to it. An
    object with the id of a figure and a class of figures is that figure, however wide it was drawn.
    """
    names = objects["class"].unique()
    of_figures = {name: name is not None and is_of_figures(name) for name in names}
    labelled = objects["label"].isin(["atypical", "typical"])
    own = labelled & objects["object_id"].isin(set(machine["figure_id"].dropna()))
    by_part = labelled | objects["class"].map(of_figures).eq(True)
    extent = np.where(by_part, objects["extent_um"], objects["whole_um"])
    return np.asarray((extent > qupath.LEAST_REGION_UM) & ~own, dtype=bool)


def _may_be_regions(areas: pd.DataFrame) -> NDArray[np.bool_]:
    """(n,) which areas have a class that regions may have; those without a class may be regions."""
    return np.array([name is None or not is_of_figures(name) for name in areas["class"]], dtype=bool)


def _notes_on_areas(areas: pd.DataFrame, figures: pd.DataFrame, slide: str) -> tuple[str, ...]:
    """Notes on areas whose class says that they are single figures."""
    named = areas[~_may_be_regions(areas)]
    drawn = named[[not qupath.is_hotspot_class(qupath.base_class(name)) for name in named["class"]]]
    places = figures[["x_px0", "y_px0"]].to_numpy(np.float64)
    notes = []
    for row in drawn.to_dict("records"):
        away = np.abs(places - [row["x_px0"], row["y_px0"]]).max(axis=1, initial=0)
        over = int((away <= row["extent"] / 2).sum()) if len(places) else 0
        notes.append(
            f"{slide}: feature {row['feature']}, an area of class '{row['class']}', has no effect: it is "
            f"{row['extent_um']:.0f} um wide, and a figure is at most {qupath.LEAST_REGION_UM:g} um wide. "
            f"Figures under it, whose own classes count: {over}"
        )
    return tuple(notes)


def _check_decided(objects: pd.DataFrame, slide: str) -> None:
    """Refuse objects without a known class."""
    unknown = objects["label"].isna()
    if not unknown.any():
        return
    first = objects[unknown].iloc[0]
    fault = "has no class" if first["class"] is None else f"is of the unknown class '{first['class']}'"
    others = f", and so are {unknown.sum() - 1} more" if unknown.sum() > 1 else ""
    raise DetectionsError(
        f"{_object_name(first)} {fault}: typical or atypical?{others}",
        subject=slide,
        stage=STAGE,
        remedy="Set the class in QuPath, delete the object, or say what a class means with --label "
        "'NAME=atypical', '=typical' or '=none'",
    )


def _object_name(row: pd.Series[Any]) -> str:
    place = f"feature {row['feature']} at ({row['x_px0']:.2f}, {row['y_px0']:.2f}) px of the slide"
    return place if row["object_id"] is None else f"object {row['object_id']}, {place},"


def _without_copies(objects: pd.DataFrame, machine: pd.DataFrame, slide: str) -> tuple[pd.DataFrame, int]:
    """Return the objects with `figure_id`, each once, and how many copies of figures were left out.

    The id of an object is None if another object has a better claim to it.
    """
    ids = objects["object_id"]
    objects = objects.assign(figure_id=ids)
    shared = ids.notna() & ids.duplicated(keep=False)
    if not shared.any():
        return objects, 0
    at = dict(zip(machine["figure_id"], machine[["x_px0", "y_px0"]].to_numpy(np.float64), strict=True))
    places = objects[["x_px0", "y_px0"]].to_numpy(np.float64)
    kept = {}  # the place of the object that keeps an id
    for name, rows in objects[shared].groupby("figure_id", sort=False).indices.items():
        there = places[np.flatnonzero(shared)[rows]]
        away = np.hypot(*(there - at[name]).T) if name in at else np.hypot(*(there - there[0]).T)
        if name in at or away.max() <= qupath.UNMOVED_PX:
            kept[name] = there[np.lexsort((*there.T[::-1], away))[0]]
    owners = np.array([kept.get(name, (np.inf, np.inf)) for name in ids[shared]], dtype=np.float64)
    owns = np.zeros(len(objects), dtype=bool)
    owns[np.flatnonzero(shared)] = np.abs(places[shared.to_numpy()] - owners).max(axis=1) <= qupath.UNMOVED_PX
    lost = shared.to_numpy() & ~owns
    names = [None if is_lost else name for name, is_lost in zip(ids, lost, strict=True)]
    objects = objects.assign(figure_id=pd.Series(names, objects.index, dtype=object))
    return _once(objects, slide, _id_keys(objects))


def _id_keys(objects: pd.DataFrame) -> list[Any]:
    """Return keys that copies with the same id have in common."""
    return [row if name is None else name for row, name in enumerate(objects["figure_id"])]


def _place_keys(figures: pd.DataFrame) -> list[Any]:
    """Return keys that copies with new ids have in common: the place, to 0.01 px."""
    return qupath.figure_ids("", figures["x_px0"].to_numpy(), figures["y_px0"].to_numpy())


def _once(objects: pd.DataFrame, slide: str, keys: list[Any]) -> tuple[pd.DataFrame, int]:
    """Return the first of each group of copies, which must agree, and how many figures were left out."""
    groups = objects.groupby(pd.Series(keys, objects.index, dtype=object), sort=False)["label"]
    differ = groups.transform("nunique") > 1
    if differ.any():
        raise DetectionsError(
            f"{_object_name(objects[differ].iloc[0])} lies there twice, with different classes",
            subject=slide,
            stage=STAGE,
            remedy="Delete one of the two in QuPath: it does not replace what was imported before",
        )
    is_copy = groups.cumcount() > 0
    return objects[~is_copy], int((is_copy & (objects["label"] != "none")).sum())


def _marks(objects: pd.DataFrame, machine: pd.DataFrame) -> pd.DataFrame:
    """The annotations that say that there is no figure, and are not themselves the ensemble's figures.

    Nobody draws detections by hand: those of another program that mean no figure say nothing about figures.
    """
    is_mark = (
        (objects["label"] == "none")
        & (objects["kind"] == "annotation")
        & ~objects["figure_id"].isin(set(machine["figure_id"].dropna()))
        & ~objects["class"].map(lambda name: qupath.is_hotspot_class(qupath.base_class(str(name))))
    )
    columns = ["figure_id", "x_px0", "y_px0", "class", "feature", "width", "height"]
    return objects.loc[is_mark, columns].reset_index(drop=True)


def described_areas(classes: list[str | None]) -> str:
    """Return the classes of areas in words: `'Tumor', no class`."""
    names = sorted({name for name in classes if name is not None})
    return ", ".join([*([listed(names)] if names else []), *(["no class"] if None in classes else [])])
