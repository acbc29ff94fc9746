"""From reviews to a bundle, as a user types it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.reviewed_files import reviewed_results
from tests.training_files import tiny_bundle, tiny_recipe, with_torch, write_recipe
from wsi_mitosis.cli import main
from wsi_mitosis.nets import memory

HERE = ("--workers", "0", "--device", "cpu", "--cpus-per-worker", "1")


@pytest.fixture(autouse=True)
def _kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A setting of this process that cannot be undone is not made."""
    monkeypatch.setattr(memory, "keep_large_blocks", lambda: None)
    with with_torch():
        yield


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_from_reviews_to_a_bundle(tmp_path: Path, small_bundle: Path) -> None:
    results, store = reviewed_results(tmp_path, small_bundle), tmp_path / "own.zarr"
    build = ("dataset", "build", results, "--source", "reviews", "--out", store, "--patch-px", 48)
    made = call(*build, "--masks", "none", "--workers", 0)
    assert made.exit_code == 0, made.output
    assert "51 figures: 25 atypical, 26 typical" in made.stdout
    assert "10 reviewed figures left out" in made.stderr
    shown = call("dataset", "show", store)
    assert "reviewers 3, slides 5, blind 31, none 5, tie 1, unsure 4" in shown.stdout

    recipe = write_recipe(tmp_path / "tiny.toml", tiny_recipe(further={"epochs": 1, "batch": 8}))
    parent = tiny_bundle(tmp_path / "parent", members=2).folder
    train = ("train", recipe, "--from", parent, "--dataset", store, "--out", tmp_path / "mine", *HERE)
    told = call(*train)
    assert told.exit_code == 0, told.output
    assert "of the other slides; tests on" in told.stderr
    assert "selects on" not in told.stderr
    assert "labels are not blind" in told.stderr
    assert "Balanced accuracy: 0." in told.stdout
    assert "AUROC: 0." in told.stdout
    assert "(validation)" not in told.stdout


def test_what_belongs_together_is_said(tmp_path: Path) -> None:
    told = call("train", "nano", "--dataset", "s.zarr", "--out", tmp_path / "b", "--beside", "t.zarr", *HERE)
    assert told.exit_code == 2
    assert "--beside and --allow-few belong to --from" in told.stderr
