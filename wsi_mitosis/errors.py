"""Every error that a user can meet, except bugs of this program.

::

    WsiMitosisError               a cause, and what to do about it
    ├── InputError                nothing was started (exit status 2)
    │   ├── DetectionsError       a detections file cannot be read, or fits no slide
    │   ├── BundleError           a bundle is missing, malformed or altered
    │   ├── DatasetError          labels, images or a store of samples that cannot be used
    │   ├── SpecError             a TOML file or an option that is not what it should be
    │   └── OutputError           the output folder cannot be used
    └── SlideError                one slide fails, the others go on (exit status 1)
        ├── UnreadableSlideError       no reader opens it, or its pixels cannot be decoded
        ├── MppError              no usable pixel size, or one too far from the bundle's
        └── StagingError          it cannot be copied to the local disk
            └── StorageError      at the moment: another attempt may succeed
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

UNWRITABLE = "Make room on the disk, permit writing there, or choose another folder"
"""What to do about a file or folder that cannot be written."""
EXAMPLES = 3
"""How many names of a long list a message gives."""


class WsiMitosisError(Exception):
    """An error, whose message is one line: subject, stage, cause, remedy.

    Args:
        cause: What is wrong, in one sentence without a full stop.
        subject: The file, slide or option concerned.
        stage: What was being done, such as "opening" or "reading patches".
        remedy: What the user can do, as a sentence without a full stop.
    """

    def __init__(
        self, cause: str, *, subject: object = None, stage: str | None = None, remedy: str | None = None
    ) -> None:
        self.cause, self.stage, self.remedy = cause, stage, remedy
        self.subject = None if subject is None else str(subject)
        super().__init__(str(self))

    def __str__(self) -> str:
        """Return the whole message on one line, with `printable` characters only."""
        head = ": ".join(part for part in (self.subject, self.stage, self.cause) if part)
        return printable(head if not self.remedy else f"{head.rstrip('.')}. {self.remedy}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle all attributes, because errors are sent between processes."""
        return _rebuild, (type(self), self.cause, self.subject, self.stage, self.remedy)


def _rebuild(
    kind: type[WsiMitosisError], cause: str, subject: str | None, stage: str | None, remedy: str | None
) -> WsiMitosisError:
    return kind(cause, subject=subject, stage=stage, remedy=remedy)


class InputError(WsiMitosisError):
    """The requested work cannot be started."""


class DetectionsError(InputError):
    """A detections file that cannot be read or that fits no slide."""


class BundleError(InputError):
    """A bundle that is missing, malformed, of a newer schema, or altered."""


class DatasetError(InputError):
    """Labels, their images, or a store of samples that are missing, malformed or altered."""


class SpecError(InputError):
    """A TOML file or option with an unknown, missing or impossible value."""


class OutputError(InputError):
    """An output folder that cannot be written or that another run holds."""


class SlideError(WsiMitosisError):
    """One slide fails; the others are not affected."""


class UnreadableSlideError(SlideError):
    """No reader opens the slide, or its pixels cannot be decoded."""


class MppError(SlideError):
    """The slide's pixel size is missing, absurd, or too far from the bundle's."""


class StagingError(SlideError):
    """The slide cannot be copied to the local disk."""


class StorageError(StagingError):
    """The store did not answer, the slide changed, or the disk was full: the next copy may succeed."""


def printable(text: str) -> str:
    """Return one line in which control characters and lone surrogates are escaped.

    A slide's name may contain any character except a slash and NUL. A terminal would execute an escape
    sequence, and a line feed would start a line that the program did not write.
    """
    return "".join(
        char if not unicodedata.category(char).startswith(("Cc", "Cf", "Cs", "Zl", "Zp")) else _escaped(char)
        for char in text
    )


def _escaped(char: str) -> str:
    return ascii(char)[1:-1]


def several(number: int, noun: str) -> str:
    """Return a number of things in words: `1 slide`, `2 slides`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listed(names: Iterable[object], most: int = EXAMPLES) -> str:
    """Return the first names in quotes, and the number of further ones: `'a', 'b', 'c' and 1197 more`."""
    texts = [f"'{name}'" for name in names]
    shown = ", ".join(texts[:most])
    return shown if len(texts) <= most else f"{shown} and {len(texts) - most} more"
