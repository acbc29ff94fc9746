from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families

from wsi_mitosis.errors import OutputError
from wsi_mitosis.io.results.metrics import STATUSES, RunMetrics, write_metrics
from wsi_mitosis.tables import Status

NIGHT = 1_790_000_000.0
METRICS = RunMetrics(
    slides={"done": 40, "failed": 2, "set_aside": 1},
    figures=1234,
    atypical=211,
    started=NIGHT,
    ended=NIGHT + 5400.5,
    last_success=NIGHT - 86_400.25,
    exit_status=1,
    free_bytes=12_345_678_901_234,
    version="1.2.3",
)


def samples(path: Path) -> dict[tuple[str, str], float]:
    """Values by metric and status, without the prefix; the label `pipeline` must be the file's name."""
    found = {}
    for family in text_string_to_metric_families(path.read_text(encoding="utf-8")):
        assert family.documentation.endswith(".")
        assert family.type == "gauge"
        for sample in family.samples:
            labels = dict(sample.labels)
            assert labels.pop("pipeline") == path.stem
            found[sample.name.removeprefix("wsi_mitosis_"), "".join(labels.values())] = sample.value
    return found


def test_every_number_is_read_back(tmp_path: Path) -> None:
    write_metrics(tmp_path / "breast.prom", METRICS)
    assert samples(tmp_path / "breast.prom") == {
        ("slides", "done"): 40,
        ("slides", "failed"): 2,
        ("slides", "set_aside"): 1,
        ("slides", "waiting"): 0,
        ("slides", "pending"): 0,
        ("slides", "no_detections"): 0,
        ("figures", ""): 1234,
        ("atypical_figures", ""): 211,
        ("run_duration_seconds", ""): 5400.5,
        ("run_start_timestamp_seconds", ""): NIGHT,
        ("run_end_timestamp_seconds", ""): NIGHT + 5400.5,
        ("last_success_timestamp_seconds", ""): NIGHT - 86_400.25,
        ("exit_status", ""): 1,
        ("output_free_bytes", ""): 12_345_678_901_234,
        ("info", "1.2.3"): 1,
    }


def test_every_status_of_a_slide_has_a_metric() -> None:
    assert set(get_args(Status)) <= set(STATUSES)


def test_the_last_success_is_absent_before_the_first_one(tmp_path: Path) -> None:
    write_metrics(tmp_path / "night.prom", replace(METRICS, last_success=None))
    assert ("last_success_timestamp_seconds", "") not in samples(tmp_path / "night.prom")


def test_a_file_replaces_the_last_one_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "night.prom"
    for free in (1, 2):
        write_metrics(path, replace(METRICS, free_bytes=free))
    assert samples(path)["output_free_bytes", ""] == 2
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_the_users_umask_decides_who_reads_the_file(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_metrics(tmp_path / "night.prom", METRICS)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "night.prom").stat().st_mode) == mode


def test_a_file_that_cannot_be_written_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(
        OutputError, match=r"gone/night\.prom: writing metrics: No such file .*\. Make the fold"
    ):
        write_metrics(tmp_path / "gone/night.prom", METRICS)


def test_a_name_that_no_collector_reads_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"end in \.prom\. Name the file night\.prom"):
        write_metrics(tmp_path / "night.txt", METRICS)
    assert list(tmp_path.iterdir()) == []


def test_the_names_are_those_that_prometheus_permits(tmp_path: Path) -> None:
    write_metrics(tmp_path / "night.prom", METRICS)
    for name, _ in samples(tmp_path / "night.prom"):
        assert re.fullmatch(r"[a-z][a-z_]*[a-z]", name)


def test_help_does_not_load_the_library() -> None:
    code = (
        "import sys; from wsi_mitosis.cli import main\n"
        "for command in ('classify', 'detect', 'run'):\n"
        "    main([command, '--help'], standalone_mode=False)\n"
        "print('prometheus_client' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
