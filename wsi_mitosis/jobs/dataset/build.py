"""Datasets: from published labels and pixels to one store, in parts that are done once.

This module does not know Ray: it hands parts to an executor and takes outcomes from it.
"""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

from wsi_mitosis.core.doubts import doubts, same_slides
from wsi_mitosis.errors import UNWRITABLE, DatasetError, OutputError, listed
from wsi_mitosis.io.results.lock import FILE as LOCK
from wsi_mitosis.io.results.lock import FolderLock
from wsi_mitosis.io.training.crops import crops_side, unusable
from wsi_mitosis.io.training.labels import read_listing
from wsi_mitosis.io.training.stores import check_free, sample_digests, write_store
from wsi_mitosis.jobs.dataset.parts import MaskOptions, Part, PartOutcome, cut_parts, provider_version
from wsi_mitosis.jobs.dataset.reviewed import reviewed_listing
from wsi_mitosis.jobs.doubts import tell_doubts

if TYPE_CHECKING:
    from wsi_mitosis.jobs.dataset.parts import PartFile
    from wsi_mitosis.specs import DatasetSpec, StoreAttributes

MPP_TOLERANCE = 0.01
"""Relative; slides of one scanner model differ by less."""
STAGE = "building a dataset"


class Reporter(Protocol):
    """Displays the progress and messages of a build."""

    def warn(self, message: str) -> None:
        """Display something that the user should know."""
        ...

    def start(self, parts: int, samples: int) -> None:
        """Called before the first part."""
        ...

    def finished(self, outcome: PartOutcome) -> None:
        """Called when a part ends."""
        ...


Executor = Callable[[Sequence[Part], "DatasetSpec", Reporter], Generator[PartOutcome, None, None]]
"""Takes parts and yields an outcome for each as it ends."""


@dataclass(frozen=True)
class BuildResult:
    """A store that was built.

    Attributes:
        folder: Its folder.
        flags: How many samples have each mask flag.
        kept_parts: How many of the parts an earlier build had left.
    """

    folder: Path
    attributes: StoreAttributes
    samples: int
    atypical: int
    flags: dict[str, int]
    parts: int
    kept_parts: int
    seconds: float


def build(spec: DatasetSpec, execute: Executor, reporter: Reporter) -> BuildResult:
    """Build a store.

    The work is divided into parts. Each part writes a file into a hidden folder beside the store, under a key
    of everything that its content depends on, so a build that was killed continues from there. The store
    appears when all parts are done; its content and digest do not depend on the order of the parts.

    Args:
        spec: What to build.
        execute: Processes the parts.
        reporter: Displays the progress.

    Raises:
        InputError: if labels, images or masks are not available, or the store cannot be written.
    """
    started = perf_counter()
    out = Path(spec.out).absolute()
    check_free(out, overwrite=spec.overwrite)
    masks = MaskOptions(spec.masks, spec.nuclick_weights, spec.placement.device)
    version = provider_version(masks)
    listing = reviewed_listing(spec) if spec.source == "reviews" else read_listing(spec)
    for note in listing.notes:
        reporter.warn(note)
    patch_px = spec.patch_px if listing.on_slides else crops_side(listing.files, spec.patch_px)
    with _parts_folder(out) as folder:
        parts = cut_parts(listing, patch_px, masks, folder)
        reporter.start(len(parts), len(listing.samples))
        outcomes = _process(execute, parts, spec, reporter)
        files = [outcome.file for outcome in outcomes if outcome.file is not None]
        samples = listing.samples.assign(mask_flag=[flag for file in files for flag in file.flags()])
        fields = {
            "name": out.stem,
            "patch_px": patch_px,
            "mpp": _common_mpp(parts, files, listing.mpp, reporter),
            "licence": spec.licence,
            "source": spec.source,
            "mask_provider": spec.masks,
            "mask_provider_version": version,
            "reviews": listing.reviews,
        }
        digests = [digest for file in files for digest in sample_digests(file.pixels()[0])]
        tell_doubts(
            [*_same_slides(parts, files), *doubts(samples.assign(digest=digests))],
            out,
            strict=spec.strict,
            warn=reporter.warn,
        )
        store = write_store(out, fields, samples, (file.pixels() for file in files), overwrite=spec.overwrite)
        shutil.rmtree(folder)
    return BuildResult(
        folder=out,
        attributes=store.attributes,
        samples=len(store.samples),
        atypical=int(store.samples["label"].sum()),
        flags=dict(sorted(Counter(store.samples["mask_flag"]).items())),
        parts=len(parts),
        kept_parts=sum(outcome.kept for outcome in outcomes),
        seconds=perf_counter() - started,
    )


@contextmanager
def _parts_folder(out: Path) -> Iterator[Path]:
    """Create the hidden folder of a store's parts and hold it until the end of the block."""
    folder = out.with_name(f".{out.name}.parts")
    lock = FolderLock(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise OutputError(
            f"cannot be written: {error}", subject=out, stage=STAGE, remedy=UNWRITABLE
        ) from error
    except OutputError as error:
        remedy = f"Wait for it; if its process has ended, delete {folder / LOCK}"
        raise OutputError(error.cause, subject=out, stage=STAGE, remedy=remedy) from error
    try:
        yield folder
    finally:
        lock.release()


def _process(
    execute: Executor, parts: Sequence[Part], spec: DatasetSpec, reporter: Reporter
) -> list[PartOutcome]:
    """Return the outcomes of all parts in their order; if some fail, the others are done first."""
    outcomes = []
    with closing(execute(parts, spec, reporter)) as done:
        for outcome in done:
            reporter.finished(outcome)
            outcomes.append(outcome)
    outcomes.sort(key=lambda outcome: outcome.index)
    if faults := [fault for outcome in outcomes for fault in outcome.faults]:
        raise unusable(faults)
    return outcomes


def _same_slides(parts: Sequence[Part], files: Sequence[PartFile]) -> Iterator[str]:
    identities = {part.files[0]: file.identity() for part, file in zip(parts, files, strict=True)}
    return same_slides({path: identity for path, identity in identities.items() if identity})


def _common_mpp(
    parts: Sequence[Part], files: Sequence[PartFile], classified: Mapping[Path, float], reporter: Reporter
) -> float | None:
    """Return the um/px of all slides; None if one states none, and for crops.

    Args:
        parts: All parts.
        files: Their files.
        classified: um/px that replaces the one that a slide states, by the slide's path.
        reporter: Displays which slides state none.

    Raises:
        DatasetError: if slides differ by more than MPP_TOLERANCE.
    """
    stated = {part.files[0]: file.mpp() for part, file in zip(parts, files, strict=True)} | dict(classified)
    known = {path: mpp for path, mpp in stated.items() if not math.isnan(mpp)}
    if not known:
        return None
    mean = sum(known.values()) / len(known)
    coarse, fine = max(known, key=lambda path: known[path]), min(known, key=lambda path: known[path])
    if any(abs(mpp / mean - 1) > MPP_TOLERANCE for mpp in known.values()):
        raise DatasetError(
            f"its slides have different um/px: {fine.name} has {known[fine]:g}, {coarse.name} has "
            f"{known[coarse]:g}",
            stage=STAGE,
            remedy="Build a store of the slides of each scale",
        )
    if unknown := sorted(path.name for path in stated.keys() - known.keys()):
        reporter.warn(
            f"{len(unknown)} of {len(stated)} slides state no um/px ({listed(unknown)}), so that the store "
            f"states none; the others have {mean:g}"
        )
        return None
    return mean
