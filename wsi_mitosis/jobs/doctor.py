"""Is this machine ready? One finding per thing that a run needs."""

from __future__ import annotations

import ctypes
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

from wsi_mitosis.errors import WsiMitosisError
from wsi_mitosis.io.slides import SLIDE_ENDINGS
from wsi_mitosis.jobs.classify import checked_bundle
from wsi_mitosis.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LEAST_FREE_GB = 5.0
"""Below this a night's tables, Ray's spill and logs may not fit."""
NEEDED_LIBRARIES = {"libGL.so.1": "libgl1", "libglib-2.0.so.0": "libglib2.0-0"}
"""Shared libraries that TIAToolbox's OpenCV loads, and Debian's packages for them."""
REPORTED = (
    "openslide-python",
    "tiatoolbox",
    "torch",
    "ray",
    "zarr",
    "shapely",
    "geopandas",
    "numpy",
    "pandas",
)


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes:
        subject: What was looked at.
        ok: Whether a run can rely on it.
        told: What was found.
        remedy: What to do where it is not ok.
    """

    subject: str
    ok: bool
    told: str
    remedy: str = ""


def examine(folder: Path, model: str | None, start_ray: Callable[[], str]) -> Iterator[Finding]:
    """Look at everything, in the order in which a run needs it.

    Args:
        folder: Where results would go.
        model: The bundle to check; the shipped default where None.
        start_ray: Starts a Ray, runs something on it, and tells what it granted.
    """
    yield Finding("program", True, f"wsi-mitosis {__version__}, Python {platform.python_version()}")
    yield _python()
    yield from _versions()
    yield _openslide()
    yield from _shared_libraries()
    yield _gpu()
    yield _ray(start_ray)
    yield _bundle(model)
    yield _space(folder)
    yield Finding("slide formats", True, " ".join(SLIDE_ENDINGS))


def _python() -> Finding:
    ok = sys.version_info >= (3, 11)
    return Finding("python", ok, platform.python_version(), "Install Python 3.11 or newer")


def _versions() -> Iterator[Finding]:
    for name in REPORTED:
        try:
            yield Finding(name, True, metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Finding(name, False, "not installed", "pip install wsi-mitosis")


def _openslide() -> Finding:
    try:
        import openslide
    except (ImportError, OSError) as error:
        return Finding("OpenSlide library", False, str(error), "pip install openslide-bin")
    version = openslide.__library_version__
    new_enough = int(version.split(".")[0]) >= 4
    return Finding(
        "OpenSlide library", new_enough, version, "pip install --upgrade openslide-bin (4.0 or newer)"
    )


def _shared_libraries() -> Iterator[Finding]:
    if sys.platform != "linux":
        return
    for library, package in NEEDED_LIBRARIES.items():
        try:
            ctypes.CDLL(library)
        except OSError as error:
            remedy = f"apt-get install {package}; without it only slides that OpenSlide reads will open"
            yield Finding(library, False, str(error), remedy)
        else:
            yield Finding(library, True, "found (TIAToolbox's OpenCV needs it)")


def _gpu() -> Finding:
    from wsi_mitosis.nets.members import describe_devices

    return Finding("GPU", True, describe_devices())


def _ray(start_ray: Callable[[], str]) -> Finding:
    try:
        return Finding("Ray", True, start_ray())
    except Exception as error:  # noqa: BLE001 - Ray raises whatever its daemons die of, and this is the report of it
        told = f"does not start: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return Finding(
            "Ray", False, told, "Look into /tmp/ray/session_latest/logs; --workers 0 works without Ray"
        )


def _bundle(model: str | None) -> Finding:
    try:
        bundle = checked_bundle(model)
    except WsiMitosisError as error:
        return Finding(
            "bundle", False, str(error), "pip install --force-reinstall wsi-mitosis, or name another"
        )
    trained = "trained" if bundle.manifest.trained else "UNTRAINED: its labels mean nothing"
    return Finding("bundle", True, f"{bundle.manifest.name} {bundle.digest[:12]}, {trained}, files as listed")


def _space(folder: Path) -> Finding:
    place = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(place).free / 1e9
    return Finding(
        "free space", free >= LEAST_FREE_GB, f"{free:.1f} GB at {place}", "Make room, or choose another --out"
    )
