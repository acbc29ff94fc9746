"""`wsi-mitosis status`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from wsi_mitosis.cli import options
from wsi_mitosis.cli.render import show

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsi_mitosis.core.histories import RunProgress
    from wsi_mitosis.jobs.status import FolderStatus, SlideStatus

QUIET = {"done", "no_detections"}
"""States that need nobody's attention; --verbose prints these slides too."""


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@options.messages
def command(folder: Path, *, as_json: bool, quiet: bool, verbose: bool) -> int:
    """Show what is done in an output folder, failed, set aside, waiting, pending or running.

    DIR is a folder of results, or the table that `detect` writes. A run that is at work is not disturbed.

    \b
    Example:  wsi-mitosis status results

    Exit status: 0, or 2 if no run has written there.
    """
    from wsi_mitosis.jobs.status import folder_status

    status = folder_status(folder)
    show(status.as_data, lambda: _lines(status, verbose=verbose), as_json=as_json, quiet=quiet)
    return 0


def _lines(status: FolderStatus, *, verbose: bool) -> Iterator[str]:
    from wsi_mitosis.errors import several

    yield _run_line(status)
    if status.progress is not None and status.is_at_work:
        yield _progress_line(status.progress)
    counts = ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in status.counts.items())
    yield f"{several(len(status.slides), 'slide')}: {counts or 'none'}"
    for slide in status.slides:
        if verbose or slide.status not in QUIET:
            yield _slide_line(slide)


def _run_line(status: FolderStatus) -> str:
    last = status.last_run
    if status.holder is None:
        ended = last.get("ended")
        return (
            f"No run is at work. The last one ended {ended}, exit status {last.get('exit_status')}."
            if ended
            else ("No run is at work, and the last one has not written that it ended.")
        )
    if status.is_dead:
        return f"The run of {status.holder} ended without notice. The next run goes on from there."
    certain = "" if status.is_dead is False else " (on another machine: whether it lives is not known)"
    return f"A run is at work: {status.holder}{certain}."


def _progress_line(progress: RunProgress) -> str:
    left = progress.remaining_seconds
    end = "" if left is None else f", about {left / 60:.0f} min left"
    return (
        f"{progress.finished} of {progress.slides} slides done, {progress.patches} patches, "
        f"{progress.patches_per_second:.1f}/s{end}; written {progress.updated}"
    )


def _slide_line(slide: SlideStatus) -> str:
    from wsi_mitosis.jobs.status import seconds_since

    if slide.progress is not None:
        known = slide.progress.candidates
        of = "" if known is None else f" of {known}"
        done = f"{slide.progress.patches}{of} patches in {seconds_since(slide.since):.0f} s"
        attempt = f", attempt {slide.progress.attempt}" if slide.progress.attempt > 1 else ""
        return f"  running      {slide.slide}: {done}{attempt}"
    name, reason = slide.status.replace("_", " "), slide.reason.removeprefix(f"{slide.slide}: ")
    failures = f" ({slide.attempts} failed runs)" if slide.attempts > 1 and slide.status == "failed" else ""
    return f"  {name:12} {slide.slide}{failures}" + (f": {reason}" if reason else "")
