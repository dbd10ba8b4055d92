"""What a webhook's receiver is sent: JSON, whatever the records hold.

A value that is JSON stands in it as it is; another one, as base64 in a field of its own. So every record can be shown,
and none stops those behind it.
"""

import zlib
from collections.abc import Iterator, Sequence

import msgspec
from msgspec import UNSET, UnsetType

from raftbroker.broker.queue_views import ReceivedMessage
from raftbroker.state.batch import Record
from raftbroker.state.webhooks import Webhook

BATCH_BYTES_MAX = 1 << 20
"""Of the records of one request, roughly, unless one alone is larger."""

_raw = msgspec.json.Decoder(msgspec.Raw)
_encode = msgspec.json.Encoder().encode


class HeaderBody(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    value: str | UnsetType | None = UNSET
    value_base64: bytes | UnsetType = UNSET


class RecordBody(msgspec.Struct, frozen=True, kw_only=True):
    """Of key and key_base64 there is one, as there is of value and value_base64; both null where there is none."""

    offset: int
    timestamp: int | None
    key: str | UnsetType | None = UNSET
    key_base64: bytes | UnsetType = UNSET
    value: msgspec.Raw | UnsetType | None = UNSET
    value_base64: bytes | UnsetType = UNSET
    headers: list[HeaderBody]


class RecordsBody(msgspec.Struct, frozen=True, kw_only=True):
    webhook: str
    topic: str
    partition: int
    records: list[RecordBody]


class MessageBody(msgspec.Struct, frozen=True, kw_only=True):
    """As `POST /queues/{queue}/receive` gives it, without its lock."""

    id: str
    body: msgspec.Raw | UnsetType = UNSET
    body_base64: bytes | UnsetType = UNSET
    key: str | None
    headers: dict[str, str]
    timestamp: int
    delivery_count: int


class MessagesBody(msgspec.Struct, frozen=True, kw_only=True):
    webhook: str
    queue: str
    messages: list[MessageBody]


def records_body(webhook: Webhook, partition: int, records: Sequence[Record]) -> bytes:
    shown = [_record(record) for record in records]
    return _encode(RecordsBody(webhook=webhook.name, topic=webhook.topic, partition=partition, records=shown))


def messages_body(webhook: Webhook, messages: Sequence[ReceivedMessage]) -> bytes:
    shown = [
        MessageBody(
            id=message.id,
            body=msgspec.Raw(message.body) if message.is_json else UNSET,
            body_base64=UNSET if message.is_json else message.body,
            key=message.key,
            headers=dict(message.headers),
            timestamp=message.timestamp,
            delivery_count=message.delivery_count,
        )
        for message in messages
    ]
    return _encode(MessagesBody(webhook=webhook.name, queue=webhook.queue, messages=shown))


def _record(record: Record) -> RecordBody:
    key, value = _text(record.key), _json(record.value)
    return RecordBody(
        offset=record.offset,
        timestamp=record.timestamp if record.timestamp >= 0 else None,
        key=key,
        key_base64=record.key if key is UNSET and record.key is not None else UNSET,
        value=value,
        value_base64=record.value if value is UNSET and record.value is not None else UNSET,
        headers=[_header(name, value) for name, value in record.headers],
    )


def _header(name: str, value: bytes | None) -> HeaderBody:
    shown = _text(value)
    return HeaderBody(name, shown, value if shown is UNSET and value is not None else UNSET)


def _text(data: bytes | None) -> str | UnsetType | None:
    """UNSET where it is no text."""
    if data is None:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return UNSET


def _json(data: bytes | None) -> msgspec.Raw | UnsetType | None:
    """UNSET where it is no JSON."""
    if data is None:
        return None
    try:
        if not data.isascii():
            data.decode()
        _raw.decode(data)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return UNSET
    return msgspec.Raw(data)


def record_bytes(record: Record) -> int:
    return 64 + len(record.key or b"") + len(record.value or b"")


def cut(records: Sequence[Record], most: int, last: int | None = None) -> Iterator[list[Record]]:
    """The records in pieces of at most so many, and of about `BATCH_BYTES_MAX` bytes; the first piece ends with the
    offset `last` where one is given, though not beyond the bounds."""
    piece: list[Record] = []
    size = 0
    for record in records:
        full = len(piece) >= most or size + record_bytes(record) > BATCH_BYTES_MAX
        if piece and (full or (last is not None and piece[-1].offset <= last < record.offset)):
            yield piece
            piece, size, last = [], 0, None
        piece.append(record)
        size += record_bytes(record)
    if piece:
        yield piece


def lanes_of(records: Sequence[Record], count: int) -> dict[int, list[Record]]:
    """The records by lane: those of one key share a lane, and so do those without a key; each lane in order."""
    lanes: dict[int, list[Record]] = {}
    for record in records:
        lanes.setdefault(zlib.crc32(record.key or b"") % count, []).append(record)
    return lanes
