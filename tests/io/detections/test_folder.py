"""Which files of a folder belong to which slides."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsi_mitosis.errors import DetectionsError
from wsi_mitosis.io.detections import ENDINGS, find_files
from wsi_mitosis.io.detections.folder import only_file
from wsi_mitosis.tables import SlideSource


def source(relative: str) -> SlideSource:
    return SlideSource(Path("/slides") / relative, relative)


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


KNOWN_ENDINGS = {
    *(".csv", ".tsv", ".txt", ".json", ".geojson", ".geojson.gz"),
    *(".json.gz", ".parquet", ".db", ".sqlite", ".xml", ".xml.gz"),
    *(".annotations", ".annotations.gz", ".ndpa", ".ndpa.gz"),
}


@pytest.mark.parametrize("base", ["a.svs", "a", "a.svs_detections", "a_detections"])
@pytest.mark.parametrize("ending", [*sorted(KNOWN_ENDINGS), ".CSV"])
def test_files_named_after_a_slide(tmp_path: Path, base: str, ending: str) -> None:
    touch(tmp_path, f"{base}{ending}", "other.csv", f".{base}{ending}", "a.png", "aa.csv")
    (tmp_path / "b.db").mkdir()
    assert find_files(tmp_path, [source("a.svs"), source("b.svs")]).of_slide == {
        source("a.svs"): [tmp_path / f"{base}{ending}"],
        source("b.svs"): [],
    }


@pytest.mark.parametrize("name", ["x.ome.tif.csv", "x.ome.csv", "x.csv", "x_detections.csv"])
def test_stems_of_ome_tiff(tmp_path: Path, name: str) -> None:
    touch(tmp_path, name)
    assert find_files(tmp_path, [source("x.ome.tif")]).of_slide == {source("x.ome.tif"): [tmp_path / name]}


def test_the_endings_that_are_known() -> None:
    assert set(ENDINGS) == KNOWN_ENDINGS


def test_a_slide_whose_own_name_ends_in_detections(tmp_path: Path) -> None:
    touch(tmp_path, "a_detections.csv")
    slide = source("a_detections.svs")
    assert find_files(tmp_path, [slide]).of_slide[slide] == [tmp_path / "a_detections.csv"]


def test_composed_and_decomposed_names_are_alike(tmp_path: Path) -> None:
    touch(tmp_path, "U\u0308.csv")
    slide = source("\u00dc.svs")
    assert len(find_files(tmp_path, [slide]).of_slide[slide]) == 1


def test_mirrored_folders_come_first(tmp_path: Path) -> None:
    touch(tmp_path, "sub/a.csv", "a.csv", "b.csv")
    slides = [source("sub/a.svs"), source("sub/b.svs"), source("a.svs")]
    found = find_files(tmp_path, slides).of_slide
    assert [found[slide] for slide in slides] == [
        [tmp_path / "sub/a.csv"],
        [tmp_path / "b.csv"],
        [tmp_path / "a.csv"],
    ]


def test_several_files_of_a_slide_are_all_returned(tmp_path: Path) -> None:
    touch(tmp_path, "a.geojson", "a.geojson.gz", "a.svs.csv")
    slide = source("a.svs")
    names = [path.name for path in find_files(tmp_path, [slide]).of_slide[slide]]
    assert names == ["a.geojson", "a.geojson.gz", "a.svs.csv"]


@pytest.mark.parametrize("others", [("a.svs", "a.ndpi"), ("x/a.svs", "y/a.svs")])
def test_a_file_that_fits_two_slides_is_neithers_and_the_others_have_theirs(
    tmp_path: Path, others: tuple[str, str]
) -> None:
    touch(tmp_path, "a.csv", "b.csv")
    slides = [source(name) for name in (*others, "b.svs")]
    found = find_files(tmp_path, slides)
    assert found.of_slide == {slides[2]: [tmp_path / "b.csv"]}
    assert list(found.refused) == slides[:2]
    for slide, error in found.refused.items():
        assert f"'a.csv' fits 2 of the slides: '{others[0]}', '{others[1]}'" in error.cause
        assert error.subject == slide.relative
    assert found.fitting == {tmp_path / "a.csv", tmp_path / "b.csv"}


@pytest.mark.parametrize(
    "name",
    [
        *("A.csv", "A.SVS.csv", "A_detections.csv", "A_DETECTIONS.csv"),
        *("a.svs - Series 0.geojson", "a.svs - a.svs #1.geojson.gz", "A.svs - Image0_detections.csv"),
        *("%61.csv", "a .csv"),
    ],
)
def test_other_spellings_of_a_slides_file(tmp_path: Path, name: str) -> None:
    touch(tmp_path, name)
    slide = source("a.svs")
    assert find_files(tmp_path, [slide, source("b.svs")]).of_slide[slide] == [tmp_path / name]


def test_files_that_only_differ_in_case_each_belong_to_their_slide(tmp_path: Path) -> None:
    touch(tmp_path, "a.csv", "A.csv", "b - c.csv")
    slides = [source("a.svs"), source("A.svs"), source("b - c.svs"), source("B.svs")]
    found = find_files(tmp_path, slides)
    names = {slide.relative: [path.name for path in paths] for slide, paths in found.of_slide.items()}
    assert names == {"a.svs": ["a.csv"], "A.svs": ["A.csv"], "b - c.svs": ["b - c.csv"], "B.svs": []}
    assert found.refused == {}


def test_of_a_file_with_the_suffix_the_exact_name_comes_first(tmp_path: Path) -> None:
    touch(tmp_path, "a_detections.csv")
    slides = [source("A_Detections.svs"), source("a.svs")]
    found = find_files(tmp_path, slides)
    assert found.of_slide[slides[1]] == [tmp_path / "a_detections.csv"]
    assert found.of_slide[slides[0]] == []


def test_two_series_of_one_slide_are_two_files_that_fit_it(tmp_path: Path) -> None:
    names = ["a.svs - Series 0.geojson", "a.svs - Series 1.geojson"]
    touch(tmp_path, *names)
    slide = source("a.svs")
    paths = find_files(tmp_path, [slide]).of_slide[slide]
    with pytest.raises(
        DetectionsError, match=r"2 files fit this slide: 'a\.svs - Series 0\.geojson', 'a\.svs"
    ):
        only_file(paths, slide)


@pytest.mark.parametrize(
    "name", ["a.tiff.csv", "study_a.csv", "a_HE_detections.csv", "a - Series 0.csv", "A-2.geojson"]
)
def test_a_slide_without_a_file_beside_one_of_nearly_its_name_is_refused(tmp_path: Path, name: str) -> None:
    touch(tmp_path, name, "q.csv")
    found = find_files(tmp_path, [source("a.svs"), source("q.svs")])
    assert found.of_slide == {source("q.svs"): [tmp_path / "q.csv"]}
    assert f"'{name}'" in str(found.refused[source("a.svs")])


def test_files_of_other_slides_and_hidden_files_are_normal(tmp_path: Path) -> None:
    touch(tmp_path, "q.csv", "11.csv", "S-11.csv", "b.csv", "._1.csv", ".1_HE.csv", "1_HE.png")
    found = find_files(tmp_path, [source("1.svs"), source("q.svs")])
    assert found.refused == {}
    assert found.of_slide[source("1.svs")] == []


def test_a_slides_other_names_count(tmp_path: Path) -> None:
    touch(tmp_path, "sub/link.csv")
    slide = SlideSource(Path("/data/a.svs"), "a.svs", None, ((Path("/s/sub/link.svs"), "sub/link.svs"),))
    assert find_files(tmp_path, [slide]).of_slide[slide] == [tmp_path / "sub/link.csv"]


def test_a_folder_that_fits_no_slide(tmp_path: Path) -> None:
    with pytest.raises(DetectionsError, match=r"'a\.svs'; the folder has no files"):
        find_files(tmp_path, [source("a.svs")])
    touch(tmp_path, "b.csv", "c.png")
    expected = r"named after one of the slides 'a\.svs'; the folder has 'b\.csv'"
    with pytest.raises(DetectionsError, match=expected):
        find_files(tmp_path, [source("a.svs")])


@pytest.mark.parametrize("root", ["zarr.json", ".zgroup"])
def test_a_zarr_store_is_no_folder_of_files(tmp_path: Path, root: str) -> None:
    touch(tmp_path, root, "points/transcripts/points.parquet/part.0.parquet")
    with pytest.raises(DetectionsError, match="a Zarr store, such as one of SpatialData") as caught:
        find_files(tmp_path, [source("a.svs")])
    assert "as a table with x and y in pixels at level 0" in str(caught.value.remedy)
