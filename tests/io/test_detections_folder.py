"""Which files of a folder belong to which slides."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsi_mitosis.errors import DetectionsError
from wsi_mitosis.io.detections import ENDINGS, find_files
from wsi_mitosis.tables import SlideSource


def source(relative: str) -> SlideSource:
    return SlideSource(Path("/slides") / relative, relative)


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize("base", ["a.svs", "a", "a.svs_detections", "a_detections"])
@pytest.mark.parametrize(
    "ending",
    [
        ".csv",
        ".tsv",
        ".txt",
        ".json",
        ".geojson",
        ".geojson.gz",
        ".json.gz",
        ".parquet",
        ".db",
        ".sqlite",
        ".CSV",
    ],
)
def test_files_named_after_a_slide(tmp_path: Path, base: str, ending: str) -> None:
    touch(tmp_path, f"{base}{ending}", "other.csv", f".{base}{ending}", "a.png", "aa.csv")
    (tmp_path / "b.db").mkdir()
    assert find_files(tmp_path, [source("a.svs"), source("b.svs")]) == {
        source("a.svs"): [tmp_path / f"{base}{ending}"],
        source("b.svs"): [],
    }


@pytest.mark.parametrize("name", ["x.ome.tif.csv", "x.ome.csv", "x.csv", "x_detections.csv"])
def test_stems_of_ome_tiff(tmp_path: Path, name: str) -> None:
    touch(tmp_path, name)
    assert find_files(tmp_path, [source("x.ome.tif")]) == {source("x.ome.tif"): [tmp_path / name]}


def test_the_endings_that_are_known() -> None:
    assert set(ENDINGS) == {
        *(
            ".csv",
            ".tsv",
            ".txt",
            ".json",
            ".geojson",
            ".geojson.gz",
            ".json.gz",
            ".parquet",
            ".db",
            ".sqlite",
        )
    }


def test_a_slide_whose_own_name_ends_in_detections(tmp_path: Path) -> None:
    touch(tmp_path, "a_detections.csv")
    slide = source("a_detections.svs")
    assert find_files(tmp_path, [slide])[slide] == [tmp_path / "a_detections.csv"]


def test_composed_and_decomposed_names_are_alike(tmp_path: Path) -> None:
    touch(tmp_path, "U\u0308.csv")
    slide = source("\u00dc.svs")
    assert len(find_files(tmp_path, [slide])[slide]) == 1


def test_mirrored_folders_come_first(tmp_path: Path) -> None:
    touch(tmp_path, "sub/a.csv", "a.csv", "b.csv")
    slides = [source("sub/a.svs"), source("sub/b.svs"), source("a.svs")]
    found = find_files(tmp_path, slides)
    assert [found[slide] for slide in slides] == [
        [tmp_path / "sub/a.csv"],
        [tmp_path / "b.csv"],
        [tmp_path / "a.csv"],
    ]


def test_several_files_of_a_slide_are_all_returned(tmp_path: Path) -> None:
    touch(tmp_path, "a.geojson", "a.geojson.gz", "a.svs.csv")
    slide = source("a.svs")
    names = [path.name for path in find_files(tmp_path, [slide])[slide]]
    assert names == ["a.geojson", "a.geojson.gz", "a.svs.csv"]


@pytest.mark.parametrize("others", [("a.svs", "a.ndpi"), ("x/a.svs", "y/a.svs")])
def test_a_file_that_fits_two_slides_lists_them(tmp_path: Path, others: tuple[str, str]) -> None:
    touch(tmp_path, "a.csv")
    with pytest.raises(
        DetectionsError, match=f"fits 2 of the slides: '{others[0]}', '{others[1]}'"
    ) as caught:
        find_files(tmp_path, [source(name) for name in others])
    assert caught.value.subject == str(tmp_path / "a.csv")


def test_a_folder_that_fits_no_slide(tmp_path: Path) -> None:
    with pytest.raises(DetectionsError, match=r"'a\.svs'; it has no detections files"):
        find_files(tmp_path, [source("a.svs")])
    touch(tmp_path, "b.csv", "c.png")
    with pytest.raises(DetectionsError, match=r"named after one of the slides 'a\.svs'; there are 'b\.csv'"):
        find_files(tmp_path, [source("a.svs")])
