"""Keys of record batches among the payloads: partition id u64be, then base offset u64be.

Big-endian, so that byte order is offset order. Storage reads records by the same layout; a test holds the two equal.
"""

import struct

_KEY = struct.Struct(">QQ")


def payload_key(partition: int, base_offset: int) -> bytes:
    """The key of the batch of `partition` (its id) that starts at `base_offset`."""
    return _KEY.pack(partition, base_offset)


def split_payload_key(key: bytes) -> tuple[int, int]:
    """(partition id, base offset). Raises struct.error for a key of another length."""
    partition, base_offset = _KEY.unpack(key)
    return partition, base_offset
