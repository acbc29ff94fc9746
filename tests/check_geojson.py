#!/usr/bin/env python3
"""Check GeoJSON files against the rules under which QuPath 0.4 to 0.7 reads every object and loses nothing.

usage: check_geojson.py FILE.geojson[.gz] [...]     exit 0 = all hold, 1 = something does not, 2 = usage
The rules are those of design/qupath.md. Needs Python 3.11 and shapely.
"""

import gzip
import json
import math
import sys
import uuid
from pathlib import Path

from shapely.geometry import shape

OBJECT_TYPES = {"annotation", "detection", "cell", "tile", "tmaCore"}
PROPERTIES = {"objectType", "classification", "name", "color", "isLocked", "measurements", "metadata"}
RESERVED = {"Image", "Object ID", "Object type", "Name", "Classification", "Parent", "ROI"}
RESERVED_PREFIXES = ("Num ", "Centroid X ", "Centroid Y ", "Area ", "Perimeter ", "Length ")
RESERVED_UNITS = ("px", "px^2", "\u00b5m", "\u00b5m^2", "um", "um^2")


def refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def read(path: Path) -> dict:
    data = path.read_bytes()
    if path.name.endswith(".gz"):
        if not path.name.endswith((".geojson.gz", ".json.gz")):
            raise ValueError("QuPath reads .geojson.gz and .json.gz, not plain .gz")
        data = gzip.decompress(data)
    return json.loads(data.decode("utf-8"), parse_constant=refuse_constant)


def is_rgb(value: object) -> bool:
    return (
        isinstance(value, list) and len(value) == 3 and all(type(v) is int and 0 <= v <= 255 for v in value)
    )


def faults(feature: dict, seen: set[str]) -> list[str]:
    found = []
    properties = feature.get("properties")
    if feature.get("type") != "Feature":
        found.append("type is not Feature")
    try:
        identity = str(uuid.UUID(feature["id"]))
        found += ["id used twice"] if identity in seen else []
        seen.add(identity)
    except (KeyError, ValueError, TypeError, AttributeError):
        found.append(f"id {feature.get('id')!r} is not a UUID")
    if not isinstance(properties, dict):
        return [*found, "properties missing"]
    if unknown := set(properties) - PROPERTIES:
        found.append(f"properties that QuPath drops or misreads: {sorted(unknown)}")
    if unknown := set(feature) - {"type", "id", "geometry", "properties", "nucleusGeometry"}:
        found.append(f"members that QuPath drops: {sorted(unknown)}")
    kind = properties.get("objectType")
    if kind not in OBJECT_TYPES:
        found.append(f"objectType {kind!r}")
    if "name" in properties and not isinstance(properties["name"], str):
        found.append("name is not text")
    if "classification" in properties:
        c = properties["classification"]
        if not (isinstance(c, dict) and isinstance(c.get("name"), str) and is_rgb(c.get("color"))):
            found.append(f"classification {c!r}: wants name and color [r, g, b]")
        elif not all(part.strip() and "\n" not in part and "\r" not in part for part in c["name"].split(":")):
            found.append(f"classification name {c['name']!r}: an empty part or a line end")
    if "color" in properties and not is_rgb(properties["color"]):
        found.append("color is not [r, g, b]")
    measurements = properties.get("measurements", {})
    if not isinstance(measurements, dict):
        found.append("measurements is not an object")
    else:
        for name, value in measurements.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                found.append(f"measurement {name!r} = {value!r} is not a finite number")
            if (
                name in RESERVED
                or name.startswith("Num ")
                or (name.startswith(RESERVED_PREFIXES) and name.endswith(RESERVED_UNITS))
            ):
                found.append(f"measurement name {name!r} is QuPath's own")
    if kind != "annotation" and "metadata" in properties:
        found.append("metadata on an object that is no annotation")
    geometry = feature.get("geometry")
    try:
        drawn = shape(geometry)
        if drawn.is_empty or not drawn.is_valid:
            found.append("geometry empty or invalid")
        if geometry["type"] == "GeometryCollection":
            found.append("GeometryCollection")
        if geometry["type"] == "Polygon" and any(ring[0] != ring[-1] for ring in geometry["coordinates"]):
            found.append("ring not closed")
        if geometry["type"] in {"Polygon", "MultiPolygon"} and drawn.area < 0.01:
            found.append("geometry too small to draw")
    except Exception as error:  # noqa: BLE001 - any failure of any kind is a finding here
        found.append(f"geometry: {error}")
    return found


def check(path: Path) -> list[str]:
    try:
        data = read(path)
    except (OSError, ValueError) as error:
        return [f"cannot be read: {error}"]
    if (
        not isinstance(data, dict)
        or data.get("type") != "FeatureCollection"
        or not isinstance(data.get("features"), list)
    ):
        return ["not a FeatureCollection"]
    seen: set[str] = set()
    return [
        f"feature {i}: {fault}"
        for i, feature in enumerate(data["features"])
        for fault in faults(feature, seen)
    ]


def main(paths: list[str]) -> int:
    if not paths:
        print(__doc__)
        return 2
    bad = 0
    for path in map(Path, paths):
        found = check(path)
        bad += bool(found)
        print(f"{path.name}: {'ok' if not found else f'{len(found)} faults'}", *found[:20], sep="\n  ")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
