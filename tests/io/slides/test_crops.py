from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.slide_files import missing_tiles, textured
from wsi_mitosis.errors import UnreadableSlideError
from wsi_mitosis.io.slides import open_native
from wsi_mitosis.io.training.crops import cut_crops

IMAGE = textured(300, 300)


@pytest.mark.parametrize("layout", ["tiled", "strips"])
def test_figures_where_the_slide_has_no_pixels_are_refused_by_their_places(
    tmp_path: Path, layout: str
) -> None:
    path, present = missing_tiles(tmp_path / "a.tif", IMAGE, layout)
    there = np.array([[50.0, 50.0], [20.0, 280.0]])
    gone = np.argwhere(~present)[[5000, 9000]][:, ::-1].astype(float)
    with open_native(path) as slide:
        crops = cut_crops(slide, there, 32, threads=2)
        assert np.array_equal(crops[0], IMAGE[34:66, 34:66])
        with pytest.raises(UnreadableSlideError, match=r"^a\.tif: .*no pixels at 2 of the figures") as caught:
            cut_crops(slide, np.concatenate([there, gone]), 32, threads=2)
    assert f"({gone[0][0]:g}, {gone[0][1]:g})" in str(caught.value)
