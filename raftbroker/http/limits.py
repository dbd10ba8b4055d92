"""Bounds on what this node has in hand for its clients at once: requests, bytes of bodies, long polls, streams.

Nothing waits for a place: beyond a bound a request is refused at once with 429 and `Retry-After`, so that a flood costs
neither memory nor time, and a client's own retry is the queue.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from raftbroker.http.problems import TOO_MANY, Problem

_RETRY_AFTER_SECONDS = 1.0


class Limit:
    """A count with a ceiling. Everything taken must be given back."""

    def __init__(self, name: str, most: int) -> None:
        self.name = name
        self.most = most
        self.used = 0
        self.refused = 0

    def take(self, amount: int = 1) -> None:
        if self.used + amount > self.most:
            self.refused += 1
            raise Problem(
                TOO_MANY,
                f"This node has too much in hand ({self.name}, at most {self.most}); try again a little later.",
                retry_after=_RETRY_AFTER_SECONDS,
            )
        self.used += amount

    def give(self, amount: int = 1) -> None:
        assert 0 <= amount <= self.used
        self.used -= amount

    @contextmanager
    def held(self, amount: int = 1) -> Iterator[None]:
        self.take(amount)
        try:
            yield
        finally:
            self.give(amount)


class Limits:
    """The front door's limits together."""

    def __init__(self, *, requests: int, body_bytes: int, long_polls: int, streams: int, pushes: int) -> None:
        self.requests = Limit("requests at once", requests)
        self.body_bytes = Limit("bytes of request bodies", body_bytes)
        self.long_polls = Limit("reads that wait for records", long_polls)
        self.streams = Limit("streamed requests", streams)
        self.pushes = Limit("pushed streams", pushes)

    @property
    def all(self) -> tuple[Limit, ...]:
        return self.requests, self.body_bytes, self.long_polls, self.streams, self.pushes
