"""Names and meanings of the columns in every table that the program reads or writes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pandas as pd

    from wsi_mitosis.units import InputFrame, LengthUnit

CANDIDATE_COLUMNS = ("slide", "x", "y", "score", "id", "detector_class", "extent")
"""The columns of `Detections.table`, before the input's other columns:

slide            str or None   the slide as the file names it; None if the file names none
x, y             float64       centre, in the unit and frame of the Detections; NaN where missing
score            float64       the detector's score; NaN without one
id               str or None   the detector's own name for the candidate
detector_class   str or None   the class that the file gives it
extent           float64       the longer side of the object's box in the same unit; NaN for a point
"""

ALIASES: dict[str, tuple[str, ...]] = {
    "slide": ("slide", "slide_name", "filename", "file_name", "image", "image_name", "image_path", "wsi"),
    "x": (
        *("x", "coordinateX", "x_px0", "x_px", "centroid_x", "center_x", "centre_x", "cx", "Centroid X px"),
        *(
            "x_um",
            "centroid_x_um",
            "Centroid X µm",
            "x_mm",
            "x_center",
            "x_centre",
            "x_centroid",
            "xcenter",
            "xc",
        ),
    ),
    "y": (
        *("y", "coordinateY", "y_px0", "y_px", "centroid_y", "center_y", "centre_y", "cy", "Centroid Y px"),
        *(
            "y_um",
            "centroid_y_um",
            "Centroid Y µm",
            "y_mm",
            "y_center",
            "y_centre",
            "y_centroid",
            "ycenter",
            "yc",
        ),
    ),
    "score": ("score", "probability", "confidence", "detector_score", "detection_probability", "prob"),
    "id": ("id", "candidate_id", "uid", "Object ID"),
    "detector_class": (
        *("class", "classification", "class_name", "detector_class", "category", "category_name"),
        *("label", "label_name", "labels", "type", "cell_type", "object_class", "class_label", "pathclass"),
        *("predicted_class", "class_id", "category_id"),
    ),
    "x1": ("x1", "xmin", "x_min", "minx", "left", "bx", "bbox_x", "bbox_left", "bbox_x1", "bbox_xmin"),
    "y1": ("y1", "ymin", "y_min", "miny", "top", "by", "bbox_y", "bbox_top", "bbox_y1", "bbox_ymin"),
    "x2": ("x2", "xmax", "x_max", "maxx", "right", "bbox_right", "bbox_x2", "bbox_xmax"),
    "y2": ("y2", "ymax", "y_max", "maxy", "bottom", "bbox_bottom", "bbox_y2", "bbox_ymax"),
    "width": (
        *("width", "w", "box_width", "bbox_width", "bbox_w", "rect_width", "bounding_box_width", "bw"),
        *("size_x", "x_size", "sizex", "xsize"),
    ),
    "height": (
        *("height", "h", "box_height", "bbox_height", "bbox_h", "rect_height", "bounding_box_height", "bh"),
        *("size_y", "y_size", "sizey", "ysize"),
    ),
}
"""Names of a table's columns, best first, in any case and with any blanks, `-` and `_`. The name of a
coordinate may end in its unit: `left_um`, `x [mm]`, `y (%)`, `x_fraction`."""

EXCLUDED_REASONS = ("class", "not_finite", "outside", "score", "duplicate", "blank")
"""Why a candidate has no label, in the order in which the reasons are tried (`blank` on reading)."""

ColumnKind = Literal["text", "integer", "number", "flag", "point"]
"""What the cells of a column hold. A flag is `true` or `false` in a CSV file."""


class Column(NamedTuple):
    """A column of a table that the program writes.

    Attributes:
        name: Its name in the file.
        kind: What its cells hold.
        meaning: What it says.
        unit: Its unit; empty without one.
        frame: The frame of a coordinate; empty for other columns.
        value: Of a column of `summary.csv`, where its value is: a path of attributes of
            `core.states.SlideState`.
    """

    name: str
    kind: ColumnKind
    meaning: str
    unit: str = ""
    frame: str = ""
    value: str = ""


FIGURES = (
    Column("slide", "text", "name of the slide in the output folder"),
    Column("candidate_id", "text", "the candidate's name in the detections file, or its number there"),
    Column("figure_id", "text", "identifies the figure in every output; empty for an excluded candidate"),
    Column("x_px0", "number", "centre, to the right", "level-0 px", "slide"),
    Column("y_px0", "number", "centre, downwards", "level-0 px", "slide"),
    Column("detector_score", "number", "the detector's score"),
    Column(
        "p_atypical", "number", "mean probability of being atypical, over the members that voted", "0 to 1"
    ),
    Column("votes_atypical", "integer", "members that voted for atypical"),
    Column("votes_cast", "integer", "members that voted"),
    Column("label", "text", "atypical or typical; empty for an excluded candidate"),
    Column("excluded_reason", "text", "class, not_finite, outside, score, duplicate or blank"),
    Column("geometry", "point", "the centre as WKB, which GeoPandas reads", "level-0 px", "slide"),
)
"""The columns of a figures table, before the input's other columns."""

FIGURE_COLUMNS = tuple(column.name for column in FIGURES)


SUMMARY = (
    Column("slide", "text", "name of the slide in the output folder", value="name"),
    Column("status", "text", "done, failed, no_detections, set_aside, waiting or pending", value="status"),
    Column("candidates", "integer", "candidates of the slide", value="counts.candidates"),
    Column("classified", "integer", "figures: atypical + typical", value="counts.classified"),
    Column("atypical", "integer", "atypical figures", value="counts.atypical"),
    Column("typical", "integer", "typical figures", value="counts.typical"),
    Column("excluded", "integer", "candidates without a label", value="counts.excluded"),
    Column("atypical_fraction", "number", "atypical / classified", value="counts.atypical_fraction"),
    Column("atypical_fraction_low", "number", "lower end, 95 %", value="counts.atypical_fraction_low"),
    Column("atypical_fraction_high", "number", "upper end, 95 %", value="counts.atypical_fraction_high"),
    Column("atypical_to_typical", "number", "atypical / typical", value="counts.atypical_to_typical"),
    Column("mean_agreement", "number", "mean share of votes for the label", value="counts.mean_agreement"),
    Column("sharpness", "number", "median sharpness of the figures", value="record.sharpness.value"),
    Column("sharpness_verdict", "text", "low, not low, too few figures", value="record.sharpness.verdict"),
    Column("mpp_um", "number", "pixel size of level 0", "um/px", value="record.scale.mpp.mean"),
    Column("mpp_source", "text", "slide, given or list", value="record.scale.mpp_source"),
    Column("hotspot_area_mm2", "number", "area of the first hotspot", "mm^2", value="hotspot.area_mm2"),
    Column("hotspot_mitoses", "integer", "figures in it", value="hotspot.mitoses"),
    Column("hotspot_atypical", "integer", "atypical figures in it", value="hotspot.atypical"),
    Column(
        "hotspot_mitoses_per_mm2",
        "number",
        "density of figures in it",
        "1/mm^2",
        value="hotspot.mitoses_per_mm2",
    ),
    Column("hotspot_x_px0", "number", "its left edge", "level-0 px", "slide", value="hotspot.x_px0"),
    Column("hotspot_y_px0", "number", "its top edge", "level-0 px", "slide", value="hotspot.y_px0"),
    Column("bundle", "text", "name of the ensemble", value="record.model.name"),
    Column("bundle_digest", "text", "digest of the ensemble", value="record.model.digest"),
    Column("trained", "flag", "false if the labels mean nothing", value="record.model.trained"),
    Column("seconds", "number", "time that the slide took", "s", value="seconds"),
    Column("error", "text", "why the slide failed, is set aside, or waits", value="error"),
)
"""The columns of `summary.csv`; a value that does not exist is an empty cell."""

SUMMARY_COLUMNS = tuple(column.name for column in SUMMARY)

REVIEWS = (
    Column("slide", "text", "name of the slide in the output folder"),
    Column("rank", "integer", "1 is the figure whose correction could change the slide's counts most"),
    Column("figure_id", "text", "the figure, as in the other outputs"),
    Column("x_px0", "number", "centre, to the right", "level-0 px", "slide"),
    Column("y_px0", "number", "centre, downwards", "level-0 px", "slide"),
    Column("label", "text", "atypical or typical"),
    Column("p_atypical", "number", "mean probability of being atypical", "0 to 1"),
    Column("votes_atypical", "integer", "members that voted for atypical"),
    Column("votes_cast", "integer", "members that voted"),
    Column("agreement", "number", "share of the votes that the larger side has", "0.5 to 1"),
    Column("in_hotspot", "flag", "whether it is counted in a hotspot"),
    Column("expected_change", "number", "what figures are ranked by; comparable between slides"),
)
"""The columns of `review.csv`, the figures to review first; `core.assessments.review_list` ranks them."""

REVIEW_COLUMNS = tuple(column.name for column in REVIEWS)

REGIONS = (
    Column("slide", "text", "name of the slide in the output folder"),
    Column("region", "text", "name of the region; `all regions` in the last row of a slide"),
    Column("class", "text", "class of the region"),
    Column("area_mm2", "number", "area, without the regions that are cut out", "mm^2"),
    Column("mitoses", "integer", "figures in it"),
    Column("atypical", "integer", "atypical figures in it"),
    Column("typical", "integer", "typical figures in it"),
    Column("mitoses_per_mm2", "number", "density of figures in it", "1/mm^2"),
)
"""The columns of `regions.csv`. In `all regions`, overlaps and the figures in them are counted once."""

REGION_COLUMNS = tuple(column.name for column in REGIONS)

CHANGES = (
    Column("slide", "text", "name of the slide in the output folder"),
    Column("figure_id", "text", "the machine's; for an added figure that of its object in QuPath"),
    Column("change", "text", "relabelled, removed or added"),
    Column("label_machine", "text", "label before the review; empty for an added figure"),
    Column("label_reviewed", "text", "label after it; empty for a removed figure"),
    Column("x_px0", "number", "reviewed centre, or the machine's if removed", "level-0 px", "slide"),
    Column("y_px0", "number", "reviewed centre, or the machine's if removed", "level-0 px", "slide"),
)
"""The columns of `reviewed/changes.csv`."""

CHANGE_COLUMNS = tuple(column.name for column in CHANGES)

VERDICTS = (
    Column("slide", "text", "name of the slide in the output folder"),
    Column("figure_id", "text", "the machine's; for an added figure that of its object in QuPath"),
    Column("x_px0", "number", "centre, to the right", "level-0 px", "slide"),
    Column("y_px0", "number", "centre, downwards", "level-0 px", "slide"),
    Column("reviewer", "text", "who decided"),
    Column("label", "text", "atypical, typical, none (no mitotic figure) or unsure"),
    Column("blind", "flag", "whether the machine's labels were hidden from the reviewer"),
    Column("note", "text", "what the reviewer wrote"),
    Column("seconds", "number", "how long the figure was on the screen; empty for a review in QuPath", "s"),
)
"""The columns of `reviewed/verdicts.csv`, a row per figure and reviewer who decided about it."""

VERDICT_COLUMNS = tuple(column.name for column in VERDICTS)

CONSENSUS = (
    Column("slide", "text", "name of the slide in the output folder"),
    Column("figure_id", "text", "the machine's; for an added figure that of its object in QuPath"),
    Column("x_px0", "number", "centre, to the right", "level-0 px", "slide"),
    Column("y_px0", "number", "centre, downwards", "level-0 px", "slide"),
    Column("label_machine", "text", "label of the machine; empty for an added figure"),
    Column("consensus", "text", "atypical, typical or none by majority; tie; or unsure if nobody could tell"),
    Column("atypical", "integer", "reviewers who said atypical"),
    Column("typical", "integer", "reviewers who said typical"),
    Column(
        "none",
        "integer",
        "reviewers who said that it is no mitotic figure; of an added figure, those who could have added it, "
        "and did not",
    ),
    Column("unsure", "integer", "reviewers who could not tell"),
    Column("blind", "flag", "whether the machine's labels were hidden from all of them"),
)
"""The columns of `reviewed/consensus.csv`, a row per figure that at least one reviewer decided about.
Reviewers who could not tell have no vote."""

CONSENSUS_COLUMNS = tuple(column.name for column in CONSENSUS)

TREND = (
    Column("group", "text", "scanner, or folder of the slides"),
    Column("quantity", "text", "what the chart shows"),
    Column("bundle", "text", "name of the ensemble"),
    Column("bundle_digest", "text", "digest of the ensemble; limits are of one ensemble each"),
    Column("night", "text", "day on which the night begins; it ends at noon"),
    Column("made", "text", "when the first slide was classified, ISO 8601"),
    Column("slide", "text", "name of the slide; of a night, the first three and how many more"),
    Column("slides", "integer", "slides of the point"),
    Column("number", "integer", "values of the point: figures, candidates or slides"),
    Column("value", "number", "a count, a share or a mean"),
    Column("low", "number", "lower limit; empty if the point is not judged"),
    Column("centre", "number", "centre line; empty without limits"),
    Column("high", "number", "upper limit; empty if the point is not judged"),
    Column("reference", "flag", "whether limits were computed from it"),
    Column("verdict", "text", "inside, above, below, run above or run below; empty if it is not judged"),
)
"""The columns of `trend.csv`, a row per point of each control chart; `core.control_charts` has the limits."""

TREND_COLUMNS = tuple(column.name for column in TREND)

ESTIMATES = (
    Column("slide", "text", "name of the slide in the output folder; `all slides` for the whole sample"),
    Column("quantity", "text", "atypical_fraction, atypical or mitoses"),
    Column("method", "text", "prediction-powered (labels and P(atypical)) or stratified (labels alone)"),
    Column("value", "number", "the estimate: a fraction, or a number of figures"),
    Column("low", "number", "lower end of the interval, 95 %"),
    Column("high", "number", "upper end of the interval, 95 %"),
    Column("width", "number", "high - low"),
    Column(
        "machine", "number", "the value by the machine's labels, which call every figure a mitotic figure"
    ),
    Column("labels", "integer", "figures of the sample with a label, from which the estimate is computed"),
    Column("drawn", "integer", "figures of the sample"),
    Column("undecided", "integer", "figures of the sample that are unsure or on which reviewers tie"),
    Column("missing", "integer", "figures of the sample that nobody reviewed"),
    Column("figures", "integer", "figures that the sample was drawn from"),
)
"""The columns of `reviewed/estimates.csv`: what the labels of a random sample say of all figures."""

ESTIMATE_COLUMNS = tuple(column.name for column in ESTIMATES)
ALL_SLIDES = "all slides"
"""The slide of the rows of `reviewed/estimates.csv` that are of the whole sample."""

MOST_HOTSPOTS = 100
"""Hotspots that a slide can have."""
MATCH_UM = 6.25
"""A reviewed object this near to a figure, um, is that figure where their ids do not say so: its centre then
lies in the circle of 12.5 um that QuPath draws around the figure."""

SAMPLES = (
    Column("source_id", "text", "the sample's name in its source, such as MIDOG21_1044"),
    Column("slide", "text", "such as MIDOG21/002.tiff, the same in every store; empty if unknown"),
    Column("domain", "text", "what a leave-one-domain-out fold holds out"),
    Column("label", "integer", "0 typical, 1 atypical"),
    Column(
        "label_source",
        "text",
        "majority (of experts), folder, csv, or of reviews: review-blind if no deciding reviewer saw the "
        "machine's labels, else review",
    ),
    Column("experts_atypical", "integer", "how many experts labelled it as atypical"),
    Column("experts_asked", "integer", "how many experts labelled it as either; 0 if unknown"),
    Column("subtypes", "text", "what experts called it, such as NMF metaphase; AMF other; empty if unknown"),
    Column("x_px0", "number", "centre, to the right; NaN if unknown", "level-0 px", "slide"),
    Column("y_px0", "number", "centre, downwards; NaN if unknown", "level-0 px", "slide"),
    Column("mask_flag", "text", "ok, or why there is no mask: none (no provider), empty, border, ..."),
    Column("digest", "text", "SHA-256 of the central 64 x 64 px: the same for a figure in every store"),
)
"""The columns of a store's samples."""

SAMPLE_COLUMNS = tuple(column.name for column in SAMPLES)
SUBTYPE_SEPARATOR = "; "
"""Between the names that the experts of a figure gave it in `subtypes`."""

DetectionFormat = Literal[
    "auto",
    "csv",
    "parquet",
    "geojson",
    "tiatoolbox",
    "midog",
    "midog-guide",
    "sliderunner",
    "grand-challenge",
    "coco",
    "hovernet",
    "cellvit",
    "exact",
    "asap",
    "imagescope",
    "halo",
    "ndpa",
    "yolo",
]
ExportFormat = Literal[
    "midog", "grand-challenge", "grand-challenge-labels", "tiatoolbox", "anndata", "spatialdata"
]
"""What `export` writes: the names of `--to`."""
DecimalSign = Literal["point", "comma"]
"""The sign before the fraction of a number in a table. The other sign then separates thousands."""
LabelSource = Literal["midog25", "amibr", "folder", "csv", "reviews"]
MaskProviderName = Literal["haematoxylin", "nuclick", "none"]
Tta = Literal["none", "flips", "d4"]
Vote = Literal["all", "early"]
Backend = Literal["torch", "openvino"]
"""What computes the networks."""
BackendChoice = Literal["auto", "torch", "openvino"]
Precision = Literal["fp32", "fp16", "bf16"]
"""Precision of the networks: float32, float16 on a GPU, or bfloat16 on a CPU."""
ReviewLabel = Literal["atypical", "typical", "none"]
"""What a class means in a review; "none" is no mitotic figure."""
Status = Literal["done", "failed", "no_detections", "set_aside", "waiting", "pending"]
ClassRule = Literal["any", "mitotic", "qupath"]
"""Which classes are candidates if the user names none: all except look-alikes of mitotic figures; only
mitotic figures; or all except look-alikes, QuPath's ignored classes (ending in `*`), `Hotspot`, and areas
wider than 50 um."""


@dataclass(frozen=True)
class Detections:
    """The candidates of one file as the file states them, before any conversion.

    Attributes:
        table: One row per candidate in file order: CANDIDATE_COLUMNS, then the input's other columns,
            where one whose name is ours is called `input_<name>`.
        units: Unit of `x`, `y` and `extent`.
        frame: Frame of `x` and `y`.
        class_rule: Which classes count as candidates unless the user names some.
        format: The format the file was read as, a name of `--format`.
        file_classes: The classes of the whole file if the table is a part of it, or if the file has classes
            without rows; None otherwise.
        notes: Notes for the user on how the file was read, each with the file's name.
        magnification: The magnification at which coordinates are px, such as 20.0; None if they are px of
            level 0, or in another unit.
        image_sizes: By the slide's name in the table, the (width, height) in px of the image that the
            coordinates are of, where the file states it.
    """

    table: pd.DataFrame
    units: LengthUnit
    frame: InputFrame
    class_rule: ClassRule
    format: str
    file_classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    magnification: float | None = None
    image_sizes: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Remote:
    """A slide's file at a URL.

    Attributes:
        url: With its credentials, which are never shown or written.
        shown: Without them.
        size: Its size, bytes; None if its store did not say.
        version: Changes with its content; empty if its store did not say.
    """

    url: str = field(repr=False)
    shown: str
    size: int | None = None
    version: str = ""


@dataclass(frozen=True)
class SlideSource:
    """A slide as the user gave it; not opened yet.

    Attributes:
        path: Absolute path; of a DICOM series, its first file. That of a URL has the names of the URL, and
            nothing exists there.
        relative: POSIX path relative to the folder that the user gave; the file name for a single file.
        mpp: Pixel size in um/px from a slide list, which replaces a stated one; None without.
        aliases: Further (path, relative) under which the same slide was given: links to it, other folders
            that it was found in, and the other files of a DICOM series.
        remote: Its URL; None for a file.
        original: Where it is, if `path` is a copy; None otherwise.
    """

    path: Path
    relative: str
    mpp: float | None = None
    aliases: tuple[tuple[Path, str], ...] = ()
    remote: Remote | None = None
    original: str | None = None

    @property
    def place(self) -> str:
        """Where it is, in words: its path, or its URL without credentials."""
        if self.remote is not None:
            return self.remote.shown
        return self.original or str(self.path)


def input_name(column: str) -> str:
    """Return the name of an input's other column in the results, which is never one of the program's."""
    ours = column in CANDIDATE_COLUMNS or column in FIGURE_COLUMNS
    return f"input_{column}" if ours else column
