"""Change the figures of a store, and see which slides are warned of and which labels get worse.

usage: python train/sharpness_trial.py STORE.zarr BUNDLE

Every member classifies at most FIGURES of each slide of the domain that it was trained without, as they are
and after each change, in one view. A slide is compared with the limit that the other domains give. LOG.md has
what came out.
"""

from __future__ import annotations

import sys
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from PIL import Image, ImageFilter
from scipy.ndimage import convolve, gaussian_filter

from wsi_mitosis.core.geometry import cut_centres
from wsi_mitosis.core.metrics import score
from wsi_mitosis.core.sharpness import LEAST_FIGURES, crop_sharpness, find_limit, slide_sharpness
from wsi_mitosis.io.bundles import Bundle, find_bundle, open_bundle
from wsi_mitosis.io.training.stores import Store, open_store
from wsi_mitosis.nets.members import Ensemble

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

FIGURES = 12
BATCH = 32


def by_crop(change: Callable[[Image.Image], Image.Image], crops: Pixels) -> Pixels:
    """Change each crop as an image of Pillow."""
    return np.stack([np.asarray(change(Image.fromarray(crop))) for crop in crops])


def blurred(radius_px: float, crops: Pixels) -> Pixels:
    """Blur by a Gaussian of a standard deviation."""
    return np.asarray(gaussian_filter(crops, (0, radius_px, radius_px, 0), mode="nearest"))


def defocused(radius_px: int, crops: Pixels) -> Pixels:
    """Blur by a disc."""
    along = np.arange(-radius_px, radius_px + 1)
    disc = (along[:, None] ** 2 + along**2 <= radius_px**2 + 0.5).astype(np.float32)
    kernel = (disc / disc.sum())[None, :, :, None]
    return np.asarray(convolve(crops.astype(np.float32), kernel, mode="nearest").round(), dtype=np.uint8)


def compressed(quality: int, image: Image.Image) -> Image.Image:
    """Compress as JPEG."""
    file = BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


def shrunk(image: Image.Image) -> Image.Image:
    """Shrink to half the side and enlarge again."""
    half = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    return half.resize(image.size, Image.Resampling.BILINEAR)


def magnified(image: Image.Image) -> Image.Image:
    """Enlarge twice, as where the stated pixel size is twice the true one."""
    quarter = image.width // 4
    box = (quarter, quarter, image.width - quarter, image.height - quarter)
    return image.resize(image.size, Image.Resampling.BILINEAR, box)


def noisy(deviation: float, crops: Pixels) -> Pixels:
    """Add noise, in grey levels."""
    noise = np.random.default_rng(0).normal(0, deviation, crops.shape)
    return (crops + noise).clip(0, 255).astype(np.uint8)


def denser(factor: float, crops: Pixels) -> Pixels:
    """Multiply the optical density."""
    return (255 * (crops / 255.0) ** factor).round().astype(np.uint8)


CHANGES: dict[str, Callable[[Pixels], Pixels]] = {
    "none": lambda crops: crops,
    **{f"Gaussian blur, {px} px": partial(blurred, px) for px in (1, 2, 3)},
    "disc of radius 3 px": partial(defocused, 3),
    "shrunk and enlarged": partial(by_crop, shrunk),
    "pixel size twice too large": partial(by_crop, magnified),
    "JPEG of quality 20": partial(by_crop, partial(compressed, 20)),
    "grey": partial(by_crop, lambda image: image.convert("L").convert("RGB")),
    "gamma 1.6": partial(denser, 1.6),
    "noise of 12 grey levels": partial(noisy, 12),
    "unsharp mask": partial(by_crop, lambda image: image.filter(ImageFilter.UnsharpMask(1.5, 150, 0))),
}


def of_slides(store: Store, rows: NDArray[np.intp], crops: Pixels, side_px: int) -> pd.Series[float]:
    """The sharpness of each slide that has one."""
    values = np.concatenate(
        [
            crop_sharpness(cut_centres(crops[at : at + BATCH], side_px, "the bundle"))
            for at in range(0, len(crops), BATCH)
        ]
    )
    groups = pd.Series(values, index=store.samples["slide"].iloc[rows]).groupby(level=0)
    return groups.agg(lambda of: slide_sharpness(of.to_numpy()) or np.nan).dropna()


def classified(bundle: Bundle, number: int, crops: Pixels) -> NDArray[np.float64]:
    """P(atypical) of one member."""
    manifest = bundle.manifest.model_copy(update={"member": (bundle.manifest.member[number],)})
    member = Ensemble(manifest, [bundle.read_members()[number]], tta="none")
    centres = cut_centres(crops, member.read_px, manifest.name)
    parts = [member.predict(centres[at : at + BATCH]) for at in range(0, len(centres), BATCH)]
    return np.concatenate(parts)[:, 0]


def main(store_folder: Path, bundle_name: str) -> None:
    """Print a row for each change and domain, then the means over the domains."""
    store, bundle = open_store(store_folder), open_bundle(find_bundle(bundle_name))
    samples, side_px = store.samples, bundle.manifest.input.cut_px
    values = of_slides(store, np.arange(len(samples)), store.images(), side_px)
    domains = samples.groupby("slide")["domain"].first()[values.index]
    found = []
    for number, member in enumerate(bundle.manifest.member):
        own = domains == member.test_domain
        limit = find_limit(values[~own].tolist(), domains[~own].tolist())
        if limit is None:
            raise SystemExit(f"{store_folder}: the other domains give no limit")
        print(f"{member.test_domain}: {(values[own] < limit.lowest).sum()} of {own.sum()} unchanged slides")
        several = samples[samples["domain"] == member.test_domain].groupby("slide")
        enough = several.filter(lambda slide: len(slide) >= 2 * LEAST_FIGURES)
        rows = enough.groupby("slide").sample(frac=1, random_state=0).groupby("slide").head(FIGURES).index
        crops, labels = store.images(rows.to_numpy()), samples["label"].to_numpy()[rows]
        for name, change in CHANGES.items():
            changed = change(crops)
            warned = of_slides(store, rows.to_numpy(), changed, side_px) < limit.lowest
            p_atypical = classified(bundle, number, changed)
            scores = score(labels, p_atypical >= bundle.manifest.ensemble.threshold, p_atypical)
            found.append((name, warned.mean(), scores.balanced_accuracy, scores.auroc))
    columns = ("change", "warned of", "balanced accuracy", "AUROC")
    table = pd.DataFrame(found, columns=columns).groupby("change", sort=False).mean()
    print(table.round(3).to_string())


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
