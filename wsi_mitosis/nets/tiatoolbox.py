"""TIAToolbox's networks and their weights. Importing it takes tens of seconds."""

from __future__ import annotations

import hashlib
import logging
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from wsi_mitosis.errors import InputError
from wsi_mitosis.nets.checkpoints import read_state_dict

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def quietly() -> Iterator[None]:
    """Import TIAToolbox in this block without effects on logging and warnings.

    The import adds handlers to the root logger if it has none, one of them on stdout, and redirects warnings
    to the log. Its dependencies emit deprecation warnings.
    """
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.addHandler(logging.NullHandler())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.captureWarnings(capture=False)


def fetch_weights(model: str, stage: str, remedy: str) -> Path:
    """Download weights from TIAToolbox's hub, unless an earlier download is cached.

    Args:
        model: TIAToolbox's name of the weights.
        stage: The caller's stage, for messages.
        remedy: The remedy, for messages.

    Returns:
        The path of the checkpoint.

    Raises:
        InputError: If the weights cannot be downloaded.
    """
    with quietly():
        from huggingface_hub.errors import EntryNotFoundError
        from tiatoolbox.models import architecture
    try:
        return Path(architecture.fetch_pretrained_weights(model))
    except (OSError, EntryNotFoundError) as error:  # the hub's other errors are OSErrors
        cause = f"cannot be downloaded ({type(error).__name__}): {str(error).partition(chr(10))[0][:200]}"
        raise InputError(cause, subject=f"{model}.pth", stage=stage, remedy=remedy) from error


def with_weights(
    network: nn.Module, path: Path, stage: str, remedy: str, *, assign: bool = False
) -> nn.Module:
    """Load a file's weights into a network.

    Unlike TIAToolbox's own loader, this function never runs code of the file.

    Args:
        network: The network.
        path: A checkpoint.
        stage: The caller's stage, for messages.
        remedy: The remedy, for messages.
        assign: Use the file's tensors instead of copying them, for a network on the meta device.

    Returns:
        The same network.

    Raises:
        InputError: If the file cannot be read, contains code, or does not fit the network.
    """
    state = read_state_dict(path, stage, remedy)
    try:
        nn.Module.load_state_dict(network, state, assign=assign)
    except RuntimeError as error:
        cause = f"does not fit the network: {' '.join(str(error).split())[:200]}"
        raise InputError(cause, subject=path, stage=stage, remedy=remedy) from error
    return network


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
