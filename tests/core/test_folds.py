from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from wsi_mitosis.core.folds import Fold, plan_folds, plan_further, plan_table, plan_warnings
from wsi_mitosis.errors import SpecError

AMIBR = (
    "MIDOG21 Hamamatsu XR",
    "MIDOG21 Hamamatsu S360",
    "MIDOG21 Aperio CS2",
    "TUPAC16 01-23",
    "TUPAC16 24-48",
    "TUPAC16 49-73",
)


def table(rows: list[tuple[str, str, int, str]]) -> pd.DataFrame:
    """Samples of (slide, domain, label, digest)."""
    return pd.DataFrame(rows, columns=["slide", "domain", "label", "digest"])


def plain(domains: tuple[str, ...], per_class: int = 2) -> pd.DataFrame:
    """As many figures of either class in each domain, a slide each, all different."""
    return table(
        [
            (f"{domain}/{label}-{number}.tiff", domain, label, f"{domain} {label} {number}")
            for domain in domains
            for label in (0, 1)
            for number in range(per_class)
        ]
    )


def by_test(folds: tuple[Fold, ...]) -> dict[str, Fold]:
    return {fold.test_domain: fold for fold in folds}


def test_the_plan_of_amibr_by_hand() -> None:
    folds = plan_folds(plain(AMIBR))
    assert [(fold.name, fold.test_domain, fold.validation_domain) for fold in folds] == [
        ("midog21-aperio-cs2", "MIDOG21 Aperio CS2", "MIDOG21 Hamamatsu S360"),
        ("midog21-hamamatsu-s360", "MIDOG21 Hamamatsu S360", "MIDOG21 Hamamatsu XR"),
        ("midog21-hamamatsu-xr", "MIDOG21 Hamamatsu XR", "TUPAC16 01-23"),
        ("tupac16-01-23", "TUPAC16 01-23", "TUPAC16 24-48"),
        ("tupac16-24-48", "TUPAC16 24-48", "TUPAC16 49-73"),
        ("tupac16-49-73", "TUPAC16 49-73", "MIDOG21 Aperio CS2"),
    ]
    assert folds[0].training_domains == (
        "MIDOG21 Hamamatsu XR",
        "TUPAC16 01-23",
        "TUPAC16 24-48",
        "TUPAC16 49-73",
    )
    assert folds[0].test_rows.tolist() == [8, 9, 10, 11]
    assert folds[0].validation_rows.tolist() == [4, 5, 6, 7]
    assert folds[0].training_rows.tolist() == [0, 1, 2, 3, *range(12, 24)]
    assert {fold.test_rows.dtype for fold in folds} == {np.dtype(np.intp)}


def test_rows_are_positions_whatever_the_tables_index() -> None:
    samples = plain(("a", "b", "c"))
    shifted = samples.set_index(pd.Index(range(100, 100 + len(samples))))
    for fold, again in zip(plan_folds(samples), plan_folds(shifted), strict=True):
        assert fold.training_rows.tolist() == again.training_rows.tolist()
        assert fold.test_rows.tolist() == again.test_rows.tolist()


def test_a_validation_domain_can_be_chosen() -> None:
    folds = by_test(plan_folds(plain(("a", "b", "c", "d")), {"a": "d"}))
    assert (folds["a"].validation_domain, folds["a"].training_domains) == ("d", ("b", "c"))
    assert folds["b"].validation_domain == "c"


@pytest.mark.parametrize(
    ("validation", "told"),
    [
        ({"a": "x"}, "the dataset has no domain 'x'.*Choose one of: a, b, c"),
        ({"x": "a"}, "the dataset has no domain 'x'"),
        ({"b": "b"}, "'b' cannot both select the epoch and test it"),
    ],
)
def test_an_impossible_validation_domain_is_refused(validation: dict[str, str], told: str) -> None:
    with pytest.raises(SpecError, match=told):
        plan_folds(plain(("a", "b", "c")), validation)


@pytest.mark.parametrize("domains", [(), ("a",), ("a", "b")])
def test_fewer_than_three_domains_are_refused(domains: tuple[str, ...]) -> None:
    with pytest.raises(SpecError, match=f"{len(domains)} domains .*at least 3 domains"):
        plan_folds(plain(domains))


def test_a_slide_in_two_domains_is_refused_by_name() -> None:
    samples = plain(("a", "b", "c"))
    samples.loc[[0, 5], "slide"] = "both.tiff"
    with pytest.raises(SpecError, match=r"slide both\.tiff: planning folds: it is in 2 domains: a, b"):
        plan_folds(samples)


def test_unknown_slides_are_no_slide_that_is_shared() -> None:
    samples = plain(("a", "b", "c")).assign(slide="")
    folds = plan_folds(samples)
    assert sum(len(fold.test_rows) for fold in folds) == 12
    assert plan_table(folds, samples)["test_slides"].tolist() == [0, 0, 0]
    assert "the slide of 12 samples is unknown" in plan_warnings(folds, samples)[-1]


def test_a_figure_in_two_domains_stays_in_the_test_alone() -> None:
    samples = plain(("a", "b", "c", "d"))  # rows 0-3, 4-7, 8-11, 12-15
    samples.loc[[0, 4, 8], "digest"] = "same"
    folds = by_test(plan_folds(samples))
    tests_a, tests_d = folds["a"], folds["d"]  # validated on b, on a
    assert 0 in tests_a.test_rows
    assert 4 not in tests_a.validation_rows
    assert 8 not in tests_a.training_rows
    assert tests_a.dropped == 2
    assert 0 in tests_d.validation_rows
    assert not {4, 8} & set(tests_d.training_rows)
    assert tests_d.dropped == 2
    assert folds["c"].validation_domain == "d"
    assert not {0, 4} & set(folds["c"].training_rows)
    told = plan_warnings(plan_folds(samples), samples)
    assert any(line.startswith("fold a: 2 samples are left out") for line in told)


def test_a_figure_twice_in_one_domain_is_kept_twice() -> None:
    samples = plain(("a", "b", "c"))
    samples.loc[[0, 1], "digest"] = "same"
    folds = plan_folds(samples)
    assert [fold.dropped for fold in folds] == [0, 0, 0]
    assert folds[0].test_rows.tolist() == [0, 1, 2, 3]


def test_training_without_a_class_is_refused() -> None:
    samples = plain(("a", "b", "c"))
    samples.loc[samples["domain"] == "c", "label"] = 0
    with pytest.raises(SpecError, match="fold a: planning folds: no atypical figure remains for training"):
        plan_folds(samples)


def test_validation_without_a_sample_is_refused() -> None:
    samples = plain(("a", "b", "c", "d"))
    samples.loc[4:7, "digest"] = samples["digest"][:4].to_numpy()
    with pytest.raises(SpecError, match="no sample of 'b' remains for validation"):
        plan_folds(samples)


def test_a_domain_without_a_class_is_told() -> None:
    samples = plain(("a", "b", "c", "d"))
    assert plan_warnings(plan_folds(samples), samples) == ()
    samples.loc[samples["domain"] == "b", "label"] = 1
    samples.loc[samples["domain"] == "c", "label"] = 0
    told = plan_warnings(plan_folds(samples), samples)
    assert told == (
        "domain 'b' has no typical figure: its balanced accuracy is undefined",
        "domain 'c' has no atypical figure: its balanced accuracy is undefined",
    )


def test_the_table_counts_each_side() -> None:
    samples = plain(("a", "b", "c", "d"), per_class=3)
    samples.loc[0, "slide"] = samples.loc[1, "slide"]
    samples.loc[1, "label"] = 1
    plan = plan_table(plan_folds(samples), samples)
    assert plan["fold"].tolist() == ["a", "b", "c", "d"]
    first = plan.iloc[0]
    assert (first["test"], first["validation"], first["training"]) == ("a", "b", "c, d")
    assert (first["test_n"], first["test_atypical"], first["test_slides"]) == (6, 4, 5)
    assert (first["validation_n"], first["validation_atypical"], first["validation_slides"]) == (6, 3, 6)
    assert (first["training_n"], first["training_atypical"], first["training_slides"]) == (12, 6, 12)
    assert first["dropped"] == 0


@pytest.mark.parametrize(
    ("domains", "names"),
    [
        (("A b", "a-b", "a_B", "a b 2"), {"a-b", "a-b-2", "a-b-3", "a-b-4"}),
        (("Köln/1", "../etc", "組織"), {"koln-1", "etc", "domain"}),
        (("x" * 300 + "1", "x" * 300 + "2", "y"), {"x" * 60, "x" * 60 + "-2", "y"}),
    ],
)
def test_names_are_fit_for_files_and_told_apart(domains: tuple[str, ...], names: set[str]) -> None:
    folds = plan_folds(plain(domains))
    assert len({fold.name for fold in folds}) == len(domains)
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", fold.name) for fold in folds)
    assert {fold.name for fold in folds} == names


SAMPLE = st.tuples(
    st.integers(0, 4), st.integers(-1, 3), st.integers(0, 1), st.integers(0, 30)
)  # domain, slide within it (-1: unknown), label, digest


@given(st.lists(SAMPLE, min_size=6, max_size=60), st.randoms())
def test_nothing_stands_on_two_sides(drawn: list[tuple[int, int, int, int]], random: object) -> None:
    samples = table(
        [
            ("" if slide < 0 else f"{domain}/{slide}", f"domain {domain}", label, str(digest))
            for domain, slide, label, digest in drawn
        ]
    )
    domains = sorted(set(samples["domain"]))
    validation = {}
    for test in domains[::2]:
        validation[test] = random.choice([d for d in domains if d != test] or [test])  # type: ignore[attr-defined]
    try:
        folds = plan_folds(samples, validation)
    except SpecError:
        assume(False)
    tested = np.concatenate([fold.test_rows for fold in folds])
    assert sorted(tested) == list(range(len(samples))), "the test sets are a partition of the data"
    for fold in folds:
        sides = [fold.training_rows, fold.validation_rows, fold.test_rows]
        for column in ("digest", "slide", "domain"):
            values = [set(samples[column].to_numpy()[rows]) - {""} for rows in sides]
            assert max(Counter(value for side in values for value in side).values(), default=0) <= 1
        assert set(samples["domain"].to_numpy()[fold.training_rows]) <= set(fold.training_domains)
        assert sorted({fold.test_domain, fold.validation_domain, *fold.training_domains}) == domains
        assert sum(map(len, sides)) + fold.dropped == len(samples)
        assert set(samples["label"].to_numpy()[fold.training_rows]) == {0, 1}
        kept = set(np.concatenate(sides))
        for row in set(range(len(samples))) - kept:
            assert samples["domain"][row] != fold.test_domain
            elsewhere = samples["digest"].to_numpy()[np.concatenate([fold.test_rows, fold.validation_rows])]
            assert samples["digest"][row] in set(elsewhere), "nothing is dropped without need"


def test_the_validation_domain_can_join_the_training_domains() -> None:
    samples = plain(("a", "b", "c"))
    apart, joined = plan_folds(samples), plan_folds(samples, train_on_validation=True)
    for without, fold in zip(apart, joined, strict=True):
        assert (fold.test_domain, fold.validation_domain) == (without.test_domain, without.validation_domain)
        assert set(fold.training_domains) == {"a", "b", "c"} - {fold.test_domain}
        both = {*without.training_rows.tolist(), *without.validation_rows.tolist()}
        assert fold.training_rows.tolist() == sorted(both)
        assert fold.validation_rows.tolist() == without.validation_rows.tolist()
        assert not both & set(fold.test_rows.tolist())


# --- members that are trained further


def of_slides(*slides: tuple[int, int]) -> pd.DataFrame:
    """Slides of so many typical and atypical figures, all different."""
    return table(
        [
            (f"{number}.tiff", "lab", label, f"{number} {label} {index}")
            for number, counts in enumerate(slides)
            for label, count in enumerate(counts)
            for index in range(count)
        ]
    )


def test_the_plan_of_members_by_hand() -> None:
    """Slides with the most atypical figures first, each to the part that has the fewest."""
    samples = of_slides((1, 5), (2, 4), (1, 3), (2, 2), (3, 1), (1, 1))
    folds = plan_further(samples, 7, 5)
    assert [fold.name for fold in folds] == [f"member-{member}" for member in range(7)]
    tested = [sorted(set(samples["slide"].iloc[fold.test_rows])) for fold in folds]
    assert tested == [
        ["0.tiff"], ["1.tiff"], ["2.tiff"], ["3.tiff"], ["4.tiff", "5.tiff"], ["0.tiff"], ["1.tiff"],
    ]  # fmt: skip
    assert folds[0].test_domain == folds[0].validation_domain == "part 1 of 5"
    assert folds[0].training_rows.tolist() == list(range(6, 26))
    assert folds[0].validation_rows.tolist() == folds[0].test_rows.tolist() == list(range(6))


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=3, max_size=9),
    st.integers(1, 7),
    st.integers(0, 2**32 - 1),
)
def test_no_slide_and_no_figure_of_a_member_is_on_both_sides(
    slides: list[tuple[int, int]], members: int, seed: int
) -> None:
    samples = of_slides(*slides)
    generator = np.random.default_rng(seed)
    samples["digest"] = generator.integers(0, 2 * len(samples), len(samples)).astype(str)  # some are the same
    try:
        folds = plan_further(samples, members, 5)
    except SpecError:
        assume(False)
    for fold in folds:
        training, test = samples.iloc[fold.training_rows], samples.iloc[fold.test_rows]
        assert not set(training["slide"]) & set(test["slide"])
        assert not set(training["digest"]) & set(test["digest"])
        assert set(training["label"]) == {0, 1}
        assert len(test) > 0
        assert len(training) + len(test) + fold.dropped == len(samples)
    parts = min(5, len(slides))
    left_out = [row for fold in folds[:parts] for row in fold.test_rows.tolist()]
    assert len(left_out) == len(set(left_out))
    if members >= parts:
        assert sorted(left_out) == list(range(len(samples)))


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (of_slides((2, 2)), "it has a single slide"),
        (of_slides((2, 2), (2, 2)).replace("0.tiff", ""), "the slide of 4 figures is unknown"),
        (of_slides((2, 0), (0, 2)), "fold member-0: .* of one class only remain for training"),
    ],
)
def test_figures_that_cannot_be_left_out_are_refused(samples: pd.DataFrame, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        plan_further(samples, 2, 5)
