"""Room on the disk: how much is left, and a ballast file that is given up when it runs short.

A store that refuses new records still needs room: deletions are written before they free anything, and so is what
compaction rewrites. The ballast is that room, kept from everybody else until it is needed.
"""

import contextlib
import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)


def free_bytes(directory: Path) -> int:
    """Bytes an unprivileged process may still write to the file system of `directory`."""
    stats = os.statvfs(directory)
    return stats.f_bavail * stats.f_frsize


class Ballast:
    """A file of `size` bytes that exists while the disk has room. `size` 0: none."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._size = size

    def keep(self) -> None:
        """Makes the file if it is not there; a disk that has no room for it goes without."""
        if self._size == 0 or self._path.exists():
            return
        try:
            with self._path.open("xb") as file:
                os.posix_fallocate(file.fileno(), 0, self._size)
        except OSError as error:
            log.warning("no ballast: %s cannot be made: %s", self._path, error)
            self.give_up()

    def give_up(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
