"""Long polls: readers that wait for a partition's end to move, woken by what is applied; nobody polls.

Bounded in number; every wait has its end.
"""

import asyncio

from consensus.group import Group
from raftbroker.broker.errors import Throttled
from raftbroker.state.partition import PartitionMachine


class EndWaiters:
    def __init__(self, waiting_max: int) -> None:
        self._waiting_max = waiting_max
        self._groups: dict[int, dict[int, dict[asyncio.Future[None], int]]] = {}
        """group -> partition -> future -> the end it has seen"""
        self.count = 0

    def applied(self, group: Group) -> None:
        """For `Host.on_applied`."""
        partitions = self._groups.get(group.id)
        machine = group.machine
        if partitions and isinstance(machine, PartitionMachine):
            for partition, futures in partitions.items():
                end = machine.end(partition)
                for future, seen in futures.items():
                    if end != seen and not future.done():
                        future.set_result(None)

    def wake(self, group: int) -> None:
        """Leadership moved, or partitions went: everyone looks again."""
        for futures in self._groups.get(group, {}).values():
            for future in futures:
                if not future.done():
                    future.set_result(None)

    def waiting(self) -> list[tuple[int, int]]:
        """(group, partition) of everyone who waits."""
        return [(group, partition) for group, partitions in self._groups.items() for partition in partitions]

    async def moved(self, group: int, partition: int, seen: int, deadline: float) -> bool:
        """Waits until the partition's end may differ from `seen`; False at the deadline (on the loop's clock)."""
        if self.count >= self._waiting_max:
            raise Throttled(f"{self._waiting_max} reads wait on this node already", retry_after_ms=1000)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        futures = self._groups.setdefault(group, {}).setdefault(partition, {})
        futures[future] = seen
        self.count += 1
        timer = loop.call_at(deadline, _expire, future)
        try:
            await future
            return True
        except TimeoutError:
            return False
        finally:
            timer.cancel()
            self.count -= 1
            self._forget(group, partition, future)

    def _forget(self, group: int, partition: int, future: "asyncio.Future[None]") -> None:
        partitions = self._groups[group]
        del partitions[partition][future]
        if not partitions[partition]:
            del partitions[partition]
            if not partitions:
                del self._groups[group]


def _expire(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_exception(TimeoutError())
