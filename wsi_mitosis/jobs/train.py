"""Train an ensemble: a fold for each domain, continued from its last checkpoint, and a bundle of the best.

This module does not know Ray: it hands folds to an executor and takes their progress from it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from wsi_mitosis.core.doubts import doubts
from wsi_mitosis.core.folds import Fold, plan_folds, plan_table, plan_warnings
from wsi_mitosis.core.metrics import score
from wsi_mitosis.errors import UNWRITABLE, InputError, OutputError, SpecError, WsiMitosisError
from wsi_mitosis.io.bundles import Bundle, find_bundle, open_bundle, write_bundle
from wsi_mitosis.io.results.lock import FILE as LOCK
from wsi_mitosis.io.results.lock import FolderLock
from wsi_mitosis.io.training.encoders import StartingWeights, given_weights, packaged_weights
from wsi_mitosis.io.training.runs import MEMBER, FoldFolder, TensorBoard, prepare_folder, read_recipe
from wsi_mitosis.io.training.stores import Store, open_checked_store
from wsi_mitosis.jobs.calibrate import calibrate_and_score, check_trained
from wsi_mitosis.jobs.cards import training_card
from wsi_mitosis.jobs.doubts import tell_doubts
from wsi_mitosis.jobs.known import as_lines, known_with, sample_lines
from wsi_mitosis.jobs.predict import predict_crops
from wsi_mitosis.jobs.scale import at_scale
from wsi_mitosis.jobs.sharpness import sharpness_fields
from wsi_mitosis.jobs.teachers import Teacher, taught, teachers
from wsi_mitosis.recipes import FoldRecord, RecipeSpec
from wsi_mitosis.specs import BundleManifest
from wsi_mitosis.tables import SUBTYPE_SEPARATOR
from wsi_mitosis.version import __version__

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from wsi_mitosis.jobs.further import FurtherGain
    from wsi_mitosis.nets.batches import Figures
    from wsi_mitosis.specs import TrainSpec

ALGORITHM = 2
"""Changes when the same recipe on the same data would give other weights."""
INTENDED_USE = "Research: telling atypical from typical mitotic figures in H&E. Not for diagnosis."
EMPTY_HASH = "0" * 64
STAGE = "training"


@dataclass(frozen=True)
class Beside:
    """Samples of a second store that a member learns from as well.

    Attributes:
        store: Its folder.
        digest: Its digest.
        rows: (N,) ascending positions of the samples.
    """

    store: Path
    digest: str
    rows: NDArray[np.intp]


@dataclass(frozen=True)
class Start:
    """The member of a bundle that a fold starts from.

    Attributes:
        bundle: Folder of the bundle.
        digest: Its digest.
        member: Position of the member, from 0.
        beside: What it learns from beside the dataset; None for nothing.
    """

    bundle: Path
    digest: str
    member: int
    beside: Beside | None = None


@dataclass(frozen=True)
class FoldTask:
    """One fold to train.

    Attributes:
        store: The dataset's folder.
        digest: The dataset's digest.
        folder: The fold's own.
        encoder: Weights that its encoder starts from; None for random ones.
        start: The member that it starts from; None for none.
        teacher: The members that teach it; None for none.
    """

    fold: Fold
    recipe: RecipeSpec
    store: Path
    digest: str
    folder: Path
    key: str
    device: str
    encoder: StartingWeights | None = None
    start: Start | None = None
    teacher: Teacher | None = None


@dataclass(frozen=True)
class FoldProgress:
    """The progress of a fold while it is trained.

    Attributes:
        fold: Its name.
        epoch: Number of finished epochs.
        epochs: All.
        metrics: Metrics of that epoch; None at the end of the fold, and if it fails.
        record: At its end.
        kept: Whether an earlier run had finished it.
        error: Why it failed, one line.
        details: Traceback of an error that no input explains.
        note: What the user should know; nothing else has happened then.
    """

    fold: str
    epoch: int
    epochs: int
    metrics: dict[str, Any] | None = None
    record: FoldRecord | None = None
    kept: bool = False
    error: str | None = None
    details: str | None = None
    note: str | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more comes of this fold."""
        return self.record is not None or self.error is not None


class Reporter(Protocol):
    """Displays the progress of a training."""

    def warn(self, message: str) -> None:
        """Display something that the user should know."""
        ...

    def planned(self, plan: pd.DataFrame) -> None:
        """The plan, before anything is trained."""
        ...

    def progress(self, progress: FoldProgress) -> None:
        """Called when an epoch or a fold ends."""
        ...


Executor = Callable[[Sequence[FoldTask], "TrainSpec", Reporter], Generator[FoldProgress, None, None]]
"""Trains folds and yields the end of each; the reporter gets the epochs as they are finished."""


@dataclass(frozen=True)
class TrainResult:
    """What became of a training.

    Attributes:
        work: The folder of the folds.
        records: Of the folds that are done.
        failed: Why the others are not, by fold.
        waiting: Folds that were not requested and are not done.
        bundle: None while a fold is missing.
        gain: What the bundle gains on slides that its members left out, if they were trained further.
    """

    work: Path
    plan: pd.DataFrame
    records: tuple[FoldRecord, ...]
    failed: dict[str, str]
    waiting: tuple[str, ...]
    bundle: Bundle | None
    gain: FurtherGain | None = None

    @property
    def exit_status(self) -> int:
        """0, or 1 if a fold failed."""
        return 1 if self.failed else 0


def train(spec: TrainSpec, execute: Executor, reporter: Reporter) -> TrainResult:
    """Train the folds of a recipe on a dataset, and write the bundle once all are done.

    Args:
        spec: What to train on what.
        execute: Who trains the folds.
        reporter: Displays the progress.

    Raises:
        InputError: if the recipe, the dataset, the weights to start from or the output cannot be used.
    """
    recipe = read_recipe(spec.recipe)
    store = opened(Path(spec.dataset), recipe)
    out, work = folders(spec)
    _check(spec, recipe, store, out)
    tell_doubts(doubts(store.samples), store.folder, strict=spec.strict, warn=reporter.warn)
    encoder = _starting_weights(spec, recipe)
    teacher = _teacher(spec)
    joined = recipe.selection.training_domains == "all but test"
    folds = plan_folds(store.samples, spec.validation, train_on_validation=joined)
    plan = plan_table(folds, store.samples)
    reporter.planned(plan)
    for warning in plan_warnings(folds, store.samples):
        reporter.warn(warning)
    check_batches(recipe, folds, store)
    tasks = _tasks(spec, recipe, store, folds, work, encoder)
    if teacher is not None:
        tasks = _with_teachers(tasks, teachers(teacher, store, folds))

    def finish(records: Sequence[FoldRecord]) -> Finished:
        return Finished(_finished(spec, recipe, store, records, encoder, teacher))

    return train_folds(spec, execute, reporter, Training(work, plan, tasks, finish))


class Finished(NamedTuple):
    """What a training ends with: its bundle, and what it gains if members were trained further."""

    bundle: Bundle
    gain: FurtherGain | None = None


@dataclass(frozen=True)
class Training:
    """A training whose folds may begin.

    Attributes:
        work: The folder of the folds.
        plan: `core.folds.plan_table`.
        tasks: All folds.
        finish: Writes the bundle of the records of all folds.
    """

    work: Path
    plan: pd.DataFrame
    tasks: Sequence[FoldTask]
    finish: Callable[[Sequence[FoldRecord]], Finished]


def folders(spec: TrainSpec) -> tuple[Path, Path]:
    """Return the folder of the bundle and that of its folds."""
    out = Path(spec.out).absolute()
    return out, Path(spec.work).absolute() if spec.work else out.with_name(f"{out.name}.training")


def train_folds(spec: TrainSpec, execute: Executor, reporter: Reporter, training: Training) -> TrainResult:
    """Train the folds that are requested, and write the bundle once all are done.

    Raises:
        InputError: if there is no such fold, or a folder cannot be used.
    """
    requested = _requested(spec, training.tasks)
    prepare_folder(training.work, training.plan)
    with _held(training.work) if not spec.folds else nullcontext():
        return _train(spec, execute, reporter, training, requested)


def _train(
    spec: TrainSpec,
    execute: Executor,
    reporter: Reporter,
    training: Training,
    requested: Sequence[FoldTask],
) -> TrainResult:
    work, tasks = training.work, training.tasks
    failed = {}
    with closing(execute(requested, spec, reporter)) as ends:
        for end in ends:
            reporter.progress(end)
            if end.error is not None:
                failed[end.fold] = end.error
    records = [FoldFolder(task.folder, task.key).read_record() for task in tasks]
    done = tuple(record for record in records if record is not None)
    waiting = tuple(
        task.fold.name
        for task, record in zip(tasks, records, strict=True)
        if record is None and task.fold.name not in failed
    )
    if len(done) < len(tasks):
        return TrainResult(work, training.plan, done, failed, waiting, None)
    with _held(work) if spec.folds else nullcontext():  # another machine may have trained the other folds
        finished = training.finish(done)
    return TrainResult(work, training.plan, done, failed, waiting, *finished)


def _finished(
    spec: TrainSpec,
    recipe: RecipeSpec,
    store: Store,
    records: Sequence[FoldRecord],
    encoder: StartingWeights | None,
    teacher: Bundle | None,
) -> Bundle:
    """Write the bundle with its calibration and its scores: all of it or nothing."""
    store = opened(store.folder, recipe, store.attributes.digest)  # hours may have passed
    out, work = folders(spec)
    with drafted(out) as draft:
        bundle = export(
            draft,
            recipe,
            store,
            records,
            work,
            licence=spec.licence,
            name=spec.name or out.name,
            encoder=encoder,
            teacher=teacher,
        )
        calibrate_and_score(bundle, store, device=spec.placement.device)
    return open_bundle(out)


@contextmanager
def drafted(out: Path) -> Iterator[Path]:
    """Yield a folder for a bundle that gets the name `out` at the end of the block, or goes if it fails.

    Raises:
        OutputError: if it cannot be written.
    """
    draft = out.with_name(f".{out.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)  # of a run that was killed
    try:
        yield draft
        draft.replace(out)
    except OSError as error:
        raise OutputError(
            f"cannot be written: {error.strerror}", subject=out, stage="training", remedy=UNWRITABLE
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold a folder, so that no other training uses it meanwhile."""
    lock = FolderLock(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise OutputError(
            f"cannot be written: {error.strerror}", subject=folder, stage="training", remedy=UNWRITABLE
        ) from error
    except OutputError as error:
        remedy = (
            f"Wait for the other training, or choose another --work; if it has ended, delete {folder / LOCK}"
        )
        raise OutputError(error.cause, subject=folder, stage="training", remedy=remedy) from error
    try:
        yield
    finally:
        lock.release()


def run_fold(task: FoldTask, threads: int, on_epoch: Callable[[FoldProgress], None]) -> FoldProgress:
    """Train one fold, from its last checkpoint if it has one; a finished fold is not trained again.

    Args:
        task: The fold.
        threads: Number of CPU threads to compute on.
        on_epoch: Called when an epoch is finished.

    Returns:
        The fold's end: its record, or the error of a fold that failed.
    """
    try:
        with _held(task.folder):
            return _trained(task, threads, on_epoch)
    except (WsiMitosisError, FloatingPointError) as error:
        return _failure(task, str(error))
    except Exception as error:  # noqa: BLE001 - one fold's failure is that fold's alone
        cause = f"{type(error).__name__}: {error}".splitlines()[0]
        remedy = "Run again: the fold continues from its last checkpoint"
        return _failure(task, f"{cause}. {remedy}", traceback.format_exc())


def export(
    out: Path,
    recipe: RecipeSpec,
    store: Store,
    records: Sequence[FoldRecord],
    work: Path,
    *,
    licence: str | None = None,
    name: str | None = None,
    encoder: StartingWeights | None = None,
    teacher: Bundle | None = None,
) -> Bundle:
    """Write the bundle of the best folds, in the order of their names.

    Args:
        out: The bundle's folder.
        recipe: What they were trained by.
        store: What they were trained on.
        records: Of all folds.
        work: Where they lie.
        licence: Of the weights; the dataset's if None.
        name: Of the bundle; the folder's if None.
        encoder: What the encoders started from; None for random weights.
        teacher: What taught the members; None for nothing.

    Raises:
        OutputError: if the folder is in use or cannot be written.
    """
    best = sorted(records, key=lambda record: record.validation_loss)[: recipe.selection.members]
    chosen = sorted(best, key=lambda record: record.fold)
    states = [FoldFolder(work / record.fold, record.key).read_member() for record in chosen]
    fields = manifest_fields(recipe, store, name or out.name, licence or store.attributes.licence, encoder)
    if teacher is not None:
        fields["training"]["teacher"] = f"{teacher.manifest.name} {teacher.digest}"
    members = [
        {
            "test_domain": record.test_domain,
            "validation_domain": record.validation_domain,
            "validation_loss": record.validation_loss,
            "validation_balanced_accuracy": record.validation_balanced_accuracy,
        }
        for record in chosen
    ]
    card = training_card(fields, recipe, store, records, chosen)
    samples = sample_lines(store) if teacher is None else as_lines(known_with(teacher, store))
    return write_bundle(out, {**fields, "member": members}, states, card, samples=samples)


def bundle_of_states(
    out: Path,
    recipe: RecipeSpec,
    store: Store,
    states: Mapping[str, Mapping[str, NDArray[np.floating]]],
    *,
    licence: str,
    origin: str,
) -> Bundle:
    """Write a bundle of members that a recipe was trained to elsewhere, calibrate it and score it.

    Args:
        out: The bundle's folder.
        recipe: What they were trained by. Weights to start from must be a package's, or random.
        store: What they were trained on.
        states: Weights of each member by the domain that it was trained without; their names and shapes are
            those of `member_state`.
        licence: Licence of the weights.
        origin: Where they were trained, a sentence for the card.

    Returns:
        The bundle, as read back from disk.

    Raises:
        InputError: if the package of the starting weights is not installed, or the weights do not fit.
        OutputError: if the folder is in use or cannot be written.
    """
    name = recipe.network.timm_name
    encoder = packaged_weights(name) if recipe.initial_weights == "package" and name is not None else None
    fields = manifest_fields(recipe, store, out.name, licence, encoder)
    members = [{"test_domain": domain} for domain in states]
    card = f"# {out.name}\n\n**Research use only.** {origin}\n"
    written = write_bundle(
        out, {**fields, "member": members}, list(states.values()), card, samples=sample_lines(store)
    )
    return calibrate_and_score(written, store)


def manifest_fields(
    recipe: RecipeSpec, store: Store, name: str, licence: str, encoder: StartingWeights | None = None
) -> dict[str, Any]:
    """A bundle's manifest without its members, as `io.bundles.write_bundle` takes it."""
    return {
        "name": name,
        "version": "1",
        "licence": licence,
        "intended_use": INTENDED_USE,
        "trained": True,
        "input": recipe.input.model_dump(),
        "network": recipe.network.model_dump(),
        "ensemble": recipe.ensemble.model_dump(),
        "sharpness": sharpness_fields(store, recipe.input.cut_px),
        "training": {
            "dataset_digest": store.attributes.digest,
            "dataset_licence": store.attributes.licence,
            "mask_provider": store.attributes.mask_provider if recipe.decoders else "none",
            "recipe": f"{recipe.name} {recipe.digest}",
            "seed": recipe.seed,
            "code_version": __version__,
            "encoder_source": None if encoder is None else encoder.source,
            "encoder_sha256": None if encoder is None else encoder.sha256,
            "encoder_licence": None if encoder is None else encoder.licence,
        },
    }


def opened(folder: Path, recipe: RecipeSpec, digest: str | None = None) -> Store:
    """Open a store at a recipe's scale; see `open_checked_store` and `at_scale`."""
    return at_scale(open_checked_store(folder, digest), recipe.input, recipe.name, "training")


def check_store(recipe: RecipeSpec, store: Store, least_px: int = 0) -> None:
    """Check that the crops of a store are large enough.

    Args:
        recipe: What is to be trained by.
        store: The crops.
        least_px: Side that they must have beside that of the recipe, px.

    Raises:
        InputError: if they are not.
    """
    if store.attributes.patch_px < (least_px := max(least_px, recipe.input.cut_px)):
        raise InputError(
            f"its crops of {store.attributes.patch_px} px are smaller than the {least_px} px "
            f"of recipe '{recipe.name}'",
            subject=store.folder,
            stage="training",
            remedy="Build it from larger crops, or lower the recipe's input.field_px or input.patch_px",
        )


def check_out(out: Path) -> None:
    """Check that a bundle can be written, which may be hours before it is.

    Raises:
        OutputError: if something is there.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(
            "exists already", subject=out, stage="training", remedy="Choose another --out, or remove it"
        )


def _check(spec: TrainSpec, recipe: RecipeSpec, store: Store, out: Path) -> None:
    """Whatever can be said before the first epoch, which may be hours before the bundle is written."""
    check_out(out)
    check_store(recipe, store)
    if recipe.initial_weights == "bundle":
        raise SpecError(
            f"recipe '{recipe.name}' starts from a bundle",
            subject="--from",
            stage="training",
            remedy="Name the bundle, and a recipe with initial_weights of another kind",
        )
    if recipe.decoders is not None and not (store.samples["mask_flag"] == "ok").any():
        raise InputError(
            "has no masks, which the decoders are trained on",
            subject=store.folder,
            stage="training",
            remedy="Build it with --masks, or name a recipe without decoders",
        )
    if recipe.loss.subtypes and not store.samples["subtypes"].ne("").any():
        raise InputError(
            f"has no subtypes, which recipe '{recipe.name}' learns",
            subject=store.folder,
            stage="training",
            remedy="Build it anew from labels with subtypes, such as AMi-Br, or name another recipe",
        )
    if (spec.encoder_weights is None) == (recipe.initial_weights == "given"):
        raise SpecError(
            f"recipe '{recipe.name}' starts from {recipe.initial_weights} weights",
            subject="--encoder-weights",
            stage="training",
            remedy='Name a checkpoint for a recipe with initial_weights = "given", and for no other',
        )
    if (spec.teacher is None) == (recipe.loss.teacher_share > 0):
        raise SpecError(
            f"recipe '{recipe.name}' has a teacher_share of {recipe.loss.teacher_share:g}",
            subject="--teacher",
            stage="training",
            remedy="Name a bundle for a recipe with a teacher_share above 0, and for no other",
        )
    if (spec.encoder_weights is None) != (spec.encoder_licence is None):
        raise SpecError(
            "weights and their licence belong together",
            subject="--encoder-licence",
            stage="training",
            remedy="Name the licence of the checkpoint that --encoder-weights names, such as 'Apache-2.0'",
        )


def check_batches(recipe: RecipeSpec, folds: Sequence[Fold], store: Store) -> None:
    """Check that each fold has a batch to learn from, before the first one is trained.

    Raises:
        InputError: if one has not.
    """
    batch = recipe.optimiser.batch
    for fold in folds:
        if (number := len(fold.training_rows)) < batch:
            raise InputError(
                f"fold {fold.name}: its {number} training samples are fewer than a batch of {batch}",
                subject=store.folder,
                stage="training",
                remedy="Lower optimiser.batch in the recipe, or train on more figures",
            )


def _starting_weights(spec: TrainSpec, recipe: RecipeSpec) -> StartingWeights | None:
    if spec.encoder_weights is not None and spec.encoder_licence is not None:
        return given_weights(Path(spec.encoder_weights), spec.encoder_licence)
    if recipe.initial_weights == "package" and recipe.network.timm_name is not None:
        return packaged_weights(recipe.network.timm_name)
    return None


def _teacher(spec: TrainSpec) -> Bundle | None:
    """Open the bundle that teaches the folds; None for none."""
    if spec.teacher is None:
        return None
    bundle = open_bundle(find_bundle(spec.teacher))
    check_trained(bundle, STAGE)
    return bundle


def _tasks(
    spec: TrainSpec,
    recipe: RecipeSpec,
    store: Store,
    folds: Sequence[Fold],
    work: Path,
    encoder: StartingWeights | None,
) -> list[FoldTask]:
    encoder_digest = None if encoder is None else encoder.sha256
    return [
        FoldTask(
            fold,
            recipe,
            store.folder.absolute(),
            store.attributes.digest,
            work / fold.name,
            _key(fold, recipe, store, encoder_digest),
            spec.placement.device,
            encoder,
        )
        for fold in folds
    ]


def _with_teachers(tasks: Sequence[FoldTask], chosen: Sequence[Teacher]) -> list[FoldTask]:
    """Give each fold its teacher, which its weights depend on as well."""
    return [
        dataclasses.replace(task, teacher=teacher, key=_taught_key(task.key, teacher))
        for task, teacher in zip(tasks, chosen, strict=True)
    ]


def _taught_key(key: str, teacher: Teacher) -> str:
    content = {"fold": key, "teacher": teacher.digest, "members": teacher.members}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _key(fold: Fold, recipe: RecipeSpec, store: Store, encoder_digest: str | None) -> str:
    """Return the digest of everything that a fold's weights depend on, except the device."""
    content = {
        "algorithm": ALGORITHM,
        "recipe": recipe.digest,
        "dataset": store.attributes.digest,
        "test": fold.test_domain,
        "validation": fold.validation_domain,
        "training": fold.training_domains,
        "encoder": encoder_digest,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _requested(spec: TrainSpec, tasks: Sequence[FoldTask]) -> list[FoldTask]:
    known = [task.fold.name for task in tasks]
    if unknown := [name for name in spec.folds if name not in known]:
        raise SpecError(
            f"no fold '{unknown[0]}'",
            subject="--fold",
            stage="training",
            remedy=f"There are {', '.join(known)}",
        )
    return [task for task in tasks if not spec.folds or task.fold.name in spec.folds]


def _trained(task: FoldTask, threads: int, on_epoch: Callable[[FoldProgress], None]) -> FoldProgress:
    folder = FoldFolder(task.folder, task.key)
    epochs = task.recipe.optimiser.epochs
    if (record := folder.read_record()) is not None:
        if record.ensemble != task.recipe.ensemble:
            store = opened(task.store, task.recipe, task.digest)
            record = record.model_copy(update=_stored_scores(task, folder, store, threads))
            folder.write_record(record)
        return FoldProgress(task.fold.name, epochs, epochs, record=record, kept=True)
    from wsi_mitosis.nets.checkpoints import load_encoder
    from wsi_mitosis.nets.members import cpu_threads, load_member
    from wsi_mitosis.nets.training import is_checkpoint
    from wsi_mitosis.nets.training import train as train_member

    store = opened(task.store, task.recipe, task.digest)
    checkpoint = folder.read_checkpoint()
    if checkpoint is not None and not is_checkpoint(checkpoint):
        note = f"{task.fold.name}: {folder.checkpoint} is damaged or cut short, so that the fold begins anew"
        on_epoch(FoldProgress(task.fold.name, 0, epochs, note=note))
        checkpoint = None
    done = 0 if checkpoint is None else len(folder.read_metrics())
    member = None if task.start is None else _starting_member(task.start)
    if member is not None:
        load_member(member, task.recipe.network, task.fold.name)  # raises an error if they do not fit
    with cpu_threads(threads), TensorBoard(task.folder, done) as board:
        for epoch in train_member(
            _training_figures(task, store, threads),
            figures(store, task.fold.validation_rows),
            task.recipe,
            device=task.device,
            encoder=load_encoder(task.encoder.path, task.recipe.network) if task.encoder else None,
            member=member,
            checkpoint=checkpoint,
        ):
            choice = {
                "chosen_epoch": epoch.chosen_epoch,
                "precision": epoch.precision,
                "device": epoch.device,
            }
            row = {"epoch": epoch.number, **epoch.metrics, **choice}
            folder.write_epoch(row, epoch.chosen, epoch.checkpoint)
            board.write(epoch.number, epoch.metrics)
            on_epoch(FoldProgress(task.fold.name, epoch.number, epochs, metrics=row))
    record = _recorded(task, folder, opened(task.store, task.recipe, task.digest), threads)
    folder.write_record(record)
    return FoldProgress(task.fold.name, epochs, epochs, record=record)


def _starting_member(start: Start) -> dict[str, NDArray[np.floating]]:
    """Read the weights that a fold starts from."""
    return open_bundle(start.bundle, start.digest).read_members()[start.member]


def _training_figures(task: FoldTask, store: Store, threads: int) -> Figures:
    """Return what a fold learns from: samples of its dataset, then those of the store beside it."""
    rows = task.fold.training_rows
    own, beside = figures(store, rows), None if task.start is None else task.start.beside
    if task.teacher is not None:
        return dataclasses.replace(own, taught=taught(task.teacher, store, rows, task.device, threads))
    if beside is None:
        return own
    other = figures(opened(beside.store, task.recipe, beside.digest), beside.rows)
    return _joined(own, other)


def _joined(first: Figures, second: Figures) -> Figures:
    """Return the figures of two stores; larger crops are cut to the centre of the others' size."""
    from wsi_mitosis.nets.batches import Figures

    side = min(first.images.shape[1], second.images.shape[1])
    parts = [_centres(first, side), _centres(second, side)]
    fields = (field.name for field in dataclasses.fields(Figures) if field.name not in {"taught", "subtypes"})
    return Figures(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in fields})


def _centres(of: Figures, side_px: int) -> Figures:
    start = of.images.shape[1] // 2 - side_px // 2
    window = slice(start, start + side_px)
    images, masks = of.images[:, window, window], of.masks[:, window, window]
    return dataclasses.replace(of, images=images, masks=masks)


def _recorded(task: FoldTask, folder: FoldFolder, store: Store, threads: int) -> FoldRecord:
    """Return the record of a fold whose epochs are finished."""
    metrics = folder.read_metrics()
    last = metrics.iloc[-1]
    chosen = metrics[metrics["epoch"] == last["chosen_epoch"]].iloc[0]
    return FoldRecord(
        fold=task.fold.name,
        key=task.key,
        test_domain=task.fold.test_domain,
        validation_domain=task.fold.validation_domain,
        training_domains=task.fold.training_domains,
        recipe=task.recipe.name,
        recipe_digest=task.recipe.digest,
        dataset_digest=store.attributes.digest,
        seed=task.recipe.seed,
        sha256=folder.member_sha256(),
        epoch=int(chosen["epoch"]),
        epochs=int(last["epoch"]),
        validation_loss=float(chosen["validation_total"]),
        **_stored_scores(task, folder, store, threads),
        precision=str(last["precision"]),
        device=str(last["device"]),
        threads=threads,
        seconds=round(float(metrics["seconds"].sum()), 1),
        code_version=__version__,
    )


def _stored_scores(task: FoldTask, folder: FoldFolder, store: Store, threads: int) -> dict[str, Any]:
    """Return the values of the stored weights on the validation domain, where they vote as in a bundle."""
    from wsi_mitosis.nets.ensembles import Ensemble

    fields = manifest_fields(task.recipe, store, task.fold.name, "")
    fields["training"] |= {"samples": "none", "samples_sha256": EMPTY_HASH}
    member = {"file": MEMBER, "sha256": folder.member_sha256()}
    manifest = BundleManifest.parse({"schema": 1, **fields, "member": [member]}, task.folder)
    ensemble = Ensemble(manifest, [folder.read_member()], device=task.device, threads=threads)
    bundle = Bundle(task.folder, manifest, "")
    votes = predict_crops(store.images(task.fold.validation_rows), ensemble, bundle)
    labels = store.samples["label"].to_numpy()[task.fold.validation_rows]
    scores = score(labels, votes.is_atypical, votes.p_atypical)
    return {
        "validation_balanced_accuracy": scores.balanced_accuracy,
        "validation_auroc": scores.auroc,
        "ensemble": task.recipe.ensemble,
    }


def figures(store: Store, rows: NDArray[np.intp]) -> Figures:
    """Return samples of a store, by their rows of shape (N,), as the training loop takes them."""
    from wsi_mitosis.nets.batches import Figures

    samples = store.samples.iloc[rows]
    labels, number = samples["label"].to_numpy(), samples["experts_asked"].to_numpy()
    experts = np.where(number > 0, samples["experts_atypical"].to_numpy() / np.maximum(number, 1), labels)
    return Figures(
        store.images(rows),
        store.masks(rows),
        (samples["mask_flag"] == "ok").to_numpy(),
        labels.astype(np.int64),
        experts.astype(np.float32),
        subtypes=_subtypes(store.samples["subtypes"], rows),
    )


def _subtypes(named: pd.Series[str], rows: NDArray[np.intp]) -> NDArray[np.float32] | None:
    """Return the shares of the experts who named each subtype of a store, for some rows; None without any."""
    given = [text.split(SUBTYPE_SEPARATOR) if text else [] for text in named]
    places = {name: place for place, name in enumerate(sorted({name for names in given for name in names}))}
    if not places:
        return None
    shares = np.zeros((len(rows), len(places)), np.float32)
    for place, row in enumerate(rows):
        for name in given[row]:
            shares[place, places[name]] += 1 / len(given[row])
    return shares


def _failure(task: FoldTask, error: str, details: str | None = None) -> FoldProgress:
    name = task.fold.name
    return FoldProgress(
        name, 0, task.recipe.optimiser.epochs, error=f"{name}: training: {error}", details=details
    )
