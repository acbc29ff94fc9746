"""Slides that a worker copies to a local disk ahead of their turn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

from wsi_mitosis.io.slides.staging import GIB, Stager, check_folder
from wsi_mitosis.jobs.outcomes import SlideOutcome, attempt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wsi_mitosis.jobs.plan import SlideTask
    from wsi_mitosis.specs import PlacementOptions, StagingOptions

STAGE_GIB = 50.0
"""Two of nearly all slides: whole-slide images have about 1 GiB, and the largest some 20."""

AnyTask = TypeVar("AnyTask", bound="SlideTask")
Result = TypeVar("Result")


class Processor(Protocol):
    """What processes slides, and knows which of them have an up-to-date result."""

    def has_result(self, task: Any) -> bool:
        """Return whether the result of a slide on disk is up to date."""
        ...


AnyModel = TypeVar("AnyModel", bound=Processor)


@dataclass(frozen=True)
class Staging(Generic[AnyModel]):
    """What a worker keeps: a model, and the copies of the slides that it reads."""

    model: AnyModel
    stager: Stager


def check_staging(options: StagingOptions, placement: PlacementOptions) -> None:
    """Check the folder of copies, and remove what killed runs have left there. On a cluster, workers do.

    Raises:
        InputError: if the folder cannot be used.
    """
    if options.stage is not None and placement.address is None:
        check_folder(Path(options.stage))


def build_staging(
    build: Callable[[int], AnyModel], folder: Path, gib: float | None, threads: int
) -> Staging[AnyModel]:
    """Make what a worker keeps.

    Raises:
        InputError: if the model cannot be made, or the folder cannot be used on this machine.
    """
    return Staging(build(threads), Stager(folder, int((gib or STAGE_GIB) * GIB)))


def expect_slides(tasks: Sequence[SlideTask], staging: Staging[AnyModel]) -> None:
    """Begin to copy the slide whose turn it is and those that follow, except those with a valid result."""
    staging.stager.expect([(task.source, partial(staging.model.has_result, task)) for task in tasks])


def close_staging(staging: Staging[AnyModel]) -> None:
    """Remove all copies."""
    staging.stager.close()


def staged_task(
    do: Callable[[AnyTask, AnyModel, Callable[[int], None]], SlideOutcome[Result]],
    task: AnyTask,
    staging: Staging[AnyModel],
    on_event: Callable[[int], None],
) -> SlideOutcome[Result]:
    """Process a slide from its copy, and remove the copy.

    Args:
        do: Processes it.
        task: The slide, which is expected.
        staging: The model and the copies.
        on_event: Called with 0 while the slide is copied, and then as `do` calls it.
    """
    stager, source = staging.stager, task.source
    try:
        copied = attempt(task.name, lambda: stager.fetch(source, lambda: on_event(0)))
        if copied.result is None:  # it failed, or its result is up to date
            return cast("SlideOutcome[Result]", copied)
        outcome = do(replace(task, source=copied.result), staging.model, on_event)
        seconds = outcome.seconds + copied.seconds
        return replace(outcome, seconds=seconds, copying_seconds=copied.seconds)
    finally:
        stager.release(source)
