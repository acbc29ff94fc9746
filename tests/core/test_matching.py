"""Which slide a name means, and which rows are whose."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from urllib.parse import quote

import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from wsi_mitosis.core.matching import file_names, match_slides, split_by_slide
from wsi_mitosis.core.naming import shortened
from wsi_mitosis.errors import DetectionsError
from wsi_mitosis.tables import CANDIDATE_COLUMNS, Detections, SlideSource


def source(relative: str, root: str = "/slides") -> SlideSource:
    return SlideSource(Path(root) / relative, relative)


def meant(names: list[str], sources: list[SlideSource]) -> dict[str, SlideSource]:
    """The slides of names none of which is refused."""
    matches = match_slides(names, sources)
    assert not matches.refused
    return matches.slides


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
    assert meant([name, "c.svs"], [source("b.svs"), source("sub/a.svs")]) == {name: source("sub/a.svs")}


@pytest.mark.parametrize(
    "name", ["a - Series 0", "a.sv", "a.tiff", "ub/a.svs.gz", "b", "", "sub", "sub/", "/"]
)
def test_names_of_no_slide(name: str) -> None:
    assert meant([name], [source("sub/a.svs")]) == {}


def test_composed_and_decomposed_names_are_alike() -> None:
    assert meant(["U\u0308.svs"], [source("\u00dc.svs")]) == {"U\u0308.svs": source("\u00dc.svs")}
    assert meant(["\u00dc"], [source("U\u0308.svs")]) == {"\u00dc": source("U\u0308.svs")}


def test_the_longest_end_of_a_path_decides() -> None:
    slides = [source("one/a.svs"), source("two/a.svs")]
    names = [r"D:\old\one\a.svs", "/mnt/two/a"]
    assert meant(names, slides) == dict(zip(names, slides, strict=True))


def test_a_whole_relative_path_comes_before_the_end_of_another() -> None:
    slides = [source("a.svs"), source("sub/a.svs")]
    assert meant(["a.svs", "sub/a.svs"], slides) == {"a.svs": slides[0], "sub/a.svs": slides[1]}


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
    matches = match_slides([name, "other/b.svs"], [*slides, source("b.svs")])
    assert matches.slides == {"other/b.svs": source("b.svs")}
    assert list(matches.refused) == slides
    for slide, error in matches.refused.items():
        assert f"the name '{name}' fits 2 of the slides: {both}" in error.cause
        assert error.subject == slide.relative


def test_rows_of_another_folder_do_not_fall_to_a_slide_of_the_same_name() -> None:
    slide = source("two/a.svs")
    assert meant(["one/a.svs", "two/a.svs"], [slide]) == {"two/a.svs": slide}
    assert meant(["/old/two/a.svs", "/old/one/a.svs"], [slide]) == {"/old/two/a.svs": slide}
    assert meant(["one/a.svs", "a.svs"], [slide]) == {"a.svs": slide}


def test_a_path_of_neither_slide_is_set_aside_where_both_have_rows_of_their_own() -> None:
    slides = [source("one/a.svs"), source("two/a.svs")]
    names = ["/old/one/a.svs", "/old/two/a.svs", "/old/three/a.svs"]
    assert meant(names, slides) == dict(zip(names, slides, strict=False))


def test_two_folders_names_for_one_slide_are_refused() -> None:
    slides = [source("a.svs"), source("b.svs")]
    matches = match_slides(["case1/a.svs", "case2/a.svs", "b.svs"], slides)
    assert list(matches.refused) == slides[:1]
    assert "the names 'case1/a.svs', 'case2/a.svs' all fit this slide" in str(matches.refused[slides[0]])
    assert matches.slides == {"b.svs": slides[1]}
    assert len(meant(["/old/a.svs", "/old/a"], [source("a.svs")])) == 2


@pytest.mark.parametrize(
    "name",
    [
        *("A.SVS", "a.Svs", "A", r"C:\SCANS\A.SVS"),
        *(" a.svs", "a.svs\t", "\ufeffa.svs", "\u00a0a", '"a.svs"', "'a'"),
        *("a.svs - Series 0", "a.svs - a.svs #1", "a.svs - Image0", "A.svs - HE - 20x", "x/a.svs - macro"),
        *("file:///C:/scans/a.svs", "file:/C:/scans/a.svs", "file://server/share/a.svs", "FILE:///d/%61.svs"),
        *("%61.svs", "s%2Fa.svs", "C:%5Cscans%5CA.SVS"),
    ],
)
def test_other_spellings_of_a_slide(name: str) -> None:
    assert meant([name, "c.svs"], [source("b.svs"), source("a.svs")]) == {name: source("a.svs")}


@pytest.mark.parametrize("name", ["my slide.svs", "my%20slide.svs", "file:///C:/s/my%20slide.svs"])
def test_blanks_in_a_name_may_be_escaped(name: str) -> None:
    assert meant([name], [source("my slide.svs")]) == {name: source("my slide.svs")}


@pytest.mark.parametrize("own", ["a.svs - Series 0", "a%20b.svs", " a.svs", "A.SVS", "a - b.svs", "100%.svs"])
def test_a_slide_that_is_really_called_so_comes_first(own: str) -> None:
    slides = [source("a.svs"), source("a b.svs"), source(own)]
    assert meant([own], slides) == {own: source(own)}
    assert meant([f"{own}.svs"], [*slides, source(f"{own}.svs")]) == {f"{own}.svs": source(f"{own}.svs")}


def test_slides_that_only_differ_in_case_each_have_their_own_rows() -> None:
    slides = [source("a.svs"), source("A.svs"), source("b.svs")]
    names = ["a.svs", "A.svs", "b.svs"]
    assert meant(names, slides) == dict(zip(names, slides, strict=True))
    matches = match_slides([*names, "A.SVS"], slides)
    assert list(matches.refused) == slides[:2]
    assert matches.slides == {"b.svs": slides[2]}
    assert "the name 'A.SVS' fits 2 of the slides: 'a.svs', 'A.svs'" in str(matches.refused[slides[0]])


@pytest.mark.parametrize(
    "names",
    [
        ["a.svs - Series 0", "a.svs - Series 1"],
        ["a.svs", "a.svs - Series 0"],
        ["a", "A.svs - label"],
        ["a.svs", "A.SVS"],
        ["A", "a.SVS"],
    ],
)
def test_names_that_may_be_different_images_are_never_one_slides(names: list[str]) -> None:
    slide, other = source("sub/a.svs"), source("b.svs")
    matches = match_slides([*names, "b"], [slide, other])
    assert list(matches.refused) == [slide]
    assert matches.contested == set(names)
    assert all(f"'{name}'" in str(matches.refused[slide]) for name in names)
    assert matches.slides == {"b": other}


@pytest.mark.parametrize(
    "names", [["A.SVS", "A"], ["a.svs - Series 0", " a.svs - series 0"], [" a.svs", "a.svs", "a", "%61"]]
)
def test_spellings_of_one_image_are_one_slides(names: list[str]) -> None:
    assert set(meant(names, [source("a.svs"), source("b.svs")])) == set(names)


def test_a_folder_with_a_series_mark_in_its_name_is_no_series() -> None:
    assert meant(["a.svs - old/b.svs", "a.svs - old/c.svs"], [source("a.svs")]) == {}


def test_a_slide_is_found_by_all_its_paths() -> None:
    slide = SlideSource(Path("/data/a.svs"), "a.svs", None, ((Path("/links/today.svs"), "today.svs"),))
    for name in ("a.svs", "today", "/links/today.svs", "TODAY.SVS", "today.svs - Series 0"):
        assert meant([name], [slide, source("b.svs")]) == {name: slide}
    assert len(meant(["a.svs", "today.svs"], [slide])) == 2
    assert file_names(slide) == ("a.svs", "a", "today.svs", "today")


def test_a_name_too_long_for_a_file_is_found_by_its_short_form_too() -> None:
    long = "\u00e9" * 122 + ".svs"
    slide, short = source(long), shortened(long)
    assert short != long
    for name in (long, long[:-4], short, short[:-4]):
        assert meant([name], [slide, source("b.svs")]) == {name: slide}


VARIANTS = {
    "upper": str.upper,
    "lower": str.lower,
    "swapped": str.swapcase,
    "series": lambda name: f"{name} - Series 0",
    "image": lambda name: f"{name} - {name} #1",
    "windows": lambda name: f"C:\\scans\\{name}",
    "quoted": quote,
    "url": lambda name: f"file:///C:/{quote(name)}",
    "blanks": lambda name: f"  {name}\t",
    "stem": lambda name: name.rsplit(".", 1)[0],
    "decomposed": lambda name: unicodedata.normalize("NFD", name),
    "composed": lambda name: unicodedata.normalize("NFC", name),
}
letters = st.text(st.sampled_from("aAbBéÉß1 %-_.2\u0301"), min_size=1, max_size=6)
slide_names = st.builds(
    lambda stem, ending: stem + ending, letters, st.sampled_from([".svs", ".SVS", ".tiff", ".ome.tif"])
).filter(lambda name: name.strip() == name and not name.startswith("."))


@given(
    st.lists(slide_names, min_size=1, max_size=5, unique=True), st.sampled_from(sorted(VARIANTS)), st.data()
)
def test_every_spelling_is_matched_to_its_slide_or_refused(
    names: list[str], variant: str, data: st.DataObject
) -> None:
    slides = [source(name) for name in names]
    own = data.draw(st.sampled_from(slides))
    spelled = VARIANTS[variant](own.relative)
    # a spelling that another slide is called by, letter for letter, is that one's
    exact = {unicodedata.normalize("NFC", name) for slide in slides for name in file_names(slide)}
    others = {name for slide in slides if slide != own for name in file_names(slide)}
    assume(unicodedata.normalize("NFC", spelled.replace("\\", "/").rsplit("/", 1)[-1]) not in others & exact)
    assume(unicodedata.normalize("NFC", spelled.strip()) not in others)
    matches = match_slides([spelled], slides)
    assert matches.slides.get(spelled, own) == own
    assert spelled in matches.slides or own in matches.refused


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
        assert meant([key(slide) for slide in slides], slides) == {key(slide): slide for slide in slides}


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


ROW_NAMES = ["a", "b.svs", "c", "other", "", " ", "A.svs", "a.svs - Series 1", "x/c.svs", "y/c.svs", "both"]


@given(
    st.lists(
        st.sampled_from([*ROW_NAMES, None]),
        min_size=1,
        max_size=30,
    )
)
def test_every_row_is_counted_once(names: list[str | None]) -> None:
    slides = [source(name) for name in ("a.svs", "b.svs", "c.svs", "both.svs", "both.tiff")]
    whole = detections(names)
    if not {*names} - {"other", None, "", " "}:
        with pytest.raises(DetectionsError):
            split_by_slide(whole, slides)
        return
    split = split_by_slide(whole, slides)
    counted = sum(len(part.table) for part in split.parts.values())
    assert counted + split.unmatched_rows + split.refused_rows == len(names)
    assert split.nameless_rows == sum(name is None or not name.strip() for name in names)
    assert split.unmatched_rows == split.nameless_rows + sum(map(names.count, split.unmatched_names))
    assert not split.parts.keys() & split.refused.keys()
    assert {slides[3], slides[4]} <= split.refused.keys() or "both" not in names
    found = {float(x) for part in split.parts.values() for x in part.table["x"]}
    assert len(found) == counted
    for slide, part in split.parts.items():
        for x in part.table["x"]:
            assert (names[int(x)] or "").lower().rsplit("/", 1)[-1].startswith(slide.relative[0])


def test_rows_without_a_name_among_rows_with_one_are_counted() -> None:
    split = split_by_slide(detections(["a.svs", None, "", " ", "z.svs"]), [source("a.svs"), source("b.svs")])
    assert (split.unmatched_rows, split.nameless_rows, split.unmatched_names) == (4, 3, ("z.svs",))


@pytest.mark.parametrize(
    ("slide", "named"),
    [
        ("a.tiff", "a.svs"),
        ("a.tiff", "study_a.tiff"),
        ("a.tiff", "a_HE.tiff"),
        ("a.tiff", "2023-17_a"),
        ("a.tiff", "D:/scans/A-2.svs"),
        ("a.tiff", "a (1).tiff"),
        ("study_a.tiff", "a.tiff"),
        ("S-001.svs", "S-1.ndpi"),
        ("S-001.svs", "s_001.svs - Series 0"),
        ("TCGA-A1-01Z-00-DX1.0B2C-11.svs", "TCGA-A1-01Z-00-DX1"),
        ("123456.svs", "7-123456.svs"),
    ],
)
def test_a_slide_without_rows_beside_rows_of_nearly_its_name_is_refused(slide: str, named: str) -> None:
    given, other = source(slide), source("q.svs")
    split = split_by_slide(detections(["q.svs", named]), [given, other])
    assert list(split.parts) == [other]
    assert list(split.refused) == [given]
    assert f"'{named}'" in str(split.refused[given])
    assert given.relative in str(split.refused[given])


@pytest.mark.parametrize(
    ("slide", "named"),
    [
        ("S-201.svs", [f"S-{number:03}.svs" for number in range(1, 201)]),
        ("1.svs", ["11.svs", "S-11.svs", "2-1.svs", "S-1-2"]),
        ("case1.svs", ["case10.svs", "case2.svs", "1case.svs"]),
        ("a.svs", ["b.svs", "aa.svs", "a1.svs", "svs"]),
        ("svs.tiff", ["b.svs"]),
    ],
)
def test_a_site_wide_table_beside_a_slide_without_rows_is_normal(slide: str, named: list[str]) -> None:
    split = split_by_slide(detections(["q.svs", *named]), [source(slide), source("q.svs")])
    assert (list(split.parts), split.refused) == ([source("q.svs")], {})
    assert split.unmatched_names == tuple(named)


def test_a_slide_with_rows_of_its_own_has_no_misnamed_ones() -> None:
    assert split_by_slide(detections(["a.svs", "a_HE.svs", "a.tiff"]), [source("a.svs")]).refused == {}


def test_the_refusal_of_an_only_slide_is_an_error() -> None:
    with pytest.raises(DetectionsError, match=r"^a\.svs: .*'a\.svs - Series 0', 'a\.svs - Series 1'"):
        split_by_slide(detections(["a.svs - Series 0", "a.svs - Series 1"]), [source("a.svs")])


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
