"""The one place of conversion: units, frames, classes, scores, duplicates."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_mitosis.core.candidates import (
    conversion_notes,
    doubtful_notes,
    near_a_better_one,
    prepare_candidates,
)
from wsi_mitosis.core.qupath import figure_ids
from wsi_mitosis.errors import DetectionsError
from wsi_mitosis.tables import Detections
from wsi_mitosis.units import Bounds, Mpp

MPP = Mpp(0.2425, 0.5)
SIZE = (10_000, 8_000)


def detections(
    xy: list[tuple[float, float]],
    *,
    scores: list[float] | None = None,
    ids: list[str | None] | None = None,
    classes: list[str | None] | None = None,
    extents: list[float] | None = None,
    units: str = "px",
    frame: str = "slide",
    rule: str = "any",
    format_name: str = "csv",
    **extras: list,
) -> Detections:
    rows = len(xy)
    table = pd.DataFrame(
        {
            "slide": pd.Series([None] * rows, dtype=object),
            "x": np.array([x for x, _ in xy], dtype=float),
            "y": np.array([y for _, y in xy], dtype=float),
            "score": np.array(scores or [math.nan] * rows, dtype=float),
            "id": pd.Series(ids or [None] * rows, dtype=object),
            "detector_class": pd.Series(classes or [None] * rows, dtype=object),
            "extent": np.array(extents or [math.nan] * rows, dtype=float),
            **extras,
        }
    )
    return Detections(table, units, frame, rule, format_name)


def prepare(given_detections: Detections, **options) -> pd.DataFrame:
    defaults = {"size_px0": SIZE, "mpp": MPP, "mpp_stated": True, "bounds": None}
    return prepare_candidates(given_detections, **{**defaults, **options})


def reasons(*arguments, **options) -> list[str | None]:
    return prepare(detections(*arguments, **options)).excluded_reason.tolist()


# Coordinates of another level


@pytest.mark.parametrize(
    ("made_at", "power", "factor"), [(40, 40, 1), (20, 40, 2), (40, 20, 0.5), (10, 40, 4)]
)
def test_pixels_of_another_magnification_become_those_of_level_0(
    made_at: float, power: float, factor: float
) -> None:
    given_detections = replace(detections([(100, 60)], extents=[8], rule="qupath"), magnification=made_at)
    prepared = prepare(given_detections, objective_power=power)
    assert prepared[["x_px0", "y_px0"]].to_numpy().tolist() == [[100 * factor, 60 * factor]]
    notes = conversion_notes(
        given_detections,
        name="a.svs",
        size_px0=SIZE,
        mpp=MPP,
        stated_mpp=MPP,
        bounds=None,
        objective_power=power,
    )
    expected = (
        f"a.svs: coordinates at {made_at}x became pixels at level 0, which the slide states to have {power}x"
    )
    assert notes == (() if factor == 1 else (expected,))


def test_an_object_is_as_wide_as_at_level_0() -> None:
    # 60 px at 10x are 240 px at level 0, 60 um and more at 0.2425 and 0.5 um/px: a region and no figure
    given_detections = replace(detections([(100, 60)], extents=[60], rule="qupath"), magnification=10.0)
    assert prepare(given_detections, objective_power=40)["excluded_reason"].tolist() == ["class"]
    assert prepare(given_detections, objective_power=10)["excluded_reason"].tolist() == [None]


def test_pixels_of_a_magnification_need_that_of_the_slide() -> None:
    given_detections = replace(detections([(100, 60)]), magnification=20.0)
    cause = r"a\.svs: placing candidates: the coordinates are pixels at 20x, and the slide does not state"
    with pytest.raises(DetectionsError, match=cause) as caught:
        prepare(given_detections, name="a.svs")
    assert "--units px" in str(caught.value.remedy)
    assert prepare(replace(detections([]), magnification=20.0)).empty


@pytest.mark.parametrize(
    ("frame", "bounds", "size", "fits"),
    [
        ("slide", None, SIZE, True),
        ("slide", None, (SIZE[0] + 1, SIZE[1] - 1), True),
        ("slide", None, (SIZE[0] / 4, SIZE[1] / 4), False),
        ("slide", None, (SIZE[0], SIZE[1] - 2), False),
        ("slide", Bounds(10, 20, 900, 800), (900, 800), False),
        ("qupath", Bounds(10, 20, 900, 800), (900, 800), True),
        ("qupath", Bounds(10, 20, 900, 800), SIZE, False),
    ],
)
def test_an_image_of_another_size_is_refused(
    frame: str, bounds, size: tuple[float, float], fits: bool
) -> None:
    given_detections = detections([(100, 60)], frame=frame)
    given_detections.table["slide"] = "a.svs"
    given_detections = replace(given_detections, image_sizes={"a.svs": size, "b.svs": (1, 1)})
    if fits:
        assert prepare(given_detections, bounds=bounds)["excluded_reason"].tolist() == [None]
        return
    cause = rf"the detections are of an image of {size[0]:g} x {size[1]:g} px, and the slide has"
    with pytest.raises(DetectionsError, match=cause):
        prepare(given_detections, bounds=bounds)


# Coordinates


def test_a_figure_worked_by_hand() -> None:
    # 485 um / 0.2425 um/px = 2000 px across, 485 / 0.5 = 970 px down, from a corner at (700, 300)
    cases = [
        ("um", "slide", (485.0, 485.0), (2000, 970)),
        ("um", "qupath", (485.0, 485.0), (2700, 1270)),
        ("mm", "slide", (0.485, 0.485), (2000, 970)),
        ("px", "qupath", (485.0, 485.0), (1185, 785)),
        ("px", "slide", (485.0, 485.0), (485, 485)),
    ]
    for units, frame, given_xy, expected in cases:
        table = prepare(detections([given_xy], units=units, frame=frame), bounds=Bounds(700, 300, 5000, 5000))
        assert table[["x_px0", "y_px0"]].to_numpy() == pytest.approx(np.array([expected]))


def test_qupaths_frame_is_the_slides_where_there_are_no_bounds() -> None:
    assert prepare(detections([(5, 6)], frame="qupath")).x_px0.tolist() == [5]


@pytest.mark.parametrize(
    ("format_name", "units", "stated", "expected"),
    [
        ("grand-challenge", "mm", True, 4000),
        ("grand-challenge", "mm", False, 4000),
        ("grand-challenge", "um", False, 4),
        ("csv", "mm", False, 4000),
    ],
)
def test_millimetres_of_a_slide_without_a_pixel_size(
    format_name: str, units: str, stated: bool, expected: float
) -> None:
    table = prepare(
        detections([(2.0, 2.0)], units=units, format_name=format_name), mpp=Mpp(0.5, 0.5), mpp_stated=stated
    )
    assert table.x_px0.tolist() == [expected]


@given(
    st.lists(st.tuples(st.floats(1, 9_999), st.floats(1, 7_999)), max_size=6),
    st.sampled_from(["px", "um", "mm", "fraction"]),
    st.sampled_from(["slide", "qupath"]),
    st.tuples(st.integers(-500, 500), st.integers(0, 500)),
    st.tuples(st.floats(0.05, 20), st.floats(0.05, 20)),
)
def test_units_and_frames_there_and_back(xy: list, units: str, frame: str, corner: tuple, mpp: tuple) -> None:
    per_unit = {
        "px": (1.0, 1.0),
        "um": mpp,
        "mm": (mpp[0] / 1000, mpp[1] / 1000),
        "fraction": (1 / 9_000, 1 / 7_000),
    }[units]
    shift = np.array(corner if frame == "qupath" else (0, 0))
    xy = [(x * 0.9, y * 0.87) for x, y in xy]  # on either slide
    written = (np.array(xy).reshape(-1, 2) - shift) * per_unit
    found = prepare(
        detections([tuple(row) for row in written], units=units, frame=frame),
        mpp=Mpp(*mpp),
        bounds=Bounds(*corner, 9_000, 7_000) if frame == "qupath" else None,
        size_px0=SIZE if frame == "qupath" else (9_000, 7_000),
    )
    # 1e-6 px: a few roundings of numbers up to 1e4
    np.testing.assert_allclose(found[["x_px0", "y_px0"]], np.array(xy).reshape(-1, 2), atol=1e-6)


def test_grand_challenges_millimetres_are_pixels_where_only_those_lie_on_the_slide() -> None:
    source = detections([(4000.0, 2000.0)], units="mm", format_name="grand-challenge")
    assert prepare(source, mpp_stated=False).x_px0.tolist() == [4000]
    with pytest.raises(DetectionsError, match=r"1 of 1 candidates \(read in mm"):
        prepare(source)


def notes(source: Detections, **options) -> tuple[str, ...]:
    defaults = {"name": "a.tiff", "size_px0": SIZE, "mpp": MPP, "stated_mpp": MPP, "bounds": None}
    return conversion_notes(source, **{**defaults, **options})


def test_lengths_that_became_pixels_by_a_given_size_are_told() -> None:
    source = detections([(0.5, 0.5)], units="mm")
    assert notes(source) == ()
    assert notes(source, stated_mpp=None) == ()
    assert notes(detections([(5, 5)]), stated_mpp=Mpp(1, 1)) == ()
    told = notes(source, mpp=Mpp(0.25, 0.25), stated_mpp=Mpp(0.5, 0.5))
    assert told == (
        "a.tiff: coordinates in mm became pixels by the 0.25 um/px that were given; the slide states 0.5",
    )
    in_px = detections([(4000.0, 2000.0)], units="mm", format_name="grand-challenge")
    assert "the points only lie on it if they are in pixels" in notes(in_px, stated_mpp=None)[0]


def doubts(source: Detections, **options) -> tuple[str, ...]:
    classes = options.get("classes", ())
    return doubtful_notes(
        source, prepare(source, classes=classes), name="a.tiff", size_px0=SIZE, classes=classes
    )


def test_what_only_the_user_can_know_is_told() -> None:
    far = [(5_000, 5_000), (6_000, 70)]
    assert doubts(detections(far, classes=["Mitosis", "atypical"])) == ()
    assert doubts(detections(far, classes=["Lymphocyte", "Tumour"])) == ()
    mixed = detections(far, classes=["Mitosis", "Lymphocyte"])
    assert "classified beside mitotic figures: 'Lymphocyte'. Name those" in doubts(mixed)[0]
    assert doubts(mixed, classes=["Mitosis"]) == ()
    told = doubts(mixed, classes=["mitoses"])
    assert told == (
        "a.tiff: no candidate is of a class that --class names. The detections file has the classes "
        "'Mitosis', 'Lymphocyte'",
    )
    assert "names no classes" in doubts(detections(far), classes=["Mitosis"])[0]


def test_candidates_that_all_lie_in_the_corner_are_told() -> None:
    corner = [(99, 79), (1, 2), (50, 3)]
    assert "all 3 candidates lie in the top-left 1% of width and height" in doubts(detections(corner))[0]
    assert doubts(detections(corner[:2])) == ()
    assert doubts(detections([*corner, (99, 81)])) == ()


# Candidates that lie elsewhere


SCATTERED = [(900, 700), (5000, 300), (9500, 7900), (30, 4000)]


def scaled(factor: float, shift: tuple[float, float] = (0, 0)) -> list[tuple[float, float]]:
    return [(x * factor + shift[0], y * factor + shift[1]) for x, y in SCATTERED]


@pytest.mark.parametrize(
    ("xy", "options", "remedy"),
    [
        (scaled(2), {}, "after dividing the coordinates by 2, a factor of 0.5"),
        (scaled(4), {}, "after dividing the coordinates by 4, a factor of 0.25"),
        (scaled(16), {}, "after dividing the coordinates by 16"),
        (scaled(1), {"units": "um"}, "with --units px, a factor of 0.2425"),
        (scaled(1), {"units": "mm"}, "with --units px, a factor of 0.0002425"),
        ([(700, 9_900), (30, 8_200), (50, 60)], {}, "with x and y exchanged"),
        ([(30_000 + x / 90, 20_000 + y / 90) for x, y in SCATTERED], {}, "They may be of another slide"),
    ],
)
def test_a_slide_most_of_whose_candidates_lie_outside_fails_and_says_what_would_fit(
    xy: list, options: dict, remedy: str
) -> None:
    source = detections(xy, **options)
    with pytest.raises(DetectionsError, match=remedy) as caught:
        prepare(source, name="a.tiff", mpp=Mpp(0.2425, 0.2425))
    assert caught.value.subject == "a.tiff"
    assert "lie outside the slide, which has 10000 x 8000 px" in caught.value.cause


def test_the_frame_that_would_fit_is_named() -> None:
    bounds = Bounds(9_000, 7_000, 900, 900)
    source = detections([(9_100, 7_100), (9_800, 7_800)], frame="qupath")
    with pytest.raises(DetectionsError, match="They would lie inside with --frame slide"):
        prepare(source, bounds=bounds)
    source = detections([(-8_100, -6_100), (-8_800, -6_800)])
    with pytest.raises(DetectionsError, match="They would lie inside with --frame qupath"):
        prepare(source, bounds=bounds)


def test_a_stray_candidate_is_no_reason_against_a_factor() -> None:
    xy = [*scaled(4), *scaled(4.001), *scaled(3.999), (9e6, 9e6)]
    with pytest.raises(DetectionsError, match="They would lie inside after dividing the coordinates by 4"):
        prepare(detections(xy))


def test_percentages_called_shares_are_told_by_their_factor() -> None:
    with pytest.raises(DetectionsError, match="as percentages, after dividing the coordinates by 100"):
        prepare(detections([(20, 30), (70, 80), (5, 99)], units="fraction"))


def test_half_of_the_candidates_may_lie_outside() -> None:
    inside, outside = [(5, 5), (6, 6)], [(-1, 5), (5, 9e9)]
    assert reasons(inside + outside) == [None, None, "outside", "outside"]
    with pytest.raises(DetectionsError, match="3 of 5 candidates"):
        prepare(detections([*inside, *outside, (5, -1)]))


def test_only_candidates_with_a_place_and_of_a_class_that_counts_are_asked_where_they_lie() -> None:
    source = detections(
        [(5, 5), (-1, 5), (-2, 5), (math.nan, 5)], classes=["mitosis", "imposter", "imposter", "mitosis"]
    )
    assert prepare(source).excluded_reason.tolist() == [None, "class", "class", "not_finite"]


# Columns


def test_columns_and_their_order() -> None:
    source = detections([(1, 2), (3, 4)], ids=["a", None], scores=[0.5, math.nan], stain=["HE", "PHH3"])
    table = prepare(source)
    expected = ["candidate_id", "x_px0", "y_px0", "detector_score", "excluded_reason", "stain"]
    assert list(table.columns) == expected
    assert table.candidate_id.tolist() == ["a", "2"]
    assert table.excluded_reason.tolist() == [None, None]
    assert table.stain.tolist() == ["HE", "PHH3"]
    with_class = prepare(detections([(1, 2), (3, 4)], classes=[None, "M"], stain=[1, 2]))
    assert list(with_class.columns)[5:] == ["detector_class", "stain"]


def test_no_detections_have_the_same_columns() -> None:
    table = prepare(detections([]), merge_um=5, min_score=0.5)
    assert len(table) == 0
    assert table.x_px0.dtype.kind == "f"


def test_the_input_is_left_alone() -> None:
    source = detections([(1, 2), (1, 2)], units="um", frame="qupath")
    before = source.table.copy()
    prepare(source, bounds=Bounds(5, 5, 9, 9))
    pd.testing.assert_frame_equal(source.table, before)


# Reasons


def test_reasons_are_tried_in_their_order() -> None:
    bad = (math.nan, math.inf)
    source = detections(
        [bad, bad, (-1, 5), (5, 5), (5, 5), (5, 5)],
        classes=["no", "M", "M", "M", "M", "M"],
        scores=[0.1, 0.1, 0.1, 0.1, 0.9, 0.8],
    )
    table = prepare(source, classes=["M"], min_score=0.5)
    assert table.excluded_reason.tolist() == ["class", "not_finite", "outside", "score", None, "duplicate"]


@pytest.mark.parametrize(
    ("xy", "reason"),
    [
        ((0, 0), None),
        ((9_999.99, 7_999.99), None),
        ((10_000, 5), "outside"),
        ((5, 8_000), "outside"),
        ((-0.01, 5), "outside"),
        ((5, -0.01), "outside"),
        ((1e300, 5), "outside"),
        ((math.nan, 5), "not_finite"),
        ((5, -math.inf), "not_finite"),
    ],
)
def test_centres_outside_the_slide(xy: tuple[float, float], reason: str | None) -> None:
    assert reasons([xy, (1, 1)]) == [reason, None]


def test_scores() -> None:
    source = detections([(1, 1), (2, 2), (3, 3)], scores=[0.49, 0.5, math.nan])
    assert prepare(source, min_score=0.5).excluded_reason.tolist() == ["score", None, None]
    assert prepare(source).excluded_reason.isna().all()


def test_nanometres_from_the_middle_of_the_glass_worked_by_hand() -> None:
    # Level 0 has 10,000 x 8,000 px at 0.25 x 0.5 um/px; its middle lies 1.5 mm right of and 0.8 mm above the
    # middle of the glass. 1,600,000 nm is 0.1 mm right of it: 100 um / 0.25 um/px = 400 px from px 5000.
    # -700,000 nm is 0.1 mm below it: 100 um / 0.5 um/px = 200 px from px 4000.
    found = prepare(
        detections([(1_600_000.0, -700_000.0)], units="nm", frame="slide-centre"),
        mpp=Mpp(0.25, 0.5),
        bounds=Bounds(700, 300, 5000, 5000),
        centre_offset_um=(1500.0, -800.0),
    )
    assert found[["x_px0", "y_px0"]].to_numpy().tolist() == [[5400.0, 4200.0]]


@pytest.mark.parametrize(("units", "x"), [("um", 1600.0), ("mm", 1.6), ("nm", 1_600_000.0)])
def test_the_middle_of_the_glass_is_an_origin_for_every_length(units: str, x: float) -> None:
    source = detections([(x, 0.0)], units=units, frame="slide-centre")
    found = prepare(source, mpp=Mpp(0.25, 0.5), centre_offset_um=(1500.0, 0.0))
    assert found.x_px0.tolist() == pytest.approx([5400.0])


def test_a_slide_that_does_not_say_where_it_is_on_the_glass_is_refused() -> None:
    source = detections([(1_600_000.0, -700_000.0)], units="nm", frame="slide-centre")
    with pytest.raises(DetectionsError, match=r"XOffsetFromSlideCentre.*NDPI or VMS file.*GeoJSON") as caught:
        prepare(source, name="a.tiff")
    assert str(caught.value).startswith("a.tiff: placing candidates: its candidates are measured from")


def test_nanometres_read_in_the_wrong_frame_are_refused_with_the_frame_that_fits() -> None:
    source = detections([(-900_000.0, -700_000.0), (-800_000.0, -600_000.0)], units="nm")
    with pytest.raises(DetectionsError, match="inside with --frame slide-centre"):
        prepare(source, centre_offset_um=(0.0, 0.0))
    with pytest.raises(DetectionsError) as caught:  # nobody counts px from the middle of the glass
        prepare(detections([(-400.0, -300.0), (-200.0, -100.0)]), centre_offset_um=(0.0, 0.0))
    assert "slide-centre" not in str(caught.value)


def test_an_area_in_nanometres_has_its_width_in_um() -> None:
    # 49,000 nm are 49 um and a figure; 51,000 nm are 51 um and a region.
    source = detections([(10.0, 10.0), (9e5, 9e5)], extents=[49_000.0, 51_000.0], units="nm", rule="qupath")
    assert prepare(source, bounds=None).excluded_reason.tolist() == [None, "class"]


# Classes


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mitotic figure", None),
        ("Mitosis", None),
        ("MITOTIC_FIGURE", None),
        ("not mitotic figure", "class"),
        ("non-mitotic figure", "class"),
        ("mitotic figure look-alike", "class"),
        ("Mitosis lookalike", "class"),
        ("impostor", "class"),
        ("hard negative", "class"),
        (None, "class"),
    ],
)
def test_mitotic_rule(name: str | None, reason: str | None) -> None:
    assert reasons([(1, 1), (2, 2)], classes=["mitotic figure", name], rule="mitotic") == [None, reason]


def test_mitotic_rule_without_such_classes_asks_for_them() -> None:
    source = detections([(1, 1), (2, 2)], classes=["tumour", "lymphocyte"], rule="mitotic")
    with pytest.raises(DetectionsError, match=r"'tumour', 'lymphocyte'.*--class"):
        prepare(source)
    assert prepare(source, classes=["Tumour"]).excluded_reason.tolist() == [None, "class"]


def test_mitotic_rule_looks_at_the_whole_files_classes() -> None:
    source = detections([(1, 1), (2, 2)], classes=["tumour", None], rule="mitotic")
    table = prepare(replace(source, file_classes=("tumour", "Mitosis")))
    assert table.excluded_reason.tolist() == ["class", "class"]


def test_mitotic_rule_knows_a_figure_by_its_abbreviation_or_by_its_look_alikes() -> None:
    names = ["MF", "non-MF", "AMF", "cell"]
    assert reasons([(1, 1)] * 4, classes=names, rule="mitotic")[1:] == ["class", "duplicate", "class"]
    pair = [(1, 1), (2, 2)]
    assert reasons(pair, classes=["positive", "negative"], rule="mitotic") == [None, "class"]


def test_mitotic_rule_takes_all_of_a_file_without_classes() -> None:
    assert reasons([(1, 1), (2, 2)], rule="mitotic") == [None, None]
    assert reasons([(1, 1)], classes=["hard non-mitosis"], rule="mitotic") == ["class"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Mitosis", None),
        (None, None),
        ("Ignore*", "class"),
        ("Region: x*", "class"),
        ("Hotspot", "class"),
        ("hotspot", "class"),
        ("Hotspots", None),
        ("Mitosis: Atypical", None),
    ],
)
def test_qupath_rule(name: str | None, reason: str | None) -> None:
    assert reasons([(1, 1)], classes=[name], rule="qupath") == [reason]
    assert reasons([(1, 1)], classes=[name], rule="any") == [None]


@pytest.mark.parametrize(
    ("units", "extent", "reason"),
    [
        ("um", 50.0, None),
        ("um", 50.1, "class"),
        ("mm", 0.0501, "class"),
        ("px", 100.0, None),
        ("px", 100.1, "class"),
        ("px", math.nan, None),
    ],
)
def test_areas_that_are_no_figures(units: str, extent: float, reason: str | None) -> None:
    source = detections([(1, 1)], classes=["Mitosis"], extents=[extent], units=units, rule="qupath")
    assert prepare(source, mpp=Mpp(0.5, 0.5)).excluded_reason.tolist() == [reason]
    assert prepare(source, mpp=Mpp(0.5, 0.5), classes=["Mitosis"]).excluded_reason.tolist() == [None]


@pytest.mark.parametrize("rule", ["any", "mitotic", "qupath"])
def test_classes_that_the_user_names(rule: str) -> None:
    classes = ["Mitosis: Atypical", "Mitosis", "Hotspot", "not mitotic", None]
    source = detections([(at, at) for at in range(5)], classes=classes, rule=rule)
    named = prepare(source, classes=["mitosis: atypical", " NOT MITOTIC"]).excluded_reason.tolist()
    assert named == [None, "class", "class", None, "class"]


# Duplicates


@pytest.mark.parametrize(
    ("other", "reason"),
    [((100.0, 50.0), "duplicate"), ((100.004, 49.996), "duplicate"), ((100.01, 50), None)],
)
def test_what_is_the_same_place(other: tuple[float, float], reason: str | None) -> None:
    assert reasons([(100.0, 50.0), other]) == [None, reason]


def test_the_best_of_a_place_is_kept() -> None:
    place = [(5.0, 5.0)] * 4
    assert reasons(place, scores=[0.1, math.nan, 0.9, 0.9]) == ["duplicate", "duplicate", None, "duplicate"]
    assert reasons(place) == [None, *["duplicate"] * 3]


@pytest.mark.parametrize("merge_um", [None, 10.0])
def test_excluded_rows_take_no_part_in_duplicates(merge_um: float | None) -> None:
    source = detections([(5, 5), (5, 5)], scores=[0.9, 0.5], classes=["Hotspot", "M"], rule="qupath")
    assert prepare(source, merge_um=merge_um).excluded_reason.tolist() == ["class", None]


def test_merging_is_in_um_on_both_axes() -> None:
    # 20 px are 4.85 um across and 10 um down
    across, down = [(100, 100), (120, 100)], [(100, 100), (100, 120)]
    for xy, distance in ((across, 4.85), (down, 10.0)):
        assert prepare(detections(xy), merge_um=distance - 0.001).excluded_reason.tolist() == [None, None]
        assert prepare(detections(xy), merge_um=distance + 0.001).excluded_reason.tolist() == [
            None,
            "duplicate",
        ]


def test_nearer_means_nearer() -> None:
    source = detections([(0, 0), (20, 0)])
    assert prepare(source, mpp=Mpp(0.5, 0.5), merge_um=10.0).excluded_reason.tolist() == [None, None]


def test_merging_is_greedy_by_score() -> None:
    chain = [(10, 10), (18, 10), (26, 10)]
    best_in_the_middle = detections(chain, scores=[0.5, 0.9, math.nan])
    best_at_the_ends = detections(chain, scores=[0.9, 0.8, 0.7])
    options = {"mpp": Mpp(1, 1), "merge_um": 10}
    assert prepare(best_in_the_middle, **options).excluded_reason.tolist() == ["duplicate", None, "duplicate"]
    assert prepare(best_at_the_ends, **options).excluded_reason.tolist() == [None, "duplicate", None]


def merged_by_force(xy: list, scores: list[float], mpp: Mpp, distance_um: float) -> list[bool]:
    rank = sorted(range(len(xy)), key=lambda at: (math.isnan(scores[at]), -np.nan_to_num(scores[at]), at))
    kept: list[int] = []
    for at in rank:
        gaps = [((xy[at][0] - xy[k][0]) * mpp.x, (xy[at][1] - xy[k][1]) * mpp.y) for k in kept]
        if all(math.hypot(*gap) >= distance_um for gap in gaps):
            kept.append(at)
    return [at in kept for at in range(len(xy))]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 40),
            st.integers(0, 40),
            st.sampled_from([0.1, 0.5, 0.9, math.nan]),
        ),
        max_size=40,
    ),
    st.sampled_from([0.3, 1.7, 4.1, 9.3]),
)
def test_merging_equals_brute_force(rows: list, distance_um: float) -> None:
    xy, scores = [(x, y) for x, y, _ in rows], [score for *_, score in rows]
    mpp = Mpp(0.5, 0.25)
    found = prepare(detections(xy, scores=scores), mpp=mpp, merge_um=distance_um).excluded_reason.isna()
    # of equal places one is kept, as the brute force does at a distance of 0 < distance_um
    assert found.tolist() == merged_by_force(xy, scores, mpp, distance_um)


def test_nothing_is_near_alone() -> None:
    assert near_a_better_one(np.zeros((0, 2)), 5).tolist() == []
    assert near_a_better_one(np.zeros((1, 2)), 5).tolist() == [False]


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), max_size=20), st.randoms())
def test_order_of_rows_does_not_change_which_figures_are_kept(places: list, random) -> None:
    xy = [(x / 100, y / 100) for x, y in places]
    scores = [at / 100 for at in range(len(xy))]
    rows = list(zip(xy, scores, strict=True))
    random.shuffle(rows)
    shuffled = detections([place for place, _ in rows], scores=[score for _, score in rows])

    def kept(table: pd.DataFrame) -> set:
        rows = table[table.excluded_reason.isna()]
        return set(rows[["x_px0", "y_px0", "detector_score"]].itertuples(index=False, name=None))

    assert kept(prepare(shuffled)) == kept(prepare(detections(xy, scores=scores)))


def test_figures_that_are_not_duplicates_have_distinct_ids() -> None:
    generator = np.random.default_rng(3)
    xy = [tuple(row) for row in generator.uniform(0, 0.3, size=(500, 2))]
    table = prepare(detections(xy))
    kept = table[table.excluded_reason.isna()]
    ids = figure_ids("s", kept.x_px0, kept.y_px0)
    assert len(set(ids)) == len(ids) < len(xy)
