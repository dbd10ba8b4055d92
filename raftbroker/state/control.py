"""The control group's state machine: which nodes, groups and topics there are.

Every command has one deterministic outcome. One whose precondition fails when it is applied changes nothing; the
proposer learns why from `outcome(index)`, which is kept in memory for the newest `OUTCOMES_MAX` commands applied since
the last restore. None there means "look at the state".

Rows, with msgpack arrays as values: b"c" the cluster, b"n" + node u32be, b"g" + group u32be, b"t" + topic id, b"w" +
name a webhook, and b"d" + group u32be + partition id u64be for a partition that is to be deleted. The rows live in a
`MemoryView`, decoded structs beside it.

Bounded by the cluster itself: nodes, groups, topics and partitions that exist, and dropped partitions until their
group's leader has deleted them.
"""

import struct
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from consensus.errors import UnknownCommand
from consensus.machine import Applied
from consensus.model import Entry
from consensus.store import KeyRange
from raftbroker.state import control_commands as commands
from raftbroker.state.commands import Command
from raftbroker.state.control_commands import (
    ClusterState,
    GroupKind,
    GroupState,
    NodeState,
    Outcome,
    OutcomeError,
    PartitionLocation,
    PartitionPlace,
    TopicState,
    decode_control,
)
from raftbroker.state.view import MemoryView
from raftbroker.state.webhooks import WEBHOOKS_MAX, Webhook

OUTCOMES_MAX = 1024
REPLICATION_FACTOR_MAX = 5
PRODUCER_IDS_MAX = 1_000_000
"""The most producer ids one command gives out."""

_CLUSTER_KEY = b"c"
_NODE, _GROUP, _TOPIC, _DROPPED, _WEBHOOK = b"n", b"g", b"t", b"d", b"w"
_U32 = struct.Struct(">I")
_DROPPED_KEY = struct.Struct(">IQ")
_PRESENT = b"\x01"

_encode = msgspec.msgpack.Encoder().encode
_decode_cluster = msgspec.msgpack.Decoder(ClusterState).decode
_decode_node = msgspec.msgpack.Decoder(NodeState).decode
_decode_group = msgspec.msgpack.Decoder(GroupState).decode
_decode_topic = msgspec.msgpack.Decoder(TopicState).decode
_decode_webhook = msgspec.msgpack.Decoder(Webhook).decode

_OK = Outcome(ok=True)


class _Failed(Exception):
    """A precondition does not hold; the command changes nothing."""

    def __init__(self, error: OutcomeError, message: str) -> None:
        self.outcome = Outcome(ok=False, error=error, message=message)
        super().__init__(message)


def _require(condition: bool, error: OutcomeError, message: str) -> None:
    if not condition:
        raise _Failed(error, message)


class ControlMachine:
    """A consensus Machine. Reads are of the applied state; nothing here is in flight."""

    def __init__(self) -> None:
        self.version = 0
        """Grows with every change and every restore: caches of what is derived from this state compare it."""
        self.view = MemoryView()
        self._outcomes: dict[int, Outcome] = {}
        self._rows: dict[bytes, bytes | None] = {}
        self._clear()
        self._handlers: dict[type[Command], Callable[[Any], Outcome]] = {
            commands.FormCluster: self._form_cluster,
            commands.RegisterNode: self._register_node,
            commands.ForgetNode: self._forget_node,
            commands.CreateGroup: self._create_group,
            commands.SetPlacement: self._set_placement,
            commands.CreateTopic: self._create_topic,
            commands.AddPartitions: self._add_partitions,
            commands.AlterConfigs: self._alter_configs,
            commands.DeleteTopic: self._delete_topic,
            commands.PartitionsDropped: self._partitions_dropped,
            commands.AllocateProducerIds: self._allocate_producer_ids,
            commands.RaiseFeature: self._raise_feature,
            commands.CreateShards: self._create_shards,
            commands.PutWebhook: self._put_webhook,
            commands.DeleteWebhook: self._delete_webhook,
        }

    def _clear(self) -> None:
        self._cluster = ClusterState()
        self._nodes: dict[int, NodeState] = {}
        self._groups: dict[int, GroupState] = {}
        self._topics: dict[str, TopicState] = {}
        self._names: dict[str, str] = {}
        self._places: dict[int, tuple[str, int, int]] = {}
        self._dropped: dict[int, dict[int, None]] = {}
        self._webhooks: dict[str, Webhook] = {}

    # --- consensus.Machine ------------------------------------------------------------------------------

    def restore(self, rows: dict[bytes, bytes], applied: int) -> None:
        self._clear()
        self._outcomes.clear()
        self.version += 1
        self.view = MemoryView(rows)
        for key, value in self.view.scan(b""):
            kind = key[:1]
            if kind == _CLUSTER_KEY:
                self._cluster = _decode_cluster(value)
            elif kind == _NODE:
                node = _decode_node(value)
                self._nodes[node.id] = node
            elif kind == _GROUP:
                group = _decode_group(value)
                self._groups[group.id] = group
            elif kind == _TOPIC:
                self._index_topic(_decode_topic(value))
            elif kind == _DROPPED:
                group_id, partition_id = _DROPPED_KEY.unpack(key[1:])
                self._dropped.setdefault(group_id, {})[partition_id] = None
            elif kind == _WEBHOOK:
                webhook = _decode_webhook(value)
                self._webhooks[webhook.name] = webhook
            else:
                raise UnknownCommand(f"the control state has a row of kind {kind!r}: a newer raftbroker wrote it")

    def apply(self, entries: Sequence[Entry]) -> Applied:
        rows: dict[bytes, bytes | None] = {}
        self._rows = rows
        for entry in entries:
            command = decode_control(entry.command)
            try:
                outcome = self._handlers[type(command)](command)
            except _Failed as failure:
                outcome = failure.outcome
            self._outcomes[entry.index] = outcome
        while len(self._outcomes) > OUTCOMES_MAX:
            del self._outcomes[next(iter(self._outcomes))]
        self.view.apply(rows)
        self._rows = {}
        return Applied(rows=rows)

    def payload_ranges(self) -> list[KeyRange]:
        return []

    def ranges_of(self, rows: dict[bytes, bytes]) -> list[KeyRange]:
        return []

    def led(self, term: int) -> None:
        """Nothing is in flight here."""

    def unled(self) -> None:
        """Nothing is in flight here."""

    # --- reads ------------------------------------------------------------------------------------------

    def outcome(self, index: int) -> Outcome | None:
        """What became of the command at this log index; None where it is no longer (or not yet) known."""
        return self._outcomes.get(index)

    @property
    def cluster_id(self) -> str:
        """Empty until the cluster is formed."""
        return self._cluster.cluster_id

    @property
    def created_ms(self) -> int:
        return self._cluster.created_ms

    @property
    def feature(self) -> int:
        return self._cluster.feature

    @property
    def shards(self) -> tuple[int, ...]:
        """The Raft groups that are coordinator shards; none until they are made."""
        return self._cluster.shards

    @property
    def next_partition_id(self) -> int:
        return self._cluster.next_partition_id

    @property
    def next_group_id(self) -> int:
        return self._cluster.next_group_id

    def nodes(self) -> tuple[NodeState, ...]:
        """By id."""
        return tuple(self._nodes[node_id] for node_id in sorted(self._nodes))

    def node(self, node_id: int) -> NodeState | None:
        return self._nodes.get(node_id)

    def groups(self) -> tuple[GroupState, ...]:
        """By id."""
        return tuple(self._groups[group_id] for group_id in sorted(self._groups))

    def group(self, group_id: int) -> GroupState | None:
        return self._groups.get(group_id)

    def topics(self) -> tuple[TopicState, ...]:
        """By name."""
        return tuple(self._topics[self._names[name]] for name in sorted(self._names))

    def topic(self, name: str) -> TopicState | None:
        topic_id = self._names.get(name)
        return None if topic_id is None else self._topics[topic_id]

    def topic_by_id(self, topic_id: str) -> TopicState | None:
        return self._topics.get(topic_id)

    def partition(self, partition_id: int) -> PartitionLocation | None:
        """None for an id that was never given, or whose topic has been deleted."""
        place = self._places.get(partition_id)
        if place is None:
            return None
        topic_id, number, group = place
        return PartitionLocation(self._topics[topic_id], number, group)

    def dropped(self, group_id: int) -> tuple[int, ...]:
        """Partition ids of deleted topics whose data the group has yet to delete, ascending."""
        return tuple(sorted(self._dropped.get(group_id, ())))

    def webhooks(self) -> tuple[Webhook, ...]:
        """By name."""
        return tuple(self._webhooks[name] for name in sorted(self._webhooks))

    def webhook(self, name: str) -> Webhook | None:
        return self._webhooks.get(name)

    # --- writes -----------------------------------------------------------------------------------------

    def _put(self, key: bytes, value: bytes | None) -> None:
        self._rows[key] = value
        self.version += 1

    def _put_cluster(self, cluster: ClusterState) -> None:
        self._cluster = cluster
        self._put(_CLUSTER_KEY, _encode(cluster))

    def _put_group(self, group: GroupState) -> None:
        self._groups[group.id] = group
        self._put(_GROUP + _U32.pack(group.id), _encode(group))

    def _put_topic(self, topic: TopicState) -> None:
        self._index_topic(topic)
        self._put(_TOPIC + topic.topic_id.encode(), _encode(topic))

    def _index_topic(self, topic: TopicState) -> None:
        self._topics[topic.topic_id] = topic
        self._names[topic.name] = topic.topic_id
        for number, place in enumerate(topic.partitions):
            self._places[place.id] = (topic.topic_id, number, place.group)

    # --- commands: cluster and nodes ----------------------------------------------------------------------

    def _form_cluster(self, command: commands.FormCluster) -> Outcome:
        _require(bool(command.cluster_id), OutcomeError.INVALID, "a cluster id must not be empty")
        current = self._cluster.cluster_id
        if current != command.cluster_id:
            _require(not current, OutcomeError.CLUSTER_EXISTS, f"this cluster is {current} already")
            self._put_cluster(
                msgspec.structs.replace(self._cluster, cluster_id=command.cluster_id, created_ms=command.created_ms)
            )
        return _OK

    def _register_node(self, command: commands.RegisterNode) -> Outcome:
        _require(
            command.feature >= self._cluster.feature,
            OutcomeError.FEATURE,
            f"node {command.id} supports feature version {command.feature}, the cluster is at "
            f"{self._cluster.feature}: install a newer raftbroker on it",
        )
        node = NodeState(command.id, command.uuid, command.peer, command.http, command.kafka, command.feature)
        if self._nodes.get(node.id) != node:
            self._nodes[node.id] = node
            self._put(_NODE + _U32.pack(node.id), _encode(node))
        return _OK

    def _forget_node(self, command: commands.ForgetNode) -> Outcome:
        self._require_node(command.id)
        used = [group.id for group in self.groups() if command.id in group.nodes]
        _require(
            not used,
            OutcomeError.NODE_IN_USE,
            f"node {command.id} is placed in groups {', '.join(map(str, used))}: move them first",
        )
        del self._nodes[command.id]
        self._put(_NODE + _U32.pack(command.id), None)
        return _OK

    def _raise_feature(self, command: commands.RaiseFeature) -> Outcome:
        behind = [node for node in self.nodes() if node.feature < command.version]
        _require(
            not behind,
            OutcomeError.FEATURE,
            f"feature version {command.version} is not supported by nodes {', '.join(str(n.id) for n in behind)}: "
            "install a newer raftbroker on them first",
        )
        if command.version > self._cluster.feature:
            self._put_cluster(msgspec.structs.replace(self._cluster, feature=command.version))
        return _OK

    def _allocate_producer_ids(self, command: commands.AllocateProducerIds) -> Outcome:
        _require(
            1 <= command.count <= PRODUCER_IDS_MAX,
            OutcomeError.INVALID,
            f"{command.count} producer ids at once: ask for 1 to {PRODUCER_IDS_MAX}",
        )
        first = self._cluster.next_producer_id
        self._put_cluster(msgspec.structs.replace(self._cluster, next_producer_id=first + command.count))
        return Outcome(ok=True, value=first)

    # --- commands: groups ---------------------------------------------------------------------------------

    def _create_group(self, command: commands.CreateGroup) -> Outcome:
        group = self._groups.get(command.id)
        if group is not None and group.initial == command.members:
            return _OK
        self._check_new_groups((command,))
        self._add_groups((command,))
        return _OK

    def _set_placement(self, command: commands.SetPlacement) -> Outcome:
        group = self._groups.get(command.group)
        if group is None:
            raise _Failed(OutcomeError.UNKNOWN_GROUP, f"there is no data group {command.group}")
        self._check_nodes(command.nodes)
        if group.nodes != command.nodes:
            self._put_group(msgspec.structs.replace(group, nodes=command.nodes))
        return _OK

    def _check_new_groups(self, new_groups: Sequence[commands.CreateGroup]) -> None:
        lowest = self._cluster.next_group_id
        for group in new_groups:
            _require(group.id >= lowest, OutcomeError.IDS_TAKEN, f"group id {group.id} is taken")
            lowest = group.id + 1
            _require(
                1 <= group.replication_factor <= REPLICATION_FACTOR_MAX,
                OutcomeError.INVALID,
                f"replication factor {group.replication_factor} is not between 1 and {REPLICATION_FACTOR_MAX}",
            )
            self._check_nodes([member.node for member in group.members])

    def _check_nodes(self, nodes: Sequence[int]) -> None:
        _require(bool(nodes), OutcomeError.INVALID, "a group needs at least one node")
        _require(len(set(nodes)) == len(nodes), OutcomeError.INVALID, f"a node is named twice in {list(nodes)}")
        for node_id in nodes:
            self._require_node(node_id)

    def _require_node(self, node_id: int) -> None:
        _require(node_id in self._nodes, OutcomeError.UNKNOWN_NODE, f"node {node_id} is not registered")

    def _create_shards(self, command: commands.CreateShards) -> Outcome:
        if not self._cluster.shards:
            _require(bool(command.groups), OutcomeError.INVALID, "a cluster needs at least one coordinator shard")
            self._check_new_groups(command.groups)
            self._add_groups(command.groups, GroupKind.SHARD)
            self._put_cluster(msgspec.structs.replace(self._cluster, shards=tuple(new.id for new in command.groups)))
        return _OK

    def _add_groups(self, new_groups: Sequence[commands.CreateGroup], kind: GroupKind = GroupKind.DATA) -> None:
        for new in new_groups:
            nodes = tuple(member.node for member in new.members)
            self._put_group(GroupState(new.id, new.replication_factor, new.members, nodes, kind))
        if new_groups:
            self._put_cluster(msgspec.structs.replace(self._cluster, next_group_id=new_groups[-1].id + 1))

    # --- commands: topics ---------------------------------------------------------------------------------

    def _create_topic(self, command: commands.CreateTopic) -> Outcome:
        existing = self.topic(command.name)
        if existing is not None:
            _require(
                existing.topic_id == command.topic_id,
                OutcomeError.TOPIC_EXISTS,
                f"topic {command.name} exists already",
            )
            return _OK
        _require(command.topic_id not in self._topics, OutcomeError.IDS_TAKEN, f"topic id {command.topic_id} is taken")
        self._check_new_groups(command.new_groups)
        self._check_partitions(command.partitions, command.replication_factor, command.new_groups)
        self._add_groups(command.new_groups)
        self._add_partition_ids(command.partitions)
        self._put_topic(
            TopicState(
                command.name,
                command.topic_id,
                command.replication_factor,
                command.configs,
                command.partitions,
                command.created_ms,
            )
        )
        return _OK

    def _add_partitions(self, command: commands.AddPartitions) -> Outcome:
        topic = self._require_topic(command.topic_id)
        if set(command.partitions) <= set(topic.partitions):
            return _OK
        self._check_new_groups(command.new_groups)
        self._check_partitions(command.partitions, topic.replication_factor, command.new_groups)
        self._add_groups(command.new_groups)
        self._add_partition_ids(command.partitions)
        self._put_topic(msgspec.structs.replace(topic, partitions=topic.partitions + command.partitions))
        return _OK

    def _check_partitions(
        self, partitions: Sequence[PartitionPlace], replication_factor: int, new_groups: Sequence[commands.CreateGroup]
    ) -> None:
        _require(bool(partitions), OutcomeError.INVALID, "a topic needs at least one partition")
        factors = {new.id: new.replication_factor for new in new_groups}
        lowest = self._cluster.next_partition_id
        for place in partitions:
            _require(place.id >= lowest, OutcomeError.IDS_TAKEN, f"partition id {place.id} is taken")
            lowest = place.id + 1
            group = self._groups.get(place.group)
            data = group is not None and group.kind is GroupKind.DATA
            factor = group.replication_factor if group is not None and data else factors.get(place.group)
            _require(factor is not None, OutcomeError.UNKNOWN_GROUP, f"there is no data group {place.group}")
            _require(
                factor == replication_factor,
                OutcomeError.INVALID,
                f"data group {place.group} has replication factor {factor}, the topic has {replication_factor}",
            )

    def _add_partition_ids(self, partitions: Sequence[PartitionPlace]) -> None:
        self._put_cluster(msgspec.structs.replace(self._cluster, next_partition_id=partitions[-1].id + 1))

    def _require_topic(self, topic_id: str) -> TopicState:
        topic = self._topics.get(topic_id)
        if topic is None:
            raise _Failed(OutcomeError.UNKNOWN_TOPIC, f"there is no topic with id {topic_id}")
        return topic

    def _alter_configs(self, command: commands.AlterConfigs) -> Outcome:
        topic = self._require_topic(command.topic_id)
        same = command.before is None or command.before == topic.configs
        _require(same, OutcomeError.IDS_TAKEN, f"the configs of topic {topic.name} have been changed meanwhile")
        if topic.configs != command.configs:
            self._put_topic(msgspec.structs.replace(topic, configs=command.configs))
        return _OK

    def _delete_topic(self, command: commands.DeleteTopic) -> Outcome:
        topic = self._require_topic(command.topic_id)
        del self._topics[topic.topic_id]
        del self._names[topic.name]
        self._put(_TOPIC + topic.topic_id.encode(), None)
        for place in topic.partitions:
            del self._places[place.id]
            self._dropped.setdefault(place.group, {})[place.id] = None
            self._put(_DROPPED + _DROPPED_KEY.pack(place.group, place.id), _PRESENT)
        return _OK

    def _partitions_dropped(self, command: commands.PartitionsDropped) -> Outcome:
        waiting = self._dropped.get(command.group, {})
        for partition_id in command.partition_ids:
            if partition_id in waiting:
                del waiting[partition_id]
                self._put(_DROPPED + _DROPPED_KEY.pack(command.group, partition_id), None)
        if not waiting:
            self._dropped.pop(command.group, None)
        return _OK

    # --- commands: webhooks -------------------------------------------------------------------------------

    def _put_webhook(self, command: commands.PutWebhook) -> Outcome:
        webhook = command.webhook
        current = self._webhooks.get(webhook.name)
        if current == webhook:
            return _OK
        if current is None:
            _require(webhook.version == 1, OutcomeError.IDS_TAKEN, f"webhook {webhook.name} has been deleted")
            _require(
                len(self._webhooks) < WEBHOOKS_MAX,
                OutcomeError.INVALID,
                f"there are {WEBHOOKS_MAX} webhooks already: delete one that is not needed any more",
            )
        else:
            follows = (webhook.id, webhook.version) == (current.id, current.version + 1)
            _require(follows, OutcomeError.IDS_TAKEN, f"webhook {webhook.name} has been changed meanwhile")
        self._webhooks[webhook.name] = webhook
        self._put(_WEBHOOK + webhook.name.encode(), _encode(webhook))
        return _OK

    def _delete_webhook(self, command: commands.DeleteWebhook) -> Outcome:
        current = self._webhooks.get(command.name)
        if current is not None and current.id == command.id:
            del self._webhooks[command.name]
            self._put(_WEBHOOK + command.name.encode(), None)
        return _OK
