"""Find the slides that the user's arguments mean."""

from __future__ import annotations

import errno
import glob
import io
import math
import os
import stat
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from wsi_mitosis.errors import InputError, SlideError, listed
from wsi_mitosis.io.limits import MOST_SETTINGS_BYTES, LimitError, read_bytes
from wsi_mitosis.io.remote import RemoteError, ask, is_chained, is_url, shown_url, url_parts
from wsi_mitosis.io.slides.dicom import DICOM_ENDING, is_annotations, series_uid
from wsi_mitosis.io.text_tables import decode, detect_dialect, read_records
from wsi_mitosis.tables import Remote, SlideSource
from wsi_mitosis.units import MPP_RANGE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

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
"""Endings of slides: OpenSlide 4.0's formats (openslide.org/formats), and further formats of TIAToolbox's
WSIReader that are single files (JPEG 2000, QPTIFF, OME-TIFF)."""
SETS = (".mrxs", ".vms", ".vmu")
"""Formats whose file names further files in its folder, which belong to the slide."""
LIST_ENDINGS = (".csv", ".txt")
LIST_COLUMNS = ("slide", "mpp")
COMMENT = "# "
"""Start of a comment in a slide list. Without the blank it may be a slide's name."""
STAGE = "finding slides"
ASKING_THREADS = 8
"""Questions to stores at a time. Each takes some 0.1 s, and a night may have a thousand slides."""


@dataclass(frozen=True)
class FoundSlides:
    """The slides that were given.

    Attributes:
        sources: Every slide in a stable order, also those that cannot be used.
        skipped: Number of files that are not slides and were ignored.
        faults: The slides that must not be opened, each with an error message.
        notes: Notes for the user about the search.
    """

    sources: tuple[SlideSource, ...]
    skipped: int
    faults: Mapping[SlideSource, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def usable(self) -> tuple[SlideSource, ...]:
        """The slides without a fault."""
        return tuple(source for source in self.sources if source not in self.faults)


class _Fault(NamedTuple):
    """Why an entry cannot be used; `absent` if nothing exists at its path."""

    cause: str
    remedy: str
    absent: bool = False


@dataclass(frozen=True)
class _Given:
    """An entry, and the folder that its relative path starts from; None if it was given itself."""

    path: Path
    root: Path | None
    mpp: float | None = None
    in_hidden_folder: bool = False
    fault: _Fault | None = None
    remote: Remote | None = None

    @property
    def is_slide(self) -> bool:
        """Whether it has a slide's ending, is not hidden or in a hidden folder, and has no annotations."""
        if self.fault is not None or self.remote is not None:
            return True
        hidden = self.path.name.startswith(".") or self.in_hidden_folder
        return not hidden and _named_as_slide(self.path) and not is_annotations(self.path)


@dataclass
class _Search:
    """A search, and the folders that it could not read."""

    recursive: bool
    unreadable: list[str] = field(default_factory=list)


def find_slides(arguments: Sequence[str], *, recursive: bool = False, staged: bool = False) -> FoundSlides:
    """Expand files, folders, globs and slide lists; URLs are asked for size and version.

    Args:
        arguments: What the user gave. A folder is searched in itself only.
        recursive: Search folders with all they contain.
        staged: Whether slides are copied before they are opened, so that URLs may be given.

    Returns:
        Each slide once. A DICOM series is one slide with the name of its first file. An entry that has a
        slide's ending and cannot be one (a broken link, a named pipe, an empty file, a missing file of a
        list) is a slide with a fault.

    Raises:
        InputError: if nothing exists at an argument without a slide's ending, a pattern matches nothing, a
            list is malformed, none of the slides exists, or a URL is given and slides are not copied.
    """
    search = _Search(recursive)
    given = [item for argument in arguments for item in _expand(argument, search)]
    slides = [item for item in map(_checked, given) if item.is_slide]
    grouped = _one_per_series(_one_per_file(slides))
    if not grouped:
        raise InputError(
            f"no slides found ({len(given)} other files)",
            subject=arguments[0] if len(arguments) == 1 else listed(arguments),
            stage=STAGE,
            remedy=f"Files ending in {', '.join(SLIDE_ENDINGS)} count; --recursive searches sub-folders",
        )
    if any(source.remote is not None for source in grouped):
        grouped = _asked(grouped, staged=staged)
    faults = {source: fault for source, fault in grouped.items() if fault is not None}
    if len(faults) == len(grouped) and all(fault.absent for fault in faults.values()):
        raise _nothing_there(faults)
    return FoundSlides(
        tuple(grouped),
        len(given) - len(slides),
        {source: _message(source, fault) for source, fault in faults.items()},
        (f"folders that cannot be searched: {listed(search.unreadable)}",) if search.unreadable else (),
    )


def _message(source: SlideSource, fault: _Fault) -> str:
    return str(SlideError(fault.cause, subject=source.relative, stage=STAGE, remedy=fault.remedy))


def _nothing_there(faults: Mapping[SlideSource, _Fault]) -> InputError:
    """The error if none of the given slides exists."""
    (source, fault), more = next(iter(faults.items())), len(faults) - 1
    cause = f"{fault.cause} (the same applies to {more} more)" if more else fault.cause
    return InputError(cause, subject=source.place, stage=STAGE, remedy=fault.remedy)


def _expand(argument: str, search: _Search) -> list[_Given]:
    if is_url(argument):
        return [_at_url(argument)]
    path = Path(argument)
    mode = _mode(path)
    if stat.S_ISDIR(mode):
        return _folder(path, search)
    if stat.S_ISREG(mode) and path.suffix.lower() in LIST_ENDINGS:
        return _read_list(path)
    if mode or _mode(path, follow_links=False):
        return [_Given(path, None)]
    if glob.has_magic(argument):
        return _expand_pattern(argument, search)
    if _named_as_slide(path):
        return [_Given(path, None, fault=_fault(path))]
    raise InputError(
        "no such file or folder",
        subject=argument,
        stage=STAGE,
        remedy=f"Looked for {path.absolute()}. Correct the path, or mount its disk",
    )


def _expand_pattern(pattern: str, search: _Search) -> list[_Given]:
    matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - pathlib has no absolute patterns
    if not matches:
        remedy = f"Looked in {Path.cwd()}. Correct the pattern, or mount its disk"
        raise InputError("the pattern matches no file", subject=pattern, stage=STAGE, remedy=remedy)
    fixed = list(_before_magic(Path(pattern).parts))
    root = Path(*fixed) if fixed else Path()
    found = []
    for path in map(Path, matches):
        if not stat.S_ISDIR(_mode(path)):
            found.append(_Given(path, root))
        elif "**" not in pattern:
            found += _folder(path, search)
        elif _posing_as_slide(path):
            found.append(_Given(path, root, fault=_FOLDER))
    return found


def _folder(folder: Path, search: _Search) -> list[_Given]:
    """The entries of a folder, or the folder itself if it has a slide's ending and contains no slides."""
    if _posing_as_slide(folder):
        return [_Given(folder, None, fault=_FOLDER)]
    return list(_inside(folder, search))


def _inside(folder: Path, search: _Search) -> Iterator[_Given]:
    def unreadable(error: OSError) -> None:
        place = Path(error.filename or folder)
        if place == folder:
            raise InputError(error.strerror or str(error), subject=folder, stage=STAGE) from error
        if not _hidden(place.relative_to(folder)):
            search.unreadable.append(f"{place} ({error.strerror})")

    for place, folders, files in os.walk(folder, onerror=unreadable):
        hidden = _hidden(Path(place).relative_to(folder))
        for name in sorted(files):
            yield _Given(Path(place, name), folder, in_hidden_folder=hidden)
        for name in sorted(folders):
            if not hidden and not name.startswith(".") and _posing_as_slide(Path(place, name)):
                yield _Given(Path(place, name), folder, fault=_FOLDER)
        if not search.recursive:
            return


def _mode(path: Path, *, follow_links: bool = True) -> int:
    """The `st_mode` of a path; 0 if nothing readable exists there."""
    try:
        return path.stat(follow_symlinks=follow_links).st_mode
    except OSError:
        return 0


def is_regular(path: Path) -> bool:
    """Return whether a path leads to a regular file; no other kind can be opened without risk."""
    return stat.S_ISREG(_mode(path))


def _named_as_slide(path: Path) -> bool:
    return path.suffix.lower() in SLIDE_ENDINGS


def _posing_as_slide(folder: Path) -> bool:
    """Whether a folder has a slide's ending, and contains no slides."""
    if not _named_as_slide(folder):
        return False
    return not any(_named_as_slide(Path(file)) for _, _, files in os.walk(folder) for file in files)


def _hidden(folder: Path) -> bool:
    return any(part.startswith(".") for part in folder.parts)


def _before_magic(parts: Iterable[str]) -> Iterable[str]:
    for part in parts:
        if glob.has_magic(part):
            return
        yield part


# --- URLs


def _at_url(url: str) -> _Given:
    """The entry of a URL, whose path has its names; nothing exists there."""
    path = Path("/", *url_parts(url))
    return _Given(path, None, fault=_url_fault(url, path), remote=Remote(url, shown_url(url)))


def _url_fault(url: str, path: Path) -> _Fault | None:
    """Why a URL cannot be a slide, without asking its store."""
    ending = path.suffix.lower()
    if is_chained(url):
        return _Fault("a chained URL is not read", "Give the URL of the slide's own file")
    if ending in {*SETS, DICOM_ENDING}:
        return _Fault(
            f"a slide of several files ({ending}) is not read from a URL",
            "Copy it with all its files to a drive, and give it there; --stage copies it from a slow one",
        )
    if not _named_as_slide(path):
        return _Fault(
            "the URL does not end in the name of a slide's file; folders and patterns are not searched there",
            "List the URL of each slide in a .txt file, and give that",
        )
    return None


def _asked(grouped: Mapping[SlideSource, _Fault | None], *, staged: bool) -> dict[SlideSource, _Fault | None]:
    """The slides with what stores say of them. A store that does not answer is asked again when it is read.

    Raises:
        InputError: if slides are not copied, or a library is missing.
    """
    if not staged:
        first = next(source for source in grouped if source.remote is not None)
        raise InputError(
            "a slide at a URL is read from a copy on a local disk, and no folder for it is named",
            subject=first.place,
            stage=STAGE,
            remedy="Pass --stage with a folder on a local disk",
        )
    with ThreadPoolExecutor(ASKING_THREADS) as pool:
        return dict(pool.map(_answered, grouped, grouped.values()))


def _answered(source: SlideSource, fault: _Fault | None) -> tuple[SlideSource, _Fault | None]:
    if source.remote is None or fault is not None:
        return source, fault
    try:
        size, version = ask(source.remote.url)
    except RemoteError as error:
        if error.transient:
            return source, None
        return source, _Fault(error.cause, error.remedy, absent=error.absent)
    if size == 0:
        return source, _Fault("the file is empty", "Copy the slide again")
    return replace(source, remote=replace(source.remote, size=size, version=version)), None


# --- kinds of entries


OTHER_KIND_REMEDY = "Leave it out, or give the slide's own file"
_FOLDER = _Fault("a folder without slides, not a slide's file", "Leave it out, or copy the slide again")
_KINDS = (
    (stat.S_ISDIR, "a folder, not a slide's file"),
    (stat.S_ISFIFO, "a named pipe, not a file"),
    (stat.S_ISSOCK, "a socket, not a file"),
    (lambda mode: not stat.S_ISREG(mode), "a device, not a file"),
)


def other_kind(mode: int) -> str | None:
    """Return in words what an `st_mode` means; None for a regular file."""
    return next((cause for is_kind, cause in _KINDS if is_kind(mode)), None)


def _checked(item: _Given) -> _Given:
    """The entry with the fault of its file, if it has a slide's ending and is not hidden."""
    hidden = item.path.name.startswith(".") or item.in_hidden_folder
    if item.fault is not None or item.remote is not None or hidden or not _named_as_slide(item.path):
        return item
    return replace(item, fault=_fault(item.path))


def _fault(path: Path) -> _Fault | None:
    """Why a file cannot be a slide, without opening it."""
    if _escape_surrogates(str(path.absolute())) != str(path.absolute()):
        return _Fault("its path is not UTF-8", "Rename the file or the folder")
    try:
        state = path.stat()
    except OSError as error:
        return _unreachable(path, error)
    if (cause := other_kind(state.st_mode)) is not None:
        return _Fault(cause, OTHER_KIND_REMEDY)
    if state.st_size == 0:
        return _Fault("the file is empty", "Copy the slide again")
    if not os.access(path, os.R_OK):
        return _Fault("no permission to read the file", "Change its permissions")
    return None


def _unreachable(path: Path, error: OSError) -> _Fault:
    if error.errno == errno.ELOOP:
        return _Fault("a link that leads back to itself", "Make the link again")
    if error.errno in {errno.ENOENT, errno.ENOTDIR} and path.is_symlink():
        target = _escape_surrogates(str(path.readlink()))
        return _Fault(f"a broken link: there is no '{target}'", "Make the link again, or mount its target")
    if error.errno in {errno.ENOENT, errno.ENOTDIR}:
        return _missing(path)
    return _Fault(error.strerror or str(error), "Check the path and its permissions")


def _missing(path: Path) -> _Fault:
    place = _escape_surrogates(str(path.absolute().parent))
    return _Fault("no such file", f"Check the name and the folder, {place}", absent=True)


def _escape_surrogates(text: str) -> str:
    r"""A text that can be printed, in which bytes that are not UTF-8 are escapes such as `\xfc`."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


# --- lists


def _read_list(path: Path) -> list[_Given]:
    try:
        text = decode(read_bytes(path, MOST_SETTINGS_BYTES))
    except LimitError as error:
        raise _list_fault(str(error), path, error.remedy) from error
    except OSError as error:
        raise _list_fault(error.strerror or str(error), path) from error
    if text is None:
        raise _list_fault(
            "the file is not text in UTF-8, UTF-16 or Windows-1252", path, "Save the list as UTF-8"
        )
    rows = enumerate(_list_rows(text, path), start=1)
    return [_from_list(path, number, row) for number, row in rows]


def _list_fault(cause: str, path: Path, remedy: str | None = None) -> InputError:
    return InputError(cause, subject=path, stage="reading the slide list", remedy=remedy)


def _list_rows(text: str, path: Path) -> list[dict[str, str]]:
    """The cells of each entry by column, of a table or of a text file with a path per line."""
    lines = [line for line in _lines(text) if line.strip() and not line.startswith(COMMENT)]
    dialect, table = detect_dialect("".join(lines), lambda name: name.lower() in LIST_COLUMNS)
    header = [name.lower() for name in dialect.header]
    if "slide" in header:
        try:
            return [dict(zip(header, row, strict=False)) for row in read_records(table, dialect)]
        except ValueError as error:
            raise _list_fault(str(error), path) from error
    if path.suffix.lower() == ".txt":
        return [{"slide": line.strip()} for line in lines]
    raise _list_fault(
        f"a slide list has a header with 'slide', and optionally 'mpp'; this one has {listed(header)}",
        path,
        "Pass a table of candidates with --detections",
    )


def _lines(text: str) -> list[str]:
    """Lines with their ends: other line separators of Unicode may be part of a name."""
    return list(io.StringIO(text))


def _from_list(listing: Path, number: int, row: Mapping[str, str | None]) -> _Given:
    """An entry of a list, which is a slide with a fault if its file does not exist."""
    place, name = f"entry {number} of {listing.name}", (row.get("slide") or "").strip()
    if not name:
        fault = _Fault("the list's entry names no slide", "Complete the entry, or leave it out", absent=True)
        return _Given(listing.parent / place, listing.parent, fault=fault)
    given = _at_url(name) if is_url(name) else None
    if given is not None and given.fault is not None:
        return replace(given, fault=given.fault._replace(cause=f"{given.fault.cause} ({place})"))
    path = listing.parent / name.replace("\0", "\ufffd")  # a file's name cannot hold a zero byte
    if given is None and not stat.S_ISREG(_mode(path)) and (wrong := _fault(path)):
        return _Given(path, listing.parent, fault=wrong._replace(cause=f"{wrong.cause} ({place})"))
    mpp = _listed_mpp(row.get("mpp"))
    if math.isnan(mpp or 0):
        low, high = MPP_RANGE
        cause = f"{place}: mpp '{row.get('mpp')}' is not a pixel size between {low:g} and {high:g} um/px"
        remedy = "Write it with a decimal point, or leave the cell empty"
        return replace(given or _Given(path, listing.parent), fault=_Fault(cause, remedy))
    return replace(given or _Given(path, listing.parent), mpp=mpp)


def _listed_mpp(text: str | None) -> float | None:
    """A cell's um/px; None for an empty cell, NaN for one that is not a pixel size."""
    if text is None or not text.strip():
        return None
    low, high = MPP_RANGE
    try:
        mpp = float(text)
    except ValueError:
        return math.nan
    return mpp if low <= mpp <= high else math.nan


# --- all names of a slide


class _Mention(NamedTuple):
    """One way in which a slide was given.

    Attributes:
        file: Equal for two paths of one file.
        is_link: Whether the path is a link to the file.
    """

    path: Path
    relative: str
    mpp: float | None
    fault: _Fault | None
    file: object
    is_link: bool
    remote: Remote | None


_Mentions: TypeAlias = list[_Mention]


def _mentions(items: Sequence[_Given]) -> Iterator[_Mention]:
    """The mentions of all entries. Paths of files that were given themselves start at their common folder."""
    alone = [item.path.absolute().parent for item in items if item.root is None and item.remote is None]
    shared = Path(os.path.commonpath(alone)) if alone else Path()
    for item in items:
        path = Path(_escape_surrogates(os.path.normpath(item.path.absolute())))
        root = Path(
            _escape_surrogates(os.path.normpath((shared if item.root is None else item.root).absolute()))
        )
        relative = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
        yield _Mention(path, relative, item.mpp, item.fault, *_file_of(path), item.remote)


def _file_of(path: Path) -> tuple[object, bool]:
    """A value that is equal for two paths of one file, and whether the path is a link to it.

    Hard links of a file of SETS are different slides, because they may belong to different sets.
    """
    try:
        state = path.stat()
    except OSError:
        return path, False
    if not stat.S_ISREG(state.st_mode):
        return path, False
    real = path.resolve()
    is_linked = state.st_nlink > 1 and path.suffix.lower() not in SETS
    return (state.st_dev, state.st_ino) if is_linked else real, real != path


def _one_per_file(items: Sequence[_Given]) -> Iterable[_Mentions]:
    """The mentions of each file, also through links. The first one names the slide."""
    files: dict[object, _Mentions] = defaultdict(list)
    for mention in _mentions(items):
        files[mention.file].append(mention)
    for mentions in files.values():
        mentions.sort(key=lambda m: (m.is_link, str(m.path), -m.relative.count("/"), m.relative))
    return files.values()


def _one_per_series(files: Iterable[_Mentions]) -> dict[SlideSource, _Fault | None]:
    """Each slide with its fault, sorted by relative path."""
    slides: dict[object, _Mentions] = defaultdict(list)
    for mentions in sorted(files, key=lambda mentions: (mentions[0].relative, str(mentions[0].path))):
        path = mentions[0].path
        usable = (
            mentions[0].fault is None and mentions[0].remote is None and path.suffix.lower() == DICOM_ENDING
        )
        uid = series_uid(path) if usable else None
        slides[path if uid is None else (path.parent, uid)] += mentions
    return dict(map(_as_source, slides.values()))


def _as_source(mentions: _Mentions) -> tuple[SlideSource, _Fault | None]:
    """The slide that the first mention names, with the mpp of any mention."""
    first = mentions[0]
    sizes = sorted({mention.mpp for mention in mentions if mention.mpp is not None})
    fault = next((mention.fault for mention in mentions if mention.fault is not None), None)
    if len(sizes) > 1:
        given = " and with ".join(f"{size:g}" for size in sizes)
        fault = _Fault(f"listed with {given} um/px", "Leave one of them in the list")
    if len({mention.remote for mention in mentions}) > 1:
        fault = _Fault("two URLs differ only in what is not shown of them", "Leave one of them out")
    names = dict.fromkeys((mention.path, mention.relative) for mention in mentions)
    aliases = tuple(name for name in names if name != (first.path, first.relative))
    mpp = sizes[0] if sizes else None
    return SlideSource(first.path, first.relative, mpp, aliases, first.remote), fault
