"""A bounded memory of what partitions have seen: the oldest is forgotten first, per partition and per group.

Two bounds, because either alone fails: without the one per partition a busy partition would push out the others'
entries, without the one per group thousands of partitions would fill the memory. Order is the order of `put`, so
replicas that put the same things forget the same things.
"""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

K = TypeVar("K", int, bytes)


class Touched(Protocol):
    @property
    def touched(self) -> int: ...


V = TypeVar("V", bound=Touched)


class Window(Generic[K, V]):
    """(partition, key) -> value, at most `partition_max` for each partition and `group_max` in all."""

    def __init__(self, partition_max: int, group_max: int) -> None:
        self._partition_max = partition_max
        self._group_max = group_max
        self._partitions: dict[int, OrderedDict[K, V]] = {}
        self._order: OrderedDict[tuple[int, K], None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._order)

    def get(self, partition: int, key: K) -> V | None:
        entries = self._partitions.get(partition)
        return None if entries is None else entries.get(key)

    def of(self, partition: int) -> dict[K, V]:
        """All of a partition, oldest first."""
        return dict(self._partitions.get(partition, ()))

    def put(self, partition: int, key: K, value: V) -> list[tuple[int, K]]:
        """Stores as the newest; returns what had to be forgotten for it."""
        entries = self._partitions.get(partition)
        if entries is None:
            entries = self._partitions[partition] = OrderedDict()
        place = (partition, key)
        if key in entries:
            entries.move_to_end(key)
            self._order.move_to_end(place)
        entries[key] = value
        self._order[place] = None
        forgotten: list[tuple[int, K]] = []
        while len(entries) > self._partition_max:
            forgotten.append((partition, next(iter(entries))))
            self._forget(forgotten[-1])
        while len(self._order) > self._group_max:
            forgotten.append(next(iter(self._order)))
            self._forget(forgotten[-1])
        return forgotten

    def _forget(self, place: tuple[int, K]) -> None:
        partition, key = place
        del self._order[place]
        entries = self._partitions[partition]
        del entries[key]
        if not entries:
            del self._partitions[partition]

    def drop(self, partition: int) -> list[K]:
        """Forgets all of a partition; returns the keys it had."""
        keys = list(self._partitions.pop(partition, ()))
        for key in keys:
            del self._order[(partition, key)]
        return keys

    def restore(self, entries: list[tuple[int, K, V]]) -> None:
        """Replaces everything by these, which go in by their `touched`."""
        self._partitions.clear()
        self._order.clear()
        for partition, key, value in sorted(entries, key=lambda entry: entry[2].touched):
            self.put(partition, key, value)

    def items(self) -> Iterator[tuple[int, K, V]]:
        """Everything, oldest first."""
        for partition, key in self._order:
            yield partition, key, self._partitions[partition][key]
