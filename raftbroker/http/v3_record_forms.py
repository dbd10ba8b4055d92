"""The JSON forms of v3 produce: records, their reports, batches."""

from datetime import datetime
from typing import Annotated, Literal

import msgspec

Kind = Literal["BINARY", "JSON", "STRING"]


def _null() -> msgspec.Raw:
    return msgspec.Raw(b"null")


class HeaderV3(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A record's header; the value is base64."""

    name: str
    value: bytes | None = None


class Data(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A key or a value: `data` is base64 for BINARY, any JSON for JSON, text for STRING; null is no key, no value."""

    type: Kind
    data: msgspec.Raw = msgspec.field(default_factory=_null)


class RecordV3(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One record to append."""

    partition_id: int | None = None
    headers: list[HeaderV3] = []
    key: Data | None = None
    value: Data | None = None
    timestamp: int | Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    """RFC 3339 with an offset or Z, or milliseconds since 1970; the time of arrival when it is missing."""
    producer_id: int | None = None
    """With producer_epoch and sequence: the record is appended once, in its place in the producer's sequence."""
    producer_epoch: int | None = None
    sequence: int | None = None


class BatchEntry(RecordV3, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One record of a batch; its report bears the same id."""

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=80)]


class BatchBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    entries: list[BatchEntry]


class LooseBatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A batch whose entries are decoded one by one, so that one bad entry fails alone."""

    entries: list[msgspec.Raw]


class EntryId(msgspec.Struct, frozen=True):
    id: Annotated[str, msgspec.Meta(min_length=1, max_length=80)]


class Shown(msgspec.Struct, frozen=True):
    """What was stored as a key or value: its type, and its size in bytes."""

    type: Kind
    size: int


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A record that was appended."""

    error_code: int
    """200."""
    cluster_id: str
    topic_name: str
    partition_id: int
    offset: int
    timestamp: datetime
    key: Shown | None = None
    value: Shown | None = None


class Success(Report, frozen=True, kw_only=True, omit_defaults=True):
    id: str


class Failure(msgspec.Struct, frozen=True):
    id: str
    error_code: int
    message: str


class BatchAnswer(msgspec.Struct, frozen=True):
    successes: list[Success]
    failures: list[Failure]
