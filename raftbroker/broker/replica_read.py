"""Record batches from this node's own replicas: from the tail in memory where it leads, else from the disk.

What is read from the disk is checked to be without a hole (`record_scan`): a batch below the high watermark that is
missing is damage, and the replica leaves its group.
"""

import asyncio
from collections.abc import Sequence

from consensus.errors import Damaged
from consensus.group import Group
from raftbroker.broker.context import Context
from raftbroker.broker.errors import OffsetOutOfRange
from raftbroker.broker.record_scan import Hole, scan
from raftbroker.broker.tail import TailCache
from raftbroker.broker.views import Fetched
from raftbroker.state.batch import parse_header
from raftbroker.state.partition import PartitionMachine

CONFIRM_SECONDS = 1.0


class ReplicaReads:
    def __init__(self, context: Context, tail: TailCache) -> None:
        self._context = context
        self._tail = tail
        self._suspected: dict[int, asyncio.Task[None]] = {}

    def from_copy(self, group: int, partition: int, offset: int, bytes_max: int, *, committed: bool) -> Fetched | None:
        """What this node's own replica has at the offset; None where it has nothing there. Raises OffsetOutOfRange
        below the log start. `committed`: nothing of transactions that are open, and which ones were aborted."""
        replica = self._context.host.groups.get(group)
        machine = self._context.machine(group)
        if replica is None or replica.damaged is not None or replica.installing or machine is None:
            return None
        end = machine.last_stable(partition) if committed else machine.end(partition)
        if offset >= end:
            return None
        state = machine.partition(partition)
        if offset < state.start:
            raise out_of_range(offset, state.start, state.end)
        batches = self.batches(replica, machine, partition, offset, end, bytes_max)
        if not batches:
            return None
        stable = end if committed else machine.last_stable(partition)
        aborted: tuple[tuple[int, int], ...] = ()
        if committed:
            aborted = tuple(machine.aborted(partition, offset, parse_header(batches[-1]).next_offset))
        return Fetched(tuple(batches), state.end, state.start, stable, aborted)

    def batches(
        self, replica: Group, machine: PartitionMachine, partition: int, offset: int, end: int, bytes_max: int
    ) -> Sequence[bytes] | None:
        """Those from the one that holds `offset` on, or the first behind it, below `end`, which the state says are
        here; None where they are not, and the replica may be damaged. There is one unless `end` cuts off what
        compaction has left: never where it is the end of what a reader may see."""
        if replica.leading and offset >= machine.compacted_end(partition):
            found = self._tail.read(machine, partition, offset, end, bytes_max)
            if found is not None:
                return found
        try:
            return scan(self._context.records, machine, partition, offset, end, bytes_max)
        except Hole as error:
            if replica.leading:
                replica.damage(error)
            else:
                self._suspect(replica, partition, offset)
        except Damaged as error:
            replica.damage(error)
        return None

    # --- damage ---------------------------------------------------------------------------------------------

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
                scan(self._context.records, machine, partition, offset, state.end, 1)
                return
            except Damaged as error:
                damage = error
        replica.damage(damage)

    async def stop(self) -> None:
        tasks = list(self._suspected.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def out_of_range(offset: int, start: int, end: int) -> OffsetOutOfRange:
    return OffsetOutOfRange(
        f"offset {offset} is not between the log start offset {start} and the high watermark {end}",
        start=start,
        high_watermark=end,
    )
