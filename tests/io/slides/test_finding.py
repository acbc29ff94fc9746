from __future__ import annotations

import csv
import os
import shutil
import socket
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


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    """A folder with one file that is not empty."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "b.svs").write_bytes(b"some content")
    return tmp_path / "in"


def faults(found: FoundSlides) -> set[str]:
    return {source.relative for source in found.faults}


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


def test_a_missing_slide_among_the_arguments_fails_alone(slides: Path) -> None:
    found = find_slides([str(slides / "b.svs"), str(slides / "lost.svs")])
    assert relatives(found) == ["b.svs", "lost.svs"]
    assert faults(found) == {"lost.svs"}
    assert "lost.svs: finding slides: no such file" in next(iter(found.faults.values()))


@pytest.mark.parametrize("names", [["lost.svs"], ["lost.svs", "gone.tiff"], ["b.svs", "lost"], ["nothing/"]])
def test_what_leads_to_nothing_is_an_error_where_nothing_is_left_or_it_is_no_slide(
    slides: Path, names: list[str]
) -> None:
    with pytest.raises(
        InputError, match=r"(lost|lost\.svs|gone\.tiff|nothing/): finding slides: no such file"
    ):
        find_slides([f"{slides}/{name}" for name in names])


def bad_link(path: Path) -> None:
    path.symlink_to("gone.svs")


def link_loop(path: Path) -> None:
    path.symlink_to(path.name)


def listening(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path has at most 108 bytes
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


def folder_of_others(path: Path) -> None:
    touch(path / "deep" / "x.txt")


BAD = {
    "broken link": (bad_link, "a broken link: there is no 'gone.svs'"),
    "loop": (link_loop, "a link that leads back to itself"),
    "pipe": (os.mkfifo, "a named pipe"),
    "socket": (listening, "a socket"),
    "device": (lambda path: path.symlink_to("/dev/null"), "a device"),
    "folder": (folder_of_others, "a folder"),
    "empty": (Path.touch, "the file is empty"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("ending", [".svs", ".dcm"])
@pytest.mark.parametrize("way", ["folder", "recursive", "glob", "**", "argument", "list"])
def test_a_bad_entry_is_one_bad_slide(slides: Path, kind: str, ending: str, way: str) -> None:
    make, cause = BAD[kind]
    make(slides / f"x{ending}")
    (slides / "list.txt").write_text(f"b.svs\nx{ending}\n")
    arguments = {
        "glob": [str(slides / "*.*[a-z]")],
        "**": [str(slides / "**")],
        "argument": [str(slides / "b.svs"), str(slides / f"x{ending}")],
        "list": [str(slides / "list.txt")],
    }.get(way, [str(slides)])
    found = find_slides(arguments, recursive=way == "recursive")
    assert {"b.svs", f"x{ending}"} <= set(relatives(found))
    assert faults(found) == {f"x{ending}"}
    ((source, message),) = found.faults.items()
    assert message.startswith(f"x{ending}: finding slides: {cause}")
    assert source not in found.usable


@pytest.mark.parametrize("kind", ["broken link", "loop", "pipe", "empty"])
def test_a_bad_entry_that_is_hidden_or_no_slide_is_skipped_and_counted(slides: Path, kind: str) -> None:
    make, _ = BAD[kind]
    make(slides / ".x.svs")
    make(slides / "x.png")
    found = find_slides([str(slides)])
    assert (relatives(found), found.faults, found.skipped) == (["b.svs"], {}, 2)


def test_a_slide_without_permission_is_one_bad_slide(slides: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (slides / "x.svs").write_bytes(b"x")
    monkeypatch.setattr(os, "access", lambda path, _: Path(path).name != "x.svs")
    found = find_slides([str(slides)])
    assert faults(found) == {"x.svs"}
    assert "no permission" in next(iter(found.faults.values()))


def test_a_name_that_is_not_utf8_is_one_bad_slide_with_its_bytes_escaped(slides: Path) -> None:
    Path(os.fsdecode(os.fsencode(slides) + b"/M\xfcller.svs")).write_bytes(b"x")
    for arguments in ([str(slides)], [str(slides / "*.svs")], [str(p) for p in slides.iterdir()]):
        found = find_slides(arguments)
        assert relatives(found) == ["M\\xfcller.svs", "b.svs"]
        assert faults(found) == {"M\\xfcller.svs"}
        assert "not UTF-8" in next(iter(found.faults.values()))
        for source in found.sources:
            f"{source}".encode()


def test_a_folder_of_slides_that_is_called_as_one_is_a_folder(slides: Path) -> None:
    touch(slides / "set.dcm" / "a.svs")
    assert relatives(find_slides([str(slides)])) == ["b.svs"]
    assert relatives(find_slides([str(slides)], recursive=True)) == ["b.svs", "set.dcm/a.svs"]
    assert relatives(find_slides([str(slides / "set.dcm")])) == ["a.svs"]


def test_a_name_longer_than_a_file_system_takes_is_one_bad_slide(slides: Path) -> None:
    found = find_slides([str(slides / "b.svs"), str(slides / ("x" * 300 + ".svs"))])
    assert faults(found) == {"x" * 300 + ".svs"}


def test_a_slide_under_several_names_is_one_in_any_order(slides: Path) -> None:
    whole = slides / "b.svs"
    (slides / "a_link.svs").symlink_to("b.svs")
    (slides / "c_hard.svs").hardlink_to(whole)
    arguments = [str(slides / name) for name in ("a_link.svs", "b.svs", "c_hard.svs", "./b.svs")]
    (source,) = find_slides(arguments).sources
    assert source.path == whole
    assert {path.name for path, _ in source.aliases} == {"a_link.svs", "c_hard.svs"}
    for order in (arguments[::-1], arguments[1:] + arguments[:1], [str(slides)]):
        assert find_slides(order).sources == (source,)
    assert find_slides([arguments[0]]).sources[0].path.name == "a_link.svs"


def test_a_copy_is_another_slide(slides: Path) -> None:
    shutil.copy(slides / "b.svs", slides / "copy.svs")
    assert relatives(find_slides([str(slides)])) == ["b.svs", "copy.svs"]


@pytest.mark.parametrize("kind", BAD)
def test_two_bad_entries_of_a_kind_are_two_bad_slides(slides: Path, kind: str) -> None:
    make, _ = BAD[kind]
    make(slides / "x.svs")
    make(slides / "y.svs")
    assert faults(find_slides([str(slides)])) == {"x.svs", "y.svs"}


def test_a_folder_that_cannot_be_searched_is_told(slides: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(slides / "shut" / "c.svs", slides / ".shut" / "d.svs")
    scan = os.scandir

    def refusing(path: str) -> object:
        if "shut" in os.fspath(path):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    (note,) = find_slides([str(slides)], recursive=True).notes
    assert "shut (Permission denied)" in note
    assert ".shut" not in note
    with pytest.raises(InputError, match=r"shut: finding slides: Permission denied"):
        find_slides([str(slides / "shut")])


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
def test_a_pixel_size_that_is_none_is_its_slides_fault(slides: Path, mpp: str) -> None:
    (slides / "a.svs").write_bytes(b"x")
    (slides / "list.csv").write_text(f'slide,mpp\nb.svs,0.25\na.svs,"{mpp}"\n')
    found = find_slides([str(slides / "list.csv")])
    assert faults(found) == {"a.svs"}
    assert f"entry 2 of list.csv: mpp '{mpp}' is not a pixel size" in next(iter(found.faults.values()))
    assert {source.relative: source.mpp for source in found.usable} == {"b.svs": 0.25}


def test_two_pixel_sizes_for_a_slide_are_its_fault(slides: Path) -> None:
    (slides / "a.svs").write_bytes(b"x")
    (slides / "list.csv").write_text("slide,mpp\nb.svs,0.25\na.svs,\n./b.svs,0.5\n")
    found = find_slides([str(slides / "list.csv")])
    assert faults(found) == {"b.svs"}
    assert "listed with 0.25 and with 0.5 um/px" in next(iter(found.faults.values()))


@pytest.mark.parametrize(
    ("entry", "name", "cause"),
    [
        ("lost.svs", "lost.svs", "no such file (entry 2 of list.csv)"),
        ("lost", "lost", "no such file (entry 2 of list.csv)"),
        ("deep", "deep", "a folder, not a slide's file (entry 2 of list.csv)"),
        ('""', "entry 2 of list.csv", "the list's entry names no slide"),
        ("a\0.svs", "a\ufffd.svs", "no such file (entry 2 of list.csv)"),
    ],
)
def test_an_entry_that_leads_to_no_file_is_one_bad_slide(
    slides: Path, entry: str, name: str, cause: str
) -> None:
    (slides / "deep").mkdir()
    (slides / "list.csv").write_text(f"slide,mpp\nb.svs,\n{entry},0.3\n")
    found = find_slides([str(slides / "list.csv")])
    assert set(relatives(found)) == {"b.svs", name}
    ((source, message),) = found.faults.items()
    assert message.startswith(f"{name}: finding slides: {cause}")
    assert source.relative == name


def test_a_list_of_which_no_entry_leads_anywhere_is_an_error(tree: Path) -> None:
    (tree / "list.csv").write_text("mpp,slide\n0.25\n")
    with pytest.raises(InputError, match=r"entry 1 of list\.csv.*names no slide"):
        find_slides([str(tree / "list.csv")])
    (tree / "list.txt").write_text("lost.svs\ngone.svs\n")
    with pytest.raises(InputError, match=r"no such file.*1 more"):
        find_slides([str(tree / "list.txt")])


@pytest.mark.parametrize(
    "name", ["a,b.svs", 'a"b.svs', "a\nb.svs", "a\u2028b.svs", "a\x85b.svs", "# b.svs", "'a'.svs"]
)
def test_any_name_can_stand_in_a_list(slides: Path, name: str) -> None:
    (slides / name).write_bytes(b"x")
    with (slides / "list.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([["slide", "mpp"], ["b.svs", ""], [name, "0.3"]])
    found = find_slides([str(slides / "list.csv")])
    assert {source.relative: source.mpp for source in found.usable} == {"b.svs": None, name: 0.3}


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
    assert [path.name for path, _ in found.sources[0].aliases] == ["2.dcm", "4.dcm"]
    assert [path.name for path in series_files(tmp_path / "1.dcm")] == ["1.dcm", "2.dcm", "4.dcm"]
    assert series_files(tmp_path / "3.dcm") == [tmp_path / "3.dcm"]


def test_a_named_pipe_beside_a_series_is_not_waited_for(tmp_path: Path) -> None:
    first = dicom_file(tmp_path / "1.dcm", generate_uid())
    os.mkfifo(tmp_path / "2.dcm")
    assert series_files(first) == [first]


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
