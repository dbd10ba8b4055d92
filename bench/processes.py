"""Processes that the benchmark starts, and what they cost.

Every one of them ends with the benchmark, also when that fails: they are kept in a `Started`, whose end asks each to
stop and kills those that do not. Nothing else is ever signalled.
"""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

import psutil

STOP_SECONDS = 25.0
ROOT = Path(__file__).parents[1]


class Failed(Exception):
    """The benchmark cannot go on; the text says why, and what to do where there is something."""


class Started:
    """The processes started within a `with` block; all have ended after it."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(
        self, command: Sequence[str], *, log: Path | None = None, environment: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Starts it in the repository's root, in a session of its own: Ctrl-C is for the benchmark, which stops it.

        With a `log` its output goes there, else its standard output can be read."""
        with contextlib.ExitStack() as stack:
            written = stack.enter_context(log.open("ab")) if log is not None else None
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.PIPE,
                stdout=written or subprocess.PIPE,
                stderr=written,
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def stop(self, processes: Iterable[subprocess.Popen[bytes]]) -> None:
        """Closes their standard input and asks them to end; kills those that do not within STOP_SECONDS."""
        processes = list(processes)
        for process in processes:
            if process.poll() is None:
                with contextlib.suppress(OSError):
                    assert process.stdin is not None
                    process.stdin.close()
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for process in processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()
            self._processes.remove(process)

    def __enter__(self) -> "Started":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(self._processes)


def say(generator: "subprocess.Popen[bytes]", line: bytes) -> None:
    """A line for a load generator."""
    assert generator.stdin is not None
    generator.stdin.write(line + b"\n")
    generator.stdin.flush()


def hear(generator: "subprocess.Popen[bytes]") -> bytes:
    """Its next line. Raises Failed."""
    assert generator.stdout is not None
    line = generator.stdout.readline()
    if not line:
        raise Failed("the load generator has ended; what it said stands above")
    return line


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, of all its threads."""
    used = psutil.Process(pid).cpu_times()
    return float(used.user + used.system)


def resident_megabytes(pid: int) -> float:
    return float(psutil.Process(pid).memory_info().rss) / 1e6


def free_base_port(offsets: Iterable[int], candidates: Iterable[int]) -> int:
    """The first of `candidates` at which every offset is a port that nobody listens on. Raises Failed."""
    offsets = list(offsets)
    for base in candidates:
        if all(_is_free(base + offset) for offset in offsets):
            return base
    raise Failed("no free ports were found on 127.0.0.1; stop what listens on many of them")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
