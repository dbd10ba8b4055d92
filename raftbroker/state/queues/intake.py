"""Messages that come into a queue: sent, or taken from another shard."""

from collections.abc import Callable
from typing import Protocol

from raftbroker.state.queues import ops
from raftbroker.state.queues.book import MESSAGES_MAX, ROWS_BYTES_MAX, Book
from raftbroker.state.queues.config import QueueConfig
from raftbroker.state.queues.dedup import IDS_MAX, Brought
from raftbroker.state.queues.messages import GONE, UNIT, Keyed, Message, More
from raftbroker.state.queues.ops import Arrival, Draft, Refusal, SendMessages, Sent, TakeMessages, Taken
from raftbroker.state.queues.outbox import encode_mark, mark_key
from raftbroker.state.queues.queue import Queue
from raftbroker.state.shard import Change


class MakeQueue(Protocol):
    def __call__(self, name: str, config: QueueConfig, change: Change) -> Queue | Refusal: ...


class Intake:
    def __init__(self, book: Book, make_queue: MakeQueue, schedule: Callable[[Queue], None]) -> None:
        self._book = book
        self._make_queue = make_queue
        self._schedule = schedule

    # --- sent -----------------------------------------------------------------------------------------------

    def send(self, op: SendMessages, change: Change) -> Sent | Refusal:
        segments = self._book.segments
        segments.took(change.payloads, sum(draft.size for draft in op.messages), change)
        outcome = self._send(op, change)
        if change.payloads:
            segments.close_up_to(change.payloads[-1], change)
        return outcome

    def _send(self, op: SendMessages, change: Change) -> Sent | Refusal:
        queue = self._book.queues.get(op.name)
        if queue is None:
            return no_queue(op.name)
        before = queue.window.request(op.request) if op.request else None
        if before is not None:
            if before.fingerprint != op.fingerprint:
                return Refusal(
                    ops.CONFLICT, "this idempotency key was used with other messages: take a new one for them"
                )
            return Sent(before.numbers, tuple(range(len(before.numbers))))
        refusal = self._refusal(queue, op)
        if refusal is not None:
            return refusal
        numbers: list[int] = []
        duplicates: list[int] = []
        ids: dict[bytes, int] = {}
        for position, (draft, number) in enumerate(zip(op.messages, change.payloads, strict=True)):
            earlier = (ids.get(draft.dedup) or queue.window.number_of(draft.dedup)) if draft.dedup else None
            if earlier is not None:
                duplicates.append(position)
                numbers.append(earlier)
                continue
            if draft.dedup:
                ids[draft.dedup] = number
            numbers.append(number)
            self._add(queue, draft, number, change)
        self._remember(queue, op, ids, numbers, change)
        queue.totals.sent += len(numbers) - len(duplicates)
        queue.sent_rate.add(change.time_ms, len(numbers) - len(duplicates))
        self._book.put_queue(queue, change)
        self._schedule(queue)
        return Sent(tuple(numbers), tuple(duplicates))

    def _refusal(self, queue: Queue, op: SendMessages) -> Refusal | None:
        if self._book.full:
            return full(queue.name)
        if self._book.dedup_count + len(op.messages) > IDS_MAX and (op.request or any(d.dedup for d in op.messages)):
            return Refusal(
                ops.FULL,
                f"the shard of {queue.name} remembers {IDS_MAX} dedup ids, as many as it may: try again when some have "
                "passed their window, or shorten dedup.window.ms",
            )
        retention_ms = queue.config.retention_ms
        if retention_ms >= 0 and any(draft.delay_ms >= retention_ms for draft in op.messages if draft.delay_ms):
            return Refusal(
                ops.INVALID, f"must be less than the queue's retention.ms, which is {retention_ms}", "delay_ms"
            )
        return None

    def _add(self, queue: Queue, draft: Draft, number: int, change: Change) -> None:
        ttl_ms = change.time_ms + draft.ttl_ms if draft.ttl_ms else 0
        more = More(ttl_ms=ttl_ms, receipt=draft.receipt) if ttl_ms or draft.receipt else None
        message = _message(queue, number, draft, more, change.time_ms)
        self._book.add(queue, message, draft.delay_ms, change)

    def _remember(
        self, queue: Queue, op: SendMessages, ids: dict[bytes, int], numbers: list[int], change: Change
    ) -> None:
        if ids or op.request:
            asked = (op.request, op.fingerprint, tuple(numbers)) if op.request else ()
            brought = Brought(change.time_ms, tuple(ids.items()), *asked)
            self._book.dedup_count += queue.window.add(self._book.sequence(change), brought, change)

    # --- from another shard ---------------------------------------------------------------------------------

    def take(self, op: TakeMessages, change: Change) -> Taken:
        segments = self._book.segments
        segments.took(change.payloads, sum(arrival.size for arrival in op.arrivals), change)
        outcome = self._take(op, change)
        if change.payloads:
            segments.close_up_to(change.payloads[-1], change)
        return outcome

    def _take(self, op: TakeMessages, change: Change) -> Taken:
        book = self._book
        queue: Queue | Refusal | None = book.queues.get(op.name)
        if queue is None:
            queue = self._make_queue(op.name, QueueConfig(), change)
        if isinstance(queue, Refusal):
            return Taken((), queue)
        taken = book.marks.get((queue.id, op.source), 0)
        numbers: list[int] = []
        refusal: Refusal | None = None
        for arrival, number in zip(op.arrivals, change.payloads, strict=True):
            if arrival.sequence <= taken:
                numbers.append(0)
                continue
            if book.full:
                refusal = full(queue.name)
                break
            numbers.append(number)
            taken = arrival.sequence
            more = More(receipt=arrival.receipt, origin=arrival.origin) if arrival.receipt or arrival.origin else None
            book.add(queue, _message(queue, number, arrival, more, change.time_ms), 0, change)
        if any(numbers):
            book.marks[queue.id, op.source] = taken
            change.put(mark_key(queue.id, op.source), encode_mark(taken))
            count = sum(map(bool, numbers))
            queue.totals.sent += count
            queue.sent_rate.add(change.time_ms, count)
            book.put_queue(queue, change)
            self._schedule(queue)
        return Taken(tuple(numbers), refusal)


def _message(queue: Queue, number: int, draft: Draft | Arrival, more: More | None, now: int) -> Message:
    """Not yet in any state."""
    keyed = Keyed(draft.key) if draft.key and queue.config.ordered_by_key else None
    units = -(-draft.size // UNIT)
    return Message(number, queue.id, GONE, draft.priority, 0, units, now, 0, 0, None, more, keyed)


def no_queue(name: str) -> Refusal:
    return Refusal(ops.UNKNOWN_QUEUE, f"there is no queue {name!r}: PUT /queues/{name} makes it", "queue")


def full(name: str) -> Refusal:
    return Refusal(
        ops.FULL,
        f"the shard of {name} is full: it holds {MESSAGES_MAX:,} messages, or {ROWS_BYTES_MAX >> 20} MiB of what there "
        "is to know of them; nothing was taken: try again when some have been consumed",
    )
