"""A shard's queues from their rows, and all rows of them: what is not in a row is worked out anew here.

Orders that are kept by arrival come back sorted by what a row says of its place, which is the same order.
"""

from collections.abc import Iterator
from operator import attrgetter

import msgspec

from raftbroker.state.queues import dedup, outbox
from raftbroker.state.queues.book import COUNTERS_KEY, Book, Counters
from raftbroker.state.queues.graves import Graves
from raftbroker.state.queues.messages import (
    BLOCKED,
    DEAD,
    MOVING,
    WAITING,
    Message,
    decode_message,
    encode_message,
    is_plain,
    message_key,
)
from raftbroker.state.queues.numbers import Numbers
from raftbroker.state.queues.queue import Queue, QueueRow, queue_id, queue_key
from raftbroker.state.queues.segments import SHIFT

_encode = msgspec.msgpack.Encoder().encode
_decode_queue = msgspec.msgpack.Decoder(QueueRow).decode
_decode_counters = msgspec.msgpack.Decoder(Counters).decode
_KINDS = (b"qD", b"qF", b"qG", b"qK", b"qM", b"qN", b"qP", b"qQ", b"qX")
_place = attrgetter("place")


def restore(book: Book, graves: Graves, rows: dict[bytes, bytes]) -> None:
    """Into an empty book. `rows` are in byte order of their keys."""
    kinds: dict[bytes, dict[bytes, bytes]] = {kind: {} for kind in _KINDS}
    for key, value in rows.items():
        kinds[key[:2]][key] = value
    if kinds[b"qN"]:
        book.counters = _decode_counters(kinds[b"qN"][COUNTERS_KEY])
    for key, value in kinds[b"qQ"].items():
        queue = Queue(queue_id(key), _decode_queue(value))
        book.queues[queue.name] = book.by_id[queue.id] = queue
    for key, value in kinds[b"qD"].items():
        id_, sequence = dedup.queue_and_sequence(key)
        owner = book.by_id.get(id_)
        window = owner.window if owner is not None else book.left_windows.setdefault(id_, dedup.Window(id_))
        book.dedup_count += window.restore(sequence, value)
    for key, value in kinds[b"qK"].items():
        book.marks[outbox.split_mark_key(key)] = outbox.decode_mark(value)
    book.fates.restore(kinds[b"qF"])
    book.outbox.restore(kinds[b"qP"])
    book.segments.restore(kinds[b"qG"])
    graves.restore(kinds[b"qX"])
    _restore_messages(book, kinds[b"qM"])


class _Gathered:
    """What is found of one queue while its messages come by, in ascending order of their numbers."""

    __slots__ = ("fresh", "order", "placed", "queue")

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.fresh: list[list[int]] = [[] for _ in queue.ready]
        """WAITING in the order in which they were sent, by priority."""
        self.order: list[int] = []
        self.placed: list[Message] = []
        """Those whose order is that of their places."""


def _restore_messages(book: Book, rows: dict[bytes, bytes]) -> None:
    """A million plain messages take some seconds: they have the short way."""
    gathered = {id_: _Gathered(queue) for id_, queue in book.by_id.items()}
    table: dict[int, Message] = {}
    segment, sent_ms, lock = -1, 0, None
    for key, value in rows.items():
        number = int.from_bytes(key[2:], "big")
        message = decode_message(number, value)
        if message.sent_ms == sent_ms:
            message.sent_ms = sent_ms  # one object for all of an entry
        sent_ms = message.sent_ms
        if number >> SHIFT != segment:
            segment = number >> SHIFT
            table = book.segments.table(segment)
        table[number] = message
        into = gathered.get(message.queue)
        if into is not None and is_plain(message) and number > into.queue.purged:
            into.fresh[message.priority].append(number)
            into.order.append(number)
            into.queue.units += message.units
            continue
        if message.lock is not None and message.lock == lock:
            message.lock = lock
        lock = message.lock
        book.count_restored(message)
        if book.owner(message) is not None:
            _gather(gathered[message.queue], message)
    book.segments.count = len(rows)
    for into in gathered.values():
        _restore_orders(into, book)


def _gather(into: _Gathered, message: Message) -> None:
    queue, state = into.queue, message.state
    queue.counts[state] += 1
    if state != MOVING:
        queue.units += message.units
        if message.extra.origin:
            queue.came_from(message.extra.origin, message.number)
    if state not in (DEAD, MOVING) and not message.extra.timed:
        into.order.append(message.number)
    if state in (WAITING, DEAD, BLOCKED) or (message.keyed is not None and state != MOVING):
        into.placed.append(message)


def _restore_orders(into: _Gathered, book: Book) -> None:
    queue, placed = into.queue, sorted(into.placed, key=_place)
    queue.order = Numbers(into.order)
    for priority, fresh in enumerate(into.fresh):
        queue.counts[WAITING] += len(fresh)
        again = [m.number for m in placed if m.state == WAITING and m.priority == priority]
        if again and fresh:
            fresh = sorted([*fresh, *again], key=lambda number: _place(book.segments.get(number)))
        if fresh or again:
            queue.ready[priority] = Numbers(fresh or again)
    queue.dead = Numbers(message.number for message in placed if message.state == DEAD)
    if queue.config.ordered_by_key:
        keyed = [message for message in placed if message.keyed is not None and message.state != DEAD]
        keyed.sort(key=lambda message: message.state == BLOCKED)  # stable: the first of each key before those behind it
        for message in keyed:
            _append_to_key(queue, message, book)


def _append_to_key(queue: Queue, message: Message, book: Book) -> None:
    keyed = message.keyed
    assert keyed is not None
    previous = queue.keys.get(keyed.key)
    if previous is not None:
        before = book.segments.get(previous)
        assert before is not None
        assert before.keyed is not None
        before.keyed.next, keyed.previous = message.number, previous
    queue.keys[keyed.key] = message.number


def all_rows(book: Book, graves: Graves) -> dict[bytes, bytes]:
    return dict(_rows(book, graves))


def _rows(book: Book, graves: Graves) -> Iterator[tuple[bytes, bytes]]:
    if book.counters != Counters():
        yield COUNTERS_KEY, _encode(book.counters)
    for queue in book.by_id.values():
        yield queue_key(queue.id), _encode(queue.row)
        yield from queue.window.rows()
    for window in book.left_windows.values():
        yield from window.rows()
    for mark, sequence in book.marks.items():
        yield outbox.mark_key(*mark), outbox.encode_mark(sequence)
    yield from book.fates.rows()
    yield from book.outbox.rows()
    yield from book.segments.rows()
    yield from graves.rows()
    for message in book.segments:
        yield message_key(message.number), encode_message(message)
