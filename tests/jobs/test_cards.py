"""Model cards: what stands in them, and sections that are replaced."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tests.training_files import DOMAINS, tiny_recipe, tiny_store, trained, write_recipe
from wsi_mitosis.io.bundles import open_bundle
from wsi_mitosis.jobs.cards import with_section

TITLES = st.sampled_from(["Figures on a", "Figures on ab", "Folds", "What (it) is"])
TEXTS = st.text("ab #\n|", max_size=40).map(lambda text: text.replace("\n#", "\n-").strip("# \n"))


@given(first=TITLES, second=TITLES, text=TEXTS, other=TEXTS)
def test_a_section_is_put_in_and_replaced_in_its_place(
    first: str, second: str, text: str, other: str
) -> None:
    card = with_section(with_section("# name\n\nabout\n", first, "previous"), second, other)
    again = with_section(card, first, text)
    assert again.startswith("# name\n\nabout\n\n## ")
    assert again.count(f"## {first}\n") == 1
    assert f"## {first}\n\n{text.strip()}\n" in again
    assert again == with_section(again, first, text)
    if first != second:
        assert "previous" not in again
        assert f"## {second}\n\n{other.strip()}\n" in again
        assert again.index(f"## {first}\n") < again.index(f"## {second}\n")


def test_a_trained_bundles_card_tells_what_it_is_made_of(tmp_path: Path) -> None:
    store = tiny_store(tmp_path / "data")
    changes = {"optimiser": {"epochs": 1}, "selection": {"members": 2}}
    recipe = write_recipe(tmp_path / "tiny.toml", tiny_recipe(**changes))
    result, _ = trained(recipe, store, tmp_path / "bundle", licence="CC0 1.0")
    assert result.bundle is not None
    bundle = open_bundle(result.bundle.folder)  # the card is no part of the digest
    assert bundle.digest == result.bundle.digest
    card = bundle.read_card()
    told = ("Research use only", "must not be used for", "CC0 1.0", "Masks: haematoxylin")
    assert all(words in card for words in (*told, store.attributes.digest[:16]))
    assert card.count("not chosen") == 1
    for domain in DOMAINS:
        assert f"| {domain}" in card
    assert "## Figures on store" in card
    assert "Leave one domain out" in card
    assert "balanced accuracy" in card
    assert "[" in card.split("### Members")[1]  # intervals
