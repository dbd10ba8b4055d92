"""Clusters of our own nodes for the same schedules: real hosts, groups, committers and stores over RocksDB.

The event loop's clock is the network's, and only `run` moves it. Disks are quick: what is written is durable by the end
of the step. A link that was cut and heals is a new connection: both ends are told, as the transport promises.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from pathlib import Path

from consensus.election import ElectionTiming, Role
from consensus.errors import ConsensusError
from consensus.group import Group
from consensus.host import Host
from consensus.identity import take_identity
from consensus.machine import Applied
from consensus.messages import Append, GroupMessage, Message, TimeoutNow
from consensus.model import Configuration, Entry, Member
from consensus.status import GroupLimits
from consensus.store import KeyRange, Write
from consensus.transport import Inbox, Peer
from raftbroker.storage.rocks import RocksEngine, RocksOptions
from raftbroker.storage.store import LogStore
from tests.hazards.network import Network, Wire

GROUP = 1
FOREVER = 1e6


class SteppedLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is the network's."""

    def __init__(self, network: Network[Message]) -> None:
        self._network = network
        super().__init__()

    def time(self) -> float:
        return self._network.now


class Values:
    """The least state machine: a list of values."""

    def __init__(self) -> None:
        self.values: list[str] = []

    def restore(self, rows: dict[bytes, bytes], applied: int) -> None:
        self.values = [rows[key].decode() for key in sorted(rows)]

    def apply(self, entries: Sequence[Entry]) -> Applied:
        rows: dict[bytes, bytes | None] = {}
        for entry in entries:
            rows[len(self.values).to_bytes(8)] = entry.command
            self.values.append(entry.command.decode())
        return Applied(rows)

    def payload_ranges(self) -> list[KeyRange]:
        return []

    def ranges_of(self, rows: dict[bytes, bytes]) -> list[KeyRange]:
        return []

    def led(self, term: int) -> None: ...

    def unled(self) -> None: ...


class QuickDisk:
    """A `Disk` that is done at once, or breaks when told to."""

    def __init__(self, store: LogStore) -> None:
        self._store = store
        self.broken: Callable[[Write], bool] = lambda write: False

    async def commit(self, writes: Sequence[Write]) -> None:
        if any(self.broken(write) for write in writes):
            raise OSError("disk")
        self._store.write(writes)


class Node:
    """One host, and the transport that it has."""

    def __init__(self, cluster: "OurCluster", number: int, directory: Path) -> None:
        self._cluster = cluster
        self.engine = RocksEngine(directory, RocksOptions(), create=True)
        store = LogStore(self.engine)
        identity = take_identity(store, number, lambda: f"{number:032x}", "")
        self.peer = Peer(number, identity.member.uuid, identity.boot, "", "", f"node-{number}")
        self.disk = QuickDisk(store)
        self.machine = Values()
        self.host = Host(
            identity,
            store,
            self.disk,
            self,
            clock=lambda: cluster.network.now,
            random=random.Random(cluster.network.random.random()),
            timing=ElectionTiming(),
            limits=cluster.limits,
            on_fatal=lambda error: cluster.kill(number),
        )
        self.group: Group = self.host.open_group(GROUP, self.machine, cluster.configuration)

    def send(self, node: int, message: Message) -> bool:
        if node not in self._cluster.nodes:
            return False
        self._cluster.network.send(self.peer.node, node, message)
        return True

    def connected(self, node: int) -> Peer | None:
        return self._cluster.nodes[node].peer if node in self._cluster.nodes else None

    def set_addresses(self, addresses: dict[int, str]) -> None: ...

    def seek(self, addresses: list[str]) -> None: ...

    def update_identity(self, cluster: str) -> None: ...

    async def start(self, inbox: Inbox) -> None: ...

    async def stop(self) -> None: ...


class OurCluster:
    """A `network.Cluster`."""

    def __init__(self, seed: int, size: int, directory: Path, limits: GroupLimits = GroupLimits()) -> None:  # noqa: B008
        self.network: Network[Message] = Network(seed, _size)
        self.ids = list(range(size))
        self.acknowledged: list[str] = []
        self.refused: list[str] = []
        self.limits = limits
        self.configuration = Configuration(tuple(Member(number, f"{number:032x}") for number in self.ids))
        self.nodes: dict[int, Node] = {}
        self._loop = SteppedLoop(self.network)
        self._cut: set[Wire] = set()
        self._engines: list[RocksEngine] = []
        self._loop.run_until_complete(self._start(directory))

    async def _start(self, directory: Path) -> None:
        for number in self.ids:
            node = self.nodes[number] = Node(self, number, directory / str(number))
            self._engines.append(node.engine)
            self.network.inboxes[number] = lambda src, message, node=node: node.host.peer_messages(
                self.nodes[src].peer if src in self.nodes else Peer(src, f"{src:032x}", 1, "", "", ""), [message]
            )
        for node in self.nodes.values():
            await node.host.start()

    def run(self, seconds: float, until: Callable[[], bool] | None = None, step: float = 0.005) -> bool:
        async def passing() -> bool:
            end = self.network.now + seconds
            while self.network.now < end:
                self._reconnect()
                self.network.now += step
                self.network.deliver()
                for _ in range(6):
                    await asyncio.sleep(0)
                if until is not None and until():
                    return True
            return until is None

        return self._loop.run_until_complete(passing())

    def _reconnect(self) -> None:
        healed, self._cut = self._cut - self.network.cut, set(self.network.cut)
        for a, b in sorted(healed):
            if a in self.nodes and b in self.nodes:
                self.nodes[a].host.peer_disconnected(self.nodes[b].peer)
                self.nodes[a].host.peer_connected(self.nodes[b].peer)

    def put(self, node: int, value: str) -> None:
        async def propose() -> None:
            try:
                future = self.nodes[node].group.propose(value.encode(), timeout=FOREVER)
            except ConsensusError:
                self.refused.append(value)
            else:
                future.add_done_callback(lambda done: self._decided(value, done))

        self._loop.run_until_complete(propose())

    def _decided(self, value: str, done: "asyncio.Future[int]") -> None:
        (self.refused if done.exception() else self.acknowledged).append(value)

    def elect(self, node: int) -> None:
        """From a leader that it hears, leadership is handed over; else the others' timers are held up."""
        group = self.nodes[node].group
        for _ in range(100):
            if group.leading:
                return
            leader = next((n for n in self.serving() if (n, node) not in self.network.cut and n != node), None)
            if leader is not None:
                self.nodes[leader].send(node, TimeoutNow(GROUP, self.nodes[leader].group.term))
            else:
                for other in self.nodes.values():
                    other.group.elector._engine.deadline = self.network.now + 1.0
                self._loop.call_soon(group.elector.leader_lost)
                self._loop.call_soon(group.elector.campaign_now)
            self.run(0.5, lambda: group.leading)
        raise AssertionError(f"node {node} cannot be elected")

    def kill(self, *nodes: int) -> None:
        for number in nodes:
            self.network.inboxes.pop(number)
            self._loop.call_soon(self._bury, self.nodes.pop(number))

    def _bury(self, node: Node) -> None:
        node.host.abandon()
        for other in self.nodes.values():
            other.host.peer_disconnected(node.peer)

    def leaders(self) -> list[int]:
        return [number for number, node in self.nodes.items() if node.group.role is Role.LEADER]

    def serving(self) -> list[int]:
        term = max(node.group.term for node in self.nodes.values())
        return [n for n, node in self.nodes.items() if node.group.leading and node.group.term == term]

    def values(self, node: int) -> list[str]:
        return self.nodes[node].machine.values

    def last(self, node: int) -> int:
        return self.nodes[node].group.last_index

    def commit(self, node: int) -> int:
        return self.nodes[node].group.commit

    def holders(self, node: int, index: int) -> int:
        """By (index, term), and counted as well where a snapshot stands for it."""

        def has(group: Group, term: int | None) -> bool:
            return group.commit >= index or group.replication.log.term_at(index) == term

        mine = self.nodes[node].group.replication.log.term_at(index)
        return sum(has(other.group, mine) for other in self.nodes.values())

    def compact(self, node: int) -> None:
        """Our logs drop their start by themselves, once they hold more than `limits` let them."""
        assert self.nodes[node].group.replication.log.base.index > 0

    def break_loading(self, node: int) -> None:
        self.nodes[node].disk.broken = lambda write: write.install is not None

    def close(self) -> None:
        async def ending() -> None:
            self.kill(*list(self.nodes))
            await asyncio.sleep(0)
            await asyncio.sleep(0)

        self._loop.run_until_complete(ending())
        self._loop.close()
        for engine in self._engines:
            engine.close()


def _size(message: Message) -> int:
    if isinstance(message, Append):
        return 200 + sum(entry.size for entry in message.entries)
    assert isinstance(message, GroupMessage)
    return 200
