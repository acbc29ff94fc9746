from __future__ import annotations

import json
import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from wsi_mitosis.core.events import parse_event
from wsi_mitosis.io.results.log import RunLog


def events(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size, in bytes: a write then takes what fits."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_an_event_is_a_line_that_fits_its_schema(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    assert log.append("warning", message="a\nb µ", slide="M\udcfcller.svs") is None
    assert log.append("waiting", slide="b.svs", reason=Path("/data/b.svs")) is None
    found = events(tmp_path / "log.jsonl")
    assert [event["event"] for event in found] == ["warning", "waiting"]
    assert (found[0]["message"], found[0]["slide"]) == ("a\nb µ", "M\udcfcller.svs")
    assert [parse_event(event).time.utcoffset() is not None for event in found] == [True, True]


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o002, 0o664)])
def test_the_users_umask_decides_who_reads_the_log(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        RunLog(tmp_path).append("warning", message="hello")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "log.jsonl").stat().st_mode) == mode


def test_a_full_disk_is_reported_once_and_lines_stay_whole(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.append("warning", message="first")
    whole = (tmp_path / "log.jsonl").read_bytes()
    with largest_file(len(whole) + 10):
        message = log.append("warning", message="this line does not fit")
        assert log.append("warning", message="nor does this one") is None
    assert message is not None
    assert message.startswith("log.jsonl: writing: ")
    assert (tmp_path / "log.jsonl").read_bytes() == whole
    assert log.lost == 2
    assert log.append("warning", message="there is room again") is None
    assert [event["message"] for event in events(tmp_path / "log.jsonl")] == ["first", "there is room again"]


def test_a_device_without_room_does_not_end_the_run(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    message = RunLog(tmp_path).append("warning", message="lost")
    assert message is not None
    assert "No space left on device" in message


def test_a_folder_that_is_gone_does_not_end_the_run(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "gone")
    assert log.start() is None
    assert "No such file" in (log.append("warning", message="lost") or "")


def test_a_large_log_is_renamed_at_the_start_and_five_are_kept(tmp_path: Path) -> None:
    for run in range(8):
        log = RunLog(tmp_path, most_bytes=100)
        assert log.start() is None
        for part in range(3):  # a log that grows too large in a run is left alone until the next one
            log.append("warning", message=f"run {run}, part {part} of a log of more than 100 bytes")
    found = {path.name: [event["message"][:13] for event in events(path)] for path in tmp_path.iterdir()}
    names = ["log.jsonl", *(f"log.{number}.jsonl" for number in range(1, 6))]
    assert found == {
        name: [f"run {7 - age}, part {part}" for part in range(3)] for age, name in enumerate(names)
    }


def test_a_log_up_to_the_size_is_not_renamed(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_bytes(b"x" * 99 + b"\n")
    RunLog(tmp_path, most_bytes=100).start()
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


def test_a_log_that_cannot_be_renamed_is_reported_and_continued(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_bytes(b"{}\n" * 100)
    (tmp_path / "log.1.jsonl/in the way").mkdir(parents=True)
    log = RunLog(tmp_path, most_bytes=100)
    for number in range(2, 6):
        (tmp_path / f"log.{number}.jsonl").mkdir()
        (tmp_path / f"log.{number}.jsonl/in the way").mkdir()
    assert "log.jsonl: writing: " in (log.start() or "")
    log.append("warning", message="goes on")
    assert events(tmp_path / "log.jsonl")[-1]["message"] == "goes on"


def test_a_line_that_a_killed_run_left_unfinished_is_ended(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_bytes(b'{"event": "warning", "mess')
    for run in range(2):
        log = RunLog(tmp_path)
        log.start()
        log.append("warning", message=f"run {run}")
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert lines[0] == '{"event": "warning", "mess'
    assert [json.loads(line)["message"] for line in lines[1:]] == ["run 0", "run 1"]
