"""The format of a detections file, which is detected from its content and not from its name."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from wsi_mitosis.errors import DetectionsError, listed
from wsi_mitosis.io.detections.challenge import is_grand_challenge
from wsi_mitosis.io.detections.common import fault
from wsi_mitosis.io.detections.geojson import features_of, is_tiatoolbox
from wsi_mitosis.io.detections.sqlite import database_format
from wsi_mitosis.io.limits import LimitError, check_lines, decompress_gzip, parse_json, read_bytes
from wsi_mitosis.io.text_tables import decode, is_binary
from wsi_mitosis.tables import DetectionFormat

if TYPE_CHECKING:
    from pathlib import Path

FORMATS: tuple[DetectionFormat, ...] = tuple(name for name in get_args(DetectionFormat) if name != "auto")
"""The names of `--format` besides `auto`."""

_SQLITE_MAGIC = b"SQLite format 3\x00"
_PARQUET_MAGIC = b"PAR1"
_GZIP_MAGIC = b"\x1f\x8b"
_REMEDY = f"Give a file of one of these formats: {', '.join(FORMATS)}"


@dataclass(frozen=True)
class Content:
    """An opened detections file.

    Attributes:
        formats: The formats that the content fits, the likeliest first.
        kind: What `data` is: the text of a table, the bytes of a Parquet file, or a parsed JSON document;
            None for a database, which is read from its path.
    """

    formats: tuple[DetectionFormat, ...]
    kind: Literal["table", "parquet", "json", "sqlite"]
    data: Any = None


def open_content(path: Path) -> Content:
    """Open a file and detect its format.

    Raises:
        DetectionsError: if the file is missing, empty, damaged, too large or of an unknown format.
    """
    try:
        return _opened(path)
    except LimitError as error:
        raise fault(str(error), path, error.remedy) from error


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
        content = open_content(path)
        if {"geojson", "tiatoolbox"} & set(content.formats):
            return features_of(content.data, path)
    except DetectionsError as error:
        raise DetectionsError(error.cause, subject=path, stage=stage, remedy=error.remedy) from error
    cause = f"this is {content.formats[0]}, not GeoJSON"
    raise DetectionsError(cause, subject=path, stage=stage, remedy=remedy)


def _opened(path: Path) -> Content:
    if _is_database(path):  # not read as a whole
        return Content((database_format(path),), "sqlite")
    try:
        data = read_bytes(path)
    except OSError as error:
        raise fault(error.strerror or str(error), path, "Check the path and its permissions") from error
    if data.startswith(_GZIP_MAGIC):
        data = _decompressed(data, path)
    if data.startswith(_PARQUET_MAGIC):
        return Content(("parquet",), "parquet", data)
    text = _decoded(data, path)
    if text.lstrip()[:1] in {"{", "["}:
        document = _parsed(text, path)
        return Content(_json_formats(document, path), "json", document)
    check_lines(text)
    return Content(("csv",), "table", text)


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


def _json_formats(document: Any, path: Path) -> tuple[DetectionFormat, ...]:
    if isinstance(document, list):
        return _list_formats(document, path)
    if document.get("type") in ("FeatureCollection", "Feature"):
        features = document.get("features", [document])
        return ("tiatoolbox", "geojson") if is_tiatoolbox(features) else ("geojson", "tiatoolbox")
    if is_grand_challenge(document):
        return ("grand-challenge",)
    if "boxes" in document:
        return ("midog-guide",)
    if "annotations" in document and "images" in document:
        return ("midog",)
    raise fault(f"JSON of no known format, with the keys {listed(document)}", path, _REMEDY)


def _list_formats(items: list[Any], path: Path) -> tuple[DetectionFormat, ...]:
    if not items:
        return ("geojson", "tiatoolbox", "grand-challenge")
    first = items[0] if isinstance(items[0], dict) else {}
    if "geometry" in first:
        return ("tiatoolbox", "geojson") if is_tiatoolbox(items) else ("geojson", "tiatoolbox")
    if is_grand_challenge(first):
        return ("grand-challenge",)
    raise fault("a JSON list of other things than features, points or boxes", path, _REMEDY)
