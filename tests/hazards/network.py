"""A network that does as it is told, and what a schedule may do to a cluster on it, whoever replicates."""

import heapq
import random
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

Message = TypeVar("Message")
Wire = tuple[int, int]


class Network(Generic[Message]):
    """FIFO on each link, like the TCP connections it stands for; delays in seconds, bandwidth in bytes a second."""

    def __init__(self, seed: int, size: Callable[[Message], int]) -> None:
        self.random = random.Random(seed)
        self.now = 1000.0
        self.delay, self.jitter = 0.005, 0.01
        self.bandwidth: float | None = None
        self.cut: set[Wire] = set()
        self.held: dict[Wire, list[Message]] = {}
        self.inboxes: dict[int, Callable[[int, Message], None]] = {}
        self._size = size
        self._queue: list[tuple[float, int, int, int, Message]] = []
        self._sent = 0
        self._line_free: dict[Wire, float] = {}
        self._last_arrival: dict[Wire, float] = {}

    def send(self, src: int, dst: int, message: Message) -> None:
        wire = (src, dst)
        if wire in self.cut:
            return
        if wire in self.held:
            self.held[wire].append(message)
            return
        started = max(self.now, self._line_free.get(wire, 0.0))
        self._line_free[wire] = started + (self._size(message) / self.bandwidth if self.bandwidth else 0.0)
        arrival = self._line_free[wire] + self.delay + self.jitter * self.random.random()
        self._last_arrival[wire] = arrival = max(arrival, self._last_arrival.get(wire, 0.0))
        self._sent += 1
        heapq.heappush(self._queue, (arrival, self._sent, src, dst, message))

    def release(self, wire: Wire) -> None:
        for message in self.held.pop(wire):
            self.send(*wire, message)

    def deliver(self) -> None:
        while self._queue and self._queue[0][0] <= self.now:
            _, _, src, dst, message = heapq.heappop(self._queue)
            if (src, dst) not in self.cut and dst in self.inboxes:
                self.inboxes[dst](src, message)

    def lose_all_under_way(self) -> None:
        self._queue.clear()


class Cluster(Protocol):
    """Replicated lists of values on nodes 0, 1, ..., for a schedule to play with."""

    ids: list[int]
    acknowledged: list[str]
    """Values whose callers were told that they are committed, in that order."""

    @property
    def network(self) -> Network: ...  # type: ignore[type-arg]

    def run(self, seconds: float, until: Callable[[], bool] | None = None, step: float = 0.005) -> bool:
        """Lets time pass; whether `until`, if given, came true within it."""

    def put(self, node: int, value: str) -> None:
        """Through this node, if it will take it."""

    def elect(self, node: int) -> None:
        """Makes this node lead: its timer happens to run out first, or leadership is handed to it."""

    def kill(self, *nodes: int) -> None: ...

    def leaders(self) -> list[int]:
        """Those alive that take themselves for the leader."""

    def serving(self) -> list[int]:
        """Those of the highest term that have also committed and applied an entry of it."""

    def values(self, node: int) -> list[str]:
        """As applied there."""

    def last(self, node: int) -> int:
        """Index of the last entry of the node's log."""

    def commit(self, node: int) -> int: ...

    def holders(self, node: int, index: int) -> int:
        """How many nodes alive have the entry that this node has at `index`."""

    def compact(self, node: int) -> None:
        """Drops the log's prefix there, so that who lacks it needs a snapshot."""

    def break_loading(self, node: int) -> None:
        """From now on no snapshot can be loaded there."""


def isolate(cluster: Cluster, *group: int) -> None:
    """Cuts the group off from all others, and heals whatever else is cut."""
    cluster.network.cut = {(a, b) for a in cluster.ids for b in cluster.ids if (a in group) != (b in group)}


def heal(cluster: Cluster) -> None:
    cluster.network.cut = set()


def lost(cluster: Cluster) -> list[str]:
    """What was acknowledged and those alive, having committed more, do not have."""
    assert cluster.run(15, lambda: len(cluster.serving()) == 1), "nobody leads"
    leader = cluster.serving()[0]
    before = len(cluster.acknowledged)
    cluster.put(leader, "after")
    assert cluster.run(5, lambda: len(cluster.acknowledged) > before), "nothing is committed any more"
    have = cluster.values(leader)
    return [value for value in cluster.acknowledged if value not in have]
