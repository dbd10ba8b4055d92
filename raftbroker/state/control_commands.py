"""The control group's commands, and the structs that its state is made of.

Ids of partitions (u64), groups (u32) and producers (i64) count from 1 (producers from 0) and are never given twice. The
proposer picks partition and group ids from `next_partition_id` and `next_group_id`; a command that comes too late finds
its ids taken, changes nothing and is proposed anew (`OutcomeError.IDS_TAKEN`).
"""

from enum import StrEnum

import msgspec

from consensus.model import Member
from raftbroker.state.commands import Command, CommandDecoder
from raftbroker.state.webhooks import Webhook

# --- state ----------------------------------------------------------------------------------------------


class ClusterState(msgspec.Struct, frozen=True, array_like=True):
    """The cluster itself; `cluster_id` is empty until it is formed."""

    cluster_id: str = ""
    created_ms: int = 0
    feature: int = 0
    next_partition_id: int = 1
    next_group_id: int = 1
    next_producer_id: int = 0
    shards: tuple[int, ...] = ()
    """The Raft groups that are coordinator shards, in their order, which is fixed once they are made."""


class GroupKind(StrEnum):
    """What a Raft group other than the control group is for."""

    DATA = "data"
    """It carries partitions."""
    SHARD = "shard"
    """It coordinates consumer groups, transactions and queues."""


class NodeState(msgspec.Struct, frozen=True, array_like=True):
    """A node as it last registered: its data directory's UUID, its advertised addresses ("host:port")."""

    id: int
    uuid: str
    peer: str
    http: str
    kafka: str
    feature: int

    @property
    def member(self) -> Member:
        return Member(self.id, self.uuid)


class GroupState(msgspec.Struct, frozen=True, array_like=True):
    """A group: `initial` are the voters it was made with, `nodes` where it should be, preferred leader first."""

    id: int
    replication_factor: int
    initial: tuple[Member, ...]
    nodes: tuple[int, ...]
    kind: GroupKind = GroupKind.DATA


class PartitionPlace(msgspec.Struct, frozen=True, array_like=True):
    """A partition's id and the group that carries it."""

    id: int
    group: int


class TopicState(msgspec.Struct, frozen=True, array_like=True):
    """A topic; partition number n is `partitions[n]`. `configs` are its own, without defaults."""

    name: str
    topic_id: str
    replication_factor: int
    configs: dict[str, str]
    partitions: tuple[PartitionPlace, ...]
    created_ms: int


class PartitionLocation(msgspec.Struct, frozen=True):
    """Where a partition id belongs."""

    topic: TopicState
    number: int
    group: int


# --- commands -------------------------------------------------------------------------------------------


class FormCluster(Command, frozen=True, array_like=True, tag=1):
    """Names the cluster, once. The same id again is fine, another is refused."""

    cluster_id: str
    created_ms: int


class RegisterNode(Command, frozen=True, array_like=True, tag=2):
    """A node says who and where it is; replaces what it said before."""

    id: int
    uuid: str
    peer: str
    http: str
    kafka: str
    feature: int


class ForgetNode(Command, frozen=True, array_like=True, tag=3):
    """Refused while a group's placement names the node."""

    id: int


class CreateGroup(Command, frozen=True, array_like=True, tag=4):
    id: int
    replication_factor: int
    members: tuple[Member, ...]


class SetPlacement(Command, frozen=True, array_like=True, tag=5):
    """Where the group should be, preferred leader first; members are moved there one at a time."""

    group: int
    nodes: tuple[int, ...]


class CreateTopic(Command, frozen=True, array_like=True, tag=6):
    """`topic_id` is 32 hexadecimal digits, new; the same command again is fine. All of it happens or nothing."""

    name: str
    topic_id: str
    replication_factor: int
    configs: dict[str, str]
    partitions: tuple[PartitionPlace, ...]
    new_groups: tuple[CreateGroup, ...]
    created_ms: int


class AddPartitions(Command, frozen=True, array_like=True, tag=7):
    topic_id: str
    partitions: tuple[PartitionPlace, ...]
    new_groups: tuple[CreateGroup, ...]


class AlterConfigs(Command, frozen=True, array_like=True, tag=8):
    """`configs` is the whole new map, `before` the one that it was made of: where the topic has another by now the
    command changes nothing. None, as up to cluster feature version 4, asks for nothing."""

    topic_id: str
    configs: dict[str, str]
    before: dict[str, str] | None = None


class DeleteTopic(Command, frozen=True, array_like=True, tag=9):
    """Its partition ids go to their groups' dropped lists until `PartitionsDropped`."""

    topic_id: str


class PartitionsDropped(Command, frozen=True, array_like=True, tag=10):
    """The group has deleted these partitions' data. Ids not in its list are passed over."""

    group: int
    partition_ids: tuple[int, ...]


class AllocateProducerIds(Command, frozen=True, array_like=True, tag=11):
    """The outcome's `value` is the first of `count` producer ids for `node` to give out."""

    node: int
    count: int


class RaiseFeature(Command, frozen=True, array_like=True, tag=12):
    """Refused unless every node supports `version`; lower or equal is no change."""

    version: int


class CreateShards(Command, frozen=True, array_like=True, tag=13):
    """Makes the coordinator shards, once: where there are some already it changes nothing."""

    groups: tuple[CreateGroup, ...]


class PutWebhook(Command, frozen=True, array_like=True, tag=14):
    """Makes the webhook (version 1), or replaces the one of that id and the version before; the same again is fine."""

    webhook: Webhook


class DeleteWebhook(Command, frozen=True, array_like=True, tag=15):
    """Where the webhook has another id, or is not there, nothing changes."""

    name: str
    id: str


ControlCommand = (
    FormCluster
    | RegisterNode
    | ForgetNode
    | CreateGroup
    | SetPlacement
    | CreateTopic
    | AddPartitions
    | AlterConfigs
    | DeleteTopic
    | PartitionsDropped
    | AllocateProducerIds
    | RaiseFeature
    | CreateShards
    | PutWebhook
    | DeleteWebhook
)

_decoder: "CommandDecoder[ControlCommand]" = CommandDecoder("control", msgspec.msgpack.Decoder(ControlCommand))


def decode_control(data: bytes) -> ControlCommand:
    """Raises UnknownCommand."""
    return _decoder.decode(data)


# --- outcomes -------------------------------------------------------------------------------------------


class OutcomeError(StrEnum):
    """Why a control command changed nothing."""

    CLUSTER_EXISTS = "cluster_exists"
    UNKNOWN_NODE = "unknown_node"
    UNKNOWN_GROUP = "unknown_group"
    UNKNOWN_TOPIC = "unknown_topic"
    TOPIC_EXISTS = "topic_exists"
    IDS_TAKEN = "ids_taken"
    """Made from a state that has moved on: read again and propose again."""
    NODE_IN_USE = "node_in_use"
    FEATURE = "feature"
    INVALID = "invalid"


class Outcome(msgspec.Struct, frozen=True):
    """What became of a command: `ok`, or the error and a message for people. `value` is the first producer id."""

    ok: bool
    error: OutcomeError | None = None
    message: str = ""
    value: int = 0
