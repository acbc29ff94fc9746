"""The blocks of a page that are marked `sh` or `python`, and a run of the commands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path


def commands(page: str) -> list[str]:
    """The lines of all blocks that are marked `sh`."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def python_blocks(page: str) -> list[str]:
    """The blocks that are marked `python`, in their order."""
    return re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)


def run_in_order(found: list[str], folder: Path) -> None:
    """Run commands in one folder, as a new user of this Python would; each must end well.

    Networks that the tests have compiled are in the cache that the commands use.
    """
    programs = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    caches = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    for command in found:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=folder,
            capture_output=True,
            text=True,
            env={"PATH": programs, "HOME": str(folder), "XDG_CACHE_HOME": caches},
        )
        if command != "wsi-mitosis doctor":  # which may rightly complain of the machine's free space
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
