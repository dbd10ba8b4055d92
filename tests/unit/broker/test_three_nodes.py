"""Three whole nodes in this process, over real sockets: routing, failover, membership."""

import asyncio
import shutil
from pathlib import Path

import pytest

from raftbroker.broker import errors
from raftbroker.broker.views import Idempotency
from raftbroker.state.batch import decode_batch
from raftbroker.storage import payload_key
from raftbroker.storage.engine import Batch
from tests.unit.broker.nodes import TestNode, batch_of, cluster, free_address, until


async def read_all(node: TestNode, topic: str, partition: int, count: int) -> list[bytes | None]:
    values: list[bytes | None] = []
    while len(values) < count:
        fetched = await node.broker.fetch(topic, partition, len(values), wait=5.0)
        values += [r.value for b in fetched.batches for r in decode_batch(b) if r.offset >= len(values)]
    return values


async def _one_of_all_sets(nodes: list[TestNode], topic: str) -> None:
    """Every node, many times at once, adds one to what it has read, where it is that still."""

    async def add(node: TestNode) -> None:
        while True:
            held = {config.name: config.value for config in await node.broker.topic_configs(topic)}["segment.ms"]
            try:
                expected = {"segment.ms": held}
                return await node.broker.alter_configs(topic, {"segment.ms": str(int(held) + 1)}, expected=expected)
            except errors.ConfigChanged:
                continue

    await nodes[0].broker.alter_configs(topic, {"segment.ms": "1000"})
    await asyncio.gather(*(add(node) for node in nodes for _ in range(10)))
    assert (await nodes[1].broker.describe_topic(topic)).configs["segment.ms"] == "1030"
    await nodes[0].broker.alter_configs(topic, {"segment.ms": None})


def test_any_node_takes_any_request(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path, 3) as nodes:
            topic = await nodes[1].broker.create_topic("t", 6, 3)
            assert sorted(p.leader or 0 for p in topic.partitions) == [1, 1, 2, 2, 3, 3]
            for partition in range(6):
                for number, node in enumerate(nodes):
                    produced = await node.broker.produce("t", partition, batch_of(b"%d" % number))
                    assert produced.base_offset == number
            for node in nodes:
                for partition in range(6):
                    assert await read_all(node, "t", partition, 3) == [b"0", b"1", b"2"]
                    offsets = await node.broker.offsets("t", partition)
                    assert (offsets.start, offsets.end) == (0, 3)
                with pytest.raises(errors.OffsetOutOfRange):
                    await node.broker.fetch("t", 0, 4)
            await nodes[2].broker.alter_configs("t", {"retention.ms": "1234567"})
            assert (await nodes[0].broker.describe_topic("t")).configs == {"retention.ms": "1234567"}
            await _one_of_all_sets(nodes, "t")
            key = Idempotency.of("k", b"v")
            made = [await node.broker.produce("t", 0, batch_of(b"v"), idempotency=key) for node in nodes]
            assert [(one.base_offset, one.duplicate) for one in made] == [(3, False), (3, True), (3, True)]
            assert [await node.broker.delete_records("t", 0, n + 1) for n, node in enumerate(nodes)] == [1, 2, 3]

            async def healthy() -> bool:
                return all([(await node.broker.health()).is_healthy for node in nodes])

            await until(healthy)
            described = await nodes[2].broker.describe_topic("t")
            assert all(p.in_sync == p.replicas and len(p.replicas) == 3 for p in described.partitions)
            status = await nodes[0].broker.raft_status()
            assert all(len(group.replicas) == 3 and group.leader for group in status)
            await nodes[0].broker.delete_topic("t")
            for node in nodes:
                with pytest.raises(errors.UnknownTopic):
                    await node.broker.describe_topic("t")
                with pytest.raises(errors.UnknownTopic):
                    await node.broker.produce("t", 0, batch_of(b"late"))

    asyncio.run(main())


def test_writers_survive_the_death_of_a_leader(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path, 3, transfer_quiet=60.0) as nodes:
            topic = await nodes[0].broker.create_topic("t", 1, 3)
            leader = topic.partitions[0].leader
            victim = next(node for node in nodes if node.id == leader)
            others = [node for node in nodes if node is not victim]
            acknowledged: dict[int, bytes] = {}
            stop = asyncio.Event()

            async def write(node: TestNode, name: str) -> None:
                count = 0
                while not stop.is_set():
                    value = f"{name}-{count}".encode()
                    key = Idempotency.of(value.decode(), value)
                    produced = await node.broker.produce("t", 0, batch_of(value), idempotency=key, timeout=20)
                    assert acknowledged.setdefault(produced.base_offset, value) == value
                    count += 1

            writers = [asyncio.create_task(write(node, f"w{n}")) for n, node in enumerate(others * 3)]
            await asyncio.sleep(0.3)
            await victim.kill()
            before = len(acknowledged)
            await until(lambda: len(acknowledged) > before + 50, 15)
            stop.set()
            await asyncio.gather(*writers)
            end = (await others[0].broker.offsets("t", 0)).end
            assert sorted(acknowledged) == list(range(end))
            for node in others:
                assert await read_all(node, "t", 0, end) == [acknowledged[n] for n in range(end)]
            health = await others[0].broker.health()
            assert health.nodes_down == (victim.id,)
            assert health.under_replicated_partitions == ("t/0",)
            assert health.leaderless_partitions == ()
            assert not health.is_healthy

    asyncio.run(main())


def test_transfer_and_return_of_leadership(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path, 3, transfer_quiet=0.5) as nodes:
            topic = await nodes[0].broker.create_topic("t", 1, 3)
            group, preferred = topic.partitions[0].group, topic.partitions[0].replicas[0]
            assert topic.partitions[0].leader == preferred
            target = topic.partitions[0].replicas[1]
            asker = next(node for node in nodes if node.id not in (preferred, target))
            led: list[int] = []
            for node in nodes:
                host = node.broker._context.host
                host.on_role(lambda g, at=node.id: led.append(at) if g.id == group and g.leading else None)
            await asker.broker.transfer_leadership(group, target)
            await until(lambda: target in led)
            await asker.broker.produce("t", 0, batch_of(b"x"))
            await until(lambda: preferred in led)

    asyncio.run(main())


def test_a_node_whose_disk_is_gone_rejoins(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path, 3) as nodes:
            topic = await nodes[0].broker.create_topic("t", 2, 3)
            for n in range(20):
                await nodes[0].broker.produce("t", n % 2, batch_of(b"%d" % n))
            lost = nodes[2]
            await lost.stop()
            shutil.rmtree(lost.directory)
            await lost.start()

            async def whole() -> bool:
                status = await nodes[0].broker.raft_status()
                return all(
                    len(g.replicas) == 3 and all(r.voter and r.role != "absent" for r in g.replicas) for g in status
                )

            await until(whole, 20)
            await until(lambda: lost.broker.readiness().ready)
            for place in topic.partitions:
                copy = lost.broker._context.machine(place.group)
                assert copy is not None
            assert await read_all(lost, "t", 0, 10) == [b"%d" % n for n in range(0, 20, 2)]

            async def healthy() -> bool:
                return (await lost.broker.health()).is_healthy

            await until(healthy)

    asyncio.run(main())


def test_one_node_grows_to_three(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path, 1) as (first,):
            await first.broker.create_topic("before")
            await first.broker.produce("before", 0, batch_of(b"kept"))
            joined = []
            try:
                for number in (2, 3):
                    node = TestNode(
                        number, tmp_path / f"node-{number}", {}, free_address(), (first.address,), first.options
                    )
                    joined.append(node)
                    await node.start()

                async def three_voters() -> bool:
                    control = (await first.broker.raft_status())[0]
                    return len(control.replicas) == 3 and all(replica.voter for replica in control.replicas)

                await until(three_voters, 20)
                await until(lambda: all(node.broker.readiness().ready for node in joined))
                topic = await joined[1].broker.create_topic("after", 3, 3)
                assert {p.leader for p in topic.partitions} == {1, 2, 3}
                await joined[0].broker.produce("after", 0, batch_of(b"new"))
                assert await read_all(joined[1], "before", 0, 1) == [b"kept"]
                assert [b.id for b in await joined[0].broker.brokers() if b.alive] == [1, 2, 3]
            finally:
                for node in joined:
                    await node.stop()

    asyncio.run(main())


def test_a_damaged_replica_leaves_its_group(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path, 3, tail_bytes_max=0) as nodes:
            topic = await nodes[0].broker.create_topic("t", 1, 3)
            place = topic.partitions[0]
            for n in range(10):
                await nodes[0].broker.produce("t", 0, batch_of(b"%d" % n))
            hurt = next(node for node in nodes if node.id == place.leader)
            damage(hurt, place.id, 5)
            for node in nodes:
                assert await read_all(node, "t", 0, 10) == [b"%d" % n for n in range(10)]

            async def voters() -> set[int]:
                groups = await nodes[0].broker.raft_status()
                group = next(g for g in groups if g.group == place.group)
                return {replica.node for replica in group.replicas if replica.voter}

            async def left() -> bool:
                return await voters() == {1, 2, 3} - {hurt.id}

            await until(left, 10)
            for node in nodes:
                await node.broker.produce("t", 0, batch_of(b"more"))

    asyncio.run(main())


def damage(node: TestNode, partition: int, base_offset: int) -> None:
    """A batch is gone from the disk."""
    batch = Batch()
    batch.delete("log", payload_key(partition, base_offset))
    node.store._engine.write(batch)


def test_a_damaged_replica_leaves_and_rejoins(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path, 3, tail_bytes_max=0) as nodes:
            topic = await nodes[0].broker.create_topic("t", 1, 3)
            place = topic.partitions[0]
            for n in range(10):
                await nodes[0].broker.produce("t", 0, batch_of(b"%d" % n))
            leader = next(node for node in nodes if node.id == place.leader)
            replica = leader.broker._context.host.groups[place.group]
            damage(leader, place.id, 5)
            for node in nodes:
                assert await read_all(node, "t", 0, 10) == [b"%d" % n for n in range(10)]
            assert replica.damaged is not None

            async def whole() -> bool:
                status = await nodes[0].broker.raft_status()
                return all(len(g.replicas) == 3 and all(r.voter and not r.damaged for r in g.replicas) for g in status)

            await until(whole, 3)
            anew = leader.broker._context.host.groups[place.group]
            assert anew is not replica
            await until(lambda: leader.broker._context.host.me in anew.configuration.voters)  # its leader knows first
            assert await read_all(leader, "t", 0, 10) == [b"%d" % n for n in range(10)]

    asyncio.run(main())


def test_without_a_majority_the_outcome_is_unknown_or_certain(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path, 3, transfer_quiet=60.0) as nodes:
            topic = await nodes[0].broker.create_topic("t", 1, 3)
            leader = next(node for node in nodes if node.id == topic.partitions[0].leader)
            others = [node for node in nodes if node is not leader]
            await leader.broker.produce("t", 0, batch_of(b"first"))
            for node in others:
                await node.kill()
            key = Idempotency.of("k", b"second")
            with pytest.raises(errors.UnknownOutcome):
                await leader.broker.produce("t", 0, batch_of(b"second"), idempotency=key, timeout=0.2)
            group = leader.broker._context.host.groups[topic.partitions[0].group]
            await until(lambda: not group.leading)
            with pytest.raises(errors.Unavailable):
                await leader.broker.produce("t", 0, batch_of(b"third"), timeout=0.3)
            assert await read_all(leader, "t", 0, 1) == [b"first"]
            for node in others:
                await node.start()
            produced = await leader.broker.produce("t", 0, batch_of(b"second"), idempotency=key)
            assert produced.base_offset == 1
            assert await read_all(leader, "t", 0, 2) == [b"first", b"second"]
            assert (await others[0].broker.offsets("t", 0)).end == 2

    asyncio.run(main())
