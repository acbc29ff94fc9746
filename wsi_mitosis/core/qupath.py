"""What QuPath means: classes, colours, object ids, coordinates, and the names of images, columns and files.

Every module that reads or writes for QuPath takes these facts from here, and so does the import script
(`io/results/import_geojson.groovy`). They hold for QuPath 0.4 to 0.7.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from wsi_mitosis.tables import MOST_HOTSPOTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

    from wsi_mitosis.units import Frame

# Objects

ObjectType = Literal["detection", "annotation"]
"""Detections are drawn fast by the million; annotations can be edited."""
FIGURE_UM = 12.5
"""Diameter of the circle around a figure, um. Source: MIDOG's boxes are 50 px at 0.25 um/px."""
LEAST_REGION_UM = 50.0
"""An object that is wider than this, um, is a region that a user drew, and not a figure."""

# Classes and colours

CLASS_SEPARATOR = ": "
"""`A: B` is the class B that is derived from the class A."""
IGNORED_SUFFIX = "*"
TRAINED_FAMILY = "Mitosis"
UNTRAINED_FAMILY = "Untrained"
"""Base class of figures from an untrained bundle, whose labels have no meaning."""
FAMILY_SPELLINGS = frozenset(
    {
        *(TRAINED_FAMILY.casefold(), UNTRAINED_FAMILY.casefold()),
        *("mitoses", "mitotic figure", "mitotic figures"),
    }
)
"""Base classes of figures in a review, in lower case: those that this program writes, and synonyms."""
HOTSPOT_CLASS = "Hotspot"

Rgb = tuple[int, int, int]
REGION_COLOURS: dict[str, Rgb] = {
    "Tumor": (200, 0, 0),
    "Region*": (0, 0, 180),
    "Necrosis": (50, 50, 50),
    "Ignore*": (180, 180, 180),
}
"""QuPath's default classes that are useful for regions, and their colours there. A project's list of classes
replaces the defaults, and QuPath invents a colour where the list has none. Source: `StandardPathClasses` in
qupath-core, `PathClass.java`."""
FIGURE_COLOURS: dict[str, Rgb] = {"atypical": (220, 20, 60), "typical": (0, 114, 178)}
"""Crimson, and the blue of Okabe and Ito's palette: distinct for every type of colour vision."""
HOTSPOT_COLOUR: Rgb = (255, 140, 0)


def figure_class(label: str, *, trained: bool) -> str:
    """Return the class of a figure, such as `Mitosis: Atypical`.

    Args:
        label: `atypical` or `typical`.
        trained: Whether the bundle is trained; the class of an untrained bundle's figure begins with
            `Untrained`.
    """
    return f"{TRAINED_FAMILY if trained else UNTRAINED_FAMILY}{CLASS_SEPARATOR}{label.capitalize()}"


def base_class(name: str) -> str:
    """Return the class that a class is derived from, or the class itself."""
    return name.partition(CLASS_SEPARATOR.strip())[0].strip()


def is_ignored_class(name: str) -> bool:
    """Return whether QuPath ignores objects of a class, such as `Ignore*`."""
    return name.strip().endswith(IGNORED_SUFFIX)


def is_hotspot_class(name: str) -> bool:
    """Return whether a class is that of hotspots, in upper or lower case."""
    return name.casefold() == HOTSPOT_CLASS.casefold()


def is_program_class(name: str) -> bool:
    """Return whether this program writes objects of a class: figures or hotspots."""
    families = tuple(f"{family}{CLASS_SEPARATOR}" for family in (TRAINED_FAMILY, UNTRAINED_FAMILY))
    return is_hotspot_class(name) or name.startswith(families)


# Measurements

PROBABILITY, ATYPICAL_VOTES, VOTES_CAST = "Atypical probability", "Atypical votes", "Votes cast"
AGREEMENT, DETECTOR_SCORE, REVIEW_RANK = "Agreement", "Detector score", "Review rank"
RESULT_NUMBER = "Result number"
"""Measurement of every figure: which result of its slide the figure is of. QuPath keeps measurements as
float32, which holds whole numbers up to 2^24."""
MACHINE_COUNT, MACHINE_ATYPICAL = "Machine mitosis count", "Machine atypical count"
MACHINE_DENSITY, HOTSPOT_AREA = "Machine mitoses per mm^2", "Hotspot area mm^2"
"""Measurements of a hotspot. `Machine` is in the names of those that a review makes out of date."""
REVIEW_MEASUREMENTS = {"p_atypical": PROBABILITY, "result": RESULT_NUMBER}
"""The measurements by which a review shows what its reviewer saw, by column."""


def result_number(key: str) -> int:
    """Return the number of a result, from the first 24 bits of the SHA-256 of its key."""
    return int(hashlib.sha256(key.encode()).hexdigest()[:6], 16)


# Frames and precision

COORDINATE_DECIMALS = 2
"""QuPath 0.6 and later round coordinates to 0.01 px."""
STEPS_PER_PX = 100
UNMOVED_PX = 0.02
"""A centre that differs by at most this, px, was not moved: QuPath rounds the corners of its ring."""


def frame_origin(frame: Frame, bounds: tuple[int, int, int, int] | None) -> tuple[int, int]:
    """Return the origin of a frame: (x, y), level-0 px, slide frame.

    Args:
        frame: `slide`, or `qupath` for an image that QuPath crops to the slide's bounds.
        bounds: (left, top, width, height), level-0 px, slide frame; None if the slide has none.
    """
    return bounds[:2] if bounds is not None and frame == "qupath" else (0, 0)


def frame_size(
    frame: Frame, size_px0: tuple[int, int], bounds: tuple[int, int, int, int] | None
) -> tuple[int, int]:
    """Return the size of the image that QuPath shows in a frame: (width, height), level-0 px.

    Args:
        frame: As for `frame_origin`.
        size_px0: (width, height) of level 0, px.
        bounds: As for `frame_origin`.
    """
    return bounds[2:] if bounds is not None and frame == "qupath" else size_px0


def other_frame(frame: Frame) -> Frame:
    """Return the frame that coordinates are in if they are not in `frame`."""
    return "slide" if frame == "qupath" else "qupath"


def coordinate_steps(values_px: NDArray[Any]) -> NDArray[np.int64]:
    """Return coordinates of any shape, px, as whole steps of 0.01 px, the precision that QuPath keeps."""
    steps: NDArray[np.int64] = np.rint(values_px.astype(np.float64) * STEPS_PER_PX).astype(np.int64)
    return steps


# Object ids

ID_NAMESPACE = uuid.UUID("8d3a53a5-3f0e-5c0b-9c57-6a1f6f0f2f43")
"""Namespace of the objects' UUIDv5. It must never change: the ids identify objects of earlier runs."""


def figure_ids(identity: str, x_px0: ArrayLike, y_px0: ArrayLike) -> list[str]:
    """Derive ids from the figures' centres, so that they are the same in every run, format and row order.

    Args:
        identity: The slide's identity.
        x_px0: (n,) finite, level-0 px, slide frame.
        y_px0: (n,) likewise.

    Returns:
        UUIDv5 texts, distinct for figures that differ by 0.01 px.
    """
    across, down = coordinate_steps(np.asarray(x_px0)), coordinate_steps(np.asarray(y_px0))
    return [
        str(uuid.uuid5(ID_NAMESPACE, f"{identity}:{x}:{y}"))
        for x, y in zip(across.tolist(), down.tolist(), strict=True)
    ]


def hotspot_ids(identity: str) -> frozenset[str]:
    """Return the ids of all hotspots that a slide can have."""
    return frozenset(hotspot_id(identity, rank) for rank in range(1, MOST_HOTSPOTS + 1))


def hotspot_id(identity: str, rank: int) -> str:
    """Derive the UUIDv5 of a slide's hotspot from its rank, from 1; it does not depend on its place."""
    return str(uuid.uuid5(ID_NAMESPACE, f"{identity}:hotspot:{rank}"))


# Image and column names

SERIES_SEPARATOR = " - "
"""QuPath names an image of Bio-Formats `<file name> - <image name>`, or `<file name> - Series <n>` if the
file has no image name. Source: BioFormatsImageServer.getImageName, QuPath 0.2 to 0.6."""
MICRO_SIGN = "\u00b5"
"""QuPath writes U+00B5 MICRO SIGN, not the Greek letter mu, which is what `casefold` makes of it."""
CENTROID_COLUMNS_PX = ("Centroid X px", "Centroid Y px")
CENTROID_COLUMNS_UM = (f"Centroid X {MICRO_SIGN}m", f"Centroid Y {MICRO_SIGN}m")
"""Columns of measurement tables: um if the image has a pixel size, else px."""
_CENTROID = re.compile("|".join((*CENTROID_COLUMNS_PX, *CENTROID_COLUMNS_UM)).casefold())


def files_and_series(image_name: str) -> Iterator[tuple[str, str]]:
    """Yield every division of an image's name into a file name and a series, the longest file name first."""
    end = image_name.rfind(SERIES_SEPARATOR)
    while end > 0:
        file, series = image_name[:end], image_name[end + len(SERIES_SEPARATOR) :]
        if "/" in series or "\\" in series:  # the separator is part of a folder's name
            return
        yield file, series
        end = image_name.rfind(SERIES_SEPARATOR, 0, end)


def is_centroid_column(name: str) -> bool:
    """Return whether a table's column is a centroid coordinate of QuPath, in upper or lower case."""
    return _CENTROID.fullmatch(name.strip().casefold()) is not None


# Files, and what the import script finds in them

GEOJSON_FOLDER = "geojson"
GEOJSON_ENDINGS = (".geojson", ".geojson.gz")
PROVENANCE_MEMBER = "wsi_mitosis"
"""Member of a FeatureCollection, beside its features, that describes the result. QuPath ignores it."""
IMAGE_SIZE_KEY = "image_px"
"""Key of the provenance: (width, height) in px of the image that the coordinates belong to."""
SLIDE_KEY = "wsi-mitosis"
"""Metadata key of a project's entry: the slide's name in the output folder."""
IMPORTED_KEY = "wsi-mitosis imported"
"""Property of an image in QuPath: the objects that the script imported, as they were at the time."""
DISCARD_ARGUMENT = "discard-review"
"""Argument of the script that makes it replace reviewed objects too."""
MOVED_PX = 0.5
"""A user moved an object if its centre differs by more than this, px, and not merely by QuPath's rounding."""
RESIZED_SHARE = 0.05
"""A user resized an object if its area differs by more than this share of it."""
