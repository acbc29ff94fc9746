"""What several of these tests need, made once for all of pytest's processes."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock

from tests.dataset_files import built
from wsi_mitosis.io.training.stores import Store, open_store


@pytest.fixture(scope="session")
def amibr(real_data: Path, tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Store:
    """All of AMi-Br, with masks. Nothing may be written into it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "amibr.zarr"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            images = real_data / "patches/AMi-Br"
            built("amibr", real_data / "labels/AMI-BR.csv", folder, images=images)
    return open_store(folder)
