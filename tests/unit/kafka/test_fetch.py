"""Fetch over a socket, on real nodes: fairness, bounds, waiting, epochs, sessions."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from raftbroker.broker.broker import Broker
from raftbroker.kafka.errors import ErrorCode
from raftbroker.state.batch import parse_header
from tests.unit.broker.nodes import batch_of, until
from tests.unit.kafka.served import fetch_request, served


def batches_of(answer: Any) -> list[bytes]:
    data, found = bytes(answer.records), []
    while data:
        size = parse_header(data).size
        found.append(data[:size])
        data = data[size:]
    return found


def bases_of(answer: Any) -> list[int]:
    return [parse_header(batch).base_offset for batch in batches_of(answer)]


async def fill(broker: Broker, topic: str, partition: int, *batches: bytes) -> list[bytes]:
    """As they are stored."""
    for batch in batches:
        await broker.produce(topic, partition, batch)
    return list((await broker.fetch(topic, partition, 0)).batches)


@pytest.mark.parametrize("version", range(4, 13))
def test_batches_come_as_they_are_stored(tmp_path: Path, version: int) -> None:
    async def main() -> None:
        async with served(tmp_path) as (node,):
            await node.broker.create_topic("t", 2, 1)
            stored = await fill(node.broker, "t", 0, batch_of(b"a", b"b", b"c"), batch_of(b"d"), batch_of(b"e" * 5000))
            client = await node.client()
            for offset, expected in ((0, stored), (1, stored), (3, stored[1:]), (4, stored[2:]), (5, [])):
                full, empty = await client.fetch(("t", 0, offset), ("t", 1, 0), version=version)
                assert batches_of(full) == expected
                assert (full.error_code, full.high_watermark, full.last_stable_offset) == (0, 5, 5)
                assert full.log_start_offset == (0 if version >= 5 else -1)
                assert full.aborted_transactions is None
                assert (empty.error_code, empty.high_watermark, batches_of(empty)) == (0, 0, [])
            (committed,) = await client.fetch(("t", 0, 0), version=version, isolation=1)
            assert (batches_of(committed), committed.aborted_transactions) == (stored, [])

    asyncio.run(main())


def test_errors_are_of_their_partition(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as (node,):
            await node.broker.create_topic("t", 1, 1)
            await fill(node.broker, "t", 0, *(batch_of(b"x") for _ in range(10)))
            await node.broker.delete_records("t", 0, 4)
            client = await node.client()
            good, low, high, unknown, nowhere = [
                (await client.fetch(place, wait_ms=5000))[0]
                for place in (("t", 0, 4), ("t", 0, 3), ("t", 0, 11), ("t", 1, 0), ("nowhere", 0, 0))
            ]
            assert (good.error_code, bases_of(good), good.log_start_offset) == (0, [4, 5, 6, 7, 8, 9], 4)
            assert low.error_code == high.error_code == ErrorCode.OFFSET_OUT_OF_RANGE
            assert unknown.error_code == nowhere.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            one, two = await client.fetch(("t", 0, 4), ("nowhere", 0, 0))
            assert (len(bases_of(one)), two.error_code) == (6, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
            (negative,) = await client.fetch(("t", 0, -1))
            assert negative.error_code == ErrorCode.INVALID_REQUEST

    asyncio.run(main())


def test_bounds_hold_but_for_the_first_batch(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as (node,):
            await node.broker.create_topic("t", 1, 1)
            stored = await fill(node.broker, "t", 0, *(batch_of(b"x" * 1000) for _ in range(10)))
            size = len(stored[0])
            client = await node.client()

            async def fetched(**bounds: int) -> int:
                return len(batches_of((await client.fetch(("t", 0, 0), **bounds))[0]))

            assert await fetched(partition_bytes_max=3 * size) == 3
            assert await fetched(partition_bytes_max=4 * size - 1) == 3
            assert await fetched(bytes_max=2 * size) == 2
            assert await fetched(bytes_max=1) == 1
            assert await fetched(partition_bytes_max=0) == 1

    asyncio.run(main())


def test_no_partition_starves(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as (node,):
            await node.broker.create_topic("t", 3, 1)
            for partition in range(3):
                await fill(node.broker, "t", partition, *(batch_of(b"x" * 1000) for _ in range(5)))
            client = await node.client()
            places = [("t", partition, 0) for partition in range(3)]
            got = [0, 0, 0]
            for _ in range(60):  # of which each has room for two batches
                for one in await client.fetch(*places, bytes_max=2500):
                    got[one.partition_index] += len(batches_of(one))
            assert sum(got) == 120
            assert min(got) > 20
            (one,) = [
                one for one in await client.fetch(*places, bytes_max=1) if one.records
            ]  # however little is asked for
            assert len(batches_of(one)) == 1

    asyncio.run(main())


def test_a_fetch_waits_for_any_of_its_partitions(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as (node,):
            for topic in ("t", "u"):
                await node.broker.create_topic(topic, 3, 1)
            client = await node.client()
            loop = asyncio.get_running_loop()
            places = [(topic, partition, 0) for topic in ("t", "u") for partition in range(3)]
            request = fetch_request(*places, wait_ms=15_000)
            client.send(request, 12)
            await until(lambda: node.broker._waiters.count == 1)
            begun = loop.time()
            await node.broker.produce("u", 1, batch_of(b"x"))
            answer = await client.answer(request, 12)
            assert loop.time() - begun < 10
            found = {
                (topic.topic, one.partition_index): len(batches_of(one))
                for topic in answer.responses
                for one in topic.partitions
            }
            assert found == {(topic, partition): int((topic, partition) == ("u", 1)) for topic, partition, _ in places}
            assert node.broker._waiters.count == 0
            assert node.broker._waiters.waiting() == []
            begun = loop.time()
            (nothing,) = await client.fetch(("t", 0, 0), wait_ms=100)
            assert batches_of(nothing) == []
            assert loop.time() - begun > 0.09

    asyncio.run(main())


def test_min_bytes_count_over_all_partitions(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as (node,):
            await node.broker.create_topic("t", 2, 1)
            client = await node.client()
            request = fetch_request(("t", 0, 0), ("t", 1, 0), bytes_min=2500, wait_ms=15_000)
            client.send(request, 12)
            for n in range(3):
                await until(lambda: node.broker._waiters.count == 1)
                await node.broker.produce("t", n % 2, batch_of(b"x" * 1000))
            (topic,) = (await client.answer(request, 12)).responses
            assert [bases_of(one) for one in topic.partitions] == [[0, 1], [0]]
            # more than can be had in time: what there is
            assert [len(batches_of(one)) for one in await client.fetch(("t", 0, 0), bytes_min=10_000, wait_ms=50)] == [
                2
            ]

    asyncio.run(main())


def test_a_client_that_goes_away_waits_no_longer(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as (node,):
            await node.broker.create_topic("t", 1, 1)
            client = await node.client()
            client.send(fetch_request(("t", 0, 0), wait_ms=60_000), 12)
            await until(lambda: node.broker._waiters.count == 1)
            client.writer.close()
            await until(lambda: node.broker._waiters.count == 0)

    asyncio.run(main())


def test_a_topic_that_is_deleted_ends_the_wait(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as (node,):
            await node.broker.create_topic("t", 1, 1)
            client = await node.client()
            request = fetch_request(("t", 0, 0), wait_ms=15_000)
            client.send(request, 12)
            await until(lambda: node.broker._waiters.count == 1)
            await node.broker.delete_topic("t")
            (topic,) = (await client.answer(request, 12)).responses
            assert topic.partitions[0].error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION

    asyncio.run(main())


def test_epochs_are_fenced_and_other_nodes_say_who_leads(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path, 3) as nodes:
            topic = await nodes[0].broker.create_topic("t", 1, 3)
            group = topic.partitions[0].group
            replicas = [node.broker._context.host.groups[group] for node in nodes]
            await until(lambda: all(r.leader is not None for r in replicas) and any(r.leading for r in replicas))
            for node, replica in zip(nodes, replicas, strict=True):
                client = await node.client()
                (answer,) = await client.fetch(("t", 0, 0), epoch=replica.term)
                if not replica.leading:
                    assert replica.leader is not None
                    assert answer.error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER
                    assert answer.current_leader.leader_id == replica.leader.node
                    assert answer.current_leader.leader_epoch == replica.term
                    continue
                assert answer.error_code == 0
                (old,) = await client.fetch(("t", 0, 0), epoch=replica.term - 1)
                assert old.error_code == ErrorCode.FENCED_LEADER_EPOCH
                assert (old.current_leader.leader_id, old.current_leader.leader_epoch) == (node.node.id, replica.term)
                (new,) = await client.fetch(("t", 0, 0), epoch=replica.term + 1)
                assert new.error_code == ErrorCode.UNKNOWN_LEADER_EPOCH

    asyncio.run(main())


def test_a_waiting_fetch_hears_that_leadership_has_moved(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path, 3, transfer_quiet=60.0) as nodes:
            topic = await nodes[0].broker.create_topic("t", 1, 3)
            group = topic.partitions[0].group
            replicas = [node.broker._context.host.groups[group] for node in nodes]
            await until(lambda: any(replica.leading for replica in replicas))
            node = next(n for n, replica in zip(nodes, replicas, strict=True) if replica.leading)
            client = await node.client()
            request = fetch_request(("t", 0, 0), wait_ms=15_000)
            client.send(request, 12)
            await until(lambda: node.broker._waiters.count == 1)
            await node.broker.transfer_leadership(group)
            (answered,) = (await client.answer(request, 12)).responses
            assert answered.partitions[0].error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER

    asyncio.run(main())


def test_a_leader_without_a_majority_calls_no_offset_out_of_range_and_none_the_latest(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path, 3, transfer_quiet=60.0) as nodes:
            topic = await nodes[0].broker.create_topic("t", 1, 3)
            group = topic.partitions[0].group
            await nodes[0].broker.produce("t", 0, batch_of(b"x"))
            replicas = [node.broker._context.host.groups[group] for node in nodes]
            await until(lambda: any(replica.leading for replica in replicas))
            node = next(n for n, replica in zip(nodes, replicas, strict=True) if replica.leading)
            client, other = await node.client(), await node.client()
            request = fetch_request(("t", 0, 7), wait_ms=5000)
            killing = asyncio.gather(*(one.node.kill() for one in nodes if one is not node))
            await asyncio.sleep(0)  # from here on they answer nothing
            client.send(request, 12)
            found = await other.offset("t", 0, -1)
            (answer,) = (await client.answer(request, 12)).responses[0].partitions
            assert answer.error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER
            assert found.error_code in (ErrorCode.NOT_LEADER_OR_FOLLOWER, ErrorCode.REQUEST_TIMED_OUT)
            await killing

    asyncio.run(main())


def test_there_are_no_sessions(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as (node,):
            await node.broker.create_topic("t", 1, 1)
            await fill(node.broker, "t", 0, batch_of(b"x"))
            client = await node.client()
            for session in ((0, -1), (0, 0), (77, 0), (77, -1)):
                answer = await client.ask(fetch_request(("t", 0, 0), session=session), 12)
                assert (answer.error_code, answer.session_id) == (0, 0)
                assert bases_of(answer.responses[0].partitions[0]) == [0]
            for session in ((77, 1), (77, 2**31 - 1), (0, 5)):
                answer = await client.ask(fetch_request(session=session), 12)
                assert (answer.error_code, answer.session_id) == (ErrorCode.FETCH_SESSION_ID_NOT_FOUND, 0)
                assert answer.responses == []

    asyncio.run(main())


def test_more_readers_than_may_wait_are_told_to_stay_away(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path, fetches_waiting_max=1) as (node,):
            await node.broker.create_topic("t", 1, 1)
            client, other = await node.client(), await node.client()
            request = fetch_request(("t", 0, 0), wait_ms=15_000)
            client.send(request, 12)
            await until(lambda: node.broker._waiters.count == 1)
            answer = await other.ask(request, 12)
            assert answer.throttle_time_ms > 0
            assert answer.responses[0].partitions[0].error_code == 0
            await node.broker.produce("t", 0, batch_of(b"x"))
            assert bases_of((await client.answer(request, 12)).responses[0].partitions[0]) == [0]

    asyncio.run(main())


def test_the_tail_is_read_from_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with served(tmp_path) as (node,):
            topic = await node.broker.create_topic("t", 1, 1)
            stored = await fill(node.broker, "t", 0, *(batch_of(b"%d" % n, b"y") for n in range(5)))
            client = await node.client()
            reads = 0
            read = node.broker._context.records.read

            def counted(*place: int) -> list[tuple[int, bytes]]:
                nonlocal reads
                reads += 1
                return read(*place)

            monkeypatch.setattr(node.broker._context.records, "read", counted)
            for offset in range(10):
                (answer,) = await client.fetch(("t", 0, offset))
                assert batches_of(answer) == stored[offset // 2 :]
            assert reads == 0
            node.broker._reads._tail.forget(node.broker._context.machine(topic.partitions[0].group))
            for offset in range(10):
                (answer,) = await client.fetch(("t", 0, offset))
                assert batches_of(answer) == stored[offset // 2 :]
            assert reads > 0

    asyncio.run(main())
