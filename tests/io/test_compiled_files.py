"""Compiled networks in the user's cache: whole or not at all, bounded, and never in the way."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_mitosis.io import compiled_files
from wsi_mitosis.io.compiled_files import CompiledFiles, user_files

CONTENT = bytes(range(256)) * 4
STORED = len(CONTENT) + compiled_files.DIGEST_BYTES


@pytest.fixture
def files(tmp_path: Path) -> CompiledFiles:
    return CompiledFiles(tmp_path / "caches" / "compiled")


def test_what_was_written_is_read(files: CompiledFiles, tmp_path: Path) -> None:
    assert files.read("a") is None
    files.write("a", CONTENT)
    files.write("b", b"")
    assert (files.read("a"), files.read("b")) == (CONTENT, b"")
    files.write("a", b"new")
    assert files.read("a") == b"new"
    folder = tmp_path / "caches" / "compiled"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b"]


@given(at=st.integers(0, STORED - 1), byte=st.integers(1, 255), cut=st.booleans())
def test_a_damaged_file_is_as_good_as_none(
    tmp_path_factory: pytest.TempPathFactory, at: int, byte: int, cut: bool
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    files = CompiledFiles(folder)
    files.write("a", CONTENT)
    data = bytearray((folder / "a").read_bytes())
    data[at] ^= byte
    (folder / "a").write_bytes(data[:at] if cut else data)
    assert files.read("a") is None
    files.write("a", CONTENT)
    assert files.read("a") == CONTENT


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_full_or_read_only_disk_is_no_failure(
    files: CompiledFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    files.write("a", CONTENT)

    def fail(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", fail)
        patched.setattr(os, "utime", fail)
        files.write("b", CONTENT)
        assert files.read("a") == CONTENT
    assert [path.name for path in (tmp_path / "caches" / "compiled").iterdir()] == ["a"]


def test_a_folder_that_cannot_be_made_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    files = CompiledFiles(tmp_path / "file" / "compiled")
    files.write("a", CONTENT)
    assert files.read("a") is None


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o722])
def test_a_folder_that_others_can_write_is_not_used(tmp_path: Path, mode: int) -> None:
    files = CompiledFiles(tmp_path / "c")
    files.write("a", CONTENT)
    (tmp_path / "c").chmod(mode)
    assert files.read("a") is None
    files.write("b", CONTENT)
    assert not (tmp_path / "c" / "b").exists()


def test_a_folder_of_somebody_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = CompiledFiles(tmp_path / "c")
    files.write("a", CONTENT)
    monkeypatch.setattr(os, "geteuid", lambda: (tmp_path / "c").stat().st_uid + 1)
    assert files.read("a") is None


def test_what_was_used_longest_ago_makes_room(tmp_path: Path) -> None:
    files = CompiledFiles(tmp_path, most_bytes=3 * STORED)
    for age, name in enumerate(["a", "b", ".draft"], start=1):
        (tmp_path / name).write_bytes(b"x" * STORED)
        os.utime(tmp_path / name, (1000 + age, 1000 + age))
    files.write("a", CONTENT)
    os.utime(tmp_path / "a", (1000, 1000))
    assert files.read("a") == CONTENT, "which makes it the newest"
    files.write("c", CONTENT)
    assert {path.name for path in tmp_path.iterdir()} == {"a", ".draft", "c"}
    files.write("d", CONTENT)
    assert {path.name for path in tmp_path.iterdir()} == {"a", "c", "d"}
    files.write("huge", CONTENT * 4)
    assert {path.name for path in tmp_path.iterdir()} == {"a", "c", "d"}


def _busy(folder: Path) -> bool:
    """Write, read and remove as a starting worker does; the limit is that of two files."""
    files = CompiledFiles(folder, most_bytes=2 * STORED)
    for name in "abcd" * 20:
        files.write(name, CONTENT)
        if files.read(name) not in (None, CONTENT):
            return False
    return True


def test_workers_that_start_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    with ProcessPoolExecutor(4) as pool:
        assert all(pool.map(_busy, [tmp_path / "c"] * 4))
    left = list((tmp_path / "c").iterdir())
    assert sum(path.stat().st_size for path in left) <= 2 * STORED


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({"XDG_CACHE_HOME": "/caches"}, "/caches/wsi-mitosis/compiled"),
        ({"XDG_CACHE_HOME": "relative"}, "/home/me/.cache/wsi-mitosis/compiled"),
        ({"XDG_CACHE_HOME": ""}, "/home/me/.cache/wsi-mitosis/compiled"),
        ({}, "/home/me/.cache/wsi-mitosis/compiled"),
    ],
)
def test_the_cache_lies_where_caches_lie(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], place: str
) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path("/home/me"))
    found = user_files(variables)
    assert found is not None
    assert found._folder == Path(place)


def test_without_a_home_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert user_files({}) is None
