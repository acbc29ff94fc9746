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
    """As many folders as tell the slides of one file name apart, and those below the given root at least."""
    deepest = max(2, *(len(source.path.parts) - 1 for source in group))
    for depth in range(2, deepest + 1):
        names = {source: _ending(source, depth) for source in group}
        if len(set(names.values())) == len(group) and taken.isdisjoint(names.values()):
            return names
    return _numbered(names, taken)


def _ending(source: SlideSource, depth: int) -> str:
    parts = source.path.parts[1:]
    return "/".join(parts[-max(depth, source.relative.count("/") + 1) :])


def _numbered(names: Mapping[SlideSource, str], taken: set[str]) -> dict[SlideSource, str]:
    """Whole paths told apart from earlier names by a number in front: `2/data/x.svs`."""
    free = {source: name for source, name in names.items() if name not in taken}
    used = taken | set(free.values())
    for source, name in names.items():
        if source not in free:
            free[source] = next(f"{n}/{name}" for n in count(2) if f"{n}/{name}" not in used)
            used.add(free[source])
    return free
