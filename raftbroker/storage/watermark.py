"""How far the store is known to be durable, noted outside the store: what a cut file cannot take back.

A write-ahead log cut off between two records looks exactly like one that ends there, and a cut MANIFEST like an
older one. So after every sync the engine notes which sizes the write-ahead log and the MANIFEST have durably
reached. The note itself is not synced: the kernel writes it out when it likes, and a power loss may leave an older
one. That is fine, because a note only ever claims what was durable when it was made; a killed process loses nothing
of it.

Two slots are written in turn, each with a counter and a CRC, so that one of them is whole whatever is interrupted.
The first is on the disk, claiming nothing, before the database is made: where there is a database and no slot can be
read, something other than a crash has been at work.
"""

import contextlib
import os
import struct
from pathlib import Path

import google_crc32c
import msgspec

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

    Made when the database has just been opened, and the note is there; only the thread that writes and syncs calls the
    rest."""

    def __init__(self, path: Path, database: Path) -> None:
        self._database = database
        self._count = _read(path)[0]
        self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        for directory in (database, path.parent):
            sync_path(directory)
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
        if self._wal.size == self._wal.settled or self._doubted:
            self._follow_again()
        if self._doubted:
            return
        self._wal.settled = self._wal.size
        self._note()
        if self._manifest.size != self._manifest.settled:  # once per flush or compaction
            self._manifest.settle()

    def _follow_again(self) -> None:
        """Of an empty log, made for writes to come, nothing could be noted: the one before it may hold rows."""
        newest = self._newest_wal()
        if newest.size == 0:
            newest.close()
            return
        self._wal.close()
        self._wal = newest
        if self._doubted:
            self._manifest.close()
            self._manifest = self._current_manifest()
            self._doubted = False

    def doubt(self) -> None:
        """A write or sync failed for want of room: RocksDB goes on with new files, the old ones may end torn."""
        self._doubted = True

    def close(self, *, synced: bool) -> None:
        """The database has just closed; `synced`: with everything on disk."""
        if synced and not self._doubted:
            self._follow_again()
            self._wal.settled = self._wal.size
            self._manifest.settle()
            self._note()
            os.fsync(self._file)
        os.close(self._file)
        self._wal.close()
        self._manifest.close()

    def _note(self) -> None:
        self._count += 1
        wal, manifest = self._wal, self._manifest
        slot = _pack_slot(self._count, Note(wal.number, wal.settled, manifest.number, manifest.settled))
        with contextlib.suppress(OSError):  # the older note stays, and claims less
            os.pwrite(self._file, slot, (self._count % 2) * _SLOT_BYTES)


def make_note(path: Path) -> None:
    """Makes a note that claims nothing, unless there is one already, and has it on disk: to be called before the
    database is made."""
    if read_note(path) is None:
        path.write_bytes(bytes(_SLOT_BYTES) + _pack_slot(1, Note()))
    for made in (path, path.parent):
        sync_path(made)


def read_note(path: Path) -> Note | None:
    """The newest whole note; None where there is none."""
    return _read(path)[1]


def sync_path(path: Path) -> None:
    """A file, or a directory's entries."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _pack_slot(count: int, note: Note) -> bytes:
    body = _SLOT.pack(_MAGIC, count, note.wal, note.wal_bytes, note.manifest, note.manifest_bytes)
    return body + _CRC.pack(google_crc32c.value(body))


def _read(path: Path) -> tuple[int, Note | None]:
    """The newest whole slot's (counter, note)."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return 0, None
    found: tuple[int, Note | None] = (0, None)
    for at in (0, _SLOT_BYTES):
        body = data[at : at + _SLOT.size]
        crc = data[at + _SLOT.size : at + _SLOT.size + _CRC.size]
        if len(crc) < _CRC.size or _CRC.pack(google_crc32c.value(body)) != crc:
            continue
        magic, count, wal, wal_bytes, manifest, manifest_bytes = _SLOT.unpack(body)
        if magic == _MAGIC and count > found[0]:
            found = (count, Note(wal, wal_bytes, manifest, manifest_bytes))
    return found
