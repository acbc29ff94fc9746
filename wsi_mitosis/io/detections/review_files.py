"""Review files: JSON that the page of `review` saved, with the verdicts of one reviewer."""

from __future__ import annotations

import fnmatch
import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wsi_mitosis.core.review_files import ReviewFile
from wsi_mitosis.errors import DetectionsError, listed
from wsi_mitosis.io.detections.reviews import ENDINGS, STAGE
from wsi_mitosis.io.limits import LimitError, parse_json, read_bytes

if TYPE_CHECKING:
    from pathlib import Path

MOST_BYTES = 128 << 20
"""Bytes of a review file. A figure has about 300: these are some 400,000 figures."""
NAMES = "review-*.json"
"""How the page names the files."""
_IS = "wsi-mitosis review"
_SCHEMA = 1
_KNOWN_BY = {"reviewer", "figures"}
"""Members that no other JSON of reviews has: those of GeoJSON are `type` and `features`."""
_AGAIN = "Give the file as the page saved it"
_MOST_FAULTS = 3


@dataclass(frozen=True)
class VerdictFile:
    """A review file.

    Attributes:
        path: The file.
        sha256: Its digest.
        content: What it says.
    """

    path: Path
    sha256: str
    content: ReviewFile


def read_verdicts_of(path: Path) -> VerdictFile:
    """Read a review file.

    Raises:
        DetectionsError: if it cannot be read, is no review file, is one of another version of the program, or
            was edited so that it does not fit the schema.
    """
    data = _bytes(path)
    try:
        document = parse_json(data.decode("utf-8-sig"))
    except LimitError as error:
        raise _fault(str(error), path, error.remedy) from error
    except UnicodeDecodeError as error:
        raise _fault("it is not text in UTF-8", path, _AGAIN) from error
    except ValueError as error:
        raise _fault(f"not valid JSON: {error}", path, _AGAIN) from error
    _check_kind(document, path)
    return VerdictFile(path, hashlib.sha256(data).hexdigest(), _content(document, path))


def verdict_files_in(folder: Path) -> tuple[VerdictFile, ...]:
    """Read the review files of a folder, sorted by name; empty if it has none. Other files are not read.

    A file is a review file by its content. One that is named as the page names them, and is not JSON, is one
    that was damaged.

    Raises:
        DetectionsError: if one of them cannot be read, or the folder has exports from QuPath beside them.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if _may_be_read(path))
    except OSError as error:
        raise _fault(error.strerror or str(error), folder, "Check the folder's permissions") from error
    found = [path for path in paths if _is_review_file(path)]
    others = [path.name for path in paths if path not in found]
    if found and others:
        raise _fault(
            f"the folder has review files, such as '{found[0].name}', and other JSON or GeoJSON: "
            f"{listed(others)}",
            folder,
            "Put the exports from QuPath into a folder of their own, and give both",
        )
    return tuple(read_verdicts_of(path) for path in found)


def _may_be_read(path: Path) -> bool:
    return path.name.lower().endswith(ENDINGS) and not path.name.startswith(".") and path.is_file()


def _is_review_file(path: Path) -> bool:
    """Whether a file is a review file, also one that was edited or damaged."""
    name = path.name.lower()
    if not name.endswith(".json"):
        return False
    data, is_named_so = _bytes(path, most=None), fnmatch.fnmatch(name, NAMES)
    if not is_named_so and _IS.encode() not in data:
        return False
    try:
        return _claims_to_be(parse_json(data.decode("utf-8-sig")))
    except ValueError:  # the error is raised when the file is read
        return is_named_so


def _claims_to_be(document: Any) -> bool:
    """Whether JSON is of a review file, also of one that has lost the statement of what it is."""
    return isinstance(document, dict) and (document.get("is") == _IS or document.keys() >= _KNOWN_BY)


def _bytes(path: Path, most: int | None = MOST_BYTES) -> bytes:
    try:
        return read_bytes(path) if most is None else read_bytes(path, most)
    except LimitError as error:
        raise _fault(str(error), path, error.remedy) from error
    except OSError as error:
        raise _fault(error.strerror or str(error), path, "Check the path and its permissions") from error


def _check_kind(document: Any, path: Path) -> None:
    """Refuse other JSON, and a review file of another version."""
    if not isinstance(document, dict) or document.get("is") != _IS:
        raise _fault(
            "it is no review file of wsi-mitosis",
            path,
            "Give a file that the page of `review` saved, or a folder with GeoJSON from QuPath",
        )
    schema = document.get("schema")
    if isinstance(schema, int) and schema > _SCHEMA:
        raise _fault(
            f"a newer version of wsi-mitosis wrote it (schema {schema}; this version reads {_SCHEMA})",
            path,
            "Install the version that made the page",
        )
    if schema != _SCHEMA:
        raise _fault("it was edited: its schema is missing or unknown", path, _AGAIN)


def _content(document: dict[str, Any], path: Path) -> ReviewFile:
    try:
        content = ReviewFile.parse(document, path)
    except DetectionsError as error:
        faults = error.cause.split("; ")
        more = f"; and {len(faults) - _MOST_FAULTS} more" if len(faults) > _MOST_FAULTS else ""
        cause = f"it was edited: {'; '.join(faults[:_MOST_FAULTS])}{more}"
        raise _fault(cause, path, _AGAIN) from error
    numbers = (n for one in content.figures for n in (one.x_px0, one.y_px0, one.seconds) if n is not None)
    if not all(map(math.isfinite, numbers)):
        raise _fault("it was edited: a number is not finite", path, _AGAIN)
    return content


def _fault(cause: str, path: Path, remedy: str) -> DetectionsError:
    return DetectionsError(cause, subject=path, stage=STAGE, remedy=remedy)
