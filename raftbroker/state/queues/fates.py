"""What became of messages that are gone: for senders who ask, and for acknowledgements that are repeated.

Kept for an hour, and of a shard the last 65,536: beyond, the oldest go first, those of one op together.

Rows: b"qF" sequence u64be -> the fates of one op, or of one entry's time-outs.
"""

import struct
from collections import deque
from collections.abc import Iterator

import msgspec

from raftbroker.state.shard import Change

CONSUMED, EXPIRED, MOVED, REDRIVEN = range(4)
NAMES = ("consumed", "expired", "dead", "redriven")
"""As senders are told."""

KEEP_MS = 3_600_000
FATES_MAX = 65_536

_KEY = struct.Struct(">2sQ")
_encode = msgspec.msgpack.Encoder().encode


class Fate(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How a message ended."""

    number: int
    queue: int
    """The queue's id."""
    kind: int
    at_ms: int
    deliveries: int
    nonce: int
    """Of the lock under which it ended; 0 where there was none."""
    consumer: str
    """Who acknowledged it, or had it last."""
    reason: str
    """Why it died."""
    to: str
    """Where it was moved."""
    as_number: int
    """And under which number; 0 where that is not known."""


_decode = msgspec.msgpack.Decoder(list[Fate]).decode


class Fates:
    def __init__(self) -> None:
        self._by_number: dict[int, Fate] = {}
        self._records: deque[tuple[int, int, list[Fate]]] = deque()
        """(sequence, time, fates), the oldest first."""
        self._new: list[Fate] = []

    def restore(self, rows: dict[bytes, bytes]) -> None:
        for key, value in rows.items():
            fates = _decode(value)
            self._records.append((int(_KEY.unpack(key)[1]), fates[0].at_ms, fates))
            self._by_number.update((fate.number, fate) for fate in fates)

    def rows(self) -> Iterator[tuple[bytes, bytes]]:
        for sequence, _, fates in self._records:
            yield _KEY.pack(b"qF", sequence), _encode(fates)

    def get(self, number: int) -> Fate | None:
        return self._by_number.get(number)

    def add(self, fate: Fate) -> None:
        """To be written with `write`, before anything of another time is added."""
        self._by_number[fate.number] = fate
        self._new.append(fate)

    @property
    def to_write(self) -> bool:
        return bool(self._new)

    def write(self, sequence: int, change: Change) -> None:
        fates, self._new = self._new, []
        self._records.append((sequence, fates[0].at_ms, fates))
        change.put(_KEY.pack(b"qF", sequence), _encode(fates))
        while len(self._by_number) > FATES_MAX:
            self._drop(change)

    def next_due(self) -> int | None:
        return self._records[0][1] + KEEP_MS if self._records else None

    def expire(self, change: Change, count_max: int) -> None:
        """Forgets what has been kept for long enough, of `count_max` ops at most."""
        for _ in range(count_max):
            if not self._records or change.time_ms < self._records[0][1] + KEEP_MS:
                return
            self._drop(change)

    def _drop(self, change: Change) -> None:
        sequence, _, fates = self._records.popleft()
        change.delete(_KEY.pack(b"qF", sequence))
        for fate in fates:
            del self._by_number[fate.number]
