"""Which figures a gallery shows, and in which order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.report_files import random_figures, voted_figures
from wsi_mitosis.core.assessments import ReviewItem
from wsi_mitosis.core.gallery import gallery_figures


def item(figure_id: str, rank: int) -> ReviewItem:
    return ReviewItem(
        rank=rank,
        figure_id=figure_id,
        x_px0=0,
        y_px0=0,
        label="typical",
        p_atypical=0.5,
        votes_atypical=1,
        votes_cast=3,
        agreement=0.7,
        in_hotspot=False,
        expected_change=0.1,
    )


def test_the_gallery_has_atypical_figures_first_and_the_most_disputed_first() -> None:
    table = voted_figures((0, 5, 0.1), (5, 5, 0.9), (2, 5, 0.4), (3, 5, 0.6), (3, 5, 0.51), (4, 5, 0.7))
    shown = gallery_figures(table, most=10)
    assert list(shown["figure_id"]) == ["f4", "f3", "f5", "f1", "f2", "f0"]
    assert list(shown["agreement"]) == [0.6, 0.6, 0.8, 1.0, 0.6, 1.0]
    assert shown["rank"].isna().all()


def test_where_not_all_fit_the_review_list_takes_up_to_half_of_the_room() -> None:
    table = voted_figures(*[(5, 5, 0.9)] * 6, (1, 5, 0.3), (0, 5, 0.2), (0, 5, 0.1))
    review = [item(name, rank) for rank, name in enumerate(("f8", "f7", "f6", "f5"), start=1)]
    shown = gallery_figures(table, review, 5)
    assert list(shown["figure_id"]) == ["f0", "f1", "f2", "f7", "f8"]
    assert list(shown["rank"].fillna(0)) == [0, 0, 0, 2, 1]
    assert list(gallery_figures(table, review, 9)["rank"].dropna()) == [4, 3, 2, 1]


@given(st.integers(0, 60), st.integers(1, 70), st.integers(0, 20))
def test_the_gallery_shows_as_many_as_fit_and_each_once(total: int, most: int, listed: int) -> None:
    table = random_figures(total)
    review = [item(name, rank) for rank, name in enumerate(table["figure_id"][:listed], 1)]
    shown = gallery_figures(table, review, most)
    assert len(shown) == min(total, most)
    assert shown["figure_id"].is_unique
    assert set(table["figure_id"][: min(listed, most // 2)]) <= set(shown["figure_id"])
    assert list(shown["label"]) == sorted(shown["label"])


def test_without_a_limit_every_figure_is_shown() -> None:
    table = random_figures(30)
    assert set(gallery_figures(table)["figure_id"]) == set(table["figure_id"])
