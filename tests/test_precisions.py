"""The script that compares a bundle in bfloat16 with float32, and the bundles that it allows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import precisions
import pytest

from tests.evaluations import SIDE, bundle, calibration, store
from wsi_mitosis.errors import BundleError
from wsi_mitosis.io.bundles import Bundle, derive_bundle, open_bundle, write_table
from wsi_mitosis.io.training.stores import Store
from wsi_mitosis.jobs.combine import combine, select
from wsi_mitosis.specs import Bfloat16Spec, CalibrationSpec

COMPARED: dict[str, Any] = {
    "figures": 4466,
    "changed": 22,
    "auroc": 0.9,
    "auroc_float32": 0.9019,
    "figures_sha256": "0" * 64,
}


class Answers:
    """Takes the place of `Ensemble`: P(atypical) is channel 0 of the centre pixel, in bfloat16 channel 1."""

    def __init__(self, manifest: Any, states: list[Any], *, precision: str, **_: object) -> None:
        self.read_px, self._channel = manifest.input.patch_px, int(precision == "bf16")
        self._members = len(states)

    def predict(self, crops: np.ndarray) -> np.ndarray:
        answers = crops[:, 16, 16, self._channel].astype(float) / 100
        return np.repeat(answers[:, None], self._members, axis=1)


@pytest.fixture
def trained(tmp_path: Path) -> Bundle:
    return bundle(tmp_path / "trained", ("a", "b"))


def figures(folder: Path, turned: int, number: int = 1000) -> Store:
    """Figures of which every fourth is atypical and all are called so rightly but, in bfloat16, a few."""
    rows = []
    for index in range(number):
        image = np.zeros((SIDE, SIDE, 3), np.uint8)
        image[4, 4] = index >> 8, index & 255, 0
        atypical = index % 4 == 0
        image[20, 20, :2] = (80, 80) if atypical else (20, 20)
        if index % 4 == 1 and index // 4 < turned:
            image[20, 20, 1] = 60
        rows.append(("d", "s", int(atypical), image))
    return store(folder, rows)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(precisions, "Ensemble", Answers)
    monkeypatch.setattr(sys, "argv", ["precisions.py", *map(str, arguments)])
    precisions.main()


def test_a_bundle_whose_labels_stay_is_allowed(
    tmp_path: Path, trained: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = figures(tmp_path / "s.zarr", 5, 600), figures(tmp_path / "t.zarr", 0, 400)
    run(monkeypatch, trained.folder, first.folder, second.folder)
    found = open_bundle(trained.folder)
    assert found.manifest.bfloat16 is not None
    assert (found.manifest.bfloat16.figures, found.manifest.bfloat16.changed) == (1000, 5)
    assert (found.manifest.bfloat16.auroc, found.manifest.bfloat16.auroc_float32) == (1, 1)
    told = capsys.readouterr().out
    assert "1000 figures: 5 labels (0.50%) and 10 of 2000 votes change" in told
    assert "P(atypical) of a member by 0.400 at most" in told
    assert "bf16: " in told
    assert found.digest in told
    assert found.manifest.ensemble == trained.manifest.ensemble


@pytest.mark.parametrize(
    ("turned", "number", "told"), [(6, 1000, "6 of 1000 labels change"), (0, 999, "figures.*1000")]
)
def test_a_bundle_whose_labels_change_or_were_hardly_compared_is_not(
    tmp_path: Path, trained: Bundle, monkeypatch: pytest.MonkeyPatch, turned: int, number: int, told: str
) -> None:
    samples = figures(tmp_path / "s.zarr", turned, number)
    with pytest.raises(SystemExit, match=told):
        run(monkeypatch, trained.folder, samples.folder)
    assert open_bundle(trained.folder).digest == trained.digest


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"changed": 23}, "23 of 4466 labels change"),
        ({"auroc": 0.9039}, "AUROC"),
        ({"auroc": 0.8998}, "AUROC"),
        ({"figures": 999, "changed": 0}, "figures"),
    ],
)
def test_a_manifest_cannot_allow_what_changes_too_much(
    tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    assert bundle(tmp_path / "good", ("a",), bfloat16=COMPARED).manifest.bfloat16 is not None
    with pytest.raises(BundleError, match=told):
        bundle(tmp_path / "bad", ("a",), bfloat16=COMPARED | changes)


def test_another_threshold_temperature_or_member_wants_another_comparison(tmp_path: Path) -> None:
    first = bundle(tmp_path / "first", ("a", "b"), bfloat16=COMPARED)
    fitted = CalibrationSpec.parse(calibration(1.5, "own figures"), "test")
    derived = derive_bundle(
        first, tmp_path / "own", name="own", threshold=0.4, calibration=fitted, card="", samples=["s"]
    )
    combined = combine([select(f"{first.folder}:1,0")], tmp_path / "both")
    calibrated = write_table(first, "calibration", fitted)
    for other in (derived, combined, calibrated):
        assert other.manifest.bfloat16 is None
    again = write_table(calibrated, "bfloat16", Bfloat16Spec.parse(COMPARED, "test"))
    assert again.manifest.bfloat16 is not None
    assert again.manifest.calibration == fitted
