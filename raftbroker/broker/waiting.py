"""Long polls: readers that wait for partitions to move, woken by what is applied; nobody polls.

One reader may wait for many partitions at once. It is woken by anything that touches one of them: an append, a trim, a
transaction's end, a change of leadership. So it looks again, and waits again where there is not enough yet. Between the
look and the wait there must be no `await`.

Bounded in number; every wait has its end.
"""

import asyncio
import weakref
from collections.abc import Iterable

from raftbroker.broker.errors import Throttled
from raftbroker.state.partition import PartitionMachine


class EndWaiters:
    def __init__(self, waiting_max: int) -> None:
        self._waiting_max = waiting_max
        self._groups: dict[int, dict[int, dict[asyncio.Future[None], None]]] = {}
        """group -> partition -> futures"""
        self._ears: dict[int, _Ear] = {}
        self.count = 0

    def wake(self, group: int) -> None:
        """Leadership moved, or partitions went: everyone looks again."""
        for futures in self._groups.get(group, {}).values():
            _wake(futures)

    def touched(self, group: int, partitions: Iterable[int]) -> None:
        waiting = self._groups.get(group)
        if waiting:
            for partition in partitions:
                futures = waiting.get(partition)
                if futures:
                    _wake(futures)

    def waiting(self) -> list[tuple[int, int]]:
        """(group, partition) of everyone who waits."""
        return [(group, partition) for group, partitions in self._groups.items() for partition in partitions]

    async def moved(self, places: Iterable[tuple[int, PartitionMachine, int]], deadline: float) -> bool:
        """Waits until one of these (group, its machine, partition) has moved; False at the deadline (on the loop's
        clock). Raises Throttled where too many wait."""
        if self.count >= self._waiting_max:
            raise Throttled(f"{self._waiting_max} reads wait on this node already", retry_after_ms=1000)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        registered: list[tuple[int, int]] = []
        for group, machine, partition in places:
            self._listen(group, machine)
            self._groups.setdefault(group, {}).setdefault(partition, {})[future] = None
            registered.append((group, partition))
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
            for group, partition in registered:
                self._forget(group, partition, future)

    def _listen(self, group: int, machine: PartitionMachine) -> None:
        ear = self._ears.get(group)
        if ear is None or ear.machine() is not machine:
            self._ears[group] = _Ear(self, group, machine)

    def _forget(self, group: int, partition: int, future: "asyncio.Future[None]") -> None:
        partitions = self._groups.get(group, {})
        futures = partitions.get(partition, {})
        futures.pop(future, None)
        if not futures and partitions.pop(partition, None) is not None and not partitions:
            del self._groups[group]


class _Ear:
    """Hears of one machine's changes, as its `partition.Watcher`."""

    def __init__(self, waiters: EndWaiters, group: int, machine: PartitionMachine) -> None:
        self._waiters = waiters
        self._group = group
        self.machine = weakref.ref(machine)
        machine.attach(self)

    def reset(self) -> None:
        self._waiters.wake(self._group)

    def applied(self, partitions: Iterable[int]) -> None:
        self._waiters.touched(self._group, partitions)


def _wake(futures: "Iterable[asyncio.Future[None]]") -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


def _expire(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_exception(TimeoutError())
