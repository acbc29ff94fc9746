"""The metrics of a run as a text file for Prometheus.

The node exporter's textfile collector reads such files
(https://github.com/prometheus/node_exporter#textfile-collector). `pipelines/alerts.yml` has alerts on them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

from wsi_mitosis.errors import OutputError
from wsi_mitosis.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PREFIX = "wsi_mitosis_"
STATUSES = ("done", "failed", "set_aside", "waiting", "pending", "no_detections")
"""The statuses of slides. Each has a value, also if it is 0, so that an alert can rely on it."""
ENDING = ".prom"
"""The textfile collector reads no other files."""


@dataclass(frozen=True, kw_only=True)
class RunMetrics:
    """The numbers of one run.

    Attributes:
        slides: Number of slides of the run by status.
        figures: Classified figures on the run's done slides.
        atypical: Atypical figures among them.
        started: When the run started, s since 1970 (UTC).
        ended: When it ended, s since 1970 (UTC).
        last_success: When a run last ended with exit status 0, s since 1970 (UTC); None if none did.
        exit_status: Exit status of the run.
        free_bytes: Free space of the output folder's file system, bytes.
        version: Version of the program.
    """

    slides: Mapping[str, int]
    figures: int
    atypical: int
    started: float
    ended: float
    last_success: float | None
    exit_status: int
    free_bytes: int
    version: str = field(default=__version__)


def write_metrics(path: Path, metrics: RunMetrics) -> None:
    """Write the metrics of a run; the file appears whole or not at all.

    Every metric has the label `pipeline`: the file's name without its ending. It keeps the runs of several
    pipelines apart, whose files are in one folder. No name or path of a slide is written.

    Args:
        path: The file, in a folder that exists; its name ends in `.prom`.
        metrics: The numbers.

    Raises:
        OutputError: if the file cannot be written, or no collector would read it.
    """
    if path.suffix != ENDING:
        raise OutputError(
            f"the node exporter reads only files whose names end in {ENDING}",
            subject=path,
            stage="writing metrics",
            remedy=f"Name the file {path.stem}{ENDING}",
        )
    try:
        write_to_textfile(str(path), _registry(metrics, path.stem))
    except OSError as error:
        raise OutputError(
            str(error.strerror or error),
            subject=path,
            stage="writing metrics",
            remedy="Make the folder and permit this user to write to it",
        ) from error


def _registry(metrics: RunMetrics, pipeline: str) -> CollectorRegistry:
    registry = CollectorRegistry()
    gauge = _Gauges(registry, pipeline)
    for status in STATUSES:
        gauge.set("slides", "Slides of the last run by status.", metrics.slides.get(status, 0), status=status)
    gauge.set("figures", "Figures classified on the done slides of the last run.", metrics.figures)
    gauge.set("atypical_figures", "Atypical figures on the done slides of the last run.", metrics.atypical)
    gauge.set("run_duration_seconds", "Time that the last run took.", metrics.ended - metrics.started)
    gauge.set("run_start_timestamp_seconds", "When the last run started.", metrics.started)
    gauge.set("run_end_timestamp_seconds", "When the last run ended.", metrics.ended)
    if metrics.last_success is not None:
        gauge.set(
            "last_success_timestamp_seconds",
            "When a run last ended with exit status 0.",
            metrics.last_success,
        )
    gauge.set("exit_status", "Exit status of the last run.", metrics.exit_status)
    gauge.set("output_free_bytes", "Free space of the output folder's file system.", metrics.free_bytes)
    gauge.set("info", "The program that wrote these metrics.", 1, version=metrics.version)
    return registry


class _Gauges:
    """The gauges of one registry, by name."""

    def __init__(self, registry: CollectorRegistry, pipeline: str) -> None:
        self._registry, self._pipeline = registry, pipeline
        self._gauges: dict[str, Gauge] = {}

    def set(self, name: str, meaning: str, value: float, **labels: str) -> None:
        """Set the value of a gauge for one set of labels; the gauge is made at the first one."""
        labels = {"pipeline": self._pipeline, **labels}
        if name not in self._gauges:
            self._gauges[name] = Gauge(PREFIX + name, meaning, tuple(labels), registry=self._registry)
        self._gauges[name].labels(**labels).set(value)
