"""Hotspots: the windows of a given physical area on a slide that hold the most mitotic figures.

Windows
    A window is half-open, [x, x + width) by [y, y + height), in level-0 px of the slide frame, and lies
    completely on the slide. A window can be moved to the right or down until a figure lies on its left or top
    edge, or until it meets the slide's edge or an earlier hotspot, without losing a figure. So some best
    window begins at a figure, at the last place where it fits, or just before an earlier hotspot, on either
    axis. The number of these places is finite, and all of them are tried.

Ties
    The most figures, then the most atypical ones among them, then the smallest y, then the smallest x of
    those places, then the orientation that was requested.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from wsi_mitosis.core.qupath import COORDINATE_DECIMALS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from wsi_mitosis.units import Mpp

_UM2_PER_MM2 = 1e6
_CELLS = 50_000
"""Counts in memory at once, 400 kB per array, which a core's cache can hold."""


@dataclass(frozen=True)
class HotspotShape:
    """The size of a hotspot.

    Attributes:
        area_mm2: Its area, > 0.
        aspect: The proportion of its sides. The window turned by 90 degrees is tried as well.
    """

    area_mm2: float
    aspect: tuple[float, float] = (4, 3)

    def sizes_px0(self, mpp: Mpp) -> tuple[tuple[float, float], ...]:
        """Return (width, height) in level-0 px of each orientation, the requested one first."""
        across, down = self.aspect
        long_um = math.sqrt(self.area_mm2 * _UM2_PER_MM2 * across / down)
        short_um = self.area_mm2 * _UM2_PER_MM2 / long_um
        sides_um = dict.fromkeys([(long_um, short_um), (short_um, long_um)])
        return tuple((width / mpp.x, height / mpp.y) for width, height in sides_um)


@dataclass(frozen=True)
class Hotspot:
    """A window and the counts of the figures in it.

    Attributes:
        x_px0, y_px0: Top-left corner, level-0 px, slide frame.
        width_px0, height_px0: Size, level-0 px.
        area_mm2: The same size.
        mitoses: Figures in it, atypical and typical.
        atypical: The atypical ones of them.
    """

    x_px0: float
    y_px0: float
    width_px0: float
    height_px0: float
    area_mm2: float
    mitoses: int
    atypical: int

    @property
    def mitoses_per_mm2(self) -> float:
        """Density. It should be shown together with the area."""
        return self.mitoses / self.area_mm2

    def holds(self, x_px0: NDArray[np.float64], y_px0: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which of N points lie in the window, (N,)."""
        return _inside(self.x_px0, x_px0, self.width_px0) & _inside(self.y_px0, y_px0, self.height_px0)


class HotspotSearch(NamedTuple):
    """The result of a search.

    Attributes:
        hotspots: The best first. They do not overlap, and each has at least one figure.
        reason: Why there is no hotspot; None if there is one.
    """

    hotspots: tuple[Hotspot, ...]
    reason: str | None


class _Window(NamedTuple):
    """A window that is tried; `value` is its rank (see `_weights`)."""

    value: int
    x: float
    y: float
    width: float
    height: float


class _Spans(NamedTuple):
    """For each of E objects, the half-open range of indices of the places at which a window meets it."""

    start: NDArray[np.intp]
    stop: NDArray[np.intp]


def find_hotspots(
    x_px0: NDArray[np.float64],
    y_px0: NDArray[np.float64],
    atypical: NDArray[np.bool_],
    shape: HotspotShape,
    *,
    size_px0: tuple[int, int],
    mpp: Mpp,
    number: int = 1,
) -> HotspotSearch:
    """Find the densest windows, exactly.

    The first is the best window of all. Each further one is the best of those that do not overlap the ones
    before it. A window is returned in the middle of the places at which it holds the same figures, so that
    figures lie on its edge only if that is unavoidable.

    Args:
        x_px0: (N,) figures' centres, level-0 px, slide frame, finite and on the slide.
        y_px0: (N,) likewise.
        atypical: (N,) whether the figure is atypical.
        shape: Area and proportion of the window.
        size_px0: (width, height) of level 0, px.
        mpp: um per level-0 px.
        number: Largest number of hotspots.
    """
    sizes = [
        size for size in shape.sizes_px0(mpp) if all(a <= b for a, b in zip(size, size_px0, strict=True))
    ]
    if not sizes:
        return HotspotSearch((), _too_small(shape, size_px0, mpp))
    if not len(x_px0):
        return HotspotSearch((), "there are no mitotic figures")
    weight = _weights(atypical)
    found: list[Hotspot] = []
    while len(found) < number:
        windows = [_best(x_px0, y_px0, weight, size, size_px0, found) for size in sizes]
        best = min(windows, key=lambda window: (-window.value, window.y, window.x))
        if best.value <= 0:
            break
        found.append(_hotspot(best, x_px0, y_px0, atypical, shape.area_mm2, found))
    return HotspotSearch(tuple(found), None)


def _too_small(shape: HotspotShape, size_px0: tuple[int, int], mpp: Mpp) -> str:
    width, height = shape.sizes_px0(mpp)[0]
    slide = f"{size_px0[0] * mpp.x / 1000:.2f} x {size_px0[1] * mpp.y / 1000:.2f} mm"
    window = f"{width * mpp.x / 1000:.2f} x {height * mpp.y / 1000:.2f} mm"
    return f"the slide, {slide}, is smaller than a hotspot of {shape.area_mm2:g} mm^2, {window}"


def _weights(atypical: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(N,) int64 whose sums rank windows by their figures, then by the atypical ones among them."""
    return (len(atypical) + 1) + atypical.astype(np.int64)


def _inside(start: float, values: NDArray[np.float64], size: float) -> NDArray[np.bool_]:
    return np.asarray((values >= start) & (values < start + size))


def _last_start(edge: float, size: float) -> float:
    """The last place from which `size` does not reach beyond `edge`, also after rounding."""
    start = edge - size
    while start + size > edge:
        start = math.nextafter(start, -math.inf)
    return start


def _places(
    values: NDArray[np.float64], size: float, room: float, earlier: Sequence[float]
) -> NDArray[np.float64]:
    """Sorted places on one axis at which a best window can begin.

    Args:
        values: (N,) the figures.
        size: Size of the window.
        room: Size of the slide.
        earlier: First px of the hotspots found so far.
    """
    last = _last_start(room, size)
    ends = [last, *(_last_start(edge, size) for edge in earlier)]
    places = np.unique(np.concatenate([values, ends]))
    return places[(places >= 0) & (places <= last)]


def _figure_spans(places: NDArray[np.float64], values: NDArray[np.float64], size: float) -> _Spans:
    """Places from which a window holds each figure: place <= value < place + size."""
    return _Spans(
        np.searchsorted(places + size, values, side="right"), np.searchsorted(places, values, side="right")
    )


def _hotspot_spans(
    places: NDArray[np.float64], size: float, starts: Sequence[float], sizes: Sequence[float]
) -> _Spans:
    """Places from which a window overlaps each earlier hotspot on this axis."""
    first = np.asarray(starts, dtype=np.float64)
    return _Spans(
        np.searchsorted(places + size, first, side="right"),
        np.searchsorted(places, first + np.asarray(sizes, dtype=np.float64), side="left"),
    )


def _joined(one: _Spans, other: _Spans) -> _Spans:
    return _Spans(np.concatenate([one.start, other.start]), np.concatenate([one.stop, other.stop]))


def _best(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    weight: NDArray[np.int64],
    size: tuple[float, float],
    room: tuple[int, int],
    found: Sequence[Hotspot],
) -> _Window:
    """The best window of one orientation that does not overlap `found`; its value is <= 0 if none exists.

    It sweeps over the places along y. A figure adds its weight to a range of places along x, and an earlier
    hotspot subtracts more than the weight of all figures.
    """
    (width, height), against = size, -int(weight.sum()) - 1
    across = _places(x, width, room[0], [spot.x_px0 for spot in found])
    down = _places(y, height, room[1], [spot.y_px0 for spot in found])
    along_x = _joined(
        _figure_spans(across, x, width),
        _hotspot_spans(across, width, [s.x_px0 for s in found], [s.width_px0 for s in found]),
    )
    along_y = _joined(
        _figure_spans(down, y, height),
        _hotspot_spans(down, height, [s.y_px0 for s in found], [s.height_px0 for s in found]),
    )
    weights = np.concatenate([weight, np.full(len(found), against, dtype=np.int64)])
    value, row = _best_row(along_x, along_y, weights, len(across))
    met = (along_y.start <= row) & (row < along_y.stop)
    column = int(np.argmax(_line(along_x, weights, met, len(across))))
    return _Window(value, float(across[column]), float(down[row]), width, height)


def _line(
    spans: _Spans, weights: NDArray[np.int64], met: NDArray[np.bool_], places: int
) -> NDArray[np.int64]:
    """(places,) the sum of the weights of the objects that the window meets at each place."""
    steps = np.zeros(places + 1, dtype=np.int64)
    np.add.at(steps, spans.start[met], weights[met])
    np.add.at(steps, spans.stop[met], -weights[met])
    return np.cumsum(steps)[:-1]


class _Events(NamedTuple):
    """Changes of a line of counts, in order: `delta` is added to the places [start, stop), at least one."""

    row: NDArray[np.intp]
    start: NDArray[np.intp]
    stop: NDArray[np.intp]
    delta: NDArray[np.int64]


def _events(along_x: _Spans, along_y: _Spans, weights: NDArray[np.int64]) -> _Events:
    """The changes in the sweep along y.

    Within a row, decreases come before increases, so that no count in between is higher than at its end.
    """
    real = np.flatnonzero((along_x.start < along_x.stop) & (along_y.start < along_y.stop))
    twice = np.concatenate([real, real])
    row = np.concatenate([along_y.start[real], along_y.stop[real]])
    delta = np.concatenate([weights[real], -weights[real]])
    order = np.lexsort((delta > 0, row))
    twice = twice[order]
    return _Events(row[order], along_x.start[twice], along_x.stop[twice], delta[order])


def _best_row(along_x: _Spans, along_y: _Spans, weights: NDArray[np.int64], places: int) -> tuple[int, int]:
    """The highest count that the sweep reaches at any place, and the first row at which it does.

    The line of N places is divided into blocks of about sqrt(N), so that an event changes parts of two
    blocks, and the blocks between them as a whole. The highest count of each block is computed for its own
    events first, and then that of the line for all events. This takes about sqrt(N) additions per event.
    """
    events = _events(along_x, along_y, weights)
    if not len(events.row):
        return 0, 0
    block = max(8, math.isqrt(places))
    first, last = events.start // block, (events.stop - 1) // block
    event, of, change = _block_changes(events, first, last, block)
    blocks = -(-places // block)
    step = max(1, _CELLS // (blocks + 1))
    state = np.zeros(blocks, dtype=np.int64)
    best, at = 0, 0
    for begin in range(0, len(events.row), step):
        end = min(begin + step, len(events.row))
        steps = np.zeros((end - begin, blocks + 1), dtype=np.int64)
        between = np.flatnonzero(first[begin:end] < last[begin:end])
        np.add.at(steps, (between, first[begin:end][between] + 1), events.delta[begin:end][between])
        np.add.at(steps, (between, last[begin:end][between]), -events.delta[begin:end][between])
        heights = np.cumsum(steps, axis=1)[:, :-1]
        mine = slice(*np.searchsorted(event, [begin, end]))
        heights[event[mine] - begin, of[mine]] += change[mine]
        heights[0] += state
        heights = np.cumsum(heights, axis=0)
        state = heights[-1]
        highest = heights.max(axis=1)
        if highest.max() > best:
            best, at = int(highest.max()), begin + int(highest.argmax())
    return best, int(events.row[at])


def _block_changes(
    events: _Events, first: NDArray[np.intp], last: NDArray[np.intp], block: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.int64]]:
    """The change of the highest count of the blocks that each event covers in part.

    Args:
        events: E events.
        first: (E,) block in which each begins.
        last: (E,) block in which each ends.
        block: Places in a block.

    Returns:
        For each such part, in the order of events: (K,) event, (K,) block, (K,) change.
    """
    two = np.flatnonzero(first < last)
    event = np.concatenate([np.arange(len(first)), two])
    of = np.concatenate([first, last[two]])
    start = np.concatenate([events.start - first * block, np.zeros(len(two), dtype=np.intp)])
    stop = np.concatenate([np.minimum(events.stop - first * block, block), (events.stop - last * block)[two]])
    order = np.lexsort((event, of))
    event, of, start, stop = event[order], of[order], start[order], stop[order]
    change = np.empty(len(event), dtype=np.int64)
    bounds = np.flatnonzero(np.diff(of, prepend=-1, append=-1))
    for begin, end in itertools.pairwise(bounds):
        mine = slice(begin, end)
        highest = _highest(start[mine], stop[mine], events.delta[event[mine]], block)
        change[mine] = np.diff(highest, prepend=0)
    order = np.argsort(event, kind="stable")
    return event[order], of[order], change[order]


def _highest(
    start: NDArray[np.intp], stop: NDArray[np.intp], delta: NDArray[np.int64], block: int
) -> NDArray[np.int64]:
    """(M,) the highest count of one block after each of M events, starting from zero."""
    state = np.zeros(block, dtype=np.int64)
    highest = np.empty(len(start), dtype=np.int64)
    step = max(1, _CELLS // (block + 1))
    for begin in range(0, len(start), step):
        part = slice(begin, begin + step)
        rows = np.arange(len(start[part]))
        steps = np.zeros((len(rows), block + 1), dtype=np.int64)
        steps[rows, start[part]] = delta[part]
        steps[rows, stop[part]] = -delta[part]
        counts = np.cumsum(steps, axis=1)[:, :-1]
        counts[0] += state
        counts = np.cumsum(counts, axis=0)
        state, highest[part] = counts[-1], counts.max(axis=1)
    return highest


def _hotspot(
    window: _Window,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    atypical: NDArray[np.bool_],
    area_mm2: float,
    found: Sequence[Hotspot],
) -> Hotspot:
    inside = _inside(window.x, x, window.width) & _inside(window.y, y, window.height)
    beside = [s for s in found if s.y_px0 < window.y + window.height and window.y < s.y_px0 + s.height_px0]
    left = _centred(window.x, window.width, x[inside], [s.x_px0 + s.width_px0 for s in beside])
    above = [s for s in found if s.x_px0 < left + window.width and left < s.x_px0 + s.width_px0]
    top = _centred(window.y, window.height, y[inside], [s.y_px0 + s.height_px0 for s in above])
    return Hotspot(
        left, top, window.width, window.height, area_mm2, int(inside.sum()), int(atypical[inside].sum())
    )


def _centred(start: float, size: float, values: NDArray[np.float64], ends: Sequence[float]) -> float:
    """The place halfway back to where the window would lose a figure, or meet an edge or an earlier hotspot.

    `start` is the last place that holds `values`. No place between holds another figure, because that window
    would be better. The place is rounded to 0.01 px, the precision of QuPath, if it stays in the range.

    Args:
        start: Where the window begins, px.
        size: Size of the window, px.
        values: The figures in it.
        ends: Where hotspots end that the window could meet.
    """
    least = max([0.0, float(values.max()) - size, *(end for end in ends if end <= start)])
    middle = (least + start) / 2
    rounded = round(middle, COORDINATE_DECIMALS)
    return rounded if least < rounded <= start else middle if least < middle else start
