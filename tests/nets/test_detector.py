"""KongNet as TIAToolbox builds it, with random weights; its published ones were never run here."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.detector_files import stub_network
from wsi_mitosis.errors import InputError
from wsi_mitosis.nets import detector
from wsi_mitosis.nets.detector import Detector, find_detector
from wsi_mitosis.nets.tiatoolbox import quietly

NAME = "KongNet_Det_MIDOG_1"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """0.5 GB in TIAToolbox's layout: the state dict under `model`."""
    with quietly():
        from tiatoolbox.models.architecture.kongnet import KongNet
    torch.manual_seed(0)
    network = KongNet(**detector._registry()[NAME]["architecture"]["kwargs"])
    path = tmp_path_factory.mktemp("weights") / f"{NAME}.pth"
    torch.save({"model": network.state_dict()}, path)
    return path


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector, "_loaded", lambda *_: None)


def test_the_detector_is_as_tiatoolbox_describes_it(checkpoint: Path) -> None:
    model = find_detector("kongnet_det_midog_1", str(checkpoint))
    assert (model.name, model.tile_px, model.mpp, model.min_distance_px, model.threshold) == (
        NAME,
        512,
        0.5,
        21,
        0.99,
    )
    assert model.sha256 == hashlib.sha256(checkpoint.read_bytes()).hexdigest()


def test_the_real_network_gives_what_tiatoolboxs_engine_gives(checkpoint: Path) -> None:
    """On a small tile, which the network takes as well; random weights see figures in noise."""
    with quietly():
        from tiatoolbox.models.engine.io_config import IOSegmentorConfig
        from tiatoolbox.models.engine.nucleus_detector import NucleusDetector
    tile = np.random.default_rng(0).integers(0, 256, (1, 96, 96, 3), dtype=np.uint8)
    threshold = 0.1
    peaks = Detector(find_detector(NAME, str(checkpoint)), "cpu").peaks(tile, threshold)[0]
    assert len(peaks)
    assert ((peaks[:, 2] > threshold) & (peaks[:, 2] <= 1)).all()

    engine = NucleusDetector(model=detector._loaded(NAME, checkpoint), verbose=False)
    config = IOSegmentorConfig(
        input_resolutions=[{"units": "mpp", "resolution": 0.5}],
        output_resolutions=[{"units": "mpp", "resolution": 0.5}],
        patch_input_shape=[96, 96],
        patch_output_shape=[96, 96],
        stride_shape=[96, 96],
    )
    options = {"threshold_abs": threshold, "return_probabilities": True}
    with quietly():
        theirs = engine.run(tile, ioconfig=config, patch_mode=True, output_type="dict", **options)
    # TIAToolbox 2.1.3 calls a patch's columns y and its rows x
    table = np.column_stack([np.asarray(theirs[name][0]) for name in ("y", "x", "probabilities")])
    np.testing.assert_allclose(np.unique(peaks, axis=0), np.unique(table, axis=0), atol=1e-6)


def test_peaks_are_where_the_stub_sees_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector, "_loaded", stub_network)
    model = detector.DetectorModel("stub", Path("no.pth"), "0" * 64, 64, 0.5, 21, 0.4)
    tiles = np.full((2, 64, 64, 3), 255, np.uint8)
    tiles[0, 40, 7] = 51
    tiles[0, 50, 20] = 102  # 13 px from a darker one: the same figure
    tiles[0, 5, 50] = 153
    first, second = Detector(model, "cpu").peaks(tiles, 0.3)
    assert sorted(map(tuple, first)) == [(7, 40, pytest.approx(0.8)), (50, 5, pytest.approx(0.4))]
    assert second.shape == (0, 3)


class Code:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    path, ran = tmp_path / "w.pth", tmp_path / "ran"
    for write in (
        lambda: torch.save({"model": {"a": Code(ran)}}, path),
        lambda: path.write_bytes(pickle.dumps(Code(ran), protocol=2)),
    ):
        write()
        with pytest.raises(InputError, match=r"w\.pth: loading the detector: .*Nothing in it was run"):
            find_detector(NAME, str(path))
        assert not ran.exists()


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save({"model": {"more": torch.zeros(1)}}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"does not fit the network: .*Missing key.*--weights PATH"):
        find_detector(NAME, str(tmp_path / "w.pth"))


@pytest.mark.parametrize("name", ["nobody", "KongNet_PanNuke_1", "mapde-conic"])
def test_only_detectors_of_mitotic_figures_are_taken(name: str) -> None:
    with pytest.raises(InputError, match=rf"--model {name}: .*Use one of {NAME}"):
        find_detector(name, None)


@pytest.mark.usefixtures("unloaded")
def test_nothing_is_fetched_unless_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tiatoolbox
    from tiatoolbox.models import architecture

    monkeypatch.setitem(tiatoolbox.rcParam, "TIATOOLBOX_HOME", tmp_path)
    monkeypatch.setattr(architecture, "fetch_pretrained_weights", lambda *_: pytest.fail("fetched"))
    both_ways = r"--weights PATH, or download it with --weights hub"
    with pytest.raises(InputError, match=rf"not been downloaded to this machine.*{both_ways}"):
        find_detector(NAME, None)
    with pytest.raises(InputError, match=rf"other\.pth: .*no such file.*{both_ways}"):
        find_detector(NAME, str(tmp_path / "other.pth"))

    kept = tmp_path / "models" / f"{NAME}.pth"
    kept.parent.mkdir()
    kept.write_bytes(b"fetched before")
    assert find_detector(NAME, None).weights == kept

    given = tmp_path / "given.pth"
    given.write_bytes(b"from the hub")
    monkeypatch.setattr(architecture, "fetch_pretrained_weights", lambda *_: str(given))
    model = find_detector(NAME, "hub")
    assert model.weights == given
    assert model.sha256 == hashlib.sha256(b"from the hub").hexdigest()
