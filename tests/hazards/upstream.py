"""Whole clusters of unmodified pysyncobj in one thread, on a virtual clock and a network that does as it is told.

Evidence for why pysyncobj only elects here: the tests beside this file state, for the version that is pinned, what is
lost, so that a release which mends it is noticed. Node ids are whole numbers, whose hashes, and so the order of the
sets that pysyncobj iterates, are the same in every process.
"""

import heapq
import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pysyncobj.syncobj
from pysyncobj import SyncObj, SyncObjConf, replicated
from pysyncobj.node import Node
from pysyncobj.transport import Transport

Wire = tuple[int, int]
NEVER = 10**9


class Network:
    """FIFO on each link, like the TCP connections it stands for; delays in seconds, bandwidth in bytes a second."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 1000.0
        self.delay, self.jitter = 0.005, 0.01
        self.bandwidth: float | None = None
        self.cut: set[Wire] = set()
        self.held: dict[Wire, list[dict[str, Any]]] = {}
        self.inboxes: dict[int, Callable[[int, dict[str, Any]], None]] = {}
        self._queue: list[tuple[float, int, int, int, dict[str, Any]]] = []
        self._sent = 0
        self._line_free: dict[Wire, float] = {}
        self._last_arrival: dict[Wire, float] = {}

    def send(self, src: int, dst: int, message: dict[str, Any]) -> None:
        wire = (src, dst)
        if wire in self.cut:
            return
        if wire in self.held:
            self.held[wire].append(message)
            return
        size = 200 + sum(len(entry[0]) for entry in message.get("entries", ()))
        started = max(self.now, self._line_free.get(wire, 0.0))
        self._line_free[wire] = started + (size / self.bandwidth if self.bandwidth else 0.0)
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


class _Link(Transport):
    def __init__(self, network: Network, me: int) -> None:
        super().__init__(None, None, [])
        self._network, self._me = network, me
        network.inboxes[me] = lambda src, message: self._onMessageReceived(Node(src), message)

    def send(self, node: Node, message: dict[str, Any]) -> bool:
        self._network.send(self._me, node.id, message)
        return True

    def destroy(self) -> None:
        self._network.inboxes.pop(self._me, None)


class Replica(SyncObj):
    """A replicated list of values, as pysyncobj's users would write it."""

    def __init__(self, network: Network, me: int, others: list[int], **options: Any) -> None:
        link = _Link(network, me)
        kept = {"autoTick": False, "logCompactionMinEntries": NEVER, "logCompactionMinTime": NEVER}
        nodes = [Node(other) for other in others]
        super().__init__(Node(me), nodes, SyncObjConf(**(kept | options)), transport=link, nodeClass=Node)
        self.values: list[str] = []
        for node in nodes:
            link._onNodeConnected(node)

    @replicated
    def put(self, value: str) -> None:
        self.values.append(value)

    def inner(self, name: str) -> Any:
        return getattr(self, f"_SyncObj__{name}")

    def set_inner(self, name: str, value: object) -> None:
        setattr(self, f"_SyncObj__{name}", value)

    @property
    def last(self) -> int:
        return int(self.inner("raftLog")[-1][1])

    def term_at(self, index: int) -> int | None:
        return next((entry[2] for entry in self.inner("raftLog")[:] if entry[1] == index), None)


class Cluster:
    def __init__(self, seed: int, size: int, **options: Any) -> None:
        self.network = Network(seed)
        self.ids = list(range(size))
        self.acknowledged: list[str] = []
        """Values whose callers were told SUCCESS, in that order."""
        with self._clocked():
            self.nodes = {
                me: Replica(self.network, me, [other for other in self.ids if other != me], **options)
                for me in self.ids
            }

    @contextmanager
    def _clocked(self) -> Iterator[None]:
        """pysyncobj's clock and random numbers are this cluster's."""
        module, network = pysyncobj.syncobj, self.network
        before = module.monotonicTime, module.random
        module.monotonicTime = lambda: network.now
        module.random = SimpleNamespace(random=network.random.random)
        level = logging.root.manager.disable
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            module.monotonicTime, module.random = before
            logging.disable(level)

    def run(self, seconds: float, until: Callable[[], bool] | None = None, step: float = 0.005) -> bool:
        network, end = self.network, self.network.now + seconds
        with self._clocked():
            while network.now < end:
                network.now += step
                network.deliver()
                for node in self.nodes.values():
                    node.doTick(0.0)
                if until is not None and until():
                    return True
        return until is None

    def put(self, node: int, value: str) -> None:
        def done(_: object, reason: int) -> None:
            if reason == 0:
                self.acknowledged.append(value)

        with self._clocked():
            self.nodes[node].put(value, callback=done)

    def elect(self, node: int) -> None:
        """Its timer happens to run out first."""
        self.nodes[node].set_inner("raftElectionDeadline", 0)
        assert self.run(3, lambda: self.nodes[node]._isLeader())

    def isolate(self, *group: int) -> None:
        self.network.cut = {(a, b) for a in self.ids for b in self.ids if (a in group) != (b in group)}

    def heal(self) -> None:
        self.network.cut = set()

    def kill(self, *nodes: int) -> None:
        for node in nodes:
            self.nodes.pop(node).destroy()

    def leaders(self) -> list[int]:
        return [me for me, node in self.nodes.items() if node._isLeader()]

    def lost(self) -> list[str]:
        """What was acknowledged and the surviving leader, having committed more, does not have."""
        assert self.run(10, lambda: len(self.leaders()) == 1)
        leader = self.leaders()[0]
        before = len(self.acknowledged)
        self.put(leader, "after")
        assert self.run(5, lambda: len(self.acknowledged) > before)
        return [value for value in self.acknowledged if value not in self.nodes[leader].values]
