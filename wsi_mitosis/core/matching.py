"""Match the rows of a detections file to slides, by the names that they give."""

from __future__ import annotations

import contextlib
import re
import unicodedata
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple, cast
from urllib.parse import unquote

import numpy as np
import pandas as pd

from wsi_mitosis.core import qupath
from wsi_mitosis.core.likeness import nearly_alike
from wsi_mitosis.core.naming import shortened
from wsi_mitosis.errors import DetectionsError, listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from wsi_mitosis.tables import Detections, SlideSource

_STAGE = "matching detections to slides"
_BLANKS = " \t\r\n\f\v\u00a0\u200b\ufeff"
_SCHEME = re.compile(r"file:(//[^/\\]*)?(?=[/\\])", re.IGNORECASE)


@dataclass(frozen=True)
class SlideMatches:
    """The slides that names mean.

    Attributes:
        slides: The slide of each name that fits one.
        refused: The slides whose names also fit other slides, or whose names mean different images.
        contested: The names because of which slides are refused.
    """

    slides: dict[str, SlideSource]
    refused: dict[SlideSource, DetectionsError]
    contested: frozenset[str]


@dataclass(frozen=True)
class Split:
    """A file's detections, slide by slide.

    Attributes:
        parts: The detections of each slide that has a row, in the order of the sources. Rows are in file
            order, numbered from 0 within the slide.
        unmatched_rows: Number of rows that name no slide, or one that was not given.
        unmatched_names: The names that fit no given slide, in file order.
        refused: The slides whose rows are uncertain, or may have another name.
        refused_rows: Number of rows that name these slides.
        nameless_rows: Number of the unmatched rows that name no slide.
    """

    parts: dict[SlideSource, Detections]
    unmatched_rows: int
    unmatched_names: tuple[str, ...]
    refused: dict[SlideSource, DetectionsError] = field(default_factory=dict)
    refused_rows: int = 0
    nameless_rows: int = 0


class Fit(NamedTuple):
    """Slides that a name fits equally well.

    Attributes:
        whole: Whether the whole name was found, and not only its last parts.
        length: Number of its parts that were found.
        spelled: The parts that were found, as the name spells them.
        folded: Whether the name differs from the slide's in upper and lower case.
        series: What follows the file name in QuPath's name of an image; None if nothing does.
    """

    sources: tuple[SlideSource, ...]
    whole: bool
    length: int
    spelled: tuple[str, ...]
    folded: bool
    series: str | None

    @property
    def rank(self) -> tuple[bool, int]:
        """A better fit has a higher rank."""
        return self.whole, self.length


class NameIndex:
    """An index of slides by every name that they may have.

    Args:
        sources: The slides.
        file_names_only: Whether names are file names or stems, and not paths.
    """

    def __init__(self, sources: Sequence[SlideSource], *, file_names_only: bool = False) -> None:
        self._sources, self._file_names_only = sources, file_names_only
        self._tables: dict[tuple[bool, bool], Mapping[tuple[str, ...], Sequence[SlideSource]]] = {}

    def fit(self, name: str) -> Fit | None:
        """Return the slides that a name fits best; None if it fits no slide.

        The name is tried as it is, then without quotes and blanks, then in another case, and finally without
        the series that QuPath appends to a file name.
        """
        texts = _spellings(name)
        for folded in (False, True):
            for text in texts:
                if fit := self._find(text, folded=folded):
                    return fit
        for folded in (False, True):
            for text in texts:
                for file, series in qupath.files_and_series(text):
                    if fit := self._find(file, folded=folded, series=series):
                        return fit
        return None

    def _find(self, text: str, *, folded: bool, series: str | None = None) -> Fit | None:
        table = self._table(folded=folded, files_only=series is not None)
        spelled = (normalised(text),) if self._file_names_only else _parts(text)
        parts = tuple(map(_folded, spelled)) if folded else spelled
        if whole := table.get(("", *parts)):
            return Fit(tuple(whole), True, len(parts), spelled, folded, series)
        for start in range(len(parts)):
            if found := table.get(parts[start:]):
                return Fit(tuple(found), start == 0, len(parts) - start, spelled[start:], folded, series)
        return None

    def _table(self, *, folded: bool, files_only: bool) -> Mapping[tuple[str, ...], Sequence[SlideSource]]:
        """Slides by every end of their paths. The key of a whole path is `("", *parts)`."""
        kind = folded, files_only
        if kind not in self._tables:
            table: dict[tuple[str, ...], list[SlideSource]] = defaultdict(list)
            for source in self._sources:
                for key in self._keys(source, files_only=files_only):
                    sources = table[tuple(map(_folded, key)) if folded else key]
                    if not sources or sources[-1] is not source:
                        sources.append(source)
            self._tables[kind] = table
        return self._tables[kind]

    def _keys(self, source: SlideSource, *, files_only: bool) -> Iterator[tuple[str, ...]]:
        for path in _paths(source):
            *folders, file = _parts(path)
            names = (file,) if files_only else names_of(path)
            if self._file_names_only:
                yield from ((name,) for name in names)
                continue
            for name in dict.fromkeys((*names, file)):
                yield "", *folders, name
                yield from ((*folders[start:], name) for start in range(len(folders) + 1))


def file_names(source: SlideSource) -> tuple[str, ...]:
    """Return a slide's file name and its stems, then those of its aliases.

    The stems of `x.ome.tif` are `x.ome` and `x`.
    """
    paths = (source.relative, *(relative for _, relative in source.aliases))
    return tuple(dict.fromkeys(name for path in paths for name in names_of(path)))


def names_of(path: str) -> tuple[str, ...]:
    """Return a file's name and its stems, and those of its shortened name if it is too long."""
    name = path.rsplit("/", 1)[-1]
    return tuple(
        dict.fromkeys(stem for form in (name, shortened(name)) for stem in _with_stems(normalised(form)))
    )


def _with_stems(name: str) -> Iterator[str]:
    yield name
    stem, dot, _ = name.rpartition(".")
    if dot and stem:
        yield stem
    if stem.lower().endswith(".ome"):
        yield stem[: -len(".ome")]


def normalised(text: str) -> str:
    """Return composed Unicode, because macOS returns decomposed file names and tables hold composed ones."""
    return unicodedata.normalize("NFC", text)


def match_slides(names: Iterable[str], sources: Sequence[SlideSource]) -> SlideMatches:
    r"""Find the slide that each name means.

    A name is a path relative to the given folder, an absolute path, possibly of another computer
    (`C:\scans\a.svs`, `file:///C:/scans/a%20b.svs`), a file name or a stem. A name in another case, or with
    QuPath's series after it, means a slide if it fits no other. A whole relative or absolute path has
    precedence, then the longest end of the path that fits. A path of which only the end fits is ignored if
    another name fits that slide better, because it then means a slide of that name that was not given.

    Args:
        names: Slide names as the detections file has them.
        sources: The slides of the run.

    Returns:
        The slides. A slide is refused if a name fits it and others equally well, or if different paths,
        series or spellings fit it.
    """
    fits = _best_fits(names, NameIndex(sources))
    refused = _ambiguous(fits)
    slides = {name: fit.sources[0] for name, fit in fits.items() if len(fit.sources) == 1}
    refused = _rivals(slides, fits) | refused
    contested = frozenset(
        name for name, fit in fits.items() if len(fit.sources) > 1 or fit.sources[0] in refused
    )
    matched = {name: source for name, source in slides.items() if name not in contested}
    return SlideMatches(matched, {s: refused[s] for s in sources if s in refused}, contested)


def _best_fits(names: Iterable[str], index: NameIndex) -> dict[str, Fit]:
    """The fit of each name, except of paths whose end fits only slides that another name fits better."""
    fits = {name: fit for name in dict.fromkeys(names) if (fit := index.fit(name))}
    best: dict[SlideSource, tuple[bool, int]] = {}
    for fit in fits.values():
        for source in fit.sources:
            best[source] = max(fit.rank, best.get(source, fit.rank))
    return {
        name: fit for name, fit in fits.items() if fit.whole or any(best[s] <= fit.rank for s in fit.sources)
    }


def split_by_slide(detections: Detections, sources: Sequence[SlideSource]) -> Split:
    """Divide a file's rows among the slides that they name.

    If no row names a slide, all rows belong to the only slide.

    Args:
        detections: The whole file.
        sources: The slides of the run.

    Returns:
        The parts. A slide without a row has none, except an only slide whose file names no slide. A slide
        whose names are uncertain is refused, and the others are not.

    Raises:
        DetectionsError: if rows name no slide and there are several, if no row fits any of the slides, or if
            the only slide is refused.
    """
    codes, found = pd.factorize(detections.table["slide"])
    # The last entry is for code -1, a row without a name.
    names = [name if name.strip(_BLANKS) else None for name in map(str, found)] + [None]
    given = [name for name in names if name is not None]
    if not given:
        return Split(_of_only_slide(detections, sources), 0, ())
    matches = match_slides(given, sources)
    if not matches.slides and not matches.refused:
        raise _none_fits(given, sources)
    unmatched = tuple(name for name in given if name not in matches.slides and name not in matches.contested)
    places = {source: place for place, source in enumerate(sources)}
    row_places = np.array([_place(name, matches, places) for name in names], dtype=np.int64)[codes]
    parts = _parts_of(detections, row_places, sources)
    absent = [source for source in sources if source not in parts and source not in matches.refused]
    refused = matches.refused | _perhaps_others(absent, unmatched)
    if len(sources) == 1 and refused:
        raise refused[sources[0]]
    return Split(
        parts,
        unmatched_rows=int(((row_places == _UNMATCHED) | (row_places == _NAMELESS)).sum()),
        unmatched_names=unmatched,
        refused=refused,
        refused_rows=int((row_places == _REFUSED).sum()),
        nameless_rows=int((row_places == _NAMELESS).sum()),
    )


_UNMATCHED, _REFUSED, _NAMELESS = -1, -2, -3
"""Places of rows that belong to no slide."""


def _parts_of(
    detections: Detections, row_places: NDArray[np.int64], sources: Sequence[SlideSource]
) -> dict[SlideSource, Detections]:
    """The detections of each slide; `row_places` has the index of each row's slide, or less than 0."""
    table = detections.table
    classes = tuple(table["detector_class"].dropna().unique())
    placed = row_places >= 0
    return {
        sources[cast("int", place)]: replace(
            detections, table=rows.reset_index(drop=True), file_classes=classes
        )
        for place, rows in table[placed].groupby(row_places[placed])
    }


def _place(name: str | None, matches: SlideMatches, places: Mapping[SlideSource, int]) -> int:
    """The index of the slide that a name means, or one of the three places above."""
    if name is None:
        return _NAMELESS
    if name in matches.contested:
        return _REFUSED
    return places[matches.slides[name]] if name in matches.slides else _UNMATCHED


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


def _paths(source: SlideSource) -> Iterator[str]:
    for path, relative in ((source.path, source.relative), *source.aliases):
        yield str(path)
        yield relative


def _folded(text: str) -> str:
    return normalised(text.casefold())


def _spellings(name: str) -> tuple[str, ...]:
    """A name as it is, without blanks and quotes around it, and without the escapes of a URL."""
    bare = name.strip(_BLANKS)
    if len(bare) > 1 and bare[0] == bare[-1] and bare[0] in "\"'":
        bare = bare[1:-1].strip(_BLANKS)
    texts = [name, bare, _SCHEME.sub("", bare)]
    if "%" in bare:
        with contextlib.suppress(UnicodeDecodeError):  # not escaped UTF-8: the sign is part of the name
            texts.append(unquote(texts[-1], errors="strict"))
    return tuple(dict.fromkeys(texts))


def _ambiguous(fits: Mapping[str, Fit]) -> dict[SlideSource, DetectionsError]:
    """The slides of names that fit several slides equally well."""
    refused: dict[SlideSource, DetectionsError] = {}
    for name, fit in fits.items():
        for source in fit.sources if len(fit.sources) > 1 else ():
            refused.setdefault(source, _ambiguous_name(name, fit, source))
    return refused


def _ambiguous_name(name: str, fit: Fit, source: SlideSource) -> DetectionsError:
    slides = listed(other.relative for other in fit.sources)
    return DetectionsError(
        f"the name '{name}' fits {len(fit.sources)} of the slides: {slides}",
        subject=source.relative,
        stage=_STAGE,
        remedy="Name the slides in the table by their path relative to the given folder",
    )


def _rivals(
    matched: Mapping[str, SlideSource], fits: Mapping[str, Fit]
) -> dict[SlideSource, DetectionsError]:
    """Slides whose names mean different images: `case1/a.svs` and `case2/a.svs`, or two series of `a.svs`."""
    names: dict[SlideSource, list[str]] = defaultdict(list)
    for name, source in matched.items():
        names[source].append(name)
    refused = {}
    for source, all_names in names.items():
        if len(all_names) > 1 and (rivals := _different(all_names, fits)):
            refused[source] = DetectionsError(
                f"the names {listed(rivals)} all fit this slide, and may be different images",
                subject=source.relative,
                stage=_STAGE,
                remedy="Use one name for the slide in the table, and leave out the rows of other images. For "
                "slides with the same name, give the folder above, so that their paths differ",
            )
    return refused


def _different(names: Sequence[str], fits: Mapping[str, Fit]) -> list[str]:
    """One name for each image that a slide's names mean; empty if all may mean the same image."""
    folders = {_parts(name)[:-1]: name for name in reversed(names) if not fits[name].whole}
    if len(folders) > 1:
        return list(folders.values())[::-1]
    series = {_folded(fits[name].series or ""): name for name in reversed(names)}
    if len(series) > 1:
        return list(series.values())[::-1]
    return _other_cases(names, fits)


def _other_cases(names: Sequence[str], fits: Mapping[str, Fit]) -> list[str]:
    """Two names that differ in upper and lower case, which are two slides on another file system."""
    folded = (name for name in names if fits[name].folded)
    pairs = ([name, other] for name in folded for other in names)
    return next((pair for pair in pairs if not _spelled_alike(*(fits[name].spelled for name in pair))), [])


def _spelled_alike(ours: tuple[str, ...], theirs: tuple[str, ...]) -> bool:
    """Whether two ends of paths have the same letters, up to the length of the shorter one."""
    shared = min(len(ours), len(theirs))
    if ours[-shared:-1] != theirs[-shared:-1]:
        return False
    return ours[-1] in _with_stems(theirs[-1]) or theirs[-1] in _with_stems(ours[-1])


def _perhaps_others(
    absent: Sequence[SlideSource], names: Sequence[str]
) -> dict[SlideSource, DetectionsError]:
    """Slides without a row, if rows that match no slide have nearly the same name."""
    alike = nearly_alike({source: file_names(source) for source in absent}, names)
    remedy = "Correct the name in the table if it means this slide, or leave this slide out"
    return {source: misnamed(source, found, "row", remedy) for source, found in alike.items()}


def misnamed(source: SlideSource, names: Sequence[str], what: str, remedy: str) -> DetectionsError:
    """Return the error for a slide without rows or files, if others have nearly the same name.

    Args:
        source: The slide.
        names: The names that are nearly the same.
        what: What has these names: "row" or "file".
        remedy: What the user can do.
    """
    return DetectionsError(
        f"no {what} is named after this slide, but {listed(names)} is nearly the same and no other slide's",
        subject=source.relative,
        stage=_STAGE,
        remedy=remedy,
    )


def _none_fits(names: Iterable[str], sources: Sequence[SlideSource]) -> DetectionsError:
    return DetectionsError(
        f"no row fits a slide: the file names {listed(names)}, "
        f"the slides are {listed(source.relative for source in sources)}",
        stage=_STAGE,
        remedy="Name the slides by file name, stem or path in the column 'slide', or name that column "
        "with --columns slide=...",
    )
