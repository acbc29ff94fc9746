"""Why an attempt at a task is lost, and what a user can do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from wsi_mitosis.errors import printable

CAUSE_CHARACTERS = 200
LOW_MEMORY = "running low on memory"
"""In the message of Ray's memory monitor when it kills a worker (src/ray/raylet/worker_killing_policy)."""

Cause = Literal["memory", "storage", "death", "stall", "node"]

REMEDIES: dict[Cause, str] = {
    "memory": "Pass a smaller --batch-size or fewer --workers, and run again.",
    "storage": "Check that the storage answers, and run again.",
    "death": "Pass fewer --workers, which need less memory, and run again.",
    "stall": "Check the file and its storage, or raise stall_seconds, and run again.",
    "node": "Check the nodes of the cluster with `ray status`, and run again.",
}


@dataclass(frozen=True)
class Loss:
    """An attempt at a task that gave no result.

    Attributes:
        cause: Its kind.
        reason: What happened, in a clause without a full stop.
        details: More for the log; None if there is no more.
    """

    cause: Cause
    reason: str
    details: str | None = None

    def text(self, name: str, tries: int, kept: str) -> str:
        """Return the error of a task that is given up, on one line."""
        times = f" It was tried {tries} times." if tries > 1 else ""
        return printable(f"{name}: {self.reason}.{times} {REMEDIES[self.cause]} {kept}")


def loss_of(error: Exception, exceptions: Any) -> Loss:
    """Return the loss that an error of Ray means.

    Args:
        error: The error with which a worker's answer failed.
        exceptions: The module `ray.exceptions`.
    """
    said = _said(error)
    if isinstance(error, exceptions.OutOfMemoryError) or LOW_MEMORY in str(error):
        return Loss("memory", f"Ray ended its worker because the node ran out of memory ({said})", str(error))
    if isinstance(error, exceptions.NodeDiedError) or _is_of_node(str(error)):
        return Loss("node", f"the node of its worker was lost ({said})", str(error))
    return Loss("death", f"its worker died ({said})", str(error))


def _is_of_node(message: str) -> bool:
    return "node has died" in message or "node died" in message or "node was terminated" in message


def stall(seconds: float) -> Loss:
    """Return the loss of an attempt in which nothing has happened for so long."""
    return Loss("stall", f"nothing has happened for {seconds:g} s: its reader or its storage does not answer")


def _said(error: Exception) -> str:
    """Return why a worker died: the last line of Ray's explanation is the most specific one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1][:CAUSE_CHARACTERS]}" if lines else type(error).__name__
