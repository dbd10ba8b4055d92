"""A sampling profiler inside the nodes' processes, for `python -m bench --profile`.

Python imports a module of this name at start-up from the path, which the benchmark extends for the processes it
starts; BENCH_PROFILE names the folder to work in, and without it nothing happens. After every few milliseconds of CPU
time a signal looks where each Python thread is, and charges it with the CPU time it has used since the last look: a
thread that waits costs nothing, and C code that a line calls is charged to that line. (A thread that looks would see
the others mostly where they let go of the interpreter's lock.) Of the event loop's thread this is accurate; of the
writer thread its total is, but its lines only roughly, because it has gone on when it is looked at. What the process
used beyond its Python threads was used by RocksDB's own threads.

The file `window` in the folder names the case under way; whenever it changes, what was gathered under the last name
goes to `PID-NAME.json`. It stands alone: a node's process can import nothing of the benchmark.
"""

import json
import os
import signal
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from types import CodeType, FrameType

INTERVAL_SECONDS = 0.002
LINES_MAX = 60


class Sampler:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._window = str(folder / "window")
        self._names: dict[CodeType, str] = {}
        self._changed = 0
        self._name = ""
        self._began = 0.0
        self._clocks: dict[int, float] = {}
        self._clear()

    def sample(self, number: int, frame: FrameType | None) -> None:
        """The signal's handler; it runs in the main thread, which is at `frame`."""
        try:
            changed = os.stat(self._window).st_mtime_ns
        except FileNotFoundError:
            return
        if changed != self._changed:
            self._changed = changed
            self._look(frame)
            self._dump()
            self._name = Path(self._window).read_text()
            self._clear()
        elif self._name:
            self._look(frame)

    def _clear(self) -> None:
        self._began = time.process_time()
        self._clocks = {thread: _used(thread) for thread in sys._current_frames()}
        self._threads: defaultdict[str, float] = defaultdict(float)
        self._lines: defaultdict[str, float] = defaultdict(float)
        self._functions: defaultdict[str, float] = defaultdict(float)

    def _look(self, mine: FrameType | None) -> None:
        me = threading.get_ident()
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        for thread, other in sys._current_frames().items():
            now = _used(thread)
            used = now - self._clocks.get(thread, 0.0)
            self._clocks[thread] = now
            frame = mine if thread == me else other
            if used <= 0 or frame is None:
                continue
            self._threads[names.get(thread, "a thread that is gone")] += used
            self._lines[f"{self._where(frame.f_code)}:{frame.f_lineno}"] += used
            for code in _codes(frame):
                self._functions[self._where(code)] += used

    def _where(self, code: CodeType) -> str:
        name = self._names.get(code)
        if name is None:
            name = self._names[code] = _where(code)
        return name

    def _dump(self) -> None:
        if not self._name:
            return
        total = time.process_time() - self._began
        self._threads["RocksDB's own threads"] = max(0.0, total - sum(self._threads.values()))
        found = {
            "case": self._name,
            "cpu_seconds": total,
            **{
                name: [{"where": where, "seconds": seconds} for where, seconds in _most(times)]
                for name, times in (
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


def _most(times: dict[str, float]) -> list[tuple[str, float]]:
    return sorted(times.items(), key=lambda item: -item[1])[:LINES_MAX]


def _where(code: CodeType) -> str:
    file = code.co_filename
    for folder in ("/site-packages/", f"/lib/python{sys.version_info.major}.{sys.version_info.minor}/"):
        file = file.rpartition(folder)[2]
    return f"{os.path.relpath(file) if file.startswith('/') else file} {code.co_qualname}"


def _codes(frame: FrameType | None) -> set[CodeType]:
    found = set()
    while frame is not None:
        found.add(frame.f_code)
        frame = frame.f_back
    return found


def _start() -> None:
    folder = os.environ.get("BENCH_PROFILE")
    if folder and {"raftbroker.cli.server", "bench.raft_node"} & set(sys.orig_argv):
        signal.signal(signal.SIGPROF, Sampler(Path(folder)).sample)
        signal.siginterrupt(signal.SIGPROF, False)
        signal.setitimer(signal.ITIMER_PROF, INTERVAL_SECONDS, INTERVAL_SECONDS)


_start()
