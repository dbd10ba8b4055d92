"""One partition of a data group's state, mutable: offsets, segments, leader epochs.

A part of `partition.PartitionMachine`, which says what the bounds are and what becomes a row.
"""

import msgspec

from raftbroker.state.partition_commands import AppendHeader, Segment

SEGMENT_BYTES_MIN = 1 << 20
SEGMENT_BYTES_SHARE = 1024
SEGMENT_MS_MIN = 60_000
SEGMENT_MS_SHARE = 64
EPOCHS_MAX = 64
"""The newest leader epochs kept of each partition."""

Epochs = tuple[tuple[int, int], ...]
"""(term, offset of the first batch appended in it), both ascending."""


class PartitionRow(msgspec.Struct, frozen=True, array_like=True):
    start: int
    first_base: int
    end: int
    appended_ms: int
    active: Segment | None


class Partition:
    """The active segment is open: its fields change with every append."""

    __slots__ = (
        "active",
        "appended_ms",
        "bytes",
        "closed",
        "end",
        "epochs",
        "first_base",
        "id",
        "max_timestamp",
        "start",
    )

    def __init__(self, partition_id: int) -> None:
        self.id = partition_id
        self.start = self.first_base = self.end = self.bytes = self.appended_ms = 0
        self.max_timestamp = -1
        self.closed: list[Segment] = []
        self.active: Segment | None = None
        self.epochs: Epochs = ()

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

    def begin_epoch(self, term: int) -> bool:
        """The next batch is of this term; whether that is new."""
        if self.epochs and self.epochs[-1][0] >= term:
            return False
        self.epochs = (*self.epochs[1 - EPOCHS_MAX :], (term, self.end))
        return True

    def forget_epochs(self) -> bool:
        """Lets go of the epochs of which nothing can be read any more; whether there were any."""
        gone = sum(1 for _, offset in self.epochs[1:] if offset <= self.start)
        self.epochs = self.epochs[gone:]
        return gone > 0

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

    def row(self) -> PartitionRow:
        return PartitionRow(self.start, self.first_base, self.end, self.appended_ms, self.active)
