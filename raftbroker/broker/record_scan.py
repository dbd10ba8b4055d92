"""Record batches from this node's disk, by a partition's segments as applied.

Batches as produced follow on one another: a gap between two is damage. Where compaction has been, batches and the
records in them have gaps: an offset in one reads what follows it, in whichever segment. A segment that compaction wrote
is held against its bytes wherever it is read whole, which the next pass does, so a batch that is missing there is found
as well.

Nothing that can be read is left without a batch behind it: compaction leaves the last segment below the last stable
offset as it is (`compactor`), and that offset never goes back. So a read from an offset below it, or below the high
watermark, always finds a batch.
"""

import itertools
from collections.abc import Iterator, Sequence

from consensus.errors import Damaged
from raftbroker.state.batch import parse_header
from raftbroker.state.partition import PartitionMachine
from raftbroker.state.partition_commands import Segment
from raftbroker.storage.records import RecordReader


class Hole(Damaged):
    """A batch that should be on this disk is not."""


def scan(
    records: RecordReader, machine: PartitionMachine, partition: int, offset: int, end: int, bytes_max: int
) -> list[bytes]:
    """Batches from the first that reaches beyond `offset` on, which must be one that can be read, below `end`; none
    where compaction has left nothing there. At least one while there is any, and no further one that would pass
    `bytes_max` bytes in all. Raises Hole or Damaged."""
    if offset >= machine.compacted_end(partition):
        return as_produced(records, partition, offset, end, bytes_max)
    found: list[bytes] = []
    left = bytes_max
    while offset < end and (left > 0 or not found):
        segment, stop = machine.segment_at(partition, offset)
        until = min(stop, end)
        if segment.generation:
            batches = compacted(records, partition, segment, offset, until, left, whole=until == stop)
        else:
            batches = as_produced(records, partition, offset, until, left)
        for batch in batches:
            left -= len(batch)
            if found and left < 0:
                return found
            found.append(batch)
        offset = parse_header(batches[-1]).next_offset if batches else until
    return found


def as_produced(records: RecordReader, partition: int, offset: int, end: int, bytes_max: int) -> list[bytes]:
    """Where there are no gaps. Raises Hole."""
    found = records.read(partition, offset, end, bytes_max)
    if not found or found[0][0] != offset:  # the offset lies within a batch
        base = records.floor(partition, offset)
        if base is None:
            raise Hole(f"partition id {partition} has no batch at offset {offset}, below its end {end}")
        first = records.read(partition, base, base + 1, 1)
        left = bytes_max - sum(len(batch) for _, batch in first)
        found = first + [one for one, after in zip(found, _sums(found), strict=True) if after <= left]
    return contiguous(partition, offset, found)


def compacted(
    records: RecordReader, partition: int, segment: Segment, offset: int, end: int, bytes_max: int, *, whole: bool
) -> list[bytes]:
    """Of a segment that compaction wrote. `whole`: `end` is the segment's. Raises Hole."""
    generation = segment.generation
    found = records.read(partition, offset, end, bytes_max, generation)
    if not found or found[0][0] != offset:
        base = records.floor(partition, offset, generation)
        if base is not None:
            first = records.read(partition, base, base + 1, 1, generation)
            if parse_header(first[0][1]).next_offset > offset:
                left = bytes_max - len(first[0][1])
                found = first + [one for one, after in zip(found, _sums(found), strict=True) if after <= left]
    reached = segment.base_offset
    for base, batch in found:
        header = parse_header(batch)
        if header.base_offset != base or base < reached:
            raise Hole(
                f"partition id {partition} has a batch of offset {header.base_offset} at {base}, behind {reached}"
            )
        reached = header.next_offset
    read = sum(len(batch) for _, batch in found)
    if whole and offset == segment.base_offset and segment.bytes <= bytes_max and read != segment.bytes:
        raise Hole(
            f"partition id {partition} has {read} bytes of compacted batches from offset {offset} to {end}, and not "
            f"{segment.bytes}"
        )
    return [batch for _, batch in found]


def first_kept(records: RecordReader, machine: PartitionMachine, partition: int, offset: int) -> int:
    """From where on batches have to be kept for the offset, which can be read, and what follows: the beginning of the
    batch that holds it, or the offset itself where that is in a gap. Raises Damaged."""
    segment, _ = machine.segment_at(partition, offset)
    base = records.floor(partition, offset, segment.generation)
    if not segment.generation:
        if base is None:
            raise Hole(f"partition id {partition} has no batch at offset {offset}")
        return base
    if base is not None:
        ((_, batch),) = records.read(partition, base, base + 1, 1, segment.generation)
        if parse_header(batch).next_offset > offset:
            return base
    return offset


def contiguous(partition: int, offset: int, found: Sequence[tuple[int, bytes]]) -> list[bytes]:
    """The batches, where they are where they should be: the first holds `offset`, each follows the one before.

    Raises Hole."""
    batches = []
    expected = None
    for base, batch in found:
        header = parse_header(batch)
        after = base + header.count
        first = expected is None and base <= offset < after
        if header.base_offset != base or not (first or base == expected):
            raise Hole(
                f"partition id {partition} has a batch of offsets {header.base_offset} to {after - 1} at {base}, "
                f"where {offset if expected is None else expected} should follow"
            )
        batches.append(batch)
        expected = after
    if not batches:
        raise Hole(f"partition id {partition} has no batch at offset {offset}, below its end")
    return batches


def _sums(found: Sequence[tuple[int, bytes]]) -> Iterator[int]:
    """The bytes of the batches up to each one."""
    return itertools.accumulate(len(batch) for _, batch in found)
