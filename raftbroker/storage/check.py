"""Checks the files of a database before RocksDB opens them (C8), because its own recovery believes too much.

RocksDB reads its write-ahead logs and its MANIFEST up to the first thing that is wrong; whatever lies behind is lost
without a word, as is what a file lost by being cut off between two records. Checked here:

- The note of `watermark` can be read: it is made durable before the database is, so only damage takes it away.
- CURRENT names a MANIFEST that is there; a database without CURRENT is new, or damaged.
- The MANIFEST's edits are sound, name our column families, and reach as far as was noted. RocksDB syncs each edit
  before it deletes what the edit makes obsolete, so only one that is not complete may be left off its end, and none
  of those that the MANIFEST was made with.
- The write-ahead logs that are still needed are there: the oldest is the one that the MANIFEST says, the sequence
  numbers follow on one another, and the newest reaches as far as was noted. Only the very last record may be torn; it
  is cut off, so that RocksDB can be told to accept no imperfection at all.
- Tables and blob files in use have the length that the MANIFEST says. Their blocks carry checksums, verified at every
  read.

A MANIFEST that lost its last edits betrays itself by which log is the oldest: those that a lost flush made obsolete are
gone. Sequence numbers alone do not tell, because the newest log may be empty, and the tables of one column family run
ahead of another's. (RocksDB 9.8: `DBImpl::Open`, `DBImpl::RecoverLogFiles`, `VersionSet::ProcessManifestWrites`.)
"""

import itertools
import logging
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import msgspec

from raftbroker.storage.engine import FAMILIES
from raftbroker.storage.frames import FileDamaged, Frames, read_frames
from raftbroker.storage.manifest import Manifest, read_manifest
from raftbroker.storage.watermark import Note, read_note

log = logging.getLogger(__name__)

_BATCH_HEAD = struct.Struct("<QI")
"""Sequence number of the first operation, number of operations."""
_BLOB_FRAME_BYTES = 30 + 32
"""Header and footer of a blob file."""
_DATA = re.compile(r"\d+\.(log|sst|blob)")


class _Log(msgspec.Struct):
    """One write-ahead log that is still needed."""

    path: Path
    number: int
    frames: Frames
    first: int
    """Sequence number of its first operation, and of the one after its last; 0 where it has none."""
    next: int


def check_files(directory: Path, note_path: Path) -> bool:
    """Whether the database is still to be made. Raises FileDamaged; may cut a torn record off the last log."""
    current = directory / "CURRENT"
    note = read_note(note_path)
    if not current.exists():
        data = _files_with_rows(directory)
        if data or (note and note.manifest):
            raise FileDamaged(current, f"it is missing, though there are data ({data[0] if data else 'as noted'})")
        return True
    if note is None:
        reason = f"it is missing or cannot be read, so that nothing tells how far {directory.name} had been written"
        raise FileDamaged(note_path, reason)
    manifest_path, manifest = _check_manifest(directory, current, note)
    missing = {"default", *FAMILIES} - set(manifest.families.values())
    if missing and not note.manifest and not _files_with_rows(directory):
        return True  # killed while RocksDB was making the column families, one after the other
    if missing:
        raise FileDamaged(manifest_path, f"the column families {', '.join(sorted(missing))} are missing")
    _check_sizes(directory, manifest)
    logs = list(_needed_logs(directory, manifest.oldest_log))
    _check_logs(directory, manifest_path, manifest, logs)
    _check_reach(directory, manifest, logs, note)
    for needed in logs:
        if needed.frames.torn is not None:
            _cut(needed)
    return False


def _files_with_rows(directory: Path) -> list[str]:
    """Names of files that may hold rows; a write-ahead log is made empty."""
    return sorted(
        path.name
        for path in directory.glob("*")
        if _DATA.fullmatch(path.name) and (path.stat().st_size or path.suffix != ".log")
    )


def _check_manifest(directory: Path, current: Path, note: Note) -> tuple[Path, Manifest]:
    text = current.read_bytes()
    if not re.fullmatch(rb"MANIFEST-\d+\n", text):
        raise FileDamaged(current, f"it holds {text[:40]!r} instead of the name of a MANIFEST")
    path = directory / text.decode().strip()
    if not path.exists():
        raise FileDamaged(path, "it is missing, though CURRENT names it")
    frames = read_frames(path)
    number = int(path.name.removeprefix("MANIFEST-"))
    if number < note.manifest:
        raise FileDamaged(current, f"it names {path.name}, but MANIFEST {note.manifest} was already in use")
    if number == note.manifest and frames.end < note.manifest_bytes:
        reason = frames.torn or "it has been cut off"
        raise FileDamaged(path, f"{note.manifest_bytes} bytes of it were synced, {frames.end} are sound: {reason}")
    if frames.torn is not None and not frames.incomplete:
        raise FileDamaged(path, frames.torn)
    manifest = read_manifest(path, frames.records)
    if manifest.next_file <= number:  # of the first edits only the last knows the number that the MANIFEST itself took
        raise FileDamaged(path, f"it is cut off at {frames.end} bytes, within the edits that it was made with")
    return path, manifest


def _check_sizes(directory: Path, manifest: Manifest) -> None:
    sizes = {f"{number:06}.sst": table.size for number, table in manifest.tables.items()}
    sizes |= {f"{number:06}.blob": manifest.blobs[number].size + _BLOB_FRAME_BYTES for number in manifest.live_blobs}
    for name, size in sizes.items():
        path = directory / name
        if not path.exists():
            raise FileDamaged(path, "it is missing")
        if path.stat().st_size != size:
            raise FileDamaged(path, f"it has {path.stat().st_size} bytes instead of {size}")


def _needed_logs(directory: Path, oldest: int) -> Iterator[_Log]:
    """In order. Those that are obsolete may end anywhere: nothing reads them again."""
    numbers = sorted(int(path.stem) for path in directory.glob("*.log") if path.stem.isdigit())
    for number in numbers:
        if number < oldest:
            continue
        path = directory / f"{number:06}.log"
        frames = read_frames(path, body_bytes=_BATCH_HEAD.size)
        first = following = 0
        for record in frames.records:
            if len(record.body) < _BATCH_HEAD.size:
                raise FileDamaged(path, f"the record at byte {record.start} is too short for a batch")
            sequence, count = _BATCH_HEAD.unpack(record.body)
            if following and sequence != following:
                reason = f"the record at byte {record.start} has sequence number {sequence} instead of {following}"
                raise FileDamaged(path, reason)
            first, following = first or sequence, sequence + count
        yield _Log(path, number, frames, first, following)


def _check_logs(directory: Path, manifest_path: Path, manifest: Manifest, logs: list[_Log]) -> None:
    """That no log is missing, and that nothing is missing within them."""
    newest = max(manifest.log_numbers.values())
    if not logs or logs[-1].number < newest:
        raise FileDamaged(directory / f"{newest:06}.log", "this write-ahead log, or a later one, is missing")
    filled = [needed for needed in logs if needed.first]
    _check_oldest(directory / f"{manifest.oldest_log:06}.log", manifest_path, manifest, logs[0], filled)
    for before, after in itertools.pairwise(filled):
        if after.first != before.next:
            reason = before.frames.torn or "it has been cut off, or a log behind it is missing"
            raise FileDamaged(
                before.path,
                f"it ends before sequence number {before.next}, {after.path.name} begins at {after.first}: {reason}",
            )


def _check_oldest(named: Path, manifest_path: Path, manifest: Manifest, oldest: _Log, filled: list[_Log]) -> None:
    """That the logs begin where the tables end; `filled`: those with records."""
    # The making of a database and its recovery name a number that no log has. The log which then follows is made before
    # the MANIFEST is, all others are made later.
    if oldest.path != named and oldest.number > int(manifest_path.name.removeprefix("MANIFEST-")):
        reason = f"it is missing, or {manifest_path.name} is cut off: the oldest log is {oldest.path.name}"
        raise FileDamaged(named, reason)
    if not filled:
        return
    first = filled[0]
    if first.first > manifest.last_sequence + 1:
        reason = f"it begins at sequence number {first.first}, though the tables end at {manifest.last_sequence}"
        raise FileDamaged(first.path, f"{reason}: the logs before it, or {manifest_path.name}, have been cut off")
    # Nothing is in an older log if a full disk refused its first write: then all tables are older still.
    if first is not oldest and manifest.settled_log > manifest.oldest_log:
        raise FileDamaged(oldest.path, f"it has no record, though {manifest_path.name} tells of tables made since")


def _check_reach(directory: Path, manifest: Manifest, logs: list[_Log], note: Note) -> None:
    """That what was noted as durable is there."""
    if note.wal < max(manifest.oldest_log, 1):
        return
    for needed in logs:
        if needed.number == note.wal:
            if needed.frames.end < note.wal_bytes:
                reason = needed.frames.torn or "it has been cut off"
                raise FileDamaged(
                    needed.path, f"{note.wal_bytes} bytes of it were synced, {needed.frames.end} are sound: {reason}"
                )
            return
    raise FileDamaged(directory / f"{note.wal:06}.log", "this write-ahead log is missing")


def _cut(torn: _Log) -> None:
    log.warning("%s: the last record was never complete and is cut off: %s", torn.path, torn.frames.torn)
    with torn.path.open("r+b") as file:
        file.truncate(torn.frames.end)
        file.flush()
        os.fsync(file.fileno())
