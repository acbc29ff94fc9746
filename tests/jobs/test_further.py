"""Members that are trained further: what changes, what is kept, what is measured, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as oracle

from tests.dataset_files import built, random_images, write_csv
from tests.dataset_files import store as store_of
from tests.evaluations import calibration
from tests.slide_files import tiff_slide
from tests.training_files import (
    CROP_PX,
    DOMAINS,
    Silent,
    slide_of_figures,
    tiny_bundle,
    tiny_recipe,
    tiny_store,
    train_spec,
    trained,
    with_torch,
    write_recipe,
)
from wsi_mitosis.core.geometry import cut_centres
from wsi_mitosis.errors import BundleError, InputError, SpecError
from wsi_mitosis.io.bundles import Bundle, find_bundle, open_bundle
from wsi_mitosis.io.training.runs import read_recipe
from wsi_mitosis.io.training.stores import Store, open_store
from wsi_mitosis.jobs import further, train
from wsi_mitosis.jobs.evaluate import evaluate
from wsi_mitosis.jobs.further import Change, FurtherGain, known_lines
from wsi_mitosis.jobs.known import sample_lines
from wsi_mitosis.jobs.train import FoldProgress, Start, TrainResult
from wsi_mitosis.nets.ensembles import Ensemble
from wsi_mitosis.specs import MemberSpec, TrainSpec

FURTHER = {"epochs": 1, "batch": 8, "rate": 0.5}


def lab_store(folder: Path, slides: int = 6, per_slide: int = 10) -> Store:
    """Figures of a laboratory, half of them atypical, none of which is in `tiny_store`."""
    folder.mkdir(parents=True)
    rows = []
    for number in range(slides):
        slide, centres = slide_of_figures(per_slide, 300 + number)
        tiff_slide(folder / f"lab-{number}.tiff", slide)
        rows += [
            {"slide": f"lab-{number}.tiff", "x": x, "y": y, "label": "AMF" if i % 2 else "NMF"}
            for i, (x, y) in enumerate(centres)
        ]
    labels = write_csv(folder / "lab.csv", ("slide", "x", "y", "label"), rows)
    built("csv", labels, folder / "lab.zarr", patch_px=CROP_PX)
    return open_store(folder / "lab.zarr")


@pytest.fixture(scope="module", autouse=True)
def _torch() -> Iterator[None]:
    with with_torch():
        yield


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """What the parent says that it was trained on."""
    return tiny_store(tmp_path_factory.mktemp("original"), masks="none")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return lab_store(tmp_path_factory.mktemp("lab") / "own")


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory, original: Store) -> Bundle:
    folder = tmp_path_factory.mktemp("parents") / "parent"
    ensemble = {**tiny_recipe().ensemble.model_dump(), "threshold": 0.45}
    more = {"ensemble": ensemble, "calibration": calibration(0.8, "own figures")}
    return tiny_bundle(folder, members=2, samples=sample_lines(original), **more)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipes") / "tiny.toml", tiny_recipe(further=FURTHER))


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, lab: Store, parent: Bundle, recipe: Path
) -> tuple[TrainResult, Silent]:
    return trained(recipe, lab, tmp_path_factory.mktemp("whole") / "mine", parent=str(parent.folder))


def new_bundle(result: TrainResult) -> Bundle:
    assert result.bundle is not None
    return open_bundle(result.bundle.folder)


def planned(
    recipe: Path, store: Store, out: Path, parent: Bundle, **options: Any
) -> tuple[TrainResult, Silent]:
    """A training whose folds are not begun."""

    def nobody(*_: Any) -> Generator[FoldProgress, None, None]:
        yield from ()

    silent = Silent()
    spec = train_spec(recipe, store, out, parent=str(parent.folder), **options)
    return further.train_further(spec, nobody, silent), silent


# --- the new bundle


def test_a_bundle_of_other_weights_with_the_input_and_the_vote_of_its_parent(
    whole: tuple[TrainResult, Silent], parent: Bundle, lab: Store
) -> None:
    bundle = new_bundle(whole[0])
    manifest, before = bundle.manifest, parent.manifest
    assert whole[0].exit_status == 0
    assert manifest.name == "mine"
    assert manifest.parent is not None
    assert (manifest.parent.name, manifest.parent.digest) == (before.name, parent.digest)
    assert bundle.digest != parent.digest
    for name in ("input", "network", "ensemble", "calibration", "sharpness", "intended_use", "licence"):
        assert getattr(manifest, name) == getattr(before, name), name
    assert (manifest.temperature, manifest.ensemble.threshold) == (0.8, 0.45)
    assert [member.test_domain for member in manifest.member] == list(DOMAINS[:2])
    assert manifest.training is not None
    assert manifest.training.dataset_digest == lab.attributes.digest
    assert manifest.training.beside_digest is None
    effective = tiny_recipe(further=FURTHER).further_from(before.ensemble)
    assert manifest.training.recipe == f"tiny {effective.digest}"
    assert open_bundle(parent.folder).digest == parent.digest


def test_each_member_starts_from_its_own_and_keeps_the_statistics_of_batch_norm(
    whole: tuple[TrainResult, Silent], parent: Bundle
) -> None:
    before, after = parent.read_members(), new_bundle(whole[0]).read_members()
    statistics = [name for name in before[0] if "running" in name]
    assert statistics
    for old, new in zip(before, after, strict=True):
        for name in statistics:
            np.testing.assert_array_equal(new[name], old[name])
        moved = [np.abs(new[name].astype(float) - old[name]).max() for name in old if name not in statistics]
        assert 0 < max(moved) < 0.05  # a step of Muon or AdamW is no larger than its rate, here 5e-4
    distances = [
        [sum(np.abs(new[name].astype(float) - old[name]).sum() for name in old) for old in before]
        for new in after
    ]
    assert [int(np.argmin(row)) for row in distances] == [0, 1]


def test_a_member_learns_from_its_own_field(
    tmp_path: Path, whole: tuple[TrainResult, Silent], parent: Bundle, lab: Store, recipe: Path
) -> None:
    """The second member has a smaller one here; the first learns what it learns beside one of the same."""
    smaller = parent.manifest.input.cut_px - 8
    shutil.copytree(parent.folder, tmp_path / "close")
    path = tmp_path / "close" / "manifest.toml"
    first, second, last = path.read_text().rpartition("[[member]]\n")
    path.write_text(f"{first}{second}field_px = {smaller}\n{last}")
    bundle = new_bundle(trained(recipe, lab, tmp_path / "mine", parent=str(tmp_path / "close"))[0])
    assert [member.field_px for member in bundle.manifest.member] == [None, smaller]
    alike, other = zip(new_bundle(whole[0]).read_members(), bundle.read_members(), strict=True)
    for name in alike[0]:
        np.testing.assert_array_equal(alike[1][name], alike[0][name])
    assert any((other[1][name] != other[0][name]).any() for name in other[0])


def test_the_last_epoch_is_kept_whatever_the_left_out_slides_say(whole: tuple[TrainResult, Silent]) -> None:
    assert [record.epoch for record in whole[0].records] == [1, 1]
    changed = tiny_recipe(further={**FURTHER, "epochs": 3}, selection={"epoch": "best"})
    effective = changed.further_from(changed.ensemble)
    assert (effective.selection.epoch, effective.optimiser.epochs, effective.decoders) == ("last", 3, None)
    assert effective.optimiser.learning_rate == 0.5 * changed.optimiser.learning_rate
    assert changed.digest != effective.digest
    assert tiny_recipe(selection={"epoch": "best"}).digest == changed.digest  # trained anew, it is the same


def test_it_knows_what_it_and_its_parent_were_trained_on(
    whole: tuple[TrainResult, Silent], parent: Bundle, lab: Store, original: Store
) -> None:
    bundle = new_bundle(whole[0])
    known = bundle.read_samples()
    assert parent.read_samples().items() <= known.items()
    assert {known[digest] for digest in lab.samples["digest"]} == {frozenset()}
    with pytest.raises(InputError, match="all 60 samples were used to train or calibrate 'mine'"):
        evaluate(bundle, lab, device="cpu", backend="torch")
    members = evaluate(bundle, original, device="cpu", backend="torch").report
    assert members.overall is None
    assert members.trained_on == 48


# --- what is measured


def test_the_gain_is_of_each_figure_by_the_member_that_left_out_its_slide(
    whole: tuple[TrainResult, Silent], parent: Bundle, lab: Store
) -> None:
    """Labelled one by one, and scored by scikit-learn. Two members leave out two of five parts."""
    result, told = whole
    plan = told.plans[0]
    assert plan["test"].tolist() == ["part 1 of 5", "part 2 of 5"]
    slides = lab.samples["slide"].to_numpy()
    left_out = [["lab-0.tiff", "lab-5.tiff"], ["lab-1.tiff"]]  # five atypical figures each
    assert plan["test_n"].tolist() == [20, 10]
    labels, values = [], {"before": [], "after": []}
    for member, names in enumerate(left_out):
        rows = np.flatnonzero(np.isin(slides, names))
        labels += lab.samples["label"].to_numpy()[rows].tolist()
        for when, bundle in (("before", parent), ("after", new_bundle(result))):
            alone = bundle.manifest.model_copy(update={"member": (bundle.manifest.member[member],)})
            ensemble = Ensemble(alone, [bundle.read_members()[member]], device="cpu")
            crops = cut_centres(lab.images(rows), ensemble.read_px, "test")
            values[when] += ensemble.predict(crops)[:, 0].tolist()
    gain = result.gain
    assert gain is not None
    assert (gain.figures, gain.atypical, gain.slides) == (30, 15, 3)
    for when in ("before", "after"):
        called = np.array(values[when]) >= 0.45
        assert getattr(gain.balanced_accuracy, when) == pytest.approx(
            oracle.balanced_accuracy_score(labels, called)
        )
        assert getattr(gain.auroc, when) == pytest.approx(oracle.roc_auc_score(labels, values[when]))
    low, high = gain.auroc.interval
    assert low <= gain.auroc.gain <= high


def test_the_gain_is_in_the_folder_of_the_training_and_on_the_card(
    whole: tuple[TrainResult, Silent], parent: Bundle
) -> None:
    result, _ = whole
    assert result.gain is not None
    assert json.loads((result.work / "gain.json").read_text()) == result.gain.as_json()
    card = new_bundle(result).read_card()
    for line in result.gain.lines():
        assert f"- {line}\n" in card
    assert f"{parent.manifest.name} {parent.manifest.version}, digest `{parent.digest[:16]}`" in card


def gain_of(before: float, after: float, low: float, high: float) -> list[str]:
    same = Change(0.8, 0.9, (0.05, 0.15))
    return FurtherGain(60, 30, 6, Change(before, after, (low, high)), same).lines()


def test_it_says_so_if_the_bundle_is_not_known_to_be_better() -> None:
    better = gain_of(0.8, 0.9, 0.05, 0.15)
    assert better == [
        "Measured on 60 figures of 6 slides, 30 of them atypical, each labelled by members that left out its "
        "slide.",
        "Balanced accuracy: 0.800 before, 0.900 after; gain +0.100, 95 % interval [+0.050, +0.150].",
        "AUROC: 0.800 before, 0.900 after; gain +0.100, 95 % interval [+0.050, +0.150].",
    ]
    unclear = gain_of(0.8, 0.9, -0.05, 0.25)
    assert any(line.startswith("Balanced accuracy: its interval includes 0") for line in unclear)
    assert not any("WORSE" in line for line in unclear)
    worse = gain_of(0.9, 0.8, -0.15, -0.05)
    assert any(line.startswith("Balanced accuracy is WORSE than before") for line in worse)
    assert not any("includes 0" in line for line in worse)
    both = gain_of(0.9, 0.85, -0.15, 0.05)
    assert any("WORSE" in line for line in both)
    assert any("includes 0" in line for line in both)
    assert any("includes 0" in line for line in gain_of(0.9, 0.9, 0.0, 0.0))


def test_labels_that_are_not_blind_are_told(lab: Store, parent: Bundle, recipe: Path, tmp_path: Path) -> None:
    seen = lab.samples["label_source"].where(np.arange(60) >= 7, "review")
    columns = {name: lab.samples[name].tolist() for name in lab.samples if name != "digest"}
    fields = {"source": "reviews", "mpp": 0.25}
    own = store_of(
        tmp_path / "s.zarr", lab.images(), fields=fields, **{**columns, "label_source": seen.tolist()}
    )
    result, told = planned(recipe, own, tmp_path / "b", parent)
    assert result.waiting == ("member-0", "member-1")
    assert result.bundle is None
    assert any(warning.startswith("7 of these 60 labels are not blind") for warning in told.warnings)


# --- again, and beside


def test_what_is_trained_is_not_trained_again(
    whole: tuple[TrainResult, Silent], lab: Store, parent: Bundle, recipe: Path, tmp_path: Path
) -> None:
    work = str(whole[0].work)
    again, told = trained(recipe, lab, tmp_path / "mine", work=work, parent=str(parent.folder))
    assert [progress.kept for progress in told.told] == [True] * 2
    assert new_bundle(again).digest == new_bundle(whole[0]).digest
    assert again.gain == whole[0].gain


def test_a_store_beside_is_learnt_from_too(
    whole: tuple[TrainResult, Silent],
    lab: Store,
    original: Store,
    parent: Bundle,
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    numbers = []
    joined = train._joined

    def noting(first: Any, second: Any) -> Any:
        numbers.append((len(first), len(second)))
        return joined(first, second)

    monkeypatch.setattr(train, "_joined", noting)
    options = {"parent": str(parent.folder), "beside": str(original.folder)}
    result, _ = trained(recipe, lab, tmp_path / "both", **options)
    assert numbers == [(40, 32), (50, 32)], "two of the three domains of 16"
    manifest = new_bundle(result).manifest
    assert manifest.training is not None
    assert manifest.training.beside_digest == original.attributes.digest
    assert new_bundle(result).read_samples() == new_bundle(whole[0]).read_samples()
    assert f"digest `{original.attributes.digest[:16]}`" in new_bundle(result).read_card()
    assert {record.key for record in result.records}.isdisjoint(record.key for record in whole[0].records)


def test_a_member_learns_nothing_of_its_own_domain(tmp_path: Path) -> None:
    images = random_images(5)
    images[4] = images[0]  # under another domain, the figure is the same
    store = store_of(tmp_path / "s.zarr", images, domain=["a", "a", "b", "c", "d"])

    def rows(domain: str | None) -> list[int]:
        member = MemberSpec(file="m.safetensors", sha256="0" * 64, test_domain=domain)
        return further._beside(store, member).rows.tolist()

    assert rows("a") == [2, 3]
    assert rows("b") == [0, 1, 3, 4]
    assert rows(None) == [0, 1, 2, 3, 4]


def test_figures_of_two_stores_are_cut_to_one_size(tmp_path: Path) -> None:
    small = store_of(tmp_path / "a.zarr", random_images(2, 16))
    large = store_of(tmp_path / "b.zarr", random_images(3, 24, seed=1))
    joined = train._joined(*(train.figures(of, np.arange(len(of.samples))) for of in (small, large)))
    np.testing.assert_array_equal(joined.images[:2], small.images())
    np.testing.assert_array_equal(joined.images[2:], large.images()[:, 4:20, 4:20])
    assert joined.masks.shape == (5, 16, 16)
    assert joined.labels.tolist() == [0, 1, 0, 1, 0]
    assert len(joined.experts) == len(joined.has_mask) == 5


def test_what_the_parent_may_have_seen_stays_seen(tmp_path: Path) -> None:
    """A figure that the parent lists without a domain gets none from the store beside."""
    beside = store_of(tmp_path / "a.zarr", random_images(3), domain=["a", "a", "b"])
    own = store_of(tmp_path / "b.zarr", random_images(1, seed=9), domain=["lab"])
    first, second, third = beside.samples["digest"]
    of_parent = tiny_bundle(tmp_path / "p", samples=[first, f"{second} c", f"{'e' * 64} c"])
    (mine,) = own.samples["digest"]
    assert set(known_lines(of_parent, own, beside)) == {
        first, f"{second} a", f"{second} c", f"{third} b", f"{'e' * 64} c", mine,
    }  # fmt: skip


# --- what is refused


def refused(message: str, recipe: Path, store: Store, parent: Bundle, out: Path, **options: Any) -> None:
    with pytest.raises(InputError, match=message):
        trained(recipe, store, out, parent=str(parent.folder), **options)
    assert not out.exists()


def test_too_few_figures_are_refused_unless_they_are_allowed(
    parent: Bundle, recipe: Path, tmp_path: Path
) -> None:
    few = lab_store(tmp_path / "few", slides=3, per_slide=6)
    told = (
        "9 atypical and 9 typical figures on 3 slides are too few to tell what is gained. Label at least 25 "
        "figures of each class, from at least 5 slides, or pass --allow-few to train all the same"
    )
    refused(told, recipe, few, parent, tmp_path / "b")
    _, silent = planned(recipe, few, tmp_path / "b", parent, allow_few=True)
    assert silent.plans[0]["test"].tolist() == ["part 1 of 3", "part 2 of 3"]
    assert silent.plans[0]["training_n"].tolist() == [12, 12]


def test_figures_that_the_bundle_knows_are_refused(
    parent: Bundle, original: Store, recipe: Path, tmp_path: Path
) -> None:
    refused("48 of 48 samples were used to train or calibrate", recipe, original, parent, tmp_path / "b")


def test_figures_that_are_in_both_stores_are_refused(
    parent: Bundle, lab: Store, recipe: Path, tmp_path: Path
) -> None:
    told = r"60 of its figures and 6 of its slides are in lab\.zarr as well"
    refused(told, recipe, lab, parent, tmp_path / "b", beside=str(lab.folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": {"width": 4}}, "its network is .* width 2, .* of recipe 'tiny' .* width 4"),
        ({"input": {"mpp": 0.3}}, r"its \[input\] is not that of recipe 'tiny'. Name the recipe .*: 'tests'"),
    ],
)
def test_a_recipe_for_another_network_or_input_is_refused(
    parent: Bundle, lab: Store, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    other = write_recipe(tmp_path / "other.toml", tiny_recipe(**change))
    refused(message, other, lab, parent, tmp_path / "b")


def test_an_untrained_bundle_and_a_batch_that_is_too_large_are_refused(
    lab: Store, parent: Bundle, recipe: Path, tmp_path: Path
) -> None:
    untrained = tiny_bundle(tmp_path / "u", trained=False)
    refused("it is untrained", recipe, lab, untrained, tmp_path / "b")
    large = write_recipe(tmp_path / "large.toml", tiny_recipe(further={"batch": 45}))
    refused("fold member-0: its 40 training samples are fewer", large, lab, parent, tmp_path / "b")


def test_members_that_leave_out_one_slide_only_tell_nothing(recipe: Path, tmp_path: Path) -> None:
    """A single member leaves out one of three parts, or of as many as there are slides."""
    two = lab_store(tmp_path / "two", slides=2, per_slide=24)
    alone = tiny_bundle(tmp_path / "alone", members=1)
    told = "the 24 figures that 1 member left out are .* of one slide"
    refused(told, recipe, two, alone, tmp_path / "b", allow_few=True)


def test_a_bundle_that_was_replaced_meanwhile_is_refused(parent: Bundle) -> None:
    with pytest.raises(BundleError, match="it was replaced meanwhile"):
        train._starting_member(Start(parent.folder, "0" * 64, 0))


def test_a_recipe_cannot_say_that_it_starts_from_a_bundle(lab: Store, tmp_path: Path) -> None:
    own = write_recipe(tmp_path / "own.toml", tiny_recipe(initial_weights="bundle"))
    with pytest.raises(SpecError, match="--from: training: recipe 'tiny' starts from a bundle"):
        trained(own, lab, tmp_path / "b")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beside": "s.zarr"}, "--beside and --allow-few belong to --from"),
        ({"allow_few": True}, "--beside and --allow-few belong to --from"),
        ({"parent": "b", "encoder_weights": "e", "encoder_licence": "MIT"}, "leave out --encoder-weights"),
        ({"parent": "b", "validation": {"a": "b"}}, "leave out --validation"),
    ],
)
def test_options_that_would_be_ignored_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        TrainSpec.parse({"recipe": "r", "dataset": "s.zarr", "out": "o", **options}, "test")


@pytest.mark.parametrize(
    ("recipe", "bundle"), [("lite0_taught", "amibr-lite0"), ("lite2", "amibr-lite2"), ("nano", "amibr-nano")]
)
def test_the_shipped_recipes_fit_the_bundles_that_they_made(recipe: str, bundle: str) -> None:
    parent = open_bundle(find_bundle(bundle))
    further._check_recipe(read_recipe(recipe), parent)
    effective = read_recipe(recipe).further_from(parent.manifest.ensemble)
    assert effective.ensemble == parent.manifest.ensemble
    assert (effective.optimiser.epochs, effective.optimiser.batch) == (5, 16)
