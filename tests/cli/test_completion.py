"""Completion as it is typed: a line and a tab in a real bash, zsh and fish."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shlex
import shutil
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.cli.test_commands import HEAVY
from wsi_mitosis.cli import main
from wsi_mitosis.io.shipped import names

ROOT = Path(__file__).parents[2]
PATIENCE = 120.0
"""Seconds until a shell counts as hanging."""
SHELLS = {
    "bash": ("bash --norc --noprofile -i", "source ./script"),
    "zsh": ("zsh -f -i", "autoload -Uz compinit; compinit -u -D; source ./script"),
    "fish": ("fish --no-config -i", "source ./script"),
}
"""How each shell is started without the user's settings, and takes the script."""
START_OF_LINE, TAB = "\x01", "\t"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory in which the program can be called by its name, and files can be completed."""
    monkeypatch.chdir(tmp_path)
    for name in ("candidates.csv", "nights/"):
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).touch()
    program = tmp_path / "bin" / "wsi-mitosis"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m wsi_mitosis "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TERM", "xterm")
    return tmp_path


def completed(shell: str, line: str) -> list[str]:
    """The arguments of a line after a tab was typed at its end, as the shell passes them to a command."""
    start, take = SHELLS[shell]
    command, *arguments = shlex.split(start)
    if shutil.which(command) is None:
        pytest.skip(f"{command} is not installed: apt-get install {command}")
    Path("script").write_text(CliRunner().invoke(main, ["completion", shell]).output, encoding="utf-8")
    driver, terminal = pty.openpty()
    process = subprocess.Popen(
        [command, *arguments],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # the session's own, as job control needs
    )
    os.close(terminal)
    try:
        typed = f"{take}\n{line}{TAB}{START_OF_LINE}printf '<%s>' \nexit\n"
        os.write(driver, typed.encode())
        shown = _until(driver, r"<wsi-mitosis>")
    finally:
        process.kill()
        process.wait()
        os.close(driver)
    return re.findall(r"<([^<>]*)>", "<wsi-mitosis>" + shown.partition("<wsi-mitosis>")[2])


def _until(driver: int, pattern: str) -> str:
    """What a shell shows until its end, or a second after the pattern appeared."""
    shown, end = "", time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if select.select([driver], [], [], 1.0)[0]:
            try:
                shown += os.read(driver, 65536).decode(errors="replace")
            except OSError:  # the terminal was closed (pty(7))
                return shown
        elif re.search(pattern, shown):
            return shown
    pytest.fail(f"the shell hangs: {shown[-2000:]!r}")


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("line", "last"),
    [
        ("wsi-mitosis rec", "recount"),
        ("wsi-mitosis models sho", "show"),
        ("wsi-mitosis classify --hotspot-as", "--hotspot-aspect"),
        ("wsi-mitosis classify --format gr", "grand-challenge"),
        ("wsi-mitosis classify --model amibr-na", "amibr-nano"),
        ("wsi-mitosis models show untr", "untrained-tiny"),
        ("wsi-mitosis run smo", "smoke"),
        ("wsi-mitosis train sing", "single_task"),
        ("wsi-mitosis classify --detections cand", "candidates.csv"),
        ("wsi-mitosis classify --model nig", "nights"),
    ],
)
def test_a_tab_completes_the_line(folder: Path, shell: str, line: str, last: str) -> None:
    *typed, _ = line.split()
    assert [word.removesuffix("/") for word in completed(shell, line)] == [*typed, last]


def asked(words: str) -> tuple[list[str], list[str]]:
    """The answers for bash in a process of its own, and which heavy modules it imported."""
    code = (
        "import sys\nfrom wsi_mitosis.cli import main\n"
        "try: main(prog_name='wsi-mitosis')\nexcept SystemExit as end: assert not end.code\n"
        f"print('LOADED', *[m for m in {HEAVY!r} if m in sys.modules])"
    )
    variables = {
        "_WSI_MITOSIS_COMPLETE": "bash_complete",
        "COMP_WORDS": f"wsi-mitosis {words}",
        "COMP_CWORD": str(len(words.split(" "))),
    }
    text = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | variables
    ).stdout
    *answers, last = text.splitlines()
    return [answer for answer in answers if answer], last.split()[1:]


@pytest.mark.parametrize(
    ("words", "answers"),
    [
        ("cl", ["plain,classify"]),
        ("classify --backend t", ["plain,torch"]),
        ("evaluate --model ", ["dir,", *(f"plain,{name}" for name in names("models"))]),
        ("report results --explain amibr-lite", ["dir,amibr-lite", "plain,amibr-lite0", "plain,amibr-lite2"]),
        ("run ", ["file,", *(f"plain,{name}" for name in names("pipelines"))]),
        ("train n", ["file,n", "plain,nano", "plain,nano_single_task"]),
        ("train nano --dataset s.zarr --out am", ["dir,am"]),
        ("classify a.svs --metrics ", ["file,"]),
        ("classify a.svs --mpp ", []),
    ],
)
def test_completing_loads_nothing_heavy(words: str, answers: list[str]) -> None:
    assert asked(words) == (answers, [])


def test_an_unknown_shell_is_named() -> None:
    result = CliRunner().invoke(main, ["completion", "tcsh"])
    assert result.exit_code == 2
    assert "'tcsh' is not one of 'bash', 'zsh', 'fish'" in result.stderr
