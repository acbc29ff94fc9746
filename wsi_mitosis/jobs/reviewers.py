"""The reviewers of a recount, and where their reviews are."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from wsi_mitosis.errors import DetectionsError
from wsi_mitosis.io.detections.review_files import VerdictFile, read_verdicts_of, verdict_files_in
from wsi_mitosis.io.detections.reviews import STAGE, find_reviews, strangers
from wsi_mitosis.jobs.reviewing import (
    OneReview,
    RecountOptions,
    UnreviewedSlide,
    review_of_export,
    review_of_files,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from wsi_mitosis.core.review_files import ReviewFile
    from wsi_mitosis.io.detections.folder import FoundFiles
    from wsi_mitosis.io.results.folder import ResultFolder
    from wsi_mitosis.tables import SlideSource


class Reviewed(NamedTuple):
    """What a user gives as a review.

    Attributes:
        path: A folder of exports from QuPath, a review file, or a folder of review files.
        name: Name of the reviewer of a folder of exports; None for the folder's own.
    """

    path: Path
    name: str | None = None


@dataclass(frozen=True)
class QuPathReviewer:
    """A reviewer who exported slides from QuPath.

    Attributes:
        name: The name.
        folder: Where the exports are.
        found: The files of each slide.
    """

    name: str
    folder: Path
    found: FoundFiles
    only_decides = False

    def has(self, slide: SlideSource) -> bool:
        """Return whether a file may be this reviewer's review of a slide."""
        return slide in self.found.refused or bool(self.found.of_slide[slide])

    def read(
        self, folder: ResultFolder, slide: UnreviewedSlide, source: SlideSource, options: RecountOptions
    ) -> OneReview:
        """Read the review of a slide.

        Raises:
            InputError: if its file also fits another slide or may have another name, and as
                `review_of_export`.
        """
        if (refusal := self.found.refused.get(source)) is not None:
            raise refusal
        paths = self.found.of_slide[source]
        return review_of_export(folder, slide, self.name, paths, options, self.folder)


@dataclass(frozen=True)
class PageReviewer:
    """A reviewer who saved review files.

    Attributes:
        name: The name, which the files state.
        files: The files, by name.
    """

    name: str
    files: tuple[VerdictFile, ...]

    def has(self, slide: SlideSource) -> bool:
        """Return whether a file has verdicts on a slide."""
        return slide.relative in self.slides

    def read(
        self, folder: ResultFolder, slide: UnreviewedSlide, source: SlideSource, options: RecountOptions
    ) -> OneReview:
        """Read the review of a slide; `folder` is not needed, because a review file states its result.

        Raises:
            InputError: as `review_of_files`.
        """
        del folder
        name = source.relative
        files = [file for file in self.files if any(one.slide == name for one in file.content.decided)]
        return review_of_files(slide, self.name, files, options)

    @property
    def only_decides(self) -> bool:
        """Whether all verdicts are on figures on which others disagreed."""
        return all(file.content.design.decides for file in self.files)

    @cached_property
    def slides(self) -> frozenset[str]:
        """The slides that the reviewer decided something about."""
        return frozenset(one.slide for file in self.files for one in file.content.decided)


@dataclass(frozen=True)
class Reviewers:
    """All reviewers of a recount, each sorted by name; no two have the same name.

    Attributes:
        in_qupath: Those who exported slides from QuPath.
        on_pages: Those who saved review files.
    """

    in_qupath: tuple[QuPathReviewer, ...]
    on_pages: tuple[PageReviewer, ...]

    @property
    def all(self) -> tuple[QuPathReviewer | PageReviewer, ...]:
        """All of them, sorted by name."""
        return tuple(sorted((*self.in_qupath, *self.on_pages), key=lambda one: one.name))

    @property
    def contents(self) -> tuple[ReviewFile, ...]:
        """What the review files say, by reviewer and then by name."""
        return tuple(file.content for one in self.on_pages for file in one.files)

    def notes(self) -> tuple[str, ...]:
        """Return notes about files that are not read."""
        return tuple(note for one in self.in_qupath for note in strangers(one.folder, one.found))


def find_reviewers(reviewed: Sequence[Reviewed], sources: Sequence[SlideSource]) -> Reviewers:
    """Find the reviewers, and read their review files.

    Args:
        reviewed: What the user gives.
        sources: The slides of the folder of results.

    Raises:
        DetectionsError: if something is no review, a folder fits no slide, or two reviewers have one name.
    """
    in_qupath: dict[str, QuPathReviewer] = {}
    files: dict[Path, VerdictFile] = {}
    for path, name in reviewed:
        read = _review_files(path)
        if read and name is not None:
            raise _refusal(
                "review files state the names of their reviewers", path, f"Give {path} without '{name}='"
            )
        files |= {file.path.resolve(): file for file in read}
        if not read:
            own = name or path.resolve().name or "reviewer"
            if own in in_qupath:
                raise _of_one_name(own, path, f"{in_qupath[own].folder} is a folder")
            in_qupath[own] = QuPathReviewer(own, path, find_reviews(path, sources))
    on_pages = _by_reviewer(files.values())
    for one in on_pages:
        if one.name in in_qupath:
            raise _of_one_name(one.name, in_qupath[one.name].folder, f"{one.files[0].path} is a review file")
    return Reviewers(tuple(in_qupath[name] for name in sorted(in_qupath)), on_pages)


def _review_files(path: Path) -> tuple[VerdictFile, ...]:
    """The review files that a path gives; empty if it is a folder of exports, or does not exist."""
    if path.is_dir():
        return verdict_files_in(path)
    return (read_verdicts_of(path),) if path.exists() else ()


def _by_reviewer(files: Iterable[VerdictFile]) -> tuple[PageReviewer, ...]:
    found: dict[str, list[VerdictFile]] = defaultdict(list)
    for file in sorted(files, key=lambda one: (one.path.name, one.sha256)):
        found[file.content.reviewer].append(file)
    return tuple(PageReviewer(name, tuple(found[name])) for name in sorted(found))


def _of_one_name(name: str, path: Path, other: str) -> DetectionsError:
    return _refusal(
        f"it is a folder of the reviewer '{name}', and {other} of a reviewer of the same name",
        path,
        "Rename the folder, or name its reviewer: --reviewed NAME=FOLDER",
    )


def _refusal(cause: str, path: Path, remedy: str) -> DetectionsError:
    return DetectionsError(cause, subject=path, stage=STAGE, remedy=remedy)
