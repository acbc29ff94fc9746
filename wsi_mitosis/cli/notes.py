"""Notes that many slides share: the first few are printed, the others are counted."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from wsi_mitosis.errors import EXAMPLES

if TYPE_CHECKING:
    from collections.abc import Callable

VARYING = re.compile(r"'[^']*'|\d+(?:\.\d+)?")
"""What differs between two notes of one kind, apart from the slide's name: quoted names and numbers."""


class Notes:
    """Prints notes, but only the first `EXAMPLES` of one kind.

    Args:
        show: Prints one line.
        everything: Print all of them.
    """

    def __init__(self, show: Callable[[str], None], *, everything: bool = False) -> None:
        self._show, self._everything = show, everything
        self._counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def add(self, message: str) -> None:
        """Print a note, or count it where its kind is known by now."""
        kind = _kind(message)
        self._first.setdefault(kind, message)
        self._counts[kind] += 1
        if self._everything or self._counts[kind] <= EXAMPLES:
            self._show(message)

    def end(self, where: str) -> None:
        """Print how many notes were not printed.

        Args:
            where: The file that has all of them.
        """
        for kind, number in self._counts.items():
            more = number - EXAMPLES
            if not self._everything and more > 0:
                notes = "note" if more == 1 else "notes"
                self._show(f"{more} more {notes} like '{self._first[kind]}'. {where} lists all of them")
        self._counts.clear()


def _kind(message: str) -> str:
    """Return a note without the slide's name, which comes before the first colon, and without numbers."""
    _, colon, rest = message.partition(": ")
    return VARYING.sub("#", rest if colon else message)
