"""Train the members of a bundle further on a laboratory's figures, and measure what that changes.

The slides are dealt into parts. Member k learns from all parts except one. Each figure of that part can
therefore be labelled twice by a member that has not learnt from its slide: before, by the bundle's own
member, and after, by the one that was trained further.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from wsi_mitosis.core.blinding import blinding_note
from wsi_mitosis.core.calibration import FOLDS
from wsi_mitosis.core.doubts import doubts
from wsi_mitosis.core.folds import Fold, plan_further, plan_table
from wsi_mitosis.core.geometry import read_px
from wsi_mitosis.core.metrics import auroc_gain_interval, gain_interval, score
from wsi_mitosis.core.voting import tally
from wsi_mitosis.errors import InputError, several
from wsi_mitosis.io.atomic import write_text
from wsi_mitosis.io.bundles import find_bundle, open_bundle, write_bundle, write_card
from wsi_mitosis.io.training.runs import FoldFolder, read_recipe
from wsi_mitosis.jobs.calibrate import check_enough, check_trained, check_unknown
from wsi_mitosis.jobs.cards import further_card
from wsi_mitosis.jobs.dataset.verify import overlap_with
from wsi_mitosis.jobs.doubts import tell_doubts
from wsi_mitosis.jobs.evaluate import member_probabilities
from wsi_mitosis.jobs.known import all_identifiers, as_lines, known_with
from wsi_mitosis.jobs.train import (
    ALGORITHM,
    STAGE,
    Beside,
    Finished,
    FoldTask,
    Start,
    Training,
    check_batches,
    check_out,
    check_store,
    drafted,
    folders,
    opened,
    train_folds,
)
from wsi_mitosis.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from wsi_mitosis.io.bundles import Bundle
    from wsi_mitosis.io.training.stores import Store
    from wsi_mitosis.jobs.train import Executor, Reporter, TrainResult
    from wsi_mitosis.recipes import FoldRecord, RecipeSpec
    from wsi_mitosis.specs import MemberSpec, TrainSpec

GAIN = "gain.json"
"""File in the folder of the folds: what the new bundle gains."""
FEW = ", or pass --allow-few to train all the same"

PARTS_OF_ONE = 3
"""Parts of the slides for a single member, which leaves one out. A fifth would be too few figures."""


@dataclass(frozen=True)
class Change:
    """A measure on the same figures, before and after.

    Attributes:
        before: By the bundle that members started from.
        after: By the new bundle.
        interval: 95 % bootstrap interval of after - before, over slides.
    """

    before: float
    after: float
    interval: tuple[float, float]

    @property
    def gain(self) -> float:
        """What `after` has more than `before`."""
        return self.after - self.before


@dataclass(frozen=True)
class FurtherGain:
    """What a bundle gains on slides that its members left out.

    Attributes:
        figures: Number of figures on these slides.
        atypical: Number of atypical ones among them.
        slides: Number of slides.
        balanced_accuracy: Balanced accuracy of the vote.
        auroc: AUROC of the mean P(atypical).
        blinding: What is to be known of labels that are not blind; None if there are none.
    """

    figures: int
    atypical: int
    slides: int
    balanced_accuracy: Change
    auroc: Change
    blinding: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        data = asdict(self)
        for name in ("balanced_accuracy", "auroc"):
            change: Change = getattr(self, name)
            data[name] = {
                "before": change.before,
                "after": change.after,
                "gain": change.gain,
                "gain_ci95": list(change.interval),
            }
        return data

    def lines(self) -> list[str]:
        """Return it in sentences, which say so if the new bundle is not known to be better."""
        head = (
            f"Measured on {self.figures} figures of {self.slides} slides, {self.atypical} of them atypical, "
            "each labelled by members that left out its slide."
        )
        beside = [] if self.blinding is None else [self.blinding]
        return [
            head,
            *_sentences("Balanced accuracy", self.balanced_accuracy),
            *_sentences("AUROC", self.auroc),
            *beside,
        ]


def _sentences(name: str, change: Change) -> Iterator[str]:
    low, high = change.interval
    yield (
        f"{name}: {change.before:.3f} before, {change.after:.3f} after; gain {change.gain:+.3f}, "
        f"95 % interval [{low:+.3f}, {high:+.3f}]."
    )
    if change.gain < 0:
        yield f"{name} is WORSE than before: use the bundle that this one started from."
    if low <= 0 <= high:
        yield (
            f"{name}: its interval includes 0, so that these figures do not tell whether anything is gained "
            "or lost."
        )


class _Inputs(NamedTuple):
    """What members are trained further on.

    Attributes:
        parent: The bundle that they start from.
        recipe: The recipe for that.
        store: The laboratory's figures.
        beside: The store beside it; None for none.
    """

    parent: Bundle
    recipe: RecipeSpec
    store: Store
    beside: Store | None


def train_further(spec: TrainSpec, execute: Executor, reporter: Reporter) -> TrainResult:
    """Train the members of a bundle further, and write a new bundle once all are done.

    The input, the rule of voting and the calibration remain those of the bundle. So do the domains that its
    members were trained without: a member does not learn from its own one in the store beside.

    Args:
        spec: What to train on what; `parent` is given.
        execute: Who trains the folds.
        reporter: Displays the progress.

    Raises:
        InputError: if the bundle, the recipe or a dataset cannot be used, if the bundle or the store beside
            knows one of the figures, or if there are too few figures and they are not allowed.
    """
    inputs, (out, work) = _inputs(spec), folders(spec)
    _check(spec, inputs, out)
    store = inputs.store
    tell_doubts(doubts(store.samples), store.folder, strict=spec.strict, warn=reporter.warn)
    members = len(inputs.parent.manifest.member)
    folds = plan_further(store.samples, members, FOLDS if members > 1 else PARTS_OF_ONE)
    _check_left_out(store, folds)
    check_batches(inputs.recipe, folds, store)
    plan = plan_table(folds, store.samples)
    reporter.planned(plan)
    if (note := blinding_note(store.samples)) is not None:
        reporter.warn(note)

    def finish(records: Sequence[FoldRecord]) -> Finished:
        return _finished(spec, inputs, folds, records)

    tasks = list(_tasks(spec, inputs, folds, work))
    return train_folds(spec, execute, reporter, Training(work, plan, tasks, finish))


def _inputs(spec: TrainSpec) -> _Inputs:
    parent = open_bundle(find_bundle(spec.parent or ""))
    check_trained(parent, STAGE)
    recipe = read_recipe(spec.recipe)
    _check_recipe(recipe, parent)
    further = recipe.further_from(parent.manifest.ensemble)
    beside = None if spec.beside is None else opened(Path(spec.beside), further)
    return _Inputs(parent, further, opened(Path(spec.dataset), further), beside)


def _check_recipe(recipe: RecipeSpec, parent: Bundle) -> None:
    """Check that a recipe is for the input and the network of a bundle; members may have smaller fields."""
    manifest = parent.manifest
    first, *others = manifest.networks
    if others:
        cause = "its members have different networks, and a recipe has one"
    elif first != recipe.network:
        cause = f"its network is {first.text}, and that of recipe '{recipe.name}' {recipe.network.text}"
    elif manifest.input != recipe.input:
        cause = f"its [input] is not that of recipe '{recipe.name}'"
    else:
        return
    origin = None if manifest.training is None else manifest.training.recipe
    known = "" if origin is None else f": '{origin.split(' ')[0]}'"
    raise InputError(
        cause, subject=manifest.name, stage=STAGE, remedy=f"Name the recipe that it was trained by{known}"
    )


def _check(spec: TrainSpec, inputs: _Inputs, out: Path) -> None:
    store, beside = inputs.store, inputs.beside
    check_out(out)
    ensemble = inputs.parent.manifest.ensemble
    check_store(inputs.recipe, store, read_px(inputs.recipe.input.cut_px, ensemble.zooms))
    check_unknown(inputs.parent, store, STAGE)
    if not spec.allow_few:
        check_enough(store, STAGE, FEW)
    if beside is None:
        return
    check_store(inputs.recipe, beside)
    shared = overlap_with(store, beside)
    if shared.samples or shared.slides:
        raise InputError(
            f"{shared.samples} of its figures and {shared.slides} of its slides are in {beside.folder.name} "
            "as well, so that no member would leave them out",
            subject=store.folder,
            stage=STAGE,
            remedy="Build one of the two without them",
        )


def _check_left_out(store: Store, folds: Sequence[Fold]) -> None:
    """Check that the figures that members leave out can be scored, before anything is trained."""
    rows = _left_out_rows(folds)
    samples = store.samples.iloc[rows]
    if samples["label"].nunique() < 2 or samples["slide"].nunique() < 2:
        raise InputError(
            f"the {len(rows)} figures that {several(len(folds), 'member')} left out are of one class or of "
            "one slide, so that they do not tell what is gained",
            subject=store.folder,
            stage=STAGE,
            remedy="Label figures of both classes on more slides",
        )


def _left_out_rows(folds: Sequence[Fold]) -> NDArray[np.intp]:
    return np.unique(np.concatenate([fold.test_rows for fold in folds]))


def _tasks(spec: TrainSpec, inputs: _Inputs, folds: Sequence[Fold], work: Path) -> Iterator[FoldTask]:
    parent, recipe, store, beside = inputs
    for position, (fold, member) in enumerate(zip(folds, parent.manifest.member, strict=True)):
        more = None if beside is None else _beside(beside, member)
        start = Start(parent.folder.absolute(), parent.digest, position, more)
        own = recipe.model_copy(update={"input": parent.manifest.input_of(member)})
        yield FoldTask(
            fold,
            own,
            store.folder.absolute(),
            store.attributes.digest,
            work / fold.name,
            _key(fold, own, store, start),
            spec.placement.device,
            start=start,
        )


def _beside(store: Store, member: MemberSpec) -> Beside:
    """Choose what a member learns from beside: nothing of the domain that it was trained without."""
    digests = store.samples["digest"]
    left_out = digests.isin(digests[store.samples["domain"] == member.test_domain])
    return Beside(store.folder.absolute(), store.attributes.digest, np.flatnonzero(~left_out.to_numpy()))


def _key(fold: Fold, recipe: RecipeSpec, store: Store, start: Start) -> str:
    """Return the digest of everything that a fold's weights depend on, except the device."""
    content = {
        "algorithm": ALGORITHM,
        "recipe": recipe.digest,
        "dataset": store.attributes.digest,
        "training": fold.training_rows.tolist(),
        "parent": start.digest,
        "member": start.member,
        "beside": None if start.beside is None else [start.beside.digest, start.beside.rows.tolist()],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _finished(
    spec: TrainSpec, inputs: _Inputs, folds: Sequence[Fold], records: Sequence[FoldRecord]
) -> Finished:
    """Write the bundle, and what it gains into its card and into the folder of the folds."""
    recipe, digest = inputs.recipe, inputs.store.attributes.digest
    inputs = inputs._replace(store=opened(inputs.store.folder, recipe, digest))  # hours may have passed
    out, work = folders(spec)
    with drafted(out) as draft:
        bundle = _export(draft, spec, inputs, records)
        gain = measured_gain(inputs.parent, bundle, inputs.store, folds, device=spec.placement.device)
        stores = [store for store in (inputs.store, inputs.beside) if store is not None]
        write_card(bundle, further_card(inputs.parent, bundle, recipe, stores, gain.lines()))
        write_text(work / GAIN, json.dumps(gain.as_json(), indent=1, allow_nan=False) + "\n")
    return Finished(open_bundle(out), gain)


def _export(draft: Path, spec: TrainSpec, inputs: _Inputs, records: Sequence[FoldRecord]) -> Bundle:
    """Write the bundle: the parent's manifest, with other weights and another origin."""
    parent, recipe, store, beside = inputs
    out, work = folders(spec)
    manifest, about = parent.manifest, store.attributes
    by_fold = {record.fold: record for record in records}
    names = [f"member-{position}" for position in range(len(manifest.member))]
    states = [FoldFolder(work / name, by_fold[name].key).read_member() for name in names]
    kept = manifest.model_dump(include={"input", "ensemble", "calibration", "sharpness", "intended_use"})
    origin = manifest.training
    fields = {
        **kept,
        "name": spec.name or out.name,
        "version": "1",
        "licence": spec.licence or manifest.licence,
        "trained": True,
        "network": recipe.network.model_dump(),
        "parent": {"name": manifest.name, "digest": parent.digest},
        "training": {
            "dataset_digest": about.digest,
            "beside_digest": None if beside is None else beside.attributes.digest,
            "dataset_licence": about.licence,
            "mask_provider": "none",
            "recipe": f"{recipe.name} {recipe.digest}",
            "seed": recipe.seed,
            "code_version": __version__,
            **({} if origin is None else origin.model_dump(include=INHERITED)),
        },
        "member": [
            member.model_dump(include={"test_domain", "validation_domain", "field_px"})
            for member in manifest.member
        ],
    }
    return write_bundle(draft, fields, states, "", samples=known_lines(parent, store, beside))


INHERITED = {"encoder_source", "encoder_sha256", "encoder_licence", "teacher"}
"""Keys of the origin that the new bundle takes from its parent: they still say what its weights come from."""


def known_lines(parent: Bundle, store: Store, beside: Store | None) -> list[str]:
    """Return the lines of the new bundle's list of samples.

    All members may have seen the laboratory's figures, and those that the parent lists without a domain.
    These have no domain. The others keep theirs.

    Args:
        parent: The bundle that members started from.
        store: The laboratory's figures.
        beside: The store beside it; None for none.
    """
    of_the_laboratory = {key: set[str]() for key, _ in all_identifiers(store)}
    return as_lines(known_with(parent, beside) | of_the_laboratory)


def measured_gain(
    parent: Bundle, bundle: Bundle, store: Store, folds: Sequence[Fold], *, device: str = "auto"
) -> FurtherGain:
    """Label the figures of left-out slides by the members that left them out, before and after.

    Args:
        parent: The bundle that members started from.
        bundle: The new one, whose member k was trained on fold k.
        store: The figures, at the scale of both.
        folds: The folds.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.

    Returns:
        Both measures, each of the votes of the members that left out a figure's slide.
    """
    included = np.zeros((len(store.samples), len(folds)), dtype=np.bool_)
    for member, fold in enumerate(folds):
        included[fold.test_rows, member] = True
    rows = np.flatnonzero(included.any(axis=1))
    labels = store.samples["label"].to_numpy(np.int64)[rows]
    slides = store.samples["slide"].iloc[rows].tolist()
    first, second = (
        tally(member_probabilities(of, store, included, device=device)[rows], of.manifest.ensemble.threshold)
        for of in (parent, bundle)
    )
    before, after = (score(labels, votes.is_atypical, votes.p_atypical) for votes in (first, second))
    accuracy = gain_interval(labels, first.is_atypical, second.is_atypical, slides)
    area = auroc_gain_interval(labels, first.p_atypical, second.p_atypical, slides)
    return FurtherGain(
        figures=len(rows),
        atypical=int(labels.sum()),
        slides=len(set(slides)),
        balanced_accuracy=_change(before.balanced_accuracy, after.balanced_accuracy, accuracy),
        auroc=_change(before.auroc, after.auroc, area),
        blinding=blinding_note(store.samples.iloc[rows]),
    )


def _change(before: float | None, after: float | None, interval: tuple[float, float]) -> Change:
    assert before is not None  # noqa: S101 - both classes are there (_check_left_out)
    assert after is not None  # noqa: S101
    return Change(before, after, interval)
