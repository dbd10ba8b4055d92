"""A data group's state machine: offsets, segments, producers and idempotency keys of its partitions.

Record batches themselves are payloads of the log; this machine knows where they are (`payload_ranges`) and when they
may go. A batch must start at its partition's end: the leader gives offsets against applied and in-flight state
(`leader.PartitionLeader`), so anything else means that replicas have parted, and stops the node.

What is bounded, and how:
- producers: the newest 10,000 per partition and 20,000 per group; a forgotten one may go on with any sequence.
- idempotency keys: the newest 10,000 per partition and 20,000 per group; a forgotten key is a new one.
- segments: one is closed at 1 MiB or at 1/1024 of its partition, whichever is more, and after one minute or 1/64 of the
  age of the partition's oldest record, whichever is more; so a partition has some thousands of them at most, and
  retention is about that exact.
- dropped partitions: the newest 10,000 ids are remembered, so that a late batch cannot bring one back.

Group time never goes back: the machine keeps the greatest time that a command brought, and an earlier one counts as
that. Within a term it goes by one leader's monotonic clock; from term to term it may leap, if a clock was wrong. So a
term is in doubt until its leader proposes a `Trim` without items: a majority's clocks have agreed with this term's
time for a while; all of it up to that command is confirmed. A segment's age may be counted
- from when it was last appended to, if that was in this term, or if both that time and this term are confirmed;
- else only from when this term began (`age_floor_ms`): that long, at least, has really gone by.
Once a term is confirmed, what was appended in doubt before it counts from its first command, for good: its
`appended_ms` is moved up to that.

Rows, with msgpack arrays as values: b"t" (group time, write counter), b"p" + partition id u64be, b"s" + partition id +
base offset u64be for a closed segment, b"q" + partition id + producer id u64be, b"k" + partition id + idempotency key,
b"d" + partition id for a dropped partition. The decoded structs are the state, in memory once; `rows` encodes them.
"""

import struct
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

from consensus.errors import InvariantBroken, UnknownCommand
from consensus.machine import Applied
from consensus.model import Entry
from consensus.store import KeyRange
from raftbroker.state.keys import payload_key
from raftbroker.state.partition_commands import (
    AppendBatches,
    AppendHeader,
    DropPartitions,
    IdempotencyState,
    PartitionState,
    ProducerState,
    Segment,
    SequencedBatch,
    Trim,
    TrimItem,
    decode_partition,
)
from raftbroker.state.producers import advance, last_sequence_of
from raftbroker.state.window import Window

SEGMENT_BYTES_MIN = 1 << 20
SEGMENT_BYTES_SHARE = 1024
SEGMENT_MS_MIN = 60_000
SEGMENT_MS_SHARE = 64


class Limits(msgspec.Struct, frozen=True):
    """Bounds of one group's state; the same on every replica, or their states part."""

    producers_per_partition: int = 10_000
    producers_per_group: int = 20_000
    keys_per_partition: int = 10_000
    keys_per_group: int = 20_000
    dropped_per_group: int = 10_000


class Watcher(Protocol):
    """Propose-time state that lives beside the machine on the leader."""

    def reset(self) -> None:
        """Leadership came or went, or the state was replaced."""

    def applied(self, partitions: Iterable[int]) -> None:
        """The state of these partitions has moved on."""


class _GroupRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    time_ms: int
    counter: int
    term: int = 0
    """Of the last command."""
    began_ms: int = 0
    """The group time of that term's first command."""
    confirmed_ms: int = -1
    """Until when that term's time is known to be right; -1 where it is not."""
    doubted_ms: int = -1
    """From when on time before that term is in doubt; -1 where it is not."""


class _PartitionRow(msgspec.Struct, frozen=True, array_like=True):
    start: int
    first_base: int
    end: int
    appended_ms: int
    active: Segment | None


_TIME_KEY = b"t"
_PARTITION, _SEGMENT, _PRODUCER, _IDEMPOTENCY, _DROPPED = b"p", b"s", b"q", b"k", b"d"
_U64 = struct.Struct(">Q")
_encode = msgspec.msgpack.Encoder().encode
_decode_group = msgspec.msgpack.Decoder(_GroupRow).decode
_decode_partition = msgspec.msgpack.Decoder(_PartitionRow).decode
_decode_segment = msgspec.msgpack.Decoder(Segment).decode
_decode_producer = msgspec.msgpack.Decoder(ProducerState).decode
_decode_idempotency = msgspec.msgpack.Decoder(IdempotencyState).decode
_decode_int = msgspec.msgpack.Decoder(int).decode


class _Partition:
    """One partition, mutable. The active segment is open: its fields change with every append."""

    __slots__ = ("active", "appended_ms", "bytes", "closed", "end", "first_base", "id", "max_timestamp", "start")

    def __init__(self, partition_id: int) -> None:
        self.id = partition_id
        self.start = self.first_base = self.end = self.bytes = self.appended_ms = 0
        self.max_timestamp = -1
        self.closed: list[Segment] = []
        self.active: Segment | None = None

    def append(self, header: AppendHeader, time_ms: int) -> Segment | None:
        """Returns the segment that this batch closed, if any."""
        size, timestamp = header.size, header.max_timestamp
        active = self.active
        closed: Segment | None = None
        if active is not None and self._is_full(active, time_ms):
            self.closed.append(active)
            closed, active = active, None
        if active is None:
            self.active = Segment(self.end, size, timestamp, time_ms, time_ms)
        else:
            if active.max_timestamp > timestamp:
                timestamp = active.max_timestamp
            self.active = Segment(active.base_offset, active.bytes + size, timestamp, active.created_ms, time_ms)
        self.end += header.count
        self.bytes += size
        self.appended_ms = time_ms
        if timestamp > self.max_timestamp:
            self.max_timestamp = timestamp
        return closed

    def _is_full(self, active: Segment, time_ms: int) -> bool:
        if active.bytes >= SEGMENT_BYTES_MIN and active.bytes >= self.bytes // SEGMENT_BYTES_SHARE:
            return True
        age_ms = time_ms - active.created_ms
        if age_ms < SEGMENT_MS_MIN:
            return False
        oldest_ms = self.closed[0].created_ms if self.closed else active.created_ms
        return age_ms >= (time_ms - oldest_ms) // SEGMENT_MS_SHARE

    def trim(self, start: int, first_base: int) -> list[Segment]:
        """Returns the closed segments that went as a whole. A `first_base` that makes no sense deletes nothing."""
        self.start = max(self.start, min(start, self.end))
        if not self.first_base < first_base <= self.start:
            return []
        self.first_base = first_base
        segments = self.segments()
        ends = [segment.base_offset for segment in segments[1:]] + [self.end]
        gone = sum(1 for end in ends if end <= first_base)
        if gone == len(segments):
            self.active = None
        removed = self.closed[:gone]
        del self.closed[:gone]
        self.recount()
        return removed

    def count_from(self, doubted_ms: int, began_ms: int) -> list[Segment]:
        """What was last appended to from `doubted_ms` on counts as if at `began_ms`. Returns the segments changed."""
        segments = self.segments()
        changed = []
        for position, segment in enumerate(segments):
            if doubted_ms <= segment.appended_ms < began_ms:
                segments[position] = msgspec.structs.replace(segment, appended_ms=began_ms)
                changed.append(segments[position])
        if changed and self.active is not None:
            self.active = segments.pop()
        if changed:
            self.closed = segments
        return changed

    def segments(self) -> list[Segment]:
        return self.closed if self.active is None else [*self.closed, self.active]

    def recount(self) -> None:
        segments = self.segments()
        self.bytes = sum(segment.bytes for segment in segments)
        self.max_timestamp = max((segment.max_timestamp for segment in segments), default=-1)

    def row(self) -> bytes:
        return _encode(_PartitionRow(self.start, self.first_base, self.end, self.appended_ms, self.active))


class PartitionMachine:
    """A consensus Machine for one data group. Partitions need no creating: the first batch does it."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits = limits or Limits()
        self._producers: Window[int, ProducerState] = Window(limits.producers_per_partition, limits.producers_per_group)
        self._keys: Window[bytes, IdempotencyState] = Window(limits.keys_per_partition, limits.keys_per_group)
        self._partitions: dict[int, _Partition] = {}
        self._dropped: OrderedDict[int, int] = OrderedDict()
        self._time_ms = 0
        self._counter = 0
        self._term = self._began_ms = 0
        self._confirmed_ms = self._doubted_ms = -1
        self._watchers: list[Watcher] = []
        self._begin()

    def _begin(self) -> None:
        """What the run of entries that is being applied has changed so far."""
        self._touched: dict[int, None] = {}
        self._touched_producers: dict[tuple[int, int], None] = {}
        self._touched_keys: dict[tuple[int, bytes], None] = {}
        self._run = Applied(rows={}, delete_payloads=[])

    def attach(self, watcher: Watcher) -> None:
        """`watcher` hears from now on of what is applied and of leadership."""
        self._watchers.append(watcher)

    # --- consensus.Machine ------------------------------------------------------------------------------

    def restore(self, rows: dict[bytes, bytes], applied: int) -> None:
        self._partitions = {}
        self._dropped = OrderedDict()
        self._take(_GroupRow(0, 0))
        self._begin()
        producers: list[tuple[int, int, ProducerState]] = []
        keys: list[tuple[int, bytes, IdempotencyState]] = []
        dropped: list[tuple[int, int]] = []
        for key in sorted(rows):  # a partition's row comes before its segments'
            kind, value = key[:1], rows[key]
            if kind == _TIME_KEY:
                self._take(_decode_group(value))
                continue
            partition_id = _U64.unpack_from(key, 1)[0]
            if kind == _PARTITION:
                partition, row = _Partition(partition_id), _decode_partition(value)
                partition.start, partition.first_base, partition.end = row.start, row.first_base, row.end
                partition.appended_ms, partition.active = row.appended_ms, row.active
                self._partitions[partition_id] = partition
            elif kind == _SEGMENT:
                self._partitions[partition_id].closed.append(_decode_segment(value))
            elif kind == _PRODUCER:
                producers.append((partition_id, _U64.unpack_from(key, 9)[0], _decode_producer(value)))
            elif kind == _IDEMPOTENCY:
                keys.append((partition_id, key[9:], _decode_idempotency(value)))
            elif kind == _DROPPED:
                dropped.append((_decode_int(value), partition_id))
            else:
                raise UnknownCommand(f"a data group's state has a row of kind {kind!r}: a newer raftbroker wrote it")
        for partition in self._partitions.values():
            partition.recount()
        self._producers.restore(producers)
        self._keys.restore(keys)
        self._dropped.update((partition_id, counter) for counter, partition_id in sorted(dropped))
        self._reset_watchers()

    def apply(self, entries: Sequence[Entry]) -> Applied:
        self._begin()
        for entry in entries:
            command = decode_partition(entry.command)
            self._time_ms = max(self._time_ms, command.time_ms)
            if entry.term != self._term:
                self._begin_term(entry.term)
            if isinstance(command, AppendBatches):
                for header in command.batches:
                    self._append(header)
            elif isinstance(command, Trim):
                if not command.items:
                    self._confirm()
                for item in command.items:
                    self._trim(item)
            else:
                self._drop(command)
        run = self._run
        self._flush(run.rows)
        touched = self._touched
        self._begin()
        for watcher in self._watchers:
            watcher.applied(touched)
        return run

    def payload_ranges(self) -> list[KeyRange]:
        """Each partition's batches, from the first that is kept to its end, ascending."""
        return [
            (payload_key(partition_id, partition.first_base), payload_key(partition_id, partition.end))
            for partition_id, partition in sorted(self._partitions.items())
            if partition.first_base < partition.end
        ]

    def ranges_of(self, rows: dict[bytes, bytes]) -> list[KeyRange]:
        scratch = PartitionMachine(self._limits)
        scratch.restore(rows, 0)
        return scratch.payload_ranges()

    def led(self, term: int) -> None:
        self._reset_watchers()

    def unled(self) -> None:
        self._reset_watchers()

    def _reset_watchers(self) -> None:
        for watcher in self._watchers:
            watcher.reset()

    # --- reads ------------------------------------------------------------------------------------------

    @property
    def time_ms(self) -> int:
        """Group time as applied, in epoch ms; 0 before the first command."""
        return self._time_ms

    @property
    def term(self) -> int:
        """Of the last command applied; 0 before the first."""
        return self._term

    @property
    def confirmed_ms(self) -> int:
        """Until when a majority's clocks are known to agree with the time of `term`; -1 where they are not."""
        return self._confirmed_ms

    @property
    def age_floor_ms(self) -> int:
        """No segment's age counts from before this, whatever its times say. Holds while commands are of `term`."""
        return self._began_ms if self._confirmed_ms < 0 else 0

    def partitions(self) -> tuple[int, ...]:
        """Ids of the partitions that have had a batch, ascending."""
        return tuple(sorted(self._partitions))

    def partition(self, partition_id: int) -> PartitionState:
        """Empty for one that has had no batch yet."""
        found = self._partitions.get(partition_id)
        if found is None:
            return PartitionState(partition_id)
        return PartitionState(
            partition_id,
            found.start,
            found.first_base,
            found.end,
            found.bytes,
            found.max_timestamp,
            found.appended_ms,
        )

    def end(self, partition_id: int) -> int:
        """The high watermark alone, for hot paths."""
        found = self._partitions.get(partition_id)
        return 0 if found is None else found.end

    def segments(self, partition_id: int) -> tuple[Segment, ...]:
        """Ascending; the last one is still open. The first may start below the first batch kept."""
        found = self._partitions.get(partition_id)
        return () if found is None else tuple(found.segments())

    def producer(self, partition_id: int, producer_id: int) -> ProducerState | None:
        return self._producers.get(partition_id, producer_id)

    def idempotency(self, partition_id: int, key: bytes) -> IdempotencyState | None:
        return self._keys.get(partition_id, key)

    def is_dropped(self, partition_id: int) -> bool:
        return partition_id in self._dropped

    def rows(self) -> dict[bytes, bytes]:
        """All rows that `restore` would need: what the rows of every `apply` add up to."""
        rows: dict[bytes, bytes | None] = {}
        self._touched = dict.fromkeys(self._partitions)
        self._touched_producers = {(partition, key): None for partition, key, _ in self._producers.items()}
        self._touched_keys = {(partition, key): None for partition, key, _ in self._keys.items()}
        self._flush(rows)
        for partition in self._partitions.values():
            rows |= {_segment_key(partition.id, segment): _encode(segment) for segment in partition.closed}
        rows |= {_DROPPED + _U64.pack(partition_id): _encode(n) for partition_id, n in self._dropped.items()}
        self._begin()
        return {key: value for key, value in rows.items() if value is not None}

    # --- group time -------------------------------------------------------------------------------------

    def _take(self, row: _GroupRow) -> None:
        self._time_ms, self._counter, self._term, self._began_ms = row.time_ms, row.counter, row.term, row.began_ms
        self._confirmed_ms, self._doubted_ms = row.confirmed_ms, row.doubted_ms

    def _begin_term(self, term: int) -> None:
        if self._doubted_ms < 0:
            self._doubted_ms = self._began_ms if self._confirmed_ms < 0 else self._confirmed_ms
        self._term, self._began_ms, self._confirmed_ms = term, self._time_ms, -1

    def _confirm(self) -> None:
        """This term's time is right: what was appended in doubt before it is known to be older than its beginning."""
        self._confirmed_ms = self._time_ms
        doubted_ms, self._doubted_ms = self._doubted_ms, -1
        for partition in self._partitions.values() if doubted_ms >= 0 else ():
            for segment in partition.count_from(doubted_ms, self._began_ms):
                self._touched[partition.id] = None
                if segment is not partition.active:
                    self._run.rows[_segment_key(partition.id, segment)] = _encode(segment)

    # --- commands ---------------------------------------------------------------------------------------

    def _append(self, header: AppendHeader) -> None:
        partition_id = header.partition
        partition = self._partitions.get(partition_id)
        if partition is None:
            if partition_id in self._dropped:
                # The leader refuses these; should one slip through, its records must not stay for ever.
                stop = header.base_offset + header.count
                self._run.delete_payloads.append(
                    (payload_key(partition_id, header.base_offset), payload_key(partition_id, stop))
                )
                return
            partition = self._partitions[partition_id] = _Partition(partition_id)
        base_offset = header.base_offset
        if base_offset != partition.end or header.count < 1:
            raise InvariantBroken(
                f"a batch of {header.count} records at offset {base_offset} was committed for partition id "
                f"{partition_id}, whose end is {partition.end}"
            )
        closed = partition.append(header, self._time_ms)
        if closed is not None:
            self._run.rows[_segment_key(partition_id, closed)] = _encode(closed)
        self._touched[partition_id] = None
        if header.producer_id >= 0:
            self._remember_producer(partition_id, header)
        if header.idempotency_key:
            self._counter += 1
            state = IdempotencyState(base_offset, header.count, header.fingerprint, header.max_timestamp, self._counter)
            self._touched_keys[(partition_id, header.idempotency_key)] = None
            for place in self._keys.put(partition_id, header.idempotency_key, state):
                self._touched_keys[place] = None

    def _remember_producer(self, partition_id: int, header: AppendHeader) -> None:
        self._counter += 1
        producer_id = header.producer_id
        batch = SequencedBatch(
            header.base_sequence,
            last_sequence_of(header.base_sequence, header.count),
            header.base_offset,
            header.max_timestamp,
        )
        state = advance(self._producers.get(partition_id, producer_id), header.producer_epoch, batch, self._counter)
        self._touched_producers[(partition_id, producer_id)] = None
        for place in self._producers.put(partition_id, producer_id, state):
            self._touched_producers[place] = None

    def _trim(self, item: TrimItem) -> None:
        partition = self._partitions.get(item.partition)
        if partition is None:
            return
        before = partition.first_base
        for segment in partition.trim(item.start, item.first_base):
            self._run.rows[_segment_key(item.partition, segment)] = None
        if partition.first_base > before:
            self._run.delete_payloads.append(
                (payload_key(item.partition, before), payload_key(item.partition, partition.first_base))
            )
        self._touched[item.partition] = None

    def _drop(self, command: DropPartitions) -> None:
        rows = self._run.rows
        for partition_id in command.partitions:
            if partition_id in self._dropped:
                continue
            self._counter += 1
            self._dropped[partition_id] = self._counter
            rows[_DROPPED + _U64.pack(partition_id)] = _encode(self._counter)
            for producer_id in self._producers.drop(partition_id):
                self._touched_producers[(partition_id, producer_id)] = None
            for key in self._keys.drop(partition_id):
                self._touched_keys[(partition_id, key)] = None
            partition = self._partitions.pop(partition_id, None)
            if partition is not None:
                rows.update((_segment_key(partition_id, segment), None) for segment in partition.closed)
            self._touched[partition_id] = None
            self._run.delete_payloads.append((payload_key(partition_id, 0), payload_key(partition_id + 1, 0)))
        while len(self._dropped) > self._limits.dropped_per_group:
            oldest, _ = self._dropped.popitem(last=False)
            rows[_DROPPED + _U64.pack(oldest)] = None

    def _flush(self, rows: dict[bytes, bytes | None]) -> None:
        """One row for each thing touched, however often; a thing that is gone deletes its row."""
        for partition_id in self._touched:
            partition = self._partitions.get(partition_id)
            rows[_PARTITION + _U64.pack(partition_id)] = None if partition is None else partition.row()
        for partition_id, producer_id in self._touched_producers:
            producer = self._producers.get(partition_id, producer_id)
            key = _PRODUCER + _U64.pack(partition_id) + _U64.pack(producer_id)
            rows[key] = None if producer is None else _encode(producer)
        for partition_id, key in self._touched_keys:
            state = self._keys.get(partition_id, key)
            rows[_IDEMPOTENCY + _U64.pack(partition_id) + key] = None if state is None else _encode(state)
        rows[_TIME_KEY] = _encode(
            _GroupRow(self._time_ms, self._counter, self._term, self._began_ms, self._confirmed_ms, self._doubted_ms)
        )


def _segment_key(partition_id: int, segment: Segment) -> bytes:
    return _SEGMENT + _U64.pack(partition_id) + _U64.pack(segment.base_offset)
