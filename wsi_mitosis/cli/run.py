"""`wsi-mitosis run`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from wsi_mitosis.cli import options
from wsi_mitosis.cli.completing import completer
from wsi_mitosis.specs import ClassifySpec

if TYPE_CHECKING:
    from wsi_mitosis.jobs.inputs import Searched
    from wsi_mitosis.jobs.pipeline import RunPlan
    from wsi_mitosis.specs import PipelineSpec


@click.command()
@click.argument("pipeline", metavar="PIPELINE.toml", shell_complete=completer("PIPELINE.toml"))
@click.option(
    "--root",
    metavar="DIR",
    shell_complete=completer("DIR"),
    help="Folder that relative paths start at.  [default: the pipeline's; for a shipped one, this folder]",
)
@click.option("--plan", is_flag=True, help="Print what would be done and why; start nothing.")
@options.one(ClassifySpec, "retry")
@options.one(ClassifySpec, "steal_lock")
@options.messages
def command(
    pipeline: str,
    root: str | None,
    *,
    plan: bool,
    retry: bool,
    steal_lock: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Run a pipeline from a file, for example every night.

    PIPELINE is a TOML file or the name of a shipped one (nightly, smoke).

    \b
    Example:  wsi-mitosis run /etc/wsi-mitosis/nightly.toml
              wsi-mitosis run /etc/wsi-mitosis/nightly.toml --plan

    The keys of the file are the options of `classify`, and a table [detect] for a search before it;
    docs/reference/options.md lists them.

    Exit status: that of `classify`.
    """
    from wsi_mitosis.cli.classify import run_and_render
    from wsi_mitosis.cli.render import show
    from wsi_mitosis.io.pipelines import read_pipeline

    spec = _with(read_pipeline(pipeline, root), retry=retry, steal_lock=steal_lock)
    if plan:
        from wsi_mitosis.jobs.pipeline import plan_run

        planned = plan_run(spec)
        show(lambda: _as_data(planned), lambda: _as_lines(planned), as_json=as_json, quiet=quiet)
        return 0
    searched = _search(spec, quiet=quiet, verbose=verbose)
    return run_and_render(spec, as_json=as_json, quiet=quiet, verbose=verbose, searched=searched)


def _with(spec: PipelineSpec, *, retry: bool, steal_lock: bool) -> PipelineSpec:
    """Return the pipeline with the options of the command line."""
    retries = spec.retries.model_copy(update={"retry": spec.retries.retry or retry})
    output = spec.output.model_copy(update={"steal_lock": spec.output.steal_lock or steal_lock})
    return spec.model_copy(update={"retries": retries, "output": output})


def _search(spec: PipelineSpec, *, quiet: bool, verbose: bool) -> Searched | None:
    """Search the slides for candidates if the pipeline says so.

    Raises:
        KeyboardInterrupt: if the search was interrupted; finished slides are kept.
    """
    from wsi_mitosis.cli.progress import Reporter
    from wsi_mitosis.jobs.pipeline import search_spec
    from wsi_mitosis.workers.slides import detect_batch

    search = search_spec(spec)
    if search is None:
        return None
    with Reporter(quiet=quiet, verbose=verbose, unit="tiles") as reporter:
        reporter.info("searching candidates")
        result = detect_batch(search, reporter)
    if result.interrupted:
        raise KeyboardInterrupt
    return result.searched


def _as_data(plan: RunPlan) -> dict[str, Any]:
    slides = [slide._asdict() for slide in plan.slides]
    return {"out": str(plan.folder), "held_by": plan.holder, "slides": slides}


def _as_lines(plan: RunPlan) -> list[str]:
    width = max((len(slide.action) for slide in plan.slides), default=0)
    held = [] if plan.holder is None else [f"{plan.folder} is held by {plan.holder}"]
    lines = [
        f"{slide.action:{width}}  {slide.slide}: {slide.reason.removeprefix(f'{slide.slide}: ')}"
        for slide in plan.slides
    ]
    return [*held, *lines, f"Nothing was started. Results would be in {plan.folder}."]
