"""Keys of record batches among the payloads: partition id u64be, then base offset u64be.

What compaction has written lies apart from it: 2^63 + partition id, then generation, then base offset, u64be each. A
generation is the index of the Raft entry that brought it, so no two entries of a log ever bring the same key.

Big-endian, so that byte order is offset order. Storage reads records by the same layout; a test holds the two equal.
"""

import struct

from consensus.store import KeyRange

_KEY = struct.Struct(">QQ")
_COMPACTED_KEY = struct.Struct(">QQQ")
_COMPACTED = 1 << 63
"""Above every partition id, and above what shards use in their place."""


def payload_key(partition: int, base_offset: int) -> bytes:
    """The key of the batch of `partition` (its id) that starts at `base_offset`."""
    return _KEY.pack(partition, base_offset)


def split_payload_key(key: bytes) -> tuple[int, int]:
    """(partition id, base offset). Raises struct.error for a key of another length."""
    partition, base_offset = _KEY.unpack(key)
    return partition, base_offset


def compacted_key(partition: int, generation: int, base_offset: int) -> bytes:
    """The key of the batch that starts at `base_offset` in that generation of the partition's compacted ones."""
    return _COMPACTED_KEY.pack(_COMPACTED | partition, generation, base_offset)


def batch_range(partition: int, generation: int, first: int, end: int) -> KeyRange:
    """The keys of batches that start from `first` to before `end`; generation 0 is as produced."""
    if generation:
        return compacted_key(partition, generation, first), compacted_key(partition, generation, end)
    return payload_key(partition, first), payload_key(partition, end)


def generation_range(partition: int, generation: int) -> KeyRange:
    """All keys of that generation."""
    return compacted_key(partition, generation, 0), compacted_key(partition, generation + 1, 0)


def all_ranges(partition: int) -> tuple[KeyRange, KeyRange]:
    """All keys of a partition: as produced, and compacted."""
    produced = payload_key(partition, 0), payload_key(partition + 1, 0)
    return produced, (compacted_key(partition, 0, 0), compacted_key(partition + 1, 0, 0))
