"""Where the records of a batch stand, and their keys: what compaction and compacted topics ask, without the rest.

Values and headers are stepped over, not looked at; a record's bytes can be copied as they are.
"""

import msgspec

from raftbroker.state.batch import DECOMPRESSED_BYTES_MAX, HEADER_BYTES, BatchHeader, read_varint
from raftbroker.state.compression import decompress
from raftbroker.state.errors import BadBatch


class Outline(msgspec.Struct, frozen=True, gc=False):
    """One record: its bytes are `start` to `end` of the batch's decompressed records, its length included."""

    start: int
    end: int
    offset_delta: int
    timestamp_delta: int
    key: bytes | None
    tombstone: bool
    """It has no value."""


def unpack(header: BatchHeader, data: bytes | memoryview, bytes_max: int = DECOMPRESSED_BYTES_MAX) -> bytes:
    """The records of the batch `data`, decompressed, at most `bytes_max`. Raises BadBatch."""
    return bytes(decompress(header.codec, memoryview(data)[HEADER_BYTES:], bytes_max))


def outline(header: BatchHeader, body: bytes) -> list[Outline]:
    """Every record of a batch that is no control batch; `body` is what `unpack` returns. Raises BadBatch."""
    try:
        return _outline(header, body)
    except IndexError:
        raise BadBatch("the records end too early") from None


def _outline(header: BatchHeader, body: bytes) -> list[Outline]:
    """Most numbers take a byte or two, so these are read without a call."""
    found: list[Outline] = []
    read, size, last_delta = read_varint, len(body), header.last_offset_delta
    position, previous = 0, -1
    for _ in range(header.record_count):
        start = position
        low = body[position]
        if low < 0x80:
            length, position = (low >> 1) ^ -(low & 1), position + 1
        elif (high := body[position + 1]) < 0x80 and not low & 1:
            length, position = (low & 0x7F | high << 7) >> 1, position + 2
        else:
            length, position = read(body, position)
        end = position + length
        if length < 0 or end > size:
            raise BadBatch(f"a record claims {length} bytes, {size - position} are left")
        timestamp_delta = 0
        if body[position + 1]:
            timestamp_delta, position = read(body, position + 1)
        else:
            position += 2
        offset_delta, position = read(body, position)
        if not previous < offset_delta <= last_delta:
            raise BadBatch(f"offset delta {offset_delta} follows {previous} in a batch of {last_delta + 1} offsets")
        length, position = read(body, position)
        key = None
        if length >= 0:
            key = body[position : position + length]
            position += length
        value, position = read(body, position)
        # At least the count of headers follows.
        if length < -1 or value < -1 or position + (value if value > 0 else 0) >= end:
            raise BadBatch(f"a record's key claims {length} bytes and its value {value}, {end - start} are there")
        found.append(Outline(start, end, offset_delta, timestamp_delta, key, value == -1))
        previous, position = offset_delta, end
    if position != size:
        raise BadBatch(f"{size - position} bytes follow the last record")
    return found


def without_key(header: BatchHeader, data: bytes | memoryview, bytes_max: int = DECOMPRESSED_BYTES_MAX) -> list[int]:
    """Which records of the batch, counted from 0, have no key (an empty one is a key). Raises BadBatch."""
    records = outline(header, unpack(header, data, bytes_max))
    return [position for position, record in enumerate(records) if record.key is None]
