"""What queues answer to front doors. Ids and tokens are texts; times are epoch ms by the wall clock of the leader.

Struct fields that are None, or 0 where it says so, do not apply.
"""

import msgspec

from raftbroker.state.queues.config import ConfigValue


class MessageDraft(msgspec.Struct, frozen=True, kw_only=True):
    """A message to send."""

    body: bytes
    is_json: bool = True
    """Whether the body is one JSON value; else it is any bytes."""
    key: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    delay_ms: int = 0
    ttl_ms: int = 0
    """0: none but the queue's retention."""
    dedup_id: str | None = None
    priority: int | None = None
    receipt: str = ""
    """ "queue:NAME", or an http or https URL; empty for none."""


class SentMessage(msgspec.Struct, frozen=True):
    id: str
    duplicate: bool
    """It had been sent before; the id is the earlier one's."""


class PastDelivery(msgspec.Struct, frozen=True):
    """A delivery that was not acknowledged."""

    consumer: str
    delivered_at: int
    ended_at: int
    end: str
    """released, lock ran out, or rejected"""


class DeadLetter(msgspec.Struct, frozen=True):
    """Where a message of a dead-letter queue comes from, and why."""

    queue: str
    id: str
    reason: str
    died_at: int
    delivery_count: int
    history: tuple[PastDelivery, ...]
    """The last few."""


class ReceivedMessage(msgspec.Struct, frozen=True):
    """A message with its body; of one that was only looked at, the token is empty."""

    id: str
    body: bytes
    is_json: bool
    key: str | None
    headers: tuple[tuple[str, str], ...]
    timestamp: int
    """When it was sent."""
    delivery_count: int
    lock_token: str
    locked_until: int
    dead_letter: DeadLetter | None


class SettledToken(msgspec.Struct, frozen=True):
    lock_token: str
    lost: str = ""
    """Why nothing was done; empty where it was."""
    locked_until: int = 0
    """Of an extended lock."""


class MessageFate(msgspec.Struct, frozen=True, omit_defaults=True):
    """What has become of a message; as JSON it is what receipts say. What does not apply is left out."""

    queue: str
    id: str
    state: str
    """waiting, delayed or locked; or at its end: consumed, expired, dead, redriven (from a dead-letter queue)"""
    delivery_count: int
    sent_at: int | None = None
    """Until it is gone."""
    at: int | None = None
    """When it came to its end."""
    consumer: str | None = None
    """Who holds it, consumed it, or had it last."""
    until: int | None = None
    """Until when it is locked or delayed."""
    reason: str | None = None
    """Why it is dead."""
    moved_to: str | None = None
    """The queue it was moved to."""
    moved_id: str | None = None
    """And its id there, where that is known."""
    history: tuple[PastDelivery, ...] = ()
    """The last deliveries that were not acknowledged."""


class QueueInfo(msgspec.Struct, frozen=True):
    name: str
    configs: dict[str, ConfigValue]
    created_at: int
    depth: int
    """Messages that are neither consumed nor dead: the sum of the four that follow."""
    available: int
    delayed: int
    blocked: int
    """Wait for the message before them of their key."""
    locked: int
    dead: int
    moving: int
    """On their way to another queue: dead, or brought back from there."""
    receipts: int
    """That wait to be delivered."""
    size_bytes: int
    oldest_age_ms: int
    sent: int
    delivered: int
    acknowledged: int
    expired: int
    died: int
    redriven: int
    purged: int
    receipts_lost: int
    sent_per_second: float
    delivered_per_second: float
    acknowledged_per_second: float
