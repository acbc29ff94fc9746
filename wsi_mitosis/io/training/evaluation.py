"""The files of an evaluation: JSON, Markdown, plots, and the predictions for each sample."""

from __future__ import annotations

import json
import os
import warnings
from typing import TYPE_CHECKING

from wsi_mitosis.core.markdown import number, plain, table
from wsi_mitosis.errors import OutputError
from wsi_mitosis.io.atomic import replacing, write_text
from wsi_mitosis.io.csv_files import write_frame
from wsi_mitosis.io.training.plots import draw_calibration, draw_roc

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import pandas as pd

    from wsi_mitosis.core.experts import Agreement, BesideExperts, Part
    from wsi_mitosis.core.metrics import Bounds, Spread
    from wsi_mitosis.core.reliability import Errors, Reliability
    from wsi_mitosis.core.scoring import (
        Curve,
        DistinctScores,
        EvaluationReport,
        GroupScores,
        LodoScores,
        ViewScores,
    )

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
        OutputError: If it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error.strerror) from error
    if not os.access(folder, os.W_OK):
        raise _unwritable(folder, "no permission")


def write_evaluation(
    folder: Path, report: EvaluationReport, predictions: pd.DataFrame, curves: Sequence[Curve]
) -> None:
    """Write `predictions.csv`, `roc.png`, `calibration.png`, `evaluation.md` and last `evaluation.json`.

    Args:
        folder: Output folder. Existing files of these names are replaced.
        report: The content of `evaluation.json`.
        predictions: A row per sample.
        curves: The data of the plots.

    Raises:
        OutputError: If the folder cannot be written.
    """
    prepare_folder(folder)
    plots = {"roc.png": draw_roc(report, curves), "calibration.png": draw_calibration(report, curves)}
    try:
        (folder / "evaluation.json").unlink(missing_ok=True)  # if it exists, all files are of one evaluation
        write_frame(folder / "predictions.csv", predictions)
        for name, plot in plots.items():
            with replacing(folder / name) as temporary, warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Glyph .* missing from")  # the plot shows a box instead
                plot.savefig(temporary, format="png", dpi=150)
        write_text(folder / "evaluation.md", as_markdown(report))
        text = json.dumps(report.as_json(), indent=2, ensure_ascii=False, allow_nan=False)
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


def as_markdown(report: EvaluationReport) -> str:
    """Return a report as Markdown."""
    return "\n".join(_lines(report)) + "\n"


def as_section(report: EvaluationReport) -> str:
    """Return the part of a report that goes into the bundle's card, as Markdown."""
    return "\n".join(_section(report)) + "\n"


def _section(report: EvaluationReport) -> Iterator[str]:
    about = f"{report.samples} samples, digest `{report.dataset_digest[:16]}`"
    yield f"{about}. {report.computed_by}."
    yield ""
    yield from (f"- {plain(note)}" for note in report.notes)
    yield ""
    yield from _scores(report, "###")
    if report.single_view is not None:
        yield "### A single view: the crop as it is"
        yield ""
        yield from _scores(report.single_view, "####")
    yield from _experts(report, "###")
    yield from _calibration(report, "###")
    yield from _footer(report)


def _lines(report: EvaluationReport) -> Iterator[str]:
    yield f"# {plain(report.bundle)} on {plain(report.dataset)}"
    yield ""
    yield f"**{report.use}**"
    yield ""
    yield from (f"- {plain(note)}" for note in report.notes)
    yield ""
    yield from table(
        ["", ""],
        [
            ["bundle", f"{report.bundle} {report.bundle_version}, {report.bundle_digest[:12]}"],
            ["trained", "yes" if report.trained else "NO, its labels mean nothing"],
            ["intended use", report.intended_use],
            ["dataset", f"{report.dataset}, {report.dataset_digest[:12]}, {report.samples} samples"],
            ["licence of the dataset", report.dataset_licence],
            ["views", f"{report.tta}, zooms {', '.join(map(str, report.zooms))}"],
            ["threshold", str(report.threshold)],
            ["temperature", f"{report.temperature:.3g}"],
            ["computed by", report.computed_by],
        ],
    )
    yield from _scores(report, "##")
    if report.single_view is not None:
        yield "## A single view"
        yield ""
        yield "The crop as it is, without flips, rotations and further zooms."
        yield ""
        yield from _scores(report.single_view, "###")
    yield from _experts(report, "##")
    yield from _calibration(report, "##")
    yield from _footer(report)


def _scores(scores: ViewScores, level: str) -> Iterator[str]:
    """The tables for one choice of views."""
    if scores.overall is not None:
        yield from _ensemble(f"{level} Ensemble", scores.overall, scores.domains or {})
    if scores.unseen is not None:
        title = f"{level} Ensemble, on what no member has seen"
        yield from _ensemble(title, scores.unseen.overall, scores.unseen.domains)
    yield f"{level} Members"
    yield ""
    members = {_member_name(name, member.test_domain): member for name, member in scores.members.items()}
    yield from _score_table(members)
    if scores.lodo is not None:
        yield f"{level} Leave one domain out"
        yield ""
        domains = {member.test_domain for member in scores.members.values() if member.n}
        yield from _lodo_table(scores.lodo, len(domains))


def _ensemble(heading: str, overall: GroupScores, domains: Mapping[str, GroupScores]) -> Iterator[str]:
    yield heading
    yield ""
    yield from _score_table({"all": overall, **domains})
    yield from _confusion(overall)


def _member_name(name: str, test_domain: str | None) -> str:
    return name if test_domain is None else f"{name} (tested on {test_domain})"


def _score_table(groups: Mapping[str, GroupScores]) -> Iterator[str]:
    marked = any(group.training_data for group in groups.values())
    rows = []
    for name, group in groups.items():
        mark = [f"training data ({group.training_samples} of {group.n})"] if marked else []
        rows.append([name, *_cells(group), *mark])
        if (distinct := group.distinct) is not None:
            both = f", {distinct.contradictory} with both labels" if distinct.contradictory else ""
            rows.append([f"{name}: distinct figures{both}", *_cells(distinct), *mark])
    header = ["", "n", "atypical", *MEASURES.values(), "Brier", *(["data"] if marked else [])]
    yield from table(header, rows)


def _cells(scores: GroupScores | DistinctScores) -> list[str]:
    measures = _with_intervals(scores, tuple(MEASURES))
    return [str(scores.n), str(scores.atypical), *measures, number(scores.brier)]


def _confusion(scores: GroupScores) -> Iterator[str]:
    counts = scores.confusion
    mark = ", training data" if scores.training_data else ""
    yield from table(
        [f"label{mark}", "called atypical", "called typical"],
        [
            ["atypical", str(counts.atypical_as_atypical), str(counts.atypical_as_typical)],
            ["typical", str(counts.typical_as_atypical), str(counts.typical_as_typical)],
        ],
    )


def _lodo_table(lodo: LodoScores, domains: int) -> Iterator[str]:
    if domains == lodo.members:
        yield f"Mean ± sample standard deviation over {lodo.members} members, each on its own test domain."
    else:
        yield (
            f"Mean ± sample standard deviation over {domains} test domains. Each has the mean of "
            f"those of the {lodo.members} members that were trained without it."
        )
    yield ""
    validation = ["validation, as the bundle states it", _spread(lodo.validation_balanced_accuracy)]
    yield from table(
        ["", *MEASURES.values()],
        [
            ["test", *(_spread(getattr(lodo, name)) for name in MEASURES)],
            [*validation, *[""] * (len(MEASURES) - 1)],
        ],
    )


def _experts(report: EvaluationReport, level: str) -> Iterator[str]:
    """How the labels compare with the experts' own votes."""
    if not report.experts:
        return
    yield f"{level} Beside the experts"
    yield ""
    yield "A label is the majority of the experts' votes. Where they are divided, one of them contradicts"
    yield "it: the first table has the scores by their agreement. In the second one each vote of each expert"
    yield "is the truth once, for the bundle's labels and for the votes of the other experts on the same"
    yield "figure. Who calls few figures atypical has a high specificity and a low sensitivity, so that the"
    yield "last column has the bundle's sensitivity at the other experts' specificity."
    yield ""
    mark = ", training data" if report.training_data else ""
    header = ["", "n", "atypical", *MEASURES.values()]
    rows = (row for name, found in report.experts.items() for row in _part_rows(f"{name}{mark}", found))
    yield from table(header, rows)
    header = ["", *list(MEASURES.values())[:3], "sensitivity at the experts' specificity"]
    rows = (row for name, found in report.experts.items() for row in _agreement_rows(f"{name}{mark}", found))
    yield from table(header, rows)


def _part_rows(name: str, found: BesideExperts) -> Iterator[list[str]]:
    parts = {"all experts agree": found.unanimous, "the experts are divided": found.divided}
    for which, part in parts.items():
        yield [f"{name}: {which}", str(part.n), str(part.atypical), *_with_intervals(part, tuple(MEASURES))]


def _agreement_rows(name: str, found: BesideExperts) -> Iterator[list[str]]:
    names = tuple(MEASURES)[:3]
    at_theirs = number(found.sensitivity_at_their_specificity)
    yield [name, *_with_intervals(found.classifier, names), at_theirs]
    yield ["another expert", *_with_intervals(found.another_expert, names), ""]
    yield ["difference", f"{number(found.difference)}{_interval(found.difference_ci95)}", "", "", ""]


def _with_intervals(
    found: Part | Agreement | GroupScores | DistinctScores, names: Sequence[str]
) -> list[str]:
    return [f"{number(getattr(found, name))}{_interval(getattr(found, f'{name}_ci95'))}" for name in names]


def _calibration(report: EvaluationReport, level: str) -> Iterator[str]:
    """How far P(atypical) agrees with the labels, without and with a temperature."""
    if not report.reliability:
        return
    yield f"{level} Calibration"
    yield ""
    yield "Expected calibration error (ECE, ten bins) and Brier score of P(atypical), which is meant for"
    yield "figures of which half are atypical: both classes weigh alike in the first column, and the others"
    yield "depend on the share of atypical figures in the data. Members on domains left out are not scored at"
    yield "a temperature that was fitted to the same domain."
    yield ""
    header = ["", "temperature", "n", "ECE, classes alike", "ECE", "Brier"]
    rows = (row for name, found in report.reliability.items() for row in _reliability_rows(name, found))
    yield from table(header, rows)


def _reliability_rows(name: str, found: Reliability) -> Iterator[list[str]]:
    yield [name, "1", str(found.n), *_error_cells(found.before)]
    if found.calibrated is not None:
        fitted = sorted(f"{temperature:.3g}" for temperature in found.temperatures.values())
        span = fitted[0] if fitted[0] == fitted[-1] else f"{fitted[0]} to {fitted[-1]}"
        yield [name, f"{span}, {found.fitted_on}", str(found.n), *_error_cells(found.calibrated)]


def _error_cells(errors: Errors) -> list[str]:
    measures = (errors.balanced_calibration_error, errors.calibration_error, errors.brier)
    return [number(value) for value in measures]


def _footer(report: EvaluationReport) -> Iterator[str]:
    groups = [report.overall, *report.members.values()]
    units = sorted({group.resampled.unit for group in groups if group is not None and group.n})
    bootstrap = report.bootstrap
    yield (
        f"Atypical is the positive class. In brackets: {bootstrap.interval} intervals of "
        f"{bootstrap.resamples} bootstrap resamples over {' and '.join(units)}, seed {bootstrap.seed}; "
        "they do not cover laboratories and scanners that are not in the data."
    )


def _interval(bounds: Bounds) -> str:
    return "" if bounds is None else f" [{bounds[0]:.3f}, {bounds[1]:.3f}]"


def _spread(spread: Spread) -> str:
    if spread.mean is None:
        return "undefined"
    return f"{spread.mean:.3f}" + ("" if spread.sd is None else f" ± {spread.sd:.3f}")
