"""Tell another program that a run has ended, for example one that sends a mail."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

from wsi_mitosis.errors import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SECONDS = 60.0
"""How long a command may take."""
OUTPUT_CHARACTERS = 300
"""How much of a failed command's output its message has."""
RAY = "RAY_"
"""Beginning of Ray's environment variables. They may hold the token of a cluster."""


def notify(command: str, summary: Mapping[str, object], *, seconds: float = SECONDS) -> str | None:
    """Run a command with the summary of a run as a JSON object on its standard input.

    The command has no shell: quotes hold an argument together, and `|`, `>` and `$` mean themselves. It gets
    the environment without Ray's variables. It and what it has started are ended after `seconds`.

    Args:
        command: A program and its arguments.
        summary: The summary.
        seconds: How long the command may take, s.

    Returns:
        A message for the user if the command failed; None otherwise.
    """
    try:
        arguments = shlex.split(command)
    except ValueError as error:
        return _failed(f"cannot be split into arguments: {error}")
    if not arguments:
        return _failed("is empty")
    return _run(arguments, json.dumps(summary, default=str).encode() + b"\n", seconds)


def _run(arguments: Sequence[str], data: bytes, seconds: float) -> str | None:
    try:
        process = _started(arguments)
    except (OSError, ValueError) as error:  # ValueError: a NUL character in an argument
        return _failed(f"cannot be started: {getattr(error, 'strerror', None) or error}", arguments)
    with process:
        try:
            output, _ = process.communicate(data, timeout=seconds)
        except subprocess.TimeoutExpired as late:
            _end(process)
            return _failed(f"took longer than {seconds:g} s and was ended", arguments, late.output or b"")
        except BaseException:  # an interrupt must not leave the command behind
            _end(process)
            raise
    return _failed(_ending(process.returncode), arguments, output) if process.returncode else None


def _started(arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - the operator's own command, without a shell
        arguments,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={name: value for name, value in os.environ.items() if not name.startswith(RAY)},
        start_new_session=True,  # a group of its own, so that all of it can be ended
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command and what it has started."""
    with suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:  # Windows has no groups of processes: what the command has started goes on
            process.kill()


def _ending(status: int) -> str:
    return f"was ended by signal {-status}" if status < 0 else f"ended with exit status {status}"


def _failed(cause: str, arguments: Sequence[str] = (), output: bytes = b"") -> str:
    """Return the message of a failure. It names the program alone: an argument may be a password."""
    program = f" '{arguments[0]}'" if arguments else ""
    words = " ".join(output.decode(errors="backslashreplace").split())
    said = f": {words[-OUTPUT_CHARACTERS:]}" if words else ""
    return printable(f"--notify: the command{program} {cause}{said}. The results are complete")
