"""The command line as scripts meet it: exit statuses, stdout, signals, light help."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from tests.runs import candidates_csv, files_in, slides_in, summary
from wsi_mitosis import __version__
from wsi_mitosis.cli import COMMANDS, main
from wsi_mitosis.core.parts import LEAST_CANDIDATES

HEAVY = ("torch", "ray", "pandas", "pyarrow", "openslide", "tiatoolbox", "numpy", "geopandas")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def printed_and_loaded(arguments: list[str], modules: Sequence[str]) -> tuple[str, list[str]]:
    """What a command prints in a process of its own, and which of the modules it imports."""
    code = (
        "import sys\nfrom wsi_mitosis.cli import main\n"
        f"try: main({arguments!r}, prog_name='wsi-mitosis')\nexcept SystemExit as end: assert not end.code\n"
        f"print('LOADED', *[m for m in {tuple(modules)!r} if m in sys.modules])"
    )
    text = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    *_, last = text.splitlines()
    return text, last.split()[1:]


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    assert printed_and_loaded(arguments, HEAVY)[1] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str) -> None:
    told = call(name, "--help")
    assert told.exit_code == 0
    assert "Example:" in told.output or name == "models"


def test_version() -> None:
    assert call("--version").output == f"wsi-mitosis, version {__version__}\n"


@pytest.fixture
def inputs(tmp_path: Path, small_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Arguments of a run over two slides."""
    monkeypatch.chdir(tmp_path)
    slides_in(tmp_path / "slides", ["a.tiff", "b.tiff"])
    candidates_csv(tmp_path / "d.csv", ["a.tiff", "b.tiff"])
    return ["classify", "slides", "--detections", "d.csv", "--model", small_bundle, "--workers", 0]


def test_classify_tells_what_it_did(inputs: list[object]) -> None:
    told = call(*inputs, "--out", "out")
    assert told.exit_code == 0, told.output
    assert "2 slides: 2 done" in told.stdout
    assert "labels mean nothing" in told.stdout
    assert "Research use only" in told.stdout
    assert set(summary(Path("out"))) == {"a.tiff", "b.tiff"}


def test_json_is_one_object_on_stdout(inputs: list[object]) -> None:
    told = call(*inputs, "--json")
    assert told.exit_code == 0
    result = json.loads(told.stdout)
    assert result["statuses"] == {"a.tiff": "done", "b.tiff": "done"}
    assert result["trained"] is False
    assert Path("wsi-mitosis-results/summary.csv").exists()


def test_quiet_says_nothing_of_a_good_run(inputs: list[object]) -> None:
    told = call(*inputs, "-q")
    assert (told.exit_code, told.output) == (0, "")


def test_a_failed_slide_is_exit_status_1(inputs: list[object]) -> None:
    Path("slides/b.tiff").write_bytes(b"broken")
    told = call(*inputs)
    assert told.exit_code == 1
    assert "b.tiff" in told.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["classify", "nowhere", "--detections", "d.csv"], "no such file or folder"),
        (["classify", "slides", "--detections", "nowhere.csv"], "no such file or folder"),
        (["classify", "slides", "--detections", "d.csv", "--model", "nobody"], "untrained-tiny"),
        (["classify", "slides", "--detections", "d.csv", "--mpp", "99"], "mpp"),
        (
            ["classify", "slides", "--detections", "d.csv", "--columns", "z=A"],
            "not a column of a detections table",
        ),
        (["classify", "slides", "--detections", "d.csv", "--workers", "many"], "neither 'auto' nor a number"),
        (["run", "no-such-pipeline"], "smoke"),
        (["frobnicate"], "No such command"),
    ],
)
def test_unusable_input_is_exit_status_2(inputs: list[object], arguments: list[str], told: str) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    assert told in result.stderr


def test_columns_can_be_named(inputs: list[object]) -> None:
    Path("odd.csv").write_text("which;left;down\na.tiff;100,5;20\nb.tiff;5;6\n")
    told = call(*inputs, "--detections", "odd.csv", "--columns", "slide=which,x=left,y=down", "--json")
    assert told.exit_code == 0, told.stderr
    assert [row["classified"] for row in json.loads(told.stdout)["summary"]] == [1, 1]


@pytest.mark.parametrize(
    ("given", "columns"),
    [
        ("x=A,y=B,slide=C", {"x": "A", "y": "B", "slide": "C"}),
        (" x = A , y = B ", {"x": "A", "y": "B"}),
        ("x=Position X, px,y=Position Y, px", {"x": "Position X, px", "y": "Position Y, px"}),
        ("x=X (t=0),y=Y (t=0)", {"x": "X (t=0)", "y": "Y (t=0)"}),
        ('x="X, y=0",y="Y, x=0"', {"x": "X, y=0", "y": "Y, x=0"}),
        ("x=X=1,y==", {"x": "X=1", "y": "="}),
        ("x=A,y", {"x": "A,y"}),
    ],
)
def test_a_column_may_have_commas_and_equals_signs(given: str, columns: dict[str, str]) -> None:
    command = main.get_command(click.Context(main), "classify")
    assert command is not None
    parsed = command.make_context("classify", ["a.svs", "--detections", "d.csv", "--columns", given])
    assert parsed.params["columns"] == columns


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ("x=A, t=0,y=B", "'t' is not a column of a detections table"),
        ("x", "'x' is not of the form x=A,y=B"),
        ("x=,y=B", "name for 'x' is missing"),
        ("x=A,x=B", "'x' is named twice"),
        ("x=A,y=A", "'A' is named for two of ours"),
    ],
)
def test_columns_that_are_no_pairs_are_refused(columns: str, told: str) -> None:
    result = call("classify", "a.svs", "--detections", "d.csv", "--columns", columns)
    assert result.exit_code == 2
    assert told in " ".join(result.stderr.split())


@pytest.mark.parametrize("option", ["--model", "--detections", "--out", "--regions"])
def test_an_empty_value_is_not_the_default(inputs: list[object], option: str) -> None:
    """`--model "$MODEL"` of a shell that has no such variable."""
    told = call(*inputs, option, "")
    assert told.exit_code == 2
    assert "the value is empty" in told.stderr


def test_the_end_names_the_files_that_exist(inputs: list[object]) -> None:
    Path("slides/a.tiff").write_bytes(b"broken")
    Path("slides/b.tiff").write_bytes(b"broken")
    told = call(*inputs, "--out", "out", "--no-report")
    assert told.exit_code == 1
    assert told.output.count("a.tiff: ") == 1
    assert "Failed: 'a.tiff', 'b.tiff'. out/log.jsonl gives each reason." in told.stdout
    assert "Results in out (summary.csv, review.csv)." in told.stdout


def test_what_the_machine_refuses_is_an_error_and_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files", "/slides/a.svs")

    monkeypatch.setattr("wsi_mitosis.io.bundles.open_bundle", refuse)
    told = call("models", "show")
    assert told.exit_code == 2
    assert "error: /slides/a.svs: Too many open files." in told.stderr


def test_a_pipeline_does_what_the_options_do(inputs: list[object], small_bundle: Path) -> None:
    call(*inputs, "--out", "by-options", "--qupath-project")
    Path("pipeline.toml").write_text(
        f'model = "{small_bundle}"\n[input]\nslides = ["slides"]\ndetections = "d.csv"\n'
        '[output]\nfolder = "by-file"\nqupath_project = true\n[placement]\nworkers = 0\n'
    )
    told = call("run", Path("pipeline.toml").absolute())
    assert told.exit_code == 0, told.output
    drawn = [files_in(Path(folder)) for folder in ("by-file", "by-options")]
    for name in ("geojson/a.tiff.geojson", "geojson/b.tiff.geojson"):
        assert drawn[0][name] == drawn[1][name]
    for folder in ("by-file", "by-options"):
        assert Path(folder, "qupath/project.qpproj").is_file()


def test_an_unknown_key_in_a_pipeline_is_refused_by_name(inputs: list[object]) -> None:
    Path("p.toml").write_text('[input]\nslides = ["slides"]\ndetections = "d.csv"\nmin_scoer = 1\n')
    told = call("run", "p.toml")
    assert told.exit_code == 2
    assert "unknown key 'min_scoer' in [input] (did you mean 'min_score' in [result]?)" in told.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_run_with_130_and_what_is_done_stays(inputs: list[object], number: int) -> None:
    """The second slide is many times larger: the signal comes while it is at work."""
    rows = [f"b.tiff,{x},{y}" for x in range(5, 595, 6) for y in range(5, 495, 2)]
    Path("d.csv").write_text("\n".join(["slide,x,y", "a.tiff,10,10", *rows]) + "\n")
    first = [*map(str, inputs), "--out", "out", "-q"]
    assert call(*first[:1], "slides/a.tiff", *first[2:]).exit_code == 0
    # a job that a shell has put in the background ignores SIGINT, and so would its children
    heed = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen([sys.executable, "-m", "wsi_mitosis", *first], preexec_fn=heed)
    while Path("out/log.jsonl").read_text().count('"event": "start"') < 2:
        assert process.poll() is None
    os.kill(process.pid, number)
    assert process.wait(timeout=120) == 130
    rows_by_slide = summary(Path("out"))
    assert rows_by_slide["a.tiff"]["status"] == "done"
    assert rows_by_slide["b.tiff"]["status"] == "pending"


def test_a_scheduler_ends_a_run_over_ray_with_130(inputs: list[object]) -> None:
    """Ray puts a SIGTERM handler of its own in place, which would end the run without a word.

    Its session folder is the user's alone, and does not stay.
    """
    temporary = Path(tempfile.mkdtemp(prefix="t-", dir="/tmp"))  # short enough for sockets
    rows = [f"b.tiff,{x},{y}" for x in range(5, 595, 6) for y in range(5, 495, 7)]
    assert len(rows) < 2 * LEAST_CANDIDATES, "its parts would come before the small slide"
    Path("d.csv").write_text("\n".join(["slide,x,y", "a.tiff,10,10", *rows]) + "\n")
    command = [*map(str, inputs[:-1]), "2", "--cpus-per-worker", "1", "--out", "out", "-q"]
    environment = os.environ | {"RAY_TMPDIR": str(temporary)}
    process = subprocess.Popen([sys.executable, "-m", "wsi_mitosis", *command], env=environment)
    log = Path("out/log.jsonl")
    while not log.exists() or '"event": "done"' not in log.read_text():
        assert process.poll() is None
        time.sleep(0.2)
    assert [stat.S_IMODE(session.stat().st_mode) for session in temporary.iterdir()] == [0o700]
    process.terminate()
    assert process.wait(timeout=120) == 130
    temporary.rmdir()  # fails if anything is left in it
    assert {name: row["status"] for name, row in summary(Path("out")).items()} == {
        "a.tiff": "done",
        "b.tiff": "pending",
    }


def test_doctor_tells_of_everything_that_a_run_needs() -> None:
    told = json.loads(call("doctor", "--json").stdout)
    subjects = {finding["subject"]: finding for finding in told}
    surroundings = {"home", "temporary folder", "shared memory"}
    assert {"python", "OpenSlide library", "GPU", "Ray", "bundle", "free space", "slide formats"} <= set(
        subjects
    ) - surroundings
    assert surroundings <= set(subjects)
    assert subjects["Ray"]["ok"], subjects["Ray"]
    assert subjects["bundle"]["ok"]
    assert ".svs" in subjects["slide formats"]["told"]


def test_doctor_says_what_to_do_about_a_bad_bundle(tmp_path: Path) -> None:
    told = call("doctor", "--model", tmp_path)
    assert told.exit_code == 1
    assert "FAIL bundle" in told.output


def test_demo_leaves_a_slide_figures_and_a_picture(tmp_path: Path, small_bundle: Path) -> None:
    from PIL import Image

    told = call("demo", tmp_path / "demo", "--model", small_bundle)
    assert told.exit_code == 0, told.output
    row = summary(tmp_path / "demo/results")["demo.tiff"]
    assert int(row["classified"]) >= 20
    picture = Image.open(tmp_path / "demo/overview.png")
    assert picture.size == (1000, 1000)
    colours = {colour for _, colour in picture.getcolors(picture.width * picture.height)}
    assert colours & {(220, 20, 60), (0, 114, 178)}
    assert "In QuPath" in told.output
