from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from tests.slide_files import missing_tiles, textured
from wsi_mitosis.errors import UnreadableSlideError
from wsi_mitosis.io.slides import open_native
from wsi_mitosis.io.training.crops import cut_crops, read_crops

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


PIXELS = textured(32, 32)
GREY16 = PIXELS[..., 0].astype(np.uint16) * 257
HALF_CLEAR = np.dstack([PIXELS, np.tile(np.uint8([255, 0] * 16), (32, 1))])


def save_png16(path: Path) -> None:
    """RGB of 16 bits, of which Pillow would read the upper eight without a word."""
    imagecodecs.imwrite(path, PIXELS.astype(np.uint16) * 257)


def saved(image: Image.Image, **options: object) -> Callable[[Path], object]:
    return lambda path: image.save(path, **options)


TURNED = Image.Exif()
TURNED[274] = 6
NOT_RGB: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "16-bit grey": ("a.png", saved(Image.fromarray(GREY16)), "has 16 or more bits a channel, not 8"),
    "16-bit RGB": ("a.png", save_png16, "has 16 or more bits a channel, not 8"),
    "float": ("a.tif", saved(Image.fromarray(GREY16.astype(np.float32))), "has 16 or more bits a channel"),
    "grey": ("a.png", saved(Image.fromarray(PIXELS[..., 0])), "is grey, not RGB"),
    "black and white": ("a.png", saved(Image.fromarray(PIXELS[..., 0] > 127)), "is black and white, not RGB"),
    "CMYK": ("a.jpg", saved(Image.fromarray(PIXELS).convert("CMYK")), "is CMYK, not RGB"),
    "transparent": ("a.png", saved(Image.fromarray(HALF_CLEAR)), "has transparent pixels"),
    "two pages": (
        "a.tif",
        saved(Image.fromarray(PIXELS), save_all=True, append_images=[Image.fromarray(PIXELS)]),
        "holds 2 images",
    ),
    "turned": ("a.jpg", saved(Image.fromarray(PIXELS), exif=TURNED), r"Orientation 6"),
}


@pytest.mark.parametrize("case", NOT_RGB)
def test_a_crop_that_is_not_8_bit_rgb_is_refused_by_name(tmp_path: Path, case: str) -> None:
    name, save, told = NOT_RGB[case]
    save(tmp_path / name)
    Image.fromarray(PIXELS).save(tmp_path / "good.png")
    crops, faults = read_crops([tmp_path / name, tmp_path / "good.png"], 32)
    assert len(faults) == 1
    assert re.search(rf"{tmp_path.name}/{name}: .*{told}", faults[0])
    np.testing.assert_array_equal(crops[1], PIXELS)


@pytest.mark.parametrize("case", ["opaque", "palette", "upright"])
def test_what_is_8_bit_rgb_in_another_form_is_read(tmp_path: Path, case: str) -> None:
    image = Image.fromarray(PIXELS)
    if case == "opaque":
        image.putalpha(255)
    if case == "palette":
        image = image.quantize(256)
    upright = Image.Exif()
    upright[274] = 1
    image.save(tmp_path / "a.png", **({"exif": upright} if case == "upright" else {}))
    crops, faults = read_crops([tmp_path / "a.png"], 32)
    assert faults == []
    np.testing.assert_array_equal(crops[0], np.asarray(image.convert("RGB")))
