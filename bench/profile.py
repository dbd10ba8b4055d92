"""Profiles of the nodes' processes: switches the sampler on (`sampling/sitecustomize.py`) and reads what it found."""

import os
import time
from pathlib import Path

import msgspec

from bench.processes import Failed
from bench.results import Profile

_SAMPLING = Path(__file__).parent / "sampling"
_WAIT_SECONDS = 10.0
_ALWAYS_THERE = (
    "<frozen runpy>",
    "threading.py",
    "uvloop/__init__.py",
    "asyncio/runners.py",
    "concurrent/futures/",
    "raftbroker/cli/server.py",
    "bench/raft_node.py <module>",
)
"""Functions at the bottom of every stack say nothing."""


class Profiling:
    """For the processes started with its `environment`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._folder.mkdir(parents=True, exist_ok=True)

    @property
    def environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(_SAMPLING), *filter(None, [os.environ.get("PYTHONPATH")])])
        return {"PYTHONPATH": path, "BENCH_PROFILE": str(self._folder)}

    def window(self, name: str) -> None:
        """From now on samples count for the case `name`; for none if it is empty."""
        new = self._folder / "window.new"
        new.write_text(name)
        new.rename(self._folder / "window")

    def profile(self, pid: int, name: str) -> Profile:
        """What the process did during the case, whose window is over. Raises Failed."""
        file = self._folder / f"{pid}-{name.replace(' ', '_').replace('/', '_')}.json"
        deadline = time.monotonic() + _WAIT_SECONDS
        while not file.exists():
            if time.monotonic() > deadline:
                raise Failed(f"process {pid} has left no profile of {name}: does it run with another Python?")
            time.sleep(0.05)
        profile = msgspec.json.decode(file.read_bytes(), type=Profile)
        functions = tuple(line for line in profile.functions if not line.where.startswith(_ALWAYS_THERE))
        return msgspec.structs.replace(profile, functions=functions)
