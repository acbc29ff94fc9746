"""Pictures of an evaluation, told apart with any colour vision."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from wsi_mitosis.core.metrics import calibration, roc_points, score

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#F0E442")
"""Okabe and Ito's palette (jfly.uni-koeln.de/color) but for its black, which is the ensemble's."""
DASHES = ("-", "--", "-.", ":")
"""So that curves are told apart in a black and white print too."""


class Curve(NamedTuple):
    """What ROC and calibration are drawn of.

    Attributes:
        name: Who is scored on what.
        labels: (N,) 0 typical, 1 atypical.
        p_atypical: (N,).
        is_ensemble: Drawn in black.
    """

    name: str
    labels: NDArray[np.int64]
    p_atypical: NDArray[np.float64]
    is_ensemble: bool


def draw_roc(report: Mapping[str, Any], curves: Sequence[Curve]) -> Figure:
    """ROC curves of those that both classes are known of."""
    figure, axes = _canvas(report, 1)
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
    return figure


def draw_calibration(report: Mapping[str, Any], curves: Sequence[Curve]) -> Figure:
    """How often samples of about the same P(atypical) are atypical, and how many there are of each."""
    figure, (reliability, numbers) = _canvas(report, 2)
    reliability.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for curve, style in _styled(curves):
        bins = calibration(curve.labels, curve.p_atypical)
        x, y = [found.mean_p for found in bins], [found.atypical_fraction for found in bins]
        reliability.plot(x, y, marker="o", markersize=3, label=_label(curve, "Brier"), **style)
        numbers.plot(x, [found.n for found in bins], marker="o", markersize=3, **style)
    reliability.set(ylabel="atypical among them", xlim=(-0.01, 1.01), ylim=(-0.02, 1.02))
    numbers.set(xlabel="mean P(atypical) of a bin", ylabel="samples", yscale="log")
    _legend(reliability, "upper left")
    return figure


def _canvas(report: Mapping[str, Any], panels: int) -> tuple[Figure, list[Axes]]:
    """A figure whose title says what it must not be taken for; no state of pyplot's is touched."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 6.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(panels, 1, squeeze=False, height_ratios=(3, 1)[:panels], sharex=True)
    warnings = [
        *([] if report["trained"] else ["UNTRAINED: means nothing"]),
        *(["TRAINING DATA"] if report["training_data"] else []),
        report["use"],
    ]
    title = figure.suptitle(f"{report['bundle']} on {report['dataset']}\n{'. '.join(warnings)}", fontsize=10)
    title.set_parse_math(False)
    return figure, list(axes[:, 0])


def _styled(curves: Sequence[Curve]) -> Iterator[tuple[Curve, dict[str, Any]]]:
    """Each curve with its colour and dashes, the ensemble's on top."""
    colours, dashes = itertools.cycle(COLOURS), itertools.cycle(DASHES)
    for curve in curves:
        if curve.is_ensemble:
            yield curve, {"color": "black", "linewidth": 2.2, "zorder": 5}
        else:
            yield curve, {"color": next(colours), "linestyle": next(dashes), "linewidth": 1.2}


def _label(curve: Curve, measure: Literal["AUROC", "Brier"]) -> str:
    """The number first: matplotlib hides a name that starts with an underscore."""
    found = score(curve.labels, curve.p_atypical >= 0.5, curve.p_atypical)  # neither depends on a threshold
    value = found.auroc if measure == "AUROC" else found.brier
    return f"{measure} {value:.3f}  {curve.name}"


def _legend(axes: Axes, place: Literal["lower right", "upper left"]) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        for text in axes.legend(handles, labels, loc=place, fontsize=7, framealpha=0.7).get_texts():
            text.set_parse_math(False)
