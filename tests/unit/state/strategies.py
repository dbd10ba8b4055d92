"""Hypothesis strategies and helpers that the tests of the state layer share."""

import struct
from collections.abc import Iterable, Sequence
from itertools import pairwise

import cramjam
import google_crc32c
from hypothesis import strategies as st

from consensus.model import Entry, EntryKind
from raftbroker.state.batch import HEADER_BYTES, RecordDraft, parse_header
from raftbroker.state.commands import Command, encode_command
from raftbroker.state.compression import Codec

timestamps = st.integers(0, 2**45)
drafts = st.builds(
    RecordDraft,
    st.none() | st.binary(max_size=80),
    st.none() | st.binary(max_size=80),
    st.lists(st.tuples(st.text(max_size=4), st.none() | st.binary(max_size=8)), max_size=2).map(tuple),
    st.none() | timestamps,
)


def entry(index: int, command: Command, term: int = 1) -> Entry:
    return Entry.of(term, index, EntryKind.COMMAND, encode_command(command))


def entries(commands: Iterable[Command], first: int = 1) -> list[Entry]:
    return [entry(index, command) for index, command in enumerate(commands, first)]


def groupings(items: Sequence[Entry], cuts: Sequence[int]) -> list[list[Entry]]:
    """The entries in runs, cut at these positions."""
    places = sorted({0, len(items), *(cut % (len(items) + 1) for cut in cuts)})
    return [list(items[low:high]) for low, high in pairwise(places)]


def seal(batch: bytes) -> bytes:
    """The batch with its length and CRC made right, whatever else is in it."""
    changed = bytearray(batch)
    struct.pack_into(">i", changed, 8, len(changed) - 12)
    struct.pack_into(">I", changed, 17, google_crc32c.value(bytes(changed[21:])))
    return bytes(changed)


def with_body(batch: bytes, codec: Codec, body: bytes) -> bytes:
    """The batch with these bytes as its (compressed) records, sealed."""
    changed = bytearray(batch[:HEADER_BYTES] + body)
    struct.pack_into(">h", changed, 21, codec)
    return seal(bytes(changed))


def xerial(data: bytes, block_bytes: int = 1 << 15) -> bytes:
    out = b"\x82SNAPPY\x00" + struct.pack(">ii", 1, 1)
    for start in range(0, len(data), block_bytes):
        block = bytes(cramjam.snappy.compress_raw(data[start : start + block_bytes]))
        out += struct.pack(">i", len(block)) + block
    return out


def compress(batch: bytes, codec: Codec, *, raw_snappy: bool = False) -> bytes:
    """The uncompressed batch, compressed."""
    body = batch[HEADER_BYTES:]
    assert parse_header(batch).codec is Codec.NONE
    if codec is Codec.GZIP:
        packed = bytes(cramjam.gzip.compress(body))
    elif codec is Codec.SNAPPY:
        packed = bytes(cramjam.snappy.compress_raw(body)) if raw_snappy else xerial(body)
    elif codec is Codec.LZ4:
        packed = bytes(cramjam.lz4.compress(body))
    else:
        packed = bytes(cramjam.zstd.compress(body))
    return with_body(batch, codec, packed)
