"""Whose review a file is: of which slide, and of which result."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.records import slide_record
from tests.review_files import Drawn, figures_table, objects_of
from wsi_mitosis.core.earlier import EarlierResult, EarlierResults
from wsi_mitosis.core.qupath import figure_ids, hotspot_id, result_number
from wsi_mitosis.core.review_identity import Evidence, check_not_transformed, what_was_shown
from wsi_mitosis.errors import DetectionsError
from wsi_mitosis.units import Mpp

QUARTER = Mpp(0.25, 0.25)
RECORD = slide_record()
DIGEST, KEY = RECORD.slide.digest, RECORD.key
NUMBER = result_number(KEY)
PLACES = [(100.0, 100.0), (500.0, 120.0), (200.0, 700.0), (900.0, 400.0)]
LABELS = ["atypical", "atypical", "typical", "typical"]
REACH_UM = 6.25
P = {"atypical": 0.8, "typical": 0.1}  # as `figures_table` has them


def _machine(places: Sequence[tuple[float, float]] = PLACES, digest: str = DIGEST) -> pd.DataFrame:
    ids = figure_ids(digest, *np.array(places, dtype=float).reshape(-1, 2).T)
    return figures_table(
        *((name, *place, label) for name, place, label in zip(ids, places, LABELS, strict=False))
    )


def _export(
    machine: pd.DataFrame, *, number: float = NUMBER, family: str = "Mitosis", p: bool = True
) -> list[Drawn]:
    return [
        Drawn(
            row.x_px0,
            row.y_px0,
            f"{family}: {row.label.capitalize()}",
            row.figure_id,
            kind="detection",
            p_atypical=row.p_atypical if p else np.nan,
            result=number,
        )
        for row in machine.itertuples()
    ]


def _bare(drawn: Sequence[Drawn]) -> list[Drawn]:
    return [one._replace(p_atypical=np.nan, result=np.nan) for one in drawn]


def _nameless(drawn: Sequence[Drawn]) -> list[Drawn]:
    return [one._replace(object_id=None) for one in drawn]


def _earlier(
    machine: pd.DataFrame, *, key: str = "e" * 64, digest: str = DIGEST, bundle_digest: str = "d" * 64
) -> EarlierResult:
    record = slide_record(identity=digest, key=key, bundle="older", bundle_digest=bundle_digest)
    return EarlierResult.of(record, machine, "2026-02-03T04:05:06+00:00")


def _evidence(
    drawn: Sequence[Drawn],
    machine: pd.DataFrame | None = None,
    *,
    earlier: Sequence[EarlierResult] = (),
    distance_um: float = REACH_UM,
    **record: Any,
) -> Evidence:
    return Evidence(
        objects=objects_of(*drawn, mpp=QUARTER),
        machine=_machine() if machine is None else machine,
        record=slide_record(**record),
        earlier=EarlierResults(slide="a.svs", results=tuple(earlier)),
        distance_um=distance_um,
    )


def _nowhere(ids: Collection[str]) -> None:
    del ids


def _shown(*arguments: Any, **options: Any) -> tuple[set[str] | None, tuple[str, ...]]:
    found = what_was_shown(_evidence(*arguments, **options), _nowhere)
    return (None if found.ids is None else set(found.ids)), found.notes


def _refused(match: str, *arguments: Any, **options: Any) -> DetectionsError:
    with pytest.raises(DetectionsError, match=match) as error:
        what_was_shown(_evidence(*arguments, **options), _nowhere)
    assert (error.value.subject, error.value.stage) == ("a.svs", "reading the review")
    assert error.value.remedy
    return error.value


# The slide

OTHER = "o" * 64


@pytest.mark.parametrize(
    "drawn", [[], _export(_machine()), _bare(_export(_machine())), _nameless(_export(_machine()))]
)
def test_a_review_of_the_present_result_showed_it(drawn: list[Drawn]) -> None:
    assert _shown(drawn) == (None, ())


def test_ids_of_another_slide_of_the_folder_are_refused_with_its_name() -> None:
    drawn = _export(_machine(digest=OTHER))
    asked: list[Collection[str]] = []

    def slide_of(ids: Collection[str]) -> str:
        asked.append(ids)
        return "b.svs"

    with pytest.raises(
        DetectionsError, match=r"of another slide, b.svs: 4 of 4 ids in it are of figures there"
    ):
        what_was_shown(_evidence(drawn), slide_of)
    assert asked == [{one.object_id for one in drawn}]


def test_ids_of_a_slide_that_is_not_in_the_folder_are_refused() -> None:
    error = _refused("another slide, or of another scan .*: 4 of 4 ids", _export(_machine(digest=OTHER)))
    assert "Name the file after the slide" in str(error.remedy)


def test_ids_of_figures_that_the_slide_never_had_are_of_another_result_of_it() -> None:
    elsewhere = [(x + 300, y + 50) for x, y in PLACES]
    # QuPath's rounding of a ring shifts its centre by up to 0.01 px
    drawn = [one._replace(x=one.x + 0.01, y=one.y - 0.01) for one in _export(_machine(elsewhere))]
    error = _refused("4 of 4 ids in it are of another result of this slide", drawn)
    assert "Import the present GeoJSON" in str(error.remedy)


@pytest.mark.parametrize(("strange", "is_refused"), [(2, False), (3, True)])
def test_more_than_half_of_the_ids_decide(strange: int, is_refused: bool) -> None:
    own, others = (
        _bare(_export(_machine())),
        _bare(_export(_machine([(x, y + 200) for x, y in PLACES], OTHER))),
    )
    drawn = own[:2] + others[:strange]
    if is_refused:
        _refused("3 of 5 ids", drawn)
    else:
        note = (
            "a.svs: 2 of 4 ids in it are of none of this slide's figures. Are their objects of another slide?"
        )
        assert _shown(drawn) == (None, (note,))


@pytest.mark.parametrize(
    "name",
    [
        None,
        "PathDetectionObject",
        "0b9f9b6e-7c1d-4d3c-8a52-0d8f6e1f7a10",
        "3f0c2c1e-6f0b-1c1e-9a52-1d5f0f6f2a10",
    ],
)
def test_ids_that_this_program_did_not_make_say_nothing(name: str | None) -> None:
    drawn = [one._replace(object_id=name) for one in _export(_machine())]
    assert _shown(drawn) == (None, ())


def test_hotspots_and_earlier_figures_are_of_this_slide() -> None:
    hotspots = [
        Drawn(500, 500, "Hotspot", hotspot_id(DIGEST, rank), extent=900) for rank in (1, 2, 3, 4, 5, 100)
    ]
    assert _shown([*hotspots, *_export(_machine())]) == (None, ())
    foreign = [Drawn(500, 500, "Hotspot", hotspot_id(OTHER, rank), extent=900) for rank in (1, 2)]
    _refused("2 of 3 ids", [*foreign, *_export(_machine())[:1]])


def test_figures_of_an_earlier_result_are_of_this_slide() -> None:
    gone = _machine([(x + 300, y + 50) for x, y in PLACES])
    drawn = _export(gone, number=result_number("e" * 64))
    assert _shown(drawn, earlier=[_earlier(gone)])[0] == set(gone["figure_id"])
    _refused("of another result of this slide", drawn)


# The result, by its number


def test_a_number_of_the_present_result_is_enough() -> None:
    drawn = [one._replace(p_atypical=0.5) for one in _export(_machine())]
    stale = _earlier(_machine(PLACES[:2]))
    assert _shown(drawn, earlier=[stale]) == (None, ())


def test_most_figures_decide_the_result() -> None:
    old = _earlier(_machine(PLACES[:2]))
    drawn = _export(_machine())
    mixed = [one._replace(result=old.number) for one in drawn[:1]] + drawn[1:]
    assert _shown(mixed, earlier=[old]) == (None, ())
    mixed = [one._replace(result=old.number) for one in drawn[:3]]
    assert _shown(mixed, earlier=[old])[0] == set(_machine()["figure_id"][:2])


def test_reviewed_objects_of_an_earlier_result_beside_the_present_ones_showed_both() -> None:
    old = _machine(PLACES[:3])
    drawn = _export(old, number=result_number("e" * 64))[:2] + _export(_machine())[3:]
    assert _shown(drawn, earlier=[_earlier(old)]) == (set(_machine()["figure_id"]), ())


def test_numbers_that_are_none_are_ignored() -> None:
    drawn = [one._replace(result=np.inf) for one in _export(_machine())]
    assert _shown(drawn) == (None, ())


def test_figures_of_this_result_that_lie_elsewhere_are_refused() -> None:
    drawn = [one._replace(x=one.x / 2, y=one.y / 2) for one in _nameless(_export(_unlike()))]
    _refused("its 4 figures are of this result, and do not lie where it has figures", drawn, _unlike())
    half = _nameless(_export(_unlike()))[:2] + drawn[2:]
    assert _shown(half, _unlike()) == (None, ())
    _refused("do not lie where", half[:1] + drawn[1:], _unlike())


def _unlike() -> pd.DataFrame:
    """Figures with a probability of their own each, by which copies are told."""
    return _machine().assign(p_atypical=[0.7, 0.8, 0.1, 0.2])


def test_a_result_before_more_candidates_showed_fewer_figures() -> None:
    old = _machine(PLACES[:3])
    shown, notes = _shown(_export(old, number=result_number("e" * 64)), earlier=[_earlier(old)])
    assert shown == set(old["figure_id"])
    assert notes == (
        "a.svs: exported before 2026-02-03T04:05:06+00:00, when the slide was classified again: its "
        "reviewer never saw 1 of the figures. They keep the ensemble's label, unless the review has "
        "something at their place",
    )


def test_a_result_before_fewer_candidates_showed_more_figures() -> None:
    present = _machine(PLACES[:3])
    shown, notes = _shown(
        _export(_machine(), number=result_number("e" * 64)), present, earlier=[_earlier(_machine())]
    )
    assert shown == set(_machine()["figure_id"])
    assert notes == (
        "a.svs: figures that its reviewer saw, and that are not in the present result: 1. Those that the "
        "review still has are counted as added",
    )


def test_an_earlier_result_of_the_same_figures_needs_no_note() -> None:
    drawn = _export(_machine(), number=result_number("e" * 64))
    assert _shown(drawn, earlier=[_earlier(_machine())]) == (set(_machine()["figure_id"]), ())


def test_an_earlier_result_with_other_labels_is_refused() -> None:
    old = _machine().assign(label=["typical", "atypical", "atypical", "typical"])
    drawn = _export(old, number=result_number("e" * 64))
    _refused("from an earlier result, which labelled 2 figures otherwise", drawn, earlier=[_earlier(old)])


def test_an_earlier_result_of_another_bundle_is_refused() -> None:
    drawn = _export(_machine(), number=result_number("e" * 64))
    error = _refused(
        r"labels of the bundle older \(bbbbbbbbbbbb\), and the results are now of nano µ \(dddddddddddd\)",
        drawn,
        earlier=[_earlier(_machine(), bundle_digest="b" * 64)],
    )
    assert "Import the present GeoJSON" in str(error.remedy)


def test_an_earlier_result_of_another_file_of_the_slide_is_refused() -> None:
    drawn = _export(_machine(), number=result_number("e" * 64))
    replaced = _earlier(_machine(), digest=OTHER)
    _refused("before the slide's file was replaced", drawn, earlier=[replaced])


def test_the_earlier_result_of_the_number_counts() -> None:
    results = [_earlier(_machine(PLACES[:n]), key=str(n) * 64) for n in (1, 2, 3)]
    drawn = _export(_machine(PLACES[:2]), number=result_number("2" * 64))
    shown, notes = _shown(drawn, earlier=results)
    assert shown == set(_machine()["figure_id"][:2])
    assert "never saw 2 of the figures" in notes[0]


def test_a_result_that_is_not_known_must_have_the_same_figures_and_probabilities() -> None:
    drawn = _export(_machine(), number=77)
    assert _shown(drawn) == (None, ())
    rounded = [one._replace(p_atypical=float(np.float32(one.p_atypical))) for one in drawn]
    assert _shown(rounded) == (None, ())
    others = [one._replace(p_atypical=one.p_atypical + 0.01) for one in drawn]
    _refused(
        "from another result, with other probabilities: from another run, another slide, or .* than nano µ",
        others,
    )
    _refused("from another result.*, with other figures or labels", [*others[:1], *drawn[1:]])
    _refused("with other figures or labels", drawn[:3])


def test_probabilities_differ_from_the_sixth_digit_on() -> None:
    drawn = _export(_machine(), number=77)
    near = [one._replace(p_atypical=one.p_atypical + 0.9e-5) for one in drawn]
    assert _shown(near) == (None, ())
    far = [one._replace(p_atypical=one.p_atypical + 1.1e-5) for one in drawn]
    _refused("with other probabilities", far)


# The result, without its number


def test_other_probabilities_without_a_number_are_refused() -> None:
    drawn = _export(_machine(), number=np.nan)
    others = [one._replace(p_atypical=0.5) for one in drawn]
    _refused("4 of 4 probabilities in it are not those of this result: .* bundle than nano µ", others)
    _refused("3 of 4 probabilities", [*others[:3], drawn[3]])
    assert _shown([*others[:2], *drawn[2:]]) == (None, ())
    # objects without one, and objects elsewhere, are not compared
    bare = [*others[:1], *_bare(drawn[1:2]), *drawn[2:3]]
    assert _shown(bare) == (None, ())
    _refused("1 of 1 probabilities", [others[0], *_bare(drawn[1:])])


@pytest.mark.parametrize(("trained", "family"), [(True, "Untrained"), (False, "Mitosis")])
def test_classes_of_another_bundles_figures_are_refused(trained: bool, family: str) -> None:
    drawn = _export(_machine(), number=np.nan, family=family, p=False)
    _refused(f"4 of 4 figures in it have the class '{family}'", drawn, trained=trained)
    assert _shown(drawn, trained=not trained) == (None, ())
    own = _export(_machine(), number=np.nan, family="Mitosis" if trained else "Untrained", p=False)
    assert _shown([*drawn[:2], *own[2:]], trained=trained) == (None, ())
    _refused("3 of 4 figures", [*drawn[:3], *own[3:]], trained=trained)


def test_without_a_number_missing_figures_may_have_been_added_later() -> None:
    old = _machine(PLACES[:3])
    drawn = _bare(_export(old))
    cause = "does not say whether it was exported before 2026-02-03T04:05:06\\+00:00"
    _refused(cause, drawn, earlier=[_earlier(old)])
    assert _shown(drawn) == (None, ())  # it removes a figure
    assert _shown(_bare(_export(_machine())), earlier=[_earlier(old)]) == (None, ())
    # all that lack were there in the earlier result: they were removed by the reviewer
    assert _shown(_bare(_export(_machine()))[1:], earlier=[_earlier(old)]) == (None, ())
    _refused(cause, _nameless(drawn), earlier=[_earlier(old)])


def test_without_a_number_labels_that_have_changed_may_be_the_ensembles() -> None:
    old = _machine().assign(label=["typical", *LABELS[1:]])
    drawn = _bare(_export(_machine()))
    _refused("its figures differ from the present ones", drawn, earlier=[_earlier(old)])
    assert _shown(drawn[1:], earlier=[_earlier(old)]) == (None, ())


def test_large_areas_are_no_figures_unless_they_have_their_ids() -> None:
    old = _machine(PLACES[:3])
    drawn = _bare(_export(_machine()))
    wide = drawn[3]._replace(extent=201)
    _refused("does not say", [*drawn[:3], *_nameless([wide])], earlier=[_earlier(old)])
    small = _nameless([wide._replace(extent=200)])
    assert _shown([*drawn[:3], *small], earlier=[_earlier(old)]) == (None, ())
    assert _shown([*drawn[:3], wide], earlier=[_earlier(old)]) == (None, ())
    own = _export(_machine(PLACES[:1]))[0]._replace(extent=900)
    assert _shown([own], _machine(PLACES[:1])) == (None, ())


def test_copies_of_an_id_are_told_apart_by_their_place() -> None:
    drawn = [one._replace(object_id=_machine()["figure_id"][0]) for one in _export(_machine(), number=77)]
    assert _shown(drawn) == (None, ())


# Images of another scale, and parts of images

HOTSPOTS = pd.DataFrame({"figure_id": [hotspot_id(DIGEST, 1)], "x_px0": [400.0], "y_px0": [300.0]})
HOTSPOT = Drawn(400, 300, "Hotspot", hotspot_id(DIGEST, 1), extent=900)


def _moved(drawn: Sequence[Drawn], factor: float = 1, shift: tuple[float, float] = (0, 0)) -> list[Drawn]:
    return [one._replace(x=one.x * factor + shift[0], y=one.y * factor + shift[1]) for one in drawn]


def _transformed(match: str | None, drawn: Sequence[Drawn], **options: Any) -> tuple[str, ...]:
    evidence = _evidence(drawn, **options)
    if match is None:
        return check_not_transformed(evidence, HOTSPOTS)
    with pytest.raises(DetectionsError, match=match) as error:
        check_not_transformed(evidence, HOTSPOTS)
    assert error.value.subject == "a.svs"
    assert "Export the objects from the slide itself, at full resolution" in str(error.value.remedy)
    return ()


def test_a_factor_a_shift_and_both_are_named() -> None:
    drawn = _export(_machine())
    shifted = (
        r"4 of its objects have ids of this slide, and they were all moved by \(-50.0, 30.0\) px: .* cropped"
    )
    _transformed(shifted, _moved(drawn, shift=(-50, 30)))
    scaled = r"their coordinates were all multiplied by 0.5: it was exported from a downsampled image"
    _transformed(scaled, _moved(drawn, 0.5))
    both = r"all multiplied by 4 and moved by \(70.0, -8.0\) px: .* downsampled"
    _transformed(both, _moved(drawn, 4, (70, -8)))


def test_rounded_coordinates_of_a_smaller_image_are_known() -> None:
    rounded = [one._replace(x=round(one.x), y=round(one.y)) for one in _moved(_export(_machine()), 0.251)]
    _transformed(r"multiplied by 0\.25", rounded)


def test_a_single_figure_is_judged_with_the_hotspot() -> None:
    one = _machine(PLACES[:1])
    drawn = [*_export(one), HOTSPOT]
    _transformed(r"2 of its objects .* multiplied by 0.5", _moved(drawn, 0.5), machine=one)
    _transformed(r"2 of its objects .* moved by \(50.0, 0.0\) px", _moved(drawn, shift=(50, 0)), machine=one)
    assert _transformed(None, [*_moved(drawn[:1], shift=(50, 0)), HOTSPOT], machine=one) == ()
    assert _transformed(None, _moved(drawn[:1], 0.5), machine=one) == ()


def test_what_a_reviewer_moves_is_not_refused() -> None:
    drawn = _export(_machine())
    assert _transformed(None, drawn) == ()
    assert _transformed(None, [*_moved(drawn[:2], shift=(60, 0)), *drawn[2:]]) == ()
    # all of them, each to another place
    shifts = [(60, 0), (0, 80), (-90, 5), (70, 70)]
    moved = [_moved([one], shift=shift)[0] for one, shift in zip(drawn, shifts, strict=True)]
    assert _transformed(None, moved) == ()


def test_one_of_two_that_is_moved_along_their_row_is_no_factor() -> None:
    two = _machine([(100, 100), (500, 100)])
    drawn = _export(two)
    assert _transformed(None, [drawn[0], *_moved(drawn[1:], shift=(200, 0))], machine=two) == ()


def test_a_few_moves_hide_no_factor() -> None:
    many = [(100.0 * n, 37.0 * n % 700) for n in range(1, 21)]
    table = figures_table(
        *(
            (name, *place, "typical")
            for name, place in zip(figure_ids(DIGEST, *np.array(many).T), many, strict=True)
        )
    )
    drawn = _moved(_export(table), 0.5)
    drawn[7] = _moved([drawn[7]], shift=(70, 20))[0]
    _transformed("20 of its objects .* multiplied by 0.5", drawn, machine=table)
    shifted = _moved(_export(table), shift=(90, 0))
    shifted[7] = _moved([shifted[7]], shift=(-90, 0))[0]
    _transformed(r"moved by \(90.0, 0.0\) px", shifted, machine=table)


def test_all_moved_within_the_distance_is_only_named() -> None:
    drawn = _export(_machine())
    note = ("a.svs: all figures lie (20.0, -8.0) px beside where they were exported",)
    assert _transformed(None, _moved(drawn, shift=(20, -8))) == note
    assert _transformed(None, _moved(drawn, shift=(0.9, 0.9))) == ()
    _transformed(r"moved by \(20.0, -8.0\)", _moved(drawn, shift=(20, -8)), distance_um=5)


def test_objects_without_ids_or_with_copies_of_ids_are_not_judged() -> None:
    drawn = _moved(_export(_machine()), 0.5)
    assert _transformed(None, _nameless(drawn)) == ()
    assert _transformed(None, [*drawn, *drawn]) == ()
    assert _transformed(None, []) == ()


def test_figures_at_one_place_have_no_factor() -> None:
    one = _machine(PLACES[:2]).assign(x_px0=100.0, y_px0=100.0)
    drawn = [Drawn(10, 10, "AMF", one["figure_id"][0]), Drawn(900, 900, "AMF", one["figure_id"][1])]
    assert _transformed(None, drawn, machine=one) == ()


def test_figures_that_all_lie_at_one_place_are_refused() -> None:
    drawn = [one._replace(x=700.0, y=20.0) for one in _export(_machine())]
    _transformed(r"all multiplied by 0 and moved by \(700.0, 20.0\) px", drawn)


def test_a_mirrored_review_is_no_factor() -> None:
    drawn = [one._replace(x=1400 - one.x, y=1000 - one.y) for one in _export(_machine())]
    assert _transformed(None, drawn) == ()
