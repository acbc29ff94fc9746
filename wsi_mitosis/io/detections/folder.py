"""Which files of a folder hold the detections of which slides."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from wsi_mitosis.core.matching import file_names, normalised
from wsi_mitosis.errors import listed
from wsi_mitosis.io.detections.common import fault

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from wsi_mitosis.tables import SlideSource

ENDINGS = (
    *(".geojson.gz", ".json.gz"),  # before their own endings: the longest one that fits is cut off
    *(".csv", ".tsv", ".txt", ".json", ".geojson", ".parquet", ".db", ".sqlite"),
)
_SUFFIX = "_detections"


def find_files(
    folder: Path, sources: Sequence[SlideSource], *, endings: Sequence[str] = ENDINGS
) -> dict[SlideSource, list[Path]]:
    """Find each slide's files: called as the slide's file or its stem, with or without `_detections`.

    A slide from a sub-folder has its files in the sub-folder of the same name, or, if none are there, in
    `folder` itself.

    Args:
        folder: The folder given as `--detections`.
        sources: The slides of the run.
        endings: Of the files that count; of two that fit a name the longer one first.

    Returns:
        For every source its files, sorted: none, one, or more, which is for the caller to refuse.

    Raises:
        DetectionsError: if a file fits two of the slides, or no file fits any.
    """
    listings: dict[Path, dict[str, list[Path]]] = {}
    found = {source: _files_of(source, folder, listings, endings) for source in sources}
    _check_one_slide_each(found)
    if sources and not any(found.values()):
        files = sorted(
            {path.name for names in listings.values() for paths in names.values() for path in paths}
        )
        seen = f"there are {listed(files)}" if files else "it has no detections files"
        slides = listed(source.relative for source in sources)
        cause = f"no file is named after one of the slides {slides}; {seen}"
        plain = next(ending for ending in endings if not ending.endswith(".gz"))
        raise fault(cause, folder, f"Call them <slide>{plain} or <slide>{_SUFFIX}{plain}")
    return found


def _files_of(
    source: SlideSource, folder: Path, listings: dict[Path, dict[str, list[Path]]], endings: Sequence[str]
) -> list[Path]:
    mirrored = folder.joinpath(*source.relative.split("/")[:-1])
    names = file_names(source)
    for place in dict.fromkeys((mirrored, folder)):
        if place not in listings:
            listings[place] = _listing(place, endings)
        files = {path for name in names for path in listings[place].get(name, [])}
        if files:
            return sorted(files)
    return []


def _listing(folder: Path, endings: Sequence[str]) -> dict[str, list[Path]]:
    """Files of a folder by what they are named after, with and without the suffix."""
    listing = defaultdict(list)
    for path in _entries(folder):
        base = _base(path.name, endings)
        if base is None or not path.is_file():
            continue
        for name in {base, base.removesuffix(_SUFFIX)}:
            listing[normalised(name)].append(path)
    return listing


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise fault(error.strerror or str(error), folder, "Check the folder's permissions") from error


def _base(name: str, endings: Sequence[str]) -> str | None:
    """A file's name without its ending; None where the ending does not count."""
    ending = next((ending for ending in endings if name.lower().endswith(ending)), None)
    return name[: -len(ending)] if ending else None


def _check_one_slide_each(found: Mapping[SlideSource, Sequence[Path]]) -> None:
    owners = defaultdict(list)
    for source, paths in found.items():
        for path in paths:
            owners[path].append(source.relative)
    for path, slides in owners.items():
        if len(slides) > 1:
            cause = f"fits {len(slides)} of the slides: {listed(slides)}"
            raise fault(cause, path, "Call it by the slide's whole file name, or mirror the slides' folders")
