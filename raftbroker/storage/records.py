"""Record batches as they lie in the column family `log`: `partition id | base offset` -> batch, byte for byte; those
that compaction has written under `2^63 + partition id | generation | base offset`.

These are the payloads of the Raft log: written when their entry is appended, gone if it is truncated, so whoever
reads them keeps below the high watermark.
"""

import struct

from raftbroker.storage.engine import Reads

_KEY = struct.Struct(">QQ")
_COMPACTED_KEY = struct.Struct(">QQQ")
_COMPACTED = 1 << 63
_OFFSET = struct.Struct(">Q")


def payload_key(partition_id: int, base_offset: int) -> bytes:
    return _KEY.pack(partition_id, base_offset)


def split_payload_key(key: bytes) -> tuple[int, int]:
    """(partition id, base offset)."""
    partition_id, base_offset = _KEY.unpack(key)
    return partition_id, base_offset


def batch_key(partition_id: int, generation: int, base_offset: int) -> bytes:
    """Generation 0 is as produced."""
    if generation:
        return _COMPACTED_KEY.pack(_COMPACTED | partition_id, generation, base_offset)
    return _KEY.pack(partition_id, base_offset)


class RecordReader:
    """Reads batches for fetches; from any thread. Both methods raise Damaged where the disk's bytes are wrong. They
    look at the batches of one generation."""

    def __init__(self, engine: Reads) -> None:
        self._engine = engine

    def floor(self, partition_id: int, offset: int, generation: int = 0) -> int | None:
        """The base offset of the last batch that starts at or before `offset`: the one that contains it, if any."""
        low, high = batch_key(partition_id, generation, 0), batch_key(partition_id, generation, offset + 1)
        for key, _ in self._engine.scan("log", low, high, reverse=True):
            return int(_OFFSET.unpack_from(key, len(key) - 8)[0])
        return None

    def read(
        self, partition_id: int, base_offset: int, end_offset: int, bytes_max: int, generation: int = 0
    ) -> list[tuple[int, bytes]]:
        """(base offset, batch) of the batches from `base_offset` on that start before `end_offset`.

        At least one while there is any, and no further one that would pass `bytes_max` bytes in all."""
        found: list[tuple[int, bytes]] = []
        size = 0
        low = batch_key(partition_id, generation, base_offset)
        high = batch_key(partition_id, generation, end_offset)
        for key, batch in self._engine.scan("log", low, high):
            size += len(batch)
            if found and size > bytes_max:
                break
            found.append((_OFFSET.unpack_from(key, len(key) - 8)[0], batch))
        return found
