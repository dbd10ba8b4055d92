"""The frames of RocksDB's log format, in which the write-ahead log and the MANIFEST are written.

A file is a row of 32 KiB blocks. A fragment is a header (CRC-32C masked u32, length u16, type u8; recyclable types
add a log number u32) and its bytes; it never crosses a block, and a block's last bytes, too few for a header, are
zero. A record is one FULL fragment, or FIRST, any number of MIDDLE, and LAST. The CRC covers the type and all that
follows it. (RocksDB's wiki: "Write Ahead Log File Format".)

RocksDB stops reading at the first fragment that is wrong and calls the rest torn, whatever lies there. So `read_frames`
reads on: a tear with the start of a sound record anywhere behind it is damage, never a torn tail. Only the very last
record of a file can be `torn`: its bytes were on their way to the disk when the power went.
"""

import re
import struct
from collections.abc import Iterator
from pathlib import Path

import google_crc32c
import msgspec

BLOCK_BYTES = 32 * 1024

_HEADER = struct.Struct("<IHB")
_LOG_NUMBER_BYTES = 4
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_RECYCLABLE = 4
"""Added to a type: 5 to 8 are the recyclable FULL to LAST."""
_IGNORABLE = 128
"""Types from here on may be passed over by those who do not know them."""
_START = re.compile(b"[\x01\x02\x05\x06]")

_MASK_DELTA = 0xA282EAD8


class FileDamaged(Exception):
    """One file of a store is not what was written."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{path}: {reason}")


class Record(msgspec.Struct, frozen=True, gc=False):
    """`body` is whole, or at least its first `body_bytes` as asked of `read_frames`."""

    start: int
    end: int
    body: bytes


class Frames(msgspec.Struct):
    """A file's records, and where they end. `torn`: why what follows `end` is no record, None where nothing does.
    `incomplete`: the tear may be no more than bytes that were never written, at the file's end."""

    records: list[Record]
    end: int
    torn: str | None
    incomplete: bool = False


class _Torn(Exception):
    """The fragment at `offset` is not sound."""

    def __init__(self, offset: int, reason: str, incomplete: bool = False) -> None:
        self.offset = offset
        self.reason = reason
        self.incomplete = incomplete
        super().__init__(reason)


def read_frames(path: Path, *, body_bytes: int | None = None) -> Frames:
    """All records of a file. Raises FileDamaged unless everything but the last record is sound."""
    frames = Frames([], 0, None)
    parts: list[bytes] = []
    start = 0
    try:
        for offset, end, kind, fragment in _fragments(path):
            if kind in (_FULL, _FIRST):
                if parts:
                    raise FileDamaged(path, f"the record at byte {start} is broken off by another at {offset}")
                start = offset
            elif not parts:
                raise _Torn(offset, "a record's continuation without its start")
            if body_bytes is None or not parts or len(parts[0]) < body_bytes:
                parts.append(fragment)  # a first fragment may be as short as what a block has left
            if kind in (_FULL, _LAST):
                frames.records.append(Record(start, end, b"".join(parts)[:body_bytes]))
                frames.end = end
                parts = []
        if parts:
            frames.torn = f"the record at byte {start} is not complete"
            frames.incomplete = True
    except _Torn as tear:
        behind = _sound_start_behind(path, tear.offset)
        if behind is not None:
            reason = f"{tear.reason} at byte {tear.offset}, and a sound record behind it at {behind}"
            raise FileDamaged(path, reason) from tear
        frames.torn = f"{tear.reason} at byte {tear.offset}"
        frames.incomplete = tear.incomplete
    return frames


def _fragments(path: Path) -> Iterator[tuple[int, int, int, bytes]]:
    """(offset, end, type without the recyclable bit, bytes) of each sound fragment; raises _Torn at the first other."""
    with path.open("rb", buffering=0) as file:
        base = 0
        while block := file.read(BLOCK_BYTES):
            at = 0
            while at + _HEADER.size <= len(block):
                kind, end, fragment = _fragment(block, at, base)
                if kind < _IGNORABLE:
                    yield base + at, base + end, kind, fragment
                at = end
            if len(block) < BLOCK_BYTES and at < len(block):
                raise _Torn(base + at, "half a header", incomplete=True)
            if any(block[at:]):
                raise _Torn(base + at, "a block's end that is not zero")
            base += len(block)


def _fragment(block: bytes, at: int, base: int) -> tuple[int, int, bytes]:
    """(type, end within the block, bytes) of the fragment at `at`; `base` is the block's place in the file."""
    masked, length, kind = _HEADER.unpack_from(block, at)
    header = _HEADER.size
    if kind > _RECYCLABLE and kind <= 2 * _RECYCLABLE:
        header += _LOG_NUMBER_BYTES
        kind -= _RECYCLABLE
    elif not (_FULL <= kind <= _LAST or kind >= _IGNORABLE):
        zeros = not any(block[at:])
        raise _Torn(base + at, "zeros" if zeros else f"a fragment of unknown type {kind}", incomplete=zeros)
    end = at + header + length
    if end > len(block):
        reason = "a fragment longer than what is left of its block"
        raise _Torn(base + at, reason, incomplete=end <= BLOCK_BYTES)
    crc = google_crc32c.value(block[at + 6 : end])
    if masked != (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF:
        raise _Torn(base + at, "a fragment that fails its CRC")
    return kind, end, block[at + header : end]


def _sound_start_behind(path: Path, offset: int) -> int | None:
    """The first byte after `offset` at which a sound FULL or FIRST fragment begins, at any alignment."""
    with path.open("rb") as file:
        base = offset - offset % BLOCK_BYTES
        file.seek(base)
        while block := file.read(BLOCK_BYTES):
            for found in _START.finditer(block):
                at = found.start() - 6
                if at < 0 or base + at <= offset:
                    continue
                try:
                    _fragment(block, at, base)
                except _Torn:
                    continue
                return base + at
            base += len(block)
    return None
