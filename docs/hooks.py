"""What the site adds to `docs/`: files of the repository as pages, and links that fit both places.

Pages are written for two readers: of the repository, where a link leads to a file, and of the site, where it
leads to a page. A link to a file that has no page leads to the repository's address.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

PAGES = {
    "BENCHMARKS.md": "benchmarks.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "train/LOG.md": "development/training-log.md",
    "train/README.md": "development/training.md",
}
"""Files of the repository that are pages of the site, by their paths in both."""
CARDS = "models/*/CARD.md"
"""The cards of the shipped bundles; each is a page under `models/`."""
LINK = re.compile(r"(\]\()([^)\s:]+?)((?:#[\w-]+)?\))")
CODE = re.compile(r"^(```+).*?^\1|`[^`\n]+`", re.MULTILINE | re.DOTALL)
"""What has no links."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the cards to the navigation."""
    for entry in config.nav or []:
        if "Models" in entry:
            entry["Models"] = [entry["Models"], *({path.parent.name: site} for path, site in _cards(config))]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are files elsewhere in the repository."""
    root = _root(config)
    for source, site in PAGES.items():
        text = (root / source).read_text(encoding="utf-8")
        files.append(File.generated(config, site, content=text))
    for path, site in _cards(config):
        files.append(File.generated(config, site, content=path.read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace links to files of the repository by links to pages, or to the repository's address."""
    here = _repository_path(page.file.src_uri, config)
    sites = PAGES | {_relative(path, config): site for path, site in _cards(config)}

    def replaced(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(here), match[2]))
        site = sites.get(target, target.removeprefix("docs/"))
        if files.get_file_from_path(site) is not None and (target in sites or target.startswith("docs/")):
            start = posixpath.dirname(page.file.src_uri)
            return f"{match[1]}{posixpath.relpath(site, start or '.')}{match[3]}"
        if not (_root(config) / target).exists():
            return match[0]  # MkDocs warns of it
        return f"{match[1]}{config.extra['repository']}/blob/main/{target}{match[3]}"

    kept = [match.span() for match in CODE.finditer(markdown)]
    return LINK.sub(
        lambda match: match[0] if any(a <= match.start() < b for a, b in kept) else replaced(match), markdown
    )


def _root(config: MkDocsConfig) -> Path:
    return Path(config.config_file_path).parent


def _cards(config: MkDocsConfig) -> list[tuple[Path, str]]:
    return [(path, f"models/{path.parent.name}.md") for path in sorted(_root(config).glob(CARDS))]


def _relative(path: Path, config: MkDocsConfig) -> str:
    return path.relative_to(_root(config)).as_posix()


def _repository_path(site: str, config: MkDocsConfig) -> str:
    sites: dict[str, Any] = {page: source for source, page in PAGES.items()}
    sites |= {page: _relative(path, config) for path, page in _cards(config)}
    return str(sites.get(site, f"docs/{site}"))
