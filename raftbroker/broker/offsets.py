"""Which offset stands where: first and last, by timestamp, at the end of a leader epoch.

All of these are answered by a partition's leader, after a read barrier where what is committed counts, so that a leader
that has been deposed and does not know it yet never tells a client that its position does not exist.

A search by timestamp goes by what batches say of themselves and opens the one it finds. One that cannot be opened, or
whose records do not bear out what it says, counts as found at its beginning: whoever reads from there misses nothing.
"""

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from consensus.errors import NotLeader
from consensus.group import Group
from raftbroker.broker.context import Context
from raftbroker.broker.errors import InvalidRequest
from raftbroker.broker.leading import EPOCH_MASK, Led
from raftbroker.broker.replica_read import ReplicaReads
from raftbroker.broker.routing import Mode, Router
from raftbroker.broker.topics import Topics
from raftbroker.broker.views import OffsetsView, TimestampOffset
from raftbroker.broker.wire import OFFSETS, TIMESTAMP, OffsetsRequest, TimestampRequest
from raftbroker.state.batch import BatchHeader, decode_batch, parse_header
from raftbroker.state.errors import BadBatch
from raftbroker.state.partition import PartitionMachine

SCAN_BYTES = 1 << 20
"""How much one step of a search by timestamp reads before it lets others run."""

LATEST, EARLIEST, MAX_TIMESTAMP = -1, -2, -3
"""What Kafka's ListOffsets asks for in place of a timestamp."""


class PlacedOffset(msgspec.Struct, frozen=True):
    """An offset as Kafka's clients want it. All three are -1 where there is none."""

    offset: int
    timestamp: int = -1
    epoch: int = -1
    """The leader epoch of the record there, or of the partition where none is there yet."""


NOWHERE = PlacedOffset(-1)


class Offsets:
    def __init__(self, context: Context, router: Router, topics: Topics, reads: ReplicaReads) -> None:
        self._context = context
        self._router = router
        self._topics = topics
        self._reads = reads

    # --- on any node ----------------------------------------------------------------------------------------

    async def offsets(self, topic: str, number: int, timeout: float) -> OffsetsView:
        _, place = await self._topics.place(topic, number, timeout)
        return await self._router.at_leader(
            place.group,
            OFFSETS,
            lambda left: OffsetsRequest(self._context.control_index, place.group, place.id, left),
            self.offsets_here,
            asyncio.get_running_loop().time() + timeout,
            Mode.READ,
        )

    async def offset_for_timestamp(
        self, topic: str, number: int, timestamp: int, timeout: float
    ) -> TimestampOffset | None:
        _, place = await self._topics.place(topic, number, timeout)
        return await self._router.at_leader(
            place.group,
            TIMESTAMP,
            lambda left: TimestampRequest(self._context.control_index, place.group, place.id, left, timestamp),
            self.timestamp_here,
            asyncio.get_running_loop().time() + timeout,
            Mode.READ,
            attempt_seconds=timeout,
        )

    # --- on the leader --------------------------------------------------------------------------------------

    async def offsets_here(self, request: OffsetsRequest) -> OffsetsView:
        await self._context.as_far_as(request)
        group, machine = self._led(request.group)
        await group.read_barrier(request.timeout)
        self._topics.check_partition(request.partition)
        state = machine.partition(request.partition)
        return OffsetsView(state.start, state.end, machine.last_stable(request.partition))

    async def timestamp_here(self, request: TimestampRequest) -> TimestampOffset | None:
        await self._context.as_far_as(request)
        group, machine = self._led(request.group)
        await group.read_barrier(request.timeout)
        self._topics.check_partition(request.partition)
        found = await self._by_timestamp(group, machine, request.partition, request.timestamp)
        return None if found is None else TimestampOffset(found.offset, found.timestamp)

    def _led(self, number: int) -> tuple[Group, PartitionMachine]:
        group = self._context.leading(number)
        machine = self._context.machine(number)
        if machine is None:
            raise NotLeader(number, None, "this is not a data group")
        return group, machine

    # --- for Kafka's clients, on this node alone --------------------------------------------------------------

    async def barriers(self, led: Sequence[Led], timeout: float) -> dict[int, Exception | None]:
        """One read barrier for each group: None where it holds, else what is wrong with it."""
        groups = {one.group.id: one.group for one in led}
        done = await asyncio.gather(*(group.read_barrier(timeout) for group in groups.values()), return_exceptions=True)
        outcomes: dict[int, Exception | None] = {}
        for number, outcome in zip(groups, done, strict=True):
            if isinstance(outcome, BaseException) and not isinstance(outcome, Exception):
                raise outcome
            outcomes[number] = outcome
        return outcomes

    async def find(self, led: Led, timestamp: int, *, stable: bool) -> PlacedOffset:
        """After the group's barrier. The first offset whose record is not older than `timestamp` (ms), or one of
        LATEST, EARLIEST, MAX_TIMESTAMP; `stable`: as a reader of committed transactions sees it."""
        machine, partition = led.machine, led.place.id
        end = machine.last_stable(partition) if stable else machine.end(partition)
        if timestamp == LATEST:
            return PlacedOffset(end, -1, led.epoch)
        if timestamp == EARLIEST:
            start = machine.partition(partition).start
            return PlacedOffset(start, -1, epoch_at(machine, partition, start))
        if timestamp == MAX_TIMESTAMP:
            found = await self._newest(led.group, machine, partition, end)
        elif timestamp >= 0:
            found = await self._by_timestamp(led.group, machine, partition, timestamp)
        else:
            raise InvalidRequest(f"timestamp {timestamp} is none of -1 to -3 and not a time", field="timestamp")
        return found if found is not None and found.offset < end else NOWHERE

    def epoch_end(self, led: Led, epoch: int) -> tuple[int, int]:
        """After the group's barrier. (the largest leader epoch up to `epoch`, the offset at which it ends); (-1, -1)
        where `epoch` is yet to come."""
        end = led.machine.end(led.place.id)
        if epoch == led.epoch:
            return epoch, end
        if not 0 <= epoch < led.epoch:
            return -1, -1
        largest = epoch
        for term, start in led.machine.epochs(led.place.id):
            if term & EPOCH_MASK > epoch:
                return largest, start
            largest = term & EPOCH_MASK
        return largest, end

    # --- by timestamp ---------------------------------------------------------------------------------------

    async def _by_timestamp(
        self, group: Group, machine: PartitionMachine, partition: int, timestamp: int
    ) -> PlacedOffset | None:
        segments = machine.segments(partition)
        for position, segment in enumerate(segments):
            if segment.max_timestamp < timestamp:
                continue
            end = segments[position + 1].base_offset if position + 1 < len(segments) else machine.end(partition)
            found: list[PlacedOffset] = []

            def look(header: BatchHeader, batch: bytes, start: int, found: list[PlacedOffset] = found) -> bool:
                if header.max_timestamp >= timestamp and not header.control:
                    found.extend(first_not_older(header, batch, timestamp, start))
                return bool(found)

            await self._scan(group, machine, partition, segment.base_offset, end, look)
            if found:
                return found[0]
        return None

    async def _newest(self, group: Group, machine: PartitionMachine, partition: int, end: int) -> PlacedOffset | None:
        """The first record with the greatest timestamp, below `end`."""
        segments = machine.segments(partition)
        if not segments:
            return None
        ends = [segment.base_offset for segment in segments[1:]] + [end]
        best: tuple[int, BatchHeader, bytes, int] | None = None
        for segment, until in sorted(zip(segments, ends, strict=True), key=lambda one: -one[0].max_timestamp):
            if best is not None and best[0] >= segment.max_timestamp:
                break

            def look(header: BatchHeader, batch: bytes, start: int) -> bool:
                nonlocal best
                if header.control:
                    return False
                newest = header.max_timestamp
                if header.base_offset < start:  # it may be that of a record below the log start
                    newest = newest_from(header, batch, start)
                if best is None or newest > best[0]:
                    best = newest, header, batch, start
                return False

            await self._scan(group, machine, partition, segment.base_offset, min(until, end), look)
        if best is None:
            return None
        newest, header, batch, start = best
        return next(iter(first_not_older(header, batch, newest, start)), None)

    async def _scan(
        self,
        group: Group,
        machine: PartitionMachine,
        partition: int,
        offset: int,
        end: int,
        look: Callable[[BatchHeader, bytes, int], bool],
    ) -> None:
        """Shows `look` (header, batch, log start) the batches from `offset` on, below `end`, until it has seen
        enough."""
        while offset < end:
            if not group.leading:
                raise NotLeader(group.id, None, "leadership was lost during a search by timestamp")
            start = machine.partition(partition).start
            offset = max(offset, start)
            if offset >= end:
                return
            batches = self._reads.batches(group, machine, partition, offset, end, SCAN_BYTES)
            if batches is None:
                raise NotLeader(group.id, None, "its replica here is damaged")
            if not batches:
                return
            for batch in batches:
                header = parse_header(batch)
                offset = header.next_offset
                if look(header, batch, start):
                    return
            await asyncio.sleep(0)


def first_not_older(header: BatchHeader, batch: bytes, timestamp: int, start: int) -> list[PlacedOffset]:
    """The batch's first record from the log start on that is not older than `timestamp`, where the batch says that it
    has one; none where only records below the log start are meant."""
    epoch = header.leader_epoch
    beginning = [PlacedOffset(max(header.base_offset, start), header.max_timestamp, epoch)]
    if header.log_append_time:
        return beginning
    try:
        records = decode_batch(batch)
    except BadBatch:
        return beginning
    young = [record for record in records if record.timestamp >= timestamp]
    if not young:
        return beginning
    return [PlacedOffset(one.offset, one.timestamp, epoch) for one in young if one.offset >= start][:1]


def newest_from(header: BatchHeader, batch: bytes, start: int) -> int:
    """The greatest timestamp of the batch's records from the log start on."""
    try:
        records = decode_batch(batch)
    except BadBatch:
        return header.max_timestamp
    return max((record.timestamp for record in records if record.offset >= start), default=-1)


def epoch_at(machine: PartitionMachine, partition: int, offset: int) -> int:
    """The leader epoch of what is at the offset; -1 where it is not known."""
    epoch = -1
    for term, start in machine.epochs(partition):
        if start > offset:
            break
        epoch = term & EPOCH_MASK
    return epoch
