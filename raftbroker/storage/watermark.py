"""How far the store is known to be durable, noted outside the store: what a cut file cannot take back.

A write-ahead log cut off between two records looks exactly like one that ends there, and a cut MANIFEST like an
older one. So after every sync the engine notes which sizes the write-ahead log and the MANIFEST have durably
reached. The note itself is not synced: the kernel writes it out when it likes, and a power loss may leave an older
one. That is fine, because a note only ever claims what was durable when it was made; a killed process loses nothing
of it.

Two slots are written in turn, each with a counter and a CRC, so that one of them is whole whatever is interrupted.
A note that cannot be read claims nothing.
"""

import contextlib
import logging
import os
import struct
from pathlib import Path

import google_crc32c
import msgspec

log = logging.getLogger(__name__)

_SLOT = struct.Struct("<8sQQQQQ")
_CRC = struct.Struct("<I")
_MAGIC = b"rbsynced"
_SLOT_BYTES = 512  # a sector each


class Note(msgspec.Struct, frozen=True):
    """Durable: `wal_bytes` of write-ahead log number `wal`, and `manifest_bytes` of MANIFEST number `manifest`."""

    wal: int = 0
    wal_bytes: int = 0
    manifest: int = 0
    manifest_bytes: int = 0


class _Followed:
    """A file that RocksDB appends to, held open to ask for its size."""

    def __init__(self, path: Path, number: int) -> None:
        self.number = number
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.settled = 0
        """Bytes of it that are durable, as far as is known."""

    @property
    def size(self) -> int:
        return os.fstat(self.descriptor).st_size

    def settle(self) -> None:
        size = self.size
        os.fsync(self.descriptor)
        self.settled = size

    def close(self) -> None:
        os.close(self.descriptor)


class Watermark:
    """The notes' file, and the two files of the open database that they are about.

    Made when the database has just been opened; only the thread that writes and syncs calls the rest."""

    def __init__(self, path: Path, database: Path) -> None:
        self._database = database
        self._count = _read(path)[0]
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        for directory in (database, path.parent):
            _sync_directory(directory)
        self._manifest = self._current_manifest()
        self._manifest.settle()
        self._wal = self._newest_wal()
        self._doubted = False
        self.advance()

    def _current_manifest(self) -> _Followed:
        name = (self._database / "CURRENT").read_text().strip()
        return _Followed(self._database / name, int(name.removeprefix("MANIFEST-")))

    def _newest_wal(self) -> _Followed:
        newest = max(self._database.glob("*.log"), key=lambda path: int(path.stem))
        return _Followed(newest, int(newest.stem))

    def advance(self) -> None:
        """Notes what is durable; called right after each sync.

        A sync follows a write: a log that has not grown since the last one is no longer the newest. Of the
        MANIFEST it notes what was there at the last sync: the write since then proves that RocksDB did not fail
        in the middle of it."""
        wal_bytes = self._wal.size
        if wal_bytes == self._wal.settled or self._doubted:
            self._follow_again()
            wal_bytes = self._wal.size
        self._wal.settled = wal_bytes
        self._note(wal_bytes, self._manifest.settled)
        if self._manifest.size != self._manifest.settled:  # once per flush or compaction
            self._manifest.settle()

    def _follow_again(self) -> None:
        self._wal.close()
        self._wal = self._newest_wal()
        if self._doubted:
            self._manifest.close()
            self._manifest = self._current_manifest()
            self._doubted = False

    def doubt(self) -> None:
        """A write or sync failed for want of room: RocksDB goes on with new files, the old ones may end torn."""
        self._doubted = True

    def close(self) -> None:
        """The database has just closed, with everything synced."""
        if not self._doubted:
            self._follow_again()
            self._manifest.settle()
            self._note(self._wal.size, self._manifest.settled)
            os.fsync(self._file)
        os.close(self._file)
        self._wal.close()
        self._manifest.close()

    def _note(self, wal_bytes: int, manifest_bytes: int) -> None:
        self._count += 1
        body = _SLOT.pack(_MAGIC, self._count, self._wal.number, wal_bytes, self._manifest.number, manifest_bytes)
        with contextlib.suppress(OSError):  # the older note stays, and claims less
            os.pwrite(self._file, body + _CRC.pack(google_crc32c.value(body)), (self._count % 2) * _SLOT_BYTES)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_note(path: Path) -> Note:
    """The newest whole note, or one that claims nothing."""
    return _read(path)[1]


def _read(path: Path) -> tuple[int, Note]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return 0, Note()
    found = (0, Note())
    for at in (0, _SLOT_BYTES):
        body = data[at : at + _SLOT.size]
        crc = data[at + _SLOT.size : at + _SLOT.size + _CRC.size]
        if len(crc) < _CRC.size or _CRC.pack(google_crc32c.value(body)) != crc:
            continue
        magic, count, wal, wal_bytes, manifest, manifest_bytes = _SLOT.unpack(body)
        if magic == _MAGIC and count > found[0]:
            found = (count, Note(wal, wal_bytes, manifest, manifest_bytes))
    if found[0] == 0 and data:
        log.warning("%s is damaged and not believed", path)
    return found
