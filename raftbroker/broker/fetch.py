"""Reads of records: from the copy on this node where it reaches far enough, else from the leader.

A replica's applied state is a prefix of the leader's, and everything below its end is on this disk, so any node may
serve what it has. At its own end and beyond a node asks the leader, which alone, after a read barrier, may call an
offset out of range. A read that has to wait waits on its own node where that has a replica, woken when the group
has applied something.
"""

import asyncio

import msgspec

from consensus.errors import NotLeader
from consensus.group import Group
from raftbroker.broker.context import Context
from raftbroker.broker.errors import InvalidRequest
from raftbroker.broker.replica_read import ReplicaReads, out_of_range
from raftbroker.broker.routing import Mode, Router
from raftbroker.broker.topics import Topics
from raftbroker.broker.views import Fetched
from raftbroker.broker.waiting import EndWaiters
from raftbroker.broker.wire import FETCH, FetchRequest
from raftbroker.state.partition import PartitionMachine

FORWARD_SECONDS = 5.0
"""How long a waiting read is left with another node before it is asked for anew."""


class Fetcher:
    def __init__(
        self, context: Context, router: Router, topics: Topics, waiters: EndWaiters, reads: ReplicaReads
    ) -> None:
        self._context = context
        self._router = router
        self._topics = topics
        self._waiters = waiters
        self._reads = reads

    # --- on any node ----------------------------------------------------------------------------------------

    async def fetch(
        self,
        topic: str,
        number: int,
        offset: int,
        *,
        bytes_max: int,
        wait: float,
        bytes_min: int,
        committed: bool,
        timeout: float,
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
            fetched = self._reads.from_copy(place.group, place.id, offset, bytes_max, committed=committed)
            if fetched is None or not _enough(fetched, bytes_min):
                request = FetchRequest(
                    self._context.control_index,
                    place.group,
                    place.id,
                    timeout,
                    offset,
                    bytes_max,
                    bytes_min,
                    0.0,
                    committed,
                )
                fetched = await self._beyond(request, until)
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
        seen = _end(machine, request) if machine is not None else 0
        fetched = await self._router.at_leader(
            request.group,
            FETCH,
            lambda seconds: msgspec.structs.replace(
                request,
                control=self._context.control_index,
                timeout=seconds,
                wait=max(0.0, min(until - loop.time(), wait_max)) if machine is None or leading else 0.0,
            ),
            self.fetch_here,
            max(until, loop.time()) + request.timeout,
            Mode.READ,
            attempt_seconds=FORWARD_SECONDS + 3.0,
        )
        if fetched.batches or machine is None or leading or loop.time() >= until:
            return fetched
        if _end(machine, request) == seen:
            await self._waiters.moved([(request.group, machine, request.partition)], until)
        return fetched

    def _leads(self, group: int) -> bool:
        replica = self._context.host.groups.get(group)
        return replica is not None and replica.leading

    # --- on the leader --------------------------------------------------------------------------------------

    async def fetch_here(self, request: FetchRequest) -> Fetched:
        """Waits for the offset on this node, which leads the partition's group."""
        loop = asyncio.get_running_loop()
        await self._context.as_far_as(request)
        until = loop.time() + min(request.wait, self._context.options.fetch_wait_max)
        fetched: Fetched | None = None
        while True:
            group, machine = self._led(request.group)
            if request.offset < _end(machine, request):
                fetched = self._reads.from_copy(
                    request.group, request.partition, request.offset, request.bytes_max, committed=request.committed
                )
                if fetched is None:
                    raise NotLeader(request.group, None, "its replica here is damaged")
                if _enough(fetched, request.bytes_min):
                    return fetched
            elif request.offset > machine.end(request.partition):
                await group.read_barrier(request.timeout)
                state = machine.partition(request.partition)
                if request.offset > state.end:
                    raise out_of_range(request.offset, state.start, state.end)
                continue
            if loop.time() >= until:
                break
            self._topics.check_partition(request.partition)
            if not await self._waiters.moved([(request.group, machine, request.partition)], until):
                break
        state = machine.partition(request.partition)
        return fetched or Fetched((), state.end, state.start, machine.last_stable(request.partition))

    def _led(self, number: int) -> tuple[Group, PartitionMachine]:
        group = self._context.leading(number)
        machine = self._context.machine(number)
        if machine is None:
            raise NotLeader(number, None, "this is not a data group")
        return group, machine


def _end(machine: PartitionMachine, request: FetchRequest) -> int:
    """As the reader sees it."""
    return machine.last_stable(request.partition) if request.committed else machine.end(request.partition)


def _enough(fetched: Fetched, bytes_min: int) -> bool:
    return bool(fetched.batches) and (bytes_min <= 1 or sum(map(len, fetched.batches)) >= bytes_min)
