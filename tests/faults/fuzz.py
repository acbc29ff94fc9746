"""Fuzz every reader: `python -m tests.faults.fuzz --inputs 100000 --seed 1 [--reader NAME] [--keep FOLDER]`.

Each reader gets mutations of valid files, in a process of its own with limited memory. A fault is an
exception that is not the program's own, an input that takes more than 5 s, or a process that dies. An input
follows from the seed, the reader's name and its number alone, so that any of them can be repeated.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.faults.mutations import mutated

if TYPE_CHECKING:
    from tests.faults.readers import Reader

MOST_SECONDS = 5
LIMIT_BYTES = 2 << 30
"""What a reader may allocate beyond what the process has when all libraries are loaded."""
PATIENCE_SECONDS = 20
"""After which a process ends that does not notice its own alarm, because compiled code does not return."""


class _Slow(BaseException):
    """The alarm; no reader catches it."""


@dataclass
class Tally:
    """What became of one reader's inputs."""

    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    faults: list[dict[str, Any]] = field(default_factory=list)


def input_of(seed: int, name: str, number: int, files: list[tuple[Path, bytes]]) -> tuple[Path, bytes]:
    """Return which file a numbered input replaces, and its mutated content."""
    rng = random.Random(f"{seed}:{name}:{number}")
    path, data = rng.choice(files)
    return path, mutated(data, [other for _, other in files], rng)


def fuzz(
    inputs: int,
    seed: int,
    names: list[str] | None = None,
    *,
    keep: Path | None = None,
    jobs: int = 1,
) -> dict[str, Tally]:
    """Give the readers that many inputs in all, by their shares, and return what became of them.

    Args:
        inputs: Number of inputs.
        seed: Decides what they are.
        names: The readers; all by default.
        keep: Folder for the inputs that are faults.
        jobs: Number of processes at a time.
    """
    from tests.faults.readers import READERS

    chosen = {name: reader.share for name, reader in READERS.items() if not names or name in names}
    total = sum(chosen.values())
    plan = {name: max(1, round(inputs * share / total)) for name, share in chosen.items()}
    tallies = {name: Tally() for name in plan}
    with ThreadPoolExecutor(jobs) as pool:
        groups = [dict(list(plan.items())[job::jobs]) for job in range(jobs)]
        for _ in pool.map(lambda group: _fuzz_group(group, tallies, seed, keep), groups):
            pass
    return tallies


def _line(name: str, tally: Tally) -> str:
    return (
        f"{name:16} {tally.inputs:7} inputs {tally.accepted:7} read {tally.refused:7} refused "
        f"{tally.seconds:8.1f} s, slowest {tally.slowest:5.2f} s, {len(tally.faults)} faults"
    )


def _fuzz_group(plan: dict[str, int], tallies: dict[str, Tally], seed: int, keep: Path | None) -> None:
    """Run the worker of some readers; if it dies, another one goes on after the input that killed it."""
    start = 0
    while plan:
        begun: dict[str, Any] = {}
        died = False
        for event in _events(plan, start, seed, keep):
            if event["kind"] == "begin":
                begun = event
                continue
            died = event["kind"] == "died"
            if died and not begun:
                raise RuntimeError(f"cannot be fuzzed: {event['trace']}")
            _count(tallies[begun["reader"]], {**begun, **event})
        names = list(plan)
        plan = {name: plan[name] for name in names[names.index(begun["reader"]) :]} if died else {}
        start = begun["number"] + 1


def _count(tally: Tally, event: dict[str, Any]) -> None:
    tally.inputs += 1
    tally.accepted += event["kind"] == "read"
    tally.refused += event["kind"] == "refused"
    tally.seconds += event.get("seconds", 0.0)
    tally.slowest = max(tally.slowest, event.get("seconds", 0.0))
    if event["kind"] in {"fault", "died"}:
        tally.faults.append(event)


def _events(plan: dict[str, int], start: int, seed: int, keep: Path | None) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as errors:
        task = {"folder": folder, "plan": plan, "start": start, "seed": seed, "keep": keep and str(keep)}
        command = [sys.executable, "-m", "tests.faults.fuzz", "--worker", json.dumps(task)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as worker:
            assert worker.stdout is not None
            for line in worker.stdout:
                yield json.loads(line)
        if worker.returncode:
            errors.seek(0)
            yield {"kind": "died", "what": f"exit {worker.returncode}", "trace": errors.read()[-6000:]}


def _work(folder: str, plan: dict[str, int], start: int, seed: int, keep: str | None) -> None:
    """Read inputs, one JSON line for each before and after, in this process."""
    from tests.faults.readers import READERS, outcome

    given = {}
    for name in plan:
        place = Path(folder, name)
        place.mkdir()
        given[name] = [(path, path.read_bytes()) for path in READERS[name].write(place)]
        for path, _ in given[name]:
            if (error := outcome(READERS[name], path)) is not None:
                raise AssertionError(f"{name}: a valid file is refused: {error}")
    if "slides" in plan:
        import tiatoolbox.wsicore.wsireader  # noqa: F401 - its libraries count as loaded
    _limit_memory()
    signal.signal(signal.SIGALRM, _alarm)
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)  # what libraries print
        for name, files in given.items():
            for number in range(start if name == next(iter(plan)) else 0, plan[name]):
                _try_one(out, name, number, input_of(seed, name, number, files), keep)
                for file, whole in files:
                    file.write_bytes(whole)


def _try_one(out: Any, name: str, number: int, changed: tuple[Path, bytes], keep: str | None) -> None:
    from tests.faults.readers import READERS

    path, data = changed
    _say(out, kind="begin", reader=name, number=number, file=path.name)
    path.write_bytes(data)
    event = _attempt(READERS[name], path)
    if event["kind"] == "fault" and keep is not None:
        Path(keep).mkdir(parents=True, exist_ok=True)
        Path(keep, f"{name}-{number}-{path.name}").write_bytes(data)
    _say(out, **event)


def _attempt(reader: Reader, path: Path) -> dict[str, Any]:
    from tests.faults.readers import outcome

    begin = time.perf_counter()
    signal.alarm(MOST_SECONDS)
    faulthandler.dump_traceback_later(PATIENCE_SECONDS, exit=True)
    try:
        error = outcome(reader, path)
        event = {"kind": "read"} if error is None else {"kind": "refused"}
    except (Exception, _Slow) as error:  # noqa: BLE001 - every other exception is what is looked for
        trace = traceback.format_exc()
        event = {"kind": "fault", "what": f"{type(error).__name__}: {error}"[:300], "trace": trace[-3000:]}
    finally:
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()
    return {**event, "seconds": time.perf_counter() - begin}


def _alarm(*_: object) -> None:
    raise _Slow(f"more than {MOST_SECONDS} s")


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + LIMIT_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _say(out: Any, **event: Any) -> None:
    out.write(json.dumps(event) + "\n")
    out.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--reader", action="append")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--keep", type=Path, help="folder for the inputs that are faults")
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        faulthandler.enable()
        _work(**options.worker)
        return 0
    tallies = fuzz(options.inputs, options.seed, options.reader, keep=options.keep, jobs=options.jobs)
    for name, tally in tallies.items():
        print(_line(name, tally))
    faults = [fault for tally in tallies.values() for fault in tally.faults]
    for what, example in {_kind(fault): fault for fault in faults}.items():
        number = sum(_kind(fault) == what for fault in faults)
        print(f"\n{number} x {what}\n  e.g. input {example['number']} of {example['reader']}")
        print(example["trace"])
    inputs, seconds = sum(t.inputs for t in tallies.values()), sum(t.seconds for t in tallies.values())
    print(f"\n{inputs} inputs, {seconds:.0f} s in readers, {len(faults)} faults")
    return 1 if faults else 0


def _kind(fault: dict[str, Any]) -> str:
    """What two faults of one cause share: the reader, the exception and the last lines of the trace."""
    places = [line.strip() for line in fault["trace"].splitlines() if line.strip().startswith("File ")]
    return f"{fault['reader']}: {fault['what'].partition(':')[0]} {' <- '.join(places[-1:])}"


if __name__ == "__main__":
    sys.exit(main())
