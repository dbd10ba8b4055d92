"""Who waits, for what, until when: proposals for their entry, readers for a heartbeat round, anyone for an index.

Every wait ends by its deadline (C10). A proposal whose leader is deposed is not given up: the entry committed at its
index tells whether it was the one (done) or another (refused, certainly discarded); only silence is unknown.
"""

import asyncio
import heapq
from collections.abc import Sequence

from consensus.errors import ConsensusError, Refused, Unknown
from consensus.model import Entry


def _finish(future: "asyncio.Future[int]", timer: asyncio.TimerHandle, outcome: int | ConsensusError) -> None:
    timer.cancel()
    if future.done():
        return
    if isinstance(outcome, ConsensusError):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _expire(future: "asyncio.Future[int]", message: str) -> None:
    if not future.done():
        future.set_exception(Unknown(message))


class Proposals:
    """Entries this node has appended as leader and somebody waits for."""

    def __init__(self, group: int) -> None:
        self._group = group
        self._waiting: dict[int, tuple[int, int, asyncio.Future[int], asyncio.TimerHandle]] = {}
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, entry: Entry, timeout: float) -> "asyncio.Future[int]":
        self.decide_replaced(entry.index)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[int] = loop.create_future()
        message = f"entry {entry.index} of group {self._group} was not decided within {timeout:.3f} s"
        timer = loop.call_later(timeout, _expire, future, message)
        size = entry.size
        self._waiting[entry.index] = (entry.term, size, future, timer)
        self.bytes += size
        return future

    def decide_replaced(self, index: int) -> None:
        """An entry of ours at this index, from an earlier term, was truncated and its place is taken by our own."""
        waiting = self._waiting.pop(index, None)
        if waiting is not None:
            self.bytes -= waiting[1]
            _finish(waiting[2], waiting[3], Refused(f"entry {index} of group {self._group} was discarded"))

    def applied(self, entries: Sequence[Entry]) -> None:
        """These entries are committed and applied: decides those waited for."""
        if not self._waiting:
            return
        for entry in entries:
            waiting = self._waiting.pop(entry.index, None)
            if waiting is None:
                continue
            term, size, future, timer = waiting
            self.bytes -= size
            discarded = Refused(f"entry {entry.index} of group {self._group} was discarded by a later leader")
            _finish(future, timer, entry.index if term == entry.term else discarded)

    def skipped(self, index: int) -> None:
        """A snapshot stands for everything up to `index`: what happened to entries there cannot be told."""
        for waited in [i for i in self._waiting if i <= index]:
            _, size, future, timer = self._waiting.pop(waited)
            self.bytes -= size
            _finish(future, timer, Unknown(f"entry {waited} of group {self._group} was passed over by a snapshot"))

    def fail(self, error: ConsensusError) -> None:
        waiting, self._waiting, self.bytes = self._waiting, {}, 0
        for _, _, future, timer in waiting.values():
            _finish(future, timer, error)


class Thresholds:
    """Futures that end once a number (an applied index, a heartbeat round) has been reached."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, asyncio.Future[int], asyncio.TimerHandle]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, threshold: int, timeout: float, message: str) -> "asyncio.Future[int]":
        loop = asyncio.get_running_loop()
        future: asyncio.Future[int] = loop.create_future()
        timer = loop.call_later(timeout, _expire, future, message)
        self._count += 1
        heapq.heappush(self._heap, (threshold, self._count, future, timer))
        return future

    def reached(self, value: int) -> None:
        while self._heap and self._heap[0][0] <= value:
            threshold, _, future, timer = heapq.heappop(self._heap)
            _finish(future, timer, threshold)

    def fail(self, error: ConsensusError) -> None:
        heap, self._heap = self._heap, []
        for _, _, future, timer in heap:
            _finish(future, timer, error)
