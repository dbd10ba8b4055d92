"""Reads a hostile request field by field, each within bounds.

A `Reader` walks over the bytes of one frame and never copies more than the field it is asked for. It never reads past
the end, a length or a count never makes it allocate more than the bytes that are there, and all arrays of a frame
together have at most `ELEMENTS_MAX` elements: the time and memory that a frame costs are bounded by its own size. What
is not sound raises `BrokenFrame`, or `struct.error`, `IndexError` or `UnicodeDecodeError`, which `api.decode` turns
into one.
"""

import uuid
from collections.abc import Callable
from struct import Struct, error, unpack_from
from typing import TypeVar

from raftbroker.kafka.errors import BrokenFrame

T = TypeVar("T")

ELEMENTS_MAX = 100_000
"""In all arrays of one frame; twice the partitions a cluster may have."""

UNSOUND = (error, IndexError, UnicodeDecodeError)
"""What a broken request may raise beside BrokenFrame."""

_INT8, _INT16, _UINT16, _INT32, _INT64, _FLOAT64 = map(Struct, (">b", ">h", ">H", ">i", ">q", ">d"))
_NO_UUID = bytes(16)


class Reader:
    """`at` is the index of the next byte of `data`."""

    __slots__ = ("at", "data", "elements_max", "end", "left")

    def __init__(self, data: memoryview, at: int = 0, *, elements_max: int = ELEMENTS_MAX) -> None:
        self.data = data
        self.at = at
        self.end = len(data)
        self.elements_max = self.left = elements_max
        """Array elements that this frame may still have."""

    # --- numbers --------------------------------------------------------------------------------------------

    def int8(self) -> int:
        at = self.at
        self.at = at + 1
        return int(_INT8.unpack_from(self.data, at)[0])

    def int16(self) -> int:
        at = self.at
        self.at = at + 2
        return int(_INT16.unpack_from(self.data, at)[0])

    def uint16(self) -> int:
        at = self.at
        self.at = at + 2
        return int(_UINT16.unpack_from(self.data, at)[0])

    def int32(self) -> int:
        at = self.at
        self.at = at + 4
        return int(_INT32.unpack_from(self.data, at)[0])

    def int64(self) -> int:
        at = self.at
        self.at = at + 8
        return int(_INT64.unpack_from(self.data, at)[0])

    def float64(self) -> float:
        at = self.at
        self.at = at + 8
        return float(_FLOAT64.unpack_from(self.data, at)[0])

    def boolean(self) -> bool:
        return self.int8() != 0

    def uvarint(self) -> int:
        """An unsigned varint of at most five bytes and 32 bits."""
        value = self.data[self.at]
        self.at += 1
        if value < 0x80:
            return value
        value &= 0x7F
        for shift in (7, 14, 21, 28):
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >> 32:
                    break
                return value
        raise BrokenFrame("a variable-length number has more than 32 bits")

    # --- bytes ----------------------------------------------------------------------------------------------

    def view(self, size: int) -> memoryview:
        """The next `size` bytes, not copied."""
        at = self.at
        if size < 0 or size > self.end - at:
            raise BrokenFrame(f"a field of {size} bytes begins {self.end - at} bytes before the end of the frame")
        self.at = at + size
        return self.data[at : at + size]

    def nullable_bytes(self, compact: bool) -> memoryview | None:
        """Not copied."""
        size = self.uvarint() - 1 if compact else self.int32()
        return None if size == -1 else self.view(size)

    def nullable_string(self, compact: bool) -> str | None:
        size = self.uvarint() - 1 if compact else self.int16()
        return None if size == -1 else str(self.view(size), "utf-8")

    def string(self, compact: bool) -> str:
        size = self.uvarint() - 1 if compact else self.int16()
        if size == -1:
            raise BrokenFrame("a string is null that must not be")
        return str(self.view(size), "utf-8")

    def uuid(self) -> uuid.UUID | None:
        """None for the one of zeros, which says that there is none."""
        raw = bytes(self.view(16))
        return None if raw == _NO_UUID else uuid.UUID(bytes=raw)

    # --- arrays and tags ------------------------------------------------------------------------------------

    def nullable_count(self, compact: bool) -> int | None:
        """How many elements an array has, None for a null one. Bounded."""
        count = self.uvarint() - 1 if compact else self.int32()
        if count == -1:
            return None
        self.left -= count
        if not 0 <= count <= self.end - self.at:
            raise BrokenFrame(f"an array of {count} elements begins {self.end - self.at} bytes before the frame's end")
        if self.left < 0:
            raise BrokenFrame(f"the request lists more than {self.elements_max} things; ask in several requests")
        return count

    def count(self, compact: bool) -> int:
        count = self.nullable_count(compact)
        if count is None:
            raise BrokenFrame("an array is null that must not be")
        return count

    def int32s(self, count: int) -> list[int]:
        at = self.at
        self.at = at + 4 * count
        return list(unpack_from(f">{count}i", self.data, at))

    def tags(self, known: Callable[[int], Callable[["Reader"], None] | None] | None = None) -> None:
        """Reads tagged fields: `known` gives for a tag what reads its value, or None; what is unknown is skipped."""
        count = self.uvarint()
        if count:
            self._tags(count, known)

    def _tags(self, count: int, known: Callable[[int], Callable[["Reader"], None] | None] | None) -> None:
        self.left -= count
        if self.left < 0:
            raise BrokenFrame(f"the request lists more than {self.elements_max} things; ask in several requests")
        before = -1
        for _ in range(count):
            tag = self.uvarint()
            size = self.uvarint()
            if tag <= before:
                raise BrokenFrame(f"tagged field {tag} comes after {before}")
            before = tag
            if size > self.end - self.at:
                raise BrokenFrame(f"tagged field {tag} of {size} bytes does not fit into the frame")
            after = self.at + size
            read = known(tag) if known is not None else None
            if read is not None:
                read(self)
                if self.at != after:
                    raise BrokenFrame(f"tagged field {tag} has not the {size} bytes it says")
            self.at = after
