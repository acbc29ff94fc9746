"""Odd inputs from end to end: the right figures on the right pixels, or a refusal that says why.

`docs/never-guessed.md` shows the messages; here they are provoked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from click.testing import CliRunner

from tests.slide_files import textured, tiff_of_resolution
from wsi_mitosis.cli import main

SIDE, MPP = 320, 0.25
IMAGE = textured(SIDE, SIDE)
POINTS = [(238.25, 96.5), (57.5, 138.25), (186.5, 262.25), (263.75, 89.75)]
FAR = (2000, 1000)
"""Where the same image lies on the larger slide."""
DOCUMENTATION = Path(__file__).parents[2] / "docs" / "never-guessed.md"


@dataclass(frozen=True)
class Odd:
    """An odd input.

    Attributes:
        make: Writes it into an empty folder.
        status: The exit status.
        points: Centres on IMAGE that are classified.
        message: What the run says of it, which the documentation shows.
    """

    make: Callable[[Path], None]
    status: int = 0
    points: Sequence[tuple[float, float]] = ()
    message: str | None = None
    slides: tuple[str, ...] = ("a.tiff",)
    detections: str = "d.csv"
    regions: str | None = None


def plain(folder: Path, name: str = "a.tiff", image: np.ndarray = IMAGE, **options) -> None:
    how = {"tile": (256, 256), "photometric": "rgb", "metadata": None} | options
    tifffile.imwrite(folder / name, image, resolution=(1e4 / MPP,) * 2, resolutionunit="CENTIMETER", **how)


def large(folder: Path) -> None:
    image = np.full((FAR[1] + SIDE, FAR[0] + SIDE, 3), 235, np.uint8)
    image[FAR[1] :, FAR[0] :] = IMAGE
    plain(folder, image=image, compression="deflate")


def table(folder: Path, text: str, slide: Callable[[Path], None] = plain, encoding: str = "utf-8") -> None:
    slide(folder)
    (folder / "d.csv").write_bytes(text.encode(encoding))


def rows(
    points: Sequence[tuple[float, float]] = POINTS, head: str = "slide,x,y", name: str = "a.tiff"
) -> str:
    return "\n".join([head, *(f"{name},{x},{y}" for x, y in points), ""])


def geojson(folder: Path, *features: dict) -> None:
    plain(folder)
    document = {"type": "FeatureCollection", "features": [{"type": "Feature", **item} for item in features]}
    (folder / "d.json").write_text(json.dumps(document))


def ring(x: float, y: float) -> list:
    return [[x - 9, y - 9], [x + 9, y - 9], [x + 9, y + 9], [x - 9, y + 9], [x - 9, y - 9]]


def eight() -> list:
    """A ring around the first point whose two halves turn in opposite directions."""
    x, y = POINTS[0]
    return [[x - 9, y - 9], [x + 9, y + 9], [x + 9, y - 9], [x - 9, y + 9], [x - 9, y - 9]]


def challenge(folder: Path) -> None:
    plain(folder)
    corners = [[[c[0] * MPP / 1000, c[1] * MPP / 1000, 0] for c in ring(x, y)[:4]] for x, y in POINTS]
    boxes = [{"name": "mitotic figure", "corners": box, "probability": 0.9} for box in corners]
    document = {"type": "Multiple 2D bounding boxes", "boxes": boxes, "version": {"major": 1, "minor": 0}}
    (folder / "d.json").write_text(json.dumps(document))


def overruled(folder: Path) -> None:
    tiff_of_resolution(folder / "a.tiff", IMAGE, (0.5, 0.5))
    (folder / "list.csv").write_text("slide,mpp\na.tiff,0.25\n")
    points = [{"name": "mitotic figure", "point": [x * 5e-4, y * 5e-4, 0]} for x, y in POINTS]
    (folder / "d.json").write_text(json.dumps({"type": "Multiple points", "points": points}))


def ome(folder: Path, axes: str, image: np.ndarray, **options) -> None:
    sizes = {f"PhysicalSize{axis}{end}": value for axis in "XY" for end, value in (("", MPP), ("Unit", "µm"))}
    tifffile.imwrite(
        folder / "a.ome.tif", image, ome=True, tile=(256, 256), metadata={"axes": axes, **sizes}, **options
    )
    (folder / "d.csv").write_text(rows(name="a.ome.tif"))


def look_alikes(folder: Path) -> None:
    names = ("Mitosis", "Hard_Negative")
    lines = (f"{x},{y},{names[n % 2]}" for n, (x, y) in enumerate(POINTS))
    table(folder, "\n".join(["x,y,class", *lines, ""]))


def many(folder: Path) -> None:
    table(folder, rows() + rows([(9, 9)], name="gone.tiff").partition("\n")[2])
    (folder / "gone.tiff").symlink_to(folder / "nowhere.tiff")
    (folder / "empty.tiff").touch()


def regions(folder: Path, *drawn: tuple[dict | None, str, str], name: str = "r.geojson") -> None:
    """A slide with its figures, and annotations of a geometry, a name and a class each."""
    table(folder, rows())
    features = [
        {
            "type": "Feature",
            "geometry": geometry,
            "properties": {"objectType": "annotation", "name": title, "classification": {"name": class_}},
        }
        for geometry, title, class_ in drawn
    ]
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def box(left: float, top: float, right: float, bottom: float) -> dict:
    corners = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    return {"type": "Polygon", "coordinates": [corners]}


LEFT = box(0, 0, 160, 320)
EMPTY = {"type": "Polygon", "coordinates": []}
german = [(x + FAR[0], y + FAR[1]) for x, y in ((238, 96), (57, 138))]
ODD = {
    "thousands in a tab table": Odd(
        lambda f: table(f, "x\ty\n2,238\t1,096\n2,057\t1,138\n", large),
        2,
        message="row 1: 'x' is '2,238', which may be 2.238, or 2238 with a thousands sign.",
    ),
    "german numbers": Odd(
        lambda f: table(f, "x;y\n2.238;1.096\n2.057;1.138,0\n", large), points=[(238, 96), (57, 138)]
    ),
    "Excel's first line": Odd(
        lambda f: table(
            f, f"\ufeffsep=;\r\n{rows().replace(',', ';').replace('.', ',')}".replace("a,t", "a.t")
        ),
        points=POINTS,
    ),
    "quotes behind blanks": Odd(
        lambda f: table(f, re.sub(r"([\w.]+),([\w.]+),([\w.]+)", r'"\1", "\2", "\3"', rows())), points=POINTS
    ),
    "notes after the table": Odd(
        lambda f: table(f, rows() + "\nTotal: 4\n"),
        points=POINTS,
        message="d.csv: lines after the table are not read as candidates: 'Total: 4'",
    ),
    "corner and size": Odd(
        lambda f: table(
            f,
            "x,y,width,height\n" + "".join(f"{x - 25},{y - 20},50,40\n" for x, y in POINTS),
        ),
        points=POINTS,
        message="d.csv: 'x' and 'y' are read as the top-left corner of boxes, whose size is",
    ),
    "shares of the image": Odd(
        lambda f: table(f, rows([(x / SIDE, y / SIDE) for x, y in POINTS])),
        2,
        message="all coordinates lie within 0 to 1 px, as shares of an image do. Pass --units fraction",
    ),
    "percent in the header": Odd(
        lambda f: table(f, rows([(x / SIDE * 100, y / SIDE * 100) for x, y in POINTS], "slide,x (%),y (%)")),
        points=POINTS,
    ),
    "look-alikes in a column": Odd(look_alikes, points=POINTS[::2]),
    "classes without a meaning": Odd(
        lambda f: table(f, "x,y,class\n1,2,0\n3,4,1\n"),
        1,
        message="the classes '0', '1' do not say which of them are mitotic figures. Name those that are "
        "candidates with --class",
    ),
    "look-alikes in GeoJSON": Odd(
        lambda f: geojson(
            f,
            *(
                {
                    "geometry": {"type": "Point", "coordinates": point},
                    "properties": {"label": ("mitotic figure", "imposter")[n % 2]},
                }
                for n, point in enumerate(POINTS)
            ),
        ),
        points=POINTS[::2],
        detections="d.json",
    ),
    "one MultiPolygon": Odd(
        lambda f: geojson(
            f,
            {
                "id": "all",
                "geometry": {"type": "MultiPolygon", "coordinates": [[ring(*point)] for point in POINTS]},
                "properties": {},
            },
        ),
        points=POINTS,
        message="d.json: 1 object ('all') has several parts: 4 candidates",
        detections="d.json",
    ),
    "no geometry": Odd(
        lambda f: geojson(
            f,
            {"id": "gone", "geometry": None, "properties": {}},
            {"id": "there", "geometry": {"type": "Point", "coordinates": POINTS[0]}, "properties": {}},
        ),
        points=POINTS[:1],
        message="d.json: no candidates: feature 1 'gone' (it has no geometry)",
        detections="d.json",
    ),
    "an arrow beside a point": Odd(
        lambda f: geojson(
            f,
            {"geometry": {"type": "Point", "coordinates": POINTS[0]}, "properties": {}},
            {"geometry": {"type": "LineString", "coordinates": POINTS[1:3]}, "properties": {}},
        ),
        points=POINTS[:1],
        message="d.json: no candidates: feature 2 (it is a line, which is neither a place nor an area)",
        detections="d.json",
    ),
    "rings that are not closed": Odd(
        lambda f: geojson(
            f,
            {"geometry": {"type": "Polygon", "coordinates": [ring(*POINTS[0])[:-1]]}, "properties": {}},
            {
                "geometry": {"type": "MultiPolygon", "coordinates": [[ring(*POINTS[1])[:-1]]]},
                "properties": {},
            },
        ),
        points=POINTS[:2],
        detections="d.json",
    ),
    "a ring that crosses itself": Odd(
        lambda f: geojson(f, {"geometry": {"type": "Polygon", "coordinates": [eight()]}, "properties": {}}),
        points=[POINTS[0]],
        detections="d.json",
    ),
    "all outside": Odd(
        lambda f: table(f, rows([(x * 4, y * 4) for x, y in POINTS])),
        1,
        message="a.tiff: placing candidates: 4 of 4 candidates (read in px, frame slide) lie outside the "
        "slide, which has 320 x 320 px. They would lie inside after dividing the coordinates by 4",
    ),
    "boxes of a challenge": Odd(challenge, points=POINTS, detections="d.json"),
    "millimetres of an overruled size": Odd(
        overruled,
        1,
        message="candidates (read in mm, frame slide, at 0.25 um/px) lie outside the slide",
        slides=("list.csv",),
        detections="d.json",
    ),
    "an image name of Bio-Formats": Odd(lambda f: table(f, rows(name="a.tiff - Series 0")), points=POINTS),
    "a name in another case": Odd(lambda f: table(f, rows(name=r"C:\Scans\A.TIFF")), points=POINTS),
    "a slide that is called nearly the same": Odd(
        lambda f: (plain(f, "b.tiff"), table(f, rows(name="a.svs") + rows(name="b.tiff").partition("\n")[2])),
        1,
        points=POINTS,
        message="a.tiff: matching detections to slides: no row is named after this slide, but 'a.svs' is",
        slides=("a.tiff", "b.tiff"),
    ),
    "a region without an area": Odd(
        lambda f: regions(f, (LEFT, "left", "Tumor"), (EMPTY, "right", "Tumor")),
        2,
        message="r.geojson: reading regions: no region can be made of feature 2 'right' (its geometry is "
        "empty). Draw it again as a closed area or delete it in QuPath, and export the annotations again",
        regions="r.geojson",
    ),
    "a region that crosses itself": Odd(
        lambda f: regions(f, ({"type": "Polygon", "coordinates": [eight()]}, "bow tie", "Tumor")),
        points=POINTS,
        message="r.geojson: check the outline of feature 1 'bow tie' (where it crosses itself, every second "
        "area is a hole)",
        regions="r.geojson",
    ),
    "objects that are no regions": Odd(
        lambda f: regions(
            f,
            (LEFT, "left", "Tumor"),
            (LEFT, "Hotspot 1", "Hotspot"),
            ({"type": "Point", "coordinates": [9, 9]}, "here", "Tumor"),
        ),
        points=POINTS,
        message="r.geojson: not regions: feature 2 (of class Hotspot); feature 3 (point)",
        regions="r.geojson",
    ),
    "regions of several classes": Odd(
        lambda f: regions(
            f,
            *[(LEFT, f"T{n}", "Tumor") for n in range(3)],
            (LEFT, "n", "Tumor: Necrosis"),
            *[(LEFT, f"r{n}", "Region*") for n in range(2)],
            (LEFT, "Hotspot 1", "Hotspot"),
        ),
        points=POINTS,
        message="regions: counted: Tumor (3); cut out: Region* (2), Tumor: Necrosis (1); not regions: 1 of "
        "class Hotspot",
        regions="r.geojson",
    ),
    "a file without regions": Odd(
        lambda f: regions(f, ({"type": "LineString", "coordinates": [[0, 0], [9, 9]]}, "arrow", "Tumor")),
        2,
        message="r.geojson: reading regions: none of its objects is a region: feature 1 (line)",
        regions="r.geojson",
    ),
    "all regions cut out": Odd(
        lambda f: regions(f, (LEFT, "left", "Ignore*")),
        points=POINTS,
        message="r.geojson: all its regions are cut out, so that what counts is the rest of the slide",
        regions="r.geojson",
    ),
    "a region of another slide": Odd(
        lambda f: regions(f, (LEFT, "left", "Tumor"), (box(5000, 5000, 5640, 5640), "far", "Tumor")),
        1,
        message="a.tiff: placing regions: region 'far' (x 5000 to 5640, y 5000 to 5640 px at level 0, read "
        "in frame qupath) lies wholly outside the slide, which has 320 x 320 px. Check that the regions are "
        "of this slide and in pixels at level 0, and their frame (--geojson-frame)",
        regions="r.geojson",
    ),
    "a region across the edge": Odd(
        lambda f: regions(f, (box(160, 0, 480, 320), "right", "Tumor")),
        points=POINTS,
        message="a.tiff: outside the slide, and cut off: 50% of region 'right'",
        regions="r.geojson",
    ),
    "a region with the name of the total": Odd(
        lambda f: regions(f, (LEFT, "All regions", "Tumor"), (LEFT, "a", "Tumor"), (LEFT, "a", "Tumor")),
        points=POINTS,
        message="r.geojson: regions whose names are taken are listed under others: 'feature 1 as All regions "
        "(drawn)', 'feature 3 as a (2)'",
        regions="r.geojson",
    ),
    "other files among the regions": Odd(
        lambda f: (
            regions(f, (LEFT, "left", "Tumor"), name="r/a.geojson"),
            (f / "r" / "a.xml").write_text("<a/>"),
        ),
        points=POINTS,
        message="r: not read as regions, because of their endings: 'a.xml'",
        regions="r",
    ),
    "transparent pixels": Odd(
        lambda f: table(
            f,
            rows(),
            lambda g: plain(
                g, image=np.dstack([IMAGE, np.zeros((SIDE, SIDE), np.uint8)]), extrasamples=["unassalpha"]
            ),
        ),
        1,
        message="a.tiff: reading patches: all 4 candidates lie where the slide has no pixels",
    ),
    "twelve bits in sixteen": Odd(
        lambda f: table(f, rows(), lambda g: plain(g, image=IMAGE.astype(np.uint16) * 16)),
        1,
        message="a.tiff: checking the pixels: its pixels are 16-bit unsigned numbers (uint16)",
    ),
    "colours in planes": Odd(
        lambda f: ome(f, "CYX", np.moveaxis(IMAGE, 2, 0), photometric="minisblack"),
        points=POINTS,
        slides=("a.ome.tif",),
    ),
    "focal planes": Odd(
        lambda f: ome(f, "ZYXS", np.stack([IMAGE // 2, IMAGE, IMAGE // 2]), photometric="rgb"),
        1,
        message="a.ome.tif: checking the pixels: it is a stack of 3 focal planes.",
        slides=("a.ome.tif",),
    ),
    "two pixel sizes": Odd(
        lambda f: ome(f, "YXS", IMAGE, photometric="rgb", resolution=(72, 72), resolutionunit="INCH"),
        points=POINTS,
        message="a.ome.tif: the file states 0.25 um/px (OME) and 352.8 um/px (TIFF resolution); 0.25 is used",
        slides=("a.ome.tif",),
    ),
    "an orientation": Odd(
        lambda f: table(f, rows(), lambda g: plain(g, extratags=[(274, 3, 1, 3, True)])),
        1,
        message="a.tiff: checking the pixels: its Orientation tag is 3 (turned by 180 degrees).",
    ),
    "bad entries of a folder": Odd(
        many, 1, points=POINTS, message="gone.tiff: finding slides: a broken link", slides=(".",)
    ),
    "a name of 250 bytes": Odd(
        lambda f: table(f, rows(name="n" * 245 + ".tiff"), lambda g: plain(g, "n" * 245 + ".tiff")),
        points=POINTS,
        slides=(".",),
    ),
}


def classified(folder: Path, odd: Odd, bundle: Path) -> tuple[int, str, pd.DataFrame]:
    """Exit status, what was printed, and the figures."""
    arguments = ["classify", *odd.slides, "--detections", odd.detections, "--model", str(bundle)]
    if odd.regions is not None:
        arguments += ["--regions", odd.regions]
    result = CliRunner().invoke(main, [*arguments, "--out", "out", "--workers", "0", "--no-report"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    tables = [pd.read_parquet(path) for path in (folder / "out").glob("figures/*.parquet")]
    figures = pd.concat(tables) if tables else pd.DataFrame({"label": []})
    return result.exit_code, " ".join(result.output.split()), figures[figures["label"].notna()]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, small_bundle: Path) -> Callable[[float, float], float]:
    """P(atypical) of a figure on IMAGE, by a table without anything odd."""

    @cache
    def probability(x: float, y: float) -> float:
        folder = tmp_path_factory.mktemp("plain")
        table(folder, rows([(x, y)]))
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            status, output, figures = classified(folder, Odd(table), small_bundle)
        assert status == 0, output
        return float(figures["p_atypical"].iloc[0])

    return probability


@pytest.mark.parametrize("name", ODD)
def test_the_right_figures_or_a_refusal_that_says_why(
    name: str,
    tmp_path: Path,
    small_bundle: Path,
    expected: Callable[[float, float], float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    odd = ODD[name]
    odd.make(tmp_path)
    monkeypatch.chdir(tmp_path)
    status, output, figures = classified(tmp_path, odd, small_bundle)
    assert status == odd.status, output
    places = figures[["x_px0", "y_px0"]].to_numpy() % FAR if len(figures) else np.empty((0, 2))
    np.testing.assert_allclose(places, np.array(odd.points).reshape(-1, 2), atol=1e-6)
    for (x, y), p in zip(odd.points, figures.get("p_atypical", ()), strict=True):
        assert p == pytest.approx(expected(x, y), abs=1e-5)  # a batch of another size rounds otherwise
    if odd.message is not None:
        assert odd.message in output


def test_the_documentation_shows_these_messages() -> None:
    text = " ".join(DOCUMENTATION.read_text(encoding="utf-8").split())
    missing = [odd.message for odd in ODD.values() if odd.message and odd.message not in text]
    assert missing == []
