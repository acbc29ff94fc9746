"""Paired runs: several ways to do the same work, run alternately, and compared round by round."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter

import psutil

Way = Callable[[], float]
"""Does the work once and returns the seconds that it took."""


class VoidError(Exception):
    """The work was done differently, so that its time cannot be compared. The message says how."""


@dataclass(frozen=True)
class Comparison:
    """The seconds of each way in each round.

    Attributes:
        title: What was compared.
        work: Number of units of work that each run does, and the unit.
        reference: The way that the ratios refer to.
        seconds: Seconds by way, one per round.
        others: Share of the machine's CPUs that other processes used during each run, by way.
        void: Why ways are not comparable, by way.
        notes: What a reader must know, a sentence each.
    """

    title: str
    work: tuple[int, str]
    reference: str
    seconds: Mapping[str, list[float]]
    others: Mapping[str, list[float]] = field(default_factory=dict)
    void: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def ratios(self, way: str) -> list[float]:
        """Return the seconds of a way divided by those of the reference, one per round."""
        return [own / of for own, of in zip(self.seconds[way], self.seconds[self.reference], strict=True)]

    def rows(self) -> list[tuple[str, ...]]:
        """Return the rows: way, median seconds, time of one unit, median ratio, its range, others' share."""
        number, _ = self.work
        rows: list[tuple[str, ...]] = []
        for way, seconds in self.seconds.items():
            if way in self.void:
                rows.append((way, "void", self.void[way], "", "", ""))
                continue
            ratios, middle = self.ratios(way), median(seconds)
            spread = f"{min(ratios):.2f} to {max(ratios):.2f}" if len(ratios) > 1 else "one round"
            others = f"{median(self.others[way]):.0%}" if way in self.others else ""
            ratio = f"{median(ratios):.2f}"
            rows.append((way, f"{middle:.2f}", _time_text(middle / number), ratio, spread, others))
        return rows

    def table(self) -> str:
        """Return the comparison as Markdown."""
        number, unit = self.work
        rounds = len(self.seconds[self.reference])
        heading = ("way", "median, s", f"a {unit}", f"ratio to {self.reference}", "range", "others")
        lines = [f"{self.title}: {number:,} x {unit}, rounds: {rounds}", "", _line(heading)]
        lines += [_line(["---"] * len(heading)), *map(_line, self.rows())]
        return "\n".join([*lines, *("", *self.notes)] if self.notes else lines)


@dataclass(frozen=True)
class Curve:
    """One value per size, by way.

    Attributes:
        title: What was measured.
        sizes: Name of the sizes, for the x axis.
        unit: Name of the values, for the y axis.
        values: Values by size, by way.
        notes: What a reader must know, a sentence each.
    """

    title: str
    sizes: str
    unit: str
    values: Mapping[str, Mapping[int, float]]
    notes: tuple[str, ...] = ()

    def table(self) -> str:
        """Return the curve as Markdown."""
        sizes = sorted({size for values in self.values.values() for size in values})
        lines = [self.title, "", _line([self.sizes, *self.values]), _line(["---"] * (len(self.values) + 1))]
        for size in sizes:
            cells = [values.get(size) for values in self.values.values()]
            lines.append(_line([f"{size:,}", *("" if cell is None else f"{cell:.3g}" for cell in cells)]))
        return "\n".join([*lines, *("", *self.notes)] if self.notes else lines)


@dataclass(frozen=True)
class Facts:
    """Values that are compared with nothing.

    Attributes:
        title: What was measured.
        values: Value, with its unit, by name.
    """

    title: str
    values: Mapping[str, str]

    def table(self) -> str:
        """Return the values as Markdown."""
        rows = [_line(row) for row in self.values.items()]
        return "\n".join([self.title, "", _line(["", "value"]), _line(["---", "---"]), *rows])


Result = Comparison | Curve | Facts


def paired(
    title: str,
    ways: Mapping[str, Way],
    *,
    work: tuple[int, str],
    rounds: int,
    reference: str | None = None,
    before: Callable[[], object] = lambda: None,
    notes: tuple[str, ...] = (),
) -> Comparison:
    """Run all ways once per round, every second round in reverse order.

    A way that raises `VoidError` is not run again.

    Args:
        title: What is compared.
        ways: The ways, by name.
        work: Number of units of work that each run does, and the unit.
        rounds: Number of rounds.
        reference: The way that the ratios refer to; the first if None.
        before: Called before each run.
        notes: What a reader must know.

    Raises:
        VoidError: If the reference itself is void.
    """
    reference = reference or next(iter(ways))
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    others: dict[str, list[float]] = {way: [] for way in ways}
    void: dict[str, str] = {}
    for number in range(rounds):
        for way in list(ways) if number % 2 == 0 else list(ways)[::-1]:
            if way in void:
                continue
            before()
            account = Account()
            try:
                seconds[way].append(ways[way]())
                others[way].append(account.others())
                print(f"{way}: {seconds[way][-1]:.2f} s", file=sys.stderr, flush=True)
            except VoidError as error:
                if way == reference:
                    raise
                void[way] = str(error)
    return Comparison(title, work, reference, seconds, others, void, notes)


class Account:
    """Counts the CPU time that other processes use from now on."""

    def __init__(self) -> None:
        self._started, self._own, self._all = perf_counter(), _own_seconds(), _busy_seconds()

    def others(self) -> float:
        """Return their share of the machine's CPUs.

        Ray's processes are counted as others, because their starter does not wait for them.
        """
        busy = _busy_seconds() - self._all - (_own_seconds() - self._own)
        return max(0.0, busy / (perf_counter() - self._started) / (os.cpu_count() or 1))


def _own_seconds() -> float:
    """Return the CPU time of this process and of those that it has started and that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


def wait_for_quiet(most: float = 30, share: float = 0.15) -> None:
    """Wait until the CPUs are hardly used, but not longer than some seconds."""
    started = perf_counter()
    while perf_counter() - started < most and psutil.cpu_percent(interval=1) > 100 * share:
        pass


def write(result: Result, folder: Path, name: str) -> None:
    """Print a result, and write it as Markdown, as JSON and, where it has a shape, as a plot.

    Args:
        result: What was measured.
        folder: Where the files go.
        name: Their stem.
    """
    folder.mkdir(parents=True, exist_ok=True)
    print(f"\n{result.table()}", flush=True)
    (folder / f"{name}.md").write_text(result.table() + "\n")
    (folder / f"{name}.json").write_text(json.dumps(result.__dict__, indent=1) + "\n")
    if not isinstance(result, Facts):
        _plot(result, folder / f"{name}.png")


def _plot(result: Comparison | Curve, path: Path) -> None:
    from matplotlib.figure import Figure

    plot = Figure(figsize=(7, 4), layout="constrained")
    axes = plot.subplots()
    axes.set_title(result.title, fontsize=10)
    if isinstance(result, Curve):
        for way, values in result.values.items():
            axes.plot(list(values), list(values.values()), marker="o", label=way)
        axes.set(xscale="log", yscale="log", xlabel=result.sizes, ylabel=result.unit)
        axes.legend(fontsize=8)
    else:
        sound = [way for way in result.seconds if way not in result.void][::-1]
        middles = [median(result.ratios(way)) for way in sound]
        below = [median(result.ratios(way)) - min(result.ratios(way)) for way in sound]
        above = [max(result.ratios(way)) - median(result.ratios(way)) for way in sound]
        axes.barh(sound, middles, xerr=[below, above])
        axes.set_xlabel(f"time relative to {result.reference}, median and range")
    plot.savefig(path)


def _time_text(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def _line(cells: tuple[str, ...] | list[str]) -> str:
    return f"| {' | '.join(cells)} |"
