"""How much of a report a slide may take."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wsi_mitosis.io.pages.limits import Limits


@given(st.integers(0, 200))
def test_the_pictures_of_all_slides_together_have_a_bound(slides: int) -> None:
    limits = Limits.shared(slides)
    assert slides * (limits.overview_chars + limits.crops_chars) <= 7_500_000
    assert 4 <= limits.crops <= 48
    assert slides * limits.maps_chars <= 1_000_000
    assert 1 <= limits.maps <= 10
    assert limits.marks >= 200
