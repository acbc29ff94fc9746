"""How often the intervals of `core/estimation.py` contain the truth, and how wide they are, on real figures.

    python train/estimates.py AMI-BR.csv

prints the tables and writes them into docs/explanation/estimates.md.

The figures are those of AMi-Br with the votes of members that have not seen their domain
(`runs/amibr-lite2/unseen.csv`), and those of AtNorM-Br with the votes of all members, of which none has seen
any (`runs/amibr-lite2/outside.csv`). `AMI-BR.csv` is the published table of labels, which knows the slides.
Draws have the seeds 0 to 999. What is made worse on purpose has another seed.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from wsi_mitosis.core.estimation import METHODS, Sample, estimate_slides, estimates_of
from wsi_mitosis.core.markdown import table
from wsi_mitosis.core.sampling import allocate, choose, stratify
from wsi_mitosis.core.voting import tally
from wsi_mitosis.errors import DatasetError
from wsi_mitosis.io.training.labels.amibr import domain_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from wsi_mitosis.core.estimation import Estimate

UNSEEN = Path(__file__).parent / "runs" / "amibr-lite2" / "unseen.csv"
OUTSIDE = UNSEEN.with_name("outside.csv")
PAGE = Path(__file__).parents[1] / "docs" / "explanation" / "estimates.md"
END = "<!-- end -->"
"""The end of a block of the page that this script writes. A block begins with `begin` of its name."""
THRESHOLD = 0.44
"""The threshold of `amibr-lite2`."""
SIZES = (25, 50, 100, 200)
DRAWS = 1000
WORSE = 10**6
"""Seed of what is made worse: not one of the draws, whose samples would then depend on it."""
RANDOM = "labels alone"
"""A simple random sample of as many figures, without the machine."""
COLUMNS = (*METHODS, RANDOM)
LARGEST = 8
"""Slides of the batch for which slides are estimated."""


@dataclass(frozen=True)
class Population:
    """Figures with the machine's labels and the truth.

    Attributes:
        name: What it is.
        figures: `core.sampling.COLUMNS`, N rows.
        atypical: (N,) 0 or 1, the truth.
        mitosis: (N,) 0 or 1, the truth.
    """

    name: str
    figures: pd.DataFrame
    atypical: NDArray[np.float64]
    mitosis: NDArray[np.float64]

    @property
    def fraction(self) -> float:
        """The true atypical fraction."""
        return float(self.atypical.sum() / self.mitosis.sum())

    def where(self, chosen: NDArray[np.bool_], name: str) -> Population:
        """Return the figures for which `chosen`, shape (N,), is true."""
        figures = self.figures[chosen].reset_index(drop=True)
        return Population(name, figures, self.atypical[chosen], self.mitosis[chosen])

    def flipped(self, chosen: NDArray[np.bool_], name: str) -> Population:
        """Return it with the machine's answers inverted where `chosen`, shape (N,), is true."""
        figures = self.figures.copy()
        votes = figures["votes_cast"] - figures["votes_atypical"]
        other = figures["label"].map({"atypical": "typical", "typical": "atypical"})
        figures["votes_atypical"] = figures["votes_atypical"].where(~chosen, votes)
        figures["p_atypical"] = figures["p_atypical"].where(~chosen, 1 - figures["p_atypical"])
        figures["label"] = figures["label"].where(~chosen, other)
        return replace(self, name=name, figures=figures)


@dataclass(frozen=True)
class Outcome:
    """What many draws gave.

    Attributes:
        coverage: Share of the intervals that contain the truth.
        width: Their mean width.
    """

    coverage: float
    width: float


# Populations


def read_figures(labels: Path) -> pd.DataFrame:
    """Read AMi-Br's figures: `domain`, `slide`, `label` (the truth, 0 or 1) and the members' columns.

    Raises:
        DatasetError: if the table of labels is not the one that the members were scored on.
    """
    published, unseen = pd.read_csv(labels), pd.read_csv(UNSEEN)
    places = zip(published["dataset"], published["slide"], strict=True)
    published["domain"] = [domain_of(dataset, slide, str(labels)) for dataset, slide in places]
    published = published.sort_values(["domain", "dataset", "slide", "uid"], ignore_index=True)
    same = len(published) == len(unseen) and (published["domain"] == unseen["domain"]).all()
    if not same or (published["majority_atypical"].astype(int) != unseen["label"]).any():
        raise DatasetError(
            "its labels are not those of the figures that were scored",
            subject=labels,
            stage="reading labels",
            remedy="Use the published AMI-BR.csv",
        )
    return unseen.assign(slide=published["dataset"] + "/" + published["slide"])


def population(figures: pd.DataFrame, name: str, members: Sequence[str]) -> Population:
    """Let members vote on figures."""
    votes = tally(figures[list(members)].to_numpy(np.float64), THRESHOLD)
    answers = pd.DataFrame(
        {
            "slide": figures["slide"],
            "figure_id": [f"{row:05}" for row in range(len(figures))],
            "label": np.where(votes.is_atypical, "atypical", "typical"),
            "p_atypical": votes.p_atypical,
            "votes_atypical": votes.votes_atypical,
            "votes_cast": votes.votes_cast,
        }
    )
    truth = figures["label"].to_numpy(np.float64)
    return Population(name, answers.reset_index(drop=True), truth, np.ones(len(figures)))


def outside() -> Population:
    """Return the figures of AtNorM-Br, whose slides are not known."""
    figures = pd.read_csv(OUTSIDE).assign(slide="unknown")
    return population(
        figures, "AtNorM-Br", [name for name in map(str, figures.columns) if name.startswith("member")]
    )


def populations(figures: pd.DataFrame) -> Iterator[Population]:
    """Yield the populations of the table."""
    members = ["member", "pair_1", "pair_2", "pair_3"]
    whole = population(figures, "All domains", members)
    chance = np.random.default_rng(WORSE).random(len(figures))
    yield whole
    for domain in ("MIDOG21 Aperio CS2", "TUPAC16 24-48"):
        yield whole.where((figures["domain"] == domain).to_numpy(bool), domain)
    worst = figures[figures["domain"] == "TUPAC16 24-48"]
    yield population(worst, "TUPAC16 24-48, one member", ["member"])
    yield outside()
    yield whole.flipped(chance < 0.2, "All, a fifth of the machine's answers inverted")
    yield whole.flipped(chance < 0.5, "All, half of them inverted")
    yield whole.flipped(chance < 1, "All, all of them inverted")
    yield whole.where((whole.atypical == 0) | (chance < 0.15), "All, with a seventh of the atypical figures")
    kept = np.where(chance < 0.1, 0.0, 1.0)
    yield replace(
        whole, name="All, a tenth are no mitotic figures", atypical=whole.atypical * kept, mitosis=kept
    )


# Draws


def outcomes(of: Population, size: int, draws: int) -> dict[str, Outcome]:
    """Draw many samples, and return the outcome of each of COLUMNS."""
    strata, one = stratify(of.figures, size), np.zeros(len(of.figures), np.int64)
    found: dict[str, list[Estimate]] = {name: [] for name in COLUMNS}
    for seed in range(draws):
        for estimate in _fractions(of, strata, size, seed):
            found[estimate.method].append(estimate)
        found[RANDOM].append(_fractions(of, one, size, seed)[METHODS.index("stratified")])
    return {name: outcome_of(estimates, of.fraction) for name, estimates in found.items()}


def _fractions(of: Population, strata: NDArray[np.int64], size: int, seed: int) -> list[Estimate]:
    rows = np.flatnonzero(choose(strata, size, seed))
    p_atypical = of.figures["p_atypical"].to_numpy(np.float64)
    sample = Sample(strata, p_atypical, rows, np.ones(size), of.atypical[rows], of.mitosis[rows])
    return [one for one in estimates_of(sample) if one.quantity == "atypical_fraction"]


def outcome_of(estimates: Sequence[Estimate], truth: float) -> Outcome:
    """Return how many intervals contain the truth, and their mean width."""
    ends = np.array([(one.low, one.high) for one in estimates], np.float64)
    covered = (ends[:, 0] <= truth + 1e-9) & (truth - 1e-9 <= ends[:, 1])
    return Outcome(float(covered.mean()), float(np.diff(ends).mean()))


def outcomes_of_slides(of: Population, size: int, draws: int) -> tuple[int, dict[str, Outcome]]:
    """Draw many samples, and return the number of estimates of single slides and their outcome by method."""
    strata = stratify(of.figures, size)
    fractions = {
        slide: of.atypical[rows].sum() / of.mitosis[rows].sum()
        for slide, rows in of.figures.groupby("slide").indices.items()
    }
    names = list(zip(of.figures["slide"], of.figures["figure_id"], strict=True))
    verdicts = dict(zip(names, np.where(of.atypical == 1, "atypical", "typical").tolist(), strict=True))
    covered: dict[str, list[bool]] = {method: [] for method in METHODS}
    widths: dict[str, list[float]] = {method: [] for method in METHODS}
    for seed in range(draws):
        drawn = of.figures.assign(stratum=strata, drawn=choose(strata, size, seed))
        for slide, found in estimate_slides(drawn, verdicts).items():
            for one in found.each:
                if one.quantity == "atypical_fraction" and one.low is not None and one.high is not None:
                    covered[one.method].append(one.low - 1e-9 <= fractions[slide] <= one.high + 1e-9)
                    widths[one.method].append(one.high - one.low)
    outcome: dict[str, Outcome] = {
        m: Outcome(float(np.mean(covered[m])), float(np.mean(widths[m]))) for m in METHODS
    }
    return len(covered[METHODS[0]]), outcome


# Tables


def blocks(figures: pd.DataFrame, draws: int = DRAWS) -> dict[str, list[str]]:
    """Return the lines of each block of the page."""
    everything = list(populations(figures))
    found = {(of.name, size): outcomes(of, size, draws) for of in everything for size in SIZES}
    tables = [
        *_main_table(everything, found, draws),
        *_slide_table(everything[0], draws),
        *_allocation_table(everything),
    ]
    return {"widths": list(_width_table(everything, found)), "tables": tables}


def _width_table(
    everything: Sequence[Population], found: Mapping[tuple[str, int], Mapping[str, Outcome]]
) -> Iterator[str]:
    """Yield the lines of the short table of widths, for the populations with the machine as it is."""
    shown = everything[:3]
    rows = []
    for size in SIZES:
        widths = [found[of.name, size][METHODS[0]].width for of in shown]
        alone = found[shown[0].name, size][RANDOM].width
        rows.append([str(size), *(f"{width:.2f}" for width in (*widths, alone))])
    head = [f"{of.name} ({len(of.figures):,})" for of in shown]
    yield from table(["labels", *head, f"{shown[0].name}, {RANDOM}"], rows)


def _main_table(
    everything: Sequence[Population], found: Mapping[tuple[str, int], Mapping[str, Outcome]], draws: int
) -> Iterator[str]:
    yield f"Coverage of the 95 % interval of the atypical fraction, and its mean width: {draws} draws each."
    yield ""
    rows = []
    for of in everything:
        for size in SIZES:
            outcome = found[of.name, size]
            what = f"{of.name} ({len(of.figures):,} figures, {of.fraction:.0%} atypical)"
            coverage = [f"{100 * outcome[name].coverage:.1f} %" for name in COLUMNS]
            width = [f"{outcome[name].width:.3f}" for name in COLUMNS]
            ratio = f"{outcome[METHODS[0]].width / outcome[RANDOM].width:.2f}"
            rows.append([what if size == SIZES[0] else "", str(size), *coverage, *width, ratio])
    head = [f"{what}, {name}" for what in ("coverage", "width") for name in COLUMNS]
    yield from table(["figures", "labels", *head, f"width, {METHODS[0]} / {RANDOM}"], rows)


def _slide_table(whole: Population, draws: int) -> Iterator[str]:
    largest = whole.figures["slide"].value_counts().sort_index().nlargest(LARGEST).index
    of = whole.where(whole.figures["slide"].isin(largest).to_numpy(bool), "")
    figures = len(of.figures)
    yield f"Estimates of single slides; the batch is the {LARGEST} largest slides ({figures} figures)."
    yield ""
    rows = []
    for size in SIZES[2:]:
        number, found = outcomes_of_slides(of, size, draws)
        coverage = [f"{100 * found[method].coverage:.1f} %" for method in METHODS]
        width = [f"{found[method].width:.3f}" for method in METHODS]
        rows.append([str(size), f"{number / draws:.1f}", *coverage, *width])
    head = [f"{what}, {name}" for what in ("coverage", "width") for name in METHODS]
    yield from table(["labels", "slides with an estimate", *head], rows)


def _allocation_table(everything: Sequence[Population]) -> Iterator[str]:
    size = 100
    yield (
        f"Standard error of the stratified estimate with {size} labels, computed from the labels of all "
        "figures: proportional allocation, and one that draws more where votes are divided (as if the "
        "machine were wrong about a tenth of the unanimous votes and half of the divided ones)."
    )
    yield ""
    rows = []
    for of in everything:
        strata = stratify(of.figures, size)
        sizes = np.bincount(strata)
        divided = (of.figures["votes_atypical"] % of.figures["votes_cast"] > 0).to_numpy(np.float64)
        share = np.bincount(strata, divided) / sizes
        guess = np.sqrt(0.09 * (1 - share) + 0.25 * share)
        more = np.maximum(size * sizes * guess / (sizes * guess).sum(), 2)
        errors = (_error(of, strata, number) for number in (allocate(sizes, size), more))
        rows.append([of.name, *(f"{error:.4f}" for error in errors)])
    yield from table(["figures", "proportional", "more where votes are divided"], rows)


def _error(
    of: Population, strata: NDArray[np.int64], drawn: NDArray[np.float64] | NDArray[np.int64]
) -> float:
    """Return the standard error of the stratified estimate (Cochran, section 5.4 and 6.11)."""
    sizes = np.bincount(strata)
    linear = (of.atypical - of.fraction * of.mitosis) / of.mitosis.mean()
    means = np.bincount(strata, linear) / sizes
    variances = np.bincount(strata, (linear - means[strata]) ** 2) / (sizes - 1)
    return float(np.sqrt(((sizes / sizes.sum()) ** 2 * (1 - drawn / sizes) * variances / drawn).sum()))


def begin(name: str) -> str:
    """Return the line that begins a block of the page."""
    return f"<!-- {name}, written by train/estimates.py -->"


def with_block(page: str, name: str, lines: Sequence[str]) -> str:
    """Return a page with other lines in one of its blocks."""
    before, rest = page.split(begin(name))
    after = rest.split(END, 1)[1]
    text = "\n".join(lines).strip()
    return f"{before}{begin(name)}\n\n{text}\n\n{END}{after}"


def main() -> None:
    """Print the tables and write them into the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("labels", type=Path, help="the published AMI-BR.csv")
    found = blocks(read_figures(parser.parse_args().labels))
    page = PAGE.read_text(encoding="utf-8")
    for name, lines in found.items():
        print("\n".join(lines))
        page = with_block(page, name, lines)
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
