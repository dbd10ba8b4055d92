"""The snapshot of the cluster that Kafka clients are told, on each of three whole nodes."""

import asyncio
import uuid
from pathlib import Path

import msgspec
import pytest

from raftbroker.broker import errors, metadata
from raftbroker.broker.metadata import MetadataView
from tests.unit.broker.nodes import cluster, until


def agree(one: MetadataView, other: MetadataView) -> bool:
    """Versions are the same just where everything else is."""
    same = msgspec.structs.replace(one, version=0) == msgspec.structs.replace(other, version=0)
    return same == (one.version == other.version)


def test_every_node_tells_the_same_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path, 3) as nodes:
            for turn, maker in enumerate(nodes):
                made = await maker.broker.create_topic(f"t{turn}", 3, 3)
                for node in nodes:
                    view = await node.broker.metadata()
                    assert view.current
                    assert view.cluster_id == maker.broker.cluster_id
                    assert view.controller_id == maker.broker.controller_id
                    assert view.names[made.topic_id] == f"t{turn}"
                    places = view.topics[f"t{turn}"].partitions
                    assert [view.groups[p.group].leader for p in places] == [p.leader for p in made.partitions]
                    assert [view.groups[p.group].replicas for p in places] == [p.replicas for p in made.partitions]
            await nodes[0].broker.delete_topic("t1")
            for node in nodes:
                view = await node.broker.metadata()
                assert list(view.topics) == ["t0", "t2"]
                assert view.alive == {1, 2, 3}

    asyncio.run(main())


def test_its_version_changes_with_what_is_in_it_and_only_then(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path, 3, transfer_quiet=60.0) as nodes:
            await nodes[0].broker.create_topic("t", 3, 3)
            views = []
            for _ in range(6):
                views.append(await nodes[1].broker.metadata())
                await asyncio.sleep(0.3)  # in all, longer than reports are used
            assert all(agree(one, other) for one in views for other in views)
            version = views[-1].version
            await nodes[2].broker.alter_configs("t", {"retention.ms": "5"})
            changed = await nodes[1].broker.metadata()
            assert changed.version > version
            group = changed.topics["t"].partitions[0].group
            leader = changed.groups[group].leader
            target = next(node.id for node in nodes if node.id != leader)
            await nodes[0].broker.transfer_leadership(group, target)

            async def moved() -> bool:
                return (await nodes[1].broker.metadata()).groups[group].leader == target

            await until(moved)
            view = await nodes[1].broker.metadata()
            assert view.version > changed.version
            assert view.groups[group].epoch > changed.groups[group].epoch

    asyncio.run(main())


def test_it_is_told_without_a_dead_node_and_without_a_majority(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path, 3, transfer_quiet=60.0) as nodes:
            topic = await nodes[0].broker.create_topic("t", 3, 3)
            victim = next(node for node in nodes if node.id == topic.partitions[0].leader)
            left = [node for node in nodes if node is not victim]
            await victim.kill()

            async def taken_over() -> bool:
                views = [await node.broker.metadata() for node in left]
                return all(
                    view.alive == {node.id for node in left}
                    and all(view.groups[p.group].leader in view.alive for p in topic.partitions)
                    and all(victim.id not in view.groups[p.group].in_sync for p in topic.partitions)
                    for view in views
                )

            await until(taken_over, seconds=20)
            await left[0].kill()
            alone = left[1]

            async def on_its_own() -> bool:
                return not (await alone.broker.metadata()).current

            await until(on_its_own, seconds=20)
            view = await alone.broker.metadata()
            assert list(view.topics) == ["t"]  # from its own copy
            with pytest.raises(errors.Unavailable):
                await alone.broker.delete_topic_by_id(topic.topic_id, timeout=0.5)

    asyncio.run(main())


def test_a_node_that_is_restarted_stays_listed_and_one_that_is_gone_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with cluster(tmp_path, 3) as nodes:
            assert (await nodes[0].broker.metadata()).listed == {1, 2, 3}
            await nodes[2].kill()

            async def missed() -> bool:
                return (await nodes[0].broker.metadata()).alive == {1, 2}

            await until(missed, seconds=20)
            assert (await nodes[0].broker.metadata()).listed == {1, 2, 3}
            monkeypatch.setattr(metadata, "LISTED_SECONDS", 1.5)

            async def forgotten() -> bool:
                return (await nodes[0].broker.metadata()).listed == {1, 2}

            await until(forgotten, seconds=20)

    asyncio.run(main())


def test_deleting_by_id_never_takes_another_topic_of_the_same_name(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path, 1) as (node,):
            first = await node.broker.create_topic("t", 1, 1)
            assert await node.broker.delete_topic_by_id(first.topic_id) == "t"
            second = await node.broker.create_topic("t", 1, 1)
            for topic_id in (first.topic_id, uuid.uuid4().hex, ""):
                with pytest.raises(errors.UnknownTopic):
                    await node.broker.delete_topic_by_id(topic_id)
            assert (await node.broker.describe_topic("t")).topic_id == second.topic_id

    asyncio.run(main())
