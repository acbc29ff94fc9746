"""The files of a slide: which they are, whether all of them are there, and whether they still change."""

from __future__ import annotations

import configparser
import hashlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from wsi_mitosis.errors import UnreadableSlideError
from wsi_mitosis.io.slides.dicom import DICOM_ENDING, series_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MRXS_ENDING = ".mrxs"
INDEX_ENDINGS = (".vms", ".vmu")
"""Formats whose file names the others. Source: openslide.org/formats/hamamatsu."""
INDEX_KEYS = ("imagefile", "mapfile")
"""Keys of such a file that name a part which OpenSlide needs; `ImageFile(1,0)` is one of them."""
MRXS_INDEX = "Slidedat.ini"
"""Names the parts of an MRXS slide. Source: openslide.org/formats/mirax."""


class FilesState(NamedTuple):
    """What the file system says of a slide's files.

    Attributes:
        digest: Of the names, sizes and times of modification of all parts; another one if a part changes.
        changed: Latest change of the content or the inode of a part, s since 1970.
    """

    digest: str
    changed: float


def slide_parts(path: Path) -> list[Path]:
    """Return every file that holds a part of the slide, sorted. Most formats have one.

    MRXS keeps its data in a folder of the same stem, VMS and VMU name their files in the slide's file, and a
    DICOM slide consists of all files of its series in the folder.
    """
    ending = path.suffix.lower()
    if ending == MRXS_ENDING:
        folder = path.with_suffix("")
        return [path, *sorted(part for part in folder.rglob("*") if part.is_file())]
    if ending in INDEX_ENDINGS:
        return [path, *sorted({part for _, part in _named_parts(path) if part.is_file()})]
    if ending == DICOM_ENDING:
        return series_files(path)
    return [path]


def missing_parts(path: Path) -> list[str]:
    """Return the names of the parts that the slide's own files name and that are not there.

    The files of a DICOM slide do not say how many they are.

    Raises:
        OSError: if the slide's file cannot be read.
    """
    ending = path.suffix.lower()
    if ending == MRXS_ENDING:
        index = path.with_suffix("") / MRXS_INDEX
        named = _mrxs_parts(index) if index.is_file() else [index]
    elif ending in INDEX_ENDINGS:
        named = [part for key, part in _named_parts(path) if key.startswith(INDEX_KEYS)]
    else:
        named = []
    return [str(part.relative_to(path.parent)) for part in named if not part.is_file()]


def files_state(path: Path) -> FilesState:
    """Return the state of a slide's files.

    Raises:
        OSError: if one of them is gone.
    """
    states = [(part.relative_to(path.parent), part.stat()) for part in slide_parts(path)]
    lines = [f"{part} {state.st_size} {state.st_mtime_ns}" for part, state in states]
    digest = hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()
    # the inode's time cannot be set, so that a copy that keeps the time of modification is seen too
    return FilesState(digest, max(max(state.st_mtime, state.st_ctime) for _, state in states))


@contextmanager
def unchanged(path: Path) -> Iterator[None]:
    """Check that a slide's files are the same at the end of the block as at its beginning.

    Raises:
        UnreadableSlideError: at the end, if a file has changed or is gone.
    """
    before = files_digest(path)
    yield
    check_unchanged(path, before)


def check_unchanged(path: Path, before: str | None) -> None:
    """Check that a slide's files are what they were.

    Args:
        path: The slide's file.
        before: `files_digest` of it from before.

    Raises:
        UnreadableSlideError: if a file has changed or is gone.
    """
    if (after := files_digest(path)) != before:
        cause = "its files were removed" if after is None else "its files changed"
        raise UnreadableSlideError(
            f"{cause} while they were read",
            subject=path.name,
            stage="reading patches",
            remedy="Run again when the slide is complete; with --settle-seconds, a run waits for that",
        )


def files_digest(path: Path) -> str | None:
    """Return the digest of the state of a slide's files; None if one of them is gone."""
    try:
        return files_state(path).digest
    except OSError:
        return None


def _mrxs_parts(index: Path) -> list[Path]:
    sections = _ini(index)
    files = dict(sections["DATAFILE"]) if "DATAFILE" in sections else {}
    names = [name for key, name in files.items() if key.startswith("file_") and key != "file_count"]
    names += [section["indexfile"] for section in sections.values() if "indexfile" in section]
    return [index.parent / name for name in names if _is_plain(name)]


def _named_parts(path: Path) -> Iterator[tuple[str, Path]]:
    """Yield the parts that a VMS or VMU file names, each with its key."""
    for section in _ini(path).values():
        for key, name in section.items():
            if _is_plain(name):
                yield key, path.parent / name


def _is_plain(name: str) -> bool:
    return bool(name) and "/" not in name and "\\" not in name


def _ini(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    try:
        parser.read_string(path.read_text(encoding="utf-8-sig", errors="replace"))
    except configparser.Error:
        return configparser.ConfigParser()  # opening the slide says what is wrong with it
    return parser
