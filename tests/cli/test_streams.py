"""Standard streams that are closed, full, cut off, or of another encoding: a run ends as it should."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.runs import slides_in, summary
from wsi_mitosis.cli.streams import json_text
from wsi_mitosis.errors import printable

NAME = "Präparat ł 切片.tiff"
PROGRAM = [sys.executable, "-m", "wsi_mitosis"]

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def run(tmp_path: Path, small_bundle: Path) -> Run:
    """Runs `classify` on one slide in a process of its own, through a shell that changes its streams."""
    slides_in(tmp_path / "slides", [NAME])
    (tmp_path / "d.csv").write_text(f"slide,x,y\n{NAME},100,100\n", encoding="utf-8")
    command = [*PROGRAM, "classify", "slides", "--detections", "d.csv", "--model", str(small_bundle)]
    command += ["--workers", "0", "--no-report", "--out", "out"]

    def run_it(redirections: str = "", *more: str, **environment: str) -> Any:
        return subprocess.run(
            ["bash", "-c", f'"$@" {redirections}', "bash", *command, *more],
            cwd=tmp_path,
            env=os.environ | environment,
            capture_output=True,
            check=False,
        )

    return run_it


def statuses(tmp_path: Path) -> list[str]:
    return [row["status"] for row in summary(tmp_path / "out").values()]


@pytest.mark.parametrize(
    "redirections",
    ["<&- >&- 2>&-", "2>&1 | true; exit ${PIPESTATUS[0]}", "2>/dev/full"],
    ids=["all closed", "nobody reads", "stderr on a full disk"],
)
def test_a_stream_that_nobody_can_write_to_does_not_end_a_run(
    run: Run, tmp_path: Path, redirections: str
) -> None:
    assert run(redirections).returncode == 0
    assert statuses(tmp_path) == ["done"]


def test_a_full_disk_under_stdout_is_an_error_and_no_traceback(run: Run, tmp_path: Path) -> None:
    ended = run(">/dev/full")
    assert ended.returncode == 2
    assert b"error: standard output: No space left on device." in ended.stderr
    assert b"Traceback" not in ended.stderr
    assert statuses(tmp_path) == ["done"]


def test_a_name_that_the_streams_cannot_encode_is_printed_escaped(run: Run) -> None:
    ended = run("2>&1", PYTHONIOENCODING="latin-1")
    assert ended.returncode == 0
    assert r"Präparat \u0142 \u5207\u7247.tiff".encode("latin-1") in ended.stdout


def test_json_is_json_in_every_encoding(run: Run) -> None:
    told = run("", "--json", PYTHONIOENCODING="latin-1").stdout
    assert json.loads(told.decode("latin-1"))["statuses"] == {NAME: "done"}


def test_a_locale_without_utf8_has_the_same_slides(run: Run, tmp_path: Path) -> None:
    ended = run("2>&1", LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    assert ended.returncode == 0, ended.stdout
    assert list(summary(tmp_path / "out")) == [NAME]


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("Präparat µ 切片 👍", "Präparat µ 切片 👍"),
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("a\r\nb\tc\x00\x7f\x9b", r"a\r\nb\tc\x00\x7f\x9b"),
        ("a\u202eb\u2028c\ufeff", r"a\u202eb\u2028c\ufeff"),
        (os.fsdecode(b"\xfc.svs"), r"\udcfc.svs"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text: str, escaped: str) -> None:
    assert printable(text) == escaped


def test_json_of_a_name_that_is_no_text_is_ascii() -> None:
    name = os.fsdecode(b"\xfc.svs")
    assert json.loads(json_text({name: "ü"})) == {name: "ü"}
    assert json_text({name: "ü"}).isascii()
    assert json_text("ü") == '"ü"'
