"""From what the user typed to a list of slides."""

from __future__ import annotations

import csv
import glob
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_mitosis.errors import InputError
from wsi_mitosis.io.slides.dicom import DICOM_ENDING, is_annotations, series_uid
from wsi_mitosis.tables import SlideSource
from wsi_mitosis.units import MPP_RANGE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SLIDE_ENDINGS = (
    ".bif",
    ".czi",
    ".dcm",
    ".jp2",
    ".mrxs",
    ".ndpi",
    ".qptiff",
    ".scn",
    ".svs",
    ".svslide",
    ".tif",
    ".tiff",
    ".vms",
    ".vmu",
)
"""What counts as a slide: OpenSlide 4.0's formats (openslide.org/formats), and what TIAToolbox's WSIReader
adds in files (JPEG 2000, QPTIFF, OME-TIFF)."""
LIST_ENDINGS = (".csv", ".txt")
COMMENT = "# "
"""Begins a comment in a slide list; without the blank it may be a slide's name."""


@dataclass(frozen=True)
class FoundSlides:
    """The slides, in a stable order, and how many files were passed over as no slides."""

    sources: tuple[SlideSource, ...]
    skipped: int


@dataclass(frozen=True)
class _Given:
    """A file, and the folder that its relative path starts from: None for one that was named singly."""

    path: Path
    root: Path | None
    mpp: float | None = None
    in_hidden_folder: bool = False

    @property
    def is_slide(self) -> bool:
        """By its ending, unless it is hidden, was come upon in a hidden folder, or holds annotations."""
        hidden = self.path.name.startswith(".") or self.in_hidden_folder
        named_so = not hidden and self.path.suffix.lower() in SLIDE_ENDINGS
        return named_so and not is_annotations(self.path)


def find_slides(arguments: Sequence[str], *, recursive: bool = False) -> FoundSlides:
    """Expand files, folders, globs and slide lists.

    Args:
        arguments: What the user gave. A folder is searched in itself only.
        recursive: Search folders with all they contain.

    Returns:
        Each slide once. A DICOM series is one slide, called by its first file.

    Raises:
        InputError: where a path or a pattern leads to nothing, a list is malformed, or no slide is found.
    """
    given = [item for argument in arguments for item in _expand(argument, recursive=recursive)]
    slides = [item for item in given if item.is_slide]
    sources = _one_per_series(_one_per_file(_with_roots(slides)))
    if not sources:
        raise InputError(
            f"no slides found ({len(given)} other files)",
            subject=" ".join(arguments),
            stage="finding slides",
            remedy=f"Files ending in {', '.join(SLIDE_ENDINGS)} count; --recursive searches sub-folders",
        )
    return FoundSlides(tuple(sources), len(given) - len(slides))


def _expand(argument: str, *, recursive: bool) -> list[_Given]:
    path = Path(argument)
    if path.is_dir():
        inside = sorted(p for p in (path.rglob("*") if recursive else path.iterdir()) if p.is_file())
        return [_Given(p, path, in_hidden_folder=_hidden(p.parent.relative_to(path))) for p in inside]
    if path.is_file():
        return _read_list(path) if path.suffix.lower() in LIST_ENDINGS else [_Given(path, None)]
    if glob.has_magic(argument):
        return _expand_pattern(argument, recursive=recursive)
    raise InputError("no such file or folder", subject=argument, stage="finding slides")


def _expand_pattern(pattern: str, *, recursive: bool) -> list[_Given]:
    matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - pathlib has no absolute patterns
    if not matches:
        raise InputError("the pattern matches no file", subject=pattern, stage="finding slides")
    fixed = list(_before_magic(Path(pattern).parts))
    root = Path(*fixed) if fixed else Path()
    files = [_Given(Path(match), root) for match in matches if Path(match).is_file()]
    folders = [match for match in matches if Path(match).is_dir() and "**" not in pattern]
    return files + [item for folder in folders for item in _expand(folder, recursive=recursive)]


def _hidden(folder: Path) -> bool:
    return any(part.startswith(".") for part in folder.parts)


def _before_magic(parts: Iterable[str]) -> Iterable[str]:
    for part in parts:
        if glob.has_magic(part):
            return
        yield part


def _read_list(path: Path) -> list[_Given]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except ValueError as error:
        raise InputError(
            f"not UTF-8 text: {error}",
            subject=path,
            stage="reading the slide list",
            remedy="Save the list as UTF-8",
        ) from error
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith(COMMENT)]
    first = next(csv.reader(lines[:1]), [""])
    if "slide" in [cell.strip().lower() for cell in first]:
        header = [cell.strip().lower() for cell in first]
        rows = [dict(zip(header, row, strict=False)) for row in csv.reader(lines[1:])]
    elif path.suffix.lower() == ".txt":
        rows = [{"slide": line.strip()} for line in lines]
    else:
        raise InputError(
            f"a slide list has a header with 'slide', and perhaps 'mpp'; this one has {', '.join(first)}",
            subject=path,
            stage="reading the slide list",
            remedy="Candidates are given by --detections",
        )
    return [_listed(path, number, row) for number, row in enumerate(rows, start=1)]


def _listed(listing: Path, number: int, row: dict[str, str]) -> _Given:
    slide = listing.parent / row.get("slide", "").strip()
    if not slide.is_file():
        raise InputError(
            f"entry {number}: no such file: {slide}", subject=listing, stage="reading the slide list"
        )
    return _Given(slide, listing.parent, _listed_mpp(listing, number, row.get("mpp")))


def _listed_mpp(listing: Path, number: int, text: str | None) -> float | None:
    if text is None or not text.strip():
        return None
    low, high = MPP_RANGE
    try:
        mpp = float(text)
    except ValueError:
        mpp = float("nan")
    if not low <= mpp <= high:
        raise InputError(
            f"entry {number}: mpp '{text}' is no pixel size between {low:g} and {high:g} um/px",
            subject=listing,
            stage="reading the slide list",
        )
    return mpp


def _with_roots(items: Sequence[_Given]) -> list[SlideSource]:
    """Files named singly are told apart by their paths from the folder that they share."""
    alone = [item.path.absolute().parent for item in items if item.root is None]
    shared = Path(os.path.commonpath(alone)) if alone else Path()
    sources = []
    for item in items:
        path = Path(os.path.normpath(item.path.absolute()))
        root = Path(os.path.normpath((shared if item.root is None else item.root).absolute()))
        relative = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
        sources.append(SlideSource(path, relative, item.mpp))
    return sources


def _one_per_file(sources: Iterable[SlideSource]) -> list[SlideSource]:
    """The first mention counts, but an mpp from a list is kept whichever mention has it."""
    found: dict[Path, SlideSource] = {}
    for source in sources:
        real = source.path.resolve()
        if real in found and None not in (source.mpp, found[real].mpp) and source.mpp != found[real].mpp:
            raise InputError(
                f"listed with {found[real].mpp:g} and with {source.mpp:g} um/px",
                subject=source.path,
                stage="reading the slide list",
                remedy="Leave one of the two",
            )
        if real not in found or (found[real].mpp is None and source.mpp is not None):
            found[real] = source
    return list(found.values())


def _one_per_series(sources: Sequence[SlideSource]) -> list[SlideSource]:
    found: dict[object, SlideSource] = {}
    for source in sorted(sources, key=lambda s: (s.relative, str(s.path))):
        uid = series_uid(source.path) if source.path.suffix.lower() == DICOM_ENDING else None
        key = source.path if uid is None else (source.path.parent, uid)
        found.setdefault(key, source)
    return list(found.values())
