"""The page of pipeline files: their keys by table, and the shipped ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.reference.markdown import table
from tests.reference.specs import kind
from wsi_mitosis.schema import OptionField, options_of
from wsi_mitosis.specs import ClassifySpec, SearchOptions

PIPELINES = Path(__file__).parents[2] / "pipelines"
INTRODUCTION = """\
# Pipeline files

`make docs` writes this page from the descriptions of the options.

A pipeline file is TOML. `wsi-mitosis run` reads it: a path, or the name of a shipped one such as `smoke`. Relative paths in it
start at its folder. An unknown key is refused, and the message names the nearest known one. Every key without a default must
be given; only `[input] slides` is such a key, and `[input] detections` unless the table `[detect]` searches for candidates.

"""


def page() -> str:
    """Return the page."""
    tables: dict[str, list[OptionField]] = {}
    for field in options_of(ClassifySpec):
        tables.setdefault(field.table, []).append(field)
    parts = [_section(name, fields) for name, fields in tables.items()]
    parts.append(_section("detect", list(options_of(SearchOptions)), SEARCH))
    parts += [_shipped(path) for path in sorted(PIPELINES.glob("*.toml"))]
    return INTRODUCTION + "\n".join(parts)


SEARCH = "A search for candidates before the run, in place of `[input] detections`.\n\n"


def _section(name: str, fields: list[OptionField], text: str = "") -> str:
    title = f"`[{name}]`" if name else "At the top level"
    rows = [
        (f"`{field.name}`", _type(field), field.option.unit, _default(field), field.option.help)
        for field in fields
    ]
    return f"## {title}\n\n{text}{table(('key', 'type', 'unit', 'default', 'meaning'), rows)}"


def _type(field: OptionField) -> str:
    return kind(field.info.annotation).removesuffix(" or null")


def _default(field: OptionField) -> str:
    if field.option.default:
        return field.option.default
    value: Any = field.default
    return "" if value in (None, (), {}) else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _shipped(path: Path) -> str:
    return f"## {path.name}\n\n```toml\n{path.read_text(encoding='utf-8').rstrip()}\n```\n"
