"""The meaning of a class's name, one table for candidates, regions and reviews.

A class is of atypical or typical figures, of mitotic figures, of look-alikes, of areas that are cut out of
regions, or unknown. A look-alike is excluded as a candidate, and removes a figure in a review.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

from wsi_mitosis.core import qupath

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from wsi_mitosis.tables import ReviewLabel

_CAMEL_CASE = re.compile(r"(?<=[a-z])(?=[A-Z])")
_NO_WORD = re.compile(r"[\W_]+")
_NEGATIONS = (
    "not|non|no|without|unlikely|false|fake|nicht|kein|keine|falsche?|geen|nao|sem|sin|falso|pas|sans|faux|fausse"
    "|senza|nessuna|ikke|icke|ingen|ei|nie|не"
)
_FIGURE = r"mito|митоз|mfs?\b|figur|divid"
_PLAINLY = re.compile(
    rf"""
      \b({_NEGATIONS})\b(\ \w+){{0,2}}?\ ?({_FIGURE}) | \b(non|not|nicht|kein|no)({_FIGURE})
    | (mito\w*|\bmfs?)(\ figures?)?\ (neg\w*|false|no|0)$
    | look\w*\ ?(a\ ?)?like | hard\ ?neg | impost | \bmimic | \bdecoy | \bdistractor | \bconfounder
    | mitos[ei]s\ ?like | mitotic\ (figure\ |cell\ )?like | \bmf\ like | pseudo\ ?mito | \bamito
    | 非核分裂 | 非有丝分裂
    """,
    re.VERBOSE,
)
"""Names of MIDOG's second category in its files and papers (`hard negative look-alike`, `not mitotic figure`,
`non-mitotic figure`, `imposter`), and of the same thing in other data sets and languages."""
_AS_A_CLASS = re.compile(
    r"""
      ^(non|not|no)$ | \bneg$ | \bnegati[vf]\w*\b | ^(fp|tn|hn|mlf)s?$
    | \b(false|falsch|faux|falso)\ ?(pos\w*|detections?|alarms?)
    | \bapopto | \bpykno | \bnecro | \barti?efact | \bartifact | \bdebris | ^background$
    | 陰性 | 阴性 | 假阳性 | 偽陽性 | 위양성
    """,
    re.VERBOSE,
)
"""Names of classes that are not mitotic figures; in other texts the same words may mean something else."""
_NEGATED_KIND = re.compile(rf"\b({_NEGATIONS})\ (an?\ |the\ )?(a?typical|(ab)?normal)")
"""`not typical` may be an atypical figure or none at all."""
_CUT_OUT = re.compile(
    r"(?<!\bnon\ )(?<!\bno\ )(?<!\bnot\ )(?<!\bwithout\ )"
    r"\b(necro[st]|nekro|arti?e?fact|background\b|exclu[ds]|ignor)"
)
"""Areas that are cut out of regions: necrosis, artefacts, background, and what is excluded or ignored."""
_FIGURE_WORDS = ("", " mitosis", " mitoses", " mitotic figure", " mitotic figures", " mf", " mfs", " figure")
_FIGURE_LABELS: dict[str, ReviewLabel] = {
    **{f"atypical{figure}": "atypical" for figure in _FIGURE_WORDS},
    **{f"{word}{figure}": "typical" for word in ("typical", "normal") for figure in _FIGURE_WORDS},
    **dict.fromkeys(("amf", "amfs"), "atypical"),
    **dict.fromkeys(("nmf", "nmfs"), "typical"),  # MIDOG's and AMi-Br's "normal mitotic figure"
}
_MITOTIC = re.compile(r"mito|митоз|有丝分裂|核分裂|\b[an]?mfs?\b")
_KIND = re.compile(r"typical|normal|(pro|meta|ana|telo)phase|cytokinesis")
_YES = r"true|yes|y|t|ja|si|oui|x|\+|☑|✓|1(\.0*)?"
_NO = r"false|no|n|f|nein|non|-|☐|(0|-1)(\.0*)?"
_SAYS_NOTHING = re.compile(rf"[+-]?\d+(\.0*)?|{_YES}|{_NO}")


def words(name: str) -> str:
    """Return a name in lower case without accents, blanks between words: `NonMitotic` is `non mitotic`."""
    plain = unicodedata.normalize("NFKD", _CAMEL_CASE.sub(" ", name))
    plain = "".join(char for char in plain if not unicodedata.combining(char))
    return _NO_WORD.sub(" ", plain.casefold()).strip()


def is_look_alike(name: str) -> bool:
    """Return whether a class is of objects that only look like mitotic figures."""
    return is_plainly_look_alike(name) or _AS_A_CLASS.search(words(name)) is not None


def is_plainly_look_alike(text: str) -> bool:
    """Return whether any text, such as a comment, states that an object is not a mitotic figure."""
    plain = words(text)
    return _PLAINLY.search(plain) is not None and _NEGATED_KIND.search(plain) is None


def is_mitotic(name: str) -> bool:
    """Return whether a class is of mitotic figures of any kind."""
    return _MITOTIC.search(words(name)) is not None and not is_look_alike(name)


def figure_label(name: str) -> ReviewLabel | None:
    """Return the label of a class of figures, such as `Mitosis: Atypical` or `NMF`; None for others."""
    *families, own = name.split(":")
    if all(" ".join(words(family).split()) in qupath.FAMILY_SPELLINGS for family in families):
        return _FIGURE_LABELS.get(words(own))
    return None


def label_of_class(name: str, given: Mapping[str, ReviewLabel]) -> ReviewLabel | None:
    """Return what a class of QuPath says about an object of a figure's size.

    Args:
        name: Such as "Mitosis: Atypical", "Untrained: Typical", "AMF" or "Ignore*"; upper and lower case,
            blanks, `-` and `_` are alike.
        given: The user's own meanings, by `class_key`; they come first.

    Returns:
        The label; "none" for QuPath's ignored classes (ending in `*`), `Hotspot` and look-alikes; None for an
        unknown name.
    """
    if (own := given.get(class_key(name))) is not None:
        return own
    if qupath.is_ignored_class(name) or qupath.is_hotspot_class(qupath.base_class(name)):
        return "none"
    label = figure_label(name)
    return "none" if label is None and is_look_alike(name) else label


def class_key(name: str) -> str:
    """Return the name of a class in the form in which names are compared; signs alone stay as they are."""
    return ": ".join(words(part) or part.strip() for part in name.split(":"))


def is_cut_out(name: str) -> bool:
    """Return whether areas of a class are cut out of regions.

    They are if QuPath ignores the class, whose name then ends in `*`, and if a part of its name means
    necrosis, artefacts, background, or what is excluded or ignored: `Tumor: Necrosis`, `Artefacts`.
    """
    return qupath.is_ignored_class(name) or _CUT_OUT.search(words(name)) is not None


def is_of_figures(name: str) -> bool:
    """Return whether a class is of single figures, hotspots or look-alikes, and so never of a region.

    `Normal` alone is of tissue, and `Negative` may be.
    """
    if qupath.is_program_class(name) or is_plainly_look_alike(name):
        return True
    text = words(name)
    return text in {*qupath.FAMILY_SPELLINGS, "mf", "mfs"} or (
        figure_label(name) is not None and text != "normal"
    )


def is_kind(name: str) -> bool:
    """Return whether a class is a kind of mitotic figure: typical, atypical, or a phase."""
    return _KIND.search(words(name)) is not None


def are_unexplained(names: Iterable[str]) -> bool:
    """Return whether classes are only numbers, or yes and no, so that the mitotic one is unknown."""
    distinct = {name.strip().casefold() for name in names}
    return len(distinct) > 1 and all(_SAYS_NOTHING.fullmatch(name) for name in distinct)


def flagged(name: str, values: Iterable[str | None]) -> list[str | None] | None:
    """Return the classes that a column of yes and no names, such as `is_mitosis` or `hard_negative`.

    Returns:
        `not mitotic` or `look-alike` for the values that mean it, None for the others; None if the column is
        not such a flag.
    """
    mitotic, look_alike = is_mitotic(name), is_look_alike(name)
    texts = [None if value is None else value.strip().casefold() for value in values]
    distinct = {text for text in texts if text}
    if not (mitotic or look_alike) or not distinct or not all(_FLAG.fullmatch(text) for text in distinct):
        return None
    says = _FLAG_NO if mitotic else _FLAG_YES
    meant = "not mitotic" if mitotic else "look-alike"
    return [meant if text and says.fullmatch(text) else None for text in texts]


_FLAG_YES, _FLAG_NO, _FLAG = re.compile(_YES), re.compile(_NO), re.compile(f"{_YES}|{_NO}")
