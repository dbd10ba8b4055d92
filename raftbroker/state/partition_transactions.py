"""Where transactions stand in the partitions of a data group: which are open, which were aborted, and from where on.

A part of `partition.PartitionMachine`. A producer's transaction on a partition opens with its first transactional
batch and ends with the next marker of that producer. Below the first offset of the oldest open one, the *last stable
offset*, everything is decided. An aborted transaction is remembered until the log start offset has passed its
marker, for a reader of committed records must be told of it; committed ones need no memory.

What is remembered is bounded by refusing to open more (`room`, asked before a batch is proposed): a marker can always
be written, and turns an open transaction into at most one aborted one. At the bound, transactions on that partition
wait until retention has removed the oldest aborted ones.

Rows: b"o" + partition id u64be + producer id u64be for an open one, b"a" + partition id + marker's offset u64be for an
aborted one.
"""

import struct
from bisect import bisect_left
from collections.abc import Iterable
from operator import attrgetter

import msgspec

from raftbroker.state.partition_commands import Aborted, AppendHeader, Ongoing

ONGOING, ABORTED = b"o", b"a"
_PLACE = struct.Struct(">QQ")
_encode = msgspec.msgpack.Encoder().encode
_decode_ongoing = msgspec.msgpack.Decoder(Ongoing).decode
_decode_aborted = msgspec.msgpack.Decoder(Aborted).decode
_marker_offset = attrgetter("marker_offset")
_first_offset = attrgetter("first_offset")

Rows = dict[bytes, bytes | None]


class _Transactions:
    """One partition's: the open ones by producer id, ascending by first offset; the aborted ones by marker."""

    __slots__ = ("aborted", "ongoing")

    def __init__(self) -> None:
        self.ongoing: dict[int, Ongoing] = {}
        self.aborted: list[Aborted] = []

    @property
    def count(self) -> int:
        return len(self.ongoing) + len(self.aborted)


def follow(ongoing: Ongoing | None, append: AppendHeader, time_ms: int) -> Ongoing | None:
    """What is open for the batch's producer once the batch is appended, where `ongoing` was before."""
    if append.marker:
        return None
    if ongoing is None and append.transactional:
        return Ongoing(append.base_offset, append.producer_epoch, append.transaction, time_ms)
    return ongoing


class TransactionIndex:
    def __init__(self, partition_max: int, group_max: int) -> None:
        self._partition_max = partition_max
        self._group_max = group_max
        self._partitions: dict[int, _Transactions] = {}
        self._count = 0

    # --- reads ------------------------------------------------------------------------------------------

    def ongoing(self, partition: int, producer_id: int) -> Ongoing | None:
        found = self._partitions.get(partition)
        return None if found is None else found.ongoing.get(producer_id)

    def all_ongoing(self, partition: int) -> dict[int, Ongoing]:
        """By producer id, ascending by first offset."""
        found = self._partitions.get(partition)
        return {} if found is None else dict(found.ongoing)

    def first_open(self, partition: int) -> int | None:
        """The first offset of the oldest open transaction."""
        found = self._partitions.get(partition)
        if found is None or not found.ongoing:
            return None
        return next(iter(found.ongoing.values())).first_offset

    def aborted(self, partition: int, start: int, end: int) -> list[tuple[int, int]]:
        """(producer id, first offset) of those that overlap the offsets from `start` to `end` (exclusive), ascending
        by first offset."""
        found = self._partitions.get(partition)
        if found is None:
            return []
        overlapping: list[Aborted] = []
        aborted = found.aborted
        for position in range(bisect_left(aborted, start, key=_marker_offset), len(aborted)):
            one = aborted[position]
            if one.first_offset < end:
                overlapping.append(one)
            if one.stable >= end:
                break
        overlapping.sort(key=_first_offset)
        return [(one.producer_id, one.first_offset) for one in overlapping]

    def all_aborted(self, partition: int) -> tuple[Aborted, ...]:
        """Ascending by marker."""
        found = self._partitions.get(partition)
        return () if found is None else tuple(found.aborted)

    def room(self, partition: int, in_flight: int) -> bool:
        """Whether another transaction may open, where `in_flight` batches may each be opening one."""
        found = self._partitions.get(partition)
        count = 0 if found is None else found.count
        return self._count < self._group_max and count + in_flight < self._partition_max

    # --- changes ----------------------------------------------------------------------------------------

    def append(self, append: AppendHeader, time_ms: int, rows: Rows) -> None:
        """A batch with flags has been appended. The group's bound may be passed by what was in flight."""
        partition, producer_id = append.partition, append.producer_id
        found = self._partitions.get(partition)
        before = None if found is None else found.ongoing.get(producer_id)
        after = follow(before, append, time_ms)
        if after is before:
            return
        if found is None:
            found = self._partitions[partition] = _Transactions()
        if after is not None:
            found.ongoing[producer_id] = after
            self._count += 1
            rows[_ongoing_key(partition, producer_id)] = _encode(after)
            return
        assert before is not None
        del found.ongoing[producer_id]
        rows[_ongoing_key(partition, producer_id)] = None
        if append.commit:
            self._count -= 1
            self._forget_if_empty(partition, found)
            return
        offset = append.base_offset
        stable = self.first_open(partition)
        aborted = Aborted(producer_id, before.first_offset, offset, offset + 1 if stable is None else stable)
        found.aborted.append(aborted)
        rows[_aborted_key(partition, offset)] = _encode(aborted)

    def trim(self, partition: int, start: int, rows: Rows) -> None:
        """The log start offset is `start` now: aborted transactions that end below it are forgotten."""
        found = self._partitions.get(partition)
        if found is None:
            return
        gone = bisect_left(found.aborted, start, key=_marker_offset)
        for one in found.aborted[:gone]:
            rows[_aborted_key(partition, one.marker_offset)] = None
        del found.aborted[:gone]
        self._count -= gone
        self._forget_if_empty(partition, found)

    def forget(self, partition: int, markers: Iterable[int], rows: Rows) -> None:
        """Nothing is left of the aborted transactions that end with markers at these offsets."""
        found = self._partitions.get(partition)
        if found is None:
            return
        for offset in markers:
            position = bisect_left(found.aborted, offset, key=_marker_offset)
            if position < len(found.aborted) and found.aborted[position].marker_offset == offset:
                del found.aborted[position]
                self._count -= 1
                rows[_aborted_key(partition, offset)] = None
        self._forget_if_empty(partition, found)

    def _forget_if_empty(self, partition: int, found: _Transactions) -> None:
        if not found.count:
            del self._partitions[partition]

    def drop(self, partition: int, rows: Rows) -> None:
        found = self._partitions.pop(partition, None)
        if found is not None:
            self._count -= found.count
            rows.update((_ongoing_key(partition, producer_id), None) for producer_id in found.ongoing)
            rows.update((_aborted_key(partition, one.marker_offset), None) for one in found.aborted)

    # --- the whole --------------------------------------------------------------------------------------

    def clear(self) -> None:
        self._partitions = {}
        self._count = 0

    def restore(self, rows: list[tuple[bytes, bytes]]) -> None:
        """Takes these rows of the two kinds, sorted by key, as the whole."""
        self.clear()
        ongoing: list[tuple[int, int, Ongoing]] = []
        for key, value in rows:
            partition, number = _PLACE.unpack_from(key, 1)
            found = self._partitions.setdefault(partition, _Transactions())
            if key[:1] == ABORTED:
                found.aborted.append(_decode_aborted(value))
            else:
                ongoing.append((partition, number, _decode_ongoing(value)))
        for partition, producer_id, one in sorted(ongoing, key=lambda item: item[2].first_offset):
            self._partitions[partition].ongoing[producer_id] = one
        self._count = len(rows)

    def rows(self) -> dict[bytes, bytes]:
        rows: dict[bytes, bytes] = {}
        for partition, found in self._partitions.items():
            rows |= {_ongoing_key(partition, producer_id): _encode(one) for producer_id, one in found.ongoing.items()}
            rows |= {_aborted_key(partition, one.marker_offset): _encode(one) for one in found.aborted}
        return rows


def _ongoing_key(partition: int, producer_id: int) -> bytes:
    return ONGOING + _PLACE.pack(partition, producer_id)


def _aborted_key(partition: int, marker_offset: int) -> bytes:
    return ABORTED + _PLACE.pack(partition, marker_offset)
