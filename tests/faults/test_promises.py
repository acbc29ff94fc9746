"""SECURITY.md states what is true: its files and tests exist, and so does what it says of the code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
CODE = sorted((ROOT / "wsi_mitosis").rglob("*.py"))


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`([\w./-]+\.(?:py|service|md)|[\w./-]+/)`", TEXT))))
def test_a_file_that_it_names_exists(path: str) -> None:
    assert (ROOT / path).exists() or (ROOT / "tests" / "faults" / path).exists()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"`make (\w+)`", TEXT))))
def test_a_target_that_it_names_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def calls() -> list[tuple[str, ast.Call]]:
    nodes = ((path, node) for path in CODE for node in ast.walk(ast.parse(path.read_text())))
    return [(f"{path.name}: {ast.unparse(n.func)}", n) for path, n in nodes if isinstance(n, ast.Call)]


def test_no_pickle_is_loaded() -> None:
    for name, call in calls():
        function = name.partition(": ")[2]
        keywords = {word.arg: ast.unparse(word.value) for word in call.keywords}
        if function.endswith("torch.load"):
            assert keywords.get("weights_only") == "True", name
        assert function not in {"pickle.load", "pickle.loads", "pickle.Unpickler", "joblib.load"}, name
        assert keywords.get("allow_pickle", "False") == "False", name


def test_no_program_is_started_by_a_shell() -> None:
    for name, call in calls():
        keywords = {word.arg: ast.unparse(word.value) for word in call.keywords}
        assert keywords.get("shell", "False") == "False", name
        assert name.partition(": ")[2] not in {"os.system", "os.popen", "eval", "exec"}, name


def test_only_defusedxml_parses_xml() -> None:
    for path in CODE:
        imports = re.findall(r"^\s*(?:from|import) (xml\S*|lxml\S*).*", path.read_text(), re.MULTILINE)
        assert set(imports) <= {"xml.etree.ElementTree"}, path  # the type of an element
        assert not re.search(r"^from xml|^import xml|^import lxml", path.read_text(), re.MULTILINE), path


def test_no_associated_image_is_in_the_code() -> None:
    assert [path.name for path in CODE if "associated_images" in path.read_text()] == []
