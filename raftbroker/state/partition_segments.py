"""One partition of a data group's state, mutable: offsets, segments, leader epochs.

Segments lie side by side: each ends where the next one begins, compacted or not, so that every offset belongs to one.

A part of `partition.PartitionMachine`, which says what the bounds are and what becomes a row.
"""

from bisect import bisect_right
from operator import attrgetter

import msgspec

from consensus.store import KeyRange
from raftbroker.state.keys import batch_range
from raftbroker.state.partition_commands import AppendHeader, Compact, Segment

SEGMENT_BYTES_MIN = 1 << 20
SEGMENT_BYTES_SHARE = 1024
SEGMENT_MS_MIN = 60_000
SEGMENT_MS_SHARE = 64
EPOCHS_MAX = 64
"""The newest leader epochs kept of each partition."""

_base_offset = attrgetter("base_offset")

Epochs = tuple[tuple[int, int], ...]
"""(term, offset of the first batch appended in it), both ascending."""


class PartitionRow(msgspec.Struct, frozen=True, array_like=True):
    start: int
    first_base: int
    end: int
    appended_ms: int
    active: Segment | None


class Trimmed(msgspec.Struct, frozen=True):
    """What a trim takes away: closed segments that go as a whole, keys of batches."""

    segments: list[Segment]
    batches: list[KeyRange]


class Replaced(msgspec.Struct, frozen=True):
    """What compaction has changed: closed segments that went, those in their place, keys of batches that go."""

    before: list[Segment]
    after: list[Segment]
    gone: list[KeyRange]


class Partition:
    """The active segment is open: its fields change with every append."""

    __slots__ = (
        "active",
        "appended_ms",
        "bytes",
        "closed",
        "compacted_end",
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
        self.compacted_end = 0
        """From here on all batches are as produced."""
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

    def trim(self, start: int, first_base: int) -> "Trimmed":
        """A `first_base` that makes no sense deletes nothing."""
        self.start = max(self.start, min(start, self.end))
        if not self.first_base < first_base <= self.start:
            return Trimmed([], [])
        batches = self.ranges(self.first_base, first_base)
        self.first_base = first_base
        segments = self.segments()
        ends = [segment.base_offset for segment in segments[1:]] + [self.end]
        gone = sum(1 for end in ends if end <= first_base)
        if gone == len(segments):
            self.active = None
        removed = self.closed[:gone]
        del self.closed[:gone]
        self.recount()
        return Trimmed(removed, batches)

    def count_from(self, doubted_ms: int, began_ms: int) -> list[Segment]:
        """What was last appended to, or cleaned, from `doubted_ms` on counts as if at `began_ms`. Returns the segments
        changed."""
        segments = self.segments()
        changed = []
        for position, segment in enumerate(segments):
            appended_ms, cleaned_ms = segment.appended_ms, segment.cleaned_ms
            if doubted_ms <= appended_ms < began_ms:
                appended_ms = began_ms
            if cleaned_ms and doubted_ms <= cleaned_ms < began_ms:
                cleaned_ms = began_ms
            if (appended_ms, cleaned_ms) != (segment.appended_ms, segment.cleaned_ms):
                segments[position] = msgspec.structs.replace(segment, appended_ms=appended_ms, cleaned_ms=cleaned_ms)
                changed.append(segments[position])
        if changed and self.active is not None:
            self.active = segments.pop()
        if changed:
            self.closed = segments
        return changed

    def segments(self) -> list[Segment]:
        return self.closed if self.active is None else [*self.closed, self.active]

    def stop_of(self, position: int) -> int:
        """Where the segment at this position ends: where the next one begins."""
        if position + 1 < len(self.closed):
            return self.closed[position + 1].base_offset
        return self.end if self.active is None or position == len(self.closed) else self.active.base_offset

    def segment_at(self, offset: int) -> tuple[Segment, int]:
        """The segment that this offset, which is below the end and not below the start, belongs to; where it ends."""
        active = self.active
        if active is not None and offset >= active.base_offset:
            return active, self.end
        position = max(0, bisect_right(self.closed, offset, key=_base_offset) - 1)
        return self.closed[position], self.stop_of(position)

    def ranges(self, low: int, high: int) -> list[KeyRange]:
        """The keys under which the batches lie that start from offset `low` to before `high`, where both are the first
        or last offset of a batch, or in a gap."""
        found: list[KeyRange] = []
        run = low  # what follows from here on, and has not been told, is as produced
        for position, segment in enumerate(self.closed if low < self.compacted_end else ()):
            first, stop = max(segment.base_offset, low), min(self.stop_of(position), high)
            if segment.generation and first < stop:
                if run < first:
                    found.append(batch_range(self.id, 0, run, first))
                found.append(batch_range(self.id, segment.generation, first, stop))
                run = stop
        if run < high:
            found.append(batch_range(self.id, 0, run, high))
        return found

    def compact(self, command: Compact, time_ms: int, stable: int) -> "Replaced | None":
        """None, and nothing changed, where the segments are not what they were, or what follows them is not decided:
        that stays, so that below the last stable offset, `stable`, there is always a batch to read."""
        position = bisect_right(self.closed, command.replaced[0][0], key=_base_offset) - 1
        if position < 0:
            return None
        behind = position + len(command.replaced)
        replaced = self.closed[position:behind]
        if tuple((one.base_offset, one.generation) for one in replaced) != command.replaced:
            return None
        last, stop = replaced[-1], self.stop_of(behind - 1)
        whole = command.end == stop
        following = self.stop_of(behind) if whole else stop
        if (
            following > stable
            or self.first_base > command.first
            or not (whole or (not last.generation and last.base_offset < command.end < stop))
        ):
            return None
        cleaned = [one.cleaned_ms for one in replaced]
        made = Segment(
            replaced[0].base_offset,
            command.bytes,
            command.max_timestamp,
            replaced[0].created_ms,
            max(one.appended_ms for one in replaced),
            command.generation,
            max(cleaned) if all(cleaned) else time_ms,
            command.waiting,
        )
        gone: list[KeyRange] = []
        put = [made]
        if command.generation:
            gone = self.ranges(max(made.base_offset, self.first_base), command.end)
        elif len(replaced) > 1 or not whole:
            return None
        else:
            put = [
                msgspec.structs.replace(
                    last, max_timestamp=command.max_timestamp, cleaned_ms=made.cleaned_ms, waiting=command.waiting
                )
            ]
        if not whole:
            left = max(0, last.bytes - command.taken)
            put.append(msgspec.structs.replace(last, base_offset=command.end, bytes=left))
        self.closed[position:behind] = put
        self.recount()
        return Replaced(replaced, put, gone)

    def recount(self) -> None:
        segments = self.segments()
        self.bytes = sum(segment.bytes for segment in segments)
        self.max_timestamp = max((segment.max_timestamp for segment in segments), default=-1)
        compacted = [position for position, segment in enumerate(self.closed) if segment.generation]
        self.compacted_end = self.stop_of(compacted[-1]) if compacted else 0

    def row(self) -> PartitionRow:
        return PartitionRow(self.start, self.first_base, self.end, self.appended_ms, self.active)
