"""The data that every layer of consensus shares: members, configurations, entries, hard state.

An entry is (term, index, kind, command, payloads). `command` is opaque tagged bytes, `payloads` are bytes
that the store keeps under keys of their own, so that records are stored once and served as stored.
Indexes and terms count from 1; index 0 with term 0 is the empty log's base.

CRCs are CRC-32C (RFC 3720, appendix B.4). An entry's CRC covers its term, index, kind, command and each
payload's key, length and CRC; a payload's CRC covers its bytes. The leader computes them once; every
receiver and every reader from disk checks them (C8).
"""

import struct
from enum import IntEnum
from typing import NamedTuple

import google_crc32c
import msgspec

_HEAD = struct.Struct(">QQBI")
_PAYLOAD = struct.Struct(">IIHI")


class Member(NamedTuple):
    """One replica's identity: the node's id and its data directory's UUID (C9)."""

    node: int
    uuid: str

    def __str__(self) -> str:
        return f"{self.node}/{self.uuid}"


class Configuration(msgspec.Struct, frozen=True, array_like=True):
    """Who belongs to a group: voters count towards majorities, learners only receive."""

    voters: tuple[Member, ...] = ()
    learners: tuple[Member, ...] = ()

    @property
    def members(self) -> tuple[Member, ...]:
        return self.voters + self.learners

    @property
    def majority(self) -> int:
        return len(self.voters) // 2 + 1


class Payload(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Bytes stored under their own key, beside the entry that brought them."""

    key: bytes
    data: bytes
    crc: int

    @classmethod
    def of(cls, key: bytes, data: bytes) -> "Payload":
        return cls(key, data, google_crc32c.value(data))

    @property
    def sound(self) -> bool:
        return bool(google_crc32c.value(self.data) == self.crc)


class EntryKind(IntEnum):
    NOOP = 0
    """Appended by a new leader; commits what earlier terms left."""
    COMMAND = 1
    """For the state machine."""
    CONFIGURATION = 2
    """A msgpack `Configuration`; in force from the moment it is appended (C12)."""


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One entry of a group's log."""

    term: int
    index: int
    kind: int
    command: bytes
    payloads: tuple[Payload, ...]
    crc: int

    @classmethod
    def of(cls, term: int, index: int, kind: int, command: bytes = b"", payloads: tuple[Payload, ...] = ()) -> "Entry":
        crc = entry_crc(term, index, kind, command, [(p.key, len(p.data), p.crc) for p in payloads])
        return cls(term, index, kind, command, payloads, crc)

    @property
    def size(self) -> int:
        """Bytes this entry costs in memory, in a message and on disk, near enough for bounds."""
        total = 64 + len(self.command)
        for payload in self.payloads:
            total += 32 + len(payload.data)
        return total

    @property
    def sound(self) -> bool:
        """Whether the entry and all its payloads are what the leader made."""
        heads = [(p.key, len(p.data), p.crc) for p in self.payloads]
        return self.crc == entry_crc(self.term, self.index, self.kind, self.command, heads) and all(
            p.sound for p in self.payloads
        )


def entry_crc(term: int, index: int, kind: int, command: bytes, payloads: list[tuple[bytes, int, int]]) -> int:
    """CRC-32C of an entry; `payloads` are (key, length in bytes, CRC-32C of the bytes)."""
    head = _HEAD.pack(term, index, kind, len(command)) + command
    for key, length, crc in payloads:
        head += _PAYLOAD.pack(length, crc, len(key), 0) + key
    return int(google_crc32c.value(head))


class HardState(msgspec.Struct, frozen=True, array_like=True):
    """What must be on disk before a vote leaves: the term, and for whom this node voted in it."""

    term: int = 0
    vote: Member | None = None


class LogBase(msgspec.Struct, frozen=True, array_like=True):
    """The point just below a log's first entry: everything at or below `index` is in the applied state."""

    index: int = 0
    term: int = 0
    configuration: Configuration = Configuration()


_encode_configuration = msgspec.msgpack.Encoder().encode
_decode_configuration = msgspec.msgpack.Decoder(Configuration).decode


def encode_configuration(configuration: Configuration) -> bytes:
    return _encode_configuration(configuration)


def decode_configuration(command: bytes) -> Configuration:
    return _decode_configuration(command)
