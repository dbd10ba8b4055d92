"""A sampling profiler inside the nodes' processes, for `python -m bench --profile`.

Python imports a module of this name at start-up from the path, which the benchmark extends for the processes it
starts; BENCH_PROFILE names the folder to work in, and without it nothing happens. A thread looks a few hundred times a
second where every Python thread is, and charges each with the CPU time it has used since the last look: a thread that
waits costs nothing, and C code that a line calls is charged to that line. What the process used beyond its Python
threads was used by RocksDB's own threads.

The file `window` in the folder names the case under way; whenever it changes, what was gathered under the last name
goes to `PID-NAME.json`. It stands alone: a node's process can import nothing of the benchmark.
"""

import json
import os
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType

INTERVAL_SECONDS = 0.003
LINES_MAX = 60
_OWN = "the sampler itself"


class Sampler:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._changed = 0
        self._name = ""
        self._clocks: dict[int, float] = {}
        self._process = 0.0
        self._clear()

    def run(self) -> None:
        while True:
            time.sleep(INTERVAL_SECONDS)
            try:
                changed = os.stat(self._folder / "window").st_mtime_ns
            except FileNotFoundError:
                continue
            if changed != self._changed:
                self._changed = changed
                self._look()
                self._dump()
                self._name = (self._folder / "window").read_text()
                self._clear()
            elif self._name:
                self._look()

    def _clear(self) -> None:
        self._process = time.process_time()
        self._began = self._process
        self._clocks = {thread: _used(thread) for thread in sys._current_frames()}
        self._threads: Counter[str] = Counter()
        self._lines: Counter[str] = Counter()
        self._functions: Counter[str] = Counter()

    def _look(self) -> None:
        me = threading.get_ident()
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        for thread, frame in sys._current_frames().items():
            now = _used(thread)
            used = now - self._clocks.get(thread, 0.0)
            self._clocks[thread] = now
            if used <= 0:
                continue
            if thread == me:
                self._threads[_OWN] += used
                continue
            self._threads[names.get(thread, "a thread that is gone")] += used
            self._lines[f"{_where(frame)}:{frame.f_lineno}"] += used
            for function in _functions(frame):
                self._functions[function] += used

    def _dump(self) -> None:
        if not self._name:
            return
        total = time.process_time() - self._began
        self._threads["RocksDB's own threads"] = max(0.0, total - sum(self._threads.values()))
        found = {
            "case": self._name,
            "cpu_seconds": total,
            **{
                name: [{"where": where, "seconds": seconds} for where, seconds in counter.most_common(LINES_MAX)]
                for name, counter in (
                    ("threads", self._threads),
                    ("lines", self._lines),
                    ("functions", self._functions),
                )
            },
        }
        file = self._folder / f"{os.getpid()}-{self._name.replace(' ', '_').replace('/', '_')}.json"
        part = file.with_suffix(".part")
        part.write_text(json.dumps(found))
        part.rename(file)


def _used(thread: int) -> float:
    """CPU seconds of a thread; 0 for one that has just ended."""
    try:
        return time.clock_gettime(time.pthread_getcpuclockid(thread))
    except OSError:
        return 0.0


def _where(frame: FrameType) -> str:
    file = frame.f_code.co_filename
    for folder in ("/site-packages/", f"/lib/python{sys.version_info.major}.{sys.version_info.minor}/"):
        file = file.rpartition(folder)[2]
    return f"{os.path.relpath(file) if file.startswith('/') else file} {frame.f_code.co_qualname}"


def _functions(frame: FrameType | None) -> set[str]:
    found = set()
    while frame is not None:
        found.add(_where(frame))
        frame = frame.f_back
    return found


def _start() -> None:
    folder = os.environ.get("BENCH_PROFILE")
    if folder and {"raftbroker.cli.server", "bench.raft_node"} & set(sys.orig_argv):
        threading.Thread(target=Sampler(Path(folder)).run, name=_OWN, daemon=True).start()


_start()
