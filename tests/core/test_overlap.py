from __future__ import annotations

import math
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_mitosis.core.folds import plan_folds
from wsi_mitosis.core.overlap import PLACE, find_overlap, identifiers
from wsi_mitosis.errors import SpecError


def table(rows: list[tuple[str, str]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["digest", "domain"]).assign(slide="", x_px0=np.nan, y_px0=np.nan)


def placed(*rows: tuple[str, str, str, float, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["digest", "domain", "slide", "x_px0", "y_px0"])


def recorded(**domains: str) -> dict[str, frozenset[str]]:
    return {digest: frozenset(filter(None, names.split("+"))) for digest, names in domains.items()}


def test_samples_that_nobody_recorded_are_unseen() -> None:
    found = find_overlap(table([("x", "a"), ("y", "b"), ("z", "c")]), recorded(w="a"), ["a", "b"])
    assert found.seen.tolist() == [False, False, False]
    assert found.own.tolist() == [[True, False], [False, True], [False, False]]


def test_a_recorded_sample_is_its_own_members_test() -> None:
    found = find_overlap(table([("x", "a"), ("y", "b")]), recorded(x="a", y="b"), ["a", "b"])
    assert found.seen.tolist() == [True, True]
    assert found.own.tolist() == [[True, False], [False, True]]


def test_the_recorded_domain_counts_and_not_the_stores() -> None:
    found = find_overlap(table([("x", "b"), ("y", "another name")]), recorded(x="a", y="a"), ["a", "b"])
    assert found.own.tolist() == [[True, False], [True, False]]


def test_a_figure_recorded_in_two_domains_is_nobodys_test() -> None:
    found = find_overlap(table([("x", "a")]), recorded(x="a+b"), ["a", "b"])
    assert (found.seen.tolist(), found.own.tolist()) == ([True], [[False, False]])


def test_a_figure_recorded_without_a_domain_is_nobodys_test() -> None:
    found = find_overlap(table([("x", "a")]), recorded(x=""), ["a", None])
    assert (found.seen.tolist(), found.own.tolist()) == ([True], [[False, False]])


def test_a_member_that_saw_every_domain_has_no_own() -> None:
    found = find_overlap(table([("x", "a"), ("y", "a")]), recorded(x="a"), [None])
    assert found.own.tolist() == [[False], [False]]


def test_members_of_one_test_domain_share_it() -> None:
    found = find_overlap(table([("x", "a"), ("y", "b")]), recorded(x="a", y="b"), ["a", "a", "b"])
    assert found.own.tolist() == [[True, True, False], [False, False, True]]
    assert found.seen.tolist() == [True, True]


def test_no_member_has_seen_a_domain_that_all_left_out() -> None:
    found = find_overlap(
        table([("x", "a"), ("y", "b"), ("z", "a")]), recorded(x="a", y="b", z="a+b"), ["a", "a"]
    )
    assert found.seen.tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("slide", "x", "y", "is_seen"),
    [
        ("s.svs", 100.2, 50.0, True),
        ("other/s.svs", 100.0, 50.0, True),
        ("s.svs", 104.0, 46.0, True),
        ("s.svs", 105.0, 50.0, False),
        ("t.svs", 100.0, 50.0, False),
        ("", 100.0, 50.0, False),
        ("s.svs", math.nan, 50.0, False),
    ],
)
def test_a_figure_is_known_by_its_place_whatever_its_crop(
    slide: str, x: float, y: float, is_seen: bool
) -> None:
    trained = placed(("pixels", "a", "data/s.svs", 100.0, 50.0), ("others", "b", "", math.nan, math.nan))
    known = {key: frozenset({domain}) for key, domain in identifiers(trained)}
    assert [key[0] == PLACE for key in known] == [False, True, False]
    found = find_overlap(placed(("other pixels", "elsewhere", slide, x, y)), known, ["a", "b"])
    assert found.seen.tolist() == [is_seen]
    assert found.own.tolist() == [[is_seen, False]]


def test_identifiers_do_not_tell_the_names_of_slides() -> None:
    (_, _), (place, domain) = identifiers(placed(("x", "a", "Mary Smith.svs", 1.0, 2.0)))
    assert domain == "a"
    assert re.fullmatch("@[0-9a-f]{32}", place)


def test_no_samples_and_no_members_have_their_shapes() -> None:
    found = find_overlap(table([]), {}, ["a", "b"])
    assert (found.seen.shape, found.own.shape) == ((0,), (0, 2))


@given(
    st.lists(
        st.tuples(st.integers(0, 25), st.sampled_from("abcd"), st.integers(0, 1)), min_size=4, max_size=60
    )
)
def test_no_member_is_scored_on_what_its_fold_was_trained_on(drawn: list[tuple[int, str, int]]) -> None:
    samples = pd.DataFrame(drawn, columns=["digest", "domain", "label"]).assign(
        slide="", x_px0=np.nan, y_px0=np.nan
    )
    samples["digest"] = samples["digest"].astype(str)
    try:
        folds = plan_folds(samples)
    except SpecError:
        return
    domains: dict[str, set[str]] = {}
    for digest, domain in samples[["digest", "domain"]].to_numpy():
        domains.setdefault(digest, set()).add(domain)
    frozen = {digest: frozenset(names) for digest, names in domains.items()}
    found = find_overlap(samples, frozen, [fold.test_domain for fold in folds])
    assert found.seen.all()
    digests = samples["digest"].to_numpy()
    for index, fold in enumerate(folds):
        shown = {*digests[fold.training_rows], *digests[fold.validation_rows]}
        assert not shown & set(digests[found.own[:, index]])
        alone = [row for row in fold.test_rows if len(domains[digests[row]]) == 1]
        assert np.flatnonzero(found.own[:, index]).tolist() == alone
