from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from wsi_mitosis.core.naming import NAME_BYTES, allot_names, shortened
from wsi_mitosis.tables import SlideSource


def source(path: str, relative: str | None = None) -> SlideSource:
    return SlideSource(Path(path), relative or path.rsplit("/", 1)[-1])


def named(*sources: SlideSource, earlier: dict[str, str] | None = None) -> list[str]:
    names = allot_names(sources, earlier or {})
    return [names[s] for s in sources]


def test_a_slide_is_called_by_its_file_name() -> None:
    assert named(source("/data/a/one.svs", "a/one.svs"), source("/data/two.svs")) == ["one.svs", "two.svs"]


def test_slides_of_the_same_name_keep_their_folders() -> None:
    a, b = source("/data/a/x.svs", "a/x.svs"), source("/data/b/x.svs", "b/x.svs")
    assert named(a, b, source("/data/c/y.svs", "c/y.svs")) == ["a/x.svs", "b/x.svs", "y.svs"]


def test_folders_of_different_depth_are_told_apart() -> None:
    a, b = source("/data/x.svs", "x.svs"), source("/data/b/c/x.svs", "b/c/x.svs")
    assert named(a, b) == ["data/x.svs", "b/c/x.svs"]


def test_slides_of_two_roots_with_the_same_relative_path_take_further_folders() -> None:
    a, b = source("/left/batch/x.svs", "batch/x.svs"), source("/right/batch/x.svs", "batch/x.svs")
    assert named(a, b) == ["left/batch/x.svs", "right/batch/x.svs"]


def test_a_name_once_written_is_kept_when_a_namesake_arrives() -> None:
    a, b = source("/data/a/x.svs", "a/x.svs"), source("/data/b/x.svs", "b/x.svs")
    (first,) = named(a)
    assert first == "x.svs"
    assert named(a, b, earlier={str(a.path): first}) == ["x.svs", "b/x.svs"]


def test_the_name_of_a_slide_that_is_not_in_this_run_stays_taken() -> None:
    earlier = {"/data/a/x.svs": "x.svs"}
    assert named(source("/data/b/x.svs"), earlier=earlier) == ["b/x.svs"]


def test_a_name_with_folders_once_written_is_kept_for_a_slide_alone() -> None:
    assert named(source("/data/a/x.svs"), earlier={"/data/a/x.svs": "a/x.svs"}) == ["a/x.svs"]


def test_a_slide_whose_whole_path_is_taken_gets_a_name_of_its_own() -> None:
    earlier = {"/mnt/data/x.svs": "x.svs", "/mnt/more/data/x.svs": "data/x.svs"}
    (name,) = named(source("/data/x.svs"), earlier=earlier)
    assert name not in earlier.values()
    assert name.endswith("x.svs")
    assert named(source("/data/x.svs"), earlier=earlier) == [name]


folders = st.lists(st.sampled_from(["a", "b", "c"]), max_size=4)
paths = st.builds(
    lambda parts, name: "/".join(["", *parts, name]), folders, st.sampled_from(["x.svs", "y.svs"])
)


@st.composite
def given_slides(draw: st.DrawFn) -> list[SlideSource]:
    """Slides by distinct paths, each relative to one of its own folders."""
    found = []
    for path in draw(st.lists(paths, max_size=8, unique=True)):
        parts = path.split("/")[1:]
        found.append(source(path, "/".join(parts[-draw(st.integers(1, len(parts))) :])))
    return found


@given(st.lists(given_slides(), min_size=1, max_size=4))
def test_names_are_distinct_and_stay_over_any_runs(runs: list[list[SlideSource]]) -> None:
    written: dict[str, str] = {}
    for run in runs:
        names = allot_names(run, written)
        assert set(names) == set(run)
        for slide, name in names.items():
            assert written.get(str(slide.path), name) == name
            assert name.endswith(slide.path.name)
            assert ".." not in name.split("/")
            assert not name.startswith("/")
        written |= {str(slide.path): name for slide, name in names.items()}
        assert len(set(written.values())) == len(written)


@given(given_slides())
def test_names_do_not_depend_on_the_order_of_the_slides(slides: list[SlideSource]) -> None:
    assert allot_names(slides, {}) == allot_names(slides[::-1], {})


def test_a_name_too_long_for_its_files_is_shortened_and_keeps_its_ending() -> None:
    long, other = "a" * 245 + ".tiff", "a" * 244 + "b.tiff"
    names = named(source(f"/data/{long}"), source(f"/data/{other}"), source("/data/b.svs"))
    assert names[2] == "b.svs"
    assert len(set(names)) == 3
    for name in names[:2]:
        assert name.startswith("aaa")
        assert name.endswith(".tiff")
        assert len(name.encode()) == NAME_BYTES
    assert names == named(source(f"/other/{long}"), source(f"/data/{other}"), source("/data/b.svs"))
    assert allot_names([source(f"/data/{long}")], {}, most_bytes=None) == {source(f"/data/{long}"): long}


def test_bytes_count_and_characters_stay_whole() -> None:
    fits, long = "\u00e9" * 115 + ".svs", "x" + "\u00e9" * 118 + ".ome.tif"
    assert len(fits.encode()) <= NAME_BYTES
    assert shortened(fits) == fits
    assert shortened(long).startswith("x\u00e9")
    assert shortened(long).endswith(".ome.tif")
    assert NAME_BYTES - 1 <= len(shortened(long).encode()) <= NAME_BYTES


def test_an_alias_that_was_written_before_keeps_its_name() -> None:
    slide = SlideSource(Path("/data/a.svs"), "a.svs", None, ((Path("/links/today.svs"), "today.svs"),))
    assert named(slide, earlier={"/links/today.svs": "today.svs"}) == ["today.svs"]
    assert named(slide, earlier={"/links/today.svs": "today.svs", "/data/a.svs": "a.svs"}) == ["a.svs"]


any_names = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=90
)


@given(
    st.lists(any_names.filter(lambda name: name not in {".", ".."}), unique=True, max_size=6),
    st.integers(40, 60),
)
def test_names_are_distinct_and_of_at_most_the_stated_bytes(files: list[str], most: int) -> None:
    sources = [source(f"/data/{file}") for file in files]
    sources += [source(f"/more/{file}") for file in files[:2]]
    sources += [
        source(f"/data/{shortened(file, most)}") for file in files if shortened(file, most) not in files
    ]
    names = allot_names(sources, {}, most_bytes=most)
    assert set(names) == set(sources)
    assert len(set(names.values())) == len(sources)
    assert all(len(name.rsplit("/", 1)[-1].encode()) <= most for name in names.values())
    assert allot_names(sources[::-1], {}, most_bytes=most).keys() == names.keys()
