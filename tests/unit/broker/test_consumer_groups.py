"""Consumer groups on whole nodes: from any node, through leader changes in the middle of everything."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from consensus.errors import NotLeader
from raftbroker.broker.consumer_groups import ConsumerGroups, OffsetToCommit
from raftbroker.broker.group_options import GroupOptions
from raftbroker.broker.wire_groups import ConsumerHeartbeatAnswer
from raftbroker.state.groups.consumer import pairs
from raftbroker.state.groups.ops import Leaving, PartitionName
from raftbroker.state.groups.part import Groups
from raftbroker.state.groups.terms import GroupError, GroupState
from tests.unit.broker.members import Member, settled
from tests.unit.broker.nodes import TestNode, cluster, until

OPTIONS = GroupOptions(session_ms_min=100, initial_rebalance_delay_ms=100, consumer_session_ms=1_000)


@asynccontextmanager
async def topic_cluster(path: Path, count: int, partitions: int = 6) -> AsyncIterator[list[TestNode]]:
    async with cluster(path, count, groups=OPTIONS, transfer_quiet=60.0) as nodes:
        await nodes[0].broker.create_topic("t", partitions, min(count, 3))
        for name in ("g", "c"):
            await coordinator(nodes, name)
        yield nodes


@asynccontextmanager
async def running(*members: Member) -> AsyncIterator[list["asyncio.Task[None]"]]:
    tasks = [asyncio.get_running_loop().create_task(member.run()) for member in members]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def groups(node: TestNode) -> ConsumerGroups:
    return node.broker.consumer_groups


async def coordinator(nodes: list[TestNode], name: str = "g") -> TestNode:
    """Once there is one, and it is ready."""
    running = [node for node in nodes if node.core is not None]

    def led() -> bool:
        with contextlib.suppress(Exception):
            return any(groups(node).leads(name) for node in running)
        return False

    await until(led)
    return next(node for node in running if groups(node).leads(name))


def test_three_members_on_one_node(tmp_path: Path) -> None:
    async def main() -> None:
        async with topic_cluster(tmp_path, 1) as nodes:
            members = [Member(nodes, f"m{number}") for number in range(3)]
            async with running(*members):
                await until(lambda: settled(members))
                view = await groups(nodes[0]).describe("g")
                assert view is not None
                assert (view.state, view.protocol, len(view.members)) == (GroupState.STABLE, "range", 3)
                assert [group.name for group in await groups(nodes[0]).list_all()] == ["g"]
                done = await members[0].commit(5, partition=members[0].mine[0])
                assert done.error is None
                stale = await members[0].commit(6, generation=members[0].generation - 1)
                assert stale.error is GroupError.ILLEGAL_GENERATION
            left = await groups(nodes[0]).leave("g", [Leaving(member.member_id, None) for member in members])
            assert left.errors == (None, None, None)
            offsets = (await groups(nodes[0]).offsets("g")).offsets
            assert [(item.topic, item.offset, item.metadata) for item in offsets] == [("t", 5, "m0")]
            assert await groups(nodes[0]).delete("g") is None
            assert await groups(nodes[0]).delete("g") is GroupError.GROUP_ID_NOT_FOUND

    asyncio.run(main())


def test_a_member_that_is_silent_is_left_out(tmp_path: Path) -> None:
    async def main() -> None:
        async with topic_cluster(tmp_path, 1) as nodes:
            members = [Member(nodes, f"m{number}", session_ms=500) for number in range(3)]
            async with running(*members) as tasks:
                await until(lambda: settled(members))
                tasks[2].cancel()
                await until(lambda: settled(members[:2]))
                late = await members[2].commit(9)
                assert late.error is GroupError.UNKNOWN_MEMBER_ID

    asyncio.run(main())


def test_a_member_that_never_fetches_its_assignment_is_left_out(tmp_path: Path) -> None:
    async def main() -> None:
        async with topic_cluster(tmp_path, 1) as nodes:
            silent = Member(nodes, "silent", session_ms=60_000, rebalance_ms=500)
            silent.member_id = (await silent.join()).member_id
            assert (await silent.join()).error is None
            other = Member(nodes, "other", rebalance_ms=500)
            async with running(other):
                await until(lambda: settled([other]))
            assert (await silent.commit(1)).error is GroupError.UNKNOWN_MEMBER_ID

    asyncio.run(main())


def test_a_coordinator_that_dies_takes_nothing_with_it(tmp_path: Path) -> None:
    """Members go on in their generation, through any node; what was committed is there; nobody joins again."""

    async def main() -> None:
        async with topic_cluster(tmp_path, 3) as nodes:
            members = [Member(nodes, f"m{number}", session_ms=20_000) for number in range(3)]
            async with running(*members):
                await until(lambda: settled(members))
                before = [(member.member_id, member.generation) for member in members]
                assert (await members[0].commit(7)).error is None
                victim = await coordinator(nodes)
                await victim.kill()
                heir = await coordinator(nodes)
                assert (await members[1].commit(8)).error is None
                stale = await members[1].commit(6, generation=members[1].generation - 1)
                assert stale.error is GroupError.ILLEGAL_GENERATION
                await asyncio.sleep(1.0)
                assert [(member.member_id, member.generation) for member in members] == before
                offsets = (await groups(heir).offsets("g")).offsets
                assert [(item.offset, item.metadata) for item in offsets] == [(8, "m1")]
                newcomer = Member(nodes, "m3", session_ms=20_000)
                async with running(newcomer):
                    await until(lambda: settled([*members, newcomer]), 20.0)
                assert [member.member_id for member in members] == [member_id for member_id, _ in before]

    asyncio.run(main())


def test_a_rebalance_goes_on_when_its_coordinator_dies(tmp_path: Path) -> None:
    """Half of the members have joined it; they keep their ids, and are answered by the next coordinator."""

    async def main() -> None:
        async with topic_cluster(tmp_path, 3) as nodes:
            victim = await coordinator(nodes)
            others = [node for node in nodes if node is not victim]
            members = [Member(others, f"m{number}", session_ms=20_000) for number in range(4)]
            async with running(*members[:3]) as tasks:
                await until(lambda: settled(members[:3]))
                ids = [member.member_id for member in members[:3]]
                for task in tasks:
                    task.cancel()
                await members[3].rejoin()  # is told its id
                joining = asyncio.gather(members[0].rejoin(), members[3].rejoin())
                part = victim.broker.shards.part(victim.broker.shards.shard_of("g"), Groups)
                await until(lambda: part.groups["g"].state is GroupState.PREPARING_REBALANCE)
                await victim.kill()
                await coordinator(nodes)
                async with running(*members[1:3]):
                    await joining
                    async with running(members[0], members[3]):
                        await until(lambda: settled(members), 20.0)
                assert [member.member_id for member in members[:3]] == ids

    asyncio.run(main())


def test_static_members_keep_their_place(tmp_path: Path) -> None:
    async def main() -> None:
        async with topic_cluster(tmp_path, 3) as nodes:
            members = [Member(nodes, f"m{number}", instance=f"i{number}") for number in range(2)]
            async with running(*members) as tasks:
                await until(lambda: settled(members))
                generation, mine = members[0].generation, members[1].mine
                tasks[1].cancel()
                old_id = members[1].member_id
                back = Member(nodes, "back", instance="i1")
                async with running(back):
                    await until(lambda: back.generation >= 0)
                    assert (back.generation, back.mine, members[0].generation) == (generation, mine, generation)
                    assert back.member_id != old_id
                    fenced = await members[1].commit(1, generation=generation)
                    assert fenced.error is GroupError.FENCED_INSTANCE_ID

    asyncio.run(main())


def test_offsets_are_kept_by_topic_and_not_by_name(tmp_path: Path) -> None:
    async def main() -> None:
        async with topic_cluster(tmp_path, 1) as nodes:
            face = groups(nodes[0])
            items = [OffsetToCommit("t", 0, 3), OffsetToCommit("t", 99, 1), OffsetToCommit("none", 0, 1)]
            unknown = GroupError.UNKNOWN_TOPIC_OR_PARTITION
            assert (await face.commit("g", items)).errors == (None, unknown, unknown)
            names = [PartitionName("t", 0), PartitionName("none", 0)]
            assert [item.offset for item in (await face.offsets("g", names)).offsets] == [3, -1]
            await nodes[0].broker.delete_topic("t")
            await nodes[0].broker.create_topic("t", 1, 1)
            assert [item.offset for item in (await face.offsets("g", names)).offsets] == [-1, -1]
            assert (await face.offsets("g")).offsets == ()
            part = nodes[0].broker.shards.part(nodes[0].broker.shards.shard_of("g"), Groups)
            await until(lambda: not part.groups["g"].offsets.committed)

    asyncio.run(main())


def test_another_node_refuses_what_is_for_the_coordinator_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with topic_cluster(tmp_path, 3) as nodes:
            leader = await coordinator(nodes)
            other = next(node for node in nodes if node is not leader)
            assert await groups(other).coordinator("g") == leader.id
            with pytest.raises(NotLeader):
                await groups(other).commit("g", [OffsetToCommit("t", 0, 1)], here_only=True)
            with pytest.raises(NotLeader):
                await groups(other).offsets("g", here_only=True)
            with pytest.raises(NotLeader):
                await groups(other).describe("g", here_only=True)
            assert (await groups(leader).commit("g", [OffsetToCommit("t", 0, 1)], here_only=True)).error is None
            assert [group.name for group in await groups(leader).list_here()] == ["g"]
            assert await groups(other).list_here() == []
            assert [group.name for group in await groups(other).list_all()] == ["g"]

    asyncio.run(main())


def test_bounds_of_requests(tmp_path: Path) -> None:
    async def main() -> None:
        async with topic_cluster(tmp_path, 1) as nodes:
            short = Member(nodes, "m", session_ms=1)
            assert (await short.join()).error is GroupError.INVALID_SESSION_TIMEOUT
            assert (await groups(nodes[0]).commit("", [])).error is GroupError.INVALID_GROUP_ID
            long = await groups(nodes[0]).commit("g", [], instance_id="x" * 1001)
            assert long.error is GroupError.INVALID_REQUEST

    asyncio.run(main())


# --- KIP-848 ----------------------------------------------------------------------------------------------------


class Consumer:
    """A KIP-848 member: gives up what it must before it says so."""

    def __init__(
        self, nodes: list[TestNode], name: str, names: tuple[str, ...] | None = ("t",), regex: str | None = None
    ):
        self.nodes = nodes
        self.name = name
        self.names, self.regex = names, regex
        self.epoch = 0
        self.owned: dict[str, tuple[int, ...]] = {}
        self.errors: list[GroupError] = []

    async def beat(self, node: TestNode | None = None) -> ConsumerHeartbeatAnswer:
        first = self.epoch == 0
        answer = await groups(node or self.nodes[0]).consumer_heartbeat(
            "c",
            member_id=self.name,
            epoch=self.epoch,
            client_id=self.name,
            client_host="/test",
            rebalance_ms=10_000 if first else -1,
            names=self.names if first else None,
            regex=self.regex if first else None,
            owned={} if first else self.owned,
        )
        if answer.error is not None:
            self.errors.append(answer.error)
            self.epoch, self.owned = 0, {}
        else:
            self.epoch = answer.epoch
            self.owned = answer.assignment if answer.assignment is not None else self.owned
        return answer

    @property
    def partitions(self) -> set[tuple[str, int]]:
        return pairs(self.owned)


async def beat_until_even(consumers: list[Consumer], count: int) -> None:
    async def even() -> bool:
        for consumer in consumers:
            await consumer.beat()
        owned = [partition for consumer in consumers for partition in consumer.partitions]
        assert len(owned) == len(set(owned))
        return len(owned) == count and max(len(c.partitions) for c in consumers) <= -(-count // len(consumers))

    await until(even, every=0.02)


def test_consumers_share_partitions_and_follow_topics(tmp_path: Path) -> None:
    async def main() -> None:
        async with topic_cluster(tmp_path, 1, partitions=4) as nodes:
            consumers = [Consumer(nodes, f"c{number}") for number in range(2)]
            first = await consumers[0].beat()
            assert (first.epoch, len(consumers[0].partitions)) == (1, 4), "the first answer has the assignment"
            await beat_until_even(consumers, 4)
            await nodes[0].broker.create_partitions("t", 6)
            await beat_until_even(consumers, 6)
            view = await groups(nodes[0]).describe("c")
            assert view is not None
            assert view.state is GroupState.STABLE
            done = await groups(nodes[0]).commit(
                "c", [OffsetToCommit("t", 0, 4)], member_id="c0", generation=consumers[0].epoch
            )
            assert done.error is None
            stale = await groups(nodes[0]).commit(
                "c", [OffsetToCommit("t", 0, 5)], member_id="c0", generation=consumers[0].epoch - 1
            )
            assert stale.error is GroupError.STALE_MEMBER_EPOCH
            joined = await Member(nodes, "m", group="c").join()
            assert joined.error is GroupError.INCONSISTENT_GROUP_PROTOCOL

    asyncio.run(main())


def test_a_pattern_takes_in_topics_as_they_come(tmp_path: Path) -> None:
    async def main() -> None:
        async with topic_cluster(tmp_path, 1, partitions=2) as nodes:
            consumer = Consumer(nodes, "c0", None, "t.*")
            await beat_until_even([consumer], 2)
            await nodes[0].broker.create_topic("t-more", 3, 1)
            await nodes[0].broker.create_topic("other", 3, 1)
            await beat_until_even([consumer], 5)
            await nodes[0].broker.delete_topic("t")
            await beat_until_even([consumer], 3)
            broken = Consumer(nodes, "c1", None, "(")
            assert (await broken.beat()).error is GroupError.INVALID_REGULAR_EXPRESSION

    asyncio.run(main())


def test_a_consumer_that_is_silent_is_removed(tmp_path: Path) -> None:
    async def main() -> None:
        async with topic_cluster(tmp_path, 1, partitions=4) as nodes:
            consumers = [Consumer(nodes, f"c{number}") for number in range(2)]
            await beat_until_even(consumers, 4)
            await beat_until_even(consumers[:1], 4)
            assert (await consumers[1].beat()).error is GroupError.UNKNOWN_MEMBER_ID

    asyncio.run(main())


def test_consumers_go_on_when_their_coordinator_dies(tmp_path: Path) -> None:
    async def main() -> None:
        async with topic_cluster(tmp_path, 3, partitions=4) as nodes:
            victim = await coordinator(nodes, "c")
            others = [node for node in nodes if node is not victim]
            consumers = [Consumer(others, f"c{number}") for number in range(2)]
            await beat_until_even(consumers, 4)
            before = [(consumer.epoch, consumer.partitions) for consumer in consumers]
            await victim.kill()
            await coordinator(nodes, "c")
            for consumer in consumers:
                await consumer.beat()
            assert [(consumer.epoch, consumer.partitions) for consumer in consumers] == before
            assert not consumers[0].errors
            third = Consumer(others, "c2")
            await beat_until_even([*consumers, third], 4)

    asyncio.run(main())
