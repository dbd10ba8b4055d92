"""Members of consumer groups that speak to the broker's face, as a front door would for its clients."""

import asyncio
from dataclasses import dataclass, field

from raftbroker.broker.broker import Broker
from raftbroker.broker.consumer_groups import OffsetToCommit
from raftbroker.broker.errors import BrokerError
from raftbroker.broker.wire_groups import JoinAnswer
from raftbroker.state.groups.ops import Committed
from raftbroker.state.groups.protocol import Subscription, decode_assignment, encode_assignment, encode_subscription
from raftbroker.state.groups.terms import GroupError
from tests.unit.broker.nodes import TestNode

FORGET = (GroupError.UNKNOWN_MEMBER_ID, GroupError.FENCED_INSTANCE_ID)


@dataclass
class Member:
    """A classic member that reads topic "t"; it deals out partitions by turns where it leads."""

    nodes: list[TestNode]
    name: str
    instance: str | None = None
    partitions: int = 6
    group: str = "g"
    session_ms: int = 6_000
    rebalance_ms: int = 10_000
    member_id: str = ""
    generation: int = -1
    mine: tuple[int, ...] = ()
    generations: list[int] = field(default_factory=list)
    """Those it has had an assignment of."""
    errors: list[str] = field(default_factory=list)
    stopped: bool = False
    asked: int = 0

    @property
    def broker(self) -> Broker:
        """Another node each time, of those that run."""
        running = [node for node in self.nodes if node.core is not None]
        self.asked += 1
        return running[self.asked % len(running)].broker

    async def run(self, every: float = 0.1) -> None:
        while not self.stopped:
            try:
                if self.generation < 0:
                    await self.rejoin()
                else:
                    await self.beat()
                    await asyncio.sleep(every)
            except BrokerError as error:
                self.errors.append(str(error))
                await asyncio.sleep(0.05)

    async def join(self) -> JoinAnswer:
        offers = [("range", encode_subscription(Subscription(("t",))))]
        return await self.broker.consumer_groups.join(
            self.group,
            member_id=self.member_id,
            instance_id=self.instance,
            client_id=self.name,
            client_host="/test",
            session_ms=self.session_ms,
            rebalance_ms=self.rebalance_ms,
            protocol_type="consumer",
            protocols=offers,
            id_required=self.instance is None,
        )

    async def rejoin(self) -> None:
        joined = await self.join()
        if joined.error is GroupError.MEMBER_ID_REQUIRED:
            self.member_id = joined.member_id
            return
        if joined.error is not None:
            self.failed(joined.error)
            return
        self.member_id = joined.member_id
        hands: dict[str, list[int]] = {member.member_id: [] for member in joined.members}
        for number in range(self.partitions if hands else 0):
            list(hands.values())[number % len(hands)].append(number)
        synced = await self.broker.consumer_groups.sync(
            self.group,
            member_id=self.member_id,
            instance_id=self.instance,
            generation=joined.generation,
            protocol_type="consumer",
            protocol=joined.protocol,
            assignments={who: encode_assignment({"t": tuple(hand)}) for who, hand in hands.items()},
        )
        if synced.error is not None:
            self.failed(synced.error)
            return
        self.generation = joined.generation
        self.mine = decode_assignment(synced.assignment).get("t", ())
        self.generations.append(self.generation)

    async def beat(self) -> None:
        answer = await self.broker.consumer_groups.heartbeat(
            self.group, member_id=self.member_id, instance_id=self.instance, generation=self.generation
        )
        if answer.error is not None:
            self.failed(answer.error)

    async def commit(self, offset: int, *, partition: int = 0, generation: int | None = None) -> Committed:
        return await self.broker.consumer_groups.commit(
            self.group,
            [OffsetToCommit("t", partition, offset, metadata=self.name)],
            member_id=self.member_id,
            instance_id=self.instance,
            generation=self.generation if generation is None else generation,
        )

    def failed(self, error: GroupError) -> None:
        self.errors.append(error.value)
        self.generation = -1
        self.mine = ()
        if error in FORGET:
            self.member_id = ""


def settled(members: list[Member]) -> bool:
    """All of them are in one generation, and it has everything."""
    shared = {member.generation for member in members}
    mine = sorted(number for member in members for number in member.mine)
    return len(shared) == 1 and -1 not in shared and mine == list(range(members[0].partitions))
