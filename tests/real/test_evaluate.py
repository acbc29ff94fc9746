"""Evaluation on real figures: counted as published, the distinct ones beside them, folds that hold."""

from __future__ import annotations

from pathlib import Path

from tests.dataset_files import built
from wsi_mitosis.core.folds import plan_folds, plan_warnings
from wsi_mitosis.io.bundles import open_bundle
from wsi_mitosis.io.stores import open_store
from wsi_mitosis.jobs.evaluate import evaluate


def test_atnorm_is_scored_as_published_and_by_its_distinct_figures(
    real_data: Path, small_bundle: Path, tmp_path: Path
) -> None:
    built("folder", real_data / "patches/AtNorM-Br", tmp_path / "atnorm.zarr", masks="none")
    report = evaluate(open_bundle(small_bundle), open_store(tmp_path / "atnorm.zarr"), device="cpu").report
    assert (report["overall"]["n"], report["overall"]["atypical"]) == (746, 128)
    assert (report["distinct"]["n"], report["distinct"]["contradictory"]) == (711, 2)
    assert report["overall"]["resampled"]["unit"] == "samples"


def test_the_folds_of_amibr(real_data: Path, tmp_path: Path) -> None:
    images = real_data / "patches/AMi-Br"
    built("amibr", real_data / "labels/AMI-BR.csv", tmp_path / "a.zarr", images=images, masks="none")
    samples = open_store(tmp_path / "a.zarr").samples
    folds = plan_folds(samples)
    assert {fold.test_domain: len(fold.test_rows) for fold in folds} == {
        "MIDOG21 Aperio CS2": 688,
        "MIDOG21 Hamamatsu S360": 582,
        "MIDOG21 Hamamatsu XR": 451,
        "TUPAC16 01-23": 1329,
        "TUPAC16 24-48": 276,
        "TUPAC16 49-73": 394,
    }
    assert plan_warnings(folds, samples) == ()
    assert [fold.dropped for fold in folds] == [0] * 6
