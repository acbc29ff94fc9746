"""Names of slides in an output folder: short, distinct, and the same in every run."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from fnmatch import fnmatchcase
from itertools import count
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from wsi_mitosis.core.qupath import GEOJSON_ENDINGS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from wsi_mitosis.tables import SlideSource

COMPONENT_BYTES = 255
"""Longest file name of ext4, XFS, NFS, APFS and NTFS (NAME_MAX, limits.h(0p))."""
NAME_BYTES = COMPONENT_BYTES - max(map(len, GEOJSON_ENDINGS)) - len(".4194304-")
"""Longest name of a slide in the output folder, which the longest ending follows. The nine bytes
less are kept so that no name in use changes: a dot and the number of a process (at most 2^22, proc(5)) once
preceded it. `io.atomic` shortens the names of unfinished files by itself."""
_DIGEST_DIGITS = 12
_MOST_ENDING_BYTES = 16


def allot_names(
    sources: Sequence[SlideSource], earlier: Mapping[str, str], *, most_bytes: int | None = NAME_BYTES
) -> dict[SlideSource, str]:
    """Return the name of each slide in the output folder.

    The name is the slide's file name. Slides with the same file name keep their folders relative to the given
    root, and further folders if these do not suffice. A file name that is too long is shortened.

    Args:
        sources: The slides of this run.
        earlier: Names that exist in the folder, by the absolute path or the URL of their slides.
        most_bytes: Longest file name of a slide, bytes of UTF-8; None to shorten none.

    Returns:
        A distinct name, with forward slashes, for every source.
    """
    names = {source: name for source in sources if (name := _earlier_name(source, earlier)) is not None}
    taken = set(earlier.values())
    namesakes: dict[str, list[SlideSource]] = defaultdict(list)
    for source in sources:
        if source not in names:
            namesakes[source.path.name].append(source)
    for name, group in namesakes.items():
        plain = _fitted(name, most_bytes)
        if len(group) == 1 and plain not in taken:
            names[group[0]] = plain
        else:
            names.update(_with_folders(group, taken, most_bytes))
        taken.update(names[source] for source in group)
    return names


def fits(name: str, globs: Sequence[str]) -> bool:
    """Return whether the name of a slide, or its file name alone, fits one of several globs."""
    return any(fnmatchcase(name, g) or fnmatchcase(PurePosixPath(name).name, g) for g in globs)


def shortened(name: str, most_bytes: int = NAME_BYTES) -> str:
    """Return a file name that has at most `most_bytes` bytes of UTF-8.

    A longer name is cut after a character, and a digest of the whole name and the file's ending follow.
    """
    data = _bytes(name)
    if len(data) <= most_bytes:
        return name
    mark = f"~{hashlib.sha256(data).hexdigest()[:_DIGEST_DIGITS]}{_ending(name)}"
    return data[: most_bytes - len(_bytes(mark))].decode(errors="ignore") + mark


def _earlier_name(source: SlideSource, earlier: Mapping[str, str]) -> str | None:
    places = (source.place, *(str(path) for path, _ in source.aliases))
    return next((earlier[place] for place in places if place in earlier), None)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _ending(name: str) -> str:
    """`.svs`, `.ome.tif`; empty for a name without an ending."""
    stem, dot, ending = name.rpartition(".")
    if not dot or not stem or len(_bytes(ending)) > _MOST_ENDING_BYTES:
        return ""
    return f"{stem[-4:]}.{ending}" if stem.lower().endswith(".ome") else f".{ending}"


def _fitted(name: str, most_bytes: int | None) -> str:
    """A name whose folders and file name are short enough for a file system."""
    if most_bytes is None:
        return name
    *folders, file = name.split("/")
    fitted = (shortened(folder, COMPONENT_BYTES) for folder in folders)
    return "/".join([*fitted, shortened(file, most_bytes)])


def _with_folders(
    group: Sequence[SlideSource], taken: set[str], most_bytes: int | None
) -> dict[SlideSource, str]:
    """Names with the fewest folders that make them distinct, but at least those below the given root."""
    deepest = max(2, *(len(source.path.parts) - 1 for source in group))
    for depth in range(2, deepest + 1):
        names = {source: _fitted(_last_parts(source, depth), most_bytes) for source in group}
        if len(set(names.values())) == len(group) and taken.isdisjoint(names.values()):
            return names
    return _numbered(names, taken)


def _last_parts(source: SlideSource, depth: int) -> str:
    parts = source.path.parts[1:]
    return "/".join(parts[-max(depth, source.relative.count("/") + 1) :])


def _numbered(names: Mapping[SlideSource, str], taken: set[str]) -> dict[SlideSource, str]:
    """Whole paths that a number in front makes distinct, also from earlier names: `2/data/x.svs`."""
    free: dict[SlideSource, str] = {}
    used = set(taken)
    for source, name in names.items():
        numbered = (name if n == 1 else f"{n}/{name}" for n in count(1))
        free[source] = next(candidate for candidate in numbered if candidate not in used)
        used.add(free[source])
    return free
