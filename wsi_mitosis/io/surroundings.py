"""What a run needs of the machine around it: temporary folders, shared memory, a home, loopback."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import stat
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_mitosis.errors import InputError, listed

try:
    import fcntl
except ImportError:  # Windows, which has no flock(2): no folder is known to be abandoned there
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - it has no other name # nosec B108
LOOPBACK = "127.0.0.1"
STAGE = "starting Ray"
WITHOUT_RAY = "pass --workers 0, which works without Ray"
FOLDER_PREFIX = "wsi-"
OWNER = "owner"
"""File of a session folder. It is locked (flock(2)) while the process that created the folder lives."""
KERNEL = Path("/proc/sys/kernel/random/boot_id")
"""Its content differs for every running kernel (random(4))."""
MACHINE = Path("/etc/machine-id")
"""Its content differs for every installation (machine-id(5))."""
LONGEST_SOCKET = "r/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""Ray's longest socket path below its session folder (ray/_private/node.py). A Unix socket's path has at most
107 bytes (unix(7)), so the folder must be short."""
LEAST_FOLDER_BYTES = 32 * 2**20
"""Logs of a run. What the object store needs is counted apart."""
STORE_BYTES = 512 * 2**20
"""Results are tables of a few MB. Ray's default, a third of the memory, would be taken from the slides."""
LEAST_STORE_BYTES = 75 * 2**20
"""Ray refuses a smaller store (ray_constants.OBJECT_STORE_MINIMUM_MEMORY_BYTES)."""
USABLE_SHARE = 0.9
"""Share of the free space that the object store may take."""
LOOPBACK_SECONDS = 5.0
REMOVAL_ATTEMPTS, REMOVAL_SECONDS = 10, 0.2
"""Ray's processes write their last lines while the session folder is removed."""


@dataclass(frozen=True)
class ObjectStore:
    """Where Ray keeps the results that are on their way.

    Attributes:
        folder: Holds its memory-mapped file.
        size_bytes: Its capacity.
    """

    folder: Path
    size_bytes: int


def temporary_folders(environment: Mapping[str, str] | None = None) -> tuple[Path, ...]:
    """Return the folders in which temporary files may be created, the preferred one first.

    Args:
        environment: Environment variables; this process's own if None.
    """
    variables = os.environ if environment is None else environment
    named = [variables.get(name) for name in ("RAY_TMPDIR", "TMPDIR", "TEMP", "TMP")]
    places = [*named, "/tmp", "/var/tmp", variables.get("XDG_RUNTIME_DIR"), str(SHARED_MEMORY)]  # noqa: S108 # nosec B108
    return tuple(dict.fromkeys(Path(place).absolute() for place in places if place))


@contextmanager
def session_folder() -> Iterator[Path]:
    """A private folder (mode 0700) for a Ray session, removed at the end of the block.

    It lies in the first of `temporary_folders` that can be written, has room, and has a path in ASCII that is
    short enough for Ray's sockets. Session folders there whose process was killed are removed first.

    Raises:
        InputError: if no folder is suitable, or if the system has no Unix sockets, as Python on Windows.
    """
    if not hasattr(socket, "AF_UNIX"):
        raise InputError(
            "this system has no Unix sockets, which Ray uses",
            stage=STAGE,
            remedy="Pass --workers 0, which works without Ray",
        )
    folder = _created_session()
    lock = None
    try:
        lock = _own(folder)
        yield folder
    finally:
        try:
            _remove_session(folder)
        finally:
            if lock is not None:
                os.close(lock)


def _created_session() -> Path:
    reasons = {}
    for parent in temporary_folders():
        try:
            return _suitable(parent)
        except OSError as error:
            reasons[parent] = error.strerror or str(error)
    raise InputError(
        "no temporary folder is suitable (it must be writable, have "
        f"{LEAST_FOLDER_BYTES // 2**20} MB free, and a short path in ASCII): "
        + listed(f"{parent}: {reason}" for parent, reason in reasons.items()),
        stage=STAGE,
        remedy=f"Make room in /tmp or set TMPDIR to another folder with a short path; or {WITHOUT_RAY}",
    )


def _suitable(parent: Path) -> Path:
    """Create a folder in `parent` and try whether Ray can use it.

    Raises:
        OSError: if it cannot.
    """
    if not str(parent).isascii():
        raise OSError("its path is not ASCII, which Ray requires")
    remove_abandoned(parent)
    folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=parent))
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.bind(str(folder / LONGEST_SOCKET.replace("/", "-")))
        if shutil.disk_usage(folder).free < LEAST_FOLDER_BYTES:
            raise OSError(f"less than {LEAST_FOLDER_BYTES // 2**20} MB free")
    except OSError:
        _remove(folder)
        raise
    for probed in folder.iterdir():
        probed.unlink()
    return folder


class OwnFolder:
    """A private folder (mode 0700) of this process. If the process is killed, `remove_abandoned` removes it.

    Args:
        parent: An existing folder.
        prefix: Start of the folder's name.

    Attributes:
        path: The folder.

    Raises:
        OSError: if it cannot be made.
    """

    def __init__(self, parent: Path, prefix: str) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        self._lock = _own(self.path)

    def remove(self) -> None:
        """Remove the folder with all it contains."""
        _remove_session(self.path)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _own(folder: Path) -> int | None:
    """Lock a session folder's `OWNER` file; the lock ends with this process, however that ends.

    Returns:
        The file's descriptor; None if the file system has no locks, and the folder is never abandoned.
    """
    if fcntl is None:
        return None
    unlocked = folder / f"{OWNER}.new"  # a file called OWNER is locked from its first moment on
    descriptor = os.open(unlocked, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(descriptor, "\n".join(_this_machine()).encode())
        unlocked.rename(folder / OWNER)
    except OSError:
        os.close(descriptor)
        unlocked.unlink(missing_ok=True)
        return None
    return descriptor


def remove_abandoned(parent: Path, prefix: str = FOLDER_PREFIX) -> None:
    """Remove the session folders of this user in `parent` whose process is gone, and nothing else."""
    if fcntl is None:
        return
    try:
        with os.scandir(parent) as entries:
            folders = [Path(entry) for entry in entries if _is_private_session(entry, prefix)]
    except OSError:  # a folder may be writable and not readable
        return
    for folder in folders:
        lock = _lock_of_abandoned(folder)
        if lock is not None:
            _remove_session(folder)
            os.close(lock)


def _is_private_session(entry: os.DirEntry[str], prefix: str) -> bool:
    if not entry.name.startswith(prefix):
        return False
    try:
        state = entry.stat(follow_symlinks=False)
    except OSError:  # removed in this moment
        return False
    return stat.S_ISDIR(state.st_mode) and state.st_uid == os.geteuid()


def _this_machine() -> tuple[str, str, str]:
    """Return what identifies the running kernel, the installation, and its name."""
    return identity(KERNEL), identity(MACHINE), socket.gethostname()


def identity(path: Path) -> str:
    """Return the content of `KERNEL` or `MACHINE`; nothing where the system has no such file."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _lock_of_abandoned(folder: Path) -> int | None:
    """Lock a folder's `OWNER` file and return its descriptor; None if that is not certainly abandoned.

    A lock is only trusted under the kernel that wrote it, or after a restart of the same installation: some
    network file systems do not show locks to other machines.
    """
    try:
        descriptor = os.open(folder / OWNER, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        kernel, *installation = os.read(descriptor, 1000).decode(errors="replace").split("\n")
        this_kernel, *this_installation = _this_machine()
        has_restarted = bool(this_installation[0]) and installation == this_installation
        if (this_kernel and kernel == this_kernel) or has_restarted:
            return descriptor
    except OSError:
        pass  # locked: its process lives
    os.close(descriptor)
    return None


def _remove_session(folder: Path) -> None:
    """Remove a session folder, `OWNER` after Ray's folders: what a killed process leaves is found again."""
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.is_dir() and not entry.is_symlink():
            _remove(entry)
    _remove(folder)


def _remove(folder: Path) -> None:
    for _ in range(REMOVAL_ATTEMPTS):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(REMOVAL_SECONDS)


def object_store(session: Path) -> ObjectStore:
    """Return where Ray's object store fits: shared memory, or the session folder if that is too small.

    Args:
        session: The session folder.

    Raises:
        InputError: if neither has room for the smallest store.
    """
    for folder in (SHARED_MEMORY, session):
        size = min(STORE_BYTES, int(free_bytes(folder) * USABLE_SHARE))
        if size >= LEAST_STORE_BYTES:
            return ObjectStore(folder, size)
    needed = round(LEAST_STORE_BYTES / USABLE_SHARE / 2**20)
    raise InputError(
        f"{SHARED_MEMORY} and {session.parent} each have less than {needed} MB free",
        stage=STAGE,
        remedy=f"Make room, or start the container with more shared memory (--shm-size=1g); or {WITHOUT_RAY}",
    )


def free_bytes(folder: Path) -> int:
    """Return the free space that this process may use in a folder; 0 if it cannot write there."""
    try:
        return shutil.disk_usage(folder).free if os.access(folder, os.W_OK | os.X_OK) else 0
    except OSError:
        return 0


def check_loopback() -> None:
    """Connect to a port of this machine's own, as Ray's processes do.

    Raises:
        InputError: if that is impossible. Ray itself would wait for minutes.
    """
    try:
        with (
            socket.create_server((LOOPBACK, 0)) as server,
            socket.create_connection(server.getsockname(), timeout=LOOPBACK_SECONDS),
        ):
            pass
    except OSError as error:
        raise InputError(
            f"this machine cannot connect to itself on {LOOPBACK}: {error.strerror or error}",
            stage=STAGE,
            remedy=f"Bring up the loopback interface (`ip link set lo up`), or allow it in the firewall; "
            f"or {WITHOUT_RAY}",
        ) from error


def writable_home() -> Path | None:
    """Return the user's home; None if there is none or it cannot be written."""
    try:
        home = Path.home()
    except RuntimeError:  # no HOME, and no entry for the user in the password file
        return None
    return home if home.is_dir() and os.access(home, os.W_OK | os.X_OK) else None


@contextmanager
def private_caches() -> Iterator[None]:
    """Within the block, libraries that keep caches in the home, or ask for the user's name, are answered.

    Without a writable home, matplotlib and numba get a private folder that is removed at the end. Where the
    home is not even known, that folder is the home as well: TIAToolbox cannot be imported without one. A user
    without a name, as in a container that is started with `--user 1000`, is called by its number: torch names
    a folder after the user.
    """
    with ExitStack() as stack:
        wanted = {} if _has_name() else {"USER": f"uid-{_user_number()}"}
        if writable_home() is None:
            wanted |= stack.enter_context(_private_home())
        added = {name: value for name, value in wanted.items() if not os.environ.get(name)}
        os.environ.update(added)
        try:
            yield
        finally:
            for name in added:
                os.environ.pop(name, None)


def _user_number() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0  # Windows has no numbers of users


def _has_name() -> bool:
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):  # the second from Python 3.13 on, the third on Windows before
        return False
    return True


@contextmanager
def _private_home() -> Iterator[dict[str, str]]:
    """Environment variables that name a private folder, which is removed at the end."""
    try:
        caches = tempfile.TemporaryDirectory(prefix=FOLDER_PREFIX, ignore_cleanup_errors=True)
    except OSError:  # nothing can be written anywhere: the code that needs to write reports it
        yield {}
        return
    with caches as folder:
        variables = {"MPLCONFIGDIR": folder, "NUMBA_CACHE_DIR": folder}
        try:
            Path.home()
        except RuntimeError:
            variables["HOME"] = folder
        yield variables
