"""The files of a slide: which they are, what is missing, and whether they change."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.dicom_files import dicom_slide
from tests.slide_files import textured, tiff_slide
from wsi_mitosis.errors import UnreadableSlideError
from wsi_mitosis.io.slides.parts import files_state, missing_parts, slide_parts, unchanged

SLIDEDAT = """\ufeff[GENERAL]
SLIDE_ID = 1
[HIERARCHICAL]
INDEXFILE = Index.dat
[DATAFILE]
FILE_COUNT = 2
FILE_0 = Data0000.dat
FILE_1 = Data0001.dat
"""


def mrxs(folder: Path, *parts: str) -> Path:
    """The outer files of an MRXS slide, with some of its parts."""
    slide = folder / "s.mrxs"
    slide.write_bytes(b"jpeg")
    for name in parts:
        (folder / "s").mkdir(exist_ok=True)
        (folder / "s" / name).write_text(SLIDEDAT if name == "Slidedat.ini" else "data")
    return slide


@pytest.mark.parametrize(
    ("parts", "missing"),
    [
        ((), ["s/Slidedat.ini"]),
        (("Slidedat.ini",), ["s/Data0000.dat", "s/Data0001.dat", "s/Index.dat"]),
        (("Slidedat.ini", "Index.dat", "Data0000.dat"), ["s/Data0001.dat"]),
        (("Slidedat.ini", "Index.dat", "Data0000.dat", "Data0001.dat"), []),
    ],
)
def test_parts_that_an_mrxs_slide_names(tmp_path: Path, parts: tuple[str, ...], missing: list[str]) -> None:
    slide = mrxs(tmp_path, *parts)
    assert missing_parts(slide) == missing
    assert slide_parts(slide) == [slide, *sorted(tmp_path / "s" / name for name in parts)]


def test_parts_that_a_vms_file_names(tmp_path: Path) -> None:
    slide = tmp_path / "s.vms"
    names = {"ImageFile": "a.jpg", "ImageFile(1,0)": "b.jpg", "MapFile": "m.jpg", "OptimisationFile": "s.opt"}
    slide.write_text("[Virtual Microscope Specimen]\n" + "".join(f"{k}={v}\n" for k, v in names.items()))
    (tmp_path / "a.jpg").write_text("x")
    assert missing_parts(slide) == ["b.jpg", "m.jpg"]
    assert slide_parts(slide) == [slide, tmp_path / "a.jpg"]


def test_a_slide_of_one_file_lacks_nothing(tmp_path: Path) -> None:
    assert missing_parts(tiff_slide(tmp_path / "a.tiff", textured(64, 64))) == []


def test_what_is_no_index_lacks_nothing_and_opening_says_why(tmp_path: Path) -> None:
    slide = tmp_path / "s.vms"
    slide.write_bytes(b"\x00[[[=\n]")
    assert missing_parts(slide) == []


@pytest.mark.parametrize("part", ["slide", "part"])
@pytest.mark.parametrize("change", ["grow", "touch", "remove"])
def test_a_change_of_any_part_is_seen(tmp_path: Path, part: str, change: str) -> None:
    slide = mrxs(tmp_path, "Slidedat.ini", "Index.dat")
    changed = slide if part == "slide" else tmp_path / "s" / "Index.dat"
    before = files_state(slide)
    if change == "grow":
        with changed.open("ab") as file:
            file.write(b"more")
    elif change == "touch":
        os.utime(changed, ns=(0, 1))
    elif change == "remove" and part == "part":
        changed.unlink()
    else:
        return
    assert files_state(slide).digest != before.digest


def test_a_copy_that_keeps_an_old_time_is_new(tmp_path: Path) -> None:
    slide = tmp_path / "a.tiff"
    slide.write_bytes(b"x")
    os.utime(slide, (0, 0))
    assert time.time() - files_state(slide).changed < 60


def test_a_series_changes_with_any_of_its_files(tmp_path: Path) -> None:
    slide = dicom_slide(tmp_path / "series", textured(300, 200))
    others = [part for part in slide_parts(slide) if part != slide]
    before = files_state(slide)
    os.utime(others[0], ns=(0, 1))
    assert files_state(slide).digest != before.digest


def test_a_slide_that_changes_within_the_block_is_refused(tmp_path: Path) -> None:
    slide = tmp_path / "a.tiff"
    slide.write_bytes(b"x")
    with unchanged(slide):
        pass
    with (
        pytest.raises(UnreadableSlideError, match="its files changed while they were read"),
        unchanged(slide),
    ):
        slide.write_bytes(b"xy")
    with pytest.raises(UnreadableSlideError, match="its files were removed"), unchanged(slide):
        slide.unlink()
