"""Slides of every kind of pixels: each shows exactly what was written, or is refused with what it is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from tests.dicom_files import dicom_slide
from tests.slide_files import leica_slide, missing_tiles, planes_slide, textured
from wsi_mitosis.errors import UnreadableSlideError
from wsi_mitosis.io.slides import identify, open_native, open_slide
from wsi_mitosis.io.slides.pixels import check_tiff, check_vendor
from wsi_mitosis.io.slides.tiff import MOST_PAGES, read_tiff

WIDTH, HEIGHT = 310, 300
IMAGE = textured(WIDTH, HEIGHT)
TILED: dict[str, Any] = {"tile": (256, 256)}


def write(path: Path, pixels: NDArray[Any], **how: Any) -> Path:
    """A TIFF without OME-XML unless `ome` is given."""
    options = {"photometric": "rgb", "metadata": {} if how.get("ome") else None, **how}
    tifffile.imwrite(path, pixels, **options)
    return path


def shown(path: Path) -> NDArray[np.uint8]:
    with open_slide(path, given_mpp=0.25) as slide:
        return slide.window(0, 0, 0, *slide.size_px0, 7).pixels


def refusal(path: Path) -> str:
    """The message with which every way of opening refuses a slide."""
    told = set()
    for opening in (
        lambda: open_slide(path, given_mpp=0.25),
        lambda: open_native(path),
        lambda: identify(path),
    ):
        with pytest.raises(UnreadableSlideError) as caught:
            opening()
        assert caught.value.subject == path.name
        assert caught.value.remedy
        assert "copy or scan it again" not in caught.value.remedy
        told.add(str(caught.value))
    (message,) = told
    return message


# --- any TIFF

DTYPES = ("uint8", "uint8", "uint8", "uint16", "int8", "int16", "uint32", "float32")
KINDS = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(DTYPES),
        "samples": st.sampled_from([3, 3, 3, 1, 2, 4, 4, 5]),
        "photometric": st.sampled_from(["rgb", "rgb", "rgb", "minisblack", "miniswhite", "ycbcr", "cielab"]),
        "extra": st.sampled_from(["unassalpha", "assocalpha", "unspecified"]),
        "planar": st.sampled_from(["contig", "contig", "separate"]),
        "tiled": st.booleans(),
        "ome": st.booleans(),
        "compression": st.sampled_from([None, "deflate", "lzw"]),
        "orientation": st.sampled_from([1, 1, 1, 1, 2, 3, 6, 8]),
        "pages": st.sampled_from([1, 1, 1, 2]),
    }
)


def is_rgb(kind: dict[str, Any]) -> bool:
    alpha = kind["samples"] == 4 and kind["extra"] != "unspecified"
    plain = kind["dtype"] == "uint8" and kind["orientation"] == kind["pages"] == 1
    return plain and kind["photometric"] == "rgb" and (kind["samples"] == 3 or alpha)


@settings(max_examples=150, deadline=None)
@given(kind=KINDS, seed=st.integers(0, 9))
def test_a_tiff_of_any_kind_shows_what_was_written_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, kind: dict[str, Any], seed: int
) -> None:
    image = textured(WIDTH, HEIGHT, seed)
    samples = np.dstack([image, np.full_like(image[..., :2], 255)])[..., : kind["samples"]]
    samples = samples.astype(kind["dtype"])
    if kind["planar"] == "separate" and kind["samples"] > 1:
        samples = np.moveaxis(samples, 2, 0)
    elif kind["samples"] == 1:
        samples = samples[..., 0]
    how: dict[str, Any] = {"compression": kind["compression"], "ome": kind["ome"]}
    how |= TILED if kind["tiled"] else {"rowsperstrip": 64}
    if kind["samples"] > 1:
        how["planarconfig"] = kind["planar"]
    if kind["photometric"] == "rgb" and kind["samples"] > 3:
        how["extrasamples"] = [kind["extra"]] + ["unspecified"] * (kind["samples"] - 4)
    if kind["orientation"] != 1:
        how["extratags"] = [(274, "H", 1, kind["orientation"], True)]
    if kind["pages"] > 1:
        samples = np.stack([samples] * kind["pages"])
    path = tmp_path_factory.mktemp("any") / ("a.ome.tif" if kind["ome"] else "a.tif")
    try:
        write(path, samples, photometric=kind["photometric"], **how)
    except (ValueError, TypeError):
        return  # tifffile writes no such file
    try:
        pixels = shown(path)
    except UnreadableSlideError:
        assert not is_rgb(kind)
        return
    assert np.array_equal(pixels, image)


@pytest.mark.parametrize("layout", [TILED, {"rowsperstrip": 50}], ids=["tiled", "strips"])
@pytest.mark.parametrize("ome", [False, True], ids=["plain", "OME"])
@pytest.mark.parametrize(
    ("pixels", "how", "told"),
    [
        (IMAGE[..., 0], {"photometric": "minisblack"}, r"grey \(one channel\), not RGB"),
        (IMAGE[..., 0], {"photometric": "miniswhite"}, r"grey \(white is 0\)"),
        (IMAGE.astype(np.uint16) * 16, {}, r"16-bit unsigned numbers \(uint16\), not 8-bit RGB"),
        (IMAGE.astype(np.float32), {}, r"32-bit floating point numbers \(float32\)"),
        (IMAGE.view(np.int8), {}, "8-bit signed numbers"),
        (np.dstack([IMAGE, IMAGE])[..., :5], {}, "5 channels, not 3 colours"),
        (np.dstack([IMAGE, IMAGE])[..., :4], {"extrasamples": ["unspecified"]}, "fourth channel that is not"),
        (np.dstack([IMAGE, IMAGE])[..., :4], {"photometric": "separated"}, "CMYK"),
        (IMAGE, {"photometric": "cielab"}, "CIELAB"),
        (IMAGE, {"photometric": "icclab"}, "ICCLAB"),
        (IMAGE, {"photometric": "ycbcr"}, "YCbCr in compression 1"),
        (IMAGE, {"photometric": "ycbcr", "compression": "lzw"}, "YCbCr in compression 5"),
        (IMAGE, {"extratags": [(274, "H", 1, 3, True)]}, r"Orientation tag is 3 \(turned by 180 degrees\)"),
        (np.stack([IMAGE, IMAGE]), {}, "2 pages of full size|6 channels"),
    ],
)
def test_a_tiff_that_is_not_8_bit_rgb_is_refused_with_what_it_is(
    tmp_path: Path, layout: dict[str, Any], ome: bool, pixels: NDArray[Any], how: dict[str, Any], told: str
) -> None:
    path = write(tmp_path / ("a.ome.tif" if ome else "a.tif"), pixels, ome=ome, **layout, **how)
    assert re.search(told, refusal(path))


@pytest.mark.parametrize("layout", [TILED, {}], ids=["tiled", "strips"])
@pytest.mark.parametrize("axes", ["ZYXS", "TYXS", "ZCYX"])
def test_a_stack_is_refused_with_the_plane_to_export(
    tmp_path: Path, layout: dict[str, Any], axes: str
) -> None:
    one = IMAGE if axes.endswith("S") else np.moveaxis(IMAGE, 2, 0)
    colours = "rgb" if axes.endswith("S") else "minisblack"
    stack = np.stack([one] * 3)
    path = write(
        tmp_path / "a.ome.tif", stack, ome=True, photometric=colours, metadata={"axes": axes}, **layout
    )
    told = "time series of 3 images" if axes[0] == "T" else "3 focal planes.*plane that is in focus"
    assert re.search(told, refusal(path))


@pytest.mark.parametrize(
    ("pixels", "told"),
    [
        (np.stack([IMAGE, IMAGE]), "ImageJ stack of 2 images"),
        (np.moveaxis(IMAGE, 2, 0), "ImageJ stack of 3 images"),
    ],
)
def test_an_imagej_stack_is_refused_though_it_has_one_page(
    tmp_path: Path, pixels: NDArray[Any], told: str
) -> None:
    colours = "rgb" if pixels.shape[-1] == 3 else "minisblack"
    path = write(tmp_path / "a.tif", pixels, imagej=True, photometric=colours, metadata={})
    assert told in refusal(path)


def test_a_stack_of_thousands_is_recognised_by_its_first_pages(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        for _ in range(MOST_PAGES + 60):
            tiff.write(np.zeros((16, 16, 3), np.uint8), tile=(16, 16), photometric="rgb", metadata=None)
    assert len(read_tiff(path).pages) == MOST_PAGES
    assert "pages of full size" in refusal(path)


def test_a_pyramid_with_its_label_and_overview_is_no_stack(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(IMAGE, photometric="rgb", metadata=None, **TILED)
        tiff.write(IMAGE[::2, ::2], photometric="rgb", metadata=None, subfiletype=1, **TILED)
        tiff.write(IMAGE[::4, ::4], photometric="rgb", metadata=None)  # an overview in strips
        tiff.write(IMAGE[:60, :60, 0], photometric="minisblack", metadata=None)  # a grey label
    assert np.array_equal(shown(path), IMAGE)


@pytest.mark.parametrize("level", [IMAGE[::2, ::2, 0], IMAGE[::2, ::2].astype(np.uint16)])
def test_a_level_of_other_pixels_than_the_slide_is_refused(tmp_path: Path, level: NDArray[Any]) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(IMAGE, photometric="rgb", metadata=None, **TILED)
        colours = "rgb" if level.ndim == 3 else "minisblack"
        tiff.write(level, photometric=colours, metadata=None, subfiletype=1, **TILED)
    assert re.search("grey|16-bit", refusal(path))


@pytest.mark.parametrize(("subfiletype", "accepted"), [(4, True), (5, False)])
def test_a_mask_is_no_image_unless_openslide_takes_it_for_a_level(
    tmp_path: Path, subfiletype: int, accepted: bool
) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(IMAGE, photometric="rgb", metadata=None, **TILED)
        mask = np.ones((HEIGHT, WIDTH), np.bool_)
        tiff.write(mask, photometric="minisblack", metadata=None, subfiletype=subfiletype, **TILED)
    if accepted:
        assert np.array_equal(shown(path), IMAGE)
    else:
        assert "1-bit" in refusal(path)


def test_a_larger_page_behind_the_first_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(IMAGE[:100, :100], photometric="rgb", metadata=None, **TILED)
        tiff.write(IMAGE, photometric="rgb", metadata=None, **TILED)
    assert "a further page is larger" in refusal(path)


@pytest.mark.parametrize("layout", [TILED, {}], ids=["tiled", "strips"])
def test_a_palette_is_shown_in_its_colours(tmp_path: Path, layout: dict[str, Any]) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (3, 256)).astype(np.uint16) * 257
    indices = IMAGE[..., 0]
    path = write(tmp_path / "a.tif", indices, photometric="palette", colormap=colours, **layout)
    assert np.array_equal(shown(path), np.moveaxis((colours >> 8)[:, indices], 0, 2))


@pytest.mark.parametrize("compression", ["jpeg2000", "zstd", "lzma"])
@pytest.mark.parametrize("layout", [TILED, {"rowsperstrip": 64}], ids=["tiled", "strips"])
def test_any_lossless_compression_is_read_exactly(
    tmp_path: Path, layout: dict[str, Any], compression: str
) -> None:
    path = write(tmp_path / "a.tif", IMAGE, compression=compression, **layout)
    assert np.array_equal(shown(path), IMAGE)


@pytest.mark.parametrize("layout", [{"tile": (128, 128)}, {"rowsperstrip": 64}], ids=["tiled", "strips"])
@pytest.mark.parametrize("alpha", [False, True])
def test_colours_stored_one_after_the_other_are_read_exactly(
    tmp_path: Path, layout: dict[str, Any], alpha: bool
) -> None:
    samples = np.dstack([IMAGE, np.full((HEIGHT, WIDTH), 255, np.uint8)]) if alpha else IMAGE
    how = {"extrasamples": ["unassalpha"]} if alpha else {}
    planes = np.moveaxis(samples, 2, 0)
    path = write(tmp_path / "a.tif", planes, planarconfig="separate", **layout, **how)
    assert np.array_equal(shown(path), IMAGE)


def test_a_slide_in_strips_that_is_cut_short_is_an_error_and_no_picture(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", IMAGE, compression="jpeg", rowsperstrip=64)
    path.write_bytes(path.read_bytes()[:-200])  # a JPEG decoder makes up what is missing
    with pytest.raises(UnreadableSlideError, match=r"^a\.tif: reading pixels: tifffile: EOFError"):
        shown(path)


def test_a_damaged_strip_is_an_error_and_no_picture(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", IMAGE, compression="deflate", rowsperstrip=50)
    with tifffile.TiffFile(path) as tiff:
        at = tiff.pages.first.dataoffsets[2] + 20
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"\xff" * 400)
    with pytest.raises(UnreadableSlideError, match=r"^a\.tif: reading pixels: tifffile: .*damaged"):
        shown(path)


# --- channels that are images of their own

RED, GREEN, BLUE = -16776961, 16711935, 65535
"""OME's Color: red, green, blue, alpha in a signed 32-bit number."""
PLANES = np.moveaxis(IMAGE, 2, 0)


@pytest.mark.parametrize("subifds", [0, 2])
@pytest.mark.parametrize("tiled", [True, False], ids=["tiled", "strips"])
@pytest.mark.parametrize(
    ("order", "channels"),
    [
        ((0, 1, 2), None),
        ((0, 1, 2), {"Name": ["Channel 0", "Channel 1", "Channel 2"]}),
        ((0, 1, 2), {"Color": [-1, -1, -1]}),
        ((2, 1, 0), {"Name": ["Blue", "green", "R"]}),
        ((2, 0, 1), {"Color": [BLUE, RED, GREEN]}),
    ],
)
def test_three_channels_are_composed_in_the_order_that_their_names_and_colours_say(
    tmp_path: Path, tiled: bool, subifds: int, order: tuple[int, ...], channels: dict[str, Any] | None
) -> None:
    path = planes_slide(tmp_path / "a.ome.tif", PLANES[list(order)], channels, tiled=tiled, subifds=subifds)
    with open_slide(path) as slide:
        assert slide.backend.name == "tifffile"
        assert slide.mpp == (0.25, 0.25)
        assert [level.downsample for level in slide.levels] == pytest.approx(
            [1, 2, 4][: subifds + 1], rel=0.02
        )
        assert np.array_equal(slide.window(0, 0, 0, WIDTH, HEIGHT, 7).pixels, IMAGE)
        assert np.array_equal(slide.window(0, 201, 97, 96, 64, 7).pixels, IMAGE[97:161, 201:297])
        for level in range(1, subifds + 1):
            half = IMAGE[:: 2**level, :: 2**level]
            of = slide.levels[level]
            assert np.array_equal(slide.window(level, 0, 0, of.width, of.height, 7).pixels, half)
        assert slide.thumbnail(100).shape == (97, 100, 3)


@pytest.mark.parametrize(
    "channels",
    [
        {"Name": ["DAPI", "FITC", "Cy5"]},
        {"Name": ["Red", "Red", "Blue"]},
        {"Color": [RED, GREEN, 16711680]},
        {"Name": ["Red", "Green", "Blue"], "Color": [BLUE, GREEN, RED]},
        {"EmissionWavelength": [450, 520, 670]},
        {"Fluor": ["A", "B", "C"]},
    ],
)
def test_channels_that_are_no_red_green_and_blue_are_refused_by_their_names(
    tmp_path: Path, channels: dict[str, Any]
) -> None:
    message = refusal(planes_slide(tmp_path / "a.ome.tif", PLANES, channels))
    assert "not red, green and blue" in message
    assert all(f"'{name}'" in message for name in channels.get("Name", []))


@pytest.mark.parametrize("number", [1, 2, 4])
def test_another_number_of_channels_is_grey(tmp_path: Path, number: int) -> None:
    message = refusal(planes_slide(tmp_path / "a.ome.tif", np.concatenate([PLANES, PLANES])[:number]))
    assert "grey" in message
    assert number == 1 or f"{number} channels" in message


def test_channels_of_16_bits_are_not_composed(tmp_path: Path) -> None:
    assert "16-bit" in refusal(planes_slide(tmp_path / "a.ome.tif", PLANES.astype(np.uint16)))


def test_channels_in_other_files_are_asked_for(tmp_path: Path) -> None:
    path = planes_slide(tmp_path / "a.ome.tif", PLANES)
    with tifffile.TiffFile(path) as tiff:
        description = tiff.pages.first.description
    description = re.sub(r'(<TiffData IFD="1".*?)/>', r"", description).replace(
        'PlaneCount="3"', 'PlaneCount="1"'
    )
    write(path, PLANES[0], photometric="minisblack", description=description.encode(), **TILED)
    assert "not all in this file" in refusal(path)


# --- the vendors' own words


def pages(path: Path, number: int, **tags: Any) -> Path:
    with tifffile.TiffWriter(path) as tiff:
        for page in range(number):
            own = [(code, "i", 1, values[page], True) for code, values in tags.get("each", {}).items()]
            tiff.write(IMAGE, photometric="rgb", metadata=None, extratags=own, **TILED)
    return path


@pytest.mark.parametrize(("offsets", "refused"), [((0, 0), False), ((0, 2000), True)])
def test_an_ndpi_of_several_focal_planes_is_refused(
    tmp_path: Path, offsets: tuple[int, int], refused: bool
) -> None:
    tiff = read_tiff(pages(tmp_path / "a.tif", 2, each={65424: offsets}))
    if not refused:
        assert check_tiff("a.ndpi", tiff, (WIDTH, HEIGHT), reader="openslide", vendor="hamamatsu") is None
        return
    with pytest.raises(UnreadableSlideError, match="2 focal planes"):
        check_tiff("a.ndpi", tiff, (WIDTH, HEIGHT), reader="openslide", vendor="hamamatsu")


def test_an_scn_of_several_focal_planes_is_refused(tmp_path: Path) -> None:
    path = leica_slide(tmp_path / "a.scn", IMAGE, (0, 0), (WIDTH + 100, HEIGHT + 100))
    tiff = read_tiff(path)
    check_tiff("a.scn", tiff, (WIDTH, HEIGHT), reader="openslide", vendor="leica")
    path.write_bytes(path.read_bytes().replace(b' r="0" ifd="0"', b' z="3" ifd="0"'))
    path.write_bytes(path.read_bytes().replace(b' r="0" ifd="1"', b' z="0" ifd="1"'))
    with pytest.raises(UnreadableSlideError, match="2 focal planes"):
        check_tiff("a.scn", read_tiff(path), (WIDTH, HEIGHT), reader="openslide", vendor="leica")


@pytest.mark.parametrize(
    ("properties", "told"),
    [
        ({"openslide.vendor": "zeiss", "zeiss.Information.Image.PixelType": "Bgr48"}, "Bgr48"),
        ({"openslide.vendor": "ventana", "ventana.Z-layers": "5"}, "5 focal planes"),
        ({"openslide.vendor": "zeiss", "zeiss.Information.Image.PixelType": "Bgr24"}, None),
        ({"openslide.vendor": "ventana", "ventana.Z-layers": "1"}, None),
        ({"openslide.vendor": "aperio"}, None),
    ],
)
def test_what_openslide_tells_of_the_pixels_is_heard(properties: dict[str, str], told: str | None) -> None:
    if told is None:
        check_vendor("a.czi", properties)
        return
    with pytest.raises(UnreadableSlideError, match=told):
        check_vendor("a.czi", properties)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"TotalPixelMatrixFocalPlanes": 3}, "3 focal planes"),
        ({"NumberOfOpticalPaths": 2}, "2 optical paths"),
        ({"BitsAllocated": 16, "BitsStored": 12, "HighBit": 11}, "12-bit unsigned numbers in 16 bits"),
        (
            {"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2"},
            "MONOCHROME2 of 1 channel, not RGB",
        ),
    ],
)
def test_a_dicom_series_that_is_not_8_bit_rgb_in_one_plane_is_refused(
    tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    path = dicom_slide(tmp_path, IMAGE, levels=1)
    shown(path)
    data = pydicom.dcmread(path)
    for keyword, value in changes.items():
        setattr(data, keyword, value)
    data.save_as(path)
    assert told in refusal(path)


def jp2(path: Path, picture: Image.Image) -> Path:
    picture.save(path, irreversible=False)
    return path


def test_jpeg_2000_is_read_as_rgb_and_refused_as_anything_else(tmp_path: Path) -> None:
    path = jp2(tmp_path / "a.jp2", Image.fromarray(IMAGE))
    assert np.array_equal(shown(path), IMAGE)
    data = bytearray(path.read_bytes())
    at = data.index(b"colr") + 7  # after method, precedence and approximation: the colour space
    data[at : at + 4] = (18).to_bytes(4, "big")
    path.write_bytes(data)
    assert "sYCC" in refusal(path)
    assert "of 1 channel," in refusal(jp2(path, Image.fromarray(IMAGE[..., 0])))
    sixteen = Image.fromarray(IMAGE[..., 0].astype(np.uint16) * 16)
    assert "16-bit" in refusal(jp2(path, sixteen))
    assert "4 channels" in refusal(jp2(path, Image.fromarray(IMAGE).convert("RGBA")))


# --- missing pixels


def alpha_slide(path: Path, alpha: NDArray[np.uint8], kind: str = "unassalpha", **how: Any) -> Path:
    colours = IMAGE
    if kind == "assocalpha":
        colours = np.rint(IMAGE * (alpha[..., None] / 255)).astype(np.uint8)
    return write(path, np.dstack([colours, alpha]), extrasamples=[kind], **how)


@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha"])
@pytest.mark.parametrize("layout", [TILED, {"rowsperstrip": 64}], ids=["tiled", "strips"])
@pytest.mark.parametrize("ome", [False, True], ids=["plain", "OME"])
def test_transparent_pixels_are_missing_and_show_the_background(
    tmp_path: Path, ome: bool, layout: dict[str, Any], kind: str
) -> None:
    alpha = np.full((HEIGHT, WIDTH), 255, np.uint8)
    alpha[100:120, 50:90] = 0
    alpha[150:170, 50:90] = 249
    alpha[200:220, 50:90] = 250
    path = alpha_slide(tmp_path / ("a.ome.tif" if ome else "a.tif"), alpha, kind, ome=ome, **layout)
    with open_slide(path, given_mpp=0.25) as slide:
        region = slide.window(0, 0, 0, WIDTH, HEIGHT, 7)
        assert region.missing is not None
        assert np.array_equal(region.missing, alpha < 250)
        assert np.array_equal(region.pixels[alpha == 255], IMAGE[alpha == 255])
        assert (region.pixels[alpha == 0] == 255).all()
        # the white background shows through by 5 of 255; the libraries round up to three times
        expected = IMAGE[alpha == 250] * (250 / 255) + 5
        assert abs(region.pixels[alpha == 250] - expected).max() <= 1.5
        assert slide.window(0, 0, 0, 40, 40, 7).missing is None


def opaque(path: Path, number: int) -> NDArray[np.bool_] | None:
    with open_slide(path, given_mpp=0.25) as slide:
        return slide.window(0, -10, number, 64, 64, 7).missing


def test_padding_is_not_missing(tmp_path: Path) -> None:
    alpha = np.full((HEIGHT, WIDTH), 255, np.uint8)
    assert opaque(alpha_slide(tmp_path / "a.tif", alpha, **TILED), HEIGHT - 20) is None
    alpha[:, 3] = 0
    missing = opaque(alpha_slide(tmp_path / "b.tif", alpha, **TILED), HEIGHT - 20)
    assert missing is not None
    assert np.argwhere(missing).tolist() == [[row, 13] for row in range(20)]


@pytest.mark.parametrize("layout", ["tiled", "strips"])
@pytest.mark.parametrize("ome", [False, True], ids=["plain", "OME"])
def test_tiles_and_strips_that_are_not_stored_are_missing_whichever_library_reads(
    tmp_path: Path, ome: bool, layout: str
) -> None:
    path, present = missing_tiles(tmp_path / ("a.ome.tif" if ome else "a.tif"), IMAGE, layout, ome=ome)
    with open_slide(path, given_mpp=0.25) as slide:
        region = slide.window(0, 0, 0, WIDTH, HEIGHT, 7)
    assert region.missing is not None
    assert np.array_equal(region.missing, ~present)
    assert np.array_equal(region.pixels[present], IMAGE[present])
    assert (region.pixels[~present] == 255).all()
