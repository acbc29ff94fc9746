"""Reviews as pathologists send them back, and what `recount` and `report` make of them."""

from __future__ import annotations

import copy
import csv
import gzip
import json
import re
import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.review_files import moved, without
from tests.runs import slides_in
from wsi_mitosis.cli import main

Feature = dict[str, Any]
Points = Sequence[tuple[float, float]]
POINTS = ((438.25, 196.5), (157.5, 338.25), (486.5, 62.25), (263.75, 89.75))
OTHERS = ((100.0, 60.0), (520.0, 300.0), (330.5, 420.0), (60.0, 440.25))
"""Far from POINTS."""
FREE = (300.5, 300.25)
HOTSPOT_MM2 = "0.004"


# Commands


@dataclass
class Seen:
    """What a command did: its exit status, its messages, and the recount's row of `a.tiff`."""

    status: int
    text: str
    row: dict[str, str]

    def numbers(self) -> dict[str, int]:
        """The numbers of a slide that was counted; those that are 0 are left out, except `kept`."""
        assert self.row["reviewed"] == "true", self.text
        found = {name: int(self.row[name]) for name in ("relabelled", "removed", "added", "unseen")}
        machine = int(self.row["machine_classified"] or 0)
        kept = machine - found["relabelled"] - found["removed"] - found["unseen"]
        assert int(self.row["classified"]) == machine - found["removed"] + found["added"]
        return {"kept": kept, **{name: number for name, number in found.items() if number}}


@dataclass(frozen=True)
class World:
    """A folder with the results of the slides a.tiff and b.tiff in `out`."""

    folder: Path
    slides: Path
    bundle: Path

    def call(self, command: str, *arguments: str) -> Seen:
        result = CliRunner().invoke(main, [command, *arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        path, row = self.folder / "out/reviewed/summary.csv", {}
        if command == "recount" and path.exists():
            with path.open(newline="") as file:
                row = next((row for row in csv.DictReader(file) if row["slide"] == "a.tiff"), {})
        return Seen(result.exit_code, result.output, row)

    def classify(
        self, a: Points = POINTS, *more: str, b: Points = POINTS, bundle: Path | None = None
    ) -> Seen:
        rows = [f"{name},{x},{y}" for name, places in (("a.tiff", a), ("b.tiff", b)) for x, y in places]
        (self.folder / "d.csv").write_text("\n".join(["slide,x,y", *rows]) + "\n")
        out, model = str(self.folder / "out"), str(bundle or self.bundle)
        seen = self.call(
            *("classify", str(self.slides), "--detections", str(self.folder / "d.csv")),
            *("--out", out, "--workers", "0", "--model", model, "--no-report", "--hotspot-area", HOTSPOT_MM2),
            *more,
        )
        assert seen.status == 0, seen.text
        return seen

    def objects(self, slide: str = "a.tiff") -> list[Feature]:
        """All objects of a slide: four figures in the order of their places, and the hotspot."""
        document = json.loads((self.folder / f"out/geojson/{slide}.geojson").read_text())
        found: list[Feature] = document["features"]
        return found

    def recount(self, objects: list[Feature], *more: str, **others: list[Feature]) -> Seen:
        reviews = self.folder / "reviews"
        shutil.rmtree(reviews, ignore_errors=True)
        reviews.mkdir()
        for name, features in {"a": objects, **others}.items():
            document = {"type": "FeatureCollection", "features": features}
            (reviews / f"{name}.geojson").write_text(json.dumps(document))
        return self.call("recount", str(self.folder / "out"), "--reviewed", str(reviews), *more)

    def page(self) -> str:
        """The text of the report."""
        assert self.call("report", str(self.folder / "out")).status == 0
        text = (self.folder / "out/report.html").read_text()
        text = re.sub(r"(?s)<(style|script)\b.*?</\1>", " ", text)
        return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", text))


@pytest.fixture(scope="module")
def classified(tmp_path_factory: pytest.TempPathFactory, small_bundle: Path) -> World:
    folder = tmp_path_factory.mktemp("world")
    world = World(folder, folder / "slides", small_bundle)
    slides_in(world.slides, ["a.tiff", "b.tiff"])
    world.classify()
    return world


@pytest.fixture
def world(classified: World, tmp_path: Path) -> World:
    """The same for a test that changes it."""
    shutil.copytree(classified.folder / "out", tmp_path / "out")
    return World(tmp_path, classified.slides, classified.bundle)


@pytest.fixture(scope="session")
def other_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from wsi_mitosis.jobs.bundles import write_untrained

    folder = tmp_path_factory.mktemp("bundles") / "other"
    write_untrained(folder, name="other", patch_px=32, width=8, members=2, tta="none")
    return folder


# What a reviewer draws


def point(x: float, y: float) -> Feature:
    return {"type": "Point", "coordinates": [x, y]}


def box(x: float, y: float, half: float = 12, more: float | None = None) -> Feature:
    high = half if more is None else more
    ring = [[x - half, y - high], [x + half, y - high], [x + half, y + high], [x - half, y + high]]
    return {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}


def eight(x: float, y: float) -> Feature:
    """A ring of 24 px that crosses itself; its two halves almost cancel."""
    ring = [[x - 12, y - 12], [x + 12, y + 12], [x + 12, y - 11], [x - 12, y + 12.2], [x - 12, y - 12]]
    return {"type": "Polygon", "coordinates": [ring]}


def lines(*ends: tuple[float, float]) -> Feature:
    return {"type": "LineString", "coordinates": [list(end) for end in ends]}


def drawn(geometry: Feature, name: str | None, identity: str | None = None) -> Feature:
    properties: Feature = {"objectType": "annotation"}
    if name is not None:
        properties["classification"] = {"name": name, "color": [1, 2, 3]}
    return {
        "type": "Feature",
        "id": identity or str(uuid.uuid4()),
        "geometry": geometry,
        "properties": properties,
    }


def label(feature: Feature) -> str:
    name: str = feature["properties"]["classification"]["name"]
    return name.partition(": ")[2]


def other_label(feature: Feature) -> str:
    return {"Atypical": "Typical", "Typical": "Atypical"}[label(feature)]


def relabelled(feature: Feature, name: str | None = None) -> Feature:
    feature = copy.deepcopy(feature)
    feature["properties"]["classification"] = {"name": name or other_label(feature), "color": [9, 9, 9]}
    return feature


def with_id(features: list[Feature], name: str | None) -> list[Feature]:
    return [{**feature, "id": name} for feature in features]


# Reviews of which the numbers are known

KEPT = {"kept": 4}
Review = Callable[[list[Feature]], list[Feature]]
COUNTED: dict[str, tuple[Review, dict[str, int], str]] = {
    # plain reviews
    "one of each": (
        lambda o: [o[0], relabelled(o[1]), o[2], o[4], drawn(point(*FREE), "Atypical")],
        {"kept": 2, "relabelled": 1, "removed": 1, "added": 1},
        "",
    ),
    "nothing, in another order": (lambda o: o[::-1], KEPT, ""),
    "ids in upper case": (lambda o: [{**one, "id": one["id"].upper()} for one in o], KEPT, ""),
    "a figure moved beyond the distance": (
        lambda o: [*moved(o[:1], by=(60, 40)), *o[1:]],
        KEPT,
        "",
    ),
    # what says that there is no figure
    "a point of a look-alike on a figure": (
        lambda o: [*o, drawn(point(*POINTS[0]), "Non-mitotic figure")],
        {"kept": 3, "removed": 1},
        r"figures removed by what was drawn on them \('Non-mitotic figure'\): 1",
    ),
    "a long box of a look-alike over a figure": (
        lambda o: [*o, drawn(box(POINTS[0][0] + 60, POINTS[0][1], 90, 10), "Look-alike")],
        {"kept": 3, "removed": 1},
        r"figures removed by what was drawn on them \('Look-alike'\): 1",
    ),
    "a figure of the class of a look-alike": (
        lambda o: [relabelled(o[0], "Apoptotic body"), *o[1:]],
        {"kept": 3, "removed": 1},
        "",
    ),
    "a look-alike beside the figures": (lambda o: [*o, drawn(box(*FREE), "Not a mitosis")], KEPT, ""),
    "cells of another program on the figures": (
        lambda o: [
            *o,
            *(
                {**cell, "properties": {**cell["properties"], "objectType": "cell"}}
                for cell in (drawn(box(x, y, 9), "Negative") for x, y in POINTS)
            ),
        ],
        KEPT,
        "",
    ),
    "the other class on a figure": (
        lambda o: [*o, drawn(point(*POINTS[0]), other_label(o[0]))],
        {"kept": 3, "relabelled": 1},
        "figures relabelled by one that was drawn on them: 1",
    ),
    "the same class on a figure": (
        lambda o: [*o, drawn(point(POINTS[0][0] + 20, POINTS[0][1]), label(o[0]))],
        KEPT,
        "figures drawn on one of the same class, which count once: 1",
    ),
    # ids
    "one id for all": (lambda o: [*with_id(o[:4], "PathDetectionObject"), o[4]], KEPT, ""),
    "one id for all, also the hotspot": (lambda o: with_id(o, "PathAnnotationObject"), KEPT, ""),
    "the id of the first for all": (lambda o: [*with_id(o[:4], o[0]["id"]), o[4]], KEPT, ""),
    "no ids": (lambda o: without(o, "id"), KEPT, ""),
    "null for ids": (lambda o: with_id(o, None), KEPT, ""),
    "one new id for two added figures": (
        lambda o: [
            *o,
            *(drawn(point(x, 430), "AMF", "0b9f9b6e-7c1d-4d3c-8a52-0d8f6e1f7a10") for x in (60, 200)),
        ],
        {"kept": 4, "added": 2},
        "",
    ),
    "imported twice": (
        lambda o: [*o, *o],
        KEPT,
        "copies of other objects of the review, which are counted once: 4",
    ),
    "a copy that was dragged away": (
        lambda o: [*o, *moved(o[:1], by=(100, 150))],
        {"kept": 4, "added": 1},
        "",
    ),
    # shapes
    "a figure eight at a free place": (
        lambda o: [*o, drawn(eight(*FREE), "Atypical")],
        {"kept": 4, "added": 1},
        "",
    ),
    "a figure eight on a figure": (
        lambda o: [*o, drawn(eight(*POINTS[1]), label(o[1]))],
        KEPT,
        "of the same class, which count once",
    ),
    "a ring without extent across": (
        lambda o: [*o, drawn(box(*FREE, 0.0), "Atypical")],
        {"kept": 4, "added": 1},
        "",
    ),
    "a ring that is open": (
        lambda o: [
            *o,
            drawn({"type": "Polygon", "coordinates": [box(*FREE)["coordinates"][0][:-1]]}, "Typical"),
        ],
        {"kept": 4, "added": 1},
        "",
    ),
    "an arrow": (
        lambda o: [*o, drawn(lines((600, 400), FREE), "Atypical")],
        KEPT,
        r"not used of the review: feature 6 .*it is a line",
    ),
    "an arrow without a class": (
        lambda o: [*o, drawn(lines((9, 9), FREE), None)],
        KEPT,
        "feature 6 .*a line",
    ),
    "two arrows in one object": (
        lambda o: [
            *o,
            drawn(
                {"type": "MultiLineString", "coordinates": [[[1, 1], [9, 9]], [[5, 5], [2, 9]]]}, "Atypical"
            ),
        ],
        KEPT,
        "feature 6 .*a line",
    ),
    "a point and its arrow in one object": (
        lambda o: [
            *o,
            drawn({"type": "GeometryCollection", "geometries": [lines((9, 9), FREE), point(*FREE)]}, "AMF"),
        ],
        {"kept": 4, "added": 1},
        "feature 6 .*the lines in it",
    ),
    "an arrow of a look-alike on a figure": (
        lambda o: [*o, drawn(lines((600, 400), POINTS[0]), "Imposter")],
        KEPT,
        "feature 6 .*a line",
    ),
    # merged figures; a merged object has one class
    "two merged": (
        lambda o: [*_merged(o, 0, 1), *o[2:]],
        KEPT,
        "",
    ),
    "all merged": (lambda o: [*_merged(o, 0, 1, 2, 3), o[4]], KEPT, ""),
    "merged points": (
        lambda o: [
            *o[2:],
            *(drawn({"type": "MultiPoint", "coordinates": [list(POINTS[n])]}, label(o[n])) for n in range(2)),
        ],
        KEPT,
        "",
    ),
    "merged with new ones": (
        lambda o: [
            *o[1:],
            drawn({"type": "MultiPoint", "coordinates": [list(POINTS[0]), list(FREE)]}, label(o[0])),
        ],
        {"kept": 4, "added": 1},
        "",
    ),
}


def _merged(objects: list[Feature], *which: int) -> list[Feature]:
    """The figures as parts of one object per class, with the id of the first of them."""
    found = []
    for name in ("Atypical", "Typical"):
        parts = [objects[n] for n in which if label(objects[n]) == name]
        if parts:
            rings = [part["geometry"]["coordinates"] for part in parts]
            found.append(drawn({"type": "MultiPolygon", "coordinates": rings}, name, parts[0]["id"]))
    return found


@pytest.mark.parametrize("name", COUNTED)
def test_a_review_is_counted_as_it_was_meant(name: str, world: World) -> None:
    change, numbers, note = COUNTED[name]
    seen = world.recount(change(world.objects()))
    assert seen.status == 0, seen.text
    assert seen.numbers() == numbers
    notes = [line for line in seen.text.splitlines() if line.startswith("note: a.tiff")]
    assert [line for line in notes if "no hotspot" not in line and not re.search(note or "^$", line)] == []
    assert bool(notes) == bool(note)


def test_a_packed_bare_array_is_a_review(world: World) -> None:
    (world.folder / "reviews").mkdir()
    path = world.folder / "reviews/a.tiff - Series 0.geojson.gz"
    path.write_bytes(gzip.compress(json.dumps(world.objects()[1:]).encode()))
    seen = world.call("recount", str(world.folder / "out"), "--reviewed", str(path.parent))
    assert seen.numbers() == {"kept": 3, "removed": 1}


# Whose review it is


def refused(seen: Seen, *causes: str) -> None:
    """The slide is not counted, and its error says why."""
    assert seen.status == 1, seen.text
    assert (seen.row["status"], seen.row["reviewed"], seen.row["classified"]) == ("failed", "false", "")
    for cause in causes:
        assert re.search(cause, seen.row["error"]), seen.row["error"]


def test_a_review_of_another_slide_with_the_same_places(classified: World) -> None:
    refused(classified.recount(classified.objects("b.tiff")), r"another slide, b\.tiff: 5 of 5 ids")


def test_two_reviews_under_each_others_names(classified: World) -> None:
    seen = classified.recount(classified.objects("b.tiff"), b=classified.objects())
    refused(seen, r"another slide, b\.tiff")
    assert "another slide, a.tiff" in seen.text


def test_a_review_of_another_slide_without_ids(classified: World) -> None:
    """The probabilities are of other pixels."""
    refused(classified.recount(without(classified.objects("b.tiff"), "id")), "another result.*another slide")


def test_a_review_of_another_slide_of_which_figures_were_removed_and_added(classified: World) -> None:
    theirs = classified.objects("b.tiff")
    refused(
        classified.recount([*theirs[:1], drawn(point(*FREE), "AMF")]), r"another slide, b\.tiff: 1 of 1 ids"
    )


def test_reviews_of_two_slides_in_one_file(world: World) -> None:
    world.classify(b=OTHERS)
    seen = world.recount([*world.objects(), *world.objects("b.tiff")])
    assert seen.numbers() == KEPT | {"added": 4}
    assert "a.tiff: 5 of 10 ids in it are of none of this slide's figures" in seen.text
    refused(
        world.recount([*world.objects()[1:], *world.objects("b.tiff")]), r"another slide, b\.tiff: 5 of 9"
    )


def test_a_review_of_a_slide_that_was_scanned_again(world: World) -> None:
    before = world.objects()
    again = World(world.folder / "again", world.folder / "again/slides", world.bundle)
    slides_in(again.slides, ["b.tiff", "a.tiff"])  # other pixels under each name
    again.classify()
    refused(again.recount([*before[:3], before[4]]), r"another slide, b\.tiff: 4 of 4 ids")
    (again.slides / "b.tiff").unlink()
    shutil.rmtree(again.folder / "out")
    again.classify(b=())
    refused(again.recount(before), "another slide, or of another scan of this one: 5 of 5 ids")


# Which result it is of


def test_a_review_before_more_candidates(world: World) -> None:
    world.classify(POINTS[:3])
    before = world.objects()
    assert world.recount(before).numbers() == {"kept": 3}
    world.classify()
    seen = world.recount(before)
    assert (seen.status, seen.numbers()) == (0, {"kept": 3, "unseen": 1})
    assert "never saw 1 of the figures" in seen.text
    assert "3 kept, 0 relabelled, 0 removed, 0 added, 1 unseen" in seen.text


def test_a_review_before_more_candidates_that_changes_all(world: World) -> None:
    world.classify(POINTS[:3])
    before = world.objects()
    world.classify()
    drawn_there = drawn(point(*POINTS[3]), other_label(world.objects()[3]))
    seen = world.recount([relabelled(before[0]), *before[2:], drawn_there])
    assert seen.numbers() == {"kept": 1, "relabelled": 2, "removed": 1}


def test_a_review_before_fewer_candidates(world: World) -> None:
    before = world.objects()
    world.classify(POINTS[:3])
    seen = world.recount(before)
    assert (seen.status, seen.numbers()) == (0, {"kept": 3, "added": 1})
    assert "figures that its reviewer saw, and that are not in the present result: 1." in seen.text
    assert world.recount([*before[:3], before[4]]).numbers() == KEPT | {"kept": 3}


def test_a_review_before_other_candidates(world: World) -> None:
    before = world.objects()
    world.classify((*OTHERS[:2], *POINTS[2:]))
    seen = world.recount(before[2:])
    assert (seen.status, seen.numbers()) == (0, {"kept": 2, "unseen": 2})
    assert "never saw 2 of the figures" in seen.text
    assert "figures that its reviewer saw, and that are not in the present result: 2." in seen.text


def test_a_review_before_more_candidates_without_measurements(world: World) -> None:
    world.classify(POINTS[:3])
    before = without(world.objects(), "measurements")
    world.classify()
    refused(world.recount(before), "does not say whether it was exported before")
    assert world.recount(without(world.objects(), "measurements")).numbers() == KEPT


def test_a_review_of_another_bundle(world: World, other_bundle: Path) -> None:
    before = world.objects()
    world.classify(bundle=other_bundle)
    refused(world.recount(before), r"labels of the bundle small \(\w{12}\), and the results are now of other")
    world.classify()
    assert world.recount(before).numbers() == KEPT


def test_a_review_of_another_bundle_that_is_not_remembered(world: World, other_bundle: Path) -> None:
    before = world.objects()
    world.classify(bundle=other_bundle)
    shutil.rmtree(world.folder / "out/earlier")
    refused(world.recount(before), "another result, with other probabilities.*bundle than other")
    refused(world.recount(without(before, "id")), "with other probabilities")
    numberless = copy.deepcopy(before)
    for feature in numberless:
        feature["properties"]["measurements"].pop("Result number", None)
    refused(world.recount(numberless), "4 of 4 probabilities in it are not those of this result")


def test_a_review_of_a_trained_bundle(world: World) -> None:
    trained = [relabelled(one, f"Mitosis: {label(one)}") for one in world.objects()[:4]]
    seen = world.recount(without(trained, "measurements"))
    refused(seen, "4 of 4 figures in it have the class 'Mitosis', which those of the bundle small never have")


@pytest.mark.parametrize("factor", [0.25, 0.5, 2])
def test_an_export_of_an_image_of_another_scale(classified: World, factor: float) -> None:
    objects = moved(classified.objects(), factor)
    refused(classified.recount(objects), f"all multiplied by {factor:g}: .* downsampled")
    refused(classified.recount(without(objects, "id")), "do not lie where it has figures|outside the slide")
    nothing = without(objects[:4], "id", "measurements")
    seen = classified.recount(nothing)
    assert seen.status == 1 or "no figure of the review is one of the ensemble's" in seen.text


def test_an_export_of_a_part_of_the_image(classified: World) -> None:
    refused(classified.recount(moved(classified.objects(), by=(-30, 8))), r"all moved by \(-30.0, 8.0\) px")
    seen = classified.recount(moved(classified.objects(), by=(-9, 4)))
    assert seen.numbers() == KEPT
    assert "all figures lie (-9.0, 4.0) px beside where they were exported" in seen.text


def test_a_slide_without_detections_gets_the_figures_of_its_review(world: World) -> None:
    empty = World(world.folder / "empty", world.slides, world.bundle)
    empty.folder.mkdir()
    empty.classify(a=(), b=POINTS)
    seen = empty.recount([drawn(point(*FREE), "AMF"), drawn(box(100, 90), "Typical")])
    assert (seen.status, seen.numbers()) == (0, {"kept": 0, "added": 2})
    assert (seen.row["status"], seen.row["atypical"], seen.row["typical"]) == ("done", "1", "1")
    assert (seen.row["machine_status"], seen.row["machine_classified"]) == ("no_detections", "")
    assert "0 kept, 0 relabelled, 0 removed, 2 added" in seen.text
    refused(empty.recount(world.objects("b.tiff")), r"another slide, b\.tiff")
    assert empty.recount([]).numbers() == {"kept": 0}


# What a report shows of a review that is no longer of the present numbers


def _reviewed(world: World, *more: str) -> None:
    world.classify(POINTS, *more)
    assert world.recount(world.objects()[1:]).numbers() == {"kept": 3, "removed": 1}
    page = world.page()
    assert "After review" in page
    assert "0 relabelled, 1 removed, 0 added" in page


def _is_stale(world: World) -> None:
    page = world.page()
    assert "After review" not in page
    assert "1 removed" not in page
    assert "earlier result" in page


def test_a_report_after_a_figure_was_replaced(world: World) -> None:
    """As many figures as before."""
    _reviewed(world)
    world.classify((OTHERS[0], *POINTS[1:]))
    _is_stale(world)


def test_a_report_after_a_figure_was_moved_by_a_pixel(world: World) -> None:
    _reviewed(world)
    world.classify(((POINTS[0][0] + 1, POINTS[0][1]), *POINTS[1:]))
    _is_stale(world)


def test_a_report_after_another_bundle(world: World, other_bundle: Path) -> None:
    _reviewed(world)
    world.classify(bundle=other_bundle)
    _is_stale(world)


@pytest.mark.parametrize(
    "more", [("--hotspot-area", "0.01"), ("--hotspots", "2"), ("--hotspot-aspect", "1:1")]
)
def test_a_report_after_other_options_of_the_hotspot(world: World, more: tuple[str, ...]) -> None:
    _reviewed(world)
    world.classify(POINTS, *more)
    _is_stale(world)


def _regions(world: World, *features: Feature) -> tuple[str, str]:
    path = world.folder / "regions"
    path.mkdir(exist_ok=True)
    (path / "a.geojson").write_text(json.dumps(list(features)))
    return "--regions", str(path)


def test_a_report_after_other_regions(world: World) -> None:
    _reviewed(world)
    world.classify(POINTS, *_regions(world, drawn(box(300, 250, 299, 249), "Tumor")))
    _is_stale(world)
    _reviewed(world, *_regions(world, drawn(box(300, 250, 299, 249), "Tumor")))
    world.classify(POINTS, *_regions(world, drawn(box(300, 250, 280, 249), "Tumor")))
    _is_stale(world)


def test_a_report_of_the_same_result_keeps_the_review(world: World) -> None:
    _reviewed(world)
    world.classify()
    assert "After review" in world.page()
    world.classify((*OTHERS, *POINTS), b=OTHERS)
    _is_stale(world)
    world.classify()
    assert "After review" in world.page()


# Areas that are drawn in a review


def _in_regions(seen: Seen, world: World) -> dict[str, int]:
    assert seen.status == 0, seen.text
    with (world.folder / "out/reviewed/regions.csv").open(newline="") as file:
        return {
            row["region"]: int(row["mitoses"]) for row in csv.DictReader(file) if row["slide"] == "a.tiff"
        }


LEFT, RIGHT = box(150, 250, 149, 249), box(450, 250, 149, 249)  # of 2 figures each


def _named(geometry: Feature, class_name: str, name: str) -> Feature:
    feature = drawn(geometry, class_name)
    feature["properties"]["name"] = name
    return feature


def test_an_open_ring_of_a_region_is_closed(world: World) -> None:
    ring = {"type": "Polygon", "coordinates": [RIGHT["coordinates"][0][:-1]]}
    both = _named(LEFT, "Tumor", "left"), _named(ring, "Tumor", "right")
    seen = world.recount([*world.objects(), *both], "--regions-from-review")
    assert _in_regions(seen, world) == {"left": 2, "right": 2, "all regions": 4}
    parts = {"type": "MultiPolygon", "coordinates": [LEFT["coordinates"], ring["coordinates"]]}
    seen = world.recount([*world.objects(), _named(parts, "Tumor", "both")], "--regions-from-review")
    assert _in_regions(seen, world) == {"both": 4, "all regions": 4}


def test_a_region_that_cannot_be_read_is_refused(world: World) -> None:
    broken = copy.deepcopy(RIGHT)
    broken["coordinates"][0][1] = [600, None]
    both = [_named(LEFT, "Tumor", "left"), _named(broken, "Tumor", "right")]
    refused(world.recount([*world.objects(), *both], "--regions-from-review"), "feature 7")


@pytest.mark.parametrize("others", [[], [_named(LEFT, "Tumor", "left")]])
def test_a_region_off_the_slide_is_refused(world: World, others: list[Feature]) -> None:
    far = _named(box(5000, 5000, 200), "Tumor", "far")
    refused(
        world.recount([*world.objects(), *others, far], "--regions-from-review"),
        "'far' .*lies wholly outside",
    )


@pytest.mark.parametrize(
    ("name", "counted"),
    [
        ("Tumor: Necrosis", 2),
        ("Artefacts", 2),
        ("Necrotic tissue", 2),
        ("Ignore*", 2),
        ("Non-necrotic tumor", 4),
    ],
)
def test_areas_that_are_cut_out(world: World, name: str, counted: int) -> None:
    whole = _named(box(300, 250, 299, 249), "Tumor", "T")
    cut = _named(box(450, 250, 148, 248), name, "n")
    seen = world.recount([*world.objects(), whole, cut], "--regions-from-review")
    found = _in_regions(seen, world)
    assert (found["T"], found["all regions"]) == (4 if name.startswith("Non") else counted, counted)
