"""Faults of disks that lose nothing: one that is full, and one that is slow.

A full disk is a real one where the harness may mount a small file system for each node (Linux, root); elsewhere the
node is told how little is free, which is what it goes by before it comes to that.
"""

import contextlib
import os
import shutil
import subprocess
import sys

from jepsen.cluster import Node
from jepsen.faults.base import Fault
from jepsen.node import DELAY_FILE, FREE_FILE

VOLUME_BYTES = 256 << 20
DELAYS_MS = (20, 100, 400)
FILLER = "filler"
FILL_TRIES = 20


def may_mount() -> bool:
    return sys.platform == "linux" and os.geteuid() == 0 and shutil.which("mount") is not None


class Full(Fault):
    """The disk of some nodes has no room, or next to none, until the harness gives it back."""

    name = "full"
    variants = ("short", "empty")

    @classmethod
    def prepare(cls, node: Node) -> None:
        if may_mount():
            options = ["-t", "tmpfs", "-o", f"size={VOLUME_BYTES}", "tmpfs", str(node.volume)]
            subprocess.run(["mount", *options], check=True, capture_output=True)

    @classmethod
    def clean_up(cls, node: Node) -> None:
        if os.path.ismount(node.volume):
            subprocess.run(["umount", "--lazy", str(node.volume)], check=True, capture_output=True)

    async def begin(self) -> str:
        field = self.field
        self._victims = field.some(field.random.randint(1, len(field.numbers)))
        left = (8 << 20) if self.variant == "short" else 0
        for victim in self._victims:
            node = field.node(victim)
            if not _fill(node, left):
                (node.disk / FREE_FILE).write_text(str(left))
        return f"nodes {self._victims}, {left >> 20} MiB left"

    async def end(self) -> None:
        for victim in self._victims:
            node = self.field.node(victim)
            (node.volume / FILLER).unlink(missing_ok=True)
            (node.disk / FREE_FILE).unlink(missing_ok=True)


def _fill(node: Node, left: int) -> bool:
    """Takes all room of the node's volume but so many bytes; False where it has none of its own."""
    if not os.path.ismount(node.volume):
        return False
    with (node.volume / FILLER).open("wb") as file:
        for _ in range(FILL_TRIES):  # the node writes meanwhile
            stats = os.statvfs(node.volume)
            free = stats.f_bavail * stats.f_frsize - left
            if free <= 0:
                break
            with contextlib.suppress(OSError):
                os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), free)
    return True


class SlowDisk(Fault):
    """Every fsync of some nodes takes much longer."""

    name = "slow-disk"
    variants = ("one", "minority", "all")

    async def begin(self) -> str:
        field = self.field
        count = {"one": 1, "minority": max(1, field.minority)}.get(self.variant, len(field.numbers))
        self._victims = field.some(count)
        delay = field.random.choice(DELAYS_MS)
        for victim in self._victims:
            (field.node(victim).disk / DELAY_FILE).write_text(str(delay))
        return f"nodes {self._victims}, {delay} ms"

    async def end(self) -> None:
        for victim in self._victims:
            (self.field.node(victim).disk / DELAY_FILE).unlink(missing_ok=True)
