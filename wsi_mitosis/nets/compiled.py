"""Members that OpenVINO computes: compiled once for the CPU, which is several times as fast as torch there.

A request is one crop in all its views at all zooms, on one thread. So a result depends neither on the other
crops of a batch nor on the number of threads.
"""

from __future__ import annotations

import hashlib
import json
import pkgutil
import platform
import sys
import warnings
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from wsi_mitosis.errors import InputError
from wsi_mitosis.nets.views import all_views, from_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from wsi_mitosis.specs import InputSpec, NetworkSpec
    from wsi_mitosis.tables import Backend, BackendChoice, Precision, Tta

AUTO_MACHINES = frozenset({"x86_64"})
"""Machines on which `auto` is OpenVINO: those whose labels were compared with torch's."""
TELEMETRY = "openvino_telemetry"
"""The package by which OpenVINO reports each import and each conversion to Google Analytics, unless the user
has objected. OpenVINO does without it if it cannot be imported (openvino/tools/ovc/telemetry_utils.py)."""
EXACT = {
    "INFERENCE_PRECISION_HINT": "f32",  # by default bf16 where the CPU has it
    "ENABLE_CPU_PINNING": False,  # several workers would be pinned to the same cores
}
"""How networks are compiled and computed."""
SOURCES = {
    "wsi_mitosis.core": ("geometry.py",),
    "wsi_mitosis.nets": ("backbone.py", "compiled.py", "encoders.py", "members.py", "views.py"),
}
"""The code that decides what is compiled."""


class CompiledFiles(Protocol):
    """Where compiled networks are kept from one process to the next."""

    def read(self, name: str) -> bytes | None:
        """Return what was written under a name; None if there is nothing, or it is damaged."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Keep a content if that is possible."""
        ...


def openvino() -> Any:
    """Import OpenVINO without its telemetry, also where other code imported it with its telemetry before."""
    sys.modules[TELEMETRY] = cast("Any", None)  # the import system then reports that there is none
    import openvino as library
    from openvino.tools.ovc import telemetry_stub

    for name, module in list(sys.modules.items()):
        if name.startswith("openvino.") and hasattr(module, "tm"):
            setattr(module, "tm", telemetry_stub)  # noqa: B010 - mypy knows no such attribute of a module
    return library


def resolve_backend(backend: BackendChoice, device: str, precision: Precision = "fp32") -> Backend:
    """Resolve `auto` to `openvino` for float32 on a CPU on which it can be used, else to `torch`.

    Args:
        backend: What was asked for. Any other backend is returned as it is.
        device: A device that `resolve_device` returned.
        precision: Precision of the encoders.

    Raises:
        InputError: If OpenVINO is asked for and cannot be used.
    """
    if backend == "torch":
        return "torch"
    if backend == "auto":
        suits = (device, precision) == ("cpu", "fp32") and platform.machine() in AUTO_MACHINES
        return "openvino" if suits and unusable() is None else "torch"
    if device != "cpu":
        raise _not_openvino(f"it computes on the CPU, but the device is {device}", ", or --device cpu")
    if precision != "fp32":
        raise _not_openvino(f"it computes in fp32, not in {precision}", ", or --precision fp32")
    if (cause := unusable()) is not None:
        raise _not_openvino(cause)
    return "openvino"


def _not_openvino(cause: str, instead: str = "") -> InputError:
    return InputError(cause, subject="--backend openvino", remedy=f"Use --backend torch{instead}")


def unusable() -> str | None:
    """Return why OpenVINO cannot compute on this machine's CPU; None if it can."""
    try:
        devices = _core().available_devices
    except (ImportError, OSError, RuntimeError) as error:
        return f"it cannot be used: {error}"
    return None if "CPU" in devices else "it has no support for this CPU"


@cache
def _core() -> Any:
    """Return the one core of this process; with the last one OpenVINO unloads its library of the CPU."""
    return openvino().Core()


@dataclass(frozen=True)
class Sight:
    """What a member sees of a crop.

    Attributes:
        input: The bundle's input.
        zooms: Zooms of a crop.
        tta: Views at each zoom.
        crop_px: Side of the crops, px at the bundle's um/px.
    """

    input: InputSpec
    zooms: tuple[float, ...]
    tta: Tta
    crop_px: int

    def of(self, crops: Tensor) -> Tensor:
        """Return (V * N, 3, P, P) float32, all V views of (N, S, S, 3) uint8 crops."""
        batch = from_bytes(crops, self.input.scale)
        return torch.cat(list(all_views(batch, self.input, self.zooms, self.tta)))


class CompiledMember:
    """A member that OpenVINO computes.

    Args:
        network: The network, compiled.
        requests: Number of crops that are computed at a time.
    """

    def __init__(self, network: Any, requests: int) -> None:
        self._queue = openvino().AsyncInferQueue(network, requests)
        self._views = int(network.output(0).shape[0])

    def probabilities(self, crops: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return (N, 2) P(class) of (N, S, S, 3) crops, the mean over the views."""
        logits = np.empty((len(crops), self._views, 2))

        def keep(request: Any, row: int) -> None:
            logits[row] = request.get_output_tensor(0).data

        self._queue.set_callback(keep)
        for row in range(len(crops)):
            self._queue.start_async({0: crops[row : row + 1]}, row)
        self._queue.wait_all()
        odds = np.exp(logits - logits.max(axis=2, keepdims=True))
        return np.asarray((odds / odds.sum(axis=2, keepdims=True)).mean(axis=1))


class Compiler:
    """Compiles members for this machine's CPU, or takes what was compiled before.

    Args:
        sight: What the members see of a crop.
        threads: Number of CPU threads that compute; each has a crop of its own.
        files: Where compiled networks are kept; None if nowhere.
    """

    def __init__(self, sight: Sight, threads: int, files: CompiledFiles | None) -> None:
        self._sight, self._threads, self._files = sight, threads, files
        self._core = _core()
        self._options = EXACT | {"NUM_STREAMS": threads, "INFERENCE_NUM_THREADS": threads}

    def member(
        self,
        state: Mapping[str, NDArray[np.floating]],
        network: NetworkSpec,
        build: Callable[[], nn.Module],
        subject: object,
    ) -> CompiledMember:
        """Return a member, compiled.

        Args:
            state: Its stored weights.
            network: Its network.
            build: Checks the weights and builds the network of torch, in evaluation mode. It is only called
                if the member was not compiled before.
            subject: The file of the weights, for messages.

        Raises:
            InputError: If OpenVINO cannot compile the network.
        """
        name = self._name(state, network)
        content = None if self._files is None else self._files.read(name)
        if content is None:
            content = self._compile(build(), subject)
            if self._files is not None:
                self._files.write(name, content)
        # always from the content, so that a result does not depend on whether it was kept
        return CompiledMember(self._core.import_model(content, "CPU", self._options), self._threads)

    def _name(self, state: Mapping[str, NDArray[np.floating]], network: NetworkSpec) -> str:
        """Return the digest of everything that a compiled network depends on."""
        digest = hashlib.sha256(json.dumps(self._parts(network), sort_keys=True).encode())
        for name, array in sorted(state.items()):
            digest.update(f"{name} {array.dtype} {array.shape} ".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def _parts(self, network: NetworkSpec) -> dict[str, object]:
        sources = [pkgutil.get_data(package, file) for package, files in SOURCES.items() for file in files]
        about = ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")
        return {
            "versions": {name: metadata.version(name) for name in ("openvino", "timm", "torch")},
            "code": hashlib.sha256(b"".join(source or b"" for source in sources)).hexdigest(),
            "machine": [platform.machine(), *(self._core.get_property("CPU", name) for name in about)],
            "options": EXACT,
            "network": network.text,
            "input": self._sight.input.model_dump(mode="json"),
            "views": [self._sight.zooms, self._sight.tta, self._sight.crop_px],
        }

    def _compile(self, member: nn.Module, subject: object) -> bytes:
        crop = torch.zeros(1, self._sight.crop_px, self._sight.crop_px, 3, dtype=torch.uint8)
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")  # sizes become constants, and they are constant
                traced = torch.jit.trace(_Seeing(member, self._sight), crop, check_trace=False)  # type: ignore[no-untyped-call]  # missing in torch's stubs
                network = openvino().convert_model(traced, input=[([*crop.shape], np.uint8)])
            compiled = self._core.compile_model(network, "CPU", self._options)
            return cast("bytes", compiled.export_model().getvalue())
        except RuntimeError as error:
            raise InputError(
                f"OpenVINO cannot compile its network: {' '.join(str(error).split())[:300]}",
                subject=subject,
                stage="building the network",
                remedy="Use --backend torch",
            ) from error


class _Seeing(nn.Module):
    """A member from the crops to the logits of all views."""

    def __init__(self, member: nn.Module, sight: Sight) -> None:
        super().__init__()
        self.member, self.sight = member.eval(), sight
        self.eval()

    def forward(self, crops: Tensor) -> Tensor:
        """Classify (1, S, S, 3) uint8 crops; return (V, 2) logits."""
        logits: Tensor = self.member(self.sight.of(crops))
        return logits
