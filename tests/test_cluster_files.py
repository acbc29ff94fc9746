"""The files of `pipelines/cluster`, checked by the tools that read them; Slurm's runs on a real Ray.

What a tool that is not installed would check is skipped. Slurm is replaced by a stand-in for `srun`, which
runs its command on this machine.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

from tests.kuberay import parse_ray_job
from tests.runs import candidates_csv, slides_in, summary
from wsi_mitosis.cli import COMMANDS, main
from wsi_mitosis.io.shipped import shipped

CLUSTER = shipped("pipelines") / "cluster"
GPU = Path(__file__).parents[1] / "train" / "gpu.sh"
FILES = sorted(path for path in CLUSTER.iterdir() if path.is_file())
BIN = Path(sys.executable).parent
WSI_MITOSIS = BIN / "wsi-mitosis"
COMMAND = re.compile(rf"\bwsi-mitosis ((?:{'|'.join(COMMANDS)})\b[^'`&;\n]*)")
PATIENCE = 180.0
"""Seconds until a job counts as hanging."""
FOLDER = Path(f"/tmp/wsi-mitosis-{os.getpid()}")  # noqa: S108 - the script's own, for the job of this number


def tool(name: str) -> str:
    """The path of a program that checks a file; the test is skipped where it is not installed."""
    found = shutil.which(name, path=f"{BIN}:{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def checked(*command: str | Path) -> str:
    """Run a checking program, which must find nothing."""
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def text(name: str) -> str:
    return (CLUSTER / name).read_text(encoding="utf-8")


def parse(command: str) -> None:
    """Parse a command line of the program, without running it.

    Raises:
        click.UsageError: if an option or a command is unknown, or an argument is missing.
    """
    name, *arguments = shlex.split(command)
    found = main.get_command(click.Context(main), name)
    assert found is not None
    while isinstance(found, click.Group):
        name, *arguments = arguments
        found = found.get_command(click.Context(found), name)
        assert found is not None
    found.make_context(name, arguments)


def test_all_files_are_there() -> None:
    names = ["Dockerfile", "ray-cluster.yaml", "rayjob.yaml", "wsi-mitosis.service", "wsi-mitosis.slurm"]
    assert [path.name for path in FILES] == [*names, "wsi-mitosis.timer"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_begins_with_its_assumptions_and_says_what_was_run(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    first = 1 if lines[0].startswith("#!") else 0
    end = next(i for i, line in enumerate(lines) if i >= first and not line.startswith("#"))
    comment = " ".join(line.lstrip("# ") for line in lines[first:end])
    assert "It is assumed that" in comment or "for the assumptions" in comment
    assert re.search(r"\bRun: .*Not run: ", comment)


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.suffix != ".timer"], ids=lambda path: path.name
)
def test_every_command_line_of_the_program_is_one_that_it_understands(path: Path) -> None:
    joined = re.sub(r"\\\n[# ]*", "", path.read_text(encoding="utf-8"))
    found = COMMAND.findall(joined)
    assert found
    for command in found:
        parse(command)


def test_a_command_line_that_the_program_does_not_understand_is_found() -> None:
    for wrong in ("run a.toml --metric x", "run", "models lst", "classify a.svs --detections"):
        with pytest.raises((click.UsageError, AssertionError)):
            parse(wrong)


def entries(unit: str) -> dict[str, list[str]]:
    """The settings of a unit; one that is given twice has two values."""
    found: dict[str, list[str]] = {}
    for line in unit.splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    analyze = tool("systemd-analyze")
    for name in ("wsi-mitosis.service", "wsi-mitosis.timer"):
        unit = text(name).replace("/opt/wsi-mitosis/venv/bin/wsi-mitosis", str(WSI_MITOSIS))
        (tmp_path / name).write_text(unit)
    assert checked(analyze, "verify", *sorted(tmp_path.iterdir())) == ""


def test_systemd_finds_the_service_hardened(tmp_path: Path) -> None:
    analyze = tool("systemd-analyze")
    version = int(checked(analyze, "--version").split()[1])
    if version < 250:
        pytest.skip("this systemd does not examine files")
    path = shutil.copy(CLUSTER / "wsi-mitosis.service", tmp_path)
    checked(analyze, "security", "--offline=yes", "--threshold=20", path)  # 2.0 of 10, where 0 is no exposure


def test_the_service_knows_the_exit_statuses_and_lets_a_run_end() -> None:
    service = entries(text("wsi-mitosis.service"))
    assert service["RestartPreventExitStatus"] == ["0 1 2 130"]
    assert service["KillMode"] == ["mixed"]
    assert service["OOMPolicy"] == ["continue"]
    assert service["TimeoutStopSec"] == ["5min"]
    assert "ProtectProc" not in service  # it hides the process that holds the output folder


@pytest.mark.parametrize("script", [CLUSTER / "wsi-mitosis.slurm", GPU])
def test_shellcheck_finds_nothing(script: Path) -> None:
    checked(tool("shellcheck"), script)


def test_slurm_signals_the_script_ahead_of_the_time_limit() -> None:
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", text("wsi-mitosis.slurm"), re.MULTILINE))
    assert options["signal"] == "B:TERM@300"
    assert {"nodes", "ntasks-per-node", "cpus-per-task", "mem", "time"} <= set(options)
    first = text("wsi-mitosis.slurm").index("\nset -euo")
    assert "#SBATCH" not in text("wsi-mitosis.slurm")[first:]  # sbatch would ignore it there


def test_hadolint_finds_nothing_and_each_target_ends_as_another_user_than_root() -> None:
    checked(tool("hadolint"), CLUSTER / "Dockerfile")
    stages = re.split(r"^FROM ", text("Dockerfile"), flags=re.MULTILINE)[1:]
    for stage in stages:
        users = re.findall(r"^USER (\S+)$", stage, re.MULTILINE)
        assert users[-1:] in ([], ["10001"])
        assert users or "base AS" in stage


def test_the_images_entry_points_are_commands() -> None:
    for words in re.findall(r"^ENTRYPOINT (\[.+\])$", text("Dockerfile"), re.MULTILINE):
        if command := json.loads(words)[1:]:
            parse(shlex.join(command))


def ray_start_options() -> set[str]:
    from ray.scripts.scripts import start

    return {name for parameter in start.params for name in parameter.opts}


def test_the_ray_job_fits_kuberays_schema() -> None:
    job = parse_ray_job(yaml.safe_load(text("rayjob.yaml")))
    parse(job.spec.entrypoint.removeprefix("wsi-mitosis "))
    cluster = job.spec.ray_cluster_spec
    assert cluster.auth_options.mode == "token"
    for group in cluster.groups:
        assert {f"--{name}" for name in group.ray_start_params} <= ray_start_options()
        pod = group.template.spec
        for container in pod.containers:
            assert {mount.name for mount in container.volume_mounts} == {
                volume.name for volume in pod.volumes
            }
            assert container.resources.requests == container.resources.limits  # or the kernel kills it first
    for workers in cluster.worker_group_specs:
        assert workers.min_replicas == workers.replicas == workers.max_replicas


def test_ray_accepts_the_cluster_file_as_ray_up_does() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    cluster = yaml.safe_load(text("ray-cluster.yaml"))
    config = prepare_config(copy.deepcopy(cluster))
    validate_config(config)
    node = config["available_node_types"][config["head_node_type"]]
    assert (node["min_workers"], node["max_workers"]) == (1, len(cluster["provider"]["worker_ips"]))
    for command in (*cluster["head_start_ray_commands"], *cluster["worker_start_ray_commands"]):
        used = set(re.findall(r"(?<!\S)--[a-z-]+", command))
        assert used <= ray_start_options(), command
        assert "ray stop" in command or "RAY_AUTH_MODE=token" in command


SRUN = """\
#!/usr/bin/env bash
# Runs a job step on this machine, whichever node it is for.
while [[ ${1:-} == --* ]]; do shift; done
exec "$@"
"""


@pytest.fixture
def job(tmp_path: Path, small_bundle: Path) -> Iterator[tuple[list[str], dict[str, str], Path]]:
    """The command line and the environment of a job of two nodes, and its output folder."""
    (tmp_path / "bin").mkdir()
    srun = tmp_path / "bin/srun"
    srun.write_text(SRUN)
    srun.chmod(0o755)
    names = ["a.tiff", "b.tiff", "broken.tiff"]
    slides_in(tmp_path / "slides", names)[2].write_bytes(b"no slide")
    candidates_csv(tmp_path / "d.csv", names)
    (tmp_path / "night.toml").write_text(
        f'model = "{small_bundle}"\n'
        '[input]\nslides = ["slides"]\ndetections = "d.csv"\n'
        '[output]\nfolder = "out"\n'
        '[placement]\naddress = "auto"\ndevice = "cpu"\n'
    )
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM"))},
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "WSI_MITOSIS_VENV": str(BIN.parent),
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "1",
        "SLURMD_NODENAME": socket.gethostname(),
    }
    yield (
        ["bash", str(CLUSTER / "wsi-mitosis.slurm"), str(tmp_path / "night.toml")],
        environment,
        tmp_path / "out",
    )
    assert left_over() == []


def left_over() -> list[str]:
    """The processes of a job's Ray, and its folder, where they are still there a while after its end."""
    for _ in range(50):
        found = [str(FOLDER)] if FOLDER.exists() else []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                command = (process / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue  # it has just ended
            found += [command] if str(FOLDER) in command else []
        if not found:
            break
        time.sleep(0.2)
    return found


@pytest.mark.faults
def test_the_slurm_script_starts_ray_runs_the_pipeline_and_ends_ray(
    job: tuple[list[str], dict[str, str], Path],
) -> None:
    command, environment, out = job
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1, done.stdout + done.stderr  # of the run: one slide failed
    assert {name: row["status"] for name, row in summary(out).items()} == {
        "a.tiff": "done",
        "b.tiff": "done",
        "broken.tiff": "failed",
    }
    assert done.stderr.count("Ray runtime started") + done.stdout.count("Ray runtime started") == 2
    assert "not all of the 2 nodes have joined" not in done.stderr


@pytest.mark.faults
def test_sigterm_ahead_of_the_time_limit_reaches_the_run_which_writes_its_state(
    job: tuple[list[str], dict[str, str], Path],
) -> None:
    command, environment, out = job
    process = subprocess.Popen(
        command,
        env=environment | {"SLURM_JOB_NUM_NODES": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    log, late = out / "log.jsonl", time.monotonic() + PATIENCE
    while not log.exists() and time.monotonic() < late:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 130
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert run["exit_status"] == 130
    assert "pending" in {slide["status"] for slide in run["slides"]}


def test_sigterm_while_ray_starts_ends_ray(job: tuple[list[str], dict[str, str], Path]) -> None:
    command, environment, out = job
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    late = time.monotonic() + PATIENCE
    while not FOLDER.exists() and time.monotonic() < late:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 130
    assert not out.exists()
