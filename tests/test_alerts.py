"""The alert rules fit Prometheus' schema, use only metrics that are written, and fire when they should.

`promtool` (Debian's package `prometheus`) runs the rules where it is installed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel, ConfigDict, Field

from wsi_mitosis.io.results.metrics import STATUSES, RunMetrics, write_metrics
from wsi_mitosis.io.shipped import shipped

RULES = shipped("pipelines") / "alerts.yml"
HOUR = 3600.0
NIGHT = RunMetrics(
    slides={"done": 40, "no_detections": 3},
    figures=1000,
    atypical=220,
    started=0.0,
    ended=1 * HOUR,
    last_success=1 * HOUR,
    exit_status=0,
    free_bytes=10**12,
)
"""A good night; Prometheus' tests begin at the time 0."""
Duration = Annotated[str, Field(pattern=r"^([0-9]+(ms|[smhdwy]))+$")]


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class AlertRule(Closed):
    """https://prometheus.io/docs/prometheus/latest/configuration/alerting_rules/"""

    alert: Annotated[str, Field(pattern=r"^WsiMitosis[A-Z]\w+$")]
    expr: str
    for_: Duration | None = Field(None, alias="for")
    keep_firing_for: Duration | None = None
    labels: dict[str, str]
    annotations: dict[str, str]


class Group(Closed):
    """https://prometheus.io/docs/prometheus/latest/configuration/recording_rules/#rule_group"""

    name: str
    interval: Duration | None = None
    limit: int | None = None
    query_offset: Duration | None = None
    labels: dict[str, str] = {}
    rules: list[AlertRule]


class RuleFile(Closed):
    groups: list[Group]


def rules() -> list[AlertRule]:
    file = RuleFile.model_validate(yaml.safe_load(RULES.read_text(encoding="utf-8")))
    return [rule for group in file.groups for rule in group.rules]


def series(folder: Path, metrics: RunMetrics) -> dict[str, float]:
    """The values that the program writes, by series as a node exporter on one machine exposes them."""
    path = folder / "night.prom"
    write_metrics(path, metrics)
    found = {}
    for family in text_string_to_metric_families(path.read_text(encoding="utf-8")):
        for sample in family.samples:
            labels = {"instance": "node", **sample.labels}
            text = ",".join(f'{name}="{value}"' for name, value in labels.items())
            found[f"{sample.name}{{{text}}}"] = sample.value
    return found


def test_the_file_fits_the_schema_and_each_alert_says_what_to_do() -> None:
    found = rules()
    assert len({rule.alert for rule in found}) == len(found) >= 6
    for rule in found:
        assert rule.labels["severity"] in {"critical", "warning"}
        assert set(rule.annotations) == {"summary", "description"}
        assert all(text.endswith(".") for text in rule.annotations.values()), rule.alert


def test_every_metric_and_status_in_an_expression_is_one_that_is_written(tmp_path: Path) -> None:
    written = {name.split("{")[0] for name in series(tmp_path, NIGHT)}
    for rule in rules():
        used = set(re.findall(r"\bwsi_mitosis_\w+", rule.expr))
        assert used, rule.alert
        assert used <= written, rule.alert
        for condition in re.findall(r'status=~?"([\w|]+)"', rule.expr):
            assert set(condition.split("|")) <= set(STATUSES), rule.alert


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed")
    return subprocess.run([program, *arguments], capture_output=True, text=True)


def test_promtool_accepts_the_rules() -> None:
    done = promtool("check", "rules", RULES)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("metrics", "at", "alerts"),
    [
        (NIGHT, "25h", set()),
        (NIGHT, "28h", {"WsiMitosisNoRun", "WsiMitosisNoSuccess"}),
        (None, "3h", {"WsiMitosisNoMetrics"}),
        (replace(NIGHT, last_success=None), "2h", {"WsiMitosisNoSuccess"}),
        (replace(NIGHT, ended=20 * HOUR), "28h", {"WsiMitosisNoSuccess", "WsiMitosisRunTooLong"}),
        (replace(NIGHT, slides={"done": 90, "failed": 10}), "2h", set()),
        (replace(NIGHT, slides={"done": 85, "failed": 15}), "2h", {"WsiMitosisManyFailed"}),
        (replace(NIGHT, slides={"failed": 1}), "2h", {"WsiMitosisManyFailed"}),
        (replace(NIGHT, slides={}, figures=0, atypical=0), "2h", set()),
        (replace(NIGHT, slides={"done": 9, "set_aside": 1}), "2h", {"WsiMitosisSlidesSetAside"}),
        (replace(NIGHT, slides={"waiting": 1}), "24h", set()),
        (
            replace(NIGHT, slides={"waiting": 1, "pending": 2}, ended=50 * HOUR, last_success=50 * HOUR),
            "51h",
            {"WsiMitosisSlidesWaiting", "WsiMitosisSlidesPending", "WsiMitosisRunTooLong"},
        ),
        (replace(NIGHT, atypical=100), "2h", {"WsiMitosisAtypicalShare"}),
        (replace(NIGHT, atypical=500), "2h", {"WsiMitosisAtypicalShare"}),
        (replace(NIGHT, figures=199, atypical=150), "2h", set()),
        (replace(NIGHT, free_bytes=19 * 10**9), "2h", {"WsiMitosisDiskNearlyFull"}),
    ],
)
def test_an_alert_fires_when_it_should_and_no_other(
    tmp_path: Path, metrics: RunMetrics | None, at: str, alerts: set[str]
) -> None:
    values = {} if metrics is None else series(tmp_path, metrics)
    firing = {rule.alert: rule for rule in rules()}
    test: dict[str, Any] = {
        "interval": "1m",
        "input_series": [{"series": name, "values": f"{value}x4000"} for name, value in values.items()],
        "promql_expr_test": [
            {
                "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": at,
                "exp_samples": [
                    {"labels": f'{{alertname="{name}"}}', "value": 1} for name in firing if name in alerts
                ],
            }
        ],
    }
    file = tmp_path / "test.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "tests": [test]}))
    done = promtool("test", "rules", file)
    assert done.returncode == 0, done.stdout + done.stderr
