"""Training from slides to a bundle: folds, checkpoints, export, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch

from tests.dataset_files import built
from tests.runs import run
from tests.slide_files import tiff_slide
from tests.training_files import (
    DOMAINS,
    PATCH_PX,
    labelled_slides,
    metrics_rows,
    slide_of_figures,
    tiny_recipe,
    tiny_store,
    train_spec,
    trained,
    write_recipe,
)
from wsi_mitosis.core import sharpness
from wsi_mitosis.core.calibration import fit_temperature
from wsi_mitosis.errors import DatasetError, InputError, OutputError, SpecError
from wsi_mitosis.io.bundles import open_bundle
from wsi_mitosis.io.digests import file_sha256
from wsi_mitosis.io.results.figures import read_figures
from wsi_mitosis.io.results.lock import FolderLock
from wsi_mitosis.io.training.runs import FoldFolder
from wsi_mitosis.io.training.stores import Store, open_store
from wsi_mitosis.jobs import train as job
from wsi_mitosis.jobs.evaluate import evaluate
from wsi_mitosis.jobs.sharpness import sharpness_fields
from wsi_mitosis.jobs.train import FoldProgress, TrainResult, run_fold
from wsi_mitosis.nets.backbone import Backbone
from wsi_mitosis.nets.ensembles import Ensemble
from wsi_mitosis.nets.memory import LARGE_BLOCKS_ENVIRONMENT
from wsi_mitosis.recipes import FoldRecord
from wsi_mitosis.workers import folds
from wsi_mitosis.workers.pool import Work

ROOT = Path(__file__).parents[2]
ONE_FOLD = {"folds": ["alpha"]}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return tiny_store(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipes") / "tiny.toml", tiny_recipe())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, store: Store, recipe: Path) -> tuple[TrainResult, Any]:
    """All folds, trained without a break."""
    return trained(recipe, store, tmp_path_factory.mktemp("whole") / "bundle")


def weights(result: TrainResult, fold: str = "alpha") -> bytes:
    return (result.work / fold / "member.safetensors").read_bytes()


def test_a_fold_for_each_domain_and_a_bundle_of_them(whole: tuple[TrainResult, Any], store: Store) -> None:
    result, told = whole
    assert result.exit_status == 0
    assert result.bundle is not None
    manifest = result.bundle.manifest
    assert manifest.trained
    assert [member.test_domain for member in manifest.member] == list(DOMAINS)
    assert [member.validation_domain for member in manifest.member] == ["beta", "gamma", "alpha"]
    assert manifest.training is not None
    assert manifest.training.dataset_digest == store.attributes.digest
    assert manifest.training.recipe == f"tiny {tiny_recipe().digest}"
    assert manifest.training.mask_provider == "haematoxylin"
    assert manifest.input == tiny_recipe().input
    assert manifest.ensemble == tiny_recipe().ensemble
    samples = result.bundle.read_samples()
    pairs = zip(store.samples["digest"], store.samples["domain"], strict=True)
    assert {key: names for key, names in samples.items() if not key.startswith("@")} == {
        digest: frozenset([domain]) for digest, domain in pairs
    }
    assert sum(key.startswith("@") for key in samples) == 48, "a place each"
    assert [progress.epoch for progress in told.told if progress.metrics] == [1, 2] * 3


def test_the_bundle_is_calibrated_on_the_domains_left_out(
    whole: tuple[TrainResult, Any], store: Store
) -> None:
    """Its temperature is that of the members' probabilities, and its card shows what `evaluate` finds."""
    result, _ = whole
    assert result.bundle is not None
    bundle = open_bundle(result.bundle.folder)
    assert bundle.digest == result.bundle.digest
    uncalibrated = bundle.manifest.model_copy(update={"calibration": None})
    plain = evaluate(dataclasses.replace(bundle, manifest=uncalibrated), store, device="cpu").predictions
    members = plain[["p_member-0", "p_member-1", "p_member-2"]].to_numpy()
    assert (~np.isnan(members)).sum(axis=1).tolist() == [1] * 48, "the one member without its domain"
    labels = (plain["label"] == "atypical").to_numpy().astype(int)
    assert bundle.manifest.temperature == pytest.approx(
        fit_temperature(labels, members[~np.isnan(members)]), rel=1e-3
    )
    assert bundle.manifest.temperature != 1
    assert bundle.manifest.calibration is not None
    assert (bundle.manifest.calibration.figures, bundle.manifest.calibration.atypical) == (48, 24)
    assert bundle.manifest.calibration.dataset_digest == store.attributes.digest
    report = evaluate(bundle, store, device="cpu").report
    assert report.temperature == bundle.manifest.temperature
    measured = report.reliability["members on domains left out"].before.brier
    assert "## Calibration" in bundle.read_card()
    assert f"{measured:.3f} |" in bundle.read_card().split("## Figures on store")[1]


def test_a_bundle_has_the_limit_of_sharpness_of_its_dataset(
    whole: tuple[TrainResult, Any], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, _ = whole
    assert result.bundle is not None
    assert result.bundle.manifest.sharpness is None  # of six slides
    monkeypatch.setattr(sharpness, "LEAST_SLIDES", 6)
    bundle = job.export(tmp_path / "again", tiny_recipe(), store, result.records, result.work)
    assert bundle.manifest.sharpness is not None
    assert bundle.manifest.sharpness.model_dump() == sharpness_fields(store, PATCH_PX)
    assert f"less than {bundle.manifest.sharpness.lowest:.3f}, computed from 6 slides" in bundle.read_card()


def test_the_plan_is_told_and_kept_before_anything_is_trained(whole: tuple[TrainResult, Any]) -> None:
    result, told = whole
    plan = pd.read_csv(result.work / "plan.csv")
    assert plan["fold"].tolist() == list(DOMAINS)
    assert told.plans[0]["training_n"].tolist() == plan["training_n"].tolist() == [16, 16, 16]


def test_members_are_float16_and_what_the_folds_left(whole: tuple[TrainResult, Any]) -> None:
    result, _ = whole
    assert result.bundle is not None
    for record, member in zip(result.records, result.bundle.manifest.member, strict=True):
        assert member.sha256 == record.sha256
        assert (result.bundle.folder / member.file).read_bytes() == weights(result, record.fold)
    assert {array.dtype for state in result.bundle.read_members() for array in state.values()} == {
        np.dtype("f2")
    }


def test_a_folds_figures_are_those_of_the_stored_weights(
    whole: tuple[TrainResult, Any], store: Store
) -> None:
    """On its validation domain, by the bundle read back: the same as the record and the manifest state."""
    result, _ = whole
    assert result.bundle is not None
    bundle = open_bundle(result.bundle.folder)
    alone = bundle.manifest.model_copy(update={"member": bundle.manifest.member[:1]})
    from wsi_mitosis.core.metrics import score
    from wsi_mitosis.io.bundles import Bundle
    from wsi_mitosis.jobs.predict import predict_crops
    from wsi_mitosis.nets.ensembles import Ensemble

    rows = np.flatnonzero(store.samples["domain"] == "beta")
    ensemble = Ensemble(alone, bundle.read_members()[:1], device="cpu")
    votes = predict_crops(store.images(rows), ensemble, Bundle(bundle.folder, alone, ""))
    scores = score(store.samples["label"].to_numpy()[rows], votes.is_atypical, votes.p_atypical)
    assert result.records[0].validation_balanced_accuracy == scores.balanced_accuracy
    assert result.records[0].validation_auroc == scores.auroc
    assert bundle.manifest.member[0].validation_balanced_accuracy == scores.balanced_accuracy
    assert bundle.manifest.member[0].validation_loss == result.records[0].validation_loss


def test_every_epoch_leaves_a_row_a_curve_and_a_point_for_tensorboard(whole: tuple[TrainResult, Any]) -> None:
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import RecordWriter  # noqa: F401 - the format is its own

    folder = whole[0].work / "alpha"
    rows = metrics_rows(folder / "metrics.csv")
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(float(row["training_total"]) > 0 and row["precision"] == "fp32" for row in rows)
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert not list(folder.glob("checkpoint*"))
    points = {}
    for record in records_of(next(folder.glob("events.out.tfevents.*"))):
        event = Event.FromString(record)
        points |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
    for row in rows:
        wanted = pytest.approx(float(row["validation_total"]), rel=1e-5)  # float32, and 6 digits
        assert points["validation/total", int(row["epoch"])] == wanted


def records_of(path: Path) -> list[bytes]:
    """The records of a TFRecord file: length (8 bytes), its checksum (4), data, checksum (4)."""
    data, records, at = path.read_bytes(), [], 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 8], "little")
        records.append(data[at + 12 : at + 12 + length])
        at += 16 + length
    return records


def test_a_fold_that_is_done_is_not_trained_again(
    whole: tuple[TrainResult, Any], store: Store, recipe: Path, tmp_path: Path
) -> None:
    result, _ = whole
    again, told = trained(recipe, store, tmp_path / "again", work=str(result.work))
    assert [progress.kept for progress in told.told] == [True] * 3
    assert again.bundle is not None
    assert result.bundle is not None
    assert again.bundle.read_members()[0].keys() == result.bundle.read_members()[0].keys()
    assert weights(again) == weights(result)


@pytest.mark.parametrize("change", [{"seed": 1}, {"optimiser": {"epochs": 1}}], ids=["seed", "epochs"])
def test_another_recipe_in_the_same_folder_is_trained_anew(
    store: Store, recipe: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    first, _ = trained(recipe, store, tmp_path / "a", work=str(tmp_path / "work"), **ONE_FOLD)
    before = weights(first)
    other = write_recipe(tmp_path / "other.toml", tiny_recipe(**change))
    second, told = trained(other, store, tmp_path / "b", work=str(tmp_path / "work"), **ONE_FOLD)
    assert not any(progress.kept for progress in told.told)
    assert weights(second) != before


def test_a_choice_of_members_trains_nothing_again(
    whole: tuple[TrainResult, Any], store: Store, tmp_path: Path
) -> None:
    """The two best of three by validation loss."""
    result, _ = whole
    fewer = write_recipe(tmp_path / "fewer.toml", tiny_recipe(selection={"members": 2}))
    chosen, told = trained(fewer, store, tmp_path / "two", work=str(result.work))
    assert all(progress.kept for progress in told.told)
    assert chosen.bundle is not None
    worst = max(result.records, key=lambda record: record.validation_loss)
    kept = [member.test_domain for member in chosen.bundle.manifest.member]
    assert kept == [domain for domain in DOMAINS if domain != worst.test_domain]


def test_other_views_score_the_folds_anew_and_train_nothing(
    whole: tuple[TrainResult, Any], store: Store, tmp_path: Path
) -> None:
    """The manifest's figures are those of the views that the bundle has."""
    result, _ = whole
    shutil.copytree(result.work, tmp_path / "work")
    views = {"threshold": 0.999, "zooms": [1.25]}
    other = write_recipe(tmp_path / "other.toml", tiny_recipe(ensemble=views))
    chosen, told = trained(other, store, tmp_path / "other", work=str(tmp_path / "work"))
    assert all(progress.kept for progress in told.told)
    assert chosen.bundle is not None
    assert chosen.bundle.manifest.ensemble.zooms == (1.25,)
    for record, before, member in zip(
        chosen.records, result.records, chosen.bundle.manifest.member, strict=True
    ):
        assert (record.key, record.sha256) == (before.key, before.sha256)
        assert record.validation_balanced_accuracy == 0.5  # nothing is atypical at this threshold
        assert record.validation_auroc != before.validation_auroc
        assert member.validation_balanced_accuracy == 0.5
        assert FoldFolder(tmp_path / "work" / record.fold, record.key).read_record() == record


def test_a_changed_member_file_is_not_taken_for_done(store: Store, recipe: Path, tmp_path: Path) -> None:
    result, _ = trained(recipe, store, tmp_path / "b", **ONE_FOLD)
    good = weights(result)
    (result.work / "alpha" / "member.safetensors").write_bytes(good[:-1] + b"\x01")
    _, told = trained(recipe, store, tmp_path / "b", **ONE_FOLD)
    assert not told.told[-1].kept
    assert weights(result) == good


def test_no_bundle_before_all_folds_are_done(store: Store, recipe: Path, tmp_path: Path) -> None:
    result, _ = trained(recipe, store, tmp_path / "bundle", **ONE_FOLD)
    assert result.bundle is None
    assert result.waiting == ("beta", "gamma")
    assert result.exit_status == 0
    assert not (tmp_path / "bundle").exists()


def test_a_fold_that_was_killed_ends_as_one_that_never_was(
    whole: tuple[TrainResult, Any], store: Store, recipe: Path, tmp_path: Path
) -> None:
    """A real process, killed without warning after its first epoch."""
    arguments = ["train", str(recipe), "--dataset", str(store.folder), "--out", str(tmp_path / "bundle")]
    placement = ["--workers", "0", "--device", "cpu", "--cpus-per-worker", "1", "--fold", "alpha"]
    command = [sys.executable, "-m", "wsi_mitosis", *arguments, *placement]
    folder = tmp_path / "bundle.training" / "alpha"
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(folder.glob("checkpoint-*.pt")):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (folder / "fold.json").exists()
    done = subprocess.run([*command, "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [record["fold"] for record in json.loads(done.stdout)["folds"]] == ["alpha"]
    assert "epoch 1/2" not in done.stderr
    assert (folder / "member.safetensors").read_bytes() == weights(whole[0])
    assert [row["epoch"] for row in metrics_rows(folder / "metrics.csv")] == ["1", "2"]


def test_a_fold_killed_after_its_last_epoch_needs_no_other(
    whole: tuple[TrainResult, Any],
    store: Store,
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(FoldFolder, "write_record", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        broken, _ = trained(recipe, store, tmp_path / "b", **ONE_FOLD)
    assert broken.exit_status == 1
    assert "disk full" in broken.failed["alpha"]
    mended, told = trained(recipe, store, tmp_path / "b", **ONE_FOLD)
    assert [progress.metrics for progress in told.told] == [None]
    assert weights(mended) == weights(whole[0])


def test_a_failed_fold_leaves_the_others_alone(
    store: Store, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = job.figures

    def failing(of: Store, rows: Any) -> Any:
        found = original(of, rows)
        if "alpha" in set(of.samples["domain"].iloc[rows]):  # what fold alpha alone never reads
            raise RuntimeError("no such disk")
        return found

    monkeypatch.setattr(job, "figures", failing)
    result, told = trained(recipe, store, tmp_path / "bundle")
    assert result.exit_status == 1
    assert result.bundle is None
    assert [record.fold for record in result.records] == ["alpha"]
    assert set(result.failed) == {"beta", "gamma"}
    assert "no such disk" in result.failed["beta"]
    assert any(progress.details for progress in told.told if progress.error)


def test_folds_on_ray_give_the_same_weights(
    whole: tuple[TrainResult, Any], store: Store, recipe: Path, tmp_path: Path
) -> None:
    placement = {"workers": 2, "cpus_per_worker": 1, "device": "cpu"}
    result, told = trained(recipe, store, tmp_path / "bundle", placement=placement)
    assert result.exit_status == 0
    assert all(weights(result, fold) == weights(whole[0], fold) for fold in DOMAINS)
    assert len([progress for progress in told.told if progress.metrics]) == 6


def dying_once(task: Any, threads: int, emit: Any) -> Any:
    """A fold whose process ends after its first epoch, as when memory runs out; not the second time."""

    def emit_or_die(progress: Any) -> None:
        emit(progress)
        if progress.epoch == 1 and not (task.folder / "died").exists():
            (task.folder / "died").touch()
            os._exit(1)

    return run_fold(task, threads, emit_or_die)


def test_workers_of_folds_start_with_the_setting_for_large_blocks(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environments = []

    def noting(tasks: Any, work: Work[Any, Any, Any, Any], *_: Any) -> Iterator[FoldProgress]:
        environments.append(work.environment)
        yield from ()

    monkeypatch.setattr(folds, "run_tasks", noting)
    trained(write_recipe(tmp_path / "tiny.toml", tiny_recipe()), store, tmp_path / "bundle")
    assert environments == [LARGE_BLOCKS_ENVIRONMENT]


@pytest.mark.faults
def test_a_fold_whose_worker_dies_goes_on_from_its_checkpoint(
    whole: tuple[TrainResult, Any],
    store: Store,
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(folds, "run_fold", dying_once)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    placement = {"workers": 1, "cpus_per_worker": 1, "device": "cpu"}
    result, reporter = trained(recipe, store, tmp_path / "bundle", placement=placement, **ONE_FOLD)
    assert (result.work / "alpha" / "died").exists()
    assert result.exit_status == 0
    assert weights(result) == weights(whole[0])
    assert "alpha: its worker died (" in reporter.warnings[-1]


def always_dying(task: Any, _threads: int, _emit: Any) -> None:
    with (task.folder.parent / "deaths").open("a") as file:
        file.write("x")
    os._exit(1)


@pytest.mark.faults
def test_a_fold_whose_worker_always_dies_fails_in_the_end(
    store: Store, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folds, "run_fold", always_dying)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    placement = {"workers": 1, "cpus_per_worker": 1, "device": "cpu"}
    result, _ = trained(recipe, store, tmp_path / "bundle", placement=placement, **ONE_FOLD)
    assert "its worker died (" in result.failed["alpha"]
    assert "It was tried 3 times" in result.failed["alpha"]
    assert (result.work / "deaths").read_text() == "xxx"


def test_what_was_trained_is_evaluated_on_each_members_own_domain(
    whole: tuple[TrainResult, Any], store: Store
) -> None:
    assert whole[0].bundle is not None
    report = evaluate(open_bundle(whole[0].bundle.folder), store, device="cpu").report
    assert report.overall is None
    assert report.domains is None
    assert [member.n for member in report.members.values()] == [16, 16, 16]


def test_figures_in_other_crops_are_known_by_their_places(
    whole: tuple[TrainResult, Any], store: Store, tmp_path: Path
) -> None:
    """The same figures in larger crops, a pixel further to the right."""
    assert whole[0].bundle is not None
    labels = store.folder.parent / "slides/labels.csv"
    head, *rows = labels.read_text().splitlines()
    moved = [f"{slide},{int(x) + 1},{rest}" for slide, x, rest in (row.split(",", 2) for row in rows)]
    (tmp_path / "l.csv").write_text("\n".join([head, *moved]) + "\n")
    built("csv", tmp_path / "l.csv", tmp_path / "s.zarr", images=labels.parent, patch_px=56)
    other = open_store(tmp_path / "s.zarr")
    assert set(other.samples["digest"]).isdisjoint(store.samples["digest"])
    assert evaluate(whole[0].bundle, other, device="cpu").report.trained_on == 48
    renamed = Store(other.folder, other.attributes, other.samples.assign(slide="x" + other.samples["slide"]))
    report = evaluate(whole[0].bundle, renamed, device="cpu").report
    assert report.trained_on == 0
    unknown = Store(other.folder, other.attributes, other.samples.assign(slide=""))
    (note,) = evaluate(whole[0].bundle, unknown, device="cpu").report.notes
    assert note.startswith("The places of 48 of these 48 samples are not known, so that they are compared by")


def test_what_was_trained_classifies_a_slide(whole: tuple[TrainResult, Any], tmp_path: Path) -> None:
    assert whole[0].bundle is not None
    image, centres = slide_of_figures(6, seed=77)
    slide = tiff_slide(tmp_path / "new.tiff", image)
    (tmp_path / "d.csv").write_text("slide,x,y\n" + "".join(f"new.tiff,{x},{y}\n" for x, y in centres))
    assert run([slide], tmp_path / "d.csv", tmp_path / "out", whole[0].bundle.folder).exit_status == 0
    figures = read_figures(tmp_path / "out/figures/new.tiff.parquet")
    assert set(figures["label"]) <= {"atypical", "typical"}
    assert figures["votes_cast"].tolist() == [3] * 6


def test_a_validation_domain_may_be_chosen(store: Store, recipe: Path, tmp_path: Path) -> None:
    result, _ = trained(recipe, store, tmp_path / "b", validation={"alpha": "gamma"}, **ONE_FOLD)
    assert result.records[0].validation_domain == "gamma"
    assert result.records[0].training_domains == ("beta",)


def test_an_encoder_to_start_from_is_part_of_what_a_fold_is(store: Store, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "given.toml", tiny_recipe(initial_weights="given"))
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        torch.save(Backbone(2).state_dict(), tmp_path / "encoder.pth")
        start = {"encoder_weights": str(tmp_path / "encoder.pth"), "encoder_licence": "MIT"}
        options = {**start, **ONE_FOLD}
        result, told = trained(recipe, store, tmp_path / "b", **options)
        assert not told.told[-1].kept
        found.append(weights(result))
    assert found[0] != found[1]


def test_a_recipe_with_an_encoder_of_timm_becomes_a_bundle(store: Store, tmp_path: Path) -> None:
    """Given weights, a field that is enlarged, two rates, and the validation domain trained on too."""
    import timm

    name = "tf_efficientnet_lite0"
    torch.manual_seed(3)
    torch.save(timm.create_model(name, pretrained=False).state_dict(), tmp_path / "encoder.pth")
    recipe = tiny_recipe(
        initial_weights="given",
        drop_path=0.1,
        network={"backbone": f"timm:{name}", "width": None},
        input={"patch_px": 64, "field_px": 32, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
        optimiser={"name": "adamw", "head_rate": 2.0, "epochs": 1},
        selection={"training_domains": "all but test"},
    )
    start = {"encoder_weights": str(tmp_path / "encoder.pth"), "encoder_licence": "Apache-2.0"}
    result, _ = trained(write_recipe(tmp_path / "timm.toml", recipe), store, tmp_path / "b", **start)
    assert [set(record.training_domains) for record in result.records] == [
        {"beta", "gamma"}, {"alpha", "gamma"}, {"alpha", "beta"}
    ]  # fmt: skip
    assert result.bundle is not None
    manifest = open_bundle(result.bundle.folder).manifest
    assert (manifest.network.backbone, manifest.network.width) == (f"timm:{name}", None)
    assert (manifest.input.cut_px, manifest.input.patch_px, manifest.input.mean) == (32, 64, (0.5, 0.5, 0.5))
    assert manifest.training is not None
    assert (manifest.training.encoder_source, manifest.training.encoder_licence) == (
        "encoder.pth", "Apache-2.0"
    )  # fmt: skip
    assert manifest.training.encoder_sha256 == file_sha256(tmp_path / "encoder.pth")
    crops = store.images(np.arange(8))
    ensemble = Ensemble(manifest, result.bundle.read_members(), device="cpu")
    assert ensemble.read_px == 32
    found = ensemble.predict(np.ascontiguousarray(crops[:, 8:40, 8:40]))
    assert np.isfinite(found).all()
    assert found.std() > 0


def test_the_licence_of_given_weights_is_asked_for(store: Store, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "given.toml", tiny_recipe(initial_weights="given"))
    with pytest.raises(SpecError, match="--encoder-licence"):
        trained(recipe, store, tmp_path / "b", encoder_weights="x.pth")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"folds": ["delta"]}, SpecError, "no fold 'delta'.*There are alpha, beta, gamma"),
        ({"encoder_weights": "x.pth", "encoder_licence": "MIT"}, SpecError, "starts from random weights"),
        ({"validation": {"alpha": "delta"}}, SpecError, "delta"),
        ({"dataset": "nowhere.zarr"}, InputError, "no such store"),
        ({"recipe": "nothing"}, SpecError, "no such recipe.*mtl"),
    ],
)
def test_what_cannot_be_trained_is_refused_at_once(
    store: Store, recipe: Path, tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        trained(options.pop("recipe", recipe), store, tmp_path / "b", **options)
    assert not (tmp_path / "b.training").exists()


def test_crops_smaller_than_the_recipes_are_refused(store: Store, tmp_path: Path) -> None:
    large = write_recipe(tmp_path / "large.toml", tiny_recipe(input={"patch_px": 64}))
    with pytest.raises(InputError, match="48 px are smaller than the 64 px"):
        trained(large, store, tmp_path / "b")


def test_a_store_that_is_not_what_it_states_is_not_trained_on(
    store: Store, recipe: Path, tmp_path: Path
) -> None:
    damaged = open_store(Path(shutil.copytree(store.folder, tmp_path / "s.zarr")))
    chunk = next(path for path in (damaged.folder / "images/c").rglob("*") if path.is_file())
    chunk.unlink()
    with pytest.raises(DatasetError, match=r"s\.zarr: opening a store: 1 of the 1 files of 'images' are not"):
        trained(recipe, damaged, tmp_path / "b")
    assert not (tmp_path / "b").exists()
    assert not (tmp_path / "b.training").exists()


def test_a_store_with_pixels_of_another_is_not_trained_on(store: Store, recipe: Path, tmp_path: Path) -> None:
    """All of its files are there and can be read: only the digest of the content shows it."""
    damaged = open_store(Path(shutil.copytree(store.folder, tmp_path / "s.zarr")))
    masks = damaged.folder / "masks/c/0/0/0"
    masks.write_bytes((tiny_store(tmp_path / "other", masks="none").folder / "masks/c/0/0/0").read_bytes())
    with pytest.raises(DatasetError, match="its content does not have the digest that it states"):
        trained(recipe, damaged, tmp_path / "b")
    assert not (tmp_path / "b.training").exists()


def test_a_store_that_is_replaced_between_folds_fails_those_that_follow(
    store: Store, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(store.folder, tmp_path / "s.zarr"))
    other = tiny_store(tmp_path / "other", masks="none").folder

    def replacing(task: Any, threads: int, emit: Any) -> Any:
        if task.fold.name == "beta":
            shutil.rmtree(folder)
            other.rename(folder)
        return run_fold(task, threads, emit)

    monkeypatch.setattr(folds, "run_fold", replacing)
    result, _ = trained(recipe, open_store(folder), tmp_path / "b")
    assert [record.fold for record in result.records] == ["alpha"]
    assert set(result.failed) == {"beta", "gamma"}
    told = "s.zarr: checking a store: it was replaced meanwhile"
    assert [text for text in result.failed.values() if told not in text] == []
    assert result.bundle is None


@pytest.mark.parametrize(("mpp", "fits"), [(0.5, False), (0.2, True), (0.12, False)])
def test_another_scale_is_resampled_or_refused_before_the_first_epoch(
    recipe: Path, tmp_path: Path, mpp: float, fits: bool
) -> None:
    """Crops of 48 px: at 0.2 um/px they have 38 of the 32 px that the recipe needs, at 0.12 only 22."""
    finer = store_at(tmp_path, mpp)
    if fits:
        result, _ = trained(recipe, finer, tmp_path / "b")
        assert result.bundle is not None
        assert result.bundle.manifest.training is not None
        assert result.bundle.manifest.training.dataset_digest == finer.attributes.digest
        report = evaluate(result.bundle, finer, device="cpu").report
        assert report.trained_on == len(finer.samples)
        return
    with pytest.raises(InputError, match=rf"s\.zarr: training: its crops .*{mpp} um/px.*0\.25 um/px"):
        trained(recipe, finer, tmp_path / "b")
    assert not (tmp_path / "b.training").exists()


def store_at(folder: Path, mpp: float) -> Store:
    """`tiny_store`, but of slides of another um/px."""
    slides = folder / "slides"
    labels = labelled_slides(slides)
    for path in slides.glob("*.tiff"):
        tiff_slide(path, tifffile.imread(path), mpp=mpp)
    built("csv", labels, folder / "s.zarr", masks="haematoxylin", patch_px=48)
    return open_store(folder / "s.zarr")


def test_two_trainings_do_not_share_a_folder(store: Store, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "b.training/alpha").mkdir(parents=True)
    for folder, options in ((tmp_path / "b.training", {}), (tmp_path / "b.training/alpha", ONE_FOLD)):
        other = FolderLock(folder)
        other.acquire()
        told = rf"{folder.name}: training: .*process \d+ .*Wait for the other training"
        if options:
            result, _ = trained(recipe, store, tmp_path / "b", **options)
            assert re.search(told, result.failed["alpha"])
        else:
            with pytest.raises(OutputError, match=told):
                trained(recipe, store, tmp_path / "b")
        other.release()
    result, _ = trained(recipe, store, tmp_path / "b", **ONE_FOLD)
    assert [record.fold for record in result.records] == ["alpha"]
    assert not list((tmp_path / "b.training").rglob(".wsi-mitosis.lock*"))


def test_a_fold_whose_checkpoint_was_cut_begins_anew(
    whole: tuple[TrainResult, Any],
    store: Store,
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A checkpoint of the first epoch, as a full disk leaves it."""

    def interrupted(task: Any, threads: int, emit: Any) -> Any:
        def after(progress: FoldProgress) -> None:
            emit(progress)
            raise FloatingPointError("stopped after an epoch")

        return run_fold(task, threads, after)

    with monkeypatch.context() as patch:
        patch.setattr(folds, "run_fold", interrupted)
        trained(recipe, store, tmp_path / "b", **ONE_FOLD)
    (checkpoint,) = (tmp_path / "b.training/alpha").glob("checkpoint-*.pt")
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1000])
    result, told = trained(recipe, store, tmp_path / "b", **ONE_FOLD)
    assert told.warnings == [
        *whole[1].warnings,
        f"alpha: {checkpoint} is damaged or cut short, so that the fold begins anew",
    ]
    assert [progress.epoch for progress in told.told if progress.metrics] == [1, 2]
    assert weights(result) == weights(whole[0])


def test_a_training_that_is_killed_before_its_card_is_finished_by_the_next(
    whole: tuple[TrainResult, Any],
    store: Store,
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(whole[0].work, tmp_path / "b.training")
    (tmp_path / ".b.draft").mkdir()
    (tmp_path / ".b.draft/manifest.toml").write_text("left by a killed run")

    def killed(*_: Any, **__: Any) -> None:
        assert (tmp_path / ".b.draft/manifest.toml").read_text() != "left by a killed run"
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(job, "calibrate_and_score", killed)
        with pytest.raises(KeyboardInterrupt):
            trained(recipe, store, tmp_path / "b")
    assert not (tmp_path / "b").exists()
    result, _ = trained(recipe, store, tmp_path / "b")
    assert result.bundle is not None
    assert result.bundle.manifest.name == "b"
    assert result.bundle.manifest.calibration is not None
    assert "Figures on" in (tmp_path / "b/CARD.md").read_text()
    assert not (tmp_path / ".b.draft").exists()


def test_a_batch_larger_than_a_fold_is_refused_before_the_first_one(tmp_path: Path, store: Store) -> None:
    large = write_recipe(tmp_path / "large.toml", tiny_recipe(optimiser={"batch": 17}))
    with pytest.raises(InputError, match=r"fold \w+: its 16 training samples are fewer than a batch of 17"):
        trained(large, store, tmp_path / "b")
    assert not (tmp_path / "b.training").exists()


def test_what_looks_like_a_mistake_is_told_again_or_refused(recipe: Path, tmp_path: Path) -> None:
    labels = labelled_slides(tmp_path / "slides")
    labels.write_text(labels.read_text().replace("beta-1.tiff", "beta-0.tiff"))
    built("csv", labels, tmp_path / "s.zarr", masks="haematoxylin", patch_px=48)
    doubtful = open_store(tmp_path / "s.zarr")
    told = r"8 figures are there more than once: 'beta-0\.tiff:24:40 = beta-0\.tiff:24:40', .* and 5 more"
    with pytest.raises(DatasetError, match=f"s.zarr: checking labels: {told}"):
        trained(recipe, doubtful, tmp_path / "b", strict=True)
    _, reporter = trained(recipe, doubtful, tmp_path / "b", **ONE_FOLD)
    assert re.fullmatch(told, reporter.warnings[0])


def test_decoders_need_masks_and_a_single_task_does_not(tmp_path: Path, recipe: Path) -> None:
    bare = tiny_store(tmp_path / "bare", masks="none")
    with pytest.raises(InputError, match="no masks"):
        trained(recipe, bare, tmp_path / "b")
    single = write_recipe(tmp_path / "single.toml", tiny_recipe(decoders=None, optimiser={"epochs": 1}))
    result, _ = trained(single, bare, tmp_path / "b", **ONE_FOLD)
    assert result.exit_status == 0


def test_subtypes_are_learnt_from_a_store_that_has_them(store: Store, recipe: Path, tmp_path: Path) -> None:
    learns = tiny_recipe(decoders=None, optimiser={"epochs": 1}, loss={"subtypes": 0.5})
    written = write_recipe(tmp_path / "subtypes.toml", learns)
    with pytest.raises(InputError, match="training: has no subtypes, which recipe 'tiny' learns"):
        trained(written, store, tmp_path / "b")
    assert not (tmp_path / "b.training").exists()
    named = tiny_store(tmp_path / "named", masks="none", subtypes=True)
    result, _ = trained(written, named, tmp_path / "b")
    assert result.exit_status == 0
    metrics = FoldFolder(tmp_path / "b.training" / "alpha", "0" * 64).read_metrics()
    assert metrics["training_subtypes"].iloc[-1] > 0.5
    card = open_bundle(tmp_path / "b").read_card()
    assert "classification, the subtypes that experts named; only the first is kept" in card


def test_the_subtypes_of_figures_are_the_shares_of_their_experts(tmp_path: Path) -> None:
    named = tiny_store(tmp_path, masks="none", subtypes=True)
    rows = np.array([2, 0, 1, 40])
    found = job.figures(named, rows).subtypes
    assert found is not None
    expected = {"": [0, 0, 0], "metaphase; anaphase": [0.5, 0.5, 0], "ring; ring": [0, 0, 1]}
    assert found.tolist() == [expected[text] for text in named.samples["subtypes"].iloc[rows]]
    assert len({tuple(row) for row in found.tolist()}) == 3
    assert job.figures(tiny_store(tmp_path / "plain", masks="none"), rows).subtypes is None


def test_an_output_folder_in_use_is_refused_before_the_first_epoch(
    store: Store, recipe: Path, tmp_path: Path
) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x").touch()
    with pytest.raises(OutputError, match="exists already"):
        trained(recipe, store, tmp_path / "b")
    assert not (tmp_path / "b.training").exists()


def test_a_record_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "fold.json").write_text("{")
    with pytest.raises(SpecError, match="not valid JSON"):
        FoldFolder(tmp_path, "0" * 64).read_record()
    with pytest.raises(SpecError, match="unknown key 'colour'"):
        FoldRecord.parse_json('{"colour": 1}', "x")


def test_what_a_fold_is_keyed_by(store: Store, tmp_path: Path) -> None:
    """Two plans of the same data, the one with another validation domain: another key for that fold alone."""
    spec = train_spec("nano", store, tmp_path / "b")
    keys = []
    for validation in ({}, {"alpha": "gamma"}):
        folds = job.plan_folds(store.samples, validation)
        keys.append([task.key for task in job._tasks(spec, tiny_recipe(), store, folds, tmp_path, None)])
    assert keys[0][0] != keys[1][0]
    assert keys[0][1:] == keys[1][1:]
    assert tiny_recipe().input.patch_px == PATCH_PX
