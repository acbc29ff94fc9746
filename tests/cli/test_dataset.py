"""`wsi-mitosis dataset` as scripts meet it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.cli.test_commands import HEAVY, printed_and_loaded
from tests.dataset_files import crop, crops_folder, random_images, store
from wsi_mitosis.cli import main
from wsi_mitosis.cli.dataset import command

BUILD = ["build", "in", "--source", "folder", "--out", "s.zarr", "--patch-px", 32, "--workers", 0]


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["dataset", *(str(argument) for argument in arguments)])


@pytest.fixture(autouse=True)
def crops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return crops_folder(tmp_path / "in")


@pytest.mark.parametrize("name", command.commands)
def test_every_command_has_light_help_with_an_example(name: str) -> None:
    text, loaded = printed_and_loaded(["dataset", name, "--help"], (*HEAVY, "zarr", "PIL", "skimage"))
    assert loaded == []
    assert "Example:  wsi-mitosis dataset" in text


def test_build_tells_what_it_did() -> None:
    told = call(*BUILD)
    assert told.exit_code == 0, told.output
    assert "8 figures: 3 atypical, 5 typical" in told.stdout
    assert "masks (haematoxylin): " in told.stdout
    assert "8 figures in 1 part" in told.stderr
    assert Path("s.zarr/zarr.json").is_file()


def test_build_as_json() -> None:
    told = json.loads(call(*BUILD, "--masks", "none", "--licence", "CC0", "--domain", "D", "--json").stdout)
    assert told["store"] == str(Path("s.zarr").absolute())
    assert (told["samples"], told["atypical"], told["typical"]) == (8, 3, 5)
    assert (told["domains"], told["licence"], told["mask_flags"]) == (["D"], "CC0", {"none": 8})
    assert (told["schema"], told["mpp"], told["mask_provider"]) == (2, None, "none")
    assert (told["parts"], told["kept_parts"]) == (1, 0)
    assert len(told["digest"]) == 64


def test_quiet_says_nothing_and_verbose_tells_of_every_part() -> None:
    quiet = call(*BUILD, "-q")
    assert (quiet.exit_code, quiet.output) == (0, "")
    verbose = call(*BUILD, "-v", "--overwrite")
    assert "8/8 figures; part 1 done" in verbose.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["build", "nowhere", "--source", "folder", "--out", "o.zarr"], "no such folder"),
        (["build", "in", "--source", "folder", "--out", "o.zarr"], "8 of the crops smaller than 128 px"),
        (["build", "in", "--out", "o.zarr"], "Missing option '--source'"),
        (["build", "no.csv", "--source", "amibr", "--out", "o.zarr"], "No such file"),
        ([*BUILD, "--masks", "nuclick"], "--nuclick-weights"),
        ([*BUILD, "--masks", "nuclick", "--nuclick-weights", "gone.pth"], "gone.pth"),
        ([*BUILD, "--patch-px", "31"], "--patch-px should be a multiple of 2, but it is 31"),
        ([*BUILD, "--workers", "few"], "neither 'auto' nor a number"),
        (["show", "nowhere.zarr"], "no such store"),
        (["verify", "in"], "a folder without zarr.json"),
    ],
)
def test_unusable_input_is_exit_status_2(arguments: list[object], told: str) -> None:
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert told in result.stderr
    assert not Path("o.zarr").exists()


def test_a_store_is_overwritten_only_when_asked() -> None:
    call(*BUILD)
    assert call(*BUILD).exit_code == 2
    assert call(*BUILD, "--overwrite").exit_code == 0


def test_show_counts_and_draws() -> None:
    call(*BUILD, "--masks", "none", "--domain", "TCGA")
    told = call("show", "s.zarr")
    assert told.exit_code == 0, told.output
    lines = [line.split() for line in told.stdout.splitlines()]
    assert ["TCGA", "3", "5", "unknown", "0", "none", "8"] in lines
    assert ["all", "3", "5", "unknown", "0", "none", "8"] in lines
    assert "mpp:                    unknown" in told.stdout
    assert Path("s.zarr.png").read_bytes().startswith(b"\x89PNG")
    as_json = json.loads(call("show", "s.zarr", "--sheet", "sheet.png", "--json").stdout)
    assert as_json["sheet"] == "sheet.png"
    assert as_json["domains"]["TCGA"] == as_json["total"]
    assert as_json["total"] == {
        "atypical": 3,
        "typical": 5,
        "slides": 0,
        "masks": 0,
        "without_mask": {"none": 8},
    }
    assert Path("sheet.png").read_bytes() == Path("s.zarr.png").read_bytes()


def test_show_keeps_a_long_line_whole_in_a_log() -> None:
    flags = [f"reason_{i}" for i in range(6)]
    store(Path("s.zarr"), random_images(6), mask_flag=flags, domain=["canine soft tissue sarcoma"] * 6)
    row = next(line for line in call("show", "s.zarr").stdout.splitlines() if "sarcoma" in line)
    assert "canine soft tissue sarcoma" in row
    assert all(f"{flag} 1" in row for flag in flags)


def test_verify_is_0_with_notes_and_1_with_faults() -> None:
    crop(Path("in/Normal/9.png"), seed=1000)  # as Normal/1.png
    call(*BUILD)
    told = call("verify", "s.zarr")
    assert told.exit_code == 0
    assert "note: figures that are there more than once: 1; distinct ones: 8;" in told.stdout
    assert "ok  s " in told.stdout
    store(Path("bad.zarr"), random_images(2), domain=["a", "b"], slide=["x", "x"])
    told = call("verify", "bad.zarr")
    assert told.exit_code == 1
    assert "wrong: slide x is in 2 domains" in told.stdout
    assert "WRONG  test " in told.stdout
    as_json = call("verify", "bad.zarr", "--json")
    assert as_json.exit_code == 1
    assert json.loads(as_json.stdout)["ok"] is False


def test_verify_as_json_and_against_another() -> None:
    call(*BUILD)
    call(*BUILD, "--domain", "other", "--out", "t.zarr")
    told = json.loads(call("verify", "s.zarr", "--against", "t.zarr", "--json").stdout)
    assert told["ok"] is True
    assert (told["samples"], told["distinct"]) == (8, 8)
    assert told["faults"] == []
    assert told["overlap"] == {
        "other": "t.zarr",
        "samples": 8,
        "by_digest": 8,
        "by_place": 0,
        "contradictory": 0,
        "slides": 0,
        "domains": {"in": 8},
        "apart": [],
    }
    assert len(told["notes"]) == 2


def test_a_signal_ends_a_build_with_130_and_a_second_goes_on() -> None:
    """Parts of one crop: some are done when the signal comes, and most are not."""
    script = (
        "import sys\nfrom wsi_mitosis.jobs.dataset import parts\nparts.CROPS_PER_PART = 1\n"
        "from wsi_mitosis.cli import main\nmain()"
    )
    crops_folder(Path("in"), 300, 300)
    arguments = [sys.executable, "-c", script, "dataset", *map(str, BUILD)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(arguments, env=environment, stderr=subprocess.DEVNULL)
    while not list(Path().glob(".s.zarr.parts/[0-9a-f]*.npz")):
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 130
    assert not Path("s.zarr").exists()
    again = subprocess.run(
        [*arguments, "--json"], env=environment, capture_output=True, check=True, text=True
    )
    assert 0 < json.loads(again.stdout)["kept_parts"] < 600
