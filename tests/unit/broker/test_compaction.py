"""Compaction on whole nodes: real RocksDB, real host, real loop, small segments."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from raftbroker.broker import compaction_pass, compactor, errors
from raftbroker.broker.broker import Broker
from raftbroker.broker.compaction_pass import Rules
from raftbroker.broker.leader_fetch import Wanted
from raftbroker.broker.leader_side import Asked
from raftbroker.broker.offsets import EARLIEST, LATEST, MAX_TIMESTAMP, PlacedOffset
from raftbroker.state import partition_segments
from raftbroker.state.batch import RecordDraft, decode_batch, encode_batch, parse_header
from raftbroker.state.keys import compacted_key
from raftbroker.state.partition_commands import Segment
from raftbroker.storage.engine import Batch
from tests.unit.broker.nodes import TestNode, cluster, until

TOPIC = "accounts"
START = 1_700_000_000_000


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition_segments, "SEGMENT_BYTES_MIN", 1000)


@asynccontextmanager
async def compacted(directory: Path, nodes: int = 1, **configs: str) -> AsyncIterator[list[TestNode]]:
    defaults = {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0", "delete.retention.ms": "0"} | configs
    async with cluster(directory, nodes, compaction_check=0.05, topic_defaults=defaults) as running:
        await running[0].broker.create_topic(TOPIC, 1, nodes)
        yield running


async def put(broker: Broker, stamp: int, *pairs: tuple[bytes, bytes | None]) -> int:
    records = [RecordDraft(key, value) for key, value in pairs]
    return (await broker.produce(TOPIC, 0, encode_batch(records, base_timestamp=START + stamp))).base_offset


async def fill(broker: Broker, count: int = 30, keys: int = 3) -> None:
    for number in range(count):
        await put(broker, number, (b"%d" % (number % keys), b"%d" % number + b"x" * 200))


async def read(broker: Broker, offset: int = 0) -> dict[int, tuple[bytes | None, bytes | None]]:
    """Everything from the offset on, fetch by fetch, as HTTP readers and Kafka's both get it."""
    found: dict[int, tuple[bytes | None, bytes | None]] = {}
    end = (await broker.offsets(TOPIC, 0)).end
    while offset < end:
        fetched = await broker.fetch(TOPIC, 0, offset, bytes_max=1)
        answer = await broker.leader_side.fetch(
            [Wanted(TOPIC, 0, offset, 1 << 20)], bytes_max=1, bytes_min=1, wait=0.0, committed=True
        )
        if answer.readings[0].error is None:  # this node leads
            assert tuple(answer.readings[0].batches) == fetched.batches
        assert len(fetched.batches) == 1
        for record in decode_batch(fetched.batches[0]):
            if record.offset >= offset:
                found[record.offset] = (record.key, record.value)
        offset = parse_header(fetched.batches[0]).next_offset
    return found


def removed(broker: Broker) -> int:
    return broker.counters.compaction_removed_records


def test_a_compacted_topic_keeps_the_newest_record_of_each_key(tmp_path: Path) -> None:
    async def main() -> None:
        async with compacted(tmp_path) as (node,):
            broker = node.broker
            await fill(broker)
            await until(lambda: removed(broker) >= 20)
            found = await read(broker)
            assert len(found) < 12
            assert all(offset == int((value or b"")[:2].rstrip(b"x")) for offset, (_, value) in found.items())
            assert {offset: key for offset, (key, _) in found.items() if offset > 26} == {27: b"0", 28: b"1", 29: b"2"}
            first = min(found)
            assert first > 0
            assert await read(broker, first - 1) == found, "an offset in a gap reads what follows"
            view = await broker.offsets(TOPIC, 0)
            assert (view.start, view.end, view.stable) == (0, 30, 30)
            await node.stop()
            await node.start()
            await until(lambda: node.broker.readiness().ready)
            assert await read(node.broker) == found
            assert await put(node.broker, 30, (b"0", b"newer")) == 30

    asyncio.run(main())


def test_offsets_by_time_are_found_across_gaps(tmp_path: Path) -> None:
    async def main() -> None:
        async with compacted(tmp_path) as (node,):
            broker = node.broker
            await fill(broker)
            await until(lambda: removed(broker) >= 20)
            found = await read(broker)

            async def at(timestamp: int) -> int:
                asked = [Asked(TOPIC, 0, -1, timestamp)]
                (placed,) = await broker.leader_side.offsets(asked, stable=False, timeout=5.0)
                assert isinstance(placed, PlacedOffset)
                return placed.offset

            for stamp in range(30):
                expected = min(offset for offset in found if offset >= stamp)
                assert await at(START + stamp) == expected
                by_http = await broker.offset_for_timestamp(TOPIC, 0, START + stamp)
                assert by_http is not None
                assert by_http.offset == expected
            assert (await at(EARLIEST), await at(LATEST), await at(MAX_TIMESTAMP)) == (0, 30, 29)
            assert await at(START + 31) == -1

    asyncio.run(main())


def test_tombstones_go_once_their_time_has_come(tmp_path: Path) -> None:
    async def main() -> None:
        async with compacted(tmp_path) as (node,):
            broker = node.broker
            await put(broker, 0, (b"gone", b"value"))
            await put(broker, 1, (b"gone", None))
            while not broker.counters.compaction_passes:
                await fill(broker, 5)
            while 1 in await read(broker):
                assert (await broker.offsets(TOPIC, 0)).end < 1000
                await fill(broker, 5)
            assert 1 not in await read(broker)
            assert b"gone" not in {key for key, _ in (await read(broker)).values()}

    asyncio.run(main())


def test_what_stays_uncompacted_for_too_long_does_not_wait_for_the_ratio(tmp_path: Path) -> None:
    async def main() -> None:
        configs = {"min.cleanable.dirty.ratio": "1", "max.compaction.lag.ms": "1"}
        async with compacted(tmp_path, **configs) as (node,):
            broker = node.broker
            for _ in range(3):  # all of a log that was never compacted is new: the ratio is 1 the first time alone
                before = removed(broker)
                await fill(broker)
                await until(lambda before=before: removed(broker) >= before + 20)  # type: ignore[misc]

    asyncio.run(main())


def test_how_long_it_stays_counts_from_the_first_append_of_what_is_new() -> None:
    cleaned = Segment(0, 100, 0, created_ms=1_000, appended_ms=2_000, generation=7, cleaned_ms=9_000)
    fresh = Segment(10, 100, 0, created_ms=5_000, appended_ms=8_000)
    later = Segment(20, 100, 0, created_ms=8_000, appended_ms=9_000)
    places = [(cleaned, 10), (fresh, 20), (later, 30)]
    overdue = compaction_pass.overdue
    assert not overdue(places, Rules(now_ms=6_000, floor_ms=0), 1_000)
    assert overdue(places, Rules(now_ms=6_001, floor_ms=0), 1_000)
    assert not overdue(places, Rules(now_ms=6_001, floor_ms=5_001), 1_000), "before that nobody knows the time"
    assert not overdue(places, Rules(now_ms=6_001, floor_ms=0, timely=False), 1_000)
    assert not overdue(places[:1], Rules(now_ms=99_000, floor_ms=0), 1_000)
    assert not overdue([], Rules(now_ms=99_000, floor_ms=0), 1_000)


def test_records_are_deleted_up_to_an_offset_in_a_gap(tmp_path: Path) -> None:
    async def main() -> None:
        async with compacted(tmp_path) as (node,):
            broker = node.broker
            await fill(broker)
            await until(lambda: removed(broker) >= 20)
            found = await read(broker)
            for before in (1, min(found) - 1, min(found) + 1, 28):
                assert await broker.delete_records(TOPIC, 0, before) == before
                assert await read(broker, before) == {k: v for k, v in found.items() if k >= before}
                with pytest.raises(Exception, match="log start"):
                    await broker.fetch(TOPIC, 0, before - 1)

    asyncio.run(main())


def test_compact_alone_has_no_retention(tmp_path: Path) -> None:
    async def main() -> None:
        for policy, trims in (("compact", False), ("compact,delete", True)):
            limits = {"retention.bytes": "1500", "retention.ms": "-1"}
            async with compacted(tmp_path / policy, **limits, **{"cleanup.policy": policy}) as (node,):
                await fill(node.broker, 30, keys=30)
                await until(lambda node=node: node.broker.counters.compaction_passes > 0)  # type: ignore[misc]
                await node.broker._retention.round()
                view = await node.broker.offsets(TOPIC, 0)
                assert (view.start > 0) == trims
                assert sorted(await read(node.broker, view.start)) == list(range(view.start, 30))

    asyncio.run(main())


def test_a_batch_that_is_missing_in_a_compacted_segment_is_damage(tmp_path: Path) -> None:
    async def main() -> None:
        async with compacted(tmp_path) as (node,):
            broker = node.broker
            await fill(broker, 30, keys=10)
            await until(lambda: removed(broker) >= 5)
            topic = await broker.find_topic(TOPIC)
            place = topic.partitions[0]
            machine = broker._context.machine(place.group)
            assert machine is not None
            for task in broker._tasks:
                if task.get_name() == "compaction":
                    task.cancel()
            await asyncio.sleep(0.1)
            segment = next(one for one in machine.segments(place.id) if one.generation and one.bytes)
            ((base, _), *_) = broker._context.records.read(place.id, 0, 1 << 40, 1, segment.generation)
            gone = Batch()
            gone.delete("log", compacted_key(place.id, segment.generation, base))
            node.store._engine.write(gone)
            with pytest.raises(errors.Unavailable):
                await broker.fetch(TOPIC, 0, segment.base_offset, timeout=0.5)
            assert "bytes of compacted batches" in (broker._context.host.groups[place.group].damaged or "")

    asyncio.run(main())


def test_three_nodes_hold_the_same(tmp_path: Path) -> None:
    async def main() -> None:
        async with compacted(tmp_path, 3) as nodes:
            await fill(nodes[0].broker, 40)
            await until(lambda: sum(removed(node.broker) for node in nodes) >= 25)
            for node in nodes:
                for task in node.broker._tasks:
                    if task.get_name() == "compaction":
                        task.cancel()
            await put(nodes[0].broker, 41, (b"last", b""))
            place = (await nodes[0].broker.find_topic(TOPIC)).partitions[0]

            def held(node: TestNode) -> dict[bytes, bytes]:
                machine = node.broker._context.machine(place.group)
                assert machine is not None
                return {
                    key: data
                    for low, high in machine.payload_ranges()
                    for key, data in node.store._engine.scan("log", low, high)
                }

            await until(lambda: held(nodes[0]) == held(nodes[1]) == held(nodes[2]))
            assert len({frozenset((await read(node.broker)).items()) for node in nodes}) == 1

    asyncio.run(main())


def test_no_slice_is_long_and_bytes_a_second_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A partition of some MiB, with small records: what the loop is held up by is bounded."""
    monkeypatch.setattr(partition_segments, "SEGMENT_BYTES_MIN", 1 << 20)
    assert compaction_pass.READ_BYTES <= 128 << 10
    assert compactor.SEGMENT_BYTES_MIN >= 1 << 20

    async def main() -> None:
        async with compacted(tmp_path) as (node,):
            broker = node.broker
            for number in range(60):
                await put(broker, number, *((b"%d" % (n % 500), b"v" * 80) for n in range(1000)))
            await until(lambda: removed(broker) > 40_000, seconds=60.0)
            found = await read(broker)
            assert len({key for key, _ in found.values()}) == 500
            newest = {key: offset for offset, (key, _) in sorted(found.items())}
            assert min(newest.values()) >= 59_500

    asyncio.run(main())
