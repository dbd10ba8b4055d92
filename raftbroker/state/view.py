"""Rows of a state machine, bytes to bytes, read by key and by prefix.

A `View` is what a machine decides from. `MemoryView` holds all rows of one group in memory; scans come in byte
order. The sorted list of keys is made when a scan asks for it and kept until a key comes or goes, so overwriting a
row costs one dict store.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import Protocol


class View(Protocol):
    """Read access to rows at one moment."""

    def get(self, key: bytes) -> bytes | None: ...

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Rows whose key starts with `prefix`, in byte order of the keys."""


class MemoryView:
    """All rows of one group. Do not apply while a scan is under way: take a list first."""

    def __init__(self, rows: Mapping[bytes, bytes] | None = None) -> None:
        self._rows: dict[bytes, bytes] = dict(rows or {})
        self._sorted: list[bytes] | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, key: bytes) -> bytes | None:
        return self._rows.get(key)

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        if self._sorted is None:
            self._sorted = sorted(self._rows)
        keys = self._sorted
        for position in range(bisect_left(keys, prefix), len(keys)):
            key = keys[position]
            if not key.startswith(prefix):
                return
            yield key, self._rows[key]

    def apply(self, rows: Mapping[bytes, bytes | None]) -> None:
        """Stores these rows; None deletes, and deleting what is not there is no error."""
        for key, value in rows.items():
            if value is None:
                if self._rows.pop(key, None) is not None:
                    self._sorted = None
            else:
                if key not in self._rows:
                    self._sorted = None
                self._rows[key] = value

    def rows(self) -> dict[bytes, bytes]:
        """A copy of everything."""
        return dict(self._rows)
