"""Commands that are told of the end of a run: real programs."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from time import monotonic, sleep

import pytest

from wsi_mitosis.io.notify import notify

SUMMARY = {
    "exit_status": 1,
    "slides": {"done": 2, "failed": 1},
    "folder": Path("/data/Müller"),
    "x": "a\udcfc",
}


def script(tmp_path: Path, code: str, name: str = "command.py") -> str:
    """A command line that runs some Python, in a file whose name has a blank."""
    path = tmp_path / f"the {name}"
    path.write_text(code)
    return f"{sys.executable} '{path}'"


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_the_command_reads_the_summary_and_gets_its_arguments(tmp_path: Path) -> None:
    code = (
        "import json, sys, pathlib\n"
        "pathlib.Path(sys.argv[1]).write_text(json.dumps([sys.argv[2:], json.load(sys.stdin)]))"
    )
    command = script(tmp_path, code)
    assert notify(f"{command} '{tmp_path / 'told'}' 'night shift' $HOME '|' tee", SUMMARY) is None
    arguments, summary = json.loads((tmp_path / "told").read_text())
    assert arguments == ["night shift", "$HOME", "|", "tee"]
    assert summary == SUMMARY | {"folder": "/data/Müller"}


def test_a_command_need_not_read_its_input() -> None:
    assert notify("true", {"slides": ["x" * 100] * 10_000}) is None


@pytest.mark.parametrize(
    ("command", "cause"),
    [
        (
            "no-such-program --to me",
            "the command 'no-such-program' cannot be started: No such file or directory",
        ),
        ("/etc/passwd", "the command '/etc/passwd' cannot be started: Permission denied"),
        ("mail 'to me", "the command cannot be split into arguments: No closing quotation"),
        ("  ", "the command is empty"),
        ("false secret", "the command 'false' ended with exit status 1"),
    ],
)
def test_a_command_that_cannot_work_is_a_message(command: str, cause: str) -> None:
    assert notify(command, SUMMARY) == f"--notify: {cause}. The results are complete"


def test_the_message_has_the_end_of_what_the_command_printed(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "print('begin' + 'x' * 999)\n"
        "print('no route\\x1b[31m to\\nmail', file=sys.stderr)\n"
        "sys.exit(75)"
    )
    message = notify(script(tmp_path, code), SUMMARY)
    assert message is not None
    assert "ended with exit status 75: " in message
    assert message.endswith("xxx no route\\x1b[31m to mail. The results are complete")
    assert "begin" not in message
    assert len(message) < 600


def test_a_command_that_a_signal_ends_is_a_message(tmp_path: Path) -> None:
    code = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
    assert "was ended by signal 9" in (notify(script(tmp_path, code), SUMMARY) or "")


def test_a_command_that_hangs_is_ended_with_what_it_started(tmp_path: Path) -> None:
    code = (
        "import pathlib, subprocess, sys, time\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(child.pid))\n"
        "print('waiting for the server', flush=True)\n"
        "time.sleep(600)"
    )
    started = monotonic()
    message = notify(script(tmp_path, code), SUMMARY, seconds=3)
    assert monotonic() - started < 60
    assert message is not None
    assert "took longer than 3 s and was ended: waiting for the server" in message
    child = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if not is_running(child):
            break
        sleep(0.1)
    assert not is_running(child)


def test_the_token_of_a_cluster_is_not_inherited_and_the_rest_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    monkeypatch.setenv("MAILTO", "pathology")
    code = (
        "import json, os, pathlib\n"
        f"pathlib.Path({str(tmp_path / 'env')!r}).write_text(json.dumps(dict(os.environ)))"
    )
    assert notify(script(tmp_path, code), SUMMARY) is None
    inherited = json.loads((tmp_path / "env").read_text())
    assert inherited["MAILTO"] == "pathology"
    assert inherited["PATH"] == os.environ["PATH"]
    assert "RAY_AUTH_TOKEN" not in inherited
