"""When which message is due: a heap that drops what has changed since only when it comes up.

A timer is one whole number, its time in the upper bits and the message's number in the lower 48, so that a million of
them take little room.
"""

from collections.abc import Callable
from heapq import heapify, heappop, heappush

_SHIFT = 48
_MASK = (1 << _SHIFT) - 1
_SLACK = 1024


class Timers:
    """`due_of(number)` is when the message is due by now (0: not at all): a timer that says otherwise is stale."""

    def __init__(self, due_of: Callable[[int], int]) -> None:
        self._due_of = due_of
        self._heap: list[int] = []
        self._live = 0

    def changed(self, number: int, before_ms: int, due_ms: int) -> None:
        """`due_of(number)` was `before_ms` and is `due_ms`."""
        self._live += (due_ms > 0) - (before_ms > 0)
        if due_ms > 0 and due_ms != before_ms:
            heappush(self._heap, due_ms << _SHIFT | number)
            if len(self._heap) > 2 * self._live + _SLACK:
                self._heap = list({timer for timer in self._heap if self._due_of(timer & _MASK) == timer >> _SHIFT})
                heapify(self._heap)

    def next_due(self) -> int | None:
        """When to look again; perhaps too early, never too late."""
        return self._heap[0] >> _SHIFT if self._heap else None

    def pop_due(self, time_ms: int) -> int | None:
        """The number of the next message that is due by `time_ms`, by time, then by number."""
        heap = self._heap
        while heap and heap[0] >> _SHIFT <= time_ms:
            timer = heappop(heap)
            if self._due_of(timer & _MASK) == timer >> _SHIFT:
                return timer & _MASK
        return None
