"""What the broker answers with: frozen structs, for front doors to encode as their protocol wants."""

import hashlib

import msgspec


class PartitionView(msgspec.Struct, frozen=True):
    """One partition of a topic. `leader`, `epoch` and `in_sync` are the cluster's latest word on them, gathered a
    moment ago; `replicas` is where it is placed, the preferred leader first."""

    number: int
    id: int
    group: int
    leader: int | None
    epoch: int
    """The leader's term; -1 while unknown."""
    replicas: tuple[int, ...]
    in_sync: tuple[int, ...]


class TopicView(msgspec.Struct, frozen=True):
    name: str
    topic_id: str
    """32 hex digits; another one when a topic is deleted and created again."""
    replication_factor: int
    configs: dict[str, str]
    """Only those that were set for the topic; `Broker.topic_configs` gives them all."""
    partitions: tuple[PartitionView, ...]
    created_ms: int


class ConfigView(msgspec.Struct, frozen=True):
    """One config of a topic: its value in force, and where that comes from."""

    name: str
    value: str
    default: str
    source: str
    """As Kafka names sources: DYNAMIC_TOPIC_CONFIG or DEFAULT_CONFIG."""
    is_default: bool
    sensitive: bool
    documentation: str


class Idempotency(msgspec.Struct, frozen=True):
    """Makes a retried produce exactly once: the same key again gives the original offset."""

    key: bytes
    """16 bytes."""
    fingerprint: int
    """Of what was asked for, without anything the server adds; another one for the same key is a conflict."""

    @classmethod
    def of(cls, key: str, content: bytes) -> "Idempotency":
        """From a client's own key and the content of its records as it sent them."""
        return cls(
            hashlib.blake2b(key.encode(), digest_size=16).digest(),
            int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big") >> 1,
        )


class Produced(msgspec.Struct, frozen=True, array_like=True):
    """A batch that is committed: on the disks of a majority of its partition's replicas."""

    base_offset: int
    timestamp: int
    """Epoch ms given by the broker where the topic's message.timestamp.type is LogAppendTime, else -1."""
    log_start: int
    duplicate: bool
    """The batch had been produced before; `base_offset` is where it is."""


class Fetched(msgspec.Struct, frozen=True, array_like=True):
    """Whole batches, in order, with gaps only where compaction has been; the first may begin below the offset asked
    for, whose records the reader skips."""

    batches: tuple[bytes, ...]
    high_watermark: int
    log_start: int
    last_stable: int = -1
    """As `high_watermark`, but below the first open transaction."""
    aborted: tuple[tuple[int, int], ...] = ()
    """(producer id, first offset) of aborted transactions among the batches, where only committed ones were asked
    for: `state.isolation` leaves them out."""


class OffsetsView(msgspec.Struct, frozen=True, array_like=True):
    """The log start offset, and the high watermark: the offset the next record will have once committed."""

    start: int
    end: int
    stable: int = -1
    """The last stable offset: where a reader of committed transactions finds the next record."""


class TimestampOffset(msgspec.Struct, frozen=True, array_like=True):
    offset: int
    timestamp: int


class BrokerView(msgspec.Struct, frozen=True):
    """A registered node. Addresses are host:port as advertised; `kafka` is empty where that door is closed."""

    id: int
    uuid: str
    peer: str
    http: str
    kafka: str
    alive: bool
    """It answers this node now."""
    is_controller: bool
    feature: int
    """The highest cluster feature version this node supports."""


class HealthView(msgspec.Struct, frozen=True):
    is_healthy: bool
    controller_id: int
    """The leader of the control group; -1 while there is none."""
    all_nodes: tuple[int, ...]
    nodes_down: tuple[int, ...]
    leaderless_partitions: tuple[str, ...]
    """As topic/partition."""
    under_replicated_partitions: tuple[str, ...]


class ReplicaView(msgspec.Struct, frozen=True, array_like=True):
    """One node's own word on its replica of a group."""

    node: int
    uuid: str
    role: str
    """follower, candidate, leader or learner; absent where the node has no replica or does not answer."""
    voter: bool
    term: int
    commit: int
    applied: int
    first_index: int
    last_index: int
    caught_up: bool | None
    """The leader's view; None while no leader answers."""
    damaged: str | None


class GroupView(msgspec.Struct, frozen=True):
    """A Raft group, merged from what its members say of it."""

    group: int
    leader: int | None
    term: int
    replication_factor: int
    """What is wanted; the control group wants up to five voters."""
    commit: int
    applied: int
    replicas: tuple[ReplicaView, ...]
    partitions: int
    """How many partitions it carries."""


class PartitionSize(msgspec.Struct, frozen=True):
    """One partition's replica on this node, for metrics."""

    topic: str
    partition: int
    start: int
    end: int
    bytes: int
    leading: bool


class Readiness(msgspec.Struct, frozen=True):
    ready: bool
    reason: str
    """Empty when ready; else what this node still waits for."""


class Counters(msgspec.Struct):
    """Counted on this node since it started; the front doors read them for metrics."""

    produce_requests: int = 0
    produce_batches: int = 0
    produce_records: int = 0
    produce_bytes: int = 0
    produce_entries: int = 0
    """Raft entries that carried the batches."""
    produce_duplicates: int = 0
    produce_throttled: int = 0
    fetch_requests: int = 0
    fetch_bytes: int = 0
    fetch_forwarded: int = 0
    forwarded: int = 0
    """Requests passed on to another node."""
    retried: int = 0
    unknown_outcomes: int = 0
    trimmed_partitions: int = 0
    compaction_passes: int = 0
    compaction_read_bytes: int = 0
    compaction_written_bytes: int = 0
    compaction_removed_records: int = 0
