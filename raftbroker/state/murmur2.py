"""Kafka's murmur2 and its default partitioner, so that every client puts a key into the same partition.

The hash is the 32-bit MurmurHash2 with Kafka's seed, over the key's bytes (`Utils.murmur2` in Kafka's clients).
"""

import struct
from functools import lru_cache

_SEED = 0x9747B28C
_MULTIPLIER = 0x5BD1E995
_MASK = 0xFFFFFFFF


@lru_cache(maxsize=64)
def _words(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}I")


def murmur2(data: bytes) -> int:
    """The hash as an unsigned 32-bit number (Java shows the same bits signed)."""
    length = len(data)
    value = _SEED ^ length
    count = length >> 2
    if count:
        words = _words(count) if count <= 64 else struct.Struct(f"<{count}I")
        for word in words.unpack_from(data):
            mixed = (word * _MULTIPLIER) & _MASK
            mixed ^= mixed >> 24
            value = ((value * _MULTIPLIER) ^ (mixed * _MULTIPLIER)) & _MASK
    rest = length & 3
    if rest:
        value = ((value ^ int.from_bytes(data[length - rest :], "little")) * _MULTIPLIER) & _MASK
    value ^= value >> 13
    value = (value * _MULTIPLIER) & _MASK
    return value ^ (value >> 15)


def partition_for_key(key: bytes, partitions: int) -> int:
    """The partition number, 0 to partitions - 1, where Kafka's default partitioner puts this key."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions
