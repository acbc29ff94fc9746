"""What `import wsi_mitosis` gives, and what it leaves alone."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import wsi_mitosis
from wsi_mitosis import errors


def test_every_public_name_is_there() -> None:
    for name in wsi_mitosis.__all__:
        assert getattr(wsi_mitosis, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'clasify_slide'"):
        wsi_mitosis.clasify_slide  # noqa: B018


def test_a_notebook_completes_what_is_not_loaded_yet() -> None:
    assert set(wsi_mitosis.__all__) <= set(dir(wsi_mitosis))


def test_every_error_is_public() -> None:
    kinds = inspect.getmembers(
        errors, lambda member: inspect.isclass(member) and issubclass(member, Exception)
    )
    assert {name for name, _ in kinds} <= set(wsi_mitosis.__all__)


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, wsi_mitosis; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"torch", "ray", "pandas", "numpy", "tiatoolbox", "openslide"} & set(loaded)
