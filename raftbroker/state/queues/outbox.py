"""What is on its way to another shard, or to a webhook, and how far what others sent has been taken.

A parcel is a dead message that goes to its dead-letter queue, one that is brought back, or a receipt. It stays here
until the driver beside the leader has it taken there and says so. Parcels of one destination go in order of their
sequence, and the destination remembers, for each shard that sends, the last sequence it took: a parcel that is sent
twice, by a driver that did not hear the answer or by the next leader's, is taken once. That needs no room that grows.

Rows: b"qP" sequence u64be -> the parcel; b"qK" queue id u32be, source shard u64be -> the last sequence taken.
"""

import struct
from collections import Counter, deque
from collections.abc import Iterator

import msgspec

from raftbroker.state.queues.fates import Fate
from raftbroker.state.queues.messages import Delivery
from raftbroker.state.shard import Change

MOVE, REDRIVE, RECEIPT = range(3)

RECEIPT_KEEP_MS = 86_400_000
"""A receipt that could not be delivered for so long is dropped, and counted."""
QUEUE_PREFIX = "queue:"
"""What destinations that are queues begin with; others are URLs."""

_SLACK = 1024

_KEY = struct.Struct(">2sQ")
_MARK_KEY = struct.Struct(">2sIQ")
_encode = msgspec.msgpack.Encoder().encode


class Parcel(msgspec.Struct, frozen=True, array_like=True):
    sequence: int
    kind: int
    to: str
    """ "queue:NAME", or a URL."""
    number: int
    """The message; for MOVE and REDRIVE it is here in state MOVING."""
    queue: str
    """The name of its queue."""
    at_ms: int
    fate: Fate | None = None
    """What a receipt tells."""
    history: tuple[Delivery, ...] = ()

    @property
    def row_bytes(self) -> int:
        texts = len(self.to) + len(self.queue) + (len(self.fate.consumer + self.fate.reason) if self.fate else 0)
        return 96 + 2 * texts + sum(32 + 2 * len(delivery.consumer) for delivery in self.history)


_decode = msgspec.msgpack.Decoder(Parcel).decode


class Outbox:
    def __init__(self) -> None:
        self.bytes = 0
        """About what its rows take, at most."""
        self.receipts_of: Counter[str] = Counter()
        """By queue of the messages."""
        self._parcels: dict[int, Parcel] = {}
        self._channels: dict[str, deque[int]] = {}
        """Destination -> sequences, ascending; those at its front that are done are dropped when it is looked at."""
        self._receipts: deque[tuple[int, int]] = deque()
        """(time, sequence)"""
        self._stale = 0
        """How many in the two above may be done, behind others that are not."""

    def __len__(self) -> int:
        return len(self._parcels)

    def restore(self, rows: dict[bytes, bytes]) -> None:
        for value in rows.values():
            self._keep(_decode(value))

    def rows(self) -> Iterator[tuple[bytes, bytes]]:
        for sequence in sorted(self._parcels):
            yield _KEY.pack(b"qP", sequence), _encode(self._parcels[sequence])

    def _keep(self, parcel: Parcel) -> None:
        self._parcels[parcel.sequence] = parcel
        self._channels.setdefault(parcel.to, deque()).append(parcel.sequence)
        if parcel.kind == RECEIPT:
            self._receipts.append((parcel.at_ms, parcel.sequence))
            self.receipts_of[parcel.queue] += 1
        self.bytes += parcel.row_bytes

    def add(self, parcel: Parcel, change: Change) -> None:
        self._keep(parcel)
        change.put(_KEY.pack(b"qP", parcel.sequence), _encode(parcel))

    def get(self, sequence: int) -> Parcel | None:
        return self._parcels.get(sequence)

    def done(self, sequence: int, change: Change) -> Parcel | None:
        """It has arrived, or is given up; None where that was known."""
        parcel = self._parcels.pop(sequence, None)
        if parcel is None:
            return None
        self.bytes -= parcel.row_bytes
        if parcel.kind == RECEIPT:
            self.receipts_of[parcel.queue] -= 1
            if not self.receipts_of[parcel.queue]:
                del self.receipts_of[parcel.queue]
        change.delete(_KEY.pack(b"qP", sequence))
        channel = self._channels[parcel.to]
        while channel and channel[0] not in self._parcels:
            channel.popleft()
        if not channel:
            del self._channels[parcel.to]
        self._stale += 1
        if self._stale > len(self._parcels) + _SLACK:
            self._tidy()
        return parcel

    def _tidy(self) -> None:
        self._stale = 0
        self._receipts = deque(receipt for receipt in self._receipts if receipt[1] in self._parcels)
        for to, channel in self._channels.items():
            self._channels[to] = deque(sequence for sequence in channel if sequence in self._parcels)

    def next_due(self) -> int | None:
        return self._receipts[0][0] + RECEIPT_KEEP_MS if self._receipts else None

    def expire(self, change: Change, count_max: int) -> list[str]:
        """Gives up receipts that are too old, so many at most: the queues of their messages."""
        given_up: list[str] = []
        while self._receipts and len(given_up) < count_max:
            at_ms, sequence = self._receipts[0]
            parcel = self._parcels.get(sequence)
            if parcel is not None:
                if change.time_ms < at_ms + RECEIPT_KEEP_MS:
                    break
                self.done(sequence, change)
                given_up.append(parcel.queue)
            if self._receipts and self._receipts[0][1] == sequence:  # `done` may have tidied up
                self._receipts.popleft()
        return given_up

    # --- for the driver -----------------------------------------------------------------------------------

    def destinations(self) -> list[str]:
        """Where parcels wait to go."""
        return list(self._channels)

    def waiting(self, to: str, count_max: int) -> list[Parcel]:
        """The first parcels for this destination."""
        found: list[Parcel] = []
        for sequence in self._channels.get(to, ()):
            parcel = self._parcels.get(sequence)
            if parcel is not None:
                found.append(parcel)
                if len(found) == count_max:
                    break
        return found


def mark_key(queue: int, source: int) -> bytes:
    return _MARK_KEY.pack(b"qK", queue, source)


def split_mark_key(key: bytes) -> tuple[int, int]:
    """(queue id, source shard)"""
    _, queue, source = _MARK_KEY.unpack(key)
    return queue, source


_decode_mark = msgspec.msgpack.Decoder(int).decode


def encode_mark(sequence: int) -> bytes:
    return _encode(sequence)


def decode_mark(value: bytes) -> int:
    return _decode_mark(value)
