"""Real nodes in this process with a Kafka listener each, and a bare client that speaks through kafka-python's codec."""

import asyncio
import random
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from kafka.protocol.consumer import FetchRequest, ListOffsetsRequest, OffsetForLeaderEpochRequest
from kafka.protocol.producer import InitProducerIdRequest, ProduceRequest

from raftbroker.broker.broker import Broker
from raftbroker.kafka.context import KafkaOptions
from raftbroker.kafka.server import KafkaListener
from tests.unit.broker.nodes import TestNode, cluster

SECONDS = 20.0


class Client:
    """One connection; requests may be sent ahead of their answers."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._sent = 0

    def send(self, message: Any, version: int) -> None:
        self._sent += 1
        flexible = type(message).flexible_version_q(version)
        head = struct.pack(">hhih", message.API_KEY, version, self._sent, 4) + b"test" + (b"\0" if flexible else b"")
        body = bytes(message.encode(version=version))
        self.writer.write(struct.pack(">i", len(head) + len(body)) + head + body)

    async def answer(self, message: Any, version: int) -> Any:
        """The next answer, which is to this message."""
        async with asyncio.timeout(SECONDS):
            (size,) = struct.unpack(">i", await self.reader.readexactly(4))
            whole = await self.reader.readexactly(size)
        response = RESPONSES[message.API_KEY]
        at = 5 if type(message).flexible_version_q(version) else 4
        return response.decode(whole[at:], version=version)

    async def ask(self, message: Any, version: int) -> Any:
        self.send(message, version)
        return await self.answer(message, version)

    async def closed(self) -> bytes:
        async with asyncio.timeout(SECONDS):
            return await self.reader.read()

    # --- requests of the data path ----------------------------------------------------------------------------

    async def produce(self, *batches: tuple[str, int, bytes | None], version: int = 11, **fields: Any) -> list[Any]:
        """The answers of the partitions, in order."""
        answer = await self.ask(produce_request(*batches, **fields), version)
        return [one for topic in answer.responses for one in topic.partition_responses]

    async def fetch(self, *places: tuple[str, int, int], version: int = 12, **fields: Any) -> list[Any]:
        answer = await self.ask(fetch_request(*places, **fields), version)
        return [one for topic in answer.responses for one in topic.partitions]

    async def offset(self, topic: str, partition: int, timestamp: int, *, version: int = 7, **fields: Any) -> Any:
        kind = ListOffsetsRequest.ListOffsetsTopic
        one = kind.ListOffsetsPartition(
            partition_index=partition, timestamp=timestamp, current_leader_epoch=fields.pop("epoch", -1)
        )
        asked = ListOffsetsRequest(
            replica_id=-1,
            isolation_level=fields.pop("isolation", 0),
            topics=[kind(name=topic, partitions=[one])],
        )
        answer = await self.ask(asked, version)
        return answer.topics[0].partitions[0]

    async def epoch_end(self, topic: str, partition: int, epoch: int, *, current: int = -1, version: int = 4) -> Any:
        kind = OffsetForLeaderEpochRequest.OffsetForLeaderTopic
        one = kind.OffsetForLeaderPartition(partition=partition, current_leader_epoch=current, leader_epoch=epoch)
        asked = OffsetForLeaderEpochRequest(replica_id=-1, topics=[kind(topic=topic, partitions=[one])])
        answer = await self.ask(asked, version)
        return answer.topics[0].partitions[0]

    async def producer_id(self, *, version: int = 4, **fields: Any) -> Any:
        given: dict[str, Any] = {"transactional_id": None, "transaction_timeout_ms": 60_000}
        return await self.ask(InitProducerIdRequest(**given | fields), version)


def produce_request(
    *batches: tuple[str, int, bytes | None],
    acks: int = -1,
    timeout_ms: int = 10_000,
    transactional_id: str | None = None,
) -> ProduceRequest:
    kind = ProduceRequest.TopicProduceData
    topics: dict[str, list[Any]] = {}
    for topic, partition, records in batches:
        topics.setdefault(topic, []).append(kind.PartitionProduceData(index=partition, records=records))
    return ProduceRequest(
        transactional_id=transactional_id,
        acks=acks,
        timeout_ms=timeout_ms,
        topic_data=[kind(name=name, partition_data=data) for name, data in topics.items()],
    )


def fetch_request(
    *places: tuple[str, int, int],
    epoch: int = -1,
    partition_bytes_max: int = 1 << 20,
    bytes_max: int = 50 << 20,
    bytes_min: int = 1,
    wait_ms: int = 0,
    isolation: int = 0,
    session: tuple[int, int] = (0, -1),
) -> FetchRequest:
    kind = FetchRequest.FetchTopic
    topics: dict[str, list[Any]] = {}
    for topic, partition, offset in places:
        one = kind.FetchPartition(
            partition=partition,
            current_leader_epoch=epoch,
            fetch_offset=offset,
            last_fetched_epoch=-1,
            log_start_offset=-1,
            partition_max_bytes=partition_bytes_max,
        )
        topics.setdefault(topic, []).append(one)
    return FetchRequest(
        replica_id=-1,
        max_wait_ms=wait_ms,
        min_bytes=bytes_min,
        max_bytes=bytes_max,
        isolation_level=isolation,
        session_id=session[0],
        session_epoch=session[1],
        topics=[kind(topic=name, partitions=asked) for name, asked in topics.items()],
        forgotten_topics_data=[],
        rack_id="",
    )


def _responses() -> dict[int, Any]:
    from kafka.protocol.consumer import FetchResponse, ListOffsetsResponse, OffsetForLeaderEpochResponse
    from kafka.protocol.producer import InitProducerIdResponse, ProduceResponse

    kinds = (FetchResponse, ListOffsetsResponse, OffsetForLeaderEpochResponse, InitProducerIdResponse, ProduceResponse)
    return {kind.API_KEY: kind for kind in kinds}


RESPONSES = _responses()


class Served:
    """A node that can be asked over a socket."""

    def __init__(self, node: TestNode, listener: KafkaListener, address: tuple[str, int]) -> None:
        self.node = node
        self.listener = listener
        self.address = address

    @property
    def broker(self) -> Broker:
        return self.node.broker

    async def client(self) -> Client:
        return Client(*await asyncio.open_connection(*self.address))


@asynccontextmanager
async def listening(node: TestNode) -> AsyncIterator[Served]:
    options = KafkaOptions(random=random.Random(1), stop_timeout=0.5)
    listener = KafkaListener(node.broker, options)
    server = await asyncio.get_running_loop().create_server(listener.connect, "127.0.0.1", 0)
    try:
        yield Served(node, listener, server.sockets[0].getsockname()[:2])
    finally:
        server.close()
        await listener.stop()


@asynccontextmanager
async def served(directory: Path, count: int = 1, **options: object) -> AsyncIterator[list[Served]]:
    """Nodes that form a cluster, each with its listener."""
    async with cluster(directory, count, **options) as nodes, AsyncExitStack() as stack:
        yield [await stack.enter_async_context(listening(node)) for node in nodes]
