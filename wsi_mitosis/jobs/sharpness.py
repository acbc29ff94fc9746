"""The sharpness of slides: the limit of a dataset, and one slide compared with its bundle's limit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from wsi_mitosis.core.geometry import cut_centres
from wsi_mitosis.core.sharpness import (
    SlideSharpness,
    crop_sharpness,
    find_limit,
    measured_rows,
    slide_sharpness,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsi_mitosis.io.training.stores import Store
    from wsi_mitosis.specs import BundleManifest

CROPS_AT_ONCE = 256


def sharpness_fields(store: Store, side_px: int) -> dict[str, Any] | None:
    """Compute the table `[sharpness]` in the manifest of a bundle that was trained on a store.

    Args:
        store: The store.
        side_px: Side of what the bundle cuts around a figure, px.

    Returns:
        The fields of `SharpnessSpec`; None if the store names too few slides or a single domain (see
        `core.sharpness.find_limit`).
    """
    figures = store.samples.assign(sharpness=_figures_sharpness(store, side_px))
    slides = figures[figures["slide"] != ""].groupby(["domain", "slide"])["sharpness"]
    known = slides.agg(lambda values: slide_sharpness(values.to_numpy()) or np.nan).dropna()
    limit = find_limit(known.tolist(), known.index.get_level_values("domain").tolist())
    return None if limit is None else {**limit._asdict(), "dataset_digest": store.attributes.digest}


def _figures_sharpness(store: Store, side_px: int) -> NDArray[np.float64]:
    """(N,) sharpness of all samples, of which a part is in memory at a time."""
    found = np.empty(len(store.samples))
    for start in range(0, len(found), CROPS_AT_ONCE):
        rows = np.arange(start, min(start + CROPS_AT_ONCE, len(found)))
        found[rows] = crop_sharpness(cut_centres(store.images(rows), side_px, "the bundle"))
    return found


class SharpnessMeter:
    """Measures the sharpness of a slide's figures while they are classified.

    Args:
        manifest: The bundle's manifest. Nothing is measured if it has no limit.
        x_px0: (N,) centres of the slide's candidates along x, level-0 px, slide frame.
        y_px0: (N,) centres along y.
        rows: (M,) indices of the candidates that are classified.

    Attributes:
        values: (M,) their sharpness; NaN for those that were not measured.
    """

    def __init__(
        self,
        manifest: BundleManifest,
        x_px0: NDArray[np.float64],
        y_px0: NDArray[np.float64],
        rows: NDArray[np.intp],
    ) -> None:
        self._manifest = manifest
        self.values = np.full(len(rows), np.nan)
        measured = np.zeros(len(x_px0), np.bool_)
        if manifest.sharpness is not None:
            measured[measured_rows(x_px0, y_px0)] = True
        self._measured = measured[rows]

    def add(self, at: NDArray[np.intp], crops: NDArray[np.uint8]) -> None:
        """Measure those crops whose figures were chosen for it.

        Args:
            at: (B,) indices into `rows`.
            crops: (B, S, S, 3) uint8 RGB at the bundle's um/px, S at least the side that the bundle cuts.
        """
        chosen = self._measured[at]
        centres = cut_centres(crops[chosen], self._manifest.input.cut_px, self._manifest.name)
        self.values[at[chosen]] = crop_sharpness(centres)


def sharpness_of(values: NDArray[np.float64], manifest: BundleManifest) -> SlideSharpness | None:
    """Return the sharpness of a slide; None if the bundle has no limit.

    Args:
        values: (N,) the `values` of all of its candidates.
        manifest: The bundle's manifest.
    """
    if (limit := manifest.sharpness) is None:
        return None
    return SlideSharpness(value=slide_sharpness(values), lowest=limit.lowest)


def sharpness_warning(name: str, bundle: str, sharpness: SlideSharpness | None) -> tuple[str, ...]:
    """Return a warning about a slide whose figures are not sharp.

    Args:
        name: The slide.
        bundle: Name of the bundle.
        sharpness: Of the slide; None if the bundle has no limit.
    """
    if sharpness is None or sharpness.value is None or sharpness.verdict != "low":
        return ()
    return (
        f"{name}: its figures are less sharp than those that '{bundle}' was trained on: sharpness "
        f"{sharpness.value:.3f}, limit {sharpness.lowest:.3f}. The slide may be out of focus, or its pixel "
        "size wrong. Look at a sample of the figures, because their labels and probabilities may be wrong",
    )
