"""One whole node: real RocksDB, real host, real loop."""

import asyncio
from pathlib import Path

import pytest

from raftbroker.broker import errors
from raftbroker.broker.topics import Topics
from raftbroker.broker.views import Idempotency
from raftbroker.state.batch import decode_batch
from raftbroker.state.partition import PartitionMachine
from tests.unit.broker.nodes import batch_of, cluster, until


def values_of(batches: tuple[bytes, ...]) -> list[bytes | None]:
    return [record.value for batch in batches for record in decode_batch(batch)]


def test_life_of_a_topic(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path, 1) as (node,):
            broker = node.broker
            topic = await broker.create_topic("orders", 3, None, {"retention.ms": "1000000"})
            assert (topic.name, len(topic.partitions), topic.replication_factor) == ("orders", 3, 3)
            assert {p.leader for p in topic.partitions} == {1}
            with pytest.raises(errors.TopicExists):
                await broker.create_topic("orders")
            produced = await broker.produce("orders", 1, batch_of(b"a", b"b"))
            assert (produced.base_offset, produced.duplicate) == (0, False)
            assert (await broker.produce("orders", 1, batch_of(b"c"))).base_offset == 2
            fetched = await broker.fetch("orders", 1, 0)
            assert values_of(fetched.batches) == [b"a", b"b", b"c"]
            assert (fetched.high_watermark, fetched.log_start) == (3, 0)
            assert (await broker.fetch("orders", 1, 3)).batches == ()
            with pytest.raises(errors.OffsetOutOfRange) as caught:
                await broker.fetch("orders", 1, 4)
            assert (caught.value.start, caught.value.high_watermark) == (0, 3)
            offsets = await broker.offsets("orders", 1)
            assert (offsets.start, offsets.end) == (0, 3)
            grown = await broker.create_partitions("orders", 5)
            assert len(grown.partitions) == 5
            with pytest.raises(errors.InvalidPartitions):
                await broker.create_partitions("orders", 4)
            await broker.alter_configs("orders", {"retention.ms": None, "max.message.bytes": "200"})
            configs = {config.name: config for config in await broker.topic_configs("orders")}
            assert configs["retention.ms"].is_default
            assert configs["max.message.bytes"].value == "200"
            with pytest.raises(errors.RecordTooLarge):
                await broker.produce("orders", 0, batch_of(b"x" * 200))
            await broker.delete_topic("orders")
            with pytest.raises(errors.UnknownTopic):
                await broker.produce("orders", 0, batch_of(b"x"))
            assert await broker.list_topics() == []

    asyncio.run(main())


def test_a_topic_that_is_deleted_while_its_creation_is_answered_was_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by a chaos run: it was answered with 404, which says that nothing was done."""

    async def main() -> None:
        async with cluster(tmp_path, 1) as (node,):
            broker = node.broker
            visible = Topics._visible

            async def deleted_when_visible(self: Topics, index: int, deadline: float, done: str) -> None:
                await visible(self, index, deadline, done)
                monkeypatch.setattr(Topics, "_visible", visible)
                await broker.delete_topic("orders")

            monkeypatch.setattr(Topics, "_visible", deleted_when_visible)
            created = await broker.create_topic("orders", 3)
            assert (created.name, created.partitions) == ("orders", ())
            assert await broker.list_topics() == []

    asyncio.run(main())


def test_retries_are_recognised(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path, 1) as (node,):
            broker = node.broker
            await broker.create_topic("t")
            key = Idempotency.of("request-1", b"one")
            first = await broker.produce("t", 0, batch_of(b"one"), idempotency=key)
            again = await broker.produce("t", 0, batch_of(b"one"), idempotency=key)
            assert (first.base_offset, first.duplicate, again.base_offset, again.duplicate) == (0, False, 0, True)
            with pytest.raises(errors.IdempotencyConflict):
                await broker.produce("t", 0, batch_of(b"two"), idempotency=Idempotency.of("request-1", b"two"))
            both = await asyncio.gather(*(broker.produce("t", 0, batch_of(b"x", producer=(7, 0, 0))) for _ in range(5)))
            assert {one.base_offset for one in both} == {1}
            assert sorted(one.duplicate for one in both) == [False, True, True, True, True]
            with pytest.raises(errors.OutOfOrderSequence):
                await broker.produce("t", 0, batch_of(b"y", producer=(7, 0, 5)))
            assert (await broker.produce("t", 0, batch_of(b"z", producer=(7, 1, 0)))).base_offset == 2
            with pytest.raises(errors.FencedProducer):
                await broker.produce("t", 0, batch_of(b"y", producer=(7, 0, 1)))
            await node.stop()
            await node.start()
            await until(lambda: node.broker.readiness().ready)
            again = await node.broker.produce("t", 0, batch_of(b"one"), idempotency=key)
            assert (again.base_offset, again.duplicate) == (0, True)
            fetched = await node.broker.fetch("t", 0, 0)
            assert values_of(fetched.batches) == [b"one", b"x", b"z"]

    asyncio.run(main())


def test_batches_of_one_turn_share_an_entry(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path, 1) as (node,):
            broker = node.broker
            await broker.create_topic("t")
            done = await asyncio.gather(*(broker.produce("t", 0, batch_of(b"%d" % n)) for n in range(300)))
            assert sorted(one.base_offset for one in done) == list(range(300))
            assert broker.counters.produce_entries <= 3
            values = values_of((await broker.fetch("t", 0, 0)).batches)
            assert [values[one.base_offset] for one in done] == [b"%d" % n for n in range(300)]

    asyncio.run(main())


def test_reads_wait_and_are_woken(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path, 1) as (node,):
            broker = node.broker
            await broker.create_topic("t")
            loop = asyncio.get_running_loop()
            waiting = loop.create_task(broker.fetch("t", 0, 0, wait=5.0))
            two = loop.create_task(broker.fetch("t", 0, 0, wait=5.0, bytes_min=100))
            await asyncio.sleep(0.05)
            assert not waiting.done()
            size = len(batch_of(b"a"))
            await broker.produce("t", 0, batch_of(b"a"))
            assert values_of((await asyncio.wait_for(waiting, 1)).batches) == [b"a"]
            assert size < 100
            assert not two.done()
            await broker.produce("t", 0, batch_of(b"b"))
            assert values_of((await asyncio.wait_for(two, 1)).batches) == [b"a", b"b"]
            started = loop.time()
            assert (await broker.fetch("t", 0, 2, wait=0.1)).batches == ()
            assert 0.09 < loop.time() - started < 1.0
            gone = loop.create_task(broker.fetch("t", 0, 2, wait=5.0))
            await asyncio.sleep(0.05)
            await broker.delete_topic("t")
            with pytest.raises(errors.UnknownTopic):
                await asyncio.wait_for(gone, 1)

    asyncio.run(main())


def test_records_are_deleted_inside_a_batch(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path, 1) as (node,):
            broker = node.broker
            await broker.create_topic("t")
            await broker.produce("t", 0, batch_of(b"a", b"b", b"c"))
            await broker.produce("t", 0, batch_of(b"d", b"e"))
            assert await broker.delete_records("t", 0, 1) == 1
            with pytest.raises(errors.OffsetOutOfRange):
                await broker.fetch("t", 0, 0)
            assert values_of((await broker.fetch("t", 0, 1)).batches) == [b"a", b"b", b"c", b"d", b"e"]
            assert await broker.delete_records("t", 0, 4) == 4
            assert values_of((await broker.fetch("t", 0, 4)).batches) == [b"d", b"e"]
            with pytest.raises(errors.OffsetOutOfRange):
                await broker.delete_records("t", 0, 6)
            assert await broker.delete_records("t", 0, -1) == 5
            offsets = await broker.offsets("t", 0)
            assert (offsets.start, offsets.end) == (5, 5)
            assert (await broker.produce("t", 0, batch_of(b"f"))).base_offset == 5
            assert values_of((await broker.fetch("t", 0, 5)).batches) == [b"f"]

    asyncio.run(main())


def test_retention_by_time_and_bytes(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path, 1, retention_check=0.1) as (node,):
            broker = node.broker
            await broker.create_topic("old", configs={"retention.ms": "500"})
            await broker.create_topic("young", configs={"retention.ms": "60000"})
            await broker.create_topic("large", configs={"retention.bytes": "1000000", "max.message.bytes": "2000000"})
            now = node._wall()
            await broker.produce("old", 0, batch_of(b"a", timestamp=now - 100_000))
            await broker.produce("young", 0, batch_of(b"a", timestamp=now - 100_000))
            for _ in range(5):
                await broker.produce("large", 0, batch_of(b"x" * 1_100_000))

            async def trimmed() -> bool:
                old, large = await broker.offsets("old", 0), await broker.offsets("large", 0)
                return (old.start, large.start) == (1, 4)

            await until(trimmed)
            await asyncio.sleep(0.3)
            assert await trimmed()
            assert (await broker.offsets("young", 0)).start == 0, "its timestamp is old, it has just come"
            assert len((await broker.fetch("large", 0, 4)).batches) == 1

    asyncio.run(main())


def test_a_jump_over_a_restart_trims_only_once_it_is_believed(tmp_path: Path) -> None:
    """All that a lone node can do: its clock is believed after a while. For several nodes see the simulation."""

    async def main() -> None:
        async with cluster(tmp_path, 1, retention_check=0.05) as (node,):
            topic = await node.broker.create_topic("t")
            node.broker._clocks.settle_seconds = 0.0
            await node.broker.produce("t", 0, batch_of(b"a"))
            group = topic.partitions[0].group

            def machine() -> PartitionMachine:
                found = node.broker._context.machine(group)
                assert found is not None
                return found

            await until(lambda: machine().confirmed_ms > 0)
            node.wall_ahead_ms = 8 * 86_400_000
            await asyncio.sleep(0.3)
            assert (await node.broker.offsets("t", 0)).start == 0, "a jump under a leader moves nothing"
            term = machine().term
            await node.stop()
            await node.start()
            await until(lambda: node.broker.readiness().ready)
            await until(lambda: machine().term > term)
            await asyncio.sleep(0.3)
            assert machine().confirmed_ms == -1
            assert (await node.broker.offsets("t", 0)).start == 0
            node.broker._clocks.settle_seconds = 0.0

            async def trimmed() -> bool:
                return (await node.broker.offsets("t", 0)).start == 1

            await until(trimmed)

    asyncio.run(main())


def test_deleted_topics_leave_no_records(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path, 1, retention_check=0.1) as (node,):
            broker = node.broker
            topic = await broker.create_topic("t")
            place = topic.partitions[0]
            await broker.produce("t", 0, batch_of(b"a"))
            await broker.delete_topic("t")
            again = await broker.create_topic("t")
            assert again.partitions[0].id != place.id
            assert again.topic_id != topic.topic_id
            assert (await broker.offsets("t", 0)).end == 0
            context = broker._context
            await until(lambda: context.control.dropped(place.group) == ())
            await until(lambda: context.records.floor(place.id, 10) is None)

    asyncio.run(main())


def test_offsets_by_timestamp(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path, 1) as (node,):
            broker = node.broker
            await broker.create_topic("t", configs={"retention.ms": "-1"})
            for n in range(10):
                await broker.produce("t", 0, batch_of(b"a", b"b", timestamp=1000 + 10 * n))
            found = await broker.offset_for_timestamp("t", 0, 1035)
            assert found is not None
            assert (found.offset, found.timestamp) == (8, 1040)
            assert await broker.offset_for_timestamp("t", 0, 1091) is None

    asyncio.run(main())


def test_log_append_time(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path, 1) as (node,):
            broker = node.broker
            await broker.create_topic("t", configs={"message.timestamp.type": "LogAppendTime"})
            before = node._wall()
            produced = await broker.produce("t", 0, batch_of(b"a", timestamp=1))
            assert before - 1000 <= produced.timestamp <= node._wall() + 1000
            (batch,) = (await broker.fetch("t", 0, 0)).batches
            assert decode_batch(batch)[0].timestamp == produced.timestamp

    asyncio.run(main())


def test_faulty_requests_are_told_apart(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path, 1) as (node,):
            broker = node.broker
            for name in ("", ".", "..", "a b", "x" * 250, "ä"):
                with pytest.raises(errors.InvalidRequest):
                    await broker.create_topic(name)
            with pytest.raises(errors.InvalidPartitions):
                await broker.create_topic("t", 0)
            with pytest.raises(errors.InvalidReplicationFactor):
                await broker.create_topic("t", 1, 2)
            with pytest.raises(errors.InvalidConfig) as caught:
                await broker.create_topic("t", 1, 1, {"retention.ms": "soon"})
            assert caught.value.field == "retention.ms"
            await broker.create_topic("t", 1, 1, validate_only=True)
            with pytest.raises(errors.UnknownTopic):
                await broker.describe_topic("t")
            await broker.create_topic("t")
            with pytest.raises(errors.UnknownPartition):
                await broker.fetch("t", 1, 0)
            with pytest.raises(errors.BadRecords):
                await broker.produce("t", 0, b"not a batch")
            broken = bytearray(batch_of(b"hello"))
            broken[-1] ^= 1
            with pytest.raises(errors.BadRecords):
                await broker.produce("t", 0, bytes(broken))
            with pytest.raises(errors.InvalidRequest):
                await broker.produce("t", 0, batch_of(b"x", timestamp=node._wall() + 10_000_000))
            health = await broker.health()
            assert health.is_healthy
            assert (health.controller_id, health.all_nodes) == (1, (1,))
            with pytest.raises(errors.ChangeRejected):
                await broker.transfer_leadership(0)
            with pytest.raises(errors.UnknownGroup):
                await broker.transfer_leadership(99)

    asyncio.run(main())


def test_a_full_disk_refuses_records_and_serves_reads(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path, 1) as (node,):
            broker = node.broker
            await broker.create_topic("t")
            await broker.produce("t", 0, batch_of(b"a"))
            reserve, node.store._reserve = node.store._reserve, 2 * node.store._engine.free_bytes()
            node.store._measure(0)
            for n in range(3):
                with pytest.raises(errors.StorageFull):
                    await broker.produce("t", 0, batch_of(b"b", producer=(1, 0, n)))
            assert values_of((await broker.fetch("t", 0, 0)).batches) == [b"a"]
            node.store._reserve = reserve
            node.store._measure(0)
            produced = await broker.produce("t", 0, batch_of(b"c", producer=(1, 0, 0)))
            assert (produced.base_offset, produced.duplicate) == (1, False)

    asyncio.run(main())


def test_a_full_disk_takes_deletions(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path, 1) as (node,):
            broker = node.broker
            await broker.create_topic("t")
            await broker.produce("t", 0, batch_of(b"a"))
            reserve, node.store._reserve = node.store._reserve, 2 * node.store._engine.free_bytes()
            node.store._measure(0)
            try:
                assert await broker.delete_records("t", 0, -1, timeout=1.0) == 1
                await broker.delete_topic("t", timeout=1.0)
            finally:
                node.store._reserve = reserve
                node.store._measure(0)

    asyncio.run(main())


def test_too_much_at_once_is_told_to_wait(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path, 1, inflight_bytes_max=2000) as (node,):
            broker = node.broker
            await broker.create_topic("t")
            done = await asyncio.gather(
                *(broker.produce("t", 0, batch_of(b"x" * 900)) for _ in range(5)), return_exceptions=True
            )
            refused = [one for one in done if isinstance(one, errors.Throttled)]
            assert len(refused) == 3
            assert all(one.retry_after_ms > 0 for one in refused)
            assert broker.counters.produce_throttled == 3
            assert (await broker.produce("t", 0, batch_of(b"x" * 5000))).base_offset == 2

    asyncio.run(main())
