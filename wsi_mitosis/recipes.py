"""Training recipes: everything that a trained bundle depends on apart from its data."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from wsi_mitosis.errors import SpecError
from wsi_mitosis.schema import Spec
from wsi_mitosis.specs import EnsembleSpec, InputSpec, NetworkSpec

TrainingDomains = Literal["all but test and validation", "all but test"]


class DecoderSpec(Spec):
    """The auxiliary decoders.

    Attributes:
        channels: Channels that leave the three up-sampling blocks, the deepest first.
    """

    channels: tuple[int, int, int]


class LossSpec(Spec):
    """The loss that is minimised.

    Attributes:
        class_weights: `balanced`: inverse to class frequency in the fold's training domains.
        experts_share: Share of the experts' votes in the cross-entropy's target; the rest is their majority.
        teacher_share: Share of the teacher's P(atypical) in that target; the rest is as without a teacher. It
            needs no other weights: the teacher's probabilities are those of classes that weigh alike, too.
        dice: Kind of the decoders' Dice loss.
        classification: Weight of the cross-entropy.
        mask: Weight of the mask's Dice loss.
        pixels: Weight of the pixel classes' Dice loss.
        subtypes: Weight of the cross-entropy of the subtypes that experts named, such as metaphase; 0 trains
            no head for them. Bundles do not have that head.
    """

    class_weights: Literal["balanced"]
    experts_share: float = Field(ge=0, le=1)
    dice: Literal["generalised", "hover-net"]
    classification: float = Field(gt=0)
    mask: float = Field(ge=0)
    pixels: float = Field(ge=0)
    teacher_share: float = Field(default=0.0, ge=0, le=1)
    subtypes: float = Field(default=0.0, ge=0)


class OptimiserSpec(Spec):
    """How the loss is minimised.

    Attributes:
        name: `adam` (decay as an L2 term), `adamw` (decoupled), or `muon`: that for the hidden convolutions,
            `adamw` for the rest.
        learning_rate: Learning rate; the highest one if the schedule changes it.
        head_rate: Factor of the learning rate for the head and the decoders, if the encoder has been trained
            before; 1 for `muon`.
        schedule: `constant`, or `one-cycle`: up for the share `warm_up` of all steps, then down to nearly 0.
        batch: Samples per step; the last, smaller batch of an epoch is skipped.
    """

    name: Literal["adam", "adamw", "muon"]
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    schedule: Literal["constant", "one-cycle"]
    warm_up: float = Field(ge=0, lt=1)
    batch: int = Field(ge=2)
    epochs: int = Field(ge=1)
    head_rate: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _has_one_rate(self) -> Self:
        if self.name == "muon" and self.head_rate != 1:
            raise ValueError("'head_rate' should be 1 for muon, which has one learning rate")
        return self


class AugmentationSpec(Spec):
    """Online augmentation; see `nets.augment`. A change whose value is zero is not made.

    Attributes:
        rotation: By any angle, by right angles, or not.
        flips: Both mirror images.
        zoom: Most that a crop is enlarged or shrunk by, relative.
        stain_scale: Each stain's density times 1 +- this.
        stain_shift: Each stain's density plus +- this.
        gamma: Intensities to the power of e^+-this.
        contrast: Contrast times 1 +- this.
        saturation: Saturation times 1 +- this.
        channel_gain: Each of R, G, B times 1 +- this.
        sharpness: Most that a crop is blurred or sharpened by; 1 is a Gaussian of 1 px.
        noise: Standard deviation of Gaussian noise, up to this share of white.
        jpeg: Lowest and highest JPEG quality, for half of the crops; none where empty.
    """

    rotation: Literal["any", "right-angles", "none"]
    flips: bool
    zoom: float = Field(ge=0, lt=1)
    stain_scale: float = Field(ge=0, lt=1)
    stain_shift: float = Field(ge=0, lt=1)
    gamma: float = Field(ge=0, lt=2)
    contrast: float = Field(ge=0, lt=1)
    saturation: float = Field(ge=0, le=1)
    channel_gain: float = Field(ge=0, lt=1)
    sharpness: float = Field(ge=0, le=1)
    noise: float = Field(ge=0, lt=1)
    jpeg: tuple[int, int] | tuple[()]

    @model_validator(mode="after")
    def _qualities(self) -> Self:
        if self.jpeg and not 1 <= self.jpeg[0] <= self.jpeg[1] <= 100:
            raise ValueError("'jpeg' should be the lowest and the highest quality, 1 to 100")
        return self


class SelectionSpec(Spec):
    """The epoch whose weights are kept, and the folds that become members.

    Attributes:
        epoch: `best`: the one with the lowest total loss on the validation domain among those that were
            evaluated; `last`.
        every: Epochs from one evaluation on the validation domain to the next; the last epoch is always
            evaluated.
        members: Number of folds that become members, those of the lowest validation loss; all if there are
            fewer.
        training_domains: The domains that a fold learns from. With `all but test` the validation domain is
            one of them: its losses then only show that the training went well.
    """

    epoch: Literal["best", "last"]
    every: int = Field(ge=1)
    members: int = Field(ge=1)
    training_domains: TrainingDomains = "all but test and validation"

    @model_validator(mode="after")
    def _selects_on_unseen_figures(self) -> Self:
        if self.training_domains == "all but test" and self.epoch == "best":
            raise ValueError("'epoch' should be 'last' if the validation domain is trained on")
        return self


class FurtherSpec(Spec):
    """How the members of a bundle are trained further on a laboratory's figures, with `--from`.

    The defaults are ours and careful rather than tuned: weights should stay near those that were evaluated.
    There were no figures of a laboratory to tune them on.

    Attributes:
        rate: Factor of the optimiser's learning rate. A tenth: steps that are small beside those that made
            the weights.
        epochs: Epochs. Few, because some dozens of figures are learnt by heart in more.
        batch: Samples per step, of which the fewest figures that are accepted still fill two.
    """

    rate: float = Field(default=0.1, gt=0, le=1)
    epochs: int = Field(default=5, ge=1)
    batch: int = Field(default=16, ge=2)


class RecipeSpec(Spec):
    """A training recipe, `train/*.toml`.

    Attributes:
        initial_weights: `random`; `given`: training needs the checkpoint of an encoder; `package`: a package
            of the Python package index has it (`io.training.encoders.PACKAGES`); or `bundle`, which only
            `further_from` sets.
        decoders: None trains the classification alone.
        dropout: Dropout in the head's hidden layers.
        drop_path: Share of the samples for which a residual branch of timm's encoder is skipped, at the
            deepest one; shallower ones are skipped less often.
        precision: `auto`: bf16 on a GPU that has it, and on a CPU if it is faster in a measurement at the
            start; fp32 otherwise.
        further: How the members of a bundle of this recipe are trained further.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(ge=0)
    initial_weights: Literal["random", "given", "package", "bundle"]
    precision: Literal["auto", "fp32", "bf16"]
    dropout: float = Field(ge=0, lt=1)
    input: InputSpec
    network: NetworkSpec
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    decoders: DecoderSpec | None = None
    loss: LossSpec
    optimiser: OptimiserSpec
    augmentation: AugmentationSpec
    selection: SelectionSpec
    ensemble: EnsembleSpec
    further: FurtherSpec = FurtherSpec()

    @model_validator(mode="after")
    def _fits_the_encoder(self) -> Self:
        if self.network.timm_name is None and self.initial_weights == "package":
            raise ValueError(
                "'initial_weights' should be 'random' or 'given' for the backbone preact-resnet50"
            )
        if self.network.timm_name is None and self.drop_path:
            raise ValueError("'drop_path' should be 0 for the backbone preact-resnet50")
        if self.input.patch_px % 8:
            raise ValueError(
                "'patch_px' in [input] should be a multiple of 8, because the encoder halves it three times"
            )
        return self

    def further_from(self, ensemble: EnsembleSpec) -> RecipeSpec:
        """Return the recipe by which the members of a bundle are trained further.

        The decoders and the head for subtypes are left out: a bundle has none, and new ones would pull at the
        encoder while they learn.
        The last epoch is kept, because nothing may be selected on the slides that are left out for the test.

        Args:
            ensemble: How the bundle votes.
        """
        optimiser = {
            "learning_rate": self.optimiser.learning_rate * self.further.rate,
            "epochs": self.further.epochs,
            "batch": self.further.batch,
        }
        return self.model_copy(
            update={
                "initial_weights": "bundle",
                "decoders": None,
                "loss": self.loss.model_copy(update={"teacher_share": 0.0, "subtypes": 0.0}),
                "optimiser": self.optimiser.model_copy(update=optimiser),
                "selection": SelectionSpec(epoch="last", every=1, members=self.selection.members),
                "ensemble": ensemble,
            }
        )

    @property
    def digest(self) -> str:
        """SHA-256 of what the weights depend on: everything except how members are selected and vote."""
        left_out: Any = {"name": True, "selection": {"members"}, "ensemble": True, "further": True}
        # Without defaults: a key that a later version adds leaves the digests of older recipes as they are.
        content = self.model_dump(mode="json", exclude=left_out, exclude_defaults=True)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class FoldRecord(Spec):
    """`fold.json`: the record of a finished fold.

    Attributes:
        key: Digest of everything that its weights depend on.
        sha256: Digest of the member's file.
        epoch: Epoch of these weights.
        validation_loss: Total loss on the validation domain after that epoch, float32, one view.
        validation_balanced_accuracy: Balanced accuracy of the stored weights with the recipe's views; None if
            a class is absent.
        validation_auroc: Likewise.
        ensemble: The views and the threshold of these two scores; None if unknown.
        seconds: Time spent in epochs, over all runs.
    """

    fold: str
    key: str
    test_domain: str
    validation_domain: str
    training_domains: tuple[str, ...]
    recipe: str
    recipe_digest: str
    dataset_digest: str
    seed: int
    sha256: str
    epoch: int
    epochs: int
    validation_loss: float
    validation_balanced_accuracy: float | None
    validation_auroc: float | None
    ensemble: EnsembleSpec | None = None
    precision: str
    device: str
    threads: int
    seconds: float
    code_version: str

    @classmethod
    def parse_json(cls, text: str, subject: object) -> Self:
        """Parse and check a record.

        Raises:
            SpecError: if the text is not a record.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise SpecError(f"not valid JSON: {error}", subject=subject, stage="reading a fold") from error
        return cls.parse(data, subject)
