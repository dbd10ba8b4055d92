"""The README's first ten minutes, followed word for word, against a real cluster (on other ports)."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.cli.test_dev import Dev, offset, start

ROOT = Path(__file__).parents[3]
__all__ = ["offset", "start"]


def first_ten_minutes() -> list[str]:
    """The shell blocks of that section, each as it stands."""
    section = (ROOT / "README.md").read_text().split("## The first ten minutes")[1].split("\n## ")[0]
    return re.findall(r"```\n(.*?)```", section, re.DOTALL)


@pytest.mark.cluster
def test_the_first_ten_minutes(start: Callable[..., Dev], offset: int, tmp_path: Path) -> None:
    dev = start("--nodes", "3", data="raftbroker-dev")
    dev.until_said("3 nodes ready in")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    shutil.copy(ROOT / "README.md", tmp_path)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAFTBROKER_URL": f"http://127.0.0.1:{8082 + offset}",
    }
    outputs = []
    for block in first_ten_minutes():
        moved = re.sub(r"127\.0\.0\.1:(808\d)", lambda found: f"127.0.0.1:{int(found[1]) + offset}", block)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", moved],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{moved}\n{done.stdout}\n{done.stderr}"
        outputs.append(done.stdout)
    first, file, killed, over_http = outputs
    assert "healthy, 3 nodes" in first
    assert "the first record" in first
    lines = len((ROOT / "README.md").read_text().splitlines())
    assert f"produced {lines} records" in file
    assert killed.splitlines()[-1].strip() == str(lines + 3)
    assert '"error_code":null' in over_http
    assert '"topic":"hello"' in over_http
