"""Where bundles, pipelines and recipes lie that come with the program."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

Kind = Literal["models", "pipelines", "train"]


def shipped(kind: Kind) -> Path:
    """The folder of one kind of shipped data: inside the installed package, else of the source tree."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "shipped" / kind
    return installed if installed.is_dir() else package.parent / kind


def names(kind: Kind) -> list[str]:
    """The bare names by which shipped data are asked for, sorted: bundles' folders, or TOML files' stems."""
    folder = shipped(kind)
    found = folder.glob("*/manifest.toml") if kind == "models" else folder.glob("*.toml")
    return sorted(path.parent.name if kind == "models" else path.stem for path in found)
