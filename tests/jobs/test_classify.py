"""The library's front door."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tests.runs import candidates_csv, slides_in
from wsi_mitosis import SlideResult, classify_slide
from wsi_mitosis.errors import DetectionsError, MppError, SpecError
from wsi_mitosis.tables import FIGURE_COLUMNS


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    return slides_in(tmp_path, ["a.tiff"])[0]


def test_a_table_and_a_file_give_the_same_figures(slide: Path, small_bundle: Path, tmp_path: Path) -> None:
    file = candidates_csv(tmp_path / "d.csv", ["a.tiff"])
    from_file = classify_slide(slide, file, bundle=small_bundle, device="cpu")
    from_table = classify_slide(str(slide), pd.read_csv(file), bundle=str(small_bundle), device="cpu")
    assert isinstance(from_file, SlideResult)
    ours = [name for name in FIGURE_COLUMNS if name != "geometry"]
    assert list(from_file.figures.columns) == ours
    pd.testing.assert_frame_equal(from_file.figures, from_table.figures, check_dtype=False)
    assert from_file.counts == from_table.counts


def test_a_tables_other_columns_are_carried_and_never_replace_ours(slide: Path, small_bundle: Path) -> None:
    table = pd.DataFrame(
        {"x": [50.0, 60.0], "y": [70.0, 80.0], "label": ["mine", "too"], "id": [7, 8], "stain": ["H", "E"]}
    )
    table.index = pd.Index([5, 5])
    figures = classify_slide(slide, table, bundle=small_bundle, device="cpu").figures
    assert figures["input_label"].tolist() == ["mine", "too"]
    assert set(figures["label"]) <= {"atypical", "typical"}
    assert figures["candidate_id"].tolist() == ["7", "8"]
    assert figures["stain"].tolist() == ["H", "E"]


def test_a_table_without_coordinates_is_refused(slide: Path, small_bundle: Path) -> None:
    with pytest.raises(DetectionsError, match="'y'"):
        classify_slide(slide, pd.DataFrame({"x": [1.0], "Y": [2.0]}), bundle=small_bundle)


def test_an_unknown_option_is_refused(slide: Path, small_bundle: Path) -> None:
    with pytest.raises(SpecError, match="unknown key 'treshold'"):
        classify_slide(slide, pd.DataFrame({"x": [1.0], "y": [2.0]}), bundle=small_bundle, treshold=0.4)


def test_a_slide_far_too_coarse_is_refused_and_a_coarse_one_warned_of(
    tmp_path: Path, small_bundle: Path
) -> None:
    from tests.slide_files import textured, tiff_slide

    table = pd.DataFrame({"x": [100.0], "y": [100.0]})
    coarse = tiff_slide(tmp_path / "coarse.tiff", textured(300, 300), mpp=0.5)
    result = classify_slide(coarse, table, bundle=small_bundle, device="cpu")
    assert any("enlarged 2.00 times" in warning for warning in result.warnings)
    fitting = tiff_slide(tmp_path / "fitting.tiff", textured(300, 300), mpp=0.31)
    assert not classify_slide(fitting, table, bundle=small_bundle, device="cpu").warnings
    far = tiff_slide(tmp_path / "far.tiff", textured(300, 300), mpp=1.1)
    with pytest.raises(MppError, match=r"enlarged 4\.4 times"):
        classify_slide(far, table, bundle=small_bundle, device="cpu")
