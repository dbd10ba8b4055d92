"""What members of protocol type "consumer" say to each other: their subscriptions and assignments, as Kafka's clients
encode them (ConsumerProtocolSubscription, ConsumerProtocolAssignment). Read from version 0 on, as all later ones begin
alike; written in version 1, with what the member owns, which every client since 2.4 reads.
"""

import struct
from collections.abc import Iterable, Mapping

import msgspec

_I16 = struct.Struct(">h")
_I32 = struct.Struct(">i")
VERSION = 1

Partitions = Mapping[str, tuple[int, ...]]
"""Partition numbers by topic name."""


class BadProtocol(ValueError):
    """Bytes that are not what they should be."""


class Subscription(msgspec.Struct, frozen=True):
    topics: tuple[str, ...]
    user_data: bytes | None = None
    owned: Partitions = {}


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def _take(self, size: int) -> bytes:
        if size < 0 or size > self.left:
            raise BadProtocol(f"{size} bytes are claimed where {self.left} are left")
        self._at += size
        return self._data[self._at - size : self._at]

    def int16(self) -> int:
        number: int = _I16.unpack(self._take(2))[0]
        return number

    def int32(self) -> int:
        number: int = _I32.unpack(self._take(4))[0]
        return number

    def count(self) -> int:
        count = self.int32()
        if not 0 <= count <= self.left:
            raise BadProtocol(f"{count} elements are claimed where {self.left} bytes are left")
        return count

    def string(self) -> str:
        try:
            return self._take(self.int16()).decode()
        except UnicodeDecodeError as error:
            raise BadProtocol(f"a name is not UTF-8: {error}") from error

    def bytes(self) -> bytes | None:
        size = self.int32()
        return None if size < 0 else self._take(size)

    def partitions(self) -> dict[str, tuple[int, ...]]:
        found: dict[str, tuple[int, ...]] = {}
        for _ in range(self.count()):
            topic = self.string()
            found[topic] = tuple(self.int32() for _ in range(self.count()))
        return found


def decode_subscription(data: bytes) -> Subscription:
    """Raises BadProtocol."""
    reader = _Reader(data)
    version = reader.int16()
    topics = tuple(reader.string() for _ in range(reader.count()))
    user_data = reader.bytes() if reader.left else None
    owned = reader.partitions() if version >= 1 and reader.left else {}
    return Subscription(topics, user_data, owned)


def decode_assignment(data: bytes) -> dict[str, tuple[int, ...]]:
    """Raises BadProtocol. No bytes at all assign nothing."""
    if not data:
        return {}
    reader = _Reader(data)
    reader.int16()
    return reader.partitions()


def encode_subscription(subscription: Subscription) -> bytes:
    parts = [_I16.pack(VERSION), _I32.pack(len(subscription.topics)), *map(_string, subscription.topics)]
    parts += (_bytes(subscription.user_data), _partitions(subscription.owned))
    return b"".join(parts)


def encode_assignment(partitions: Partitions, user_data: bytes | None = None) -> bytes:
    return b"".join((_I16.pack(VERSION), _partitions(partitions), _bytes(user_data)))


def _string(text: str) -> bytes:
    raw = text.encode()
    return _I16.pack(len(raw)) + raw


def _bytes(data: bytes | None) -> bytes:
    return _I32.pack(-1) if data is None else _I32.pack(len(data)) + data


def _partitions(partitions: Partitions) -> bytes:
    parts = [_I32.pack(len(partitions))]
    for topic, numbers in partitions.items():
        parts += (_string(topic), _int32s(numbers))
    return b"".join(parts)


def _int32s(numbers: Iterable[int]) -> bytes:
    listed = tuple(numbers)
    return struct.pack(f">i{len(listed)}i", len(listed), *listed)
