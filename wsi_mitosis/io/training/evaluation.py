"""An evaluation's files: JSON, Markdown, pictures, and what was said of each sample."""

from __future__ import annotations

import json
import os
import warnings
from typing import TYPE_CHECKING, Any

from wsi_mitosis.core.markdown import number, plain, table
from wsi_mitosis.errors import OutputError
from wsi_mitosis.io.atomic import replacing, write_text
from wsi_mitosis.io.csv_files import write_frame
from wsi_mitosis.io.training.plots import draw_calibration, draw_roc

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import pandas as pd

    from wsi_mitosis.io.training.plots import Curve

STAGE = "writing an evaluation"
MEASURES = {
    "balanced_accuracy": "balanced accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "auroc": "AUROC",
}


def prepare_folder(folder: Path) -> None:
    """Make the output folder, before anything is computed for it.

    Raises:
        OutputError: where it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error.strerror) from error
    if not os.access(folder, os.W_OK):
        raise _unwritable(folder, "no permission")


def write_evaluation(
    folder: Path, report: Mapping[str, Any], predictions: pd.DataFrame, curves: Sequence[Curve]
) -> None:
    """Write `predictions.csv`, `roc.png`, `calibration.png`, `evaluation.md` and last `evaluation.json`.

    Args:
        folder: Where they go; what is there of the same names is replaced.
        report: As `jobs.evaluate` makes it.
        predictions: A row per sample.
        curves: What the pictures are drawn of.

    Raises:
        OutputError: where the folder cannot be written.
    """
    prepare_folder(folder)
    pictures = {"roc.png": draw_roc(report, curves), "calibration.png": draw_calibration(report, curves)}
    try:
        (folder / "evaluation.json").unlink(missing_ok=True)  # where it stands, all are of one evaluation
        write_frame(folder / "predictions.csv", predictions)
        for name, figure in pictures.items():
            with replacing(folder / name) as temporary, warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Glyph .* missing from")  # a box instead will do
                figure.savefig(temporary, format="png", dpi=150)
        write_text(folder / "evaluation.md", as_markdown(report))
        text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False)
        write_text(folder / "evaluation.json", f"{text}\n")
    except OSError as error:
        raise _unwritable(folder, error.strerror) from error


def _unwritable(folder: Path, why: str | None) -> OutputError:
    return OutputError(
        f"cannot be written: {why}",
        subject=folder,
        stage=STAGE,
        remedy="Choose a folder that you may write to",
    )


def as_markdown(report: Mapping[str, Any]) -> str:
    """A report to read."""
    return "\n".join(_lines(report)) + "\n"


def as_section(report: Mapping[str, Any]) -> str:
    """What of a report stands in the bundle's card."""
    return "\n".join(_section(report)) + "\n"


def _section(report: Mapping[str, Any]) -> Iterator[str]:
    about = f"{report['samples']} samples, digest `{report['dataset_digest'][:16]}`"
    yield f"{about}. {report['program']}, {report['device']}."
    yield ""
    yield from (f"- {plain(note)}" for note in report["notes"])
    yield ""
    yield from _figures(report, "###")
    if report["single_view"] is not None:
        yield "### A single view: the crop as it is"
        yield ""
        yield from _figures(report["single_view"], "####")
    yield from _footer(report)


def _lines(report: Mapping[str, Any]) -> Iterator[str]:
    yield f"# {plain(report['bundle'])} on {plain(report['dataset'])}"
    yield ""
    yield f"**{report['use']}**"
    yield ""
    yield from (f"- {plain(note)}" for note in report["notes"])
    yield ""
    yield from table(
        ["", ""],
        [
            ["bundle", f"{report['bundle']} {report['bundle_version']}, {report['bundle_digest'][:12]}"],
            ["trained", "yes" if report["trained"] else "NO, its labels mean nothing"],
            ["intended use", report["intended_use"]],
            ["dataset", f"{report['dataset']}, {report['dataset_digest'][:12]}, {report['samples']} samples"],
            ["licence of the dataset", report["dataset_licence"]],
            ["views", f"{report['tta']}, zooms {', '.join(map(str, report['zooms']))}"],
            ["threshold", str(report["threshold"])],
            ["computed by", f"{report['program']}, {report['device']}"],
        ],
    )
    yield from _figures(report, "##")
    if report["single_view"] is not None:
        yield "## A single view"
        yield ""
        yield "The crop as it is, without flips, rotations and further zooms."
        yield ""
        yield from _figures(report["single_view"], "###")
    yield from _footer(report)


def _figures(figures: Mapping[str, Any], level: str) -> Iterator[str]:
    """The tables of one choice of views."""
    for title, ensemble in (
        ("Ensemble", figures),
        ("Ensemble, on what no member has seen", figures["unseen"]),
    ):
        if ensemble is not None and ensemble["overall"] is not None:
            yield f"{level} {title}"
            yield ""
            yield from _score_table({"all": ensemble["overall"], **ensemble["domains"]})
            yield from _confusion(ensemble["overall"])
    yield f"{level} Members"
    yield ""
    yield from _score_table({_member_name(name, entry): entry for name, entry in figures["members"].items()})
    if figures["lodo"] is not None:
        yield f"{level} Leave one domain out"
        yield ""
        yield from _lodo_table(figures["lodo"])


def _member_name(name: str, entry: Mapping[str, Any]) -> str:
    return name if entry["test_domain"] is None else f"{name} (tested on {entry['test_domain']})"


def _score_table(entries: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    marked = any(entry["training_data"] for entry in entries.values())
    rows = []
    for name, entry in entries.items():
        mark = [f"training data ({entry['training_samples']} of {entry['n']})"] if marked else []
        rows.append([name, *_cells(entry), *mark])
        if entry["distinct"] is not None:
            both = entry["distinct"]["contradictory"]
            told = f", {both} with both labels" if both else ""
            rows.append([f"{name}: distinct figures{told}", *_cells(entry["distinct"]), *mark])
    header = ["", "n", "atypical", *MEASURES.values(), "Brier", *(["data"] if marked else [])]
    yield from table(header, rows)


def _cells(entry: Mapping[str, Any]) -> list[str]:
    measures = [f"{number(entry[name])}{_interval(entry[f'{name}_ci95'])}" for name in MEASURES]
    return [str(entry["n"]), str(entry["atypical"]), *measures, number(entry["brier"])]


def _confusion(entry: Mapping[str, Any]) -> Iterator[str]:
    counts = entry["confusion"]
    mark = ", training data" if entry["training_data"] else ""
    yield from table(
        [f"label{mark}", "called atypical", "called typical"],
        [
            [label, str(counts[f"{label}_as_atypical"]), str(counts[f"{label}_as_typical"])]
            for label in ("atypical", "typical")
        ],
    )


def _lodo_table(lodo: Mapping[str, Any]) -> Iterator[str]:
    yield f"Mean ± sample standard deviation over {lodo['members']} members, each on its own test domain."
    yield ""
    validation = ["validation, as the bundle states it", _spread(lodo["validation_balanced_accuracy"])]
    yield from table(
        ["", *MEASURES.values()],
        [["test", *(_spread(lodo[name]) for name in MEASURES)], [*validation, *[""] * (len(MEASURES) - 1)]],
    )


def _footer(report: Mapping[str, Any]) -> Iterator[str]:
    entries = [report["overall"], *report["members"].values()]
    drawn = sorted({entry["resampled"]["unit"] for entry in entries if entry is not None and entry["n"]})
    bootstrap = report["bootstrap"]
    yield (
        f"Atypical is the positive class. In brackets: {bootstrap['interval']} intervals of "
        f"{bootstrap['resamples']} bootstrap resamples over {' and '.join(drawn)}, seed {bootstrap['seed']}; "
        "they tell nothing of laboratories and scanners that are not in the data."
    )


def _interval(bounds: Sequence[float] | None) -> str:
    return "" if bounds is None else f" [{bounds[0]:.3f}, {bounds[1]:.3f}]"


def _spread(spread: Mapping[str, Any]) -> str:
    if spread["mean"] is None:
        return "undefined"
    return f"{spread['mean']:.3f}" + ("" if spread["sd"] is None else f" ± {spread['sd']:.3f}")
