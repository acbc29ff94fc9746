"""Names that are nearly the same: perhaps one slide's under two names."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

Key = TypeVar("Key")
Tokens = tuple[str, ...]

_TOKEN = re.compile(r"[^\W_]+")
_ENDING = re.compile(
    r"\.(svs|svslide|ndpis?|tiff?|ptiff?|btf|qptiff|ome|mrxs|scn|czi|bif|dcm|dicom|jp2|jpe?g|png|vms|vmu"
    r"|isyntax|vsi|zarr|zip)( - .*)?$",
    re.DOTALL,
)
"""What a slide's file may be called at its end, and what QuPath puts after it."""
_MOST_TOKENS = 24
"""Of a longer name only the beginning is compared."""
_TELLING_DIGITS = 4
"""A number of fewer digits is another slide's in `2-1` and `1`."""


def nearly_alike(slides: Mapping[Key, Sequence[str]], names: Iterable[str]) -> dict[Key, list[str]]:
    """Find names that are nearly a slide's.

    Nearly the same are names with another ending, other separators or upper and lower case, zeros before a
    number, and words put before or after the name at a separator: `a.svs`, `study_a.tiff`, `a_HE.tiff` and
    `a.tiff - Series 0` for `a.tiff`. Not so `11.svs`, `S-11.svs` or `2-1.svs` for `1.svs`.

    Args:
        slides: The file names of each slide.
        names: Names that are no slide's, or paths.

    Returns:
        The names that are nearly those of each slide that has any, in the order given.
    """
    ours: dict[Tokens, list[Key]] = defaultdict(list)
    for key, forms in slides.items():
        for tokens in dict.fromkeys(map(_tokens, forms)):
            ours[tokens].append(key)
    longer: dict[Tokens, list[Tokens]] = defaultdict(list)
    for whole in ours:
        for part in _telling_parts(whole):
            longer[part].append(whole)
    alike: dict[Key, dict[str, None]] = defaultdict(dict)
    for name in names if ours else ():
        tokens = _tokens(name)
        for found in (*longer.get(tokens, ()), *(part for part in _telling_parts(tokens) if part in ours)):
            for key in ours[found]:
                alike[key][name] = None
    return {key: list(alike[key]) for key in slides if key in alike}


def _tokens(name: str) -> Tokens:
    """The words and numbers of a file's name, without its ending."""
    text = unicodedata.normalize("NFKC", name.replace("\\", "/").rsplit("/", 1)[-1]).casefold()
    while (shorter := _ENDING.sub("", text)) not in {text, ""}:
        text = shorter
    return tuple(token.lstrip("0") or "0" for token in _TOKEN.findall(text)[:_MOST_TOKENS])


def _telling_parts(tokens: Tokens) -> Iterator[Tokens]:
    """Every run of tokens that says which slide it is, the whole name included; each once."""
    count = len(tokens)
    runs = {(start, end) for start in range(count) for end in range(start + 1, count + 1)}
    told = (tokens[a:b] for a, b in sorted(runs) if _telling(tokens[a:b], tokens[:a] + tokens[b:]))
    yield from dict.fromkeys(told)


def _telling(part: Tokens, rest: Tokens) -> bool:
    """Whether a part of a name says which slide it is: a short number beside another number does not."""
    digits = "".join(part)
    is_short_number = digits.isdigit() and len(digits) < _TELLING_DIGITS
    return not (is_short_number and any(token.isdigit() for token in rest))
