"""Lag of consumer groups, and putting them somewhere else."""

import asyncio
from pathlib import Path

import pytest

from raftbroker.broker.broker import Broker
from raftbroker.broker.consumer_groups import OffsetToCommit
from raftbroker.broker.errors import InvalidRequest, NonEmptyGroup, UnknownConsumerGroup, UnknownPartition, UnknownTopic
from raftbroker.broker.group_positions import ResetTo
from raftbroker.state.groups.ops import Leaving, PartitionName
from tests.unit.broker.members import Member, settled
from tests.unit.broker.nodes import batch_of, until
from tests.unit.broker.test_consumer_groups import Consumer, beat_until_even, running, topic_cluster


async def fill(broker: Broker, *counts: int) -> None:
    """So many records in the first partitions of "t", each a second after the one before."""
    for partition, count in enumerate(counts):
        for number in range(count):
            await broker.produce("t", partition, batch_of(b"%d" % number, timestamp=1_000 * (number + 1)))


def test_lag_is_from_the_commit_to_the_high_watermark(tmp_path: Path) -> None:
    async def main() -> None:
        async with topic_cluster(tmp_path, 1, partitions=3) as nodes:
            broker = nodes[0].broker
            await fill(broker, 5, 2)
            with pytest.raises(UnknownConsumerGroup):
                await broker.group_positions.lag("g")
            member = Member(nodes, "m", partitions=3)
            async with running(member):
                await until(lambda: settled([member]))
                done = await broker.consumer_groups.commit(
                    "g",
                    [OffsetToCommit("t", 0, 2), OffsetToCommit("t", 1, 9)],
                    member_id=member.member_id,
                    generation=member.generation,
                )
                assert done.error is None
                lags = await broker.group_positions.lag("g")
            shown = [(item.partition, item.committed, item.end, item.lag) for item in lags]
            assert shown == [(0, 2, 5, 3), (1, 9, 2, 0), (2, None, 0, None)]
            assert {item.member.client_id for item in lags if item.member is not None} == {"m"}

    asyncio.run(main())


def test_lag_shows_who_has_a_partition_in_the_newer_protocol(tmp_path: Path) -> None:
    async def main() -> None:
        async with topic_cluster(tmp_path, 1, partitions=2) as nodes:
            consumers = [Consumer(nodes, f"c{number}") for number in range(2)]
            await beat_until_even(consumers, 2)
            lags = await nodes[0].broker.group_positions.lag("c")
            assert sorted(item.member.member_id for item in lags if item.member) == ["c0", "c1"]

    asyncio.run(main())


def test_resets(tmp_path: Path) -> None:
    async def main() -> None:
        async with topic_cluster(tmp_path, 1, partitions=2) as nodes:
            broker = nodes[0].broker
            await fill(broker, 6, 4)
            await broker.delete_records("t", 0, 1)
            reset = broker.group_positions.reset
            with pytest.raises(InvalidRequest, match="name the topics"):
                await reset("g", ResetTo.EARLIEST)
            with pytest.raises(UnknownTopic):
                await reset("g", ResetTo.EARLIEST, topics=["none"])
            with pytest.raises(UnknownPartition):
                await reset("g", ResetTo.EARLIEST, partitions=[PartitionName("t", 7)])
            with pytest.raises(InvalidRequest, match="cannot be shifted"):
                await reset("g", ResetTo.SHIFT, 1, topics=["t"])

            async def put(to: ResetTo, value: int = 0, **where: object) -> list[int]:
                moved = await reset("g", to, value, **where)  # type: ignore[arg-type]
                offsets = (await broker.consumer_groups.offsets("g")).offsets
                stands = {(item.topic, item.partition): item.offset for item in offsets}
                if not where.get("dry_run"):
                    assert all(stands[item.topic, item.partition] == item.after for item in moved)
                return [item.after for item in moved]

            assert await put(ResetTo.EARLIEST, topics=["t"]) == [1, 0]
            assert await put(ResetTo.LATEST, dry_run=True) == [6, 4]
            assert await put(ResetTo.SHIFT, 2) == [3, 2]
            assert await put(ResetTo.SHIFT, -9) == [1, 0]
            assert await put(ResetTo.OFFSET, 5, partitions=[PartitionName("t", 1)]) == [4], "not beyond the end"
            assert await put(ResetTo.TIMESTAMP, 4_000) == [3, 3]
            assert await put(ResetTo.TIMESTAMP, 99_000) == [6, 4]

    asyncio.run(main())


def test_a_group_with_members_is_not_reset(tmp_path: Path) -> None:
    async def main() -> None:
        async with topic_cluster(tmp_path, 1) as nodes:
            reset = nodes[0].broker.group_positions.reset
            member = Member(nodes, "m")
            async with running(member):
                await until(lambda: settled([member]))
                for dry_run in (True, False):
                    with pytest.raises(NonEmptyGroup, match="stop its consumers"):
                        await reset("g", ResetTo.EARLIEST, topics=["t"], dry_run=dry_run)
            await nodes[0].broker.consumer_groups.leave("g", [Leaving(member.member_id, None)])
            moved = await reset("g", ResetTo.EARLIEST, topics=["t"])
            assert [(item.before, item.after) for item in moved] == [(None, 0)] * 6

    asyncio.run(main())
