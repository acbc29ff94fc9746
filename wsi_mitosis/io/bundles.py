"""Bundles: what is classified with, checked byte for byte before use."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsi_mitosis.errors import BundleError, OutputError
from wsi_mitosis.io.atomic import write_text
from wsi_mitosis.io.shipped import names, shipped
from wsi_mitosis.specs import BundleManifest

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

DEFAULT_BUNDLE = "amibr-nano"
SCHEMA = 1
MANIFEST, CARD = "manifest.toml", "CARD.md"
GET_AGAIN = "Take the bundle from its source again"


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files are what its manifest says.

    Attributes:
        folder: Where it lies.
        manifest: What it states.
        digest: SHA-256 of the manifest's content, which holds the hashes of its files.
    """

    folder: Path
    manifest: BundleManifest
    digest: str

    def read_members(self) -> list[dict[str, NDArray[np.floating]]]:
        """The members' weights in the manifest's order, arrays by name as stored.

        Raises:
            BundleError: where a file is missing, altered, or no safetensors file.
        """
        # Hashed again: what is computed with is what was checked, however late it is read.
        return [_weights(self.folder / member.file, member.sha256) for member in self.manifest.member]

    def read_samples(self) -> dict[str, frozenset[str]]:
        """The samples that the members were trained, selected and tested on; empty for an untrained bundle.

        Returns:
            The domains of each by its digest (`SAMPLE_COLUMNS`): a figure may occur in several. No domain
            where the bundle does not state them.

        Raises:
            BundleError: where the file is missing, altered, or no text.
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
                f"is no text: {error}", subject=path, stage="reading samples", remedy=GET_AGAIN
            ) from error
        domains: dict[str, set[str]] = {}
        for digest, _, domain in (line.partition(" ") for line in lines if line):
            domains.setdefault(digest, set()).update([domain] if domain else [])
        return {digest: frozenset(of_digest) for digest, of_digest in domains.items()}

    def read_card(self) -> str:
        """The bundle's CARD.md; empty without one.

        Raises:
            BundleError: where it cannot be read, or is no UTF-8 text.
        """
        path = self.folder / CARD
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""
        except (OSError, UnicodeDecodeError) as error:
            raise BundleError(
                f"cannot be read: {_reason(error)}",
                subject=path,
                stage="reading the card",
                remedy="Save it as a text file in UTF-8, or remove it",
            ) from error


def write_card(bundle: Bundle, card: str) -> None:
    """Replace a bundle's CARD.md, which is no part of its digest.

    Raises:
        OutputError: where it cannot be written.
    """
    try:
        write_text(bundle.folder / CARD, card)
    except OSError as error:
        raise OutputError(
            f"cannot be written: {error.strerror}", subject=bundle.folder / CARD, stage="writing a card"
        ) from error


def find_bundle(name_or_path: str | os.PathLike[str]) -> Path:
    """The folder of a bundle.

    Args:
        name_or_path: A bundle's folder, or the name of a shipped one.

    Raises:
        BundleError: where there is neither; it lists the shipped ones.
    """
    path = Path(name_or_path)
    try:
        if (path / MANIFEST).is_file():
            return path
        if str(name_or_path) in names("models"):
            return shipped("models") / path
        cause = f"a folder without {MANIFEST}" if path.is_dir() else "no such bundle"
    except OSError as error:  # no permission, or a name that no file can have
        cause = f"cannot be read: {_reason(error)}"
    raise BundleError(
        cause,
        subject=name_or_path,
        remedy=f"Name a bundle's folder, or a shipped one: {', '.join(names('models'))}",
    )


def open_bundle(folder: Path) -> Bundle:
    """Read a bundle's manifest and check every file against it.

    Args:
        folder: As `find_bundle` gives it.

    Raises:
        BundleError: where the manifest is missing, malformed or of a newer schema, or where a file is
            missing, altered, holds no weights, or is a weights file that the manifest does not list.
    """
    data = _manifest_data(folder / MANIFEST)
    manifest = BundleManifest.parse(data, folder / MANIFEST)
    listed = {member.file: member.sha256 for member in manifest.member}
    if strangers := sorted({path.name for path in folder.glob("*.safetensors")} - set(listed)):
        raise BundleError(
            f"{MANIFEST} does not list it",
            subject=folder / strangers[0],
            stage="checking files",
            remedy="Remove it if you put it there; otherwise take the bundle from its source again",
        )
    for file, sha256 in listed.items():
        _weights(folder / file, sha256)  # before any slide is read: a bad file fails the whole run
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
    """Write a bundle: all of it or nothing.

    Args:
        folder: Where it goes; must not exist or be empty.
        fields: The manifest without `schema`, without the members' `file` and `sha256`, and without the
            `samples` and `samples_sha256` of `training`, all of which are added. `member` may be left out.
        states: Weights of each member by name; stored as float16.
        card: Text of CARD.md.
        samples: For a bundle with `training`, of each sample its digest, a blank, and its domain.

    Returns:
        The bundle as read back from disk.

    Raises:
        OutputError: where the folder is in use or cannot be written.
        BundleError: where a weight does not fit float16, or the fields not the schema.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(
            "exists already",
            subject=folder,
            stage="writing a bundle",
            remedy="Choose another folder, or remove it",
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise OutputError(
            f"cannot be written: {error.strerror}", subject=folder, stage="writing a bundle"
        ) from error
    try:
        _write_files(temporary, fields, states, card, samples)
        bundle = open_bundle(temporary)
        temporary.chmod(0o755)  # mkdtemp's folders are their owner's alone
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Bundle(folder, bundle.manifest, bundle.digest)


def _write_files(
    folder: Path,
    fields: Mapping[str, Any],
    states: Sequence[Mapping[str, NDArray[np.floating]]],
    card: str,
    samples: Sequence[str],
) -> None:
    told = fields.get("member", [{} for _ in states])
    data = {"schema": SCHEMA, **fields, "member": []}
    for index, (state, member) in enumerate(zip(states, told, strict=True)):
        path = folder / f"member-{index}.safetensors"
        path.write_bytes(pack_weights(state, path.name))
        data["member"].append({"file": path.name, "sha256": _sha256(path.read_bytes()), **member})
    if "training" in fields:
        path = folder / "samples.txt"
        path.write_bytes("".join(f"{digest}\n" for digest in sorted(samples)).encode())
        hashed = {"samples": path.name, "samples_sha256": _sha256(path.read_bytes())}
        data["training"] = {**fields["training"], **hashed}
    (folder / CARD).write_text(card, encoding="utf-8", newline="\n")
    (folder / MANIFEST).write_text(_toml(data), encoding="utf-8", newline="\n")


def pack_weights(state: Mapping[str, NDArray[np.floating]], name: str) -> bytes:
    """Weights as the bytes of a safetensors file, float16.

    Raises:
        BundleError: where a value does not fit float16.
    """
    import numpy as np
    from safetensors.numpy import save

    with np.errstate(over="ignore"):  # what overflows is found below
        halves = {key: np.ascontiguousarray(array, dtype=np.float16) for key, array in state.items()}
    if bad := [key for key, array in halves.items() if not np.isfinite(array).all()]:
        raise BundleError(
            f"'{bad[0]}' has values that float16 cannot hold",
            subject=name,
            stage="writing a bundle",
            remedy="Training has diverged: train again with a lower learning rate",
        )
    return bytes(save(halves))


def _manifest_data(path: Path) -> dict[str, Any]:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (
        OSError,
        ValueError,
        RecursionError,
    ) as error:  # of the second kind: no UTF-8, no TOML, huge numbers
        raise BundleError(
            f"cannot be read: {_reason(error)}", subject=path, stage="opening a bundle", remedy=GET_AGAIN
        ) from error
    schema = data.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise BundleError(
            f"its schema {schema} is newer than the {SCHEMA} that this version knows",
            subject=path,
            stage="opening a bundle",
            remedy="Upgrade the program: pip install --upgrade wsi-mitosis",
        )
    return data


def _checked(path: Path, sha256: str) -> bytes:
    """The content of a file whose hash is as it should be."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(
            "the manifest lists it, but it cannot be read: " + str(error.strerror),
            subject=path,
            stage="checking files",
            remedy=GET_AGAIN,
        ) from error
    if _sha256(content) != sha256:
        raise BundleError(
            "is not the file that the manifest lists (SHA-256 differs)",
            subject=path,
            stage="checking files",
            remedy=GET_AGAIN,
        )
    return content


def _weights(path: Path, sha256: str) -> dict[str, NDArray[np.floating]]:
    """The arrays of a weights file whose hash is as it should be."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return dict(load(_checked(path, sha256)))
    except (SafetensorError, TypeError, KeyError) as error:  # the last: a number format that NumPy lacks
        raise BundleError(
            f"holds no weights: {error}", subject=path, stage="loading weights", remedy=GET_AGAIN
        ) from error


def _reason(error: Exception) -> str:
    """Why a file cannot be read, without its name."""
    if isinstance(error, UnicodeDecodeError):
        return "it is not text in UTF-8"
    return str(error.strerror if isinstance(error, OSError) else error)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _digest(data: Mapping[str, Any]) -> str:
    """Of the content as read, not as parsed: a default that a later version adds leaves it as it is."""
    return _sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode())


def _toml(data: Mapping[str, Any]) -> str:
    """A manifest as TOML: plain values first, then its tables, then its lists of tables."""
    tables = {key: value for key, value in data.items() if isinstance(value, dict)}
    lists = {key: value for key, value in data.items() if _is_tables(value)}
    plain = {key: value for key, value in data.items() if key not in tables and key not in lists}
    sections = [*_toml_lines(plain)]
    for key, table in tables.items():
        sections += ["", f"[{key}]", *_toml_lines(table)]
    for key, entries in lists.items():
        for entry in entries:
            sections += ["", f"[[{key}]]", *_toml_lines(entry)]
    return "\n".join(sections) + "\n"


def _is_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(entry, dict) for entry in value)


def _toml_lines(table: Mapping[str, Any]) -> Iterator[str]:
    """TOML has no null: what is None is left out."""
    return (f"{key} = {_toml_value(value)}" for key, value in table.items() if value is not None)


def _toml_value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml_value, value))}]"
    if isinstance(value, float):
        return repr(float(value))  # NumPy's own repr is no TOML
    # JSON's strings, whole numbers and truth values are TOML's, but for DEL, which TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
