"""The page of the log's events, made from their schemas."""

from __future__ import annotations

from typing import Any

from tests.reference.markdown import table
from wsi_mitosis.core.events import EVENTS, Event, name_of
from wsi_mitosis.io.results.log import KEPT, LOG, MOST_BYTES

INTRODUCTION = f"""\
# The log

`make docs` writes this page from the schemas in `wsi_mitosis/core/events.py`.

`classify`, `detect` and `run` append to `{LOG}` in the output folder. The log of `detect` is in the folder of
its tables, `dets.csv.parts`. Each line is one event: a JSON object in UTF-8. The schemas are closed: a line
has no other keys than those below. A later version may add events and keys, which the changelog then lists.

A run appends its lines in the order in which things happen, from `start` to `end`. The next run appends to
the same file. At the start of a run, a log of more than {MOST_BYTES // 10**6} MB is renamed to `log.1.jsonl`,
and older ones to `log.2.jsonl` and so on; {KEPT} of them are kept. The log is never renamed in the middle of
a run. If a line cannot be written, for example because the disk is full, the run goes on and warns once. A
line that is not complete is that of a run that was killed while it wrote.

The log holds names of slides and paths. Where those name a patient, so does the log.

Every line has these keys:

"""
TYPES = {"number": "number", "integer": "integer", "string": "string", "boolean": "boolean", "null": "null"}


def page() -> str:
    """Return the page."""
    return INTRODUCTION + _table(Event) + "".join(map(_section, EVENTS))


def _section(kind: type[Event]) -> str:
    own = _table(kind, without=set(Event.model_fields))
    return f"\n## `{name_of(kind)}`\n\n{kind.__doc__}\n\n{own}"


def _table(kind: type[Event], without: set[str] = frozenset()) -> str:  # type: ignore[assignment]
    schema = kind.model_json_schema()
    required = schema.get("required", ())
    rows = [
        (f"`{key}`", _type(field), "always" if key in required else "if known", _meaning(field))
        for key, field in schema["properties"].items()
        if key not in without
    ]
    return table(("key", "type", "present", "meaning"), rows)


def _meaning(field: dict[str, Any]) -> str:
    described = [field, *field.get("anyOf", ())]
    return next(part["description"] for part in described if "description" in part)


def _type(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(map(_type, field["anyOf"]))
    if field["type"] == "object":
        return f"object of {_type(field['additionalProperties'])}s"
    return TYPES[field["type"]]
