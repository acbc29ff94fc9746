"""Folders that appear whole or not at all; what happens to files is tested where they are written."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsi_mitosis.io.atomic import replacing_folder


def write(path: Path, content: str) -> None:
    with replacing_folder(path) as temporary:
        temporary.mkdir()
        (temporary / "part").write_text(content)


def test_a_folder_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    for content in ("one", "two"):
        write(tmp_path / "deep/store", content)
        assert (tmp_path / "deep/store/part").read_text() == content
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["store"]


def test_a_block_that_fails_leaves_the_earlier_folder(tmp_path: Path) -> None:
    write(tmp_path / "store", "one")
    with pytest.raises(UnicodeEncodeError):
        write(tmp_path / "store", "\udcff")
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["store", "store/part"]


def test_a_folder_that_cannot_be_put_in_place_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "store", "one")
    rename = Path.rename

    def full(self: Path, target: Path) -> Path:
        if (self / "part").is_file() and (self / "part").read_text() == "two":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "store", "two")
    assert (tmp_path / "store/part").read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
