"""The plots of an evaluation, legible with any colour vision."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Literal

from wsi_mitosis.core.metrics import calibration, roc_points, score

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from wsi_mitosis.core.reliability import Errors
    from wsi_mitosis.core.scoring import Curve, EvaluationReport

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#F0E442")
"""Okabe and Ito's palette (jfly.uni-koeln.de/color) without its black, which is the ensemble's colour."""
DASHES = ("-", "--", "-.", ":")
"""Dashes distinguish the curves in a black and white print too."""


def draw_roc(report: EvaluationReport, curves: Sequence[Curve]) -> Figure:
    """Draw the ROC curve of every classifier whose samples have both classes."""
    plot, axes = _canvas(report, 1)
    (roc,) = axes
    roc.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for curve, style in _styled(curves):
        points = roc_points(curve.labels, curve.p_atypical)
        if points is not None:
            roc.plot(*points, label=_label(curve, "AUROC"), **style)
    roc.set(
        xlabel="1 - specificity", ylabel="sensitivity", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal"
    )
    _legend(roc, "lower right")
    return plot


def draw_calibration(report: EvaluationReport, curves: Sequence[Curve]) -> Figure:
    """Draw how often samples of about the same P(atypical) are atypical, and the number of samples.

    Beside the curves at the bundle's temperature, the samples of `report.reliability` are drawn at
    temperature 1 and at the fitted ones.
    """
    plot, (reliability, numbers) = _canvas(report, 2)
    reliability.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for curve, style in _styled(curves):
        bins = calibration(curve.labels, curve.p_atypical)
        x, y = [found.mean_p for found in bins], [found.atypical_fraction for found in bins]
        reliability.plot(x, y, marker="o", markersize=3, label=_label(curve, "Brier"), **style)
        numbers.plot(x, [found.n for found in bins], marker="o", markersize=3, **style)
    for name, compared in report.reliability.items():
        _draw_errors(reliability, f"{name}, temperature 1", compared.before, ":")
        if compared.calibrated is not None:
            _draw_errors(reliability, f"{name}, calibrated", compared.calibrated, "--")
    reliability.set(ylabel="atypical among them", xlim=(-0.01, 1.01), ylim=(-0.02, 1.02))
    numbers.set(xlabel="mean P(atypical) of a bin", ylabel="samples", yscale="log")
    _legend(reliability, "upper left")
    return plot


def _draw_errors(axes: Axes, name: str, errors: Errors, dashes: str) -> None:
    x, y = [found.mean_p for found in errors.bins], [found.atypical_fraction for found in errors.bins]
    label = f"Brier {errors.brier:.3f}, ECE {errors.calibration_error:.3f}  {name}"
    axes.plot(x, y, label=label, color="black", linestyle=dashes, linewidth=1.6)


def _canvas(report: EvaluationReport, panels: int) -> tuple[Figure, list[Axes]]:
    """Return a plot with panels below each other and a title that names what limits its use.

    It does not touch the state of pyplot.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    plot = Figure(figsize=(6.4, 6.8), layout="constrained")
    FigureCanvasAgg(plot)
    axes = plot.subplots(panels, 1, squeeze=False, height_ratios=(3, 1)[:panels], sharex=True)
    warnings = [
        *([] if report.trained else ["UNTRAINED: means nothing"]),
        *(["TRAINING DATA"] if report.training_data else []),
        report.use,
    ]
    title = plot.suptitle(f"{report.bundle} on {report.dataset}\n{'. '.join(warnings)}", fontsize=10)
    title.set_parse_math(False)
    return plot, list(axes[:, 0])


def _styled(curves: Sequence[Curve]) -> Iterator[tuple[Curve, dict[str, Any]]]:
    """Yield each curve with its colour and dashes. The ensemble's is drawn on top."""
    colours, dashes = itertools.cycle(COLOURS), itertools.cycle(DASHES)
    for curve in curves:
        if curve.is_ensemble:
            yield curve, {"color": "black", "linewidth": 2.2, "zorder": 5}
        else:
            yield curve, {"color": next(colours), "linestyle": next(dashes), "linewidth": 1.2}


def _label(curve: Curve, measure: Literal["AUROC", "Brier"]) -> str:
    """The value comes first, because matplotlib hides a name that starts with an underscore."""
    found = score(curve.labels, curve.p_atypical >= 0.5, curve.p_atypical)  # neither depends on a threshold
    value = found.auroc if measure == "AUROC" else found.brier
    return f"{measure} {value:.3f}  {curve.name}"


def _legend(axes: Axes, place: Literal["lower right", "upper left"]) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        for text in axes.legend(handles, labels, loc=place, fontsize=7, framealpha=0.7).get_texts():
            text.set_parse_math(False)
