"""The log of an output folder: `log.jsonl`, one JSON object per event, whole lines only."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

LOG = "log.jsonl"
MOST_BYTES = 32_000_000
"""Size from which a log is renamed at the start of a run."""
KEPT = 5
"""How many renamed logs are kept: `log.1.jsonl` is the newest."""


class RunLog:
    """Appends events to the log of an output folder that this process holds.

    A line that cannot be written never ends a run: results are worth more than their log. The first such
    error is returned as a message, once, and `lost` counts the lines.

    Args:
        folder: The output folder, which exists.
        most_bytes: Size from which `start` renames the log.

    Attributes:
        path: The file.
        lost: Number of lines that could not be written.
    """

    def __init__(self, folder: Path, *, most_bytes: int = MOST_BYTES) -> None:
        self.path = folder / LOG
        self.lost = 0
        self._most_bytes = most_bytes
        self._is_reported = False

    def start(self) -> str | None:
        """Prepare the log for a run: rename a large one, and end a line that a killed run left unfinished.

        Call it once, before the first event of a run, so that the events of a run stay in one file.

        Returns:
            A message for the user if this failed; None otherwise.
        """
        try:
            if self.path.exists() and self.path.stat().st_size > self._most_bytes:
                self._rotate()
            self._end_last_line()
        except OSError as error:
            return self._message(error)
        return None

    def append(self, event: str, **facts: object) -> str | None:
        """Append one event as a whole line, with the time.

        Args:
            event: Its kind; see `core.events`.
            facts: What is known about it. Values that JSON does not know are written as text.

        Returns:
            A message for the user at the first line that could not be written; None otherwise.
        """
        entry = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **facts}
        line = json.dumps(entry, ensure_ascii=False, default=str) + "\n"
        try:
            self._write(line.encode(errors="backslashreplace"))
        except OSError as error:
            self.lost += 1
            return self._message(error)
        return None

    def _write(self, data: bytes) -> None:
        """Write in one call, or leave the file as it was.

        Raises:
            OSError: if not all bytes were written. A disk that is nearly full takes a part of them.
        """
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)  # Windows: no CR LF
        descriptor = os.open(self.path, flags, 0o666)  # no child inherits it (PEP 446)
        try:
            before = os.fstat(descriptor).st_size
            if os.write(descriptor, data) < len(data):
                os.ftruncate(descriptor, before)
                raise OSError(
                    f"only a part of a line of {len(data)} bytes could be written; is the disk full?"
                )
        finally:
            os.close(descriptor)

    def _end_last_line(self) -> None:
        with suppress(FileNotFoundError), self.path.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(size - 1, 0))
            if log.read(1) not in {b"", b"\n"}:
                self._write(b"\n")

    def _rotate(self) -> None:
        """Rename the log to `log.1.jsonl`, after each renamed log has moved on by one."""
        names = [self.path, *(self.path.with_name(f"log.{number}.jsonl") for number in range(1, KEPT + 1))]
        for older, newer in zip(names[:0:-1], names[-2::-1], strict=True):
            if newer.exists():
                newer.replace(older)

    def _message(self, error: OSError) -> str | None:
        if self._is_reported:
            return None
        self._is_reported = True
        cause = error.strerror or str(error)
        return f"{LOG}: writing: {cause}. Events are missing from it; results are not affected"
