"""Where bundles, pipelines and recipes lie that come with the program."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

Kind = Literal["models", "pipelines", "train"]


def shipped(kind: Kind) -> Path:
    """Return the folder of one kind of shipped data, in the installed package or in the source tree."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "shipped" / kind
    return installed if installed.is_dir() else package.parent / kind


def names(kind: Kind) -> list[str]:
    """Return the bare names of shipped data, sorted: folders of bundles, or stems of TOML files."""
    folder = shipped(kind)
    found = folder.glob("*/manifest.toml") if kind == "models" else folder.glob("*.toml")
    return sorted(path.parent.name if kind == "models" else path.stem for path in found)
