"""What the state knows of a message: what decisions need, not its body.

A message's number is that of its payload, so it is unique in the shard for ever, and the message's id outside. What
most messages lack stands apart (`Lock`, `More`, `Keyed`), and nothing here is seen by the garbage collector: a million
waiting messages take about 200 MB and cost nothing to have.

Rows: key b"qM" number u64be; plain messages have a short row.
"""

import struct

import msgspec

WAITING, DELAYED, BLOCKED, LOCKED, DEAD, MOVING, GONE = range(7)
"""BLOCKED waits for the one before it of the same key. DEAD stays aside in its queue; MOVING is on its way to another.
GONE is not in the state any more."""
STATES = 7
NAMES = ("waiting", "delayed", "waiting", "locked", "dead", "dead", "gone")
"""As senders are told."""

RELEASED, RAN_OUT, REJECTED = range(3)
ENDS = ("released", "lock ran out", "rejected")
"""How a delivery ended that was not acknowledged."""

PRIORITY_MAX = 9
PRIORITY_DEFAULT = 4
HISTORY_MAX = 5
"""Of a message's unsuccessful deliveries the last ones are kept."""
CONSUMER_CHARACTERS_MAX = 100
REASON_CHARACTERS_MAX = 500
UNIT = 64
"""Sizes of bodies are counted in so many bytes: small numbers take less room."""

MESSAGE_ROW_BYTES = 64
LOCK_ROW_BYTES = 40 + CONSUMER_CHARACTERS_MAX
"""What a row takes at most without `More`; and with a lock so much more."""

_TURN_SHIFT = 40
_KEY = struct.Struct(">2sQ")


class Lock(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Who holds a message; shared by all messages of one delivery. The nonce is random: part of the lock's token."""

    consumer: str
    nonce: int
    at_ms: int
    until_ms: int


class Delivery(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One that was not acknowledged."""

    consumer: str
    nonce: int
    at_ms: int
    ended_ms: int
    end: int


class More(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What few messages have."""

    ttl_ms: int = 0
    """When its time to live ends; 0: never."""
    not_before_ms: int = 0
    """Of a BLOCKED one: when its delay ends."""
    receipt: str = ""
    """Where its sender is told: "queue:NAME", or a URL."""
    origin: str = ""
    """In a dead-letter queue: the queue it died in."""
    reason: str = ""
    """Of a dead one."""
    history: tuple[Delivery, ...] = ()
    timed: bool = False
    """Its time to live takes the place of the queue's retention."""

    @property
    def row_bytes(self) -> int:
        """About what it adds to the row, at most."""
        texts = len(self.receipt) + len(self.origin) + len(self.reason)
        return 24 + 2 * texts + sum(32 + 2 * len(delivery.consumer) for delivery in self.history)


NOTHING_MORE = More()


class Keyed(msgspec.Struct, gc=False):
    """Of a message in an ordered queue: its key's hash, and its neighbours of that key, by number; 0: none."""

    key: int
    previous: int = 0
    next: int = 0


class Message(msgspec.Struct, gc=False):
    number: int
    queue: int
    """The queue's id."""
    state: int
    priority: int
    turn: int
    """Its place among those that became available again; 0: it has that of its number. See `place`."""
    units: int
    sent_ms: int
    due_ms: int
    """When something happens to it by itself: the lock runs out, the delay is over, the time to live; 0: never."""
    deliveries: int
    lock: Lock | None
    more: More | None
    keyed: Keyed | None

    @property
    def place(self) -> int:
        """Its place in the order of availability; and of a key's messages, of waiting for each other."""
        return self.turn or self.number << _TURN_SHIFT

    @property
    def extra(self) -> More:
        return self.more or NOTHING_MORE


def turn_after(number: int, count: int) -> int:
    """The place behind the message `number`, the `count`th there."""
    return number << _TURN_SHIFT | count


class MessageRow(msgspec.Struct, frozen=True, array_like=True):
    queue: int
    state: int
    priority: int
    units: int
    sent_ms: int
    turn: int | bytes = 0
    due_ms: int = 0
    deliveries: int = 0
    key: int = 0
    lock: Lock | None = None
    more: More | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(MessageRow).decode


def message_key(number: int) -> bytes:
    return _KEY.pack(b"qM", number)


def is_plain(message: Message) -> bool:
    """Waiting, and nothing has happened to it since it was sent."""
    if message.state != WAITING or message.keyed is not None or message.more is not None:
        return False
    return not (message.turn or message.due_ms or message.deliveries)


def encode_message(message: Message) -> bytes:
    plain = (message.queue, message.state, message.priority, message.units, message.sent_ms)
    if is_plain(message):
        return _encode(plain)
    keyed = message.keyed
    turn = message.turn.to_bytes(13, "big") if message.turn else 0
    rest = (turn, message.due_ms, message.deliveries, keyed.key if keyed else 0, message.lock, message.more)
    return _encode(plain + rest)


def decode_message(number: int, row: bytes) -> Message:
    """Its neighbours of the key are not in the row."""
    r = _decode(row)
    turn = int.from_bytes(r.turn, "big") if isinstance(r.turn, bytes) else r.turn
    return Message(
        number,
        r.queue,
        r.state,
        r.priority,
        turn,
        r.units,
        r.sent_ms,
        r.due_ms,
        r.deliveries,
        r.lock,
        r.more,
        Keyed(r.key) if r.key else None,
    )
