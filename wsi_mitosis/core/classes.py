"""The meaning of a class's name: a mitotic figure, a look-alike of one, or unknown."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

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
    text = words(name)
    return _PLAINLY.search(text) is not None or _AS_A_CLASS.search(text) is not None


def is_plainly_look_alike(text: str) -> bool:
    """Return whether any text, such as a comment, states that an object is not a mitotic figure."""
    return _PLAINLY.search(words(text)) is not None


def is_mitotic(name: str) -> bool:
    """Return whether a class is of mitotic figures of any kind."""
    return _MITOTIC.search(words(name)) is not None and not is_look_alike(name)


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
