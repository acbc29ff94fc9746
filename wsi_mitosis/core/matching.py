"""Which rows of a detections file belong to which slide."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, cast

import pandas as pd

from wsi_mitosis.errors import DetectionsError, listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from wsi_mitosis.tables import Detections, SlideSource

_STAGE = "matching detections to slides"


@dataclass(frozen=True)
class Split:
    """A file's detections, slide by slide.

    Attributes:
        parts: The detections of each slide that has a row, in the order of the sources; rows in file order,
            numbered from 0 within the slide.
        unmatched_rows: How many rows name no slide, or one that was not given.
        unmatched_names: The names that fit no given slide, in file order.
    """

    parts: dict[SlideSource, Detections]
    unmatched_rows: int
    unmatched_names: tuple[str, ...]


class _Fit(NamedTuple):
    """Slides that a name fits equally well.

    Attributes:
        whole: Whether all of the name was found, and not only its last parts.
        length: How many of its parts were found.
    """

    sources: tuple[SlideSource, ...]
    whole: bool
    length: int

    @property
    def rank(self) -> tuple[bool, int]:
        """The higher, the better."""
        return self.whole, self.length


def file_names(source: SlideSource) -> tuple[str, ...]:
    """A slide's file name and its stems: of `x.ome.tif` also `x.ome` and `x`."""
    name = normalised(source.relative.rsplit("/", 1)[-1])
    names = [name]
    stem, dot, _ = name.rpartition(".")
    if dot and stem:
        names.append(stem)
    if stem.lower().endswith(".ome"):
        names.append(stem[: -len(".ome")])
    return tuple(names)


def normalised(text: str) -> str:
    """Composed Unicode: macOS hands out decomposed file names, tables hold composed ones."""
    return unicodedata.normalize("NFC", text)


def match_slides(names: Iterable[str], sources: Sequence[SlideSource]) -> dict[str, SlideSource]:
    r"""Find the slide that each name means.

    A name is a path relative to the given folder, an absolute path, perhaps of another computer
    (`C:\scans\a.svs`), a file name or a stem. The longest end of the path that fits decides, a whole
    relative or absolute path before all. A path of which only the end fits is set aside where another name
    fits that slide better: it then means a slide of that name which was not given.

    Args:
        names: Slide names as the detections file has them.
        sources: The slides of the run.

    Returns:
        The slide of each name that fits one.

    Raises:
        DetectionsError: if a name fits two slides equally well, or two different paths one slide.
    """
    index = _suffixes(sources)
    fits = {name: fit for name in dict.fromkeys(names) if (fit := _fit(_parts(name), index))}
    best: dict[SlideSource, tuple[bool, int]] = {}
    for fit in fits.values():
        for source in fit.sources:
            best[source] = max(fit.rank, best.get(source, fit.rank))
    matched: dict[str, SlideSource] = {}
    for name, fit in fits.items():
        if not fit.whole and all(best[source] > fit.rank for source in fit.sources):
            continue
        if len(fit.sources) > 1:
            raise _ambiguous(name, fit.sources)
        matched[name] = fit.sources[0]
    _check_rivals(matched, fits)
    return matched


def split_by_slide(detections: Detections, sources: Sequence[SlideSource]) -> Split:
    """Divide a file's rows among the slides that they name.

    Where no row names a slide, all of them belong to the only slide.

    Args:
        detections: The whole file.
        sources: The slides of the run.

    Returns:
        The parts; a slide without a row has none, but for an only slide whose file names no slide.

    Raises:
        DetectionsError: if rows name no slide and there are several, if no row fits any of the slides, or
            as `match_slides`.
    """
    table = detections.table
    classes = tuple(table["detector_class"].dropna().unique())
    codes, names = pd.factorize(table["slide"])
    if not len(names):
        return Split(_of_only_slide(detections, sources), 0, ())
    matched = match_slides(names, sources)
    if not matched:
        raise _none_fits(names, sources)
    places = {source: place for place, source in enumerate(sources)}
    # One more entry than there are names: the code of a row without a name is -1.
    place_of_name = [places[matched[name]] if name in matched else -1 for name in names]
    row_places = pd.Series([*place_of_name, -1], dtype="int64").to_numpy()[codes]
    return Split(
        parts={
            sources[cast("int", place)]: replace(
                detections, table=rows.reset_index(drop=True), file_classes=classes
            )
            for place, rows in table[row_places >= 0].groupby(row_places[row_places >= 0])
        },
        unmatched_rows=int((row_places < 0).sum()),
        unmatched_names=tuple(name for name in names if name not in matched),
    )


def _of_only_slide(detections: Detections, sources: Sequence[SlideSource]) -> dict[SlideSource, Detections]:
    if len(sources) == 1:
        return {sources[0]: detections}
    if detections.table.empty:
        return {}
    raise DetectionsError(
        f"the rows do not say which of the {len(sources)} slides they belong to",
        stage=_STAGE,
        remedy="Add a column 'slide', or give a folder with one file per slide, named after it",
    )


def _parts(path: str) -> tuple[str, ...]:
    parts = normalised(path).replace("\\", "/").split("/")
    return tuple(part for part in parts if part not in {"", "."})


def _suffixes(sources: Sequence[SlideSource]) -> dict[tuple[str, ...], list[SlideSource]]:
    """Slides by every end of their path, as it is and without the file name's ending.

    A whole relative path is under `("", *parts)`, so that it is told from the end of another one.
    """
    index: dict[tuple[str, ...], list[SlideSource]] = defaultdict(list)
    for source in sources:
        absolute, relative = _parts(str(source.path)), _parts(source.relative)
        keys = {("", *absolute), ("", *relative)}
        for parts in (absolute, relative):
            folders = parts[:-1]
            for name in (parts[-1], *file_names(source)):
                keys |= {(*folders[start:], name) for start in range(len(folders) + 1)}
        for key in keys:
            index[key].append(source)
    return index


def _fit(parts: tuple[str, ...], index: Mapping[tuple[str, ...], Sequence[SlideSource]]) -> _Fit | None:
    whole = index.get(("", *parts))
    if whole:
        return _Fit(tuple(whole), True, len(parts))
    for start in range(len(parts)):
        found = index.get(parts[start:])
        if found:
            return _Fit(tuple(found), start == 0, len(parts) - start)
    return None


def _check_rivals(matched: Mapping[str, SlideSource], fits: Mapping[str, _Fit]) -> None:
    """Refuse `case1/a.svs` and `case2/a.svs` for the one slide `a.svs`: they are two slides' rows."""
    folders: dict[SlideSource, dict[tuple[str, ...], str]] = defaultdict(dict)
    for name, source in matched.items():
        if not fits[name].whole:
            folders[source].setdefault(_parts(name)[:-1], name)
    for source, rivals in folders.items():
        if len(rivals) > 1:
            raise DetectionsError(
                f"the names {listed(rivals.values())} all fit the slide '{source.relative}'",
                stage=_STAGE,
                remedy="Give the folder above, so that the slides' paths tell them apart",
            )


def _ambiguous(name: str, sources: Sequence[SlideSource]) -> DetectionsError:
    return DetectionsError(
        f"the name '{name}' fits {len(sources)} of the slides: {listed(s.relative for s in sources)}",
        stage=_STAGE,
        remedy="Name the slides in the table by their path below the folder given",
    )


def _none_fits(names: Iterable[str], sources: Sequence[SlideSource]) -> DetectionsError:
    return DetectionsError(
        f"no row fits a slide: the file names {listed(names)}, "
        f"the slides are {listed(source.relative for source in sources)}",
        stage=_STAGE,
        remedy="Name the slides by file name, stem or path in the column 'slide', or name that column "
        "with --columns slide=...",
    )
