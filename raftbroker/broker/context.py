"""What every use case is handed: the host, the control state, the records on this disk, clocks and bounds."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from consensus.errors import NotLeader, Refused, Unknown
from consensus.group import Group
from consensus.host import Host
from raftbroker.broker.errors import Unavailable
from raftbroker.broker.group_options import GroupOptions
from raftbroker.broker.views import Counters
from raftbroker.broker.wire import Calls
from raftbroker.state.configs import TopicConfig, topic_config
from raftbroker.state.control import ControlMachine
from raftbroker.state.control_commands import TopicState
from raftbroker.state.partition import PartitionMachine
from raftbroker.storage.records import RecordReader

CONTROL = 0
"""The control group's id."""
FEATURE = 5
"""The highest cluster feature version this code supports."""
SHARDS_FEATURE = 2
"""From this cluster feature version on there are coordinator shards."""
WEBHOOKS_FEATURE = 3
"""From this one on there are webhooks."""
COMPACTION_FEATURE = 4
"""From this one on topics can be compacted: the command `Compact`."""
CONFIGS_BEFORE_FEATURE = 5
"""From this one on `AlterConfigs` says what it was made of, so configs can be compared and set."""

CATCH_UP_SECONDS = 2.0
"""How long a request that another node passes on waits for the control state its sender has seen."""

_MIB = 1 << 20


class HasControl(Protocol):
    @property
    def control(self) -> int: ...

    @property
    def timeout(self) -> float: ...


class BrokerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """This node's advertised addresses (host:port) and the bounds it keeps. Times are seconds."""

    peer: str
    http: str = ""
    kafka: str = ""
    coordinator_shards: int = 4
    """Made once, when the cluster forms."""
    groups: GroupOptions = GroupOptions()
    transaction_timeout_ms_max: int = 900_000
    """No transaction may be open for longer, whatever its producer asks for."""
    transactional_id_retain_ms: int = 604_800_000
    """A transactional id that is idle for as long is forgotten."""
    default_partitions: int = 1
    default_replication_factor: int = 3
    """May be more than there are nodes yet: the missing replicas are made as nodes join."""
    topic_defaults: Mapping[str, str] = {}
    """Topic configs for topics that do not set them, by Kafka's names."""
    entry_bytes_max: int = 4 * _MIB
    """Batches that arrive together share a Raft entry of at most this size, unless one alone is larger."""
    entry_batches_max: int = 256
    batch_bytes_max: int = 32 * _MIB
    """No batch may be larger, whatever its topic's max.message.bytes says."""
    batch_records_max: int = 1_000_000
    inflight_bytes_max: int = 64 * _MIB
    """Produced to one group and not yet committed; beyond it producers are told to wait."""
    fetch_bytes_max: int = 8 * _MIB
    """One fetch answers no more, but for a single larger batch."""
    tail_bytes_max: int = 64 * _MIB
    """The newest batches of all partitions that this node leads, kept in memory for readers."""
    fetch_wait_max: float = 300.0
    fetches_waiting_max: int = 20_000
    partitions_max: int = 50_000
    """In the whole cluster."""
    topics_max: int = 10_000
    retention_check: float = 30.0
    compaction_check: float = 15.0
    compaction_bytes_per_second: int = 32 * _MIB
    """Read and written by compaction on this node."""
    compaction_map_bytes: int = 64 * _MIB
    """Memory for the keys of one pass; there is one pass at a time."""
    reconcile_every: float = 1.0
    transfer_quiet: float = 10.0
    """Leadership moves to the preferred replica no sooner after the last change."""
    report_timeout: float = 1.0
    """A node that does not answer by then counts as down."""


@dataclass
class Context:
    host: Host
    control: ControlMachine
    records: RecordReader
    options: BrokerOptions
    clock: Callable[[], float]
    """Monotonic seconds; the event loop's own."""
    wall: Callable[[], int]
    """Epoch milliseconds."""
    random: random.Random
    calls: Calls
    counters: Counters = field(default_factory=Counters)
    _configs: dict[str, tuple[dict[str, str], TopicConfig]] = field(default_factory=dict)
    """Typed configs by topic id, made of the very map beside them."""

    @property
    def me(self) -> int:
        return self.host.me.node

    @property
    def control_group(self) -> Group:
        """Raises Unavailable before this node has a replica of the control group."""
        group = self.host.groups.get(CONTROL)
        if group is None:
            raise Unavailable("this node has not joined a cluster yet: see its log for what it waits for")
        return group

    def leading(self, group: int) -> Group:
        """The group, where this node leads it and may propose and read. Raises NotLeader."""
        replica = self.host.groups.get(group)
        if replica is None:
            raise NotLeader(group, None, "this node has no replica of it")
        if not replica.leading:
            leader = replica.leader.node if replica.leader is not None else None
            raise NotLeader(group, leader if leader != self.me else None)
        return replica

    @property
    def control_index(self) -> int:
        """What this node's control state has reached."""
        group = self.host.groups.get(CONTROL)
        return group.applied if group is not None else 0

    async def control_reached(self, index: int, timeout: float) -> None:
        """Returns once the control state has reached `index`. Raises Refused after `timeout` seconds."""
        if self.control_index < index:
            try:
                await self.control_group.wait_applied(index, timeout)
            except Unknown as error:
                raise Refused(f"node {self.me} has not caught up with the cluster's state: {error}") from error

    async def as_far_as(self, request: "HasControl") -> None:
        """Waits a moment for what the asker has seen of the control state. Raises Refused: nothing was done."""
        if self.control_index < request.control:
            await self.control_reached(request.control, min(request.timeout, CATCH_UP_SECONDS))

    def machine(self, group: int) -> PartitionMachine | None:
        """The state of a data group that has a replica here."""
        replica = self.host.groups.get(group)
        machine = replica.machine if replica is not None else None
        return machine if isinstance(machine, PartitionMachine) else None

    def config(self, topic: TopicState) -> TopicConfig:
        """What is in force for the topic: its own configs over this broker's defaults."""
        known = self._configs.get(topic.topic_id)
        if known is not None and known[0] is topic.configs:
            return known[1]
        if len(self._configs) > 2 * len(self.control.topics()):
            self._configs.clear()
        config = topic_config(topic.configs, self.options.topic_defaults)
        self._configs[topic.topic_id] = (topic.configs, config)
        return config
