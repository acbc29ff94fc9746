"""The QuPath project: its JSON, which slides are in it and how QuPath opens them, and a second run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.slide_files import leica_slide, ome_slide, textured, tiff_slide
from wsi_mitosis.core.qupath import FIGURE_COLOURS, HOTSPOT_COLOUR
from wsi_mitosis.errors import OutputError
from wsi_mitosis.io.results import project as qupath
from wsi_mitosis.io.results.project import BIO_FORMATS, OPENSLIDE, check_project, project_path, write_project


def slide_at(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return tiff_slide(path, textured(64, 48))


def read(folder: Path) -> dict[str, Any]:
    return json.loads(project_path(folder).read_text(encoding="utf-8"))


def entries(folder: Path) -> dict[str, dict[str, Any]]:
    return {entry["imageName"]: entry for entry in read(folder)["images"]}


def classes(folder: Path) -> dict[str, int | None]:
    text = (folder / "qupath/classifiers/classes.json").read_text(encoding="utf-8")
    return {item["name"]: item.get("color") for item in json.loads(text)["pathClasses"]}


def write(folder: Path, slides: Iterable[Path], trained: Iterable[bool] = (True,)) -> tuple[str, ...]:
    return write_project(folder, {slide.name: slide for slide in slides}, "qupath", trained)


def path_of(uri: str) -> str:
    return url2pathname(urlsplit(uri).path)


def test_a_project_has_what_qupath_reads(tmp_path: Path) -> None:
    one, other = slide_at(tmp_path / "s/one.tiff"), slide_at(tmp_path / "s/b/one.tiff")
    assert write_project(tmp_path / "out", {"one.tiff": one, "b/one.tiff": other}, "qupath", [True]) == ()
    project = read(tmp_path / "out")
    assert {"version", "createTimestamp", "modifyTimestamp", "uri", "lastID", "images"} == project.keys()
    assert path_of(project["uri"]) == str(project_path(tmp_path / "out"))
    assert project["lastID"] == 2
    assert project["createTimestamp"] > 1e12  # milliseconds
    first, second = project["images"]
    assert UUID(first["randomizedName"]) != UUID(second["randomizedName"])
    del first["randomizedName"]
    assert first == {
        "serverBuilder": {
            "builderType": "uri",
            "providerClassName": OPENSLIDE,
            "uri": other.as_uri(),
            "args": [],
        },
        "entryID": 1,
        "imageName": "b/one.tiff",
        "metadata": {"wsi-mitosis": "b/one.tiff"},
    }
    assert (second["entryID"], second["imageName"]) == (2, "one.tiff")
    assert (tmp_path / "out/qupath/scripts/import_geojson.groovy").read_text().startswith("// Imports")


@pytest.mark.parametrize(
    "name", ["a b.tiff", "Prüfung µ.tiff", "100%25 #1?.tiff", "切片.tiff", "a;b&c=[d].tiff"]
)
def test_any_file_name_is_a_uri_that_leads_back(tmp_path: Path, name: str) -> None:
    slide = slide_at(tmp_path / "Fälle von heute" / name)
    write(tmp_path / "out", [slide])
    uri = entries(tmp_path / "out")[name]["serverBuilder"]["uri"]
    assert uri.isascii()
    assert path_of(uri) == str(slide)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=30))
def test_every_uri_leads_back(name: str) -> None:
    uri = qupath._builder(OPENSLIDE, Path("/slides") / name)["uri"]
    parts = urlsplit(uri)
    assert (parts.scheme, parts.netloc, parts.query, parts.fragment) == ("file", "", "", "")
    assert url2pathname(parts.path) == str(Path("/slides") / name)


@pytest.mark.parametrize(("frame", "arguments"), [("qupath", []), ("slide", ["--no-crop"])])
def test_a_slide_with_bounds_is_shown_in_the_frame_of_its_figures(
    tmp_path: Path, frame: Any, arguments: list[str]
) -> None:
    slide = leica_slide(tmp_path / "s.scn", textured(600, 500), (300, 160), (1200, 900))
    plain = slide_at(tmp_path / "p.tiff")
    write_project(tmp_path / "out", {"s.scn": slide, "p.tiff": plain}, frame, [True])
    found = entries(tmp_path / "out")
    assert found["s.scn"]["serverBuilder"]["args"] == arguments
    assert found["p.tiff"]["serverBuilder"]["args"] == []


@pytest.mark.parametrize("tile", [None, (256, 256)], ids=["that OpenSlide refuses", "that it opens"])
def test_ome_tiff_goes_to_bio_formats(tmp_path: Path, tile: tuple[int, int] | None) -> None:
    slide = ome_slide(tmp_path / "s.ome.tiff", textured(300, 260), tile=tile)
    assert write(tmp_path / "out", [slide]) == ()
    server = entries(tmp_path / "out")["s.ome.tiff"]["serverBuilder"]
    assert (server["providerClassName"], server["args"]) == (BIO_FORMATS, ["--series", "0"])


def test_what_nothing_opens_is_left_out(tmp_path: Path) -> None:
    broken = tmp_path / "broken.tiff"
    broken.write_bytes(b"no slide")
    found = slide_at(tmp_path / "found.tiff")
    assert write(tmp_path / "out", [broken, found, tmp_path / "gone.tiff"]) == ("broken.tiff", "gone.tiff")
    assert list(entries(tmp_path / "out")) == ["found.tiff"]


def test_colours_are_those_of_the_geojson(tmp_path: Path) -> None:
    write(tmp_path, [])
    found = classes(tmp_path)

    def unpacked(colour: int | None) -> tuple[int, ...]:
        assert colour is not None
        assert -(2**31) <= colour < 0  # opaque, in Java's int
        return tuple((colour & 0xFFFFFFFF).to_bytes(4))[1:]

    assert unpacked(found["Mitosis: Atypical"]) == FIGURE_COLOURS["atypical"]
    assert unpacked(found["Mitosis: Typical"]) == FIGURE_COLOURS["typical"]
    assert unpacked(found["Hotspot"]) == HOTSPOT_COLOUR
    assert unpacked(found["Tumor"]) == (200, 0, 0)  # QuPath's own
    assert unpacked(found["Ignore*"]) == (180, 180, 180)
    assert not any(name.startswith("Untrained") for name in found)


def test_untrained_labels_have_classes_of_their_own_beside_a_reviewers(tmp_path: Path) -> None:
    write(tmp_path, [], trained=[False])
    assert list(classes(tmp_path))[:4] == [
        "Mitosis: Atypical",
        "Mitosis: Typical",
        "Untrained: Atypical",
        "Untrained: Typical",
    ]


def test_a_second_run_keeps_what_a_pathologist_has_made_of_the_project(tmp_path: Path) -> None:
    slides = [slide_at(tmp_path / name) for name in ("b.tiff", "c.tiff")]
    write(tmp_path / "out", slides)
    used = read(tmp_path / "out") | {"version": "0.7.0", "lastID": 9, "unknown": {"x": [1.5]}}
    turned = {
        "builderType": "rotated",
        "rotation": "ROTATE_90",
        "builder": used["images"][0]["serverBuilder"],
    }
    used["images"][0] |= {"serverBuilder": turned, "imageName": "Fall 1", "tags": ["seen"], "mpp": math.inf}
    used["images"].append({"serverBuilder": turned, "entryID": 7, "imageName": "by hand", "metadata": None})
    project_path(tmp_path / "out").write_text(json.dumps(used))
    data = tmp_path / "out/qupath/data/12/data.qpdata"
    data.parent.mkdir(parents=True)
    data.write_bytes(b"drawn")
    pinned = tmp_path / "out/qupath/classifiers/classes.json"
    pinned.write_text('{"pathClasses": [{"name": "Hotspot", "color": -1}, {"name": "mine"}], "more": 1}')

    write(tmp_path / "out", [*slides, slide_at(tmp_path / "a.tiff")])

    found = read(tmp_path / "out")
    assert found["images"][:3] == used["images"]
    assert [entry["imageName"] for entry in found["images"][3:]] == ["a.tiff"]
    assert found["images"][3]["entryID"] == found["lastID"] == 13  # past the folders of data, too
    kept = ("version", "createTimestamp", "uri", "unknown")
    assert [found[name] for name in kept] == [used[name] for name in kept]
    assert data.read_bytes() == b"drawn"
    assert json.loads((tmp_path / "out/qupath/project.qpproj.backup").read_text()) == used
    assert list(classes(tmp_path / "out").items())[:3] == [
        ("Hotspot", -1),
        ("mine", None),
        ("Mitosis: Atypical", classes(tmp_path / "out")["Mitosis: Atypical"]),
    ]


def test_a_run_that_adds_nothing_changes_nothing(tmp_path: Path) -> None:
    slides = [slide_at(tmp_path / "a.tiff")]
    write(tmp_path / "out", slides)
    project_path(tmp_path / "out").write_text(json.dumps(read(tmp_path / "out"), indent=7))
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    write(tmp_path / "out", slides)
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


@given(
    st.lists(st.integers(1, 50), unique=True, max_size=5),
    st.integers(0, 60),
    st.lists(st.sampled_from("abcdef"), unique=True, max_size=6),
    st.lists(st.sampled_from("abcdef"), unique=True, max_size=6),
)
def test_ids_are_never_given_twice(ids: list[int], last: int, known: list[str], slides: list[str]) -> None:
    standing = [
        {"entryID": number, "metadata": {"wsi-mitosis": name}}
        for number, name in zip(ids, known, strict=False)
    ]
    project = {"lastID": last, "images": standing}
    found = qupath._with_entries(
        project, {name: {} for name in slides}, qupath._last_id(project, Path("/no"))
    )
    assert found["images"][: len(standing)] == standing
    new = [entry["entryID"] for entry in found["images"][len(standing) :]]
    assert len(new) == len(slides)
    assert len({*new, *ids[: len(standing)]}) == len(found["images"])
    assert all(number > last for number in new)
    assert found["lastID"] == max([last, *new, *ids[: len(standing)]])


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"images": 3}', b'{"images": [{"imageName": "a"}]}', b'{"images": [4]}', b"\xff"],
)
def test_a_project_that_is_none_is_refused_and_left(tmp_path: Path, content: bytes) -> None:
    project_path(tmp_path).parent.mkdir()
    project_path(tmp_path).write_bytes(content)
    for attempt in (
        lambda: check_project(tmp_path),
        lambda: write(tmp_path, [slide_at(tmp_path / "a.tiff")]),
    ):
        with pytest.raises(OutputError, match=r"project\.qpproj: .*Restore it from project\.qpproj\.backup"):
            attempt()
    assert project_path(tmp_path).read_bytes() == content
    assert [path.name for path in project_path(tmp_path).parent.iterdir()] == ["project.qpproj"]


def test_classes_that_cannot_be_read_are_left(tmp_path: Path) -> None:
    path = tmp_path / "qupath/classifiers/classes.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    with pytest.raises(OutputError, match=r"classes\.json"):
        check_project(tmp_path)
    with pytest.raises(OutputError, match=r"classes\.json"):
        write(tmp_path, [])
    assert path.read_text() == "{"
    assert not project_path(tmp_path).exists()


def test_a_project_that_qupath_was_about_to_write_is_not_begun_anew(tmp_path: Path) -> None:
    """QuPath renames the project to its backup before it renames the new one."""
    write(tmp_path, [])
    project_path(tmp_path).rename(tmp_path / "qupath/project.qpproj.backup")
    with pytest.raises(OutputError, match="is missing, although its backup exists"):
        check_project(tmp_path)


def test_a_slide_that_was_damaged_since_stays(tmp_path: Path) -> None:
    slide = slide_at(tmp_path / "a.tiff")
    write(tmp_path / "out", [slide])
    slide.write_bytes(b"")
    assert write(tmp_path / "out", [slide]) == ()
    assert list(entries(tmp_path / "out")) == ["a.tiff"]
