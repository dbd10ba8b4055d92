"""The broker's face: every use case that a front door may ask for, on any node.

A call may be made on any node: it is run here where this node can answer, else passed on to the one that can.
Every call ends by its `timeout` (seconds) with a result or with one of `raftbroker.broker.errors`. Names are
validated here; front doors decode, call, encode.
"""

from collections.abc import Mapping

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


class Broker:
    counters: Counters

    @property
    def node_id(self) -> int:
        raise NotImplementedError

    @property
    def cluster_id(self) -> str:
        """Empty while this node belongs to no cluster."""
        raise NotImplementedError

    @property
    def controller_id(self) -> int:
        """The leader of the control group as known here; -1 while there is none."""
        raise NotImplementedError

    async def start(self) -> None:
        raise NotImplementedError

    async def stop(self) -> None:
        raise NotImplementedError

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
        raise NotImplementedError

    async def delete_topic(self, name: str, *, timeout: float = 15.0) -> None:
        raise NotImplementedError

    async def list_topics(self, *, timeout: float = 10.0) -> list[TopicView]:
        """All topics by name; linearizable."""
        raise NotImplementedError

    async def describe_topic(self, name: str, *, timeout: float = 10.0) -> TopicView:
        """Linearizable; with leaders and in-sync replicas as their leaders see them."""
        raise NotImplementedError

    async def find_topic(self, name: str, *, timeout: float = 10.0) -> TopicView:
        """For the data path: from this node's copy, with leaders as known here; asks the cluster only when it is
        not in the copy. `in_sync` is not gathered: it is empty."""
        raise NotImplementedError

    async def create_partitions(
        self, name: str, total: int, *, validate_only: bool = False, timeout: float = 15.0
    ) -> TopicView:
        """Grows the topic to `total` partitions."""
        raise NotImplementedError

    async def alter_configs(
        self, name: str, changes: Mapping[str, str | None], *, validate_only: bool = False, timeout: float = 15.0
    ) -> None:
        """Sets configs of a topic; None puts one back to its default. Configs not named stay."""
        raise NotImplementedError

    async def topic_configs(self, name: str, *, timeout: float = 10.0) -> list[ConfigView]:
        raise NotImplementedError

    def partition_for(
        self, topic: TopicView, key: bytes | None, *, idempotency_key: str | None = None, position: int = 0
    ) -> int:
        """The partition of a record that names none: by Kafka's murmur2 of its key; without a key by the hash of
        the request's Idempotency-Key and the record's position in it; without either, each call takes the next
        partition in turn (call once per request, so that its records make one batch)."""
        raise NotImplementedError

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
        raise NotImplementedError

    async def fetch(
        self,
        topic: str,
        partition: int,
        offset: int,
        *,
        bytes_max: int = 1 << 20,
        wait: float = 0.0,
        bytes_min: int = 1,
        timeout: float = 30.0,
    ) -> Fetched:
        """Whole committed batches from the one holding `offset` on, at least one where there is any; waits up to
        `wait` seconds for `bytes_min` bytes, then answers with what there is, perhaps nothing."""
        raise NotImplementedError

    async def offsets(self, topic: str, partition: int, *, timeout: float = 10.0) -> OffsetsView:
        """Linearizable."""
        raise NotImplementedError

    async def offset_for_timestamp(
        self, topic: str, partition: int, timestamp_ms: int, *, timeout: float = 10.0
    ) -> TimestampOffset | None:
        """The first record whose timestamp is at least `timestamp_ms`; None where there is none."""
        raise NotImplementedError

    async def delete_records(self, topic: str, partition: int, before: int, *, timeout: float = 15.0) -> int:
        """Deletes records below the offset `before` (-1: the high watermark); the new log start offset."""
        raise NotImplementedError

    # --- the cluster ----------------------------------------------------------------------------------------

    async def brokers(self) -> list[BrokerView]:
        raise NotImplementedError

    async def health(self) -> HealthView:
        raise NotImplementedError

    async def raft_status(self) -> list[GroupView]:
        raise NotImplementedError

    async def transfer_leadership(self, group: int, target: int | None = None, *, timeout: float = 10.0) -> None:
        """Hands the leadership of a group to node `target`, or to the replica that is most up to date."""
        raise NotImplementedError

    def readiness(self) -> Readiness:
        """Whether this node can serve: it belongs to a cluster, is registered, and its replicas have leaders."""
        raise NotImplementedError

    def partition_sizes(self) -> list[PartitionSize]:
        """Of the partitions whose replicas are on this node."""
        raise NotImplementedError

    def local_groups(self) -> list[GroupView]:
        """This node's own replicas only; asks nobody."""
        raise NotImplementedError
