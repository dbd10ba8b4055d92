"""Who waits for messages of one queue, on the node that leads its shard: first come, first served.

A receive is proposed only for messages that are there and that no receive before it, still to be decided, will take: so
a message that comes while many wait makes one op, and goes to who has waited longest.
"""

import asyncio
from collections import deque
from collections.abc import Callable


class _Place:
    """One that waits; its future becomes how many messages it may ask for."""

    __slots__ = ("future", "wanted")

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.future: asyncio.Future[int] = asyncio.get_running_loop().create_future()


class Line:
    """`available` tells how many messages the applied state has to give; None: the queue is gone."""

    def __init__(self, available: Callable[[], int | None]) -> None:
        self._available = available
        self._waiting: deque[_Place] = deque()
        self._promised = 0

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._promised

    @property
    def waits(self) -> bool:
        """Whether anyone stands in it; who has given up counts until the next look."""
        while self._waiting and self._waiting[0].future.done():
            self._waiting.popleft()
        return bool(self._waiting)

    def take(self, wanted: int) -> int:
        """How many messages may be asked for at once, without waiting; 0 where none are, or others wait."""
        if self.waits:
            return 0
        return self._promise(wanted)

    def _promise(self, wanted: int) -> int:
        count = min(wanted, (self._available() or 0) - self._promised)
        if count <= 0:
            return 0
        self._promised += count
        return count

    async def wait(self, wanted: int, deadline: float, *, first: bool) -> int:
        """How many messages may be asked for, once there are some; 0 at the deadline (on the loop's clock), or when
        the queue is gone. `first`: it has waited before, and got nothing. What is promised has to be given back."""
        place = _Place(wanted)
        if first:
            self._waiting.appendleft(place)
        else:
            self._waiting.append(place)
        timer = asyncio.get_running_loop().call_at(deadline, _give_up, place)
        try:
            return await place.future
        except asyncio.CancelledError:
            if place.future.done() and not place.future.cancelled() and place.future.exception() is None:
                self.give_back(place.future.result())
            raise
        finally:
            timer.cancel()

    def give_back(self, count: int) -> None:
        """What was promised has been decided, or is not wanted any more."""
        self._promised -= count
        self.look()

    def look(self) -> None:
        """Messages may have become available: those who have waited longest may ask for them."""
        if self._available() is None:
            self._end(0)
        while self.waits:
            count = self._promise(self._waiting[0].wanted)
            if not count:
                return
            self._waiting.popleft().future.set_result(count)

    def fail(self, error: Exception) -> None:
        """Nobody gets anything here any more."""
        while self.waits:
            self._waiting.popleft().future.set_exception(error)

    def _end(self, count: int) -> None:
        while self.waits:
            self._waiting.popleft().future.set_result(count)


def _give_up(place: _Place) -> None:
    if not place.future.done():
        place.future.set_result(0)
