"""The selection of figures for a gallery."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wsi_mitosis.core.voting import agreement

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from wsi_mitosis.core.assessments import ReviewItem


def gallery_figures(
    figures: pd.DataFrame, review: Sequence[ReviewItem] = (), most: int | None = None
) -> pd.DataFrame:
    """Select and sort the figures of a gallery: atypical figures first, each label by increasing agreement.

    If there are more figures than `most`, the first figures of the review list get up to half of the places,
    so that a reviewer can see them.

    Args:
        figures: Rows of FIGURE_COLUMNS with a label each.
        review: The slide's review list.
        most: The number of places; None for all figures.

    Returns:
        The selected rows, with `agreement` and `rank` (in the review list; NaN for others).
    """
    most = len(figures) if most is None else most
    ordered = _ordered(figures, review)
    reserved = (ordered["rank"] <= most // 2).to_numpy(bool)
    remaining = max(most - int(reserved.sum()), 0)
    selected = reserved | (np.cumsum(~reserved) <= remaining) & ~reserved
    return ordered[selected]


def _ordered(figures: pd.DataFrame, review: Sequence[ReviewItem]) -> pd.DataFrame:
    votes = tuple(figures[name].to_numpy(np.int64) for name in ("votes_atypical", "votes_cast"))
    ranks = {item.figure_id: float(item.rank) for item in review}
    keyed = figures.assign(
        typical=figures["label"] != "atypical",
        agreement=agreement(*votes),
        certainty=(figures["p_atypical"] - 0.5).abs(),
        rank=figures["figure_id"].map(ranks).astype(float),
    )
    keys = ["typical", "agreement", "certainty", "y_px0", "x_px0"]
    return keyed.sort_values(keys, kind="stable").drop(columns=["typical", "certainty"])
