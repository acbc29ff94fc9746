"""`train` as scripts meet it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.training_files import tiny_recipe, tiny_store, write_recipe
from wsi_mitosis.cli import main
from wsi_mitosis.io.bundles import open_bundle
from wsi_mitosis.io.training.stores import Store
from wsi_mitosis.nets import memory

HERE = ("--workers", "0", "--device", "cpu", "--cpus-per-worker", "1")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return tiny_store(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """In the place of a setting of this process that cannot be undone: a note of each time it was made."""
    calls: list[str] = []
    monkeypatch.setattr(memory, "keep_large_blocks", lambda: calls.append("kept"))
    return calls


@pytest.fixture
def arguments(store: Store, tmp_path: Path) -> list[str]:
    recipe = write_recipe(tmp_path / "tiny.toml", tiny_recipe(optimiser={"epochs": 1}))
    return ["train", str(recipe), "--dataset", str(store.folder), "--out", str(tmp_path / "bundle"), *HERE]


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_the_command_keeps_the_large_blocks_of_its_process(arguments: list[str], kept: list[str]) -> None:
    assert call(*arguments[:2], "--dataset", "nonesuch.zarr", "--out", "bundle").exit_code == 2
    assert kept == ["kept"]


def test_it_tells_the_plan_the_epochs_and_what_to_do_next(arguments: list[str], tmp_path: Path) -> None:
    told = call(*arguments)
    assert told.exit_code == 0, told.output
    assert "fold alpha: trains on 16 (8 atypical) of gamma; selects on 16 (8 atypical) of beta" in told.stderr
    assert "gamma: epoch 1/1: training total" in told.stderr
    assert "3 members. Research use only." in told.stdout
    assert "wsi-mitosis evaluate --model" in told.stdout
    assert len(open_bundle(tmp_path / "bundle").manifest.member) == 3


def test_json_is_one_object_and_a_fold_alone_makes_no_bundle(arguments: list[str], tmp_path: Path) -> None:
    told = call(*arguments, "--fold", "beta", "--work", str(tmp_path / "work"), "--json", "-q")
    assert (told.exit_code, told.stderr) == (0, "")
    result = json.loads(told.stdout)
    assert [record["fold"] for record in result["folds"]] == ["beta"]
    assert result["waiting"] == ["alpha", "gamma"]
    assert result["bundle"] is None
    assert (tmp_path / "work" / "beta" / "fold.json").exists()
    assert (
        "The bundle is not written yet. Folds to train: alpha, gamma"
        in call(*arguments, "--fold", "beta", "--work", str(tmp_path / "work")).stdout
    )


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--validation", "alpha"], "is not of the form TEST=DOMAIN"),
        (["--validation", "alpha=alpha"], "alpha"),
        (["--fold", "omega"], "no fold 'omega'"),
        (["--batch-size", "8"], "No such option"),  # the recipe's, not the run's
    ],
)
def test_what_cannot_be_started_exits_2(arguments: list[str], extra: list[str], message: str) -> None:
    told = call(*arguments, *extra)
    assert told.exit_code == 2
    assert message in told.stderr


def test_a_scheduler_may_end_it_and_it_goes_on(store: Store, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "long.toml", tiny_recipe(optimiser={"epochs": 400}))
    out = tmp_path / "bundle"
    command = [sys.executable, "-m", "wsi_mitosis", "train", str(recipe), "--dataset", str(store.folder)]
    process = subprocess.Popen([*command, "--out", str(out), *HERE], stderr=subprocess.DEVNULL)
    folder = out.with_name("bundle.training") / "alpha"
    while process.poll() is None and not list(folder.glob("checkpoint-*.pt")):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 130
    assert not out.exists()
    assert len(list(folder.glob("checkpoint-*.pt"))) == 1
