"""A QuPath project beside the results: the slides, the class colours, a script that brings the figures in.

QuPath keeps a project as JSON (`DefaultProject`, versions 0.4 to 0.7), but the objects of an image as
serialised Java: those only QuPath can write, so the script does it there.
"""

from __future__ import annotations

import json
import shutil
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openslide

from wsi_mitosis.errors import OutputError, UnreadableSlideError
from wsi_mitosis.io.atomic import replacing, write_text
from wsi_mitosis.io.results.geojson import COLOURS, HOTSPOT_CLASS, HOTSPOT_COLOUR, class_name
from wsi_mitosis.io.slides import open_native

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from wsi_mitosis.units import Frame

SLIDE_KEY = "wsi-mitosis"
"""Metadata of an entry: the slide's name in the output folder, by which script and later runs know it."""
FORMAT_VERSION = "0.4.4"
"""Of the QuPath that the project claims to be written by; later ones read it."""
OPENSLIDE = "qupath.lib.images.servers.openslide.OpenslideServerBuilder"
BIO_FORMATS = "qupath.lib.images.servers.bioformats.BioFormatsServerBuilder"
REGION_CLASSES = ("Tumor", "Region*", "Necrosis", "Ignore*")
"""QuPath's own classes, of use for regions: a project's list of classes takes the place of QuPath's."""

Json = dict[str, Any]


def project_path(folder: Path) -> Path:
    """The project file of an output folder."""
    return folder / "qupath" / "project.qpproj"


def check_project(folder: Path) -> None:
    """Whether the project that stands in an output folder, if any does, can be completed.

    Raises:
        OutputError: where it is none that QuPath would read.
    """
    _read_project(folder)
    _read_classes(folder)


def write_project(
    folder: Path, slides: Mapping[str, Path], frame: Frame, families: Iterable[bool]
) -> tuple[str, ...]:
    """Write a project, or add to the one that stands what it lacks.

    Entries and classes that stand are left as they are, with all that QuPath has stored for them.

    Args:
        folder: The output folder.
        slides: Paths by name in the output folder.
        frame: Of the GeoJSON files: with `slide` QuPath must show new slides uncropped.
        families: Whether the bundles whose labels stand in the folder are trained, once or more each.

    Returns:
        Names of the slides that are not in it: nothing opens them, and QuPath's headless run would end there.

    Raises:
        OutputError: where the project that stands is none that QuPath would read.
    """
    standing, classes = _read_project(folder), _read_classes(folder)
    path = project_path(folder)
    project = standing or _empty_project(path)
    known = {(entry.get("metadata") or {}).get(SLIDE_KEY) for entry in project["images"]}
    servers = {name: _server(slides[name], frame) for name in sorted(slides) if name not in known}
    added = {name: server for name, server in servers.items() if server is not None}
    script = Path(__file__).with_name("import_geojson.groovy")
    write_text(path.parent / "scripts" / script.name, script.read_text(encoding="utf-8"))
    _write_classes(folder, classes or {"pathClasses": []}, families)
    if added or standing is None:
        _write(path, _with_entries(project, added, _last_id(project, path.with_name("data"))))
    return tuple(name for name in servers if name not in added)


def _read_project(folder: Path) -> Json | None:
    path = project_path(folder)
    if not path.exists() and _backup(path).exists():  # QuPath moves the one away before it writes the other
        raise _unreadable(path, "it is missing, though its backup is there")
    return _read(path, "images", "entryID")


def _read_classes(folder: Path) -> Json | None:
    return _read(_classes_path(folder), "pathClasses", "name")


def _read(path: Path, listed: str, member: str) -> Json | None:
    """A file of QuPath's that is a list of objects with one member at least; None where there is none."""
    try:
        document: Json = json.loads(path.read_text(encoding="utf-8"))
        [item[member] for item in document[listed]]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise _unreadable(path, f"it cannot be read as QuPath's: {type(error).__name__}: {error}") from error
    return document


def _unreadable(path: Path, cause: str) -> OutputError:
    return OutputError(
        cause,
        subject=path,
        stage="reading the QuPath project",
        remedy=f"Restore it from {_backup(path).name} if that is there, or move the folder qupath away",
    )


def _backup(path: Path) -> Path:
    """Where QuPath keeps what a file of its own held before; so do we."""
    return path.with_name(f"{path.name}.backup")


def _empty_project(path: Path) -> Json:
    now = _now_ms()
    return {
        "version": FORMAT_VERSION,
        "createTimestamp": now,
        "modifyTimestamp": now,
        "uri": path.absolute().as_uri(),
        "lastID": 0,
        "images": [],
    }


def _last_id(project: Json, data: Path) -> int:
    """The highest id ever given: QuPath names folders of data by them, which no other slide may inherit."""
    folders = (int(folder.name) for folder in data.glob("*") if folder.name.isdecimal())
    ids: list[int] = [project.get("lastID", 0), *(entry["entryID"] for entry in project["images"]), *folders]
    return max(ids)


def _with_entries(project: Json, servers: Mapping[str, Json], last: int) -> Json:
    entries = [
        _entry(number, name, server) for number, (name, server) in enumerate(servers.items(), last + 1)
    ]
    return project | {
        "modifyTimestamp": _now_ms(),
        "lastID": last + len(entries),
        "images": [*project["images"], *entries],
    }


def _entry(number: int, name: str, server: Json) -> Json:
    return {
        "serverBuilder": server,
        "entryID": number,
        "randomizedName": str(uuid.uuid4()),  # shown where names are masked: it must tell nothing
        "imageName": name,
        "metadata": {SLIDE_KEY: name},
    }


def _server(slide: Path, frame: Frame) -> Json | None:
    """How QuPath opens a slide; None where nothing does.

    OME-TIFF goes to Bio-Formats, as in QuPath itself, also where OpenSlide opens it: that knows no OME-XML.
    """
    try:
        with openslide.OpenSlide(slide) as opened:
            properties = dict(opened.properties)
    except openslide.OpenSlideError:
        try:
            open_native(slide).close()
        except UnreadableSlideError:
            return None
        return _builder(BIO_FORMATS, slide, "--series", "0")
    if "<OME" in properties.get("tiff.ImageDescription", ""):
        return _builder(BIO_FORMATS, slide, "--series", "0")
    uncropped = frame == "slide" and openslide.PROPERTY_NAME_BOUNDS_X in properties
    return _builder(OPENSLIDE, slide, *(["--no-crop"] if uncropped else []))


def _builder(provider: str, slide: Path, *arguments: str) -> Json:
    return {
        "builderType": "uri",
        "providerClassName": provider,
        "uri": slide.absolute().as_uri(),
        "args": list(arguments),
    }


def _write_classes(folder: Path, document: Json, families: Iterable[bool]) -> None:
    """Pin the colours of our classes; a class that stands keeps its own."""
    # a reviewer's own figures are no untrained ones, so the trained family is always there
    colours = {
        class_name(label, trained=trained): colour
        for trained in sorted({*families, True}, reverse=True)
        for label, colour in COLOURS.items()
    } | {HOTSPOT_CLASS: HOTSPOT_COLOUR}
    ours: list[Json] = [
        *({"name": name, "color": _packed(colour)} for name, colour in colours.items()),
        *({"name": name} for name in REGION_CLASSES),
    ]
    known = {item["name"] for item in document["pathClasses"]}
    if lacking := [item for item in ours if item["name"] not in known]:
        _write(_classes_path(folder), document | {"pathClasses": [*document["pathClasses"], *lacking]})


def _packed(rgb: tuple[int, int, int]) -> int:
    """A colour as QuPath packs it: ARGB in a signed 32-bit integer."""
    return int.from_bytes(bytes((255, *rgb)), signed=True)


def _classes_path(folder: Path) -> Path:
    return project_path(folder).parent / "classifiers" / "classes.json"


def _write(path: Path, document: Json) -> None:
    if path.exists():
        with replacing(_backup(path)) as backup:
            shutil.copyfile(path, backup)
    write_text(path, json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
