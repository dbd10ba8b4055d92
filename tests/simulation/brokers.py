"""Whole nodes without their front doors: `raftbroker.node.Core`, as in production, on simulated disks and links.

The cluster forms itself, places topics, replaces wiped members and moves leadership: all that the broker does by itself
runs unchanged on the virtual clock. Clients produce and read through any node. What they were told is held against what
every node serves, during the run and at its end.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from random import Random
from types import SimpleNamespace
from typing import Any

from consensus.election import ElectionTiming
from consensus.group import Group
from consensus.host import Host
from consensus.machine import Machine
from consensus.model import Configuration
from raftbroker.broker.broker import Broker
from raftbroker.broker.context import BrokerOptions
from raftbroker.broker.errors import BrokerError, Retriable, TopicExists, UnknownOutcome
from raftbroker.broker.group_options import GroupOptions
from raftbroker.broker.views import Idempotency
from raftbroker.node import Core, Outside, Settings
from raftbroker.state.batch import RecordDraft, decode_batch, encode_batch
from raftbroker.storage.records import RecordReader

from .checks import Violation
from .lives import Life, Lives, Plan, SimNode
from .loop import VirtualLoop

TOPIC = "orders"
EPOCH_MS = 1_700_000_000_000
RETENTION_MS = 3_600_000
SETTLE_SECONDS = 1.0
"""For how long clocks must agree before they are believed: short, so that they are within a run."""


@dataclass
class Sent:
    """One batch a client wanted in a partition: `count` records with the values (`value`, 0), (`value`, 1), ..."""

    partition: int
    value: int
    count: int
    outcome: str = "open"
    offset: int = -1


@dataclass
class PartitionTruth:
    """What is known for good of one partition."""

    seen: dict[int, bytes] = field(default_factory=dict)
    """offset -> value, as any node ever served it: it must never be served otherwise."""
    acknowledged_end: int = 0


class BrokerCluster(Lives):
    """See the module."""

    groups = GroupOptions()
    topic_defaults: Mapping[str, str] = {}
    compaction_check = 15.0

    def __init__(self, loop: VirtualLoop, seed: str, plan: Plan, keep_trace: bool = False) -> None:
        super().__init__(loop, seed, plan, keep_trace)
        self.cores: dict[int, Core] = {}
        self.sent: list[Sent] = []
        self.truths: dict[int, PartitionTruth] = {}
        self.partitions = 2
        self.retention_ms = RETENTION_MS if plan.voters > 1 else -1
        """A node that starts alone cannot tell a clock that jumped from time that went by."""

    # --- nodes ----------------------------------------------------------------------------------------

    def compose(self, node: SimNode, life: Life) -> Host:
        assert node.store is not None
        assert node.disk is not None
        assert node.engine is not None
        founders = {n.id: n.address for n in self.nodes.values() if n.id <= self.plan.voters}
        settings = Settings(
            timing=ElectionTiming(),
            limits=self.plan.limits(),
            broker=BrokerOptions(
                peer=node.address,
                http=f"node-{node.id}:8081",
                topic_defaults={"retention.ms": str(self.retention_ms), "message.timestamp.type": "LogAppendTime"}
                | self.topic_defaults,
                retention_check=1.0,
                compaction_check=self.compaction_check,
                transfer_quiet=2.0,
                groups=self.groups,
            ),
            initial=founders if node.id in founders else {},
            join=() if node.id in founders else tuple(founders.values()),
        )
        outside = Outside(
            clock=self.loop.time,
            wall=lambda: EPOCH_MS + int((self.loop.time() - 1000) * 1000) + node.wall_offset_ms,
            random=life.random,
            new_id=lambda: f"{life.random.getrandbits(128):032x}",
        )
        core = Core(
            life.identity,
            node.store,
            RecordReader(node.engine),
            node.disk,
            life.transport,
            outside,
            settings,
            partial(self.fatal, node, life.process),
        )
        core.broker._clocks.settle_seconds = SETTLE_SECONDS
        self._watch_groups(node, core.host)
        self.cores[node.id] = core
        life.process.spawn(core.start())
        return core.host

    def _watch_groups(self, node: SimNode, host: Host) -> None:
        """Has each machine report its digests, from just before its group is opened."""
        original = host.open_group

        def open_group(
            group: int, machine: Machine, configuration: Configuration | None = None, prefer: bool = False
        ) -> Group:
            bare: Any = machine
            kept = getattr(bare, "unwatched", None) or SimpleNamespace(apply=bare.apply, restore=bare.restore)
            watched = self.watch_machine(node, group, kept)
            bare.unwatched, bare.apply, bare.restore = kept, watched.apply, watched.restore
            node.commits.pop(group, None)
            return original(group, machine, configuration, prefer)

        host.open_group = open_group  # type: ignore[method-assign]

    def broker(self, node: SimNode) -> Broker:
        return self.cores[node.id].broker

    async def ask(self, node: SimNode, call: Callable[[], Any], seconds: float) -> Any:
        """A client's request to one node. Raises BrokerError; a node that dies under it leaves the outcome unknown."""
        process = node.process
        assert process is not None
        task = process.spawn(call())
        await asyncio.wait({task, process.died}, timeout=seconds + 5.0, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if process.alive:
            raise Violation(f"every request ends by its deadline: one to node {node.id} has not")
        raise UnknownOutcome("the node died")

    def up(self) -> list[SimNode]:
        return [node for node in self.nodes.values() if node.up]

    # --- clients --------------------------------------------------------------------------------------

    async def make_topic(self, random: Random) -> None:
        """Asks one node after the other until the topic is there."""
        factor = min(3, self.plan.voters)
        for _ in range(200):
            await asyncio.sleep(0.1)
            if not self.up():
                continue
            node = random.choice(self.up())
            try:
                create = partial(self.broker(node).create_topic, TOPIC, self.partitions, factor, timeout=5.0)
                await self.ask(node, create, 5.0)
                return
            except TopicExists:
                return
            except (Retriable, UnknownOutcome):
                continue
            except BrokerError as error:
                self.note(f"no topic yet: {error}")
        raise Violation(f"no topic can be created: {self.describe()}")

    async def produce(self, random: Random) -> None:
        if not self.up():
            return
        node = random.choice(self.up())
        sent = Sent(random.randrange(self.partitions), len(self.sent), random.randint(1, 3))
        self.sent.append(sent)
        values = [b"%d/%d" % (sent.value, n) for n in range(sent.count)]
        batch = encode_batch([RecordDraft(b"key", value) for value in values], base_timestamp=EPOCH_MS)
        idempotency = Idempotency.of(f"request {sent.value}", batch) if random.random() < 0.6 else None
        timeout = random.choice((0.5, 2.0, 5.0))
        for _ in range(3 if idempotency else 1):
            call = partial(
                self.broker(node).produce, TOPIC, sent.partition, batch, timeout=timeout, idempotency=idempotency
            )
            try:
                produced = await self.ask(node, call, timeout)
            except UnknownOutcome:
                sent.outcome = "unknown"
                await asyncio.sleep(0.2)
                if not self.up():
                    break
                node = random.choice(self.up())
                continue
            except BrokerError as error:
                if not isinstance(error, Retriable):
                    raise
                sent.outcome = "unknown" if sent.outcome == "unknown" else "refused"
                break
            sent.outcome, sent.offset = "acknowledged", produced.base_offset
            truth = self.truth(sent.partition)
            truth.acknowledged_end = max(truth.acknowledged_end, produced.base_offset + sent.count)
            for number, value in enumerate(values):
                self.saw(node, sent.partition, produced.base_offset + number, value)
            break
        self.checks.count(sent.outcome)

    def truth(self, partition: int) -> PartitionTruth:
        return self.truths.setdefault(partition, PartitionTruth())

    def saw(self, node: SimNode, partition: int, offset: int, value: bytes) -> None:
        before = self.truth(partition).seen.setdefault(offset, value)
        if before != value:
            raise Violation(
                f"what was read stays: node {node.id} has {value!r} at offset {offset} of partition {partition}, it "
                f"was {before!r}"
            )

    async def fetch(self, random: Random) -> None:
        """A read of some stretch from some node, and now and then a linearizable look at the end."""
        if not self.up():
            return
        node = random.choice(self.up())
        partition = random.randrange(self.partitions)
        truth = self.truth(partition)
        wanted = truth.acknowledged_end
        try:
            if random.random() < 0.3:
                call = partial(self.broker(node).offsets, TOPIC, partition, timeout=2.0)
                view = await self.ask(node, call, 2.0)
                self.checks.read(node.id, partition, wanted, view.end)
            else:
                await self.fetch_from(node, partition, random.randint(0, wanted), 2.0)
        except (Retriable, UnknownOutcome):
            return
        self.checks.count("reads")

    async def fetch_from(self, node: SimNode, partition: int, offset: int, timeout: float) -> int:
        """One fetch, everything in it checked; the next offset."""
        wait = 0.2
        call = partial(self.broker(node).fetch, TOPIC, partition, offset, wait=wait, timeout=timeout)
        fetched = await self.ask(node, call, timeout + wait)
        following = offset
        for batch in fetched.batches:
            for record in decode_batch(batch):
                if record.offset >= offset:
                    if record.offset != following:
                        raise Violation(f"no gaps: node {node.id} goes from {following} to {record.offset}")
                    following += 1
                assert record.value is not None
                self.saw(node, partition, record.offset, record.value)
        return following

    # --- what the nemesis asks for --------------------------------------------------------------------

    def transfer_some(self, random: Random) -> None:
        groups = sorted({number for n in self.up() if n.host is not None for number in n.host.groups})
        if groups:
            number = random.choice(groups)
            for node in self.leaders(number)[:1]:
                assert node.process is not None
                call = partial(self.broker(node).transfer_leadership, number, None, timeout=1.0)
                node.process.spawn(quietly(call))

    def may_lose(self, node: SimNode) -> bool:
        """One disk at a time, in the whole cluster: what was lost before must have been replaced in every group."""
        for other in self.nodes.values():
            if other.host is None or other.rotten:
                return False
            control = other.host.groups.get(0)
            if control is None or any(n.member not in control.configuration.members for n in self.nodes.values()):
                return False
            if any(self.lost_voters(group.configuration) for group in other.host.groups.values()):
                return False
        return super().may_lose(node)

    def change_members(self, random: Random) -> None:
        """The broker changes them by itself, as nodes come and go."""

    # --- the end --------------------------------------------------------------------------------------

    async def settle(self, seconds: float = 120.0) -> None:
        """Faults are over: the cluster repairs itself, whole again in every group."""
        self.note("calm")
        deadline = self.loop.time() + seconds
        while True:
            self.repair()
            await asyncio.sleep(0.5)
            if self._whole():
                return
            if self.loop.time() > deadline:
                raise Violation(f"does not settle within {seconds} s:\n{self.describe()}")

    def _whole(self) -> bool:
        numbers = {number for n in self.nodes.values() if n.host is not None for number in n.host.groups}
        shards = self.broker(self.up()[0])._context.control.shards
        for number in numbers:
            if not self.agreed(number):
                return False
            leader = self.leaders(number)[0]
            assert leader.host is not None
            configuration = leader.host.groups[number].configuration
            voters = min(3, len(self.nodes) if number in shards else self.plan.voters)
            if number == 0:
                voters = min(5, len(self.nodes))
            members = len(self.nodes) if number == 0 else voters
            if self.lost_voters(configuration):
                return False
            if len(configuration.voters) < voters or len(configuration.members) != members:
                return False
        return all(self.broker(node).readiness().ready for node in self.up())

    def describe(self) -> str:
        lines = []
        for node in self.nodes.values():
            if node.host is None:
                lines.append(f"node {node.id} is down")
            else:
                lines += [str(group.status()) for group in node.host.groups.values()]
                lines.append(str(self.broker(node).readiness()))
        return "\n".join(lines)

    async def verify(self) -> None:
        """Reads every partition whole, through each node, and holds it against what clients were told."""
        for partition in range(self.partitions):
            for node in self.nodes.values():
                view = await self.ask(node, partial(self.broker(node).offsets, TOPIC, partition, timeout=5.0), 5.0)
                if view.start != 0:
                    raise Violation(f"nothing is an hour old, but partition {partition} starts at {view.start}")
                offset = 0
                while offset < view.end:
                    following = await self.fetch_from(node, partition, offset, 5.0)
                    if following == offset:
                        raise Violation(f"node {node.id} serves nothing at {offset} of {view.end}")
                    offset = following
                self._account(partition, view.end)

    def _account(self, partition: int, end: int) -> None:
        truth = self.truth(partition)
        if sorted(truth.seen) != list(range(end)):
            raise Violation(f"offsets without gaps or repeats: partition {partition}, {end}, {sorted(truth.seen)[-5:]}")
        places: dict[bytes, int] = {}
        for offset, value in sorted(truth.seen.items()):
            if value in places:
                raise Violation(f"each record once: {value!r} stands at {places[value]} and {offset}")
            places[value] = offset
        for sent in self.sent:
            if sent.partition != partition:
                continue
            found = [places.get(b"%d/%d" % (sent.value, n)) for n in range(sent.count)]
            if sent.outcome == "acknowledged" and found != list(range(sent.offset, sent.offset + sent.count)):
                raise Violation(f"every acknowledged record at its offset: {sent} is at {found}")
            if sent.outcome == "refused" and any(place is not None for place in found):
                raise Violation(f"refused records never appear: {sent} is at {found}")
            if None in found and any(place is not None for place in found):
                raise Violation(f"a batch is whole or not there: {sent} is at {found}")


async def quietly(call: Callable[[], Any]) -> None:
    try:
        await call()
    except BrokerError:
        return
