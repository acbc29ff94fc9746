"""What the name of a class means: a mitotic figure, a look-alike of one, or nothing that can be known."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_CAMEL_CASE = re.compile(r"(?<=[a-z])(?=[A-Z])")
_NO_WORD = re.compile(r"[^a-z0-9]+")
_LOOK_ALIKE = re.compile(
    r"""
      \b(non|not|no|nicht|kein|keine)\ ?(an?\ |real\ |true\ )?(mito|mitot|figure|mf\b|divid)
    | ^(non|not)$ | ^neg(atives?)?$ | \bhard\ ?neg(ative)?s?\b
    | \blook\ ?(a\ ?)?likes?\b
    | impost | mimic
    | mitos[ei]s\ like | mitotic\ (figure\ |cell\ )?like | \bmf\ like
    | pseudo\ ?mito | \bfalse\ ?pos(itive)?s?\b
    """,
    re.VERBOSE,
)
"""Names of MIDOG's second category in its files and papers (`hard negative look-alike`, `not mitotic figure`,
`non-mitotic figure`, `imposter`), and of the same thing in other data sets and languages."""
_SAYS_NOTHING = re.compile(r"[+-]?\d+(\.0*)?|true|false|yes|no|y|n|t|f")


def words(name: str) -> str:
    """A name in lower case without accents, a blank between words: `NonMitotic` is `non mitotic`."""
    plain = unicodedata.normalize("NFKD", name)
    plain = "".join(char for char in plain if not unicodedata.combining(char))
    return _NO_WORD.sub(" ", _CAMEL_CASE.sub(" ", plain).casefold()).strip()


def is_look_alike(name: str) -> bool:
    """Whether a class is of objects that look like mitotic figures and are none."""
    return _LOOK_ALIKE.search(words(name)) is not None


def is_mitotic(name: str) -> bool:
    """Whether a class is of mitotic figures, whichever kind."""
    return "mito" in name.casefold() and not is_look_alike(name)


def are_unexplained(names: Iterable[str]) -> bool:
    """Whether several classes are only numbers, or yes and no: which of them is mitotic, they do not say."""
    distinct = {name.strip().casefold() for name in names}
    return len(distinct) > 1 and all(_SAYS_NOTHING.fullmatch(name) for name in distinct)
