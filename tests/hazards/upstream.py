"""Whole clusters of unmodified pysyncobj in one thread, on a virtual clock.

Node ids are whole numbers, whose hashes, and so the order of the sets that pysyncobj iterates, are the same in every
process.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pysyncobj.syncobj
from pysyncobj import SyncObj, SyncObjConf, replicated
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from tests.hazards.network import Network

NEVER = 10**9
Fields = dict[str, Any]


class _Link(Transport):
    def __init__(self, network: Network[Fields], me: int) -> None:
        super().__init__(None, None, [])
        self._network, self._me = network, me
        network.inboxes[me] = lambda src, message: self._onMessageReceived(Node(src), message)

    def send(self, node: Node, message: Fields) -> bool:
        self._network.send(self._me, node.id, message)
        return True

    def destroy(self) -> None:
        self._network.inboxes.pop(self._me, None)


class Replica(SyncObj):
    """A replicated list of values, as pysyncobj's users would write it."""

    def __init__(self, network: Network[Fields], me: int, others: list[int], options: Fields) -> None:
        link = _Link(network, me)
        nodes = [Node(other) for other in others]
        kept = {"autoTick": False, "logCompactionMinEntries": NEVER, "logCompactionMinTime": NEVER}
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

    def entry(self, index: int) -> Any:
        return next((entry for entry in self.inner("raftLog")[:] if entry[1] == index), None)


class UpstreamCluster:
    """A `network.Cluster`."""

    def __init__(self, seed: int, size: int, **options: Any) -> None:
        self.network: Network[Fields] = Network(
            seed, lambda message: 200 + sum(len(entry[0]) for entry in message.get("entries", ()))
        )
        self.ids = list(range(size))
        self.acknowledged: list[str] = []
        with self._clocked():
            self.nodes = {
                me: Replica(self.network, me, [other for other in self.ids if other != me], options) for me in self.ids
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
        self.nodes[node].set_inner("raftElectionDeadline", 0)
        assert self.run(3, lambda: self.nodes[node]._isLeader())

    def kill(self, *nodes: int) -> None:
        for node in nodes:
            self.nodes.pop(node).destroy()

    def leaders(self) -> list[int]:
        return [me for me, node in self.nodes.items() if node._isLeader()]

    def serving(self) -> list[int]:
        term = max(node.raftCurrentTerm for node in self.nodes.values())
        leading = {me: self.nodes[me] for me in self.leaders()}
        return [
            me
            for me, node in leading.items()
            if node.raftCurrentTerm == term and node.raftLastApplied >= (node.inner("noopIDx") or NEVER)
        ]

    def values(self, node: int) -> list[str]:
        return self.nodes[node].values

    def last(self, node: int) -> int:
        return int(self.nodes[node].inner("raftLog")[-1][1])

    def commit(self, node: int) -> int:
        return int(self.nodes[node].raftCommitIndex)

    def holders(self, node: int, index: int) -> int:
        entry = self.nodes[node].entry(index)
        return sum(other.entry(index) == entry for other in self.nodes.values())

    def compact(self, node: int) -> None:
        self.nodes[node].forceLogCompaction()
        self.run(0.5)
        assert self.nodes[node].inner("raftLog")[0][1] > 2

    def break_loading(self, node: int) -> None:
        def broken() -> None:
            raise OSError("disk")

        self.nodes[node].inner("serializer").deserialize = broken

    def close(self) -> None:
        self.kill(*list(self.nodes))
