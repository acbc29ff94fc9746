"""The page in which figures are reviewed: what is on it, in which order, and what a blind page tells."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.report_files import Done, results_folder
from tests.runs import SLIDE_PX, slides_in
from tests.slide_files import tiff_slide
from wsi_mitosis.core.hotspots import HotspotShape
from wsi_mitosis.core.review_files import Design, ReviewFile
from wsi_mitosis.errors import InputError, SlideError
from wsi_mitosis.io.pages.pictures import squares
from wsi_mitosis.io.pages.review_page import CLOSE_CHARS, MOST_BYTES, MOST_FIGURES, WIDE, WIDE_CHARS
from wsi_mitosis.io.pages.review_page import embedded as as_embedded
from wsi_mitosis.io.results.folder import ResultFiles
from wsi_mitosis.io.slides import open_native
from wsi_mitosis.jobs import review as job
from wsi_mitosis.jobs.review import review
from wsi_mitosis.units import Mpp

RANDOM = Design(order="random", blind=True, seed=5)


def places(number: int, seed: int) -> list[tuple[float, float]]:
    return [tuple(place) for place in np.random.default_rng(seed).uniform((0, 0), SLIDE_PX, (number, 2))]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two slides of 30 figures, each with a hotspot and an excluded candidate."""
    slides = slides_in(tmp_path / "slides", ["a.tiff", "b.tiff"])
    done = [Done(path, places(30, n), excluded=1) for n, path in enumerate(slides)]
    return results_folder(tmp_path / "out", done, shape=HotspotShape(0.0018))


def page_text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def data_of(path: Path) -> dict[str, Any]:
    """What the page's script reads."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page_text(path), re.S)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def listed(path: Path) -> list[tuple[str, str]]:
    return [(figure["slide"], figure["figure_id"]) for figure in data_of(path)["file"]["figures"]]


def test_every_figure_is_shown_once_in_the_order_of_the_review_list(results: Path) -> None:
    made = review(results, Design(), reviewer="anna")
    table = pd.read_csv(results / "review.csv")
    ranked = table.sort_values(
        ["expected_change", "slide", "y_px0", "x_px0"], ascending=[False, True, True, True]
    )
    assert listed(results / "review.html") == list(zip(ranked["slide"], ranked["figure_id"], strict=True))
    assert (made.figures, made.slides, made.exit_status) == (60, ("a.tiff", "b.tiff"), 0)


def test_what_the_page_saves_is_a_valid_review(results: Path) -> None:
    review(results, Design(), reviewer="anna")
    file = ReviewFile.parse(data_of(results / "review.html")["file"], "the page")
    assert (file.reviewer, file.part, file.decided) == ("anna", (1, 1), ())
    records = ResultFiles(results).records()
    assert {slide.slide: slide.key for slide in file.slides} == {n: r.key for n, r in records.items()}


def test_a_page_without_a_reviewer_asks_for_the_name(results: Path) -> None:
    review(results, Design())
    assert data_of(results / "review.html")["file"]["reviewer"] == ""


def test_slides_and_their_number_are_chosen(results: Path) -> None:
    made = review(results, Design(order="slide", most=7), globs=["b*"])
    of_slide = pd.read_csv(results / "review.csv").query("slide == 'b.tiff'").sort_values(["y_px0", "x_px0"])
    assert listed(results / "review.html") == [("b.tiff", name) for name in of_slide["figure_id"].head(7)]
    assert made.figures == 7


def test_the_page_says_what_the_ensemble_said_and_where(results: Path) -> None:
    review(results, Design(order="slide", most=1))
    first = pd.read_csv(results / "review.csv").sort_values(["slide", "y_px0", "x_px0"]).iloc[0]
    (shown,) = data_of(results / "review.html")["shown"]
    said = f"{first['label']}, {first['votes_atypical']} of 5 votes for atypical"
    assert shown["says"] == [["Ensemble", f"{said}, P(atypical) {first['p_atypical']:.2f}"]]
    assert shown["place"] == f"{first['x_px0']:.0f}, {first['y_px0']:.0f} px"


def test_neighbours_are_marked_at_their_place_with_their_label(tmp_path: Path) -> None:
    (slide,) = slides_in(tmp_path / "slides", ["a.tiff"])
    results = results_folder(tmp_path / "out", [Done(slide, [(100, 100), (140, 80)])])
    review(results, Design(order="slide"))
    above, below = data_of(results / "review.html")["shown"]
    labels = ResultFiles(results).figures("a.tiff").set_index("y_px0")["label"]
    assert above["marks"] == [[-10.0, 5.0, labels[100]]]
    assert below["marks"] == [[10.0, -5.0, labels[80]]]


def picture(uri: str) -> np.ndarray:
    data = base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=np.int16)


def test_pictures_are_of_the_figure_at_their_scale(tmp_path: Path) -> None:
    """A slide with one black square: 16 um in the middle of 64 um, and of 256 um."""
    pixels = np.full((1600, 1600, 3), 230, dtype=np.uint8)
    pixels[768:832, 868:932] = 0
    slide = tiff_slide(tmp_path / "a.tiff", pixels)
    review(results_folder(tmp_path / "out", [Done(slide, [(900, 800)])]), Design())
    (shown,) = data_of(tmp_path / "out/review.html")["shown"]
    for name, side, square in (("close", 256, 64), ("wide", 400, 25)):
        found = picture(shown[name])
        assert found.shape == (side, side, 3)
        dark = np.argwhere(found.mean(axis=2) < 115)
        assert dark.min(axis=0) == pytest.approx((side - square) / 2, abs=1.5)
        assert dark.max(axis=0) == pytest.approx((side + square) / 2 - 1, abs=1.5)


# Blind


@pytest.mark.parametrize("design", [RANDOM, Design(order="slide", blind=True)])
def test_a_blind_page_is_the_same_whatever_the_ensemble_said(
    results: Path, tmp_path: Path, design: Design, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If any label, vote, probability or rank were in it, or in its order, the two pages would differ."""
    review(results, design, reviewer="anna")
    blind = (results / "review.html").read_bytes()
    flip_labels(monkeypatch)
    review(results, design, reviewer="anna")
    assert (results / "review.html").read_bytes() == blind
    review(results, Design(order="slide"), reviewer="anna")
    assert (results / "review.html").read_bytes() != blind


def flip_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the folder's figures have the opposite labels, votes and probabilities."""
    read = ResultFiles.figures

    def flipped(self: ResultFiles, slide: str) -> pd.DataFrame:
        table = read(self, slide)
        other = {"atypical": "typical", "typical": "atypical"}
        return table.assign(
            label=table["label"].map(other),
            p_atypical=1 - table["p_atypical"],
            votes_atypical=table["votes_cast"] - table["votes_atypical"],
        )

    monkeypatch.setattr(ResultFiles, "figures", flipped)


# Parts, and what is refused


def test_many_figures_are_shared_among_parts(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "MOST_FIGURES", 25)
    made = review(results, RANDOM)
    assert [path.name for path in made.paths] == ["review.html", "review-2.html", "review-3.html"]
    parts = [data_of(path)["file"] for path in made.paths]
    assert [(part["part"], len(part["figures"])) for part in parts] == [
        ([1, 3], 25),
        ([2, 3], 25),
        ([3, 3], 10),
    ]
    assert len({figure for path in made.paths for figure in listed(path)}) == 60
    whole = [figure for path in made.paths for figure in listed(path)]
    (results / "review-notes.html").write_text("mine")
    monkeypatch.setattr(job, "MOST_FIGURES", 60)
    review(results, RANDOM)
    assert listed(results / "review.html") == whole
    assert sorted(path.name for path in results.glob("review*.html")) == ["review-notes.html", "review.html"]


def test_the_worst_pictures_fit_the_page(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (1200, 1200, 3), dtype=np.uint8)
    with open_native(tiff_slide(tmp_path / "a.tiff", noise)) as slide:
        (wide,) = squares(slide, Mpp(0.25, 0.25), np.array([600.0]), np.array([600.0]), WIDE, WIDE_CHARS)
    assert len(wide) <= WIDE_CHARS
    assert (CLOSE_CHARS + WIDE_CHARS + 5_000) * MOST_FIGURES < MOST_BYTES


def test_a_slide_that_is_gone_is_left_out_and_named(results: Path, tmp_path: Path) -> None:
    (tmp_path / "slides/a.tiff").unlink()
    made = review(results, Design())
    assert made.exit_status == 1
    assert made.slides == ("b.tiff",)
    assert re.search(r"a\.tiff.*no longer where", made.errors["a.tiff"])


def test_a_slide_with_a_damaged_assessment_is_left_out_and_named(results: Path) -> None:
    (results / "assessments/a.tiff.json").write_text("{}")
    made = review(results, Design())
    assert (made.exit_status, made.slides) == (1, ("b.tiff",))
    assert "its assessment is missing or damaged" in made.errors["a.tiff"]
    with pytest.raises(SlideError, match=r"a\.tiff.*assessment"):
        review(results, Design(selection="sample", sample=10, order="random"))


def test_a_sample_is_not_drawn_without_a_slide(results: Path, tmp_path: Path) -> None:
    (tmp_path / "slides/a.tiff").unlink()
    with pytest.raises(SlideError, match="no longer where"):
        review(results, Design(selection="sample", sample=10, order="random"))
    assert not (results / "review.html").exists()


def test_a_sample_has_its_size_and_is_the_same_again(results: Path) -> None:
    design = Design(selection="sample", sample=12, order="random", seed=3)
    review(results, design)
    first = listed(results / "review.html")
    review(results, design)
    assert (len(first), listed(results / "review.html")) == (12, first)
    review(results, design.model_copy(update={"seed": 4}))
    assert set(listed(results / "review.html")) != set(first)


def test_slides_that_nobody_named_so_are_refused(results: Path) -> None:
    with pytest.raises(InputError, match=r"none of the 2 classified slides is named c\*"):
        review(results, Design(), globs=["c*"])


def test_a_folder_without_figures_is_refused(tmp_path: Path) -> None:
    (slide,) = slides_in(tmp_path / "slides", ["a.tiff"])
    results = results_folder(tmp_path / "out", [Done(slide, [])])
    with pytest.raises(InputError, match="no figures"):
        review(results, Design())


def test_no_text_ends_the_data() -> None:
    assert "<" not in as_embedded({"slide": "</script><script>alert(1)</script>"})
