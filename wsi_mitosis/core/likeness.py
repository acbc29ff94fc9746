"""Names that are nearly the same, and may be two names of one slide."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from typing import TYPE_CHECKING, TypeVar

from wsi_mitosis.core.qupath import SERIES_SEPARATOR

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

Key = TypeVar("Key")
Tokens = tuple[str, ...]

_TOKEN = re.compile(r"[^\W_]+")
_ENDING = re.compile(
    r"\.(svs|svslide|ndpis?|tiff?|ptiff?|btf|qptiff|ome|mrxs|scn|czi|bif|dcm|dicom|jp2|jpe?g|png|vms|vmu"
    rf"|isyntax|vsi|zarr|zip)({re.escape(SERIES_SEPARATOR)}.*)?$",
    re.DOTALL,
)
"""The ending of a slide's file name, and what QuPath appends to it."""
_MOST_TOKENS = 24
"""Tokens that are compared; the rest of a longer name is ignored."""
_IDENTIFYING_DIGITS = 4
"""A number with fewer digits does not identify a slide if there are others: `2-1` and `1` differ."""


def nearly_alike(slides: Mapping[Key, Sequence[str]], names: Iterable[str]) -> dict[Key, list[str]]:
    """Find names that are nearly a slide's.

    Names are nearly the same if they differ in their ending, separators, upper and lower case, zeros before
    a number, or words before or after the name at a separator: `a.svs`, `study_a.tiff`, `a_HE.tiff` and
    `a.tiff - Series 0` for `a.tiff`, but not `11.svs`, `S-11.svs` or `2-1.svs` for `1.svs`.

    Args:
        slides: The file names of each slide.
        names: Names or paths that do not belong to a slide.

    Returns:
        For each slide that has any, the names that are nearly its own, in the given order.
    """
    slides_of: dict[Tokens, list[Key]] = defaultdict(list)
    for key, forms in slides.items():
        for tokens in dict.fromkeys(map(_tokens, forms)):
            slides_of[tokens].append(key)
    longer: dict[Tokens, list[Tokens]] = defaultdict(list)
    for whole in slides_of:
        for part in _identifying_parts(whole):
            longer[part].append(whole)
    alike: dict[Key, dict[str, None]] = defaultdict(dict)
    for name in names if slides_of else ():
        tokens = _tokens(name)
        for found in (
            *longer.get(tokens, ()),
            *(part for part in _identifying_parts(tokens) if part in slides_of),
        ):
            for key in slides_of[found]:
                alike[key][name] = None
    return {key: list(alike[key]) for key in slides if key in alike}


def _tokens(name: str) -> Tokens:
    """Return the words and numbers of a file's name, without its ending."""
    text = unicodedata.normalize("NFKC", name.replace("\\", "/").rsplit("/", 1)[-1]).casefold()
    while (shorter := _ENDING.sub("", text)) not in {text, ""}:
        text = shorter
    return tuple(token.lstrip("0") or "0" for token in _TOKEN.findall(text)[:_MOST_TOKENS])


def _identifying_parts(tokens: Tokens) -> Iterator[Tokens]:
    """Yield every run of tokens that identifies a slide, once each, including the whole name."""
    count = len(tokens)
    runs = {(start, end) for start in range(count) for end in range(start + 1, count + 1)}
    parts = (tokens[a:b] for a, b in sorted(runs) if _identifies(tokens[a:b], tokens[:a] + tokens[b:]))
    yield from dict.fromkeys(parts)


def _identifies(part: Tokens, rest: Tokens) -> bool:
    """Return whether a part of a name identifies a slide: a short number beside another number does not."""
    digits = "".join(part)
    is_short_number = digits.isdigit() and len(digits) < _IDENTIFYING_DIGITS
    return not (is_short_number and any(token.isdigit() for token in rest))
