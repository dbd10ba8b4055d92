"""A transactional producer and readers for tests: they find who leads, as Kafka's clients do, and ask again."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from consensus.errors import ConsensusError
from raftbroker.broker.broker import Broker
from raftbroker.broker.errors import Retriable, UnknownOutcome
from raftbroker.broker.leader_fetch import Reading, Wanted
from raftbroker.state.batch import RecordDraft, check_batch, decode_batch, encode_batch, parse_header
from raftbroker.state.transactions.ops import TxnError

A = TypeVar("A")
T = 1_700_000_000_000


class Asked(Protocol):
    """A node, while it runs."""

    @property
    def core(self) -> object | None: ...

    @property
    def broker(self) -> Broker: ...


async def anywhere(nodes: Sequence[Asked], ask: Callable[[Asked], Awaitable[A]], seconds: float = 20.0) -> A:
    """Asks one node after the other until one can answer."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        for node in nodes:
            if node.core is None:
                continue
            try:
                return await ask(node)
            except (Retriable, UnknownOutcome, ConsensusError):
                assert asyncio.get_running_loop().time() < deadline, "nobody can answer"
        await asyncio.sleep(0.02)


class Refused(Exception):
    def __init__(self, error: TxnError) -> None:
        self.error = error
        super().__init__(error.value)


class TxnProducer:
    def __init__(self, nodes: Sequence[Asked], name: str, timeout_ms: int = 60_000) -> None:
        self.nodes = nodes
        self.name = name
        self.timeout_ms = timeout_ms
        self.id = self.epoch = -1
        self.sequences: dict[tuple[str, int], int] = {}

    async def init(self, *, go_on: bool = False) -> None:
        expected = (self.id, self.epoch) if go_on else (-1, -1)
        deadline = asyncio.get_running_loop().time() + 20.0
        while True:
            made = await anywhere(
                self.nodes,
                lambda node: node.broker.transactions.init_producer(self.name, self.timeout_ms, expected, timeout=5.0),
            )
            if made.error is TxnError.CONCURRENT_TRANSACTIONS:
                assert asyncio.get_running_loop().time() < deadline, "the transaction before does not end"
                continue
            if made.error is not None:
                raise Refused(made.error)
            self.id, self.epoch = made.producer_id, made.epoch
            self.sequences.clear()
            return

    def partition_id(self, topic: str, partition: int) -> int:
        node = next(node for node in self.nodes if node.core is not None)
        state = node.broker._context.control.topic(topic)
        assert state is not None
        return state.partitions[partition].id

    async def add(self, *places: tuple[str, int]) -> None:
        partitions = [self.partition_id(*place) for place in places]
        await self._asked(
            lambda node: node.broker.transactions.add_partitions(
                self.name, self.id, self.epoch, partitions, timeout=5.0
            )
        )

    async def add_group(self, group: str) -> None:
        await self._asked(
            lambda node: node.broker.transactions.add_group(self.name, self.id, self.epoch, group, timeout=5.0)
        )

    async def end(self, *, commit: bool) -> None:
        await self._asked(
            lambda node: node.broker.transactions.end(self.name, self.id, self.epoch, commit, timeout=5.0)
        )

    async def _asked(self, ask: Callable[[Asked], Awaitable[TxnError | None]]) -> None:
        deadline = asyncio.get_running_loop().time() + 20.0
        while True:
            error = await anywhere(self.nodes, ask)
            if error is None:
                return
            if error is not TxnError.CONCURRENT_TRANSACTIONS:
                raise Refused(error)
            assert asyncio.get_running_loop().time() < deadline, "the transaction before does not end"

    def batch(self, topic: str, partition: int, *values: bytes) -> bytes:
        """The next batch of a partition."""
        sequence = self.sequences.get((topic, partition), 0)
        self.sequences[topic, partition] = sequence + len(values)
        return transactional(self.id, self.epoch, sequence, *values)

    async def send(self, topic: str, partition: int, *values: bytes) -> int:
        """The offset of the first record."""
        return await self.send_batch(topic, partition, self.batch(topic, partition, *values))

    async def send_batch(self, topic: str, partition: int, batch: bytes) -> int:
        header = check_batch(batch, transactional=True)

        async def send(node: Asked) -> int:
            transactions = node.broker.transactions
            number = transactions.number_of(topic, partition, header)
            if number is None:
                number = await transactions.verify(self.name, topic, partition, header, timeout=5.0)
            append = node.broker.leader_side.append
            return (await append(topic, partition, memoryview(batch), timeout=5.0, transaction=number)).base_offset

        return await anywhere(self.nodes, send)


def transactional(producer_id: int, epoch: int, sequence: int, *values: bytes) -> bytes:
    return encode_batch(
        [RecordDraft(value=value) for value in values],
        base_timestamp=T,
        producer_id=producer_id,
        producer_epoch=epoch,
        base_sequence=sequence,
        attributes=0x10,
    )


async def fetch(
    nodes: Sequence[Asked], topic: str, partition: int, offset: int, *, committed: bool, wait: float = 0.0
) -> Reading:
    async def ask(node: Asked) -> Reading:
        answer = await node.broker.leader_side.fetch(
            [Wanted(topic, partition, offset, 1 << 20)], bytes_max=1 << 20, bytes_min=1, wait=wait, committed=committed
        )
        [reading] = answer.readings
        if reading.error is not None:
            raise reading.error
        return reading

    return await anywhere(nodes, ask)


async def read(nodes: Sequence[Asked], topic: str, partition: int, *, committed: bool) -> list[bytes | None]:
    """All there is, as Kafka's clients read it."""
    values: list[bytes | None] = []
    offset = 0
    skipped: set[int] = set()
    while True:
        reading = await fetch(nodes, topic, partition, offset, committed=committed)
        if not reading.batches:
            return values
        aborted = list(reading.aborted)
        for batch in reading.batches:
            header = parse_header(batch)
            while aborted and aborted[0][1] < header.next_offset:
                skipped.add(aborted.pop(0)[0])
            offset = header.next_offset
            if header.control:
                skipped.discard(header.producer_id)
            elif not (committed and header.transactional and header.producer_id in skipped):
                values += [record.value for record in decode_batch(batch)]
