"""The disk's own limits, measured with plain files: what everything else is compared with.

Each figure is taken with as many writing processes at once as the cluster has nodes, because that is how many logs the
nodes of a `dev` cluster write on the same disk; latencies alone, too. Each writer has a file of its own and appends
to it, as a log does.
"""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from bench.processes import Failed, Started
from bench.results import Bandwidth, Disk, Latency, quantile
from bench.settings import Settings

MIB = 1 << 20
SIZES = (200, 16 << 10)


class _Order(msgspec.Struct, frozen=True):
    """What one writer does."""

    path: str
    size: int
    seconds: float


def append(order: _Order) -> list[float]:
    """Appends blocks, each made durable before the next; returns the seconds each took."""
    block = os.urandom(order.size)
    times = []
    descriptor = os.open(order.path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    try:
        end = time.perf_counter() + order.seconds
        while (began := time.perf_counter()) < end:
            os.write(descriptor, block)
            os.fdatasync(descriptor)
            times.append(time.perf_counter() - began)
    finally:
        os.close(descriptor)
        os.unlink(order.path)
    return times


def _all_append(started: Started, folder: Path, size: int, writers: int, seconds: float) -> list[list[float]]:
    """Runs the writers at the same moment, each in its own process."""
    processes = [started.start([sys.executable, "-m", "bench.disk"]) for _ in range(writers)]
    for number, process in enumerate(processes):
        _send(process, _Order(str(folder / f"raw-{number}"), size, seconds))
    for process in processes:
        _receive(process)  # it has started and waits
    for process in processes:
        _send(process, None)
    times = [msgspec.json.decode(_receive(process), type=list[float]) for process in processes]
    started.stop(processes)
    return times


def _send(process: subprocess.Popen[bytes], message: _Order | None) -> None:
    assert process.stdin is not None
    process.stdin.write(msgspec.json.encode(message) + b"\n")
    process.stdin.flush()


def _receive(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise Failed("a process that measures the disk has ended; what it said stands above")
    return line


def latency(started: Started, folder: Path, size: int, writers: int, seconds: float) -> Latency:
    times = [1000 * t for writer in _all_append(started, folder, size, writers, seconds) for t in writer]
    return Latency(size, writers, len(times), quantile(times, 0.5), quantile(times, 0.99))


def bandwidth(started: Started, folder: Path, writers: int, seconds: float) -> Bandwidth:
    times = _all_append(started, folder, MIB, writers, seconds)
    written = sum(len(writer) for writer in times) * MIB
    return Bandwidth(writers, seconds, written / max(sum(writer) for writer in times) / 1e6)


def measure(started: Started, folder: Path, settings: Settings) -> Disk:
    latencies = tuple(
        latency(started, folder, size, writers, settings.latency) for size in SIZES for writers in (1, settings.nodes)
    )
    return Disk(latencies, bandwidth(started, folder, settings.nodes, settings.bandwidth))


def main() -> None:
    """One writer: takes its order from standard input, says that it is there, begins when told, answers the times."""
    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=_Order)
    sys.stdout.buffer.write(b"ready\n")
    sys.stdout.buffer.flush()
    if not sys.stdin.buffer.readline():
        return
    sys.stdout.buffer.write(msgspec.json.encode(append(order)) + b"\n")
    sys.stdout.buffer.flush()
    sys.stdin.buffer.readline()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
