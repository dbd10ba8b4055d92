"""Looking at the queues: what is answered, from applied state. Changes nothing."""

from collections.abc import Iterator
from itertools import islice

import msgspec

from raftbroker.state.queues.book import Book
from raftbroker.state.queues.config import ConfigValue, shown
from raftbroker.state.queues.messages import (
    BLOCKED,
    DEAD,
    DELAYED,
    LOCKED,
    MOVING,
    NAMES,
    UNIT,
    WAITING,
    Delivery,
    Message,
)
from raftbroker.state.queues.queue import Queue, Totals

LOOKED_AT_MAX = 10_000
"""Numbers that one look may pass, stale ones included."""


class QueueView(msgspec.Struct, frozen=True, array_like=True):
    """A queue as of `time_ms`."""

    name: str
    configs: dict[str, ConfigValue]
    created_ms: int
    time_ms: int
    available: int
    delayed: int
    blocked: int
    """Wait for the message before them of their key."""
    locked: int
    dead: int
    """Kept aside in the queue, as it has no dead-letter queue."""
    moving: int
    """Dead, or to be brought back, and on their way to another queue."""
    size_bytes: int
    """Of the bodies, roughly."""
    oldest_ms: int
    """When the oldest message that is neither consumed nor dead was sent; 0 where there is none."""
    receipts: int
    """That wait to be delivered."""
    totals: Totals
    sent_per_second: float
    delivered_per_second: float
    acknowledged_per_second: float

    @property
    def depth(self) -> int:
        """Messages that are neither consumed nor dead."""
        return self.available + self.delayed + self.blocked + self.locked


class MessageView(msgspec.Struct, frozen=True, array_like=True):
    """A message that is in the queue."""

    number: int
    state: str
    """waiting, delayed, locked or dead"""
    priority: int
    sent_ms: int
    deliveries: int
    consumer: str
    """Who holds it."""
    until_ms: int
    """Until when it is held, or delayed; 0: neither."""
    origin: str
    """The queue it died in, where this is a dead-letter queue."""
    reason: str
    """Why it is dead."""
    history: tuple[Delivery, ...]
    """Deliveries that were not acknowledged."""


def view_queue(book: Book, queue: Queue, time_ms: int) -> QueueView:
    counts, oldest = queue.counts, book.first_in_order(queue)
    return QueueView(
        name=queue.name,
        configs=shown(queue.config),
        created_ms=queue.created_ms,
        time_ms=time_ms,
        available=counts[WAITING],
        delayed=counts[DELAYED],
        blocked=counts[BLOCKED],
        locked=counts[LOCKED],
        dead=counts[DEAD],
        moving=counts[MOVING],
        size_bytes=queue.units * UNIT,
        oldest_ms=oldest.sent_ms if oldest is not None else 0,
        receipts=book.outbox.receipts_of[queue.name],
        totals=msgspec.structs.replace(queue.totals),
        sent_per_second=queue.sent_rate.per_second(time_ms),
        delivered_per_second=queue.delivered_rate.per_second(time_ms),
        acknowledged_per_second=queue.acknowledged_rate.per_second(time_ms),
    )


def view_message(message: Message) -> MessageView:
    more, lock = message.extra, message.lock
    return MessageView(
        number=message.number,
        state=NAMES[message.state],
        priority=message.priority,
        sent_ms=message.sent_ms,
        deliveries=message.deliveries,
        consumer=lock.consumer if lock is not None else "",
        until_ms=message.due_ms if message.state in (LOCKED, DELAYED) else 0,
        origin=more.origin,
        reason=more.reason,
        history=more.history,
    )


def peek(book: Book, queue: Queue, count_max: int, *, dead: bool) -> list[MessageView]:
    """The messages that would be delivered next, or those that are dead, without taking them."""
    wanted = DEAD if dead else WAITING
    numbers = iter(queue.dead) if dead else queue.ready_numbers()
    return [view_message(message) for message in islice(_of_state(book, queue, numbers, wanted), count_max)]


def _of_state(book: Book, queue: Queue, numbers: Iterator[int], state: int) -> Iterator[Message]:
    for number in islice(numbers, LOOKED_AT_MAX):
        message = book.find(queue, number)
        if message is not None and message.state == state:
            yield message
