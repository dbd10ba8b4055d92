"""The bytes that all connections of the listener hold together: of requests, and of answers not yet taken.

A request's bytes are taken as its length is known, before it is read, and given back once it has been answered: what
is being read can always be finished. Where there is no room a connection is not read until there is. Large requests
leave a quarter to small ones, so that a few of them do not keep heartbeats and metadata out.
"""

from collections import deque
from collections.abc import Callable

SMALL_BYTES = 64 * 1024


class RequestBudget:
    """Bytes of requests that are being read or served."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.used = 0
        self._waiting: dict[bool, deque[tuple[int, Callable[[], None]]]] = {True: deque(), False: deque()}
        """By whether the request is small; with its size, in order."""

    def take(self, amount: int) -> bool:
        """Whether there was room and nobody waits before. One request is always let in, whatever its size."""
        if self._waiting[amount <= SMALL_BYTES] or not self._has_room(amount):
            return False
        self.used += amount
        return True

    def give(self, amount: int) -> None:
        assert 0 <= amount <= self.used
        self.used -= amount
        for waiting in self._waiting.values():
            while waiting and self._has_room(waiting[0][0]):
                admitted, go_on = waiting.popleft()
                self.used += admitted
                go_on()

    def wait(self, amount: int, go_on: Callable[[], None]) -> None:
        """Takes the bytes and calls `go_on` as soon as there is room."""
        self._waiting[amount <= SMALL_BYTES].append((amount, go_on))

    def leave(self, amount: int, go_on: Callable[[], None]) -> None:
        """Waits no longer."""
        self._waiting[amount <= SMALL_BYTES].remove((amount, go_on))

    def _has_room(self, amount: int) -> bool:
        most = self.most if amount <= SMALL_BYTES else self.most * 3 // 4
        return not self.used or self.used + amount <= most


class AnswerBudget:
    """Bytes of answers that clients are slow to take. Beyond the bound, the one that has been slow longest is cut."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.used = 0
        self._slow: dict[Callable[[str], None], int] = {}
        """By what cuts the connection off, in the order they became slow."""

    def hold(self, cut: Callable[[str], None], amount: int) -> None:
        """A connection holds `amount` bytes in all; 0: it is not slow any more."""
        self.used += amount - self._slow.get(cut, 0)
        if amount:
            self._slow[cut] = amount
        else:
            self._slow.pop(cut, None)
        while self.used > self.most and len(self._slow) > 1:
            slowest, its = next(iter(self._slow.items()))
            reason = f"answers not yet taken hold {self.used} bytes, {its} of them its, and it has been slow longest"
            self.used -= self._slow.pop(slowest)
            slowest(reason)
