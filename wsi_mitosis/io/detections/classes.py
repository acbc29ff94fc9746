"""The classes of candidates, chosen among all places of a file that name classes."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from wsi_mitosis.core.classes import is_look_alike, is_plainly_look_alike

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

_LEAST_NUMBERED = 4
"""Least number of rows whose distinct whole numbers only number the rows, because classes would repeat."""
_SAMPLE_ROWS = 100
"""Rows that are examined first, in which classes repeat."""
_MOST_TEXTS = 20
"""Most distinct texts in those rows of a place that may mention look-alikes. More are names or prose."""

Place = TypeVar("Place", bound=Hashable)


def as_objects(texts: Sequence[str | None]) -> NDArray[np.object_]:
    """Return texts as an array of objects, (len(texts),), also if there are none."""
    return np.array([*texts, None], dtype=object)[:-1]


def chosen_classes(
    columns: Mapping[Place, Sequence[str | None] | NDArray[np.object_]],
) -> tuple[Place, NDArray[Any]] | tuple[None, None]:
    """Choose the classes of candidates among all the places of a file that name classes.

    Args:
        columns: (n,) texts or None, the best place first. A place whose texts only number the candidates is
            ignored.

    Returns:
        The chosen place and its classes, in which a look-alike that only another place names replaces the
        class; None and None if no place has classes.
    """
    texts = {place: as_objects(list(names)) for place, names in columns.items()}
    named = {place: names for place, names in texts.items() if not _only_number_rows(names)}
    place = next((place for place, names in named.items() if any(name is not None for name in names)), None)
    if place is None:
        return None, None
    classes = named.pop(place)
    for others in named.values():
        classes = _with_look_alikes(classes, others)
    return place, classes


def _only_number_rows(names: NDArray[np.object_]) -> bool:
    """Whether texts are distinct whole numbers, such as those of labelled objects in a mask."""
    if len(names) < _LEAST_NUMBERED or len(set(names[:_SAMPLE_ROWS])) < len(names[:_SAMPLE_ROWS]):
        return False
    distinct = set(names)
    return len(distinct) == len(names) and all(name is not None and name.isdecimal() for name in distinct)


def _with_look_alikes(classes: NDArray[Any], others: NDArray[Any]) -> NDArray[Any]:
    found = {name for name in set(others) if name is not None and is_look_alike(name)}
    if not found:
        return classes
    pairs = zip(classes, others, strict=True)
    return as_objects(
        [other if other in found and not is_look_alike(own or "") else own for own, other in pairs]
    )


def plain_look_alikes(texts: Sequence[str | None]) -> list[str | None]:
    """Return the texts that mention look-alikes, None for the others and in columns of many texts."""
    if len(set(texts[:_SAMPLE_ROWS])) > _MOST_TEXTS:
        return [None] * len(texts)
    found = {text for text in set(texts) if text and is_plainly_look_alike(text)}
    return [text if text in found else None for text in texts]
