"""Match the files of a folder to slides, by the files' names."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wsi_mitosis.core.likeness import nearly_alike
from wsi_mitosis.core.matching import NameIndex, file_names, misnamed
from wsi_mitosis.errors import DetectionsError, listed
from wsi_mitosis.io.detections.common import STAGE, fault
from wsi_mitosis.io.detections.formats import ENDINGS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from wsi_mitosis.tables import SlideSource

_SUFFIX = "_detections"
_ZARR = ("zarr.json", ".zgroup")
"""The file of a store's root: https://zarr-specs.readthedocs.io, version 3 and 2."""


@dataclass(frozen=True)
class FoundFiles:
    """The files of slides.

    Attributes:
        of_slide: The files of every slide that is not refused, sorted. A slide may have none, one or several.
        refused: The slides whose file also fits another slide, or may have another name.
        fitting: Every file that fits a slide, also a refused one.
    """

    of_slide: dict[SlideSource, list[Path]]
    refused: dict[SlideSource, DetectionsError]
    fitting: frozenset[Path]


@dataclass(frozen=True)
class _Named:
    """A file, and its name without the ending, with and without the suffix."""

    path: Path
    bases: tuple[str, ...]


def find_files(
    folder: Path, sources: Sequence[SlideSource], *, endings: Sequence[str] = ENDINGS
) -> FoundFiles:
    """Find each slide's files: named after the slide's file or its stem, with or without `_detections`.

    The files of a slide from a sub-folder are in the sub-folder of the same name, or else in `folder` itself.
    A name in another case, or with QuPath's series after it, counts if it fits no other slide.

    Args:
        folder: The folder given as `--detections`.
        sources: The slides of the run.
        endings: The endings of the files that count. An ending precedes those that it ends in.

    Raises:
        DetectionsError: if no file fits any of the slides, or the folder cannot be read.
    """
    listings: dict[Path, list[_Named]] = {}
    owners = _owners(folder, sources, endings, listings)
    if sources and not owners:
        raise _none_fits(folder, sources, endings, [file for files in listings.values() for file in files])
    found: dict[SlideSource, list[Path]] = {source: [] for source in sources}
    refused: dict[SlideSource, DetectionsError] = {}
    for path, slides in owners.items():
        for source in slides:
            found[source].append(path)
            if len(slides) > 1:
                refused.setdefault(source, _ambiguous(path, slides, source))
    strangers = [file for files in listings.values() for file in files if file.path not in owners]
    absent = [source for source, paths in found.items() if not paths]
    refused |= _perhaps_others(absent, strangers)
    of_slide = {source: sorted(paths) for source, paths in found.items() if source not in refused}
    return FoundFiles(of_slide, refused, frozenset(owners))


def only_file(paths: Sequence[Path], slide: str, stage: str = STAGE) -> Path:
    """Return the only file of a slide.

    Args:
        paths: The slide's files, at least one.
        slide: The slide, for the message.
        stage: What is being done, for the message.

    Raises:
        DetectionsError: if there are several.
    """
    if len(paths) > 1:
        raise DetectionsError(
            f"{len(paths)} files fit this slide: {listed(path.name for path in paths)}",
            subject=slide,
            stage=stage,
            remedy="Leave one of them in the folder",
        )
    return paths[0]


def _owners(
    folder: Path,
    sources: Sequence[SlideSource],
    endings: Sequence[str],
    listings: dict[Path, list[_Named]],
) -> dict[Path, list[SlideSource]]:
    """The slides that each file fits, in the slide's own sub-folder or else in `folder`."""
    groups: dict[Path, list[SlideSource]] = defaultdict(list)
    for source in sources:
        for place in _mirrored(folder, source):
            groups[place].append(source)
    owners: dict[Path, list[SlideSource]] = {}
    for place, group in groups.items():
        if place != folder:
            owners |= _fitting(_listing(place, endings, listings), group)
    served = {source for slides in owners.values() for source in slides}
    here = set(groups[folder])
    remaining = [source for source in sources if source in here or source not in served]
    return owners | _fitting(_listing(folder, endings, listings), remaining)


def _mirrored(folder: Path, source: SlideSource) -> list[Path]:
    relatives = (source.relative, *(relative for _, relative in source.aliases))
    return list(dict.fromkeys(folder.joinpath(*relative.split("/")[:-1]) for relative in relatives))


def _fitting(files: Iterable[_Named], sources: Sequence[SlideSource]) -> dict[Path, list[SlideSource]]:
    """The slides that each file fits best."""
    index = NameIndex(sources, file_names_only=True)
    owners = {}
    for file in files:
        fits = [fit for base in file.bases if (fit := index.fit(base)) is not None]
        if fits:
            best = min((fit.series is not None, fit.folded) for fit in fits)
            equal = (fit for fit in fits if (fit.series is not None, fit.folded) == best)
            owners[file.path] = list(dict.fromkeys(source for fit in equal for source in fit.sources))
    return owners


def _listing(folder: Path, endings: Sequence[str], listings: dict[Path, list[_Named]]) -> list[_Named]:
    """Files of a folder that have one of the endings."""
    if folder not in listings:
        listings[folder] = []
        for path in _entries(folder):
            base = _base(path.name, endings)
            if base is not None and path.is_file():
                plain = base[: -len(_SUFFIX)] if base.lower().endswith(_SUFFIX) else base
                bases = tuple(dict.fromkeys((base, plain)))
                listings[folder].append(_Named(path, bases))
    return listings[folder]


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise fault(error.strerror or str(error), folder, "Check the folder's permissions") from error


def _base(name: str, endings: Sequence[str]) -> str | None:
    """A file's name without its ending; None if the ending does not count, or the file is hidden."""
    ending = next((ending for ending in endings if name.lower().endswith(ending)), None)
    return name[: -len(ending)] if ending and not name.startswith(".") else None


def _ambiguous(path: Path, slides: Sequence[SlideSource], source: SlideSource) -> DetectionsError:
    return DetectionsError(
        f"the file '{path.name}' fits {len(slides)} of the slides: {listed(s.relative for s in slides)}",
        subject=source.relative,
        stage=STAGE,
        remedy="Name it after the slide's whole file name, or use the same sub-folders as the slides",
    )


def _perhaps_others(
    absent: Sequence[SlideSource], strangers: Sequence[_Named]
) -> dict[SlideSource, DetectionsError]:
    """Slides without a file, if a file that matches no slide has nearly the same name."""
    files = {base: file.path.name for file in strangers for base in file.bases}
    alike = nearly_alike({source: file_names(source) for source in absent}, files)
    remedy = "Rename the file if it is this slide's, or move it to another folder"
    return {
        source: misnamed(source, list(dict.fromkeys(files[base] for base in bases)), "file", remedy)
        for source, bases in alike.items()
    }


def _none_fits(
    folder: Path, sources: Sequence[SlideSource], endings: Sequence[str], files: Sequence[_Named]
) -> DetectionsError:
    names = sorted({file.path.name for file in files})
    if any((folder / name).is_file() for name in _ZARR):
        cause = "a Zarr store, such as one of SpatialData, which does not state where a slide is in it"
        return fault(cause, folder, "Write its points as a table with x and y in pixels at level 0, or in um")
    others = sorted(p.name for p in _entries(folder) if p.is_file() and not p.name.startswith("."))
    if names:
        found = f"the folder has {listed(names)}"
    elif others:
        found = f"the folder has {listed(others)}, of other endings than are read"
    else:
        found = "the folder has no files"
    slides = listed(source.relative for source in sources)
    plain = next(ending for ending in endings if not ending.endswith(".gz"))
    cause = f"no file is named after one of the slides {slides}; {found}"
    return fault(cause, folder, f"Name them <slide>{plain} or <slide>{_SUFFIX}{plain}")
