"""Parts of a dataset that is being built: samples that are done together, each part once.

A part leaves its file in a hidden folder beside the store, under a key of all that decides its content.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from wsi_mitosis.core.geometry import native_origin
from wsi_mitosis.core.masks import Haematoxylin
from wsi_mitosis.errors import SlideError
from wsi_mitosis.io.atomic import replacing
from wsi_mitosis.io.digests import file_sha256
from wsi_mitosis.io.slides import identify, open_native
from wsi_mitosis.io.training.crops import cut_crops, read_crops, short_name

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from wsi_mitosis.core.masks import MaskProvider
    from wsi_mitosis.io.training.labels import Listing
    from wsi_mitosis.tables import MaskProviderName

PART_VERSION = 3
"""Changes when the same images and centres would give other parts."""
CROPS_PER_PART = 256


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
        identity: Identity that the content of its slide must have; None for any.
    """

    index: int
    files: tuple[Path, ...]
    centres_px0: NDArray[np.float64]
    others: tuple[NDArray[np.float64], ...]
    on_slides: bool
    patch_px: int
    masks: MaskOptions
    folder: Path
    identity: str | None = None


@dataclass(frozen=True)
class PartOutcome:
    """What became of a part.

    Attributes:
        file: Its file; None if it failed.
        kept: Whether it was there already.
        faults: What is wrong with its images, a text for each; empty if all went well.
    """

    index: int
    samples: int
    file: PartFile | None = None
    kept: bool = False
    faults: tuple[str, ...] = ()


class PartFile(NamedTuple):
    """A part that is done."""

    path: Path

    def is_whole(self) -> bool:
        """Return whether the file is there and can be read; one that was cut is made again."""
        try:
            with self.path.open("rb") as file, np.load(file) as part:
                return all(part[name] is not None for name in part.files)
        except Exception:  # noqa: BLE001 - numpy and zipfile raise many kinds, of a missing file too
            return False

    def flags(self) -> list[str]:
        """The mask flag of each sample."""
        with np.load(self.path) as part:
            return [str(flag) for flag in part["flags"]]

    def pixels(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Images (n, P, P, 3) and masks (n, P, P)."""
        with np.load(self.path) as part:
            return part["images"], part["masks"]

    def identity(self) -> str:
        """The identity of the slide's content; empty for crops."""
        with np.load(self.path) as part:
            return str(part["identity"])

    def mpp(self) -> float:
        """um/px as the slide states it; NaN for a slide that states none, and for crops."""
        with np.load(self.path) as part:
            return float(part["mpp"])


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
            listing.identities.get(listing.files[start]),
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


def run_part(part: Part, threads: int) -> PartOutcome:
    """Make one part's file, unless it exists; images that cannot be used are faults of its outcome.

    Args:
        part: The part.
        threads: Number of threads that read a slide.
    """
    if gone := [f"{short_name(path)}: no such file" for path in part.files if not path.is_file()]:
        return PartOutcome(part.index, len(part.files), faults=tuple(dict.fromkeys(gone)))
    try:
        file = PartFile(part.folder / f"{_key(part)}.npz")
        kept = file.is_whole()
        faults = [] if kept else _make(part, file.path, threads)
        if not faults and part.identity not in {None, file.identity()}:
            faults = [f"{part.files[0].name}: it has changed since it was classified. Classify it again"]
    except SlideError as error:
        faults = [str(error)]
    if faults:
        return PartOutcome(part.index, len(part.files), faults=tuple(faults))
    return PartOutcome(part.index, len(part.files), file, kept)


def _key(part: Part) -> str:
    """Return the digest of everything that a part's content depends on."""
    files = [identify(part.files[0])] if part.on_slides else [file_sha256(path) for path in part.files]
    parts = {
        "version": PART_VERSION,
        "patch_px": part.patch_px,
        "files": files,
        "centres": part.centres_px0.tolist() if part.on_slides else None,
        "others": [other.tolist() for other in part.others],
        "masks": [part.masks.provider, provider_version(part.masks)],
    }
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _make(part: Part, file: Path, threads: int) -> list[str]:
    """Write a part's file; return what is wrong with its images."""
    if part.on_slides:
        images, mpp, identity, faults = _cut(part, threads)
    else:
        mpp, identity = math.nan, ""
        images, faults = read_crops(part.files, part.patch_px)
    if not faults:
        masks, flags = _masks(part, images)
        with replacing(file) as temporary, temporary.open("wb") as opened:
            np.savez(
                opened,
                images=images,
                masks=masks,
                flags=np.array(flags, dtype=np.str_),
                mpp=np.float64(mpp),
                identity=np.str_(identity),
            )
    return faults


def _cut(part: Part, threads: int) -> tuple[NDArray[np.uint8], float, str, list[str]]:
    """Return a slide's crops, its um/px (NaN if it states none) and identity, and the centres outside it."""
    with open_native(part.files[0]) as slide:
        size = np.array(slide.size_px0)
        outside = ((part.centres_px0 < 0) | (part.centres_px0 >= size)).any(axis=1)
        faults = [
            f"{slide.path.name}: figure at ({x:g}, {y:g}) lies outside the slide, {size[0]} x {size[1]} px"
            for x, y in part.centres_px0[outside]
        ]
        if faults:
            return np.empty((0, 0, 0, 3), np.uint8), math.nan, "", faults
        crops = cut_crops(slide, part.centres_px0, part.patch_px, threads=threads)
        return crops, slide.mpp.mean, slide.identity, []


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
