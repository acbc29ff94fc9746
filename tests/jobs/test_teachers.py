"""Members that a bundle teaches: who teaches, what is learnt, what the bundle states, what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training_files import (
    DOMAINS,
    PATCH_PX,
    tiny_bundle,
    tiny_recipe,
    tiny_store,
    train_spec,
    trained,
    with_torch,
    write_recipe,
)
from wsi_mitosis.core.folds import plan_folds
from wsi_mitosis.core.geometry import cut_centres
from wsi_mitosis.errors import BundleError, InputError, SpecError
from wsi_mitosis.io.bundles import Bundle, open_bundle
from wsi_mitosis.io.training.stores import Store
from wsi_mitosis.jobs import train as job
from wsi_mitosis.jobs.evaluate import evaluate
from wsi_mitosis.jobs.known import as_lines, known_with, sample_lines
from wsi_mitosis.jobs.teachers import Teacher, taught, teachers
from wsi_mitosis.jobs.train import FoldProgress, TrainResult
from wsi_mitosis.nets.ensembles import Ensemble
from wsi_mitosis.recipes import RecipeSpec

TAUGHT: dict[str, Any] = {
    "loss": {"teacher_share": 0.5},
    "optimiser": {"epochs": 1},
    "selection": {"epoch": "last", "training_domains": "all but test"},
}
ELSEWHERE = f"{'e' * 64} delta"


@pytest.fixture(scope="module", autouse=True)
def _torch() -> Iterator[None]:
    with with_torch():
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return tiny_store(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, store: Store) -> Bundle:
    """A member for each domain, which has not seen it, and a figure that is in no domain of the store."""
    return tiny_bundle(
        tmp_path_factory.mktemp("teachers") / "known", samples=[*sample_lines(store), ELSEWHERE]
    )


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipes") / "tiny.toml", tiny_recipe(**TAUGHT))


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, store: Store, teacher: Bundle, recipe: Path
) -> TrainResult:
    out = tmp_path_factory.mktemp("whole") / "bundle"
    return trained(recipe, store, out, teacher=str(teacher.folder))[0]


def weights(result: TrainResult, fold: str = "alpha") -> bytes:
    return (result.work / fold / "member.safetensors").read_bytes()


# --- who teaches


def test_a_fold_is_taught_by_the_member_that_was_trained_without_its_test_domain(
    store: Store, teacher: Bundle
) -> None:
    folds = plan_folds(store.samples, train_on_validation=True)
    chosen = teachers(teacher, store, folds)
    assert [fold.test_domain for fold in folds] == list(DOMAINS)
    assert [of.members for of in chosen] == [(0,), (1,), (2,)]
    assert {of.digest for of in chosen} == {teacher.digest}


def test_a_bundle_that_knows_none_of_the_figures_teaches_by_all_members(store: Store, tmp_path: Path) -> None:
    stranger = tiny_bundle(tmp_path / "stranger", samples=[ELSEWHERE])
    folds = plan_folds(store.samples)
    assert [of.members for of in teachers(stranger, store, folds)] == [(0, 1, 2)] * 3


def test_a_fold_that_is_selected_on_a_domain_has_no_teacher_that_knows_it(
    store: Store, teacher: Bundle
) -> None:
    with pytest.raises(InputError, match="knows figures that fold alpha is tested or selected on"):
        teachers(teacher, store, plan_folds(store.samples))


# --- what is learnt


def test_what_is_taught_is_the_mean_of_the_members_with_the_bundles_views(
    store: Store, teacher: Bundle
) -> None:
    rows = np.array([40, 3, 17])
    members = (0, 2)
    found = taught(Teacher(teacher.folder, teacher.digest, members), store, rows, "cpu", 1)
    ensemble = Ensemble(teacher.manifest, teacher.read_members(), device="cpu")
    all_members = ensemble.predict(cut_centres(store.images(rows), ensemble.read_px, "store"))
    assert found == pytest.approx(all_members[:, members].mean(axis=1), abs=1e-6)
    assert found.dtype == np.float32


def test_a_teacher_of_another_scale_sees_the_figures_at_its_own(store: Store, tmp_path: Path) -> None:
    """Crops of 48 px at 0.25 um/px are 32 px at 0.375, as if the store had been resampled for `evaluate`."""
    coarse = {"input": {**tiny_recipe().input.model_dump(), "mpp": 0.375}}
    bundle = tiny_bundle(tmp_path / "coarse", samples=sample_lines(store), **coarse)
    [first, *_] = teachers(bundle, store, plan_folds(store.samples, train_on_validation=True))
    rows = np.arange(8)
    scaled = store.at(0.375).images(rows)
    assert scaled.shape[1] == PATCH_PX
    expected = Ensemble(bundle.manifest, bundle.read_members(), device="cpu").predict(scaled)
    found = taught(first, store.at(0.3), rows, "cpu", 1)
    assert found == pytest.approx(expected[:, 0], abs=1e-6)


def test_crops_that_are_too_small_for_the_teacher_are_refused_before_anything_is_trained(
    store: Store, recipe: Path, tmp_path: Path
) -> None:
    wide = {"input": {**tiny_recipe().input.model_dump(), "patch_px": 64}}
    bundle = tiny_bundle(tmp_path / "wide", samples=sample_lines(store), **wide)
    with pytest.raises(InputError, match="crops of 48 px are smaller than the 64 px of the teacher 'known'"):
        trained(recipe, store, tmp_path / "b", teacher=str(bundle.folder))
    assert not (tmp_path / "b.training").exists()


def test_a_fold_learns_from_its_teacher(
    store: Store, teacher: Bundle, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training loop gets the answers of the member that knows nothing of the test domain."""
    got = []

    def look(task: job.FoldTask, *_: object) -> FoldProgress:
        got.append((task, job._training_figures(task, store, 1)))
        return FoldProgress(task.fold.name, 0, 1, error="looked at")

    monkeypatch.setattr(job, "_trained", look)
    trained(recipe, store, tmp_path / "b", teacher=str(teacher.folder), folds=["beta"])
    [(task, figures)] = got
    rows = task.fold.training_rows
    assert set(store.samples["domain"].iloc[rows]) == {"alpha", "gamma"}
    expected = taught(Teacher(teacher.folder, teacher.digest, (1,)), store, rows, "cpu", 1)
    assert figures.taught.tolist() == expected.tolist()
    assert (np.diff(figures.taught) != 0).any()


def test_the_teacher_changes_what_is_learnt(whole: TrainResult, store: Store, tmp_path: Path) -> None:
    alone = tiny_recipe(**{**TAUGHT, "loss": {"teacher_share": 0.0}})
    result, _ = trained(write_recipe(tmp_path / "r.toml", alone), store, tmp_path / "b", folds=["alpha"])
    assert weights(result) != weights(whole)


def test_the_same_teacher_trains_nothing_again_and_another_does(
    whole: TrainResult, store: Store, teacher: Bundle, recipe: Path, tmp_path: Path
) -> None:
    work, one = str(whole.work), {"folds": ["alpha"]}
    again, told = trained(recipe, store, tmp_path / "b", work=work, teacher=str(teacher.folder), **one)
    assert [progress.kept for progress in told.told] == [True]
    assert weights(again) == weights(whole)
    keys = []
    for other in (teacher, tiny_bundle(tmp_path / "other", samples=sample_lines(store), version="4")):
        chosen = teachers(other, store, plan_folds(store.samples, train_on_validation=True))[0]
        keys.append(job._taught_key("key", chosen))
    assert keys[0] != keys[1]


def test_a_teacher_that_is_replaced_meanwhile_fails_the_folds_that_follow(
    store: Store, teacher: Bundle
) -> None:
    gone = Teacher(teacher.folder, "0" * 64, (0,))
    with pytest.raises(BundleError, match=r"replaced meanwhile.*use the new one"):
        taught(gone, store, np.array([0]), "cpu", 1)


# --- what the bundle states


def test_the_bundle_names_its_teacher_and_knows_what_that_one_knew(
    whole: TrainResult, store: Store, teacher: Bundle
) -> None:
    assert whole.bundle is not None
    bundle = open_bundle(whole.bundle.folder)
    origin = bundle.manifest.training
    assert origin is not None
    assert origin.teacher == f"{teacher.manifest.name} {teacher.digest}"
    assert f"members of {origin.teacher}" in bundle.read_card()
    known = bundle.read_samples()
    assert known[ELSEWHERE.split()[0]] == {"delta"}
    assert known.keys() - {ELSEWHERE.split()[0]} == {line.split()[0] for line in sample_lines(store)}


def test_what_a_teacher_knows_without_a_domain_stays_without_one(store: Store, tmp_path: Path) -> None:
    line, *others = sample_lines(store)
    teacher = tiny_bundle(tmp_path / "t", samples=[line.split()[0], ELSEWHERE])
    assert set(as_lines(known_with(teacher, store))) == {line.split()[0], ELSEWHERE, *others}


def test_each_member_is_still_scored_on_the_domain_that_it_has_not_seen(
    whole: TrainResult, store: Store
) -> None:
    assert whole.bundle is not None
    report = evaluate(whole.bundle, store, device="cpu").report
    assert {name: scores.test_domain for name, scores in report.members.items()} == {
        f"member-{position}": domain for position, domain in enumerate(DOMAINS)
    }


def test_a_bundle_without_a_teacher_states_none(store: Store, tmp_path: Path) -> None:
    fields = job.manifest_fields(tiny_recipe(), store, "b", "MIT")
    assert "teacher" not in fields["training"]


# --- what is refused


def test_a_teacher_and_a_share_belong_together(
    store: Store, teacher: Bundle, recipe: Path, tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match=r"teacher_share of 0\.5.*Name a bundle"):
        trained(recipe, store, tmp_path / "b")
    plain = write_recipe(tmp_path / "plain.toml", tiny_recipe())
    with pytest.raises(SpecError, match=r"teacher_share of 0.*and for no other"):
        trained(plain, store, tmp_path / "b", teacher=str(teacher.folder))


def test_an_untrained_bundle_teaches_nothing(store: Store, recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="it is untrained"):
        trained(recipe, store, tmp_path / "b", teacher="untrained-tiny")
    assert not (tmp_path / "b.training").exists()


def test_members_that_are_trained_further_have_no_teacher(
    store: Store, teacher: Bundle, recipe: Path, tmp_path: Path
) -> None:
    folder = str(teacher.folder)
    with pytest.raises(SpecError, match="leave out --teacher"):
        train_spec(recipe, store, tmp_path / "b", parent=folder, teacher=folder)
    recipe_of_bundle = tiny_recipe(**{**TAUGHT, "loss": {"teacher_share": 0.5, "subtypes": 0.5}})
    further = recipe_of_bundle.further_from(teacher.manifest.ensemble)
    assert (further.loss.teacher_share, further.loss.subtypes) == (0, 0)


@pytest.mark.parametrize("key", ["teacher_share", "subtypes"])
def test_a_recipe_without_a_later_key_has_the_digest_that_it_had(key: str) -> None:
    recipe = tiny_recipe()
    with_default = recipe.model_dump(mode="json")
    assert with_default["loss"].pop(key) == 0
    assert RecipeSpec.parse(with_default, "test").digest == recipe.digest
    assert tiny_recipe(loss={key: 0.5}).digest != recipe.digest
