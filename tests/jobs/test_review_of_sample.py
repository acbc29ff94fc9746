"""A random sample on a page, its review, and the estimates that a recount makes of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.report_files import Done, results_folder
from tests.runs import SLIDE_PX, slides_in
from wsi_mitosis.core.review_files import Design
from wsi_mitosis.jobs.recount import RecountResult, recount
from wsi_mitosis.jobs.review import review

SIZE = 20
DESIGN = Design(selection="sample", sample=SIZE, order="random", blind=True, seed=3)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two slides of 30 figures."""
    slides = slides_in(tmp_path / "slides", ["a.tiff", "b.tiff"])
    places = [np.random.default_rng(n).uniform((0, 0), SLIDE_PX, (30, 2)) for n in range(2)]
    done = [Done(path, [tuple(place) for place in some]) for path, some in zip(slides, places, strict=True)]
    return results_folder(tmp_path / "out", done)


def reviewed(results: Path, path: Path, label: Any, design: Design = DESIGN) -> Path:
    """Write what somebody saves from a page of a sample who gives each figure the label of a function."""
    (page,) = review(results, design, reviewer="anna").paths
    found = re.search(r'id="data">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    file = json.loads(found[1])["file"]
    for figure in file["figures"]:
        figure["label"] = label(figure)
        figure["at"] = "2026-01-02T03:04:05Z"
    path.write_text(json.dumps(file))
    return path


def machine(results: Path) -> dict[tuple[str, str], str]:
    table = pd.read_csv(results / "review.csv")
    return dict(zip(zip(table["slide"], table["figure_id"], strict=True), table["label"], strict=True))


def recounted(results: Path, path: Path) -> tuple[RecountResult, pd.DataFrame]:
    result = recount(results, path)
    return result, pd.read_csv(results / "reviewed/estimates.csv")


def test_a_sample_of_all_figures_is_a_count(results: Path, tmp_path: Path) -> None:
    labels = machine(results)
    design = DESIGN.model_copy(update={"sample": 60})
    path = reviewed(results, tmp_path / "review.json", lambda f: labels[f["slide"], f["figure_id"]], design)
    _, table = recounted(results, path)
    fraction = table[(table["quantity"] == "atypical") & (table["slide"] == "all slides")]
    atypical = list(labels.values()).count("atypical")
    assert fraction[["value", "low", "high"]].to_numpy().tolist() == [[atypical] * 3] * 2


def test_the_labels_of_a_sample_give_estimates_beside_the_counts(results: Path, tmp_path: Path) -> None:
    path = reviewed(results, tmp_path / "review.json", lambda _: "typical")
    result, table = recounted(results, path)
    assert result.exit_status == 0
    whole = table[table["slide"] == "all slides"]
    assert set(whole["quantity"]) == {"atypical_fraction", "atypical", "mitoses"}
    assert (whole["labels"] == SIZE).all()
    assert (whole["figures"] == 60).all()
    fraction = whole[(whole["quantity"] == "atypical_fraction") & (whole["method"] == "stratified")].iloc[0]
    assert fraction["value"] == fraction["low"] == 0
    assert 0 < fraction["high"] < 0.3
    assert any(line.startswith(f"From {SIZE} labels, for 60 figures") for line in result.estimates.lines)  # type: ignore[union-attr]


def test_a_sample_that_is_hardly_labelled_gives_counts_alone(results: Path, tmp_path: Path) -> None:
    path = reviewed(results, tmp_path / "review.json", lambda _: "typical")
    recount(results, path)
    reviewed(results, path, lambda figure: "typical" if figure["slide"] == "a.tiff" else "unsure")
    result = recount(results, path)
    assert result.exit_status == 1
    assert "label" in result.not_estimated
    assert (results / "reviewed/summary.csv").is_file()
    assert not (results / "reviewed/estimates.csv").exists()


def test_a_review_of_no_sample_has_no_estimates(results: Path, tmp_path: Path) -> None:
    path = reviewed(results, tmp_path / "review.json", lambda _: "typical", Design(order="slide"))
    result = recount(results, path)
    assert (result.estimates, result.exit_status) == (None, 0)
    assert not (results / "reviewed/estimates.csv").exists()
