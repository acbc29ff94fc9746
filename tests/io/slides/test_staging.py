"""Copies of slides: whole, bounded, private, and gone when they are not needed."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.stores import WebStore, web_store
from wsi_mitosis.errors import InputError, StagingError, StorageError
from wsi_mitosis.io.remote import is_url, shown_url, url_parts
from wsi_mitosis.io.slides import find_slides, staging
from wsi_mitosis.io.slides.staging import PREFIX, Stager, staged
from wsi_mitosis.jobs.transient import transient_cause
from wsi_mitosis.tables import SlideSource

SIZE = 100_000


def slide(path: Path, size: int = SIZE) -> SlideSource:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(size))
    return SlideSource(path, path.name)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk"


@pytest.fixture
def stager(disk: Path) -> Iterator[Stager]:
    made = Stager(disk, 10 * SIZE)
    yield made
    made.close()


@pytest.fixture
def web(tmp_path: Path) -> Iterator[WebStore]:
    slide(tmp_path / "web" / "slides" / "a.svs")
    with web_store(tmp_path / "web") as store:
        yield store


def needed() -> bool:
    return False


def copy_of(stager: Stager, source: SlideSource) -> SlideSource:
    stager.expect([(source, needed)])
    copy = stager.fetch(source)
    assert copy is not None
    return copy


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.name != "owner")


def at(store: WebStore, name: str = "slides/a.svs") -> SlideSource:
    return find_slides([f"{store.url}/{name}"], staged=True).sources[0]


# --- copies


def test_a_copy_is_the_slide_under_its_own_name_in_a_private_folder(
    stager: Stager, disk: Path, tmp_path: Path
) -> None:
    source = slide(tmp_path / "drive" / "a.svs", 3 * SIZE + 1)
    copy = copy_of(stager, source)
    assert copy.path.read_bytes() == source.path.read_bytes()
    assert (copy.path.name, copy.place) == ("a.svs", str(source.path))
    (own,) = disk.iterdir()
    assert own.name.startswith(PREFIX)
    assert stat.S_IMODE(own.stat().st_mode) == 0o700
    stager.release(source)
    assert files_in(disk) == []


def test_a_slide_that_is_also_next_in_another_part_is_copied_once(
    stager: Stager, disk: Path, tmp_path: Path
) -> None:
    source, other = slide(tmp_path / "a.svs"), slide(tmp_path / "b.svs")
    stager.expect([(source, needed), (source, needed)])
    first = stager.fetch(source)
    stager.release(source)
    stager.expect([(source, needed), (other, needed)])
    assert stager.fetch(source) == first
    assert stager._copies[other].ended.wait(30)
    assert files_in(disk) == ["a.svs", "b.svs"]
    stager.release(source)
    assert files_in(disk) == ["b.svs"]


def test_files_beside_a_slide_are_copied_with_it(stager: Stager, tmp_path: Path) -> None:
    source = slide(tmp_path / "drive" / "a.mrxs", 10)
    slide(tmp_path / "drive" / "a" / "Slidedat.ini")
    slide(tmp_path / "drive" / "a" / "deep" / "Data0000.dat")
    slide(tmp_path / "drive" / "b.mrxs")
    copied = copy_of(stager, source).path.parent
    assert files_in(copied) == ["Data0000.dat", "Slidedat.ini", "a.mrxs"]
    assert (copied / "a" / "deep" / "Data0000.dat").stat().st_size == SIZE


def test_the_next_slide_is_copied_while_the_present_one_is_in_hand(stager: Stager, tmp_path: Path) -> None:
    first, second = slide(tmp_path / "a.svs"), slide(tmp_path / "b.svs")
    stager.expect([(first, needed), (second, needed)])
    assert stager.fetch(first) is not None
    assert stager._copies[second].ended.wait(30)
    assert stager.fetch(second) is not None


def test_a_slide_that_is_not_next_after_all_makes_room(stager: Stager, disk: Path, tmp_path: Path) -> None:
    sources = [slide(tmp_path / name, 6 * SIZE) for name in ("a.svs", "b.svs", "c.svs")]
    stager.expect([(source, needed) for source in sources[:2]])
    assert stager.fetch(sources[0]) is not None
    stager.release(sources[0])
    copy_of(
        stager, sources[2]
    )  # `b.svs`, which takes more than the rest of the bound, was given to another worker
    assert files_in(disk) == ["c.svs"]


def test_a_slide_waits_for_the_room_that_the_present_one_takes(stager: Stager, tmp_path: Path) -> None:
    first, second = slide(tmp_path / "a.svs", 6 * SIZE), slide(tmp_path / "b.svs", 6 * SIZE)
    stager.expect([(first, needed), (second, needed)])
    assert stager.fetch(first) is not None
    assert not stager._copies[second].ended.wait(0.1)
    stager.release(first)
    assert stager.fetch(second) is not None


def test_a_slide_larger_than_the_bound_fails_by_itself(stager: Stager, tmp_path: Path) -> None:
    large, small = slide(tmp_path / "large.svs", 11 * SIZE), slide(tmp_path / "small.svs")
    stager.expect([(large, needed), (small, needed)])
    with pytest.raises(
        StagingError, match=r"large.svs: copying: .* --stage-gib\. Raise --stage-gib"
    ) as caught:
        stager.fetch(large)
    assert transient_cause(caught.value) is None
    assert stager.fetch(small) is not None


def test_a_slide_larger_than_the_free_space_fails_for_now(
    stager: Stager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "free_bytes", lambda _: staging.LEAST_FREE_BYTES + SIZE - 1)
    with pytest.raises(StorageError, match="room for") as caught:
        copy_of(stager, slide(tmp_path / "a.svs"))
    assert transient_cause(caught.value) == "storage"


def test_a_disk_that_fills_up_is_no_fault_of_the_slide(
    stager: Stager, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StorageError, match="No space left"):
        copy_of(stager, slide(tmp_path / "a.svs"))
    assert files_in(disk) == []


@pytest.mark.parametrize("fault", ["changes", "is cut off"])
def test_a_file_that_does_not_arrive_whole_is_no_copy(
    fault: str, stager: Stager, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = slide(tmp_path / "a.svs")

    def read(path: Path) -> Iterator[bytes]:
        content = path.read_bytes()
        if fault == "changes":
            path.write_bytes(os.urandom(SIZE))
            os.utime(path, (1, 1))
        yield content if fault == "changes" else content[:-1]

    monkeypatch.setattr(staging, "_read_file", read)
    match = "changed while they were copied" if fault == "changes" else f"{SIZE - 1} bytes of a.svs arrived"
    with pytest.raises(StorageError, match=match) as caught:
        copy_of(stager, source)
    assert transient_cause(caught.value) == "storage"
    assert files_in(disk) == []


def test_a_drive_that_does_not_answer_is_known_as_such(
    stager: Stager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: Path) -> Iterator[bytes]:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(staging, "_read_file", read)
    with pytest.raises(StagingError, match="Stale file handle") as caught:
        copy_of(stager, slide(tmp_path / "a.svs"))
    assert transient_cause(caught.value) == "storage"


def test_a_slide_with_a_valid_result_is_not_copied(stager: Stager, disk: Path, tmp_path: Path) -> None:
    source = slide(tmp_path / "a.svs")
    stager.expect([(source, lambda: True)])
    assert stager.fetch(source) is None
    assert files_in(disk) == []


def test_a_copy_that_grows_is_progress(
    stager: Stager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, heard = threading.Event(), threading.Event()

    def read(path: Path) -> Iterator[bytes]:
        yield path.read_bytes()[:10]
        assert go.wait(30)
        yield path.read_bytes()[10:]

    def on_progress() -> None:
        heard.set()
        go.set()

    monkeypatch.setattr(staging, "_read_file", read)
    monkeypatch.setattr(staging, "LOOK_SECONDS", 0.01)
    source = slide(tmp_path / "a.svs")
    stager.expect([(source, needed)])
    assert stager.fetch(source, on_progress) is not None
    assert heard.is_set()


def test_the_end_stops_a_copy_and_removes_the_folder(
    stager: Stager, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go = threading.Event(), threading.Event()

    def read(path: Path) -> Iterator[bytes]:
        begun.set()
        assert go.wait(30)
        yield path.read_bytes()

    monkeypatch.setattr(staging, "_read_file", read)
    source = slide(tmp_path / "a.svs")
    stager.expect([(source, needed)])
    assert begun.wait(30)
    stager.close()
    with pytest.raises(StagingError, match="given up"):
        stager.fetch(source)
    go.set()
    stager.close()
    assert list(disk.iterdir()) == []


# --- folders of other processes


HOLD = """
import sys, time
from pathlib import Path
from wsi_mitosis.io.slides.staging import Stager
stager = Stager(Path(sys.argv[1]), 1)
print(stager._own.path, flush=True)
time.sleep(600)
"""


def test_no_folder_is_made_again_after_the_end(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends between two files of a slide."""
    source, stager = slide(tmp_path / "drive" / "a.mrxs", 10), Stager(disk, 10 * SIZE)
    slide(tmp_path / "drive" / "a" / "Data0000.dat", 10)

    def end(path: Path) -> Iterator[bytes]:
        yield path.read_bytes()
        stager.close()

    monkeypatch.setattr(staging, "_read_file", end)
    stager.expect([(source, needed)])
    with pytest.raises(StagingError, match=r"the run ends|cannot be read"):
        stager.fetch(source)
    for thread in threading.enumerate():
        if thread.name == "stager":
            thread.join(10)
    assert list(disk.iterdir()) == []


def test_only_what_a_killed_process_has_left_is_removed(disk: Path) -> None:
    (disk / "mine.txt").write_text("keep")
    (disk / f"{PREFIX}of-somebody").mkdir()
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(disk)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    held = Path(holder.stdout.readline().strip())
    (held / "1").mkdir()
    (held / "1" / "a.svs").write_bytes(b"copied")
    Stager(disk, 1).close()
    assert (held / "1" / "a.svs").exists()
    holder.kill()
    holder.communicate()
    Stager(disk, 1).close()
    assert sorted(path.name for path in disk.iterdir()) == ["mine.txt", f"{PREFIX}of-somebody"]


def test_what_is_left_is_removed_after_a_restart_of_this_machine_but_not_of_another(
    disk: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from wsi_mitosis.io import surroundings

    for name in ("KERNEL", "MACHINE"):
        monkeypatch.setattr(surroundings, name, tmp_path / name)

    def be(kernel: str, machine: str, host: str) -> None:
        (tmp_path / "KERNEL").write_text(f"{kernel}\n")
        (tmp_path / "MACHINE").write_text(f"{machine}\n")
        monkeypatch.setattr(surroundings.socket, "gethostname", lambda: host)

    def left_by(machine: str, host: str) -> Path:
        be("before", machine, host)
        folder = surroundings.OwnFolder(disk, PREFIX)
        assert folder._lock is not None
        os.close(folder._lock)
        return folder.path

    ours, clone, namesake, unknown = (
        left_by(*of) for of in (("a", "here"), ("a", "there"), ("b", "here"), ("", "here"))
    )
    be("after", "", "here")
    Stager(disk, 1).close()
    assert ours.exists(), "a machine without an identity knows none of its folders again"
    be("after", "a", "here")
    Stager(disk, 1).close()
    assert not ours.exists()
    assert all(folder.exists() for folder in (clone, namesake, unknown))
    be("before", "c", "elsewhere")
    Stager(disk, 1).close()
    assert not any(folder.exists() for folder in (clone, namesake, unknown)), "the kernel runs once"


def test_a_folder_that_does_not_exist_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--stage .*nowhere: copying: no such folder"):
        Stager(tmp_path / "nowhere", 1)
    assert not (tmp_path / "nowhere").exists()


# --- URLs


def test_a_url_is_copied(web: WebStore, disk: Path) -> None:
    source = at(web)
    assert source.place == f"{web.url}/slides/a.svs"
    with staged(source, disk) as copy:
        assert copy.path.read_bytes() == (web.folder / "slides" / "a.svs").read_bytes()
        assert copy.place == source.place
    assert list(disk.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "match", "transient"),
    [
        ({"sent": 0.9}, "did not answer", "storage"),
        ({"status": 503}, "did not answer .status 503", "storage"),
        ({"status": 403}, "refuses access .status 403", None),
        ({"status": 404}, "no such file", None),
    ],
)
def test_a_store_that_fails_says_whether_to_try_again(
    change: dict[str, Any], match: str, transient: str | None, web: WebStore, stager: Stager
) -> None:
    source = at(web)
    for name, value in change.items():
        setattr(web, name, value)
    with pytest.raises(StagingError, match=match) as caught:
        copy_of(stager, source)
    assert transient_cause(caught.value) == transient


def test_a_file_that_is_replaced_in_the_store_while_it_is_copied_is_no_copy(
    web: WebStore, stager: Stager
) -> None:
    source = at(web)
    web.on_get = lambda _: os.utime(web.folder / "slides" / "a.svs", (1, 1))
    with pytest.raises(StorageError, match="changed while they were copied"):
        copy_of(stager, source)


def test_a_store_that_is_silent_at_first_is_asked_again_at_the_slide_s_turn(
    web: WebStore, stager: Stager
) -> None:
    web.status = 500
    source = at(web)
    web.status = None
    assert copy_of(stager, source).path.stat().st_size == SIZE


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("slides/none.svs", "no such file in the store"),
        ("slides/a.mrxs", "several files"),
        ("slides/a.dcm", "several files"),
        ("zip://a.svs::slides/a.zip", "chained URL"),
        ("slides/", "does not end in the name of a slide's file"),
    ],
)
def test_a_url_that_is_no_slide_is_a_fault_of_its_own(name: str, match: str, web: WebStore) -> None:
    found = find_slides([f"{web.url}/slides/a.svs", f"{web.url}/{name}"], staged=True)
    assert [source.path.name for source in found.usable] == ["a.svs"]
    (fault,) = found.faults.values()
    assert match in fault.replace("\n", " ")


def test_a_list_may_name_urls(web: WebStore, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(f"slide,mpp\n{web.url}/slides/a.svs,0.5\n")
    (source,) = find_slides([str(tmp_path / "list.csv")], staged=True).usable
    assert source.mpp == 0.5
    assert source.remote is not None
    assert (source.remote.size, "last-modified=" in source.remote.version) == (SIZE, True)


def test_a_url_needs_a_folder_for_its_copy() -> None:
    with pytest.raises(InputError, match=r"h/a\.svs: finding slides: .*Pass --stage"):
        find_slides(["https://me:secret@h/a.svs?sig=secret"])


@pytest.mark.parametrize(
    ("scheme", "match"), [("gs", "Install the library that reads gs://"), ("nonsense", "cannot be used")]
)
def test_a_scheme_that_cannot_be_read_is_named(scheme: str, match: str) -> None:
    def find() -> object:
        found = find_slides([f"{scheme}://b/a.svs"], staged=True)
        raise InputError(next(iter(found.faults.values())))

    with pytest.raises(InputError, match=match):
        find()


def test_two_urls_that_look_the_same_are_not_taken_for_one(web: WebStore) -> None:
    urls = [f"{web.url}/slides/a.svs?id={number}" for number in (1, 2)]
    (fault,) = find_slides(urls, staged=True).faults.values()
    assert "differ only in what is not shown" in fault
    assert len(find_slides([urls[0], urls[0]], staged=True).usable) == 1


# --- secrets


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:secret@h:80/a/b.svs?X-Amz-Signature=secret#secret", "https://h:80/a/b.svs"),
        ("https://me:sec/ret@h/b.svs", "https://***/ret@h/b.svs"),
        ("s3://bucket/a#1.svs?versionId=secret", "s3://bucket/a#1.svs"),
        ("zip://a.svs::https://me:secret@h/b.zip?secret", "zip://***"),
    ],
)
def test_what_may_be_secret_in_a_url_is_not_shown(url: str, shown: str) -> None:
    assert is_url(url)
    assert shown_url(url) == shown


def test_the_names_in_a_url_lead_nowhere_else() -> None:
    assert url_parts("https://h/%2e%2e/x/..%2F..%2Fetc/a%20b.svs") == ("https:", "h", "x", "etc", "a b.svs")
    assert not is_url("C:\\scans\\a.svs")
    assert not is_url("/data/s3/a.svs")


@pytest.mark.parametrize(
    "fail", [lambda web: setattr(web, "status", 500), lambda web: setattr(web, "sent", 0.5)]
)
def test_no_error_of_a_store_has_a_password_or_a_signature(
    fail: Callable[[WebStore], None], web: WebStore, stager: Stager
) -> None:
    web.login = "me:secret1"
    url = web.url.replace("//", "//me:secret1@") + "/slides/a.svs?signature=secret2"
    source = find_slides([url], staged=True).usable[0]
    fail(web)
    with pytest.raises(StorageError) as caught:
        copy_of(stager, source)
    chain: BaseException | None = caught.value
    while chain is not None:
        assert "secret" not in f"{chain} {chain!r}"
        chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)
    assert "secret" not in repr(source)


def test_fsspec_is_not_imported_for_files(disk: Path, tmp_path: Path) -> None:
    slide(tmp_path / "a.svs")
    script = (
        "import sys; from pathlib import Path; from wsi_mitosis.io.slides import find_slides, staging\n"
        f"source = find_slides(['{tmp_path / 'a.svs'}'], staged=True).sources[0]\n"
        f"with staging.staged(source, Path('{disk}')): pass\n"
        "assert not {'fsspec', 'aiohttp', 's3fs'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
