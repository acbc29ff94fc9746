"""Bundles: the models that classify. Their files are checked byte for byte before use."""

from __future__ import annotations

import hashlib
import itertools
import json
import secrets
import shutil
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from wsi_mitosis.errors import UNWRITABLE, BundleError, OutputError
from wsi_mitosis.io.atomic import write_text
from wsi_mitosis.io.installing import upgrade_program
from wsi_mitosis.io.limits import read_bytes, read_text
from wsi_mitosis.io.shipped import names, shipped
from wsi_mitosis.specs import BundleManifest

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from wsi_mitosis.schema import Spec
    from wsi_mitosis.specs import CalibrationSpec, MemberSpec

DEFAULT_BUNDLE = "amibr-lite2"
ALIASES = {"fast": "amibr-lite0"}
"""Names of shipped bundles by what they are for."""
SCHEMA = 1
BFLOAT16 = "bfloat16"
"""The manifest's table that holds for one threshold and one calibration."""
MANIFEST, CARD = "manifest.toml", "CARD.md"
GET_AGAIN = "Take the bundle from its source again"
WRITABLE = "Make the folder writable, or copy the bundle to one that is, with room on its disk"


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files match its manifest.

    Attributes:
        folder: The bundle's folder.
        manifest: The content of `manifest.toml`.
        digest: SHA-256 of the manifest's content, which includes the hashes of the bundle's files.
    """

    folder: Path
    manifest: BundleManifest
    digest: str

    def read_members(
        self, on_member: Callable[[], None] = lambda: None
    ) -> list[dict[str, NDArray[np.floating]]]:
        """Read the members' weights: arrays of the networks' shapes by name, in the manifest's order.

        Args:
            on_member: Called after each member, because weights may come from a slow network.

        Raises:
            BundleError: If a file is missing, altered, or not a safetensors file.
        """
        # Hashed again, because the files may have changed since the bundle was opened.
        members = []
        for member in self.manifest.member:
            members.append(_weights(self.folder / member.file, member.sha256))
            on_member()
        return members

    def read_file(self, member: MemberSpec) -> bytes:
        """Read the file of one member's weights.

        Raises:
            BundleError: If it is missing or altered.
        """
        return _checked(self.folder / member.file, member.sha256)

    def read_samples(self) -> dict[str, frozenset[str]]:
        """Read which samples the members were trained, selected and tested on.

        Returns:
            The domains of each sample by its digest (`SAMPLE_COLUMNS`). A sample can be in several domains,
            and has none if the bundle does not state them. Empty for an untrained bundle.

        Raises:
            BundleError: If the file is missing, altered, or not text.
        """
        training = self.manifest.training
        if training is None:
            return {}
        path = self.folder / training.samples
        content = _checked(path, training.samples_sha256)
        try:
            lines = content.decode().split("\n")
        except UnicodeDecodeError as error:
            raise BundleError(
                f"is not text: {error}", subject=path, stage="reading samples", remedy=GET_AGAIN
            ) from error
        domains: dict[str, set[str]] = {}
        for digest, _, domain in (line.partition(" ") for line in lines if line):
            domains.setdefault(digest, set()).update([domain] if domain else [])
        return {digest: frozenset(of_digest) for digest, of_digest in domains.items()}

    def read_card(self) -> str:
        """Read the bundle's CARD.md; empty if it does not exist.

        Raises:
            BundleError: If it cannot be read, or is not text in UTF-8.
        """
        path = self.folder / CARD
        try:
            return read_text(path)
        except FileNotFoundError:
            return ""
        except (OSError, ValueError) as error:
            raise BundleError(
                f"cannot be read: {_reason(error)}",
                subject=path,
                stage="reading the card",
                remedy="Save it as a text file in UTF-8, or remove it",
            ) from error


def write_card(bundle: Bundle, card: str) -> None:
    """Replace a bundle's CARD.md, which its digest does not cover.

    Raises:
        OutputError: If it cannot be written.
    """
    try:
        write_text(bundle.folder / CARD, card)
    except OSError as error:
        raise OutputError(
            f"cannot be written: {error.strerror}",
            subject=bundle.folder / CARD,
            stage="writing a card",
            remedy=WRITABLE,
        ) from error


def write_table(bundle: Bundle, name: str, table: Spec) -> Bundle:
    """Replace a table of a bundle's manifest, which changes the bundle's digest.

    A comparison in bfloat16 holds for one calibration, so that another one removes it.

    Args:
        bundle: The bundle.
        name: The table's name in the manifest, such as `calibration`.
        table: Its content.

    Returns:
        The bundle, as read back from disk.

    Raises:
        OutputError: If the manifest cannot be written.
    """
    path = bundle.folder / MANIFEST
    data = {key: value for key, value in _manifest_data(path).items() if key != BFLOAT16}
    data[name] = table.model_dump()
    try:
        write_text(path, tomli_w.dumps(_without_none(data)))
    except OSError as error:
        raise OutputError(
            f"cannot be written: {error.strerror}",
            subject=path,
            stage="writing a manifest",
            remedy=WRITABLE,
        ) from error
    return open_bundle(bundle.folder)


def find_bundle(name_or_path: str | os.PathLike[str]) -> Path:
    """Return the folder of a bundle.

    Args:
        name_or_path: A bundle's folder, or the name of a shipped bundle, which may be one of `ALIASES`.

    Raises:
        BundleError: If there is no such folder or bundle. The message lists the shipped bundles.
    """
    path = Path(name_or_path)
    try:
        if (path / MANIFEST).is_file():
            return path
        name = ALIASES.get(str(name_or_path), str(name_or_path))
        if name in names("models"):
            return shipped("models") / name
        cause = f"the folder has no {MANIFEST}" if path.is_dir() else "no such bundle"
    except OSError as error:  # no permission, or a name that no file can have
        cause = f"cannot be read: {_reason(error)}"
    raise BundleError(
        cause,
        subject=name_or_path,
        remedy="Give a bundle's folder, or the name of a shipped bundle: "
        f"{', '.join([*names('models'), *ALIASES])}",
    )


def open_bundle(folder: Path, digest: str | None = None) -> Bundle:
    """Read a bundle's manifest and check every file against it.

    Args:
        folder: The result of `find_bundle`.
        digest: The digest that the bundle must have, as of one from which folds are being trained; any if
            None.

    Raises:
        BundleError: If the manifest is missing, malformed or of a newer schema, or if a file is missing,
            altered, without weights, or a weights file that the manifest does not list. Also if another
            bundle is there now.
    """
    data = _manifest_data(folder / MANIFEST)
    if digest is not None and _digest(data) != digest:
        raise BundleError(
            f"it was replaced meanwhile: its digest is {_digest(data)[:12]}, and was {digest[:12]}",
            subject=folder,
            stage="reading a bundle",
            remedy="Put the bundle back, or run again to use the new one",
        )
    manifest = BundleManifest.parse(data, folder / MANIFEST)
    listed = {member.file: member.sha256 for member in manifest.member}
    if strangers := sorted({path.name for path in folder.glob("*.safetensors")} - set(listed)):
        raise BundleError(
            f"{MANIFEST} does not list it",
            subject=folder / strangers[0],
            stage="checking files",
            remedy="Remove it if you added it. Otherwise take the bundle from its source again",
        )
    for file, sha256 in listed.items():
        _weights(folder / file, sha256)  # before any slide is opened, because a bad file fails the whole run
    if manifest.training is not None:
        _checked(folder / manifest.training.samples, manifest.training.samples_sha256)
    return Bundle(folder, manifest, _digest(data))


def write_bundle(
    folder: Path,
    fields: Mapping[str, Any],
    states: Sequence[Mapping[str, NDArray[np.floating]]],
    card: str,
    *,
    samples: Sequence[str] = (),
) -> Bundle:
    """Write a bundle of weights, as a whole or not at all.

    Args:
        folder: The bundle's folder. It must not exist, or be empty.
        fields: The manifest without `schema`, the members' `file` and `sha256`, and the `samples` and
            `samples_sha256` of `training`, which are added. `member` is optional.
        states: Weights of each member, arrays by name. They are stored as float16.
        card: Text of CARD.md.
        samples: For a bundle with `training`, the digest, a blank and the domain of each sample.

    Returns:
        The bundle, as read back from disk.

    Raises:
        OutputError: If the folder is in use or cannot be written.
        BundleError: If a weight does not fit float16, or the fields do not fit the schema.
    """
    files = (pack_weights(state, _member_file(index)) for index, state in enumerate(states))
    return write_bundle_of_files(folder, fields, files, card, samples=samples)


def write_bundle_of_files(
    folder: Path, fields: Mapping[str, Any], files: Iterable[bytes], card: str, *, samples: Sequence[str] = ()
) -> Bundle:
    """Write a bundle of files of weights, whose bytes are kept.

    Args:
        folder: As for `write_bundle`.
        fields: As for `write_bundle`.
        files: Content of each member's safetensors file.
        card: Text of CARD.md.
        samples: As for `write_bundle`.

    Returns:
        The bundle, as read back from disk.

    Raises:
        OutputError: If the folder is in use or cannot be written.
        BundleError: If a file has no weights, or the fields do not fit the schema.
    """
    return _whole(folder, lambda temporary: _write_files(temporary, fields, files, card, samples))


def derive_bundle(
    parent: Bundle,
    folder: Path,
    *,
    name: str,
    threshold: float,
    calibration: CalibrationSpec,
    card: str,
    samples: Sequence[str],
) -> Bundle:
    """Write a bundle with the weights of a trained one, a calibration and a threshold, or nothing at all.

    Args:
        parent: The bundle that it is derived from.
        folder: The new bundle's folder. It must not exist, or be empty.
        name: The new bundle's name.
        threshold: The threshold of its vote.
        calibration: Its calibration.
        card: Text of CARD.md.
        samples: Digests of the fitted figures. They are in the new list of samples without a domain,
            also where the list of the parent has one: no member is taken to be ignorant of them.

    Returns:
        The bundle, as read back from disk.

    Raises:
        OutputError: If the folder is in use or cannot be written.
        BundleError: If the parent's files were altered, or the name cannot be a bundle's.
    """
    data = _manifest_data(parent.folder / MANIFEST)
    data |= {"name": name, "version": "1", "ensemble": {**data["ensemble"], "threshold": threshold}}
    data |= {"calibration": calibration.model_dump()}
    data.pop(BFLOAT16, None)  # it holds for the parent's threshold
    data |= {"parent": {"name": parent.manifest.name, "digest": parent.digest}}
    training = data["training"]

    def write(temporary: Path) -> None:
        for member in parent.manifest.member:
            shutil.copyfile(parent.folder / member.file, temporary / member.file)
        known = _checked(parent.folder / training["samples"], training["samples_sha256"]).decode()
        others = [line for line in known.splitlines() if line.partition(" ")[0] not in set(samples)]
        hashed = _write_samples(temporary, [*others, *samples])
        _write_texts(temporary, {**data, "training": {**training, **hashed}}, card)

    return _whole(folder, write)


def check_unused(folder: Path) -> None:
    """Check that a bundle can be written into a folder: it must not exist, or be empty.

    Raises:
        OutputError: If it is in use.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(
            "exists already",
            subject=folder,
            stage="writing a bundle",
            remedy="Choose another folder, or remove this one",
        )


def _whole(folder: Path, write: Callable[[Path], None]) -> Bundle:
    """Let a bundle's files be written into a temporary folder, check them, and give the folder its name."""
    check_unused(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
        temporary.mkdir()  # with the user's umask, as every folder of a bundle
    except OSError as error:
        raise OutputError(
            f"cannot be written: {error.strerror}",
            subject=folder,
            stage="writing a bundle",
            remedy=UNWRITABLE,
        ) from error
    try:
        write(temporary)
        bundle = open_bundle(temporary)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Bundle(folder, bundle.manifest, bundle.digest)


def _write_files(
    folder: Path, fields: Mapping[str, Any], files: Iterable[bytes], card: str, samples: Sequence[str]
) -> None:
    stated = fields.get("member", itertools.repeat({}))
    data = {
        "schema": SCHEMA,
        **{key: value for key, value in fields.items() if key != "member"},
        "member": [],
    }
    for index, (content, member) in enumerate(zip(files, stated, strict="member" in fields)):
        path = folder / _member_file(index)
        path.write_bytes(content)
        data["member"].append({"file": path.name, "sha256": _sha256(content), **member})
    if "training" in fields:
        data["training"] = {**fields["training"], **_write_samples(folder, samples)}
    _write_texts(folder, data, card)


def _write_samples(folder: Path, samples: Sequence[str]) -> dict[str, str]:
    """Write the list of samples, and return its name and hash as the manifest has them."""
    path = folder / "samples.txt"
    path.write_bytes("".join(f"{digest}\n" for digest in sorted(samples)).encode())
    return {"samples": path.name, "samples_sha256": _sha256(path.read_bytes())}


def _write_texts(folder: Path, data: Mapping[str, Any], card: str) -> None:
    (folder / CARD).write_text(card, encoding="utf-8", newline="\n")
    (folder / MANIFEST).write_text(tomli_w.dumps(_without_none(data)), encoding="utf-8", newline="\n")


def _member_file(index: int) -> str:
    return f"member-{index}.safetensors"


def pack_weights(state: Mapping[str, NDArray[np.floating]], name: str) -> bytes:
    """Return weights as the bytes of a safetensors file, float16.

    Args:
        state: Arrays by name.
        name: The file's name, for messages.

    Raises:
        BundleError: If a value does not fit float16.
    """
    import numpy as np
    from safetensors.numpy import save

    with np.errstate(over="ignore"):  # overflow is checked below
        halves = {key: np.ascontiguousarray(array, dtype=np.float16) for key, array in state.items()}
    if bad := [key for key, array in halves.items() if not np.isfinite(array).all()]:
        raise BundleError(
            f"'{bad[0]}' has values that float16 cannot hold",
            subject=name,
            stage="writing a bundle",
            remedy="The training has diverged. Train again with a lower learning rate",
        )
    return bytes(save(halves))


def _manifest_data(path: Path) -> dict[str, Any]:
    try:
        data = tomllib.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, not TOML, huge numbers
        raise BundleError(
            f"cannot be read: {_reason(error)}", subject=path, stage="opening a bundle", remedy=GET_AGAIN
        ) from error
    schema = data.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise BundleError(
            f"its schema {schema} is newer than schema {SCHEMA} of this version",
            subject=path,
            stage="opening a bundle",
            remedy=upgrade_program(),
        )
    return data


def _checked(path: Path, sha256: str) -> bytes:
    """Read a file and check its hash."""
    try:
        content = read_bytes(path)
    except (OSError, ValueError) as error:  # ValueError: too large, or a zero byte in the name
        raise BundleError(
            f"the manifest lists it, but it cannot be read: {_reason(error)}",
            subject=path,
            stage="checking files",
            remedy=GET_AGAIN,
        ) from error
    if _sha256(content) != sha256:
        raise BundleError(
            "it is not the file that the manifest lists (the SHA-256 differs)",
            subject=path,
            stage="checking files",
            remedy=GET_AGAIN,
        )
    return content


def _weights(path: Path, sha256: str) -> dict[str, NDArray[np.floating]]:
    """Read the arrays of a weights file and check its hash."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return dict(load(_checked(path, sha256)))
    except (SafetensorError, TypeError, KeyError) as error:  # KeyError: a data type that NumPy lacks
        raise BundleError(
            f"it has no weights: {error}", subject=path, stage="loading weights", remedy=GET_AGAIN
        ) from error


def _reason(error: Exception) -> str:
    """Return why a file cannot be read, without its name."""
    return str(error.strerror if isinstance(error, OSError) else error)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _digest(data: Mapping[str, Any]) -> str:
    """Hash the content as it is in the file, without defaults, which a later version may add."""
    return _sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode())


def _without_none(value: Any) -> Any:
    """Leave out what is None, because TOML has no null. Tables are dictionaries, in lists as well."""
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list | tuple) else value
