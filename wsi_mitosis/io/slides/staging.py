"""Copies of slides on a local disk, each made ahead of its turn and removed after it."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sys
import threading
import weakref
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from wsi_mitosis.errors import InputError, StagingError, StorageError
from wsi_mitosis.io.remote import CHUNK_BYTES, RemoteError, ask, read_chunks
from wsi_mitosis.io.slides.parts import files_state, slide_parts
from wsi_mitosis.io.surroundings import OwnFolder, free_bytes, remove_abandoned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from wsi_mitosis.tables import SlideSource

PREFIX = "wsi-mitosis-stage-"
STAGE = "copying"
LEAST_FREE_BYTES = 64 << 20
"""What other programs keep of the disk."""
LOOK_SECONDS = 1.0
"""Time between two looks at how far a copy is, and at whether there is room for the next one."""
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
GIB = 1 << 30


def check_folder(folder: Path) -> None:
    """Check the folder of copies, and remove what killed runs of this user have left in it.

    Raises:
        InputError: if it does not exist or cannot be written.
    """
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        cause = "it cannot be written" if folder.is_dir() else "no such folder"
        raise InputError(
            cause, subject=f"--stage {folder}", stage=STAGE, remedy="Name an existing folder on a local disk"
        )
    remove_abandoned(folder, PREFIX)


def slide_state(source: SlideSource) -> str:
    """Return a digest of what the file system or the store says of a slide; another one if the slide changes.

    Raises:
        OSError: if one of its files is gone.
    """
    if source.remote is None:
        return files_state(source.path).digest
    said = f"{source.remote.shown} {source.remote.size} {source.remote.version}"
    return hashlib.sha256(said.encode(errors="surrogateescape")).hexdigest()


class _File(NamedTuple):
    """A file to copy.

    Attributes:
        name: Its path below the folder of the copy.
        size: Bytes.
        read: Yields its content.
    """

    name: Path
    size: int
    read: Callable[[], Iterator[bytes]]


class _Files(NamedTuple):
    """The files of a slide, and a text that changes if one of them does."""

    files: list[_File]
    state: str

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


@dataclass(eq=False)
class _Copy:
    """A slide that is copied or will be.

    Attributes:
        source: The slide.
        needless: Called before it is copied; whether no copy is needed.
        uses: How often it is still expected: once for each part of the slide.
        begun: Whether it is being copied, or was.
        folder: Where it is copied to; None until then.
        size: Bytes that it takes.
        copied: Bytes that were copied so far.
        dropped: Whether nobody waits for it any more.
        ended: Set when it is copied, failed or dropped.
        result: The copy; None without one.
        error: Why it failed.
    """

    source: SlideSource
    needless: Callable[[], bool]
    uses: int = 0
    begun: bool = False
    folder: Path | None = None
    size: int = 0
    copied: int = 0
    dropped: bool = False
    ended: threading.Event = field(default_factory=threading.Event)
    result: SlideSource | None = None
    error: Exception | None = None


class _DroppedError(Exception):
    """Ends a copy that nobody waits for."""


class Stager:
    """Copies slides, one after the other, in a thread of its own.

    It holds the slide whose turn it is and those that follow, as far as the bound allows. Its folder has mode
    0700, and is removed by `close`, at the end of the process, or, if the process is killed, by the next run.

    Args:
        folder: An existing folder on a local disk.
        most_bytes: What the copies may take together.

    Raises:
        InputError: if the folder cannot be used.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        check_folder(folder)
        self._parent, self._most = folder, most_bytes
        try:
            self._own = OwnFolder(folder, PREFIX)
        except OSError as error:
            raise InputError(
                error.strerror or str(error), subject=f"--stage {folder}", stage=STAGE
            ) from error
        self._copies: dict[SlideSource, _Copy] = {}
        self._changed = threading.Condition()
        self._numbers = count(1)
        self._closed = False
        self._remove = weakref.finalize(self, self._own.remove)  # also at the end of the process
        # a daemon, because a read from a drive that does not answer cannot be ended
        threading.Thread(target=self._serve, name="stager", daemon=True).start()

    def expect(self, slides: Sequence[tuple[SlideSource, Callable[[], bool]]]) -> None:
        """Begin to copy slides in this order, and drop the copies of all others.

        Args:
            slides: The slide whose turn it is, and those that follow; each with a function that returns
                whether it needs no copy, which is called in the copying thread.
        """
        sources = [source for source, _ in slides]
        for source in [source for source in self._copies if source not in sources]:
            self._drop(source)
        with self._changed:
            for source, needless in slides:
                self._copies.setdefault(source, _Copy(source, needless)).uses = sources.count(source)
            self._changed.notify_all()

    def fetch(
        self, source: SlideSource, on_progress: Callable[[], None] = lambda: None
    ) -> SlideSource | None:
        """Wait for the copy of an expected slide.

        Args:
            source: The slide.
            on_progress: Called from time to time while the copy grows.

        Returns:
            The slide at its local path; None if it needs no copy.

        Raises:
            StagingError: if it cannot be copied.
            Exception: any that the slide's function raised.
        """
        copy, seen = self._copies[source], -1
        while not copy.ended.wait(LOOK_SECONDS):
            if copy.copied != seen:
                seen = copy.copied
                on_progress()
        if copy.error is not None:
            raise copy.error
        return copy.result

    def release(self, source: SlideSource) -> None:
        """Remove the copy of a slide, or stop making it, unless it is expected again."""
        with self._changed:
            if (copy := self._copies.get(source)) is not None and copy.uses > 1:
                copy.uses -= 1
                return
        self._drop(source)

    def _drop(self, source: SlideSource) -> None:
        with self._changed:
            copy = self._copies.pop(source, None)
            if copy is None:
                return
            copy.dropped = True
            is_idle = copy.ended.is_set() or not copy.begun
        if is_idle:
            _discard(copy)
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Stop copying and remove the folder."""
        with self._changed:
            self._closed = True
            for copy in self._copies.values():
                copy.dropped = True
                copy.error = copy.error or _given_up(copy.source)
                copy.ended.set()
            self._changed.notify_all()
        self._remove()

    def _serve(self) -> None:
        while (copy := self._next()) is not None:
            try:
                copy.result = self._copied(copy)
            except Exception as error:  # noqa: BLE001 - raised where the copy is waited for
                copy.error, copy.size = error, 0
                _discard(copy)
            with self._changed:
                copy.ended.set()
                is_dropped = copy.dropped
            if is_dropped:
                _discard(copy)

    def _next(self) -> _Copy | None:
        """Wait for the next slide to copy; None at the end."""
        with self._changed:
            while not self._closed:
                waiting = next((copy for copy in self._copies.values() if not copy.begun), None)
                if waiting is not None:
                    waiting.begun = True
                    return waiting
                self._changed.wait()
        return None

    def _copied(self, copy: _Copy) -> SlideSource | None:
        source = copy.source
        if copy.needless():
            return None
        try:
            files = _files_of(source)
            self._wait_for_room(copy, files.size)
            copy.folder = self._own.path / str(next(self._numbers))
            copy.folder.mkdir(mode=0o700)
            for file in files.files:
                self._write(copy, file)
            if _files_of(source).state != files.state:
                raise StorageError(
                    "its files changed while they were copied",
                    subject=source.path.name,
                    stage=STAGE,
                    remedy="Run again when the slide is complete",
                )
        except RemoteError as error:
            kind = StorageError if error.transient else StagingError
            raise kind(error.cause, subject=source.path.name, stage=STAGE, remedy=error.remedy) from None
        except OSError as error:
            raise self._failed(source, error) from error
        return replace(source, path=copy.folder / source.path.name, original=source.place, remote=None)

    def _failed(self, source: SlideSource, error: OSError) -> StagingError:
        name, reason = source.path.name, error.strerror or str(error)
        if error.errno in NO_ROOM:
            remedy = "Make room there, or pass fewer --workers"
            return StorageError(f"{self._parent}: {reason}", subject=name, stage=STAGE, remedy=remedy)
        remedy = "Check the slide's drive and its permissions"
        return StagingError(f"it cannot be read: {reason}", subject=name, stage=STAGE, remedy=remedy)

    def _wait_for_room(self, copy: _Copy, size: int) -> None:
        """Wait until the copies of other slides leave enough room.

        Raises:
            StagingError: if there is not enough for the slide alone.
        """
        name = copy.source.path.name
        if size > self._most:
            raise StagingError(
                f"the slide has {size / GIB:.2f} GiB, more than the {self._most / GIB:g} GiB of --stage-gib",
                subject=name,
                stage=STAGE,
                remedy="Raise --stage-gib",
            )
        with self._changed:
            while not copy.dropped:
                others = [other.size for other in self._copies.values() if other is not copy]
                free = free_bytes(self._parent) - LEAST_FREE_BYTES
                if size + sum(others) <= self._most and size <= free:
                    copy.size = size
                    return
                if not any(others):
                    raise StorageError(
                        f"the slide has {size / GIB:.2f} GiB, and {self._parent} has room for "
                        f"{max(0, free) / GIB:.2f}",
                        subject=name,
                        stage=STAGE,
                        remedy="Make room there, or name another folder with --stage",
                    )
                self._changed.wait(LOOK_SECONDS)
        raise _DroppedError

    def _write(self, copy: _Copy, file: _File) -> None:
        assert copy.folder is not None  # noqa: S101 - it was just made
        target = copy.folder / file.name
        for folder in reversed(file.name.parents):  # never the folder of this copy, which `close` may remove
            if folder.name:
                (copy.folder / folder).mkdir(exist_ok=True)
        written = 0
        with target.open("xb") as out:
            if file.size:
                os.posix_fallocate(out.fileno(), 0, file.size)  # a full disk is known before the work
            for chunk in file.read():
                if copy.dropped:
                    raise _DroppedError
                out.write(chunk)
                written += len(chunk)
                copy.copied += len(chunk)
                if written > file.size:
                    break
        if written != file.size:
            raise StorageError(
                f"{written} bytes of {file.name} arrived{' or more' if written > file.size else ''}, "
                f"and it has {file.size}",
                subject=copy.source.path.name,
                stage=STAGE,
                remedy="Check the store and the network, and run again",
            )


@contextmanager
def staged(source: SlideSource, folder: Path) -> Iterator[SlideSource]:
    """Copy one slide to a folder on a local disk for the time of the block.

    Raises:
        InputError: if the folder cannot be used.
        StagingError: if the slide cannot be copied.
    """
    stager = Stager(folder, sys.maxsize)
    try:
        stager.expect([(source, lambda: False)])
        copy = stager.fetch(source)
        assert copy is not None  # noqa: S101 - it is needed
        yield copy
    finally:
        stager.close()


def _files_of(source: SlideSource) -> _Files:
    """Return the files of a slide as they are now.

    Raises:
        OSError: if one of them is gone.
        RemoteError: if its store does not give it.
    """
    if source.remote is not None:
        url = source.remote.url
        size, version = ask(url)
        file = _File(Path(source.path.name), size, partial(read_chunks, url, size))
        return _Files([file], f"{size} {version}")
    path = source.path
    files = [
        _File(part.relative_to(path.parent), part.stat().st_size, partial(_read_file, part))
        for part in slide_parts(path)
    ]
    return _Files(files, files_state(path).digest)


def _read_file(path: Path) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _discard(copy: _Copy) -> None:
    if copy.folder is not None:
        shutil.rmtree(copy.folder, ignore_errors=True)


def _given_up(source: SlideSource) -> StagingError:
    return StagingError("its copy was given up, because the run ends", subject=source.path.name, stage=STAGE)
