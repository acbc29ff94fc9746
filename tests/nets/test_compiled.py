"""Members that OpenVINO computes: torch's probabilities, and nothing that depends on a cache or a batch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.nets.test_explain import manifest
from tests.networks import preact, timm_network
from tests.runs import candidates_csv, slides_in
from wsi_mitosis.core.geometry import read_px
from wsi_mitosis.core.voting import tally
from wsi_mitosis.errors import BundleError, InputError
from wsi_mitosis.nets import compiled
from wsi_mitosis.nets.compiled import CompiledMembers, Sight, resolve_backend
from wsi_mitosis.nets.ensembles import Ensemble
from wsi_mitosis.nets.members import Member, member_state
from wsi_mitosis.nets.untrained import stained_noise, untrained_states
from wsi_mitosis.nets.views import network_input, to_input, zoomed
from wsi_mitosis.specs import BundleManifest, CalibrationSpec, NetworkSpec
from wsi_mitosis.tables import Tta

ROOT = Path(__file__).parents[2]
State = dict[str, Any]
GREY = {"mean": (0.5, 0.4, 0.6), "std": (0.5, 0.6, 0.4)}


class Kept(dict[str, bytes]):
    """Compiled networks, in memory."""

    def read(self, name: str) -> bytes | None:
        return self.get(name)

    def write(self, name: str, content: bytes) -> None:
        self[name] = content


FILES = Kept()
"""Of the whole module: what was compiled for one test is not compiled again for another."""


def states(of: BundleManifest, crops: np.ndarray) -> list[State]:
    """Random members whose batch norms do something, and whose answers differ from crop to crop."""
    torch.manual_seed(3)
    spec, found = of.input, []
    images = network_input(zoomed(to_input(crops, spec.scale), 1.0, spec.cut_px), spec)
    for one in of.member:
        member = Member(of.network_of(one)).eval()
        for layer in member.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.running_mean.normal_(0, 0.1)
                layer.running_var.uniform_(0.5, 1.5)
        with torch.inference_mode():
            member.head.fc3.bias.zero_()
            member.head.fc3.weight /= torch.diff(member(images), dim=1).std()
            member.head.fc3.bias[1] = -torch.diff(member(images), dim=1).mean()
        found.append(member_state(member))
    return found


def by(backend: Any, of: BundleManifest, weights: list[State], **options: Any) -> Ensemble:
    return Ensemble(of, weights, device="cpu", backend=backend, **{"threads": 2, "files": FILES, **options})


def both(of: BundleManifest, weights: list[State], crops: np.ndarray, **options: Any) -> tuple[Any, Any]:
    return tuple(by(name, of, weights, **options).predict(crops) for name in ("torch", "openvino"))


TINY = [preact(2)] * 5
TINY_STATES = untrained_states(5, 2, 16, 255.0)


def tiny(**changes: Any) -> BundleManifest:
    """Five members of 16 px with two zooms."""
    return manifest(*TINY, zooms=(1.0, 0.75), patch_px=16, **changes)


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    return stained_noise(24, 22, seed=3)


ZOOMS = ((preact(2),), (1.0, 0.75, 1.5), {"patch_px": 16} | GREY)
CASES = {
    "preact": ((preact(4),), (1.0,), {"patch_px": 32}, "flips"),
    "zooms": (*ZOOMS, "none"),
    "zooms, flips": (*ZOOMS, "flips"),
    "zooms, d4": (*ZOOMS, "d4"),
    "enlarged": ((timm_network(), preact(2)), (1.0,), {"patch_px": 48, "field_px": 32} | GREY, "flips"),
    "shrunk": ((timm_network("tf_efficientnet_lite2"),), (0.8,), {"patch_px": 32, "field_px": 40}, "d4"),
}


@pytest.mark.parametrize(("networks", "zooms", "input_", "tta"), CASES.values(), ids=CASES)
def test_openvino_gives_torchs_probabilities(
    networks: tuple[NetworkSpec, ...], zooms: tuple[float, ...], input_: dict[str, Any], tta: Tta
) -> None:
    """Random members magnify the rounding of float32 more than trained ones."""
    of = manifest(*networks, zooms=zooms, **input_)
    crops = stained_noise(5, read_px(of.input.cut_px, zooms), seed=1)
    expected, found = both(of, states(of, crops), crops, tta=tta)
    assert expected.std(axis=0).min() > 0.02, "members that see nothing test nothing"
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_views_and_zooms_are_those_of_torch_and_not_of_each_other(crops: np.ndarray) -> None:
    """The probabilities above would also agree if no view changed anything."""
    found = [by("openvino", tiny(), TINY_STATES, tta=tta).predict(crops) for tta in ("none", "flips", "d4")]
    assert np.abs(found[0] - found[1]).max() > 1e-4
    assert np.abs(found[1] - found[2]).max() > 1e-4


def test_early_votes_ask_the_same_members_and_give_the_same_labels(crops: np.ndarray) -> None:
    expected, found = both(tiny(), TINY_STATES, crops, vote="early")
    assert 0 < np.isnan(found).sum() < found.size
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    np.testing.assert_allclose(found, expected, atol=2e-6)
    labels = tally(found, 0.5).is_atypical
    assert labels.tolist() == tally(expected, 0.5).is_atypical.tolist()
    assert 0 < labels.sum() < len(labels)


def test_openvino_counts_at_the_temperature_of_the_bundle(crops: np.ndarray) -> None:
    calibration = CalibrationSpec(
        temperature=0.5,
        fitted_on="own figures",
        figures=1,
        atypical=1,
        figures_sha256="0" * 64,
        dataset_digest="",
    )
    of = tiny().model_copy(update={"calibration": calibration})
    expected, found = both(of, TINY_STATES, crops)
    np.testing.assert_allclose(found, expected, atol=4e-6)
    assert np.abs(found - by("openvino", tiny(), TINY_STATES).predict(crops)).max() > 0.01


@cache
def tiny_ensemble() -> Ensemble:
    return by("openvino", tiny(), TINY_STATES)


@given(st.lists(st.integers(0, 23), max_size=9))
def test_a_result_does_not_depend_on_the_batch(rows: list[int]) -> None:
    """Also of one crop, of none, and of several alike."""
    crops, ensemble = stained_noise(24, 22, seed=3), tiny_ensemble()
    np.testing.assert_array_equal(ensemble.predict(crops[rows]), ensemble.predict(crops)[rows])


@pytest.mark.parametrize("threads", [1, 2, 5, None])
def test_a_result_does_not_depend_on_the_number_of_threads(crops: np.ndarray, threads: int | None) -> None:
    found = by("openvino", tiny(), TINY_STATES, threads=threads).predict(crops)
    np.testing.assert_array_equal(found, by("openvino", tiny(), TINY_STATES, threads=2).predict(crops))


def test_a_compiled_network_is_kept_and_gives_the_same_bits(
    crops: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept()
    first = Ensemble(tiny(), TINY_STATES, device="cpu", backend="openvino", files=kept)
    assert len(kept) == 5
    monkeypatch.setattr(CompiledMembers, "_compiled", None)
    second = Ensemble(tiny(), TINY_STATES, device="cpu", backend="openvino", files=kept)
    np.testing.assert_array_equal(second.predict(crops), first.predict(crops))


def test_torch_is_only_imported_for_what_was_not_compiled_before(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    slides_in(tmp_path / "slides", ["a.svs"])
    candidates_csv(tmp_path / "dets.csv", ["a.svs"])
    code = (
        "import sys; from wsi_mitosis.cli import main; "
        "main(sys.argv[1:], standalone_mode=False); print('torch' in sys.modules)"
    )
    job = f"classify slides --detections dets.csv --model {small_bundle} --workers 0 --device cpu -q --out"
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    told = []
    for out in ("compiled", "kept"):
        command = [sys.executable, "-c", code, *job.split(), out]
        told.append(subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout)
    assert told == ["True\n", "False\n"]


def test_without_a_place_for_it_a_network_is_compiled_again(crops: np.ndarray) -> None:
    alone = Ensemble(tiny(), TINY_STATES, device="cpu", backend="openvino")
    np.testing.assert_array_equal(alone.predict(crops), by("openvino", tiny(), TINY_STATES).predict(crops))


def _name(
    weights: State = TINY_STATES[0],
    network: NetworkSpec = TINY[0],
    tta: Tta = "none",
    zooms: tuple[float, ...] = (1.0,),
    crop_px: int = 22,
    **input_: Any,
) -> str:
    of = manifest(network, patch_px=16, **input_).model_copy(update={"member": ()})
    sight = Sight(of.input, zooms, tta, crop_px)
    return CompiledMembers(of, [], sight, 1, None)._name(weights, network, sight)


def test_a_compiled_network_is_known_by_all_that_it_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    one = TINY_STATES[0]
    bias = "head.fc3.bias"
    names = {
        _name(),
        _name({**one, bias: one[bias] + 1}),
        _name({**one, bias: one[bias].astype(np.float16)}),
        _name(network=preact(4)),
        _name(tta="flips"),
        _name(zooms=(0.8,)),
        _name(crop_px=24),
        _name(field_px=20),
        _name(**GREY),
    }
    assert len(names) == 9
    assert _name(dict(reversed(one.items()))) == _name()
    version = metadata.version
    for changed in ("openvino", "timm", "torch"):
        with monkeypatch.context() as patched:
            patched.setattr(metadata, "version", lambda name, c=changed: version(name) + "+" * (name == c))
            names.add(_name())
    for table, key, value in (
        (compiled.SOURCES, "wsi_mitosis.nets", ("members.py",)),
        (compiled.HINTS, "fp32", "bf16"),
        (compiled.UNPINNED, "ENABLE_CPU_PINNING", True),
    ):
        with monkeypatch.context() as patched:
            patched.setitem(table, key, value)
            names.add(_name())
    assert len(names) == 15


@pytest.mark.parametrize(
    ("name", "spoilt", "told"),
    [
        ("head.fc3.bias", np.array([0, np.nan], np.float16), "'head.fc3.bias' is not finite"),
        ("head.fc3.bias", np.zeros(3, np.float16), r"'head.fc3.bias' has shape \(3,\)"),
        ("backbone.d0.blk_bna.bn.running_var", np.full(8, -1, np.float32), "is not a number"),
    ],
    ids=["not finite", "shape", "no root"],
)
def test_weights_that_cannot_be_used_are_refused_by_name(name: str, spoilt: np.ndarray, told: str) -> None:
    weights = list(TINY_STATES)
    weights[2] = {**weights[2], name: spoilt}
    with pytest.raises(BundleError, match=f"m2.safetensors: .*{told}"):
        by("openvino", tiny(), weights)


def test_a_network_that_openvino_cannot_compile_is_named_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("No conversion rule\nfound for aten::strange")

    monkeypatch.setattr(compiled.openvino(), "convert_model", fail)
    told = r"m0.safetensors: .*No conversion rule found for aten::strange.*--backend torch"
    with pytest.raises(InputError, match=told):
        Ensemble(tiny(), TINY_STATES, device="cpu", backend="openvino")


def test_only_torch_explains(crops: np.ndarray) -> None:
    with pytest.raises(ValueError, match="no gradients"):
        by("openvino", tiny(), TINY_STATES).explain(crops)


def _missing() -> Any:
    raise ImportError("no module of this name")


CHOICES = [
    ("auto", "cpu", "x86_64", "openvino"),
    ("auto", "cpu", "aarch64", "torch"),
    ("openvino", "cpu", "aarch64", "openvino"),
    ("torch", "cpu", "x86_64", "torch"),
    ("auto", "cuda", "x86_64", "torch"),
    ("torch", "cuda:1", "x86_64", "torch"),
]


@pytest.mark.parametrize(("asked", "device", "machine", "found"), CHOICES)
def test_backends(monkeypatch: pytest.MonkeyPatch, asked: Any, device: str, machine: str, found: str) -> None:
    monkeypatch.setattr(compiled.platform, "machine", lambda: machine)
    assert resolve_backend(asked, device) == found


@pytest.mark.parametrize("precision", ["fp16"])
def test_torch_computes_in_half_precision(precision: Any) -> None:
    assert resolve_backend("auto", "cpu", precision) == "torch"
    with pytest.raises(InputError, match=f"--backend openvino: .*not in {precision}.*--precision fp32"):
        resolve_backend("openvino", "cpu", precision)


def test_openvino_does_not_compute_on_a_gpu() -> None:
    with pytest.raises(InputError, match=r"--backend openvino: .*the device is cuda:1.*--device cpu"):
        resolve_backend("openvino", "cuda:1")


@pytest.mark.parametrize(
    ("library", "told"),
    [(_missing, "no module of this name"), (lambda: _Library([]), "no support for this CPU")],
    ids=["missing", "another CPU"],
)
def test_without_openvino_torch_computes(
    monkeypatch: pytest.MonkeyPatch, library: Callable[[], Any], told: str
) -> None:
    monkeypatch.setattr(compiled, "_core", library)
    assert resolve_backend("auto", "cpu") == "torch"
    with pytest.raises(InputError, match=f"--backend openvino: .*{told}.*Use --backend torch"):
        resolve_backend("openvino", "cpu")


@pytest.mark.parametrize("asked", ["auto", "openvino"])
def test_openvino_computes_in_bf16(monkeypatch: pytest.MonkeyPatch, asked: Any) -> None:
    monkeypatch.setattr(compiled, "_core", lambda: _Library(["CPU"], "BF16"))
    assert resolve_backend(asked, "cpu", "bf16") == "openvino"


@pytest.mark.parametrize(
    ("asked", "library", "told"),
    [
        ("torch", lambda: _Library(["CPU"], "BF16"), "torch does not compute in it"),
        ("auto", lambda: _Library(["CPU"]), "no instructions for it"),
        ("auto", lambda: _Library([]), "no support for this CPU"),
        ("openvino", _missing, "no module of this name"),
    ],
)
def test_bf16_is_refused_where_nothing_computes_in_it(
    monkeypatch: pytest.MonkeyPatch, asked: Any, library: Callable[[], Any], told: str
) -> None:
    monkeypatch.setattr(compiled, "_core", library)
    with pytest.raises(InputError, match=f"--precision bf16: .*{told}.*Use --precision fp32"):
        resolve_backend(asked, "cpu", "bf16")


def test_bf16_is_refused_on_machines_on_which_labels_were_not_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compiled, "_core", lambda: _Library(["CPU"], "BF16"))
    monkeypatch.setattr(compiled.platform, "machine", lambda: "aarch64")
    with pytest.raises(InputError, match=r"--precision bf16: .*not compared on aarch64.*--precision fp32"):
        resolve_backend("auto", "cpu", "bf16")


def test_bf16_is_near_float32_and_kept_apart(crops: np.ndarray) -> None:
    """Values of 8 bits, whose relative error is 2^-9, and whose errors add up by layer."""
    if "BF16" not in compiled._core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no instructions for bfloat16")
    kept = Kept()
    whole, half = (
        by("openvino", tiny(), TINY_STATES, files=kept, precision=name).predict(crops)
        for name in ("fp32", "bf16")
    )
    assert len(kept) == 10
    assert (np.abs(half - whole) > 1e-4).any()
    np.testing.assert_allclose(half, whole, atol=0.1)


class _Library:
    def __init__(self, devices: list[str], *capabilities: str) -> None:
        self.available_devices, self.capabilities = devices, capabilities

    def get_property(self, _device: str, _name: str) -> tuple[str, ...]:
        return self.capabilities


TELEMETRY = """
import pathlib, types
REPORTS = pathlib.Path(__file__).with_name("reports")
class Telemetry:
    def __init__(self, *a, app_name=None, **k):
        self.backend = types.SimpleNamespace(app_name=app_name)
    def __getattr__(self, name): return lambda *a, **k: self.note(name)
    def note(self, text): REPORTS.open("a").write(text + "\\n")
"""
USE = """
import os, sys
def refuse(event, arguments):
    if event.startswith("socket.") and event != "socket.__new__":
        print(event, arguments, file=sys.stderr)
        os._exit(3)
sys.addaudithook(refuse)
from tests.nets.test_compiled import *
Ensemble(tiny(), TINY_STATES, device="cpu", backend="openvino").predict(stained_noise(1, 22))
"""


@pytest.mark.parametrize("before", ["", "import openvino\n"], ids=["ours alone", "imported before"])
def test_openvino_reports_nothing(tmp_path: Path, before: str) -> None:
    """Neither an import nor a conversion, by its telemetry or otherwise."""
    package = tmp_path / "openvino_telemetry"
    (package / "backend").mkdir(parents=True)
    (package / "__init__.py").write_text(TELEMETRY)
    (package / "backend" / "__init__.py").touch()
    (package / "backend" / "backend_ga4.py").touch()
    home, root = tmp_path / "home", Path(__file__).parents[2]
    home.mkdir()

    def run(code: str) -> set[str]:
        environment = {"HOME": str(home), "PYTHONPATH": f"{tmp_path}:{root}", "PATH": "/usr/bin:/bin"}
        subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=tmp_path)
        reports = package / "reports"
        return set(reports.read_text().split()) if reports.exists() else set()

    imported = run(before) if before else set()
    assert bool(imported) == bool(before), "a stand-in that reports nothing tests nothing"
    (package / "reports").unlink(missing_ok=True)
    assert run(before + USE) <= imported
    assert not list(home.iterdir())
