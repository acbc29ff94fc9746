"""`models calibrate` as scripts meet it, and what the new bundle gives in every other command."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import tomli_w
from click.testing import CliRunner, Result

from tests.evaluations import bundle, calibration, recorded, store
from tests.slide_files import tiff_of_resolution
from wsi_mitosis import classify_slide
from wsi_mitosis.cli import main
from wsi_mitosis.core.calibration import calibrated
from wsi_mitosis.core.qupath import PROBABILITY
from wsi_mitosis.io.bundles import open_bundle
from wsi_mitosis.io.training.stores import Store
from wsi_mitosis.nets.untrained import stained_noise, untrained_states

SIDE = 40
DOCUMENTATION = Path(__file__).parents[2] / "docs" / "never-guessed.md"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Store:
    crops = stained_noise(70, SIDE, seed=4)
    rows = [("lab", f"{row % 7}.tiff", row % 2, image) for row, image in enumerate(crops)]
    return store(tmp_path_factory.mktemp("stores") / "own.zarr", rows)


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that says it was trained, on other samples."""
    states: list[dict[str, Any]] = [dict(state) for state in untrained_states(3, 2, 32, 255.0)]
    folder = tmp_path_factory.mktemp("bundles") / "parent"
    bundle(folder, ("x", "y", "z"), [f"{'f' * 64} x"], states=states)
    return folder


@pytest.fixture(scope="module")
def derived(tmp_path_factory: pytest.TempPathFactory, parent: Path, own: Store) -> Path:
    out = tmp_path_factory.mktemp("derived") / "my-bundle"
    found = call(
        "models", "calibrate", parent, "--dataset", own.folder, "--out", out, "--device", "cpu", "-q"
    )
    assert (found.exit_code, found.output) == (0, "")
    return out


def test_a_bundle_is_derived_and_its_gain_is_printed(parent: Path, own: Store, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    found = call("models", "calibrate", parent, "--dataset", own.folder, "--out", out)
    assert found.exit_code == 0
    manifest = open_bundle(out).manifest
    lines = found.stdout.splitlines()
    assert lines[0] == "known: temperature 1.000, threshold 0.500"
    assert lines[1] == (
        f"mine: temperature {manifest.temperature:.3f}, threshold {manifest.ensemble.threshold:.3f}"
    )
    assert lines[2].startswith("Cross-validation in 5 parts over 7 slides: balanced accuracy ")
    assert lines[-1] == f"{out}: digest {open_bundle(out).digest}"
    assert found.stderr.splitlines() == [f"member-{index}: 0 of 70 samples" for index in range(3)]


def test_json_goes_to_stdout_alone(parent: Path, own: Store, tmp_path: Path) -> None:
    found = call(
        *("models", "calibrate", parent, "--dataset", own.folder),
        *("--out", tmp_path / "mine", "--name", "other", "--json"),
    )
    assert found.exit_code == 0
    data = json.loads(found.stdout)
    manifest = open_bundle(tmp_path / "mine").manifest
    assert (data["bundle"], data["parent"]["name"]) == ("other", "known")
    assert data["parent"]["digest"] == open_bundle(parent).digest
    assert (data["temperature"], data["threshold"]) == (manifest.temperature, manifest.ensemble.threshold)
    assert manifest.calibration is not None
    assert data["calibration"] == manifest.calibration.model_dump()
    assert data["gain"] == pytest.approx(
        data["after"]["balanced_accuracy"] - data["before"]["balanced_accuracy"]
    )
    assert data["gain_ci95"][0] <= data["gain"] <= data["gain_ci95"][1]
    assert data["slides"] == 7


def test_the_new_bundle_is_shown_with_its_origin(derived: Path, parent: Path) -> None:
    shown = call("models", "show", derived)
    assert shown.exit_code == 0
    assert f"known {open_bundle(parent).digest}" in shown.stdout
    assert call("models", "verify", derived).exit_code == 0
    manifest = json.loads(call("models", "show", derived, "--json").stdout)["manifest"]
    assert manifest["calibration"]["fitted_on"] == "own figures"


def sharper(folder: Path, parent: Path) -> Path:
    """The parent with a temperature and a threshold that labels depend on."""
    shutil.copytree(parent, folder)
    path = folder / "manifest.toml"
    data = tomllib.loads(path.read_text())
    data["ensemble"]["threshold"] = 0.4
    path.write_text(tomli_w.dumps({**data, "calibration": calibration(0.25)}))
    return folder


def test_every_command_gives_the_same_calibrated_probabilities(
    parent: Path, own: Store, tmp_path: Path
) -> None:
    """Predict, evaluate, classify and the API, against the parent's probabilities, calibrated here."""
    bundle_path, images = sharper(tmp_path / "sharper", parent), own.images()
    evaluated = {}
    for name, folder in (("before", parent), ("after", bundle_path)):
        call("evaluate", "--model", folder, "--dataset", own.folder, "--out", tmp_path / name, "-q")
        evaluated[name] = pd.read_csv(tmp_path / name / "predictions.csv")
    members = ["p_member-0", "p_member-1", "p_member-2"]
    plain = evaluated["before"][members].to_numpy()
    expected = calibrated(plain, 0.25)
    assert np.abs(expected - plain).max() > 0.05
    np.testing.assert_allclose(evaluated["after"][members], expected, rtol=1e-6)
    labels = np.where((expected >= 0.4).sum(axis=1) > 1, "atypical", "typical")
    assert 0 < (labels == "atypical").sum() < 70
    assert evaluated["after"]["vote"].tolist() == labels.tolist()

    tifffile.imwrite(tmp_path / "stack.tiff", images, photometric="rgb")
    call("predict", tmp_path / "stack.tiff", "--model", bundle_path, "--out", tmp_path / "stack.json", "-q")
    predicted = json.loads((tmp_path / "stack.json").read_text())
    np.testing.assert_allclose([one["confidence"] for one in predicted], expected.mean(axis=1), atol=1e-4)
    assert [one["class"] == "atypical" for one in predicted] == (labels == "atypical").tolist()

    slide = np.concatenate([np.concatenate(images[row : row + 10], axis=1) for row in range(0, 70, 10)])
    tiff_of_resolution(tmp_path / "slide.tiff", slide, (0.25, 0.25))
    places = [(SIDE * (row % 10) + 20, SIDE * (row // 10) + 20) for row in range(70)]
    pd.DataFrame(places, columns=["x", "y"]).assign(slide="slide.tiff").to_csv(
        tmp_path / "d.csv", index=False
    )
    found = call(
        *("classify", tmp_path / "slide.tiff", "--detections", tmp_path / "d.csv", "--model", bundle_path),
        *("--out", tmp_path / "out", "--workers", "0", "--no-report", "-q"),
    )
    assert found.exit_code == 0, found.output
    figures = pd.read_parquet(tmp_path / "out" / "figures" / "slide.tiff.parquet").sort_values(
        ["y_px0", "x_px0"]
    )
    np.testing.assert_allclose(figures["p_atypical"], expected.mean(axis=1), atol=1e-4)
    assert figures["label"].tolist() == labels.tolist()
    objects = json.loads((tmp_path / "out" / "geojson" / "slide.tiff.geojson").read_text())["features"]
    drawn = [o["properties"]["measurements"] for o in objects if o["properties"]["objectType"] == "detection"]
    shown = sorted(value for o in drawn for key, value in o.items() if key == PROBABILITY)
    np.testing.assert_allclose(shown, sorted(expected.mean(axis=1)), atol=1e-3)
    summary = pd.read_csv(tmp_path / "out" / "summary.csv")
    assert summary["atypical"].tolist() == [(labels == "atypical").sum()]
    result = classify_slide(tmp_path / "slide.tiff", tmp_path / "d.csv", bundle=bundle_path)
    assert result.counts.atypical == (labels == "atypical").sum()


def test_refusals_give_2_and_leave_nothing(own: Store, parent: Path, tmp_path: Path) -> None:
    few = store(
        tmp_path / "few.zarr",
        [("lab", f"{row}", row % 2, image) for row, image in enumerate(stained_noise(20, SIDE, seed=9))],
    )
    trained = tmp_path / "trained"
    states: list[dict[str, Any]] = [dict(state) for state in untrained_states(1, 2, 32, 255.0)]
    bundle(trained, ("x",), recorded(own.samples), states=states)
    out = tmp_path / "out"
    documented = " ".join(DOCUMENTATION.read_text(encoding="utf-8").split())
    for model, dataset, message in (
        (
            *(parent, few.folder),
            "few.zarr: calibrating: 10 atypical and 10 typical figures are too few to tell what is gained. "
            "Label at least 25 figures of each class, from at least 5 slides",
        ),
        (
            *(trained, own.folder),
            "own.zarr: calibrating: 70 of 70 samples were used to train or calibrate 'known', such as "
            "sample 0. Build the dataset without them",
        ),
        (
            *("untrained-tiny", own.folder),
            "untrained-tiny: calibrating: it is untrained: there is no threshold at which its labels mean "
            "something. Take a trained bundle; `wsi-mitosis models list` shows those that are shipped",
        ),
    ):
        found = call("models", "calibrate", model, "--dataset", dataset, "--out", out)
        assert (found.exit_code, found.stdout) == (2, "")
        assert message in found.stderr
        assert message.replace("`", "") in documented.replace("`", "")
        assert not out.exists()


def test_an_empty_name_is_refused(own: Store, parent: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    done = call("models", "calibrate", parent, "--dataset", own.folder, "--out", out, "--name", "")
    assert (done.exit_code, out.exists()) == (2, False)
    assert "the value is empty" in done.stderr


def test_an_existing_folder_is_refused(own: Store, parent: Path, derived: Path) -> None:
    before = open_bundle(derived).digest
    found = call("models", "calibrate", parent, "--dataset", own.folder, "--out", derived)
    assert (found.exit_code, found.stdout) == (2, "")
    assert "my-bundle: writing a bundle: exists already. Choose another folder" in found.stderr
    assert open_bundle(derived).digest == before
