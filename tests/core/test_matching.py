"""Which slide a name means, and which rows are whose."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_mitosis.core.matching import file_names, match_slides, split_by_slide
from wsi_mitosis.errors import DetectionsError
from wsi_mitosis.tables import CANDIDATE_COLUMNS, Detections, SlideSource


def source(relative: str, root: str = "/slides") -> SlideSource:
    return SlideSource(Path(root) / relative, relative)


def detections(slides: list[str | None], classes: list[str | None] | None = None) -> Detections:
    rows = len(slides)
    columns = {name: [float(at) for at in range(rows)] for name in CANDIDATE_COLUMNS}
    columns |= {"slide": pd.Series(slides, dtype=object), "id": pd.Series([None] * rows, dtype=object)}
    columns["detector_class"] = pd.Series(classes or [None] * rows, dtype=object)
    return Detections(pd.DataFrame(columns), "um", "qupath", "mitotic", "csv")


@pytest.mark.parametrize(
    ("relative", "names"),
    [
        ("sub/a.svs", ("a.svs", "a")),
        ("x.ome.tif", ("x.ome.tif", "x.ome", "x")),
        ("x.OME.TIFF", ("x.OME.TIFF", "x.OME", "x")),
        ("a.b.svs", ("a.b.svs", "a.b")),
        ("bare", ("bare",)),
        (".svs", (".svs",)),
    ],
)
def test_what_a_slide_may_be_called(relative: str, names: tuple[str, ...]) -> None:
    assert file_names(source(relative)) == names


@pytest.mark.parametrize(
    "name",
    [
        "sub/a.svs",
        "./sub/a.svs",
        "/slides/sub/a.svs",
        "a.svs",
        "a",
        "sub/a",
        "/mnt/elsewhere/sub/a.svs",
        "/mnt/elsewhere/a.svs",
        r"C:\scans\sub\a.svs",
        r"sub\a.svs",
        r"\\server\share\a",
    ],
)
def test_names_of_a_slide(name: str) -> None:
    assert match_slides([name, "c.svs"], [source("b.svs"), source("sub/a.svs")]) == {
        name: source("sub/a.svs")
    }


@pytest.mark.parametrize("name", ["A.svs", "a.sv", "a.tiff", "ub/a.svs.gz", "b", "", "sub", "sub/", "/"])
def test_names_of_no_slide(name: str) -> None:
    assert match_slides([name], [source("sub/a.svs")]) == {}


def test_composed_and_decomposed_names_are_alike() -> None:
    assert match_slides(["U\u0308.svs"], [source("\u00dc.svs")]) == {"U\u0308.svs": source("\u00dc.svs")}
    assert match_slides(["\u00dc"], [source("U\u0308.svs")]) == {"\u00dc": source("U\u0308.svs")}


def test_the_longest_end_of_a_path_decides() -> None:
    slides = [source("one/a.svs"), source("two/a.svs")]
    names = [r"D:\old\one\a.svs", "/mnt/two/a"]
    assert match_slides(names, slides) == dict(zip(names, slides, strict=True))


def test_a_whole_relative_path_comes_before_the_end_of_another() -> None:
    slides = [source("a.svs"), source("sub/a.svs")]
    assert match_slides(["a.svs", "sub/a.svs"], slides) == {"a.svs": slides[0], "sub/a.svs": slides[1]}


@pytest.mark.parametrize(
    ("name", "slides"),
    [
        ("a.svs", [source("x/a.svs"), source("y/a.svs")]),
        ("a", [source("a.svs"), source("a.ndpi")]),
        ("x", [source("x.ome.tif"), source("x.svs")]),
        ("a.svs", [source("a.svs", "/one"), source("a.svs", "/two")]),
        ("/old/z/a.svs", [source("x/a.svs"), source("y/a.svs")]),
    ],
)
def test_a_name_that_fits_two_slides_lists_them(name: str, slides: list[SlideSource]) -> None:
    both = ", ".join(f"'{slide.relative}'" for slide in slides)
    with pytest.raises(DetectionsError, match=f"the name '{name}' fits 2 of the slides: {both}"):
        match_slides([name], slides)


def test_rows_of_another_folder_do_not_fall_to_a_slide_of_the_same_name() -> None:
    slide = source("two/a.svs")
    assert match_slides(["one/a.svs", "two/a.svs"], [slide]) == {"two/a.svs": slide}
    assert match_slides(["/old/two/a.svs", "/old/one/a.svs"], [slide]) == {"/old/two/a.svs": slide}
    assert match_slides(["one/a.svs", "a.svs"], [slide]) == {"a.svs": slide}


def test_a_path_of_neither_slide_is_set_aside_where_both_have_rows_of_their_own() -> None:
    slides = [source("one/a.svs"), source("two/a.svs")]
    names = ["/old/one/a.svs", "/old/two/a.svs", "/old/three/a.svs"]
    assert match_slides(names, slides) == dict(zip(names, slides, strict=False))


def test_two_folders_names_for_one_slide_are_refused() -> None:
    with pytest.raises(DetectionsError, match=r"'case1/a\.svs', 'case2/a\.svs' all fit the slide 'a\.svs'"):
        match_slides(["case1/a.svs", "case2/a.svs"], [source("a.svs")])
    same_folder = ["/old/a.svs", "/old/a"]
    assert len(match_slides(same_folder, [source("a.svs")])) == 2


@given(
    st.lists(
        st.lists(st.sampled_from(["p", "q", "0012", "r s"]), min_size=1, max_size=3).map("/".join),
        min_size=1,
        max_size=6,
        unique=True,
    )
)
def test_relative_and_absolute_paths_always_find_their_slide(relatives: list[str]) -> None:
    slides = [source(f"{relative}.svs") for relative in relatives]
    for key in (lambda slide: slide.relative, lambda slide: str(slide.path)):
        assert match_slides([key(slide) for slide in slides], slides) == {
            key(slide): slide for slide in slides
        }


def test_rows_go_to_their_slides_in_file_order() -> None:
    slides = [source("b.svs"), source("a.svs"), source("none.svs")]
    whole = detections(["a.svs", "b", "a", "x.svs", None, "b.svs", "x.svs", "y"], ["M", None, "N", *"MMMMM"])

    split = split_by_slide(whole, slides)

    assert list(split.parts) == [slides[0], slides[1]]
    assert split.parts[slides[0]].table["x"].tolist() == [1, 5]
    assert split.parts[slides[1]].table["x"].tolist() == [0, 2]
    assert split.parts[slides[1]].table.index.tolist() == [0, 1]
    assert (split.unmatched_rows, split.unmatched_names) == (4, ("x.svs", "y"))
    part = split.parts[slides[0]]
    assert part.file_classes == ("M", "N")
    assert (part.units, part.frame, part.class_rule, part.format) == ("um", "qupath", "mitotic", "csv")


@given(st.lists(st.sampled_from(["a", "b.svs", "c", "other", None]), min_size=1, max_size=30))
def test_every_row_is_counted_once(names: list[str | None]) -> None:
    slides = [source("a.svs"), source("b.svs"), source("c.svs")]
    if not {"a", "b.svs", "c"} & set(names):
        with pytest.raises(DetectionsError):
            split_by_slide(detections(names), slides)
        return
    split = split_by_slide(detections(names), slides)
    assert sum(len(part.table) for part in split.parts.values()) + split.unmatched_rows == len(names)
    for slide, part in split.parts.items():
        expected = [at for at, name in enumerate(names) if name and name.split(".")[0] == slide.relative[0]]
        assert part.table["x"].tolist() == expected


def test_one_file_and_one_slide_need_no_slide_column() -> None:
    slide = source("a.svs")
    whole = detections([None, None])
    assert split_by_slide(whole, [slide]).parts == {slide: whole}
    empty = detections([])
    assert split_by_slide(empty, [slide]).parts == {slide: empty}


def test_rows_without_a_slide_for_several_slides_are_refused() -> None:
    slides = [source("a.svs"), source("b.svs")]
    with pytest.raises(DetectionsError, match=r"which of the 2 slides they belong to.*Add a column 'slide'"):
        split_by_slide(detections([None]), slides)
    assert split_by_slide(detections([]), slides).parts == {}


def test_a_file_of_which_no_row_fits_names_both_sides() -> None:
    slides = [source(f"s{at}.svs") for at in range(7)]
    with pytest.raises(DetectionsError) as caught:
        split_by_slide(detections(["p", "q", None, "p"]), slides)
    assert "the file names 'p', 'q', the slides are 's0.svs', 's1.svs'" in caught.value.cause
    assert "'s2.svs' and 4 more" in caught.value.cause
    assert "--columns slide=" in str(caught.value.remedy)
