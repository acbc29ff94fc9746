"""The script that imports figures into QuPath, run by Groovy on stand-ins for QuPath's classes."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from wsi_mitosis.core import qupath
from wsi_mitosis.io.results import project

STANDINS = Path(__file__).parents[2] / "qupath"
TEMPLATE = Path(project.__file__).with_name(project.SCRIPT)
A, B, C, D, HOTSPOT = (str(UUID(int=n)) for n in range(1, 6))

Image = dict[str, Any]
RunScript = Callable[..., Image]


@pytest.fixture(scope="module")
def groovy() -> Iterator[subprocess.Popen[str]]:
    """One Groovy for all tests: it takes seconds to start."""
    program, java = shutil.which("groovy"), shutil.which("java")
    if program is None or java is None:
        pytest.skip("groovy is not installed")
    environment = {"JAVA_HOME": str(Path(java).resolve().parents[1]), **os.environ}
    command = [program, "-cp", str(STANDINS), str(STANDINS / "harness.groovy")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8", env=environment
    ) as process:
        yield process


@pytest.fixture
def run(groovy: subprocess.Popen[str], tmp_path: Path) -> RunScript:
    """Run the script on an image; return the image afterwards, with the `printed` text and the `error`."""
    (tmp_path / "qupath").mkdir()
    script = tmp_path / "qupath" / project.SCRIPT
    script.write_text(project.import_script(), encoding="utf-8")

    def run_script(image: Image, *arguments: str) -> Image:
        assert groovy.stdin is not None
        assert groovy.stdout is not None
        path = str(project.project_path(tmp_path))
        job = image | {"project": path, "script": str(script), "args": list(arguments) or None}
        groovy.stdin.write(json.dumps(job) + "\n")
        groovy.stdin.flush()
        return image | json.loads(groovy.stdout.readline())

    return run_script


def empty(name: str | None = "a.svs", size: tuple[int, int] = (600, 500)) -> Image:
    metadata = {} if name is None else {"wsi-mitosis": name}
    return {"objects": [], "properties": {}, "size": size, "type": "UNSET", "metadata": metadata}


def figure(identity: str, left: float, label: str = "Atypical") -> dict[str, Any]:
    ring = [[left, 80.5], [left + 50, 80.5], [left + 50, 130.5], [left, 130.5], [left, 80.5]]
    return {
        "type": "Feature",
        "id": identity,
        "geometry": {"type": "Polygon", "isEllipse": True, "coordinates": [ring]},
        "properties": {"objectType": "detection", "classification": {"name": f"Mitosis: {label}"}},
    }


def hotspot(left: float) -> dict[str, Any]:
    ring = [[left, 0], [left + 400, 0], [left + 400, 300], [left, 300], [left, 0]]
    return {
        "type": "Feature",
        "id": HOTSPOT,
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {
            "objectType": "annotation",
            "name": "Hotspot 1",
            "classification": {"name": "Hotspot"},
        },
    }


def write(
    folder: Path, *features: dict[str, Any], name: str = "a.svs", size: tuple[int, int] = (600, 500)
) -> Path:
    path = folder / "geojson" / f"{name}.geojson"
    path.parent.mkdir(parents=True, exist_ok=True)
    head = json.dumps({"type": "FeatureCollection", "wsi_mitosis": {"image_px": size}}, separators=(",", ":"))
    path.write_text(head[:-1] + ',"features":[\n' + ",\n".join(json.dumps(f) for f in features) + "\n]}\n")
    return path


def imported(image: Image) -> dict[str, str]:
    """Class by id; fails where an id is there twice."""
    assert image["error"] is None
    ids = [thing["id"] for thing in image["objects"]]
    assert len(ids) == len(set(ids))
    return {thing["id"]: thing["pathClass"] for thing in image["objects"]}


def changed(image: Image, identity: str, **changes: Any) -> Image:
    things = [thing | changes if thing["id"] == identity else thing for thing in image["objects"]]
    return image | {"objects": things}


def without(image: Image, *identities: str) -> Image:
    return image | {"objects": [thing for thing in image["objects"] if thing["id"] not in identities]}


def test_the_template_names_no_fact_itself_and_uses_every_one_that_it_is_given() -> None:
    template, script = TEMPLATE.read_text(encoding="utf-8"), project.import_script()
    for name, value in project.SCRIPT_FACTS.items():
        assert f"@{name}@" in template
        literal = project._groovy_literal(value)
        assert literal in script
        assert literal not in template
    for fact in (qupath.HOTSPOT_CLASS, qupath.TRAINED_FAMILY, qupath.UNTRAINED_FAMILY):
        assert f"'{fact}" not in template
    assert "@" not in script


def test_texts_are_quoted_for_groovy() -> None:
    assert project._groovy_literal((r"a\b", "it's")) == r"['a\\b', 'it\'s']"


def test_a_first_run_imports_everything(run: RunScript, tmp_path: Path) -> None:
    write(tmp_path, figure(A, 100), figure(B, 300, "Typical"), hotspot(0))
    found = run(empty())
    assert imported(found) == {A: "Mitosis: Atypical", B: "Mitosis: Typical", HOTSPOT: "Hotspot"}
    assert (
        found["printed"] == "a.svs: 3 objects imported, 0 earlier objects removed, 0 reviewed objects kept\n"
    )
    assert found["type"] == "BRIGHTFIELD_H_E"


def test_an_image_type_that_was_chosen_stays(run: RunScript, tmp_path: Path) -> None:
    write(tmp_path)
    assert run(empty() | {"type": "BRIGHTFIELD_H_DAB"})["type"] == "BRIGHTFIELD_H_DAB"


def test_a_second_run_replaces_and_removes(run: RunScript, tmp_path: Path) -> None:
    write(tmp_path, figure(A, 100), figure(B, 300), hotspot(0))
    image = run(empty())
    drawn = {"id": D, "pathClass": "Tumor", "annotation": True, "x": 9.0, "y": 9.0, "area": 1.0}
    image["objects"].append(drawn)
    write(tmp_path, figure(A, 100, "Typical"), figure(C, 500), hotspot(40))
    again = run(image)
    assert imported(again) == {A: "Mitosis: Typical", C: "Mitosis: Atypical", HOTSPOT: "Hotspot", D: "Tumor"}
    assert [thing["x"] for thing in again["objects"] if thing["id"] == HOTSPOT] == [240]
    assert (
        again["printed"] == "a.svs: 3 objects imported, 3 earlier objects removed, 0 reviewed objects kept\n"
    )
    assert imported(run(again)) == imported(again)


@pytest.mark.parametrize(
    "changes",
    [
        {"pathClass": "Mitosis: Typical"},
        {"pathClass": None},
        {"x": 140.0},
        {"area": 4000.0},
        {"name": "look"},
    ],
    ids=str,
)
def test_a_figure_that_was_reviewed_is_not_replaced(run: RunScript, tmp_path: Path, changes: Image) -> None:
    write(tmp_path, figure(A, 100), figure(B, 300))
    image = changed(run(empty()), A, **changes)
    reviewed = next(thing for thing in image["objects"] if thing["id"] == A)
    for _ in range(2):  # it is remembered as reviewed
        image = run(image)
        assert imported(image).keys() == {A, B}
        assert reviewed in image["objects"]
    write(tmp_path, figure(B, 300))  # nor is it removed with the candidate that it came from
    assert reviewed in run(image)["objects"]


def test_a_described_annotation_is_not_replaced(run: RunScript, tmp_path: Path) -> None:
    write(tmp_path, hotspot(0))
    image = changed(run(empty()), HOTSPOT, description="counted by hand: 12")
    write(tmp_path, hotspot(40))
    assert run(image)["objects"] == image["objects"]


def test_rounding_is_no_review(run: RunScript, tmp_path: Path) -> None:
    write(tmp_path, figure(A, 100))
    image = changed(run(empty()), A, x=125.007, area=1964.2)
    write(tmp_path, figure(A, 100, "Typical"))
    assert imported(run(image)) == {A: "Mitosis: Typical"}


def test_a_figure_that_was_deleted_does_not_come_back(run: RunScript, tmp_path: Path) -> None:
    write(tmp_path, figure(A, 100), figure(B, 300))
    image = without(run(empty()), A)
    for _ in range(2):
        image = run(image)
        assert imported(image) == {B: "Mitosis: Atypical"}
    assert "1 reviewed objects kept" in image["printed"]


def test_a_review_is_discarded_only_when_asked(run: RunScript, tmp_path: Path) -> None:
    write(tmp_path, figure(A, 100), figure(B, 300), figure(C, 400))
    image = without(changed(run(empty()), A, pathClass="Mitosis: Typical"), B)
    image["objects"].append(
        {"id": D, "pathClass": "Mitosis: Atypical", "annotation": True, "x": 9.0, "y": 9.0}
    )
    write(tmp_path, figure(A, 100), figure(B, 300))
    assert imported(run(image, "something"))[A] == "Mitosis: Typical"
    anew = run(image, "discard-review")
    assert imported(anew) == dict.fromkeys([A, B, D], "Mitosis: Atypical")
    assert imported(run(anew)) == imported(anew)


def test_what_was_dropped_onto_the_viewer_twice_is_there_once_afterwards(
    run: RunScript, tmp_path: Path
) -> None:
    write(tmp_path, figure(A, 100), figure(B, 300))
    image = run(empty()) | {"properties": {}}  # as without the script
    image["objects"] += changed(image, B, pathClass="Mitosis: Typical")["objects"]
    found = run(image)
    assert imported(found) == {A: "Mitosis: Atypical", B: "Mitosis: Typical"}


def test_slides_of_one_file_name_get_their_own_figures(run: RunScript, tmp_path: Path) -> None:
    write(tmp_path, figure(A, 100))
    write(tmp_path, figure(B, 100), name="b ü/a.svs")
    assert imported(run(empty("b ü/a.svs"))).keys() == {B}
    assert imported(run(empty("a.svs"))).keys() == {A}


def test_packed_figures_are_found(run: RunScript, tmp_path: Path) -> None:
    path = write(tmp_path, figure(A, 100))
    path.with_name("a.svs.geojson.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    assert imported(run(empty())).keys() == {A}


def test_figures_for_another_crop_are_refused(run: RunScript, tmp_path: Path) -> None:
    write(tmp_path, figure(A, 100), size=(1200, 900))
    found = run(empty())
    assert found["objects"] == []
    assert found["properties"] == {}
    assert "for an image of 1200 x 900 px, but QuPath shows 600 x 500 px" in found["error"]
    assert "--geojson-frame" in found["error"]


def test_a_geojson_of_another_program_is_refused(run: RunScript, tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_text('{"type":"FeatureCollection","features":[]}')
    assert "for an image of null px" in run(empty())["error"]


@pytest.mark.parametrize(
    ("name", "text"),
    [("b.svs", "b.svs: wsi-mitosis wrote no figures"), (None, "wsi-mitosis did not add this image")],
)
def test_other_entries_are_not_changed(run: RunScript, tmp_path: Path, name: str | None, text: str) -> None:
    write(tmp_path, figure(A, 100))
    found = run(empty(name))
    assert (found["objects"], found["properties"], found["type"], found["error"]) == ([], {}, "UNSET", None)
    assert found["printed"].startswith(text)


def copy_of(image: Image, identity: str, new: str, **changes: Any) -> dict[str, Any]:
    """What QuPath adds when a file is dropped again and new ids are confirmed."""
    (thing,) = (thing for thing in image["objects"] if thing["id"] == identity)
    return thing | {"id": new} | changes


def test_copies_with_new_ids_are_removed(run: RunScript, tmp_path: Path) -> None:
    write(tmp_path, figure(A, 20.5), figure(B, 120.5), hotspot(10))
    image = run(empty())
    copies = [copy_of(image, A, C), copy_of(image, HOTSPOT, D)]
    again = run(image | {"objects": [*image["objects"], *copies]})
    assert imported(again).keys() == {A, B, HOTSPOT}
    assert "2 copies removed" in again["printed"]


def test_a_copy_that_a_user_changed_is_kept(run: RunScript, tmp_path: Path) -> None:
    write(tmp_path, figure(A, 20.5))
    image = run(empty())
    changed_copy = copy_of(image, A, C, pathClass="Mitosis: Typical")
    again = run(image | {"objects": [*image["objects"], changed_copy]})
    assert imported(again) == {A: "Mitosis: Atypical", C: "Mitosis: Typical"}


def test_a_figure_of_which_a_copy_is_left_was_not_deleted(run: RunScript, tmp_path: Path) -> None:
    write(tmp_path, figure(A, 20.5), figure(B, 120.5))
    image = run(empty())
    again = run(image | {"objects": [copy_of(image, A, C), *(o for o in image["objects"] if o["id"] == B)]})
    assert imported(again).keys() == {A, B}
