"""A data group's state machine: offsets, segments, producers and idempotency keys of its partitions.

Record batches themselves are payloads of the log; this machine knows where they are (`payload_ranges`) and when they
may go. A batch must start at its partition's end: the leader gives offsets against applied and in-flight state
(`leader.PartitionLeader`), so anything else means that replicas have parted, and stops the node. Compaction puts new
segments in the place of closed ones (`Compact`), whole or not at all; their batches lie under keys of their own.

What is bounded, and how:
- producers: the newest 10,000 per partition and 20,000 per group; a forgotten one may go on with any sequence.
- transactions, open and aborted: 50,000 per partition and 200,000 per group; beyond that none may open (see
  `partition_transactions`).
- leader epochs: the newest 64 per partition.
- idempotency keys: the newest 10,000 per partition and 20,000 per group; a forgotten key is a new one.
- segments: one is closed at 1 MiB or at 1/1024 of its partition, whichever is more, and after one minute or 1/64 of the
  age of the partition's oldest record, whichever is more; so a partition has some thousands of them at most, and
  retention is about that exact.
- segments that compaction wrote: up to 2 MiB or 1/512 of the partition each; see docs/decisions/0006.
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
base offset u64be for a closed segment, b"e" + partition id for its leader epochs, b"q" + partition id + producer id
u64be, b"o" and b"a" of `partition_transactions`, b"k" + partition id + idempotency key, b"d" + partition id for a
dropped partition. The decoded structs are the state, in memory once; `rows` encodes them.
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
from raftbroker.state.keys import all_ranges, generation_range, payload_key
from raftbroker.state.partition_commands import (
    Aborted,
    AppendBatches,
    AppendHeader,
    Compact,
    DropPartitions,
    IdempotencyState,
    Ongoing,
    PartitionState,
    ProducerState,
    Segment,
    Trim,
    TrimItem,
    decode_partition,
)
from raftbroker.state.partition_segments import Epochs, Partition, PartitionRow, Replaced
from raftbroker.state.partition_transactions import ABORTED, ONGOING, TransactionIndex
from raftbroker.state.producers import advance
from raftbroker.state.window import Window


class Limits(msgspec.Struct, frozen=True):
    """Bounds of one group's state; the same on every replica, or their states part."""

    producers_per_partition: int = 10_000
    producers_per_group: int = 20_000
    keys_per_partition: int = 10_000
    keys_per_group: int = 20_000
    dropped_per_group: int = 10_000
    transactions_per_partition: int = 50_000
    transactions_per_group: int = 200_000


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


_TIME_KEY = b"t"
_PARTITION, _SEGMENT, _EPOCHS, _PRODUCER, _IDEMPOTENCY, _DROPPED = b"p", b"s", b"e", b"q", b"k", b"d"
_U64 = struct.Struct(">Q")
_encode = msgspec.msgpack.Encoder().encode
_decode_group = msgspec.msgpack.Decoder(_GroupRow).decode
_decode_partition = msgspec.msgpack.Decoder(PartitionRow).decode
_decode_epochs = msgspec.msgpack.Decoder(Epochs).decode
_decode_segment = msgspec.msgpack.Decoder(Segment).decode
_decode_producer = msgspec.msgpack.Decoder(ProducerState).decode
_decode_idempotency = msgspec.msgpack.Decoder(IdempotencyState).decode
_decode_int = msgspec.msgpack.Decoder(int).decode


class PartitionMachine:
    """A consensus Machine for one data group. Partitions need no creating: the first batch does it."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits = limits or Limits()
        self._producers: Window[int, ProducerState] = Window(limits.producers_per_partition, limits.producers_per_group)
        self._keys: Window[bytes, IdempotencyState] = Window(limits.keys_per_partition, limits.keys_per_group)
        self._transactions = TransactionIndex(limits.transactions_per_partition, limits.transactions_per_group)
        self._partitions: dict[int, Partition] = {}
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
        transactions: list[tuple[bytes, bytes]] = []
        epochs: list[tuple[int, Epochs]] = []
        for key in sorted(rows):  # a partition's row comes before its segments'
            kind, value = key[:1], rows[key]
            if kind == _TIME_KEY:
                self._take(_decode_group(value))
                continue
            partition_id = _U64.unpack_from(key, 1)[0]
            if kind == _PARTITION:
                partition, row = Partition(partition_id), _decode_partition(value)
                partition.start, partition.first_base, partition.end = row.start, row.first_base, row.end
                partition.appended_ms, partition.active = row.appended_ms, row.active
                self._partitions[partition_id] = partition
            elif kind == _SEGMENT:
                self._partitions[partition_id].closed.append(_decode_segment(value))
            elif kind == _EPOCHS:
                epochs.append((partition_id, _decode_epochs(value)))
            elif kind in (ONGOING, ABORTED):
                transactions.append((key, value))
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
        for partition_id, history in epochs:
            self._partitions[partition_id].epochs = history
        self._transactions.restore(transactions)
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
            elif isinstance(command, Compact):
                self._compact(command, entry.index)
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
        """Each partition's batches, from the first that is kept to its end, ascending. Exact: an entry's payloads are
        all in them that are still there, so a replica that lacks one in them has an entry that never committed."""
        found: list[KeyRange] = []
        for _, partition in sorted(self._partitions.items()):
            if partition.first_base < partition.end:
                found += partition.ranges(partition.first_base, partition.end)
        return sorted(found)

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

    def compacted_end(self, partition_id: int) -> int:
        """From this offset on all batches are as produced: one behind the other, without gaps."""
        found = self._partitions.get(partition_id)
        return 0 if found is None else found.compacted_end

    def segment_at(self, partition_id: int, offset: int) -> tuple[Segment, int]:
        """The segment that holds the offset, which must be one that can be read, and where it ends."""
        return self._partitions[partition_id].segment_at(offset)

    def segments(self, partition_id: int) -> tuple[Segment, ...]:
        """Ascending; the last one is still open. The first may start below the first batch kept."""
        found = self._partitions.get(partition_id)
        return () if found is None else tuple(found.segments())

    def producer(self, partition_id: int, producer_id: int) -> ProducerState | None:
        return self._producers.get(partition_id, producer_id)

    def idempotency(self, partition_id: int, key: bytes) -> IdempotencyState | None:
        return self._keys.get(partition_id, key)

    def epochs(self, partition_id: int) -> Epochs:
        """The leader epochs (Raft terms) of what can be read, each with the offset of its first batch, ascending. The
        first may begin below the log start offset, and earlier ones be forgotten."""
        found = self._partitions.get(partition_id)
        return () if found is None else found.epochs

    def last_stable(self, partition_id: int) -> int:
        """Below this offset every transaction is decided: where the oldest open one begins, else the end."""
        found = self._partitions.get(partition_id)
        if found is None:
            return 0
        first = self._transactions.first_open(partition_id)
        return found.end if first is None else max(first, found.start)

    def aborted(self, partition_id: int, start: int, end: int) -> list[tuple[int, int]]:
        """(producer id, first offset) of aborted transactions whose offsets, marker included, overlap those from
        `start` to `end` (exclusive), ascending by first offset."""
        return self._transactions.aborted(partition_id, start, end)

    def all_aborted(self, partition_id: int) -> tuple[Aborted, ...]:
        """All that are remembered, ascending by marker."""
        return self._transactions.all_aborted(partition_id)

    def ongoing(self, partition_id: int, producer_id: int) -> Ongoing | None:
        return self._transactions.ongoing(partition_id, producer_id)

    def all_ongoing(self, partition_id: int) -> dict[int, Ongoing]:
        """The open transactions by producer id, ascending by first offset."""
        return self._transactions.all_ongoing(partition_id)

    def producers(self, partition_id: int) -> dict[int, ProducerState]:
        """All that are remembered, oldest first."""
        return self._producers.of(partition_id)

    def has_room(self, partition_id: int, in_flight: int) -> bool:
        """Whether another transaction may open on the partition; see `partition_transactions`."""
        return self._transactions.room(partition_id, in_flight)

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
            if partition.epochs:
                rows[_EPOCHS + _U64.pack(partition.id)] = _encode(partition.epochs)
        rows |= self._transactions.rows()
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
            partition = self._partitions[partition_id] = Partition(partition_id)
        base_offset = header.base_offset
        if base_offset != partition.end or header.count < 1:
            raise InvariantBroken(
                f"a batch of {header.count} records at offset {base_offset} was committed for partition id "
                f"{partition_id}, whose end is {partition.end}"
            )
        if partition.begin_epoch(self._term):
            self._run.rows[_EPOCHS + _U64.pack(partition_id)] = _encode(partition.epochs)
        closed = partition.append(header, self._time_ms)
        if closed is not None:
            self._run.rows[_segment_key(partition_id, closed)] = _encode(closed)
        self._touched[partition_id] = None
        if header.producer_id >= 0:
            self._remember_producer(partition_id, header)
            if header.flags:
                self._transactions.append(header, self._time_ms, self._run.rows)
        if header.idempotency_key:
            self._counter += 1
            state = IdempotencyState(base_offset, header.count, header.fingerprint, header.max_timestamp, self._counter)
            self._touched_keys[(partition_id, header.idempotency_key)] = None
            for place in self._keys.put(partition_id, header.idempotency_key, state):
                self._touched_keys[place] = None

    def _remember_producer(self, partition_id: int, header: AppendHeader) -> None:
        self._counter += 1
        producer_id = header.producer_id
        state = advance(self._producers.get(partition_id, producer_id), header, self._counter)
        self._touched_producers[(partition_id, producer_id)] = None
        for place in self._producers.put(partition_id, producer_id, state):
            self._touched_producers[place] = None

    def _trim(self, item: TrimItem) -> None:
        partition = self._partitions.get(item.partition)
        if partition is None:
            return
        gone = partition.trim(item.start, item.first_base)
        for segment in gone.segments:
            self._run.rows[_segment_key(item.partition, segment)] = None
        self._run.delete_payloads += gone.batches
        if partition.forget_epochs():
            self._run.rows[_EPOCHS + _U64.pack(partition.id)] = _encode(partition.epochs)
        self._transactions.trim(partition.id, partition.start, self._run.rows)
        self._touched[item.partition] = None

    def _compact(self, command: Compact, index: int) -> None:
        if command.generation not in (0, index):
            raise InvariantBroken(
                f"entry {index} brings generation {command.generation} of compacted batches, not its own"
            )
        partition = self._partitions.get(command.partition)
        replaced: Replaced | None = None
        if partition is not None:
            replaced = partition.compact(command, self._time_ms, self.last_stable(partition.id))
        if partition is None or replaced is None:
            if command.generation:
                self._run.delete_payloads.append(generation_range(command.partition, command.generation))
            return
        rows = self._run.rows
        rows.update((_segment_key(partition.id, segment), None) for segment in replaced.before)
        rows.update((_segment_key(partition.id, segment), _encode(segment)) for segment in replaced.after)
        self._run.delete_payloads += replaced.gone
        self._transactions.forget(partition.id, command.forgotten, rows)
        self._touched[partition.id] = None

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
                rows[_EPOCHS + _U64.pack(partition_id)] = None
            self._transactions.drop(partition_id, rows)
            self._touched[partition_id] = None
            compacted = partition is not None and partition.compacted_end
            self._run.delete_payloads += all_ranges(partition_id)[: 2 if compacted else 1]
        while len(self._dropped) > self._limits.dropped_per_group:
            oldest, _ = self._dropped.popitem(last=False)
            rows[_DROPPED + _U64.pack(oldest)] = None

    def _flush(self, rows: dict[bytes, bytes | None]) -> None:
        """One row for each thing touched, however often; a thing that is gone deletes its row."""
        for partition_id in self._touched:
            partition = self._partitions.get(partition_id)
            rows[_PARTITION + _U64.pack(partition_id)] = None if partition is None else _encode(partition.row())
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
