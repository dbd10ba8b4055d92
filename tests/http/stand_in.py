"""A broker in memory, only for tests of encoding, bounds and errors: it keeps batches and gives offsets, nothing more.

Everything that is about what a broker does runs against a real node (`test_node.py`)."""

import asyncio
from collections.abc import Mapping

from raftbroker.broker.broker import Broker
from raftbroker.broker.errors import UnknownPartition, UnknownTopic
from raftbroker.broker.views import (
    BrokerView,
    ConfigView,
    Counters,
    Fetched,
    GroupView,
    HealthView,
    Idempotency,
    OffsetsView,
    PartitionSize,
    PartitionView,
    Produced,
    Readiness,
    ReplicaView,
    TimestampOffset,
    TopicView,
)
from raftbroker.state.batch import parse_header, place_batch
from raftbroker.state.control_commands import PartitionPlace, TopicState
from raftbroker.state.murmur2 import partition_for_key
from tests.http.stand_in_consumers import StandInConsumers
from tests.http.stand_in_groups import StandInGroups, StandInPositions
from tests.http.stand_in_queues import StandInQueues
from tests.http.stand_in_webhooks import StandInWebhooks


class StandIn(Broker):
    """`fail_with` is raised by every call that may fail; `produce_gate` holds back produce until it is set."""

    def __init__(self, topics: Mapping[str, int]) -> None:
        self.counters = Counters()
        self.fail_with: BaseException | None = None
        self.produce_gate: asyncio.Event | None = None
        self.append_time = -1
        self.logs: dict[tuple[str, int], list[bytes]] = {}
        self.aborted: list[tuple[int, int]] = []
        self.keys: dict[tuple[str, int, bytes], Produced] = {}
        self.produced: list[tuple[str, int, bytes, Idempotency | None]] = []
        self._turn = 0
        self._topics = {name: _topic(name, count) for name, count in topics.items()}
        self.configs: dict[str, str] = {}
        self.consumer_groups = StandInGroups()
        self.group_positions = StandInPositions()
        self.queues = StandInQueues()
        self.webhooks = StandInWebhooks()
        self.consumers = StandInConsumers()

    @property
    def node_id(self) -> int:
        return 1

    @property
    def cluster_id(self) -> str:
        return "stand-in"

    @property
    def controller_id(self) -> int:
        return 1

    def _check(self) -> None:
        if self.fail_with is not None:
            raise self.fail_with

    async def list_topics(self, *, timeout: float = 10.0) -> list[TopicView]:
        self._check()
        return list(self._topics.values())

    async def find_topic(self, name: str, *, timeout: float = 10.0) -> TopicState:
        view = await self.describe_topic(name)
        places = tuple(PartitionPlace(partition.id, partition.group) for partition in view.partitions)
        return TopicState(view.name, view.topic_id, 1, view.configs, places, view.created_ms)

    async def describe_topic(self, name: str, *, timeout: float = 10.0) -> TopicView:
        self._check()
        if name not in self._topics:
            raise UnknownTopic(f"there is no topic {name!r}", field="topic_name")
        return self._topics[name]

    async def create_topic(
        self,
        name: str,
        partitions: int | None = None,
        replication_factor: int | None = None,
        configs: Mapping[str, str] | None = None,
        *,
        validate_only: bool = False,
        timeout: float = 15.0,
    ) -> TopicView:
        self._check()
        self._topics[name] = _topic(name, partitions or 1)
        return self._topics[name]

    async def delete_topic(self, name: str, *, timeout: float = 15.0) -> None:
        await self.describe_topic(name)

    async def create_partitions(
        self, name: str, total: int, *, validate_only: bool = False, timeout: float = 15.0
    ) -> TopicView:
        self._check()
        return await self.create_topic(name, total)

    async def alter_configs(
        self,
        name: str,
        changes: Mapping[str, str | None],
        *,
        expected: Mapping[str, str | None] | None = None,
        validate_only: bool = False,
        timeout: float = 15.0,
    ) -> None:
        self._check()
        for config, value in changes.items():
            self.configs.pop(config, None) if value is None else self.configs.update({config: value})

    async def topic_configs(self, name: str, *, timeout: float = 10.0) -> list[ConfigView]:
        self._check()
        value = self.configs.get("retention.ms", "604800000")
        source = "DYNAMIC_TOPIC_CONFIG" if self.configs else "DEFAULT_CONFIG"
        return [ConfigView("retention.ms", value, "604800000", source, not self.configs, False, "how long")]

    def partition_for(
        self, topic: TopicState, key: bytes | None, *, idempotency_key: str | None = None, position: int = 0
    ) -> int:
        count = len(topic.partitions)
        if key is not None:
            return partition_for_key(key, count)
        if idempotency_key is not None:
            return partition_for_key(f"{idempotency_key} {position}".encode(), count)
        self._turn += 1
        return self._turn % count

    async def produce(
        self,
        topic: str,
        partition: int,
        batch: bytes,
        *,
        timeout: float = 30.0,
        idempotency: Idempotency | None = None,
    ) -> Produced:
        self._check()
        if self.produce_gate is not None:
            await self.produce_gate.wait()
            self._check()
        self.produced.append((topic, partition, batch, idempotency))
        log = self.logs.setdefault((topic, partition), [])
        end = parse_header(log[-1]).next_offset if log else 0
        if idempotency is not None:
            known = self.keys.get((topic, partition, idempotency.key))
            if known is not None:
                return known
            self.keys[topic, partition, idempotency.key] = Produced(end, self.append_time, 0, True)
        log.append(place_batch(batch, end, 1))
        return Produced(end, self.append_time, 0, False)

    async def fetch(
        self,
        topic: str,
        partition: int,
        offset: int,
        *,
        bytes_max: int = 1 << 20,
        wait: float = 0.0,
        bytes_min: int = 1,
        committed: bool = False,
        timeout: float = 30.0,
    ) -> Fetched:
        self._check()
        self._partition(topic, partition)
        deadline = asyncio.get_running_loop().time() + wait
        while True:
            log = self.logs.get((topic, partition), [])
            found = tuple(batch for batch in log if parse_header(batch).next_offset > offset)
            if found or asyncio.get_running_loop().time() >= deadline:
                end = parse_header(log[-1]).next_offset if log else 0
                return Fetched(found, end, 0, end, tuple(self.aborted) if committed else ())
            await asyncio.sleep(0.01)

    def _partition(self, topic: str, partition: int) -> None:
        if topic not in self._topics:
            raise UnknownTopic(f"there is no topic {topic!r}", field="topic_name")
        if partition >= len(self._topics[topic].partitions):
            raise UnknownPartition(f"topic {topic!r} has no partition {partition}", field="partition_id")

    async def offsets(self, topic: str, partition: int, *, timeout: float = 10.0) -> OffsetsView:
        self._check()
        self._partition(topic, partition)
        log = self.logs.get((topic, partition), [])
        end = parse_header(log[-1]).next_offset if log else 0
        return OffsetsView(0, end, end)

    async def offset_for_timestamp(
        self, topic: str, partition: int, timestamp_ms: int, *, timeout: float = 10.0
    ) -> TimestampOffset | None:
        self._check()
        return None

    async def delete_records(self, topic: str, partition: int, before: int, *, timeout: float = 15.0) -> int:
        self._check()
        return before

    async def brokers(self) -> list[BrokerView]:
        self._check()
        return [BrokerView(1, "u", "127.0.0.1:7082", "127.0.0.1:8082", "", True, True, 1)]

    async def health(self) -> HealthView:
        self._check()
        return HealthView(True, 1, (1,), (), (), ())

    async def raft_status(self) -> list[GroupView]:
        self._check()
        return self.local_groups()

    async def transfer_leadership(self, group: int, target: int | None = None, *, timeout: float = 10.0) -> None:
        self._check()

    def readiness(self) -> Readiness:
        return Readiness(True, "")

    def partition_sizes(self) -> list[PartitionSize]:
        return [PartitionSize('odd"name', 0, 0, 10, 1000, True)]

    def local_groups(self) -> list[GroupView]:
        return [GroupView(1, 1, 2, 1, 5, 5, (ReplicaView(1, "u", "leader", True, 2, 5, 5, 1, 5, True, None),), 1)]


def _topic(name: str, count: int) -> TopicView:
    partitions = tuple(PartitionView(number, number + 1, 1, 1, 2, (1,), (1,)) for number in range(count))
    return TopicView(name, "0" * 32, 1, {}, partitions, 0)
