"""What the layout above asks of an ordered key-value engine: the seam that the simulation replaces.

An engine holds four column families of byte strings in key order. `write` applies a `Batch` whole or not at all,
in the order of its operations; batches become durable in the order written and only with `sync`; a crash keeps a
prefix of them, never part of one. One thread writes and syncs, any thread reads, at the same time.

Errors: `Damaged` where stored bytes are not what was written, `StoreFull` where the disk has no room (nothing of the
batch has happened then), `OSError` for everything else that a disk does.
"""

from collections.abc import Iterator
from typing import Literal, Protocol

Family = Literal["node", "raft", "log", "state"]
FAMILIES: tuple[Family, ...] = ("node", "raft", "log", "state")

PUT, DELETE, DELETE_RANGE = 0, 1, 2

Operation = tuple[int, Family, bytes, bytes]
"""(PUT, family, key, value), (DELETE, family, key, b"") or (DELETE_RANGE, family, first key, end key)."""


class Batch:
    """Changes that happen together. A later operation wins over an earlier one on the same key."""

    __slots__ = ("operations", "size")

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.size = 0
        """Bytes of keys and values put."""

    def put(self, family: Family, key: bytes, value: bytes) -> None:
        self.operations.append((PUT, family, key, value))
        self.size += len(key) + len(value)

    def delete(self, family: Family, key: bytes) -> None:
        self.operations.append((DELETE, family, key, b""))

    def delete_range(self, family: Family, first: bytes, end: bytes) -> None:
        """Deletes the keys from `first`, inclusive, to `end`, exclusive; an empty range is left out."""
        if first < end:
            self.operations.append((DELETE_RANGE, family, first, end))


class Reads(Protocol):
    def get(self, family: Family, key: bytes) -> bytes | None: ...

    def scan(self, family: Family, low: bytes, high: bytes, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """(key, value) for keys from `low`, inclusive, to `high`, exclusive, as of the first step; never ends
        early in silence: raises Damaged where it cannot go on."""


class EngineView(Reads, Protocol):
    """All column families at one moment, unchanged by later writes, until closed."""

    def close(self) -> None: ...


class Engine(Reads, Protocol):
    def write(self, batch: Batch) -> None: ...

    def sync(self) -> None:
        """Returns once everything written before is on disk."""

    def snapshot(self) -> EngineView: ...

    def free_bytes(self) -> int:
        """Bytes that the disk has left for this engine."""

    def close(self) -> None: ...
