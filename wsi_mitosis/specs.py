"""Frozen specifications of bundles, stores and runs: an unknown key is an error.

The fields of runs (`ClassifySpec`, `DetectSpec`, `DatasetSpec`, `TrainSpec`) are described by their `Option`;
`docs/reference/options.md` lists them.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field, field_validator, model_validator

from wsi_mitosis.errors import BundleError, DatasetError, InputError
from wsi_mitosis.schema import Only, Option, Spec
from wsi_mitosis.tables import (
    MOST_HOTSPOTS,
    BackendChoice,
    DecimalSign,
    DetectionFormat,
    LabelSource,
    MaskProviderName,
    Precision,
    Tta,
    Vote,
)
from wsi_mitosis.units import MPP_RANGE, Frame, InputFrame, LengthUnit

Positive = Annotated[float, Field(gt=0)]
BUNDLE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""What the name of a bundle looks like: it is part of file names and of JSON keys."""


class InputSpec(Spec):
    """The patches that a bundle classifies: part of the evaluated model, not of a run's options.

    Attributes:
        patch_px: Side of the square patch that the network sees, px; even.
        mpp: Pixel size of what is cut from the slide, um/px.
        mpp_tolerance: Relative; patches of a slide inside it are not resampled.
        pad_value: Grey level 0..255 outside the slide.
        scale: Divisor of pixel values.
        field_px: Side of what is cut from the slide, and augmented in training, px at `mpp`; even. It is
            enlarged or shrunk to `patch_px`. None for `patch_px` itself.
        mean: Subtracted from each channel after the division by `scale`.
        std: Divisor of each channel after that.
    """

    patch_px: int = Field(ge=8, multiple_of=2)
    mpp: float = Field(gt=0, le=20)
    mpp_tolerance: float = Field(ge=0, lt=0.5)
    pad_value: int = Field(ge=0, le=255)
    scale: float = Field(gt=0)
    field_px: int | None = Field(default=None, ge=8, multiple_of=2)
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[Positive, Positive, Positive] = (1.0, 1.0, 1.0)

    @property
    def cut_px(self) -> int:
        """Side of what is cut from the slide for a view of zoom 1, px at `mpp`."""
        return self.patch_px if self.field_px is None else self.field_px


class NetworkSpec(Spec):
    """The network of the members.

    Attributes:
        backbone: The encoder: `preact-resnet50`, the paper's, or `timm:<name>`, any encoder of timm that
            gives feature maps, such as `timm:tf_efficientnet_lite2`.
        width: Channels after the first convolution of `preact-resnet50`; None for timm's encoders.
        head: Global average pooling and three fully connected layers.
    """

    backbone: str = Field(pattern=r"^(preact-resnet50|timm:[a-z][a-z0-9_]*(\.[a-z0-9_]+)?)$")
    width: int | None = Field(default=None, ge=1, le=64)
    head: Literal["gap-fc3"]

    @model_validator(mode="after")
    def _has_a_width_or_a_name(self) -> Self:
        if (self.width is None) == (self.timm_name is None):
            raise ValueError("'width' belongs to the backbone preact-resnet50, and to no other")
        return self

    @property
    def timm_name(self) -> str | None:
        """The encoder's name in timm; None for `preact-resnet50`."""
        return self.backbone.removeprefix("timm:") if self.backbone.startswith("timm:") else None

    @property
    def text(self) -> str:
        """The network in words."""
        if self.timm_name is not None:
            return f"{self.timm_name} of timm, 3 connected layers"
        return f"HoVer-Net's pre-activated ResNet-50, width {self.width}, 3 connected layers"


class EnsembleSpec(Spec):
    """How the votes of members become one label.

    Attributes:
        vote: How the label follows from the votes: that of the majority, and of the mean in a tie.
        threshold: A member votes atypical at or above this mean P(atypical) over its views.
        tta: Views of a patch: itself (`none`), with both flips (`flips`), the square's 8 symmetries (`d4`).
        zooms: For each zoom z the window `cut_px / z`, resampled to `cut_px`, is a further view.
    """

    vote: Literal["majority"]
    threshold: float = Field(gt=0, lt=1)
    tta: Tta
    zooms: tuple[float, ...] = (1.0,)

    @property
    def single_zoom(self) -> float:
        """The zoom of the single view that stands for all: 1 if there is such a zoom, else the first."""
        return 1.0 if 1.0 in self.zooms else self.zooms[0]

    @field_validator("zooms")
    @classmethod
    def _are_distinct(cls, zooms: tuple[float, ...]) -> tuple[float, ...]:
        if not zooms or len(set(zooms)) != len(zooms) or not all(0.25 <= zoom <= 4 for zoom in zooms):
            raise ValueError("should be distinct zooms between 0.25 and 4")
        return zooms


class OriginSpec(Spec):
    """How weights were trained.

    Attributes:
        dataset_digest: Digest of the store of samples.
        beside_digest: Digest of a second store that was trained on as well; None for none.
        dataset_licence: Licence of the samples.
        mask_provider: Who segmented the figures for the auxiliary decoders.
        recipe: Name and digest of the recipe.
        seed: Seed of the training.
        code_version: Version of wsi-mitosis that trained them.
        encoder_source: Where the weights come from that the encoder started from; None for random ones.
        encoder_sha256: Digest of their file.
        encoder_licence: Their licence.
        teacher: Name and digest of the bundle that taught them; None for none.
    """

    dataset_digest: str | None = None
    beside_digest: str | None = None
    dataset_licence: str | None = None
    mask_provider: str | None = None
    recipe: str | None = None
    seed: int | None = None
    code_version: str | None = None
    encoder_source: str | None = None
    encoder_sha256: str | None = None
    encoder_licence: str | None = None
    teacher: str | None = None

    @property
    def missing(self) -> list[str]:
        """Names of the absent keys that every origin must state."""
        optional = {"beside_digest", "encoder_source", "encoder_sha256", "encoder_licence", "teacher"}
        return [
            name for name in OriginSpec.model_fields if name not in optional and getattr(self, name) is None
        ]


class MemberTrainingSpec(OriginSpec):
    """The bundle that a member was taken from, and how the member was trained.

    Attributes:
        bundle: Name of the bundle.
        bundle_digest: Digest of the bundle.
        licence: Licence of the bundle's weights.
    """

    bundle: str
    bundle_digest: str = Field(pattern="^[0-9a-f]{64}$")
    licence: str

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.missing:
            raise ValueError(f"missing {', '.join(self.missing)}")
        return self


class MemberSpec(Spec):
    """One member: the file of its weights, and the results of its fold.

    Attributes:
        file: Name of the safetensors file beside the manifest.
        sha256: SHA-256 of the file.
        test_domain: The domain that its training left out for the test; None for none.
        validation_domain: The domain that its training left out to select the epoch; None for none.
        validation_loss: Total loss on the validation domain.
        validation_balanced_accuracy: Balanced accuracy on the validation domain.
        network: The member's network, if it is not the bundle's.
        field_px: Side of the centre of the crop that the member sees, px at the bundle's um/px; even. It is
            enlarged or shrunk to `patch_px`. None for the whole field of `[input]`.
        training: The member's origin, if it was taken from another bundle.
    """

    file: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    test_domain: str | None = None
    validation_domain: str | None = None
    validation_loss: float | None = None
    validation_balanced_accuracy: float | None = None
    network: NetworkSpec | None = None
    field_px: int | None = Field(default=None, ge=8, multiple_of=2)
    training: MemberTrainingSpec | None = None

    @field_validator("file")
    @classmethod
    def _beside_the_manifest(cls, file: str) -> str:
        if "/" in file or "\\" in file or not file.endswith(".safetensors"):
            raise ValueError("should be the name of a .safetensors file beside the manifest")
        return file


class TrainingSpec(OriginSpec):
    """The origin of a trained bundle.

    The keys of `OriginSpec` are all absent in a bundle whose members each have their own origin.

    Attributes:
        samples: File beside the manifest, with a line per sample: its digest, a blank, its domain.
        samples_sha256: SHA-256 of that file.
    """

    samples: str
    samples_sha256: str = Field(pattern="^[0-9a-f]{64}$")

    @field_validator("samples")
    @classmethod
    def _beside_the_manifest(cls, samples: str) -> str:
        if "/" in samples or "\\" in samples:
            raise ValueError("should be the name of a file beside the manifest")
        return samples

    @model_validator(mode="after")
    def _is_whole_or_absent(self) -> Self:
        stated = [name for name in OriginSpec.model_fields if getattr(self, name) is not None]
        if self.missing and stated:
            raise ValueError(f"missing {', '.join(self.missing)}")
        return self


FittedOn = Literal["domains left out", "own figures"]


class CalibrationSpec(Spec):
    """The calibration of a bundle; see `core/calibration.py`.

    Attributes:
        temperature: A member's P(atypical) p becomes sigmoid(logit(p) / temperature).
        fitted_on: `domains left out`: each member's P(atypical) on the domain that it was trained without;
            `own figures`: a laboratory's labelled figures, which the threshold was fitted to as well.
        figures: Number of figures that it was fitted to.
        atypical: Number of atypical ones among them.
        figures_sha256: Hash of their sorted digests (`SAMPLE_COLUMNS`), each followed by a line feed.
        dataset_digest: Digest of the store that they are from.
    """

    temperature: float = Field(gt=0, le=1000)
    fitted_on: FittedOn
    figures: int = Field(ge=1)
    atypical: int = Field(ge=0)
    figures_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    dataset_digest: str

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.atypical > self.figures:
            raise ValueError("more figures are atypical than there are")
        return self


class SharpnessSpec(Spec):
    """How sharp the figures of a slide should be; see `core/sharpness.py`.

    Attributes:
        lowest: The least sharpness of a slide that there is no warning of.
        slides: Number of slides that it is computed from.
        dataset_digest: Digest of the store that these are from.
    """

    lowest: float = Field(gt=0)
    slides: int = Field(ge=1)
    dataset_digest: str


class Bfloat16Spec(Spec):
    """How the ensemble's labels in bfloat16 on a CPU compare with those in float32, with the bundle's views.

    A bundle with this table offers `--precision bf16`: at most 1 label of 200 changes, and AUROC by less than
    .002. The table is written by `train/precisions.py`.

    Attributes:
        figures: Number of labelled figures that were classified in both precisions.
        changed: Number of those whose label differs.
        auroc: AUROC of the mean P(atypical) in bfloat16.
        auroc_float32: The same in float32.
        figures_sha256: Hash of their sorted digests (`SAMPLE_COLUMNS`), each followed by a line feed.
    """

    figures: int = Field(ge=1000)
    changed: int = Field(ge=0)
    auroc: float = Field(ge=0, le=1)
    auroc_float32: float = Field(ge=0, le=1)
    figures_sha256: str = Field(pattern="^[0-9a-f]{64}$")

    @model_validator(mode="after")
    def _changes_little(self) -> Self:
        if self.changed * 200 > self.figures:
            raise ValueError(f"{self.changed} of {self.figures} labels change, which is more than 1 of 200")
        if abs(self.auroc - self.auroc_float32) >= 0.002:
            raise ValueError("the AUROC changes by .002 or more")
        return self


class ParentSpec(Spec):
    """The bundle that a bundle was derived from: its weights are the same, or were trained further.

    Attributes:
        name: Its name.
        digest: Its digest.
    """

    name: str
    digest: str = Field(pattern="^[0-9a-f]{64}$")


class BundleManifest(Spec):
    """`manifest.toml` of a bundle, schema 1.

    Attributes:
        schema_: Version of this schema. A newer one is refused.
        name: Name of the bundle, that of its folder.
        version: Version of the bundle.
        licence: Licence of the weights.
        intended_use: What it is for, in a sentence.
        trained: False if the weights are random, so that the labels mean nothing.
        calibration: None for temperature 1.
        sharpness: None if nothing is said of the sharpness of slides.
        bfloat16: None if the bundle is not offered in bfloat16.
        parent: None for a bundle that was not derived from another one.
    """

    error: ClassVar[type[InputError]] = BundleError

    schema_: Literal[1] = Field(alias="schema")
    name: str = Field(pattern=BUNDLE_NAME)
    version: str
    licence: str
    intended_use: str
    trained: bool
    input: InputSpec
    network: NetworkSpec
    ensemble: EnsembleSpec
    member: tuple[MemberSpec, ...] = Field(min_length=1)
    training: TrainingSpec | None = None
    calibration: CalibrationSpec | None = None
    sharpness: SharpnessSpec | None = None
    bfloat16: Bfloat16Spec | None = None
    parent: ParentSpec | None = None

    @property
    def temperature(self) -> float:
        """The temperature of P(atypical); 1 without a calibration."""
        return 1.0 if self.calibration is None else self.calibration.temperature

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.trained and self.training is None:
            raise ValueError("a trained bundle needs the table [training]")
        if len({member.file for member in self.member}) != len(self.member):
            raise ValueError("two members name the same file")
        if self.training is not None and self.training.missing and not all(m.training for m in self.member):
            raise ValueError("a member has no origin: neither [training] nor its [member.training] states it")
        field_px = self.input.cut_px
        if any(member.field_px is not None and member.field_px >= field_px for member in self.member):
            raise ValueError(f"a member's 'field_px' should be less than the {field_px} px of [input]")
        return self

    def input_of(self, member: MemberSpec) -> InputSpec:
        """Return the input of one of the members: the bundle's, but for its field."""
        own = {} if member.field_px is None else {"field_px": member.field_px}
        return self.input.model_copy(update=own)

    def network_of(self, member: MemberSpec) -> NetworkSpec:
        """Return the network of one of the members."""
        return member.network or self.network

    def file_of(self, member: MemberSpec) -> str:
        """Return the file of one of the members, with the bundle's name, for messages."""
        return f"{self.name}/{member.file}"

    @property
    def networks(self) -> dict[NetworkSpec, int]:
        """The number of members by network, in the order of their first members."""
        return dict(Counter(map(self.network_of, self.member)))


class ReviewsSpec(Spec):
    """The reviews that the labels of a store come from. No reviewer is named.

    Attributes:
        run: Digest of the slides and results that were reviewed, by `core.review_files.run_digest`.
        consensus_sha256: SHA-256 of `reviewed/consensus.csv`.
        reviewers: Number of reviewers.
        slides: Number of slides with a sample.
        blind: Number of samples whose reviewers did not see the machine's labels.
        none: Number of figures left out because they are no mitotic figures.
        tie: Number of figures left out because the reviewers disagree evenly.
        unsure: Number of figures left out because no reviewer could tell.
    """

    run: str = Field(pattern="^[0-9a-f]{64}$")
    consensus_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    reviewers: int = Field(ge=1)
    slides: int = Field(ge=1)
    blind: int = Field(ge=0)
    none: int = Field(ge=0)
    tie: int = Field(ge=0)
    unsure: int = Field(ge=0)


class StoreAttributes(Spec):
    """The attributes of a store of samples.

    Attributes:
        patch_px: Side of its images and masks, px.
        mpp: um/px; None for crops, whose pixel size is unknown.
        licence: Licence that was given when it was built.
        source: Kind of the source of its labels.
        mask_provider_version: Changes when the provider's masks do; empty without a provider.
        domains: Sorted.
        digest: SHA-256 over um/px, images, masks and samples, whatever the layout of the files.
        code_version: Version of the program that wrote it.
        reviews: Where the labels come from, for a store of reviews.
    """

    error: ClassVar[type[InputError]] = DatasetError

    schema_: Literal[1, 2, 3] = Field(alias="schema")
    name: str
    patch_px: int = Field(ge=1)
    mpp: float | None = Field(gt=0)
    licence: str
    source: LabelSource
    mask_provider: MaskProviderName
    mask_provider_version: str
    domains: tuple[str, ...] = Field(min_length=1)
    digest: str = Field(pattern="^[0-9a-f]{64}$")
    code_version: str
    reviews: ReviewsSpec | None = None

    def as_data(self) -> dict[str, Any]:
        """Return them as plain data, as the store has them."""
        left_out = {"reviews"} if self.reviews is None else set()
        return self.model_dump(mode="json", by_alias=True, exclude=left_out)


_candidates = partial(Option, changes="result", known_by="candidates")
_result = partial(Option, changes="result")
_assessment = partial(Option, changes="assessment")
_drawing = partial(Option, changes="drawing")
_product = partial(Option, changes="product")
_run = partial(Option, changes="run")
"""Descriptions by what an option changes; a key holds the candidates themselves in place of `_candidates`."""

GivenMpp = Annotated[
    float | None,
    Field(ge=MPP_RANGE[0], le=MPP_RANGE[1]),
    _result(help="Pixel size of slides that state none, or an absurd one.", unit="um/px", known_by="mpp"),
]
Slides = Annotated[
    tuple[str, ...],
    Field(min_length=1),
    _run(
        help="Slides: files, folders, quoted globs, URLs with --stage, or a .csv or .txt list (slide[,mpp]).",
        positional=True,
        metavar="SLIDE...",
    ),
]
Recursive = Annotated[bool, _run(help="Search folders with their subfolders.")]
Overwrite = Annotated[bool, _run(help="Process finished slides again.")]
FailFast = Annotated[bool, _run(help="Stop at the first failed slide.")]
StealLock = Annotated[
    bool, _run(help="Take the output folder over from a run on another machine that ended without notice.")
]


class InputOptions(Spec):
    """Which slides, and their candidates."""

    slides: Slides
    detections: Annotated[
        str,
        _candidates(
            help="Candidates: one file for all slides, a folder with one file per slide, or the path of one "
            "with {stem}, {name} or {folder} of its slide.",
            metavar="PATH",
        ),
    ]
    format: Annotated[
        DetectionFormat, _candidates(help="Format of the detections; auto detects it from their content.")
    ] = "auto"
    columns: Annotated[
        dict[str, str],
        Field(default_factory=dict),
        _candidates(
            help="Names of a table's columns that have none of the usual names.", metavar="x=A,y=B,..."
        ),
    ]
    decimal: Annotated[
        DecimalSign | None,
        _candidates(
            help="Decimal sign in a table; the other sign separates thousands.",
            default="detected from its columns",
        ),
    ] = None
    units: Annotated[
        LengthUnit | None, _candidates(help="Unit of the coordinates.", default="the format's")
    ] = None
    frame: Annotated[
        InputFrame | None,
        _candidates(
            help="Frame of the coordinates, by its origin: slide = corner of level 0, qupath = corner of the "
            "slide's bounds, slide-centre = middle of the glass slide (NDP.view2).",
            default="the format's",
        ),
    ] = None
    recursive: Recursive = False


class ResultOptions(Spec):
    """What changes a slide's result, beside the slide, its candidates and the bundle."""

    classes: Annotated[
        tuple[str, ...],
        _candidates(
            flag="--class",
            help="Class whose objects are candidates; repeatable.",
            metavar="NAME",
            default="those that the format means",
        ),
    ] = ()
    min_score: Annotated[float | None, _candidates(help="Exclude candidates with a lower score.")] = None
    merge_um: Annotated[
        float | None,
        Field(gt=0),
        _candidates(help="Merge candidates that are nearer than this; the highest score is kept.", unit="um"),
    ] = None
    mpp: GivenMpp = None
    vote: Annotated[
        Vote,
        _result(
            help="Members that vote: all, or early: until the majority is certain, with the same labels."
        ),
    ] = "all"
    tta: Annotated[
        Tta | None,
        _result(
            help="Views of each patch: as it is, with both flips, or all 8 symmetries of the square.",
            default="the bundle's",
            known_by="tta",
        ),
    ] = None
    precision: Annotated[
        Precision,
        _result(
            help="Precision of the networks: fp32; fp16 on a GPU, 2.3 times as fast on an H200; or bf16 on a "
            "CPU that has it, with a bundle that was compared in it, such as amibr-lite2. A figure near the "
            "threshold can get another label.",
            known_by="precision",
        ),
    ] = "fp32"


def _proportion(aspect: str) -> str:
    numbers = re.fullmatch(r"(\d+(?:\.\d+)?):(\d+(?:\.\d+)?)", aspect)
    sides = [float(side) for side in numbers.groups()] if numbers else [0.0]
    if not min(sides) > 0 or max(sides) > 10 * min(sides):
        raise ValueError("should be W:H such as 4:3, with no side more than ten times the other")
    return aspect


HOTSPOT_AREA, HOTSPOT_ASPECT = 2.0, "4:3"
HotspotArea = Annotated[
    float,
    Field(ge=0, le=1000),
    _assessment(
        help="Area of the window with the most mitotic figures; 0 = no hotspot.",
        unit="mm^2",
        metavar="MM2",
    ),
]
HotspotAspect = Annotated[
    str,
    AfterValidator(_proportion),
    _assessment(
        help="Width to height of this window; the turned window is tried as well.",
        metavar="W:H",
    ),
]
Hotspots = Annotated[
    int,
    Field(ge=1, le=MOST_HOTSPOTS),
    _assessment(help="Number of hotspots at most; they do not overlap.", metavar="K"),
]


class AssessmentOptions(Spec):
    """What an assessment looks for, beside the slide's regions."""

    hotspot_area: HotspotArea = HOTSPOT_AREA
    hotspot_aspect: HotspotAspect = HOTSPOT_ASPECT
    hotspots: Hotspots = 1

    @property
    def hotspot_sides(self) -> tuple[float, float]:
        """`hotspot_aspect` as numbers."""
        across, down = self.hotspot_aspect.split(":")
        return float(across), float(down)


OUTPUT_FOLDER = "wsi-mitosis-results"


class OutputOptions(Spec):
    """Where results go, what is computed from the labels, and how it is shown."""

    folder: Annotated[str, _run(flag="--out", help="Folder of the results.", metavar="DIR")] = OUTPUT_FOLDER
    objects: Annotated[
        Literal["detections", "annotations"],
        _drawing(help="Objects that figures are in QuPath: detections are fast, annotations can be edited."),
    ] = "detections"
    geojson_frame: Annotated[
        Frame, _drawing(help="Frame of the GeoJSON, and of --regions; slide if QuPath runs with --no-crop.")
    ] = "qupath"
    hotspot_area: HotspotArea = HOTSPOT_AREA
    hotspot_aspect: HotspotAspect = HOTSPOT_ASPECT
    hotspots: Hotspots = 1
    regions: Annotated[
        str | None,
        _assessment(
            help="GeoJSON of regions from QuPath, a file or a folder with one per slide. Figures are counted "
            "in each region, and hotspots are searched inside regions only. Regions of classes that end in "
            "*, or that mean necrosis, artefacts, background or what is excluded, are cut out.",
            metavar="PATH",
            known_by="regions",
        ),
    ] = None
    dicom: Annotated[
        bool,
        _drawing(
            help="Write the figures of DICOM slides as DICOM annotations as well, and their counts and "
            "hotspots as a structured report; needs wsi-mitosis[dicom].",
            known_by="dicom",
        ),
    ] = False
    report: Annotated[bool, _product(flag="--no-report", help="Do not write report.html.")] = True
    qupath_project: Annotated[
        bool,
        _product(
            help="Write a QuPath project with the slides, the class colours, and a script that imports the "
            "figures."
        ),
    ] = False
    tiatoolbox: Annotated[bool, _product(help="Write an annotation store for TIAToolbox of each slide.")] = (
        False
    )
    metrics: Annotated[
        str | None,
        _product(help="Write the run's numbers for Prometheus to this text file.", metavar="FILE"),
    ] = None
    notify: Annotated[
        str | None,
        _product(
            help="Command that gets the run's result as JSON on its standard input, after everything else.",
            metavar="COMMAND",
        ),
    ] = None
    overwrite: Overwrite = False
    fail_fast: FailFast = False
    steal_lock: StealLock = False

    @property
    def assessment(self) -> AssessmentOptions:
        """The options of an assessment."""
        return AssessmentOptions(**{name: getattr(self, name) for name in AssessmentOptions.model_fields})


class PlacementOptions(Spec):
    """Where the work is done."""

    workers: Annotated[
        int | None, Field(ge=0), _run(help="Ray workers; 0 = work in this process.", default="auto")
    ] = None
    gpus_per_worker: Annotated[
        float | None, Field(ge=0), _run(help="GPUs of each worker; may be a fraction.", default="auto")
    ] = None
    cpus_per_worker: Annotated[int | None, Field(ge=1), _run(help="CPUs of each worker.", default="auto")] = (
        None
    )
    address: Annotated[
        str | None, _run(help="Existing Ray cluster, such as head:6379 or auto.", metavar="ADDRESS")
    ] = None
    device: Annotated[
        str,
        _result(
            help="Device of the networks: auto, cpu, cuda or cuda:N. Results of CPU and GPU are kept apart.",
            metavar="DEVICE",
            known_by="device",
        ),
    ] = "auto"
    backend: Annotated[
        BackendChoice,
        _result(
            help="What computes the ensemble: torch or, on a CPU, openvino, which is faster there and which "
            "auto takes. Results of the two are kept apart.",
            known_by="backend",
        ),
    ] = "auto"
    batch_size: Annotated[
        int | None, Field(ge=1), _run(help="Patches or tiles per batch.", default="auto")
    ] = None

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> Self:
        if self.workers == 0 and (self.address is not None or self.gpus_per_worker is not None):
            raise ValueError("0 workers is this process, which has no use for an address or GPUs per worker")
        return self


class RetryOptions(Spec):
    """How often a slide is tried, in one run and from run to run."""

    tries: Annotated[
        int,
        Field(ge=1, le=100),
        _run(
            help="Times that a slide is tried in a run whose worker dies, whose memory runs out, or whose "
            "storage does not answer.",
            metavar="N",
        ),
    ] = 3
    stall_seconds: Annotated[
        float,
        Field(gt=0),
        _run(help="Time without progress after which a slide counts as hanging.", unit="s", metavar="S"),
    ] = 900.0
    max_failures: Annotated[
        int,
        Field(ge=1),
        _run(help="Runs in which a slide may fail before it is set aside.", metavar="N"),
    ] = 3
    retry: Annotated[bool, _run(help="Process slides again that were set aside.")] = False


def _clock(until: str) -> str:
    if not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", until):
        raise ValueError("should be an hour and a minute such as 06:30")
    return until


def _zone(timezone: str) -> str:
    try:
        ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError("should be a time zone that this machine knows, such as Europe/Rome") from error
    return timezone


class ScheduleOptions(Spec):
    """When slides are processed."""

    until: Annotated[
        str | None,
        AfterValidator(lambda until: None if until is None else _clock(until)),
        _run(
            help="Time of day after which no slide is begun; those that are left are pending.",
            metavar="HH:MM",
        ),
    ] = None
    timezone: Annotated[
        str | None,
        AfterValidator(lambda timezone: None if timezone is None else _zone(timezone)),
        _run(help="Time zone of --until, such as Europe/Rome.", metavar="ZONE", default="the machine's"),
    ] = None
    settle_seconds: Annotated[
        float,
        Field(ge=0),
        _run(
            help="A slide waits for the next run if its files, or its own detections file, have changed in "
            "so many seconds before this one.",
            unit="s",
            metavar="S",
        ),
    ] = 0.0


class StagingOptions(Spec):
    """Copies of slides on a local disk."""

    stage: Annotated[
        str | None,
        _run(
            help="Copy each slide to this folder on a local disk ahead of its turn, and remove it after; for "
            "slow drives, and for slides at URLs (s3://, https://), which need wsi-mitosis[remote].",
            metavar="DIR",
        ),
    ] = None
    stage_gib: Annotated[
        float | None,
        Field(gt=0),
        _run(
            help="What the copies of each worker may take in --stage; it holds two slides at most.",
            unit="GiB",
            default="50",
        ),
    ] = None

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> Self:
        if self.stage is None and self.stage_gib is not None:
            raise ValueError("--stage-gib limits the copies in --stage, which is not given")
        return self


class ClassifySpec(Spec):
    """One `classify` run, whether its options came from a command line or a pipeline file."""

    input: InputOptions
    model: Annotated[
        str | None,
        _result(
            help="Folder of a bundle, or the name of a shipped one (see `models list`); `fast` names the one "
            "that costs least.",
            metavar="BUNDLE",
            default="amibr-lite2",
            known_by="bundle",
        ),
    ] = None
    result: ResultOptions = ResultOptions()
    output: OutputOptions = OutputOptions()
    placement: PlacementOptions = PlacementOptions()
    retries: RetryOptions = RetryOptions()
    schedule: ScheduleOptions = ScheduleOptions()
    staging: StagingOptions = StagingOptions()


DETECTOR = "KongNet_Det_MIDOG_1"
DetectorName = Annotated[str, _result(help="Name of a detector of TIAToolbox.", metavar="NAME")]
DetectorWeights = Annotated[
    str | None,
    _result(
        help="Checkpoint of the detector, or hub to fetch it; nothing else goes online.",
        metavar="PATH",
        default="what was fetched before",
    ),
]
LeastScore = Annotated[
    float | None,
    Field(ge=0, lt=1),
    _result(help="Probability above which a peak is a candidate.", default="the detector's, 0.99"),
]


class SearchOptions(Spec):
    """How a pipeline finds the candidates that it classifies."""

    model: DetectorName = DETECTOR
    weights: DetectorWeights = None
    min_score: LeastScore = None


class PipelineSpec(ClassifySpec):
    """One `run` of a pipeline file: a `classify` run, and before it a search for candidates if requested."""

    detect: SearchOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _with_candidates_of_its_own(cls, data: Any) -> Any:
        """Put the candidates of a search into the output folder."""
        if (
            not isinstance(data, dict)
            or data.get("detect") is None
            or not isinstance(data.get("input"), dict)
        ):
            return data
        if "detections" in data["input"]:
            raise ValueError("[detect] finds the candidates; leave out 'detections' in [input] or this table")
        output = data.get("output")
        folder = output.get("folder") if isinstance(output, dict) else None
        found = f"{folder or OUTPUT_FOLDER}/candidates.csv"
        return {**data, "input": {**data["input"], "detections": found}}


SEARCH_PLACEMENT = Only(["workers", "gpus_per_worker", "cpus_per_worker", "address", "device", "batch_size"])
"""Options of a search, whose detector torch computes."""


class DetectSpec(Spec):
    """One `detect` run."""

    slides: Slides
    out: Annotated[str, _run(help="Table of the candidates of all slides.", metavar="CSV")] = "dets.csv"
    model: DetectorName = DETECTOR
    weights: DetectorWeights = None
    min_score: LeastScore = None
    mpp: GivenMpp = None
    recursive: Recursive = False
    overwrite: Overwrite = False
    fail_fast: FailFast = False
    steal_lock: StealLock = False
    placement: Annotated[PlacementOptions, SEARCH_PLACEMENT] = PlacementOptions()
    retries: RetryOptions = RetryOptions()
    schedule: ScheduleOptions = ScheduleOptions()
    staging: StagingOptions = StagingOptions()


Strict = Annotated[
    bool, _run(help="Refuse labels, votes and domains that look like mistakes, instead of warning of them.")
]


class DatasetSpec(Spec):
    """One `dataset build`."""

    path: Annotated[
        str,
        _result(
            help="Table of labels, the folder above the folders of crops, or a folder of results with "
            "reviews.",
            positional=True,
            metavar="PATH",
        ),
    ]
    source: Annotated[LabelSource, _result(help="How PATH states the labels.")]
    out: Annotated[str, _run(help="Folder of the store.", metavar="STORE.zarr")]
    images: Annotated[
        str | None,
        _result(help="Folder of the crops or slides.", metavar="DIR", default="the table's folder"),
    ] = None
    masks: Annotated[
        MaskProviderName, _result(help="Method that segments the figures, for multi-task training.")
    ] = "haematoxylin"
    nuclick_weights: Annotated[
        str | None, _result(help="Checkpoint for --masks nuclick; hub fetches it.", metavar="PATH|hub")
    ] = None
    domain: Annotated[
        str | None,
        Field(min_length=1),
        _result(
            help="Domain of the samples of a folder, of a csv without that column, or of reviews.",
            default="the folder's or table's name; of reviews, the scanner that each slide states",
        ),
    ] = None
    patch_px: Annotated[
        int,
        Field(ge=8, multiple_of=2),
        _result(help="Side of the patches that are cut from slides, and the least side of crops.", unit="px"),
    ] = 128
    licence: Annotated[str, _product(help="Licence of the images.", metavar="TEXT")] = "not stated"
    overwrite: Annotated[bool, _run(help="Replace an existing store.")] = False
    strict: Strict = False
    placement: Annotated[PlacementOptions, Only(["workers"])] = PlacementOptions()

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> Self:
        if (self.masks == "nuclick") != (self.nuclick_weights is not None):
            raise ValueError(
                "--masks nuclick needs --nuclick-weights, a file or hub, and only it has a use for them"
            )
        if self.domain is not None and self.source in {"midog25", "amibr"}:
            raise ValueError(f"{self.source} has its own domains; --domain is for folder, csv and reviews")
        if self.images is not None and self.source == "folder":
            raise ValueError("a folder's crops are in it; --images is for the sources with a table")
        if self.images is not None and self.source == "reviews":
            raise ValueError("the results say where the slides are; --images is for the sources with a table")
        return self


class TrainSpec(Spec):
    """One `train`."""

    recipe: Annotated[
        str,
        _result(help="TOML file, or the name of a shipped recipe.", positional=True, metavar="RECIPE.toml"),
    ]
    dataset: Annotated[str, _result(help="Store that `dataset build` made.", metavar="STORE.zarr")]
    out: Annotated[str, _run(help="Folder of the new bundle.", metavar="BUNDLE")]
    work: Annotated[
        str | None,
        _run(
            help="Folder of checkpoints, metrics and curves.",
            metavar="DIR",
            default="BUNDLE.training, beside it",
        ),
    ] = None
    folds: Annotated[
        tuple[str, ...],
        _run(flag="--fold", help="Fold to train in this run; repeatable.", metavar="NAME", default="all"),
    ] = ()
    validation: Annotated[
        dict[str, str],
        Field(default_factory=dict),
        _result(
            help="The fold that tests on TEST selects on DOMAIN; repeatable.",
            metavar="TEST=DOMAIN",
            default="the next domain",
        ),
    ]
    parent: Annotated[
        str | None,
        _result(
            flag="--from",
            help="Bundle whose members are trained further on the dataset, which has figures of your own. "
            "RECIPE is the one that it was trained by.",
            metavar="BUNDLE",
            default="members start anew",
        ),
    ] = None
    beside: Annotated[
        str | None,
        _result(
            help="With --from: store to learn from as well, such as the one that the bundle was trained on.",
            metavar="STORE.zarr",
            default="the dataset alone",
        ),
    ] = None
    allow_few: Annotated[
        bool,
        _run(help="With --from: train on too few figures to tell whether the bundle becomes better."),
    ] = False
    encoder_weights: Annotated[
        str | None, _result(help="Checkpoint, for a recipe that starts from one.", metavar="PATH")
    ] = None
    teacher: Annotated[
        str | None,
        _result(
            help="Bundle whose P(atypical) members learn as well, for a recipe with teacher_share. A fold is "
            "taught by the members that know no figure of its test domain.",
            metavar="BUNDLE",
        ),
    ] = None
    encoder_licence: Annotated[
        str | None,
        _product(help="Licence of these weights, which the bundle states.", metavar="TEXT"),
    ] = None
    name: Annotated[str | None, _product(help="Name of the bundle.", default="its folder's")] = None
    licence: Annotated[
        str | None, _product(help="Licence of the weights.", metavar="TEXT", default="the dataset's")
    ] = None
    strict: Strict = False
    placement: Annotated[
        PlacementOptions, Only(["workers", "gpus_per_worker", "cpus_per_worker", "address", "device"])
    ] = PlacementOptions()

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> Self:
        if self.parent is None and (self.beside is not None or self.allow_few):
            raise ValueError("--beside and --allow-few belong to --from")
        if self.parent is not None and (self.encoder_weights is not None or self.encoder_licence is not None):
            raise ValueError("members start from the bundle of --from; leave out --encoder-weights")
        if self.parent is not None and self.teacher is not None:
            raise ValueError("members that are trained further have no teacher; leave out --teacher")
        if self.parent is not None and self.validation:
            raise ValueError("with --from slides are left out, not domains; leave out --validation")
        return self
