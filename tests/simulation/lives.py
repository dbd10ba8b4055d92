"""Simulated nodes and their lives: the real store, host and whatever is composed around it, on simulated disks.

A `SimNode` has lives. Each life opens the store anew over the node's platter, as a process started on it would; killing
a life drops its tasks where they stand. `Lives` is what every kind of simulated cluster shares: starting and killing,
the trace, and the checks fed from every step of every node. `compose` says what a node is made of.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random

from consensus.errors import Damaged, EntriesGone, StoreFull
from consensus.group import Group
from consensus.host import Host
from consensus.identity import Identity, take_identity
from consensus.machine import Machine
from consensus.messages import Message
from consensus.model import Configuration, Member
from consensus.replication import Limits
from consensus.status import GroupLimits
from consensus.transport import Peer

from .checks import Checks, Violation
from .disk import ROOMY, Platter, SimDisk, SimEngine
from .loop import Process, VirtualLoop
from .machines import ValueLog, Watched
from .network import Network, SimTransport, Weather
from .shadow import Shadow, WatchedStore

RESERVE_BYTES = 4096


@dataclass
class Plan:
    """What kind of cluster a run has; drawn from the seed unless a script says otherwise."""

    voters: int = 3
    spares: int = 0
    groups: int = 1
    log_entries_max: int = 20_000
    memory_bytes_max: int = 4 << 20
    message_bytes_max: int = 1 << 20
    inflight_bytes_max: int = 16 << 20
    weather: Weather = field(default_factory=Weather)
    black_box: bool = False
    """Check only what clients and states show, no promises on the wire and no disks."""

    @classmethod
    def draw(cls, random: Random, voters: int) -> "Plan":
        return cls(
            voters=voters,
            spares=random.choice((0, 0, 1)),
            groups=random.choice((1, 1, 2)),
            log_entries_max=random.choice((8, 30, 200, 20_000)),
            memory_bytes_max=random.choice((500, 5_000, 4 << 20)),
            message_bytes_max=random.choice((200, 2_000, 1 << 20)),
            inflight_bytes_max=random.choice((400, 5_000, 16 << 20)),
            weather=random.choice((Weather(), Weather(delay_max=0.02), Weather(spike_chance=0.02))),
        )

    def limits(self) -> GroupLimits:
        return GroupLimits(
            replication=Limits(message_bytes_max=self.message_bytes_max, inflight_bytes_max=self.inflight_bytes_max),
            log_entries_max=self.log_entries_max,
            memory_bytes_max=self.memory_bytes_max,
        )


class SimNode:
    """One node through all its lives. What belongs to the present life is None while it is down."""

    def __init__(self, number: int, platter: Platter) -> None:
        self.id = number
        self.address = f"node-{number}:7081"
        self.platter = platter
        self.uuid = ""
        self.life = 0
        self.rotten = False
        self.damaged = False
        self.shadow = Shadow(platter)
        self.wall_offset_ms = 0
        self.process: Process | None = None
        self.host: Host | None = None
        self.store: WatchedStore | None = None
        self.engine: SimEngine | None = None
        self.disk: SimDisk | None = None
        self.machines: dict[int, ValueLog] = {}
        self.commits: dict[int, int] = {}

    @property
    def up(self) -> bool:
        return self.process is not None and self.process.alive

    @property
    def member(self) -> Member:
        return Member(self.id, self.uuid)


@dataclass
class Life:
    """What one life of a node is handed."""

    process: Process
    identity: Identity
    transport: SimTransport
    random: Random
    clock: Callable[[], float]


class Lives:
    """See the module. Everything random comes from the seed; every event goes into the trace's hash."""

    def __init__(self, loop: VirtualLoop, seed: str, plan: Plan, keep_trace: bool = False) -> None:
        self.loop = loop
        self.seed = seed
        self.plan = plan
        self.random = Random(f"{seed}/cluster")
        self.network = Network(loop, Random(f"{seed}/network"), plan.weather)
        self.network.observe = self._delivered
        self.shadows: dict[Member, Shadow] = {}
        self.checks = Checks(self.shadows.get, plan.black_box)
        self.nodes: dict[int, SimNode] = {}
        self.trace: list[str] | None = [] if keep_trace else None
        self._hash = hashlib.blake2b(digest_size=16)
        for number in range(1, plan.voters + plan.spares + 1):
            node = SimNode(number, Platter(Random(f"{seed}/disk{number}")))
            self.nodes[number] = node
            self._adopt(node)
        self.initial = Configuration(tuple(self.nodes[n].member for n in range(1, plan.voters + 1)))

    def _adopt(self, node: SimNode) -> None:
        """The node gets an empty directory with a UUID of its own."""
        node.uuid = f"{self.random.getrandbits(128):032x}"
        self.shadows[node.member] = node.shadow

    def later(self, seconds: float, action: Callable[..., object], *arguments: object) -> None:
        """A timer that outlives the node from whose midst it is set."""
        self.network.at(self.loop.time() + seconds, action, *arguments)

    # --- the trace ------------------------------------------------------------------------------------

    def note(self, text: str) -> None:
        line = f"{self.loop.time():.6f} {text}"
        self._hash.update(line.encode())
        words = text.split()
        if words[0] in ("fault", "crash", "start"):
            self.checks.count(" ".join(words[: 1 + (words[0] == "fault")]))
        if self.trace is not None:
            self.trace.append(line)

    def _delivered(self, now: float, source: int, target: int, messages: list[Message], frame: bytes) -> None:
        self._hash.update(b"%f %d>%d" % (now, source, target))
        self._hash.update(frame)
        if self.trace is not None:
            self.trace.extend(f"{now:.6f} {source}>{target} {brief(message)}" for message in messages)

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    # --- lives ----------------------------------------------------------------------------------------

    def start(self, node: SimNode) -> None:
        """Begins a new life, unless one is under way. A store that refuses to open is replaced by an empty one."""
        if node.up:
            return
        node.life += 1
        self.note(f"start {node.id}, life {node.life}")
        process = node.process = Process(self.loop, f"node {node.id}, life {node.life}")
        try:
            process.run(self._boot, node, process)
        except (OSError, StoreFull) as error:
            self.note(f"node {node.id} fails to start: {error}")
            self.crash(node)
            self.later(0.5, self.start, node)
        except Damaged as error:
            if not node.rotten:
                raise
            self.note(f"node {node.id} refuses to start: {error}")
            self.crash(node)
            self.replace_disk(node)
            self.start(node)

    def _boot(self, node: SimNode, process: Process) -> None:
        random = Random(f"{self.seed}/node{node.id}/life{node.life}")
        node.engine = SimEngine(node.platter)
        node.store = WatchedStore(node.engine, node.shadow, partial(self._truncates, node), RESERVE_BYTES)
        node.disk = SimDisk(node.store, node.platter)
        nonce = f"{random.getrandbits(64):016x}"
        identity = take_identity(node.store, node.id, lambda: node.uuid, nonce)
        peer = Peer(node.id, node.uuid, identity.boot, nonce, "", node.address)
        transport = WatchedTransport(self, node, process, peer)
        skew = random.uniform(0, 1000)
        node.commits = {}
        life = Life(process, identity, transport, random, lambda: self.loop.time() + skew)
        node.host = self.compose(node, life)
        process.on_step = partial(self._stepped, node, node.host)

    def compose(self, node: SimNode, life: "Life") -> Host:
        """Puts the node's code together for this life and starts it."""
        raise NotImplementedError

    def watch_machine(self, node: SimNode, number: int, machine: Machine) -> Watched:
        """The machine with its digests reported; nodes with odd ids apply one entry at a time."""
        single = node.id % 2 == 1
        watched = Watched(machine, single, partial(self.checks.applied, node.id, number))
        watched.restored = partial(self.checks.restored, node.id, number, single=single)
        return watched

    def fatal(self, node: SimNode, process: Process, error: BaseException) -> None:
        """The node gave itself up: right for a disk that failed or rotted, wrong for anything else."""
        if isinstance(error, OSError) or (node.rotten and isinstance(error, Damaged)):
            self.note(f"node {node.id} stops: {error}")
            self.later(0.5, self._restart, node, process)
        else:
            self.loop.errors.append(error)

    def _restart(self, node: SimNode, process: Process) -> None:
        if node.process is process:
            self.crash(node)
            self.start(node)

    def crash(self, node: SimNode, keep: int | None = None) -> None:
        """The node loses power, now: `keep` of the batches not yet synced survive, any number if None."""
        if not node.up or node.process is None:
            return
        self.note(f"crash {node.id}")
        node.process.kill()
        if node.engine is not None:
            node.engine.severed = True
        for transport in list(self.network.listening.values()):
            if transport.me == node.id:
                self.network.silence(transport)
        node.platter.crash(keep)
        node.host = None

    def replace_disk(self, node: SimNode) -> None:
        """The node's data is gone for good: the next life begins in an empty directory."""
        assert not node.up
        node.platter.wipe()
        node.shadow = Shadow(node.platter)
        node.rotten = node.damaged = False
        self._adopt(node)
        self.note(f"node {node.id} has an empty disk")
        self.checks.count("disks replaced")

    # --- what is watched ------------------------------------------------------------------------------

    def _stepped(self, node: SimNode, host: Host) -> None:
        for group in host.groups.values():
            if group.replication.commit != node.commits.get(group.id):
                self.watch_commit(node, group)
            if group.damaged is not None and not node.damaged:
                if not node.rotten:
                    raise Violation(f"node {node.id} takes group {group.id} for damaged: {group.damaged}")
                node.damaged = True
                self.note(f"node {node.id} found damage: {group.damaged}")
                self.checks.count("damage found")

    def watch_commit(self, node: SimNode, group: Group) -> None:
        if group.id not in node.commits:
            node.commits[group.id] = group.replication.log.base.index
        seen, commit = node.commits[group.id], group.commit
        if commit < seen:
            raise Violation(f"commit never goes back: node {node.id}, group {group.id}, from {seen} to {commit}")
        log = group.replication.log
        written = node.shadow.written.get(group.id)
        for index in range(seen + 1, commit + 1):
            entry = written.log.get(index) if written is not None else None
            term = log.term_at(index) if index > log.base.index else entry and entry[0]
            if term is None and index > log.base.index:
                raise Violation(f"node {node.id} commits entry {index} of group {group.id}, which it has not")
            if term is not None and (entry is None or entry[0] != term):
                entry = self._entry_in_memory(node, group, index)
            if entry is not None:
                self.checks.commits(node.id, group.id, index, entry[0], entry[1], group.configuration)
        if log.base.index > 0 and log.base.index >= seen:
            self.checks.base(node.id, group.id, log.base.index, log.base.term)
        node.commits[group.id] = commit

    def _entry_in_memory(self, node: SimNode, group: Group, index: int) -> tuple[int, int] | None:
        try:
            entry = group.replication.log.entries(index, index, 1)[0]
        except (EntriesGone, Damaged):
            return None
        return entry.term, entry.crc

    def _truncates(self, node: SimNode, number: int, dropped: dict[int, tuple[int, int]]) -> None:
        self.checks.truncates(node.member, number, dropped)

    # --- the groups, from outside ----------------------------------------------------------------------

    def leaders(self, number: int) -> list[SimNode]:
        """Nodes that believe they lead the group and serve it."""
        return [
            node
            for node in self.nodes.values()
            if node.up and node.host is not None and number in node.host.groups and node.host.groups[number].leading
        ]

    def agreed(self, number: int) -> bool:
        """One leader that serves, and every member has applied its whole log."""
        leaders = self.leaders(number)
        if len(leaders) != 1 or leaders[0].host is None:
            return False
        group = leaders[0].host.groups[number]
        members = [self.nodes[m.node] for m in group.configuration.members]
        copies = [n.host.groups.get(number) for n in members if n.host is not None]
        applied = [copy.applied for copy in copies if copy is not None]
        return applied == [group.last_index] * len(members)

    def lost_voters(self, configuration: Configuration) -> list[Member]:
        """Voters whose data is gone or damaged: they count for nothing until they are replaced."""
        return [m for m in configuration.members if self.nodes[m.node].member != m or self.nodes[m.node].rotten]

    def may_lose(self, node: SimNode) -> bool:
        """Whether every group still has a majority of whole disks without this node's, whoever leads it."""
        for other in self.nodes.values():
            if other.host is None:
                return False
            for group in other.host.groups.values():
                configuration = group.configuration
                gone = {m.node for m in self.lost_voters(configuration)} | {node.id}
                whole = [m for m in configuration.voters if m.node not in gone]
                if configuration.voters and len(whole) < configuration.majority:
                    return False
                if group.replication.log.configuration_index > group.commit:
                    return False
        return True

    def wipe_some(self, random: Random) -> None:
        node = random.choice(list(self.nodes.values()))
        if node.up and self.may_lose(node):
            self.crash(node)
            self.replace_disk(node)
            self.later(random.uniform(0.02, 2.0), self.start, node)

    def rot_some(self, random: Random) -> None:
        """One bit of one row flips: of an entry, where our CRC must tell; elsewhere, where the engine's does."""
        node = random.choice(list(self.nodes.values()))
        family = random.choice(("raft", "raft", "log", "state"))
        keys = node.platter.current[family].keys
        if node.up and keys and not node.rotten and self.may_lose(node):
            key = random.choice(keys)
            self.checks.count("bits flipped")
            self.note(f"a bit flips on node {node.id}: {family} {key.hex()}")
            node.rotten = True
            node.platter.rot(family, key)

    def repair(self) -> None:
        self.network.heal()
        for node in self.nodes.values():
            node.platter.stuck = node.platter.failing = False
            if node.disk is not None:
                node.disk.on_stage = lambda stage: None
            node.platter.capacity = ROOMY
            if node.up and node.rotten:
                self.crash(node)
            if not node.up:
                if node.rotten:
                    self.replace_disk(node)
                self.start(node)


class WatchedTransport(SimTransport):
    """Tells the checks of every message as it leaves."""

    def __init__(self, lives: Lives, node: SimNode, process: Process, me: Peer) -> None:
        super().__init__(lives.network, process, me)
        self._lives = lives
        self._member = node.member

    def send(self, node: int, message: Message) -> bool:
        if not self.up or node not in self.links:
            return False
        self._lives.checks.sends(self._member, node, message)
        return super().send(node, message)


def brief(message: Message) -> str:
    """A message in one short line."""
    entries = getattr(message, "entries", None)
    text = f"{type(message).__name__}" + " ".join(
        f" {name}={getattr(message, name)}"
        for name in message.__struct_fields__
        if name in ("group", "term", "prev_index", "prev_term", "commit", "match", "round", "granted", "index", "pull")
        or name in ("rejected", "hint_index", "kind", "more", "snapshot", "last_index", "last_term", "transfer")
    )
    return text if entries is None else text + f" entries={[(e.index, e.term) for e in entries]}"
