"""Open a detections file and detect its format, from its content and not from its name."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

from wsi_mitosis.errors import DetectionsError, listed
from wsi_mitosis.io.detections.common import fault
from wsi_mitosis.io.detections.formats import FORMATS, REGISTRY, Document, Fit, Format
from wsi_mitosis.io.detections.geojson import features_of
from wsi_mitosis.io.detections.sqlite import tables_of
from wsi_mitosis.io.limits import (
    LimitError,
    check_lines,
    decompress_gzip,
    parse_json,
    parse_xml,
    read_bytes,
)
from wsi_mitosis.io.text_tables import decode, is_binary

if TYPE_CHECKING:
    from pathlib import Path

_SQLITE_MAGIC = b"SQLite format 3\x00"
_PARQUET_MAGIC = b"PAR1"
_GZIP_MAGIC = b"\x1f\x8b"
_REMEDY = f"Give a file of one of these formats: {', '.join(FORMATS)}"


def open_document(path: Path) -> Document:
    """Open a file.

    Raises:
        DetectionsError: if the file is missing, empty, damaged or too large.
    """
    try:
        return _opened(path)
    except LimitError as error:
        raise fault(str(error), path, error.remedy) from error


def fitting(document: Document) -> tuple[Format, ...]:
    """Return the formats that a document fits, the likeliest first.

    Raises:
        DetectionsError: if it fits none.
    """
    fits = {item: item.fit(document) for item in REGISTRY}
    found = [item for item in REGISTRY if fits[item] > Fit.NO]
    if not found:
        raise _unknown(document)
    return tuple(sorted(found, key=lambda item: -fits[item]))


def chosen_format(requested: str, document: Document) -> Format:
    """Return the format to read a document as.

    Args:
        requested: One of FORMATS, or `auto` for the likeliest.
        document: The opened file.

    Raises:
        DetectionsError: if it fits none or not the requested one, or if several are equally likely.
    """
    path = document.path
    found = fitting(document)
    best = [item.name for item in found if item.fit(document) == found[0].fit(document)]
    if requested not in {"auto", *FORMATS}:
        raise fault(f"unknown format '{requested}'", path, f"--format takes auto, {', '.join(FORMATS)}")
    if requested == "auto":
        if len(best) > 1:
            options = " or ".join(f"--format {name}" for name in best)
            cause = f"it may be {' or '.join(best)}, and each reads other candidates from it"
            raise fault(cause, path, f"Pass {options}")
        return found[0]
    for item in found:
        if item.name == requested:
            return item
    cause = f"not {requested}: it looks like {' or '.join(best)}"
    raise fault(cause, path, f"Pass --format {best[0]} or leave it out")


def open_geojson(path: Path, stage: str, remedy: str) -> list[dict[str, Any]]:
    """Open a file that must be GeoJSON, and return its features.

    Args:
        path: The file.
        stage: What it is opened for, for messages.
        remedy: What to do if it is of another format.

    Raises:
        DetectionsError: if it cannot be read, or is of another format.
    """
    try:
        document = open_document(path)
        names = [item.name for item in fitting(document)]
        if document.kind == "json" and {"geojson", "tiatoolbox"} & set(names):
            return features_of(document.data, path)
    except DetectionsError as error:
        raise DetectionsError(error.cause, subject=path, stage=stage, remedy=error.remedy) from error
    cause = f"this is {names[0]}, not GeoJSON"
    raise DetectionsError(cause, subject=path, stage=stage, remedy=remedy)


def _unknown(document: Document) -> DetectionsError:
    """The error for a document that fits no format."""
    data, path = document.data, document.path
    if document.kind == "sqlite":
        cause = f"a SQLite database of no known format, with the tables {listed(sorted(data)) or 'none'}"
        return fault(cause, path, "Check the path")
    if document.kind == "xml":
        return fault(f"XML of no known format, with the root element '{data.tag}'", path, _REMEDY)
    if isinstance(data, dict):
        return fault(f"JSON of no known format, with the keys {listed(data)}", path, _REMEDY)
    return fault("a JSON list of other things than features, points or boxes", path, _REMEDY)


def _opened(path: Path) -> Document:
    if _is_database(path):  # not read as a whole
        return Document(path, "sqlite", tables_of(path))
    try:
        data = read_bytes(path)
    except OSError as error:
        raise fault(error.strerror or str(error), path, "Check the path and its permissions") from error
    if data.startswith(_GZIP_MAGIC):
        data = _decompressed(data, path)
    if data.startswith(_PARQUET_MAGIC):
        return Document(path, "parquet", data)
    return _opened_text(data, path)


def _opened_text(data: bytes, path: Path) -> Document:
    text = _decoded(data, path)
    first = text.lstrip()[:1]
    if first in {"{", "["}:
        return Document(path, "json", _parsed(text, path))
    if first == "<":
        return Document(path, "xml", _parsed_xml(data, text, path))
    check_lines(text)
    return Document(path, "text", text)


def _is_database(path: Path) -> bool:
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(len(_SQLITE_MAGIC)) == _SQLITE_MAGIC
    except OSError:
        return False  # which is reported when the file is read


def _decompressed(data: bytes, path: Path) -> bytes:
    try:
        data = decompress_gzip(data)
    except (EOFError, zlib.error) as error:
        raise fault(f"a damaged gzip file: {error}", path, "Write or copy it again") from error
    if data.startswith(_SQLITE_MAGIC):
        raise fault("a compressed SQLite database", path, "Decompress it first")
    return data


def _decoded(data: bytes, path: Path) -> str:
    text = decode(data)
    if text is not None and not text.strip():
        raise fault("the file is empty", path, _REMEDY)
    if text is None or is_binary(text):
        raise fault("neither text nor a database nor Parquet", path, _REMEDY)
    return text


def _parsed(text: str, path: Path) -> Any:
    try:
        return parse_json(text)
    except LimitError:
        raise
    except ValueError as error:
        raise fault(f"not valid JSON: {error}", path, "Write or copy it again") from error


def _parsed_xml(data: bytes, text: str, path: Path) -> Any:
    """Parse XML by the encoding that it states, or else as the text that it is.

    .NET writes `encoding="utf-16"` into files that it then stores as UTF-8.
    """
    try:
        return parse_xml(data.lstrip())
    except LimitError:
        raise
    except ValueError:
        try:
            return parse_xml(text.lstrip("\ufeff \t\n"))
        except LimitError:
            raise
        except ValueError as error:
            raise fault(f"not valid XML: {error}", path, "Write or copy it again") from error
