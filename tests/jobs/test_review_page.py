"""What `docs/reviews.md` says of odd reviews: each message is provoked, and the page shows it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.review_files import moved, without
from tests.runs import candidates_csv, run, slides_in
from wsi_mitosis.jobs.bundles import write_untrained
from wsi_mitosis.jobs.recount import recount

PAGE = Path(__file__).parents[2] / "docs" / "reviews.md"
POINTS = ((438.25, 196.5), (157.5, 338.25), (486.5, 62.25), (263.75, 89.75))
FREE = (300.5, 300.25)
HOTSPOT = {"hotspot_area": 0.004}
Feature = dict[str, Any]
Features = list[Feature]


@dataclass(frozen=True)
class Results:
    """Two slides with the same four places, classified, and the objects that were written for the first."""

    folder: Path
    bundle: Path

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def classify(self, points: dict[str, tuple], bundle: Path | None = None) -> None:
        slides = slides_in(self.folder / "slides", ["a.tiff", "b.tiff"])
        rows = [f"{name},{x},{y}" for name, places in points.items() for x, y in places]
        (self.folder / "d.csv").write_text("\n".join(["slide,x,y", *rows]) + "\n")
        arguments = slides, self.folder / "d.csv", self.out, bundle or self.bundle
        assert run(*arguments, output=HOTSPOT).exit_status == 0

    def objects(self, slide: str = "a.tiff") -> Features:
        found: Features = json.loads((self.out / f"geojson/{slide}.geojson").read_text())["features"]
        return found


@pytest.fixture
def results(tmp_path: Path, small_bundle: Path) -> Results:
    made = Results(tmp_path, small_bundle)
    made.classify({"a.tiff": POINTS, "b.tiff": POINTS})
    return made


def drawn(geometry: Feature | None, name: str) -> Feature:
    properties = {"objectType": "annotation", "classification": {"name": name, "color": [1, 2, 3]}}
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def point(x: float, y: float) -> Feature:
    return {"type": "Point", "coordinates": [x, y]}


def box(x: float, y: float, half: float) -> Feature:
    sides = x - half, y - half, x + half, y + half
    corners = [(0, 1), (2, 1), (2, 3), (0, 3), (0, 1)]
    return {"type": "Polygon", "coordinates": [[[sides[a], sides[b]] for a, b in corners]]}


def relabelled(feature: Feature) -> Feature:
    feature = copy.deepcopy(feature)
    own = feature["properties"]["classification"]["name"]
    other = "Untrained: Typical" if own.endswith("Atypical") else "Untrained: Atypical"
    feature["properties"]["classification"]["name"] = other
    return feature


def other_class(feature: Feature) -> str:
    return relabelled(feature)["properties"]["classification"]["name"].removeprefix("Untrained: ")


def with_another_bundle(results: Results) -> Features:
    other = write_untrained(
        results.folder / "other", name="other", patch_px=32, width=8, members=2, tta="none"
    )
    results.classify({"a.tiff": POINTS, "b.tiff": POINTS}, results.bundle)
    before = results.objects()
    results.classify({"a.tiff": POINTS, "b.tiff": POINTS}, other.folder)
    after = results.objects()
    results.classify({"a.tiff": POINTS, "b.tiff": POINTS}, results.bundle)
    assert before != after
    return after


def with_fewer_before(results: Results) -> Features:
    results.classify({"a.tiff": POINTS[:3], "b.tiff": POINTS})
    before = results.objects()
    results.classify({"a.tiff": POINTS, "b.tiff": POINTS})
    return before


def with_more_before(results: Results) -> Features:
    before = results.objects()
    results.classify({"a.tiff": POINTS[1:], "b.tiff": POINTS})
    return before


def of_another_run(results: Results) -> Features:
    elsewhere = Results(results.folder / "elsewhere", results.bundle)
    elsewhere.folder.mkdir()
    elsewhere.classify({"a.tiff": (*POINTS[1:], FREE), "b.tiff": POINTS})
    return elsewhere.objects()


def of_another_scan(results: Results) -> Features:
    elsewhere = Results(results.folder / "elsewhere", results.bundle)
    (results.folder / "elsewhere/slides").mkdir(parents=True)
    slides = slides_in(results.folder / "elsewhere/slides", ["x.tiff", "y.tiff", "a.tiff"])
    detections = candidates_csv(results.folder / "elsewhere/d.csv", ["a.tiff"], POINTS)
    assert run(slides[2:], detections, elsewhere.out, results.bundle, output=HOTSPOT).exit_status == 0
    return elsewhere.objects()


def on_a_figure(results: Results, name: str, half: float = 8) -> Features:
    return [*results.objects(), drawn(box(POINTS[0][0] + 3, POINTS[0][1], half), name)]


MESSAGES: dict[str, tuple[str, Callable[[Results], Features]]] = {
    "slide in the folder": (
        "a.tiff: reading the review: it is a review of another slide, b.tiff: 5 of 5 ids in it are of "
        "figures there. Name the file after the slide that it was exported from",
        lambda r: r.objects("b.tiff"),
    ),
    "slide not in the folder": (
        "it is a review of another slide, or of another scan of this one: 5 of 5 ids in it are of none of "
        "its figures",
        of_another_scan,
    ),
    "one figure of another slide": (
        "a.tiff: 1 of 6 ids in it are of none of this slide's figures. Are their objects of another slide?",
        lambda r: [*r.objects(), r.objects("b.tiff")[0]],
    ),
    "bundle": ("it was exported from labels of the bundle other", with_another_bundle),
    "more since": (
        "its reviewer never saw 1 of the figures. They keep the ensemble's label, unless the review has "
        "something at their place",
        with_fewer_before,
    ),
    "fewer since": (
        "figures that its reviewer saw, and that are not in the present result: 1. Those that the review "
        "still has are counted as added",
        with_more_before,
    ),
    "another run": ("it was exported from another result, with other figures or labels", of_another_run),
    "no measurements": (
        "it does not say whether it was exported before",
        lambda r: without(with_fewer_before(r), "measurements"),
    ),
    "factor": (
        "4 of its objects have ids of this slide, and their coordinates were all multiplied by 0.5: it was "
        "exported from a downsampled image",
        lambda r: moved(r.objects(), 0.5),
    ),
    "elsewhere": (
        "its 4 figures are of this result, and do not lie where it has figures",
        lambda r: without(moved(r.objects(), 0.5), "id"),
    ),
    "copies": (
        "a.tiff: copies of other objects of the review, which are counted once: 1",
        lambda r: [*r.objects(), r.objects()[0]],
    ),
    "twice": (
        "lies there twice, with different classes",
        lambda r: [*r.objects(), drawn(point(*FREE), "AMF"), drawn(point(*FREE), "NMF")],
    ),
    "drawn on": (
        "a.tiff: figures relabelled by one that was drawn on them: 1",
        lambda r: on_a_figure(r, other_class(r.objects()[0])),
    ),
    "drawn on a reviewed one": (
        "and a figure that was reviewed as typical lies under it",
        lambda r: _contradiction(r),
    ),
    "drawn beside": (
        "a.tiff: added figures that cover another one farther than 6.25 um from their centre, and count "
        "beside it: 1",
        lambda r: [*r.objects(), drawn(box(POINTS[0][0] + 40, POINTS[0][1], 45), "Typical")],
    ),
    "moved far": (
        "a.tiff: figures moved by more than 50 um, as their ids say: 1",
        lambda r: [*moved(r.objects()[:1], by=(-300, 100)), *r.objects()[1:]],
    ),
    "selected": (
        "2 figures and the hotspot are not in the review. Were all objects exported, not only selected ones?",
        lambda r: r.objects()[:2],
    ),
    "mark": (
        "a.tiff: figures removed by what was drawn on them ('Non-mitotic figure'): 1",
        lambda r: on_a_figure(r, "Non-mitotic figure"),
    ),
    "line": (
        "a.tiff: not used of the review: feature 6 (it is a line, which is neither a place nor an area)",
        lambda r: [
            *r.objects(),
            drawn({"type": "LineString", "coordinates": [[1, 1], [99, 99]]}, "Atypical"),
        ],
    ),
    "no geometry": (
        "a part of the review cannot be used: feature 6 (it has no geometry)",
        lambda r: [*r.objects(), drawn(None, "Atypical")],
    ),
    "large figure": (
        "a.tiff: feature 6, an area of class 'Typical', has no effect",
        lambda r: on_a_figure(r, "Typical", half=110),
    ),
    "area": (
        "a.tiff: what was drawn in the review has no effect (1 area: 'Ignore*'). Pass "
        "--regions-from-review to count in it, or to cut it out",
        lambda r: on_a_figure(r, "Ignore*", half=110),
    ),
}


def _contradiction(results: Results) -> Features:
    first, *others = results.objects()
    # the reviewer calls it typical, by moving it if it is so already, and draws an atypical one on it
    is_typical = other_class(first) == "Atypical"
    first = moved([first], by=(1, 0))[0] if is_typical else relabelled(first)
    return [first, *others, drawn(point(POINTS[0][0] + 3, POINTS[0][1]), "Atypical")]


@pytest.mark.parametrize("name", MESSAGES)
def test_the_page_shows_what_recount_says(name: str, results: Results) -> None:
    message, review = MESSAGES[name]
    (results.folder / "rev").mkdir()
    (results.folder / "rev/a.geojson").write_text(json.dumps(review(results)))
    told = recount(results.out, results.folder / "rev")
    assert message in "\n".join([*told.warnings, *told.errors.values()])
    assert message in " ".join(PAGE.read_text(encoding="utf-8").replace("\\*", "*").split())


def test_every_message_of_the_page_is_provoked() -> None:
    rows = [line.split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:2] == "| "]
    shown = {row[2].strip(" |").strip("`") for row in rows if len(row) > 2 and "`" in row[2]}
    assert shown <= {message for message, _ in MESSAGES.values()}
    assert len(shown) >= 18
