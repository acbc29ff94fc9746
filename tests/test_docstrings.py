"""Docstrings of public names: shapes of arrays, and errors that are raised. ruff checks that they exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parents[1] / "wsi_mitosis"
ARRAYS = re.compile(r"NDArray|Tensor\b")
SHAPE = re.compile(r"\([^)]*[,)]|shape|scalar|float|per ")
COMMANDS = "command"
"""Functions of the command line; their docstrings are the help, and click reports usage."""


class Public(NamedTuple):
    """A public function or method."""

    name: str
    node: ast.FunctionDef
    text: str


def public_functions() -> Iterator[Public]:
    for path in sorted(PACKAGE.rglob("*.py")):
        module = path.relative_to(PACKAGE).as_posix()
        yield from _of(ast.parse(path.read_text(encoding="utf-8")), module)


def _of(owner: ast.Module | ast.ClassDef, place: str) -> Iterator[Public]:
    for node in owner.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from _of(node, f"{place}:{node.name}")
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield Public(f"{place}:{node.name}", node, ast.get_docstring(node) or "")


def test_a_function_of_arrays_says_their_shape() -> None:
    functions = [function for function in public_functions() if ARRAYS.search(_signature(function.node))]
    assert len(functions) > 100
    assert [function.name for function in functions if not SHAPE.search(function.text)] == []


def test_a_function_that_raises_says_what() -> None:
    functions = [function for function in public_functions() if _raises(function.node)]
    assert len(functions) > 50
    silent = [f.name for f in functions if "raise" not in f.text.lower() and f.node.name != COMMANDS]
    assert silent == []


def _signature(node: ast.FunctionDef) -> str:
    return ast.unparse(node.args) + (ast.unparse(node.returns) if node.returns else "")


def _raises(node: ast.FunctionDef) -> bool:
    return any(isinstance(one, ast.Raise) and one.exc is not None for one in ast.walk(node))
