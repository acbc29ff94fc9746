"""`evaluate` as scripts meet it, on networks read back from disk."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from tests.evaluations import bundle, recorded, store
from wsi_mitosis.cli import main
from wsi_mitosis.io.training.stores import Store
from wsi_mitosis.nets.untrained import stained_noise, untrained_states

DOMAINS = ("lab one", "lab two", "lab three")
MEASURES = ("balanced_accuracy", "sensitivity", "specificity", "auroc")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(
        main, ["evaluate", *(str(argument) for argument in arguments)], catch_exceptions=False
    )


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Store:
    crops = stained_noise(24, 40, seed=4)
    rows = [(DOMAINS[row % 3], f"{row % 6}.tiff", row % 2, image) for row, image in enumerate(crops)]
    return store(tmp_path_factory.mktemp("stores") / "labs.zarr", rows)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, samples: Store) -> Path:
    """A bundle that says it was trained on those samples."""
    states: list[dict[str, Any]] = [dict(state) for state in untrained_states(3, 2, 32, 255.0)]
    folder = tmp_path_factory.mktemp("bundles") / "trained"
    bundle(folder, DOMAINS, recorded(samples.samples), states=states)
    return folder


def test_json_goes_to_stdout_alone(samples: Store, small_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "deeper" / "out"
    told = call("--model", small_bundle, "--dataset", samples.folder, "--json", "--out", out)
    assert told.exit_code == 0, told.output
    report = json.loads(told.stdout)
    assert report == json.loads((out / "evaluation.json").read_text())
    assert set(report["domains"]) == set(DOMAINS)
    assert list(report["members"]) == ["member-0", "member-1", "member-2"]
    for entry in (report["overall"], *report["domains"].values(), *report["members"].values()):
        for name in MEASURES:
            low, high = entry[f"{name}_ci95"]
            assert 0 <= low <= entry[name] <= high <= 1
    assert [entry["n"] for entry in report["domains"].values()] == [8, 8, 8]
    assert report["trained"] is False
    assert "UNTRAINED" in told.stderr
    assert "Research use only" in told.stderr


def test_the_table_goes_to_stdout_without_json(samples: Store, small_bundle: Path) -> None:
    told = call("--model", small_bundle, "--dataset", samples.folder)
    assert told.exit_code == 0
    assert told.stdout.startswith("# small on labs\n")
    assert "| balanced accuracy" in told.stdout
    assert "UNTRAINED" in told.stdout
    assert "Research use only" in told.stdout


def test_all_files_are_written(samples: Store, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert call("--model", trained, "--dataset", samples.folder, "--out", out, "-q").exit_code == 0
    assert sorted(path.name for path in out.iterdir()) == [
        *("calibration.png", "evaluation.json", "evaluation.md", "predictions.csv", "roc.png")
    ]
    predictions = pd.read_csv(out / "predictions.csv")
    asked = predictions[["p_member-0", "p_member-1", "p_member-2"]].notna().sum(axis=1)
    assert asked.tolist() == [1] * 24, "by the one member that never saw it"


def test_leave_one_domain_out_of_a_trained_bundle(samples: Store, trained: Path) -> None:
    told = call("--model", trained, "--dataset", samples.folder, "--json")
    assert told.exit_code == 0
    report = json.loads(told.stdout)
    assert report["overall"] is report["domains"] is None
    assert {entry["test_domain"]: entry["n"] for entry in report["members"].values()} == dict.fromkeys(
        DOMAINS, 8
    )
    mean = sum(entry["balanced_accuracy"] for entry in report["members"].values()) / 3
    assert report["lodo"]["balanced_accuracy"]["mean"] == pytest.approx(mean)
    assert report["lodo"]["validation_balanced_accuracy"] == pytest.approx({"mean": 0.9, "sd": 0.1, "n": 3})
    assert "trained on 24 of these 24 samples" in told.stderr


def test_training_data_is_refused_unless_asked_for(samples: Store, tmp_path: Path) -> None:
    states: list[dict[str, Any]] = [dict(state) for state in untrained_states(1, 2, 32, 255.0)]
    bundle(tmp_path / "b", ("elsewhere",), recorded(samples.samples), states=states)
    call_it = ("--model", tmp_path / "b", "--dataset", samples.folder, "--out", tmp_path / "out")
    refused = call(*call_it)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert (
        "labs.zarr: evaluating: all 24 samples were used to train 'known'. Evaluate it on samples"
        in refused.stderr
    )
    assert list((tmp_path / "out").iterdir()) == []
    allowed = call(*call_it, "--allow-overlap")
    assert allowed.exit_code == 0
    scored = [line for line in allowed.stdout.splitlines() if line.startswith("| ") and " [0." in line]
    assert len(scored) == 1 + 3 + 1
    assert all("training data (" in line for line in scored)
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["training_data"] is True


def test_views_reach_the_members(samples: Store, small_bundle: Path) -> None:
    report = json.loads(
        call("--model", small_bundle, "--dataset", samples.folder, "--json", "--tta", "d4").stdout
    )
    plain = json.loads(call("--model", small_bundle, "--dataset", samples.folder, "--json").stdout)
    assert (report["tta"], plain["tta"], plain["single_view"]) == ("d4", "none", None)
    assert report["single_view"]["overall"] == plain["overall"]
    assert report["overall"]["brier"] != plain["overall"]["brier"]


def test_quiet_and_verbose(samples: Store, small_bundle: Path) -> None:
    quiet = call("--model", small_bundle, "--dataset", samples.folder, "-q")
    assert (quiet.exit_code, quiet.output) == (0, "")
    plain = call("--model", small_bundle, "--dataset", samples.folder)
    assert plain.stderr.splitlines()[:3] == [f"member-{index}: 0 of 24 samples" for index in range(3)]
    assert "member-0: 24 of 24 samples" not in plain.stderr
    verbose = call("--model", small_bundle, "--dataset", samples.folder, "-v")
    assert "member-0: 24 of 24 samples" in verbose.stderr


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--dataset", "nonesuch.zarr", "nonesuch.zarr: opening a store: no such store"),
        ("--model", "nonesuch", "nonesuch: no such bundle"),
        ("--device", "abacus", "--device abacus: no such device"),
    ],
)
def test_errors_are_told_and_give_2(
    samples: Store, small_bundle: Path, option: str, value: str, told: str
) -> None:
    given = {"--model": small_bundle, "--dataset": samples.folder, option: value}
    found = call(*(part for pair in given.items() for part in pair))
    assert (found.exit_code, found.stdout) == (2, "")
    assert told in found.stderr


def test_an_output_that_cannot_be_is_told_before_the_work(
    samples: Store, small_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    found = call("--model", small_bundle, "--dataset", samples.folder, "--out", tmp_path / "file")
    assert (found.exit_code, found.stdout) == (2, "")
    assert "member-0" not in found.stderr


def test_help_is_light() -> None:
    code = (
        "import sys\nfrom wsi_mitosis.cli import main\n"
        "try: main(['evaluate', '--help'], prog_name='wsi-mitosis')\nexcept SystemExit: pass\n"
        "print('LOADED', *[m for m in ('zarr', 'matplotlib', 'numpy') if m in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.splitlines()[-1] == "LOADED"
    assert "--allow-overlap" in told
