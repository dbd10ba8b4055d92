"""What compaction keeps of record batches: the newest record of each key, at the offset it has.

First a `KeyMap` learns a range of batches upwards; then each batch up to the map's `end`, older ones included, goes
through `compact_batch`. Both want whole batches as they are stored, and of transactional ones only those below the last
stable offset. Pure: the caller reads, writes and knows the time.

What stays of a batch keeps its offsets and timestamps; the batch keeps its first and last offset, leader epoch,
producer, sequences, base timestamp, timestamp type and compression, as Kafka's cleaner leaves them (Kafka makes the
first remaining record's timestamp the base; readers add the base to each record's difference and see the same). The
largest timestamp becomes that of the records left; with LogAppendTime it is every record's and stays.

A batch whose records cannot be read (a producer sent nonsense while the topic was not compacted) counts for nothing and
stays as it is: nobody can say what would be lost. A batch that is not what was stored raises DamagedBatch or BadBatch.
"""

import mmap
import struct
from hashlib import blake2b

import msgspec

from raftbroker.state.batch import (
    CODEC_MASK,
    CONTROL,
    DECOMPRESSED_BYTES_MAX,
    NO_TIMESTAMP,
    TRANSACTIONAL,
    BatchHeader,
    verify_batch,
    with_records,
)
from raftbroker.state.compression import compress
from raftbroker.state.errors import BadBatch
from raftbroker.state.outline import Outline, outline, unpack

DIGEST_BYTES = 16
"""Among a billion keys two have the same digest with a probability below 2^-68."""
SLOT_BYTES = DIGEST_BYTES + 8
_FULL = 0.8
"""The share of slots in use that a map takes; a key that is not there is then found missing after five looks."""
_SLOTS_MIN = 7
_PRIME_GAP_MAX = 160
"""The next smaller prime is no further away, for any number below 17 million."""
_HALVES = struct.Struct("<QQ")


class KeyMap:
    """The newest offset of each key, bounded in memory: `bytes_max` bytes hold `capacity` keys at 30 bytes each,
    whatever their length. `keys_max`, such as the number of offsets of the range, says that less will do.

    A table with open addressing, for a dictionary takes more than four times as much, and more while it grows. Both
    halves of a digest decide where a key is looked for, so keys that meet at every step are hard to make."""

    __slots__ = ("_slots", "_table", "capacity", "count", "end")

    def __init__(self, bytes_max: int, keys_max: int | None = None) -> None:
        slots = bytes_max // SLOT_BYTES
        if keys_max is not None:
            slots = min(slots, int(keys_max / _FULL) + _PRIME_GAP_MAX)
        self._slots = _prime_up_to(max(slots, _SLOTS_MIN))
        # Anonymous memory: the system gives each page when it is first written; to zero all would hold up the loop.
        self._table = memoryview(mmap.mmap(-1, self._slots * SLOT_BYTES)).cast("Q")
        self.capacity = int(self._slots * _FULL)
        self.count = 0
        """The keys in it."""
        self.end = 0
        """The offset behind the last batch learned; 0 before the first."""

    @property
    def size_bytes(self) -> int:
        return self._table.nbytes

    def learn(self, batch: bytes, *, aborted: bool, bytes_max: int = DECOMPRESSED_BYTES_MAX) -> bool:
        """Takes in the next batch, upwards. False: full, and nothing of the batch was learned.

        `aborted`: the batch belongs to an aborted transaction (`isolation.committed` tells); its records are no newer
        values, nor are markers. `bytes_max` bounds its records decompressed. Raises DamagedBatch or BadBatch."""
        header = verify_batch(batch)
        assert header.base_offset >= self.end, "batches are learned upwards"
        if not (aborted or header.control):
            records = _records(header, batch, bytes_max)
            if records is not None and not self._learn(header.base_offset, records[1]):
                return False
        self.end = header.next_offset
        return True

    def _learn(self, base_offset: int, records: list[Outline]) -> bool:
        digests = [
            (record.offset_delta, blake2b(record.key, digest_size=DIGEST_BYTES).digest())
            for record in records
            if record.key is not None
        ]
        if self.count + len(digests) > self.capacity:
            fresh = {digest for _, digest in digests if not self._table[self._find(digest) + 2]}
            if self.count + len(fresh) > self.capacity:
                return False
        table, find, following = self._table, self._find, base_offset + 1
        for offset_delta, digest in digests:
            place = find(digest)
            if not table[place + 2]:
                table[place], table[place + 1] = _HALVES.unpack(digest)
                self.count += 1
            table[place + 2] = following + offset_delta
        return True

    def newest(self, key: bytes) -> int | None:
        """The newest offset of the key in what was learned."""
        following: int = self._table[self._find(_digest(key)) + 2]
        return following - 1 if following else None

    def _find(self, digest: bytes) -> int:
        """Where the key stands in the table, or would: two words of digest, and its newest offset + 1 or 0."""
        table, slots = self._table, self._slots
        low, high = _HALVES.unpack(digest)
        slot, step = low % slots, 0
        while True:
            place: int = 3 * slot
            if not table[place + 2] or (table[place] == low and table[place + 1] == high):
                return place
            step = step or 1 + high % (slots - 1)
            slot = (slot + step) % slots


class Kept(msgspec.Struct, frozen=True, gc=False):
    """What compaction makes of a batch."""

    data: bytes | None
    """The very bytes it was given where all stays, a new batch where some does, None where nothing does."""
    records: int
    """How many stay; a marker counts as one."""
    removed: int
    """How many go."""
    tombstones: int
    """How many of those that stay have no value: they can go once their time has come."""
    max_timestamp: int
    """Of what stays, epoch ms; -1 for nothing."""
    readable: bool = True
    """False: nothing was looked at, for the records inside cannot be read."""


def compact_batch(
    batch: bytes,
    keys: KeyMap,
    *,
    aborted: bool,
    drop_tombstones: bool,
    drop_marker: bool,
    keep_empty: bool = False,
    bytes_max: int = DECOMPRESSED_BYTES_MAX,
) -> Kept:
    """What stays of the batch: the records that have a key of which `keys` knows no newer one.

    Those of a transaction that was `aborted` go, as do tombstones with `drop_tombstones`, and a control batch with
    `drop_marker`. With `keep_empty`, where nothing stays a header without records does, which takes a reader over the
    batch's offsets: for the last batch of a log, since nothing behind it would. `bytes_max` bounds the records
    decompressed. What comes out may be larger than what came in where its producer compressed harder.

    Raises DamagedBatch or BadBatch where these are not the bytes of a batch."""
    header = verify_batch(batch)
    if header.control and not drop_marker:
        return Kept(batch, header.record_count, 0, 0, header.max_timestamp)
    if header.control or aborted or not header.record_count:
        return _nothing(header, batch, keep_empty)
    found = _records(header, batch, bytes_max)
    if found is None:
        return Kept(batch, header.record_count, 0, 0, header.max_timestamp, readable=False)
    body, records = found
    stay = [record for record in records if _stays(record, header.base_offset, keys, drop_tombstones)]
    if not stay:
        return _nothing(header, batch, keep_empty)
    tombstones = sum(record.tombstone for record in stay)
    if len(stay) == len(records):
        return Kept(batch, len(stay), 0, tombstones, header.max_timestamp)
    max_timestamp = header.max_timestamp
    if not header.log_append_time:
        max_timestamp = header.base_timestamp + max(record.timestamp_delta for record in stay)
    packed = compress(header.codec, b"".join([body[record.start : record.end] for record in stay]))
    data = with_records(batch, header.attributes, max_timestamp, len(stay), packed)
    return Kept(data, len(stay), len(records) - len(stay), tombstones, max_timestamp)


def _stays(record: Outline, base_offset: int, keys: KeyMap, drop_tombstones: bool) -> bool:
    if record.key is None or (record.tombstone and drop_tombstones):
        return False
    newest = keys.newest(record.key)
    return newest is None or newest <= base_offset + record.offset_delta


def _nothing(header: BatchHeader, batch: bytes, keep_empty: bool) -> Kept:
    if not keep_empty:
        return Kept(None, 0, header.record_count, 0, NO_TIMESTAMP)
    if not header.record_count:
        return Kept(batch, 0, 0, 0, header.max_timestamp)
    # No client looks for a marker, or for a frame of its codec, in a batch that is plain.
    plain = header.attributes & ~(CODEC_MASK | TRANSACTIONAL | CONTROL)
    data = with_records(batch, plain, header.max_timestamp, 0, b"")
    return Kept(data, 0, header.record_count, 0, header.max_timestamp)


def _records(header: BatchHeader, batch: bytes, bytes_max: int) -> tuple[bytes, list[Outline]] | None:
    """The batch's records, decompressed and outlined; None where they cannot be read."""
    if not header.record_count:
        return b"", []
    try:
        body = unpack(header, batch, bytes_max)
        return body, outline(header, body)
    except BadBatch:
        return None


def _digest(key: bytes) -> bytes:
    return blake2b(key, digest_size=DIGEST_BYTES).digest()


def _prime_up_to(number: int) -> int:
    """The largest prime that is not above `number`, which is at least 2: every step then visits every slot."""
    while any(number % divisor == 0 for divisor in range(2, int(number**0.5) + 1)):
        number -= 1
    return number
