"""Announce the result of a run to other programs: metrics for Prometheus, and a command of the operator."""

from __future__ import annotations

import shutil
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_mitosis.io.notify import notify

if TYPE_CHECKING:
    from wsi_mitosis.jobs.batch import BatchResult
    from wsi_mitosis.jobs.ledger import Ledger
    from wsi_mitosis.specs import OutputOptions


def announce(output: OutputOptions, ledger: Ledger, result: BatchResult) -> None:
    """Write the metrics and run the command that were requested; a failure is entered in the ledger."""
    if output.metrics is not None:
        path = Path(output.metrics)
        ledger.write(path.name, lambda: _write_metrics(path, ledger, result))
    if output.notify is not None and (fault := notify(output.notify, result.as_data())) is not None:
        ledger.warn(fault)


def _write_metrics(path: Path, ledger: Ledger, result: BatchResult) -> None:
    from wsi_mitosis.io.results.metrics import RunMetrics, write_metrics  # prometheus_client takes time

    now = datetime.now(UTC).timestamp()
    done = [row for row in result.rows if result.statuses.get(row["slide"]) == "done"]
    last = result.last_success
    earlier = None if last is None else datetime.fromisoformat(last).timestamp()
    metrics = RunMetrics(
        slides=Counter(result.statuses.values()),
        figures=sum(row["classified"] or 0 for row in done),
        atypical=sum(row["atypical"] or 0 for row in done),
        started=ledger.started_at.timestamp(),
        ended=now,
        last_success=now if result.exit_status == 0 else earlier,
        exit_status=result.exit_status,
        free_bytes=shutil.disk_usage(result.folder).free,
    )
    write_metrics(path, metrics)
