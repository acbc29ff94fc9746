"""Sharpness: whether the figures of a slide are less sharp than an ensemble was trained for.

The sharpness of a crop is its finest detail relative to its contrast: the standard deviation of the Laplacian
of the optical density, divided by that of the optical density itself. It does not change with the strength of
a stain. The sharpness of a slide is the median over its figures.

The limit is set by how far the slides of a domain that was left out lie below those of the other domains, so
that an ordinary scanner that an ensemble was not trained on stays above it. `train/LOG.md` has what was tried
beside it, and what it does not see.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from wsi_mitosis.schema import Spec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

Verdict = Literal["low", "not low", "too few figures"]

LEAST_FIGURES = 5
"""Figures that a slide needs for a sharpness: the limit was tested on slides with as many."""
MOST_FIGURES = 200
"""Figures of a slide that are measured, so that the cost is bounded."""
LEAST_SLIDES = 20
"""Slides that a limit needs, because it is a quantile of the slides' distances."""
QUANTILE = 0.99
"""Share of the slides of left-out domains that are above the limit."""
LEAST_CONTRAST = 0.01
"""Standard deviation of the optical density below which a crop has no detail to measure."""
DENSITIES = -np.log((np.arange(256, dtype=np.float32) + 1) / 256)
"""Optical density of each grey level."""


class SharpnessLimit(NamedTuple):
    """The least sharpness of a slide without a warning, and the number of slides that it is computed from."""

    lowest: float
    slides: int


class SlideSharpness(Spec):
    """The sharpness of one slide's figures.

    Attributes:
        value: Their median; None for fewer than LEAST_FIGURES.
        lowest: The bundle's limit.
    """

    value: float | None
    lowest: float

    @property
    def verdict(self) -> Verdict:
        """How the value compares with the limit."""
        if self.value is None:
            return "too few figures"
        return "low" if self.value < self.lowest else "not low"

    @property
    def text(self) -> str:
        """The value, the verdict and the limit in words."""
        value = "" if self.value is None else f"{self.value:.3f}, "
        return f"{value}{self.verdict} (limit {self.lowest:.3f})"


def crop_sharpness(crops: NDArray[np.uint8]) -> Floats:
    """Return the sharpness of each crop; it is the same for a mirrored or turned one.

    Args:
        crops: (N, S, S, 3) uint8 RGB at the bundle's um/px, S at least 3.

    Returns:
        (N,) float64, 0 or more; NaN for a crop without contrast.
    """
    red, green, blue = (DENSITIES[crops[..., channel]] for channel in range(3))
    density = (red + green + blue) / 3
    centre = density[:, 1:-1, 1:-1]
    above, below = density[:, :-2, 1:-1], density[:, 2:, 1:-1]
    left, right = density[:, 1:-1, :-2], density[:, 1:-1, 2:]
    detail = _deviation(4 * centre - above - below - left - right)
    contrast = _deviation(density)
    has_contrast = contrast >= LEAST_CONTRAST
    return np.where(has_contrast, detail / np.where(has_contrast, contrast, 1.0), np.nan)


def measured_rows(x_px0: Floats, y_px0: Floats) -> NDArray[np.intp]:
    """Return indices of the figures that are measured: at most MOST_FIGURES, the same in any order of them.

    Args:
        x_px0: (N,) centres along x, level-0 px, slide frame.
        y_px0: (N,) centres along y.
    """
    places = np.lexsort((x_px0, y_px0))
    chosen = np.linspace(0, len(places) - 1, min(len(places), MOST_FIGURES)).round().astype(np.intp)
    return np.asarray(places[chosen])


def slide_sharpness(of_figures: Floats) -> float | None:
    """Return the median sharpness of figures; None if fewer than LEAST_FIGURES have one (not NaN)."""
    known = of_figures[np.isfinite(of_figures)]
    return float(np.median(known)) if len(known) >= LEAST_FIGURES else None


def find_limit(of_slides: Sequence[float], domains: Sequence[str]) -> SharpnessLimit | None:
    """Find the limit from slides of several domains.

    Sharpness is taken on a logarithmic scale. Each slide is compared with the slides of the other domains:
    how far it lies below their mean, in their standard deviations. The limit lies below the mean of all
    slides by the QUANTILE of these distances, in the standard deviation of all.

    Args:
        of_slides: (N,) sharpness of each slide, larger than 0.
        domains: (N,) the domain of each slide.

    Returns:
        The limit; None for fewer than LEAST_SLIDES, for a single domain, or if the slides of all domains but
        one do not differ.
    """
    values, names = np.log(np.asarray(of_slides, np.float64)), np.asarray(domains)
    different = np.unique(names)
    others = [values[names != name] for name in different]
    if len(values) < LEAST_SLIDES or len(different) < 2 or min(map(np.std, others)) == 0:
        return None
    below = np.concatenate(
        [
            (rest.mean() - values[names == name]) / rest.std()
            for name, rest in zip(different, others, strict=True)
        ]
    )
    lowest = np.exp(values.mean() - np.quantile(below, QUANTILE) * values.std())
    return SharpnessLimit(float(lowest), len(values))


def _deviation(images: NDArray[np.floating]) -> Floats:
    """(N,) standard deviation of the values of each image."""
    return np.asarray(images.std(axis=(1, 2), dtype=np.float64))
