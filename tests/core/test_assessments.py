"""What is read off a slide: which figures count in a hotspot, and which are to be looked at first."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from wsi_mitosis.core.assessments import REVIEW_MOST, Assessment, assess, review_list
from wsi_mitosis.core.records import SlideScale
from wsi_mitosis.core.regions import Region
from wsi_mitosis.specs import AssessmentOptions
from wsi_mitosis.tables import REVIEW_COLUMNS
from wsi_mitosis.units import Mpp

OPTIONS = AssessmentOptions(hotspot_area=40 * 30 / 1e6)
SCALE = SlideScale(size_px0=(1000, 1000), mpp=Mpp(1, 1), mpp_source="slide")


def figures(*rows: tuple[float, float, float | None], cast: int = 5) -> pd.DataFrame:
    """Figures of (x, y, P(atypical)); an excluded candidate where P is None. Votes as the members would."""
    p = np.array([np.nan if row[2] is None else row[2] for row in rows], dtype=np.float64)
    asked = ~np.isnan(p)
    labels = np.where(p >= 0.5, "atypical", "typical").astype(object)
    return pd.DataFrame(
        {
            "figure_id": pd.Series([f"f{i}" for i in range(len(rows))], dtype=object).where(asked),
            "x_px0": [float(row[0]) for row in rows],
            "y_px0": [float(row[1]) for row in rows],
            "p_atypical": p,
            "votes_atypical": pd.array(np.where(asked, np.rint(np.nan_to_num(p) * cast), 0), "Int16"),
            "votes_cast": pd.array(np.full(len(rows), cast), dtype="Int16"),
            "label": pd.Series(labels, dtype=object).where(asked, None),
        }
    )


def test_excluded_candidates_count_in_no_hotspot() -> None:
    table = figures((100, 100, None), (101, 101, None), (102, 102, None), (500, 500, 0.9), (501, 501, 0.1))
    assessment = assess(table, SCALE, OPTIONS)
    (spot,) = assessment.hotspots
    assert (spot.mitoses, spot.atypical) == (2, 1)
    assert assessment.hotspot_reason is None


def test_hotspots_can_be_left_out() -> None:
    assessment = assess(figures((100, 100, 0.9)), SCALE, AssessmentOptions(hotspot_area=0))
    assert (assessment.hotspots, assessment.hotspot_reason) == ((), None)
    assert [item.in_hotspot for item in assessment.review] == [False]


def test_hotspots_count_inside_the_regions_only() -> None:
    table = figures((100, 100, 0.9), (101, 101, 0.9), (102, 102, 0.9), (500, 500, 0.1), (510, 510, 0.1))
    region = Region("Region 1", "Tumor", shapely.box(101.5, 0, 505, 1000))
    options = OPTIONS.model_copy(update={"hotspots": 3})
    assessment = assess(table, SCALE, options, [region])
    assert [spot.mitoses for spot in assessment.hotspots] == [1, 1]
    assert [item.in_hotspot for item in sorted(assessment.review, key=lambda item: item.figure_id)] == [
        *(False, False, True),
        *(True, False),
    ]
    assert [(count.region, count.mitoses) for count in assessment.region_counts] == [
        ("Region 1", 2),
        ("all regions", 2),
    ]


def test_regions_are_counted_only_where_given() -> None:
    assert assess(figures((1, 1, 0.5)), SCALE, OPTIONS).region_counts == ()


def test_the_review_list_is_ranked_by_the_change_to_be_expected() -> None:
    table = figures((1, 1, 0.9), (2, 2, 0.45), (3, 3, 0.2), (4, 4, 0.6))
    held = np.array([[False, False, True, True]])
    rows = review_list(table, held)
    # of 4 figures, 2 in the hotspot: doubt * (1/4 + 1/2 in the hotspot)
    expected = {"f0": 0.1 / 4, "f1": 0.45 / 4, "f2": 0.2 * 3 / 4, "f3": 0.4 * 3 / 4}
    assert [row.figure_id for row in rows] == sorted(expected, key=expected.__getitem__, reverse=True)
    assert [row.rank for row in rows] == [1, 2, 3, 4]
    for row in rows:
        assert row.expected_change == pytest.approx(expected[row.figure_id], abs=1e-6)
        assert tuple(row.model_dump()) == tuple(name for name in REVIEW_COLUMNS if name != "slide")
    assert rows[0].agreement == 0.6
    assert rows[0].in_hotspot is True


def test_ties_in_the_review_list_go_by_agreement_then_position() -> None:
    table = figures((5, 9, 0.4), (5, 2, 0.4), (1, 9, 0.4), (7, 1, 0.4))
    table.loc[0, "votes_atypical"] = 0
    ids = [row.figure_id for row in review_list(table, np.zeros((1, 4), dtype=bool))]
    assert ids == ["f3", "f1", "f2", "f0"]


def test_the_review_list_is_bounded() -> None:
    table = figures(*((i, i, 0.5 + i / 1000) for i in range(REVIEW_MOST + 20)))
    rows = review_list(table, np.zeros((1, len(table)), dtype=bool))
    assert [row.figure_id for row in rows] == [f"f{i}" for i in range(REVIEW_MOST)]


@given(st.lists(st.tuples(*[st.floats(0, 999.5, width=32)] * 2, st.floats(0, 1) | st.none()), max_size=8))
def test_an_assessment_comes_back_from_json(rows: list[tuple[float, float, float | None]]) -> None:
    corner = shapely.points(500 / 3, 500 / 7)  # no short decimal
    region = Region("r", "", shapely.buffer(corner, 100).union(shapely.box(400, 400, 500, 500)))
    options = OPTIONS.model_copy(update={"hotspots": 2})
    assessment = assess(figures(*rows), SCALE, options, [region])
    text = json.dumps(assessment.model_dump(mode="json", by_alias=True), allow_nan=False)
    assert Assessment.model_validate(json.loads(text)) == assessment
