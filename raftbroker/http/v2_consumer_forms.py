"""The JSON forms of the v2 consumer API, by Confluent's names."""

import msgspec


class NewConsumer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Switches and numbers may be strings, as Confluent's clients send them. All have defaults."""

    name: str | None = None
    """Unique in its group; drawn if it is missing. Made again by its name, it goes on where it was."""
    format: str = "binary"
    """How keys and values are written: json, binary or string."""
    auto_offset_reset: str = msgspec.field(default="latest", name="auto.offset.reset")
    auto_commit_enable: bool | str = msgspec.field(default=True, name="auto.commit.enable")
    auto_commit_interval_ms: int | str = msgspec.field(default=5_000, name="auto.commit.interval.ms")
    fetch_min_bytes: int | str = msgspec.field(default=1, name="fetch.min.bytes")
    consumer_request_timeout_ms: int | str = msgspec.field(default=1_000, name="consumer.request.timeout.ms")
    """How long GET records waits unless it says so."""
    isolation_level: str = msgspec.field(default="read_committed", name="isolation.level")


class MadeConsumer(msgspec.Struct, frozen=True):
    instance_id: str
    base_uri: str
    """Where it lives; any node takes its requests."""


class SubscriptionBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Either of them. The pattern is RE2 and means whole names."""

    topics: list[str] | None = None
    topic_pattern: str | None = None


class SubscriptionForm(msgspec.Struct, frozen=True):
    topics: list[str]
    topic_pattern: str | None = None


class PartitionOf(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    topic: str
    partition: int


class PartitionList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    partitions: list[PartitionOf]


class OffsetOf(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    topic: str
    partition: int
    offset: int
    metadata: str | None = None


class OffsetsBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The offsets of the last records that are done."""

    offsets: list[OffsetOf]


class CommittedOf(msgspec.Struct, frozen=True):
    """The offset of the record that is read next."""

    topic: str
    partition: int
    offset: int
    metadata: str = ""


class CommittedList(msgspec.Struct, frozen=True):
    offsets: list[CommittedOf]


class TimestampOf(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Milliseconds since 1970, or an ISO 8601 time with its zone."""

    topic: str
    partition: int
    timestamp: int | str


class PositionsBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where to read next: by offset, by time (the first record of that time or later), or some of each."""

    offsets: list[OffsetOf] | None = None
    timestamps: list[TimestampOf] | None = None
