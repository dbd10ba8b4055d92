"""The messages of a shard by number, in segments of 1024 numbers, and when a segment's payloads may go.

Payloads are deleted by whole segments, some time after the last of their messages has gone: a replica that lags behind
needs a snapshot as soon as an entry's payload is missing, so those of the recent past stay, up to a bound in bytes.

Invariants: every payload number ever given lies in a segment that is here, or whose payloads are gone. A segment's
messages lie in a dict of untracked objects, so the garbage collector does not walk through them.

Rows: b"qG" segment u64be -> (bytes, since when it has been dead; 0: it is not).
"""

import struct
from bisect import bisect_left, insort
from collections.abc import Iterator
from heapq import heapify, heappop, heappush

import msgspec

from raftbroker.state.queues.messages import Message
from raftbroker.state.shard import Change

SHIFT = 10
SIZE = 1 << SHIFT
KEEP_MS = 60_000
"""For so long the payloads of a dead segment stay."""
KEEP_BYTES_MAX = 256 << 20
"""Of dead segments; beyond, the oldest go at once."""
_SPARSE = (SIZE // 8, SIZE // 64, SIZE // 512)
"""When so few of a segment's messages are left, its table is made anew: a dict does not shrink by itself."""

_KEY = struct.Struct(">2sQ")
_encode = msgspec.msgpack.Encoder().encode


class _SegmentRow(msgspec.Struct, frozen=True, array_like=True):
    bytes: int
    dead_since_ms: int = 0


_decode = msgspec.msgpack.Decoder(_SegmentRow).decode


class Segments:
    def __init__(self) -> None:
        self.count = 0
        """Messages in all."""
        self.newest = -1
        """The segment of the highest number given."""
        self.dead_bytes = 0
        self._tables: dict[int, dict[int, Message]] = {}
        self._bytes: dict[int, int] = {}
        self._ids: list[int] = []
        """Of the segments that are here, ascending."""
        self._dead: list[tuple[int, int]] = []
        """A heap of (since when, segment)."""

    def restore(self, rows: dict[bytes, bytes]) -> None:
        """From the segments' rows; before the messages are put in."""
        for key, value in rows.items():
            segment, row = int(_KEY.unpack(key)[1]), _decode(value)
            self._ids.append(segment)
            self._bytes[segment] = row.bytes
            self._tables[segment] = {}
            if row.dead_since_ms:
                self._dead.append((row.dead_since_ms, segment))
                self.dead_bytes += row.bytes
        heapify(self._dead)
        self.newest = self._ids[-1] if self._ids else -1

    def rows(self) -> Iterator[tuple[bytes, bytes]]:
        since = {segment: dead_since for dead_since, segment in self._dead}
        for segment in self._ids:
            yield _KEY.pack(b"qG", segment), _encode((self._bytes[segment], since.get(segment, 0)))

    # --- messages -----------------------------------------------------------------------------------------

    def get(self, number: int) -> Message | None:
        table = self._tables.get(number >> SHIFT)
        return table.get(number) if table is not None else None

    def put(self, message: Message) -> None:
        """Its number was taken in before, by `took`."""
        self._tables[message.number >> SHIFT][message.number] = message
        self.count += 1

    def table(self, segment: int) -> dict[int, Message]:
        """Of this segment, for restoring it; `count` follows apart."""
        return self._tables[segment]

    def remove(self, message: Message, change: Change) -> None:
        segment = message.number >> SHIFT
        table = self._tables[segment]
        del table[message.number]
        self.count -= 1
        left = len(table)
        if segment < self.newest:
            if left == 0:
                self._died(segment, change)
            elif left in _SPARSE:
                self._tables[segment] = dict(table.items())

    def __iter__(self) -> Iterator[Message]:
        for segment in self._ids:
            table = self._tables[segment]
            yield from (table[number] for number in sorted(table))

    def from_segment(self, first: int, count: int) -> tuple[list[Message], int | None]:
        """The messages of up to `count` segments from `first` on, by number, and the segment after them, if any."""
        at = bisect_left(self._ids, first)
        found = [
            self._tables[segment][number]
            for segment in self._ids[at : at + count]
            for number in sorted(self._tables[segment])
        ]
        after = at + count
        return found, self._ids[after] if after < len(self._ids) else None

    # --- payloads -----------------------------------------------------------------------------------------

    def took(self, numbers: range, size: int, change: Change) -> None:
        """Payloads were stored under these numbers, `size` bytes together."""
        if not numbers:
            return
        first, last = numbers[0] >> SHIFT, numbers[-1] >> SHIFT
        for segment in range(first, last + 1):
            if segment not in self._tables:
                self._tables[segment] = {}
                self._bytes[segment] = 0
                insort(self._ids, segment)
        self._bytes[last] += size
        for segment in range(first, last + 1):
            change.put(_KEY.pack(b"qG", segment), _encode((self._bytes[segment], 0)))

    def close_up_to(self, number: int, change: Change) -> None:
        """The segments before that of `number` get no more messages: those that have none are dead."""
        newest = number >> SHIFT
        if newest > self.newest:
            at = bisect_left(self._ids, self.newest)
            self.newest = newest
            for segment in self._ids[at : bisect_left(self._ids, newest)]:
                table = self._tables[segment]
                if not table:
                    self._died(segment, change)
                elif len(table) <= _SPARSE[0]:
                    self._tables[segment] = dict(table.items())

    def _died(self, segment: int, change: Change) -> None:
        self._tables[segment] = {}
        heappush(self._dead, (change.time_ms, segment))
        self.dead_bytes += self._bytes[segment]
        change.put(_KEY.pack(b"qG", segment), _encode((self._bytes[segment], change.time_ms)))

    def next_due(self) -> int | None:
        return self._dead[0][0] + KEEP_MS if self._dead else None

    def release(self, change: Change) -> None:
        """Lets go of the payloads of segments that have been dead for long enough, or are too many."""
        while self._dead:
            since, segment = self._dead[0]
            if change.time_ms < since + KEEP_MS and self.dead_bytes <= KEEP_BYTES_MAX:
                return
            heappop(self._dead)
            self.dead_bytes -= self._bytes.pop(segment)
            del self._tables[segment]
            del self._ids[bisect_left(self._ids, segment)]
            change.delete(_KEY.pack(b"qG", segment))
            change.delete_payloads(segment << SHIFT, (segment + 1) << SHIFT)

    def payload_ranges(self) -> list[tuple[int, int]]:
        """Of the segments that are not dead, those side by side together."""
        dead = {segment for _, segment in self._dead}
        ranges: list[tuple[int, int]] = []
        for segment in self._ids:
            if segment not in dead:
                first, stop = segment << SHIFT, (segment + 1) << SHIFT
                if ranges and ranges[-1][1] == first:
                    ranges[-1] = (ranges[-1][0], stop)
                else:
                    ranges.append((first, stop))
        return ranges
