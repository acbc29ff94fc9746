"""The documentation: it builds, opens in a browser, and names nothing that does not exist."""

from __future__ import annotations

import ast
import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import browser
from tests.reference import FOLDER, PAGES
from tests.reference.options import page as options_page
from tests.shell_blocks import commands, python_blocks, run_in_order
from tests.test_shipped import ROOT
from wsi_mitosis.specs import PipelineSpec

DOCS = ROOT / "docs"
GENERATED = {FOLDER / name for name in PAGES}
WRITTEN = sorted(
    {*DOCS.rglob("*.md"), *ROOT.glob("*.md"), ROOT / "train/README.md", ROOT / "examples/README.md"}
    - GENERATED
)
PROSE = [path for path in WRITTEN if path.name not in {"CHANGELOG.md", "BENCHMARKS.md"}]
OTHER_PROGRAMS = {
    *("--help", "--version"),  # click
    *("--no-index", "--find-links", "--wheel-dir", "--extra-index-url"),  # pip
    *(
        "--batch",
        "--signal",
        "--filename",
        "--now",
        "--time",
        "--shm-size",
        "--no-install-recommends",
    ),  # schedulers
    *("--no-crop", "--args"),  # QuPath
    *("--wsi-dir", "--results-dir", "--num-workers"),  # WSInfer
    *("--to",),  # a script of the reader's
}
METRICS = "wsi_mitosis_"
"""What the names of metrics begin with; tests/test_operations.py checks them."""
EXAMPLES = {"atypical_mitoses"}
"""Names that a user's own file has."""
IDENTIFIER = re.compile(r"`([a-z]+(?:_[a-z0-9]+)+)`")
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
RUN_ELSEWHERE = [DOCS / "operations.md", DOCS / "index.md", DOCS / "how-to/night.md"]
"""tests/test_operations.py runs the first one; the commands of the others are there or in README."""
RUN_HERE = sorted(
    path
    for path in {*DOCS.rglob("*.md")} - {*RUN_ELSEWHERE}
    if commands(path.read_text(encoding="utf-8")) or python_blocks(path.read_text(encoding="utf-8"))
)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with warnings as errors, without a network where the machine can do so."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    alone = ["unshare", "--net", "--map-root-user"]
    can_be_alone = (
        shutil.which("unshare") and subprocess.run([*alone, "true"], capture_output=True).returncode == 0
    )
    done = subprocess.run(
        [*(alone if can_be_alone else []), *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_has_every_page(site: Path) -> None:
    pages = {path.relative_to(DOCS).with_suffix(".html").as_posix() for path in DOCS.rglob("*.md")}
    cards = {f"models/{path.parent.name}.html" for path in ROOT.glob("models/*/CARD.md")}
    built = {path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    assert (
        pages | cards | {"changelog.html", "contributing.html", "security.html", "benchmarks.html"} <= built
    )


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        loaded = re.findall(
            r"""<(?:script|img|link rel="stylesheet")[^>]*(?:src|href)=["'](https?:[^"']+)""", text
        )
        assert loaded == [], path


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """The site on a server of this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    yield from browser.opened()


def test_pages_open_in_a_browser(address: str, site: Path, chromium: Any) -> None:
    for page in ("index", "tutorial", "reference/files", "reference/python", "explanation/data-flow"):
        chromium.get(f"{address}/{page}.html")
        assert chromium.find_element("tag name", "h1").text
        broken = "return [...document.images].filter(i => !i.naturalWidth).map(i => i.src)"
        assert chromium.execute_script(broken) == []
    assert [entry for entry in chromium.get_log("browser") if entry["level"] == "SEVERE"] == []
    foreign = [
        url
        for url in browser.requests(chromium)
        if not url.startswith((address, "data:", "blob:", "chrome:"))
    ]
    assert foreign == []


def test_the_search_finds_a_column(address: str, chromium: Any) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    chromium.get(f"{address}/index.html")
    chromium.execute_script("document.querySelector('#__search').checked = true")
    field = chromium.find_element("css selector", "input[name=query]")
    field.send_keys("votes_cast")
    results = "a.md-search-result__link[href*='reference/files']"
    assert WebDriverWait(chromium, 20).until(lambda driver: driver.find_elements("css selector", results))


@pytest.mark.parametrize("path", WRITTEN, ids=name)
def test_links_between_files_lead_somewhere(path: Path) -> None:
    text = CODE.sub("", path.read_text(encoding="utf-8"))
    for link in LINK.findall(text):
        if link.startswith(("http:", "https:", "mailto:")):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), link
        if anchor:
            assert anchor in _anchors(target), link


@functools.cache
def _anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    texts = (re.sub(r"[`*]|\[|\]\([^)]*\)", "", heading).lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", text).strip().replace(" ", "-") for text in texts}


@pytest.mark.parametrize("path", PROSE, ids=name)
def test_a_page_names_no_option_that_does_not_exist(path: Path) -> None:
    known = options_page()
    named = re.findall(r"(?<![\w-])--[a-z][a-z-]+", path.read_text(encoding="utf-8"))
    assert [option for option in named if f"`{option}`" not in known and option not in OTHER_PROGRAMS] == []


@functools.cache
def _identifiers() -> frozenset[str]:
    """Every name in the code: functions, attributes, keys, columns, files."""
    found: set[str] = set()
    sources = [*(ROOT / "wsi_mitosis").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 80:
                found.update(re.findall(r"[a-z]\w+", node.value))
            found.update(
                getattr(node, field)
                for field in ("name", "attr", "arg", "id")
                if isinstance(getattr(node, field, None), str)
            )
    texts = [*ROOT.glob("pipelines/*.*"), *ROOT.glob("train/*.toml"), *ROOT.glob("models/*/manifest.toml")]
    for path in texts:
        found.update(re.findall(r"[a-z]\w+", path.read_text(encoding="utf-8")))
    return frozenset(found)


@pytest.mark.parametrize("path", PROSE, ids=name)
def test_a_page_names_no_column_or_key_that_does_not_exist(path: Path) -> None:
    named = IDENTIFIER.findall(path.read_text(encoding="utf-8"))
    known = _identifiers() | EXAMPLES
    assert [one for one in named if one not in known and not one.startswith(METRICS)] == []


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `wsi-mitosis demo demo` was run."""
    folder = tmp_path_factory.mktemp("demo")
    run_in_order(["wsi-mitosis demo demo"], folder)
    return folder / "demo"


@pytest.mark.parametrize("path", RUN_HERE, ids=name)
def test_the_blocks_of_a_page_run(path: Path, demo: Path, tmp_path: Path) -> None:
    """Each page begins in a folder of its own, with a demonstration and its results."""
    text = path.read_text(encoding="utf-8")
    shutil.copytree(demo, tmp_path / "demo")
    shutil.copytree(demo / "results", tmp_path / "results")
    run_in_order(commands(text), tmp_path)
    if blocks := python_blocks(text):
        script = "import matplotlib\nmatplotlib.use('agg')\n" + "\n".join(blocks)
        done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_pages_that_are_not_run_here_have_commands_that_are_run_elsewhere() -> None:
    elsewhere = {
        *commands((ROOT / "README.md").read_text("utf-8")),
        *commands(RUN_ELSEWHERE[0].read_text("utf-8")),
    }
    for path in RUN_ELSEWHERE[1:]:
        assert set(commands(path.read_text("utf-8"))) <= elsewhere


def test_pipelines_in_the_pages_are_valid() -> None:
    found = 0
    for path in (DOCS / "how-to").glob("*.md"):
        for block in re.findall(
            r"^```toml\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
        ):
            assert PipelineSpec.parse_toml(block, path).input.slides
            found += 1
    assert found >= 1
