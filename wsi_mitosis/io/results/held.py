"""A folder that one run at a time writes to, with `run.json` and the log."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

from filelock import FileLock, Timeout

from wsi_mitosis.errors import OutputError
from wsi_mitosis.io.atomic import write_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class HeldFolder:
    """A folder that this process holds. Use it as a context manager.

    Args:
        folder: Created if it does not exist.

    Raises:
        OutputError: if the folder cannot be written, or another run holds it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        remedy = "Name another by --out"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(folder / ".wsi-mitosis.lock")
            self._lock.acquire(timeout=0)
        except Timeout as error:
            wait = "Wait for the other run, or name another folder by --out"
            raise OutputError("another run holds this folder", subject=folder, remedy=wait) from error
        except (OSError, NotImplementedError) as error:  # NotImplementedError: the file system has no locks
            raise OutputError(f"cannot be written: {error}", subject=folder, remedy=remedy) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def write_run(self, run: Mapping[str, Any]) -> None:
        """Write `run.json`."""
        write_text(
            self.folder / "run.json", json.dumps(run, indent=1, ensure_ascii=False, default=str) + "\n"
        )

    def log(self, event: str, **facts: object) -> None:
        """Append one event to `log.jsonl`, a whole line in one write."""
        entry = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **facts}
        line = json.dumps(entry, ensure_ascii=False, default=str) + "\n"
        descriptor = os.open(self.folder / "log.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line.encode(errors="backslashreplace"))
        finally:
            os.close(descriptor)
