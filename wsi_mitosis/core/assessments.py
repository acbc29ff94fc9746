"""The assessment of a slide: hotspots, regions, and the figures to review first. It changes no label."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import pandas as pd
from pydantic import BeforeValidator, Field, PlainSerializer

from wsi_mitosis.core.hotspots import Hotspot, HotspotSearch, HotspotShape, find_hotspots
from wsi_mitosis.core.records import SlideRecord
from wsi_mitosis.core.regions import Region, RegionCount, count_regions, inside_regions
from wsi_mitosis.core.voting import agreement
from wsi_mitosis.schema import Spec
from wsi_mitosis.specs import AssessmentOptions
from wsi_mitosis.version import ASSESSMENT_VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from wsi_mitosis.core.records import SlideScale

REVIEW_MOST = 50
"""Figures in the review list of a slide: as many as a reader can look at in one sitting."""

StoredRegion = Annotated[
    Region,
    BeforeValidator(lambda data: Region.from_json(data) if isinstance(data, dict) else data),
    PlainSerializer(Region.as_json),
]


class ReviewItem(Spec):
    """A figure of the review list, by REVIEW_COLUMNS.

    Attributes:
        rank: 1 for the figure whose correction could change the slide's numbers most.
        figure_id: Its id.
        x_px0: Its centre, level-0 px, slide frame.
        y_px0: Likewise.
        label: `atypical` or `typical`.
        p_atypical: Mean P(atypical) over the members, to 6 digits.
        votes_atypical: Members that voted atypical.
        votes_cast: Members that voted.
        agreement: Share of the votes for the label, 0.5 to 1, to 6 digits.
        in_hotspot: Whether a hotspot counts it.
        expected_change: What it is ranked by (see `review_list`), to 6 digits.
    """

    rank: int
    figure_id: str
    x_px0: float
    y_px0: float
    label: str
    p_atypical: float
    votes_atypical: int
    votes_cast: int
    agreement: float
    in_hotspot: bool
    expected_change: float


class Assessment(Spec):
    """What is known of a slide beside its counts.

    Attributes:
        hotspots: The densest windows, the best first; they do not overlap.
        hotspot_reason: Why there is none; None if there is one or none was requested.
        review: The figures to review first.
        region_counts: A row per region and one for all regions; empty without regions.
        regions: The regions, level-0 px, slide frame; None if the whole slide was assessed.
    """

    hotspots: tuple[Hotspot, ...] = ()
    hotspot_reason: str | None = None
    review: tuple[ReviewItem, ...] = ()
    region_counts: tuple[RegionCount, ...] = ()
    regions: tuple[StoredRegion, ...] | None = None


class AssessedSlide(Spec):
    """The assessment of one slide with everything that it depends on: what an assessment file holds.

    Attributes:
        schema_: Version of this schema.
        use: The notice that every output carries.
        key: Digest of everything that the assessment depends on.
        record: The slide's record.
        options: What was looked for.
        assessment: What was found.
    """

    schema_: Literal[1] = Field(1, alias="schema")
    use: str
    key: str
    record: SlideRecord
    options: AssessmentOptions
    assessment: Assessment


def assessment_key(
    result_key: str, options: AssessmentOptions, regions: Sequence[Region] | None = None
) -> str:
    """Return the digest of everything that an assessment depends on.

    Args:
        result_key: Key of the slide's result.
        options: What to look for.
        regions: In the slide's frame; None for the whole slide.
    """
    parts = {
        "result": result_key,
        "options": options.model_dump(mode="json"),
        "regions": None if regions is None else [region.as_json() for region in regions],
        "algorithm": ASSESSMENT_VERSION,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def assess(
    figures: pd.DataFrame,
    scale: SlideScale,
    options: AssessmentOptions,
    regions: Sequence[Region] | None = None,
) -> Assessment:
    """Assess one slide.

    Args:
        figures: FIGURE_COLUMNS without `geometry`; a row without a label is not a figure.
        scale: Size and pixel size of the slide.
        options: What to look for.
        regions: In the slide's frame; hotspots then count only the figures inside. None for the whole slide.
    """
    classified = figures[figures["label"].notna()].reset_index(drop=True)
    x, y = (classified[name].to_numpy(np.float64) for name in ("x_px0", "y_px0"))
    atypical = (classified["label"] == "atypical").to_numpy(bool)
    assessment = assess_places(x, y, atypical, scale, options, regions)
    held = _in_hotspots(assessment, x, y, scale.size_px0)
    return assessment.model_copy(update={"review": review_list(classified, held)})


def expected_changes(figures: pd.DataFrame, assessment: Assessment, scale: SlideScale) -> NDArray[np.float64]:
    """Return (N,) by how much correcting each figure could change the slide's numbers, as in `review_list`.

    Args:
        figures: (N) rows of FIGURE_COLUMNS with a label each.
        assessment: Of the slide.
        scale: Size and pixel size of the slide.
    """
    x, y = (figures[name].to_numpy(np.float64) for name in ("x_px0", "y_px0"))
    table = _review_table(figures, _in_hotspots(assessment, x, y, scale.size_px0))
    return table["expected_change"].to_numpy(np.float64)


def _in_hotspots(
    assessment: Assessment, x_px0: NDArray[np.float64], y_px0: NDArray[np.float64], size_px0: tuple[int, int]
) -> NDArray[np.bool_]:
    """(K, N) which figures each hotspot counts; a row without any if there is no hotspot."""
    inside = _inside(assessment.regions, x_px0, y_px0, size_px0)
    held = [inside & spot.holds(x_px0, y_px0) for spot in assessment.hotspots]
    return np.stack(held or [np.zeros(len(x_px0), dtype=bool)])


def assess_places(
    x_px0: NDArray[np.float64],
    y_px0: NDArray[np.float64],
    atypical: NDArray[np.bool_],
    scale: SlideScale,
    options: AssessmentOptions,
    regions: Sequence[Region] | None = None,
) -> Assessment:
    """Assess one slide as far as places and labels go: everything except the review list.

    Args:
        x_px0: (N,) figures' centres, level-0 px, slide frame.
        y_px0: (N,) likewise.
        atypical: (N,) whether the figure is atypical.
        scale: As for `assess`.
        options: Likewise.
        regions: Likewise.
    """
    size, mpp = scale.size_px0, scale.mpp
    inside = _inside(regions, x_px0, y_px0, size)
    search = HotspotSearch((), None)
    if options.hotspot_area:
        shape = HotspotShape(options.hotspot_area, options.hotspot_sides)
        there = x_px0[inside], y_px0[inside], atypical[inside]
        search = find_hotspots(*there, shape, size_px0=size, mpp=mpp, number=options.hotspots)
    if regions is None:
        return Assessment(hotspots=search.hotspots, hotspot_reason=search.reason)
    counts = count_regions(regions, x_px0, y_px0, atypical, size_px0=size, mpp=mpp)
    return Assessment(
        hotspots=search.hotspots,
        hotspot_reason=search.reason,
        region_counts=counts,
        regions=tuple(regions),
    )


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
) -> tuple[ReviewItem, ...]:
    """Return the figures whose correction could change the slide's numbers most, the first first.

    The numbers of a slide are its share of atypical figures and the same share in its hotspot. Relabelling
    one of n figures moves the slide's share by 1/n; if it is one of the hotspot's m, it moves that share by
    1/m too. Figures are ranked by the change to expect::

        expected_change = doubt * (1/n + 1/m if it lies in a hotspot)

    where doubt is the mean probability that the members give to the other label. A disputed figure in the
    hotspot therefore comes before one outside it, and both come before figures on which all members agree.
    The probabilities are the ensemble's own and were not calibrated on this slide: the order is a proposal,
    not a measurement. It does not weigh that a figure may be no mitosis at all, because the ensemble gives
    no probability of that.

    Ties are ordered by lower agreement, then smaller y, then smaller x. The value also compares figures of
    different slides: a figure weighs more on a slide with few of them.

    Args:
        figures: (N) rows of FIGURE_COLUMNS with a label each.
        in_hotspots: (K, N) which figures each hotspot counts.
        most: Length of the list.
    """
    table = _review_table(figures, in_hotspots)
    keys = ["expected_change", "agreement", "y_px0", "x_px0"]
    table = table.sort_values(keys, ascending=[False, True, True, True], kind="stable").head(most)
    columns = {name: table[name].tolist() for name in table.columns}  # Python's own numbers
    rows = enumerate(zip(*columns.values(), strict=True), start=1)
    return tuple(ReviewItem(rank=rank, **dict(zip(columns, row, strict=True))) for rank, row in rows)


def _review_table(figures: pd.DataFrame, in_hotspots: NDArray[np.bool_]) -> pd.DataFrame:
    """The columns of ReviewItem except `rank`, in the order of the figures."""
    p_atypical = figures["p_atypical"].to_numpy(np.float64)
    doubt = np.where(figures["label"] == "atypical", 1 - p_atypical, p_atypical)
    share = np.full(len(figures), 1 / max(len(figures), 1))
    for held in in_hotspots:
        share = share + held / max(np.count_nonzero(held), 1)
    votes = tuple(figures[name].to_numpy(np.int64) for name in ("votes_atypical", "votes_cast"))
    return pd.DataFrame(
        {
            **{name: figures[name] for name in ("figure_id", "x_px0", "y_px0", "label")},
            "p_atypical": p_atypical.round(6),
            **{name: figures[name].astype(int) for name in ("votes_atypical", "votes_cast")},
            "agreement": agreement(*votes).round(6),
            "in_hotspot": in_hotspots.any(axis=0),
            "expected_change": (doubt * share).round(6),
        }
    )
