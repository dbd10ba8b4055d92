"""The engine over RocksDB, through rocksdict in raw mode: the only importer of rocksdict.

What is worked around here, and nowhere else:

- An iterator's upper bound is a pointer into its `ReadOptions`: options and key live as long as the cursor. The lower
  bound sets the upper one, so it is never used. An iterator that meets corruption just ends: `status` tells, and is
  asked whenever one ends.
- `write` holds the GIL, through a write stall too: writes are `no_slowdown`, refused ones are tried again from the
  writer thread. `flush_wal` releases the GIL.
- A snapshot is of one column family, and iterating over it shows the present: a view is made of iterators instead, one
  per family, made while no write runs.
- Errors are plain `Exception`s: `_translate` tells corruption, a full disk and the rest apart by their text.

Records lie in blob files (BlobDB), decided by the bytes that go to the disk per byte accepted: that bounds the rate
once the disk is the limit. 768 MiB in batches of 16 over six partitions, half of it trimmed on the way, flushes and
compaction counted (write_bytes of /proc/self/io):

                                          16 KiB values    1 MiB values
    in tables, levelled                        6.1              4.3
    blobs, RocksDB's defaults for GC           3.9              2.8
    blobs, no GC                               2.05             1.98
    blobs, GC as set here                      2.27             -      (with many small blob files)

2 is the floor: once to the write-ahead log, once to its place. Half the rate of plain appending needs just that. GC of
the oldest quarter of the blob files, RocksDB's default, moves records that nobody deleted. Retention mostly empties
whole files, so only the oldest twentieth is looked at, until garbage grows past two fifths (a topic was deleted, whose
records share files with others'): then half of them, until it is below one fifth.
The price is reading: scanning 16 KiB values from the page cache is slower than from tables (0.7 to 1.9 GB/s). Values
under 4 KiB stay in the tables, where many of them are read at once.

A flush that is asked for, and closing is one, waits while it would bring a stall about: for ever, where the disk has no
room to compact. `_lift_stalls` takes the reasons for stalls away meanwhile.

A full disk that RocksDB itself meets (the store above refuses writes before it comes to that) is a background error
that RocksDB resumes from by itself within 5 s of space coming back; until then writes raise `StoreFull`.
"""

import contextlib
import functools
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
from rocksdict import (
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    DBRecoveryMode,
    Options,
    Rdict,
    RdictIter,
    ReadOptions,
    WriteBatch,
    WriteOptions,
)

from consensus.errors import Damaged, StoreFull
from raftbroker.storage.engine import DELETE, FAMILIES, PUT, Batch, Family
from raftbroker.storage.space import free_bytes
from raftbroker.storage.watermark import Watermark

_MIB = 1 << 20
_STALL_PAUSE_SECONDS = 0.002
_STALL_PAUSES_MAX = 30_000
_STALL_PAUSES_SHORT = 500
"""After these, a stall on a disk that is short of room is put down to that."""
_GC_CUTOFF_USUAL, _GC_CUTOFF_MUCH = "0.05", "0.5"
_GC_CHECK_WRITES = 512
_STALLS = {
    "level0_slowdown_writes_trigger": 20,
    "level0_stop_writes_trigger": 36,
    "soft_pending_compaction_bytes_limit": 64 << 30,
    "hard_pending_compaction_bytes_limit": 256 << 30,
}
"""When writes are held back until compaction has caught up: RocksDB's defaults."""
_NO_STALLS = dict.fromkeys(_STALLS, 1 << 30) | {name: 0 for name in _STALLS if name.endswith("bytes_limit")}


class RocksOptions(msgspec.Struct, frozen=True):
    """Bounds of one database. The defaults keep RocksDB under 64 MiB of memory, whatever the load."""

    memtable_bytes: int = 8 * _MIB
    """Of the column family `log`; the others have half."""
    memtables_bytes_max: int = 32 * _MIB
    """Of all column families together."""
    cache_bytes: int = 16 * _MIB
    wal_bytes_max: int = 64 * _MIB
    short_bytes: int = 0
    """With less than this free, a write that stalls is refused as on a full disk: compaction may lack the room."""
    blobs: bool = True
    blob_bytes_min: int = 4096
    """Smaller values lie in the tables themselves."""


class RocksEngine:
    """An `Engine`; see there for what it promises. `note`: where to note what is durable (`watermark`)."""

    def __init__(self, path: Path, options: RocksOptions, *, create: bool, note: Path | None = None) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._open: weakref.WeakSet[RocksView | _Cursor] = weakref.WeakSet()
        cache = Cache(options.cache_bytes)
        families = {name: _family_options(name, options, cache) for name in ("default", *FAMILIES)}
        with _translated(path):
            self._database = Rdict(str(path), _database_options(options, create), families)
            self._families = {name: self._database.get_column_family(name) for name in FAMILIES}
            self._handles = {name: self._database.get_column_family_handle(name) for name in FAMILIES}
        self._write_options = WriteOptions()
        self._write_options.no_slowdown = True
        self._watermark = None if note is None else Watermark(note, path)
        self._short_bytes = options.short_bytes
        self._writes = 0
        self._gc_cutoff = _GC_CUTOFF_USUAL

    def get(self, family: Family, key: bytes) -> bytes | None:
        try:
            value: bytes | None = self._families[family].get(key)
        except Exception as error:
            raise _translate(error, self.path) from error
        return value

    def scan(self, family: Family, low: bytes, high: bytes, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        if low >= high:
            return
        cursor = _Cursor(self._families[family], self.path, high)
        self._open.add(cursor)
        yield from cursor.scan(low, reverse)

    def write(self, batch: Batch) -> None:
        for pause in range(1, _STALL_PAUSES_MAX + 1):
            rows = WriteBatch(raw_mode=True)  # consumed by `write`, also by one that is refused
            handles = self._handles
            for kind, family, key, value in batch.operations:
                if kind == PUT:
                    rows.put(key, value, handles[family])
                elif kind == DELETE:
                    rows.delete(key, handles[family])
                else:
                    rows.delete_range(key, value, handles[family])
            try:
                with self._lock:
                    self._database.write(rows, self._write_options)
            except Exception as error:
                if not str(error).startswith("Result incomplete"):
                    raise self._failed(error) from error
            else:
                self._writes += 1
                if self._writes % _GC_CHECK_WRITES == 0:
                    self._tune_gc()
                return
            if pause % _STALL_PAUSES_SHORT == 0 and self.free_bytes() < self._short_bytes:
                raise StoreFull(f"the disk of {self.path} is short of room, and compaction waits for it: free space")
            time.sleep(_STALL_PAUSE_SECONDS)
        raise OSError(f"{self.path}: RocksDB has refused a write for a minute because compaction is behind")

    def sync(self) -> None:
        try:
            self._database.flush_wal(True)
        except Exception as error:
            raise self._failed(error) from error
        if self._watermark is not None:
            self._watermark.advance()

    def _failed(self, error: Exception) -> Exception:
        if self._watermark is not None:
            self._watermark.doubt()
        return _translate(error, self.path)

    def snapshot(self) -> "RocksView":
        with self._lock, _translated(self.path):
            view = RocksView(self.path, self._families)
        self._open.add(view)
        return view

    def free_bytes(self) -> int:
        return free_bytes(self.path)

    def flush(self) -> None:
        """Writes the memtables out to table files: their write-ahead logs can go."""
        with _translated(self.path):
            lifted = self._lift_stalls()
            try:
                for family in self._families.values():
                    family.flush(True)
            finally:
                for family in lifted:
                    family.set_options({name: str(value) for name, value in _STALLS.items()})

    def reclaim(self, ranges: Sequence[tuple[bytes, bytes]]) -> None:
        """Frees now what deletions in `log` will free one day; for a disk that is full. Takes up to seconds.

        Where not even that has room, they are left to that day."""
        with contextlib.suppress(StoreFull):
            self.flush()
            with _translated(self.path):
                for first, end in ranges:
                    self._families["log"].compact_range(first, end)
            self._tune_gc()

    def _lift_stalls(self) -> list[Rdict]:
        """From the families, returned, that are half way to a stall: it takes 25 ms each."""
        lifted = []
        for family in self._families.values():
            files = int(family.property_value("rocksdb.num-files-at-level0") or 0)
            pending = family.property_int_value("rocksdb.estimate-pending-compaction-bytes") or 0
            if (
                files * 2 > _STALLS["level0_slowdown_writes_trigger"]
                or pending * 2 > _STALLS["soft_pending_compaction_bytes_limit"]
            ):
                family.set_options({name: str(value) for name, value in _NO_STALLS.items()})
                lifted.append(family)
        return lifted

    def _tune_gc(self) -> None:
        """See the module's docstring."""
        family = self._families["log"]
        total = family.property_int_value("rocksdb.live-blob-file-size") or 0
        garbage = family.property_int_value("rocksdb.live-blob-file-garbage-size") or 0
        cutoff = self._gc_cutoff
        if garbage * 5 > total * 2:
            cutoff = _GC_CUTOFF_MUCH
        elif garbage * 5 < total:
            cutoff = _GC_CUTOFF_USUAL
        if cutoff != self._gc_cutoff:
            with _translated(self.path):
                family.set_options({"blob_garbage_collection_age_cutoff": cutoff})
            self._gc_cutoff = cutoff

    def close(self) -> None:
        """Also ends every view and scan still open: only then does RocksDB let go of the directory.

        It lets go in any case. What RocksDB could not do is raised afterwards: it flushes the memtables, and refuses
        once work in the background has met damage."""
        for reading in list(self._open):
            reading.close()
        self._handles.clear()
        failed: Exception | None = None
        steps: list[Callable[[], object]] = [functools.partial(self._database.flush_wal, True), self._lift_stalls]
        for step in (*steps, *(family.close for family in self._families.values()), self._database.close):
            try:
                step()
            except Exception as error:  # noqa: BLE001 - rocksdict raises nothing narrower
                failed = failed or error
        if self._watermark is not None:
            self._watermark.close(synced=failed is None)
        if failed is not None:
            raise _translate(failed, self.path) from failed


class RocksView:
    """An `EngineView`: one iterator per column family, all made at the same moment, which is what they show for ever.

    Each holds on to the memtables and files of that moment, so a view should not live for long. Scans of one family may
    be interleaved: whoever finds the iterator moved by another goes back to its own place."""

    def __init__(self, path: Path, families: dict[Family, Rdict]) -> None:
        self._path = path
        self._options = ReadOptions()
        self._cursors = {name: family.iter(self._options) for name, family in families.items()}
        self._users: dict[Family, object] = {}

    def _cursor(self, family: Family) -> RdictIter:
        if family not in self._cursors:
            raise OSError(f"{self._path}: this view is closed")
        return self._cursors[family]

    def get(self, family: Family, key: bytes) -> bytes | None:
        for _, value in self.scan(family, key, key + b"\0"):
            return value
        return None

    def scan(self, family: Family, low: bytes, high: bytes, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        if low >= high:
            return
        me = self._users[family] = object()
        _seek(self._cursor(family), low, high, reverse)
        while self._cursor(family).valid():
            key: bytes = self._cursor(family).key()
            if not low <= key < high:
                return
            yield key, self._cursor(family).value()
            if self._users[family] is not me:
                self._users[family] = me
                _seek(self._cursor(family), key + b"\0", key, reverse)
            elif reverse:
                self._cursor(family).prev()
            else:
                self._cursor(family).next()
        with _translated(self._path):
            self._cursor(family).status()

    def close(self) -> None:
        self._cursors = {}


def _seek(cursor: RdictIter, low: bytes, high: bytes, reverse: bool) -> None:
    """To the first key from `low` on, or in reverse to the last one before `high`; the cursor has no bounds."""
    if not reverse:
        cursor.seek(low)
        return
    cursor.seek_for_prev(high)
    if cursor.valid() and cursor.key() == high:
        cursor.prev()


class _Cursor:
    """An iterator up to a bound, with what the bound points into, in the order in which they may go."""

    __slots__ = ("__weakref__", "bound", "iterator", "options", "path")

    def __init__(self, family: Rdict, path: Path, bound: bytes) -> None:
        self.path = path
        self.bound = bound
        self.options = ReadOptions()
        self.options.set_iterate_upper_bound(bound)
        self.iterator: RdictIter | None = family.iter(self.options)

    @property
    def open(self) -> RdictIter:
        if self.iterator is None:
            raise OSError(f"{self.path}: the store was closed during a scan")
        return self.iterator

    def close(self) -> None:
        self.iterator = None

    def scan(self, low: bytes, reverse: bool) -> Iterator[tuple[bytes, bytes]]:
        if reverse:
            self.open.seek_to_last()
        else:
            self.open.seek(low)
        try:
            while self.open.valid():
                key: bytes = self.open.key()
                if reverse and key < low:
                    return
                yield key, self.open.value()
                if reverse:
                    self.open.prev()
                else:
                    self.open.next()
            with _translated(self.path):
                self.open.status()
        finally:
            self.close()


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise _translate(error, path) from error


def _translate(error: Exception, path: Path) -> Exception:
    text = str(error)
    if isinstance(error, OSError | Damaged | StoreFull):
        return error
    if "No space left" in text or "Space limit reached" in text or "Disk quota exceeded" in text:
        return StoreFull(f"the disk of {path} is full: delete topics, lower retention or free space ({text})")
    if text.startswith("Corruption") or "No such file" in text:
        return Damaged(f"{path}: {text}")
    return OSError(f"{path}: {text}")


def _database_options(options: RocksOptions, create: bool) -> Options:
    made = Options(raw_mode=True)
    made.create_if_missing(create)
    made.create_missing_column_families(create)
    made.set_paranoid_checks(True)
    made.set_wal_recovery_mode(DBRecoveryMode.absolute_consistency())
    made.set_db_write_buffer_size(options.memtables_bytes_max)
    made.set_max_total_wal_size(options.wal_bytes_max)
    made.set_max_background_jobs(2)
    made.set_bytes_per_sync(_MIB)
    made.set_max_file_opening_threads(1)
    made.set_keep_log_file_num(4)
    made.set_max_log_file_size(4 * _MIB)
    made.set_stats_dump_period_sec(0)
    made.set_stats_persist_period_sec(0)
    made.set_max_open_files(512)
    made.set_enable_pipelined_write(False)
    made.set_compaction_readahead_size(_MIB)
    return made


def _family_options(name: str, options: RocksOptions, cache: Cache) -> Options:
    made = Options(raw_mode=True)
    made.set_compression_type(DBCompressionType.none())
    made.set_write_buffer_size(options.memtable_bytes if name == "log" else options.memtable_bytes // 2)
    made.set_max_write_buffer_number(3)
    made.set_target_file_size_base(32 * _MIB)
    made.set_max_bytes_for_level_base(128 * _MIB)
    table = BlockBasedOptions()
    table.set_block_cache(cache)
    table.set_cache_index_and_filter_blocks(True)
    table.set_pin_l0_filter_and_index_blocks_in_cache(True)
    table.set_block_size(16 * 1024)
    table.set_format_version(5)
    made.set_block_based_table_factory(table)
    if name == "log":
        made.set_enable_blob_files(options.blobs)
        made.set_min_blob_size(options.blob_bytes_min)
        made.set_blob_file_size(64 * _MIB)
        made.set_enable_blob_gc(True)
        made.set_blob_gc_age_cutoff(float(_GC_CUTOFF_USUAL))
        made.set_blob_gc_force_threshold(0.5)
    return made
