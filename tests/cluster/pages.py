"""Pages of docs/ whose commands are run as they stand: the first `sh` block behind each `###` heading."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.cluster.dev import DevCluster

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^### (?P<title>.+?)\n.*?^```sh\n(?P<commands>.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> list[tuple[str, str]]:
    """Title and commands of each."""
    return [(found["title"], found["commands"]) for found in BLOCK.finditer((DOCS / page).read_text())]


def run(cluster: DevCluster, folder: Path, commands: str, seconds: float = 60) -> str:
    """What the commands say, run in the folder against the cluster. Raises AssertionError where one fails."""
    script = commands.replace("http://127.0.0.1:8082", cluster.url(1))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": path, "RAFTBROKER_URL": cluster.url(1)},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, f"status {done.returncode} of\n{script}\nwhich said\n{done.stdout}\n{done.stderr}"
    return done.stdout
