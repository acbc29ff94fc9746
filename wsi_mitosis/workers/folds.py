"""The folds of a recipe, trained by workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsi_mitosis.jobs.further import train_further
from wsi_mitosis.jobs.train import FoldProgress, run_fold, train
from wsi_mitosis.nets.memory import LARGE_BLOCKS_ENVIRONMENT
from wsi_mitosis.workers.pool import Hooks, Work, granted_threads, ignore, run_tasks

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from wsi_mitosis.jobs.train import FoldTask, Reporter, TrainResult
    from wsi_mitosis.specs import TrainSpec
    from wsi_mitosis.workers.losses import Loss


def train_ensemble(spec: TrainSpec, reporter: Reporter) -> TrainResult:
    """Train the folds of a recipe, anew or from a bundle; see `jobs.train.train` and `jobs.further`."""
    return (train if spec.parent is None else train_further)(spec, _do_folds, reporter)


def _do_folds(
    tasks: Sequence[FoldTask], spec: TrainSpec, reporter: Reporter
) -> Generator[FoldProgress, None, None]:
    work: Work[FoldTask, int, FoldProgress, FoldProgress] = Work(
        granted_threads,
        run_fold,
        _lost_fold,
        lambda task: task.fold.name,
        "The fold continues from its last checkpoint.",
        environment=LARGE_BLOCKS_ENVIRONMENT,
    )
    hooks: Hooks[FoldTask, FoldProgress, FoldProgress] = Hooks(
        ignore,
        lambda _, epoch: reporter.warn(epoch.note) if epoch.note else reporter.progress(epoch),
        reporter.warn,
        ignore,
    )
    return run_tasks(tasks, work, spec.placement, hooks)


def _lost_fold(task: FoldTask, loss: Loss) -> FoldProgress:
    epochs = task.recipe.optimiser.epochs
    return FoldProgress(task.fold.name, 0, epochs, error=loss.reason, details=loss.details)
