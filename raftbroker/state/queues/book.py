"""The messages of a shard's queues and how they pass from state to state; every step is written down in the change.

    WAITING -> LOCKED -> gone (consumed)        BLOCKED -> WAITING once the one before it of its key is gone or dead
    LOCKED -> WAITING | DELAYED                 released, or its lock ran out
    LOCKED -> DEAD | MOVING                     rejected, or delivered too often; MOVING to a dead-letter queue
    DEAD -> WAITING | BLOCKED                   redriven in its place
    WAITING -> MOVING                           sent back from a dead-letter queue
    WAITING | DELAYED | BLOCKED | DEAD -> gone  expired; from LOCKED it does so when it is given back

Invariants: a queue's counts are the numbers of its messages by state. A message is due at most once. Of a key's
messages in an ordered queue all but the first are BLOCKED. What is not in a row (orders, timers, neighbours) follows
from the rows, and no decision depends on how much of it is stale.
"""

from collections import Counter

import msgspec

from raftbroker.state.queues.dedup import Window
from raftbroker.state.queues.fates import CONSUMED, EXPIRED, MOVED, Fate, Fates
from raftbroker.state.queues.messages import (
    BLOCKED,
    DEAD,
    DELAYED,
    GONE,
    HISTORY_MAX,
    LOCK_ROW_BYTES,
    LOCKED,
    MESSAGE_ROW_BYTES,
    MOVING,
    NOTHING_MORE,
    RAN_OUT,
    REASON_CHARACTERS_MAX,
    WAITING,
    Delivery,
    Keyed,
    Lock,
    Message,
    More,
    encode_message,
    message_key,
    turn_after,
)
from raftbroker.state.queues.outbox import MOVE, QUEUE_PREFIX, RECEIPT, Outbox, Parcel
from raftbroker.state.queues.queue import OUTBOX_TOPIC, Queue, queue_key, watch_of
from raftbroker.state.queues.segments import Segments
from raftbroker.state.queues.timers import Timers
from raftbroker.state.shard import Change

MESSAGES_MAX = 2_000_000
ROWS_BYTES_MAX = 320 << 20
"""What the rows of messages and parcels may take in one shard: a snapshot of the group is at most 512 MiB."""
DETAILS_BYTES_MAX = 384 << 20
"""Beyond, histories and reasons are cut: they could else grow without a send."""
_SLACK = 1024
COUNTERS_KEY = b"qN"

_encode = msgspec.msgpack.Encoder().encode


class Counters(msgspec.Struct, array_like=True):
    next_queue: int = 1
    next_sequence: int = 1
    """Of rows that are kept in order: fates, the window's, parcels."""


class Book:
    def __init__(self) -> None:
        self.counters = Counters()
        self.queues: dict[str, Queue] = {}
        self.by_id: dict[int, Queue] = {}
        self.segments = Segments()
        self.timers = Timers(self.due_of)
        self.fates = Fates()
        self.outbox = Outbox()
        self.marks: dict[tuple[int, int], int] = {}
        """(queue id, source shard) -> the last sequence taken from there."""
        self.left_windows: dict[int, Window] = {}
        """Of queues that have been deleted: their rows go bit by bit."""
        self.dedup_count = 0
        self.watched: Counter[int] = Counter()
        """Messages whose fate someone waits for on this node; not part of what replicas agree on."""
        self._more_bytes = 0
        self._locked = 0

    # --- looking ------------------------------------------------------------------------------------------

    def due_of(self, number: int) -> int:
        message = self.segments.get(number)
        return message.due_ms if message is not None else 0

    def owner(self, message: Message) -> Queue | None:
        """The queue that still has it: None where the queue was deleted or purged since it was sent."""
        queue = self.by_id.get(message.queue)
        if queue is None or (message.number <= queue.purged and message.state != MOVING):
            return None
        return queue

    def find(self, queue: Queue, number: int) -> Message | None:
        """The queue's message of that number."""
        message = self.segments.get(number)
        return message if message is not None and self.owner(message) is queue else None

    def fate(self, queue: Queue, number: int) -> Fate | None:
        """Of a message that was in this queue and is gone, as long as it is kept."""
        fate = self.fates.get(number)
        return fate if fate is not None and fate.queue == queue.id else None

    @property
    def row_bytes(self) -> int:
        """About what rows take, at most."""
        messages = MESSAGE_ROW_BYTES * self.segments.count + LOCK_ROW_BYTES * self._locked
        return messages + self._more_bytes + self.outbox.bytes

    @property
    def full(self) -> bool:
        return self.segments.count + len(self.outbox) >= MESSAGES_MAX or self.row_bytes >= ROWS_BYTES_MAX

    # --- writing down ---------------------------------------------------------------------------------------

    def sequence(self, change: Change) -> int:
        sequence = self.counters.next_sequence
        self.counters.next_sequence = sequence + 1
        self.put_counters(change)
        return sequence

    def put_counters(self, change: Change) -> None:
        change.put(COUNTERS_KEY, _encode(self.counters))

    def put_queue(self, queue: Queue, change: Change) -> None:
        change.put(queue_key(queue.id), _encode(queue.row))

    def _put(self, message: Message, change: Change) -> None:
        change.put(message_key(message.number), encode_message(message))
        if message.number in self.watched:
            change.touched(watch_of(message.number))

    def _set_more(self, message: Message, more: More) -> None:
        before = message.more
        message.more = more if more != NOTHING_MORE else None
        self._counted(before, message.more)

    def _counted(self, before: More | None, after: More | None) -> None:
        self._more_bytes += (after.row_bytes if after else 0) - (before.row_bytes if before else 0)

    def _set_due(self, message: Message, due_ms: int) -> None:
        before = message.due_ms
        if due_ms != before:
            message.due_ms = due_ms
            self.timers.changed(message.number, before, due_ms)

    def _enter(self, queue: Queue, message: Message, state: int) -> None:
        """`Queue.counts` follow."""
        counts = queue.counts
        counts[message.state] -= 1
        counts[state] += 1
        self._locked += (state == LOCKED) - (message.state == LOCKED)
        message.state = state
        if state != LOCKED:
            message.lock = None

    def count_restored(self, message: Message) -> None:
        """It is among the segments again."""
        self._counted(None, message.more)
        self._locked += message.state == LOCKED
        if message.due_ms:
            self.timers.changed(message.number, 0, message.due_ms)

    # --- coming in ------------------------------------------------------------------------------------------

    def add(self, queue: Queue, message: Message, delay_ms: int, change: Change) -> None:
        """A message that is new in the queue, as GONE: it becomes what it is to be."""
        now = change.time_ms
        self.segments.put(message)
        self._counted(None, message.more)
        queue.counts[GONE] += 1
        queue.units += message.units
        queue.order.append(message.number)
        keyed = message.keyed
        if not queue.config.ordered_by_key:
            message.keyed = keyed = None
        previous = queue.keys.get(keyed.key) if keyed is not None else None
        if keyed is not None:
            queue.keys[keyed.key] = message.number
        if message.extra.origin:
            queue.came_from(message.extra.origin, message.number)
        if previous is not None:
            self._block(queue, message, previous)
            if delay_ms:
                more = msgspec.structs.replace(message.extra, not_before_ms=now + delay_ms)
                self._set_more(message, more)
        elif delay_ms:
            self._delay(queue, message, now + delay_ms)
        else:
            self._make_ready(queue, message, change)
        queue.last_number = message.number
        self._put(message, change)

    def _block(self, queue: Queue, message: Message, previous: int) -> None:
        """Behind the message `previous` of its key."""
        before, keyed = self.segments.get(previous), message.keyed
        assert before is not None
        assert before.keyed is not None
        assert keyed is not None
        before.keyed.next = message.number
        keyed.previous = previous
        self._enter(queue, message, BLOCKED)
        self._set_due(message, message.extra.ttl_ms)

    def _delay(self, queue: Queue, message: Message, until_ms: int) -> None:
        ttl_ms = message.extra.ttl_ms
        self._enter(queue, message, DELAYED)
        self._set_due(message, min(until_ms, ttl_ms) if ttl_ms else until_ms)

    def _make_ready(self, queue: Queue, message: Message, change: Change) -> None:
        self._enter(queue, message, WAITING)
        self._set_due(message, message.extra.ttl_ms)
        queue.make_ready(message.number, message.priority)
        change.touched(queue.topic)

    def _take_turn(self, queue: Queue, message: Message) -> None:
        """Its place is now behind all that is there."""
        queue.turns += 1
        message.turn = turn_after(queue.last_number, queue.turns)

    def _available_again(self, queue: Queue, message: Message, change: Change) -> None:
        self._take_turn(queue, message)
        self._make_ready(queue, message, change)
        self._put(message, change)

    # --- delivery -------------------------------------------------------------------------------------------

    def lock(self, queue: Queue, message: Message, lock: Lock, change: Change) -> None:
        message.deliveries += 1
        message.turn = 0
        self._enter(queue, message, LOCKED)
        message.lock = lock
        self._set_due(message, lock.until_ms)
        self._put(message, change)

    def extend(self, message: Message, until_ms: int, change: Change) -> int:
        """Until when it is held: never for less than before."""
        lock = message.lock
        assert lock is not None
        if until_ms > lock.until_ms:
            message.lock = msgspec.structs.replace(lock, until_ms=until_ms)
            self._set_due(message, until_ms)
            self._put(message, change)
        return max(until_ms, lock.until_ms)

    def give_back(self, queue: Queue, message: Message, end: int, delay_ms: int, change: Change) -> None:
        """The lock is over without an acknowledgement."""
        now = change.time_ms
        self._end_delivery(message, end, now)
        most = queue.config.deliveries_max
        if most and message.deliveries >= most:
            self.die(queue, message, f"delivered {message.deliveries} times without an acknowledgement", change)
        elif self._is_over(queue, message, now):
            self.finish(queue, message, EXPIRED, change)
        elif delay_ms:
            self._delay(queue, message, now + delay_ms)
            self._put(message, change)
        else:
            self._available_again(queue, message, change)

    def _is_over(self, queue: Queue, message: Message, now: int) -> bool:
        """Whether its time to live, or the queue's retention, has ended."""
        more, retention_ms = message.extra, queue.config.retention_ms
        if more.ttl_ms and more.ttl_ms <= now:
            return True
        return not more.timed and 0 <= retention_ms <= now - message.sent_ms

    def _end_delivery(self, message: Message, end: int, now: int) -> None:
        lock, more = message.lock, message.extra
        assert lock is not None
        kept = HISTORY_MAX if self.row_bytes < DETAILS_BYTES_MAX else 1
        ended = Delivery(lock.consumer, lock.nonce, lock.at_ms, now, end)
        self._set_more(message, msgspec.structs.replace(more, history=(*more.history[1 - kept :], ended)[-kept:]))

    def reject(self, queue: Queue, message: Message, end: int, reason: str, change: Change) -> None:
        self._end_delivery(message, end, change.time_ms)
        self.die(queue, message, reason, change)

    # --- the end --------------------------------------------------------------------------------------------

    def acknowledge(self, queue: Queue, message: Message, change: Change) -> None:
        queue.totals.acknowledged += 1
        self.finish(queue, message, CONSUMED, change)

    def die(self, queue: Queue, message: Message, reason: str, change: Change) -> None:
        """Its last delivery is in its history. It goes to the dead-letter queue, or stays aside."""
        now, more = change.time_ms, message.extra
        queue.totals.died += 1
        reason = reason[: REASON_CHARACTERS_MAX if self.row_bytes < DETAILS_BYTES_MAX else 40]
        to = queue.config.dead_letter_queue
        self._unlink(queue, message, change)
        if more.receipt:
            fate = self._fate(message, MOVED, now, reason=reason, to=to)
            self._receipt(queue, message, more.receipt, fate, change)
        self._set_more(message, msgspec.structs.replace(more, reason=reason, ttl_ms=0, timed=False))
        self._take_turn(queue, message)
        if to:
            self.send_away(queue, message, MOVE, to, change)
            return
        self._enter(queue, message, DEAD)
        retention_ms = queue.config.retention_ms
        self._set_due(message, now + retention_ms if retention_ms >= 0 else 0)
        queue.dead.append(message.number)
        self._put(message, change)

    def send_away(self, queue: Queue, message: Message, kind: int, to: str, change: Change) -> None:
        """Into the outbox, for the queue `to`."""
        if kind != MOVE:
            self._unlink(queue, message, change)
        self._enter(queue, message, MOVING)
        self._set_due(message, 0)
        queue.units -= message.units
        self._post(
            Parcel(self.sequence(change), kind, QUEUE_PREFIX + to, message.number, queue.name, change.time_ms), change
        )
        self._put(message, change)

    def _post(self, parcel: Parcel, change: Change) -> None:
        self.outbox.add(parcel, change)
        change.touched(OUTBOX_TOPIC)

    def _receipt(self, queue: Queue, message: Message, to: str, fate: Fate, change: Change) -> None:
        sequence = self.sequence(change)
        history = message.extra.history
        self._post(Parcel(sequence, RECEIPT, to, message.number, queue.name, change.time_ms, fate, history), change)

    def _fate(
        self, message: Message, kind: int, now: int, *, reason: str = "", to: str = "", as_number: int = 0
    ) -> Fate:
        lock, history = message.lock, message.extra.history
        last = history[-1] if history else None
        consumer = lock.consumer if lock else last.consumer if last else ""
        nonce = lock.nonce if lock else last.nonce if last else 0
        reason = reason or message.extra.reason
        return Fate(
            message.number, message.queue, kind, now, message.deliveries, nonce, consumer, reason, to, as_number
        )

    def finish(
        self,
        queue: Queue | None,
        message: Message,
        kind: int,
        change: Change,
        *,
        to: str = "",
        as_number: int = 0,
    ) -> None:
        """It goes, and its sender is told. `queue` is None where the queue that had it is gone."""
        fate = self._fate(message, kind, change.time_ms, to=to, as_number=as_number)
        self.fates.add(fate)
        if queue is not None:
            if message.state not in (DEAD, MOVING):
                self._unlink(queue, message, change)
                if message.extra.receipt:
                    self._receipt(queue, message, message.extra.receipt, fate, change)
            if message.state != MOVING:
                queue.units -= message.units
            queue.totals.expired += kind == EXPIRED
            queue.counts[message.state] -= 1
        self.drop(message, change)

    def expire(self, queue: Queue, message: Message, change: Change) -> None:
        self.finish(queue, message, EXPIRED, change)

    def drop(self, message: Message, change: Change) -> None:
        """It goes without a word; the counts of its queue are not touched."""
        self._locked -= message.state == LOCKED
        self._set_due(message, 0)
        message.state = GONE
        self._set_more(message, NOTHING_MORE)
        self.segments.remove(message, change)
        change.delete(message_key(message.number))
        if message.number in self.watched:
            change.touched(watch_of(message.number))

    def write_fates(self, change: Change) -> None:
        """Of what has ended in this op."""
        if self.fates.to_write:
            self.fates.write(self.sequence(change), change)

    # --- keys -----------------------------------------------------------------------------------------------

    def _unlink(self, queue: Queue, message: Message, change: Change) -> None:
        """The message leaves its key: the next one may go, if this was the first."""
        keyed = message.keyed
        if keyed is None or not queue.config.ordered_by_key:
            return
        previous, next_ = self._neighbour(keyed.previous), self._neighbour(keyed.next)
        if previous is not None:
            previous[1].next = keyed.next
        if next_ is not None:
            next_[1].previous = keyed.previous
            if previous is None:
                self._unblock(queue, next_[0], change)
        elif previous is not None:
            queue.keys[keyed.key] = keyed.previous
        else:
            del queue.keys[keyed.key]
        keyed.previous = keyed.next = 0

    def _neighbour(self, number: int) -> tuple[Message, Keyed] | None:
        if not number:
            return None
        message = self.segments.get(number)
        assert message is not None
        assert message.keyed is not None
        return message, message.keyed

    def _unblock(self, queue: Queue, message: Message, change: Change) -> None:
        until_ms = message.extra.not_before_ms
        if until_ms:
            self._set_more(message, msgspec.structs.replace(message.extra, not_before_ms=0))
        if until_ms > change.time_ms:
            self._delay(queue, message, until_ms)
            self._put(message, change)
        else:
            self._available_again(queue, message, change)

    def redrive(self, queue: Queue, message: Message, change: Change) -> None:
        """A DEAD one becomes available as if it were new, but for its id and its history."""
        retention_ms = queue.config.retention_ms
        ttl_ms = change.time_ms + retention_ms if retention_ms >= 0 else 0
        self._set_more(message, msgspec.structs.replace(message.extra, reason="", ttl_ms=ttl_ms, timed=True))
        message.deliveries = 0
        keyed = message.keyed
        previous = queue.keys.get(keyed.key) if keyed is not None else None
        if keyed is not None:
            queue.keys[keyed.key] = message.number
        self._take_turn(queue, message)
        if previous is not None:
            self._block(queue, message, previous)
        else:
            self._make_ready(queue, message, change)
        self._put(message, change)

    # --- what comes up by itself ------------------------------------------------------------------------------

    def now_due(self, queue: Queue, message: Message, change: Change) -> None:
        """Its time has come: the lock ran out, the delay is over, or its time to live."""
        if message.state == LOCKED:
            self.give_back(queue, message, RAN_OUT, 0, change)
        elif message.state == DELAYED and not 0 < message.extra.ttl_ms <= change.time_ms:
            self._available_again(queue, message, change)
        else:
            self.finish(queue, message, EXPIRED, change)

    def first_in_order(self, queue: Queue) -> Message | None:
        """The oldest message that retention looks at."""
        while (number := queue.order.first()) is not None:
            if self._in_order(queue, number):
                return self.segments.get(number)
            queue.order.drop_first()
        return None

    def retire(self, queue: Queue, message: Message, change: Change) -> None:
        """The first in order is past the queue's retention. One that is held ends when it is given back."""
        queue.order.drop_first()
        if message.state == LOCKED:
            self._set_more(message, msgspec.structs.replace(message.extra, ttl_ms=change.time_ms, timed=True))
            self._put(message, change)
        else:
            self.finish(queue, message, EXPIRED, change)

    def tidy(self, queue: Queue) -> None:
        """Drops stale numbers from the queue's orders where they are more than the others."""
        if len(queue.order) > 2 * queue.depth + _SLACK:
            queue.order.keep(lambda number: self._in_order(queue, number))
        if len(queue.dead) > 2 * queue.counts[DEAD] + _SLACK:
            queue.dead.keep(lambda number: self._is(queue, number, DEAD))
        for numbers in queue.ready:
            if numbers is not None and len(numbers) > 2 * queue.counts[WAITING] + _SLACK:
                numbers.keep(lambda number: self._is(queue, number, WAITING))

    def _is(self, queue: Queue, number: int, state: int) -> bool:
        message = self.find(queue, number)
        return message is not None and message.state == state

    def _in_order(self, queue: Queue, number: int) -> bool:
        message = self.find(queue, number)
        return message is not None and message.state not in (DEAD, MOVING) and not message.extra.timed
