"""Estimates from reviewers' files: the sample is drawn again, or the files are refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
import pytest

from tests.sample_figures import Kind, figures_of
from wsi_mitosis.core.review_files import Design, PageSlide, ReviewedFigure, ReviewFile, run_digest
from wsi_mitosis.core.sampling import draw
from wsi_mitosis.errors import InputError
from wsi_mitosis.jobs.estimating import estimate
from wsi_mitosis.tables import ALL_SLIDES, ESTIMATE_COLUMNS

Names = list[tuple[str, str]]
SIZE, SEED = 20, 4


@pytest.fixture
def results() -> dict[str, pd.DataFrame]:
    """Figures tables of two slides; a has most figures, and a candidate without a label."""
    table = figures_of(
        *(Kind("a.svs", 50, 0), Kind("a.svs", 30, 5)),
        *(Kind("b.svs", 15, 0), Kind("b.svs", 5, 4)),
    )
    excluded = table.iloc[:1].assign(figure_id=None, label=None, p_atypical=None)
    tables = {name: table[table["slide"] == name] for name in ("a.svs", "b.svs")}
    return tables | {"a.svs": pd.concat([tables["a.svs"], excluded.astype(table.dtypes)])}


def drawn_of(results: Mapping[str, pd.DataFrame]) -> Names:
    figures = pd.concat(list(results.values()))
    table = draw(figures[figures["label"].notna()], SIZE, SEED)
    return list(table.loc[table["drawn"], ["slide", "figure_id"]].itertuples(index=False, name=None))


def review(figures: Iterable[tuple[str, str]], reviewer: str = "Anna", **changes: Any) -> ReviewFile:
    names = changes.pop("slides", ("a.svs", "b.svs"))
    slides = tuple(
        PageSlide(slide=name, digest="d", key="k", bundle="b", bundle_digest="x") for name in names
    )
    design = {"selection": "sample", "sample": SIZE, "seed": SEED} | changes.pop("design", {})
    values = {
        "program": "0",
        "run": run_digest(slides),
        "reviewer": reviewer,
        "design": Design(**design),
        "slides": slides,
        "figures": tuple(
            ReviewedFigure(slide=slide, figure_id=figure, x_px0=0.0, y_px0=0.0) for slide, figure in figures
        ),
    }
    return ReviewFile(**values | changes)


def consensus(figures: Iterable[tuple[str, str]], label: str = "typical") -> list[dict[str, Any]]:
    return [{"slide": slide, "figure_id": figure, "consensus": label} for slide, figure in figures]


def test_files_that_are_of_no_sample_give_no_estimate(results: dict[str, pd.DataFrame]) -> None:
    every = review([], design={"selection": "all", "sample": None})
    assert estimate(results, [every], []) is None
    assert estimate(results, [], []) is None


def test_rows_and_lines(results: dict[str, pd.DataFrame]) -> None:
    drawn = drawn_of(results)
    atypical = [name for name in drawn if int(name[1][1:]) >= 50 and name[0] == "a.svs"]
    rest = [name for name in drawn if name not in atypical]
    labels = consensus(atypical, "atypical") + consensus(rest)
    found = estimate(results, [review(drawn)], labels)
    assert found is not None
    assert all(tuple(row) == ESTIMATE_COLUMNS for row in found.rows)
    assert [(row["slide"], row["quantity"]) for row in found.rows[:3]] == [
        (ALL_SLIDES, "atypical_fraction"),
        (ALL_SLIDES, "atypical"),
        (ALL_SLIDES, "mitoses"),
    ]
    assert {row["slide"] for row in found.rows} == {ALL_SLIDES, "a.svs"}
    first = found.rows[0]
    assert (first["figures"], first["drawn"], first["labels"]) == (100, 20, 20)
    assert first["machine"] == 35 / 100
    assert {row["machine"] for row in found.rows if row["quantity"] == "mitoses"} == {100, 80}
    assert first["low"] < first["value"] < first["high"]
    assert first["width"] == first["high"] - first["low"]
    assert found.lines[0] == "From 20 labels, for 100 figures of all slides:"
    assert f"{first['value']:.3f} (95 % interval {first['low']:.3f} to {first['high']:.3f})" in found.lines[1]
    assert found.lines[-1].endswith("'b.svs'")
    assert found.warnings == ()


def test_other_files_and_the_order_of_files_have_no_effect(results: dict[str, pd.DataFrame]) -> None:
    drawn = drawn_of(results)
    labels = consensus(drawn)
    files = [
        review(drawn),
        review(drawn, "Ben"),
        review(drawn, "Cleo", design={"selection": "all", "sample": None}),
    ]
    first = estimate(results, files, labels)
    assert first == estimate(dict(reversed(results.items())), files[::-1], labels[::-1])


def test_figures_without_a_label_are_warned_of(results: dict[str, pd.DataFrame]) -> None:
    drawn = drawn_of(results)
    labels = consensus(drawn[:17]) + consensus(drawn[17:18], "unsure") + consensus(drawn[18:19], "tie")
    found = estimate(results, [review(drawn)], labels)
    assert found is not None
    assert found.rows[0]["labels"] == 17
    assert (found.rows[0]["undecided"], found.rows[0]["missing"]) == (2, 1)
    [warning] = found.warnings
    assert warning.startswith("3 figures of the sample's 20 have no label (2 undecided, 1 missing)")


def test_a_result_that_changed_is_refused(results: dict[str, pd.DataFrame]) -> None:
    drawn = drawn_of(results)
    changed = results | {"b.svs": results["b.svs"].iloc[:-3]}
    with pytest.raises(InputError, match=r"the sample that Anna reviewed is not the one") as caught:
        estimate(changed, [review(drawn)], consensus(drawn))
    assert caught.value.subject in ("a.svs", "b.svs")
    assert "Draw and review a new sample" in str(caught.value)


def test_a_file_that_lacks_figures_is_refused(results: dict[str, pd.DataFrame]) -> None:
    drawn = drawn_of(results)
    with pytest.raises(InputError, match=f"figures that differ: 1, the first is {drawn[-1][1]}"):
        estimate(results, [review(drawn[:-1])], consensus(drawn))


def test_a_file_with_a_figure_that_was_not_drawn_is_refused(results: dict[str, pd.DataFrame]) -> None:
    drawn = drawn_of(results)
    with pytest.raises(InputError, match=r"b\.svs: .* figures that differ: 1, the first is x"):
        estimate(results, [review([*drawn, ("b.svs", "x")])], consensus(drawn))


def test_parts_of_a_page_are_one_sample(results: dict[str, pd.DataFrame]) -> None:
    drawn = drawn_of(results)
    parts = [review(drawn[:17], part=(1, 2)), review(drawn[17:], "Ben", part=(2, 2))]
    whole = estimate(results, parts, consensus(drawn))
    assert whole == estimate(results, [review(drawn)], consensus(drawn))
    one = estimate(results, parts[:1], consensus(drawn[:17]))
    assert one is not None
    assert one.warnings[0] == "3 figures of the sample are on part 2 of 2, which was not given"


@pytest.mark.parametrize("design", [{"seed": 5}, {"sample": 21}])
def test_different_samples_are_refused(results: dict[str, pd.DataFrame], design: dict[str, int]) -> None:
    drawn = drawn_of(results)
    with pytest.raises(InputError, match="'Anna', 'Ben' are of different samples"):
        estimate(results, [review(drawn), review(drawn, "Ben", design=design)], consensus(drawn))


def test_a_slide_that_is_gone_is_refused(results: dict[str, pd.DataFrame]) -> None:
    drawn = drawn_of(results)
    with pytest.raises(InputError, match=r"^b\.svs: .* has no result"):
        estimate({"a.svs": results["a.svs"]}, [review(drawn)], consensus(drawn))


def test_a_slide_that_was_not_sampled_is_left_out(results: dict[str, pd.DataFrame]) -> None:
    drawn = drawn_of({"a.svs": results["a.svs"]})
    found = estimate(results, [review(drawn, slides=("a.svs",))], consensus(drawn))
    assert found is not None
    assert found.rows[0]["figures"] == 80


def test_a_sampled_slide_without_figures_is_no_error(results: dict[str, pd.DataFrame]) -> None:
    drawn = drawn_of(results)
    empty = results | {"c.svs": results["a.svs"].iloc[:0]}
    found = estimate(empty, [review(drawn, slides=("a.svs", "b.svs", "c.svs"))], consensus(drawn))
    assert found is not None
    assert found.rows[0]["figures"] == 100
