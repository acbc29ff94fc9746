from __future__ import annotations

import shutil
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, VLWholeSlideMicroscopyImageStorage, generate_uid

from wsi_mitosis.errors import InputError
from wsi_mitosis.io.slides import SLIDE_ENDINGS, FoundSlides, find_slides
from wsi_mitosis.io.slides.dicom import series_files

UID = VLWholeSlideMicroscopyImageStorage


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def relatives(found: FoundSlides) -> list[str]:
    return [source.relative for source in found.sources]


def dicom_file(path: Path, series: str) -> Path:
    """A whole-slide DICOM file without pixels: its header says which series it belongs to."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = VLWholeSlideMicroscopyImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.SeriesInstanceUID = series
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, data, enforce_file_format=True)
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    touch(
        tmp_path / "b.svs",
        tmp_path / "a.TIFF",
        tmp_path / "note.png",
        tmp_path / ".hidden.svs",
        tmp_path / "deep" / "c.ndpi",
        tmp_path / "deep" / "er" / "d.scn",
        tmp_path / "deep" / "er" / "table.parquet",
    )
    return tmp_path


# --- files and folders


def test_a_file_is_called_by_its_name(tree: Path) -> None:
    found = find_slides([str(tree / "b.svs")])
    assert [(s.path, s.relative, s.mpp) for s in found.sources] == [(tree / "b.svs", "b.svs", None)]
    assert found.skipped == 0


def test_a_folder_is_searched_in_itself_only_and_the_rest_is_counted(tree: Path) -> None:
    found = find_slides([str(tree)])
    assert relatives(found) == ["a.TIFF", "b.svs"]
    assert found.skipped == 2  # the PNG and the hidden file


def test_recursion_goes_deeper(tree: Path) -> None:
    found = find_slides([str(tree)], recursive=True)
    assert relatives(found) == ["a.TIFF", "b.svs", "deep/c.ndpi", "deep/er/d.scn"]
    assert found.skipped == 3


def test_a_hidden_folder_is_hidden_with_all_it_holds(tree: Path) -> None:
    touch(tree / ".snapshot" / "deep" / "c.ndpi")
    found = find_slides([str(tree)], recursive=True)
    assert relatives(found) == ["a.TIFF", "b.svs", "deep/c.ndpi", "deep/er/d.scn"]
    assert found.skipped == 4


def test_a_folder_that_is_hidden_itself_is_searched_when_it_is_named(tmp_path: Path) -> None:
    touch(tmp_path / ".cases" / "a.svs")
    (tmp_path / "list.txt").write_text(".cases/a.svs\n")
    assert relatives(find_slides([str(tmp_path / "list.txt")])) == [".cases/a.svs"]
    assert relatives(find_slides([str(tmp_path / ".cases" / "*.svs")])) == ["a.svs"]
    assert relatives(find_slides([str(tmp_path / ".cases")])) == ["a.svs"]
    assert relatives(find_slides([str(tmp_path / ".cases")], recursive=True)) == ["a.svs"]


@pytest.mark.parametrize("ending", SLIDE_ENDINGS)
def test_every_slide_ending_counts_in_either_case(tmp_path: Path, ending: str) -> None:
    touch(tmp_path / f"a{ending}", tmp_path / f"b{ending.upper()}")
    assert relatives(find_slides([str(tmp_path)])) == [f"a{ending}", f"b{ending.upper()}"]


@pytest.mark.parametrize(
    "name", ["a.png", "a.jpg", "a.jpeg", "a.parquet", "a.geojson", "a.json", "a", ".svs"]
)
def test_other_files_are_no_slides(tmp_path: Path, name: str) -> None:
    touch(tmp_path / name, tmp_path / "slide.svs")
    found = find_slides([str(tmp_path)])
    assert relatives(found) == ["slide.svs"]
    assert found.skipped == 1


def test_relative_arguments_give_absolute_paths(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree / "deep")
    found = find_slides(["../b.svs", "c.ndpi", "."])
    assert [s.path for s in found.sources] == [tree / "b.svs", tree / "deep" / "c.ndpi"]


def test_files_named_singly_are_told_apart_by_the_folders_below_what_they_share(tmp_path: Path) -> None:
    touch(tmp_path / "left" / "x.svs", tmp_path / "right" / "x.svs")
    found = find_slides([str(tmp_path / "left" / "x.svs"), str(tmp_path / "right" / "x.svs")])
    assert relatives(found) == ["left/x.svs", "right/x.svs"]


def test_a_slide_given_twice_is_one(tree: Path) -> None:
    (tree / "link.svs").symlink_to(tree / "b.svs")
    arguments = [str(tree / "b.svs"), str(tree / "deep" / ".." / "b.svs"), str(tree), str(tree / "*.svs")]
    found = find_slides([*arguments, str(tree / "link.svs")])
    assert [s.path.name for s in found.sources] == ["a.TIFF", "b.svs"]


def test_the_order_does_not_depend_on_the_arguments(tree: Path) -> None:
    arguments = [str(tree / "b.svs"), str(tree / "a.TIFF"), str(tree / "deep" / "c.ndpi")]
    assert find_slides(arguments) == find_slides(arguments[::-1])


def test_a_missing_path_is_an_error_that_names_it(tree: Path) -> None:
    with pytest.raises(InputError, match=r"lost\.svs: finding slides: no such file or folder"):
        find_slides([str(tree / "b.svs"), str(tree / "lost.svs")])


def test_nothing_found_is_an_error_that_counts_what_was_there(tmp_path: Path) -> None:
    touch(tmp_path / "a.png", tmp_path / "b.jpg")
    with pytest.raises(InputError, match=r"no slides found \(2 other files\).*--recursive"):
        find_slides([str(tmp_path)])


# --- patterns


def test_a_quoted_pattern_is_expanded(tree: Path) -> None:
    found = find_slides([str(tree / "*.*")])
    assert relatives(found) == ["a.TIFF", "b.svs"]
    assert found.skipped == 1  # the PNG; a pattern does not match what is hidden


def test_two_asterisks_go_deeper_and_paths_start_before_them(tree: Path) -> None:
    assert relatives(find_slides([str(tree / "**" / "*.scn")])) == ["deep/er/d.scn"]
    assert relatives(find_slides([str(tree / "**")])) == ["a.TIFF", "b.svs", "deep/c.ndpi", "deep/er/d.scn"]


def test_a_pattern_of_folders_searches_each_in_itself(tmp_path: Path) -> None:
    touch(tmp_path / "case1" / "x.svs", tmp_path / "case2" / "x.svs", tmp_path / "case2" / "deep" / "y.svs")
    found = find_slides([str(tmp_path / "case*")])
    assert sorted(str(s.path.relative_to(tmp_path)) for s in found.sources) == ["case1/x.svs", "case2/x.svs"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    touch(tmp_path / "a[1].svs", tmp_path / "a1.svs")
    assert relatives(find_slides([str(tmp_path / "a[1].svs")])) == ["a[1].svs"]


def test_a_pattern_without_a_match_is_an_error(tree: Path) -> None:
    with pytest.raises(InputError, match="matches no file"):
        find_slides([str(tree / "*.mrxs")])


# --- lists


def test_a_csv_list_gives_paths_relative_to_it_and_pixel_sizes(tree: Path) -> None:
    listing = tree / "deep" / "list.csv"
    listing.write_text(f"\ufeffMPP, Slide\r\n0.25,c.ndpi\r\n,er/d.scn\r\n 0.5 ,{tree}/b.svs\r\n\r\n")
    found = find_slides([str(listing)])
    assert {s.relative: s.mpp for s in found.sources} == {"c.ndpi": 0.25, "er/d.scn": None, "b.svs": 0.5}
    assert {s.path for s in found.sources} == {
        tree / "deep" / "c.ndpi",
        tree / "deep" / "er" / "d.scn",
        tree / "b.svs",
    }


def test_a_csv_list_of_slides_alone_is_enough(tree: Path) -> None:
    (tree / "list.csv").write_text("slide\nb.svs\n")
    assert relatives(find_slides([str(tree / "list.csv")])) == ["b.svs"]


@pytest.mark.parametrize("text", ["b.svs\n# a comment\n\n deep/c.ndpi \n", "slide\nb.svs\ndeep/c.ndpi\n"])
def test_a_text_list_holds_a_path_a_line_with_or_without_a_header(tree: Path, text: str) -> None:
    (tree / "list.txt").write_text(text)
    assert relatives(find_slides([str(tree / "list.txt")])) == ["b.svs", "deep/c.ndpi"]


def test_a_pixel_size_from_a_list_is_kept_though_the_slide_is_given_otherwise_too(tree: Path) -> None:
    (tree / "list.csv").write_text("slide,mpp\nb.svs,0.3\n")
    for arguments in ([str(tree), str(tree / "list.csv")], [str(tree / "list.csv"), str(tree / "b.svs")]):
        sizes = {s.path.name: s.mpp for s in find_slides(arguments).sources}
        assert sizes["b.svs"] == 0.3


@pytest.mark.parametrize("mpp", ["fine", "0", "0.049", "20.1", "-1", "nan", "inf", "0,25"])
def test_a_pixel_size_that_is_none_is_an_error_that_names_the_entry(tree: Path, mpp: str) -> None:
    (tree / "list.csv").write_text(f'slide,mpp\nb.svs,0.25\na.TIFF,"{mpp}"\n')
    with pytest.raises(InputError, match=rf"list\.csv: reading the slide list: entry 2: mpp '{mpp}'"):
        find_slides([str(tree / "list.csv")])


@pytest.mark.parametrize("entry", ["lost.svs", '""', "deep"])
def test_a_list_that_leads_to_no_file_is_an_error_that_names_the_entry(tree: Path, entry: str) -> None:
    (tree / "list.csv").write_text(f"slide,mpp\nb.svs,\n{entry},0.3\n")
    with pytest.raises(InputError, match=r"list\.csv: reading the slide list: entry 2: no such file"):
        find_slides([str(tree / "list.csv")])


def test_a_row_too_short_for_its_slide_is_an_error_that_names_the_entry(tree: Path) -> None:
    (tree / "list.csv").write_text("mpp,slide\n0.25\n")
    with pytest.raises(InputError, match="entry 1: no such file"):
        find_slides([str(tree / "list.csv")])


@pytest.mark.parametrize("text", ["", "file,mpp\nb.svs,0.25\n", "b.svs\n", "x,y\n1,2\n"])
def test_a_csv_without_a_slide_column_is_an_error_that_says_what_is_wanted(tree: Path, text: str) -> None:
    (tree / "list.csv").write_text(text)
    with pytest.raises(InputError, match=r"header with 'slide'.*--detections"):
        find_slides([str(tree / "list.csv")])


def test_a_list_that_is_no_text_is_an_error(tree: Path) -> None:
    (tree / "list.csv").write_bytes(b"slide\n\xff\xfe\x00b.svs\n")
    with pytest.raises(InputError, match=r"list\.csv: reading the slide list: .*UTF-8"):
        find_slides([str(tree / "list.csv")])


def test_a_list_found_in_a_folder_is_only_another_file(tree: Path) -> None:
    (tree / "list.csv").write_text("slide\nlost.svs\n")
    assert relatives(find_slides([str(tree)])) == ["a.TIFF", "b.svs"]


# --- slides of several files


def test_a_dicom_series_is_one_slide_called_by_its_first_file(tmp_path: Path) -> None:
    one, other = generate_uid(), generate_uid()
    for name in ("2.dcm", "1.dcm", "4.dcm"):
        dicom_file(tmp_path / name, one)
    dicom_file(tmp_path / "3.dcm", other)
    found = find_slides([str(tmp_path)])
    assert relatives(found) == ["1.dcm", "3.dcm"]
    assert found.skipped == 0
    assert [path.name for path in series_files(tmp_path / "1.dcm")] == ["1.dcm", "2.dcm", "4.dcm"]
    assert series_files(tmp_path / "3.dcm") == [tmp_path / "3.dcm"]


def test_a_series_copied_to_another_folder_is_another_slide(tmp_path: Path) -> None:
    uid = generate_uid()
    dicom_file(tmp_path / "a" / "1.dcm", uid)
    dicom_file(tmp_path / "b" / "1.dcm", uid)
    assert relatives(find_slides([str(tmp_path)], recursive=True)) == ["a/1.dcm", "b/1.dcm"]


def test_a_series_identifier_that_is_too_long_is_read_without_a_warning(tmp_path: Path) -> None:
    uid = "1." + "2" * 63  # 65 characters, as some scanners write
    with pytest.warns(UserWarning, match="exceeds the maximum length"):
        dicom_file(tmp_path / "1.dcm", uid)
    shutil.copy(tmp_path / "1.dcm", tmp_path / "2.dcm")
    assert relatives(find_slides([str(tmp_path)])) == ["1.dcm"]


def test_files_that_are_no_dicom_stay_slides_of_their_own(tmp_path: Path) -> None:
    touch(tmp_path / "a.dcm", tmp_path / "b.dcm")
    assert relatives(find_slides([str(tmp_path)])) == ["a.dcm", "b.dcm"]


def test_the_parts_of_an_mrxs_or_vms_set_are_no_slides(tmp_path: Path) -> None:
    touch(
        tmp_path / "one.mrxs",
        tmp_path / "one" / "Slidedat.ini",
        tmp_path / "one" / "Index.dat",
        tmp_path / "one" / "Data0000.dat",
        tmp_path / "two.vms",
        tmp_path / "two-0.jpg",
        tmp_path / "two.opt",
    )
    found = find_slides([str(tmp_path)], recursive=True)
    assert relatives(found) == ["one.mrxs", "two.vms"]
    assert found.skipped == 5
