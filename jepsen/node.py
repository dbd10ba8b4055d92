"""A node as the harness starts it: `python -m jepsen.node --config FILE`, the broker's own server behind a few seams.

Without further environment it is the broker, unchanged, but for a note of what its disk has: after each fsync of the
write-ahead log, `JEPSEN_DISK/durable` says how long that log had become, so that a power loss can take the rest.
Files in that folder also make the disk slow (`delay_ms`) or short of room (`free_bytes`).

`RAFTBROKER_PLANT=name` plants a bug (`jepsen.plants`). The broker itself knows neither of the two variables.
"""

import os
import select
import sys
import time
from pathlib import Path

from jepsen.disk_note import DurableNote, newest_log

DELAY_FILE, FREE_FILE = "delay_ms", "free_bytes"


def watch_disk(folder: Path) -> None:
    """Makes every database that this process opens tell what is durable, and do as the files in `folder` say."""
    from raftbroker.storage import rocks
    from raftbroker.storage.watermark import Watermark

    sync, advance, free = rocks.RocksEngine.sync, Watermark.advance, rocks.RocksEngine.free_bytes
    note = DurableNote(folder)

    def slow_sync(self: rocks.RocksEngine) -> None:
        delay = _number(folder / DELAY_FILE)
        if delay:
            sleep(delay / 1000)
        sync(self)

    def noted_advance(self: Watermark) -> None:
        """Before the node's own note: what that claims, no power loss may take."""
        note.write(*newest_log(self._database))
        advance(self)

    def bounded_free(self: rocks.RocksEngine) -> int:
        told = _number(folder / FREE_FILE)
        return free(self) if told is None else min(told, free(self))

    rocks.RocksEngine.sync = slow_sync  # type: ignore[method-assign]
    Watermark.advance = noted_advance  # type: ignore[method-assign]
    rocks.RocksEngine.free_bytes = bounded_free  # type: ignore[method-assign]


def sleep(seconds: float) -> None:
    """As time.sleep, which fails with EINVAL once libfaketime has moved the clock: what it calls, to wait until a point
    of monotonic time, the library gets wrong."""
    select.select([], [], [], seconds)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text() or "0")
    except FileNotFoundError:
        return None


def main() -> int:
    time.sleep = sleep  # type: ignore[assignment]  # any number will do
    folder = os.environ.get("JEPSEN_DISK")
    if folder:
        watch_disk(Path(folder))
    plant = os.environ.get("RAFTBROKER_PLANT")
    if plant:
        from jepsen.plants import switch_on

        switch_on(plant)
    from raftbroker.cli.server import main as serve

    return serve()


if __name__ == "__main__":
    sys.exit(main())
