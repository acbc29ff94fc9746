"""Frozen specifications: closed schemas in which an unknown key is an error, never a shrug."""

from __future__ import annotations

import re
import tomllib
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from wsi_mitosis.errors import BundleError, DatasetError, InputError, SpecError
from wsi_mitosis.tables import DecimalSign, DetectionFormat, LabelSource, MaskProviderName, Tta, Vote
from wsi_mitosis.units import Frame, LengthUnit


class Spec(BaseModel):
    """A frozen record with a closed schema."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
    error: ClassVar[type[InputError]] = SpecError

    @classmethod
    def parse(cls, data: dict[str, Any], subject: object) -> Self:
        """Check `data` against the schema.

        Args:
            data: Plain data, such as a parsed TOML file.
            subject: What the data are, for messages.

        Raises:
            InputError: of the class's own kind, naming every key that is unknown, missing or impossible.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            faults = "; ".join(_fault(e["loc"], e["type"], e["msg"]) for e in error.errors())
            remedy = "Mend these keys; the README lists the known ones"
            raise cls.error(faults, subject=subject, stage="checking keys", remedy=remedy) from error

    @classmethod
    def parse_toml(cls, text: str, subject: object) -> Self:
        """Parse and check a TOML document.

        Raises:
            InputError: of the class's own kind, where the text is no TOML or does not fit the schema.
        """
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise cls.error(f"not valid TOML: {error}", subject=subject, stage="reading") from error
        return cls.parse(data, subject)


def _fault(location: tuple[int | str, ...], kind: str, message: str) -> str:
    key = ".".join(map(str, location)) or "file"
    return f"unknown key '{key}'" if kind == "extra_forbidden" else f"'{key}': {message}"


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
            raise ValueError("wants distinct zooms between 0.25 and 4")
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
            raise ValueError("wants the name of a .safetensors file beside the manifest")
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
            raise ValueError("wants the name of a file beside the manifest")
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
            raise ValueError("a trained bundle states its [training]")
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


class ResultOptions(Spec):
    """What changes a slide's result, beside the slide, its candidates and the bundle.

    Attributes:
        mpp: um/px for slides that state none or an absurd one.
        classes: Which of a file's classes are candidates; the format's default where empty.
        min_score: Candidates below are excluded.
        merge_um: Candidates nearer than this are one.
        tta: Views of a patch; the bundle's where None.
    """

    mpp: float | None = Field(default=None, ge=0.05, le=20)
    classes: tuple[str, ...] = ()
    min_score: float | None = None
    merge_um: float | None = Field(default=None, gt=0)
    vote: Vote = "all"
    tta: Tta | None = None


class InputOptions(Spec):
    """Which slides, and their candidates.

    Attributes:
        slides: Files, folders, globs or lists.
        columns: Names of a table's columns: ours to theirs.
        decimal: The decimal sign of a table's numbers; None to decide it from them.
    """

    slides: tuple[str, ...] = Field(min_length=1)
    detections: str
    recursive: bool = False
    format: DetectionFormat = "auto"
    columns: dict[str, str] = {}
    units: LengthUnit | None = None
    frame: Frame | None = None
    decimal: DecimalSign | None = None


class OutputOptions(Spec):
    """Where results go and how they are shown; nothing here changes one.

    Attributes:
        geojson_frame: Of what is written for QuPath, and of regions that were drawn there.
        hotspot_area: mm^2; 0 for no hotspots.
        hotspot_aspect: Width to height of a hotspot; the turned one is tried as well.
        hotspots: How many at most.
        regions: GeoJSON of the regions to count in: a file, or a folder with one per slide.
        dicom: Write DICOM annotations as well, for slides that are DICOM.
        report: Write `report.html`.
    """

    folder: str = "wsi-mitosis-results"
    objects: Literal["detections", "annotations"] = "detections"
    geojson_frame: Frame = "qupath"
    hotspot_area: float = Field(default=2.0, ge=0, le=1000)
    hotspot_aspect: str = "4:3"
    hotspots: int = Field(default=1, ge=1, le=100)
    regions: str | None = None
    dicom: bool = False
    report: bool = True
    qupath_project: bool = False
    overwrite: bool = False
    fail_fast: bool = False

    @field_validator("hotspot_aspect")
    @classmethod
    def _a_proportion(cls, aspect: str) -> str:
        numbers = re.fullmatch(r"(\d+(?:\.\d+)?):(\d+(?:\.\d+)?)", aspect)
        sides = [float(side) for side in numbers.groups()] if numbers else [0.0]
        if not min(sides) > 0 or max(sides) > 10 * min(sides):
            raise ValueError("wants W:H such as 4:3, no side longer than ten of the other")
        return aspect

    @property
    def hotspot_sides(self) -> tuple[float, float]:
        """`hotspot_aspect` as numbers."""
        across, down = self.hotspot_aspect.split(":")
        return float(across), float(down)


class PlacementOptions(Spec):
    """Where the work is done; None is decided from what is granted.

    Attributes:
        workers: Ray workers; 0 is this process.
    """

    workers: int | None = Field(default=None, ge=0)
    gpus_per_worker: float | None = Field(default=None, ge=0)
    cpus_per_worker: int | None = Field(default=None, ge=1)
    address: str | None = None
    device: str = "auto"
    batch_size: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> Self:
        if self.workers == 0 and (self.address is not None or self.gpus_per_worker is not None):
            raise ValueError("0 workers is this process, where an address or GPUs per worker mean nothing")
        return self


class ClassifySpec(Spec):
    """One `classify` run, whether its options came from a command line or a pipeline file.

    Attributes:
        model: A bundle's folder or the name of a shipped one; the shipped default where None.
    """

    input: InputOptions
    result: ResultOptions = ResultOptions()
    output: OutputOptions = OutputOptions()
    placement: PlacementOptions = PlacementOptions()
    model: str | None = None


class DetectSpec(Spec):
    """One `detect` run.

    Attributes:
        slides: Files, folders, globs or lists.
        out: The CSV.
        model: TIAToolbox's name of the detector.
        weights: A checkpoint, or `hub` to fetch it; what was fetched before where None.
        min_score: Probability above which a peak is a candidate; the detector's own where None.
        mpp: um/px for slides that state none or an absurd one.
    """

    slides: tuple[str, ...] = Field(min_length=1)
    out: str = "dets.csv"
    recursive: bool = False
    model: str = "KongNet_Det_MIDOG_1"
    weights: str | None = None
    min_score: float | None = Field(default=None, ge=0, lt=1)
    mpp: float | None = Field(default=None, ge=0.05, le=20)
    overwrite: bool = False
    fail_fast: bool = False
    placement: PlacementOptions = PlacementOptions()


class DatasetSpec(Spec):
    """One `dataset build`.

    Attributes:
        path: The table of labels, or the folder above the folders of crops.
        images: Folder of the crops or slides; that of the table where None.
        nuclick_weights: A file, or `hub` to fetch them.
        domain: The domain of all samples of a folder, and of a table without that column.
        patch_px: Side of what is cut from slides; crops must be at least of that size.
    """

    source: LabelSource
    path: str
    out: str
    images: str | None = None
    masks: MaskProviderName = "haematoxylin"
    nuclick_weights: str | None = None
    domain: str | None = Field(default=None, min_length=1)
    patch_px: int = Field(default=128, ge=8, multiple_of=2)
    licence: str = "not stated"
    overwrite: bool = False
    placement: PlacementOptions = PlacementOptions()

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
    """One `train`.

    Attributes:
        recipe: A TOML file or the name of a shipped one.
        dataset: A store's folder.
        out: The bundle's folder.
        work: Where folds, checkpoints and curves are kept; beside the bundle where None.
        folds: Which folds to train now, by name; all where empty.
        validation: Validation domain by test domain where it is not the next one.
        encoder_weights: Checkpoint to start from, for a recipe that wants one.
        name: Of the bundle; its folder's where None.
        licence: Of the weights; the dataset's where None.
    """

    recipe: str
    dataset: str
    out: str
    work: str | None = None
    folds: tuple[str, ...] = ()
    validation: dict[str, str] = {}
    encoder_weights: str | None = None
    name: str | None = None
    licence: str | None = None
    placement: PlacementOptions = PlacementOptions()
