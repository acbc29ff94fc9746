"""Real slides: each opens, or fails as its description says."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from wsi_mitosis.errors import MppError, UnreadableSlideError, WsiMitosisError
from wsi_mitosis.io.slides import find_slides, open_slide
from wsi_mitosis.io.slides.patches import plan_patches, read_patch
from wsi_mitosis.specs import InputSpec

OPENING = {
    "CMU-1-Small-Region.svs": ("openslide", (2220, 2967), 1, 0.499),
    "mosaic-094.tiff": ("openslide", None, 3, 0.23),
    "test3-DAPI-2-387.ndpi": ("openslide", None, 7, 0.228),
    "OS-1-detail.ome.tif": ("tiatoolbox", (1101, 1101), 1, 0.227),
}
FAILING: dict[str, tuple[type[WsiMitosisError], str]] = {
    "ezwsi_camelyon.dcm": (MppError, r"28\.969 um/px, which is outside 0\.05 to 20.*--mpp"),
    "osp_boxes.tiff": (MppError, r"352\.778 um/px, which is outside 0\.05 to 20.*--mpp"),
    "pathml_small_dicom.dcm": (UnreadableSlideError, r"opening: OpenSlide: .*TIAToolbox: "),
}
MPP_TOLD = 0.0006
"""The descriptions round to three digits."""


def test_every_slide_of_the_folder_is_described_here(real_data: Path) -> None:
    found = find_slides([str(real_data / "slides")])
    assert {source.relative for source in found.sources} == {*OPENING, *FAILING}


@pytest.mark.parametrize("name", OPENING)
def test_a_slide_opens_as_described(real_data: Path, name: str) -> None:
    backend, size, levels, mpp = OPENING[name]
    with open_slide(real_data / "slides" / name) as slide:
        assert slide.backend.name == backend
        assert size is None or slide.size_px0 == size
        assert len(slide.levels) == levels
        assert slide.mpp == pytest.approx((mpp, mpp), abs=MPP_TOLD)
        assert slide.mpp_source == "slide"
        assert slide.warnings == ()
        centre = [side // 2 for side in slide.size_px0]
        region = slide.window(0, centre[0] - 64, centre[1] - 64, 128, 128, 255)
        assert region.missing is None
        pixels = region.pixels
        assert pixels.shape == (128, 128, 3)
        assert pixels.std() > 0 or name == "mosaic-094.tiff"  # its canvas is plain
        assert max(slide.thumbnail(300).shape) == 300


@pytest.mark.parametrize("name", FAILING)
def test_a_slide_fails_by_name_as_described(real_data: Path, name: str) -> None:
    kind, message = FAILING[name]
    with pytest.raises(kind, match=message) as caught:
        open_slide(real_data / "slides" / name)
    assert caught.value.subject == name


def test_the_slide_of_an_absurd_pixel_size_opens_with_a_given_one(real_data: Path) -> None:
    with open_slide(real_data / "slides" / "osp_boxes.tiff", given_mpp=0.5) as slide:
        assert slide.mpp == (0.5, 0.5)
        assert slide.mpp_source == "given"
        assert len(slide.levels) == 4
        assert slide.window(0, 0, 0, 64, 64, 0).pixels.shape == (64, 64, 3)


@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
@pytest.mark.parametrize("name", ["CMU-1-Small-Region.svs", "test3-DAPI-2-387.ndpi"])
def test_a_truncated_slide_fails_by_name(real_data: Path, tmp_path: Path, name: str, share: float) -> None:
    path = tmp_path / name
    shutil.copy(real_data / "slides" / name, path)
    with path.open("r+b") as file:
        file.truncate(int(path.stat().st_size * share))

    def read() -> None:
        with open_slide(path, given_mpp=0.25) as slide:
            for top in range(0, slide.size_px0[1], 1024):
                slide.window(0, 0, top, slide.size_px0[0], 1024, 255)

    with pytest.raises(UnreadableSlideError, match=rf"^{name}: (opening|reading pixels): "):
        read()


@pytest.mark.parametrize("name", OPENING)
def test_identity_follows_the_content_and_not_the_place(real_data: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / f"copy{Path(name).suffix}"
    shutil.copy(real_data / "slides" / name, copy)
    with open_slide(real_data / "slides" / name) as slide, open_slide(copy) as other:
        assert slide.identity == other.identity


# --- figures at their true places


def candidates(real_data: Path) -> pd.DataFrame:
    table = pd.read_csv(real_data / "labels" / "mosaic-094.csv")
    found = {path.name: path for path in (real_data / "patches" / "AMi-Br").rglob("*.png")}
    return table.assign(path=[found[name] for name in table["png"]])


@pytest.mark.parametrize("patch_px", [128, 64])
def test_each_figures_patch_is_its_published_crop(real_data: Path, patch_px: int) -> None:
    spec = InputSpec(patch_px=patch_px, mpp=0.25, mpp_tolerance=0.10, pad_value=255, scale=255)
    table = candidates(real_data)
    assert len(table) == 82
    with open_slide(real_data / "slides" / "mosaic-094.tiff") as slide:
        plan = plan_patches("mosaic-094.tiff", slide.levels, slide.mpp, spec, patch_px)
        assert plan.native  # 0.23 um/px lies within 10 % of 0.25
        width, height = slide.size_px0
        half = patch_px // 2
        # none of the crops is cut by the slide's edge, so none was padded by whoever published it
        assert table["x"].between(64, width - 64).all()
        assert table["y"].between(64, height - 64).all()
        for figure in table.itertuples():
            crop = np.asarray(Image.open(figure.path).convert("RGB"))
            assert crop.shape == (128, 128, 3)
            expected = crop[64 - half : 64 + half, 64 - half : 64 + half]
            assert np.array_equal(read_patch(slide, plan, figure.x, figure.y), expected), figure.png
