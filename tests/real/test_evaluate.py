"""Evaluation on real figures: counted as published, the distinct ones beside them, folds that hold."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.dataset_files import built
from wsi_mitosis.core.folds import plan_folds, plan_warnings
from wsi_mitosis.core.metrics import score
from wsi_mitosis.io.bundles import DEFAULT_BUNDLE, find_bundle, open_bundle
from wsi_mitosis.io.training.stores import Store, open_store
from wsi_mitosis.jobs.evaluate import evaluate
from wsi_mitosis.jobs.predict import predict_crops
from wsi_mitosis.nets.ensembles import Ensemble

RUNS = Path(__file__).parents[2] / "train/runs"


def test_atnorm_is_scored_as_published_and_by_its_distinct_figures(
    real_data: Path, small_bundle: Path, tmp_path: Path
) -> None:
    built("folder", real_data / "patches/AtNorM-Br", tmp_path / "atnorm.zarr", masks="none")
    report = evaluate(open_bundle(small_bundle), open_store(tmp_path / "atnorm.zarr"), device="cpu").report
    assert (report.overall.n, report.overall.atypical) == (746, 128)
    assert (report.distinct.n, report.distinct.contradictory) == (711, 2)
    assert report.overall.resampled.unit == "samples"


def test_the_folds_of_amibr(amibr: Store) -> None:
    samples = amibr.samples
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


def test_a_members_published_figures_are_found_again(amibr: Store) -> None:
    """The shipped bundle as read from disk, on the smallest domain that a member was not trained on."""
    bundle = open_bundle(find_bundle(DEFAULT_BUNDLE))
    domain = "TUPAC16 24-48"
    published = json.loads((RUNS / DEFAULT_BUNDLE / "amibr.json").read_text())["members"]
    at = [member.test_domain for member in bundle.manifest.member].index(domain)
    alone = bundle.manifest.model_copy(update={"member": bundle.manifest.member[at : at + 1]})
    ensemble = Ensemble(alone, bundle.read_members()[at : at + 1], device="cpu")

    rows = np.flatnonzero(amibr.samples["domain"] == domain)
    votes = predict_crops(amibr.images(rows), ensemble, replace(bundle, manifest=alone))
    found = score(amibr.samples["label"].to_numpy()[rows], votes.is_atypical, votes.p_atypical)
    stated = published[f"member-{at}"]
    assert (found.n, stated["test_domain"]) == (stated["n"], domain)
    # another CPU rounds otherwise, and may turn a figure that lies at the threshold
    assert found.balanced_accuracy == pytest.approx(stated["balanced_accuracy"], abs=0.01)
    assert found.auroc == pytest.approx(stated["auroc"], abs=1e-3)
