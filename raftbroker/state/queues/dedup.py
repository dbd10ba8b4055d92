"""What was sent to a queue within its window: by each message's dedup_id, and by a whole request's Idempotency-Key.

An id is 16 bytes, a hash of what the client gave. The window of a queue is a first-in, first-out list of what each op
brought; it is bounded for the shard as a whole by refusing more, never by forgetting early.

Rows: b"qD" queue id u32be, sequence u64be -> what one op brought.
"""

import struct
from collections import deque
from collections.abc import Iterator

import msgspec

from raftbroker.state.shard import Change

IDS_MAX = 500_000
"""In a shard: about 100 MB."""

_KEY = struct.Struct(">2sIQ")
_encode = msgspec.msgpack.Encoder().encode


class Brought(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """By one op: its messages' ids with their numbers, and the request as a whole where it had an id."""

    at_ms: int
    ids: tuple[tuple[bytes, int], ...]
    request: bytes = b""
    fingerprint: int = 0
    numbers: tuple[int, ...] = ()
    """Of all messages of the request, in order."""

    def __len__(self) -> int:
        return len(self.ids) + bool(self.request) * (1 + len(self.numbers) // 4)


_decode = msgspec.msgpack.Decoder(Brought).decode


class Window:
    """Of one queue."""

    __slots__ = ("_ids", "_queue", "_records", "_requests")

    def __init__(self, queue: int) -> None:
        self._queue = queue
        self._ids: dict[bytes, int] = {}
        self._requests: dict[bytes, Brought] = {}
        self._records: deque[tuple[int, Brought]] = deque()

    def __len__(self) -> int:
        return sum(len(brought) for _, brought in self._records)

    def restore(self, sequence: int, value: bytes) -> int:
        """In ascending order of sequences; how much it counts."""
        return self._remember(sequence, _decode(value))

    def _remember(self, sequence: int, brought: Brought) -> int:
        self._records.append((sequence, brought))
        self._ids.update(brought.ids)
        if brought.request:
            self._requests[brought.request] = brought
        return len(brought)

    def _key(self, sequence: int) -> bytes:
        return _KEY.pack(b"qD", self._queue, sequence)

    def rows(self) -> Iterator[tuple[bytes, bytes]]:
        for sequence, brought in self._records:
            yield self._key(sequence), _encode(brought)

    def number_of(self, dedup: bytes) -> int | None:
        """Of the message that was sent with this id."""
        return self._ids.get(dedup)

    def request(self, request: bytes) -> Brought | None:
        return self._requests.get(request)

    def add(self, sequence: int, brought: Brought, change: Change) -> int:
        """How much it counts towards IDS_MAX."""
        change.put(self._key(sequence), _encode(brought))
        return self._remember(sequence, brought)

    def next_due(self, window_ms: int) -> int | None:
        return self._records[0][1].at_ms + window_ms if self._records else None

    def expire(self, change: Change) -> int:
        """Forgets what the oldest op brought; how much it counted."""
        sequence, brought = self._records.popleft()
        change.delete(self._key(sequence))
        for dedup, number in brought.ids:
            if self._ids.get(dedup) == number:
                del self._ids[dedup]
        if self._requests.get(brought.request) is brought:
            del self._requests[brought.request]
        return len(brought)


def queue_and_sequence(key: bytes) -> tuple[int, int]:
    _, queue, sequence = _KEY.unpack(key)
    return queue, sequence
