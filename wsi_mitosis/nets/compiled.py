"""Members that OpenVINO computes: compiled once for the CPU, which is several times as fast as torch there.

A request is one crop in all its views at all zooms, on one thread. So a result depends neither on the other
crops of a batch nor on the number of threads. torch is imported only to compile what was not compiled before.
"""

from __future__ import annotations

import hashlib
import json
import pkgutil
import platform
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from wsi_mitosis.core.voting import ATYPICAL
from wsi_mitosis.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from wsi_mitosis.specs import BundleManifest, InputSpec, MemberSpec, NetworkSpec
    from wsi_mitosis.tables import Backend, BackendChoice, Precision, Tta

    State = Mapping[str, NDArray[np.floating]]
    Classify = Callable[[int, NDArray[np.intp]], NDArray[np.float64]]

AUTO_MACHINES = frozenset({"x86_64"})
"""Machines on which `auto` is OpenVINO: those whose labels were compared with torch's."""
TELEMETRY = "openvino_telemetry"
"""The package by which OpenVINO reports each import and each conversion to Google Analytics, unless the user
has objected. OpenVINO does without it if it cannot be imported (openvino/tools/ovc/telemetry_utils.py)."""
UNPINNED = {"ENABLE_CPU_PINNING": False}
"""Several workers would be pinned to the same cores."""
HINTS: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16"}
"""OpenVINO's names of the precisions; by default it would take bf16 where the CPU has it."""
SOURCES = {
    "wsi_mitosis.core": ("geometry.py",),
    "wsi_mitosis.nets": (
        "backbone.py",
        "compiled.py",
        "eager.py",
        "encoders.py",
        "members.py",
        "tracing.py",
        "views.py",
    ),
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
    """Resolve `auto` to `openvino` on a CPU on which it can be used, else to `torch`.

    Args:
        backend: What was asked for. Any other backend is returned as it is.
        device: A device that `resolve_device` returned.
        precision: A precision that `check_precision` allows on the device.

    Raises:
        InputError: If OpenVINO is asked for, or needed for the precision, and cannot be used.
    """
    if precision == "bf16":
        return _for_bf16(backend)
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


def _for_bf16(backend: BackendChoice) -> Backend:
    """Return OpenVINO, which alone computes in bfloat16.

    Raises:
        InputError: If torch is asked for, OpenVINO cannot be used, or the CPU is not one for bfloat16.
    """
    cause = "torch does not compute in it" if backend == "torch" else unusable()
    if cause is None and platform.machine() not in AUTO_MACHINES:
        cause = f"labels in it were not compared on {platform.machine()}"
    if cause is None and "BF16" not in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        cause = "this CPU has no instructions for it"
    if cause is not None:
        raise InputError(cause, subject="--precision bf16", remedy="Use --precision fp32")
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
        input: The member's input.
        zooms: Zooms of a crop.
        tta: Views at each zoom.
        crop_px: Side of the crops, px at the bundle's um/px.
    """

    input: InputSpec
    zooms: tuple[float, ...]
    tta: Tta
    crop_px: int


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


class CompiledMembers:
    """The members of a bundle, compiled for this machine's CPU.

    Args:
        manifest: The manifest of the bundle.
        states: Weights of each member in the manifest's order: arrays by name, float16 or float32.
        sight: What a member sees of a crop, if it sees the bundle's whole field.
        threads: Number of CPU threads that compute; each has a crop of its own. Those of torch if None.
        files: Where compiled networks are kept; None if nowhere.
        precision: `fp32` or `bf16`.

    Raises:
        BundleError: If the weights do not fit the network. They are checked when a member is compiled.
        InputError: If OpenVINO cannot compile a network.
    """

    def __init__(
        self,
        manifest: BundleManifest,
        states: Sequence[State],
        sight: Sight,
        threads: int | None,
        files: CompiledFiles | None,
        precision: Precision = "fp32",
    ) -> None:
        self._manifest, self._sight, self._files = manifest, sight, files
        self._core, self._threads = _core(), threads or _threads_of_torch()
        self._compiling = UNPINNED | {"INFERENCE_PRECISION_HINT": HINTS[precision]}
        threading = {"NUM_STREAMS": self._threads, "INFERENCE_NUM_THREADS": self._threads}
        self._options = self._compiling | threading
        members = zip(manifest.member, states, strict=True)
        self._members = [self._member(spec, state) for spec, state in members]

    @contextmanager
    def classifying(self, crops: NDArray[np.uint8]) -> Iterator[Classify]:
        """Take (N, S, S, 3) crops; see `eager.EagerMembers.classifying`."""
        yield lambda index, rows: self._members[index].probabilities(crops[rows])[:, ATYPICAL]

    def _member(self, spec: MemberSpec, state: State) -> CompiledMember:
        network, sight = self._manifest.network_of(spec), self._sight_of(spec)
        name = self._name(state, network, sight)
        content = None if self._files is None else self._files.read(name)
        if content is None:
            content = self._compiled(state, network, sight, self._manifest.file_of(spec))
            if self._files is not None:
                self._files.write(name, content)
        # always from the content, so that a result does not depend on whether it was kept
        return CompiledMember(self._core.import_model(content, "CPU", self._options), self._threads)

    def _sight_of(self, spec: MemberSpec) -> Sight:
        return replace(self._sight, input=self._manifest.input_of(spec))

    def _compiled(self, state: State, network: NetworkSpec, sight: Sight, file: str) -> bytes:
        from wsi_mitosis.nets.tracing import converted, traced

        program = traced(state, network, sight, file)  # torch's errors are not OpenVINO's
        try:
            found = self._core.compile_model(converted(program, sight), "CPU", self._options)
            return cast("bytes", found.export_model().getvalue())
        except RuntimeError as error:
            raise InputError(
                f"OpenVINO cannot compile its network: {' '.join(str(error).split())[:300]}",
                subject=file,
                stage="building the network",
                remedy="Use --backend torch",
            ) from error

    def _name(self, state: State, network: NetworkSpec, sight: Sight) -> str:
        """Return the digest of everything that a compiled network depends on."""
        digest = hashlib.sha256(json.dumps(self._parts(network, sight), sort_keys=True).encode())
        for name, array in sorted(state.items()):
            digest.update(f"{name} {array.dtype} {array.shape} ".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def _parts(self, network: NetworkSpec, sight: Sight) -> dict[str, object]:
        sources = [pkgutil.get_data(package, file) for package, files in SOURCES.items() for file in files]
        about = ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")
        return {
            "versions": {name: metadata.version(name) for name in ("openvino", "timm", "torch")},
            "code": hashlib.sha256(b"".join(source or b"" for source in sources)).hexdigest(),
            "machine": [platform.machine(), *(self._core.get_property("CPU", name) for name in about)],
            "options": self._compiling,
            "network": network.text,
            "input": sight.input.model_dump(mode="json"),
            "views": [sight.zooms, sight.tta, sight.crop_px],
        }


def _threads_of_torch() -> int:
    import torch

    return torch.get_num_threads()
