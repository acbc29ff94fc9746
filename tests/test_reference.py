"""The page of options, README and pipelines say what the descriptions of the options say."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tests.log_reference import LOG_PAGE, log_page
from tests.reference import PAGE, page
from tests.test_shipped import PIPELINES, ROOT
from wsi_mitosis.cli import COMMANDS
from wsi_mitosis.io.bundles import DEFAULT_BUNDLE
from wsi_mitosis.schema import OptionField, options_of
from wsi_mitosis.specs import ClassifySpec, DatasetSpec, DetectSpec, PipelineSpec, TrainSpec

OPTIONS = {field.name: field for field in options_of(ClassifySpec)}
STATED = {
    "hotspot_area": r"window of (?P<value>[\d.]+) mm²",
    "hotspot_aspect": r"window of [\d.]+ mm², (?P<value>[\d:]+),",
    "model": r"The default ensemble, `(?P<value>[\w-]+)`",
}
"""Where README repeats a default."""


def test_the_pages_are_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make docs`"
    assert LOG_PAGE.read_text(encoding="utf-8") == log_page(), "run `make docs`"


def test_every_command_and_every_option_is_on_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert set(COMMANDS) <= {name.split()[0] for name in re.findall(r"^## `([\w ]+)`$", text, re.MULTILINE)}
    for spec in (ClassifySpec, DetectSpec, DatasetSpec, TrainSpec):
        for field in options_of(spec):
            assert f"| `{field.option.metavar if field.option.positional else field.flag}` |" in text
    assert all(f"| `{field.key}` |" in text for field in OPTIONS.values())


@pytest.mark.parametrize("name", STATED)
def test_readme_states_the_default(name: str) -> None:
    found = re.search(STATED[name], (ROOT / "README.md").read_text(encoding="utf-8"))
    assert found is not None
    field = OPTIONS[name]
    default = field.default if field.default is not None else field.option.default
    assert type(default)(found["value"]) == default


def test_the_default_bundle_in_words_is_the_default_bundle() -> None:
    assert OPTIONS["model"].option.default == DEFAULT_BUNDLE


def test_readme_names_no_option_that_does_not_exist() -> None:
    text = page()
    others = {"--args", "--no-crop", "--wheel-dir", "--no-index", "--find-links", "--help"}
    """Of QuPath and pip, and click's own."""
    for name in re.findall(r"(?<![\w-])--[a-z][a-z-]+", (ROOT / "README.md").read_text(encoding="utf-8")):
        assert name in others or f"`{name}`" in text, name


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
