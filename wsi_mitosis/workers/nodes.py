"""The nodes of a cluster: whether each would give the results that this machine gives."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal

from wsi_mitosis.errors import InputError
from wsi_mitosis.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from wsi_mitosis.io.interrupts import Interrupts
    from wsi_mitosis.workers.placement import Placement

STAGE = "checking the nodes of the cluster"
CHECK_SECONDS = 300.0
"""For all nodes to answer. Starting Python from a slow network file system takes minutes."""
WAIT_SECONDS = 0.25


@dataclass(frozen=True)
class Needs:
    """What every node must have, as it is here.

    Attributes:
        kind: `bundle` or `weights`.
        model: Folder of the bundle, or file of the weights.
        digest: Digest of the bundle, or SHA-256 of the weights.
        slides: Path and size in bytes of each slide.
    """

    kind: Literal["bundle", "weights"]
    model: Path
    digest: str
    slides: tuple[tuple[str, int], ...]


def check_nodes(ray: Any, needs: Needs, placement: Placement, interrupts: Interrupts) -> None:
    """Check every node that may get a worker, by a small task on each.

    Args:
        ray: The module `ray`, connected.
        needs: What each node must have.
        placement: What a worker needs of a node.
        interrupts: The handler of signals, which is checked while nodes are waited for.

    Raises:
        InputError: if a node lacks something, has another version of it, or does not answer.
    """
    nodes = [node for node in ray.nodes() if node["Alive"] and takes_worker(node["Resources"], placement)]
    answers = _asked(ray, nodes, needs)
    waiting, end = list(answers), monotonic() + CHECK_SECONDS
    while waiting and monotonic() < end:
        interrupts.check()
        _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=WAIT_SECONDS)
    faults = {}
    for answer, node in answers.items():
        fault = _silent() if answer in waiting else _fault(ray, answer)
        if fault is not None:
            faults[f"node {node['NodeName']} ({node['NodeManagerAddress']})"] = fault
    if faults:
        name, (cause, remedy) = next(iter(faults.items()))
        others = f" ({len(faults) - 1} further nodes are refused as well)" if len(faults) > 1 else ""
        raise InputError(f"{cause}{others}", subject=name, stage=STAGE, remedy=remedy)


def takes_worker(resources: dict[str, float], placement: Placement) -> bool:
    """Return whether a node with these resources is large enough for a worker."""
    return resources.get("CPU", 0) >= placement.cpus and resources.get("GPU", 0) >= placement.gpus


def _asked(ray: Any, nodes: Sequence[dict[str, Any]], needs: Needs) -> dict[Any, dict[str, Any]]:
    """Begin the check on each node. The list of slides is sent to the cluster once."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    slides = ray.put(needs.slides)
    inspect = ray.remote(num_cpus=0, max_retries=0)(_inspector())
    arguments = (__version__, needs.kind, str(needs.model), needs.digest, slides)
    return {
        inspect.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(*arguments): node
        for node in nodes
    }


def _silent() -> tuple[str, str]:
    return f"it has not answered for {CHECK_SECONDS:g} s", "Check it with `ray status`, or remove it"


def _fault(ray: Any, answer: Any) -> tuple[str, str] | None:
    try:
        fault: tuple[str, str] | None = ray.get(answer)
    except ray.exceptions.RayError as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return f"the check cannot be run there: {lines[-1]}", "Check it with `ray status`, or remove it"
    return fault


def _inspector() -> Callable[..., tuple[str, str] | None]:
    """Return the function that runs on a node.

    It is defined in a function because Ray then sends its code. Otherwise the node would need this version
    of this module to say that it has another version.
    """

    def inspect(
        version: str, kind: str, model: str, digest: str, slides: Sequence[tuple[str, int]]
    ) -> tuple[str, str] | None:
        """Return what differs on this node and the remedy; None if nothing does."""
        import os
        import stat
        import sys
        from pathlib import Path

        try:
            from wsi_mitosis.errors import WsiMitosisError
            from wsi_mitosis.io.bundles import open_bundle
            from wsi_mitosis.io.digests import file_sha256
            from wsi_mitosis.version import __version__ as installed
        except ImportError as error:
            cause = f"wsi-mitosis cannot be imported by {sys.executable} there ({error})"
            return cause, f"Install wsi-mitosis {version} on the node"
        if installed != version:
            cause = f"it has wsi-mitosis {installed}, and this machine has {version}"
            return cause, f"Install wsi-mitosis {version} on the node"
        try:
            there = open_bundle(Path(model)).digest if kind == "bundle" else file_sha256(Path(model))
        except (WsiMitosisError, OSError) as error:
            return f"the {kind} cannot be used there: {error}", f"Copy it to {model} on the node"
        if there != digest:
            cause = f"the {kind} {model} has the digest {there[:12]} there, and {digest[:12]} here"
            return cause, "Copy it from this machine to the node"

        def difference(path: str, size: int) -> str | None:
            try:
                status = os.stat(path)  # noqa: PTH116
            except OSError as error:
                return f"'{path}' ({error.strerror})"
            if not stat.S_ISREG(status.st_mode):
                return f"'{path}' (not a file)"
            return None if status.st_size == size else f"'{path}' ({status.st_size} bytes, {size} here)"

        different = [found for path, size in slides if (found := difference(path, size)) is not None]
        if not different:
            return None
        more = f" and {len(different) - 3} more" if len(different) > 3 else ""
        cause = f"{len(different)} of {len(slides)} slides differ there: {', '.join(different[:3])}{more}"
        return cause, "Mount the slides on the node under the same paths as here"

    return inspect
