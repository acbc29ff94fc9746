"""Ends what is left of a local Ray after its driver. It is run as a script, so that it needs nothing else.

    python -I -S watchdog.py SESSION MARK

Standard input is a pipe whose other end only the driver holds. It ends when the driver closes it or is
killed. Then every process of the session is killed, and the session folder is removed. A process belongs to
the session if MARK, a `NAME=value`, is in its environment. Some of Ray's processes overwrite their
environment with their title (setproctitle). They are known by this title and by open files in SESSION.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time

TITLE = b"ray::"
HAS_HANDLES = hasattr(os, "pidfd_open") and os.path.isdir("/proc/self")  # noqa: PTH112 - as below
"""Whether processes can be found and killed without mistaking one for another; on Linux only. On macOS, what
a killed driver leaves is ended by Ray alone."""
QUIET_LOOKS = 2
"""So often no process must be found, because a process that is being killed can have started another one."""
LOOK_SECONDS = 0.1
MOST_SECONDS = 30.0
"""A process that waits for a device cannot be killed."""


def main(session: str, mark: str) -> None:
    """Wait for the end of the driver, and end its session."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a scheduler sends them to all processes of a job
    while os.read(0, 4096):
        pass
    end, quiet = time.monotonic() + MOST_SECONDS, 0
    while HAS_HANDLES and quiet < QUIET_LOOKS and time.monotonic() < end:
        pids = [int(name) for name in os.listdir("/proc") if name.isdecimal()]  # noqa: PTH208
        found = [pid for pid in pids if kill(pid, session, mark)]
        quiet = 0 if found else quiet + 1
        time.sleep(LOOK_SECONDS)
    shutil.rmtree(session, ignore_errors=True)


def kill(pid: int, session: str, mark: str) -> bool:
    """Kill a process if it belongs to the session; return whether it does.

    The handle is opened first. If the process ends and its number is given to another one before the signal
    is sent, the signal reaches neither (pidfd_open(2)).
    """
    if pid == os.getpid():
        return False
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if not belongs(pid, session, mark):
            return False
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    except OSError:  # it has ended, or it is another user's
        return False
    finally:
        os.close(handle)
    return True


def belongs(pid: int, session: str, mark: str) -> bool:
    """Return whether a process belongs to the session.

    Raises:
        OSError: if the process has ended or is another user's.
    """
    if mark.encode() in _content(pid, "environ").split(b"\0"):
        return True
    return _content(pid, "cmdline").startswith(TITLE) and any(
        path.startswith(f"{session}/") for path in _open_files(pid)
    )


def _content(pid: int, name: str) -> bytes:
    with open(f"/proc/{pid}/{name}", "rb") as file:  # noqa: PTH123 - pathlib takes longer to import
        return file.read()


def _open_files(pid: int) -> list[str]:
    folder, paths = f"/proc/{pid}/fd", []
    for name in os.listdir(folder):  # noqa: PTH208
        try:
            paths.append(os.readlink(f"{folder}/{name}"))  # noqa: PTH115
        except OSError:  # closed in this moment
            continue
    return paths


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
