"""The library's front door."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest

from tests.records import slide_record
from tests.report_files import Done, figures_of
from tests.runs import candidates_csv, slides_in
from tests.slide_files import missing_tiles, textured, transparent_slide
from wsi_mitosis import SlideResult, classify_slide
from wsi_mitosis.errors import DetectionsError, InputError, MppError, SpecError, UnreadableSlideError
from wsi_mitosis.io.bundles import open_bundle, write_table
from wsi_mitosis.io.slides import open_slide
from wsi_mitosis.jobs.classifier import CPU_BATCH, EARLY_BATCH, Classifier
from wsi_mitosis.nets.compiled import resolve_backend
from wsi_mitosis.schema import options_of
from wsi_mitosis.specs import Bfloat16Spec, ClassifySpec, ResultOptions
from wsi_mitosis.tables import FIGURE_COLUMNS, BackendChoice, Detections, SlideSource


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    return slides_in(tmp_path, ["a.tiff"])[0]


def test_a_table_and_a_file_give_the_same_figures(slide: Path, small_bundle: Path, tmp_path: Path) -> None:
    file = candidates_csv(tmp_path / "d.csv", ["a.tiff"])
    from_file = classify_slide(slide, file, bundle=small_bundle, device="cpu")
    from_table = classify_slide(str(slide), pd.read_csv(file), bundle=str(small_bundle), device="cpu")
    assert isinstance(from_file, SlideResult)
    assert tuple(from_file.figures.columns) == FIGURE_COLUMNS
    pd.testing.assert_frame_equal(from_file.table, from_table.table, check_dtype=False)
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


def test_an_impossible_option_is_refused(slide: Path, small_bundle: Path) -> None:
    table = pd.DataFrame({"x": [1.0], "y": [2.0]})
    with pytest.raises(SpecError, match="'vote'"):
        classify_slide(slide, table, bundle=small_bundle, vote="maybe")  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="'merge_um'"):
        classify_slide(slide, table, bundle=small_bundle, merge_um=-1)


@pytest.mark.parametrize("option", ["threads", "batch_size"])
@pytest.mark.parametrize("value", [0, -1, "x"])
def test_a_number_below_one_is_refused(slide: Path, small_bundle: Path, option: str, value: object) -> None:
    table = pd.DataFrame({"x": [1.0], "y": [2.0]})
    with pytest.raises(InputError, match=f"{option} is {value!r}"):
        classify_slide(slide, table, bundle=small_bundle, **{option: value})  # type: ignore[arg-type]


def test_a_number_of_numpy_is_a_number(slide: Path, small_bundle: Path) -> None:
    table = pd.DataFrame({"x": [50.0], "y": [70.0]})
    number: Any = np.int64(1)
    result = classify_slide(
        slide, table, bundle=small_bundle, device="cpu", threads=number, batch_size=number
    )
    assert result.counts.classified == 1


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pd.DataFrame({"x": ["a"], "y": [2.0]}), "'x' has a value that is not a number"),
        (pd.DataFrame({"x": [1.0], "y": [2.0], "score": ["high"]}), "'score' has a value that is not"),
        (pd.DataFrame([[1.0, 2.0, 3.0]], columns=["x", "y", "x"]), "names of the table's columns"),
        (pd.DataFrame([[1.0, 2.0, 3.0]], columns=["x", "y", 3]), "names of the table's columns"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(
    slide: Path, small_bundle: Path, table: pd.DataFrame, message: str
) -> None:
    with pytest.raises(DetectionsError, match=message):
        classify_slide(slide, table, bundle=small_bundle)


def test_one_class_may_be_a_text(slide: Path, small_bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "d.csv"
    file.write_text("slide,x,y,label\na.tiff,100,100,mitosis\na.tiff,300,300,other\n")
    result = classify_slide(slide, file, bundle=small_bundle, device="cpu", classes="mitosis")
    assert (result.counts.candidates, result.counts.classified) == (2, 1)


@pytest.mark.parametrize("option", [{"objects": "detections"}, {"frame": "px"}])
def test_geojson_that_qupath_would_not_understand_is_not_written(
    slide: Path, small_bundle: Path, tmp_path: Path, option: dict[str, str]
) -> None:
    table = pd.DataFrame({"x": [50.0], "y": [70.0]})
    result = classify_slide(slide, table, bundle=small_bundle, device="cpu")
    with pytest.raises(InputError, match=r"Use .* or "):
        result.to_geojson(tmp_path / "out" / "a", **option)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_many_figures_are_written_compressed(tmp_path: Path) -> None:
    xy = [(x * 7.0, y * 7.0) for x in range(200) for y in range(101)]
    path = Path("a.svs")
    record = slide_record("a.svs", size_px0=(1400, 710))
    result = SlideResult(record, figures_of("i" * 64, Done(path, xy)))
    written = result.to_geojson(tmp_path / "a.geojson")
    assert written == tmp_path / "a.geojson.gz"
    with gzip.open(written) as file:
        assert len(json.load(file)["features"]) >= 20_200


def test_every_option_that_changes_a_result_is_part_of_its_key(slide: Path, small_bundle: Path) -> None:
    """By its value, or as the part that its description names."""
    classifier = Classifier(open_bundle(small_bundle), ResultOptions(), device="cpu")
    with open_slide(slide) as opened:
        parts = classifier.key_parts(opened, pd.DataFrame({"x_px0": [1.0]}))
    for field in options_of(ClassifySpec):
        if field.option.changes == "result":
            assert (field.option.known_by or field.name) in parts, field.name


def test_half_precision_is_computed_and_stated(slide: Path, small_bundle: Path, gpu_by_name: None) -> None:
    """Of the key, float32 is as it was before there was a choice: such results are not computed again."""
    table = pd.DataFrame({"x": [50.25, 90.0], "y": [70.5, 80.0]})
    found, keys = {}, set()
    for precision, stated in (("fp32", "float32"), ("fp16", "float16")):
        options = ResultOptions(precision=precision)
        classifier = Classifier(open_bundle(small_bundle), options, device="cuda")
        with open_slide(slide) as opened:
            assert classifier.key_parts(opened, pd.DataFrame({"x_px0": [1.0]}))["precision"] == stated
        result = classify_slide(slide, table, bundle=small_bundle, device="cuda", precision=precision)
        assert result.record.origin is not None
        assert result.record.origin.options["precision"] == precision
        found[precision] = result.figures["p_atypical"].to_numpy()
        keys.add(result.record.key)
    assert len(keys) == 2
    assert (found["fp16"] != found["fp32"]).all()
    np.testing.assert_allclose(found["fp16"], found["fp32"], atol=0.005)  # 11 bits, added up by layer


def test_half_precision_is_refused_on_a_cpu(slide: Path, small_bundle: Path) -> None:
    table = pd.DataFrame({"x": [50.25], "y": [70.5]})
    with pytest.raises(InputError, match=r"--precision fp16: .*for GPUs.*Use --precision fp32"):
        classify_slide(slide, table, bundle=small_bundle, device="cpu", precision="fp16")


def test_bfloat16_is_for_bundles_that_were_compared_in_it(
    slide: Path, small_bundle: Path, tmp_path: Path
) -> None:
    table = pd.DataFrame({"x": [50.25, 90.0], "y": [70.5, 80.0]})
    with pytest.raises(InputError, match=r"--precision bf16: .*not compared in it.*Use --precision fp32"):
        classify_slide(slide, table, bundle=small_bundle, device="cpu", precision="bf16")
    shutil.copytree(small_bundle, tmp_path / "compared")
    compared = {"figures": 1000, "changed": 5, "auroc": 0.9, "auroc_float32": 0.9, "figures_sha256": "0" * 64}
    bundle = write_table(open_bundle(tmp_path / "compared"), "bfloat16", Bfloat16Spec.parse(compared, "test"))
    with pytest.raises(InputError, match=r"--precision bf16: .*with --tta none alone.*leave out --tta"):
        classify_slide(slide, table, bundle=bundle.folder, device="cpu", precision="bf16", tta="flips")
    try:
        resolve_backend("auto", "cpu", "bf16")
    except InputError as error:
        pytest.skip(str(error))
    half = classify_slide(slide, table, bundle=bundle.folder, device="cpu", precision="bf16")
    whole = classify_slide(slide, table, bundle=bundle.folder, device="cpu")
    assert half.record.key != whole.record.key
    assert half.record.origin is not None
    assert (half.record.origin.options["precision"], half.record.origin.backend) == ("bf16", "openvino")
    assert (half.figures["p_atypical"] != whole.figures["p_atypical"]).all()
    np.testing.assert_allclose(half.figures["p_atypical"], whole.figures["p_atypical"], atol=0.05)


def test_torch_and_openvino_give_the_same_labels_under_keys_of_their_own(
    slide: Path, small_bundle: Path, tmp_path: Path
) -> None:
    file = candidates_csv(tmp_path / "d.csv", ["a.tiff"])
    results = {
        backend: classify_slide(slide, file, bundle=small_bundle, device="cpu", backend=backend)
        for backend in get_args(BackendChoice)
    }
    assert {name: result.record.origin.backend for name, result in results.items()} == {
        "auto": "openvino",
        "torch": "torch",
        "openvino": "openvino",
    }
    keys = {name: result.record.key for name, result in results.items()}
    assert keys["auto"] == keys["openvino"] != keys["torch"]
    torch, openvino = results["torch"].figures, results["openvino"].figures
    assert torch["label"].tolist() == openvino["label"].tolist()
    np.testing.assert_allclose(torch["p_atypical"], openvino["p_atypical"], atol=2e-5)


def test_a_result_has_figures_with_geometry_and_a_plain_text(slide: Path, small_bundle: Path) -> None:
    table = pd.DataFrame({"x": [50.25, np.nan], "y": [70.5, 80.0], "stain": ["H", "E"]})
    result = classify_slide(slide, table, bundle=small_bundle, device="cpu")
    figures = result.figures
    assert tuple(figures.columns) == (*FIGURE_COLUMNS, "stain")
    assert (figures.geometry[0].x, figures.geometry[0].y) == (50.25, 70.5)
    assert figures.geometry[1] is None
    counts = result.counts
    assert (counts.candidates, counts.classified, counts.excluded) == (2, 1, 1)
    assert repr(result) == (
        f"<SlideResult a.tiff: {counts.atypical} atypical, {counts.typical} typical, 1 excluded; "
        "bundle small, UNTRAINED>"
    )


def test_a_result_is_assessed_and_written_for_qupath(
    slide: Path, small_bundle: Path, tmp_path: Path, assert_geojson_ok: Callable[[Path], None]
) -> None:
    file = candidates_csv(tmp_path / "d.csv", ["a.tiff"])
    result = classify_slide(slide, file, bundle=small_bundle, device="cpu")
    assert result.assessment.hotspots == ()  # 2 mm^2 do not fit the slide
    assert "smaller than a hotspot of 2 mm^2" in str(result.assessment.hotspot_reason)
    small = result.assess(hotspot_area=0.0018)
    assert [spot.mitoses for spot in small.hotspots] == [2]
    path = result.to_geojson(tmp_path / "out" / "a.geojson", assessment=small)
    assert path == tmp_path / "out" / "a.geojson"
    assert_geojson_ok(path)
    features = json.loads(path.read_text(encoding="utf-8"))["features"]
    assert len(features) == result.counts.classified + 1
    assert {feature["id"] for feature in features[:-1]} == set(result.figures["figure_id"])


def test_a_slide_far_too_coarse_is_refused_and_a_coarse_one_warned_of(
    tmp_path: Path, small_bundle: Path
) -> None:
    from tests.slide_files import tiff_slide

    table = pd.DataFrame({"x": [100.0], "y": [100.0]})
    coarse = tiff_slide(tmp_path / "coarse.tiff", textured(300, 300), mpp=0.5)
    result = classify_slide(coarse, table, bundle=small_bundle, device="cpu")
    assert any("enlarged 2.00 times" in warning for warning in result.warnings)
    fitting = tiff_slide(tmp_path / "fitting.tiff", textured(300, 300), mpp=0.31)
    assert not classify_slide(fitting, table, bundle=small_bundle, device="cpu").warnings
    far = tiff_slide(tmp_path / "far.tiff", textured(300, 300), mpp=1.1)
    with pytest.raises(MppError, match=r"enlarged 4\.4 times"):
        classify_slide(far, table, bundle=small_bundle, device="cpu")


# --- pixels that the slide does not have


def transparent(path: Path, **parts: slice) -> Path:
    """A slide of 300 x 300 px at 0.25 um/px that is transparent in the rectangle of rows and columns."""
    image = np.dstack([textured(300, 300), np.full((300, 300), 255, np.uint8)])
    image[parts["rows"], parts["columns"], 3] = 0
    return transparent_slide(path, image)


POINTS = pd.DataFrame(
    {"x": [60.0, 250.0, 150.0, 151.0, 900.0, 60.2], "y": [60.0, 60.0, 150.0, 250.0, 9.0, 250.0]}
)


@pytest.mark.parametrize("batch_size", [2, 3])  # the blank ones fill a batch, or share one
def test_a_candidate_without_pixels_has_no_label_and_the_others_theirs(
    tmp_path: Path, small_bundle: Path, batch_size: int
) -> None:
    # 32 px patches: the first two candidates lie in the hole, the third at 150 touches it with its upper rows
    holed = transparent(tmp_path / "a.tiff", rows=slice(0, 135), columns=slice(0, 300))
    whole = transparent(tmp_path / "b.tiff", rows=slice(0, 0), columns=slice(0, 0))
    told: list[int] = []
    classifier = Classifier(open_bundle(small_bundle), ResultOptions(), device="cpu", batch_size=batch_size)
    result = classifier.classify(
        SlideSource(holed, "a.tiff"), "a.tiff", detections(POINTS), on_patches=told.append
    )
    assert result is not None
    figures = result.figures
    assert figures["excluded_reason"].tolist()[:2] == ["blank", "blank"]
    assert figures["excluded_reason"].isna().tolist() == [False, False, True, True, False, True]
    assert figures["figure_id"].isna().tolist() == [True, True, False, False, True, False]
    assert figures.loc[:1, ["label", "p_atypical", "votes_cast"]].isna().all(axis=None)
    assert (result.counts.candidates, result.counts.classified, result.counts.excluded) == (6, 3, 3)
    assert sum(told) == 3
    told_blank = "a.tiff: 2 candidates have no label, because the slide has no pixels there (reason blank)"
    assert result.warnings == (told_blank,)
    other = classify_slide(whole, POINTS, bundle=small_bundle, device="cpu")
    assert other.warnings == ()
    same = ["x_px0", "p_atypical", "votes_atypical", "label"]
    away = [3, 5]  # the patches that lie wholly on the slide
    pd.testing.assert_frame_equal(figures.loc[away, same], other.figures.loc[away, same])


def test_a_single_candidate_without_pixels_is_told_as_one(tmp_path: Path, small_bundle: Path) -> None:
    slide = transparent(tmp_path / "a.tiff", rows=slice(0, 100), columns=slice(0, 100))
    (warning,) = classify_slide(slide, POINTS, bundle=small_bundle, device="cpu").warnings
    assert warning.startswith("a.tiff: 1 candidate has no label")


def test_a_slide_without_pixels_at_any_candidate_fails(tmp_path: Path, small_bundle: Path) -> None:
    slide = transparent(tmp_path / "a.tiff", rows=slice(None), columns=slice(None))
    with pytest.raises(
        UnreadableSlideError, match=r"^a\.tiff: .*all 5 candidates .*alpha 0.* Export"
    ) as caught:
        classify_slide(slide, POINTS, bundle=small_bundle, device="cpu")
    assert caught.value.remedy


def test_a_slide_whose_candidates_are_all_excluded_before_does_not_fail(
    tmp_path: Path, small_bundle: Path
) -> None:
    slide = transparent(tmp_path / "a.tiff", rows=slice(None), columns=slice(None))
    table = POINTS.assign(score=0.1)
    result = classify_slide(slide, table, bundle=small_bundle, device="cpu", min_score=0.5)
    assert result.counts.classified == 0


def test_tiles_that_are_not_stored_give_no_label(tmp_path: Path, small_bundle: Path) -> None:
    image = textured(300, 300)
    for name, layout in (("a.tif", "tiled"), ("b.tif", "strips")):
        path, present = missing_tiles(tmp_path / name, image, layout)
        table = POINTS[POINTS["x"] < 300]
        figures = classify_slide(path, table, bundle=small_bundle, device="cpu").figures
        here = [bool(present[int(y), int(x)]) for x, y in zip(table["x"], table["y"], strict=True)]
        assert figures["label"].notna().tolist() == here
        assert not all(here)


def detections(table: pd.DataFrame) -> Detections:
    from wsi_mitosis.jobs.classify import _detections_of_table

    return _detections_of_table(table)


def test_early_votes_have_larger_batches_on_a_cpu(small_bundle: Path) -> None:
    """Few crops are left for the last members, and they share the threads."""
    bundle, early = open_bundle(small_bundle), ResultOptions(vote="early")
    sizes = [Classifier(bundle, options, device="cpu").batch_size for options in (ResultOptions(), early)]
    assert sizes == [CPU_BATCH, EARLY_BATCH]
    assert Classifier(bundle, early, device="cpu", batch_size=5).batch_size == 5
