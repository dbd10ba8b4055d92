"""Entries, writes and frames for tests."""

import struct

import google_crc32c

from consensus.model import Configuration, Entry, EntryKind, LogBase, Member, Payload
from consensus.store import Write
from raftbroker.storage import payload_key

MEMBER = Member(1, "a" * 32)
BASE = LogBase(0, 0, Configuration((MEMBER,)))


def entry(index: int, term: int = 1, partition: int = 7, size: int = 100, seed: int = 0) -> Entry:
    """An entry with one payload under the key (partition, index), its bytes told by index, term and seed."""
    data = bytes([index % 251, term % 251, seed % 251]) * (size // 3 + 1)
    payload = Payload.of(payload_key(partition, index), data[:size])
    return Entry.of(term, index, EntryKind.COMMAND, b"command %d" % index, (payload,))


def entries(first: int, last: int, term: int = 1, partition: int = 7, size: int = 100) -> list[Entry]:
    return [entry(index, term, partition, size) for index in range(first, last + 1)]


def create(group: int = 1, base: LogBase = BASE) -> Write:
    return Write(group, create=base)


def frame(kind: int, body: bytes) -> bytes:
    """A fragment of RocksDB's log format, written down independently of the code that reads it."""
    crc = google_crc32c.value(bytes([kind]) + body)
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    return struct.pack("<IHB", masked, len(body), kind) + body
