"""`predict` and `models` as scripts meet them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tifffile
from click.testing import CliRunner, Result

from wsi_mitosis.cli import main
from wsi_mitosis.io.bundles import DEFAULT_BUNDLE, open_bundle
from wsi_mitosis.io.shipped import names
from wsi_mitosis.nets.untrained import stained_noise

UNTRAINED = "UNTRAINED"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    tifffile.imwrite(tmp_path / "crops.tiff", stained_noise(4, 40, seed=2), photometric="rgb")
    return tmp_path / "crops.tiff"


def test_predictions_are_written(stack: Path, small_bundle: Path) -> None:
    out = stack.with_name("deeper") / "p.json"
    told = call("predict", stack, "--out", out, "--model", small_bundle)
    assert told.exit_code == 0, told.output
    assert told.stdout == ""
    assert told.stderr.count(UNTRAINED) == 1
    assert (
        f"4 crops: {sum(p['class'] == 'atypical' for p in json.loads(out.read_text()))} atypical"
        in told.stderr
    )
    assert "Research use only" in told.stderr
    assert json.loads(out.with_name("p.provenance.json").read_text())["trained"] is False


def test_json_goes_to_stdout_alone(stack: Path, small_bundle: Path) -> None:
    out = stack.with_name("p.json")
    told = call("predict", stack, "--json", "--out", out, "--model", small_bundle)
    assert told.exit_code == 0
    assert json.loads(told.stdout) == json.loads(out.read_text())
    assert json.loads(call("predict", stack, "--json", "--model", small_bundle).stdout) == json.loads(
        told.stdout
    )


def test_quiet_and_verbose(stack: Path, small_bundle: Path) -> None:
    quiet = call("predict", stack, "--json", "-q", "--model", small_bundle)
    assert (quiet.exit_code, quiet.stderr) == (0, "")
    verbose = call("predict", stack, "--json", "-v", "--model", small_bundle)
    assert [f"page {page}:" in verbose.stderr for page in range(1, 6)] == [True] * 4 + [False]


def test_tta_and_vote_reach_the_ensemble(stack: Path, small_bundle: Path) -> None:
    out = stack.with_name("p.json")
    assert (
        call(
            "predict", stack, "--out", out, "--model", small_bundle, "--tta", "d4", "--vote", "early"
        ).exit_code
        == 0
    )
    told = json.loads(stack.with_name("p.provenance.json").read_text())
    assert (told["tta"], told["vote"]) == ("d4", "early")


def test_the_challenges_container(tmp_path: Path, small_bundle: Path) -> None:
    slug = "stacked-histopathology-roi-cropouts"
    folder = tmp_path / "in" / "images" / slug
    folder.mkdir(parents=True)
    tifffile.imwrite(folder / "s.tiff", stained_noise(3, 128), photometric="rgb")
    listing = [{"interface": {"slug": slug, "relative_path": f"images/{slug}"}}]
    (tmp_path / "in" / "inputs.json").write_text(json.dumps(listing))
    folders = ["--input-dir", tmp_path / "in", "--output-dir", tmp_path / "out"]
    told = call("predict", "--grand-challenge", *folders, "--model", small_bundle)
    assert told.exit_code == 0, told.output
    assert (
        len(json.loads((tmp_path / "out" / "multiple-mitotic-figure-classification.json").read_text())) == 3
    )


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["s.tiff"],
        ["s.tiff", "--grand-challenge"],
        ["--grand-challenge", "--out", "p.json"],
        ["s.tiff", "--out", "p.json", "--input-dir", "x"],
        ["s.tiff", "--json", "--output-dir", "x"],
    ],
)
def test_options_that_would_be_ignored_are_refused(arguments: list[str]) -> None:
    told = call("predict", *arguments)
    assert told.exit_code == 2
    assert "Usage:" in told.stderr


def test_errors_are_told_and_give_2(stack: Path, small_bundle: Path, tmp_path: Path) -> None:
    missing = call("predict", tmp_path / "none.tif", "--json", "--model", small_bundle)
    assert (missing.exit_code, missing.stdout) == (2, "")
    assert "none.tif: reading crops" in missing.stderr
    assert DEFAULT_BUNDLE in call("predict", stack, "--json", "--model", "nonesuch").stderr
    too_small = call("predict", stack, "--json", "--model", "untrained-tiny")
    assert too_small.exit_code == 2
    assert "smaller than the 64 px" in too_small.stderr


def test_models_list_names_every_shipped_bundle() -> None:
    told = call("models", "list")
    assert told.exit_code == 0
    assert [line.split()[0] for line in told.stdout.splitlines()] == names("models")
    untrained = next(line for line in told.stdout.splitlines() if line.startswith("untrained-tiny"))
    assert UNTRAINED in untrained
    default = next(line for line in told.stdout.splitlines() if line.startswith(DEFAULT_BUNDLE))
    assert "; 80 px at 0.25 um/px, 6 members;" in default, "it sees 80 px, enlarged to 160"
    listed = json.loads(call("models", "list", "--json").stdout)["bundles"]
    assert [bundle["name"] for bundle in listed] == names("models")


def test_models_show(small_bundle: Path) -> None:
    told = call("models", "show", small_bundle)
    assert open_bundle(small_bundle).digest in told.stdout
    assert "**Untrained: its labels mean nothing.**" in told.stdout
    facts = json.loads(call("models", "show", "--json").stdout)
    assert facts["manifest"]["name"] == facts["name"] == DEFAULT_BUNDLE
    assert facts["manifest"]["schema"] == 1
    compared = facts["manifest"]["bfloat16"]
    assert facts["bf16"] == (
        f"offered; {compared['changed']} of {compared['figures']} labels differ from those in float32"
    )
    assert f"bf16:          {facts['bf16']}\n" in call("models", "show").stdout
    assert "\nbf16:" not in told.stdout


def test_models_verify(small_bundle: Path) -> None:
    assert call("models", "verify").stdout.count("ok  ") == len(names("models"))
    digest = open_bundle(small_bundle).digest
    verified = json.loads(call("models", "verify", small_bundle, "--json").stdout)["verified"]
    assert [bundle["digest"] for bundle in verified] == [digest]


def test_models_verify_names_what_is_altered(tmp_path: Path, small_bundle: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in small_bundle.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    with (broken / "member-1.safetensors").open("ab") as weights:
        weights.write(b"x")
    told = call("models", "verify", small_bundle, broken)
    assert told.exit_code == 2
    assert "member-1.safetensors: checking files: it is not the file that the manifest lists" in told.stderr
