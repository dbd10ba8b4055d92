"""The queues of a shard as its part: each op decided, what is due carried out, the rows restored.

Payload numbers of the shard are all the queues': no other part may bring payloads, for whole ranges of them are let go.
"""

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

from raftbroker.state.errors import InvalidConfig
from raftbroker.state.queues import ops as asked
from raftbroker.state.queues.book import Book
from raftbroker.state.queues.config import QueueConfig, changed
from raftbroker.state.queues.delivery import Deliveries
from raftbroker.state.queues.graves import Graves
from raftbroker.state.queues.intake import Intake, no_queue
from raftbroker.state.queues.messages import DEAD
from raftbroker.state.queues.ops import Counted, Refusal
from raftbroker.state.queues.outbox import mark_key
from raftbroker.state.queues.queue import Queue, QueueRow, Totals, queue_key
from raftbroker.state.queues.restoring import all_rows, restore
from raftbroker.state.shard import Change, Query

QUEUES_MAX = 2_500
"""In one shard."""
EVENTS_PER_ENTRY = 1000
"""How many time-outs one entry carries out; the rest with the next."""
_QUEUE_SHIFT = 32
_QUEUE_MASK = (1 << _QUEUE_SHIFT) - 1


class QueuesPart:
    """A `shard.Part`."""

    ops = asked.OPS
    queries: tuple[type[Query[Any]], ...] = ()
    kinds = b"q"

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self.book = Book()
        self._graves = Graves(self.book)
        self._timers: list[int] = []
        """When to look at which queue: a heap of times and queue ids."""
        self._intake = Intake(self.book, self._make_queue, self._schedule)
        self._deliveries = Deliveries(self.book)
        self._apply: dict[type, Callable[[Any, Change], Any]] = {
            asked.PutQueue: self._put_queue,
            asked.DeleteQueue: self._delete_queue,
            asked.PurgeQueue: self._purge_queue,
            asked.SendMessages: self._intake.send,
            asked.TakeMessages: self._intake.take,
            asked.ReceiveMessages: self._deliveries.receive,
            asked.Acknowledge: self._deliveries.acknowledge,
            asked.Release: self._deliveries.release,
            asked.Reject: self._deliveries.reject,
            asked.Extend: self._deliveries.extend,
            asked.Redrive: self._deliveries.redrive,
            asked.SendBack: self._deliveries.send_back,
            asked.Shipped: self._deliveries.shipped,
        }

    # --- shard.Part ---------------------------------------------------------------------------------------

    def restore(self, rows: dict[bytes, bytes]) -> None:
        self._reset()
        restore(self.book, self._graves, rows)
        for queue in self.book.by_id.values():
            self._schedule(queue)

    def rows(self) -> dict[bytes, bytes]:
        return all_rows(self.book, self._graves)

    def apply(self, op: Any, change: Change) -> Any:
        outcome = self._apply[type(op)](op, change)
        self.book.write_fates(change)
        return outcome

    def query(self, query: Any) -> Any:
        raise LookupError("the queues are looked at where they are led, with the time there: see `views`")

    def payload_ranges(self) -> list[tuple[int, int]]:
        return self.book.segments.payload_ranges()

    # --- time ---------------------------------------------------------------------------------------------

    def next_deadline(self) -> int | None:
        book = self.book
        if self._graves or book.left_windows:
            return 0
        queues = self._timers[0] >> _QUEUE_SHIFT if self._timers else None
        found = (
            book.timers.next_due(),
            queues,
            book.fates.next_due(),
            book.outbox.next_due(),
            book.segments.next_due(),
        )
        return min((due for due in found if due is not None), default=None)

    def advance(self, change: Change) -> None:
        book, left = self.book, EVENTS_PER_ENTRY
        looked_at: dict[int, Queue] = {}
        while left and (number := book.timers.pop_due(change.time_ms)) is not None:
            message = book.segments.get(number)
            queue = book.owner(message) if message is not None else None
            if message is not None and queue is not None:
                book.now_due(queue, message, change)
                looked_at[queue.id] = queue
                left -= 1
        left = self._look_at_queues(change, left, looked_at)
        book.write_fates(change)
        for queue in looked_at.values():
            book.put_queue(queue, change)
            book.tidy(queue)
        book.fates.expire(change, EVENTS_PER_ENTRY)
        self._graves.clear_some(change)
        self._clear_windows(change)
        for name in book.outbox.expire(change, EVENTS_PER_ENTRY):
            losing = book.queues.get(name)
            if losing is not None:
                losing.totals.receipts_lost += 1
                book.put_queue(losing, change)
        book.segments.release(change)

    def _look_at_queues(self, change: Change, left: int, looked_at: dict[int, Queue]) -> int:
        """Retention and windows of the queues whose time has come; how many events are left."""
        now = change.time_ms
        while left and self._timers and self._timers[0] >> _QUEUE_SHIFT <= now:
            timer = heappop(self._timers)
            queue = self.book.by_id.get(timer & _QUEUE_MASK)
            if queue is None or queue.timer_ms != timer >> _QUEUE_SHIFT:
                continue
            queue.timer_ms = 0
            left = self._retire(queue, change, left, looked_at)
            window_ms = queue.config.dedup_window_ms
            while left and (due := queue.window.next_due(window_ms)) is not None and due <= now:
                self.book.dedup_count -= queue.window.expire(change)
                left -= 1
            self._schedule(queue)
        return left

    def _retire(self, queue: Queue, change: Change, left: int, looked_at: dict[int, Queue]) -> int:
        retention_ms = queue.config.retention_ms
        while left and retention_ms >= 0:
            oldest = self.book.first_in_order(queue)
            if oldest is None or oldest.sent_ms + retention_ms > change.time_ms:
                break
            self.book.retire(queue, oldest, change)
            looked_at[queue.id] = queue
            left -= 1
        return left

    def _schedule(self, queue: Queue) -> None:
        """When to look at its retention and its window: perhaps too early, never too late."""
        retention_ms, oldest = queue.config.retention_ms, self.book.first_in_order(queue)
        due = queue.window.next_due(queue.config.dedup_window_ms)
        if oldest is not None and retention_ms >= 0:
            ends_ms = oldest.sent_ms + retention_ms
            due = ends_ms if due is None else min(due, ends_ms)
        if due is not None and (queue.timer_ms == 0 or due < queue.timer_ms):
            queue.timer_ms = due
            heappush(self._timers, due << _QUEUE_SHIFT | queue.id)

    def _clear_windows(self, change: Change) -> None:
        windows = self.book.left_windows
        if windows:
            first = min(windows)
            for _ in range(EVENTS_PER_ENTRY):
                if windows[first].next_due(0) is None:
                    del windows[first]
                    return
                self.book.dedup_count -= windows[first].expire(change)

    # --- queues -------------------------------------------------------------------------------------------

    def _make_queue(self, name: str, config: QueueConfig, change: Change) -> Queue | Refusal:
        book = self.book
        if len(book.queues) >= QUEUES_MAX:
            return Refusal(asked.FULL, f"{name} was not made: its shard has {QUEUES_MAX} queues; delete some first")
        id_ = book.counters.next_queue
        book.counters.next_queue = id_ + 1
        book.put_counters(change)
        queue = Queue(id_, QueueRow(name, config, change.time_ms, 0, 0, 0, Totals()))
        book.queues[name] = book.by_id[id_] = queue
        book.put_queue(queue, change)
        return queue

    def _put_queue(self, op: asked.PutQueue, change: Change) -> asked.QueuePut | Refusal:
        book, queue = self.book, self.book.queues.get(op.name)
        before = queue.config if queue is not None else QueueConfig()
        try:
            config = changed(before, op.changes, op.name)
        except InvalidConfig as error:
            return Refusal(asked.INVALID_CONFIG, error.reason, error.name)
        if queue is None:
            made = self._make_queue(op.name, config, change)
            if isinstance(made, Refusal):
                return made
        elif config != before:
            if config.ordered_by_key != before.ordered_by_key and any(queue.counts):
                reason = f"{op.name} has messages: purge it first, or make another queue"
                return Refusal(asked.ILLEGAL, f"ordered.by.key cannot be changed while {reason}", "ordered.by.key")
            queue.config = config
            book.put_queue(queue, change)
            self._schedule(queue)
        return asked.QueuePut(queue is None)

    def _purge_queue(self, op: asked.PurgeQueue, change: Change) -> Counted | Refusal:
        queue = self.book.queues.get(op.name)
        if queue is None:
            return no_queue(op.name)
        count = queue.depth + queue.counts[DEAD]
        if count:
            queue.purged = queue.last_number
            queue.totals.purged += count
            queue.clear()
            self._graves.dig(queue.id, queue.purged, change)
            self.book.put_queue(queue, change)
        return Counted(count)

    def _delete_queue(self, op: asked.DeleteQueue, change: Change) -> Counted | Refusal:
        book, queue = self.book, self.book.queues.get(op.name)
        if queue is None:
            return no_queue(op.name)
        del book.queues[queue.name], book.by_id[queue.id]
        change.delete(queue_key(queue.id))
        for mark in [mark for mark in book.marks if mark[0] == queue.id]:
            del book.marks[mark]
            change.delete(mark_key(*mark))
        if queue.window.next_due(0) is not None:
            book.left_windows[queue.id] = queue.window
        self._graves.dig(queue.id, queue.last_number, change)
        change.touched(queue.topic)
        return Counted(queue.depth + queue.counts[DEAD])
