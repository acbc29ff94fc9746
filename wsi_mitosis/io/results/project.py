"""A QuPath project beside the results: the slides, the classes and their colours, and the import script.

A project is JSON (`DefaultProject`, QuPath 0.4 to 0.7), but the objects of an image are serialised Java,
which only QuPath can write. So the figures are imported by a script that runs in QuPath.
"""

from __future__ import annotations

import json
import re
import shutil
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openslide

from wsi_mitosis.core import qupath
from wsi_mitosis.errors import OutputError, UnreadableSlideError
from wsi_mitosis.io.atomic import replacing, write_text
from wsi_mitosis.io.slides import open_native

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from wsi_mitosis.units import Frame

SCRIPT = "import_geojson.groovy"
SCRIPT_FACTS: dict[str, str | float | tuple[str, ...]] = {
    "slide_key": qupath.SLIDE_KEY,
    "imported_key": qupath.IMPORTED_KEY,
    "geojson_folder": qupath.GEOJSON_FOLDER,
    "geojson_endings": qupath.GEOJSON_ENDINGS,
    "image_size_key": qupath.IMAGE_SIZE_KEY,
    "discard_argument": qupath.DISCARD_ARGUMENT,
    "moved_px": qupath.MOVED_PX,
    "resized_share": qupath.RESIZED_SHARE,
}
"""Values of the `@name@` in the script's template."""
FORMAT_VERSION = "0.4.4"
"""The version of QuPath that is named as the project's writer; later versions read the project too."""
OPENSLIDE = "qupath.lib.images.servers.openslide.OpenslideServerBuilder"
BIO_FORMATS = "qupath.lib.images.servers.bioformats.BioFormatsServerBuilder"
NO_CROP = "--no-crop"
"""Argument of the OpenSlide builder: show the whole slide and not only its bounds."""

Json = dict[str, Any]


def project_path(folder: Path) -> Path:
    """Return the path of the project in an output folder."""
    return folder / "qupath" / "project.qpproj"


def check_project(folder: Path) -> None:
    """Check that slides can be added to the project in an output folder, if it has one.

    Raises:
        OutputError: if QuPath could not read the project.
    """
    _read_project(folder)
    _read_classes(folder)


def write_project(
    folder: Path, slides: Mapping[str, Path], frame: Frame, families: Iterable[bool]
) -> tuple[str, ...]:
    """Write a project, or add the missing slides and classes to an existing one.

    Existing entries and classes are not changed, so that everything that QuPath stored for them is kept.

    Args:
        folder: The output folder.
        slides: Paths by name in the output folder.
        frame: The frame of the GeoJSON files. With `slide`, QuPath must show new slides uncropped.
        families: Whether each bundle that labelled slides of the folder is trained; in any order, repeats
            allowed.

    Returns:
        Names of the slides that were not added because they cannot be opened; QuPath's headless run would
        stop at them.

    Raises:
        OutputError: if there is a project that QuPath could not read.
    """
    existing, classes = _read_project(folder), _read_classes(folder)
    path = project_path(folder)
    project = existing or _empty_project(path)
    known = {str((entry.get("metadata") or {}).get(qupath.SLIDE_KEY)) for entry in project["images"]}
    servers = {name: _server(slides[name], frame) for name in sorted(slides) if name not in known}
    added = {name: server for name, server in servers.items() if server is not None}
    write_text(path.parent / "scripts" / SCRIPT, import_script())
    _write_classes(folder, classes or {"pathClasses": []}, families)
    if added or existing is None:
        _write(path, _with_entries(project, added, _last_id(project, path.with_name("data"))))
    return tuple(name for name in servers if name not in added)


def import_script() -> str:
    """Return the script that imports the figures of a project's slides into QuPath.

    The file in this package is a template; every `@name@` in it is replaced by a value of SCRIPT_FACTS.
    """
    template = Path(__file__).with_name(SCRIPT).read_text(encoding="utf-8")
    return re.sub(r"@(\w+)@", lambda name: _groovy_literal(SCRIPT_FACTS[name[1]]), template)


def _groovy_literal(value: str | float | tuple[str, ...]) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_groovy_literal, value))}]"
    if isinstance(value, str):
        escaped = value.replace("\\", r"\\").replace("'", r"\'")
        return f"'{escaped}'"
    return repr(value)


def _read_project(folder: Path) -> Json | None:
    path = project_path(folder)
    # QuPath renames the old project to its backup before it writes the new one.
    if not path.exists() and _backup(path).exists():
        raise _unreadable(path, "the project is missing, although its backup exists")
    return _read(path, "images", "entryID")


def _read_classes(folder: Path) -> Json | None:
    return _read(_classes_path(folder), "pathClasses", "name")


def _read(path: Path, listed: str, member: str) -> Json | None:
    """Read a file whose member `listed` is a list of objects that have `member`; None if there is no file."""
    try:
        document: Json = json.loads(path.read_text(encoding="utf-8"))
        kind = int if member == "entryID" else str
        for item in document[listed]:
            _expect(item[member], kind)
            _expect(item.get("metadata") or {}, dict)
        _expect(document.get("lastID", 0), int)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        cause = f"QuPath could not read this file: {type(error).__name__}: {error}"
        raise _unreadable(path, cause) from error
    return document


def _expect(value: object, kind: type) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{value!r:.60} is not of type {kind.__name__}")


def _unreadable(path: Path, cause: str) -> OutputError:
    return OutputError(
        cause,
        subject=path,
        stage="reading the QuPath project",
        remedy=f"Restore it from {_backup(path).name} if that exists, or move the folder qupath away",
    )


def _backup(path: Path) -> Path:
    """Return the path at which QuPath, and so this module, keeps the previous version of a file."""
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
    """Return the highest id that was ever used.

    QuPath names the folder of an image's data by its id: with a reused id it would show the objects of
    another slide.
    """
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
        "randomizedName": str(uuid.uuid4()),  # QuPath shows it where names are masked
        "imageName": name,
        "metadata": {qupath.SLIDE_KEY: name},
    }


def _server(slide: Path, frame: Frame) -> Json | None:
    """Return the server builder with which QuPath opens a slide; None if the slide cannot be opened.

    An OME-TIFF is opened by Bio-Formats, as in QuPath, also if OpenSlide supports it: OpenSlide does not read
    OME-XML.
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
    return _builder(OPENSLIDE, slide, *([NO_CROP] if uncropped else []))


def _builder(provider: str, slide: Path, *arguments: str) -> Json:
    return {
        "builderType": "uri",
        "providerClassName": provider,
        "uri": slide.absolute().as_uri(),
        "args": list(arguments),
    }


def _write_classes(folder: Path, document: Json, families: Iterable[bool]) -> None:
    """Add the missing classes, with their colours; an existing class is not changed."""
    known = {item["name"] for item in document["pathClasses"]}
    if missing := [item for item in _classes(families) if item["name"] not in known]:
        _write(_classes_path(folder), document | {"pathClasses": [*document["pathClasses"], *missing]})


def _classes(families: Iterable[bool]) -> Iterator[Json]:
    # The trained family is always needed: a reviewer adds figures to it.
    for trained in sorted({*families, True}, reverse=True):
        for label, colour in qupath.FIGURE_COLOURS.items():
            yield {"name": qupath.figure_class(label, trained=trained), "color": _packed(colour)}
    yield {"name": qupath.HOTSPOT_CLASS, "color": _packed(qupath.HOTSPOT_COLOUR)}
    yield from ({"name": name, "color": _packed(colour)} for name, colour in qupath.REGION_COLOURS.items())


def _packed(rgb: tuple[int, int, int]) -> int:
    """Return a colour in QuPath's format: ARGB in a signed 32-bit integer."""
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
