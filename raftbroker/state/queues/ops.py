"""What may be asked of the queues of a shard, and the outcomes. Times are ms; points in time, of the shard's time.

The bodies of sent messages are payloads of their op, one for each message, in order; the state only knows their sizes.
Every list is bounded by `MESSAGES_PER_OP`; who proposes an op keeps to the bounds.
"""

from typing import Any, ClassVar

import msgspec

from raftbroker.state.queues.config import ConfigValue
from raftbroker.state.shard import Op

MESSAGES_PER_OP = 1000

UNKNOWN_QUEUE = "unknown queue"
INVALID_CONFIG = "invalid config"
ILLEGAL = "illegal"
CONFLICT = "conflict"
INVALID = "invalid"
FULL = "full"


class Refusal(msgspec.Struct, frozen=True, array_like=True, tag="refusal"):
    """Nothing was done. `code` is one of the words above; `field` is the part of the request that is at fault."""

    code: str
    message: str
    field: str | None = None


# --- queues -----------------------------------------------------------------------------------------------


class QueuePut(msgspec.Struct, frozen=True, array_like=True, tag="put"):
    created: bool


class PutQueue(Op[QueuePut | Refusal], frozen=True, array_like=True, tag=60):
    """Makes the queue, or changes its configs; those not named stay, None puts one back to its default."""

    outcome: ClassVar[Any] = QueuePut | Refusal

    changes: dict[str, ConfigValue]


class Counted(msgspec.Struct, frozen=True, array_like=True, tag="counted"):
    """How many messages it was done to, and how many are left that it could be done to."""

    count: int
    left: int = 0


class DeleteQueue(Op[Counted | Refusal], frozen=True, array_like=True, tag=61):
    outcome: ClassVar[Any] = Counted | Refusal


class PurgeQueue(Op[Counted | Refusal], frozen=True, array_like=True, tag=62):
    """Drops all messages, dead ones too, but those that are on their way elsewhere."""

    outcome: ClassVar[Any] = Counted | Refusal


# --- messages ---------------------------------------------------------------------------------------------


class Draft(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A message to send."""

    size: int
    """Of its payload, in bytes."""
    priority: int
    key: int = 0
    """A hash of its key, below 2**64; 0: it has none."""
    delay_ms: int = 0
    ttl_ms: int = 0
    """0: none."""
    dedup: bytes = b""
    receipt: str = ""


class Sent(msgspec.Struct, frozen=True, array_like=True, tag="sent"):
    """The messages' numbers, in order; that of a duplicate is that of the message sent before."""

    numbers: tuple[int, ...]
    duplicates: tuple[int, ...] = ()
    """Positions of those that had been sent before."""


class SendMessages(Op[Sent | Refusal], frozen=True, array_like=True, tag=63):
    """All or none. `request`, 16 bytes, makes it repeatable as a whole within the queue's window: the same again with
    the same fingerprint has the same outcome."""

    outcome: ClassVar[Any] = Sent | Refusal

    messages: tuple[Draft, ...]
    request: bytes = b""
    fingerprint: int = 0


class Held(msgspec.Struct, frozen=True, array_like=True, gc=False):
    number: int
    deliveries: int
    sent_ms: int


class Received(msgspec.Struct, frozen=True, array_like=True, tag="received"):
    """Perhaps none."""

    messages: tuple[Held, ...]
    until_ms: int


class ReceiveMessages(Op[Received | Refusal], frozen=True, array_like=True, tag=64):
    """Locks the first messages that are available: at most so many, and of so many bytes together, at least one."""

    outcome: ClassVar[Any] = Received | Refusal

    consumer: str
    messages_max: int
    bytes_max: int
    lock_ms: int
    """0: as the queue's config says."""
    nonce: int
    """Random; makes the tokens of its locks."""


class Token(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Of one lock: valid for this very delivery of the message."""

    number: int
    delivery: int
    nonce: int


OK, REPEATED, LOST = range(3)
"""What came of a token: done; it had been done already, by the same token; the lock is not held by it any more."""


class Settled(msgspec.Struct, frozen=True, array_like=True, tag="settled"):
    """One word for each token, in order."""

    words: tuple[int, ...]
    until_ms: tuple[int, ...] = ()
    """Of extended locks."""


class Settle(Op[Settled | Refusal], frozen=True, array_like=True):
    """The root of what holders of locks may do."""

    outcome: ClassVar[Any] = Settled | Refusal

    tokens: tuple[Token, ...]


class Acknowledge(Settle, frozen=True, array_like=True, tag=65):
    """The messages are consumed."""


class Release(Settle, frozen=True, array_like=True, tag=66):
    """Given back, to be delivered again after a delay."""

    delay_ms: int = 0


class Reject(Settle, frozen=True, array_like=True, tag=67):
    """They are dead."""

    reason: str = ""


class Extend(Settle, frozen=True, array_like=True, tag=68):
    """Held for `lock_ms` from now; never for less than before. 0: as the queue's config says."""

    lock_ms: int = 0


class Redrive(Op[Counted | Refusal], frozen=True, array_like=True, tag=69):
    """Dead messages that were kept in the queue become available again, as if they were new."""

    outcome: ClassVar[Any] = Counted | Refusal

    messages_max: int = MESSAGES_PER_OP


class SendBack(Op[Counted | Refusal], frozen=True, array_like=True, tag=70):
    """Messages of this queue that died in the queue `to` go back there, if nobody holds them."""

    outcome: ClassVar[Any] = Counted | Refusal

    to: str
    messages_max: int = MESSAGES_PER_OP


# --- between shards ---------------------------------------------------------------------------------------


class Arrival(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A parcel's message as it goes into its destination."""

    sequence: int
    size: int
    priority: int
    key: int = 0
    receipt: str = ""
    origin: str = ""


class Taken(msgspec.Struct, frozen=True, array_like=True, tag="taken"):
    """The first ones' numbers here, 0 for one that had been taken before; then why no more were."""

    numbers: tuple[int, ...]
    refusal: Refusal | None = None


class TakeMessages(Op[Taken], frozen=True, array_like=True, tag=71):
    """Parcels of the shard `source`, in order of their sequences. Makes the queue where it is missing."""

    outcome: ClassVar[Any] = Taken

    source: int
    arrivals: tuple[Arrival, ...]


class Done(msgspec.Struct, frozen=True, array_like=True, tag="done"):
    pass


class Shipped(Op[Done], frozen=True, array_like=True, tag=72):
    """Parcels that have arrived: their sequences, and the numbers they have there, 0 where that is not known. The name
    says nothing."""

    outcome: ClassVar[Any] = Done

    parcels: tuple[tuple[int, int], ...]


OPS: tuple[type[Op[Any]], ...] = (
    PutQueue,
    DeleteQueue,
    PurgeQueue,
    SendMessages,
    ReceiveMessages,
    Acknowledge,
    Release,
    Reject,
    Extend,
    Redrive,
    SendBack,
    TakeMessages,
    Shipped,
)
