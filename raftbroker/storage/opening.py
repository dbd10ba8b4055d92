"""Opens a node's store: checks the files first, then the database, then its format.

In the node's data directory: `rocksdb/` (the database), `synced` (see `watermark`), `ballast` (see `space`).
"""

import contextlib
import logging
from pathlib import Path

import msgspec

from consensus.errors import Damaged
from raftbroker.storage import layout
from raftbroker.storage.check import check_files
from raftbroker.storage.engine import FAMILIES, Batch
from raftbroker.storage.frames import FileDamaged
from raftbroker.storage.records import RecordReader
from raftbroker.storage.rocks import RocksEngine, RocksOptions
from raftbroker.storage.space import Ballast
from raftbroker.storage.store import LogStore
from raftbroker.storage.watermark import make_note, sync_path

log = logging.getLogger(__name__)

_MIB = 1 << 20
_MEMTABLE_BYTES_MIN = 64 << 10
"""What RocksDB raises a smaller write buffer to."""


class StorageOptions(msgspec.Struct, frozen=True):
    """What a node may configure of its store."""

    reserve_bytes: int = 256 * _MIB
    """Left free for deletions and compaction: below that, new records are refused. 0: never refused."""
    ballast_bytes: int = 64 * _MIB
    """A file given up when the reserve is reached, made again when there is room."""
    memtable_bytes: int = RocksOptions().memtables_bytes_max
    """Of all column families together; one family switches to a new table at a quarter of it."""
    cache_bytes: int = RocksOptions().cache_bytes

    @property
    def rocks(self) -> RocksOptions:
        return RocksOptions(
            memtable_bytes=max(_MEMTABLE_BYTES_MIN, self.memtable_bytes // 4),
            memtables_bytes_max=self.memtable_bytes,
            short_bytes=self.reserve_bytes,
            cache_bytes=self.cache_bytes,
        )


class StoreDamaged(Damaged):
    """The files of a store are not what was written; it must not be used, and the node can rejoin without it."""

    def __init__(self, path: Path, directory: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(
            f"{path} is damaged: {reason}. This node must not start with it. Move {directory} away and start the node "
            "again with an empty directory: it rejoins as a learner and is promoted once it has caught up"
        )


def open_store(directory: Path, options: StorageOptions | None = None) -> tuple[LogStore, RecordReader]:
    """The store in `directory`, made if nothing was ever there.

    Raises StoreDamaged, naming the file, where anything but the very last record of the write-ahead log is not as it
    was written, and OSError where the directory cannot be used or another process has it."""
    options = options or StorageOptions()
    database, note = directory / "rocksdb", directory / "synced"
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_path(path.parent)
    ballast = Ballast(directory / "ballast", options.ballast_bytes)
    engine: RocksEngine | None = None
    try:
        fresh = check_files(database, note)
        if fresh:
            make_note(note)
        engine = RocksEngine(database, options.rocks, create=fresh, note=note)
        _check_format(engine)
        store = LogStore(
            engine,
            reserve_bytes=options.reserve_bytes,
            on_full=lambda full: ballast.give_up() if full else ballast.keep(),
            reclaim=engine.reclaim,
        )
    except Damaged as error:
        if engine is not None:
            with contextlib.suppress(Damaged):  # RocksDB's own work has met the damage as well
                engine.close()
        raise StoreDamaged(database, directory, str(error)) from error
    except FileDamaged as error:
        raise StoreDamaged(error.path, directory, error.reason) from error
    if not store.full:
        ballast.keep()
    return store, RecordReader(engine)


def _check_format(engine: RocksEngine) -> None:
    """Notes the format in a new store. Raises Damaged where it is missing from one that is not new."""
    found = engine.get("node", layout.FORMAT_KEY)
    if found is None:
        for family in FAMILIES:
            for key, _ in engine.scan(family, b"", b"\xff" * 64):
                raise Damaged(f"it holds rows ({family} {key.hex()}) but no format version")
        batch = Batch()
        batch.put("node", layout.FORMAT_KEY, layout.pack_number(layout.FORMAT))
        engine.write(batch)
        engine.sync()
    elif found != layout.pack_number(layout.FORMAT):
        engine.close()
        raise OSError(
            f"{engine.path} has storage format {int.from_bytes(found, 'big')}, this version knows {layout.FORMAT}: "
            "run the version that wrote it, or a newer one"
        )
