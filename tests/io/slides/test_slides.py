from __future__ import annotations

import hashlib
import logging
import os
import shutil
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from tests.slide_files import (
    aperio_slide,
    damage,
    leica_slide,
    ndpi_slide,
    ome_slide,
    textured,
    tiff_of_resolution,
    tiff_slide,
)
from wsi_mitosis.errors import MppError, UnreadableSlideError
from wsi_mitosis.io.slides import identify, open_native, open_slide
from wsi_mitosis.io.slides.identity import BLOCK_BYTES, BLOCKS, _offsets, slide_identity
from wsi_mitosis.io.slides.openslide_backend import centre_offset
from wsi_mitosis.units import Bounds, Mpp

WIDTH, HEIGHT = 700, 500
IMAGE = textured(WIDTH, HEIGHT)
MPP_KEPT = 1e-6
"""A TIFF stores px/cm as a ratio of 32-bit integers, which keeps about nine digits of it."""


def make(kind: str, path: Path) -> Path:
    """A slide of each kind, all of IMAGE at 0.25 um/px."""
    if kind == "tiff":
        return tiff_slide(path / "a.tiff", IMAGE, levels=2)
    if kind == "aperio":
        return aperio_slide(path / "a.svs", IMAGE)
    if kind == "leica":
        return leica_slide(path / "a.scn", IMAGE, (0, 0), (WIDTH + 100, HEIGHT + 100))
    return ome_slide(path / "a.ome.tif", IMAGE, tile=(256, 256) if kind == "tiled OME" else None)


@pytest.mark.parametrize(
    ("kind", "backend"),
    [
        ("tiff", "openslide"),
        ("aperio", "openslide"),
        ("tiled OME", "openslide"),
        ("OME in strips", "tiatoolbox"),
    ],
)
def test_every_kind_opens_with_its_size_pixel_size_and_pixels(
    tmp_path: Path, kind: str, backend: str
) -> None:
    with open_slide(make(kind, tmp_path)) as slide:
        assert slide.backend.name == backend
        assert slide.size_px0 == (WIDTH, HEIGHT)
        assert slide.mpp == pytest.approx((0.25, 0.25), rel=MPP_KEPT)
        assert slide.stated_mpp == slide.mpp
        assert slide.mpp_source == "slide"
        assert slide.bounds is None
        assert slide.warnings == ()
        whole = slide.window(0, 0, 0, WIDTH, HEIGHT, 0)
        assert whole.origin == (0, 0)
        assert np.array_equal(whole.pixels, IMAGE)
        part = slide.window(0, 301, 97, 128, 64, 0)
        assert part.origin == (301, 97)
        assert np.array_equal(part.pixels, IMAGE[97:161, 301:429])


def test_the_pyramid_is_told_in_each_levels_own_pixels(tmp_path: Path) -> None:
    with open_slide(tiff_slide(tmp_path / "a.tiff", IMAGE, levels=3)) as slide:
        assert [(level.width, level.height) for level in slide.levels] == [(700, 500), (350, 250), (175, 125)]
        assert [level.downsample for level in slide.levels] == [1, 2, 4]
        assert [level.tile_px for level in slide.levels] == [(256, 256)] * 3


def test_bounds_lie_where_the_scanned_part_lies_and_pixels_stay_in_the_slide_frame(tmp_path: Path) -> None:
    path = leica_slide(tmp_path / "a.scn", IMAGE, offset_px=(300, 160), size_px=(1200, 800))
    with open_slide(path) as slide:
        assert slide.size_px0 == (1200, 800)
        assert slide.backend.name == "openslide"
        assert slide.mpp == pytest.approx((0.25, 0.25), rel=MPP_KEPT)
        assert slide.bounds == Bounds(300, 160, WIDTH, HEIGHT)
        assert np.array_equal(slide.window(0, 300, 160, WIDTH, HEIGHT, 0).pixels, IMAGE)


def test_holes_of_a_slide_show_its_background_and_not_black(tmp_path: Path) -> None:
    path = leica_slide(tmp_path / "a.scn", IMAGE, offset_px=(300, 160), size_px=(1200, 800))
    with open_slide(path) as slide:
        around = slide.window(0, 280, 140, 40, 40, 0).pixels
        assert (around[:20] == 255).all()
        assert (around[:, :20] == 255).all()
        assert np.array_equal(around[20:, 20:], IMAGE[:20, :20])


@pytest.mark.parametrize("pad_value", [0, 255])
@pytest.mark.parametrize("kind", ["tiff", "OME in strips"])
@pytest.mark.parametrize(
    ("x", "y"),
    [
        (-20, 100),
        (WIDTH - 44, 100),
        (100, -20),
        (100, HEIGHT - 44),
        (-20, -20),
        (WIDTH - 44, -20),
        (-20, HEIGHT - 44),
        (WIDTH - 44, HEIGHT - 44),
        (-64, 10),  # touches, and holds nothing
        (WIDTH, HEIGHT),
        (-500, -500),
    ],
)
def test_padding_lies_on_the_true_side(tmp_path: Path, kind: str, pad_value: int, x: int, y: int) -> None:
    margin = 600
    padded = np.pad(IMAGE, ((margin, margin), (margin, margin), (0, 0)), constant_values=pad_value)
    expected = padded[margin + y : margin + y + 64, margin + x : margin + x + 64]
    with open_slide(make(kind, tmp_path)) as slide:
        region = slide.window(0, x, y, 64, 64, pad_value)
    assert region.origin == (x, y)
    assert np.array_equal(region.pixels, expected)


def test_a_window_larger_than_the_slide_is_padded_all_around(tmp_path: Path) -> None:
    image = textured(40, 30)
    with open_slide(tiff_slide(tmp_path / "a.tiff", image)) as slide:
        pixels = slide.window(0, -5, -10, 60, 60, 7).pixels
    assert np.array_equal(pixels, np.pad(image, ((10, 20), (5, 15), (0, 0)), constant_values=7))


@pytest.mark.parametrize("write", [tiff_slide, ome_slide])
def test_a_thumbnail_shows_the_whole_slide(tmp_path: Path, write: Callable[..., Path]) -> None:
    quarters = np.array([[[200, 30, 90], [20, 220, 60]], [[90, 140, 10], [250, 80, 180]]], np.uint8)
    image = np.repeat(np.repeat(quarters, HEIGHT // 2, axis=0), WIDTH // 2, axis=1)
    with open_slide(write(tmp_path / "a.ome.tif", image)) as slide:
        small = slide.thumbnail(140)
    assert small.dtype == np.uint8
    assert small.shape == (100, 140, 3)
    # away from the borders of the quarters, over which the libraries' filters reach differently
    assert np.array_equal(small[20:100:50, 30:140:70], quarters)


# --- pixel sizes


@pytest.mark.parametrize("mpp", [0.05, 0.2425, 0.5, 20.0])
def test_any_usable_pixel_size_is_read(tmp_path: Path, mpp: float) -> None:
    with open_slide(tiff_slide(tmp_path / "a.tiff", IMAGE, mpp=mpp)) as slide:
        assert slide.mpp == pytest.approx((mpp, mpp), rel=MPP_KEPT)


def test_a_pixel_size_per_axis_is_kept(tmp_path: Path) -> None:
    with open_slide(tiff_of_resolution(tmp_path / "a.tiff", IMAGE, (0.25, 0.5))) as slide:
        assert slide.mpp == pytest.approx((0.25, 0.5), rel=MPP_KEPT)
        assert slide.mpp.anisotropic


@pytest.mark.parametrize(
    ("stated", "power"), [("40", 40.0), ("20", 20.0), ("0", None), ("?", None), ("-4", None)]
)
def test_the_objectives_power_is_read_where_it_is_stated(
    tmp_path: Path, stated: str, power: float | None
) -> None:
    path = aperio_slide(tmp_path / "a.svs", IMAGE)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"AppMag = 40|", b"AppMag = " + stated.encode().ljust(2) + b"|"))
    with open_slide(path) as slide:
        assert slide.backend.objective_power == power


def test_an_estimated_power_is_not_used(tmp_path: Path) -> None:
    for path in (ome_slide(tmp_path / "a.ome.tif", IMAGE), tiff_slide(tmp_path / "a.tiff", IMAGE, mpp=0.25)):
        with open_slide(path) as slide:
            assert slide.backend.objective_power is None


@pytest.mark.parametrize(
    ("x", "y", "differ"), [(0.25, 0.25, False), (0.25, 0.252, False), (0.25, 0.26, True), (0.0, 0.0, False)]
)
def test_axes_differ_from_one_percent_on(x: float, y: float, differ: bool) -> None:
    assert Mpp(x, y).anisotropic is differ


@pytest.mark.parametrize(
    "unusable", [None, "352.8", "0", "0.04999", "20.001", "-0.25", "nan", "inf", "a quarter"]
)
def test_without_a_usable_pixel_size_the_slide_is_refused_by_name(
    tmp_path: Path, unusable: str | None
) -> None:
    path = aperio_slide(tmp_path / "case 7.svs", IMAGE, unusable)
    with pytest.raises(MppError, match=r"^case 7\.svs: .*--mpp") as caught:
        open_slide(path)
    assert caught.value.subject == "case 7.svs"


@pytest.mark.parametrize("unusable", [None, "352.8", "0"])
def test_a_given_pixel_size_stands_in_for_an_unusable_one(tmp_path: Path, unusable: str | None) -> None:
    with open_slide(aperio_slide(tmp_path / "a.svs", IMAGE, unusable), given_mpp=0.23) as slide:
        assert slide.mpp == (0.23, 0.23)
        assert slide.mpp_source == "given"
        assert slide.stated_mpp is None
        assert slide.warnings == ()


def test_a_given_pixel_size_is_ignored_with_a_warning_where_the_slide_states_one(tmp_path: Path) -> None:
    with open_slide(aperio_slide(tmp_path / "a.svs", IMAGE, "0.25"), given_mpp=0.5) as slide:
        assert slide.mpp == (0.25, 0.25)
        assert slide.mpp_source == "slide"
        (warning,) = slide.warnings
        assert "a.svs" in warning
        assert "0.5" in warning
        assert "0.25" in warning


def test_giving_the_size_that_the_slide_states_warns_of_nothing(tmp_path: Path) -> None:
    with open_slide(aperio_slide(tmp_path / "a.svs", IMAGE, "0.25"), given_mpp=0.25) as slide:
        assert slide.warnings == ()


@pytest.mark.parametrize(("stated", "told"), [("0.25", "0.25"), (None, "no pixel size"), ("0", "0")])
def test_a_listed_pixel_size_replaces_a_stated_one_and_says_so(
    tmp_path: Path, stated: str | None, told: str
) -> None:
    path = aperio_slide(tmp_path / "a.svs", IMAGE, stated)
    with open_slide(path, given_mpp=0.5, list_mpp=0.2425) as slide:
        assert slide.mpp == (0.2425, 0.2425)
        assert slide.mpp_source == "list"
        (warning,) = slide.warnings
        assert "0.2425" in warning
        assert told in warning


@pytest.mark.parametrize("tile", [None, (256, 256)], ids=["in strips", "tiled"])
def test_a_pixel_size_that_tiatoolbox_makes_up_is_refused(
    tmp_path: Path, tile: tuple[int, int] | None, caplog: pytest.LogCaptureFixture
) -> None:
    path = ome_slide(tmp_path / "a.ome.tif", IMAGE, mpp=None, power=40, tile=tile)
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("ignore")  # of TIAToolbox's dependencies
        from tiatoolbox.wsicore.wsireader import TIFFWSIReader

        reader = TIFFWSIReader(path)
        guess = reader.info.mpp
        reader.tiff.close()
        reader._zarr_store.close()
    logging.captureWarnings(capture=False)  # as TIAToolbox's import turned it on
    assert guess is not None, (
        "TIAToolbox no longer guesses from the objective's power: this test has no point"
    )
    with pytest.raises(MppError, match="states no pixel size"):
        open_slide(path)
    with open_slide(path, given_mpp=0.23) as slide:
        assert slide.mpp == (0.23, 0.23)
        assert slide.mpp_source == "given"


@pytest.mark.parametrize("tile", [None, (256, 256)], ids=["in strips", "tiled"])
@pytest.mark.parametrize(
    ("size", "unit"),
    [
        ("0.25", "µm"),
        ("0.25", "\N{GREEK SMALL LETTER MU}m"),
        ("2500", "Å"),
        ("2500", "\N{ANGSTROM SIGN}"),
        ("250000", "pm"),
        ("250", "nm"),
        ("0.00025", "mm"),
        ("0.000025", "cm"),
        ("2.5E-7", "m"),
        (str(0.25 / 25.4), "thou"),
        (str(0.25 / 25_400), "in"),
        (str(0.25 / 25_400), "inch"),
        (str(0.25 / 304_800), "ft"),
        (str(0.25 / 914_400), "yd"),
        (str(0.25 * 72 / 25_400), "pt"),
        (str(0.25 * 12 / 25_400), "li"),
    ],
)
def test_an_ome_tiff_states_its_size_in_any_unit_of_length(
    tmp_path: Path, size: str, unit: str, tile: tuple[int, int] | None
) -> None:
    with open_slide(ome_slide(tmp_path / "a.ome.tif", IMAGE, mpp=size, unit=unit, tile=tile)) as slide:
        assert slide.mpp == pytest.approx((0.25, 0.25))


@pytest.mark.parametrize(
    ("size", "unit"), [("1", "pixel"), ("0.25", "reference frame"), ("0.25", "furlong"), ("0", "µm")]
)
@pytest.mark.parametrize("tile", [None, (256, 256)], ids=["in strips", "tiled"])
def test_what_is_no_length_is_no_pixel_size(
    tmp_path: Path, size: str, unit: str, tile: tuple[int, int] | None
) -> None:
    path = ome_slide(tmp_path / "a.ome.tif", IMAGE, mpp=size, unit=unit, tile=tile)
    with pytest.raises(MppError, match="states no pixel size"):
        open_slide(path)


def test_a_size_that_is_no_number_is_no_pixel_size(tmp_path: Path) -> None:
    with pytest.raises(MppError):
        open_slide(ome_slide(tmp_path / "a.ome.tif", IMAGE, mpp="wide", tile=(256, 256)))


@pytest.mark.parametrize("tile", [None, (256, 256)], ids=["in strips", "tiled"])
@pytest.mark.parametrize(
    ("dpi", "told"),
    [(72, "352.8"), (25_400 / 0.2451, None), (25_400 / 0.26, "0.26"), (25_400 / 0.24, "0.24")],
)
def test_ome_wins_over_the_resolution_tag_and_the_run_says_both(
    tmp_path: Path, tile: tuple[int, int] | None, dpi: float, told: str | None
) -> None:
    path = tmp_path / "a.ome.tif"
    metadata = {"axes": "YXS", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25}
    how = {"tile": tile, "photometric": "rgb", "metadata": metadata}
    tifffile.imwrite(path, IMAGE, ome=True, resolution=(dpi, dpi), resolutionunit="INCH", **how)
    with open_slide(path) as slide:
        assert slide.mpp == slide.stated_mpp == (0.25, 0.25)
        states = (
            f"a.ome.tif: the file states 0.25 um/px (OME) and {told} um/px (TIFF resolution); 0.25 is used"
        )
        assert slide.warnings == (() if told is None else (states,))


@pytest.mark.parametrize("tile", [None, (256, 256)], ids=["in strips", "tiled"])
def test_the_axes_of_an_ome_size_are_not_mixed_up(tmp_path: Path, tile: tuple[int, int] | None) -> None:
    path = tmp_path / "a.ome.tif"
    metadata = {"axes": "YXS", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5}
    tifffile.imwrite(path, IMAGE, ome=True, tile=tile, photometric="rgb", metadata=metadata)
    with open_slide(path) as slide:
        assert slide.mpp == (0.25, 0.5)


def test_a_vendors_size_wins_over_the_resolution_tag(tmp_path: Path) -> None:
    path = aperio_slide(tmp_path / "a.svs", IMAGE, "0.25", resolution=(72, 72), resolutionunit="INCH")
    with open_slide(path) as slide:
        assert slide.mpp == (0.25, 0.25)
        (warning,) = slide.warnings
        assert "0.25 um/px (aperio) and 352.8 um/px (TIFF resolution); 0.25 is used" in warning


def test_the_size_of_the_slide_and_not_of_another_image_of_the_file_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tiff:
        for image, mpp in ((IMAGE[:64, :64], 8.0), (IMAGE, 0.25)):
            metadata = {"axes": "YXS", "PhysicalSizeX": mpp, "PhysicalSizeY": mpp}
            tiff.write(image, photometric="rgb", metadata=metadata)
    with open_slide(path) as slide:
        assert slide.size_px0 == (WIDTH, HEIGHT)
        assert slide.mpp == (0.25, 0.25)
        assert np.array_equal(slide.window(0, 0, 0, WIDTH, HEIGHT, 0).pixels, IMAGE)


def test_a_slide_in_strips_states_its_size_by_its_resolution(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    how = {"resolution": (40_000, 20_000), "resolutionunit": "CENTIMETER", "metadata": None}
    tifffile.imwrite(path, IMAGE, photometric="rgb", **how)
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx((0.25, 0.5))


def printed(code: str, path: Path) -> str:
    """What a new Python prints that runs `code` with a path as its argument."""
    command = [sys.executable, "-c", code, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_opening_an_svs_does_not_import_tiatoolbox(tmp_path: Path) -> None:
    path = aperio_slide(tmp_path / "a.svs", IMAGE)
    code = (
        "import sys; from pathlib import Path; from wsi_mitosis.io.slides import open_slide\n"
        "with open_slide(Path(sys.argv[1])) as slide: slide.window(0, 0, 0, 64, 64, 0)\n"
        "print(sorted({'tiatoolbox', 'torch', 'ray', 'pandas'} & set(sys.modules)))"
    )
    assert printed(code, path).strip() == "[]"


def test_opening_by_tiatoolbox_leaves_the_process_as_it_was(tmp_path: Path) -> None:
    path = ome_slide(tmp_path / "a.ome.tif", IMAGE)
    code = (
        "import logging, sys, warnings; from pathlib import Path\n"
        "from wsi_mitosis.io.slides import open_slide\n"
        "before = logging.getLogger().handlers[:], warnings.showwarning, warnings.filters[:]\n"
        "open_slide(Path(sys.argv[1])).close()\n"
        "after = logging.getLogger().handlers[:], warnings.showwarning, warnings.filters[:]\n"
        "print([a == b for a, b in zip(before, after)])\n"
        "logging.captureWarnings(True); print(warnings.showwarning is before[1])"
    )
    assert printed(code, path).splitlines() == ["[True, True, True]", "False"]


# --- identity


def identity(path: Path) -> str:
    with open_slide(path, given_mpp=0.25) as slide:
        return slide.identity


@pytest.mark.parametrize("kind", ["tiff", "aperio", "OME in strips"])
def test_a_copy_in_another_folder_is_the_same_slide(tmp_path: Path, kind: str) -> None:
    path = make(kind, tmp_path)
    (tmp_path / "other").mkdir()
    copy = shutil.copy(path, tmp_path / "other" / f"renamed{path.suffix}")
    assert identity(copy) == identity(path)
    assert len(identity(path)) == 64


@pytest.fixture(scope="module")
def small_slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiff_slide(tmp_path_factory.mktemp("identity") / "a.tiff", IMAGE)


@given(at=st.floats(0, 1, exclude_max=True))
def test_one_changed_byte_of_a_small_slide_changes_its_identity(small_slide: Path, at: float) -> None:
    data = bytearray(small_slide.read_bytes())
    data[int(at * len(data))] ^= 1
    changed = small_slide.with_name("changed.tiff")
    changed.write_bytes(data)
    assert slide_identity(changed, "the vendor's") != slide_identity(small_slide, "the vendor's")


def test_identity_sees_a_pixel_that_quickhash_does_not(tmp_path: Path) -> None:
    changed_image = IMAGE.copy()
    changed_image[250, 350, 0] ^= 1
    # quickhash-1 hashes the smallest level, which is the same here
    small = (IMAGE[::2, ::2],)
    path = tiff_of_resolution(tmp_path / "a.tiff", IMAGE, (0.25, 0.25), small)
    changed = tiff_of_resolution(tmp_path / "b.tiff", changed_image, (0.25, 0.25), small)
    with open_slide(path) as one, open_slide(changed) as other:
        assert one.backend.vendor_hash is not None
        assert one.backend.vendor_hash == other.backend.vendor_hash
        assert one.identity != other.identity


def test_identity_holds_the_vendors_hash(tmp_path: Path) -> None:
    path = make("tiff", tmp_path)
    assert slide_identity(path, "a") != slide_identity(path, "b")


@given(st.integers(0, 40 * BLOCKS * BLOCK_BYTES))
def test_sampled_blocks_cover_the_first_and_last_bytes(size: int) -> None:
    offsets = _offsets(size)
    assert len(offsets) <= BLOCKS
    assert offsets == sorted(set(offsets))
    if size:
        assert offsets[0] == 0
        assert offsets[-1] < size <= offsets[-1] + BLOCK_BYTES
    if size <= BLOCKS * BLOCK_BYTES:
        assert offsets == list(range(0, size, BLOCK_BYTES))


@pytest.mark.parametrize("change", ["first", "last", "longer", "none"])
def test_a_large_file_is_told_by_its_ends_and_its_length(tmp_path: Path, change: str) -> None:
    path = tmp_path / "big.ndpi"
    size = 3 * BLOCKS * BLOCK_BYTES
    with path.open("wb") as file:
        file.truncate(size)
    before = slide_identity(path, None)
    with path.open("r+b") as file:
        if change == "longer":
            file.truncate(size + 1)
        elif change != "none":
            file.seek(0 if change == "first" else size - 1)
            file.write(b"\1")
    assert (slide_identity(path, None) == before) is (change == "none")


@pytest.mark.parametrize("ending", ["mrxs", "vms"])
def test_identity_holds_every_part_of_a_slide_of_several_files(tmp_path: Path, ending: str) -> None:
    slide = tmp_path / f"s.{ending}"
    if ending == "mrxs":
        slide.write_bytes(b"jpeg")
        part = tmp_path / "s" / "Data0001.dat"
    else:
        slide.write_text("[Virtual Microscope Specimen]\nImageFile=s-0.jpg\nImageFile(0,1)=s-1.jpg\n")
        (tmp_path / "s-0.jpg").write_bytes(b"left")
        part = tmp_path / "s-1.jpg"
    part.parent.mkdir(exist_ok=True)
    part.write_bytes(b"pixels")
    before = slide_identity(slide, "hash")
    (tmp_path / "neighbour.jpg").write_bytes(b"no part of it")
    assert slide_identity(slide, "hash") == before
    part.write_bytes(b"Pixels")
    assert slide_identity(slide, "hash") != before


# --- what cannot be read


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableSlideError, match=r"^lost\.svs: opening: no such file"):
        open_slide(tmp_path / "lost.svs")


def socket_at(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.open(path.parent, os.O_RDONLY)  # pytest's folders have too long a path for a socket
        listening.bind(f"/proc/self/fd/{here}/{path.name}")
        os.close(here)


NOT_REGULAR = {
    "a named pipe": os.mkfifo,
    "a socket": socket_at,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a folder": Path.mkdir,
}


@pytest.mark.timeout(30)  # a named pipe was waited for
@pytest.mark.parametrize("opening", [open_slide, open_native, identify])
@pytest.mark.parametrize("ending", ["svs", "tiff", "dcm", "mrxs", "jp2"])
@pytest.mark.parametrize("kind", NOT_REGULAR)
def test_what_is_not_a_regular_file_is_refused_before_it_is_opened(
    tmp_path: Path, kind: str, ending: str, opening: Callable[[Path], object]
) -> None:
    path = tmp_path / f"a.{ending}"
    NOT_REGULAR[kind](path)
    with pytest.raises(
        UnreadableSlideError, match=rf"^a\.{ending}: opening: {kind}, not a.* file\. Leave it"
    ):
        opening(path)


@pytest.mark.parametrize("name", ["lost/a.svs", "file/a.svs", "loop.svs", "a\0b.svs", "a" * 300 + ".svs"])
def test_a_path_that_leads_nowhere_fails_as_a_slide_does(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "loop.svs").symlink_to("loop.svs")
    with pytest.raises(UnreadableSlideError, match=r"opening: .*Looked for"):
        open_slide(tmp_path / name)


@pytest.mark.parametrize("content", [b"", b"not a slide", b"II*\0" + b"\0" * 100])
def test_what_neither_library_opens_is_told_with_both_refusals(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.svs"
    path.write_bytes(content)
    with pytest.raises(
        UnreadableSlideError, match=r"^broken\.svs: opening: OpenSlide: .*TIAToolbox: "
    ) as caught:
        open_slide(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("kind", ["aperio", "leica", "tiled OME", "OME in strips"])
def test_a_truncated_slide_fails_by_name_when_opened_or_read(tmp_path: Path, kind: str, share: float) -> None:
    path = make(kind, tmp_path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(UnreadableSlideError, match=rf"^{path.name}: (opening|reading pixels): "):
        read_whole(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.7, 0.9, 0.99])
def test_a_truncated_pyramid_fails_or_gives_the_true_pixels(tmp_path: Path, share: float) -> None:
    # OpenSlide refuses it; TIAToolbox reads level 0, and a cut behind that leaves level 0 whole
    path = make("tiff", tmp_path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    if share < 0.8:  # level 0 is four fifths of the file
        with pytest.raises(UnreadableSlideError, match=r"^a\.tiff: "):
            read_whole(path)
    else:
        assert np.array_equal(read_whole(path), IMAGE)


def read_whole(path: Path) -> np.ndarray:
    with open_slide(path, given_mpp=0.25) as slide:
        return slide.window(0, 0, 0, *slide.size_px0, 0).pixels


@pytest.mark.parametrize(("write", "levels"), [(tiff_slide, 1), (tiff_slide, 3), (ome_slide, 1)])
def test_an_overview_that_only_a_huge_level_gives_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[..., Path], levels: int
) -> None:
    monkeypatch.setattr("wsi_mitosis.io.slides.slide.MOST_OVERVIEW_PX", 175 * 125)
    path = write(tmp_path / "a.tif", IMAGE, 0.25, *((levels,) if levels > 1 else ()))
    with open_slide(path) as slide:
        if levels == 3:
            assert slide.thumbnail(175).shape == (125, 175, 3)
        with pytest.raises(UnreadableSlideError, match="smaller levels"):
            slide.thumbnail(300)


@pytest.mark.parametrize("what", ["pixels", "thumbnail"])
def test_a_slide_with_a_broken_tile_opens_and_fails_by_name_when_read(tmp_path: Path, what: str) -> None:
    # quickhash reads the smallest level only, so the broken tile of level 0 is met when it is read
    path = damage(tiff_of_resolution(tmp_path / "a.tiff", IMAGE, (0.25, 0.25), (IMAGE[::32, ::32],)), at=0.3)
    with open_slide(path) as slide, pytest.raises(UnreadableSlideError, match=r"^a\.tiff: reading pixels: "):
        _ = slide.window(0, 0, 0, WIDTH, HEIGHT, 0) if what == "pixels" else slide.thumbnail(600)


@pytest.mark.parametrize("what", ["pixels", "thumbnail"])
def test_what_tiatoolbox_raises_while_reading_is_told_as_the_slides_fault(tmp_path: Path, what: str) -> None:
    with open_slide(make("OME in strips", tmp_path)) as slide:

        def fails(*_: object, **__: object) -> None:
            raise KeyError("chunk 3")

        slide.backend._reader.read_rect = fails
        slide.backend._reader.slide_thumbnail = fails
        with pytest.raises(UnreadableSlideError, match=r"^a\.ome\.tif: reading pixels: TIAToolbox: KeyError"):
            _ = slide.window(0, 0, 0, 64, 64, 0) if what == "pixels" else slide.thumbnail(64)


def test_sixteen_bits_are_refused_and_not_converted(tmp_path: Path) -> None:
    path = ome_slide(tmp_path / "a.ome.tif", IMAGE.astype(np.uint16) * 200)
    with pytest.raises(UnreadableSlideError, match=r"^a\.ome\.tif: .*uint16.*not 8-bit RGB"):
        read_whole(path)


def test_the_digest_is_that_of_the_documented_parts(tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    path.write_bytes(b"abc")
    part = hashlib.sha256(b"3" + b"abc").hexdigest()
    assert slide_identity(path, "vendor") == hashlib.sha256(f"vendor\n{part}".encode()).hexdigest()


@pytest.mark.parametrize(("offset_nm", "expected"), [((1_500_000, -800_000), (1500.0, -800.0)), (None, None)])
def test_where_a_hamamatsu_slide_lies_on_the_glass(
    tmp_path: Path, offset_nm: tuple[int, int] | None, expected: tuple[float, float] | None
) -> None:
    # OpenSlide repeats the tags 65422 and 65423 in nm; 1,500,000 nm are 1500 um.
    with open_slide(ndpi_slide(tmp_path / "a.ndpi", IMAGE, offset_nm)) as slide:
        assert slide.backend.name == "openslide"
        assert slide.centre_offset_um == expected


def test_other_slides_do_not_say_where_they_lie_on_the_glass(tmp_path: Path) -> None:
    with open_slide(make("aperio", tmp_path)) as slide:
        assert slide.centre_offset_um is None


@pytest.mark.parametrize("value", ["", "nan", "far", "inf"])
def test_an_offset_that_is_no_number_is_none(value: str) -> None:
    properties = {"hamamatsu.XOffsetFromSlideCentre": "1", "hamamatsu.YOffsetFromSlideCentre": value}
    assert centre_offset(properties) is None
