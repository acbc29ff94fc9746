"""The generated pages, README and the pipelines agree with the descriptions in the code."""

from __future__ import annotations

import difflib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.reference import FOLDER, PAGES
from tests.reference.options import page
from tests.test_shipped import PIPELINES, ROOT
from wsi_mitosis.cli import COMMANDS
from wsi_mitosis.io.bundles import DEFAULT_BUNDLE
from wsi_mitosis.schema import OptionField, options_of
from wsi_mitosis.specs import ClassifySpec, DatasetSpec, DetectSpec, PipelineSpec, TrainSpec

OPTIONS = {field.name: field for field in options_of(ClassifySpec)}
STATED = {
    "hotspot_area": ("docs/explanation/votes-and-hotspots.md", r"window of (?P<value>[\d.]+) mm²"),
    "hotspot_aspect": ("docs/explanation/votes-and-hotspots.md", r"mm² and aspect (?P<value>[\d:]+) "),
    "model": ("README.md", r"`(?P<value>[\w-]+)` is the default"),
}
"""Where a page repeats a default."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages as `make docs` writes them, in a process of its own."""
    folder = tmp_path_factory.mktemp("reference")
    subprocess.run([sys.executable, "-m", "tests.reference", str(folder)], cwd=ROOT, check=True)
    return folder


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_up_to_date(name: str, made: Path) -> None:
    committed = (FOLDER / name).read_text(encoding="utf-8").splitlines()
    now = (made / name).read_text(encoding="utf-8").splitlines()
    differences = list(difflib.unified_diff(committed, now, lineterm="", n=0))
    assert differences == [], "run `make docs`"


def test_every_command_and_every_option_is_on_the_page() -> None:
    text = page()
    assert set(COMMANDS) <= {name.split()[0] for name in re.findall(r"^## `([\w ]+)`$", text, re.MULTILINE)}
    for spec in (ClassifySpec, DetectSpec, DatasetSpec, TrainSpec):
        for field in options_of(spec):
            assert f"| `{field.option.metavar if field.option.positional else field.flag}` |" in text
    assert all(f"| `{field.key}` |" in text for field in OPTIONS.values())


@pytest.mark.parametrize("name", STATED)
def test_a_page_states_the_default(name: str) -> None:
    file, pattern = STATED[name]
    found = re.search(pattern, (ROOT / file).read_text(encoding="utf-8"))
    assert found is not None
    field = OPTIONS[name]
    default = field.default if field.default is not None else field.option.default
    assert type(default)(found["value"]) == default


def test_the_default_bundle_in_words_is_the_default_bundle() -> None:
    assert OPTIONS["model"].option.default == DEFAULT_BUNDLE


TABLE = r"^# \[\w+\]\n(?:# .*\n)+"
"""A table that is commented out."""


def commented(path: Path) -> tuple[str, str]:
    """A pipeline with its commented keys switched on, and its commented tables; prose stays out."""
    text = path.read_text(encoding="utf-8")
    tables = "".join(re.findall(TABLE, text, re.MULTILINE))
    keys = re.sub(r"^# (?=\w+ = )", "", re.sub(TABLE, "", text, flags=re.MULTILINE), flags=re.MULTILINE)
    return keys, re.sub(r"^# ", "", tables, flags=re.MULTILINE)


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_every_key_of_a_pipeline_fits_even_where_it_is_commented_out(path: Path) -> None:
    keys, tables = commented(path)
    assert PipelineSpec.parse_toml(keys, path).input.slides
    searching = re.sub(r"^detections = .*\n", "", keys, flags=re.MULTILINE) if "[detect]" in tables else keys
    assert (PipelineSpec.parse_toml(searching + tables, path).detect is None) == (not tables)


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_a_pipeline_says_of_a_default_that_it_is_one(path: Path) -> None:
    """`# key = value  # ...; the default`: the value is the option's default, and defaults are so marked."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if (match := re.match(r"# (\w+) = ", line)) and match[1] in OPTIONS:
            value = tomllib.loads(line.removeprefix("# "))[match[1]]
            is_default = value == OPTIONS[match[1]].default
            assert is_default == ("default" in line), line


def test_fields_without_a_description_are_refused() -> None:
    from wsi_mitosis.schema import Spec

    class Undescribed(Spec):
        length: int = 1

    with pytest.raises(TypeError, match=r"Undescribed\.length has no Option"):
        list(options_of(Undescribed))


@pytest.mark.parametrize("spec", [ClassifySpec, DetectSpec, DatasetSpec, TrainSpec])
def test_names_and_flags_are_unique_and_help_is_a_sentence(spec: type[ClassifySpec]) -> None:
    fields: list[OptionField] = list(options_of(spec))
    assert len({field.name for field in fields}) == len({field.flag for field in fields}) == len(fields)
    for field in fields:
        assert field.option.help.endswith(".")
        assert field.option.help[0].isupper()


def test_every_error_of_the_source_is_on_the_page_of_messages() -> None:
    """Of each module some messages are found; those that are computed elsewhere are counted here."""
    text = PAGES["messages.md"]()
    assert text.count("\n| `") > 300
    for words in (
        "another run holds this folder",
        "the slide states no pixel size",
        "which may be",
        "lie outside the slide",
        "no slides found",
    ):
        assert words in text, words


def test_every_key_of_a_stored_schema_is_described() -> None:
    text = PAGES["files.md"]()
    lacking = [line for line in text.splitlines() if line.startswith("| `") and line.endswith("|  |")]
    assert lacking == []


def test_every_error_has_a_remedy() -> None:
    """The exceptions are parts of longer messages that have one, and what the end of a run causes."""
    lines = PAGES["messages.md"]().splitlines()
    without = {line.split(" | ")[1] for line in lines if line.endswith("|  |")}
    assert without == {
        "their coordinates were all multiplied by \\<factor\\>\\<moved\\>",
        "they were all moved by (\\<shift\\>, \\<shift\\>) px",
        "its copy was given up, because the run ends",
    }
