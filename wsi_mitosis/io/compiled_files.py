"""Compiled networks in the user's cache, so that workers start at once. No result depends on it."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from wsi_mitosis.io.atomic import replacing
from wsi_mitosis.io.limits import LimitError, read_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MOST_BYTES = 1 << 30
"""Bytes of all files together. A member of a shipped bundle has 7 to 21 MB."""
DIGEST_BYTES = hashlib.sha256().digest_size
PRIVATE, WRITABLE_BY_OTHERS = 0o700, 0o022


class CompiledFiles:
    """A folder of compiled networks, for several processes at a time.

    A file appears whole or not at all, and its first bytes are the SHA-256 of the others. When the files
    exceed their limit, those that were used longest ago are removed. A folder that cannot be read or written
    is as good as an empty one.

    Args:
        folder: The folder, which is made if needed.
        most_bytes: Limit of all files together.
    """

    def __init__(self, folder: Path, most_bytes: int = MOST_BYTES) -> None:
        self._folder, self._most_bytes = folder, most_bytes

    def read(self, name: str) -> bytes | None:
        """Return what was written under a name; None if there is nothing, or it is damaged."""
        path = self._folder / name
        try:
            if not self._is_ours():
                return None
            content = read_bytes(path, self._most_bytes)
        except (OSError, LimitError):
            return None
        if hashlib.sha256(content[DIGEST_BYTES:]).digest() != content[:DIGEST_BYTES]:
            return None
        with suppress(OSError):  # a folder that can only be read has no time of use
            os.utime(path)
        return content[DIGEST_BYTES:]

    def write(self, name: str, content: bytes) -> None:
        """Keep a content, if the folder can be written and has room."""
        if DIGEST_BYTES + len(content) > self._most_bytes:
            return
        with suppress(OSError):
            self._folder.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
            if self._is_ours():
                with replacing(self._folder / name, durable=False) as temporary:
                    temporary.write_bytes(hashlib.sha256(content).digest() + content)
                self._remove_oldest()

    def _is_ours(self) -> bool:
        """Whether nobody else can write into the folder: a network is not checked when it computes.

        On Windows this cannot be known from the mode, so that nothing is kept there.
        """
        if not hasattr(os, "geteuid"):
            return False
        state = self._folder.stat()
        return state.st_uid == os.geteuid() and not state.st_mode & WRITABLE_BY_OTHERS

    def _remove_oldest(self) -> None:
        total = 0
        for file in sorted(self._files(), reverse=True):
            total += file.bytes
            if total > self._most_bytes:
                file.path.unlink(missing_ok=True)

    def _files(self) -> Iterator[_File]:
        """Yield all files, also drafts of processes that were killed."""
        for path in self._folder.iterdir():
            with suppress(FileNotFoundError):  # another process removed it
                state = path.stat()
                yield _File(state.st_mtime_ns, path, state.st_size)


class _File(NamedTuple):
    used_ns: int
    path: Path
    bytes: int


def user_files(environment: Mapping[str, str] | None = None) -> CompiledFiles | None:
    """Return the compiled networks in the user's cache; None if the user has no home.

    The folder is that of the XDG Base Directory Specification, by which a relative path is ignored.

    Args:
        environment: Environment variables; this process's own if None.
    """
    variables = os.environ if environment is None else environment
    caches = Path(variables.get("XDG_CACHE_HOME", ""))
    if not caches.is_absolute():
        try:
            caches = Path.home() / ".cache"
        except RuntimeError:  # no HOME, and no entry for the user in the password file
            return None
    return CompiledFiles(caches / "wsi-mitosis" / "compiled")
