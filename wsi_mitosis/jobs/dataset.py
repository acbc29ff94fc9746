"""Datasets: from published labels and pixels to one store, in parts that are done once.

This module knows no Ray: it hands parts to an executor and takes outcomes from it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

import numpy as np

from wsi_mitosis.core.geometry import native_origin
from wsi_mitosis.core.masks import Haematoxylin
from wsi_mitosis.errors import DatasetError, OutputError, SlideError
from wsi_mitosis.io.atomic import replacing
from wsi_mitosis.io.crops import crops_side, read_crops
from wsi_mitosis.io.labels import read_listing
from wsi_mitosis.io.labels.common import listed
from wsi_mitosis.io.stores import check_free, write_store

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from wsi_mitosis.core.masks import MaskProvider
    from wsi_mitosis.io.labels import Listing
    from wsi_mitosis.specs import DatasetSpec, StoreAttributes
    from wsi_mitosis.tables import MaskProviderName

PART_VERSION = 1
"""Changes when the same images and centres would give other parts."""
CROPS_PER_PART = 256
STAGE = "building a dataset"


@dataclass(frozen=True)
class MaskOptions:
    """Who makes the masks; see `specs.DatasetSpec`."""

    provider: MaskProviderName
    nuclick_weights: str | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class Part:
    """Samples that are done together: some crops, or all figures of one slide.

    Attributes:
        index: Its place among the parts, whose samples in turn are the store's.
        files: The image of each sample.
        centres_px0: (n, 2) float64 x, y of the figures, level-0 px, slide frame; NaN where unknown.
        others: For each sample the other figures in its window, (K, 2) float64 x, y in px of the crop.
        on_slides: Whether the files are slides.
        folder: Where its file goes.
    """

    index: int
    files: tuple[Path, ...]
    centres_px0: NDArray[np.float64]
    others: tuple[NDArray[np.float64], ...]
    on_slides: bool
    patch_px: int
    masks: MaskOptions
    folder: Path


@dataclass(frozen=True)
class PartOutcome:
    """What became of a part.

    Attributes:
        file: Where it is; None where it failed.
        kept: Whether it was there already.
        error: One line; None if all went well.
    """

    index: int
    samples: int
    file: Path | None = None
    kept: bool = False
    error: str | None = None


class Reporter(Protocol):
    """Whoever shows a build to the user."""

    def start(self, parts: int, samples: int) -> None:
        """The work begins."""
        ...

    def finished(self, outcome: PartOutcome) -> None:
        """One part is through."""
        ...


Executor = Callable[[Sequence[Part], "DatasetSpec"], Generator[PartOutcome, None, None]]
"""Takes parts and yields an outcome for each as it ends."""


@dataclass(frozen=True)
class BuildResult:
    """A store that was built.

    Attributes:
        folder: Where it lies.
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

    The work is cut into parts. Each leaves its file in a hidden folder beside the store, under a key of all
    that decides its content, so a build that was killed goes on from there. The store appears when all are
    done; its content and digest do not depend on who did the parts, and in which order.

    Args:
        spec: What to build.
        execute: Who does the parts.
        reporter: Who tells the user.

    Raises:
        InputError: where labels, images or masks cannot be had, or the store not be written.
    """
    started = perf_counter()
    out = Path(spec.out)
    check_free(out, overwrite=spec.overwrite)
    masks = MaskOptions(spec.masks, spec.nuclick_weights, spec.placement.device)
    version = provider_version(masks)
    listing = read_listing(spec)
    patch_px = spec.patch_px if listing.on_slides else crops_side(listing.files, spec.patch_px)
    with _parts_folder(out) as folder:
        parts = cut_parts(listing, patch_px, masks, folder)
        reporter.start(len(parts), len(listing.samples))
        outcomes = _through(execute, parts, spec, reporter)
        files = [outcome.file for outcome in outcomes if outcome.file is not None]
        samples = listing.samples.assign(mask_flag=[flag for file in files for flag in _flags(file)])
        fields = {
            "name": out.stem,
            "patch_px": patch_px,
            "mpp": None,
            "licence": spec.licence,
            "source": spec.source,
            "mask_provider": spec.masks,
            "mask_provider_version": version,
        }
        store = write_store(out, fields, samples, map(_pixels, files), overwrite=spec.overwrite)
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
    """The hidden folder of a store's parts, held by this build alone."""
    from filelock import FileLock, Timeout

    folder = out.with_name(f".{out.name}.parts")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_name(f".{out.name}.lock"))
        lock.acquire(timeout=0)
    except Timeout as error:
        raise OutputError("another build is writing it", subject=out, stage=STAGE) from error
    except OSError as error:
        raise OutputError(f"cannot be written: {error.strerror}", subject=out, stage=STAGE) from error
    try:
        yield folder
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def cut_parts(listing: Listing, patch_px: int, masks: MaskOptions, folder: Path) -> list[Part]:
    """Divide a listing in its order: by slide, or into groups of crops."""
    samples = listing.samples
    centres = samples[["x_px0", "y_px0"]].to_numpy(np.float64)
    others = _others(samples, patch_px)
    if listing.on_slides:
        changes = [i for i in range(1, len(samples)) if listing.files[i] != listing.files[i - 1]]
    else:
        changes = list(range(CROPS_PER_PART, len(samples), CROPS_PER_PART))
    return [
        Part(
            index,
            listing.files[start:stop],
            centres[start:stop],
            tuple(others[start:stop]),
            listing.on_slides,
            patch_px,
            masks,
            folder,
        )
        for index, (start, stop) in enumerate(zip([0, *changes], [*changes, len(samples)], strict=True))
    ]


def _others(samples: pd.DataFrame, patch_px: int) -> list[NDArray[np.float64]]:
    """For each sample the other figures in its window, (K, 2) float64 x, y in px of the crop.

    What lies on the same pixel is the same figure.
    """
    others = [np.empty((0, 2))] * len(samples)
    known = samples[samples["slide"].ne("") & samples["x_px0"].notna() & samples["y_px0"].notna()]
    for _, rows in known.groupby("slide"):
        centres = rows[["x_px0", "y_px0"]].to_numpy(np.float64)
        for place, centre in zip(rows.index, centres, strict=True):
            corner = [native_origin(float(axis), patch_px) for axis in centre]
            inside = ((centres >= corner) & (centres < np.add(corner, patch_px))).all(axis=1)
            another = (np.floor(centres + 0.5) != np.floor(centre + 0.5)).any(axis=1)
            others[place] = centres[inside & another] - corner
    return others


def _through(
    execute: Executor, parts: Sequence[Part], spec: DatasetSpec, reporter: Reporter
) -> list[PartOutcome]:
    """All parts in their order; where some fail, the others are done first."""
    outcomes = []
    with closing(execute(parts, spec)) as done:
        for outcome in done:
            reporter.finished(outcome)
            outcomes.append(outcome)
    if errors := [outcome.error for outcome in outcomes if outcome.error is not None]:
        more = "" if len(errors) == 1 else f"; and {len(errors) - 1} more such parts failed"
        raise DatasetError(f"{errors[0]}{more}", stage=STAGE)
    return sorted(outcomes, key=lambda outcome: outcome.index)


def run_parts(parts: Sequence[Part]) -> Iterator[PartOutcome]:
    """Do parts one after the other in this process."""
    return map(run_part, parts)


def run_part(part: Part) -> PartOutcome:
    """Do one part, unless its file is there; what its input explains is its outcome."""
    try:
        file = part.folder / f"{_key(part)}.npz"
        kept = file.exists()
        if not kept:
            _make(part, file)
    except (DatasetError, SlideError) as error:
        return PartOutcome(part.index, len(part.files), error=str(error))
    return PartOutcome(part.index, len(part.files), file, kept)


def _key(part: Part) -> str:
    """Of all that decides a part's content."""
    told = {
        "version": PART_VERSION,
        "patch_px": part.patch_px,
        "files": _identities(part),
        "centres": part.centres_px0.tolist(),
        "others": [other.tolist() for other in part.others],
        "masks": [part.masks.provider, provider_version(part.masks)],
    }
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _identities(part: Part) -> list[str]:
    missing = [path.name for path in part.files if not path.is_file()]
    if missing:
        raise DatasetError(f"{len(missing)} images are gone: {listed(missing)}", stage="reading images")
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in part.files]


def _make(part: Part, file: Path) -> None:
    images = read_crops(part.files, part.patch_px)
    masks, flags = _masks(part, images)
    with replacing(file) as temporary, temporary.open("wb") as opened:
        np.savez(opened, images=images, masks=masks, flags=np.array(flags, dtype=np.str_))


def _masks(part: Part, images: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], list[str]]:
    provider = _provider(part.masks)
    if provider is None:
        return np.zeros(images.shape[:3], np.uint8), ["none"] * len(images)
    found = provider.segment(images, part.others)
    return np.stack([mask for mask, _ in found]).astype(np.uint8), [flag for _, flag in found]


@lru_cache(maxsize=1)
def _provider(options: MaskOptions) -> MaskProvider | None:
    if options.provider == "none":
        return None
    if options.provider == "nuclick":
        from wsi_mitosis.nets.nuclick import NuClick

        hub = options.nuclick_weights == "hub"
        weights = None if hub or options.nuclick_weights is None else Path(options.nuclick_weights)
        return NuClick(weights, hub=hub, device=options.device)
    return Haematoxylin()


def provider_version(options: MaskOptions) -> str:
    """The version of a mask provider; empty without one."""
    provider = _provider(options)
    return "" if provider is None else provider.version


def _flags(file: Path) -> list[str]:
    with np.load(file) as part:
        return [str(flag) for flag in part["flags"]]


def _pixels(file: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    with np.load(file) as part:
        return part["images"], part["masks"]
