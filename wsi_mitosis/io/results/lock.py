"""The lock of an output folder: one run at a time, on network file systems too.

The lock is a file that names its holder. It is made by `link(2)`, which is atomic on NFS as well, where
`flock(2)` and `O_EXCL` need not be (open(2), section "NOTES" on O_EXCL). A lock that a dead process left is
taken over. Whether a process on another machine is alive cannot be known, so its lock is only taken over on
request.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from wsi_mitosis.core.moments import now
from wsi_mitosis.errors import OutputError
from wsi_mitosis.io.surroundings import KERNEL, MACHINE, identity
from wsi_mitosis.schema import Spec

FILE = ".wsi-mitosis.lock.json"
WITHOUT_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV})
"""Errors of link(2) on file systems without hard links, such as FAT and some network shares."""
READING_SECONDS = 2.0
"""How long a lock may be incomplete: without hard links it is written after it has appeared."""
TAKEOVER_SECONDS = 60.0
"""Age at which the file of a takeover counts as left by a dead process; a takeover takes milliseconds."""


class Holder(Spec):
    """The process that holds a folder.

    Attributes:
        host: Name of its machine.
        pid: Its number.
        since: When it took the folder, ISO 8601.
        machine, kernel, processes: Identify the installation, the running kernel, and the namespace in which
            `pid` counts; empty where the system does not say.
        ticks: When the process started, in clock ticks since the kernel did; -1 where the system does not
            say. A later process of the same number has another one.
        token: Identifies this lock.
    """

    schema_: Literal[1] = Field(1, alias="schema")
    host: str
    pid: int
    since: str
    machine: str = ""
    kernel: str = ""
    processes: str = ""
    ticks: int = -1
    token: str

    @classmethod
    def this(cls) -> Holder:
        """Return this process as a holder, with a new token."""
        return cls(
            host=socket.gethostname(),
            pid=os.getpid(),
            since=now(),
            machine=identity(MACHINE),
            kernel=identity(KERNEL),
            processes=_namespace(),
            ticks=-1 if (ticks := _started_ticks(os.getpid())) is None else ticks,
            token=secrets.token_hex(8),
        )

    def is_dead(self) -> bool | None:
        """Return whether the process has ended; None if that cannot be known from here."""
        if self.host != socket.gethostname() or self.machine != identity(MACHINE):
            return None
        if self.kernel != identity(KERNEL):
            return True if self.machine else None  # the machine was started again since
        if self.processes != _namespace():
            return None
        ticks = _started_ticks(self.pid)
        return ticks is None or (min(ticks, self.ticks) >= 0 and ticks != self.ticks)

    def __str__(self) -> str:
        """Return who it is, for messages."""
        return f"process {self.pid} on {self.host}, since {self.since}"


class FolderLock:
    """The lock of one folder. It is held from `acquire` to `release`.

    Args:
        folder: An existing folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / FILE
        self._holder: Holder | None = None

    def acquire(self, *, steal: bool = False) -> Holder | None:
        """Take the lock.

        Args:
            steal: Take it over too from a process of which it cannot be known whether it lives.

        Returns:
            The holder that it was taken over from; None if there was none.

        Raises:
            OutputError: if another run holds the folder.
            OSError: if the folder cannot be written.
        """
        mine = Holder.this()
        draft = self._folder / f"{FILE}.{mine.token}"
        earlier = None
        try:
            draft.write_text(mine.model_dump_json(by_alias=True), encoding="utf-8")
            while not _placed(draft, self._path):
                earlier = self._judged(steal=steal)
                self._remove(earlier)
        finally:
            draft.unlink(missing_ok=True)
        self._holder = mine
        return earlier

    def release(self) -> None:
        """Give the lock back, unless another run has taken it over.

        Where nothing can be written any more, the lock stays. The next run takes it over from a dead process.
        """
        if self._holder is not None and self._is_mine():
            with suppress(OSError):
                self._path.unlink()
        self._holder = None

    def check(self) -> None:
        """Check that no other run has taken the lock over.

        Raises:
            OutputError: if one has, or if the lock is gone.
        """
        if self._holder is None or self._is_mine():
            return
        found = read_holder(self._folder)
        cause = "the folder's lock is gone" if found is None else f"this folder was taken over by {found}"
        raise OutputError(cause, subject=self._folder, remedy="Finished slides are kept; run again")

    def _is_mine(self) -> bool:
        found = read_holder(self._folder)
        return found is not None and self._holder is not None and found.token == self._holder.token

    def _judged(self, *, steal: bool) -> Holder | None:
        """Return the holder whose lock may be taken over; None if there is no lock any more.

        Raises:
            OutputError: if the lock must not be taken over.
        """
        holder = _waited_for(self._folder)
        if holder is None and self._path.exists() and not steal:
            remedy = "If no run is at work there, pass --steal-lock"
            raise OutputError("its lock does not say who holds it", subject=self._folder, remedy=remedy)
        dead = True if holder is None else holder.is_dead()
        if dead or (dead is None and steal):
            return holder
        remedy = "Wait for it, or name another folder by --out"
        if dead is None:
            remedy += "; if that process has ended, pass --steal-lock"
        raise OutputError(f"another run holds this folder: {holder}", subject=self._folder, remedy=remedy)

    def _remove(self, judged: Holder | None) -> None:
        """Remove the lock that was judged, and no other one that took its place meanwhile."""
        takeover = self._path.with_name(f"{FILE}.takeover")
        draft = self._folder / f"{FILE}.{secrets.token_hex(8)}"
        try:
            draft.touch()
            if not _placed(draft, takeover):
                if draft.stat().st_mtime - _mtime(takeover, draft) > TAKEOVER_SECONDS:
                    takeover.unlink(missing_ok=True)
                time.sleep(0.05)  # another process is taking it over
                return
            try:
                if read_holder(self._folder) == judged:
                    self._path.unlink(missing_ok=True)
            finally:
                takeover.unlink(missing_ok=True)
        finally:
            draft.unlink(missing_ok=True)


def read_holder(folder: Path) -> Holder | None:
    """Return who holds a folder; None if nobody does, or if its lock does not say."""
    try:
        return Holder.model_validate_json((folder / FILE).read_bytes())
    except (OSError, ValidationError):
        return None


def _waited_for(folder: Path) -> Holder | None:
    """Read the holder of a lock that may just be written."""
    until = time.monotonic() + READING_SECONDS
    while (holder := read_holder(folder)) is None and (folder / FILE).exists() and time.monotonic() < until:
        time.sleep(0.05)
    return holder


def _placed(draft: Path, target: Path) -> bool:
    """Give a file a second name if that is free; return whether this succeeded.

    Raises:
        OSError: if the folder cannot be written.
    """
    try:
        target.hardlink_to(draft)
    except FileExistsError:
        return draft.stat().st_nlink == 2  # NFS may report an error of a link that it made (open(2))
    except OSError as error:
        if error.errno not in WITHOUT_LINKS:
            raise
        return _created(target, draft.read_bytes())
    return True


def _created(target: Path, content: bytes) -> bool:
    try:
        with target.open("xb") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True


def _mtime(path: Path, fallback: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return fallback.stat().st_mtime


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - no file: `pid:[4026531836]`
    except OSError:
        return ""


def _is_alive(pid: int) -> bool:
    """Return whether a process exists, also one of another user that /proc may hide (proc(5), hidepid).

    On Windows, signal 0 would be Ctrl-C for the process (docs.python.org, `signal.CTRL_C_EVENT`).
    """
    if sys.platform == "win32":
        import psutil

        return bool(psutil.pid_exists(pid))
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def _started_ticks(pid: int) -> int | None:
    """Return when a living process started, in ticks (proc_pid_stat(5), field 22).

    Returns:
        None if there is no such process, or if it has ended and nobody has waited for it; -1 if the process
        is hidden.
    """
    try:
        fields = (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
    except OSError:
        return -1 if _is_alive(pid) else None
    state, ticks = fields[0], int(fields[19])
    return None if state in "ZX" else ticks
