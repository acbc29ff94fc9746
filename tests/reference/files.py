"""The page of the files that the program writes: every column and key, from their descriptions."""

from __future__ import annotations

from collections.abc import Iterable

from tests.reference.markdown import table, unwrapped
from tests.reference.specs import all_specs, keys
from wsi_mitosis import tables
from wsi_mitosis.core import qupath
from wsi_mitosis.core.agreement import ReviewersAgreement
from wsi_mitosis.core.assessments import AssessedSlide
from wsi_mitosis.core.histories import RunProgress, SlideHistory
from wsi_mitosis.io.results.digests import Digests
from wsi_mitosis.io.results.recounts import BESIDE, REGION_COUNTS
from wsi_mitosis.schema import Spec
from wsi_mitosis.specs import BundleManifest

INTRODUCTION = """\
# Output files

`make docs` writes this page from the descriptions of columns and schemas in the code.

An output folder has one file of each kind per slide, in `geojson/`, `figures/`, `assessments/` and `states/`, and files of
the whole folder beside them. A file is named after its slide's file, such as `figures/a.svs.parquet`. Every file is
replaced as a whole: a reader never meets a part of one. The exception is `log.jsonl`, whose lines are appended;
[the log](log.md) describes them. [Operations](../operations.md#the-files-of-a-run) says what happens if a file is lost.

In a CSV file a value that does not exist is an empty cell, a flag is `true` or `false`, and a cell that a spreadsheet would
execute begins with an apostrophe. The frame *slide* has its origin at the top-left corner of level 0; x points to the right and y
downwards. [Frames](../explanation/frames.md) explains the other one, in which GeoJSON is written.
"""
HOTSPOT_MEASUREMENTS = {
    qupath.MACHINE_COUNT: "figures in the hotspot, before any review",
    qupath.MACHINE_ATYPICAL: "atypical figures among them",
    qupath.HOTSPOT_AREA: "area of the hotspot, mm^2",
    qupath.MACHINE_DENSITY: "density of figures, 1/mm^2",
}
MEASUREMENTS = {
    qupath.PROBABILITY: "mean probability of being atypical, over the members that voted",
    qupath.ATYPICAL_VOTES: "members that voted for atypical",
    qupath.VOTES_CAST: "members that voted; with `--vote early` only, because otherwise all members vote",
    qupath.AGREEMENT: "share of the votes that the larger side has, 0.5 to 1",
    qupath.DETECTOR_SCORE: "the detector's score, if it gave one",
    qupath.REVIEW_RANK: "place in the review list, of the figures that are in it: sort by it to review them",
    qupath.RESULT_NUMBER: "which result of its slide the figure is of",
}
REVIEWED = {
    "reviewed": "whether the slide has a review",
    "relabelled": "figures that got another label",
    "removed": "figures that were deleted, or whose class means no mitotic figure",
    "added": "figures that the reviewer added",
    "unseen": "figures that were classified after the reviewed export, or of which no reviewer said anything",
    "undecided": "figures that keep the machine's label because reviewers were divided, or could not tell",
}
VERDICTS_TEXT = (
    "One row per figure and reviewer who decided about it. A figure that a reviewer deleted in QuPath has the label none. With "
    "several reviewers a figure is where the ensemble has it; a single reviewer may have moved it."
)
CONSENSUS_TEXT = (
    "One row per figure that at least one reviewer decided about, also for a single reviewer. The consensus is the label that "
    "more than half of the votes have. A figure that a reviewer added is in the counts if more than half of the reviewers who "
    "could add it gave it the same label; it has the id and the place of the first of them, by name. "
    "`reviewed/agreement.json` has the SHA-256 of this table, of `verdicts.csv` and of `summary.csv`: an edited one is refused."
)

ESTIMATES_TEXT = (
    "If reviewers labelled a random sample: estimates for all figures that it was drawn from, and for each slide with enough "
    "labels. [Estimates from few labels](../explanation/estimates.md) explains them."
)


def page() -> str:
    """Return the page."""
    return INTRODUCTION + "".join(
        [
            section("summary.csv", "One row per slide of the folder, sorted by name.", tables.SUMMARY),
            section("figures/*.parquet", FIGURES_TEXT, tables.FIGURES),
            geojson(),
            section("review.csv", "The figures to review first, at most 50 per slide.", tables.REVIEWS),
            section(
                "regions.csv",
                "With `--regions`: one row per region, and one for all of a slide.",
                tables.REGIONS,
            ),
            reviewed(),
            section("trend.csv", TREND_TEXT, tables.TREND),
            section("Samples of a data set", "The table `samples` of a Zarr store.", tables.SAMPLES),
            run_json(),
            schemas(),
        ]
    )


SCHEMAS: dict[str, type[Spec]] = {
    "assessments/*.json": AssessedSlide,
    "states/*.json": SlideHistory,
    "progress.json": RunProgress,
    "digests.json": Digests,
    "reviewed/agreement.json": ReviewersAgreement,
    "manifest.toml of a bundle": BundleManifest,
}
FIGURES_TEXT = (
    "GeoParquet, which `geopandas.read_parquet` opens. There is one row per candidate, also for those that were excluded. The "
    "columns of the detections file follow; one whose name is in this table is stored as `input_<name>`. The metadata "
    "`wsi_mitosis` is the record of the slide ([SlideRecord](#sliderecord))."
)
TREND_TEXT = (
    "With `report --trend`: every number of the control charts in `trend.html`, one row per point. Counts of figures of several "
    "slides are geometric means. [Operations](../operations.md#control-charts) explains the charts."
)


def section(title: str, text: str, columns: Iterable[tables.Column]) -> str:
    """Return the section of a table."""
    rows = [(f"`{c.name}`", c.kind, c.unit, c.frame, c.meaning) for c in columns]
    return f"\n## {title}\n\n{text}\n\n{table(('column', 'type', 'unit', 'frame', 'meaning'), rows)}"


def geojson() -> str:
    """Return the section of the files for QuPath."""
    rows = [(f"`{name}`", meaning) for name, meaning in MEASUREMENTS.items()]
    return f"""
## geojson/*.geojson

A feature collection for QuPath. It is compressed (`.geojson.gz`) if it has more than 20,000 figures. Each figure is a circle
of {qupath.FIGURE_UM} um with an `id`, the class `Mitosis: Atypical` or `Mitosis: Typical`, and these measurements:

{table(("measurement", "meaning"), rows)}
Coordinates are level-0 px in the frame of `--geojson-frame`: *qupath*, unless you choose *slide*. The member `{qupath.PROVENANCE_MEMBER}` names the bundle, its digest, and how
the result was made. The classes of an untrained bundle begin with `{qupath.UNTRAINED_FAMILY}`.

Hotspots are locked annotations of the class `{qupath.HOTSPOT_CLASS}` with these measurements. QuPath itself adds the numbers
of objects inside a hotspot, which follow a review, while these do not:

{table(("measurement", "meaning"), [(f"`{name}`", meaning) for name, meaning in HOTSPOT_MEASUREMENTS.items()])}"""


def reviewed() -> str:
    """Return the sections of a recount."""
    beside = [(f"`{name}`", REVIEWED[name]) for name in BESIDE]
    machine = ", ".join(f"`machine_{name}`" for name in REGION_COUNTS)
    return f"""
## reviewed/summary.csv

The columns of `summary.csv` as reviewed, then the machine's values as `machine_<name>`, and these:

{table(("column", "meaning"), beside)}
`reviewed/regions.csv` has the columns of `regions.csv`, then {machine} and `reviewed`. `reviewed/agreement.json` has the numbers
of changes, Cohen's kappa and the confusion of the ensemble and the reviewer (or the consensus of several), per slide and in
all, and [how far reviewers agree](#reviewedagreementjson); figures that reviewers added are in none of those kappas.
{section("reviewed/changes.csv", "One row per change that the reviewers made.", tables.CHANGES)}{section("reviewed/verdicts.csv", VERDICTS_TEXT, tables.VERDICTS)}{section("reviewed/consensus.csv", CONSENSUS_TEXT, tables.CONSENSUS)}{section("reviewed/estimates.csv", ESTIMATES_TEXT, tables.ESTIMATES)}"""


def run_json() -> str:
    """Return the section of the description of a run."""
    return """
## run.json

The last run: versions, parameters as in a [pipeline file](pipelines.md), the files of candidates and regions with their SHA-256,
the path, identity and status of each slide, the warnings, start and end (ISO 8601, UTC), and the exit status.
"""


def schemas() -> str:
    """Return the sections of the JSON and TOML files, in which each schema is described once."""
    described: set[type[Spec]] = set()
    parts = []
    for title, spec in SCHEMAS.items():
        parts.append(f"\n## {title}\n\n{unwrapped(spec.__doc__)}\n\n{keys(spec)}")
        for other in all_specs(spec)[1:]:
            if other not in described:
                described.add(other)
                parts.append(f"\n### {other.__name__}\n\n{unwrapped(other.__doc__)}\n\n{keys(other)}")
    return "".join(parts)
