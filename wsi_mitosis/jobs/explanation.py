"""Where the members of a bundle look in figures of a slide, for the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wsi_mitosis.core.geometry import read_px
from wsi_mitosis.io.bundles import find_bundle, open_bundle
from wsi_mitosis.io.processors import granted_cpus
from wsi_mitosis.io.slides.patches import plan_patches, stream_patches

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsi_mitosis.io.bundles import Bundle
    from wsi_mitosis.io.slides import Slide
    from wsi_mitosis.nets.ensembles import Ensemble
    from wsi_mitosis.units import Mpp

BATCH = 16
THREADS = 2


class Explainer:
    """Makes class-activation maps of figures with the members of a bundle.

    Args:
        bundle: A checked bundle.
        ensemble: Its members.
    """

    def __init__(self, bundle: Bundle, ensemble: Ensemble) -> None:
        self.bundle, self._ensemble = bundle, ensemble

    @property
    def text(self) -> str:
        """The members, in words."""
        manifest = self.bundle.manifest
        return f"the {len(manifest.member)} members of {manifest.name} ({self.bundle.digest[:12]})"

    @property
    def window_um(self) -> float:
        """Side of the square that the maps cover, um."""
        manifest = self.bundle.manifest
        return manifest.input.cut_px * manifest.input.mpp / manifest.ensemble.single_zoom

    def maps(
        self, slide: Slide, mpp: Mpp, x_px0: NDArray[np.float64], y_px0: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        """Return the map of each figure.

        Args:
            slide: An open slide.
            mpp: um per level-0 px.
            x_px0: (N,) centres along x, level-0 px, slide frame; N > 0.
            y_px0: (N,) centres along y.

        Returns:
            (N, h, w), 0 to 1, as `Ensemble.explain` computes them.

        Raises:
            SlideError: if the pixels cannot be read, or not at the bundle's um/px.
        """
        spec, zooms = self.bundle.manifest.input, self.bundle.manifest.ensemble.zooms
        plan = plan_patches(slide.path.name, slide.levels, mpp, spec, read_px(spec.cut_px, zooms))
        batches = stream_patches(slide, plan, x_px0, y_px0, batch_size=BATCH, threads=THREADS)
        found = [(batch.rows, self._ensemble.explain(batch.pixels)) for batch in batches]
        rows = np.concatenate([rows for rows, _ in found])
        return np.concatenate([maps for _, maps in found])[np.argsort(rows)]


def open_explainer(bundle: str) -> Explainer:
    """Open the bundle whose members are to be explained, and build its networks on the CPU.

    Args:
        bundle: A bundle's folder, or the name of a shipped one.

    Raises:
        BundleError: if it is missing, malformed or altered, or its weights do not fit its networks.
    """
    from wsi_mitosis.nets.ensembles import Ensemble

    found = open_bundle(find_bundle(bundle))
    return Explainer(
        found, Ensemble(found.manifest, found.read_members(), device="cpu", threads=granted_cpus())
    )
