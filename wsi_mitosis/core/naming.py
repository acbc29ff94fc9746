"""Names of slides in an output folder: short, told apart, and never changed once written."""

from __future__ import annotations

from collections import defaultdict
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from wsi_mitosis.tables import SlideSource


def allot_names(sources: Sequence[SlideSource], earlier: Mapping[str, str]) -> dict[SlideSource, str]:
    """Give each slide its name in the output folder.

    A slide is called by its file name; slides of the same file name keep their folders relative to the given
    root, and further folders where that is not enough.

    Args:
        sources: The slides of this run.
        earlier: Names that the folder holds already, by the absolute path of their slides.

    Returns:
        A distinct name, with forward slashes, for every source.
    """
    names = {s: earlier[str(s.path)] for s in sources if str(s.path) in earlier}
    taken = set(earlier.values())
    namesakes: dict[str, list[SlideSource]] = defaultdict(list)
    for source in sources:
        if source not in names:
            namesakes[source.path.name].append(source)
    for name, group in namesakes.items():
        if len(group) == 1 and name not in taken:
            names[group[0]] = name
        else:
            names.update(_with_folders(group, taken))
        taken.update(names[source] for source in group)
    return names


def _with_folders(group: Sequence[SlideSource], taken: set[str]) -> dict[SlideSource, str]:
    depth = max(min(len(s.relative.split("/")) for s in group), 1)
    while True:
        names = {s: "/".join([*s.path.parts[1:]][-max(depth, len(s.relative.split("/"))) :]) for s in group}
        whole = all(depth >= len(s.path.parts) - 1 for s in group)
        told_apart = len(set(names.values())) == len(group) and not taken & set(names.values())
        if told_apart and (whole or all("/" in name for name in names.values())):
            return names
        if whole:
            return _numbered(names, taken)
        depth += 1


def _numbered(names: Mapping[SlideSource, str], taken: set[str]) -> dict[SlideSource, str]:
    """Whole paths told apart from earlier names by a number in front: `2/data/x.svs`."""
    free = {source: name for source, name in names.items() if name not in taken}
    used = taken | set(free.values())
    for source, name in names.items():
        if source not in free:
            free[source] = next(f"{n}/{name}" for n in count(2) if f"{n}/{name}" not in used)
            used.add(free[source])
    return free
