"""Which figures a report shows, where it draws them, and how it tells numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from tests.report_files import Done, figures_of
from wsi_mitosis.core.assessments import ReviewItem
from wsi_mitosis.core.hotspots import Hotspot
from wsi_mitosis.core.regions import Region
from wsi_mitosis.core.report import (
    CROP_UM,
    VIEW_UNITS,
    Bar,
    Coordinates,
    Limits,
    View,
    bundles_of,
    crop_side,
    gallery,
    interval,
    marks,
    moment,
    number,
    parameters,
    percent,
    probability_bars,
    round_length,
    table_row,
    vote_bars,
)
from wsi_mitosis.units import Mpp

ROW = {
    "slide": "a.svs",
    "status": "done",
    "classified": "82",
    "atypical": "17",
    "atypical_fraction": "0.2073",
    "atypical_to_typical": "",
    "hotspot_mitoses_per_mm2": "28.0",
    "bundle": "nano",
    "bundle_digest": "d" * 64,
    "trained": "true",
}


def figures(number: int, seed: int = 0) -> pd.DataFrame:
    xy = np.random.default_rng(seed).uniform(0, 5000, (number, 2))
    return figures_of("i" * 64, Done(Path("a.svs"), [tuple(place) for place in xy]), seed)


def item(figure_id: str, rank: int) -> ReviewItem:
    return ReviewItem(
        rank=rank,
        figure_id=figure_id,
        x_px0=0,
        y_px0=0,
        label="typical",
        p_atypical=0.5,
        votes_atypical=1,
        votes_cast=3,
        agreement=0.7,
        in_hotspot=False,
        expected_change=0.1,
    )


def labelled(*votes: tuple[int, int, float]) -> pd.DataFrame:
    """Figures by votes for atypical, votes cast and P(atypical); their ids are f0, f1, ..."""
    table = pd.DataFrame(votes, columns=["votes_atypical", "votes_cast", "p_atypical"])
    table["label"] = np.where(2 * table["votes_atypical"] > table["votes_cast"], "atypical", "typical")
    table["figure_id"] = [f"f{n}" for n in range(len(table))]
    return table.assign(x_px0=0.0, y_px0=np.arange(len(table), dtype=float))


# --- the gallery


def test_the_gallery_has_atypical_figures_first_and_the_most_disputed_first() -> None:
    table = labelled((0, 5, 0.1), (5, 5, 0.9), (2, 5, 0.4), (3, 5, 0.6), (3, 5, 0.51), (4, 5, 0.7))
    shown = gallery(table, (), 10)
    assert list(shown["figure_id"]) == ["f4", "f3", "f5", "f1", "f2", "f0"]
    assert list(shown["agreement"]) == [0.6, 0.6, 0.8, 1.0, 0.6, 1.0]
    assert shown["rank"].isna().all()


def test_where_not_all_fit_the_review_list_takes_up_to_half_of_the_room() -> None:
    table = labelled(*[(5, 5, 0.9)] * 6, (1, 5, 0.3), (0, 5, 0.2), (0, 5, 0.1))
    review = [item(name, rank) for rank, name in enumerate(("f8", "f7", "f6", "f5"), start=1)]
    shown = gallery(table, review, 5)
    assert list(shown["figure_id"]) == ["f0", "f1", "f2", "f7", "f8"]
    assert list(shown["rank"].fillna(0)) == [0, 0, 0, 2, 1]
    assert list(gallery(table, review, 9)["rank"].dropna()) == [4, 3, 2, 1]


@given(st.integers(0, 60), st.integers(1, 70), st.integers(0, 20))
def test_the_gallery_shows_as_many_as_fit_and_each_once(total: int, most: int, listed: int) -> None:
    table = figures(total)
    review = [item(name, rank) for rank, name in enumerate(table["figure_id"][:listed], 1)]
    shown = gallery(table, review, most)
    assert len(shown) == min(total, most)
    assert shown["figure_id"].is_unique
    assert set(table["figure_id"][: min(listed, most // 2)]) <= set(shown["figure_id"])
    assert list(shown["label"]) == sorted(shown["label"])


@given(st.floats(0.05, 20), st.floats(0.05, 20))
def test_a_picture_is_of_one_physical_size_and_never_enlarged(x: float, y: float) -> None:
    mpp = Mpp(x, y)
    side, crop_mpp = crop_side(mpp)
    assert side % 2 == 0
    assert side * crop_mpp == pytest.approx(CROP_UM)
    assert 8 <= side <= 128
    if mpp.mean < 2:
        assert crop_mpp > 0.9 * mpp.mean


# --- what a slide may take


@given(st.integers(0, 200))
def test_the_pictures_of_all_slides_together_have_a_bound(slides: int) -> None:
    limits = Limits.shared(slides)
    assert slides * (limits.overview_chars + limits.crops_chars) <= 7_500_000
    assert 4 <= limits.crops <= 48
    assert limits.marks >= 200


# --- the overview


def test_a_view_is_in_units_of_the_longer_physical_side() -> None:
    """8000 x 4000 px of 0.25 x 0.5 um are a square of 2 mm."""
    view = View.of((9000, 9000), (1000, 2000, 8000, 4000), Mpp(0.25, 0.5))
    assert view.size == (VIEW_UNITS, VIEW_UNITS)
    assert (view.across(1000.0), view.down(2000.0)) == (0, 0)
    assert (view.across(5000.0), view.down(3000.0)) == (500, 250)
    assert view.um_per_unit == 2
    assert view.box(Hotspot(3000, 2400, 800, 400, 0.04, 3, 1)) == pytest.approx((250, 100, 100, 100))
    assert view.scale_bar == (100, "200 µm")


def test_an_outline_is_every_ring_of_a_region_without_corners_that_nobody_sees() -> None:
    view = View.of((20_000, 20_000), (1000, 2000, 10_000, 5_000), Mpp(0.25, 0.5))  # 10 px across, 5 px down
    frame = shapely.box(2000, 2500, 6000, 4500) - shapely.box(3000, 3000, 4000, 3500)
    fine = shapely.segmentize(frame, 1.0)
    there = shapely.MultiPolygon([fine, shapely.box(7000, 2500, 8000, 3000)])
    assert there.length > 10_000  # and so many corners, of which twelve are drawn
    outline = view.outline(Region("r", "", there))
    rings = [ring.split("L") for ring in outline.removesuffix("Z").removeprefix("M").split("ZM")]
    assert sorted(sorted(ring) for ring in rings) == sorted(
        sorted(f"{x} {y}" for x in across for y in down)
        for across, down in (((100, 500), (100, 500)), ((200, 300), (200, 300)), ((600, 700), (100, 200)))
    )


@pytest.mark.parametrize("bounds", [None, (0, 0, 0, 0), (700, 0, 100, 100), (0, 0, 600, 500)])
def test_without_usable_bounds_the_view_is_the_whole_slide(
    bounds: tuple[int, int, int, int] | None,
) -> None:
    view = View.of((600, 500), bounds, Mpp(0.25, 0.25))
    assert (view.left, view.top, view.width, view.height) == (0, 0, 600, 500)


def test_bounds_are_cut_to_the_slide() -> None:
    view = View.of((600, 500), (-10, 100, 700, 900), Mpp(0.25, 0.25))
    assert (view.left, view.top, view.width, view.height) == (0, 100, 600, 400)


@given(st.floats(1e-3, 1e6))
def test_a_scale_bar_is_of_a_round_length_that_fits(most: float) -> None:
    length = round_length(most)
    assert length <= most * 1.001
    assert length > most / 2.6
    assert f"{length:.0e}"[0] in "125"


def test_marks_that_would_cover_one_another_are_drawn_once() -> None:
    view = View.of((10_000, 10_000), None, Mpp(0.25, 0.25))  # 10 px a unit
    x, y = np.array([100.0, 102.0, 5000.0]), np.array([50.0, 51.0, 9999.0])
    assert marks(view, x, y) == [(10, 5), (500, 1000)]


def test_places_are_told_in_the_frame_that_qupath_shows() -> None:
    bounds = (1000, 2000, 500, 500)
    cropped = Coordinates.drawn("qupath", bounds, Mpp(0.25, 0.5))
    assert (cropped.px(1100.4, 2200), cropped.um(1100, 2200)) == ("100, 200", "25.0, 100.0")
    assert "1000, 2000 px more" in cropped.told
    whole = Coordinates.drawn("slide", bounds, Mpp(0.25, 0.5))
    assert whole.px(1100.4, 2200) == "1100, 2200"
    assert "--no-crop" in whole.told
    assert Coordinates.drawn("qupath", None, Mpp(1, 1)).px(5, 6) == "5, 6"


# --- histograms


def test_histograms_hold_every_figure_once() -> None:
    table = figures(300)
    for bars in (probability_bars(table), vote_bars(table)):
        assert sum(bar.atypical for bar in bars) == (table["label"] == "atypical").sum()
        assert sum(bar.typical for bar in bars) == (table["label"] == "typical").sum()


def test_probabilities_at_the_ends_are_counted() -> None:
    bars = probability_bars(labelled((0, 5, 0.0), (5, 5, 1.0), (3, 5, 0.5)))
    assert bars[0] == Bar("0.00 to 0.05", 0, 1)
    assert bars[-1] == Bar("0.95 to 1.00", 1, 0)
    assert bars[10] == Bar("0.50 to 0.55", 1, 0)


def test_votes_are_of_the_members_asked() -> None:
    """As `--vote early` leaves them."""
    bars = vote_bars(labelled((3, 3, 0.9), (3, 5, 0.6), (0, 3, 0.1), (2, 5, 0.4), (0, 3, 0.1)))
    assert bars == (Bar("0 of 3", 0, 2), Bar("2 of 5", 0, 1), Bar("3 of 5", 1, 0), Bar("3 of 3", 1, 0))
    assert vote_bars(labelled()) == ()


# --- the table and what it says


def test_a_row_takes_the_numbers_of_a_csv_or_of_a_record() -> None:
    row = table_row(ROW, "slide-1")
    assert (row.slide, row.status, row.trained, row.section) == ("a.svs", "done", True, "slide-1")
    assert row.numbers["classified"] == 82
    assert row.numbers["atypical_to_typical"] is None
    assert row.numbers["hotspot_area_mm2"] is None
    assert "bundle" not in row.numbers
    assert table_row(ROW | {"classified": 82, "trained": "false"}).trained is False
    failed = table_row({"slide": "b", "status": "failed", "trained": "", "error": "no such file"})
    assert (failed.trained, failed.error, failed.numbers["classified"]) == (True, "no such file", None)


def test_bundles_are_counted_and_untrained_ones_come_first() -> None:
    rows = [ROW, ROW, ROW | {"bundle": "zzz", "trained": "false"}, {"slide": "b", "status": "failed"}]
    assert [(b.name, b.trained, b.slides) for b in bundles_of(rows)] == [("zzz", False, 1), ("nano", True, 2)]


def test_numbers_are_told_with_their_units_and_nothing_as_a_dash() -> None:
    assert (percent(0.2073), percent(0), percent(None)) == ("20.7 %", "0.0 %", "–")
    assert (interval(0.134, 0.307), interval(None, 0.3)) == ("13.4 to 30.7 %", "–")
    assert (number(12345), number(0.257, 2), number(None)) == ("12,345", "0.26", "–")
    assert moment("2026-01-02T03:04:05+01:00") == "2026-01-02 02:04 UTC"


def test_parameters_are_told_without_the_folders_that_may_name_a_patient() -> None:
    run = {
        "parameters": {
            "input": {"slides": ["/p/Doe"], "detections": "/p/Doe/d.csv", "columns": {"x": "A"}},
            "result": {"min_score": None, "classes": ["a", "b"], "tta": "flips"},
            "output": {"folder": "/p/Doe/out", "regions": "/p/Doe/r", "overwrite": False},
            "placement": {"address": "head:6379"},
        }
    }
    told = dict(parameters(run))
    assert not any("/p/" in value or "Doe" in value for value in told.values())
    assert told == {
        "input.detections": "d.csv",
        "input.columns": "x=A",
        "result.min_score": "–",
        "result.classes": "a, b",
        "result.tta": "flips",
        "output.regions": "r",
        "output.overwrite": "no",
    }
    assert list(parameters({})) == []
