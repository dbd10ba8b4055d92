"""A cluster of simulated nodes: the real `Host`, groups, elector, replication, snapshots and store, on simulated disks.

A `SimNode` has lives. Each life opens the store anew over the node's platter, as a process started on it would; killing
a life drops its tasks where they stand. Members that lost their data (a wiped disk, a bit that flipped) come back
under a new directory UUID, as empty learners, and `Cluster.mend` brings them back among the voters one step at a time.
"""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random

from consensus.election import ElectionTiming
from consensus.errors import ChangeRefused, ConsensusError, Damaged, EntriesGone, NotLeader, Refused, Unknown
from consensus.group import Group, GroupLimits
from consensus.host import Host
from consensus.identity import take_identity
from consensus.messages import Message
from consensus.model import Configuration, Member
from consensus.replication import Limits
from consensus.transport import Peer

from .checks import Checks, Operation, Violation
from .disk import Platter, SimDisk, SimEngine
from .loop import Process, VirtualLoop
from .machines import ValueLog, Watched, payload_key, trim_command, value_bytes
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


@dataclass
class Pending:
    """A proposal in flight, and the life of the node that answers for it."""

    operation: Operation
    future: "asyncio.Future[int]"
    process: Process
    deadline: float


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


class Cluster:
    """See the module. Everything random comes from `random`; every event goes into the trace's hash."""

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
        self._values = 0
        self.calm = False
        for number in range(1, plan.voters + plan.spares + 1):
            node = SimNode(number, Platter(Random(f"{seed}/disk{number}")))
            self.nodes[number] = node
            self._adopt(node)
        self.initial = Configuration(tuple(self.nodes[n].member for n in range(1, plan.voters + 1)))
        self.group_ids = list(range(plan.groups))

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
        self.checks.count(" ".join(text.split()[:2]) if text.startswith("fault") else text.split()[0])
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
        except OSError as error:
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
        peer = Peer(node.id, node.uuid, identity.boot, nonce, "sim", node.address)
        transport = WatchedTransport(self, node, process, peer)
        skew = random.uniform(0, 1000)
        node.host = host = Host(
            identity,
            node.store,
            node.disk,
            transport,
            clock=lambda: self.loop.time() + skew,
            random=random,
            timing=ElectionTiming(),
            limits=self.plan.limits(),
            on_fatal=partial(self._fatal, node, process),
        )
        host.join_cluster("sim")
        node.machines, node.commits = {}, {}
        for number in self.group_ids:
            self._open(node, host, number, single=node.id % 2 == 1)
        transport.set_addresses({other.id: other.address for other in self.nodes.values()})
        process.on_step = partial(self._stepped, node, host)
        process.spawn(host.start())

    def _open(self, node: SimNode, host: Host, number: int, single: bool) -> None:
        machine = node.machines[number] = ValueLog(number)
        watched = Watched(machine, single, partial(self.checks.applied, node.id, number))
        watched.restored = partial(self.checks.restored, node.id, number, single=single)
        initial = self.initial if node.member in self.initial.voters else None
        group = host.open_group(number, watched, initial, prefer=node.id == 1)
        node.commits[number] = group.replication.log.base.index
        self._watch_commit(node, group)

    def _fatal(self, node: SimNode, process: Process, error: BaseException) -> None:
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

    # --- what is watched ------------------------------------------------------------------------------

    def _stepped(self, node: SimNode, host: Host) -> None:
        for group in host.groups.values():
            if group.replication.commit != node.commits[group.id]:
                self._watch_commit(node, group)
            if group.damaged is not None and not node.damaged:
                if not node.rotten:
                    raise Violation(f"node {node.id} takes group {group.id} for damaged: {group.damaged}")
                node.damaged = True
                self.note(f"node {node.id} found damage: {group.damaged}")

    def _watch_commit(self, node: SimNode, group: Group) -> None:
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

    # --- clients --------------------------------------------------------------------------------------

    def leaders(self, number: int) -> list[SimNode]:
        """Nodes that believe they lead the group and serve it."""
        return [
            node
            for node in self.nodes.values()
            if node.up and node.host is not None and number in node.host.groups and node.host.groups[number].leading
        ]

    def propose(self, node: SimNode, number: int, timeout: float) -> "Pending | None":
        """Appends a new value through this node, or is refused: None."""
        assert node.host is not None
        assert node.process is not None
        self._values += 1
        machine = node.machines[number]
        offset, command, payload = machine.draft(self._values)
        operation = self.checks.invoked(number, self._values, offset)
        group = node.host.groups[number]
        try:
            future = node.process.run(partial(group.propose, command, (payload,), timeout=timeout))
        except Refused:
            self.checks.ended(operation, "refused")
            return None
        machine.proposed()
        return Pending(operation, future, node.process, self.loop.time() + timeout)

    async def finish(self, pending: "Pending") -> None:
        """Waits for the outcome and records it. A proposal that outlives its deadline is a violation (C10)."""
        operation, future, process = pending.operation, pending.future, pending.process
        patience = max(0.0, pending.deadline + 0.1 - self.loop.time())
        await asyncio.wait({future, process.died}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        if not future.done():
            if process.alive:
                raise Violation(f"every proposal ends by its deadline: value {operation.value} has not")
            self.checks.ended(operation, "unknown")
            return
        error = future.exception()
        if error is None:
            self.checks.ended(operation, "acknowledged", future.result())
        elif isinstance(error, Refused):
            self.checks.ended(operation, "refused")
        elif isinstance(error, Unknown):
            self.checks.ended(operation, "unknown")
        else:
            raise error

    async def write(self, node: SimNode, number: int, timeout: float = 2.0) -> Operation | None:
        """One value, and what became of it; None if it was refused at once."""
        pending = self.propose(node, number, timeout)
        if pending is None:
            return None
        await self.finish(pending)
        return pending.operation

    async def read(self, node: SimNode, number: int, timeout: float = 2.0) -> bool:
        """A linearizable read through this node; whether it was answered."""
        wanted = self.checks.truth(number).acknowledged_next
        assert node.host is not None
        assert node.process is not None
        group, machine, process = node.host.groups[number], node.machines[number], node.process

        async def inside() -> int:
            try:
                await group.read_barrier(timeout)
            except (Refused, Unknown):
                return -1
            return machine.next

        task = process.spawn(inside())
        await asyncio.wait({task, process.died}, timeout=2 * timeout + 0.1, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            if process.alive:
                raise Violation("every read ends by its deadline")
            return False
        if task.result() < 0:
            return False
        self.checks.read(node.id, number, wanted, task.result())
        return True

    def trim(self, node: SimNode, number: int, random: Random) -> None:
        """Retention: the leader drops values below some offset."""
        assert node.host is not None
        assert node.process is not None
        machine = node.machines[number]
        start = random.randint(machine.start, machine.next)
        group = node.host.groups[number]
        if start > machine.start:
            self._fire(node, partial(group.propose, trim_command(start), timeout=2.0, frees_space=True))

    def _fire(self, node: SimNode, call: "Callable[[], asyncio.Future[int]]") -> None:
        """Starts something whose outcome nobody waits for; a refusal is fine, any other error is not."""
        assert node.process is not None
        try:
            future = node.process.run(call)
        except ConsensusError as error:
            self.note(f"refused: {error}")
            return
        future.add_done_callback(_looked_at)

    # --- changes --------------------------------------------------------------------------------------

    def transfer_some(self, random: Random) -> None:
        number = random.choice(self.group_ids)
        for node in self.leaders(number)[:1]:
            assert node.host is not None
            assert node.process is not None
            others = [m.node for m in node.host.groups[number].configuration.voters if m != node.member]
            target = random.choice([None, *others])
            node.process.spawn(_quietly(node.host.groups[number].transfer(target, random.uniform(0.05, 1.0))))

    def lost_voters(self, configuration: Configuration) -> list[Member]:
        """Voters whose data is gone or damaged: they count for nothing until they are replaced."""
        return [m for m in configuration.members if self.nodes[m.node].member != m or self.nodes[m.node].rotten]

    def may_lose(self, node: SimNode) -> bool:
        """Whether every group still has a majority of whole disks without this node's, whoever leads it."""
        for number in self.group_ids:
            for other in self.nodes.values():
                if other.host is None:
                    return False
                configuration = other.host.groups[number].configuration
                gone = {m.node for m in self.lost_voters(configuration)} | {node.id}
                whole = [m for m in configuration.voters if m.node not in gone]
                if configuration.voters and len(whole) < configuration.majority:
                    return False
                if other.host.groups[number].replication.log.configuration_index > other.host.groups[number].commit:
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
            self.note(f"a bit flips on node {node.id}: {family} {key.hex()}")
            node.rotten = True
            node.platter.rot(family, key)

    def mend(self, number: int, random: Random) -> bool:
        """One step towards a configuration without lost members, made by the leader; whether there is none to make."""
        leaders = self.leaders(number)
        if not leaders or leaders[-1].host is None:
            return False
        leader = max(leaders, key=lambda n: n.host.groups[number].term if n.host else 0)
        assert leader.host is not None
        group = leader.host.groups[number]
        now = group.configuration
        lost = self.lost_voters(now)
        if lost:
            self._fire(leader, partial(group.remove, lost[0], 2.0))
            return False
        wanted = min(self.plan.voters, len([n for n in self.nodes.values() if not n.rotten]))
        for learner in now.learners:
            if len(now.voters) < wanted:
                self._fire(leader, partial(group.promote, learner, 2.0))
                return False
        absent = [n for n in self.nodes.values() if n.member not in now.members and not n.rotten]
        if len(now.members) < wanted and absent:
            self._fire(leader, partial(group.add_learner, random.choice(absent).member, 2.0))
            return False
        return len(now.voters) >= wanted

    def change_members(self, random: Random) -> None:
        """A step of `mend`, or, when nothing needs mending, one voter out: `mend` then brings in another."""
        number = random.choice(self.group_ids)
        if self.mend(number, random) and random.random() < 0.7:
            for leader in self.leaders(number)[:1]:
                assert leader.host is not None
                group = leader.host.groups[number]
                if len(group.configuration.voters) > 1 and not any(n.rotten for n in self.nodes.values()):
                    out = random.choice(group.configuration.voters)
                    self._fire(leader, partial(group.remove, out, 2.0))

    # --- the end --------------------------------------------------------------------------------------

    async def settle(self, seconds: float = 40.0) -> None:
        """Faults are over: everything must heal by itself, and all nodes agree."""
        self.note("calm")
        self.calm = True
        deadline = self.loop.time() + seconds
        random = Random(f"{self.seed}/settle")
        while True:
            self._repair()
            await asyncio.sleep(0.25)
            mended = [self.mend(number, random) for number in self.group_ids]
            if all(mended) and all(self._agreed(number) for number in self.group_ids):
                break
            if self.loop.time() > deadline:
                raise Violation(f"does not settle within {seconds} s: {self.describe()}")

    def _repair(self) -> None:
        self.network.heal()
        for node in self.nodes.values():
            node.platter.stuck = False
            node.platter.capacity = 1 << 40
            if node.up and node.rotten:
                self.crash(node)
            if not node.up:
                if node.rotten:
                    self.replace_disk(node)
                self.start(node)

    def _agreed(self, number: int) -> bool:
        """One leader that serves, and every member has applied its whole log."""
        leaders = self.leaders(number)
        if len(leaders) != 1 or leaders[0].host is None:
            return False
        group = leaders[0].host.groups[number]
        members = [self.nodes[m.node] for m in group.configuration.members]
        return group.applied == group.last_index and all(
            n.host is not None and n.host.groups[number].applied == group.last_index for n in members
        )

    def describe(self) -> str:
        return "\n".join(
            str(node.host.groups[number].status()) if node.host else f"node {node.id} is down"
            for node in self.nodes.values()
            for number in self.group_ids
        )

    def verify(self) -> None:
        """The whole of every member's log, against what clients were told."""
        for number in self.group_ids:
            leader = self.leaders(number)[0]
            assert leader.host is not None
            for member in leader.host.groups[number].configuration.members:
                node = self.nodes[member.node]
                machine = node.machines[number]
                values = machine.values()
                self.checks.finished(node.id, number, machine.start, values)
                assert node.store is not None
                found = node.store.payload_digests([payload_key(number, offset) for offset in values])
                for offset, (value, crc) in values.items():
                    if found.get(payload_key(number, offset)) != (len(value_bytes(value)), crc):
                        raise Violation(f"records are kept: node {node.id} lacks offset {offset} of group {number}")


class WatchedTransport(SimTransport):
    """Tells the checks of every message as it leaves."""

    def __init__(self, cluster: Cluster, node: SimNode, process: Process, me: Peer) -> None:
        super().__init__(cluster.network, process, me)
        self._cluster = cluster
        self._member = node.member

    def send(self, node: int, message: Message) -> bool:
        if not self.up or node not in self.links:
            return False
        self._cluster.checks.sends(self._member, node, message)
        return super().send(node, message)


def _looked_at(future: "asyncio.Future[int]") -> None:
    if not future.cancelled() and (error := future.exception()) is not None:
        assert isinstance(error, ConsensusError), error


async def _quietly(action: "asyncio.Future[None] | object") -> None:
    try:
        await action  # type: ignore[misc]
    except (NotLeader, ChangeRefused, Unknown):
        return


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
