"""Where everything lies: the keys of groups, entries and state rows, and what their rows hold.

    node    "f"                          format version
            "n" | key                    rows of the node itself (`Write.node`)
            "g" | group u32 | field      of one group: marker, hard state, base, applied, commit hint
    raft    group u32 | index u64        an entry without its payloads' bytes: `Row`
    log     payload key                  a payload's bytes
    state   group u32 | key              a row of the group's state machine

Numbers in keys are big-endian, so that key order is number order.
"""

import struct
from bisect import bisect_right
from collections.abc import Sequence
from operator import itemgetter

import msgspec

from consensus.errors import Damaged
from consensus.model import Entry, HardState, LogBase, entry_crc
from consensus.store import KeyRange

FORMAT = 1
FORMAT_KEY = b"f"

MARKER, HARD_STATE, BASE, APPLIED, COMMIT = b"m", b"h", b"b", b"a", b"c"

_GROUP = struct.Struct(">I")
_ENTRY = struct.Struct(">IQ")
_META = struct.Struct(">cI")
_NUMBER = struct.Struct(">Q")

pack_number = _NUMBER.pack
_first = itemgetter(0)


class Row(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What `raft` holds of an entry; a payload is (key, length, CRC-32C of its bytes)."""

    term: int
    kind: int
    command: bytes
    crc: int
    payloads: list[tuple[bytes, int, int]]

    def sound(self, index: int) -> bool:
        """Whether the row is what the leader made, as far as the row itself can tell."""
        return self.crc == entry_crc(self.term, index, self.kind, self.command, self.payloads)


encode_row = msgspec.msgpack.Encoder().encode
_decode_row = msgspec.msgpack.Decoder(Row).decode
encode_meta = msgspec.msgpack.Encoder().encode
_decode_hard_state = msgspec.msgpack.Decoder(HardState).decode
_decode_base = msgspec.msgpack.Decoder(LogBase).decode


def row_of(entry: Entry) -> bytes:
    payloads = [(payload.key, len(payload.data), payload.crc) for payload in entry.payloads]
    return encode_row((entry.term, entry.kind, entry.command, entry.crc, payloads))


def read_row(group: int, index: int, value: bytes) -> Row:
    """Raises Damaged unless the row decodes and its CRC is right."""
    try:
        row = _decode_row(value)
    except msgspec.DecodeError as error:
        raise Damaged(f"entry {index} of group {group} does not decode: {error}") from error
    if not row.sound(index):
        raise Damaged(f"entry {index} of group {group} fails its CRC")
    return row


entry_key = _ENTRY.pack
group_prefix = _GROUP.pack


def split_entry_key(key: bytes) -> int:
    """The index. Raises Damaged for a key that is none."""
    if len(key) != _ENTRY.size:
        raise Damaged(f"a row under the key {key.hex()} is no entry")
    index: int = _ENTRY.unpack(key)[1]
    return index


def group_end(group: int) -> bytes:
    """The key just past every key that starts with the group's prefix."""
    return _GROUP.pack(group + 1) if group < 0xFFFFFFFF else b"\xff" * 64


def meta_key(group: int, field: bytes) -> bytes:
    return _META.pack(b"g", group) + field


def split_meta_key(key: bytes) -> tuple[int, bytes]:
    return _META.unpack_from(key)[1], key[_META.size :]


def node_key(key: bytes) -> bytes:
    return b"n" + key


def read_number(group: int, name: str, value: bytes | None) -> int:
    if value is None:
        return 0
    if len(value) != _NUMBER.size:
        raise Damaged(f"the {name} index of group {group} is not a number")
    number: int = _NUMBER.unpack(value)[0]
    return number


def read_hard_state(group: int, value: bytes | None) -> HardState:
    if value is None:
        return HardState()
    try:
        return _decode_hard_state(value)
    except msgspec.DecodeError as error:
        raise Damaged(f"the hard state of group {group} does not decode: {error}") from error


def read_base(group: int, value: bytes | None) -> LogBase:
    if value is None:
        raise Damaged(f"group {group} has no base")
    try:
        return _decode_base(value)
    except msgspec.DecodeError as error:
        raise Damaged(f"the base of group {group} does not decode: {error}") from error


def within(key: bytes, ranges: Sequence[KeyRange]) -> bool:
    """Whether the key lies in one of the ranges, which are ascending and apart."""
    position = bisect_right(ranges, key, key=_first) - 1
    return position >= 0 and key < ranges[position][1]


def subtract(ranges: Sequence[KeyRange], kept: Sequence[KeyRange]) -> list[KeyRange]:
    """The parts of `ranges` that lie in none of `kept`; each ascending and apart. There may be many thousands."""
    left: list[KeyRange] = []
    position = 0
    for first, end in ranges:
        while position < len(kept) and kept[position][1] <= first:
            position += 1
        at = position
        while first < end and at < len(kept) and kept[at][0] < end:
            low, high = kept[at]
            if first < low:
                left.append((first, low))
            first = max(first, high)
            at += 1
        if first < end:
            left.append((first, end))
    return left
