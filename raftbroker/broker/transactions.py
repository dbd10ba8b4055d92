"""Transactions, as producers ask for them: on the node that leads the shard of their transactional id.

These calls are for front doors whose clients are told who coordinates: where another node does, they raise NotLeader.
What the shard refuses is in the answer; what could not be decided is raised, and may be asked again.

What has to wait for the transaction before to be completed waits here for a moment, for that is quicker than asking
again.
"""

import asyncio
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from consensus.errors import ConsensusError
from raftbroker.broker.context import Context
from raftbroker.broker.errors import (
    BrokerError,
    FencedProducer,
    InvalidRequest,
    InvalidTransaction,
    Unavailable,
    UnknownProducer,
)
from raftbroker.broker.leading import Leading
from raftbroker.broker.markers import Markers
from raftbroker.broker.produce import Producer
from raftbroker.broker.producer_ids import ProducerIds
from raftbroker.broker.routing import Router
from raftbroker.broker.shards import Shards
from raftbroker.broker.transaction_ends import TransactionEnds
from raftbroker.broker.wire import Calls
from raftbroker.broker.wire_transactions import WRITE_MARKERS
from raftbroker.state.batch import BatchHeader
from raftbroker.state.partition_commands import Ongoing, ProducerState
from raftbroker.state.shard import Op
from raftbroker.state.transactions.ops import (
    AddToTransaction,
    DescribeTransaction,
    Done,
    EndTransaction,
    Initialized,
    InitProducer,
    ListTransactions,
    TransactionView,
    TxnError,
    TxnState,
    VerifyTransaction,
)
from raftbroker.state.transactions.part import TransactionsPart

O = TypeVar("O", Initialized, Done)  # noqa: E741  an outcome

ID_BYTES_MAX = 1000
"""Of a transactional id."""
PATIENCE_SECONDS = 0.5
"""How long a call waits for the transaction before to be completed."""


class ProducerView(msgspec.Struct, frozen=True):
    """A producer as a partition knows it."""

    producer_id: int
    state: ProducerState | None
    ongoing: Ongoing | None


class Transactions:
    def __init__(
        self,
        context: Context,
        router: Router,
        shards: Shards,
        leading: Leading,
        producer: Producer,
        producer_ids: ProducerIds,
    ) -> None:
        self._context = context
        self._shards = shards
        self._leading = leading
        self._producer = producer
        self._producer_ids = producer_ids
        self._markers = Markers(context, producer)
        self._ends = TransactionEnds(context, router, shards, self._markers)

    def serve(self, calls: Calls) -> None:
        calls.serve(WRITE_MARKERS, self._markers.write_here)

    async def stop(self) -> None:
        await self._ends.stop()

    # --- the coordinator --------------------------------------------------------------------------------------

    async def init_producer(
        self, name: str, timeout_ms: int, expected: tuple[int, int] = (-1, -1), *, timeout: float
    ) -> Initialized:
        """A producer begins, or goes on from `expected`, its producer id and epoch. Raises InvalidRequest."""
        _check(name)
        longest = self._context.options.transaction_timeout_ms_max
        if not 0 < timeout_ms <= longest:
            raise InvalidRequest(
                f"a transaction's time-out is 1 to {longest} ms, not {timeout_ms}", field="transaction_timeout_ms"
            )
        op = InitProducer(
            name,
            new_producer_id=await self._producer_ids.take(timeout),
            expected_id=expected[0],
            expected_epoch=expected[1],
            timeout_ms=timeout_ms,
            retain_ms=self._context.options.transactional_id_retain_ms,
        )
        return await self._patiently(op, timeout)

    async def add_partitions(
        self, name: str, producer_id: int, epoch: int, partitions: Sequence[int], *, timeout: float
    ) -> TxnError | None:
        """`partitions` are partition ids."""
        _check(name)
        op = AddToTransaction(name, producer_id=producer_id, epoch=epoch, partitions=tuple(partitions))
        return (await self._patiently(op, timeout)).error

    async def add_group(
        self, name: str, producer_id: int, epoch: int, group: str, *, timeout: float
    ) -> TxnError | None:
        _check(name)
        op = AddToTransaction(name, producer_id=producer_id, epoch=epoch, groups=(group,))
        return (await self._patiently(op, timeout)).error

    async def end(self, name: str, producer_id: int, epoch: int, commit: bool, *, timeout: float) -> TxnError | None:
        """Returns once the outcome is certain; partitions hear of it a moment later."""
        _check(name)
        op = EndTransaction(name, producer_id=producer_id, epoch=epoch, commit=commit)
        done: Done = await self._shards.submit_here(op, timeout)
        return done.error

    async def _patiently(self, op: Op[O], timeout: float) -> O:
        loop = asyncio.get_running_loop()
        until = loop.time() + min(PATIENCE_SECONDS, timeout)
        while True:
            if self._completing(op.name) and loop.time() < until:
                await self._shards.changed(op.name, until)
                continue
            outcome: O = await self._shards.submit_here(op, timeout)
            if outcome.error is not TxnError.CONCURRENT_TRANSACTIONS or loop.time() >= until:
                return outcome

    def _completing(self, name: str) -> bool:
        one = self._shards.part(self._shards.shard_of(name), TransactionsPart).transaction(name)
        return one is not None and one.state.decided

    # --- what tools ask ---------------------------------------------------------------------------------------

    async def describe(self, name: str, *, timeout: float) -> TransactionView:
        """On the node that leads the name's shard."""
        shard = self._shards.shard_of(name)
        await self._shards.barrier(shard, timeout)
        view: TransactionView = self._shards.part(shard, TransactionsPart).query(DescribeTransaction(name))
        return view

    async def list_here(
        self, states: Sequence[TxnState], producer_ids: Sequence[int], age_ms: int, *, timeout: float
    ) -> list[TransactionView]:
        """Those of the shards that this node leads; a tool asks every node."""
        query = ListTransactions("", states=tuple(states), producer_ids=tuple(producer_ids), age_ms=age_ms)
        found: list[TransactionView] = []
        for shard in self._shards.led():
            await self._shards.barrier(shard, timeout)
            found += self._shards.part(shard, TransactionsPart).query(query).transactions
        return found

    def began_ms(self, view: TransactionView) -> int:
        """When the transaction began by this node's clock, in epoch ms; -1 where none is open."""
        return self._context.wall() - view.age_ms if view.age_ms >= 0 else -1

    def places(self, partitions: Sequence[int]) -> dict[str, list[int]]:
        """The numbers of these partitions (ids) by topic, but for those of topics that have been deleted."""
        found: dict[str, list[int]] = {}
        for partition in partitions:
            location = self._context.control.partition(partition)
            if location is not None:
                found.setdefault(location.topic.name, []).append(location.number)
        return found

    def producers_here(self, topic: str, partition: int) -> list[ProducerView]:
        """The producers a partition knows; this node leads it. Raises as `Leading.find`."""
        led = self._leading.find(topic, partition)
        states, open_ = led.machine.producers(led.place.id), led.machine.all_ongoing(led.place.id)
        return [ProducerView(number, states.get(number), open_.get(number)) for number in sorted({*states, *open_})]

    # --- a partition's leader ---------------------------------------------------------------------------------

    def number_of(self, topic: str, partition: int, header: BatchHeader) -> int | None:
        """The number of the transaction that a transactional batch belongs to, where the partition knows it; None where
        the coordinator has to be asked. This node leads the partition. Raises as `Leading.find`."""
        led = self._leading.find(topic, partition)
        return self._producer.writer(led.group.id).decisions.transaction_of(led.place.id, header)

    async def verify(self, name: str, topic: str, partition: int, header: BatchHeader, *, timeout: float) -> int:
        """The number of the open transaction, which the partition has been added to, as the coordinator says; it is
        asked, whichever node that is. Raises InvalidTransaction, FencedProducer, Unavailable and others."""
        _check(name)
        led = self._leading.find(topic, partition)
        question = VerifyTransaction(
            name, producer_id=header.producer_id, epoch=header.producer_epoch, partitions=(led.place.id,)
        )
        try:
            return await self._verified(question, timeout)
        except (BrokerError, ConsensusError) as error:
            self._producer.missed(led.place.id, header, error)
            raise

    async def verify_group(self, name: str, producer_id: int, epoch: int, group: str, *, timeout: float) -> int:
        """As `verify`, for a consumer group's offsets."""
        _check(name)
        return await self._verified(
            VerifyTransaction(name, producer_id=producer_id, epoch=epoch, groups=(group,)), timeout
        )

    async def _verified(self, question: VerifyTransaction, timeout: float) -> int:
        answer = await self._shards.query(question, timeout)
        if answer.error is None:
            return answer.number
        raise _refused(answer.error, question)


def _refused(error: TxnError, question: VerifyTransaction) -> Exception:
    who = f"producer {question.producer_id} of transactional id {question.name}"
    if error is TxnError.CONCURRENT_TRANSACTIONS:
        return Unavailable(f"{who}: its transaction is being completed: try again in a moment")
    if error is TxnError.PRODUCER_FENCED:
        return FencedProducer(f"{who}: epoch {question.epoch} is not its epoch any more", field="producer_epoch")
    if error is TxnError.INVALID_PRODUCER_ID_MAPPING:
        return UnknownProducer(f"{who}: this is not the transactional id's producer", field="producer_id")
    return InvalidTransaction(f"{who}: the partition or group is not part of an open transaction", field="records")


def _check(name: str) -> None:
    if not 0 < len(name.encode()) <= ID_BYTES_MAX:
        raise InvalidRequest(
            f"a transactional id has 1 to {ID_BYTES_MAX} bytes, not {len(name.encode())}", field="transactional_id"
        )
