"""What all tests share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.check_geojson import check

# A slow machine is no fault. The suite tries the same examples each time: a failure is due to a change.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))


def pytest_configure(config: pytest.Config) -> None:
    # TIAToolbox 2.1 leaves files open where it tries a format (`is_tiled_tiff`); they close when collected
    leaked = r"ignore:unclosed file .*\.(svs|scn|tiff?|dcm)'[ >]:ResourceWarning"
    config.addinivalue_line("filterwarnings", leaked)


LONGEST = (
    "workers/test_pool.py",
    "jobs/test_train.py",
    "test_docs.py",
    "nets/test_compiled.py",
    "nets/test_training.py",
    "workers/test_slides.py",
    "jobs/test_batch.py",
    "cli/test_commands.py",
)
"""Files whose tests take a minute or more, in the order of their time. A process that began one of them last
would let the other wait."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files; the order is otherwise as it was."""
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(scope="session", autouse=True)
def own_caches(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[None]:
    """What the program keeps in the user's cache, it keeps in a folder of the tests, which they share."""
    base = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str((base if worker_id == "master" else base.parent) / "caches"))
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real slides, patches and labels; none of it is part of the project."""
    folder = os.environ.get("WSI_MITOSIS_DATA")
    if not folder:
        pytest.skip("WSI_MITOSIS_DATA is not set")
    return Path(folder)


@pytest.fixture(scope="session")
def assert_geojson_ok() -> Callable[[Path], None]:
    """Asserts that QuPath 0.4 to 0.7 reads every object of a file and loses nothing."""

    def assert_ok(path: Path) -> None:
        assert check(path) == [], f"{path.name} breaks a rule of QuPath's importer"

    return assert_ok


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained bundle that is quick: 3 members of 32 px, no extra views."""
    from wsi_mitosis.jobs.bundles import write_untrained  # torch: only where a test asks for it

    folder = tmp_path_factory.mktemp("bundles") / "small"
    write_untrained(folder, name="small", patch_px=32, width=4, members=3, tta="none")
    return folder


@pytest.fixture
def gpu_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets `cuda` exist by its name only: its networks are computed on the CPU, so that any machine does."""
    from wsi_mitosis.nets import devices, ensembles

    build, resolve = ensembles.Ensemble.__init__, devices.resolve_device

    def build_on_cpu(self: ensembles.Ensemble, *arguments: Any, **more: Any) -> None:
        build(self, *arguments, **more | {"device": "cpu"})

    monkeypatch.setattr(devices, "resolve_device", lambda name: name if name == "cuda" else resolve(name))
    monkeypatch.setattr(ensembles.Ensemble, "__init__", build_on_cpu)


@pytest.fixture(autouse=True)
def every_geojson_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a run in this process writes for QuPath must pass; Ray's driver writes here too."""
    from wsi_mitosis.io.results import geojson as results

    write = results.write_geojson

    def write_and_check(*arguments: Any) -> Path:
        path = write(*arguments)
        assert check(path) == [], f"{path.name} breaks a rule of QuPath's importer"
        return path

    monkeypatch.setattr(results, "write_geojson", write_and_check)
