"""Labels that come from reviews: which of them were given without sight of the machine's."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

BLIND, NOT_BLIND = "review-blind", "review"
"""`label_source` of a sample that reviewers labelled: none of those who decided saw the label of an ensemble,
or some did."""


def blinding_note(samples: pd.DataFrame) -> str | None:
    """Return how many labels of samples are not blind, a sentence; None if all are, or are of no review.

    A reviewer who sees a suggestion follows it more often, also where it is wrong: Goddard et al. 2012,
    "Automation bias: a systematic review of frequency, effect mediators, and mitigators", J Am Med Inform
    Assoc 19(1), 121-127.

    Args:
        samples: Rows of tables.SAMPLE_COLUMNS.
    """
    number = int((samples["label_source"] == NOT_BLIND).sum())
    if not number:
        return None
    return (
        f"{number} of these {len(samples)} labels are not blind: reviewers who decided saw the label of an "
        "ensemble. They agree with it more often than blind reviewers do, so that its scores are too high."
    )
