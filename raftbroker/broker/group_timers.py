"""Deadlines of members on the leader of their shard. To move one further away, as heartbeats do, costs a dict store."""

from heapq import heappop, heappush
from typing import NamedTuple


class Timer(NamedTuple):
    """What runs out: a member's "session", its time to "sync", or its time to give up partitions, "revoke"."""

    kind: str
    group: str
    member: str


class Timers:
    """Times are seconds on the loop's clock."""

    def __init__(self) -> None:
        self._due: dict[Timer, float] = {}
        self._heap: list[tuple[float, Timer]] = []
        self._queued: dict[Timer, float] = {}
        """The earliest entry of a timer in the heap."""

    def __len__(self) -> int:
        return len(self._due)

    def __contains__(self, timer: Timer) -> bool:
        return timer in self._due

    def set(self, timer: Timer, at: float) -> None:
        self._due[timer] = at
        queued = self._queued.get(timer)
        if queued is None or at < queued:
            self._queued[timer] = at
            heappush(self._heap, (at, timer))

    def drop(self, timer: Timer) -> None:
        self._due.pop(timer, None)

    def next(self) -> float | None:
        """No timer runs out before; perhaps none does then."""
        return self._heap[0][0] if self._heap else None

    def run_out(self, now: float) -> list[Timer]:
        """Those that have, and are no more."""
        gone: list[Timer] = []
        while self._heap and self._heap[0][0] <= now:
            at, timer = heappop(self._heap)
            if self._queued.get(timer) != at:
                continue
            del self._queued[timer]
            due = self._due.get(timer)
            if due is None:
                continue
            if due > now:
                self._queued[timer] = due
                heappush(self._heap, (due, timer))
            else:
                del self._due[timer]
                gone.append(timer)
        return gone
