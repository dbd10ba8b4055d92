"""On what a run was made."""

import os
import platform
from pathlib import Path

import psutil

from bench.results import Machine


def describe(folder: Path) -> Machine:
    """`folder`: on the disk that is measured."""
    return Machine(
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        processor=_processor(),
        memory_gigabytes=psutil.virtual_memory().total / 1e9,
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        file_system=_file_system(folder),
        load_before=psutil.getloadavg()[0],
    )


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _file_system(folder: Path) -> str:
    folder = folder.resolve()
    mounts = [part for part in psutil.disk_partitions(all=True) if folder.is_relative_to(part.mountpoint)]
    if not mounts:
        return "unknown"
    return max(mounts, key=lambda part: len(part.mountpoint)).fstype
