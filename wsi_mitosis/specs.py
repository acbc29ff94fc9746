"""Frozen specifications of bundles, stores and runs: an unknown key is an error.

The fields of runs (`ClassifySpec`, `DetectSpec`, `DatasetSpec`, `TrainSpec`) are described by their `Option`;
`docs/options.md` lists them.
"""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from wsi_mitosis.errors import BundleError, DatasetError, InputError
from wsi_mitosis.schema import Only, Option, Spec
from wsi_mitosis.tables import DecimalSign, DetectionFormat, LabelSource, MaskProviderName, Tta, Vote
from wsi_mitosis.units import MPP_RANGE, Frame, LengthUnit


class InputSpec(Spec):
    """How a bundle wants its patches: part of the evaluated model, not of a run's options.

    Attributes:
        patch_px: Side of the square patch that the network sees, px; even.
        mpp: Pixel size of that patch, um/px.
        mpp_tolerance: Relative; a slide whose pixel size lies inside it is taken as it is.
        pad_value: Grey level 0..255 outside the slide.
        scale: Pixel values are divided by it.
    """

    patch_px: int = Field(ge=8, multiple_of=2)
    mpp: float = Field(gt=0, le=20)
    mpp_tolerance: float = Field(ge=0, lt=0.5)
    pad_value: int = Field(ge=0, le=255)
    scale: float = Field(gt=0)


class NetworkSpec(Spec):
    """Which network the members' weights fit."""

    backbone: Literal["preact-resnet50"]
    width: int = Field(ge=1, le=64)
    head: Literal["gap-fc3"]


class EnsembleSpec(Spec):
    """How members become one label.

    Attributes:
        threshold: A member votes atypical at or above this mean P(atypical) over its views.
        tta: Views of a patch: itself (`none`), with both flips (`flips`), the square's 8 symmetries (`d4`).
        zooms: For each zoom z the window `patch_px / z`, resampled to `patch_px`, is a further view.
    """

    vote: Literal["majority"]
    threshold: float = Field(gt=0, lt=1)
    tta: Tta
    zooms: tuple[float, ...] = (1.0,)

    @field_validator("zooms")
    @classmethod
    def _sensible(cls, zooms: tuple[float, ...]) -> tuple[float, ...]:
        if not zooms or len(set(zooms)) != len(zooms) or not all(0.25 <= zoom <= 4 for zoom in zooms):
            raise ValueError("should be distinct zooms between 0.25 and 4")
        return zooms


class MemberSpec(Spec):
    """One member: its weights file and what its fold measured."""

    file: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    test_domain: str | None = None
    validation_domain: str | None = None
    validation_loss: float | None = None
    validation_balanced_accuracy: float | None = None

    @field_validator("file")
    @classmethod
    def _beside_the_manifest(cls, file: str) -> str:
        if "/" in file or "\\" in file or not file.endswith(".safetensors"):
            raise ValueError("should be the name of a .safetensors file beside the manifest")
        return file


class TrainingSpec(Spec):
    """Where a trained bundle comes from.

    Attributes:
        samples: File beside the manifest, a line per sample: its digest, a blank, its domain.
    """

    dataset_digest: str
    dataset_licence: str
    samples: str
    samples_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    mask_provider: str
    recipe: str
    seed: int
    code_version: str

    @field_validator("samples")
    @classmethod
    def _beside_the_manifest(cls, samples: str) -> str:
        if "/" in samples or "\\" in samples:
            raise ValueError("should be the name of a file beside the manifest")
        return samples


class BundleManifest(Spec):
    """`manifest.toml` of a bundle, schema 1."""

    error: ClassVar[type[InputError]] = BundleError

    schema_: Literal[1] = Field(alias="schema")
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    version: str
    licence: str
    intended_use: str
    trained: bool
    input: InputSpec
    network: NetworkSpec
    ensemble: EnsembleSpec
    member: tuple[MemberSpec, ...] = Field(min_length=1)
    training: TrainingSpec | None = None

    @model_validator(mode="after")
    def _trained_says_on_what(self) -> Self:
        if self.trained and self.training is None:
            raise ValueError("a trained bundle needs the table [training]")
        if len({member.file for member in self.member}) != len(self.member):
            raise ValueError("two members name the same file")
        return self


class StoreAttributes(Spec):
    """What a store of samples says of itself.

    Attributes:
        patch_px: Side of its images and masks, px.
        mpp: um/px; None for crops, which state none.
        licence: As whoever built it gave it.
        source: How its labels were read.
        mask_provider_version: Changes when the provider's masks do; empty without a provider.
        domains: Sorted.
        digest: SHA-256 over images, masks and samples, whatever the layout of the files.
        code_version: Of the program that wrote it.
    """

    error: ClassVar[type[InputError]] = DatasetError

    schema_: Literal[1] = Field(alias="schema")
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


GivenMpp = Annotated[
    float | None,
    Field(ge=MPP_RANGE[0], le=MPP_RANGE[1]),
    Option(
        help="Pixel size of slides that state none, or an absurd one.",
        unit="um/px",
        changes="result",
        known_by="mpp",
    ),
]
Slides = Annotated[
    tuple[str, ...],
    Field(min_length=1),
    Option(
        help="Slides: files, folders, quoted globs, or a .csv or .txt list (slide[,mpp]).",
        positional=True,
        metavar="SLIDE...",
        changes="run",
    ),
]
Recursive = Annotated[bool, Option(help="Search folders with their subfolders.", changes="run")]
Overwrite = Annotated[bool, Option(help="Process finished slides again.", changes="run")]
FailFast = Annotated[bool, Option(help="Stop at the first failed slide.", changes="run")]


class InputOptions(Spec):
    """Which slides, and their candidates."""

    slides: Slides
    detections: Annotated[
        str,
        Option(
            help="Candidates: one file for all slides, or a folder with one file per slide.",
            metavar="PATH",
            changes="result",
            known_by="candidates",
        ),
    ]
    format: Annotated[
        DetectionFormat,
        Option(
            help="Format of the detections; auto detects it from their content.",
            changes="result",
            known_by="candidates",
        ),
    ] = "auto"
    columns: Annotated[
        dict[str, str],
        Field(default_factory=dict),
        Option(
            help="Names of a table's columns that have none of the usual names.",
            metavar="x=A,y=B,...",
            changes="result",
            known_by="candidates",
        ),
    ]
    decimal: Annotated[
        DecimalSign | None,
        Option(
            help="Decimal sign in a table; the other sign separates thousands.",
            default="detected from its columns",
            changes="result",
            known_by="candidates",
        ),
    ] = None
    units: Annotated[
        LengthUnit | None,
        Option(
            help="Unit of the coordinates.",
            default="the format's",
            changes="result",
            known_by="candidates",
        ),
    ] = None
    frame: Annotated[
        Frame | None,
        Option(
            help="Frame of the coordinates, by its origin: slide = corner of level 0, qupath = corner of the "
            "slide's bounds.",
            default="the format's",
            changes="result",
            known_by="candidates",
        ),
    ] = None
    recursive: Recursive = False


class ResultOptions(Spec):
    """What changes a slide's result, beside the slide, its candidates and the bundle."""

    classes: Annotated[
        tuple[str, ...],
        Option(
            flag="--class",
            help="Class whose objects are candidates; repeatable.",
            metavar="NAME",
            default="those that the format means",
            changes="result",
            known_by="candidates",
        ),
    ] = ()
    min_score: Annotated[
        float | None,
        Option(help="Exclude candidates with a lower score.", changes="result", known_by="candidates"),
    ] = None
    merge_um: Annotated[
        float | None,
        Field(gt=0),
        Option(
            help="Merge candidates that are nearer than this; the highest score is kept.",
            unit="um",
            changes="result",
            known_by="candidates",
        ),
    ] = None
    mpp: GivenMpp = None
    vote: Annotated[
        Vote,
        Option(
            help="Members that vote: all, or early: until the majority is certain, with the same labels.",
            changes="result",
        ),
    ] = "all"
    tta: Annotated[
        Tta | None,
        Option(
            help="Views of each patch: as it is, with both flips, or all 8 symmetries of the square.",
            default="the bundle's",
            changes="result",
            known_by="tta",
        ),
    ] = None


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
    Option(
        help="Area of the window with the most mitotic figures; 0 = no hotspot.",
        unit="mm^2",
        metavar="MM2",
        changes="assessment",
    ),
]
HotspotAspect = Annotated[
    str,
    AfterValidator(_proportion),
    Option(
        help="Width to height of this window; the turned window is tried as well.",
        metavar="W:H",
        changes="assessment",
    ),
]
Hotspots = Annotated[
    int,
    Field(ge=1, le=100),
    Option(help="Number of hotspots at most; they do not overlap.", metavar="K", changes="assessment"),
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


class OutputOptions(Spec):
    """Where results go, what is computed from the labels, and how it is shown."""

    folder: Annotated[
        str, Option(flag="--out", help="Folder of the results.", metavar="DIR", changes="run")
    ] = "wsi-mitosis-results"
    objects: Annotated[
        Literal["detections", "annotations"],
        Option(
            help="Objects that figures are in QuPath: detections are fast, annotations can be edited.",
            changes="drawing",
        ),
    ] = "detections"
    geojson_frame: Annotated[
        Frame,
        Option(
            help="Frame of the GeoJSON, and of --regions; slide if QuPath runs with --no-crop.",
            changes="drawing",
        ),
    ] = "qupath"
    hotspot_area: HotspotArea = HOTSPOT_AREA
    hotspot_aspect: HotspotAspect = HOTSPOT_ASPECT
    hotspots: Hotspots = 1
    regions: Annotated[
        str | None,
        Option(
            help="GeoJSON of regions from QuPath, a file or a folder with one per slide. Figures are counted "
            "in each region, and hotspots are searched inside regions only.",
            metavar="PATH",
            changes="assessment",
            known_by="regions",
        ),
    ] = None
    dicom: Annotated[
        bool,
        Option(
            help="Write annotations of DICOM slides as DICOM as well; needs wsi-mitosis[dicom].",
            changes="drawing",
            known_by="dicom",
        ),
    ] = False
    report: Annotated[
        bool, Option(flag="--no-report", help="Do not write report.html.", changes="product")
    ] = True
    qupath_project: Annotated[
        bool,
        Option(
            help="Write a QuPath project with the slides, the class colours, and a script that imports the "
            "figures.",
            changes="product",
        ),
    ] = False
    overwrite: Overwrite = False
    fail_fast: FailFast = False

    @property
    def assessment(self) -> AssessmentOptions:
        """The options of an assessment."""
        return AssessmentOptions(**{name: getattr(self, name) for name in AssessmentOptions.model_fields})


class PlacementOptions(Spec):
    """Where the work is done."""

    workers: Annotated[
        int | None,
        Field(ge=0),
        Option(help="Ray workers; 0 = work in this process.", default="auto", changes="run"),
    ] = None
    gpus_per_worker: Annotated[
        float | None,
        Field(ge=0),
        Option(help="GPUs of each worker; may be a fraction.", default="auto", changes="run"),
    ] = None
    cpus_per_worker: Annotated[
        int | None, Field(ge=1), Option(help="CPUs of each worker.", default="auto", changes="run")
    ] = None
    address: Annotated[
        str | None,
        Option(help="Existing Ray cluster, such as head:6379 or auto.", metavar="ADDRESS", changes="run"),
    ] = None
    device: Annotated[
        str,
        Option(
            help="Device of the networks: auto, cpu, cuda or cuda:N. Results of CPU and GPU are kept apart.",
            metavar="DEVICE",
            changes="result",
            known_by="device",
        ),
    ] = "auto"
    batch_size: Annotated[
        int | None,
        Field(ge=1),
        Option(help="Patches or tiles per batch.", default="auto", changes="run"),
    ] = None

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> Self:
        if self.workers == 0 and (self.address is not None or self.gpus_per_worker is not None):
            raise ValueError("0 workers is this process, which has no use for an address or GPUs per worker")
        return self


class ClassifySpec(Spec):
    """One `classify` run, whether its options came from a command line or a pipeline file."""

    input: InputOptions
    model: Annotated[
        str | None,
        Option(
            help="Folder of a bundle, or the name of a shipped one (see `models list`).",
            metavar="BUNDLE",
            default="amibr-nano",
            changes="result",
            known_by="bundle",
        ),
    ] = None
    result: ResultOptions = ResultOptions()
    output: OutputOptions = OutputOptions()
    placement: PlacementOptions = PlacementOptions()


class DetectSpec(Spec):
    """One `detect` run."""

    slides: Slides
    out: Annotated[
        str, Option(help="Table of the candidates of all slides.", metavar="CSV", changes="run")
    ] = "dets.csv"
    model: Annotated[
        str, Option(help="Name of a detector of TIAToolbox.", metavar="NAME", changes="result")
    ] = "KongNet_Det_MIDOG_1"
    weights: Annotated[
        str | None,
        Option(
            help="Checkpoint of the detector, or hub to fetch it; nothing else goes online.",
            metavar="PATH",
            default="what was fetched before",
            changes="result",
        ),
    ] = None
    min_score: Annotated[
        float | None,
        Field(ge=0, lt=1),
        Option(
            help="Probability above which a peak is a candidate.",
            default="the detector's, 0.99",
            changes="result",
        ),
    ] = None
    mpp: GivenMpp = None
    recursive: Recursive = False
    overwrite: Overwrite = False
    fail_fast: FailFast = False
    placement: PlacementOptions = PlacementOptions()


class DatasetSpec(Spec):
    """One `dataset build`."""

    path: Annotated[
        str,
        Option(
            help="Table of labels, or the folder above the folders of crops.",
            positional=True,
            metavar="PATH",
            changes="result",
        ),
    ]
    source: Annotated[LabelSource, Option(help="How PATH states the labels.", changes="result")]
    out: Annotated[str, Option(help="Folder of the store.", metavar="STORE.zarr", changes="run")]
    images: Annotated[
        str | None,
        Option(
            help="Folder of the crops or slides.",
            metavar="DIR",
            default="the table's folder",
            changes="result",
        ),
    ] = None
    masks: Annotated[
        MaskProviderName,
        Option(help="Method that segments the figures, for multi-task training.", changes="result"),
    ] = "haematoxylin"
    nuclick_weights: Annotated[
        str | None,
        Option(help="Checkpoint for --masks nuclick; hub fetches it.", metavar="PATH|hub", changes="result"),
    ] = None
    domain: Annotated[
        str | None,
        Field(min_length=1),
        Option(
            help="Domain of the samples of a folder, or of a csv without that column.",
            default="the folder's or table's name",
            changes="result",
        ),
    ] = None
    patch_px: Annotated[
        int,
        Field(ge=8, multiple_of=2),
        Option(
            help="Side of the patches that are cut from slides, and the least side of crops.",
            unit="px",
            changes="result",
        ),
    ] = 128
    licence: Annotated[str, Option(help="Licence of the images.", metavar="TEXT", changes="product")] = (
        "not stated"
    )
    overwrite: Annotated[bool, Option(help="Replace an existing store.", changes="run")] = False
    placement: Annotated[PlacementOptions, Only(["workers"])] = PlacementOptions()

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> Self:
        if (self.masks == "nuclick") != (self.nuclick_weights is not None):
            raise ValueError("masks by nuclick and --nuclick-weights, a file or hub, go together")
        if self.domain is not None and self.source in {"midog25", "amibr"}:
            raise ValueError(f"{self.source} has its own domains; --domain is for folder and csv")
        if self.images is not None and self.source == "folder":
            raise ValueError("a folder's crops are in it; --images is for the sources with a table")
        return self


class TrainSpec(Spec):
    """One `train`."""

    recipe: Annotated[
        str,
        Option(
            help="TOML file, or the name of a shipped recipe.",
            positional=True,
            metavar="RECIPE.toml",
            changes="result",
        ),
    ]
    dataset: Annotated[
        str, Option(help="Store that `dataset build` made.", metavar="STORE.zarr", changes="result")
    ]
    out: Annotated[str, Option(help="Folder of the new bundle.", metavar="BUNDLE", changes="run")]
    work: Annotated[
        str | None,
        Option(
            help="Folder of checkpoints, metrics and curves.",
            metavar="DIR",
            default="BUNDLE.training, beside it",
            changes="run",
        ),
    ] = None
    folds: Annotated[
        tuple[str, ...],
        Option(
            flag="--fold",
            help="Fold to train in this run; repeatable.",
            metavar="NAME",
            default="all",
            changes="run",
        ),
    ] = ()
    validation: Annotated[
        dict[str, str],
        Field(default_factory=dict),
        Option(
            help="The fold that tests on TEST selects on DOMAIN; repeatable.",
            metavar="TEST=DOMAIN",
            default="the next domain",
            changes="result",
        ),
    ]
    encoder_weights: Annotated[
        str | None,
        Option(
            help="Checkpoint, for a recipe that starts from one.",
            metavar="PATH",
            changes="result",
        ),
    ] = None
    name: Annotated[
        str | None, Option(help="Name of the bundle.", default="its folder's", changes="product")
    ] = None
    licence: Annotated[
        str | None,
        Option(help="Licence of the weights.", metavar="TEXT", default="the dataset's", changes="product"),
    ] = None
    placement: Annotated[
        PlacementOptions,
        Only(["workers", "gpus_per_worker", "cpus_per_worker", "address", "device"]),
    ] = PlacementOptions()
