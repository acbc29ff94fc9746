"""Standard streams that are closed, full, or of another encoding than UTF-8."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from typing import Any

STANDARD = {0: os.O_RDONLY, 1: os.O_WRONLY, 2: os.O_WRONLY}


class _Output(io.FileIO):
    """A standard stream that outlives its reader: output after the reader has left (`| head`) is dropped.

    Output that standard error cannot take is dropped as well, because it cannot be reported.
    """

    _failed = False

    def write(self, data: Any) -> int:
        """Write bytes; a stream that failed once drops everything.

        Raises:
            OSError: the first time that standard output fails for another reason than a reader who left.
        """
        if not self._failed:
            try:
                return super().write(data)
            except OSError as error:
                self._failed = True
                if error.errno != errno.EPIPE and self.fileno() == 1:
                    raise OSError(error.errno, error.strerror, "standard output") from error
        return len(data)


def use_utf8_names() -> None:
    """Start this program again in Python's UTF-8 mode if file names have another encoding.

    In such a locale (C without coercion, ISO-8859-1) other characters in a name are neither found on disk nor
    printed.
    """
    if sys.getfilesystemencoding() == "utf-8" or os.environ.get("PYTHONUTF8") == "1":
        return
    os.environ["PYTHONUTF8"] = "1"
    if sys.stdout is not None:
        os.environ.setdefault("PYTHONIOENCODING", sys.stdout.encoding)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - this very program # nosec B606


def prepare_streams() -> None:
    """Make this process's standard streams safe to print to.

    A closed one becomes the null device, because a file opened later would take its number. A character that
    the stream's encoding lacks is printed escaped. A reader that left does not stop the run.
    """
    for number, mode in STANDARD.items():
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)  # takes the lowest free number, which is this one
    if sys.stdout is None:
        sys.stdout = _stream(1, "utf-8")
    elif _is_own(sys.stdout, 1):
        sys.stdout = _stream(1, sys.stdout.encoding)
    if sys.stderr is None:
        sys.stderr = _stream(2, "utf-8")
    elif _is_own(sys.stderr, 2):
        sys.stderr = _stream(2, sys.stderr.encoding)


def _is_own(stream: object, number: int) -> bool:
    """Return whether a stream is the one that Python opened, and not a replacement by a test or a program."""
    return type(stream) is io.TextIOWrapper and stream.fileno() == number


def _stream(number: int, encoding: str) -> io.TextIOWrapper:
    raw = _Output(number, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding, "backslashreplace", line_buffering=number == 2 or raw.isatty()
    )


def json_text(data: Any) -> str:
    """Return JSON on one line, in ASCII where standard output cannot encode its text."""
    text = json.dumps(data, ensure_ascii=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(data)
    return text
