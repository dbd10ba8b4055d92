"""One pass of compaction over one partition, on the node that leads it: reads, filters, proposes, upwards.

Knows neither loop nor clock nor group: what it waits for is handed to it, so it can be driven by hand and be left at
any await. Each `Compact` is a whole: once it is applied the state is a right one, whatever becomes of the rest of the
pass. What is right about it:

- A record goes because a newer one of its key is committed, and decided, above it. Nothing else is needed for that.
- A tombstone goes later: once everything below it has been cleaned with a map that had its key. That is so where its
  segment was cleaned before: commands are proposed one by one, upwards, the next only when the last is applied, and a
  pass ends with the first that is not. So what was cleaned is a beginning of the partition, in which each key stands
  once at most.
- So does a marker, with what is remembered of its transaction: when its segment was first cleaned, the records of an
  aborted transaction had gone. It stays for `MARKER_MS` at least, longer than any read takes.
- The last segment below the last stable offset stays as produced (`record_scan`), and so does the open one.
"""

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol, TypeVar

import msgspec

from consensus.errors import Damaged
from consensus.model import Payload
from raftbroker.broker.record_scan import Hole, as_produced, compacted
from raftbroker.state.batch import BatchHeader, parse_header
from raftbroker.state.compaction import KeyMap, compact_batch
from raftbroker.state.errors import BadBatch
from raftbroker.state.keys import compacted_key
from raftbroker.state.partition import PartitionMachine
from raftbroker.state.partition_commands import Aborted, Compact, Segment
from raftbroker.storage.records import RecordReader

READ_BYTES = 64 << 10
"""Read at once; a larger batch is one by itself."""
ASIDE_RECORDS, ASIDE_BYTES = 200, 256 << 10
"""Batches of more than this are worked on aside: a thousand records take some 15 ms."""
BATCHES_MAX = 2_000
"""Batches of a new segment: they are proposed in one call."""
MARKER_MS = 900_000
"""Markers stay for as long as this at least: no fetch lasts longer, and what it says of aborted transactions is told
last."""

Propose = Callable[[Callable[[int, int], tuple[Compact, list[Payload]]]], Awaitable[None]]
"""Proposes what the function makes of the entry's index and of group time, in one call; returns once it is applied,
else raises."""
Breathe = Callable[[int], Awaitable[None]]
"""So many bytes have been read or proposed: lets others run if it is time. Raises where the pass is to end."""
T = TypeVar("T")


class Aside(Protocol):
    def __call__(self, work: Callable[[], T]) -> Awaitable[T]:
        """Does the work where it does not hold up the loop."""


class Changed(Exception):
    """The partition is not what it was when the pass began: retention, delete_records, a topic that is gone. What has
    been done stands; the next pass begins anew."""


class Rules(msgspec.Struct, frozen=True):
    """What is to be kept for how long. Times are group time; ages count from `floor_ms` at the earliest."""

    now_ms: int
    floor_ms: int
    lag_ms: int = 0
    """min.compaction.lag.ms"""
    tombstones_ms: int = 86_400_000
    """delete.retention.ms"""
    timely: bool = True
    """`now_ms` and `floor_ms` are of the same term: ages can be told."""
    map_bytes: int = 64 << 20
    segment_bytes: int = 2 << 20
    """A new segment holds no more, but for a single larger batch."""
    join: bool = True
    """Small neighbours become one; not where retention deletes whole segments as well, which it would do later then."""

    def old_enough(self, segment: Segment) -> bool:
        if not self.lag_ms:
            return True
        since = max(segment.max_timestamp, segment.appended_ms, self.floor_ms)
        return self.timely and self.now_ms - since > self.lag_ms

    def cleaned_for(self, segment: Segment, ms: int) -> bool:
        """Whether the segment was cleaned longer than `ms` ago."""
        return self.timely and segment.cleaned_ms > 0 and self.now_ms - max(segment.cleaned_ms, self.floor_ms) > ms

    def tombstones_go(self, segment: Segment) -> bool:
        return self.cleaned_for(segment, self.tombstones_ms)

    def markers_go(self, segment: Segment) -> bool:
        return self.cleaned_for(segment, max(self.tombstones_ms, MARKER_MS))


class Tally(msgspec.Struct):
    """What a pass has done."""

    read: int = 0
    """Bytes."""
    written: int = 0
    """Bytes of batches proposed."""
    removed: int = 0
    """Records."""
    commands: int = 0


Places = list[tuple[Segment, int]]
"""Segments, each with where it ends; ascending."""


def cleanable(machine: PartitionMachine, partition: int, rules: Rules) -> Places:
    """The segments that a pass may go over, from the first: closed, decided with the one that follows, old enough."""
    segments = machine.segments(partition)
    stable = machine.last_stable(partition)
    ends = [segment.base_offset for segment in segments[1:]] + [machine.end(partition)]
    found: Places = []
    for position, segment in enumerate(segments[:-1]):
        if ends[position + 1] > stable or not rules.old_enough(segment):
            break
        found.append((segment, ends[position]))
    return found


def dirty_ratio(places: Places, rules: Rules) -> float:
    """The share of bytes that were never cleaned, or hold what may go by now; 0 for none."""
    due = sum(s.bytes for s, _ in places if not s.cleaned_ms or (s.waiting and rules.markers_go(s)))
    return due / sum(segment.bytes for segment, _ in places) if due else 0.0


def overdue(places: Places, rules: Rules, lag_ms: int) -> bool:
    """Whether something that was never cleaned was appended longer than `lag_ms` (max.compaction.lag.ms) ago."""
    first = next((segment for segment, _ in places if not segment.cleaned_ms), None)
    return first is not None and rules.timely and rules.now_ms - max(first.created_ms, rules.floor_ms) > lag_ms


class _Part(msgspec.Struct):
    """What is to stay of a segment, or of its beginning."""

    segment: Segment
    stop: int
    """Where the segment ends."""
    first: int
    end: int
    """The offsets that were read."""
    kept: list[tuple[int, bytes]] = []
    """(base offset, batch)"""
    forgotten: list[int] = []
    taken: int = 0
    bytes: int = 0
    max_timestamp: int = -1
    waiting: int = 0
    changed: bool = False

    @property
    def alone(self) -> bool:
        """Not to be joined with others: what waits in it would begin to wait anew."""
        return self.segment.cleaned_ms > 0 and self.waiting > 0

    @property
    def untouched(self) -> bool:
        return not self.changed and self.end == self.stop


class Pass:
    def __init__(
        self,
        machine: PartitionMachine,
        partition: int,
        records: RecordReader,
        rules: Rules,
        propose: Propose,
        breathe: Breathe,
        aside: Aside,
    ) -> None:
        self._machine = machine
        self._partition = partition
        self._records = records
        self._rules = rules
        self._propose = propose
        self._breathe = breathe
        self._aside = aside
        self._aborted: dict[int, list[Aborted]] = {}
        self._markers: set[int] = set()
        self.tally = Tally()

    async def run(self) -> None:
        """Raises Changed, Damaged, and what was handed to it raises."""
        places = cleanable(self._machine, self._partition, self._rules)
        for one in self._machine.all_aborted(self._partition):
            self._aborted.setdefault(one.producer_id, []).append(one)
            self._markers.add(one.marker_offset)
        if places:
            keys, limit = await self._learn(places)
            await self._clean(places, keys, limit)

    # --- reading --------------------------------------------------------------------------------------------

    async def _batches(self, segment: Segment, stop: int, until: int) -> AsyncIterator[tuple[BatchHeader, bytes]]:
        """The batches of a segment that ends at `stop`, below `until`, as long as it is what it was. Raises Changed."""
        machine, partition = self._machine, self._partition
        offset, read = segment.base_offset, 0
        while True:
            offset = max(offset, machine.partition(partition).first_base)
            if offset >= until:
                break
            if machine.end(partition) < until:
                raise Changed
            now, end = machine.segment_at(partition, offset)
            if (now.base_offset, now.generation, end) != (segment.base_offset, segment.generation, stop):
                raise Changed
            if segment.generation:
                batches = compacted(self._records, partition, segment, offset, until, READ_BYTES, whole=False)
            else:
                batches = as_produced(self._records, partition, offset, until, READ_BYTES)
            for batch in batches:
                header = parse_header(batch)
                offset = header.next_offset
                read += len(batch)
                self.tally.read += len(batch)
                yield header, batch
                await self._breathe(len(batch))
            if not batches:
                offset = until
        cut = until < stop or machine.partition(partition).first_base > segment.base_offset
        if segment.generation and not cut and read != segment.bytes:
            raise Hole(
                f"partition id {partition} has {read} bytes of compacted batches from offset {segment.base_offset} to "
                f"{stop}, and not {segment.bytes}"
            )

    async def _work(self, header: BatchHeader, work: Callable[[], T]) -> T:
        """On one batch; on a large one where it does not hold up the loop. Raises Damaged."""
        try:
            if header.record_count > ASIDE_RECORDS or header.size > ASIDE_BYTES:
                return await self._aside(work)
            return work()
        except BadBatch as error:
            raise Damaged(f"partition id {self._partition}, offset {header.base_offset}: {error}") from error

    def _is_aborted(self, header: BatchHeader) -> bool:
        found = self._aborted.get(header.producer_id) if header.transactional else None
        return found is not None and any(one.first_offset <= header.base_offset < one.marker_offset for one in found)

    async def _learn(self, places: Places) -> tuple[KeyMap, int]:
        """The newest offset of each key from the first segment that was never cleaned on; up to where it knows them."""
        last = places[-1][1]
        fresh = [place for place in places if not place[0].cleaned_ms]
        begin = fresh[0][0].base_offset if fresh else last
        keys = KeyMap(self._rules.map_bytes, max(1, last - begin))
        for segment, stop in places:
            if segment.base_offset < begin:
                continue
            async for header, batch in self._batches(segment, stop, stop):
                learn = partial(keys.learn, batch, aborted=self._is_aborted(header))
                if not await self._work(header, learn):
                    return keys, segment.base_offset if segment.generation else header.base_offset
        return keys, last

    # --- filtering ------------------------------------------------------------------------------------------

    async def _clean(self, places: Places, keys: KeyMap, limit: int) -> None:
        left = deque(places)
        run: list[_Part] = []
        while left and left[0][0].base_offset < limit:
            segment, stop = left.popleft()
            part = await self._filter(segment, stop, min(stop, limit), keys)
            size = part.bytes + sum(one.bytes for one in run)
            apart = part.alone or not self._rules.join or bool(run and run[-1].alone)
            batches = len(part.kept) + sum(len(one.kept) for one in run)
            if run and (apart or size > self._rules.segment_bytes or batches > BATCHES_MAX):
                await self._put(run)
                run = []
            run.append(part)
            if part.end < stop:
                await self._put(run)
                run = []
                rest = max(0, segment.bytes - part.taken)
                left.appendleft((msgspec.structs.replace(segment, base_offset=part.end, bytes=rest), stop))
        if run:
            await self._put(run)

    async def _filter(self, segment: Segment, stop: int, until: int, keys: KeyMap) -> _Part:
        """What stays of the segment, up to `until` or, where it is as produced, to where a new segment is full."""
        first = max(segment.base_offset, self._machine.partition(self._partition).first_base)
        part = _Part(segment, stop, first, until)
        tombstones_go, markers_go = self._rules.tombstones_go(segment), self._rules.markers_go(segment)
        async for header, batch in self._batches(segment, stop, until):
            full = part.bytes + len(batch) > self._rules.segment_bytes or len(part.kept) >= BATCHES_MAX
            if full and part.kept and not segment.generation:
                part.end = header.base_offset
                break
            work = partial(
                compact_batch,
                batch,
                keys,
                aborted=self._is_aborted(header),
                drop_tombstones=tombstones_go,
                drop_marker=markers_go,
            )
            one = await self._work(header, work)
            part.taken += len(batch)
            self.tally.removed += one.removed
            part.changed = part.changed or one.data is not batch
            if one.data is None:
                if header.control and header.base_offset in self._markers:
                    part.forgotten.append(header.base_offset)
                continue
            part.kept.append((header.base_offset, one.data))
            part.bytes += len(one.data)
            part.max_timestamp = max(part.max_timestamp, one.max_timestamp)
            part.waiting += one.tombstones + header.control
        return part

    # --- proposing ------------------------------------------------------------------------------------------

    async def _put(self, run: Sequence[_Part]) -> None:
        """Raises Changed where it was not applied."""
        part = run[0]
        keep = len(run) == 1 and part.untouched
        if keep and part.segment.cleaned_ms and part.waiting == part.segment.waiting:
            return
        made = 0

        def build(index: int, time_ms: int) -> tuple[Compact, list[Payload]]:
            nonlocal made
            made = part.segment.generation if keep else index
            command = Compact(
                time_ms,
                self._partition,
                0 if keep else index,
                tuple((one.segment.base_offset, one.segment.generation) for one in run),
                part.first,
                run[-1].end,
                run[-1].taken,
                sum(one.bytes for one in run),
                max(one.max_timestamp for one in run),
                sum(one.waiting for one in run),
                tuple(offset for one in run for offset in one.forgotten),
            )
            batches = [] if keep else [batch for one in run for batch in one.kept]
            return command, [Payload.of(compacted_key(self._partition, index, base), data) for base, data in batches]

        await self._propose(build)
        self.tally.commands += 1
        written = 0 if keep else sum(one.bytes for one in run)
        self.tally.written += written
        at = max(part.segment.base_offset, self._machine.partition(self._partition).first_base)
        if at >= run[-1].end or self._machine.end(self._partition) <= run[-1].end:
            raise Changed
        now, _ = self._machine.segment_at(self._partition, at)
        if now.base_offset != part.segment.base_offset or now.generation != made or not now.cleaned_ms:
            raise Changed
        await self._breathe(written)
