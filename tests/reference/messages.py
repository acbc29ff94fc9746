"""The page of messages: every error of the program with its remedy, found in the source."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.reference.markdown import table, unwrapped
from wsi_mitosis import errors

PACKAGE = Path(errors.__file__).parent
ERRORS = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.WsiMitosisError)
}
INTRODUCTION = """\
# Messages

`make docs` writes this page from the source of the program.

A message names its subject (a slide, a file or an option), what was being done, what is wrong, and what to do. `<...>` stands for
a value that the message states. `InputError` and the errors that are derived from it end a command before anything was started,
with exit status 2. `SlideError` and the errors that are derived from it fail one slide, and the exit status is then 1.
[Operations](../operations.md#messages) explains the messages that a night operator meets, and
[What is never guessed](../never-guessed.md) those about odd inputs.

"""
HEADINGS = {
    "cli": "Command line",
    "workers": "Workers and clusters",
    "jobs": "Runs, data sets and training",
    "io/detections": "Candidates, regions and reviews",
    "io/slides": "Slides",
    "io/results": "Output folders",
    "io/training": "Data sets",
    "io/pages": "Report",
    "io": "Bundles, pipelines and files",
    "nets": "Networks",
    "core": "Candidates, regions and reviews of one slide",
    "": "Options and schemas",
}


COMPUTED = "It depends on the case, and is in the message"
INSTALLING = ("install", "upgrade_program")
"""Functions of `io/installing.py`, which name packages and versions."""


@dataclass(frozen=True)
class Message:
    """An error that the program can raise.

    Attributes:
        kind: Name of its class.
        cause: What is wrong, with `<...>` in place of values.
        remedy: What to do; empty without one.
    """

    kind: str
    cause: str
    remedy: str


@dataclass
class Function:
    """A function of the package.

    Attributes:
        node: Its syntax tree.
        constants: The expressions of the constants of its module, also of imported ones.
        assigned: The expressions that are assigned to each of its local names.
    """

    node: ast.FunctionDef
    constants: dict[str, ast.expr]
    assigned: dict[str, list[ast.expr]] = field(default_factory=dict)


def page() -> str:
    """Return the page."""
    kinds = [
        (f"`{name}`", f"`{kind.__base__.__name__}`", unwrapped(kind.__doc__)) for name, kind in ERRORS.items()
    ]
    text = INTRODUCTION + table(("error", "derived from", "meaning"), kinds)
    sections: dict[str, list[Message]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        sections.setdefault(_room(path), []).extend(messages(path))
    for room, title in HEADINGS.items():
        rows = sorted(
            {
                (f"`{m.kind}`", _shown(m.cause), _shown(m.remedy))
                for m in sections.get(room, ())
                if _says_something(m.cause)
            }
        )
        text += f"\n## {title}\n\n{table(('error', 'cause', 'remedy'), rows)}" if rows else ""
    return text


def _room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts[:-1]
    return next(room for room in ("/".join(parts[:2]), "/".join(parts[:1]), "") if room in HEADINGS)


def _says_something(cause: str) -> bool:
    """Return whether a cause has words besides values."""
    return re.search(r"[a-z]", re.sub(r"<[^>]*>", "", cause)) is not None


def _shown(text: str) -> str:
    """Markdown in which a message looks as it is printed."""
    return re.sub(r"([<>*_\[\]])", r"\\\1", text)


def messages(path: Path) -> Iterator[Message]:
    """Yield the errors that a module raises, directly or through a function of its own."""
    tree, known = _tree(path), constants(path)
    functions = [_function(node, known) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    makers = {f.node.name: f for f in functions if _name(f.node.returns) in ERRORS} | _shared()
    for function in functions:
        for node in ast.walk(function.node):
            if isinstance(node, ast.Call) and (name := _name(node.func)):
                if name in ERRORS:
                    yield from _raised(node, name, function)
                elif name in makers and name != function.node.name:
                    yield from _made(node, makers[name], function)


def _shared() -> dict[str, Function]:
    """Functions that several modules call for their errors."""
    path = PACKAGE / "io/detections/common.py"
    nodes = (one for one in ast.walk(_tree(path)) if isinstance(one, ast.FunctionDef) and one.name == "fault")
    return {node.name: _function(node, constants(path)) for node in nodes}


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def constants(path: Path) -> dict[str, ast.expr]:
    """Return the expressions of a module's constants, and of those that it imports from the package."""
    found: dict[str, ast.expr] = {}
    for node in _tree(path).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("wsi_mitosis."):
            source = PACKAGE.joinpath(*str(node.module).split(".")[1:]).with_suffix(".py")
            own = constants(source) if source.is_file() else {}
            found |= {
                alias.asname or alias.name: own[alias.name] for alias in node.names if alias.name in own
            }
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = node.value
    return found


def _function(node: ast.FunctionDef, known: dict[str, ast.expr]) -> Function:
    function = Function(node, known)
    for one in ast.walk(node):
        if isinstance(one, ast.Assign) and len(one.targets) == 1 and isinstance(one.targets[0], ast.Name):
            function.assigned.setdefault(one.targets[0].id, []).append(one.value)
    return function


def _raised(call: ast.Call, kind: str, function: Function) -> Iterator[Message]:
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    cause = call.args[0] if call.args else given.get("cause")
    yield from _paired(kind, _texts(cause, function), _given(given.get("remedy"), function))


def _made(call: ast.Call, maker: Function, function: Function) -> Iterator[Message]:
    """The errors of a function that returns one from the texts that it is called with."""
    names = [argument.arg for argument in maker.node.args.args]
    names = names[1:] if names[:1] == ["self"] else names
    given = dict(zip(names, call.args, strict=False))
    given |= {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
    defaults = dict(zip(reversed(names), reversed(maker.node.args.defaults), strict=False))
    if (cause := given.get("cause")) is not None:
        kind = _name(maker.node.returns) or ""
        default = _texts(defaults.get("remedy"), maker)
        remedies = _given(given.get("remedy"), function) or default or _remedies(maker)
        yield from _paired(kind, _texts(cause, function), remedies)


def _given(remedy: ast.expr | None, function: Function) -> list[str]:
    """The texts of a remedy; one that is computed elsewhere is in the message."""
    return _texts(remedy, function) or ([COMPUTED] if remedy is not None else [])


def _paired(kind: str, causes: list[str], remedies: list[str]) -> Iterator[Message]:
    """Errors whose causes and remedies are chosen by the same condition, or that share the first remedy."""
    if len(remedies) != len(causes):
        remedies = (remedies or [""])[:1] * len(causes)
    for cause, remedy in zip(causes, remedies, strict=True):
        yield Message(kind, cause, remedy)


def _remedies(maker: Function) -> list[str]:
    for node in ast.walk(maker.node):
        if isinstance(node, ast.keyword) and node.arg == "remedy":
            return _given(node.value, maker)
    return []


def _texts(node: ast.expr | None, function: Function) -> list[str]:
    """The texts that an expression can be; none if it is computed elsewhere."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.JoinedStr):
        return ["".join(_part(part) for part in node.values)]
    if isinstance(node, ast.BinOp):
        return [a + b for a in _texts(node.left, function) for b in _texts(node.right, function)]
    if isinstance(node, ast.IfExp):
        return _texts(node.body, function) + _texts(node.orelse, function)
    if isinstance(node, ast.BoolOp):
        return [text for value in node.values for text in _texts(value, function)]
    if isinstance(node, ast.Name):
        known = [function.constants[node.id]] if node.id in function.constants else []
        assigned = function.assigned.get(node.id, known)
        return [text for value in assigned for text in _texts(value, function)]
    if isinstance(node, ast.Call) and (_name(node.func) or "").startswith(INSTALLING):
        return ["Install it as the message says"]
    return []


def _part(part: ast.expr) -> str:
    if isinstance(part, ast.FormattedValue):
        words = re.findall(r"[A-Za-z_]+", ast.unparse(part.value))
        return f"<{words[-1].strip('_').replace('_', ' ').lower() if words else '...'}>"
    return str(part.value) if isinstance(part, ast.Constant) else ""


def _name(node: ast.expr | None) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else None
