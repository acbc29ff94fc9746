"""Where the work is done: this process, a local Ray, or a cluster. The only file that imports Ray."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import threading
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from wsi_mitosis.errors import InputError, WsiMitosisError
from wsi_mitosis.io.surroundings import (
    LOOPBACK,
    STAGE,
    WITHOUT_RAY,
    check_loopback,
    object_store,
    session_folder,
)
from wsi_mitosis.io.training.crops import short_name
from wsi_mitosis.jobs.batch import run_batch, run_task
from wsi_mitosis.jobs.classifier import Classifier
from wsi_mitosis.jobs.dataset import PartOutcome, build, run_part, run_parts
from wsi_mitosis.jobs.detect import SlideDetector, detect_task, run_detection
from wsi_mitosis.jobs.outcomes import SlideOutcome
from wsi_mitosis.jobs.plan import SlideTask
from wsi_mitosis.jobs.train import FoldProgress, run_fold, run_folds, train

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from wsi_mitosis.io.bundles import Bundle
    from wsi_mitosis.jobs.batch import BatchResult
    from wsi_mitosis.jobs.dataset import BuildResult, Part
    from wsi_mitosis.jobs.dataset import Reporter as BuildReporter
    from wsi_mitosis.jobs.detect import DetectResult, SlideCandidates
    from wsi_mitosis.jobs.outcomes import Reporter
    from wsi_mitosis.jobs.plan import ClassifyTask
    from wsi_mitosis.jobs.slide_result import SlideResult
    from wsi_mitosis.jobs.train import FoldTask, TrainResult
    from wsi_mitosis.jobs.train import Reporter as TrainReporter
    from wsi_mitosis.nets.detector import DetectorModel
    from wsi_mitosis.specs import ClassifySpec, DatasetSpec, DetectSpec, PlacementOptions, TrainSpec

CPUS_PER_WORKER = 4
"""Where there is no GPU: one worker's reading threads and model keep about this many cores busy."""
FOLD_ATTEMPTS = 3
POLL_SECONDS = 1.0
NO_CLUSTER = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""0 keeps a Ray that is this machine's alone on loopback, on Linux too; else it replaces 127.0.0.1 by the
address that others reach (ray/_private/services.py, `resolve_ip_for_localhost`)."""
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
CONNECT_SECONDS = 10.0
START_SECONDS = 300.0
"""For the first worker process of a local Ray. Starting from a slow network file system takes minutes."""
TOKEN, TOKEN_MODE, TOKEN_MODES = "RAY_AUTH_TOKEN", "RAY_AUTH_MODE", ("token", "disabled")
"""What Ray's processes prove to one another that they belong together by
(ray/_private/authentication/authentication_token_setup.py)."""
MESSAGE_CHARACTERS = 300

AnyTask = TypeVar("AnyTask", bound=SlideTask)
Model = TypeVar("Model")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Placement:
    """What each worker gets. `workers` 0 is this process."""

    workers: int
    cpus: int
    gpus: float


def classify_batch(spec: ClassifySpec, reporter: Reporter) -> BatchResult:
    """Classify many slides; see `jobs.batch.run_batch`."""
    return run_batch(spec, _execute, reporter)


def detect_batch(spec: DetectSpec, reporter: Reporter) -> DetectResult:
    """Search many slides for candidates; see `jobs.detect.run_detection`."""
    return run_detection(spec, _execute_detection, reporter)


def build_dataset(spec: DatasetSpec, reporter: BuildReporter) -> BuildResult:
    """Build a store of labelled figures; see `jobs.dataset.build`."""
    return build(spec, _execute_parts, reporter)


def train_ensemble(spec: TrainSpec, reporter: TrainReporter) -> TrainResult:
    """Train the folds of a recipe; see `jobs.train.train`."""
    return train(spec, _execute_folds, reporter)


def granted_cpus(root: Path = Path("/sys/fs/cgroup")) -> int:
    """CPUs that this process may use: the least of affinity, the cgroup's quota and the scheduler's grant.

    Sources: cgroup v2 `cpu.max` and v1 `cpu.cfs_quota_us` (kernel.org, admin-guide/cgroup-v2, cgroup-v1);
    Slurm's `SLURM_CPUS_PER_TASK` (sbatch(1)).

    Args:
        root: Where the cgroup file system is mounted.
    """
    grants = [len(os.sched_getaffinity(0))]
    if (quota := _cgroup_quota(root)) is not None:
        grants.append(max(1, int(quota)))
    if (slurm := os.environ.get("SLURM_CPUS_PER_TASK", "")).isdigit():
        grants.append(max(1, int(slurm)))
    return min(grants)


def _cgroup_quota(root: Path) -> float | None:
    v2, v1 = root / "cpu.max", root / "cpu" / "cpu.cfs_quota_us"
    if v2.exists():
        quota, period = v2.read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    if v1.exists() and (limit := int(v1.read_text())) > 0:
        return limit / int((v1.parent / "cpu.cfs_period_us").read_text())
    return None


def stays_here(options: PlacementOptions, slides: int) -> bool:
    """Return whether the work is done in this process: on request, or for a single slide."""
    asks_for_ray = options.address is not None or options.gpus_per_worker is not None
    return options.workers == 0 or (options.workers is None and slides <= 1 and not asks_for_ray)


def place(options: PlacementOptions, slides: int, cpus: int, gpus: float) -> Placement:
    """Divide what is granted.

    Args:
        options: What the user asked for.
        slides: How many slides there are to do.
        cpus: CPUs granted.
        gpus: GPUs granted.

    Returns:
        One worker per GPU, else one per `CPUS_PER_WORKER`, at least one and never more than slides; the CPUs
        and GPUs shared out evenly among them.

    Raises:
        InputError: where a worker is to get more than there is.
    """
    workers = options.workers
    if workers is None:
        workers = int(gpus) or cpus // (options.cpus_per_worker or CPUS_PER_WORKER)
    workers = max(1, min(slides, workers))
    on_cpu = options.device == "cpu"
    share = options.gpus_per_worker
    placement = Placement(
        workers=workers,
        cpus=options.cpus_per_worker or max(1, cpus // workers),
        gpus=share if share is not None else (0.0 if on_cpu or not gpus else min(1.0, gpus / workers)),
    )
    if placement.cpus > cpus or placement.gpus > gpus:
        raise InputError(
            f"a worker is to get {placement.cpus} CPUs and {placement.gpus:g} GPUs; "
            f"there are {cpus} CPUs and {gpus:g} GPUs",
            stage="placing workers",
            remedy="Lower --cpus-per-worker or --gpus-per-worker",
        )
    return placement


def _execute(
    tasks: Sequence[ClassifyTask], bundle: Bundle, spec: ClassifySpec, reporter: Reporter
) -> Generator[SlideOutcome[SlideResult], None, None]:
    build = partial(_classifier, bundle, spec)
    return _share_out(tasks, build, run_task, spec.placement, reporter)


def _classifier(bundle: Bundle, spec: ClassifySpec, placement: Placement) -> Classifier:
    options = spec.placement
    return Classifier(
        bundle, spec.result, device=options.device, batch_size=options.batch_size, threads=placement.cpus
    )


def _execute_detection(
    tasks: Sequence[SlideTask], model: DetectorModel, spec: DetectSpec, reporter: Reporter
) -> Generator[SlideOutcome[SlideCandidates], None, None]:
    build = partial(_slide_detector, model, spec)
    return _share_out(tasks, build, detect_task, spec.placement, reporter)


def _slide_detector(model: DetectorModel, spec: DetectSpec, placement: Placement) -> SlideDetector:
    return SlideDetector(model, spec, threads=placement.cpus)


def _share_out(
    tasks: Sequence[AnyTask],
    build: Callable[[Placement], Model],
    do: Callable[[AnyTask, Model, Callable[[int], None]], SlideOutcome[Result]],
    options: PlacementOptions,
    reporter: Reporter,
) -> Generator[SlideOutcome[Result], None, None]:
    """Do slides in this process or on Ray.

    Args:
        tasks: The slides, largest first.
        build: Makes what a worker keeps from slide to slide.
        do: Does one slide with it, and reports how many more patches the model has processed.
        options: Where.
        reporter: Displays the progress.
    """
    if not tasks:
        return
    if stays_here(options, len(tasks)):
        model = build(Placement(0, options.cpus_per_worker or granted_cpus(), 0.0))
        for task in tasks:
            yield do(task, model, reporter.patches)
        return
    with ray_runtime(options.address) as ray:
        have = ray.cluster_resources()
        placement = place(options, len(tasks), int(have.get("CPU", 1)), have.get("GPU", 0.0))
        if options.address is not None:
            placement = _fitting_nodes(ray, placement, options)
        yield from _on_ray(ray, tasks, build, do, placement, reporter)


@contextmanager
def ray_runtime(address: str | None) -> Iterator[Any]:
    """A Ray to work on: the cluster at `address`, or one of this process's own that ends with the block.

    Nothing is reported to anyone, there is no dashboard, and a local Ray listens on loopback only. Its
    session lies in a private folder that is removed at the end.

    Raises:
        InputError: where the cluster cannot be reached, or a local Ray does not start.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with _local_ray() if address is None else _cluster(address) as ray:
        yield ray


@contextmanager
def _cluster(address: str) -> Iterator[Any]:
    import ray

    try:
        _check_listening(address)
        _init(ray, address=address)
    except Exception as error:
        _shut_down(ray)
        raise InputError(
            f"no Ray cluster answers: {_brief(error)}",
            subject=f"--address {address}",
            stage="connecting",
            remedy="`ray status` on the cluster's head tells its address",
        ) from error
    try:
        yield ray
    finally:
        _shut_down(ray)


@contextmanager
def _local_ray() -> Iterator[Any]:
    """A Ray of this process's own, whose workers are known to start."""
    check_loopback()
    with session_folder() as session:
        store = object_store(session)
        _prepare_environment()
        try:
            import ray
        except Exception as error:
            raise _not_started(error) from error
        try:
            try:
                _init(
                    ray,
                    address="local",  # else RAY_ADDRESS, or a cluster that runs on this machine, is taken
                    num_cpus=granted_cpus(),
                    include_dashboard=False,
                    object_store_memory=store.size_bytes,
                    _plasma_directory=str(store.folder),
                    _temp_dir=str(session / "r"),  # Ray lets everybody write to it, but not to its parent
                    _node_ip_address=LOOPBACK,
                )
                # Ray itself would wait for its worker processes for ever
                ray.get(ray.remote(num_cpus=1)(lambda: None).remote(), timeout=START_SECONDS)
            except Exception as error:
                raise _not_started(error) from error
            yield ray
        finally:
            _shut_down(ray)


def _prepare_environment() -> None:
    """Set what Ray reads from the environment, for its processes too."""
    os.environ[NO_CLUSTER] = "0"
    # Ray's own token would be written to the home, which may be read-only.
    if not os.environ.get(TOKEN):
        os.environ[TOKEN] = secrets.token_hex(32)
    if os.environ.get(TOKEN_MODE) not in TOKEN_MODES:
        os.environ.pop(TOKEN_MODE, None)


def _init(ray: Any, **options: Any) -> None:
    """Start Ray or connect to it, and leave this process's handler of SIGTERM as it was."""
    on_termination = signal.getsignal(signal.SIGTERM)  # ray.init puts its own in place, which exits at once
    try:
        ray.init(log_to_driver=False, logging_level="error", **options)
    except SystemExit as end:  # that handler's, on a SIGTERM while Ray starts
        raise KeyboardInterrupt from end
    finally:
        if on_termination is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_termination)


def _shut_down(ray: Any) -> None:
    """End Ray, and only then obey a signal: an exception in the middle of it makes Ray abort the process."""
    if threading.current_thread() is not threading.main_thread():
        ray.shutdown()
        return
    held: list[int] = []
    before = {number: signal.getsignal(number) for number in ENDING_SIGNALS}
    ours = {number: handler for number, handler in before.items() if callable(handler)}
    for number in ours:
        signal.signal(number, lambda received, _: held.append(received))
    try:
        ray.shutdown()
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)
    if held:
        signal.raise_signal(held[0])


def _not_started(error: Exception) -> InputError:
    return InputError(
        f"Ray does not start: {type(error).__name__}: {_brief(error)}",
        stage=STAGE,
        remedy=f"`wsi-mitosis doctor` reports what it lacks; or {WITHOUT_RAY}",
    )


def _brief(error: Exception) -> str:
    """Return an error on one line: its first line, and its last, which is the reason that a daemon gave."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return "no reason is given"
    reason = lines[0] if len(lines) == 1 else f"{lines[0].rstrip(':. ')} ({lines[-1]})"
    return reason[:MESSAGE_CHARACTERS]


def _check_listening(address: str) -> None:
    """Fail in seconds where nobody listens: Ray itself tries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()


def _fitting_nodes(ray: Any, placement: Placement, options: PlacementOptions) -> Placement:
    """A worker lives on one node: its share is no larger than the smallest node that has any CPU."""
    if options.cpus_per_worker is not None:
        return placement
    nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    return Placement(placement.workers, min(placement.cpus, *(n for n in nodes if n)), placement.gpus)


class SlideWorker:
    """Runs in a Ray actor: one model, one slide at a time, and a count that others may read."""

    def __init__(
        self, build: Callable[[Placement], Any], do: Callable[..., Any], placement: Placement
    ) -> None:
        self._do = do
        self._patches = 0
        self._lock = threading.Lock()
        self._fault: WsiMitosisError | None = None
        try:
            self._model = build(placement)
        except WsiMitosisError as error:  # kept whole: of a constructor's error Ray only gives the text
            self._fault = error

    def run(self, task: SlideTask) -> tuple[SlideOutcome[Any] | WsiMitosisError, int]:
        """Do one slide.

        Returns:
            Its outcome, or what kept the model from being built; and the patches since the last call of
            `patches`.
        """
        if self._fault is not None:
            return self._fault, 0
        outcome: SlideOutcome[Any] = self._do(task, self._model, self._count)
        return outcome, self.patches()

    def patches(self) -> int:
        """Return how many patches the model has processed since the last call."""
        with self._lock:
            number, self._patches = self._patches, 0
        return number

    def _count(self, number: int) -> None:
        with self._lock:
            self._patches += number


def _on_ray(
    ray: Any,
    tasks: Sequence[AnyTask],
    build: Callable[[Placement], Model],
    do: Callable[[AnyTask, Model, Callable[[int], None]], SlideOutcome[Result]],
    placement: Placement,
    reporter: Reporter,
) -> Iterator[SlideOutcome[Result]]:
    """Actors take slides from one queue; each holds its model as long as there are any."""
    # a second thread in the actor answers `patches` while the first is at work
    actor = ray.remote(num_cpus=placement.cpus, num_gpus=placement.gpus, max_concurrency=2)(SlideWorker)

    def start_worker() -> Any:
        return actor.remote(build, do, placement)

    waiting = deque(tasks)
    busy: dict[Any, tuple[Any, AnyTask]] = {}

    def give(worker: Any) -> None:
        if waiting:
            task = waiting.popleft()
            busy[worker.run.remote(task)] = (worker, task)

    for _ in range(placement.workers):
        give(start_worker())
    any_done = False
    counts = _Counts(ray, reporter.patches)
    while busy:
        ready, _ = ray.wait(list(busy), timeout=POLL_SECONDS)
        counts.poll([worker for worker, _ in busy.values()])
        for reference in ready:
            worker, task = busy.pop(reference)
            try:
                outcome, patches = ray.get(reference)
            except ray.exceptions.RayError as error:
                outcome, patches = _lost(task, error), 0
                worker = start_worker() if waiting else None
            if isinstance(outcome, WsiMitosisError):
                if not any_done:  # as in this process: nothing can be started
                    raise outcome
                outcome = SlideOutcome(task.name, "failed", error=str(outcome))
            any_done = any_done or outcome.status == "done"
            reporter.patches(patches)
            yield outcome
            give(worker)
    counts.take(POLL_SECONDS)


class _Counts:
    """Collects the workers' counts without holding up the slides."""

    def __init__(self, ray: Any, report: Callable[[int], None]) -> None:
        self._ray, self._report = ray, report
        self._asked: dict[Any, Any] = {}

    def poll(self, workers: Sequence[Any]) -> None:
        for worker in workers:
            if worker not in self._asked.values():
                self._asked[worker.patches.remote()] = worker
        self.take(0)

    def take(self, seconds: float) -> None:
        """Report the answers that have arrived, or arrive within so many seconds."""
        if not self._asked:
            return
        ready, _ = self._ray.wait(list(self._asked), num_returns=len(self._asked), timeout=seconds)
        for reference in ready:
            del self._asked[reference]
            try:
                self._report(self._ray.get(reference))
            except self._ray.exceptions.RayError:
                continue  # a worker that died: its slide's own outcome says so


def _lost(task: SlideTask, error: Exception) -> SlideOutcome[Any]:
    """The outcome of a slide whose worker died: no memory, a crash in a decoder, a node that went away."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return SlideOutcome(
        task.name,
        "failed",
        error=f"{task.name}: its worker died ({type(error).__name__}: {lines[-1][:200] if lines else ''}). "
        "Run again: finished slides are kept. Fewer --workers need less memory",
        details=str(error),
    )


def _execute_parts(parts: Sequence[Part], spec: DatasetSpec) -> Generator[PartOutcome, None, None]:
    options = spec.placement
    if stays_here(options, len(parts)):
        yield from run_parts(parts, options.cpus_per_worker or granted_cpus())
        return
    with ray_runtime(options.address) as ray:
        have = ray.cluster_resources()
        gpus = have.get("GPU", 0.0) if spec.masks == "nuclick" else 0.0
        yield from _parts_on_ray(ray, parts, place(options, len(parts), int(have.get("CPU", 1)), gpus))


def _parts_on_ray(ray: Any, parts: Sequence[Part], placement: Placement) -> Iterator[PartOutcome]:
    """As many parts at a time as there are workers; Ray's worker processes stay, with their mask provider."""
    task = ray.remote(num_cpus=placement.cpus, num_gpus=placement.gpus, max_retries=0)(run_part)
    waiting = deque(parts)
    busy: dict[Any, Part] = {}
    while waiting or busy:
        while waiting and len(busy) < placement.workers:
            part = waiting.popleft()
            busy[task.remote(part, placement.cpus)] = part
        ready, _ = ray.wait(list(busy))
        for reference in ready:
            part = busy.pop(reference)
            try:
                yield ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error
            except ray.exceptions.RayError as error:
                fault = f"{short_name(part.files[0])}: its worker died ({type(error).__name__}); run again"
                yield PartOutcome(part.index, len(part.files), faults=(fault,))


def _execute_folds(tasks: Sequence[FoldTask], spec: TrainSpec) -> Generator[FoldProgress, None, None]:
    options = spec.placement
    if stays_here(options, len(tasks)):
        yield from run_folds(tasks, options.cpus_per_worker or granted_cpus())
        return
    with ray_runtime(options.address) as ray:
        have = ray.cluster_resources()
        placement = place(options, len(tasks), int(have.get("CPU", 1)), have.get("GPU", 0.0))
        if options.address is not None:
            placement = _fitting_nodes(ray, placement, options)
        yield from _folds_on_ray(ray, tasks, placement)


def _folds_on_ray(ray: Any, tasks: Sequence[FoldTask], placement: Placement) -> Iterator[FoldProgress]:
    """As many folds at a time as there are workers; one whose worker dies goes on from its checkpoint."""
    # Ray itself would start the stream again from its beginning, which a fold that goes on does not repeat.
    remote = ray.remote(
        num_cpus=placement.cpus, num_gpus=placement.gpus, max_retries=0, num_returns="streaming"
    )(run_fold)
    waiting = deque((task, 1) for task in tasks)
    busy: dict[Any, tuple[FoldTask, int]] = {}
    while waiting or busy:
        while waiting and len(busy) < placement.workers:
            task, attempt = waiting.popleft()
            busy[remote.remote(task, placement.cpus)] = task, attempt
        ready, _ = ray.wait(list(busy), timeout=POLL_SECONDS, fetch_local=False)
        for stream in ready:
            task, attempt = busy[stream]
            try:
                yield ray.get(next(stream))
            except StopIteration:
                del busy[stream]
            except ray.exceptions.RayError as error:
                del busy[stream]
                if attempt < FOLD_ATTEMPTS:
                    waiting.append((task, attempt + 1))
                else:
                    yield _lost_fold(task, error)


def _lost_fold(task: FoldTask, error: Exception) -> FoldProgress:
    name = task.fold.name
    told = f"{name}: training: its worker died {FOLD_ATTEMPTS} times ({type(error).__name__}). "
    remedy = "Run again: it goes on from its last checkpoint; fewer --workers need less memory"
    return FoldProgress(name, 0, task.recipe.optimiser.epochs, error=told + remedy, details=str(error))


def try_ray() -> str:
    """Start a local Ray, run something on it, and return what it granted."""
    with ray_runtime(None) as ray:
        ray.get(ray.remote(num_cpus=1)(lambda: 1).remote())
        have = ray.cluster_resources()
        return f"starts; {have.get('CPU', 0):g} CPUs, {have.get('GPU', 0):g} GPUs"
