"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from wsi_mitosis.core.naming import COMPONENT_BYTES, shortened

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FOR_FSYNC = "rb+" if os.name == "nt" else "rb"
"""Windows writes only what was opened for writing to the disk (_commit, learn.microsoft.com)."""


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A sibling to write to, which takes the place of `path` when the block ends well.

    The sibling's name starts with a dot, ends like the target's, and is short enough for every file system.
    Its folder is made if needed.

    Args:
        path: The file.
        durable: Wait until the content is on the disk. Without that, a loss of power may leave an empty file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _sibling(path)
    try:
        yield temporary
        if durable:
            with temporary.open(FOR_FSYNC) as written:
                os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """As `replacing`, for a folder of many files, which the block makes.

    A folder cannot take the place of another in one step. Between two renames no folder has the name, and a
    process that is killed there leaves the earlier one under a hidden name beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, earlier = _sibling(path), _sibling(path)
    try:
        yield temporary
        if path.exists():
            path.rename(earlier)
        try:
            temporary.rename(path)
        except OSError:
            if earlier.exists():
                earlier.rename(path)
            raise
        shutil.rmtree(earlier, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sibling(path: Path) -> Path:
    # nobody can guess the name and put a link there, which would be written through
    draft = f".{os.getpid()}-{secrets.token_hex(4)}-{path.name}"
    return path.with_name(shortened(draft, COMPONENT_BYTES))


def write_text(path: Path, text: str, *, durable: bool = True) -> None:
    """Write a whole text file (UTF-8, line ends as given); `durable` is that of `replacing`.

    A byte of a file name that is not UTF-8 is written as an escape, such as `\\udcfc`.
    """
    with replacing(path, durable=durable) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
