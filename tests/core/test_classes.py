"""What the name of a class means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_mitosis.core.classes import (
    are_unexplained,
    class_key,
    flagged,
    is_cut_out,
    is_look_alike,
    is_mitotic,
    is_of_figures,
    is_plainly_look_alike,
    label_of_class,
)

LOOK_ALIKES = [
    *("non-mitotic", "nonmitotic", "NonMitotic", "Non_Mitosis", "non–mitotic", "NON MITOTIC FIGURES"),
    *(
        "not mitotic figure",
        "Not a mitosis",
        "NotMitotic",
        "no mitosis",
        "nonMF",
        "keine Mitose",
        "non mitotique",
    ),
    *(
        "hard negative",
        "hard_negative",
        "HardNegative",
        "hard-negatives",
        "hard negative look-alike",
        "negative",
    ),
    *("imposter", "Impostor", "imposter cell", "mimic", "mitotic mimicker", "false positive"),
    *("look-alike", "Look Alike", "lookalikes", "mitotic figure look-alike", "Mitosis: look a like"),
    *("mitosis-like", "mitotic-like figure", "mitotic figure-like", "pseudo-mitosis", "Untrained: imposter"),
]
FIGURES = [
    *(
        "mitotic figure",
        "Mitosis",
        "MITOTIC_FIGURE",
        "Mitosis: Atypical",
        "normal mitosis",
        "abnormal mitosis",
    ),
    *("AMF", "NMF", "typical", "atypical", "Normal", "Untrained: Typical"),
    *(
        "canonical",
        "anomaly",
        "nodule",
        "Tumour",
        "Positive",
        "unknown",
        "None",
        "mitosis not otherwise specified",
    ),
]


LOOK_ALIKES += [
    *("not a true mitosis", "false mitosis", "Mitosis: Negative", "mitosis_false", "mitosislookalike"),
    *("geen mitose", "não mitose", "pas de mitose", "ikke mitose", "не митоз", "非有丝分裂", "假阳性"),
    *("Tumor: Negative", "easy negative", "FP", "MLF", "non-MFs", "MF-neg", "faux positif", "decoy"),
    "non-mitotic normal nucleus",
    *("apoptotic body", "pyknotic nucleus", "artefact", "background"),
]
FIGURES += [
    "not a typical mitosis",
    "Non-typical mitosis",
    "figura mitótica",
    "metaphase",
    "有丝分裂",
    "possible mitosis",
    "MF",
]


@pytest.mark.parametrize("name", LOOK_ALIKES)
def test_look_alikes_in_any_spelling(name: str) -> None:
    assert is_look_alike(name)
    assert is_look_alike(name.upper())
    assert not is_mitotic(name)


@pytest.mark.parametrize("name", FIGURES)
def test_names_that_are_of_no_look_alikes(name: str) -> None:
    assert not is_look_alike(name)


@given(
    st.sampled_from(["non mitotic figure", "hard negative", "mitotic figure look alike", "not mitotic"]),
    st.sampled_from([" ", "_", "-", " - ", ".", "/"]),
    st.sampled_from([str.lower, str.upper, str.title]),
)
def test_signs_and_case_between_the_words_do_not_matter(name: str, sign: str, case) -> None:
    assert is_look_alike(case(name.replace(" ", sign)))


@pytest.mark.parametrize(
    ("names", "unexplained"),
    [
        (["1", "2"], True),
        (["0", "1", "1.0"], True),
        (["yes", "No"], True),
        (["True", "false"], True),
        (["1", "1"], False),
        (["1", "mitosis"], False),
        (["mitosis"], False),
        ([], False),
    ],
)
def test_classes_that_do_not_say_which_is_mitotic(names: list[str], unexplained: bool) -> None:
    assert are_unexplained(names) is unexplained


@pytest.mark.parametrize(
    ("name", "values", "classes"),
    [
        ("is_mitosis", ["1", "0", None], [None, "not mitotic", None]),
        ("isMitotic", ["yes", "No"], [None, "not mitotic"]),
        ("mf", ["+", "-"], [None, "not mitotic"]),
        ("hardNegative", ["TRUE", "FALSE"], ["look-alike", None]),
        ("mitosis", ["0.3", "1"], None),
        ("mitosis", [None, None], None),
        ("selected", ["1", "0"], None),
    ],
)
def test_flags_by_the_name_of_their_column(name: str, values: list, classes: list | None) -> None:
    assert flagged(name, values) == classes


def test_texts_that_are_no_classes_are_heard_only_where_they_say_it_plainly() -> None:
    assert is_plainly_look_alike("I think that this is not a mitosis")
    assert is_plainly_look_alike("Imposter?")
    assert not any(map(is_plainly_look_alike, ["HER2 negative", "necrosis nearby", "no comment", "ki67 neg"]))


# Reviews and regions

CUT_OUT = [
    *("Ignore*", "Region*", "Tumor: Necrosis", "necrotic area", "Nekrose", "Artefacts", "ARTIFACT"),
    *("Background", "Excluded", "ignored", "exclusion zone"),
]
COUNTED = ["", "Tumor", "Stroma", "Region", "Invasive front", "Signor", "non-necrotic", "Without artefacts"]
OF_FIGURES = [
    *("Mitosis: Atypical", "Untrained: Typical", "Hotspot", "hotspot", "AMF", "atypical", "Mitosis"),
    *("Non-mitotic figure", "imposter", "MF"),
]


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("Mitosis: Atypical", "atypical"),
        ("Mitosis: Typical", "typical"),
        ("Untrained: Atypical", "atypical"),
        ("Untrained: Typical", "typical"),
        ("Atypical", "atypical"),
        ("atypical mitosis", "atypical"),
        ("Atypical_Mitotic-Figure", "atypical"),
        ("AMF", "atypical"),
        ("NMF", "typical"),
        ("normal", "typical"),
        ("Ignore*", "none"),
        ("Mitosis: Atypical*", "none"),
        ("Hotspot", "none"),
        ("Non-mitotic", "none"),
        ("Look-alike", "none"),
        ("Non-mitotic figure", "none"),
        ("Not a mitosis", "none"),
        ("imposter", "none"),
        ("Artefact", "none"),
        ("Mitosis: Negative", "none"),
        ("AtypicalMitosis", "atypical"),
        ("Mitotic figures: NMFs", "typical"),
        ("Non-typical mitosis", None),
        ("not atypical", None),
        ("Tumor", None),
        ("Mitosis", None),
        ("Tumor: Atypical", None),
        ("Mitosis: Atypical: sure", None),
    ],
)
def test_what_classes_mean(name: str, label: str | None) -> None:
    assert label_of_class(name, {}) == label


def test_a_given_meaning_wins() -> None:
    given_labels = {class_key("Tumor : Bizarre"): "atypical", class_key("normal"): "none"}
    assert label_of_class("tumor: bizarre", given_labels) == "atypical"
    assert label_of_class("Normal", given_labels) == "none"
    assert label_of_class("Typical", given_labels) == "typical"


def test_classes_of_signs_alone_are_different_classes() -> None:
    assert label_of_class("+", {class_key("+"): "atypical", class_key("-"): "none"}) == "atypical"


@pytest.mark.parametrize("name", CUT_OUT)
def test_areas_that_are_cut_out(name: str) -> None:
    assert is_cut_out(name)


@pytest.mark.parametrize("name", COUNTED)
def test_areas_that_count(name: str) -> None:
    assert not is_cut_out(name)
    assert not is_of_figures(name)


@pytest.mark.parametrize("name", OF_FIGURES)
def test_classes_that_are_never_of_regions(name: str) -> None:
    assert is_of_figures(name)


@pytest.mark.parametrize("name", ["Normal", "Negative", "Necrosis"])
def test_classes_of_tissue_that_look_like_classes_of_figures(name: str) -> None:
    assert not is_of_figures(name)
