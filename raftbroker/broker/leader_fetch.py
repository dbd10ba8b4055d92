"""Kafka's fetch: many partitions in one request, on the node that leads them, nothing passed on.

Fair: each request begins with one of its partitions drawn at random, so that none starves where the answer cannot hold
all. The first batch found is given however large it is, or a reader could not get past it; else the bounds hold: those
of each partition and of the whole.

A request that finds too little waits for all its partitions at once and goes on from where it has got to, so that no
byte is read twice. What is applied wakes it, nothing polls.

An offset at the end waits, also where leadership may have been lost unnoticed: what is there is true, if perhaps not
the latest. Only after a read barrier is an offset beyond the end called out of range.
"""

import asyncio
from collections.abc import Sequence
from struct import Struct
from typing import NamedTuple

import msgspec

from consensus.errors import ConsensusError
from raftbroker.broker.context import Context
from raftbroker.broker.errors import BrokerError, InvalidRequest, LedElsewhere, Throttled
from raftbroker.broker.leading import Leading, Led
from raftbroker.broker.replica_read import ReplicaReads, out_of_range
from raftbroker.broker.waiting import EndWaiters
from raftbroker.state.partition import PartitionMachine

BARRIER_SECONDS = 5.0
TURN_BYTES, TURN_PARTITIONS = 1 << 20, 256
"""Read, or looked at, before others get the loop."""
REST_SECONDS = 0.002
"""How long a reader that wants much lets small appends gather, once woken, before it looks again."""

_LAST = Struct(">q15xi")
"""A batch's base offset and last offset delta."""


class Wanted(msgspec.Struct, frozen=True, gc=False):
    """What to read of one partition. `epoch` is the leader epoch the reader knows, -1 for none."""

    topic: str
    partition: int
    offset: int
    bytes_max: int
    epoch: int = -1


class Reading(msgspec.Struct):
    """What has been read of it so far. Where `error` is set, nothing else counts but what its class says."""

    error: BrokerError | None = None
    batches: list[bytes] = []
    """Whole, in order, with gaps only where compaction has been; the first may begin below the offset asked for."""
    high_watermark: int = -1
    last_stable: int = -1
    """As `high_watermark`, but below the first open transaction."""
    log_start: int = -1
    aborted: Sequence[tuple[int, int]] = ()
    """(producer id, first offset) of aborted transactions among the batches, where asked for."""
    size: int = 0
    next_offset: int = 0
    full: bool = False
    """The next batch does not fit."""


class Answer(NamedTuple):
    readings: list[Reading]
    """In the order of what was wanted."""
    throttle_ms: int
    """Not 0: too many readers wait already; this one should stay away for so long."""


class LeaderFetch:
    def __init__(self, context: Context, leading: Leading, waiters: EndWaiters, reads: ReplicaReads) -> None:
        self._context = context
        self._leading = leading
        self._waiters = waiters
        self._reads = reads

    async def fetch(
        self, wanted: Sequence[Wanted], *, bytes_max: int, bytes_min: int, wait: float, committed: bool
    ) -> "Answer":
        """`committed`: nothing of transactions that are open, and which ones were aborted."""
        options = self._context.options
        request = _Request(
            wanted,
            max(1, min(bytes_max, options.fetch_bytes_max)),
            committed,
            self._context.random.randrange(len(wanted)) if wanted else 0,
        )
        self._context.counters.fetch_requests += 1
        bytes_min = min(bytes_min, request.left)
        loop = asyncio.get_running_loop()
        until = loop.time() + max(0.0, min(wait, options.fetch_wait_max))
        while True:
            places = await self._look(request)
            if request.settled or request.size >= bytes_min or not places or loop.time() >= until:
                break
            if request.moved(places):
                continue
            try:
                if not await self._waiters.moved([_place(led) for led, _ in places], until):
                    break
            except Throttled as error:
                return Answer(request.readings, error.retry_after_ms)
            if bytes_min > 1:
                await asyncio.sleep(min(REST_SECONDS, max(0.0, until - loop.time())))
        self._context.counters.fetch_bytes += request.size
        return Answer(request.readings, 0)

    async def _look(self, request: "_Request") -> list[tuple[Led, int]]:
        """Reads what there is now; where more may come, with the end that was seen there."""
        places: list[tuple[Led, int]] = []
        beyond: list[tuple[int, Led]] = []
        read = 0
        for looked, position in enumerate(request.order, 1):
            if looked % TURN_PARTITIONS == 0:
                await asyncio.sleep(0)
            one, reading = request.wanted[position], request.readings[position]
            if reading.full or reading.error is not None:
                continue
            try:
                led = self._leading.find(one.topic, one.partition, one.epoch)
                before = reading.size
                end = self._advance(request, one, reading, led)
            except BrokerError as error:
                request.failed(reading, error)
                continue
            if one.offset > reading.high_watermark:
                beyond.append((position, led))
            if not reading.full:
                places.append((led, end))
            read += reading.size - before
            if read > TURN_BYTES:
                read = 0
                await asyncio.sleep(0)
        if beyond:
            await self._check_beyond(request, beyond)
        return places

    def _advance(self, request: "_Request", one: Wanted, reading: Reading, led: Led) -> int:
        """Reads on from where it is; the end as this reader sees it. Raises OffsetOutOfRange and LedElsewhere."""
        machine, partition = led.machine, led.place.id
        end = machine.last_stable(partition) if request.committed else machine.end(partition)
        if reading.high_watermark < 0:
            if one.offset < 0:
                raise InvalidRequest(f"an offset is 0 or more, not {one.offset}", field="offset")
            reading.next_offset = one.offset
        state = machine.partition(partition)
        reading.high_watermark, reading.log_start = state.end, state.start
        reading.last_stable = machine.last_stable(partition)
        offset = reading.next_offset
        if offset < state.start:
            raise out_of_range(offset, state.start, state.end)
        room = min(one.bytes_max - reading.size, request.left)
        if offset >= end:
            return end
        if room <= 0 and request.size:
            reading.full = True
            return end
        batches = self._reads.batches(led.group, machine, partition, offset, end, room)
        if not batches:
            raise LedElsewhere("this node's replica of the partition is damaged, nothing was read: ask another one")
        request.take(reading, batches, room)
        if request.committed and reading.batches:
            reading.aborted = machine.aborted(partition, one.offset, reading.next_offset)
        return end

    async def _check_beyond(self, request: "_Request", beyond: Sequence[tuple[int, Led]]) -> None:
        """Offsets above the end as seen here: after a barrier they are out of range, or not any more."""
        groups = {led.group.id: led.group for _, led in beyond}
        barriers = await asyncio.gather(
            *(group.read_barrier(BARRIER_SECONDS) for group in groups.values()), return_exceptions=True
        )
        failed = {number: outcome for number, outcome in zip(groups, barriers, strict=True) if outcome is not None}
        for position, led in beyond:
            reading, offset = request.readings[position], request.wanted[position].offset
            wrong = failed.get(led.group.id)
            if isinstance(wrong, ConsensusError):
                request.failed(reading, LedElsewhere(f"this node may not lead the partition any more: {wrong}"))
            elif wrong is not None:
                raise wrong
            else:
                state = led.machine.partition(led.place.id)
                if offset > state.end:
                    request.failed(reading, out_of_range(offset, state.start, state.end))


def _place(led: Led) -> tuple[int, PartitionMachine, int]:
    return led.group.id, led.machine, led.place.id


class _Request:
    """One fetch while it is put together."""

    def __init__(self, wanted: Sequence[Wanted], bytes_max: int, committed: bool, first: int) -> None:
        self.wanted = wanted
        self.committed = committed
        self.readings = [Reading() for _ in wanted]
        self.left = bytes_max
        self.size = 0
        self.settled = False
        """An error is to be told at once."""
        self.order = [*range(first, len(wanted)), *range(first)]

    def take(self, reading: Reading, batches: Sequence[bytes], room: int) -> None:
        """The first batch of the request is taken whatever its size."""
        size = sum(map(len, batches))
        if size > room and self.size:
            reading.full = True
            return
        if not reading.batches:
            reading.batches = list(batches)
        else:
            reading.batches += batches
        reading.size += size
        self.size += size
        self.left -= size
        base, last_delta = _LAST.unpack_from(batches[-1])
        reading.next_offset = base + last_delta + 1

    def failed(self, reading: Reading, error: BrokerError) -> None:
        """What has been read stands; its reader will come upon the error with its next request."""
        self.settled = True
        if not reading.batches:
            reading.error = error

    def moved(self, places: Sequence[tuple[Led, int]]) -> bool:
        """Whether a partition is not what it was any more: `_look` gave the loop to others on its way."""
        return any(
            not led.group.leading
            or (led.machine.last_stable(led.place.id) if self.committed else led.machine.end(led.place.id)) != seen
            for led, seen in places
        )
