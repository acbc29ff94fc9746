"""The pages of the reference that are made from the code; `python -m tests.reference` writes them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.reference import commands, files, log, messages, options, pipelines

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs/reference"
PAGES: dict[str, Callable[[], str]] = {
    "commands.md": commands.page,
    "files.md": files.page,
    "log.md": log.page,
    "messages.md": messages.page,
    "options.md": options.page,
    "pipelines.md": pipelines.page,
}


def write_pages(folder: Path = FOLDER) -> None:
    """Write every page into a folder."""
    for name, page in PAGES.items():
        (folder / name).write_text(page(), encoding="utf-8")
