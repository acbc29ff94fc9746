"""Check that a machine is ready: one finding per thing that a run needs."""

from __future__ import annotations

import ctypes
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

from wsi_mitosis.errors import InputError, WsiMitosisError
from wsi_mitosis.io.installing import install, install_program_again, required_packages
from wsi_mitosis.io.slides import SLIDE_ENDINGS
from wsi_mitosis.io.surroundings import (
    SHARED_MEMORY,
    free_bytes,
    object_store,
    session_folder,
    temporary_folders,
    writable_home,
)
from wsi_mitosis.jobs.classifier import checked_bundle
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
    "openvino",
    "ray",
    "zarr",
    "shapely",
    "geopandas",
    "numpy",
    "pandas",
)


@dataclass(frozen=True)
class Finding:
    """The finding on one thing that a run needs.

    Attributes:
        subject: What was examined.
        ok: Whether a run can rely on it.
        found: What was found.
        remedy: What to do if it is not ok.
    """

    subject: str
    ok: bool
    found: str
    remedy: str = ""


def examine(folder: Path, model: str | None, start_ray: Callable[[], str]) -> Iterator[Finding]:
    """Examine everything that a run needs, in the order in which it needs it.

    Args:
        folder: Where results would go.
        model: The bundle to check; the shipped default if None.
        start_ray: Starts a Ray, runs something on it, and returns what it granted.
    """
    yield Finding("program", True, f"wsi-mitosis {__version__}, Python {platform.python_version()}")
    yield _python()
    yield from _versions()
    yield _openslide()
    yield from _shared_libraries()
    yield _gpu()
    yield _cpu()
    yield _home()
    yield from _temporary_files()
    yield _ray(start_ray)
    yield _bundle(model)
    yield _space(folder)
    yield Finding("slide formats", True, " ".join(SLIDE_ENDINGS))


def _python() -> Finding:
    ok = sys.version_info >= (3, 11)
    return Finding("python", ok, platform.python_version(), "Install Python 3.11 or newer")


def _versions() -> Iterator[Finding]:
    others = [name for name in required_packages() if name not in REPORTED]
    for name in (*REPORTED, *others):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Finding(name, False, "not installed", install(name))
        else:
            if name in REPORTED:
                yield Finding(name, True, version)


def _openslide() -> Finding:
    try:
        import openslide
    except (ImportError, OSError) as error:
        return Finding("OpenSlide library", False, str(error), install("openslide-bin", "openslide-python"))
    version = openslide.__library_version__
    new_enough = int(version.split(".")[0]) >= 4
    return Finding("OpenSlide library", new_enough, version, install("openslide-bin"))


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
    from wsi_mitosis.nets.devices import describe_devices

    return Finding("GPU", True, describe_devices())


def _cpu() -> Finding:
    from wsi_mitosis.nets.compiled import resolve_backend, unusable

    cause = unusable()
    usual = resolve_backend("auto", "cpu")
    found = f"{usual} computes an ensemble" + (f"; OpenVINO: {cause}" if cause else "")
    return Finding("CPU", True, found)


def _home() -> Finding:
    home = writable_home()
    if home is not None:
        return Finding("home", True, str(home))
    found = "none that can be written (see HOME): caches last for one run, and --weights hub cannot fetch"
    return Finding("home", True, found)


def _temporary_files() -> Iterator[Finding]:
    """Where Ray keeps its sockets, its logs, and the results that are on their way."""
    try:
        with session_folder() as session:
            yield Finding("temporary folder", True, _chosen(session.parent))
            yield _shared_memory(session)
    except InputError as error:
        yield Finding("temporary folder", False, error.cause, error.remedy or "")


def _chosen(folder: Path) -> str:
    first = temporary_folders()[0]
    unsuitable = "" if folder == first else f" ({first} is not writable, is full, or has too long a path)"
    return f"{folder}, {free_bytes(folder) / 1e9:.1f} GB free{unsuitable}"


def _shared_memory(session: Path) -> Finding:
    found = f"{free_bytes(SHARED_MEMORY) / 2**20:.0f} MB free in {SHARED_MEMORY}"
    try:
        store = object_store(session)
    except InputError as error:
        return Finding("shared memory", False, f"{found}; {error.cause}", error.remedy or "")
    if store.folder == SHARED_MEMORY:
        return Finding("shared memory", True, found)
    found += ": too little, so Ray uses the temporary folder (docker run --shm-size=1g gives more)"
    return Finding("shared memory", True, found)


def _ray(start_ray: Callable[[], str]) -> Finding:
    remedy = "See the lines above; --workers 0 works without Ray"
    try:
        return Finding("Ray", True, start_ray())
    except InputError as error:
        return Finding("Ray", False, error.cause, remedy)
    except Exception as error:  # noqa: BLE001 - Ray raises many kinds, and this reports them
        found = f"does not work: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return Finding("Ray", False, found, remedy)


def _bundle(model: str | None) -> Finding:
    try:
        bundle = checked_bundle(model)
    except WsiMitosisError as error:
        remedy = f"{install_program_again()}; or name another bundle by --model"
        return Finding("bundle", False, str(error), remedy)
    trained = "trained" if bundle.manifest.trained else "UNTRAINED: its labels mean nothing"
    return Finding("bundle", True, f"{bundle.manifest.name} {bundle.digest[:12]}, {trained}, files as listed")


def _space(folder: Path) -> Finding:
    place = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(place).free / 1e9
    return Finding(
        "free space", free >= LEAST_FREE_GB, f"{free:.1f} GB at {place}", "Make room, or choose another --out"
    )
