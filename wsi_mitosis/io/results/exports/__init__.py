"""Results as files of other programs: one module per format, each with the slides as `Export`.

Every export has level-0 px in the slide frame unless its format demands another unit. It reads the figures
tables and the assessments of an output folder, never a slide.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from wsi_mitosis.io.results.exports.common import Export, check_installed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from wsi_mitosis.tables import ExportFormat

__all__ = ["FORMATS", "Export", "ExportWriter"]


@dataclass(frozen=True)
class ExportWriter:
    """How a format is written.

    Attributes:
        module: The module of its writer, which imports the format's libraries.
        ending: Ending of a slide's file; empty if one file has all slides.
        file: Name of the file of all slides; empty if each slide has its own.
        needs_mpp: Whether it needs the pixel size of each slide.
        needs: Libraries that are not installed with the program.
    """

    module: str
    ending: str = ""
    file: str = ""
    needs_mpp: bool = False
    needs: tuple[str, ...] = ()

    def check_installed(self, name: str) -> None:
        """Check that its libraries are installed; `name` is that of the format.

        Raises:
            SpecError: if one of them is not.
        """
        check_installed(name, self.needs)

    def check(self, export: Export) -> None:
        """Check that a slide can be written.

        Raises:
            MppError: if its record has no pixel size, and the format needs it.
        """
        if self.needs_mpp:
            _ = export.mpp

    def target(self, folder: Path, name: str) -> Path:
        """Return the file of a slide, which others may share.

        Args:
            folder: Where the files are.
            name: The slide's name in the output folder.
        """
        return folder / (self.file or f"{name}{self.ending}")

    def write(self, path: Path, exports: Sequence[Export]) -> None:
        """Write a file with the slides given, of which there is one unless the format has one file for all.

        Raises:
            SlideError: if a slide cannot be written in this format.
            OSError: if the file cannot be written.
        """
        import_module(f"{__name__}.{self.module}").write(path, exports)


FORMATS: dict[ExportFormat, ExportWriter] = {
    "midog": ExportWriter("midog", file="midog.json"),
    "grand-challenge": ExportWriter("grand_challenge", ending=".json", needs_mpp=True),
    "grand-challenge-labels": ExportWriter("grand_challenge_labels", ending=".json", needs_mpp=True),
    "tiatoolbox": ExportWriter("tiatoolbox", ending=".db"),
    "anndata": ExportWriter("anndata", file="figures.h5ad", needs_mpp=True, needs=("anndata",)),
    "spatialdata": ExportWriter(
        "spatialdata",
        ending=".zarr",
        needs_mpp=True,
        needs=("spatialdata", "anndata"),
    ),
}
