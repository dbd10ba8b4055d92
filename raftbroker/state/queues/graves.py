"""Messages of queues that were purged or deleted: they are nobody's at once, and their rows go bit by bit.

A grave is walked through by segments of numbers, a few with every entry, whatever queues they hold: so it needs no list
of the messages, and a million of them hold up nobody.

Rows: b"qX" sequence u64be -> the grave.
"""

import struct
from collections import OrderedDict
from collections.abc import Iterator

import msgspec

from raftbroker.state.queues.book import Book
from raftbroker.state.queues.messages import MOVING
from raftbroker.state.queues.segments import SHIFT
from raftbroker.state.shard import Change

SEGMENTS_PER_ENTRY = 2

_KEY = struct.Struct(">2sQ")
_encode = msgspec.msgpack.Encoder().encode


class Grave(msgspec.Struct, frozen=True, array_like=True):
    """The messages of the queue of this id up to the number `last`, from `segment` on."""

    queue: int
    last: int
    segment: int = 0


_decode = msgspec.msgpack.Decoder(Grave).decode


class Graves:
    def __init__(self, book: Book) -> None:
        self._book = book
        self._graves: OrderedDict[int, Grave] = OrderedDict()

    def __len__(self) -> int:
        return len(self._graves)

    def restore(self, rows: dict[bytes, bytes]) -> None:
        for key, value in rows.items():
            self._graves[int(_KEY.unpack(key)[1])] = _decode(value)

    def rows(self) -> Iterator[tuple[bytes, bytes]]:
        for sequence, grave in self._graves.items():
            yield _KEY.pack(b"qX", sequence), _encode(grave)

    def dig(self, queue: int, last: int, change: Change) -> None:
        sequence = self._book.sequence(change)
        grave = self._graves[sequence] = Grave(queue, last)
        change.put(_KEY.pack(b"qX", sequence), _encode(grave))

    def clear_some(self, change: Change) -> None:
        """A few segments of the first grave."""
        if not self._graves:
            return
        sequence, grave = next(iter(self._graves.items()))
        messages, after = self._book.segments.from_segment(grave.segment, SEGMENTS_PER_ENTRY)
        for message in messages:
            if message.queue == grave.queue and message.number <= grave.last and message.state != MOVING:
                self._book.drop(message, change)
        if after is None or after << SHIFT > grave.last:
            del self._graves[sequence]
            change.delete(_KEY.pack(b"qX", sequence))
        else:
            self._graves[sequence] = moved = Grave(grave.queue, grave.last, after)
            change.put(_KEY.pack(b"qX", sequence), _encode(moved))
