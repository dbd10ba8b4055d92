"""A data group's commands, and the structs that a partition's state is made of.

Offsets count records of a partition from 0. Times are epoch milliseconds of group time, which the leader gives
(`clock.GroupClock`); timestamps are the records' own.
"""

import msgspec

from raftbroker.state.commands import Command, CommandDecoder, encode_command

# --- state ----------------------------------------------------------------------------------------------


class PartitionState(msgspec.Struct, frozen=True, gc=False):
    """A partition as applied: offsets `start` (inclusive) to `end` (exclusive, the high watermark) can be read."""

    id: int
    start: int = 0
    """The log start offset; it may stand inside the batch at `first_base`."""
    first_base: int = 0
    """The base offset of the first batch that is kept; `end` where none is."""
    end: int = 0
    bytes: int = 0
    """Of the batches kept. After a cut inside a segment, that segment still counts whole."""
    max_timestamp: int = -1
    """The largest timestamp of a record in a segment that is kept; -1 for none."""
    appended_ms: int = 0
    """When the last batch was appended; 0 for never."""


class Segment(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A run of batches, for retention and for finding offsets by timestamp."""

    base_offset: int
    bytes: int
    max_timestamp: int
    """Of its records; -1 where they have none."""
    created_ms: int
    appended_ms: int
    """When its first and its last batch were appended."""
    generation: int = 0
    """0: the batches are as produced, one behind the other. Else those of `keys.compacted_key`, with gaps between."""
    cleaned_ms: int = 0
    """When compaction first went over it, with all that lies below; 0 for never."""
    waiting: int = 0
    """At most so many tombstones and markers are in it that compaction takes out once their time has come."""


class SequencedBatch(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A batch that an idempotent producer has had appended."""

    first_sequence: int
    last_sequence: int
    base_offset: int
    timestamp: int
    """Its largest record timestamp."""


class ProducerState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An idempotent producer's epoch and its last batches in it, oldest first, at most five."""

    epoch: int
    batches: tuple[SequencedBatch, ...]
    """None yet, where a marker brought the epoch."""
    touched: int = 0
    """The group's write counter when it last changed: the order in which the oldest are forgotten."""
    ended: int = 0
    """The number of the last transaction for which a marker was appended; 0 for none."""
    resumable: bool = False
    """A marker made the producer known (again): until it sends a batch it may go on with any sequence."""

    @property
    def last_sequence(self) -> int:
        return self.batches[-1].last_sequence if self.batches else -1


class Ongoing(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A transaction that has records in a partition, and no marker yet."""

    first_offset: int
    epoch: int
    number: int
    """Its coordinator's number for it: every transaction of a producer id has a greater one than those before."""
    began_ms: int
    """When its first batch was appended."""


class Aborted(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A transaction that was aborted: its producer's records from `first_offset` to the marker do not count."""

    producer_id: int
    first_offset: int
    marker_offset: int
    stable: int
    """The last stable offset just behind the marker: what is aborted later begins no earlier."""


class IdempotencyState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a request with an idempotency key had appended."""

    base_offset: int
    count: int
    fingerprint: int
    timestamp: int
    touched: int = 0
    """As in `ProducerState`."""


# --- commands -------------------------------------------------------------------------------------------

TRANSACTIONAL, CONTROL, COMMIT = 1, 2, 4
"""A batch that belongs to a transaction; a marker; a marker that commits (else it aborts)."""


class AppendHeader(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One batch of an `AppendBatches`; the batch itself is the payload in the same position."""

    partition: int
    base_offset: int
    count: int
    """Offsets it takes: last offset delta + 1."""
    size: int
    """The batch in bytes."""
    max_timestamp: int
    producer_id: int = -1
    producer_epoch: int = -1
    base_sequence: int = -1
    idempotency_key: bytes = b""
    """16 bytes, or empty."""
    fingerprint: int = 0
    flags: int = 0
    """Of `TRANSACTIONAL`, `CONTROL` and `COMMIT`."""
    transaction: int = 0
    """The coordinator's number of the transaction that the batch begins here or, for a marker, ends."""

    @property
    def transactional(self) -> bool:
        return self.flags & TRANSACTIONAL != 0

    @property
    def marker(self) -> bool:
        """A control batch: the end of its producer's transaction."""
        return self.flags & CONTROL != 0

    @property
    def commit(self) -> bool:
        return self.flags & COMMIT != 0


class TrimItem(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Raises a partition's start offset; batches below the base offset `first_base` are deleted."""

    partition: int
    start: int
    first_base: int


class AppendBatches(Command, frozen=True, array_like=True, tag=1):
    time_ms: int
    batches: tuple[AppendHeader, ...]


class Trim(Command, frozen=True, array_like=True, tag=2):
    time_ms: int
    items: tuple[TrimItem, ...]


class DropPartitions(Command, frozen=True, array_like=True, tag=3):
    """Deletes all records and state of these partitions, for good."""

    time_ms: int
    partitions: tuple[int, ...]


class Compact(Command, frozen=True, array_like=True, tag=4):
    """Puts one segment in the place of the closed ones in `replaced`, or of the last one's part below `end`.

    It is applied whole, or, where they are not any more what the leader read, not at all. The batches of the new
    segment are the entry's payloads, each under `keys.compacted_key`; without a `generation` there are none, and the
    one segment in `replaced` stays as it is: all that was to be kept of it is what it has.

    Only from cluster feature version 4 on."""

    time_ms: int
    partition: int
    generation: int
    """The index of this command's own entry, or 0."""
    replaced: tuple[tuple[int, int], ...]
    """(base offset, generation) of neighbouring segments, ascending."""
    first: int
    """The offset from which on the leader has read them: above the first's base where a trim has cut it."""
    end: int
    """Where the new segment ends. Below the end of the last one replaced only where that is as produced."""
    taken: int
    """The bytes of the last one that lie below `end`."""
    bytes: int
    max_timestamp: int
    waiting: int
    """`bytes`, `max_timestamp` and `waiting` of the new segment."""
    forgotten: tuple[int, ...] = ()
    """Offsets of markers that are not in the new segment: aborted transactions of which nothing is left."""


PartitionCommand = AppendBatches | Trim | DropPartitions | Compact

_decoder: "CommandDecoder[PartitionCommand]" = CommandDecoder("partition", msgspec.msgpack.Decoder(PartitionCommand))


def decode_partition(data: bytes) -> PartitionCommand:
    """Raises UnknownCommand."""
    return _decoder.decode(data)


encode_partition = encode_command
