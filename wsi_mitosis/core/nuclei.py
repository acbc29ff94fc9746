"""Dark nuclei in an H&E image, for a demonstration. This is not a mitosis detector."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

NUCLEUS_UM2 = (8.0, 120.0)
"""Areas of a condensed nucleus: discs of about 3 to 12 um in diameter."""


def darkest_nuclei(image: NDArray[np.uint8], mpp: float, number: int) -> NDArray[np.float64]:
    """Find the darkest compact objects in haematoxylin.

    Haematoxylin is computed by Ruifrok and Johnston's colour deconvolution (scikit-image's `rgb2hed`),
    smoothed by 1 um, thresholded at its 97th percentile.

    Args:
        image: (height, width, 3) uint8 RGB.
        mpp: um/px.
        number: Most objects to return.

    Returns:
        (N, 3) float64: x, y in px and the mean haematoxylin of the object, the darkest first.
    """
    from skimage.color import rgb2hed
    from skimage.filters import gaussian
    from skimage.measure import label, regionprops

    stain = gaussian(rgb2hed(image)[..., 0], sigma=1.0 / mpp)
    objects = regionprops(label(stain > np.quantile(stain, 0.97)), intensity_image=stain)
    nuclei = [o for o in objects if NUCLEUS_UM2[0] <= o.area * mpp**2 <= NUCLEUS_UM2[1]]
    rows = [(o.centroid[1], o.centroid[0], o.intensity_mean) for o in nuclei]
    darkest = sorted(rows, key=lambda row: row[2], reverse=True)[:number]
    return np.array(darkest, dtype=np.float64).reshape(-1, 3)
