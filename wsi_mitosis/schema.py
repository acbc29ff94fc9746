"""Closed schemas, and one description per option.

A field of a specification that a user can set is annotated with an `Option`. The command line, the keys of a
TOML file, messages about them, the keys of results, and `docs/reference/options.md` are made from them.
"""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from wsi_mitosis.errors import InputError, SpecError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pydantic.fields import FieldInfo

Kind = Literal["result", "assessment", "drawing", "product", "run"]
KINDS: dict[Kind, str] = {
    "result": "which candidates there are and how they are labelled: the slide is classified again",
    "assessment": "what is computed from the labels: hotspots, regions and review list; no patch is "
    "classified again",
    "drawing": "how figures are drawn for other programs: GeoJSON and DICOM annotations are written again",
    "product": "which further files are written; the others stay as they are",
    "run": "which slides are processed, where, and how; no slide's results",
}
"""What an option changes. Each option is of exactly one kind."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """The description of one option, in the annotation of its field.

    Attributes:
        help: What it does, in a sentence.
        changes: What computing again is for; see `KINDS`.
        flag: Its name on the command line; `--` and the field's name if empty.
        positional: Whether it is given without a name, as `metavar`.
        metavar: Placeholder of its value in the help; its unit or type if empty.
        unit: Of its value.
        default: The default in words, where the field's own is None or empty.
        known_by: What a key holds in place of its value, such as the digest of a file's content; a key holds
            the value if empty.
    """

    help: str
    changes: Kind
    flag: str = ""
    positional: bool = False
    metavar: str = ""
    unit: str = ""
    default: str = ""
    known_by: str = ""


class Only(tuple[str, ...]):
    """Names of the options of a table that a command has; in the annotation of the table's field."""

    __slots__ = ()


class OptionField(NamedTuple):
    """A field that a user can set.

    Attributes:
        name: Of the field, and its key in a TOML file.
        table: The table of that key; empty at the top level.
        option: Its description.
        info: Its type, default and limits.
    """

    name: str
    table: str
    option: Option
    info: FieldInfo

    @property
    def flag(self) -> str:
        """Its name on the command line."""
        return self.option.flag or f"--{self.name.replace('_', '-')}"

    @property
    def default(self) -> Any:
        """Its default; None if it must be given."""
        return None if self.info.is_required() else self.info.get_default(call_default_factory=True)

    @property
    def key(self) -> str:
        """Its key in a TOML file, with its table."""
        return f"[{self.table}] {self.name}" if self.table else self.name


Location = tuple[int | str, ...]
"""Where in nested data a fault is: tables, positions in arrays, a key."""


class Spec(BaseModel):
    """A frozen record with a closed schema."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
    error: ClassVar[type[InputError]] = SpecError

    @classmethod
    def parse(
        cls, data: dict[str, Any], subject: object, named: Callable[[Location], str] | None = None
    ) -> Self:
        """Check `data` against the schema.

        Args:
            data: Plain data, such as a parsed TOML file.
            subject: What the data are, for messages.
            named: Returns what the user calls the place of a fault; by default its key in a TOML file.

        Raises:
            InputError: of the class's own kind, naming every key that is unknown, missing or impossible.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            errors = error.errors()
            what = "option" if named else "key"
            raise cls.error(
                "; ".join(_fault(cls, dict(e), named or toml_name) for e in errors),
                subject=subject,
                stage=f"checking {what}s",
                remedy=f"Correct this {what}" if len(errors) == 1 else f"Correct these {what}s",
            ) from error

    @classmethod
    def parse_toml(cls, text: str, subject: object) -> Self:
        """Parse and check a TOML document.

        Raises:
            InputError: of the class's own kind, if the text is not TOML or does not fit the schema.
        """
        try:
            data = tomllib.loads(text)
        except RecursionError as error:
            raise cls.error("the TOML is nested too deeply", subject=subject, stage="reading") from error
        except ValueError as error:  # also of numbers with thousands of digits
            raise cls.error(f"not valid TOML: {error}", subject=subject, stage="reading") from error
        return cls.parse(data, subject)

    def changing(self, kind: Kind) -> dict[str, Any]:
        """Return the values of the options of one kind, for a key.

        Options that a key knows in another way (`Option.known_by`) are left out: the caller adds what it
        names.

        Returns:
            Plain JSON data by field name, in the order of the fields.
        """
        values = self.model_dump(mode="json")
        return {
            field.name: (values[field.table] if field.table else values)[field.name]
            for field in options_of(type(self))
            if field.option.changes == kind and not field.option.known_by
        }


def options_of(spec: type[Spec], table: str = "", only: Sequence[str] | None = None) -> Iterator[OptionField]:
    """Yield the options of a specification and of its tables, in the order of the fields.

    Args:
        spec: The specification.
        table: The table that it is in a larger one; empty at the top level.
        only: Names of the options to yield; all by default.

    Raises:
        TypeError: if a field is neither an option nor a table of options.
    """
    for name, info in spec.model_fields.items():
        described = next((note for note in info.metadata if isinstance(note, Option)), None)
        if (nested := _spec_in(info.annotation)) is not None:
            chosen = next((note for note in info.metadata if isinstance(note, Only)), None)
            yield from options_of(nested, name, chosen)
        elif described is None:
            raise TypeError(f"{spec.__name__}.{name} has no Option")
        elif only is None or name in only:
            yield OptionField(name, table, described, info)


def _spec_in(annotation: Any) -> type[Spec] | None:
    """Return the specification of a table or of an array of tables; None for any other type."""
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return annotation
    return next(filter(None, map(_spec_in, get_args(annotation))), None)


def toml_name(location: Location) -> str:
    """Return how a message names a place in a TOML file: `'mpp' in [result]`."""
    if not location:
        return "the file"
    *tables, key = map(str, location)
    return f"'{key}' in [{'.'.join(tables)}]" if tables else f"'{key}'"


def _fault(spec: type[Spec], error: dict[str, Any], named: Callable[[Location], str]) -> str:
    """Return one fault as a clause: the place as the user calls it, and what is wrong there."""
    location, message = error["loc"], error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        return _unknown(spec, location, is_table=isinstance(error["input"], dict))
    name = named(location)
    if error["type"] == "missing":
        return f"missing key {name}"
    if not message.startswith(("Input should", "should")):  # a sentence about several keys
        return f"{name}: {message}" if location and name else message
    return f"{name} {message.removeprefix('Input ')}, but it is {error['input']!r}"


def _unknown(spec: type[Spec], location: Location, *, is_table: bool) -> str:
    """Return that a key is unknown, with the nearest known one, or else the known ones."""
    paths = list(_paths(spec))
    is_top = is_table and len(location) == 1
    text = f"unknown table [{location[0]}]" if is_top else f"unknown key {toml_name(location)}"
    table = tuple(part for part in location[:-1] if isinstance(part, str))
    here = [path for path in paths if path[:-1] == table]
    near = difflib.get_close_matches(str(location[-1]), {path[-1] for path in paths}, n=1, cutoff=0.7)
    if not near:
        return f"{text} (known: {', '.join(path[-1] for path in here)})"
    best = next(path for path in (*here, *paths) if path[-1] == near[0])
    return f"{text} (did you mean {f'[{best[0]}]' if is_top else toml_name(best)}?)"


def _paths(spec: type[Spec], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every key and table of a schema."""
    for name, info in spec.model_fields.items():
        path = (*above, info.alias or name)
        yield path
        if (nested := _spec_in(info.annotation)) is not None:
            yield from _paths(nested, path)
