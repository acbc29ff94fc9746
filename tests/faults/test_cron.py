"""The program as cron starts it: no home, no terminal, another locale, closed streams, no folder."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.runs import candidates_csv, slides_in, summary

NAMES = ("a.svs", "süd 1.svs")
PROGRAM = (sys.executable, "-m", "wsi_mitosis")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cron")
    slides_in(folder / "slides", NAMES)
    candidates_csv(folder / "dets.csv", NAMES)
    return folder


@pytest.fixture(scope="module")
def expected(inputs: Path, small_bundle: Path) -> dict[str, Any]:
    """The results of a run in a usual environment."""
    done = subprocess.run(
        command(inputs, inputs / "usual", small_bundle), capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    return results_of(inputs / "usual")


def command(inputs: Path, out: Path, bundle: Path, *more: str) -> list[str]:
    given = [str(inputs / "slides"), "--detections", str(inputs / "dets.csv"), "--model", str(bundle)]
    return [*PROGRAM, "classify", *given, "--out", str(out), "--workers", "0", "--device", "cpu", *more]


def results_of(out: Path) -> dict[str, Any]:
    """What does not tell of the run itself: the objects of the GeoJSON files, and the rows of the summary."""
    geojson = sorted((out / "geojson").glob("*.geojson"))
    objects = {path.name: json.loads(path.read_text(encoding="utf-8"))["features"] for path in geojson}
    rows = summary(out)
    for row in rows.values():
        del row["seconds"]
    assert len(objects) == len(rows) == len(NAMES)
    return {**objects, "summary": rows}


def bare_environment(**more: str) -> dict[str, str]:
    """What cron gives to a job (crontab(5)), and where the program lies."""
    return {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **more}


SURROUNDINGS: dict[str, dict[str, Any]] = {
    "no home, no terminal, C": {"env": bare_environment(LANG="C", LC_ALL="C")},
    "no locale at all": {"env": bare_environment()},
    "a home that does not exist": {"env": bare_environment(HOME="/nonexistent/home", LANG="C")},
    "a locale that does not exist": {"env": bare_environment(LANG="xx_XX.UTF-8", LC_ALL="xx_XX.UTF-8")},
    "a home that is a file": {"env": bare_environment(HOME="/etc/hostname")},
    "closed standard input": {"env": bare_environment(LANG="C"), "preexec_fn": lambda: os.close(0)},
    "all streams closed": {
        "env": bare_environment(LANG="C"),
        "preexec_fn": lambda: [os.close(number) for number in (0, 1, 2)],
    },
}


USUAL = ("no home, no terminal, C", "all streams closed")
CASES = [case if case in USUAL else pytest.param(case, marks=pytest.mark.faults) for case in SURROUNDINGS]


@pytest.mark.parametrize("case", CASES)
def test_results_are_the_same_in_any_surroundings(
    inputs: Path, expected: dict[str, Any], small_bundle: Path, tmp_path: Path, case: str
) -> None:
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "errors": "replace"}
    done = subprocess.run(
        command(inputs, tmp_path / "out", small_bundle), cwd="/", check=False, **streams, **SURROUNDINGS[case]
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert results_of(tmp_path / "out") == expected


def test_a_strict_umask_makes_private_results(
    inputs: Path, expected: dict[str, Any], small_bundle: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        command(inputs, tmp_path / "out", small_bundle),
        env=bare_environment(),
        cwd="/",
        umask=0o077,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert results_of(tmp_path / "out") == expected
    assert {stat.S_IMODE(p.stat().st_mode) & 0o077 for p in (tmp_path / "out").rglob("*")} == {0}


def started_in_a_removed_folder(folder: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    folder.mkdir()
    code = "import os, shutil, sys; shutil.rmtree(os.getcwd()); os.execv(sys.argv[1], sys.argv[1:])"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env=bare_environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_working_directory_that_is_gone_does_not_matter_for_absolute_paths(
    inputs: Path, expected: dict[str, Any], small_bundle: Path, tmp_path: Path
) -> None:
    done = started_in_a_removed_folder(tmp_path / "gone", command(inputs, tmp_path / "out", small_bundle))
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "gone").exists()
    assert results_of(tmp_path / "out") == expected


@pytest.mark.parametrize("relative", ["slides", "dets.csv", "out"])
def test_relative_paths_in_a_working_directory_that_is_gone_are_a_clear_error(
    inputs: Path, small_bundle: Path, tmp_path: Path, relative: str
) -> None:
    given = command(inputs, tmp_path / "out", small_bundle)
    paths = {"slides": inputs / "slides", "dets.csv": inputs / "dets.csv", "out": tmp_path / "out"}
    given = [relative if part == str(paths[relative]) else part for part in given]
    done = started_in_a_removed_folder(tmp_path / "gone", given)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "the working directory does not exist any more" in done.stderr
    assert f"error: {relative}" in done.stderr
    assert not (tmp_path / "gone").exists()


def test_json_on_standard_output_is_whole_in_a_c_locale(
    inputs: Path, small_bundle: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        command(inputs, tmp_path / "out", small_bundle, "--json"),
        env=bare_environment(LANG="C", LC_ALL="C"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["statuses"] == dict.fromkeys(sorted(NAMES), "done")


def test_the_program_leaves_nothing_beside_its_output(
    inputs: Path, small_bundle: Path, tmp_path: Path
) -> None:
    """Neither in the home, nor in the working directory, nor in the folder for temporary files.

    The user's cache keeps compiled networks for the next run.
    """
    places = {name: tmp_path / name for name in ("home", "here", "temporary")}
    for place in places.values():
        place.mkdir()
    before = sorted(inputs.rglob("*"))
    done = subprocess.run(
        command(inputs, tmp_path / "out", small_bundle),
        env=bare_environment(HOME=str(places["home"]), TMPDIR=str(places["temporary"])),
        cwd=places["here"],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shutil.rmtree(places["home"] / ".cache" / "wsi-mitosis", ignore_errors=True)
    (places["home"] / ".cache").rmdir()
    assert [list(place.rglob("*")) for place in places.values()] == [[], [], []]
    assert sorted(inputs.rglob("*")) == before
    shutil.rmtree(tmp_path / "out")
