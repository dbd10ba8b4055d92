"""The broker's face: every use case that a front door may ask for, on any node.

A call may be made on any node: it is run here where this node can answer, else passed on to the one that can.
Every call ends by its `timeout` (seconds) with a result or with one of `raftbroker.broker.errors`. Names are
validated here; front doors decode, call, encode.

Make it before the control group is opened, `start` it afterwards. Its background work (registration, reconciliation,
retention) are tasks that `stop` ends.
"""

import asyncio
import hashlib
import logging
import random
from collections.abc import Awaitable, Callable, Mapping

from consensus.group import Group
from consensus.host import Host
from raftbroker.broker import wire
from raftbroker.broker.clocks import Clocks
from raftbroker.broker.compactor import Compactor
from raftbroker.broker.consumer_groups import ConsumerGroups
from raftbroker.broker.consumer_reader import Sources
from raftbroker.broker.consumers import Consumers
from raftbroker.broker.context import CONTROL, BrokerOptions, Context
from raftbroker.broker.controller import Controller
from raftbroker.broker.fetch import Fetcher
from raftbroker.broker.group_positions import GroupPositions
from raftbroker.broker.groups import Replicas
from raftbroker.broker.health import Health
from raftbroker.broker.leader_fetch import LeaderFetch
from raftbroker.broker.leader_side import LeaderSide
from raftbroker.broker.leading import Leading
from raftbroker.broker.metadata import Metadata, MetadataView
from raftbroker.broker.offsets import Offsets
from raftbroker.broker.produce import Producer
from raftbroker.broker.producer_ids import ProducerIds
from raftbroker.broker.queues import Queues
from raftbroker.broker.reconcile import Reconciler
from raftbroker.broker.replica_read import ReplicaReads
from raftbroker.broker.reports import Reports
from raftbroker.broker.retention import Retention
from raftbroker.broker.routing import Router
from raftbroker.broker.shards import Shards
from raftbroker.broker.tail import TailCache
from raftbroker.broker.topics import Topics
from raftbroker.broker.transactions import Transactions
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
    Produced,
    Readiness,
    TimestampOffset,
    TopicView,
)
from raftbroker.broker.waiting import EndWaiters
from raftbroker.broker.webhooks import Webhooks
from raftbroker.state.control import ControlMachine
from raftbroker.state.control_commands import TopicState
from raftbroker.state.murmur2 import partition_for_key
from raftbroker.storage.records import RecordReader

log = logging.getLogger(__name__)

AFTER_FAULT_SECONDS = 1.0


class Broker:
    def __init__(
        self,
        host: Host,
        control: ControlMachine,
        records: RecordReader,
        options: BrokerOptions,
        clock: Callable[[], float],
        wall: Callable[[], int],
        random: random.Random,
    ) -> None:
        """`clock` is monotonic, in seconds; `wall` tells epoch milliseconds."""
        context = Context(host, control, records, options, clock, wall, random, wire.Calls(host.rpc))
        self._context = context
        self.counters: Counters = context.counters
        self._router = Router(context)
        self.shards = Shards(context, self._router)
        self._replicas = Replicas(context, self.shards.machine)
        self._reports = Reports(context, self._router.heard, lambda: self._replicas.failed)
        self._controller = Controller(context, self._reports.live)
        self._topics = Topics(context, self._router, self._controller, self._reports)
        self._waiters = EndWaiters(options.fetches_waiting_max)
        leading = Leading(context, self._router)
        tail = TailCache(options.tail_bytes_max)
        self._reads = ReplicaReads(context, tail)
        self._producer = Producer(context, self._router, self._topics, leading, tail)
        self._fetcher = Fetcher(context, self._router, self._topics, self._waiters, self._reads)
        self._offsets = Offsets(context, self._router, self._topics, self._reads)
        self.producer_ids = ProducerIds(context, self._router)
        self.transactions = Transactions(context, self._router, self.shards, leading, self._producer, self.producer_ids)
        self.consumer_groups = ConsumerGroups(context, self._router, self.shards, self._topics)
        self.group_positions = GroupPositions(context, self.shards, self.consumer_groups, self._topics, self._offsets)
        self.queues = Queues(context, self._router, self.shards)
        sources = Sources(context, self._topics, self._fetcher, self._reads, self._waiters)
        self.consumers = Consumers(sources, self.consumer_groups, self._offsets)
        self.webhooks = Webhooks(
            context,
            self._router,
            self._controller,
            self._topics,
            self.shards,
            self._fetcher,
            self._offsets,
            self.consumer_groups,
            self.group_positions,
            self.queues,
        )
        fetch = LeaderFetch(context, leading, self._waiters, self._reads)
        self.leader_side = LeaderSide(leading, self._producer, fetch, self._offsets)
        self._clocks = Clocks(context)
        self._retention = Retention(context, self._router, self._topics, self._producer, self._controller, self._clocks)
        self.compactor = Compactor(context, self._producer)
        self._reconciler = Reconciler(context, self._router, self._controller, self._reports, self._replicas)
        self._health = Health(context, self._reports, self._replicas)
        self._metadata = Metadata(context, self._topics, self._reports, self._health)
        self._tasks: list[asyncio.Task[None]] = []
        self._next_partition = random.randrange(1 << 16)
        self._serve(context.calls)

    def _serve(self, calls: wire.Calls) -> None:
        """What other nodes may ask of this one."""
        self.shards.serve(calls)
        self.producer_ids.serve(calls)
        self.transactions.serve(calls)
        self.consumer_groups.serve(calls)
        self.consumers.serve(calls)
        self.queues.serve(calls)
        self.webhooks.serve(calls)
        calls.serve(wire.PRODUCE, self._producer.serve)
        calls.serve(wire.FETCH, self._fetcher.fetch_here)
        calls.serve(wire.OFFSETS, self._offsets.offsets_here)
        calls.serve(wire.TIMESTAMP, self._offsets.timestamp_here)
        calls.serve(wire.DELETE_RECORDS, self._retention.delete_records_here)
        calls.serve(wire.READ_INDEX, self._controller.read_index)
        calls.serve(wire.REGISTER, self._reconciler.pass_registration)
        calls.serve(wire.REGISTER_HERE, self._controller.register)
        calls.serve(wire.CREATE_TOPIC, self._controller.create_topic)
        calls.serve(wire.DELETE_TOPIC, self._controller.delete_topic)
        calls.serve(wire.GROW_TOPIC, self._controller.grow_topic)
        calls.serve(wire.ALTER_CONFIGS, self._controller.alter_configs)
        calls.serve(wire.DROPPED, self._controller.dropped)
        calls.serve(wire.GROUP_READY, self._topics.group_ready)
        calls.serve(wire.CHANGE, self._reconciler.change)
        calls.serve(wire.TRANSFER, self._reconciler.transfer_here)
        calls.serve(wire.RESET, self._reconciler.reset)
        calls.serve(wire.REPORT, self._reports.serve)
        calls.serve(wire.CLOCK, self._clocks.serve)

    @property
    def node_id(self) -> int:
        return self._context.me

    @property
    def cluster_id(self) -> str:
        """Empty while this node belongs to no cluster."""
        return self._context.control.cluster_id or self._context.host.cluster

    @property
    def controller_id(self) -> int:
        """The leader of the control group as known here; -1 while there is none."""
        return self._health.controller_id

    async def start(self) -> None:
        """The control group is open: opens the data groups it names and begins the background work."""
        host = self._context.host
        host.on_applied(self._applied)
        host.on_role(self._role_changed)
        host.on_applied(self.webhooks.runners.applied)
        host.on_role(self.webhooks.runners.role_changed)
        self._replicas.open_missing()
        loop = asyncio.get_running_loop()
        for name, work in (
            ("registration", self._reconciler.keep_registered),
            ("reconciliation", self._reconciler.run),
            ("retention", self._retention.run),
            ("compaction", self.compactor.run),
            ("webhooks", self.webhooks.runners.run),
        ):
            self._tasks.append(loop.create_task(_keep_running(name, work), name=name))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        await self.consumers.stop()
        await self.webhooks.runners.stop()
        self.shards.stop()
        await self.transactions.stop()
        await self.consumer_groups.stop()
        await self.queues.stop()
        await self._reports.stop()
        await self._reads.stop()

    def _applied(self, group: Group) -> None:
        if group.id == CONTROL:
            self._replicas.applied(group)
            self._wake_deleted()

    def _role_changed(self, group: Group) -> None:
        self._waiters.wake(group.id)

    def _wake_deleted(self) -> None:
        """Readers of a topic that was deleted need not wait for their time to pass."""
        for group, partition in self._waiters.waiting():
            if self._context.control.partition(partition) is None:
                self._waiters.wake(group)

    # --- topics ---------------------------------------------------------------------------------------------

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
        """Returns once every partition has a leader. `None` means the broker's default."""
        return await self._topics.create(name, partitions, replication_factor, configs or {}, validate_only, timeout)

    async def delete_topic(self, name: str, *, timeout: float = 15.0) -> None:
        await self._topics.delete(name, timeout)

    async def delete_topic_by_id(self, topic_id: str, *, timeout: float = 15.0) -> str:
        """Deletes the topic with this id (32 hex digits), and never another one of its name; answers its name."""
        return await self._topics.delete_by_id(topic_id, timeout)

    async def list_topics(self, *, timeout: float = 10.0) -> list[TopicView]:
        """All topics by name; linearizable."""
        return await self._topics.list_topics(timeout)

    async def describe_topic(self, name: str, *, timeout: float = 10.0) -> TopicView:
        """Linearizable; with leaders and in-sync replicas as their leaders see them."""
        return await self._topics.describe(name, timeout)

    async def find_topic(self, name: str, *, timeout: float = 10.0) -> TopicState:
        """For the data path, at no cost: what this node's copy says; asks the cluster only when it is not in the
        copy. Who leads is not in it."""
        return await self._topics.state(name, timeout)

    async def create_partitions(
        self, name: str, total: int, *, validate_only: bool = False, timeout: float = 15.0
    ) -> TopicView:
        """Grows the topic to `total` partitions."""
        return await self._topics.grow(name, total, validate_only, timeout)

    async def alter_configs(
        self,
        name: str,
        changes: Mapping[str, str | None],
        *,
        expected: Mapping[str, str | None] | None = None,
        validate_only: bool = False,
        timeout: float = 15.0,
    ) -> None:
        """Sets configs of a topic; None puts one back to its default. Configs not named stay. Raises ConfigChanged
        where one is not as `expected`: a value that is set or the default, or None where it must not be set."""
        await self._topics.alter_configs(name, changes, expected or {}, validate_only, timeout)

    async def topic_configs(self, name: str, *, timeout: float = 10.0) -> list[ConfigView]:
        return await self._topics.configs(name, timeout)

    def partition_for(
        self, topic: TopicState, key: bytes | None, *, idempotency_key: str | None = None, position: int = 0
    ) -> int:
        """The partition of a record that names none: by Kafka's murmur2 of its key; without a key by the hash of
        the request's Idempotency-Key and the record's position in it; without either, each call takes the next
        partition in turn (call once per request, so that its records make one batch)."""
        count = len(topic.partitions)
        if key is not None:
            return partition_for_key(key, count)
        if idempotency_key is not None:
            digest = hashlib.blake2b(f"{position}/{idempotency_key}".encode(), digest_size=8).digest()
            return int.from_bytes(digest, "big") % count
        self._next_partition += 1
        return self._next_partition % count

    # --- records --------------------------------------------------------------------------------------------

    async def produce(
        self,
        topic: str,
        partition: int,
        batch: bytes,
        *,
        timeout: float = 30.0,
        idempotency: Idempotency | None = None,
    ) -> Produced:
        """Appends one Kafka v2 record batch; returns once it is committed and applied on the leader."""
        return await self._producer.produce(topic, partition, batch, timeout, idempotency)

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
        """Whole committed batches from the one holding `offset` on, at least one where there is any; waits up to
        `wait` seconds for `bytes_min` bytes, then answers with what there is, perhaps nothing. `committed`: nothing
        of transactions that are open, and which ones were aborted."""
        return await self._fetcher.fetch(
            topic,
            partition,
            offset,
            bytes_max=bytes_max,
            wait=wait,
            bytes_min=bytes_min,
            committed=committed,
            timeout=timeout,
        )

    async def offsets(self, topic: str, partition: int, *, timeout: float = 10.0) -> OffsetsView:
        """Linearizable."""
        return await self._offsets.offsets(topic, partition, timeout)

    async def offset_for_timestamp(
        self, topic: str, partition: int, timestamp_ms: int, *, timeout: float = 10.0
    ) -> TimestampOffset | None:
        """The first record whose timestamp is at least `timestamp_ms`; None where there is none."""
        return await self._offsets.offset_for_timestamp(topic, partition, timestamp_ms, timeout)

    async def delete_records(self, topic: str, partition: int, before: int, *, timeout: float = 15.0) -> int:
        """Deletes records below the offset `before` (-1: the high watermark); the new log start offset."""
        return await self._retention.delete_records(topic, partition, before, timeout)

    # --- the cluster ----------------------------------------------------------------------------------------

    async def metadata(self, *, timeout: float = 10.0) -> MetadataView:
        """Nodes, topics and who leads them, as one snapshot; linearizable where the control group answers."""
        return await self._metadata.view(timeout)

    async def brokers(self) -> list[BrokerView]:
        return await self._health.brokers()

    async def health(self) -> HealthView:
        return await self._health.health()

    async def raft_status(self) -> list[GroupView]:
        return await self._health.raft_status()

    async def transfer_leadership(self, group: int, target: int | None = None, *, timeout: float = 10.0) -> None:
        """Hands the leadership of a group to node `target`, or to the replica that is most up to date."""
        self._health.check_group(group)
        if target is not None:
            self._health.check_node(target)
        await self._reconciler.transfer(group, target, timeout)

    def readiness(self) -> Readiness:
        """Whether this node can serve: it belongs to a cluster, is registered, and its replicas have leaders."""
        return self._health.readiness()

    def partition_sizes(self) -> list[PartitionSize]:
        """Of the partitions whose replicas are on this node."""
        return self._health.partition_sizes()

    def local_groups(self) -> list[GroupView]:
        """This node's own replicas only; asks nobody."""
        return self._health.local_groups()


async def _keep_running(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """A fault in background work is told, and the work goes on: it derives everything anew from the state."""
    while True:
        try:
            await work()
        except Exception:
            log.exception("background work (%s) failed; it starts anew", name)
        await asyncio.sleep(AFTER_FAULT_SECONDS)
