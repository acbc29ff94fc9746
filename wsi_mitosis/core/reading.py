"""How a slide is read: hotspots, the figures to look at first, regions. Nothing here changes a label."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsi_mitosis.core.hotspots import Hotspot, HotspotShape, find_hotspots
from wsi_mitosis.core.regions import Region, count_regions, inside_regions
from wsi_mitosis.core.voting import agreement
from wsi_mitosis.tables import REVIEW_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from wsi_mitosis.units import Mpp

REVIEW_MOST = 50
"""Figures of a slide in its review list: what one sitting at a microscope can take."""


@dataclass(frozen=True)
class Reading:
    """What a report shows of one slide beside its counts.

    Attributes:
        hotspots: The densest windows, the best first; none of them overlap.
        hotspot_reason: Why there is none; None where there is one or none was asked for.
        review: The rows of `review.csv` (REVIEW_COLUMNS without `slide`).
        regions: The rows of `regions.csv` (REGION_COLUMNS without `slide`).
        drawn: The regions themselves, level-0 px, slide frame; None where the whole slide was read.
    """

    hotspots: tuple[Hotspot, ...] = ()
    hotspot_reason: str | None = None
    review: tuple[dict[str, Any], ...] = ()
    regions: tuple[dict[str, Any], ...] = ()
    drawn: tuple[Region, ...] | None = None

    def as_json(self) -> dict[str, Any]:
        """The reading as plain data."""
        return {
            "hotspots": [asdict(hotspot) for hotspot in self.hotspots],
            "hotspot_reason": self.hotspot_reason,
            "review": list(self.review),
            "regions": list(self.regions),
            "drawn": None if self.drawn is None else [region.as_json() for region in self.drawn],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Reading:
        """Back from `as_json`."""
        return cls(
            hotspots=tuple(Hotspot(**hotspot) for hotspot in data["hotspots"]),
            hotspot_reason=data["hotspot_reason"],
            review=tuple(data["review"]),
            regions=tuple(data["regions"]),
            drawn=None if data["drawn"] is None else tuple(map(Region.from_json, data["drawn"])),
        )

    def hotspot_columns(self) -> dict[str, float | int]:
        """The first hotspot by its names among SUMMARY_COLUMNS; empty without one."""
        if not self.hotspots:
            return {}
        first = self.hotspots[0]
        return {
            "hotspot_area_mm2": first.area_mm2,
            "hotspot_mitoses": first.mitoses,
            "hotspot_atypical": first.atypical,
            "hotspot_mitoses_per_mm2": first.mitoses_per_mm2,
            "hotspot_x_px0": first.x_px0,
            "hotspot_y_px0": first.y_px0,
        }


def read_slide(
    figures: pd.DataFrame,
    *,
    size_px0: tuple[int, int],
    mpp: Mpp,
    shape: HotspotShape | None,
    hotspots: int = 1,
    regions: Sequence[Region] | None = None,
) -> Reading:
    """Read one slide.

    Args:
        figures: FIGURE_COLUMNS without `geometry`; rows without a label are no figures.
        size_px0: (width, height) of level 0, px.
        mpp: um per level-0 px.
        shape: Of the hotspots; None for none.
        hotspots: How many at most.
        regions: In the slide's frame; the hotspots' figures are then those inside only. None for the whole
            slide.
    """
    classified = figures[figures["label"].notna()].reset_index(drop=True)
    x, y = (classified[name].to_numpy(np.float64) for name in ("x_px0", "y_px0"))
    atypical = (classified["label"] == "atypical").to_numpy(bool)
    reading = read_places(
        x, y, atypical, size_px0=size_px0, mpp=mpp, shape=shape, hotspots=hotspots, regions=regions
    )
    inside = _inside(regions, x, y, size_px0)
    held = np.stack(
        [inside & spot.holds(x, y) for spot in reading.hotspots] or [np.zeros(len(x), dtype=bool)]
    )
    return replace(reading, review=review_list(classified, held))


def read_places(
    x_px0: NDArray[np.float64],
    y_px0: NDArray[np.float64],
    atypical: NDArray[np.bool_],
    *,
    size_px0: tuple[int, int],
    mpp: Mpp,
    shape: HotspotShape | None,
    hotspots: int = 1,
    regions: Sequence[Region] | None = None,
) -> Reading:
    """Read one slide as far as its figures' places and labels go: all but the review list.

    Args:
        x_px0: (N,) figures' centres, level-0 px, slide frame.
        y_px0: (N,) likewise.
        atypical: (N,) whether the figure is atypical.
        size_px0: As for `read_slide`.
        mpp: Likewise.
        shape: Likewise.
        hotspots: Likewise.
        regions: Likewise.
    """
    inside = _inside(regions, x_px0, y_px0, size_px0)
    counted: tuple[dict[str, Any], ...] = ()
    if regions is not None:
        counted = count_regions(regions, x_px0, y_px0, atypical, size_px0=size_px0, mpp=mpp)
    found: tuple[tuple[Hotspot, ...], str | None] = ((), None)
    if shape is not None:
        there = x_px0[inside], y_px0[inside], atypical[inside]
        found = find_hotspots(*there, shape, size_px0=size_px0, mpp=mpp, number=hotspots)
    return Reading(*found, regions=counted, drawn=None if regions is None else tuple(regions))


def _inside(
    regions: Sequence[Region] | None,
    x_px0: NDArray[np.float64],
    y_px0: NDArray[np.float64],
    size_px0: tuple[int, int],
) -> NDArray[np.bool_]:
    """(N,) which figures hotspots count."""
    if regions is None:
        return np.ones(len(x_px0), dtype=bool)
    return inside_regions(regions, x_px0, y_px0, size_px0)


def review_list(
    figures: pd.DataFrame, in_hotspots: NDArray[np.bool_], most: int = REVIEW_MOST
) -> tuple[dict[str, Any], ...]:
    """The figures whose correction could change the slide's reading most, the first first.

    A slide is read by its share of atypical figures, and by the same share in its hotspot. To relabel one of
    n figures moves the slide's share by 1/n; where it is one of the hotspot's m, it moves that share by 1/m
    too. Figures are ranked by the change that is to be expected::

        expected_change = doubt * (1/n + 1/m if it lies in a hotspot)

    where doubt is the mean probability that the members give to the other label. So a disputed figure of the
    hotspot comes before one outside, and both before those on which all members agree. The probabilities are
    the ensemble's own, which nobody has calibrated on this slide: the order is a proposal, not a measurement.
    That a figure is no mitosis at all is not weighed: no probability of that is known here.

    Ties: the lesser agreement, then the smaller y, then the smaller x. The value compares figures of
    different slides as well: one figure weighs more where there are few.

    Args:
        figures: (N) rows of FIGURE_COLUMNS with a label each.
        in_hotspots: (K, N) which figures are counted in each hotspot.
        most: How many are listed.

    Returns:
        Rows of REVIEW_COLUMNS without `slide`, plain numbers; probabilities and changes to 6 digits.
    """
    p_atypical = figures["p_atypical"].to_numpy(np.float64)
    doubt = np.where(figures["label"] == "atypical", 1 - p_atypical, p_atypical)
    share = np.full(len(figures), 1 / max(len(figures), 1))
    for held in in_hotspots:
        share = share + held / max(np.count_nonzero(held), 1)
    votes = tuple(figures[name].to_numpy(np.int64) for name in ("votes_atypical", "votes_cast"))
    table = pd.DataFrame(
        {
            **{name: figures[name] for name in ("figure_id", "x_px0", "y_px0", "label")},
            "p_atypical": p_atypical.round(6),
            **{name: figures[name].astype(int) for name in ("votes_atypical", "votes_cast")},
            "agreement": agreement(*votes).round(6),
            "in_hotspot": in_hotspots.any(axis=0),
            "expected_change": (doubt * share).round(6),
        }
    )
    keys = ["expected_change", "agreement", "y_px0", "x_px0"]
    listed = table.sort_values(keys, ascending=[False, True, True, True], kind="stable").head(most)
    listed.insert(0, "rank", range(1, len(listed) + 1))
    names = [name for name in REVIEW_COLUMNS if name != "slide"]
    return tuple({str(name): value for name, value in row.items()} for row in _plain(listed[names]))


def _plain(table: pd.DataFrame) -> list[dict[Any, Any]]:
    """Rows of Python's own numbers, which JSON takes."""
    columns = {name: table[name].tolist() for name in table.columns}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
