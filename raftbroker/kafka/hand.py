"""What the hand-written codecs share: strings, varints and tagged fields at a place in a frame.

Each reads at `at` and answers (value, the place behind it). What is cut off raises `IndexError`, `struct.error` or
`BrokenFrame`.
"""

from struct import Struct

from raftbroker.kafka.errors import BrokenFrame

_INT16 = Struct(">h")
_TEXT_BYTES_MAX = 32767


def uvarint(data: memoryview, at: int) -> tuple[int, int]:
    """An unsigned varint of at most five bytes and 32 bits."""
    value = data[at]
    if value < 0x80:
        return value, at + 1
    value &= 0x7F
    for shift in (7, 14, 21, 28):
        at += 1
        byte = data[at]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 32:
                break
            return value, at + 1
    raise BrokenFrame("a variable-length number has more than 32 bits")


def text(data: memoryview, at: int) -> tuple[str, int]:
    (length,) = _INT16.unpack_from(data, at)
    if length < 0:
        raise BrokenFrame("a string is null that must not be")
    return _text(data, at + 2, length)


def nullable_text(data: memoryview, at: int) -> tuple[str | None, int]:
    (length,) = _INT16.unpack_from(data, at)
    if length == -1:
        return None, at + 2
    return _text(data, at + 2, length)


def compact_text(data: memoryview, at: int) -> tuple[str | None, int]:
    length, at = uvarint(data, at)
    return (None, at) if length == 0 else _text(data, at, length - 1)


def _text(data: memoryview, at: int, length: int) -> tuple[str, int]:
    end = at + length
    if not 0 <= length <= _TEXT_BYTES_MAX or end > len(data):
        raise BrokenFrame(f"a string of {length} bytes begins {len(data) - at} bytes before the end of the frame")
    return str(data[at:end], "utf-8"), end


def skip_tags(data: memoryview, at: int) -> int:
    """The place behind a list of tagged fields, none of which is known."""
    count, at = uvarint(data, at)
    before = -1
    for _ in range(count):
        tag, at = uvarint(data, at)
        size, at = uvarint(data, at)
        if tag <= before:
            raise BrokenFrame(f"tagged field {tag} comes after {before}")
        before = tag
        at += size
        if at > len(data):
            raise BrokenFrame(f"tagged field {tag} of {size} bytes does not fit into the frame")
    return at


def pack_uvarint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_SMALL = [pack_uvarint(value) for value in range(256)]


def packed_uvarint(value: int) -> bytes:
    return _SMALL[value] if value < 256 else pack_uvarint(value)


def write_text(out: bytearray, value: str, flexible: bool) -> None:
    data = value.encode()
    out += packed_uvarint(len(data) + 1) if flexible else _INT16.pack(len(data))
    out += data
