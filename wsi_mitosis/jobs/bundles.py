"""Make the bundle that runs without any training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsi_mitosis.io.bundles import Bundle, write_bundle

if TYPE_CHECKING:
    from pathlib import Path

    from wsi_mitosis.tables import Tta

UNTRAINED_WIDTH = 2
"""The narrowest width at which a CPU computes as fast as at 1."""
SCALE = 255.0
CARD = """# {name}

**Untrained: its labels mean nothing.** {members} members with seeded random numbers for weights (seeds 0
to {last}), trained on nothing. It lets everything around the network run and be tested where no weights
can be had: reading slides, voting, GeoJSON, reports. Never read a figure that it gives as a finding.

| | |
|---|---|
| input | {patch_px} x {patch_px} px at 0.25 um/px, RGB / 255 |
| network | HoVer-Net's pre-activated ResNet-50 at width {width}, three fully connected layers |
| vote | majority of {members} members, each the mean of its views (`{tta}`), at 0.5 |
| training data | none |
| licence | Apache-2.0 (random numbers, trained on nothing) |

Each member's last layer is centred on noise in the colours of H&E, so that both labels occur.
"""


def write_untrained(
    folder: Path,
    *,
    patch_px: int = 64,
    width: int = UNTRAINED_WIDTH,
    members: int = 5,
    tta: Tta = "flips",
    zooms: tuple[float, ...] = (1.0,),
    name: str = "untrained-tiny",
) -> Bundle:
    """Write a bundle of seeded random members; the same arguments give the same bytes.

    Args:
        folder: Where it goes; must not exist or be empty.
        patch_px: Side of the patch, px; even.
        width: Of the encoder.
        members: How many.
        tta: Views of a patch.
        zooms: Zooms of a patch.
        name: Of the bundle.

    Raises:
        OutputError: if the folder is in use or cannot be written.
        BundleError: if an argument does not fit the manifest's schema.
    """
    from wsi_mitosis.nets.untrained import untrained_states

    fields = {
        "name": name,
        "version": "1",
        "licence": "Apache-2.0 (random numbers, trained on nothing)",
        "intended_use": "Trying out and testing the program. Its labels mean nothing.",
        "trained": False,
        # Black outside the slide, as in the crops published for AMi-Br.
        "input": {"patch_px": patch_px, "mpp": 0.25, "mpp_tolerance": 0.1, "pad_value": 0, "scale": SCALE},
        "network": {"backbone": "preact-resnet50", "width": width, "head": "gap-fc3"},
        "ensemble": {"vote": "majority", "threshold": 0.5, "tta": tta, "zooms": list(zooms)},
    }
    states = untrained_states(members, width, patch_px, SCALE)
    card = CARD.format(name=name, members=members, last=members - 1, patch_px=patch_px, width=width, tta=tta)
    return write_bundle(folder, fields, states, card)
