"""Datasets of labelled figures: building, showing and verifying a store."""

from wsi_mitosis.jobs.dataset.build import BuildResult, Reporter, build
from wsi_mitosis.jobs.dataset.parts import Part, PartOutcome, run_part
from wsi_mitosis.jobs.dataset.show import Contents, DomainContents, draw, show
from wsi_mitosis.jobs.dataset.verify import Overlap, Verification, verify

__all__ = [
    "BuildResult",
    "Contents",
    "DomainContents",
    "Overlap",
    "Part",
    "PartOutcome",
    "Reporter",
    "Verification",
    "build",
    "draw",
    "run_part",
    "show",
    "verify",
]
