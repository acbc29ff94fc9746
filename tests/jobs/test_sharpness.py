"""Slides that are not sharp: the limit that a dataset gives, and what a run says of a slide."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from tests.runs import CANDIDATES, SLIDE_PX, candidates_csv, run, summary
from tests.slide_files import textured, tiff_slide
from tests.training_files import PATCH_PX, tiny_store
from wsi_mitosis.core import sharpness
from wsi_mitosis.core.sharpness import crop_sharpness, find_limit, slide_sharpness
from wsi_mitosis.errors import BundleError
from wsi_mitosis.io.bundles import DEFAULT_BUNDLE, Bundle, find_bundle, open_bundle, write_bundle
from wsi_mitosis.io.results.figures import read_record
from wsi_mitosis.io.training.stores import Store
from wsi_mitosis.jobs.batch import BatchResult
from wsi_mitosis.jobs.sharpness import sharpness_fields

LIMIT = {"lowest": 0.6, "slides": 135, "dataset_digest": "d" * 64}
"""Between the sharpness of the generated slides, about 1, and that of blurred ones, about 0.3."""
WARNING = (
    "blurred.tiff: its figures are less sharp than those that 'limited' was trained on: sharpness "
    "{value:.3f}, limit 0.600. The slide may be out of focus, or its pixel size wrong. Look at a sample of "
    "the figures, because their labels and probabilities may be wrong"
)


@pytest.fixture
def bundle(small_bundle: Path, tmp_path: Path) -> Path:
    """The small bundle with a limit."""
    return limited(open_bundle(small_bundle), tmp_path / "limited", LIMIT).folder


def limited(bundle: Bundle, folder: Path, limit: dict[str, Any], zooms: Sequence[float] = (1.0,)) -> Bundle:
    fields = bundle.manifest.model_dump(by_alias=True, exclude={"schema_", "member", "training"})
    fields |= {"name": "limited", "sharpness": limit, "ensemble": {**fields["ensemble"], "zooms": zooms}}
    return write_bundle(folder, fields, bundle.read_members(), "")


@pytest.fixture
def slides(tmp_path: Path) -> list[Path]:
    """A slide, the same one blurred, and the same one in other colours and brighter."""
    sharp = textured(*SLIDE_PX)
    brighter = (255 * (sharp[..., [2, 0, 1]] / 255.0) ** 0.7).astype(np.uint8)
    images = {"blurred": gaussian_filter(sharp, (1.5, 1.5, 0)), "recoloured": brighter, "sharp": sharp}
    return [tiff_slide(tmp_path / f"{name}.tiff", image) for name, image in images.items()]


@pytest.fixture
def detections(slides: list[Path], tmp_path: Path) -> Path:
    return candidates_csv(tmp_path / "d.csv", [slide.name for slide in slides])


def events(out: Path, kind: str) -> Iterator[dict[str, Any]]:
    lines = map(json.loads, (out / "log.jsonl").read_text().splitlines())
    return (line for line in lines if line["event"] == kind)


def warnings_of(result: BatchResult) -> list[str]:
    return [message for message in result.warnings if "less sharp" in message]


def test_only_the_blurred_slide_is_warned_of(
    slides: list[Path], detections: Path, bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = run(slides, detections, out, bundle)
    rows = summary(out)
    verdicts = {name: row["sharpness_verdict"] for name, row in rows.items()}
    assert verdicts == {"blurred.tiff": "low", "recoloured.tiff": "not low", "sharp.tiff": "not low"}
    value = float(rows["blurred.tiff"]["sharpness"])
    assert value < 0.5 < float(rows["sharp.tiff"]["sharpness"])
    assert result.exit_status == 0
    assert warnings_of(result) == [WARNING.format(value=value)]

    logged = [event for event in events(out, "warning") if "less sharp" in event["message"]]
    assert [event["message"] for event in logged] == warnings_of(result)
    done = {event["slide"]: event for event in events(out, "done")}
    assert done["blurred.tiff"]["sharpness"] == pytest.approx(value)
    assert {name: event["sharpness_verdict"] for name, event in done.items()} == verdicts
    in_json = {row["slide"]: row["sharpness_verdict"] for row in result.as_data()["summary"]}
    assert in_json == verdicts
    page = (out / "report.html").read_text()
    assert page.count('<strong class="tag">not sharp</strong>') == 1
    assert f"{value:.3f}, low (limit 0.600)" in page
    assert "less sharp than those that" in page


def test_the_value_is_the_median_over_what_the_bundle_cuts(
    slides: list[Path], detections: Path, bundle: Path, tmp_path: Path
) -> None:
    """Of a bundle that reads more than that, for a view of the surroundings."""
    wide = limited(open_bundle(bundle), tmp_path / "wide", LIMIT, zooms=(1.0, 0.8))
    run(slides, detections, tmp_path / "out", wide.folder)
    patch_px = wide.manifest.input.cut_px
    image = np.pad(
        textured(*SLIDE_PX), ((patch_px, patch_px), (patch_px, patch_px), (0, 0))
    )  # black, as patches
    corners = [[int(np.floor(axis + 0.5)) + patch_px // 2 for axis in (x, y)] for x, y in CANDIDATES]
    windows = np.stack([image[y : y + patch_px, x : x + patch_px] for x, y in corners])
    value = float(summary(tmp_path / "out")["sharp.tiff"]["sharpness"])
    assert value == pytest.approx(float(np.median(crop_sharpness(windows))), rel=1e-9)


def test_the_order_of_candidates_and_the_batches_change_nothing(
    slides: list[Path], bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharpness, "MOST_FIGURES", 6)
    places = [(37.0 * i % 560 + 20, 61.0 * i % 460 + 20) for i in range(15)]
    values = []
    for number, (order, size) in enumerate([(places, 32), (places[::-1], 32), (places, 4)]):
        csv = candidates_csv(tmp_path / f"{number}.csv", [slides[2].name], order)
        run(slides[2:], csv, tmp_path / f"out{number}", bundle, placement={"batch_size": size})
        values.append(summary(tmp_path / f"out{number}")["sharp.tiff"]["sharpness"])
    assert len(set(values)) == 1
    assert float(values[0]) > 0


def test_a_kept_result_is_warned_of_again_and_another_limit_is_another_result(
    slides: list[Path], detections: Path, bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first, second = (run(slides, detections, out, bundle) for _ in range(2))
    assert second.kept == {slide.name for slide in slides}
    assert warnings_of(second) == warnings_of(first) != []
    lower = limited(open_bundle(bundle), tmp_path / "lower", {**LIMIT, "lowest": 0.01})
    third = run(slides, detections, out, lower.folder)
    assert third.kept == set()
    assert {row["sharpness_verdict"] for row in summary(out).values()} == {"not low"}
    assert warnings_of(third) == []


def test_few_figures_have_no_verdict_and_the_column_says_so(
    slides: list[Path], bundle: Path, tmp_path: Path
) -> None:
    few = candidates_csv(tmp_path / "few.csv", ["blurred.tiff"], CANDIDATES[:4])
    result = run(slides[:1], few, tmp_path / "out", bundle)
    row = summary(tmp_path / "out")["blurred.tiff"]
    assert (row["sharpness"], row["sharpness_verdict"]) == ("", "too few figures")
    assert warnings_of(result) == []
    record = read_record(next((tmp_path / "out" / "figures").glob("*.parquet")))
    assert record is not None
    assert record.sharpness is not None
    assert (record.sharpness.value, record.sharpness.lowest) == (None, 0.6)


def test_a_bundle_without_a_limit_says_nothing(
    slides: list[Path], detections: Path, small_bundle: Path, tmp_path: Path
) -> None:
    result = run(slides, detections, tmp_path / "out", small_bundle)
    assert warnings_of(result) == []
    row = summary(tmp_path / "out")["blurred.tiff"]
    assert (row["sharpness"], row["sharpness_verdict"]) == ("", "")
    assert all("sharpness" not in event for event in events(tmp_path / "out", "done"))
    assert "sharpness of its figures" not in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ({**LIMIT, "lowest": 0.0}, r"'lowest' in \[sharpness\] should be greater than 0"),
        ({**LIMIT, "highest": 1.0}, r"unknown key 'highest' in \[sharpness\]"),
    ],
)
def test_a_limit_that_is_none_is_refused(
    small_bundle: Path, tmp_path: Path, limit: dict[str, Any], message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        limited(open_bundle(small_bundle), tmp_path / "odd", limit)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return tiny_store(tmp_path_factory.mktemp("data"))


def test_a_dataset_gives_the_limit_of_its_slides(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharpness, "LEAST_SLIDES", 6)
    first = store.attributes.patch_px // 2 - PATCH_PX // 2
    of_figures = crop_sharpness(store.images()[:, first : first + PATCH_PX, first : first + PATCH_PX])
    values, domains = [], []
    for name in sorted(set(store.samples["slide"])):
        rows = (store.samples["slide"] == name).to_numpy()
        values.append(slide_sharpness(of_figures[rows]) or 0.0)
        domains.append(store.samples["domain"][rows].iloc[0])
    limit = find_limit(values, domains)
    assert limit is not None
    assert limit.slides == 6
    assert sharpness_fields(store, PATCH_PX) == {
        "lowest": pytest.approx(limit.lowest),
        "slides": 6,
        "dataset_digest": store.attributes.digest,
    }


def test_a_dataset_of_few_or_unnamed_slides_gives_none(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sharpness_fields(store, PATCH_PX) is None
    monkeypatch.setattr(sharpness, "LEAST_SLIDES", 1)
    unnamed = Store(store.folder, store.attributes, store.samples.assign(slide=""))
    assert sharpness_fields(unnamed, PATCH_PX) is None


def test_the_shipped_model_has_the_limit_of_its_dataset() -> None:
    manifest = open_bundle(find_bundle(DEFAULT_BUNDLE)).manifest
    assert manifest.sharpness is not None
    origins = [member.training for member in manifest.member]
    assert {origin and origin.dataset_digest for origin in origins} == {manifest.sharpness.dataset_digest}
