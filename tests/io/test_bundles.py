from __future__ import annotations

import errno
import hashlib
import json
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.evaluations import FIELDS as SMALL_BUNDLE
from wsi_mitosis.errors import BundleError, OutputError
from wsi_mitosis.io.bundles import DEFAULT_BUNDLE, find_bundle, open_bundle, write_bundle
from wsi_mitosis.io.shipped import names, shipped

BUNDLES = sorted(shipped("models").glob("*/manifest.toml"))
FIELDS: dict[str, Any] = {
    **SMALL_BUNDLE,
    "name": "tried",
    "version": "1",
    "licence": "CC0",
    "intended_use": 'Tests: "quotes", \\ backslash, \x7f, µ and\nlines.',
    "ensemble": {"vote": "majority", "threshold": 0.5, "tta": "d4", "zooms": (1.0, 1.15)},
    "member": [
        {"test_domain": "CS2", "validation_loss": np.float64(0.5), "validation_balanced_accuracy": 1e-7},
        {"test_domain": None},
    ],
    "training": {
        "dataset_digest": "ab",
        "dataset_licence": "MIT",
        "mask_provider": "haematoxylin",
        "recipe": "nano",
        "seed": 3,
        "code_version": "0.1.0",
    },
}
STATES = [{"w": np.arange(3, dtype=np.float32) + member / 3} for member in range(2)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "tried", FIELDS, STATES, "# card\n", samples=["bb", "aa"])
    return tmp_path / "tried"


@pytest.mark.parametrize("manifest", BUNDLES, ids=lambda path: path.parent.name)
def test_every_shipped_bundle_is_what_it_says(manifest: Path) -> None:
    bundle = open_bundle(manifest.parent)
    assert bundle.manifest.name == manifest.parent.name
    assert len(bundle.read_members()) == len(bundle.manifest.member)
    assert {array.dtype for state in bundle.read_members() for array in state.values()} == {
        np.dtype(np.float16)
    }
    assert bundle.read_card().startswith(f"# {bundle.manifest.name}\n")
    if not bundle.manifest.trained:
        assert "labels mean nothing" in bundle.read_card()


def test_the_default_is_shipped() -> None:
    assert DEFAULT_BUNDLE in names("models")
    assert [path.parent.name for path in BUNDLES] == names("models")


def test_what_is_written_is_what_is_read(folder: Path) -> None:
    bundle = open_bundle(folder)
    manifest = bundle.manifest
    assert manifest.intended_use == FIELDS["intended_use"]
    assert manifest.ensemble.zooms == (1.0, 1.15)
    assert [member.file for member in manifest.member] == ["member-0.safetensors", "member-1.safetensors"]
    assert manifest.member[0].validation_loss == 0.5
    assert manifest.member[0].validation_balanced_accuracy == 1e-7
    assert manifest.member[1].test_domain is None
    assert manifest.training is not None
    assert (folder / manifest.training.samples).read_text() == "aa\nbb\n"
    for found, given in zip(bundle.read_members(), STATES, strict=True):
        np.testing.assert_array_equal(found["w"], given["w"].astype(np.float16))
    assert sorted(path.name for path in folder.parent.iterdir()) == ["tried"], "nothing is left beside it"


def test_the_digest_is_the_contents(folder: Path, tmp_path: Path) -> None:
    digest = open_bundle(folder).digest
    again = write_bundle(tmp_path / "other place", FIELDS, STATES, "# another card", samples=["aa", "bb"])
    assert again.digest == digest
    manifest = folder / "manifest.toml"
    manifest.write_text("# a comment\n" + manifest.read_text())
    assert open_bundle(folder).digest == digest
    heavier = [{"w": state["w"] + 1} for state in STATES]
    assert write_bundle(tmp_path / "h", FIELDS, heavier, "", samples=["aa", "bb"]).digest != digest
    assert (
        write_bundle(tmp_path / "v", {**FIELDS, "version": "2"}, STATES, "", samples=["aa", "bb"]).digest
        != digest
    )
    assert write_bundle(tmp_path / "s", FIELDS, STATES, "", samples=["aa"]).digest != digest


def flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def in_manifest(folder: Path, old: str, new: str) -> None:
    path = folder / "manifest.toml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def relisted(folder: Path, content: bytes) -> None:
    """Give a bundle another file of weights, which its manifest lists."""
    path = folder / "member-0.safetensors"
    listed = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(content)
    in_manifest(folder, listed, hashlib.sha256(content).hexdigest())


def without_training(folder: Path) -> None:
    path = folder / "manifest.toml"
    head, _, tail = path.read_text(encoding="utf-8").partition("[training]")
    path.write_text(head + tail[tail.index("[[member]]") :], encoding="utf-8")


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "altered weights": (
        lambda f: flip_last_byte(f / "member-1.safetensors"),
        r"member-1.*SHA-256 differs.*again",
    ),
    "altered samples": (lambda f: flip_last_byte(f / "samples.txt"), r"samples\.txt.*SHA-256 differs"),
    "missing weights": (
        lambda f: (f / "member-0.safetensors").unlink(),
        r"member-0.*cannot be read: No such file",
    ),
    "missing samples": (lambda f: (f / "samples.txt").unlink(), r"samples\.txt.*cannot be read"),
    "missing manifest": (lambda f: (f / "manifest.toml").unlink(), r"manifest\.toml: opening a bundle"),
    "extra weights": (
        lambda f: shutil.copy(f / "member-0.safetensors", f / "member-9.safetensors"),
        r"member-9.*manifest\.toml does not list it.*Remove it",
    ),
    "unknown key": (
        lambda f: in_manifest(f, "[input]", "[input]\nstain = 1"),
        r"unknown key 'stain' in \[input\]",
    ),
    "newer schema": (
        lambda f: in_manifest(f, "schema = 1", "schema = 2"),
        r"schema 2 is newer.*pip install --upgrade",
    ),
    "no schema": (lambda f: in_manifest(f, "schema = 1", ""), r"missing key 'schema'"),
    "no TOML": (lambda f: (f / "manifest.toml").write_text("schema = "), "cannot be read: Invalid value"),
    "no UTF-8": (
        lambda f: (f / "manifest.toml").write_bytes(b"\xff"),
        r"manifest\.toml.*cannot be read: it is not text in UTF-8.*again",
    ),
    "nested without end": (
        lambda f: (f / "manifest.toml").write_text("a = " + "[" * 9999),
        r"manifest\.toml.*cannot be read",
    ),
    "an endless number": (
        lambda f: in_manifest(f, "seed = 3", f"seed = {'3' * 9999}"),
        r"manifest\.toml.*cannot be read",
    ),
    "a folder for weights": (
        lambda f: ((f / "member-0.safetensors").unlink(), (f / "member-0.safetensors").mkdir()),
        r"member-0.*cannot be read: Is a directory",
    ),
    "no weights": (lambda f: relisted(f, b"other"), r"member-0.*it has no weights.*again"),
    "weights cut off": (
        lambda f: relisted(f, (f / "member-0.safetensors").read_bytes()[:-1]),
        r"member-0.*it has no weights.*again",
    ),
    "weights elsewhere": (
        lambda f: in_manifest(f, '"member-0.safetensors"', '"../member-0.safetensors"'),
        "should be the name of a .safetensors file beside the manifest",
    ),
    "samples elsewhere": (
        lambda f: in_manifest(f, '"samples.txt"', '"/etc/passwd"'),
        "should be the name of a file beside",
    ),
    "odd patch": (
        lambda f: in_manifest(f, "patch_px = 32", "patch_px = 33"),
        r"'patch_px' in \[input\] should be a multiple of 2, but it is 33",
    ),
    "trained on nothing": (without_training, r"a trained bundle needs the table \[training\]"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_bundle_is_refused(folder: Path, case: str) -> None:
    spoil, told = BROKEN[case]
    spoil(folder)
    with pytest.raises(BundleError, match=told):
        open_bundle(folder)


def test_weights_altered_after_the_check_are_found(folder: Path) -> None:
    bundle = open_bundle(folder)
    flip_last_byte(folder / "member-0.safetensors")
    with pytest.raises(BundleError, match="SHA-256 differs"):
        bundle.read_members()


def test_a_manifest_may_begin_with_a_byte_order_mark(folder: Path) -> None:
    before = open_bundle(folder)
    path = folder / "manifest.toml"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert open_bundle(folder) == before


def test_a_card_that_is_no_text_is_told(folder: Path) -> None:
    bundle = open_bundle(folder)
    (folder / "CARD.md").write_bytes(b"\xfcber")
    with pytest.raises(BundleError, match=r"CARD\.md: reading the card: .*not text in UTF-8\. Save it"):
        bundle.read_card()
    (folder / "CARD.md").unlink()
    assert bundle.read_card() == ""


@pytest.mark.parametrize("name", ["a" * 300, "a/" * 3000])
def test_a_name_that_no_file_can_have_is_no_bundle(name: str) -> None:
    with pytest.raises(BundleError, match=f"cannot be read: File name too long.*{DEFAULT_BUNDLE}"):
        find_bundle(name)


def test_a_folder_that_may_not_be_searched_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests may run as root, who may search every folder."""

    def refuse(path: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(BundleError, match="locked: cannot be read: Permission denied"):
        find_bundle("locked")


def test_samples_are_read_with_their_domains(tmp_path: Path) -> None:
    lines = ["aa TUPAC16 01-23", "bb Köln", "aa MIDOG21 Aperio CS2", "cc"]
    bundle = write_bundle(tmp_path / "b", FIELDS, STATES, "", samples=lines)
    assert bundle.read_samples() == {
        "aa": frozenset({"TUPAC16 01-23", "MIDOG21 Aperio CS2"}),
        "bb": frozenset({"Köln"}),
        "cc": frozenset(),
    }
    flip_last_byte(tmp_path / "b" / "samples.txt")
    with pytest.raises(BundleError, match="SHA-256 differs"):
        bundle.read_samples()


def test_samples_that_are_no_text_are_told(folder: Path) -> None:
    import hashlib

    manifest = open_bundle(folder).manifest
    assert manifest.training is not None
    (folder / "samples.txt").write_bytes(b"\xff\n")
    in_manifest(folder, manifest.training.samples_sha256, hashlib.sha256(b"\xff\n").hexdigest())
    with pytest.raises(BundleError, match=r"samples\.txt: reading samples: is not text"):
        open_bundle(folder).read_samples()


def test_an_untrained_bundle_has_no_samples() -> None:
    assert open_bundle(find_bundle("untrained-tiny")).read_samples() == {}


def test_a_bundle_is_found_by_folder_and_by_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_bundle(folder) == folder
    assert find_bundle(str(folder)) == folder
    assert open_bundle(find_bundle(DEFAULT_BUNDLE)).manifest.name == DEFAULT_BUNDLE
    monkeypatch.chdir(folder.parent)
    Path(DEFAULT_BUNDLE).mkdir()  # a folder that only has the name hides nothing
    assert find_bundle(DEFAULT_BUNDLE) == shipped("models") / DEFAULT_BUNDLE
    shutil.copytree(folder, DEFAULT_BUNDLE, dirs_exist_ok=True)
    assert find_bundle(DEFAULT_BUNDLE) == Path(DEFAULT_BUNDLE)


def test_a_bundle_is_found_by_what_it_is_for() -> None:
    assert find_bundle("fast") == find_bundle("amibr-lite0")


@pytest.mark.parametrize("name", ["nonesuch", "../models/untrained-tiny", ""])
def test_what_is_no_bundle_lists_those_that_are(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match=DEFAULT_BUNDLE):
        find_bundle(name)


def test_a_folder_in_use_is_left_alone(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(OutputError, match="exists already"):
        write_bundle(folder, FIELDS, STATES[::-1], "")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="float16 cannot hold"):
        write_bundle(tmp_path / "b", FIELDS, [STATES[0], {"w": np.array([1e6])}], "")
    with pytest.raises(BundleError, match="unknown key 'colour'"):
        write_bundle(tmp_path / "b", {**FIELDS, "colour": "red"}, STATES, "")
    assert list(tmp_path.iterdir()) == []


def test_the_untrained_bundle_is_made_again_byte_for_byte(tmp_path: Path) -> None:
    """The one step that a CPU's rounding could change, the last layer's, is rounded coarsely for that."""
    from wsi_mitosis.jobs.bundles import write_untrained

    again = write_untrained(tmp_path / "again")
    stored = shipped("models") / "untrained-tiny"
    manifests = [tomllib.loads((folder / "manifest.toml").read_text()) for folder in (again.folder, stored)]
    assert manifests[0] == manifests[1]
    assert again.digest == open_bundle(stored).digest
    contents = [
        {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.toml"}
        for folder in (again.folder, stored)
    ]
    assert contents[0] == contents[1]


def test_an_untrained_bundle_takes_the_settings_asked_for(tmp_path: Path) -> None:
    from wsi_mitosis.jobs.bundles import write_untrained

    bundle = write_untrained(
        tmp_path / "b", patch_px=128, width=1, members=2, tta="none", zooms=(1.0, 0.8), name="my-own"
    )
    manifest = bundle.manifest
    assert (manifest.name, manifest.input.patch_px, manifest.network.width) == ("my-own", 128, 1)
    assert (len(manifest.member), manifest.ensemble.tta, manifest.ensemble.zooms) == (2, "none", (1.0, 0.8))
    assert not manifest.trained
    assert json.dumps("my-own") in (tmp_path / "b" / "manifest.toml").read_text()
