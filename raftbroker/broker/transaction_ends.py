"""Carries out what has been decided of transactions: on the node that leads the shard of the transactional id.

Once a transaction is decided, every partition in it gets a marker and every consumer group is told what becomes of
the offsets in it; when all have answered, the shard completes the transaction. All of that may be repeated without
harm, so it is, until it succeeds or another node leads the shard: that one begins anew from what is applied.

A partition or a group that is gone has nothing to end.
"""

import asyncio
import logging
from collections.abc import Awaitable

from consensus.errors import ConsensusError, NotLeader
from raftbroker.broker.context import Context
from raftbroker.broker.errors import BrokerError, Unavailable
from raftbroker.broker.markers import Markers
from raftbroker.broker.routing import Mode, Router
from raftbroker.broker.shards import Shards
from raftbroker.broker.wire_transactions import WRITE_MARKERS, MarkersRequest, PlacedMarker
from raftbroker.state.groups.ops import TxnOffsetsEnd
from raftbroker.state.leader import Marker
from raftbroker.state.transactions.ops import CompleteTransaction, TxnState
from raftbroker.state.transactions.part import DECIDED, TransactionsPart
from raftbroker.state.transactions.rows import Transaction

log = logging.getLogger(__name__)

ENDING_MAX = 256
"""Transactions of one shard that are carried out at once; others wait for their turn."""
ATTEMPT_SECONDS = 10.0
PAUSE_MIN, PAUSE_MAX = 0.02, 1.0
LOOK_SECONDS = 5.0
TELL_AFTER = 5
"""Failed attempts until the log says that a transaction takes its time."""


def offsets_epoch(number: int) -> int:
    """What stands for the producer's epoch where a consumer group is given offsets of the transaction of this number;
    one more at its end. A group takes nothing of an older epoch than it knows, so of a transaction that has ended it
    takes none, and the end of one ends no other."""
    return 2 * number


class TransactionEnds:
    def __init__(self, context: Context, router: Router, shards: Shards, markers: Markers) -> None:
        self._context = context
        self._router = router
        self._shards = shards
        self._markers = markers
        self._drivers: dict[int, _Driver] = {}
        shards.on_led(self._led)
        shards.on_unled(self._unled)

    def _led(self, shard: int) -> None:
        self._unled(shard)
        self._drivers[shard] = _Driver(self, self._shards, shard)

    def _unled(self, shard: int) -> None:
        driver = self._drivers.pop(shard, None)
        if driver is not None:
            driver.stop()

    async def stop(self) -> None:
        drivers = list(self._drivers.values())
        self._drivers.clear()
        await asyncio.gather(*(task for driver in drivers for task in driver.stop()), return_exceptions=True)

    async def end(self, name: str, one: Transaction) -> None:
        """Tells every partition and group. Raises what kept the first of them from it."""
        commit = one.state is TxnState.PREPARE_COMMIT
        work: list[Awaitable[object]] = [
            self._mark(group, partitions, Marker(one.producer_id, one.epoch, one.number, commit))
            for group, partitions in self._by_group(one.partitions).items()
        ]
        work += [
            self._end_offsets(group, one.producer_id, offsets_epoch(one.number) + 1, commit) for group in one.groups
        ]
        for error in await asyncio.gather(*map(_failure, work)):
            if error is not None:
                raise error

    def _by_group(self, partitions: tuple[int, ...]) -> dict[int, list[int]]:
        """The partitions that still exist, by Raft group. Raises Unavailable where this node's copy is behind."""
        control = self._context.control
        found: dict[int, list[int]] = {}
        for partition in partitions:
            location = control.partition(partition)
            if location is not None:
                found.setdefault(location.group, []).append(partition)
            elif partition >= control.next_partition_id:
                raise Unavailable(f"this node does not know partition id {partition} yet")
        return found

    async def _mark(self, group: int, partitions: list[int], marker: Marker) -> None:
        placed = tuple(PlacedMarker(partition, marker) for partition in partitions)
        await self._router.at_leader(
            group,
            WRITE_MARKERS,
            lambda left: MarkersRequest(self._context.control_index, group, left, placed),
            self._markers.write_here,
            asyncio.get_running_loop().time() + ATTEMPT_SECONDS,
            Mode.REPEATABLE,
        )

    async def _end_offsets(self, group: str, producer_id: int, epoch: int, commit: bool) -> None:
        end = TxnOffsetsEnd(group, producer_id, epoch, commit)
        await self._shards.submit(end, ATTEMPT_SECONDS, mode=Mode.REPEATABLE)


async def _failure(work: Awaitable[object]) -> BrokerError | ConsensusError | None:
    """What kept it from being done, once that is known: others go on, and each is told what became of all."""
    try:
        await work
    except (BrokerError, ConsensusError) as error:
        return error
    return None


class _Driver:
    """One shard's, while this node leads it."""

    def __init__(self, ends: TransactionEnds, shards: Shards, shard: int) -> None:
        self._ends = ends
        self._shards = shards
        self._shard = shard
        self._ending: dict[str, asyncio.Task[None]] = {}
        self._stopped = False
        self._watch = asyncio.get_running_loop().create_task(self._run(), name=f"transactions of shard {shard}")

    def stop(self) -> list["asyncio.Task[None]"]:
        self._stopped = True
        tasks = [self._watch, *self._ending.values()]
        for task in tasks:
            task.cancel()
        return tasks

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                self._begin()
                await self._shards.changed(DECIDED, loop.time() + LOOK_SECONDS, shard=self._shard)
            except (NotLeader, BrokerError):  # about to be stopped, or too many wait
                await asyncio.sleep(PAUSE_MAX)

    def _begin(self) -> None:
        """Has as many as may be carried out at once under way."""
        if self._stopped or len(self._ending) >= ENDING_MAX:
            return
        for name in self._shards.part(self._shard, TransactionsPart).decided():
            if name not in self._ending:
                task = asyncio.get_running_loop().create_task(self._end(name), name=f"end transaction {name}")
                self._ending[name] = task
                task.add_done_callback(lambda done, name=name: self._ended(name, done))  # type: ignore[misc]
                if len(self._ending) >= ENDING_MAX:
                    return

    def _ended(self, name: str, done: "asyncio.Task[None]") -> None:
        del self._ending[name]
        if done.cancelled() or self._stopped:
            return
        error = done.exception()
        if error is not None and not isinstance(error, NotLeader):
            log.error("ending the transaction of %s failed; it is tried anew", name, exc_info=error)
        elif error is None:
            self._begin()

    async def _end(self, name: str) -> None:
        """Returns once the transaction is complete. Raises NotLeader."""
        pause, attempts = PAUSE_MIN, 0
        while True:
            one = self._shards.part(self._shard, TransactionsPart).transaction(name)
            if one is None or not one.state.decided:
                return
            try:
                await self._ends.end(name, one)
                await self._shards.submit_here(
                    CompleteTransaction(name, one.number), ATTEMPT_SECONDS, shard=self._shard
                )
                return
            except NotLeader as error:
                if error.group == self._shard:
                    raise
                reason: Exception = error
            except (BrokerError, ConsensusError) as error:
                reason = error
            attempts += 1
            if attempts == TELL_AFTER:
                log.warning("the transaction of %s cannot be completed yet, it is tried on: %s", name, reason)
            await asyncio.sleep(pause)
            pause = min(PAUSE_MAX, 2 * pause)
