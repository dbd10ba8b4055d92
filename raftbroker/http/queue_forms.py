"""The JSON forms of queues and their messages. Configs bear the names they have everywhere, with dots."""

import msgspec
from msgspec import UNSET, UnsetType

from raftbroker.broker.queue_views import DeadLetter, QueueInfo, ReceivedMessage
from raftbroker.state.queues.config import ConfigValue

LOCK_EXAMPLE = "1267-1-0123456789abcdef"
"""An example of a lock's."""

Number = int | UnsetType | None


class PutQueue(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Configs to set; null puts one back to its default, one that is left out stays as it is."""

    lock_ms: Number = msgspec.field(name="lock.ms", default=UNSET)
    max_deliveries: Number = msgspec.field(name="max.deliveries", default=UNSET)
    dead_letter_queue: str | UnsetType | None = msgspec.field(name="dead.letter.queue", default=UNSET)
    retention_ms: Number = msgspec.field(name="retention.ms", default=UNSET)
    dedup_window_ms: Number = msgspec.field(name="dedup.window.ms", default=UNSET)
    ordered_by_key: bool | UnsetType | None = msgspec.field(name="ordered.by.key", default=UNSET)

    def changes(self) -> dict[str, ConfigValue]:
        given = {field.encode_name: getattr(self, field.name) for field in msgspec.structs.fields(self)}
        return {name: value for name, value in given.items() if value is not UNSET}


class Totals(msgspec.Struct, frozen=True):
    """Messages, since the queue was made; `delivered` counts each delivery."""

    sent: int
    delivered: int
    acknowledged: int
    expired: int
    died: int
    redriven: int
    purged: int
    receipts_lost: int


class Rates(msgspec.Struct, frozen=True):
    """Per second, over the last ten to twenty seconds."""

    sent: float
    delivered: float
    acknowledged: float


class QueueForm(msgspec.Struct, frozen=True):
    name: str
    configs: dict[str, ConfigValue]
    created_at: int
    depth: int
    """Messages that are neither consumed nor dead: available, delayed, blocked (behind their key) and locked."""
    available: int
    delayed: int
    blocked: int
    locked: int
    dead: int
    """Kept aside in this queue, because it has no dead-letter queue."""
    moving: int
    """On their way to another queue."""
    pending_receipts: int
    size_bytes: int
    oldest_age_ms: int
    totals: Totals
    rates: Rates


class QueueList(msgspec.Struct, frozen=True):
    queues: list[QueueForm]


class Count(msgspec.Struct, frozen=True):
    """Of messages."""

    count: int


def queue_form(info: QueueInfo) -> QueueForm:
    return QueueForm(
        name=info.name,
        configs=info.configs,
        created_at=info.created_at,
        depth=info.depth,
        available=info.available,
        delayed=info.delayed,
        blocked=info.blocked,
        locked=info.locked,
        dead=info.dead,
        moving=info.moving,
        pending_receipts=info.receipts,
        size_bytes=info.size_bytes,
        oldest_age_ms=info.oldest_age_ms,
        totals=Totals(
            info.sent,
            info.delivered,
            info.acknowledged,
            info.expired,
            info.died,
            info.redriven,
            info.purged,
            info.receipts_lost,
        ),
        rates=Rates(
            round(info.sent_per_second, 3),
            round(info.delivered_per_second, 3),
            round(info.acknowledged_per_second, 3),
        ),
    )


# --- messages ---------------------------------------------------------------------------------------------


class ReceiptForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where the message's fate is told: to a queue, or to a webhook. One of the two."""

    queue: str | None = None
    url: str | None = None


class NewMessage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`body` is any JSON, kept as the text that was sent; or `body_base64` is any bytes."""

    body: msgspec.Raw | UnsetType = UNSET
    body_base64: bytes | None = None
    key: str | None = None
    headers: dict[str, str] = {}
    delay_ms: int = 0
    ttl_ms: int | None = None
    dedup_id: str | None = None
    priority: int | None = None
    """0 to 9, higher first; 4 unless given."""
    receipt: ReceiptForm | None = None


class SendBody(msgspec.Struct, frozen=True):
    messages: list[NewMessage]


class SentForm(msgspec.Struct, frozen=True):
    id: str
    duplicate: bool
    """It had been sent before, and the id is that of the earlier one."""


class SentList(msgspec.Struct, frozen=True):
    messages: list[SentForm]


class ReceiveBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    max_messages: int = 1
    wait_ms: int = 0
    """How long to wait for the first message."""
    lock_ms: int | None = None
    """As the queue's lock.ms unless given."""
    consumer: str | None = None
    """Who is told to have consumed them; the client's address unless given."""
    max_bytes: int | None = None


class Delivered(msgspec.Struct, frozen=True, kw_only=True):
    """A message; it has either `body` or `body_base64`, as it was sent."""

    id: str
    body: msgspec.Raw | UnsetType = UNSET
    body_base64: bytes | UnsetType = UNSET
    key: str | None
    headers: dict[str, str]
    timestamp: int
    """When it was sent, in ms since 1970."""
    delivery_count: int
    lock_token: str | UnsetType = UNSET
    locked_until: int | UnsetType = UNSET
    dead_letter: DeadLetter | UnsetType = UNSET
    """In a dead-letter queue: where it comes from, and why."""


class DeliveredList(msgspec.Struct, frozen=True):
    messages: list[Delivered]


def delivered(message: ReceivedMessage) -> Delivered:
    return Delivered(
        id=message.id,
        body=msgspec.Raw(message.body) if message.is_json else UNSET,
        body_base64=UNSET if message.is_json else message.body,
        key=message.key,
        headers=dict(message.headers),
        timestamp=message.timestamp,
        delivery_count=message.delivery_count,
        lock_token=message.lock_token or UNSET,
        locked_until=message.locked_until or UNSET,
        dead_letter=UNSET if message.dead_letter is None else message.dead_letter,
    )


# --- settling ---------------------------------------------------------------------------------------------


class AckBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    lock_tokens: list[str]


class ReleaseBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    lock_tokens: list[str]
    delay_ms: int = 0


class RejectBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    lock_tokens: list[str]
    reason: str = ""


class ExtendBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Held for `lock_ms` from now, as the queue's lock.ms says unless given; never for less than before."""

    lock_tokens: list[str]
    lock_ms: int | None = None


class Result(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of one token; it is done unless there is an `error_code`."""

    lock_token: str
    error_code: int | None = None
    message: str | None = None
    locked_until: int | None = None


class Results(msgspec.Struct, frozen=True):
    results: list[Result]


class RedriveBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """At most `max_messages` of the queue's dead messages; from its dead-letter queue, or from the one named."""

    max_messages: int | None = None
    source: str | None = msgspec.field(name="from", default=None)
