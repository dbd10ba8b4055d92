"""Cuts a stream of concatenated JSON objects into single objects, without decoding them.

The stream comes in pieces that end anywhere; objects may be separated by whitespace, newlines or nothing at all. The
cutter only finds where each top-level object ends: it tracks nesting, strings and escapes. Whether an object is valid
JSON is for the decoder to say, so that one bad object has its own report and the next one is still found.

Invariants: every byte is looked at once; what is kept is at most one unfinished object, bounded by `object_bytes_max`.
"""

import re
from enum import Enum

_OUTSIDE = re.compile(rb'[{}\[\]"]')
_INSIDE = re.compile(rb'["\\]')
_SPACE = re.compile(rb"[ \t\r\n]*")


class Broken(Enum):
    """Why a stream is of no use from some byte on."""

    NOT_AN_OBJECT = "something else than an object stands where a record should begin"
    TOO_LARGE = "a record is longer than allowed"


class JsonCutter:
    """Feed it bytes, take whole objects. Once `broken` is set nothing more comes out."""

    def __init__(self, object_bytes_max: int) -> None:
        self._object_bytes_max = object_bytes_max
        self._kept = bytearray()
        self._at = 0
        self._depth = 0
        self._in_string = False
        self.broken: Broken | None = None

    @property
    def unfinished(self) -> int:
        """Bytes of an object that has begun and not ended."""
        return len(self._kept)

    def feed(self, data: bytes) -> list[bytes]:
        """The objects that `data` completes."""
        if self.broken is not None:
            return []
        kept = self._kept
        kept += data
        start = 0
        objects: list[bytes] = []
        while True:
            if self._depth == 0:
                start = self._skip_space(start)
                if start == len(kept) or self.broken is not None:
                    break
            end = self._scan()
            if (len(kept) if end < 0 else end) - start > self._object_bytes_max:
                self.broken = Broken.TOO_LARGE
            if end < 0 or self.broken is not None:
                break
            objects.append(bytes(kept[start:end]))
            start = end
        del kept[:start]
        self._at -= start
        return objects

    def _skip_space(self, start: int) -> int:
        found = _SPACE.match(self._kept, start)
        assert found is not None
        start = found.end()
        if start < len(self._kept) and self._kept[start] != 0x7B:
            self.broken = Broken.NOT_AN_OBJECT
        self._at = start
        return start

    def _scan(self) -> int:
        """Where the object that has begun ends, or -1 when it does not yet."""
        kept, at, size = self._kept, self._at, len(self._kept)
        while at < size:
            found = (_INSIDE if self._in_string else _OUTSIDE).search(kept, at)
            if found is None:
                at = size
                break
            at = found.end()
            symbol = kept[at - 1]
            if symbol == 0x5C:
                if at == size:
                    at -= 1
                    break
                at += 1
            elif symbol == 0x22:
                self._in_string = not self._in_string
            elif symbol in (0x7B, 0x5B):
                self._depth += 1
            else:
                self._depth -= 1
                if self._depth == 0:
                    self._at = at
                    return at
        self._at = at
        return -1
