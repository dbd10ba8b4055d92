"""The JSON forms of Confluent's REST v3: resources with `kind` and `metadata`, links, lists.

Field names and order are the public interface's; only what we can say truly is in them.
"""

from typing import Generic, Literal, TypeVar

import msgspec


class Link(msgspec.Struct, frozen=True):
    related: str


class Metadata(msgspec.Struct, frozen=True, omit_defaults=True):
    self_: str = msgspec.field(name="self")
    resource_name: str | None = None


class ListMetadata(msgspec.Struct, frozen=True):
    self_: str = msgspec.field(name="self")
    next: str | None = None


class Resource(msgspec.Struct, frozen=True, kw_only=True):
    kind: str
    metadata: Metadata


R = TypeVar("R")


class ResourceList(msgspec.Struct, Generic[R], frozen=True):
    kind: str
    metadata: ListMetadata
    data: list[R]


class Cluster(Resource, frozen=True, kw_only=True):
    cluster_id: str
    controller: Link | None
    brokers: Link
    broker_configs: Link
    topics: Link


class Broker(Resource, frozen=True, kw_only=True):
    cluster_id: str
    broker_id: int
    host: str | None
    port: int | None
    rack: str | None
    configs: Link
    partition_replicas: Link | None = None


class Topic(Resource, frozen=True, kw_only=True):
    cluster_id: str
    topic_name: str
    topic_id: str
    is_internal: bool
    replication_factor: int
    partitions_count: int
    partitions: Link
    configs: Link


class Synonym(msgspec.Struct, frozen=True):
    name: str
    value: str | None
    source: str


class Config(Resource, frozen=True, kw_only=True):
    cluster_id: str
    topic_name: str | None = None
    name: str
    value: str | None
    is_default: bool
    is_read_only: bool
    is_sensitive: bool
    source: str
    synonyms: list[Synonym]
    documentation: str = ""


class Partition(Resource, frozen=True, kw_only=True):
    cluster_id: str
    topic_name: str
    partition_id: int
    leader: Link | None
    replicas: Link


class Replica(Resource, frozen=True, kw_only=True):
    cluster_id: str
    topic_name: str
    partition_id: int
    broker_id: int
    is_leader: bool
    is_in_sync: bool
    broker: Link


# --- what clients send ------------------------------------------------------------------------------------


class ConfigEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    value: str


class CreateTopic(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    topic_name: str
    partitions_count: int | None = None
    replication_factor: int | None = None
    configs: list[ConfigEntry] = []
    validate_only: bool = False


class GrowTopic(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    partitions_count: int


class ConfigValue(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """With `expected_value` the config is changed only where it is that now, set or by default; null: only where it is
    not set."""

    value: str | None
    expected_value: str | msgspec.UnsetType | None = msgspec.UNSET


class ConfigChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    value: str | None = None
    operation: Literal["SET", "DELETE", "set", "delete"] = "SET"
    expected_value: str | msgspec.UnsetType | None = msgspec.UNSET
    """As in `ConfigValue`; where one of the changes expected something else, none is made."""


class ConfigChanges(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    data: list[ConfigChange]
    validate_only: bool = False
