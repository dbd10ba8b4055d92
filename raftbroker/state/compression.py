"""Kafka's codecs. Decompression with a bound on what comes out: no length in the input is trusted.

gzip streams through zlib, which stops at the bound. A raw snappy block names its size, which is checked before anything
is allocated. lz4 and zstd frames are unpacked into a buffer that grows to the bound and no further, because a frame
need not say its size. Snappy comes raw or in xerial's framing (snappy-java's stream: a 16-byte header, then blocks each
behind its length), as Java's clients write it.

Compression, for batches that the broker has to make anew, writes what every client reads: snappy in xerial's framing,
and lz4 frames of independent blocks, for Java's clients refuse linked ones.
"""

import gzip
import struct
import zlib
from collections.abc import Callable
from enum import IntEnum

import cramjam

from raftbroker.state.errors import BadBatch

_XERIAL_MAGIC = b"\x82SNAPPY\x00"
_XERIAL_HEADER_BYTES = 16
_XERIAL_VERSIONS = struct.pack(">ii", 1, 1)
_XERIAL_BLOCK_BYTES = 1 << 15
_LENGTH = struct.Struct(">i")
_BUFFER_BYTES_MIN = 1 << 16
_GZIP_LEVEL = 6
"""zlib's default, and that of Kafka's clients."""


class Codec(IntEnum):
    """The low three bits of a batch's attributes."""

    NONE = 0
    GZIP = 1
    SNAPPY = 2
    LZ4 = 3
    ZSTD = 4


def decompress(codec: Codec, data: bytes | memoryview, bytes_max: int) -> bytes | memoryview:
    """At most `bytes_max` bytes. Raises BadBatch for corrupt input and for input that holds more."""
    if codec is Codec.NONE:
        unpacked: bytes | memoryview = data
    elif codec is Codec.GZIP:
        unpacked = _gzip(data, bytes_max)
    elif codec is Codec.SNAPPY:
        unpacked = _snappy(bytes(data), bytes_max)
    else:
        unpacked = _frame(codec, bytes(data), bytes_max)
    if len(unpacked) > bytes_max:
        raise _too_large(codec, bytes_max)
    return unpacked


def compress(codec: Codec, data: bytes) -> bytes:
    """What `decompress` makes `data` of again; at the codec's usual level."""
    if codec is Codec.NONE:
        return data
    if codec is Codec.GZIP:
        return gzip.compress(data, _GZIP_LEVEL, mtime=0)
    if codec is Codec.SNAPPY:
        return _xerial(data)
    if codec is Codec.LZ4:
        frame = cramjam.lz4.Compressor(content_checksum=False, block_linked=False)
        frame.compress(data)
        return bytes(frame.finish())
    return bytes(cramjam.zstd.compress(data))


def _xerial(data: bytes) -> bytes:
    parts = [_XERIAL_MAGIC, _XERIAL_VERSIONS]
    for start in range(0, len(data), _XERIAL_BLOCK_BYTES):
        block = bytes(cramjam.snappy.compress_raw(data[start : start + _XERIAL_BLOCK_BYTES]))
        parts += (_LENGTH.pack(len(block)), block)
    return b"".join(parts)


def _too_large(codec: Codec, bytes_max: int) -> BadBatch:
    return BadBatch(f"{codec.name.lower()} data holds more than {bytes_max} bytes: send smaller batches")


def _corrupt(codec: Codec, cause: object) -> BadBatch:
    return BadBatch(f"{codec.name.lower()} data is corrupt: {cause}")


def _gzip(data: bytes | memoryview, bytes_max: int) -> bytes:
    pieces: list[bytes] = []
    room = bytes_max
    rest: bytes | memoryview = data
    while True:
        stream = zlib.decompressobj(wbits=31)
        try:
            piece = stream.decompress(rest, room + 1)
        except zlib.error as error:
            raise _corrupt(Codec.GZIP, error) from error
        room -= len(piece)
        if room < 0:
            raise _too_large(Codec.GZIP, bytes_max)
        if not stream.eof:
            raise _corrupt(Codec.GZIP, "it ends too early")
        pieces.append(piece)
        rest = stream.unused_data
        if not rest:
            return b"".join(pieces)


def _snappy(data: bytes, bytes_max: int) -> bytes:
    if not data.startswith(_XERIAL_MAGIC):
        return _snappy_block(data, bytes_max)
    pieces: list[bytes] = []
    room = bytes_max
    position = _XERIAL_HEADER_BYTES
    while position < len(data):
        if position + 4 > len(data):
            raise _corrupt(Codec.SNAPPY, "a block's length is cut off")
        (length,) = _LENGTH.unpack_from(data, position)
        position += 4
        if not 0 < length <= len(data) - position:
            raise _corrupt(Codec.SNAPPY, f"a block claims {length} bytes, {len(data) - position} are left")
        piece = _snappy_block(data[position : position + length], room)
        room -= len(piece)
        pieces.append(piece)
        position += length
    return b"".join(pieces)


def _snappy_block(data: bytes, bytes_max: int) -> bytes:
    try:
        size = cramjam.snappy.decompress_raw_len(data)
        if size > bytes_max:
            raise _too_large(Codec.SNAPPY, bytes_max)
        return bytes(cramjam.snappy.decompress_raw(data))
    except cramjam.DecompressionError as error:
        raise _corrupt(Codec.SNAPPY, error) from error


def _frame(codec: Codec, data: bytes, bytes_max: int) -> memoryview:
    unpack: Callable[[bytes, bytearray], int] = (
        cramjam.lz4.decompress_into if codec is Codec.LZ4 else cramjam.zstd.decompress_into
    )
    size = min(max(4 * len(data), _BUFFER_BYTES_MIN), bytes_max)
    while True:
        buffer = bytearray(size)
        try:
            return memoryview(buffer)[: unpack(data, buffer)]
        except (cramjam.DecompressionError, OSError, ValueError) as error:
            # A buffer too small and corrupt input raise alike; only the largest buffer tells.
            if size >= bytes_max:
                raise _corrupt(codec, f"{error} (or it holds more than {bytes_max} bytes)") from error
        size = min(size * 8, bytes_max)
