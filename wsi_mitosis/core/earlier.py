"""Earlier results of a slide: which figures a reviewer may have seen before the present result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import NonNegativeInt

from wsi_mitosis.core.moments import Moment
from wsi_mitosis.core.qupath import result_number
from wsi_mitosis.schema import Spec

if TYPE_CHECKING:
    import pandas as pd

    from wsi_mitosis.core.records import SlideRecord

MOST = 20
"""Earlier results that are remembered of a slide, the latest ones."""


class EarlierResult(Spec):
    """A result that another one has replaced.

    Attributes:
        number: As `qupath.result_number` gives it.
        digest: Digest of the slide's content.
        bundle: Name of the bundle.
        bundle_digest: Its digest.
        replaced: When another result took its place, ISO 8601.
        atypical: Ids of its atypical figures.
        typical: Ids of its typical figures.
    """

    number: NonNegativeInt
    digest: str
    bundle: str
    bundle_digest: str
    replaced: Moment
    atypical: tuple[str, ...]
    typical: tuple[str, ...]

    @property
    def labels(self) -> dict[str, str]:
        """The label of each figure, by id."""
        return dict.fromkeys(self.atypical, "atypical") | dict.fromkeys(self.typical, "typical")

    @classmethod
    def of(cls, record: SlideRecord, figures: pd.DataFrame, replaced: str) -> EarlierResult:
        """Remember a result.

        Args:
            record: The slide's record.
            figures: FIGURE_COLUMNS without `geometry`.
            replaced: When it is replaced, ISO 8601.
        """
        ids = {label: tuple(table["figure_id"]) for label, table in figures.groupby("label")}
        return cls(
            number=result_number(record.key),
            digest=record.slide.digest,
            bundle=record.model.name,
            bundle_digest=record.model.digest,
            replaced=replaced,
            atypical=ids.get("atypical", ()),
            typical=ids.get("typical", ()),
        )


class EarlierResults(Spec):
    """The earlier results of one slide.

    Attributes:
        schema_: Version of this schema.
        slide: The slide's name in the output folder.
        results: The latest last.
    """

    schema_: Literal[1] = 1
    slide: str
    results: tuple[EarlierResult, ...] = ()

    def followed_by(self, result: EarlierResult) -> EarlierResults:
        """Return these results and one more."""
        others = (one for one in self.results if one.number != result.number)
        return self.model_copy(update={"results": (*others, result)[-MOST:]})
