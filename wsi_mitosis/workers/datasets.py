"""The parts of a store of labelled figures, built by workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsi_mitosis.io.training.crops import short_name
from wsi_mitosis.jobs.dataset import PartOutcome, build, run_part
from wsi_mitosis.workers.pool import Hooks, Work, granted_threads, ignore, run_tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from wsi_mitosis.jobs.dataset import BuildResult, Part, Reporter
    from wsi_mitosis.specs import DatasetSpec
    from wsi_mitosis.workers.losses import Loss


def build_dataset(spec: DatasetSpec, reporter: Reporter) -> BuildResult:
    """Build a store of labelled figures; see `jobs.dataset.build`."""
    return build(spec, _do_parts, reporter)


def _do_parts(
    parts: Sequence[Part], spec: DatasetSpec, reporter: Reporter
) -> Generator[PartOutcome, None, None]:
    work: Work[Part, int, None, PartOutcome] = Work(
        granted_threads,
        _do_part,
        _lost_part,
        lambda part: short_name(part.files[0]),
        "Finished parts are kept.",
    )
    hooks: Hooks[Part, None, PartOutcome] = Hooks(ignore, ignore, reporter.warn, ignore)
    return run_tasks(parts, work, spec.placement, hooks, on_gpus=spec.masks == "nuclick")


def _do_part(part: Part, threads: int, _emit: Callable[[None], None]) -> PartOutcome:
    return run_part(part, threads)


def _lost_part(part: Part, loss: Loss) -> PartOutcome:
    return PartOutcome(part.index, len(part.files), faults=(loss.reason,))
