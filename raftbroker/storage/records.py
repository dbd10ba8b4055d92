"""Record batches as they lie in the column family `log`: `partition id | base offset` -> batch, byte for byte.

These are the payloads of the Raft log: written when their entry is appended, gone if it is truncated, so whoever
reads them keeps below the high watermark.
"""

import struct

from raftbroker.storage.engine import Reads

_KEY = struct.Struct(">QQ")


def payload_key(partition_id: int, base_offset: int) -> bytes:
    return _KEY.pack(partition_id, base_offset)


def split_payload_key(key: bytes) -> tuple[int, int]:
    """(partition id, base offset)."""
    partition_id, base_offset = _KEY.unpack(key)
    return partition_id, base_offset


class RecordReader:
    """Reads batches for fetches; from any thread. Both methods raise Damaged where the disk's bytes are wrong."""

    def __init__(self, engine: Reads) -> None:
        self._engine = engine

    def floor(self, partition_id: int, offset: int) -> int | None:
        """The base offset of the last batch that starts at or before `offset`: the one that contains it, if any."""
        low, high = payload_key(partition_id, 0), payload_key(partition_id, offset + 1)
        for key, _ in self._engine.scan("log", low, high, reverse=True):
            return split_payload_key(key)[1]
        return None

    def read(self, partition_id: int, base_offset: int, end_offset: int, bytes_max: int) -> list[tuple[int, bytes]]:
        """(base offset, batch) of the batches from `base_offset` on that start before `end_offset`.

        At least one while there is any, and no further one that would pass `bytes_max` bytes in all."""
        found: list[tuple[int, bytes]] = []
        size = 0
        low, high = payload_key(partition_id, base_offset), payload_key(partition_id, end_offset)
        for key, batch in self._engine.scan("log", low, high):
            size += len(batch)
            if found and size > bytes_max:
                break
            found.append((split_payload_key(key)[1], batch))
        return found
