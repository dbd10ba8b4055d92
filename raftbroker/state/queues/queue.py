"""One queue: its config, its counts, and its messages in the orders in which they are asked for.

The orders hold numbers only, and may hold stale ones, of messages that have gone, or are on their way elsewhere, for
good. They are dropped when they come up, or when they are more than what counts.

Row: b"qQ" queue id u32be.
"""

import struct
from collections.abc import Iterator

import msgspec

from raftbroker.state.queues.config import QueueConfig
from raftbroker.state.queues.dedup import Window
from raftbroker.state.queues.messages import BLOCKED, DELAYED, LOCKED, MOVING, PRIORITY_MAX, STATES, WAITING
from raftbroker.state.queues.numbers import Numbers

_KEY = struct.Struct(">2sI")
_RATE_WINDOW_MS = 10_000


class Totals(msgspec.Struct, array_like=True):
    """Since the queue was made."""

    sent: int = 0
    delivered: int = 0
    """Deliveries: a message may have several."""
    acknowledged: int = 0
    expired: int = 0
    died: int = 0
    redriven: int = 0
    purged: int = 0
    receipts_lost: int = 0
    """That could not be delivered for a day."""


class QueueRow(msgspec.Struct, frozen=True, array_like=True):
    name: str
    config: QueueConfig
    created_ms: int
    purged: int
    last_number: int
    turns: int
    totals: Totals


class Rate:
    """Of events, per second over the last ten to twenty seconds. Not part of what replicas agree on."""

    __slots__ = ("_before", "_count", "_slot")

    def __init__(self) -> None:
        self._slot = 0
        self._count = 0
        self._before = 0

    def add(self, time_ms: int, count: int) -> None:
        self._turn(time_ms)
        self._count += count

    def _turn(self, time_ms: int) -> None:
        slot = time_ms // _RATE_WINDOW_MS
        if slot != self._slot:
            self._before = self._count if slot == self._slot + 1 else 0
            self._count = 0
            self._slot = slot

    def per_second(self, time_ms: int) -> float:
        self._turn(time_ms)
        lasted = time_ms % _RATE_WINDOW_MS
        return (self._before + self._count) / (_RATE_WINDOW_MS + lasted) * 1000


class Queue:
    __slots__ = (
        "acknowledged_rate",
        "config",
        "counts",
        "created_ms",
        "dead",
        "delivered_rate",
        "id",
        "keys",
        "last_number",
        "name",
        "order",
        "origins",
        "purged",
        "ready",
        "sent_rate",
        "timer_ms",
        "topic",
        "totals",
        "turns",
        "units",
        "window",
    )

    def __init__(self, id_: int, row: QueueRow) -> None:
        self.id = id_
        self.name = row.name
        self.topic = topic_of(row.name)
        self.config = row.config
        self.created_ms = row.created_ms
        self.purged = row.purged
        """Messages up to this number are not the queue's any more."""
        self.last_number = row.last_number
        self.turns = row.turns
        self.totals = row.totals
        self.window = Window(id_)
        self.timer_ms = 0
        """When to look at retention and at the window next, as it is scheduled; 0: it is not."""
        self.sent_rate, self.delivered_rate, self.acknowledged_rate = Rate(), Rate(), Rate()
        self.counts = [0] * STATES
        """Messages by state."""
        self.clear()

    def clear(self) -> None:
        """It has no messages, but for those that are on their way elsewhere."""
        moving = self.counts[MOVING]
        self.counts = [0] * STATES
        self.counts[MOVING] = moving
        self.units = 0
        self.ready: list[Numbers | None] = [None] * (PRIORITY_MAX + 1)
        """WAITING, by priority, in order of availability."""
        self.order = Numbers()
        """All that are subject to retention, in the order in which they were sent."""
        self.dead = Numbers()
        """DEAD, in the order in which they died."""
        self.keys: dict[int, int] = {}
        """Where ordered: a key's hash -> the last message of that key."""
        self.origins: dict[str, Numbers] = {}
        """Of messages that died elsewhere: by the queue they died in."""

    @property
    def row(self) -> QueueRow:
        return QueueRow(self.name, self.config, self.created_ms, self.purged, self.last_number, self.turns, self.totals)

    @property
    def depth(self) -> int:
        """Messages that are neither consumed nor dead."""
        counts = self.counts
        return counts[WAITING] + counts[DELAYED] + counts[BLOCKED] + counts[LOCKED]

    def make_ready(self, number: int, priority: int) -> None:
        numbers = self.ready[priority]
        if numbers is None:
            numbers = self.ready[priority] = Numbers()
        numbers.append(number)

    def came_from(self, origin: str, number: int) -> None:
        numbers = self.origins.get(origin)
        if numbers is None:
            numbers = self.origins[origin] = Numbers()
        numbers.append(number)

    def ready_numbers(self) -> Iterator[int]:
        """In the order of delivery; some may be stale."""
        return (number for numbers in reversed(self.ready) if numbers is not None for number in numbers)


def topic_of(name: str) -> str:
    """What is touched when a message of the queue becomes available."""
    return f"queue/{name}"


def watch_of(number: int) -> str:
    """What is touched when the fate of a watched message changes."""
    return f"message/{number}"


OUTBOX_TOPIC = "outbox"
"""What is touched when a parcel is put into the outbox."""


def queue_key(id_: int) -> bytes:
    return _KEY.pack(b"qQ", id_)


def queue_id(key: bytes) -> int:
    return int(_KEY.unpack(key)[1])
