"""What looks like a mistake in labelled figures is said with its number, and by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.dataset_files import samples
from wsi_mitosis.core.doubts import doubts, same_slides


def table(number: int, **columns: Any) -> pd.DataFrame:
    given_columns = {"digest": [f"{i:064x}" for i in range(number)], **columns}
    return pd.DataFrame(samples(number, **given_columns))


def test_nothing_is_said_of_a_sound_table() -> None:
    assert list(doubts(table(4, domain=["lung", "lung", "skin A", "skin B"]))) == []
    assert list(doubts(table(4).drop(columns="digest"))) == []
    assert list(same_slides({Path("a.svs"): "1", Path("b.svs"): "2"})) == []


@pytest.mark.parametrize(
    "names", [("Lung", "lung"), ("lung ", "lung"), ("skin-A", "skin A"), ("TUPAC_16", "Tupac 16")]
)
def test_domains_in_two_spellings(names: tuple[str, str]) -> None:
    (told,) = doubts(table(3, domain=[*names, "other"]))
    listed = ", ".join(f"'{name}'" for name in sorted(names))
    assert told == f"2 domains that are spelt alike count as different ones: {listed}"


@pytest.mark.parametrize("name", ["NaN", "none", " ", "N/A"])
def test_a_domain_that_is_no_name(name: str) -> None:
    assert list(doubts(table(3, domain=["lung", name, name]))) == [
        f"domain '{name}', which is no name, of 2 samples"
    ]


def test_labels_against_their_experts() -> None:
    """Of five samples, the second and third are labelled against most of their experts."""
    votes = {"label": [1, 1, 0, 0, 1], "experts_atypical": [3, 0, 2, 0, 1], "experts_asked": [3, 3, 3, 0, 2]}
    assert list(doubts(table(5, **votes))) == [
        "1 sample labelled atypical, of which most experts say typical: 's1'",
        "1 sample labelled typical, of which most experts say atypical: 's2'",
    ]


def test_the_same_pixels_twice() -> None:
    digests = ["a", "a", "b", "b", "c"]
    assert list(doubts(table(5, digest=digests, label=[0, 1, 1, 1, 0]))) == [
        "1 figure is there with both labels, one of which is wrong: 's0 = s1'",
        "1 figure is there more than once: 's2 = s3'",
    ]


def test_a_slide_under_two_names() -> None:
    paths = {Path("b.svs"): "1", Path("x/a.svs"): "1", Path("y/a.svs"): "2", Path("c.svs"): "2"}
    assert list(same_slides(paths)) == [
        "2 slides have the same content: 'a.svs', 'b.svs'",
        "2 slides have the same content: 'a.svs', 'c.svs'",
    ]


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from([0, 1])), min_size=1, max_size=20
    )
)
def test_every_label_against_a_majority_is_counted_once(rows: list[tuple[int, int, int]]) -> None:
    rows = [(min(atypical, asked), asked, label) for atypical, asked, label in rows]
    against = sum(
        asked > 0 and (2 * atypical > asked, 2 * atypical < asked)[label] for atypical, asked, label in rows
    )
    columns = dict(zip(("experts_atypical", "experts_asked", "label"), zip(*rows, strict=True), strict=True))
    told = list(doubts(table(len(rows), **{name: list(values) for name, values in columns.items()})))
    assert sum(int(text.split()[0]) for text in told) == against
