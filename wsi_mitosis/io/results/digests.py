"""The digests of the files of a folder of results that do not state their own.

A figures table, an assessment and a GeoJSON file state a digest of their own content. The files of a run as a
whole, and DICOM annotations, are listed with theirs in `digests.json`.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationError

from wsi_mitosis.io.atomic import write_text
from wsi_mitosis.io.digests import file_sha256
from wsi_mitosis.schema import Spec

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

FILE = "digests.json"
WHOLE_RUN = (
    *("summary.csv", "review.csv", "regions.csv", "run.json", "report.html"),
    *("trend.html", "trend.csv"),
)
"""The files of a run as a whole. The log is appended to, and QuPath itself changes its project."""


class Digests(Spec):
    """The digests of the files of a whole run.

    Attributes:
        schema_: Version of this schema.
        files: SHA-256 by path in the folder.
    """

    schema_: Literal[1] = Field(1, alias="schema")
    files: dict[str, str] = Field(default_factory=dict)


def read_digests(folder: Path) -> dict[str, str]:
    """Return the listed digests by path in the folder; empty if there is no valid list.

    A path that leads out of the folder is left out: it could name a device without an end.
    """
    try:
        files = Digests.model_validate_json((folder / FILE).read_bytes()).files
    except (OSError, ValidationError):
        return {}
    return {name: digest for name, digest in files.items() if _is_inside(name)}


def write_digests(folder: Path, names: Iterable[str] | None = None) -> None:
    """Write the list of digests.

    Args:
        folder: The folder of results.
        names: The files that have changed, by path in the folder; the digests of the others are kept. All
            files if None.

    Raises:
        OSError: if a file cannot be read, or the list cannot be written.
    """
    changed = sorted(_listed(folder) if names is None else names)
    kept = {} if names is None else read_digests(folder)
    new = {name: file_sha256(folder / name) for name in changed if (folder / name).is_file()}
    files = {name: digest for name, digest in kept.items() if name not in changed} | new
    write_text(folder / FILE, Digests(files=dict(sorted(files.items()))).model_dump_json(indent=1) + "\n")


def remove_digests(folder: Path) -> None:
    """Remove the list while a run is at work: its files are in change."""
    (folder / FILE).unlink(missing_ok=True)


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\0" not in name


def _listed(folder: Path) -> list[str]:
    annotations = (path for path in (folder / "dicom").rglob("*.dcm") if not path.name.startswith("."))
    return [*WHOLE_RUN, *(path.relative_to(folder).as_posix() for path in annotations)]
