"""The same candidates written in every format that the program reads."""

from __future__ import annotations

import csv
import gzip
import json
import sqlite3
import uuid
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd

Points = Sequence[tuple[float, float]]
BOX_PX = 40
"""Side of the boxes and ellipses around the candidates, level-0 px."""


def write_all(
    folder: Path,
    slide_name: str,
    xy: Points,
    scores: Sequence[float],
    mpp: tuple[float, float],
    bounds: tuple[int, int] = (0, 0),
) -> dict[str, Path]:
    """Write candidates in every format.

    Args:
        folder: Where the files go.
        slide_name: The slide's file name, for the formats that state one.
        xy: Centres, level-0 px, slide frame.
        scores: One per centre.
        mpp: (x, y) um per level-0 px, for the formats in um and mm.
        bounds: Corner of the slide's bounds, px, for the formats in QuPath's frame.

    Returns:
        A path for each dialect. SlideRunner has no scores, the other files have all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    um = [(x * mpp[0], y * mpp[1]) for x, y in xy]
    qupath = [(x - bounds[0], y - bounds[1]) for x, y in xy]
    qupath_um = [(x * mpp[0], y * mpp[1]) for x, y in qupath]
    return {
        "csv": write_csv(folder / "plain.csv", slide_name, xy, scores),
        "csv-semicolon": write_csv(
            folder / "semicolon.csv", slide_name, xy, scores, separator=";", decimal=","
        ),
        "csv-um": write_csv(folder / "um.csv", slide_name, um, scores, x="x_um", y="y_um"),
        "csv-box": write_box_csv(folder / "box.csv", slide_name, xy, scores),
        "parquet": write_parquet(folder / "table.parquet", slide_name, xy, scores),
        "geojson": write_geojson(folder / "objects.geojson", qupath, scores),
        "geojson-gz": write_geojson(folder / "objects.geojson.gz", qupath, scores),
        "qupath-tsv": write_qupath_tsv(folder / "measurements.tsv", slide_name, qupath_um, scores),
        "tiatoolbox-db": write_tiatoolbox_db(folder / "store.db", xy, scores),
        "tiatoolbox-json": write_tiatoolbox_json(folder / "tiatoolbox.json", xy, scores),
        "midog": write_midog(folder / "midog.json", slide_name, xy, scores),
        "midog-guide": write_midog_guide(folder / "guide_detections.json", slide_name, xy, scores),
        "sliderunner": write_sliderunner(folder / "sliderunner.sqlite", slide_name, xy),
        "grand-challenge": write_grand_challenge(folder / "points.json", um, scores),
    }


def write_csv(
    path: Path,
    slide_name: str | None,
    xy: Points,
    scores: Sequence[float],
    *,
    separator: str = ",",
    decimal: str = ".",
    x: str = "x",
    y: str = "y",
) -> Path:
    """Write `slide, x, y, score, id`; without the slide where it is None."""
    header = ["slide", x, y, "score", "id"]
    rows = [
        [slide_name, *point, score, f"{at:04d}"]
        for at, (point, score) in enumerate(zip(xy, scores, strict=True))
    ]
    start = 0 if slide_name else 1
    cells = [[_cell(value, decimal) for value in row[start:]] for row in rows]
    return _write_rows(path, [header[start:], *cells], separator)


def write_box_csv(path: Path, slide_name: str, xy: Points, scores: Sequence[float]) -> Path:
    """Write `filename, xmin, ymin, xmax, ymax, confidence`."""
    header = ["filename", "xmin", "ymin", "xmax", "ymax", "confidence"]
    rows = [[slide_name, *box(x, y), score] for (x, y), score in zip(xy, scores, strict=True)]
    return _write_rows(path, [header, *rows], ",")


def write_parquet(path: Path, slide_name: str, xy: Points, scores: Sequence[float]) -> Path:
    """Write `slide, x, y, score`."""
    x, y = zip(*xy, strict=True) if xy else ((), ())
    columns = {"slide": [slide_name] * len(xy), "x": x, "y": y, "score": list(scores)}
    pd.DataFrame(columns).astype({"x": float, "y": float, "score": float}).to_parquet(path)
    return path


def write_geojson(path: Path, xy: Points, scores: Sequence[float], class_name: str = "Mitosis") -> Path:
    """Write QuPath's export of ellipses around centres in QuPath's frame; compressed if the name says so."""
    features = [
        {
            "type": "Feature",
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, str(at))),
            "geometry": {"type": "Polygon", "isEllipse": True, "coordinates": [ring(x, y)]},
            "properties": {
                "objectType": "detection",
                "classification": {"name": class_name, "color": [220, 20, 60]},
                "measurements": {"Detector score": score, "Area px^2": float(BOX_PX**2)},
            },
        }
        for at, ((x, y), score) in enumerate(zip(xy, scores, strict=True))
    ]
    text = json.dumps({"type": "FeatureCollection", "features": features})
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def write_qupath_tsv(path: Path, slide_name: str, xy_um: Points, scores: Sequence[float]) -> Path:
    """Write QuPath's measurement table; centres in um, QuPath's frame."""
    header = ["Image", "Object ID", "Object type", "Name", "Classification", "Parent", "ROI"]
    header += ["Centroid X µm", "Centroid Y µm", "Detector score"]
    rows = [
        [slide_name, f"id-{at}", "Detection", "", "Mitosis", "Root object (Image)", "Ellipse", x, y, score]
        for at, ((x, y), score) in enumerate(zip(xy_um, scores, strict=True))
    ]
    lines = ("\t".join(map(str, row)) for row in [header, *rows])
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_tiatoolbox_db(path: Path, xy: Points, scores: Sequence[float], *, blob: bool = False) -> Path:
    """Write the tables of TIAToolbox's SQLiteStore; properties as text or as bytes."""
    texts = [json.dumps({"type": "mitotic_figure", "probability": score}) for score in scores]
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE metadata (key TEXT UNIQUE, value TEXT)")
        database.execute(
            "CREATE TABLE annotations(id INTEGER PRIMARY KEY, key TEXT UNIQUE, objtype TEXT, "
            "cx FLOAT NOT NULL, cy FLOAT NOT NULL, geometry BLOB, properties TEXT, area FLOAT NOT NULL)"
        )
        database.executemany(
            "INSERT INTO annotations(key, objtype, cx, cy, properties, area) VALUES (?, 'Point', ?, ?, ?, 0)",
            [
                (f"key-{at}", x, y, text.encode() if blob else text)
                for at, ((x, y), text) in enumerate(zip(xy, texts, strict=True))
            ],
        )
    return path


def write_tiatoolbox_json(path: Path, xy: Points, scores: Sequence[float]) -> Path:
    """Write what TIAToolbox's NucleusDetector saves as "QuPath" JSON."""
    features = [
        {
            "type": "Feature",
            "id": f"detection_{at}",
            "geometry": {"type": "Point", "coordinates": [x, y]},
            "properties": {
                "classification": {"name": "mitotic_figure", "color": [31, 119, 180]},
                "probability": score,
            },
            "objectType": "detection",
            "name": "mitotic_figure",
            "class_value": 0,
        }
        for at, ((x, y), score) in enumerate(zip(xy, scores, strict=True))
    ]
    return write_json(path, {"type": "FeatureCollection", "features": features})


def write_midog(
    path: Path,
    slide_name: str,
    xy: Points,
    scores: Sequence[float],
    look_alikes: Points = (),
) -> Path:
    """Write MIDOG++ JSON: the figures, then the look-alikes."""
    annotations: list[dict[str, Any]] = [
        {"id": at, "image_id": 7, "category_id": 1, "bbox": box(x, y), "labels": [1, 1], "score": score}
        for at, ((x, y), score) in enumerate(zip(xy, scores, strict=True))
    ]
    annotations += [
        {"id": len(xy) + at, "image_id": 7, "category_id": 2, "bbox": box(x, y), "labels": [2, 1]}
        for at, (x, y) in enumerate(look_alikes)
    ]
    categories = [{"id": 1, "name": "mitotic figure"}, {"id": 2, "name": "not mitotic figure"}]
    images = [{"id": 7, "file_name": slide_name, "width": 9, "height": 9, "tumor_type": "canine lymphoma"}]
    document = {
        "info": {},
        "licenses": [],
        "images": images,
        "categories": categories,
        "annotations": annotations,
    }
    return write_json(path, document)


def write_midog_guide(path: Path, slide_name: str, xy: Points, scores: Sequence[float]) -> Path:
    """Write the result of the MIDOG guide's detector."""
    boxes = [box(x, y) for x, y in xy]
    document = {"boxes": boxes, "scores": list(scores), "labels": [1] * len(xy), "image_path": slide_name}
    return write_json(path, document)


def write_sliderunner(
    path: Path,
    slide_name: str,
    xy: Points,
    look_alikes: Points = (),
    deleted: Points = (),
) -> Path:
    """Write a SlideRunner database: figures as boxes, look-alikes and deleted figures as spots."""
    with closing(sqlite3.connect(path)) as database, database:
        for table in (
            "Slides(uid INTEGER PRIMARY KEY, filename TEXT)",
            "Classes(uid INTEGER PRIMARY KEY, name TEXT)",
            "Annotations(uid INTEGER PRIMARY KEY, slide INTEGER, type INTEGER, agreedClass INTEGER, "
            "deleted INTEGER DEFAULT 0)",
            "Annotations_coordinates(uid INTEGER PRIMARY KEY, coordinateX, coordinateY, slide INTEGER, "
            "annoId INTEGER, orderIdx INTEGER)",
        ):
            database.execute(f"CREATE TABLE {table}")
        database.execute("INSERT INTO Slides VALUES (3, ?)", (slide_name,))
        database.execute("INSERT INTO Classes VALUES (1, 'mitotic figure'), (2, 'mitotic figure look-alike')")
        for x, y in xy:
            left, top, right, bottom = box(x, y)
            _annotate(database, [(left, top), (right, bottom)], agreed_class=1, deleted=0)
        for point in look_alikes:
            _annotate(database, [point], agreed_class=2, deleted=0)
        for point in deleted:
            _annotate(database, [point], agreed_class=1, deleted=1)
    return path


def _annotate(database: sqlite3.Connection, places: Points, agreed_class: int, deleted: int) -> None:
    cursor = database.execute(
        "INSERT INTO Annotations(slide, type, agreedClass, deleted) VALUES (3, 2, ?, ?)",
        (agreed_class, deleted),
    )
    database.executemany(
        "INSERT INTO Annotations_coordinates(coordinateX, coordinateY, slide, annoId, orderIdx) "
        "VALUES (?, ?, 3, ?, ?)",
        [(x, y, cursor.lastrowid, order) for order, (x, y) in enumerate(places)],
    )


def write_grand_challenge(path: Path, xy_um: Points, scores: Sequence[float]) -> Path:
    """Write Grand Challenge's "Multiple points": centres given in um, written in mm."""
    points = [
        {"name": "mitotic figure", "point": [x / 1000, y / 1000, 0.0], "probability": score}
        for (x, y), score in zip(xy_um, scores, strict=True)
    ]
    return write_json(
        path, {"type": "Multiple ponits", "points": points, "version": {"major": 1, "minor": 0}}
    )


def write_json(path: Path, document: Any) -> Path:
    """Write a JSON document."""
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def write_text(folder: Path, text: str, ending: str) -> list[Path]:
    """Write a text as it is, and compressed with a byte order mark."""
    plain, packed = folder / f"a{ending}", folder / f"b{ending}.gz"
    plain.write_bytes(text.encode())
    packed.write_bytes(gzip.compress(text.encode("utf-8-sig")))
    return [plain, packed]


def box(x: float, y: float) -> list[float]:
    """The box [x1, y1, x2, y2] of BOX_PX around a centre."""
    half = BOX_PX / 2
    return [x - half, y - half, x + half, y + half]


def ring(x: float, y: float) -> list[list[float]]:
    """The closed ring of that box."""
    left, top, right, bottom = box(x, y)
    return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]


def _cell(value: object, decimal: str) -> str:
    return repr(value).replace(".", decimal) if isinstance(value, float) else str(value)


def _write_rows(path: Path, rows: Iterable[Sequence[object]], separator: str) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=separator).writerows(rows)
    return path
