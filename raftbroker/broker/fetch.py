"""Reads of records: from the copy on this node where it reaches far enough, else from the leader.

A replica's applied state is a prefix of the leader's, and everything below its end is on this disk, so any node may
serve what it has. At its own end and beyond a node asks the leader, which alone, after a read barrier, may call an
offset out of range. A read that has to wait waits on its own node where that has a replica, woken when the group
has applied something.

What is read back is checked to be without a hole: a batch below the high watermark that is missing is damage, and the
replica leaves its group.
"""

import asyncio
from collections.abc import Sequence

from consensus.errors import Damaged, NotLeader
from consensus.group import Group
from raftbroker.broker.context import Context
from raftbroker.broker.errors import InvalidRequest, OffsetOutOfRange
from raftbroker.broker.routing import Mode, Router
from raftbroker.broker.topics import Topics
from raftbroker.broker.views import Fetched, OffsetsView, TimestampOffset
from raftbroker.broker.waiting import EndWaiters
from raftbroker.broker.wire import FETCH, OFFSETS, TIMESTAMP, FetchRequest, OffsetsRequest, TimestampRequest
from raftbroker.state.batch import decode_batch, parse_header
from raftbroker.state.partition import PartitionMachine

SCAN_BYTES = 1 << 20
"""How much one step of a search by timestamp reads before it lets others run."""
FORWARD_SECONDS = 5.0
"""How long a waiting read is left with another node before it is asked for anew."""


CONFIRM_SECONDS = 1.0


class Hole(Damaged):
    """A batch that should be on this disk is not."""


class Fetcher:
    def __init__(self, context: Context, router: Router, topics: Topics, waiters: EndWaiters) -> None:
        self._context = context
        self._router = router
        self._topics = topics
        self._waiters = waiters
        self._suspected: dict[int, asyncio.Task[None]] = {}

    # --- on any node ----------------------------------------------------------------------------------------

    async def fetch(
        self, topic: str, number: int, offset: int, bytes_max: int, wait: float, bytes_min: int, timeout: float
    ) -> Fetched:
        if offset < 0:
            raise InvalidRequest(f"an offset is 0 or more, not {offset}", field="offset")
        options = self._context.options
        bytes_max = max(1, min(bytes_max, options.fetch_bytes_max))
        bytes_min = max(1, min(bytes_min, bytes_max))
        wait = max(0.0, min(wait, options.fetch_wait_max))
        self._context.counters.fetch_requests += 1
        loop = asyncio.get_running_loop()
        until = loop.time() + wait
        while True:
            _, place = await self._topics.place(topic, number, timeout)
            fetched = self._from_copy(place.group, place.id, offset, bytes_max)
            if fetched is None or not _enough(fetched, bytes_min):
                fetched = await self._beyond(
                    FetchRequest(
                        self._context.control_index, place.group, place.id, timeout, offset, bytes_max, bytes_min, 0.0
                    ),
                    until,
                )
            if _enough(fetched, bytes_min) or loop.time() >= until:
                self._context.counters.fetch_bytes += sum(map(len, fetched.batches))
                return fetched

    async def _beyond(self, request: FetchRequest, until: float) -> Fetched:
        """At this copy's end, or without a copy: what the leader has, or else what comes by `until`."""
        loop = asyncio.get_running_loop()
        machine = self._context.machine(request.group)
        leading = self._leads(request.group)
        wait_max = self._context.options.fetch_wait_max if leading else FORWARD_SECONDS
        if not leading:
            self._context.counters.fetch_forwarded += 1
        seen = machine.end(request.partition) if machine is not None else 0
        fetched = await self._router.at_leader(
            request.group,
            FETCH,
            lambda seconds: FetchRequest(
                self._context.control_index,
                request.group,
                request.partition,
                seconds,
                request.offset,
                request.bytes_max,
                request.bytes_min,
                max(0.0, min(until - loop.time(), wait_max)) if machine is None or leading else 0.0,
            ),
            self.fetch_here,
            max(until, loop.time()) + request.timeout,
            Mode.READ,
            attempt_seconds=FORWARD_SECONDS + 3.0,
        )
        if fetched.batches or machine is None or leading or loop.time() >= until:
            return fetched
        if machine.end(request.partition) == seen:
            await self._waiters.moved(request.group, request.partition, seen, until)
        return fetched

    def _leads(self, group: int) -> bool:
        replica = self._context.host.groups.get(group)
        return replica is not None and replica.leading

    def _from_copy(self, group: int, partition: int, offset: int, bytes_max: int) -> Fetched | None:
        """What this node's own replica has at the offset; None where it has nothing there."""
        replica = self._context.host.groups.get(group)
        if replica is None or replica.damaged is not None:
            return None
        machine = self._context.machine(group)
        if machine is None or offset >= machine.end(partition):
            return None
        state = machine.partition(partition)
        if offset < state.start:
            raise _out_of_range(offset, state.start, state.end)
        try:
            return Fetched(self._read(partition, offset, state.end, bytes_max), state.end, state.start)
        except Hole as error:
            if replica.leading:
                replica.damage(error)
            else:
                self._suspect(replica, partition, offset)
        except Damaged as error:
            replica.damage(error)
        return None

    def _suspect(self, replica: Group, partition: int, offset: int) -> None:
        """A follower's disk may be ahead of its state for a moment, while it switches to a snapshot: a hole counts
        as damage only if it stays."""
        if replica.id not in self._suspected:
            task = asyncio.get_running_loop().create_task(self._confirm(replica, partition, offset), name="confirm")
            self._suspected[replica.id] = task
            task.add_done_callback(lambda _: self._suspected.pop(replica.id, None))

    async def _confirm(self, replica: Group, partition: int, offset: int) -> None:
        for _ in range(2):
            await asyncio.sleep(CONFIRM_SECONDS)
            machine = replica.machine
            if not isinstance(machine, PartitionMachine) or self._context.host.groups.get(replica.id) is not replica:
                return
            state = machine.partition(partition)
            if not state.start <= offset < state.end:
                return
            try:
                self._read(partition, offset, state.end, 1)
                return
            except Damaged as error:
                damage = error
        replica.damage(damage)

    async def stop(self) -> None:
        tasks = list(self._suspected.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _read(self, partition: int, offset: int, end: int, bytes_max: int) -> tuple[bytes, ...]:
        """Batches from the one that holds `offset` on, below `end`. Raises Hole or Damaged."""
        records = self._context.records
        found = records.read(partition, offset, offset + 1, 1)
        if not found:  # the offset lies within a batch
            base = records.floor(partition, offset)
            if base is None:
                raise Hole(f"partition id {partition} has no batch at offset {offset}, below its end {end}")
            found = records.read(partition, base, base + 1, 1)
        if found and (left := bytes_max - len(found[0][1])) > 0:
            more = records.read(partition, found[0][0] + 1, end, left)
            if more and len(more[0][1]) <= left:
                found += more
        return tuple(contiguous(partition, offset, found))

    # --- on the leader --------------------------------------------------------------------------------------

    async def fetch_here(self, request: FetchRequest) -> Fetched:
        """Waits for the offset on this node, which leads the partition's group."""
        loop = asyncio.get_running_loop()
        await self._context.as_far_as(request)
        until = loop.time() + min(request.wait, self._context.options.fetch_wait_max)
        fetched: Fetched | None = None
        while True:
            group, machine = self._led(request.group)
            end = machine.end(request.partition)
            if request.offset < end:
                fetched = self._from_copy(request.group, request.partition, request.offset, request.bytes_max)
                if fetched is None:
                    raise NotLeader(request.group, None, "its replica here is damaged")
                if _enough(fetched, request.bytes_min):
                    return fetched
            elif request.offset > end:
                await group.read_barrier(request.timeout)
                state = machine.partition(request.partition)
                if request.offset > state.end:
                    raise _out_of_range(request.offset, state.start, state.end)
                continue
            if loop.time() >= until:
                break
            self._topics.check_partition(request.partition)
            if not await self._waiters.moved(request.group, request.partition, end, until):
                break
        state = machine.partition(request.partition)
        return fetched or Fetched((), state.end, state.start)

    def _led(self, number: int) -> tuple[Group, PartitionMachine]:
        group = self._context.leading(number)
        machine = self._context.machine(number)
        if machine is None:
            raise NotLeader(number, None, "this is not a data group")
        return group, machine

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

    async def offsets_here(self, request: OffsetsRequest) -> OffsetsView:
        await self._context.as_far_as(request)
        group, machine = self._led(request.group)
        await group.read_barrier(request.timeout)
        self._topics.check_partition(request.partition)
        state = machine.partition(request.partition)
        return OffsetsView(state.start, state.end)

    # --- by timestamp ---------------------------------------------------------------------------------------

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

    async def timestamp_here(self, request: TimestampRequest) -> TimestampOffset | None:
        await self._context.as_far_as(request)
        group, machine = self._led(request.group)
        await group.read_barrier(request.timeout)
        self._topics.check_partition(request.partition)
        segments = machine.segments(request.partition)
        for position, segment in enumerate(segments):
            if segment.max_timestamp < request.timestamp:
                continue
            state = machine.partition(request.partition)
            end = segments[position + 1].base_offset if position + 1 < len(segments) else state.end
            found = await self._scan(group, request, max(segment.base_offset, state.start), end)
            if found is not None:
                return found
        return None

    async def _scan(self, group: Group, request: TimestampRequest, offset: int, end: int) -> TimestampOffset | None:
        """The first record from `offset` on, below `end`, that is not older than asked."""
        while offset < end:
            machine = self._led(request.group)[1]
            start = machine.partition(request.partition).start
            offset = max(offset, start)
            if offset >= end:
                return None
            try:
                batches = self._read(request.partition, offset, end, SCAN_BYTES)
            except Damaged as error:
                group.damage(error)
                raise NotLeader(group.id, None, "its replica here is damaged") from error
            for batch in batches:
                header = parse_header(batch)
                offset = header.base_offset + header.count
                if header.max_timestamp >= request.timestamp:
                    for record in decode_batch(batch):
                        if record.timestamp >= request.timestamp and record.offset >= start:
                            return TimestampOffset(record.offset, record.timestamp)
            await asyncio.sleep(0)
        return None


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


def _enough(fetched: Fetched, bytes_min: int) -> bool:
    return bool(fetched.batches) and (bytes_min <= 1 or sum(map(len, fetched.batches)) >= bytes_min)


def _out_of_range(offset: int, start: int, end: int) -> OffsetOutOfRange:
    return OffsetOutOfRange(
        f"offset {offset} is not between the log start offset {start} and the high watermark {end}",
        start=start,
        high_watermark=end,
    )
