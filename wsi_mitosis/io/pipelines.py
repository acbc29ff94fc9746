"""Pipeline files, which hold the options of a night: a search for candidates, and a classify run."""

from __future__ import annotations

import glob
from pathlib import Path

from wsi_mitosis.errors import SpecError
from wsi_mitosis.io.limits import read_text
from wsi_mitosis.io.remote import is_url
from wsi_mitosis.io.shipped import names, shipped
from wsi_mitosis.specs import PipelineSpec

FOLDER, HUB = "{folder}", "hub"


def read_pipeline(pipeline: str, root: str | None = None) -> PipelineSpec:
    """Read a pipeline and resolve its relative paths.

    Args:
        pipeline: A TOML file, or the bare name of a shipped one.
        root: Folder that relative paths start at; by default the file's folder, and for a shipped file the
            current one.

    Raises:
        SpecError: if there is no such pipeline, or its keys are not those of `PipelineSpec`.
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
    spec = PipelineSpec.parse_toml(read_settings(path), path)
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


def _rooted(spec: PipelineSpec, root: Path) -> PipelineSpec:
    magic_free = Path(glob.escape(str(root)))
    slides = tuple(
        s if is_url(s) else str((magic_free if glob.has_magic(s) else root) / s) for s in spec.input.slides
    )
    detections = spec.input.detections
    if not detections.startswith(FOLDER):  # which becomes an absolute path
        detections = str(root / detections)
    inputs = spec.input.model_copy(update={"slides": slides, "detections": detections})
    output = spec.output.model_copy(
        update={
            "folder": str(root / spec.output.folder),
            "regions": _below(root, spec.output.regions),
            "metrics": _below(root, spec.output.metrics),
        }
    )
    staging = spec.staging.model_copy(update={"stage": _below(root, spec.staging.stage)})
    changes: dict[str, object] = {"input": inputs, "output": output, "staging": staging}
    changes["model"] = _named(root, spec.model)
    if spec.detect is not None:
        weights = spec.detect.weights
        weights = weights if weights == HUB else _below(root, weights)
        changes["detect"] = spec.detect.model_copy(update={"weights": weights})
    return spec.model_copy(update=changes)


def _below(root: Path, path: str | None) -> str | None:
    return None if path is None else str(root / path)


def _named(root: Path, model: str | None) -> str | None:
    """Return the path of a bundle; one without a slash is the name of a shipped one."""
    return str(root / model) if model and "/" in model else model
