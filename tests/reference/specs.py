"""Tables of the keys of a closed schema, with their meanings from its docstrings."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from tests.reference.markdown import table, unwrapped
from wsi_mitosis.schema import OptionField, Spec, options_of

NAMES = {
    str: "text",
    int: "integer",
    float: "number",
    bool: "true or false",
    type(None): "null",
    dict: "object",
}
ENTRY = re.compile(r"^ {8}(\w+): (.+(?:\n {12}.+)*)", re.MULTILINE)


def keys(spec: type[Spec]) -> str:
    """Return the table of a schema's keys."""
    described = meanings(spec)
    rows = [
        (f"`{field.alias or name}`", kind(field.annotation), described.get(name) or nested(field.annotation))
        for name, field in spec.model_fields.items()
    ]
    return table(("key", "type", "meaning"), rows)


def meanings(spec: type[Spec]) -> dict[str, str]:
    """Return what the docstrings of a schema and of its bases say of each attribute."""
    found = {field.name: field.option.help for field in _options(spec)}
    for base in reversed(spec.__mro__):
        _, _, attributes = (base.__doc__ or "").partition("Attributes:\n")
        entries = ENTRY.findall(_indented(attributes))
        found |= {name: re.sub(r"\bNone\b", "null", " ".join(text.split())) for name, text in entries}
    return found


def _options(spec: type[Spec]) -> list[OptionField]:
    try:
        return list(options_of(spec))
    except TypeError:  # a field without a description of an option
        return []


def _indented(text: str) -> str:
    """Attributes with the indentation that they have in a class at the top level."""
    first = re.search(r"^( *)\S", text, re.MULTILINE)
    missing = 8 - len(first[1]) if first else 0
    return "\n".join(" " * missing + line if line.strip() else line for line in text.splitlines())


def kind(annotation: Any) -> str:
    """Return a type in words."""
    annotation = getattr(annotation, "__value__", annotation)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is typing.Annotated:
        return kind(arguments[0])
    if origin is Literal:
        return " or ".join(f"`{one}`" for one in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(kind(one) for one in arguments))
    if origin in (tuple, list):
        own = [one for one in arguments if one is not Ellipsis]
        if Ellipsis in arguments or origin is list:
            return f"list of {kind(own[0])}"
        return f"list of {len(own)}: {', '.join(kind(one) for one in own)}"
    if origin is dict:
        return f"object of {kind(arguments[1])}"
    if annotation is Any:
        return "any"
    return NAMES.get(
        annotation,
        f"[{annotation.__name__}](#{annotation.__name__.lower()})" if _is_spec(annotation) else "object",
    )


def nested(annotation: Any) -> str:
    """Return what the docstring of a schema says, for an attribute that has no other description."""
    inner = next(specs_in(annotation), None)
    return unwrapped(inner.__doc__) if inner else ""


def specs_in(annotation: Any) -> Iterator[type[Spec]]:
    """Yield the schemas that a type mentions."""
    if _is_spec(annotation):
        yield annotation
    for argument in get_args(annotation):
        yield from specs_in(argument)


def all_specs(spec: type[Spec]) -> list[type[Spec]]:
    """Return a schema and every schema that it contains, in the order in which they are met."""
    found = [spec]
    for one in found:
        for field in one.model_fields.values():
            found += [inner for inner in specs_in(field.annotation) if inner not in found]
    return found


def _is_spec(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Spec)
