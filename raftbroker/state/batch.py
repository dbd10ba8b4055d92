"""Kafka v2 record batches: made, checked, placed and read. The bytes are stored and served as they were sent.

Layout (https://kafka.apache.org/documentation/#recordbatch): base offset i64, length i32 (of what follows it), leader
Layout (https://kafka.apache.org/documentation/#recordbatch): base offset i64, length i32 (of what follows it), leader
i64, producer id i64, producer epoch i16, base sequence i32, record count i32, records (compressed as a whole). Base
offset and leader epoch stand outside the CRC, so that the leader can set them without touching the records.

Nothing here trusts its input: whatever bytes come in, the only error raised is `BadBatch`.
"""

import struct
from collections.abc import Sequence

import google_crc32c
import msgspec

from raftbroker.state.compression import Codec, decompress
from raftbroker.state.errors import BadBatch as BadBatch
from raftbroker.state.errors import DamagedBatch, OldBatch

HEADER_BYTES = 61
"""A batch without records would be this long."""
DECOMPRESSED_BYTES_MAX = 64 * 1024 * 1024
"""The default bound on a batch's records once decompressed."""
NO_PRODUCER_ID = -1
NO_TIMESTAMP = -1

_HEADER = struct.Struct(">qiibIhiqqqhii")
_PREFIX = struct.Struct(">qiibI")
_COVERED = struct.Struct(">hiqqqhii")
_OFFSET = struct.Struct(">q")
_EPOCH = struct.Struct(">i")
_SIZE = struct.Struct(">i")
_ATTRIBUTES = struct.Struct(">h")
_CRC = struct.Struct(">I")
_BEFORE_LENGTH, _AFTER_LENGTH, _AFTER_EPOCH, _CRC_AT, _CRC_FROM, _MAX_TIMESTAMP_AT = 8, 12, 16, 17, 21, 35
_COUNT_AT = 57

_CRC_PIECE_BYTES = 1 << 16
CODEC_MASK = 0x07
_LOG_APPEND_TIME = 0x08
TRANSACTIONAL = 0x10
CONTROL = 0x20
_DELETE_HORIZON = 0x40
_KNOWN_ATTRIBUTES = 0x7F
SEQUENCE_MAX = 2**31 - 1


class BatchHeader(msgspec.Struct, frozen=True, gc=False):
    """The fixed fields of a batch. `size` is the whole batch in bytes; timestamps are epoch milliseconds."""

    base_offset: int
    size: int
    leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    record_count: int

    @property
    def count(self) -> int:
        """Offsets the batch takes; the record count unless it has been compacted."""
        return self.last_offset_delta + 1

    @property
    def next_offset(self) -> int:
        return self.base_offset + self.last_offset_delta + 1

    @property
    def last_sequence(self) -> int:
        """The last record's sequence number, wrapped; -1 where the producer is not idempotent."""
        if self.base_sequence < 0:
            return -1
        return (self.base_sequence + self.last_offset_delta) & SEQUENCE_MAX

    @property
    def codec(self) -> Codec:
        """Raises BadBatch for a codec that Kafka does not define."""
        code = self.attributes & CODEC_MASK
        if code > Codec.ZSTD:
            raise BadBatch(f"compression codec {code} is not known: use none, gzip, snappy, lz4 or zstd")
        return Codec(code)

    @property
    def log_append_time(self) -> bool:
        return bool(self.attributes & _LOG_APPEND_TIME)

    @property
    def transactional(self) -> bool:
        return bool(self.attributes & TRANSACTIONAL)

    @property
    def control(self) -> bool:
        return bool(self.attributes & CONTROL)


class RecordDraft(msgspec.Struct, frozen=True, gc=False):
    """A record to encode. `timestamp` in epoch milliseconds; None takes the batch's base timestamp."""

    key: bytes | None = None
    value: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    timestamp: int | None = None


class Record(msgspec.Struct, frozen=True, gc=False):
    """A record read from a batch; `timestamp` in epoch milliseconds, -1 for none."""

    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    timestamp: int
    offset: int


# --- headers --------------------------------------------------------------------------------------------


def parse_header(data: bytes | memoryview) -> BatchHeader:
    """The header at the start of `data`, which may go on behind the batch. Checks nothing but length and magic."""
    if len(data) > _AFTER_EPOCH and data[_AFTER_EPOCH] < 2:
        raise OldBatch(f"magic {data[_AFTER_EPOCH]}: only the v2 format (magic 2, Kafka 0.11 and later) is taken")
    if len(data) < HEADER_BYTES:
        raise DamagedBatch(f"a record batch has at least {HEADER_BYTES} bytes, these are {len(data)}")
    if data[_AFTER_EPOCH] != 2:
        raise BadBatch(f"magic {data[_AFTER_EPOCH]}: only the v2 format (magic 2, Kafka 0.11 and later) is taken")
    offset, length, epoch, magic, crc, *covered = _HEADER.unpack_from(data)
    return BatchHeader(offset, length + _AFTER_LENGTH, epoch, magic, crc, *covered)


def verify_batch(data: bytes | memoryview) -> BatchHeader:
    """Exactly one sound batch: length, magic, CRC and counts. For bytes read back or from another replica."""
    header = parse_header(data)
    if header.size > len(data):
        raise DamagedBatch(f"the batch says it has {header.size} bytes, there are {len(data)}")
    if header.size < len(data):
        raise BadBatch(f"the batch says it has {header.size} bytes, there are {len(data)}: send one batch at a time")
    if header.crc != _crc32c(data, _CRC_FROM):
        raise DamagedBatch("the CRC-32C does not match: the batch was damaged on its way")
    if header.last_offset_delta < 0 or header.record_count < 0 or header.record_count > header.last_offset_delta + 1:
        raise BadBatch(f"{header.record_count} records cannot have the last offset delta {header.last_offset_delta}")
    return header


def check_batch(data: bytes | memoryview, *, transactional: bool = False) -> BatchHeader:
    """One sound batch that a producer may send: `verify_batch`, and the rules of Kafka's log validator.

    `transactional`: whether it may be part of a transaction, for whose coordinator the caller has to know the
    transactional id. The records inside are not looked at (`decode_batch` does that)."""
    header = verify_batch(data)
    if header.record_count != header.last_offset_delta + 1:
        raise BadBatch(f"{header.record_count} records with the last offset delta {header.last_offset_delta}")
    if header.attributes & ~_KNOWN_ATTRIBUTES:
        raise BadBatch(f"attributes {header.attributes:#x} have bits that Kafka does not define")
    if header.control or header.attributes & _DELETE_HORIZON:
        raise BadBatch("control batches and delete horizons are written by brokers, not by producers")
    if header.transactional and not transactional:
        raise BadBatch("a batch of a transaction comes with the producer's transactional id, which is missing")
    if header.log_append_time:
        raise BadBatch("timestamp type LogAppendTime is set by the broker, not by producers")
    if header.codec is Codec.NONE and header.size - HEADER_BYTES < 7 * header.record_count:
        raise BadBatch(f"{header.record_count} records do not fit into {header.size - HEADER_BYTES} bytes")
    if header.producer_id < -1:
        raise BadBatch(f"producer id {header.producer_id} is negative")
    if header.producer_id >= 0 and (header.producer_epoch < 0 or header.base_sequence < 0):
        raise BadBatch(
            f"producer id {header.producer_id} comes with epoch {header.producer_epoch} and sequence "
            f"{header.base_sequence}: an idempotent producer sends both, from 0"
        )
    if header.transactional and header.producer_id < 0:
        raise BadBatch("a batch of a transaction has no producer id")
    return header


def place_batch(
    data: bytes | memoryview, base_offset: int, leader_epoch: int, append_time_ms: int | None = None
) -> bytes:
    """The batch at its place in the log. `leader_epoch` is the Raft term.

    With `append_time_ms` the timestamp type becomes LogAppendTime and every record has that time, which the CRC covers,
    so it is computed anew."""
    if append_time_ms is None:
        return b"".join(
            (
                _OFFSET.pack(base_offset),
                data[_BEFORE_LENGTH:_AFTER_LENGTH],
                _EPOCH.pack(leader_epoch & SEQUENCE_MAX),
                memoryview(data)[_AFTER_EPOCH:],
            )
        )
    head = bytearray(data[:HEADER_BYTES])
    _OFFSET.pack_into(head, 0, base_offset)
    _EPOCH.pack_into(head, _AFTER_LENGTH, leader_epoch & SEQUENCE_MAX)
    head[_CRC_FROM + 1] |= _LOG_APPEND_TIME
    _OFFSET.pack_into(head, _MAX_TIMESTAMP_AT, append_time_ms)
    crc = _crc32c(data, HEADER_BYTES, google_crc32c.value(bytes(head[_CRC_FROM:])))
    _CRC.pack_into(head, _CRC_AT, crc)
    return b"".join((head, memoryview(data)[HEADER_BYTES:]))


def split_batches(data: bytes) -> list[bytes]:
    """The batches that stand one behind the other in `data`, unchecked but for their lengths."""
    batches: list[bytes] = []
    position = 0
    while position < len(data):
        size = parse_header(memoryview(data)[position : position + HEADER_BYTES]).size
        if size < HEADER_BYTES or position + size > len(data):
            raise BadBatch(f"a batch at byte {position} says it has {size} bytes, {len(data) - position} are left")
        batches.append(data if size == len(data) else data[position : position + size])
        position += size
    return batches


def _crc32c(data: bytes | memoryview, start: int, crc: int = 0) -> int:
    """Of the data from `start` on, continuing `crc`. In pieces, for a copy of a whole batch costs more than its CRC."""
    for piece in range(start, len(data), _CRC_PIECE_BYTES):
        crc = google_crc32c.extend(crc, bytes(data[piece : piece + _CRC_PIECE_BYTES]))
    return crc


def with_records(data: bytes | memoryview, attributes: int, max_timestamp: int, count: int, packed: bytes) -> bytes:
    """The batch with other records, already compressed as `attributes` say: `count` of those it had, at the offset and
    timestamp deltas they had. All else stays: offsets, epochs, producer, sequences, base timestamp."""
    head = bytearray(data[:HEADER_BYTES])
    _SIZE.pack_into(head, _BEFORE_LENGTH, HEADER_BYTES - _AFTER_LENGTH + len(packed))
    _ATTRIBUTES.pack_into(head, _CRC_FROM, attributes)
    _OFFSET.pack_into(head, _MAX_TIMESTAMP_AT, max_timestamp)
    _SIZE.pack_into(head, _COUNT_AT, count)
    _CRC.pack_into(head, _CRC_AT, _crc32c(packed, 0, google_crc32c.value(bytes(head[_CRC_FROM:]))))
    return b"".join((head, packed))


# --- encoding -------------------------------------------------------------------------------------------


def _varint(number: int) -> bytes:
    """Zigzag varint, as in Protocol Buffers."""
    rest = (number << 1) ^ (number >> 63)
    out = bytearray()
    while rest > 0x7F:
        out.append((rest & 0x7F) | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


_CACHED = 1 << 13
_VARINTS: list[bytes] = [_varint(number) for number in range(_CACHED)]
_STARTS: list[bytes] = [b"\0\0" + number for number in _VARINTS]
"""Attributes, a timestamp delta of 0 and the offset delta: how most records begin."""
_NULL = _varint(-1)
_PLAIN_STARTS: list[bytes] = [start + _NULL for start in _STARTS]
"""The same with no key."""


def encode_batch(
    records: Sequence[RecordDraft],
    *,
    base_timestamp: int,
    producer_id: int = -1,
    producer_epoch: int = -1,
    base_sequence: int = -1,
    attributes: int = 0,
) -> bytes:
    """One uncompressed batch with base offset 0. Raises ValueError without records.

    `base_timestamp` (epoch ms) is the batch's, and that of records without their own; `attributes` are the batch's
    flags (`TRANSACTIONAL`, `CONTROL`)."""
    if not records:
        raise ValueError("a record batch needs at least one record")
    parts = _plain_parts(records)
    max_timestamp = base_timestamp
    if parts is None:
        parts, max_timestamp = _parts(records, base_timestamp)
    count = len(records)
    parts[0] = _COVERED.pack(
        attributes, count - 1, base_timestamp, max_timestamp, producer_id, producer_epoch, base_sequence, count
    )
    covered = b"".join(parts)
    length = len(covered) + _CRC_FROM - _AFTER_LENGTH
    return _PREFIX.pack(0, length, -1, 2, google_crc32c.value(covered)) + covered


def _plain_parts(records: Sequence[RecordDraft]) -> list[bytes] | None:
    """The bytes of records that have a value and nothing else, behind an empty place; None where one has more.

    What stands before a value depends on few things, so it is made once for each length."""
    if len(records) > _CACHED:
        return None
    parts: list[bytes] = [b""]
    made: dict[int, tuple[bytes, bytes]] = {}
    for start, record in zip(_STARTS, records, strict=False):
        value = record.value
        if value is None or record.key is not None or record.timestamp is not None or record.headers:
            return None
        kind = len(value) << 3 | len(start)
        around = made.get(kind)
        if around is None:
            length = _NULL + _varint(len(value))
            around = made[kind] = (_varint(len(start) + len(length) + len(value) + 1), length)
        parts += (around[0], start, around[1], value, b"\0")
    return parts


def _parts(records: Sequence[RecordDraft], base_timestamp: int) -> tuple[list[bytes], int]:
    """The bytes of any records, behind an empty place, and the largest timestamp."""
    varints, cached, varint, starts = _VARINTS, _CACHED, _varint, _STARTS
    max_timestamp = base_timestamp if records[0].timestamp is None else records[0].timestamp
    parts: list[bytes] = [b""]
    append = parts.append
    for delta, record in enumerate(records):
        key, value, headers, timestamp = record.key, record.value, record.headers, record.timestamp
        if (timestamp is None or timestamp == base_timestamp) and delta < cached:
            head = starts[delta]
            if base_timestamp > max_timestamp:
                max_timestamp = base_timestamp
        else:
            if timestamp is None:
                timestamp = base_timestamp
            length = timestamp - base_timestamp
            head = b"\0" + (varints[length] if 0 <= length < cached else varint(length))
            head += varints[delta] if delta < cached else varint(delta)
            if timestamp > max_timestamp:
                max_timestamp = timestamp
        if key is None:
            head += _NULL
        else:
            length = len(key)
            head += (varints[length] if length < cached else varint(length)) + key
        if value is None:
            head += _NULL
            value = b""
        else:
            length = len(value)
            head += varints[length] if length < cached else varint(length)
        tail = _encode_headers(headers) if headers else b"\0"
        length = len(head) + len(value) + len(tail)
        append((varints[length] if length < cached else varint(length)) + head)
        append(value)
        append(tail)
    return parts, max_timestamp


def _encode_headers(headers: tuple[tuple[str, bytes | None], ...]) -> bytes:
    parts = [_varint(len(headers))]
    for name, value in headers:
        name_bytes = name.encode()
        parts += (_varint(len(name_bytes)), name_bytes)
        parts += (_NULL,) if value is None else (_varint(len(value)), value)
    return b"".join(parts)


# --- decoding -------------------------------------------------------------------------------------------


def decode_batch(data: bytes | memoryview, *, bytes_max: int = DECOMPRESSED_BYTES_MAX) -> list[Record]:
    """All records of one sound batch, in order. `bytes_max` bounds them decompressed. A control batch has none."""
    header = verify_batch(data)
    if header.control:
        return []
    body = decompress(header.codec, memoryview(data)[HEADER_BYTES:], bytes_max)
    try:
        return _decode_records(bytes(body), header)
    except IndexError:
        raise BadBatch("the records end too early") from None
    except UnicodeDecodeError as error:
        raise BadBatch(f"a header's name is not UTF-8: {error}") from error


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """(number, position behind it). Raises BadBatch, or IndexError at the end of the data."""
    byte = data[position]
    if byte < 0x80:
        return (byte >> 1) ^ -(byte & 1), position + 1
    rest, shift = byte & 0x7F, 7
    while True:
        position += 1
        byte = data[position]
        rest |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (rest >> 1) ^ -(rest & 1), position + 1
        shift += 7
        if shift > 63:
            raise BadBatch("a varint has more than ten bytes")


def _decode_records(body: bytes, header: BatchHeader) -> list[Record]:
    records: list[Record] = []
    read, size = read_varint, len(body)
    base_timestamp, base_offset, last_delta = header.base_timestamp, header.base_offset, header.last_offset_delta
    position, previous = 0, -1
    append_time = header.max_timestamp if header.log_append_time else None
    starts, cached = _PLAIN_STARTS, min(_CACHED, last_delta + 1)
    plain_timestamp = base_timestamp if append_time is None else append_time
    for _ in range(header.record_count):
        low, high = body[position], body[position + 1]
        if low >= 0x80 > high and not low & 1:
            length, position = (low & 0x7F | high << 7) >> 1, position + 2
        else:
            length, position = read(body, position)
        end = position + length
        if length < 0 or end > size:
            raise BadBatch(f"a record claims {length} bytes, {size - position} are left")
        offset_delta = previous + 1
        if offset_delta < cached and body.startswith(starts[offset_delta], position):
            at = position + len(starts[offset_delta])
            low, high = body[at], body[at + 1]
            if (
                low >= 0x80 > high
                and at + 3 + ((low & 0x7F | high << 7) >> 1) == end
                and not (low & 1 or body[end - 1])
            ):
                records.append(Record(None, body[at + 2 : end - 1], (), plain_timestamp, base_offset + offset_delta))
                previous, position = offset_delta, end
                continue
        timestamp, position = read(body, position + 1)
        offset_delta, position = read(body, position)
        if not previous < offset_delta <= last_delta:
            raise BadBatch(f"offset delta {offset_delta} follows {previous} in a batch of {last_delta + 1} offsets")
        previous = offset_delta
        key: bytes | None = None
        if body[position] == 1:
            position += 1
        else:
            key, position = _read_bytes(body, position, end)
        value, position = _read_bytes(body, position, end)
        headers: tuple[tuple[str, bytes | None], ...] = ()
        if body[position] == 0:
            position += 1
        else:
            headers, position = _read_headers(body, position, end)
        if position != end:
            raise BadBatch(f"a record of {length} bytes ends {end - position} bytes off")
        timestamp = base_timestamp + timestamp if append_time is None else append_time
        records.append(Record(key, value, headers, timestamp, base_offset + offset_delta))
    if position != size:
        raise BadBatch(f"{size - position} bytes follow the last record")
    return records


def _read_bytes(body: bytes, position: int, end: int) -> tuple[bytes | None, int]:
    length, position = read_varint(body, position)
    if length == -1:
        return None, position
    stop = position + length
    if length < 0 or stop > end:
        raise BadBatch(f"a field claims {length} bytes, {end - position} are left in its record")
    return body[position:stop], stop


def _read_headers(body: bytes, position: int, end: int) -> tuple[tuple[tuple[str, bytes | None], ...], int]:
    count, position = read_varint(body, position)
    if not 0 <= count <= end - position:
        raise BadBatch(f"a record claims {count} headers")
    headers: list[tuple[str, bytes | None]] = []
    for _ in range(count):
        name, position = _read_bytes(body, position, end)
        if name is None:
            raise BadBatch("a header has no name")
        value, position = _read_bytes(body, position, end)
        headers.append((name.decode(), value))
    return tuple(headers), position
