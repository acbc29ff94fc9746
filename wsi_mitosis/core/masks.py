"""Masks of mitotic figures for training: the type that every provider gives, its checks, and one provider.

Lengths are in px of crops at about 0.25 um/px, 4 px to the um.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

import numpy as np

from wsi_mitosis.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

WINDOW_PX = 64
"""Side of the central window that is segmented, 16 um: it holds a metaphase with the cell around it, and few
neighbours, whose nuclei would shift the thresholds."""
SMALLEST_CROP_PX = 32
"""Side of the smallest crop, 8 um: a smaller one shows too little around the figure."""
SMALLEST_PX = 64
"""Area below which a mask is a granule or one chromosome out of many: 4 um^2. AMi-Br's thinnest metaphases
have 96 px."""
LARGEST_PX = 1600
"""Area above which a mask is no single figure: 100 um^2. AMi-Br's largest prometaphases reach 1300 px."""


class FigureMask(NamedTuple):
    """The mask of one figure, or why there is none.

    Attributes:
        mask: (P, P) uint8, 1 on the figure, else 0; all 0 if flagged.
        flag: `ok`, or the reason: `empty`, `off_centre`, `border`, `too_small`, `too_large`, or one of the
            provider's own.
    """

    mask: NDArray[np.uint8]
    flag: str


class MaskProvider(Protocol):
    """What makes masks of figures.

    Attributes:
        name: As a dataset records it.
        version: Changes whenever its masks change.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def version(self) -> str: ...  # noqa: D102

    def segment(self, crops: NDArray[np.uint8], others: Sequence[NDArray[np.float64]]) -> list[FigureMask]:
        """Segment the figure at the centre of each crop.

        Args:
            crops: (N, P, P, 3) uint8 RGB at about 0.25 um/px.
            others: For each crop (K, 2) float64: x, y in px from the crop's top-left corner of other figures
                in it.

        Returns:
            A mask per crop, in order.
        """
        ...


def checked(mask: NDArray[np.bool_], size_px: int) -> FigureMask:
    """A window's mask put into the middle of its crop, if it passes the checks.

    Args:
        mask: (S, S) bool, of the central window.
        size_px: P, side of the crop, S or more.

    Returns:
        (P, P) mask; flagged `empty`, `border` where it touches the window's edge (the figure is cut off, or
        has run into its neighbours), `too_small` or `too_large` after `SMALLEST_PX` and `LARGEST_PX`.
    """
    flag, area = "ok", int(mask.sum())
    if not area:
        flag = "empty"
    elif mask[[0, -1]].any() or mask[:, [0, -1]].any():
        flag = "border"
    elif area < SMALLEST_PX:
        flag = "too_small"
    elif area > LARGEST_PX:
        flag = "too_large"
    return _put_back(mask, size_px) if flag == "ok" else flagged(flag, size_px)


def flagged(flag: str, size_px: int) -> FigureMask:
    """No mask of a crop of `size_px`, for the reason given."""
    return FigureMask(np.zeros((size_px, size_px), dtype=np.uint8), flag)


def _put_back(mask: NDArray[np.bool_], size_px: int) -> FigureMask:
    whole = flagged("ok", size_px)
    whole.mask[central(size_px, len(mask))] = mask
    return whole


def central(size_px: int, window_px: int) -> tuple[slice, slice]:
    """Rows and columns of the central window of a square."""
    first = (size_px - window_px) // 2
    return (slice(first, first + window_px),) * 2


@dataclass(frozen=True)
class Haematoxylin:
    """Masks of chromatin by its darkness; needs no weights.

    Total optical density, smoothed, is split into three classes by Otsu's method in the central window, and
    of the darkest class the pieces at the centre are the figure: whatever reaches the centre, the chromosomes
    lying free around it, and the second plate of an anaphase. Where that runs into a neighbour, a fourth
    class is tried. Holes are filled. Nothing is random; density is rounded before it is compared, so that
    masks are the same on every machine.
    """

    name: ClassVar[str] = "haematoxylin"
    version: ClassVar[str] = "1"

    def segment(
        self,
        crops: NDArray[np.uint8],
        others: Sequence[NDArray[np.float64]],  # noqa: ARG002
    ) -> list[FigureMask]:
        """Segment the figure at the centre of each crop.

        Args:
            crops: (N, P, P, 3) uint8 RGB at about 0.25 um/px, P at least 32.
            others: Not used, because only the figure at the centre is segmented.

        Returns:
            A mask per crop, in order.

        Raises:
            DatasetError: if the crops are too small.
        """
        if crops.shape[1] < SMALLEST_CROP_PX:
            raise DatasetError(
                f"crops of {crops.shape[1]} px are too small to find a figure in",
                stage="making masks",
                remedy=f"Give crops of {SMALLEST_CROP_PX} px or more, or build without masks: --masks none",
            )
        return [_darkest_at_centre(crop) for crop in crops]


SMOOTH_PX = 1.0
"""Sigma of the smoothing: removes the pixels' noise, keeps gaps of 1 um between chromosomes."""
LEVELS_PER_DENSITY = 50
"""Steps of density compared, 0.02 each: finer than the noise, coarser than rounding errors."""
LEAST_CONTRAST = 0.25
"""Density by which a figure is at least darker than the rest of its window; in AMi-Br it is 0.3 or more."""


def _darkest_at_centre(crop: NDArray[np.uint8]) -> FigureMask:
    levels, inside = _density_levels(crop)
    mask, offset = _figure(levels, inside, classes=3)
    result = _judged(mask, offset, levels, inside, len(crop))
    if result.flag == "border":
        mask, offset = _figure(levels, inside, classes=4)
        retried = _judged(mask, offset, levels, inside, len(crop))
        # one plate of a pair of which the other is cut off by the window would pass, too
        if retried.flag == "ok" and offset <= PAIRED_PX:
            return retried
    return result


def _judged(
    mask: NDArray[np.bool_],
    offset: float,
    levels: NDArray[np.int64],
    inside: NDArray[np.bool_],
    size_px: int,
) -> FigureMask:
    rest = inside & ~mask
    if not mask.any() or not rest.any():
        return flagged("empty", size_px)
    if levels[mask].mean() - levels[rest].mean() < LEAST_CONTRAST * LEVELS_PER_DENSITY:
        return flagged("empty", size_px)
    return flagged("off_centre", size_px) if offset > OFF_CENTRE_PX else checked(mask, size_px)


def _density_levels(crop: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Density of the central window, and which of its pixels lie on the slide.

    Args:
        crop: (P, P, 3) uint8 RGB.

    Returns:
        (S, S) int64, the sum over the channels of -log10 of the transmission, in steps of
        1 / `LEVELS_PER_DENSITY`, smoothed; (S, S) bool, False on rows and columns that are black as a whole,
        which is how crops are padded beyond the slide's edge.
    """
    from scipy.ndimage import gaussian_filter

    lit = crop.max(axis=2) > 0
    inside = lit.any(axis=1)[:, None] & lit.any(axis=0)[None, :]
    density = -np.log10((np.arange(256) + 1) / 256)[crop].sum(axis=2)
    weight = gaussian_filter(inside.astype(np.float64), SMOOTH_PX)
    smooth = gaussian_filter(np.where(inside, density, 0.0), SMOOTH_PX) / np.maximum(weight, 1e-3)
    window = central(len(crop), min(WINDOW_PX, len(crop)))
    levels = np.where(inside, np.rint(smooth * LEVELS_PER_DENSITY), 0).astype(np.int64)
    return levels[window], inside[window]


def _figure(
    levels: NDArray[np.int64], inside: NDArray[np.bool_], classes: int
) -> tuple[NDArray[np.bool_], float]:
    """The darkest of `classes` classes at the centre, holes filled, and its distance from the centre, px."""
    from scipy.ndimage import binary_fill_holes
    from skimage.filters import threshold_multiotsu

    if len(np.unique(levels[inside])) <= classes:
        return np.zeros_like(inside), 0.0
    threshold = threshold_multiotsu(levels[inside], classes=classes)[-1]
    pieces = _Pieces.of(levels > threshold)
    kept = _with_second_plate(pieces, _at_centre(pieces))
    mask = binary_fill_holes(np.isin(pieces.labels, kept)) if kept else np.zeros_like(inside)
    return np.asarray(mask, dtype=np.bool_), pieces.offset_px(kept) if kept else 0.0


@dataclass(frozen=True)
class _Pieces:
    """Connected pieces of the darkest class, 1 to n; entry 0 of each array is the background.

    Attributes:
        labels: (S, S) int, the piece that a pixel belongs to.
        area: (n + 1,) px.
        nearest: (n + 1,) distance of the pixel nearest to the window's centre, px.
        farthest: (n + 1,) distance of the farthest, px.
        moment: (n + 1, 2) sum over the pixels of their y, x from the centre.
    """

    labels: NDArray[np.int32]
    area: NDArray[np.intp]
    nearest: NDArray[np.float64]
    farthest: NDArray[np.float64]
    moment: NDArray[np.float64]

    @classmethod
    def of(cls, dark: NDArray[np.bool_]) -> _Pieces:
        from scipy.ndimage import label

        labels, number = label(dark)
        ids, places = labels[dark], np.argwhere(dark) - (len(dark) - 1) / 2
        distance = np.hypot(places[:, 0], places[:, 1])
        nearest, farthest = np.full(number + 1, np.inf), np.zeros(number + 1)
        np.minimum.at(nearest, ids, distance)
        np.maximum.at(farthest, ids, distance)
        moment = np.stack([np.bincount(ids, axis, number + 1) for axis in places.T], axis=1, dtype=np.float64)
        return cls(labels, np.bincount(ids, minlength=number + 1), nearest, farthest, moment)

    def offset_px(self, kept: list[int]) -> float:
        """Distance of the common centroid of some pieces from the centre."""
        return float(np.hypot(*(self.moment[kept].sum(axis=0) / self.area[kept].sum())))

    def candidates(self) -> list[int]:
        """Pieces that are not mere specks."""
        return [piece for piece in range(1, len(self.area)) if self.area[piece] >= SPECK_PX]


SPECK_PX = 10
"""Area below which a piece is noise or a granule, 0.6 um^2: single chromosomes are larger."""
CENTRE_PX = 8.0
"""A piece that comes this near to the centre is the figure's: annotators click within 2 um of it."""
FREE_PX = (14.0, 20.0)
"""A chromosome lying free begins within the first distance, 3.5 um, and ends within the second, 5 um; a
neighbour's nucleus reaches further out."""
REACH_PX = 26.0
"""A plate comes this near to the centre, which lies between the two: what is further off the window cuts."""
PAIRED_PX = 8.0
"""A figure whose centroid lies further off the centre than that may lack its second plate."""
PLATE_RATIO = (0.4, 2.5)
"""Areas of the two plates of one figure, by one another."""
OFF_CENTRE_PX = 20.0
"""A mask whose centroid lies further off the centre than that, 5 um, is of some neighbour."""


def _at_centre(pieces: _Pieces) -> list[int]:
    """The pieces at the centre; the nearest one within reach where there are none."""
    candidates = pieces.candidates()
    kept = [
        piece
        for piece in candidates
        if pieces.nearest[piece] <= CENTRE_PX
        or (pieces.nearest[piece] <= FREE_PX[0] and pieces.farthest[piece] <= FREE_PX[1])
    ]
    within = [piece for piece in candidates if pieces.nearest[piece] <= REACH_PX]
    return kept or sorted(within, key=lambda piece: float(pieces.nearest[piece]))[:1]


def _with_second_plate(pieces: _Pieces, kept: list[int]) -> list[int]:
    """The same pieces and, if they are a plate off the centre, the one of like size across the centre."""
    if not kept or (offset := pieces.offset_px(kept)) <= PAIRED_PX:
        return kept
    area, (least, most) = pieces.area[kept].sum(), PLATE_RATIO
    plates = {
        piece: pieces.offset_px([*kept, piece])
        for piece in pieces.candidates()
        if piece not in kept
        and least <= pieces.area[piece] / area <= most
        and pieces.nearest[piece] <= REACH_PX
    }
    if not plates or min(plates.values()) >= offset / 2:
        return kept
    return [*kept, min(plates, key=plates.__getitem__)]
