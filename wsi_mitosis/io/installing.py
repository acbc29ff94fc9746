"""Write how a missing or damaged package is installed, with and without a network.

A message cannot know where the program came from: an index, a clone, a wheel, or a folder of packages that
was carried to a machine without a network. `pip install 'wsi-mitosis[dicom]'` only works with the first.
Therefore a message names the missing packages themselves, with the versions that the metadata of the
installed program state (https://packaging.python.org/en/latest/specifications/core-metadata/).
"""

from __future__ import annotations

import re
from importlib import metadata

PROGRAM = "wsi-mitosis"
FOLDER = "--no-index --find-links FOLDER"
"""Options by which pip takes packages from a folder, and looks for no network (pip install --help)."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""Name at the beginning of a requirement, and of an extra. Source: packaging.python.org, "Names and
normalization"."""
EXTRA = re.compile(r"\bextra\b")
"""In the marker of a requirement that an extra has."""


def install(*packages: str) -> str:
    """Return how missing packages are installed.

    Args:
        packages: Names of distributions on the index, such as `highdicom`.
    """
    return _installing("it" if len(packages) == 1 else "them", " ".join(map(_argument, packages)))


def install_named(what: str) -> str:
    """Return how a package is installed whose name the program does not know."""
    return _installing(what, "NAME")


def install_again(package: str) -> str:
    """Return how a package is installed again of which files are missing or damaged."""
    return _installing("it again", f"--force-reinstall --no-deps {_argument(package)}")


def install_program_again() -> str:
    """Return how this program is installed again of which files are missing or damaged."""
    again = "pip install --force-reinstall --no-deps"
    return (
        f"Install {PROGRAM} again: in an intact clone by {again} ., or from a folder of packages by "
        f"{again} {FOLDER} {PROGRAM}"
    )


def upgrade_program() -> str:
    """Return how a newer version of this program is installed."""
    return (
        f"Install a newer {PROGRAM}: in a newer clone by pip install --upgrade ., or from a folder of "
        f"packages by pip install --upgrade {FOLDER} {PROGRAM}"
    )


def requirement(package: str) -> str:
    """Return a package with the versions that this program needs, such as `highdicom>=0.28.2`.

    It is the package's name alone if the program does not require it, or if it is not installed itself, as
    when it runs from a folder of sources.
    """
    return next((found for found in _requirements() if _same(_name(found), package)), package)


def required_packages() -> tuple[str, ...]:
    """Return the names of the packages that the program needs for whatever it does."""
    return tuple(_name(line) for line in _stated() if not EXTRA.search(line))


def _installing(what: str, arguments: str) -> str:
    return (
        f"Install {what}: pip install {arguments}, or without a network from a folder of packages: "
        f"pip install {FOLDER} {arguments}"
    )


def _requirements() -> list[str]:
    return [line.partition(";")[0].strip() for line in _stated()]


def _stated() -> list[str]:
    """Return the requirements of the installed program, with their markers."""
    try:
        return metadata.requires(PROGRAM) or []
    except metadata.PackageNotFoundError:
        return []


def _name(requirement: str) -> str:
    found = NAME.match(requirement)
    return found[0] if found else requirement


def _same(one: str, other: str) -> bool:
    """Return whether two names are of one package (the same specification)."""
    return re.sub(r"[-_.]+", "-", one).lower() == re.sub(r"[-_.]+", "-", other).lower()


def _argument(package: str) -> str:
    """Return a requirement as an argument: a shell takes `>` for a redirection."""
    wanted = requirement(package)
    return wanted if wanted == package else f"'{wanted}'"
