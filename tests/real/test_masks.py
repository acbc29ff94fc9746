"""The mask without weights on real figures of all six scanners and centres of AMi-Br."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import distance_transform_edt

from wsi_mitosis.core.masks import FigureMask, Haematoxylin

PER_DOMAIN = 60
"""Figures looked at of each domain and class."""
NOBODY = np.empty((0, 2))


class Looked(NamedTuple):
    """Figures of AMi-Br with their masks, a row each."""

    table: pd.DataFrame  # domain, atypical
    crops: NDArray[np.uint8]
    masks: list[FigureMask]

    def good(self) -> list[int]:
        return [row for row, found in enumerate(self.masks) if found.flag == "ok"]


def domains(labels: pd.DataFrame) -> pd.Series:
    case = labels["slide"].str.extract(r"^(\d+)", expand=False).astype(int)
    midog = np.select([case <= 50, case <= 100], ["Hamamatsu XR", "Hamamatsu S360"], "Aperio CS2")
    tupac = np.select([case <= 23, case <= 48], ["01-23", "24-48"], "49-73")
    of_midog = labels["dataset"].eq("MIDOG21")
    return labels["dataset"] + " " + pd.Series(np.where(of_midog, midog, tupac), index=labels.index)


@pytest.fixture(scope="module")
def looked(real_data: Path) -> Looked:
    labels = pd.read_csv(real_data / "labels" / "AMI-BR.csv")
    labels = labels.assign(domain=domains(labels), atypical=labels["majority_atypical"])
    groups = labels.sort_values(["dataset", "uid"]).groupby(["domain", "atypical"])
    table = groups.sample(PER_DOMAIN, random_state=1)[["domain", "atypical", "dataset", "uid"]]
    folder = real_data / "patches" / "AMi-Br"
    crops = []
    for row in table.itertuples():
        file = folder / ("Atypical" if row.atypical else "Normal") / f"{row.dataset}_{row.uid}.png"
        with Image.open(file) as image:
            crops.append(np.asarray(image.convert("RGB")))
    stack = np.stack(crops)
    return Looked(table.reset_index(drop=True), stack, Haematoxylin().segment(stack, [NOBODY] * len(stack)))


def test_all_domains_are_looked_at(looked: Looked) -> None:
    assert looked.table["domain"].nunique() == 6
    assert len(looked.masks) == 6 * 2 * PER_DOMAIN


def test_nearly_all_figures_get_a_mask(looked: Looked) -> None:
    flags = Counter(found.flag for found in looked.masks)
    assert flags["ok"] >= 0.95 * len(looked.masks), flags


def test_a_mask_is_as_large_as_a_figures_chromatin(looked: Looked) -> None:
    """Masks that were compared with experts' have medians of 300 to 380 px, 19 to 24 um^2; blur adds."""
    rows = looked.good()
    areas = pd.Series([int(looked.masks[row].mask.sum()) for row in rows], index=rows)
    medians = areas.groupby(looked.table.loc[rows, "domain"]).median()
    assert len(medians) == 6
    assert medians.between(280, 550).all(), medians


def test_a_mask_lies_at_the_centre_or_about_it(looked: Looked) -> None:
    """The annotators' click is in it or near it, up to 3 um where it lies between two plates or in a ring."""
    distances, offsets = [], []
    for row in looked.good():
        mask = looked.masks[row].mask
        distances.append(float(distance_transform_edt(mask == 0)[64, 64]))
        offsets.append(float(np.hypot(*(np.argwhere(mask).mean(axis=0) - 63.5))))
    assert np.mean([distance <= 4 for distance in distances]) > 0.85
    assert np.mean([distance <= 12 for distance in distances]) > 0.97
    assert np.mean([offset <= 12 for offset in offsets]) > 0.97


def test_a_mask_is_the_darkest_thing_there(looked: Looked) -> None:
    darker = []
    for row in looked.good():
        mask, crop = looked.masks[row].mask.astype(bool), looked.crops[row]
        around = np.zeros_like(mask)
        around[32:96, 32:96] = True
        around &= ~mask & (crop.max(axis=2) > 0)  # black is beyond the slide
        darker.append(crop[mask].mean() < np.quantile(crop[around].mean(axis=1), 0.25))
    assert np.mean(darker) > 0.97


def test_masks_do_not_hang_on_the_rest_of_the_crop(looked: Looked) -> None:
    """Cut to the central 64 px, the window, a figure keeps its mask but for the smoothing at the cut."""
    few = looked.good()[::12]
    cut = Haematoxylin().segment(looked.crops[few][:, 32:96, 32:96], [NOBODY] * len(few))
    alike = [
        found.flag == "ok"
        and 2 * (found.mask & looked.masks[row].mask[32:96, 32:96]).sum()
        > 0.98 * (found.mask.sum() + looked.masks[row].mask.sum())
        for row, found in zip(few, cut, strict=True)
    ]
    assert np.mean(alike) > 0.95
