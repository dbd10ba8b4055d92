"""The JSON forms of Confluent's REST v2, with headers and timestamps beside keys and values."""

import msgspec

NULL = msgspec.Raw(b"null")


def _null() -> msgspec.Raw:
    return NULL


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A record's header; the value is base64."""

    name: str
    value: bytes | None = None


class _Place(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, gc=False):
    partition: int | None = None
    headers: list[Header] | None = None
    timestamp: int | None = None
    """Milliseconds since 1970; the time of arrival when it is missing."""


class JsonRecord(_Place, kw_only=True, forbid_unknown_fields=True, gc=False):
    """Key and value are any JSON; they are stored as the text that was sent."""

    key: msgspec.Raw = msgspec.field(default_factory=_null)
    value: msgspec.Raw = msgspec.field(default_factory=_null)


class BinaryRecord(_Place, kw_only=True, forbid_unknown_fields=True, gc=False):
    """Key and value are base64."""

    key: bytes | None = None
    value: bytes | None = None


class StringRecord(_Place, kw_only=True, forbid_unknown_fields=True, gc=False):
    """Key and value are text, stored as UTF-8."""

    key: str | None = None
    value: str | None = None


class JsonRecords(msgspec.Struct):
    records: list[JsonRecord]


class BinaryRecords(msgspec.Struct):
    records: list[BinaryRecord]


class StringRecords(msgspec.Struct):
    records: list[StringRecord]


class RecordOffset(msgspec.Struct, frozen=True):
    """What became of one record, in the request's order."""

    partition: int | None
    offset: int | None
    error_code: int | None = None
    error: str | None = None


class ProduceAnswer(msgspec.Struct, frozen=True):
    offsets: list[RecordOffset]
    key_schema_id: int | None = None
    value_schema_id: int | None = None


class ReplicaForm(msgspec.Struct, frozen=True):
    broker: int
    leader: bool
    in_sync: bool


class PartitionForm(msgspec.Struct, frozen=True):
    partition: int
    leader: int | None
    replicas: list[ReplicaForm]


class TopicForm(msgspec.Struct, frozen=True):
    name: str
    configs: dict[str, str]
    partitions: list[PartitionForm]


class Brokers(msgspec.Struct, frozen=True):
    brokers: list[int]


class Offsets(msgspec.Struct, frozen=True):
    """The first offset that can be read, and the one the next record will have."""

    beginning_offset: int
    end_offset: int


class ReadRecord(msgspec.Struct, frozen=True):
    """A record as it is read: key and value are JSON, base64 or text, by the format that Accept names."""

    topic: str
    partition: int
    offset: int
    timestamp: int | None
    """Milliseconds since 1970."""
    key: msgspec.Raw
    value: msgspec.Raw
    headers: list[Header]
