"""The world of a golden transcript: nodes on disks, and links with queues, in which nothing moves by itself.

`execute` runs one command, a method `do_...`, lets all run that needs neither time nor wire nor
disk, and answers what was said.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine

from consensus import group
from consensus.election import ElectionTiming
from consensus.errors import ConsensusError
from consensus.group import Group
from consensus.host import Host
from consensus.identity import take_identity
from consensus.messages import (
    Message,
    decode_messages,
    encode_messages,
)
from consensus.model import Configuration, Member
from consensus.status import GroupLimits
from consensus.transport import Inbox, Peer
from raftbroker.storage.store import LogStore
from tests.simulation.disk import SimEngine
from tests.simulation.loop import VirtualLoop
from tests.unit.consensus.transcript_node import ManualDisk, Node, Patience, Words
from tests.unit.consensus.transcript_text import Text

GROUP = 1
BASE_SECONDS = 1000.0


class Wire:
    """One node's transport: `consensus.transport.Transport` over the transcript's queues."""

    def __init__(self, world: "World", node: Node) -> None:
        self._world = world
        self._node = node

    def send(self, node: int, message: Message) -> bool:
        return self._world.sent(self._node.number, node, message)

    def connected(self, node: int) -> Peer | None:
        return self._world.peer_of(self._node.number, node)

    def set_addresses(self, addresses: dict[int, str]) -> None:
        """Connections are the script's."""

    def seek(self, addresses: list[str]) -> None:
        """Connections are the script's."""

    def update_identity(self, cluster: str) -> None:
        """The script's nodes are all of one cluster."""

    async def start(self, inbox: Inbox) -> None:
        self._node.inbox = inbox

    async def stop(self) -> None:
        self._node.inbox = None


class _Ear(logging.Handler):
    """What nodes log at warning and above is part of the transcript."""

    def __init__(self, world: "World") -> None:
        super().__init__(logging.WARNING)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        self._world.say("event", f"log: {record.getMessage()}")


class World:
    """Nodes, links and queues. Commands are methods of a class below: `execute` runs one."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.nodes: dict[int, Node] = {}
        self.text = Text(self.label)
        self.limits = GroupLimits()
        self.endless = True
        self.apply_bytes_max = group.APPLY_BYTES_MAX
        self.queues: dict[tuple[int, int], deque[Message]] = {}
        self.held: dict[tuple[int, int], list[Message]] = {}
        self.cuts: set[tuple[int, int]] = set()
        self.links: dict[frozenset[int], dict[int, Peer]] = {}
        """Connected pairs, and whom each end (by number) believes to be at the other."""
        self.saved: dict[int, list[tuple[str, dict[bytes, bytes]]]] = {}
        self.lines: list[tuple[str, str]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._ear = _Ear(self)
        logging.getLogger("consensus").addHandler(self._ear)

    def end(self) -> None:
        group.APPLY_BYTES_MAX = self.apply_bytes_max
        logging.getLogger("consensus").removeHandler(self._ear)
        for node in self.nodes.values():
            if node.host is not None:
                node.host.abandon()

    def label(self, member: Member) -> str:
        return f"{member.node}{chr(39) * (int(member.uuid, 16) - member.node * 100)}"

    # --- what is said ---------------------------------------------------------------------------------------

    def say(self, kind: str, text: str) -> None:
        self.lines.append((kind, text))

    async def execute(self, line: str) -> list[str]:
        first, _, rest = line.partition(" ")
        words = (rest if first in ("quiet", "silent") else line).split()
        self.lines = []
        action = getattr(self, "do_" + words[0].replace("-", "_"), None)
        if action is None:
            raise ValueError(f"no such command: {words[0]}")
        outcome = action(*words[1:])
        if isinstance(outcome, Coroutine):
            await outcome
        await self.settle()
        if first == "silent":
            return []
        return [text for kind, text in folded(self.lines) if first != "quiet" or kind == "event"]

    async def settle(self) -> None:
        """Lets everything run that can run without time, wire or disk."""
        await asyncio.sleep(0)
        while self.loop._ready:  # type: ignore[attr-defined]  # noqa: ASYNC110  nothing else is there to wait for
            await asyncio.sleep(0)
        self._look()

    def _look(self) -> None:
        for node in self.nodes.values():
            if node.host is not None and GROUP in node.host.groups:
                commit = node.host.groups[GROUP].commit
                if commit != node.commit:
                    node.commit = commit
                    self.say("event", f"{node.number}: commit {commit}")

    def _applied(self, node: Node, said: str) -> None:
        self._look()
        self.say("event", f"{node.number}: {said}")

    def group(self, number: str) -> Group:
        host = self.nodes[int(number)].host
        if host is None:
            raise ValueError(f"node {number} is down")
        return host.groups[GROUP]

    # --- the wire -------------------------------------------------------------------------------------------

    def peer_of(self, node: int, other: int) -> Peer | None:
        return self.links.get(frozenset((node, other)), {}).get(node)

    def sent(self, source: int, target: int, message: Message) -> bool:
        if self.peer_of(source, target) is None:
            return False
        lost = (source, target) in self.cuts
        self.say("wire", f"{source}>{target} {'lost: ' if lost else ''}{self.text.message(message)}")
        if not lost:
            self.queues.setdefault((source, target), deque()).append(message)
        return True

    async def _deliver(self, source: int, target: int, count: int) -> bool:
        """Whether there was anything to deliver; what answers it is not delivered in the same go."""
        queue = self.queues.get((source, target))
        if not queue:
            return False
        for _ in range(min(count, len(queue))):
            message = queue.popleft()
            node = self.nodes[target]
            peer = self.peer_of(target, source)
            if node.inbox is not None and peer is not None:
                node.inbox.peer_messages(peer, decode_messages(encode_messages([message])))
                await self.settle()
        return True

    def _connect(self, one: int, other: int) -> None:
        first, second = self.nodes[one], self.nodes[other]
        if first.host is None or second.host is None or first.peer is None or second.peer is None:
            return
        for asked, asking in ((first, second), (second, first)):
            assert asked.host is not None
            assert asking.peer is not None
            refusal = asked.host.peer_allowed(asking.peer)
            if refusal is not None:
                self.say("event", f"{asked.number}: refuses node {asking.number}: {refusal}")
                return
        self.links[frozenset((one, other))] = {one: second.peer, other: first.peer}
        first.host.peer_connected(second.peer)
        second.host.peer_connected(first.peer)

    def _disconnect(self, one: int, other: int) -> None:
        link = self.links.pop(frozenset((one, other)), None)
        for pair in ((one, other), (other, one)):
            self.queues.pop(pair, None)
        if link is not None:
            for number, peer in link.items():
                host = self.nodes[number].host
                if host is not None:
                    host.peer_disconnected(peer)

    # --- lives ----------------------------------------------------------------------------------------------

    def _start(self, node: Node, configuration: Configuration | None) -> None:
        node.lives += 1
        node.store = LogStore(SimEngine(node.platter))
        identity = take_identity(node.store, node.number, lambda: node.uuid, f"life{node.lives}")
        node.peer = Peer(node.number, node.uuid, identity.boot, identity.nonce, "golden", f"node-{node.number}")
        node.disk = ManualDisk(lambda said: self.say("disk", f"disk {node.number} {said}"), self.text)
        node.machine = Words(lambda said: self._applied(node, said))
        node.shown, node.commit = (), 0
        host = node.host = Host(
            identity,
            node.store,
            node.disk,
            Wire(self, node),
            clock=lambda: self.loop.time() - BASE_SECONDS,
            random=Patience(node.number, self.endless),
            timing=ElectionTiming(),
            limits=self.limits,
            on_fatal=lambda error: self._stopped(node, error),
        )
        host.join_cluster("golden")
        host.on_role(lambda group: self._role(node, group))
        try:
            node.commit = host.open_group(GROUP, node.machine, configuration).commit
        except ConsensusError as error:
            node.host = None
            self.say("event", f"{node.number}: does not start: {error}")
            return
        self._tasks.append(self.loop.create_task(host.start()))

    def _stopped(self, node: Node, error: BaseException) -> None:
        self.say("event", f"{node.number}: stops: {type(error).__name__}: {error}")
        self._end(node)

    def _end(self, node: Node) -> None:
        host, node.host, node.inbox = node.host, None, None
        if host is not None:
            host.abandon()
        for other in list(self.nodes):
            self._disconnect(node.number, other)

    def _role(self, node: Node, group: Group) -> None:
        leader = self.label(group.leader) if group.leader else "nobody"
        shown = (group.role, group.term, leader, group.leading)
        if shown != node.shown:
            node.shown = shown
            what = {"leader": "leads", "candidate": "is a candidate"}.get(group.role.value, f"follows {leader}")
            ready = ", ready" if group.leading else ""
            self.say("event", f"{node.number}: {what} in term {group.term}{ready}")


def folded(lines: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Lines that repeat themselves on one link, as heartbeats do while time passes, told once with their number."""
    found: list[tuple[str, str]] = []
    counts: list[int] = []
    places: dict[str, int] = {}
    for kind, text in lines:
        pattern = text.partition(", round ")[0] if " term " in text and ", round " in text else text
        if kind == "wire" and pattern in places:
            counts[places[pattern]] += 1
            found[places[pattern]] = (kind, text)
            continue
        places[pattern] = len(found)
        found.append((kind, text))
        counts.append(1)
    return [
        (kind, text if count == 1 else f"{text} (the last of {count})")
        for (kind, text), count in zip(found, counts, strict=True)
    ]
