"""What consumers do: receive, acknowledge, release, reject, extend; and dead messages brought back."""

from raftbroker.state.queues import ops
from raftbroker.state.queues.book import DETAILS_BYTES_MAX, Book
from raftbroker.state.queues.fates import CONSUMED, MOVED, REDRIVEN
from raftbroker.state.queues.intake import no_queue
from raftbroker.state.queues.messages import (
    CONSUMER_CHARACTERS_MAX,
    DEAD,
    GONE,
    LOCKED,
    MOVING,
    REJECTED,
    RELEASED,
    UNIT,
    WAITING,
    Lock,
    Message,
)
from raftbroker.state.queues.numbers import Numbers
from raftbroker.state.queues.ops import (
    LOST,
    OK,
    REPEATED,
    Acknowledge,
    Counted,
    Done,
    Extend,
    Held,
    Received,
    ReceiveMessages,
    Redrive,
    Refusal,
    Reject,
    Release,
    SendBack,
    Settled,
    Shipped,
    Token,
)
from raftbroker.state.queues.outbox import MOVE, QUEUE_PREFIX, RECEIPT
from raftbroker.state.queues.outbox import REDRIVE as REDRIVE_PARCEL
from raftbroker.state.queues.queue import Queue
from raftbroker.state.shard import Change

LOCKS_BYTES_MAX = DETAILS_BYTES_MAX + (64 << 20)
"""Of all rows; beyond, nothing more is locked."""
PASSED_MAX = 1000
"""Messages that one op may look at beyond those it is for."""


class Deliveries:
    def __init__(self, book: Book) -> None:
        self._book = book

    # --- receive --------------------------------------------------------------------------------------------

    def receive(self, op: ReceiveMessages, change: Change) -> Received | Refusal:
        book, queue = self._book, self._book.queues.get(op.name)
        if queue is None:
            return no_queue(op.name)
        if book.row_bytes > LOCKS_BYTES_MAX:
            return Refusal(ops.FULL, f"too many messages are held in the shard of {op.name}: acknowledge some first")
        until_ms = change.time_ms + (op.lock_ms or queue.config.lock_ms)
        lock = Lock(op.consumer[:CONSUMER_CHARACTERS_MAX], op.nonce, change.time_ms, until_ms)
        held: list[Held] = []
        units_left, passed = op.bytes_max // UNIT, PASSED_MAX
        while len(held) < op.messages_max and passed:
            found = self._next(queue)
            if found is None:
                break
            message, numbers = found
            if 0 < message.due_ms <= change.time_ms:  # its time to live has ended; `advance` has not come to it yet
                book.expire(queue, message, change)
                passed -= 1
                continue
            if held and message.units > units_left:
                break
            units_left -= message.units
            numbers.drop_first()
            book.lock(queue, message, lock, change)
            held.append(Held(message.number, message.deliveries, message.sent_ms))
        if held or passed < PASSED_MAX:
            queue.totals.delivered += len(held)
            queue.delivered_rate.add(change.time_ms, len(held))
            book.put_queue(queue, change)
        return Received(tuple(held), until_ms)

    def _next(self, queue: Queue) -> tuple[Message, Numbers] | None:
        """The message to deliver next, and the numbers it is the first of."""
        for numbers in reversed(queue.ready):
            while numbers is not None and (number := numbers.first()) is not None:
                message = self._book.find(queue, number)
                if message is not None and message.state == WAITING:
                    return message, numbers
                numbers.drop_first()
        return None

    # --- settle ---------------------------------------------------------------------------------------------

    def _held(self, queue: Queue, token: Token) -> Message | None:
        """The message that the token's lock holds."""
        message = self._book.find(queue, token.number)
        if message is None or message.state != LOCKED or message.deliveries != token.delivery:
            return None
        assert message.lock is not None
        return message if message.lock.nonce == token.nonce else None

    def acknowledge(self, op: Acknowledge, change: Change) -> Settled | Refusal:
        queue = self._book.queues.get(op.name)
        if queue is None:
            return no_queue(op.name)
        words = [self._acknowledge(queue, token, change) for token in op.tokens]
        queue.acknowledged_rate.add(change.time_ms, words.count(OK))
        return self._settled(queue, words, change)

    def _acknowledge(self, queue: Queue, token: Token, change: Change) -> int:
        message = self._held(queue, token)
        if message is not None:
            self._book.acknowledge(queue, message, change)
            return OK
        fate = self._book.fate(queue, token.number)
        same = fate is not None and (fate.kind, fate.deliveries, fate.nonce) == (CONSUMED, token.delivery, token.nonce)
        return REPEATED if same else LOST

    def release(self, op: Release, change: Change) -> Settled | Refusal:
        queue = self._book.queues.get(op.name)
        if queue is None:
            return no_queue(op.name)
        words: list[int] = []
        for token in op.tokens:
            message = self._held(queue, token)
            if message is not None:
                self._book.give_back(queue, message, RELEASED, op.delay_ms, change)
            words.append(OK if message is not None else self._ended_before(queue, token, RELEASED))
        return self._settled(queue, words, change)

    def reject(self, op: Reject, change: Change) -> Settled | Refusal:
        queue = self._book.queues.get(op.name)
        if queue is None:
            return no_queue(op.name)
        words: list[int] = []
        for token in op.tokens:
            message = self._held(queue, token)
            if message is not None:
                self._book.reject(queue, message, REJECTED, op.reason or "rejected", change)
            words.append(OK if message is not None else self._ended_before(queue, token, REJECTED))
        return self._settled(queue, words, change)

    def _ended_before(self, queue: Queue, token: Token, end: int) -> int:
        """Whether this very delivery had ended so already."""
        message = self._book.find(queue, token.number)
        if message is not None:
            history = message.extra.history
            same = bool(history) and (history[-1].nonce, history[-1].end) == (token.nonce, end)
            return REPEATED if same and message.state != LOCKED else LOST
        fate = self._book.fate(queue, token.number)
        same = fate is not None and (fate.kind, fate.deliveries, fate.nonce) == (MOVED, token.delivery, token.nonce)
        return REPEATED if same else LOST

    def extend(self, op: Extend, change: Change) -> Settled | Refusal:
        queue = self._book.queues.get(op.name)
        if queue is None:
            return no_queue(op.name)
        until_ms = change.time_ms + (op.lock_ms or queue.config.lock_ms)
        words: list[int] = []
        untils: list[int] = []
        for token in op.tokens:
            message = self._held(queue, token)
            words.append(OK if message is not None else LOST)
            untils.append(self._book.extend(message, until_ms, change) if message is not None else 0)
        return Settled(tuple(words), tuple(untils))

    def _settled(self, queue: Queue, words: list[int], change: Change) -> Settled:
        if OK in words:
            self._book.put_queue(queue, change)
            self._book.tidy(queue)
        return Settled(tuple(words))

    # --- dead ones brought back -----------------------------------------------------------------------------

    def redrive(self, op: Redrive, change: Change) -> Counted | Refusal:
        book, queue = self._book, self._book.queues.get(op.name)
        if queue is None:
            return no_queue(op.name)
        count = 0
        while count < op.messages_max and (number := queue.dead.first()) is not None:
            queue.dead.drop_first()
            message = book.find(queue, number)
            if message is not None and message.state == DEAD:
                book.redrive(queue, message, change)
                count += 1
        if count:
            queue.totals.redriven += count
            book.put_queue(queue, change)
        return Counted(count, queue.counts[DEAD])

    def send_back(self, op: SendBack, change: Change) -> Counted | Refusal:
        book, queue = self._book, self._book.queues.get(op.name)
        if queue is None:
            return no_queue(op.name)
        numbers = queue.origins.get(op.to)
        if numbers is None:
            return Counted(0)
        stay: list[int] = []
        count = 0
        while count < op.messages_max and len(stay) < PASSED_MAX and (number := numbers.first()) is not None:
            numbers.drop_first()
            message = book.find(queue, number)
            if message is None or message.state in (GONE, MOVING):
                continue
            if message.state == WAITING:
                book.send_away(queue, message, REDRIVE_PARCEL, op.to, change)
                count += 1
            else:
                stay.append(number)
        numbers.put_back(stay)
        if not len(numbers):
            del queue.origins[op.to]
        if count:
            queue.totals.redriven += count
            book.put_queue(queue, change)
        return Counted(count, len(numbers) - len(stay))

    # --- what has arrived elsewhere -------------------------------------------------------------------------

    def shipped(self, op: Shipped, change: Change) -> Done:
        book = self._book
        for sequence, as_number in op.parcels:
            parcel = book.outbox.done(sequence, change)
            if parcel is None or parcel.kind == RECEIPT:
                continue
            message = book.segments.get(parcel.number)
            assert message is not None
            kind = MOVED if parcel.kind == MOVE else REDRIVEN
            to = parcel.to.removeprefix(QUEUE_PREFIX)
            book.finish(book.by_id.get(message.queue), message, kind, change, to=to, as_number=as_number)
        return Done()
