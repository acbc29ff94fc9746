"""The figures table of a slide: its candidates, in input order, with votes, labels and ids."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsi_mitosis.core.qupath import figure_ids
from wsi_mitosis.core.voting import tally
from wsi_mitosis.tables import FIGURE_COLUMNS

if TYPE_CHECKING:
    from numpy.typing import NDArray


def included(candidates: pd.DataFrame) -> NDArray[np.bool_]:
    """(N,) which of N candidates are not excluded."""
    return candidates["excluded_reason"].isna().to_numpy()


def figures_table(
    candidates: pd.DataFrame,
    blank: NDArray[np.bool_],
    probabilities: NDArray[np.float64],
    *,
    slide: str,
    identity: str,
    threshold: float,
) -> pd.DataFrame:
    """Add votes, labels and ids to the candidates of a slide.

    Args:
        candidates: (N) candidates as from `prepare_candidates`, M of which are included.
        blank: (M,) which of the included candidates have no pixels.
        probabilities: (M, members) P(atypical); NaN for a member that did not vote.
        slide: Name of the slide.
        identity: Digest of its content.
        threshold: A member votes atypical at or above this probability.

    Returns:
        N rows: FIGURE_COLUMNS without `geometry`, then the input's other columns.
    """
    candidates = _without_blank(candidates, blank)
    labelled = included(candidates)
    figures = pd.concat([candidates, _votes(candidates, labelled, probabilities[~blank], threshold)], axis=1)
    x, y = (figures.loc[labelled, name].to_numpy() for name in ("x_px0", "y_px0"))
    ids = pd.Series(figure_ids(identity, x, y), figures.index[labelled], dtype="str")
    figures = figures.assign(slide=slide, figure_id=ids.reindex(figures.index))
    ours = [name for name in FIGURE_COLUMNS if name != "geometry"]
    return figures[[*ours, *(name for name in figures.columns if name not in FIGURE_COLUMNS)]]


def table_digest(table: pd.DataFrame) -> str:
    """Return the digest of a table's column names and content, in row order."""
    plain = table.apply(lambda column: column if column.dtype.kind in "fiub" else column.astype(str))
    rows = pd.util.hash_pandas_object(plain, index=False).to_numpy()
    return hashlib.sha256("\n".join(table.columns).encode() + rows.tobytes()).hexdigest()


def _without_blank(candidates: pd.DataFrame, blank: NDArray[np.bool_]) -> pd.DataFrame:
    """Exclude the included candidates that have no pixels."""
    if not blank.any():
        return candidates
    reasons = candidates["excluded_reason"].copy()
    reasons.iloc[np.flatnonzero(included(candidates))[blank]] = "blank"
    return candidates.assign(excluded_reason=reasons)


def _votes(
    candidates: pd.DataFrame,
    labelled: NDArray[np.bool_],
    probabilities: NDArray[np.float64],
    threshold: float,
) -> pd.DataFrame:
    votes, rows = tally(probabilities, threshold), candidates.index[labelled]
    labels = np.where(votes.is_atypical, "atypical", "typical")
    columns: dict[str, tuple[Any, str]] = {
        "p_atypical": (votes.p_atypical, "float64"),
        "votes_atypical": (votes.votes_atypical, "Int16"),
        "votes_cast": (votes.votes_cast, "Int16"),
        "label": (labels, "str"),
    }
    return pd.DataFrame(
        {name: pd.Series(values, rows, dtype=kind) for name, (values, kind) in columns.items()},
        index=candidates.index,
    )
