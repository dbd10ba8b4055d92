"""Names by the time at which something is due for them, the earliest first; names of the same time in byte order."""

import heapq


class Deadlines:
    """Each name has one entry among those that wait, perhaps for an earlier time than it is due by now: it is put right
    when it comes up. So moving a deadline on, as happens all the time, costs nothing."""

    def __init__(self) -> None:
        self._due: dict[str, int] = {}
        self._waiting: list[tuple[int, str]] = []
        self._scheduled: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._due)

    def set(self, name: str, at: int) -> None:
        self._due[name] = at
        scheduled = self._scheduled.get(name)
        if scheduled is None or at < scheduled:
            self._scheduled[name] = at
            heapq.heappush(self._waiting, (at, name))

    def discard(self, name: str) -> None:
        self._due.pop(name, None)

    def first(self) -> tuple[int, str] | None:
        """The earliest deadline and its name."""
        while self._waiting:
            at, name = self._waiting[0]
            due = self._due.get(name)
            if self._scheduled.get(name) != at:
                heapq.heappop(self._waiting)
            elif due is None:
                heapq.heappop(self._waiting)
                del self._scheduled[name]
            elif due != at:
                self._scheduled[name] = due
                heapq.heapreplace(self._waiting, (due, name))
            else:
                return at, name
        return None
