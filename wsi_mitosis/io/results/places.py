"""No file of a run is written outside its output folder.

A name of a slide is made of the parts of its path, none of which is `..`. Two ways remain for somebody who
may write to the folder: a link in it that leads elsewhere, and a table that states the name of another place.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_mitosis.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


NOWHERE = ("/dev/null", "/dev/full")
"""Devices that keep nothing. A log that leads to one is switched off."""


def refuse_links(folder: Path, names: Iterable[str] | None = None) -> None:
    """Refuse an output folder of which a part is a link that leads outside. The folder itself may be a link.

    A link in place of a file of results is no danger: files are replaced and not written through.

    Args:
        folder: The output folder; it need not exist.
        names: The sub-folders and the appended files that the program writes; all entries by default.

    Raises:
        OutputError: naming the first link.
    """
    root = folder.resolve()
    entries = [folder / name for name in names] if names is not None else [folder]
    for link in (link for entry in entries for link in _links(entry, folder)):
        target = Path(os.path.realpath(link))
        if not target.is_relative_to(root) and str(target) not in NOWHERE:
            raise OutputError(
                f"'{link.relative_to(folder)}' is a link that leads out of the folder, to {target}",
                subject=folder,
                stage="opening the output folder",
                remedy="Remove the link, or name another folder by --out. The folder itself may be a link",
            )


def _links(entry: Path, folder: Path) -> Iterator[Path]:
    """An entry, if it is a link, or the linked folders in it."""
    if entry != folder and entry.is_symlink():
        yield entry
        return
    for place, folders, _ in os.walk(entry):
        yield from (path for path in (Path(place, name) for name in sorted(folders)) if path.is_symlink())
