"""Consumer groups of whole nodes under faults: members that join, commit, fall silent, die, and come back as ghosts.

Two groups share a topic's partitions: one of the classic protocol, one of KIP-848. A member that is given a partition
begins at the offset that is committed and commits ever higher ones. One that dies leaves a ghost, which goes on
committing under its name; so do members that were cut off and do not know that the group has moved on.

What must hold: no partition is given to two members of one generation; a committed offset never goes back, and none
that was acknowledged is lost, for whoever commits lower is a ghost of an older generation; a later coordinator
knows what one before it has answered. In the end a group settles, with all partitions dealt out.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

from consensus.errors import ConsensusError
from raftbroker.broker.broker import Broker
from raftbroker.broker.consumer_groups import OffsetToCommit
from raftbroker.broker.errors import Retriable, UnknownOutcome
from raftbroker.broker.group_options import GroupOptions
from raftbroker.state.groups.ops import Leaving, PartitionName
from raftbroker.state.groups.protocol import decode_assignment, encode_assignment
from raftbroker.state.groups.terms import GroupError

from .brokers import TOPIC, BrokerCluster
from .checks import Violation
from .lives import SimNode

PARTITIONS = 4
SESSION_MS = 1_000
SETTLE_SECONDS = 60.0
OPTIONS = GroupOptions(
    session_ms_min=100, initial_rebalance_delay_ms=50, consumer_session_ms=SESSION_MS, consumer_heartbeat_ms=200
)


class Nobody(Exception):
    """No node has answered."""


@dataclass
class Member:
    group: str
    name: str
    member_id: str = ""
    epoch: int = -1
    """The generation, or the member epoch; -1 while it belongs to none."""
    mine: set[int] = field(default_factory=set)
    positions: dict[int, int] = field(default_factory=dict)

    @property
    def modern(self) -> bool:
        return self.group == "modern"

    def forget(self, error: GroupError | None = None) -> None:
        """What it had is gone; its id as well where the group does not know it."""
        if error in (GroupError.UNKNOWN_MEMBER_ID, GroupError.FENCED_INSTANCE_ID) and not self.modern:
            self.member_id = ""
        self.epoch = 0 if self.modern else -1
        self.mine = set()
        self.positions = {}


class MemberCluster(BrokerCluster):
    """See the module."""

    groups = OPTIONS
    lives = 0
    handed: dict[tuple[str, int], dict[int, str]]
    """By group and generation: who was given a partition."""
    floors: dict[tuple[str, int], int]
    """By group and partition: what is known to be committed, at least."""
    ghosts: list[Member]
    topic_id: str

    async def anywhere(self, random: Random, call: Callable[[Broker], Awaitable[Any]], seconds: float) -> Any:
        """What one node answers. Raises Nobody, after which it may have been done."""
        up = self.up()
        if not up:
            await asyncio.sleep(0.05)
            raise Nobody
        node: SimNode = random.choice(up)
        try:
            return await self.ask(node, partial(call, self.broker(node)), seconds)
        except (Retriable, UnknownOutcome, ConsensusError) as error:
            raise Nobody from error

    # --- members --------------------------------------------------------------------------------------

    def new_life(self, member: Member) -> Member:
        self.lives += 1
        fresh = Member(member.group, f"{member.name.partition('#')[0]}#{self.lives}")
        if fresh.modern:
            fresh.member_id, fresh.epoch = fresh.name, 0
        return fresh

    async def run_member(self, member: Member, random: Random, until: float) -> None:
        while self.loop.time() < until:
            await asyncio.sleep(random.expovariate(15))
            if random.random() < 0.02:
                self.note(f"{member.name} dies")
                self.ghosts.append(member)
                member = self.new_life(member)
            elif random.random() < 0.02:
                await asyncio.sleep(random.uniform(0, 2 * SESSION_MS / 1000))
            try:
                await self.turn(member, random)
            except Nobody:
                self.checks.count("member requests without an answer")

    async def turn(self, member: Member, random: Random) -> None:
        if member.modern:
            await self.beat_modern(member, random)
        elif member.epoch < 0:
            await self.join(member, random)
        else:
            await self.beat(member, random)
        if member.mine and random.random() < 0.5:
            await self.commit(member, random)
        elif random.random() < 0.03 and member.member_id and not member.modern:
            await self.anywhere(
                random, lambda b: b.consumer_groups.leave(member.group, [Leaving(member.member_id, None)]), 3.0
            )
            member.member_id = ""
            member.forget()

    async def join(self, member: Member, random: Random) -> None:
        joined = await self.anywhere(
            random,
            lambda b: b.consumer_groups.join(
                member.group,
                member_id=member.member_id,
                client_id=member.name,
                client_host="/sim",
                session_ms=SESSION_MS,
                rebalance_ms=1_500,
                protocol_type="consumer",
                protocols=[("range", b"any")],
                id_required=True,
                timeout=4.0,
            ),
            5.0,
        )
        if joined.error is not None:
            member.member_id = joined.member_id if joined.error is GroupError.MEMBER_ID_REQUIRED else member.member_id
            member.forget(joined.error)
            return
        member.member_id = joined.member_id
        hands: dict[str, list[int]] = {other.member_id: [] for other in joined.members}
        for number in range(PARTITIONS if hands else 0):
            hands[random.choice(list(hands))].append(number)
        synced = await self.anywhere(
            random,
            lambda b: b.consumer_groups.sync(
                member.group,
                member_id=member.member_id,
                generation=joined.generation,
                assignments={who: encode_assignment({TOPIC: tuple(hand)}) for who, hand in hands.items()},
                timeout=4.0,
            ),
            5.0,
        )
        if synced.error is not None:
            member.forget(synced.error)
            return
        member.epoch = joined.generation
        member.mine = set(decode_assignment(synced.assignment).get(TOPIC, ()))
        handed = self.handed.setdefault((member.group, member.epoch), {})
        for number in member.mine:
            if handed.setdefault(number, member.member_id) != member.member_id:
                raise Violation(f"generation {member.epoch}: partition {number} for {handed[number]} and {member}")
        self.checks.count("assignments")
        await self.fetch_positions(member, random)

    async def beat(self, member: Member, random: Random) -> None:
        answer = await self.anywhere(
            random,
            lambda b: b.consumer_groups.heartbeat(
                member.group, member_id=member.member_id, generation=member.epoch, timeout=2.0
            ),
            2.0,
        )
        if answer.error is not None:
            member.forget(answer.error)

    async def beat_modern(self, member: Member, random: Random) -> None:
        joins = member.epoch == 0
        owned = {self.topic_id: tuple(sorted(member.mine))} if member.mine else {}
        answer = await self.anywhere(
            random,
            lambda b: b.consumer_groups.consumer_heartbeat(
                member.group,
                member_id=member.member_id,
                epoch=member.epoch,
                client_id=member.name,
                client_host="/sim",
                rebalance_ms=1_500 if joins else -1,
                names=[TOPIC] if joins else None,
                owned={} if joins else owned,
                timeout=3.0,
            ),
            3.0,
        )
        if answer.error is not None:
            member.forget(answer.error)
            return
        member.epoch = answer.epoch
        if answer.assignment is not None:
            mine = set(answer.assignment.get(self.topic_id, ()))
            gained, member.mine = mine - member.mine, mine
            member.positions = {number: at for number, at in member.positions.items() if number in mine}
            if gained:
                self.checks.count("assignments")
                await self.fetch_positions(member, random)

    # --- offsets --------------------------------------------------------------------------------------

    async def committed(self, group: str, random: Random) -> dict[int, int]:
        floors = {number: self.floors.get((group, number), -1) for number in range(PARTITIONS)}
        names = [PartitionName(TOPIC, number) for number in range(PARTITIONS)]
        answer = await self.anywhere(random, lambda b: b.consumer_groups.offsets(group, names, timeout=2.0), 2.0)
        found = {item.partition: item.offset for item in answer.offsets}
        for number, floor in floors.items():
            if found[number] < floor:
                raise Violation(f"{group}: partition {number} stands at {found[number]}, it was {floor} before")
            self.floors[group, number] = max(self.floors.get((group, number), -1), found[number])
        self.checks.count("offsets read")
        return found

    async def fetch_positions(self, member: Member, random: Random) -> None:
        """A partition without a position is not committed to: the member tries again with its next turn."""
        found = await self.committed(member.group, random)
        member.positions = {number: max(0, found[number]) for number in member.mine}

    async def commit(self, member: Member, random: Random) -> None:
        if member.positions.keys() != member.mine:
            await self.fetch_positions(member, random)
        number = random.choice(sorted(member.mine))
        member.positions[number] += random.randint(1, 5)
        offset, epoch = member.positions[number], member.epoch
        done = await self.anywhere(
            random,
            lambda b: b.consumer_groups.commit(
                member.group,
                [OffsetToCommit(TOPIC, number, offset)],
                member_id=member.member_id,
                generation=epoch,
                timeout=2.0,
            ),
            2.0,
        )
        if done.error is None and not any(done.errors):
            self.floors[member.group, number] = max(self.floors.get((member.group, number), -1), offset)
            self.checks.count("commits")
        elif done.error is GroupError.STALE_MEMBER_EPOCH:
            del member.positions[number]  # it looks again with its next turn
        else:
            self.checks.count("commits refused")
            member.forget(done.error)

    async def run_ghosts(self, random: Random, until: float) -> None:
        """Those who died go on committing what they had."""
        while self.loop.time() < until:
            await asyncio.sleep(random.expovariate(8))
            ghosts = [ghost for ghost in self.ghosts if ghost.mine and ghost.positions]
            if ghosts:
                try:
                    await self.commit(random.choice(ghosts[-5:]), random)
                except Nobody:
                    continue

    # --- the end --------------------------------------------------------------------------------------

    async def verify(self) -> None:
        random = Random(f"{self.seed}/verify")
        for group in ("classic", "modern"):
            await self._settles(group, random)
            await self._until_answered(lambda group=group: self.committed(group, random))  # type: ignore[misc]

    async def _settles(self, group: str, random: Random) -> None:
        """Three new members share all partitions once those before them are gone."""
        members = [self.new_life(Member(group, f"last-{number}")) for number in range(3)]
        deadline = self.loop.time() + SETTLE_SECONDS
        stop = False

        async def run(member: Member) -> None:
            while not stop:
                await asyncio.sleep(0.1)
                try:
                    await self.turn(member, random)
                except Nobody:
                    continue

        tasks = [asyncio.create_task(run(member)) for member in members]
        while True:
            await asyncio.sleep(0.2)
            parts = [number for member in members for number in member.mine]
            if sorted(parts) == list(range(PARTITIONS)) and all(member.epoch > 0 for member in members):
                break
            if self.loop.time() > deadline:
                raise Violation(f"{group} does not settle: {members}")
            for task in tasks:
                if task.done():
                    task.result()
        stop = True
        await asyncio.gather(*tasks)

    async def _until_answered(self, call: Callable[[], Awaitable[Any]]) -> None:
        deadline = self.loop.time() + 30.0
        while True:
            try:
                await call()
            except Nobody:
                if self.loop.time() > deadline:
                    raise Violation("nobody answers though all is well") from None
                await asyncio.sleep(0.2)
            else:
                return


async def members_script(cluster: MemberCluster, run_faults: Callable[[float], Awaitable[None]]) -> None:
    """Members and ghosts under faults, then calm and the final judgement."""
    random = Random(f"{cluster.seed}/script")
    cluster.partitions = PARTITIONS
    cluster.handed, cluster.floors, cluster.ghosts = {}, {}, []
    for node in cluster.nodes.values():
        cluster.start(node)
    await cluster.make_topic(random)
    cluster.topic_id = cluster.broker(cluster.up()[0])._context.control.topics()[0].topic_id
    until = cluster.loop.time() + random.uniform(4, 10)
    members = [
        cluster.new_life(Member(group, f"{group}-{number}"))
        for group in ("classic", "modern")
        for number in range(random.randint(1, 3))
    ]
    work = [cluster.run_member(one, Random(f"{cluster.seed}/{one.name}"), until) for one in members]
    work += [cluster.run_ghosts(Random(f"{cluster.seed}/ghosts"), until)]
    tasks = [asyncio.create_task(one) for one in work]
    await run_faults(until - cluster.loop.time())
    await asyncio.gather(*tasks)
    await cluster.settle()
    await cluster.verify()
