"""How far a node's write-ahead log is on its disk, as its process last noted; and the power loss that takes the rest.

The note is 16 bytes, log number and length, written over after each fsync. It is not synced itself, and need not be:
no power is lost here, the process is killed, and what it wrote the kernel has. A note that is late claims too little,
which is right: nobody was answered before it was written.

What a power loss takes: of the newest log everything behind a point drawn between what was synced and what was
written, and whole logs begun after the last sync. Older logs and all other files RocksDB itself syncs before it
counts on them.
"""

import os
import struct
from pathlib import Path
from random import Random

_NOTE = struct.Struct("<QQ")
_FILE = "durable"


class DurableNote:
    """The writing side, in the node."""

    def __init__(self, folder: Path) -> None:
        self._file = os.open(folder / _FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def write(self, number: int, size: int) -> None:
        os.pwrite(self._file, _NOTE.pack(number, size), 0)


def newest_log(database: Path) -> tuple[int, int]:
    """(number, bytes) of the write-ahead log that is written now; (0, 0) where there is none."""
    logs = _logs(database)
    if not logs:
        return 0, 0
    number = max(logs)
    return number, logs[number].stat().st_size


def lose_power(database: Path, folder: Path, random: Random, *, all_of_it: bool = False) -> int:
    """Takes what was not synced from the database of a node that was killed. Returns how many bytes went."""
    try:
        number, synced = _NOTE.unpack((folder / _FILE).read_bytes())
    except (FileNotFoundError, struct.error):
        return 0
    lost = 0
    for log, path in sorted(_logs(database).items()):
        if log < number:
            continue
        size = path.stat().st_size
        floor = min(synced, size) if log == number else 0
        kept = floor if all_of_it or lost else random.randint(floor, size)
        if kept < size:
            os.truncate(path, kept)
            lost += size - kept
    return lost


def _logs(database: Path) -> dict[int, Path]:
    with os.scandir(database) as entries:
        return {int(entry.name[:-4]): Path(entry.path) for entry in entries if entry.name.endswith(".log")}
