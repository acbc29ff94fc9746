"""Stores of reviewed figures: their pixels, labels and origin, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.dataset_files import Told, built, spec
from tests.reviewed_files import (
    ADDED,
    CENTRES,
    NAMES,
    REVIEWERS,
    SCANNER,
    SCANNER_ID,
    change_agreement,
    consensus_rows,
    image_of,
    recounted,
    reviewed_results,
    votes,
    write_verdicts,
)
from tests.runs import candidates_csv, run
from tests.slide_files import aperio_slide, textured, tiff_of_resolution, tiff_slide
from tests.training_files import tiny_bundle
from wsi_mitosis.core.blinding import blinding_note
from wsi_mitosis.core.review_files import PageSlide, run_digest
from wsi_mitosis.errors import DatasetError, OutputError, SpecError
from wsi_mitosis.io.digests import file_sha256
from wsi_mitosis.io.results.folder import ResultFiles
from wsi_mitosis.io.slides import open_slide
from wsi_mitosis.io.slides.patches import plan_patches, read_patch
from wsi_mitosis.io.training.stores import Store, open_checked_store, open_store
from wsi_mitosis.jobs.calibrate import calibrate
from wsi_mitosis.jobs.dataset import verify
from wsi_mitosis.jobs.dataset.parts import MaskOptions, cut_parts, run_part
from wsi_mitosis.jobs.dataset.reviewed import reviewed_listing
from wsi_mitosis.jobs.evaluate import evaluate
from wsi_mitosis.jobs.known import overlap_of, sample_lines
from wsi_mitosis.nets.ensembles import Ensemble
from wsi_mitosis.specs import InputSpec
from wsi_mitosis.workers.datasets import build_dataset

SIDE = 48


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, small_bundle: Path) -> Path:
    return reviewed_results(tmp_path_factory.mktemp("reviewed"), small_bundle)


@pytest.fixture(scope="module")
def store(results: Path) -> Store:
    built("reviews", results, results.parent / "own.zarr", patch_px=SIDE)
    return open_checked_store(results.parent / "own.zarr")


@pytest.fixture
def copied(results: Path, tmp_path: Path) -> Path:
    """The same results in a folder that may be changed; their slides stay where they are."""
    return Path(shutil.copytree(results, tmp_path / "out"))


def test_the_pixels_are_those_of_the_slide_and_what_classify_reads(store: Store, results: Path) -> None:
    assert store.attributes.mpp == pytest.approx(0.25)
    wanted = InputSpec(
        patch_px=SIDE, mpp=store.attributes.mpp or 0, mpp_tolerance=0.1, pad_value=0, scale=255
    )
    half, images = SIDE // 2, store.images()
    for name in NAMES:
        canvas = np.pad(image_of(name), ((half, half), (half, half), (0, 0)))
        with open_slide(results.parent / "slides" / name) as slide:
            plan = plan_patches(name, slide.levels, slide.mpp, wanted, SIDE)
            rows = np.flatnonzero(store.samples["slide"] == name)
            for row in rows:
                x, y = store.samples.loc[row, ["x_px0", "y_px0"]]
                left, top = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
                np.testing.assert_array_equal(images[row], canvas[top : top + SIDE, left : left + SIDE])
                np.testing.assert_array_equal(images[row], read_patch(slide, plan, x, y))
    assert len(images) == 51


def test_the_network_got_the_same_bytes_when_it_classified(
    results: Path, small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[bytes] = set()
    predict = Ensemble.predict

    def noting(self: Ensemble, crops: Any) -> Any:
        seen.update(crop.tobytes() for crop in crops)
        return predict(self, crops)

    monkeypatch.setattr(Ensemble, "predict", noting)
    slides = [results.parent / "slides" / name for name in NAMES]
    detections = candidates_csv(tmp_path / "d.csv", NAMES, CENTRES)
    assert run(slides, detections, tmp_path / "again", small_bundle).exit_status == 0
    built("reviews", results, tmp_path / "small.zarr", patch_px=32)
    found = open_store(tmp_path / "small.zarr")
    machine = found.samples["source_id"] != ADDED[0]
    assert machine.sum() == 50
    assert {image.tobytes() for image in found.images(np.flatnonzero(machine))} <= seen


def test_labels_votes_and_places_are_those_of_the_reviewers(store: Store, results: Path) -> None:
    rows = {(row["slide"], row["figure_id"]): row for row in consensus_rows(results)}
    assert store.samples["label"].tolist().count(1) == 25
    assert set(store.samples["domain"]) == {SCANNER}
    for sample in store.samples.itertuples():
        row = rows[sample.slide, sample.source_id]
        assert sample.label == {"atypical": 1, "typical": 0}[row["consensus"]]
        assert (sample.experts_atypical, sample.experts_asked) == (
            row["atypical"],
            row["atypical"] + row["typical"],
        )
        assert (sample.x_px0, sample.y_px0) == (row["x_px0"], row["y_px0"])
        assert sample.label_source == ("review-blind" if row["blind"] else "review")
    assert ADDED[0] in set(store.samples["source_id"])
    assert verify(store.folder).exit_status == 0


def test_the_store_says_where_its_labels_come_from_and_names_nobody(store: Store, results: Path) -> None:
    about = store.attributes.reviews
    assert about is not None
    records = ResultFiles(results).records().values()
    assert about.run == run_digest(map(PageSlide.of, records))
    assert about.consensus_sha256 == file_sha256(results / "reviewed/consensus.csv")
    assert (about.reviewers, about.slides, about.blind) == (3, 5, 31)
    assert (about.none, about.tie, about.unsure) == (5, 1, 4)
    stated = store.samples.to_csv() + (store.folder / "zarr.json").read_text()
    assert "note" not in store.samples.columns
    assert not [name for name in REVIEWERS if name in stated]


def test_stores_of_other_sources_say_nothing_of_reviews(tmp_path: Path) -> None:
    tiff_slide(tmp_path / "a.tiff", textured(64, 64))
    (tmp_path / "t.csv").write_text("slide,x,y,label\na,20,20,0\na,40,40,1\n")
    built("csv", tmp_path / "t.csv", tmp_path / "o.zarr", patch_px=32)
    assert "reviews" not in json.loads((tmp_path / "o.zarr/zarr.json").read_text())["attributes"]


def test_what_is_left_out_and_not_blind_is_told(results: Path, tmp_path: Path) -> None:
    told = Told()
    build_dataset(spec("reviews", results, tmp_path / "o.zarr", patch_px=32), told)
    assert told.warnings == [
        "10 reviewed figures left out: 5 no mitotic figure by the majority, 1 without a majority, "
        "4 of which no reviewer could tell",
        "20 of 51 labels are not blind: reviewers saw the machine's label before they decided. Their "
        "`label_source` is 'review', that of the others 'review-blind'",
    ]


def test_a_domain_may_be_given(results: Path, tmp_path: Path) -> None:
    result = built("reviews", results, tmp_path / "o.zarr", patch_px=32, domain="our lab")
    assert result.attributes.domains == ("our lab",)


def test_a_bundle_knows_the_figures_again(store: Store, tmp_path: Path) -> None:
    trained = tiny_bundle(tmp_path / "b", samples=sample_lines(store))
    assert overlap_of(trained, store).seen.all()
    assert not overlap_of(tiny_bundle(tmp_path / "c"), store).seen.any()


def test_it_is_evaluated_and_says_how_many_labels_are_not_blind(store: Store, tmp_path: Path) -> None:
    report = evaluate(tiny_bundle(tmp_path / "b"), store, device="cpu", backend="torch").report
    assert report.overall is not None
    assert report.overall.n == 51
    low, high = report.as_json()["overall"]["balanced_accuracy_ci95"]
    assert low <= report.as_json()["overall"]["balanced_accuracy"] <= high
    assert any(note.startswith("20 of these 51 labels are not blind:") for note in report.notes)
    blind = store.samples[store.samples["label_source"] == "review-blind"]
    assert blinding_note(blind) is None
    assert blinding_note(store.samples.assign(label_source="csv")) is None


def test_a_bundle_is_calibrated_on_it(store: Store, tmp_path: Path) -> None:
    found = calibrate(tiny_bundle(tmp_path / "b"), store, tmp_path / "mine", device="cpu", backend="torch")
    low, high = found.gain.interval
    assert low <= found.gain.balanced_accuracy <= high
    assert found.gain.slides == 5
    assert overlap_of(found.bundle, store).seen.all()


# --- what is refused


@pytest.fixture
def restored(results: Path) -> Any:
    """The first slide, which a test may move or change."""
    slide = results.parent / "slides" / NAMES[0]
    content = slide.read_bytes()
    yield slide
    slide.write_bytes(content)


def test_a_slide_that_is_gone_is_named(results: Path, restored: Path, tmp_path: Path) -> None:
    restored.unlink()
    told = r"1 reviewed slide cannot be used: 'a\.svs: .*no longer where it was classified\. .*Put the slide"
    with pytest.raises(DatasetError, match=told):
        built("reviews", results, tmp_path / "o.zarr", patch_px=32)
    assert not (tmp_path / "o.zarr").exists()


def test_a_slide_that_has_changed_is_named(results: Path, restored: Path, tmp_path: Path) -> None:
    restored.unlink()
    aperio_slide(restored, textured(400, 150, seed=1), f"0.25|ScanScope ID = {SCANNER_ID}")
    with pytest.raises(DatasetError, match=r"a\.svs: .*has changed since it was classified\. Run `classify`"):
        built("reviews", results, tmp_path / "o.zarr", patch_px=32)


def test_a_slide_that_changes_while_it_is_cut_is_named(results: Path, tmp_path: Path) -> None:
    listing = reviewed_listing(spec("reviews", results, tmp_path / "o.zarr"))
    part, *_ = cut_parts(listing, 32, MaskOptions("none"), tmp_path)
    assert run_part(part, 1).faults == ()
    other = dataclasses.replace(part, identity="another")
    assert run_part(other, 1).faults == ("a.svs: it has changed since it was classified. Classify it again",)


def test_a_recount_of_another_result_is_refused(copied: Path, tmp_path: Path) -> None:
    stated = json.loads((copied / "reviewed/agreement.json").read_text())["slides"]
    stated["b.svs"]["assessment_key"] = "0" * 64
    change_agreement(copied, slides=stated)
    with pytest.raises(DatasetError, match=r"'b\.svs: .* of another result .*Run `recount` again'"):
        built("reviews", copied, tmp_path / "o.zarr", patch_px=32)


def test_a_slide_without_a_result_is_refused(copied: Path, tmp_path: Path) -> None:
    (copied / "figures/c.svs.parquet").unlink()
    with pytest.raises(DatasetError, match=r"'c\.svs: reading reviews: it has no result"):
        built("reviews", copied, tmp_path / "o.zarr", patch_px=32)


def _cut_short(copied: Path) -> None:
    path = copied / "reviewed/consensus.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def _without_agreement(copied: Path) -> None:
    (copied / "reviewed/agreement.json").unlink()


def _not_an_object(copied: Path) -> None:
    (copied / "reviewed/agreement.json").write_text("[1]")


@pytest.mark.parametrize("damage", [_cut_short, _without_agreement, _not_an_object])
def test_a_recount_that_was_edited_is_refused(
    copied: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    damage(copied)
    with pytest.raises(OutputError, match=r"reading the recount: .*Run `wsi-mitosis recount`"):
        built("reviews", copied, tmp_path / "o.zarr", patch_px=32)


def test_reviews_without_a_decision_are_refused(copied: Path, tmp_path: Path) -> None:
    rows = [{**row, **votes("unsure", unsure=3)} for row in consensus_rows(copied)]
    write_verdicts(copied, rows)
    with pytest.raises(DatasetError, match="no figure has a majority for atypical or typical"):
        built("reviews", copied, tmp_path / "o.zarr", patch_px=32)


def test_images_are_not_named_for_reviews(results: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="the results say where the slides are"):
        spec("reviews", results, tmp_path / "o.zarr", images=tmp_path)


# --- a slide that states neither a scanner nor a pixel size


def test_a_slide_without_a_scanner_needs_a_domain_and_keeps_the_scale_that_was_given(
    tmp_path: Path, small_bundle: Path
) -> None:
    slide = tiff_of_resolution(tmp_path / "s.tiff", textured(400, 150), None)
    detections = candidates_csv(tmp_path / "d.csv", ["s.tiff"], CENTRES)
    out = tmp_path / "out"
    assert run([slide], detections, out, small_bundle, result={"mpp": 0.24}).exit_status == 0
    recounted(out, tmp_path / "reviews")
    write_verdicts(out, [row for row in consensus_rows(out) if row["slide"] == "s.tiff"])
    with pytest.raises(DatasetError, match=r"'s\.tiff: .*states no scanner.* Name a domain with --domain'"):
        built("reviews", out, tmp_path / "o.zarr", patch_px=32)
    result = built("reviews", out, tmp_path / "o.zarr", patch_px=32, domain="lab")
    assert result.attributes.mpp == 0.24
