"""Model cards, made from the data, the folds and the measured values of a bundle."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from wsi_mitosis.core.markdown import number, table
from wsi_mitosis.errors import several
from wsi_mitosis.io.bundles import write_card
from wsi_mitosis.io.training.evaluation import as_section
from wsi_mitosis.specs import InputSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from wsi_mitosis.core.scoring import EvaluationReport
    from wsi_mitosis.io.bundles import Bundle
    from wsi_mitosis.io.training.stores import Store
    from wsi_mitosis.recipes import FoldRecord, RecipeSpec
    from wsi_mitosis.specs import CalibrationSpec, EnsembleSpec

MINUTE = 60
LIMITS = """## What it must not be used for

- Diagnosis, prognosis or any decision about a patient. It is a research tool, and its counts want a
  pathologist's eye.
- Finding mitotic figures: it only distinguishes typical from atypical ones among candidates that are mitotic
  figures. A candidate that is none gets one of the two labels all the same.
- Stains other than haematoxylin and eosin, and pixel sizes outside the stated tolerance.
- Tumours, species and scanners beyond those below without a check on figures of one's own: what it makes of
  them is not known.
"""

OWN_SCORES = """## Evaluation

The scores and the calibrations of the bundles above do not hold for this ensemble. Its own follow below, if
any were measured.
"""


def training_card(
    fields: Mapping[str, Any],
    recipe: RecipeSpec,
    store: Store,
    records: Sequence[FoldRecord],
    chosen: Sequence[FoldRecord],
) -> str:
    """The card of a bundle that was just trained; `with_section` adds figures to it.

    Args:
        fields: The manifest's.
        recipe: What it was trained by.
        store: What it was trained on.
        records: Of all folds.
        chosen: Of those that became members, in their order.
    """
    return "\n".join([*_head(fields, recipe), LIMITS, *_data(store), *_folds(records, chosen)]) + "\n"


def combined_card(fields: Mapping[str, Any], taken: Sequence[tuple[Bundle, int]]) -> str:
    """The card of a bundle of members of other bundles.

    Args:
        fields: The manifest, as `io.bundles.write_bundle` takes it.
        taken: The bundle that each member was taken from, and the member's position there, from 0.
    """
    first = taken[0][0].manifest
    networks = Counter(bundle.manifest.network_of(bundle.manifest.member[index]) for bundle, index in taken)
    rows = {
        "input": _input(InputSpec.model_validate(fields["input"])),
        **_fields(fields),
        "networks": "; ".join(f"{several(n, 'member')} of {spec.text}" for spec, n in networks.items()),
        "vote": _vote(first.ensemble),
        **_sharpness(fields["sharpness"]),
        "weights": "the files of the bundles below, byte for byte; computed in float32",
        "licence": fields["licence"],
    }
    use = "Research use only." if first.trained else "Untrained: its labels mean nothing."
    head = [
        f"# {fields['name']}",
        "",
        f"**{use}** {fields['intended_use']}",
        "",
        *table(["", ""], rows.items()),
    ]
    return "\n".join([*head, LIMITS, *_parents(taken), *_taken(fields, taken), OWN_SCORES])


def _fields(fields: Mapping[str, Any]) -> dict[str, str]:
    """The row of the fields of members; empty if all have the bundle's."""
    sides = Counter(member["field_px"] for member in fields["member"])
    smaller = [f"{several(n, 'member')}: the central {side} px alone" for side, n in sides.items() if side]
    resampled = f"resampled to {fields['input']['patch_px']} px"
    return {"smaller fields": f"{'; '.join(smaller)}, {resampled}"} if smaller else {}


def _parents(taken: Sequence[tuple[Bundle, int]]) -> Iterator[str]:
    yield "## Bundles that the members come from"
    yield ""
    yield "Their cards describe their training data."
    yield ""
    positions: dict[str, list[str]] = {}
    for bundle, index in taken:
        positions.setdefault(bundle.digest, []).append(str(index))
    parents = {bundle.digest: bundle.manifest for bundle, _ in taken}
    rows = [
        [parent.name, parent.version, f"`{digest}`", ", ".join(positions[digest]), parent.licence]
        for digest, parent in parents.items()
    ]
    yield from table(["bundle", "version", "digest", "its members", "licence"], rows)


def _taken(fields: Mapping[str, Any], taken: Sequence[tuple[Bundle, int]]) -> Iterator[str]:
    yield "## Members"
    yield ""
    yield "Scores are those of the bundle that a member comes from, on the member's validation domain."
    yield ""
    rows = []
    for position, (member, (bundle, index)) in enumerate(zip(fields["member"], taken, strict=True)):
        origin = member["training"] or {}
        rows.append(
            [
                f"member-{position}",
                f"{bundle.manifest.name}:{index}",
                bundle.manifest.network_of(bundle.manifest.member[index]).text,
                origin.get("recipe", "none"),
                _start(origin),
                member["test_domain"] or "none",
                member["validation_domain"] or "none",
                _value(member["validation_loss"]),
                _value(member["validation_balanced_accuracy"]),
            ]
        )
    header = ["", "from", "network", "recipe", "start", "test", "validation", "loss", "balanced accuracy"]
    yield from table(header, rows)


def _value(value: float | None) -> str:
    return "" if value is None else number(value)


def _start(origin: Mapping[str, Any]) -> str:
    """What the encoder of a member started from, and what taught the member."""
    source, teacher = origin.get("encoder_source"), origin.get("teacher")
    start = f"{source} ({origin['encoder_licence']})" if source else "random weights"
    return f"{start}; taught by {teacher.split(' ')[0]}" if teacher else start


def with_section(card: str, title: str, text: str) -> str:
    """A card with a section: in the place of one of the same title, else at the end.

    Args:
        card: Markdown.
        title: Of the section, without `##`.
        text: Its content; headings in it of the third level or lower.
    """
    section = f"## {title}\n\n{text.strip()}\n"
    found = re.search(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", card, flags=re.MULTILINE | re.DOTALL)
    if found is None:
        return f"{card.rstrip()}\n\n{section}"
    after = card[found.end() :]
    return card[: found.start()] + section + (f"\n{after}" if after else "")


def calibration_text(calibration: CalibrationSpec) -> str:
    """Return what a card says of a calibration that was fitted to domains left out."""
    return (
        f"A member's P(atypical) p becomes sigmoid(logit(p) / {calibration.temperature:.3f}).\n"
        f"The temperature was fitted to {calibration.figures} figures, {calibration.atypical} of them\n"
        f"atypical (digests `{calibration.figures_sha256[:16]}`), by the members that were trained\n"
        "without their domains. It changes neither the order of figures nor the side of a half on which\n"
        "each of them is. Both classes weigh alike: P(atypical) is meant for figures of which half are\n"
        "atypical. docs/calibration.md says what follows for other figures."
    )


def derived_card(
    parent: Bundle, name: str, threshold: float, calibration: CalibrationSpec, gain: Sequence[str]
) -> str:
    """Return the card of a bundle that was calibrated on own figures, with the card of its parent below.

    Args:
        parent: The bundle that it was derived from.
        name: The new bundle's name.
        threshold: Its threshold.
        calibration: Its calibration.
        gain: Sentences about what is gained.
    """
    before = parent.manifest
    rows = [
        ["temperature", f"{before.temperature:.3f}", f"{calibration.temperature:.3f}"],
        ["threshold", f"{before.ensemble.threshold:.3f}", f"{threshold:.3f}"],
    ]
    lines = [
        f"# {name}",
        "",
        f"**Research use only.** {before.intended_use}",
        "",
        f"The members are those of {before.name} {before.version}, digest `{parent.digest[:16]}`.",
        f"Temperature and threshold were fitted to {calibration.figures} figures of a laboratory (digests:",
        f"dataset `{calibration.dataset_digest[:16]}`, figures `{calibration.figures_sha256[:16]}`).",
        "",
        *table(["", before.name, name], rows),
        *(f"- {sentence}" for sentence in gain),
        "",
        "What follows is the card of the bundle that it was derived from, with that bundle's figures.",
        "",
    ]
    return "\n".join(lines) + "\n" + re.sub(r"^(?=#{1,5} )", "#", parent.read_card(), flags=re.MULTILINE)


def further_card(
    parent: Bundle, bundle: Bundle, recipe: RecipeSpec, stores: Sequence[Store], gain: Sequence[str]
) -> str:
    """Return the card of a bundle whose members were trained further, with the card of its parent below.

    Args:
        parent: The bundle that its members started from.
        bundle: The new bundle.
        recipe: What its members were trained further by.
        stores: What they were trained further on: a laboratory's figures, then perhaps others.
        gain: Sentences about what is gained.
    """
    before, manifest, optimiser = parent.manifest, bundle.manifest, recipe.optimiser
    rows = {
        "started from": f"{before.name} {before.version}, digest `{parent.digest[:16]}`",
        "trained further on": "; ".join(map(_described, stores)),
        "recipe": f"{recipe.name} `{recipe.digest[:16]}`: {optimiser.name}, "
        f"rate {optimiser.learning_rate:g}, {optimiser.epochs} epochs, batches of {optimiser.batch}",
        "not trained": "decoders, which no bundle has; statistics of batch norm, which are the parent's",
        "vote": f"{_vote(manifest.ensemble)}, as before",
        "temperature": f"{manifest.temperature:.3f}, which was fitted to the parent's members",
        "licence": manifest.licence,
    }
    lines = [
        f"# {manifest.name}",
        "",
        f"**Research use only.** {manifest.intended_use}",
        "",
        *table(["", ""], rows.items()),
        "## Gain",
        "",
        *(f"- {sentence}" for sentence in gain),
        "",
        "No score of the whole ensemble on these figures can be given, because each of them was seen by some",
        "member. What follows is the card of the bundle that members started from, with its own scores.",
        "",
    ]
    return "\n".join(lines) + "\n" + re.sub(r"^(?=#{1,5} )", "#", parent.read_card(), flags=re.MULTILINE)


def _described(store: Store) -> str:
    """A store in a few words."""
    about, labels, slides = store.attributes, store.samples["label"], set(store.samples["slide"]) - {""}
    return (
        f"{about.name}: {several(len(labels), 'figure')}, {int((labels == 1).sum())} atypical, of "
        f"{several(len(slides), 'slide')}, digest `{about.digest[:16]}`"
    )


def add_to_card(bundle: Bundle, report: EvaluationReport) -> None:
    """Write the figures of an evaluation into the bundle's card.

    Args:
        bundle: What was evaluated.
        report: As `jobs.evaluate.evaluate` makes it.

    Raises:
        OutputError: if the card cannot be written.
    """
    write_card(bundle, with_section(bundle.read_card(), f"Figures on {report.dataset}", as_section(report)))


def _head(fields: Mapping[str, Any], recipe: RecipeSpec) -> Iterator[str]:
    spec = recipe.input
    yield f"# {fields['name']}"
    yield ""
    yield f"**Research use only.** {fields['intended_use']}"
    yield ""
    rows = {
        "input": _input(spec),
        "network": recipe.network.text,
        "trained for": _tasks(recipe),
        "vote": _vote(recipe.ensemble),
        **_sharpness(fields.get("sharpness")),
        "recipe": fields["training"]["recipe"],
        "start": f"{recipe.initial_weights} weights, seed {recipe.seed}",
        **_teacher(fields["training"]),
        "weights": "float16 on disk, computed in float32; every figure is of the stored weights",
        "licence": fields["licence"],
    }
    yield from table(["", ""], rows.items())


def _tasks(recipe: RecipeSpec) -> str:
    """What the network learnt, in words."""
    parts = ["classification"]
    if recipe.decoders:
        parts.append("mask and pixel classes")
    if recipe.loss.subtypes:
        parts.append("the subtypes that experts named")
    return f"{', '.join(parts)}; only the first is kept" if len(parts) > 1 else "classification alone"


def _teacher(origin: Mapping[str, Any]) -> dict[str, str]:
    """The row of the bundle that taught members; empty for none."""
    teacher = origin.get("teacher")
    return {"taught by": f"members of {teacher} that knew no figure of the test domain"} if teacher else {}


def _vote(spec: EnsembleSpec) -> str:
    """How members vote, in words."""
    zooms = ", ".join(f"{zoom:g}" for zoom in spec.zooms)
    return f"{spec.vote} at {spec.threshold:g}; views: {spec.tta}, zooms {zooms}"


def _sharpness(limit: Mapping[str, Any] | None) -> dict[str, str]:
    """The row on the sharpness of slides; none without a limit."""
    if limit is None:
        return {}
    basis = f"{limit['lowest']:.3f}, computed from {limit['slides']} slides"
    return {"sharpness": f"a run warns of slides whose figures have less than {basis}"}


def _input(spec: InputSpec) -> str:
    """The input of the network in words."""
    enlarged = f", resampled to {spec.patch_px} px" if spec.patch_px != spec.cut_px else ""
    scaled = f"RGB / {spec.scale:g}"
    if any(spec.mean) or set(spec.std) != {1.0}:
        mean, std = (" ".join(f"{value:.4g}" for value in values) for values in (spec.mean, spec.std))
        scaled += f", less {mean}, divided by {std}"
    return f"{spec.cut_px} x {spec.cut_px} px at {spec.mpp:g} um/px{enlarged}, {scaled}"


def _data(store: Store) -> Iterator[str]:
    about, samples = store.attributes, store.samples
    yield "## Training data"
    yield ""
    yield f"{about.name}: {len(samples)} figures (source `{about.source}`, digest `{about.digest[:16]}`)."
    yield f"Licence: {about.licence}. Masks: {about.mask_provider}."
    yield ""
    rows = [
        [
            str(domain),
            str(int((of["label"] == 1).sum())),
            str(int((of["label"] == 0).sum())),
            str(len(set(of["slide"]) - {""})),
            str(int((of["mask_flag"] != "ok").sum())),
        ]
        for domain, of in samples.groupby("domain", sort=True)
    ]
    yield from table(["domain", "atypical", "typical", "slides", "without a mask"], rows)


def _folds(records: Sequence[FoldRecord], chosen: Sequence[FoldRecord]) -> Iterator[str]:
    members = {record.fold: f"member-{index}" for index, record in enumerate(chosen)}
    yield "## Folds"
    yield ""
    yield "Each leaves one domain out for the test and selects on another. Scores are of the stored weights"
    yield "on the validation domain; the values on the test domains follow below."
    yield ""
    rows = [
        [
            members.get(record.fold, "not chosen"),
            record.test_domain,
            record.validation_domain,
            number(record.validation_loss),
            number(record.validation_balanced_accuracy),
            number(record.validation_auroc),
            f"{record.epoch} of {record.epochs}",
            f"{record.seconds / MINUTE:.0f} min, {record.device} x {record.threads}, {record.precision}",
        ]
        for record in records
    ]
    header = ["", "test", "validation", "loss", "balanced accuracy", "AUROC", "epoch", "trained in"]
    yield from table(header, rows)
