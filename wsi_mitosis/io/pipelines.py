"""Pipeline files, which hold the options of a classify run."""

from __future__ import annotations

import glob
from pathlib import Path

from wsi_mitosis.errors import SpecError
from wsi_mitosis.io.limits import read_text
from wsi_mitosis.io.shipped import names, shipped
from wsi_mitosis.specs import ClassifySpec


def read_pipeline(pipeline: str, root: str | None = None) -> ClassifySpec:
    """Read a pipeline and resolve its relative paths.

    Args:
        pipeline: A TOML file, or the bare name of a shipped one.
        root: Folder that relative paths start at; by default the file's folder, and for a shipped file the
            current one.

    Raises:
        SpecError: if there is no such pipeline, or its keys are not those of `ClassifySpec`.
    """
    path = Path(pipeline)
    base = path.parent
    if not path.is_file():
        path, base = shipped("pipelines") / f"{path.name.removesuffix('.toml')}.toml", Path()
        if Path(pipeline).name != pipeline or not path.is_file():
            raise SpecError(
                "no such pipeline",
                subject=pipeline,
                remedy=f"Name a TOML file, or a shipped one: {', '.join(names('pipelines'))}",
            )
    spec = ClassifySpec.parse_toml(read_settings(path), path)
    return _rooted(spec, Path(root) if root is not None else base)


def read_settings(path: Path) -> str:
    """Read a TOML file.

    Raises:
        SpecError: if it cannot be read, is too large, or is not text in UTF-8.
    """
    try:
        return read_text(path)
    except (OSError, ValueError) as error:
        cause = (error.strerror if isinstance(error, OSError) else None) or str(error)
        remedy = "Check the path and its permissions, and save the file as text in UTF-8"
        raise SpecError(f"cannot be read: {cause}", subject=path, stage="reading", remedy=remedy) from error


def _rooted(spec: ClassifySpec, root: Path) -> ClassifySpec:
    magic_free = Path(glob.escape(str(root)))
    slides = tuple(str((magic_free if glob.has_magic(s) else root) / s) for s in spec.input.slides)
    inputs = spec.input.model_copy(update={"slides": slides, "detections": str(root / spec.input.detections)})
    regions = str(root / spec.output.regions) if spec.output.regions is not None else None
    output = spec.output.model_copy(update={"folder": str(root / spec.output.folder), "regions": regions})
    model = str(root / spec.model) if spec.model and "/" in spec.model else spec.model
    return spec.model_copy(update={"input": inputs, "output": output, "model": model})
