"""Produce over a socket, on real nodes: what is appended, in which order, and how it is refused."""

import asyncio
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from raftbroker.broker.produce import KEYED_RECORDS_MAX
from raftbroker.kafka.errors import ErrorCode
from raftbroker.state.batch import RecordDraft, decode_batch, encode_batch, parse_header
from raftbroker.state.compression import Codec
from tests.unit.broker.nodes import batch_of, until
from tests.unit.kafka.served import Client, Served, produce_request, served
from tests.unit.state.strategies import compress, with_body


def patched(batch: bytes, form: str, at: int, value: int, *, crc: bool = True) -> bytes:
    """The batch with a field changed, and with the CRC that fits."""
    import google_crc32c

    changed = bytearray(batch)
    struct.pack_into(form, changed, at, value)
    if crc:
        struct.pack_into(">I", changed, 17, google_crc32c.value(bytes(changed[21:])))
    return bytes(changed)


async def values(client: Client, topic: str, partition: int, offset: int = 0) -> list[bytes | None]:
    (answer,) = await client.fetch((topic, partition, offset))
    data, found = bytes(answer.records), []
    while data:
        header = parse_header(data)
        found += [record.value for record in decode_batch(data[: header.size])]
        data = data[header.size :]
    return found


@pytest.mark.parametrize("version", range(3, 12))
def test_batches_are_appended_and_answered_for(tmp_path: Path, version: int) -> None:
    async def main() -> None:
        async with served(tmp_path) as (node,):
            await node.broker.create_topic("t", 2, 1)
            await node.broker.create_topic("stamped", 1, 1, {"message.timestamp.type": "LogAppendTime"})
            client = await node.client()
            for acks in (1, -1):
                first = batch_of(b"a", b"b", timestamp=5)
                one, two, stamped = await client.produce(
                    ("t", 0, first), ("t", 1, batch_of(b"c")), ("stamped", 0, first), acks=acks, version=version
                )
                assert (one.index, one.error_code, two.index, two.error_code) == (0, 0, 1, 0)
                assert (one.base_offset, two.base_offset) == ((0, 0) if acks == 1 else (2, 1))
                assert one.log_append_time_ms == -1
                assert abs(stamped.log_append_time_ms - time.time() * 1000) < 60_000
                if version >= 5:
                    assert one.log_start_offset == 0
            assert await values(client, "t", 0) == [b"a", b"b"] * 2

    asyncio.run(main())


def test_what_is_sent_ahead_is_appended_in_order_and_answered_in_order(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as (node,):
            await node.broker.create_topic("t", 1, 1)
            client = await node.client()
            requests = [produce_request(("t", 0, batch_of(b"%d" % n, producer=(7, 0, n)))) for n in range(60)]
            for request in requests:
                client.send(request, 9)
            for n, request in enumerate(requests):
                (topic,) = (await client.answer(request, 9)).responses
                (answer,) = topic.partition_responses
                assert (answer.error_code, answer.base_offset) == (0, n)
            assert await values(client, "t", 0) == [b"%d" % n for n in range(60)]

    asyncio.run(main())


def test_a_duplicate_gets_the_original_offset_and_a_gap_is_out_of_order(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as (node,):
            await node.broker.create_topic("t", 1, 1)
            client = await node.client()
            for sequence in range(6):
                await client.produce(("t", 0, batch_of(b"x", producer=(7, 0, sequence))))
            (again,) = await client.produce(("t", 0, batch_of(b"x", producer=(7, 0, 3))))
            assert (again.error_code, again.base_offset) == (0, 3)
            (gap,) = await client.produce(("t", 0, batch_of(b"x", producer=(7, 0, 9))))
            assert gap.error_code == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
            await client.produce(("t", 0, batch_of(b"x", producer=(7, 1, 0))))
            (old,) = await client.produce(("t", 0, batch_of(b"x", producer=(7, 0, 6))))
            assert old.error_code == ErrorCode.INVALID_PRODUCER_EPOCH
            assert (await client.fetch(("t", 0, 0)))[0].high_watermark == 7

    asyncio.run(main())


def test_batches_are_refused_by_name(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as (node,):
            await node.broker.create_topic("t", 1, 1, {"max.message.bytes": "200"})
            client = await node.client()
            sound = batch_of(b"x")
            now = int(time.time() * 1000)
            cases = {
                "damaged": (sound[:-1] + b"?", ErrorCode.CORRUPT_MESSAGE),
                "cut off": (sound[:-1], ErrorCode.CORRUPT_MESSAGE),
                "two batches": (sound + sound, ErrorCode.INVALID_RECORD),
                "nothing": (b"", ErrorCode.INVALID_RECORD),
                "null": (None, ErrorCode.INVALID_RECORD),
                "old": (sound[:16] + b"\1" + sound[17:], ErrorCode.UNSUPPORTED_FOR_MESSAGE_FORMAT),
                "new": (sound[:16] + b"\3" + sound[17:], ErrorCode.INVALID_RECORD),
                "too large": (batch_of(b"x" * 200), ErrorCode.MESSAGE_TOO_LARGE),
                "false count": (patched(sound, ">i", 57, 2), ErrorCode.INVALID_RECORD),
                "no records": (patched(patched(sound, ">i", 57, 0), ">i", 23, -1), ErrorCode.INVALID_RECORD),
                "control batch": (patched(sound, ">h", 21, 0x20), ErrorCode.INVALID_RECORD),
                "unknown codec": (patched(sound, ">h", 21, 5), ErrorCode.INVALID_RECORD),
                "future": (batch_of(b"x", timestamp=now + 7_200_000), ErrorCode.INVALID_TIMESTAMP),
            }
            for name, (batch, code) in cases.items():
                (answer,) = await client.produce(("t", 0, batch))
                assert (name, answer.error_code) == (name, code)
                assert answer.error_message
                assert answer.base_offset == -1
            (answer,) = await client.produce(("t", 1, sound))
            assert answer.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            # one that is wrong costs no other
            wrong, right = await client.produce(("nowhere", 0, sound), ("t", 0, sound))
            assert (wrong.error_code, right.error_code) == (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, 0)
            (answer,) = await client.produce(("t", 0, sound), acks=2)
            assert answer.error_code == ErrorCode.INVALID_REQUIRED_ACKS
            assert await values(client, "t", 0) == [b"x"]

    asyncio.run(main())


@pytest.mark.parametrize("version", [3, 8, 9, 11])
@pytest.mark.parametrize("codec", Codec)
def test_a_compacted_topic_wants_keys(tmp_path: Path, version: int, codec: Codec) -> None:
    def keyed(*keys: bytes | None) -> bytes:
        batch = encode_batch([RecordDraft(key, b"v") for key in keys], base_timestamp=int(time.time() * 1000))
        return batch if codec is Codec.NONE else compress(batch, codec)

    async def main() -> None:
        async with served(tmp_path) as (node,):
            await node.broker.create_topic("table", 1, 1, {"cleanup.policy": "compact"})
            await node.broker.create_topic("log", 1, 1)
            client = await node.client()
            for batch in (keyed(b"a", b""), keyed(b"a", None, b"b", None), keyed(b"c")):
                table, log = await client.produce(("table", 0, batch), ("log", 0, batch), version=version)
                assert log.error_code == 0
                if parse_header(batch).record_count < 4:
                    assert table.error_code == 0
                    continue
                assert (table.error_code, table.base_offset) == (ErrorCode.INVALID_RECORD, -1)
                if version >= 8:
                    assert [error.batch_index for error in table.record_errors] == [1, 3]
                    assert "record 1 of the batch has no key, nor have 1 others" in table.error_message
            broken = with_body(keyed(b"a"), Codec.NONE, b"\x08nonsense")
            table, log = await client.produce(("table", 0, broken), ("log", 0, broken), version=version)
            assert (table.error_code, log.error_code) == (ErrorCode.INVALID_RECORD, 0)
            assert (await node.broker.offsets("table", 0)).end == 3

    asyncio.run(main())


def test_a_compacted_topic_takes_no_batch_that_takes_long_to_look_at(tmp_path: Path) -> None:
    def records(count: int) -> bytes:
        drafts = [RecordDraft(b"%d" % number, b"v") for number in range(count)]
        return encode_batch(drafts, base_timestamp=int(time.time() * 1000))

    async def main() -> None:
        async with served(tmp_path) as (node,):
            await node.broker.create_topic("table", 1, 1, {"cleanup.policy": "compact"})
            await node.broker.create_topic("log", 1, 1)
            client = await node.client()
            (most,) = await client.produce(("table", 0, records(KEYED_RECORDS_MAX)))
            assert most.error_code == 0
            batch = records(KEYED_RECORDS_MAX + 1)
            table, log = await client.produce(("table", 0, batch), ("log", 0, batch))
            assert (table.error_code, log.error_code) == (ErrorCode.MESSAGE_TOO_LARGE, 0)
            assert "takes 20000 at a time" in table.error_message
            assert (await node.broker.offsets("table", 0)).end == KEYED_RECORDS_MAX

    asyncio.run(main())


def test_acks_0_has_no_answer_and_an_error_closes_the_connection(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as (node,):
            await node.broker.create_topic("t", 1, 1)
            client = await node.client()
            for n in range(10):
                client.send(produce_request(("t", 0, batch_of(b"%d" % n)), acks=0), 7)
            (first,) = await client.produce(("t", 0, batch_of(b"last")))
            assert first.base_offset == 10
            assert await values(client, "t", 0) == [b"%d" % n for n in range(10)] + [b"last"]
            client.send(produce_request(("nowhere", 0, batch_of(b"x")), acks=0), 7)
            assert await client.closed() == b""

    asyncio.run(main())


def test_beyond_the_bytes_in_flight_batches_wait_in_their_order(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path, inflight_bytes_max=3000) as (node,):
            await node.broker.create_topic("t", 1, 1)
            client, other = await node.client(), await node.client()
            requests = [produce_request(("t", 0, batch_of(b"%04d" % n * 250, producer=(1, 0, n)))) for n in range(40)]
            for request in requests:
                client.send(request, 11)
            others = [produce_request(("t", 0, batch_of(b"other" * 200))) for _ in range(20)]
            for request in others:
                other.send(request, 11)
            throttled = 0
            for request in requests:
                answer = await client.answer(request, 11)
                assert answer.responses[0].partition_responses[0].error_code == 0
                throttled += answer.throttle_time_ms > 0
            for request in others:
                answer = await other.answer(request, 11)
                assert answer.responses[0].partition_responses[0].error_code == 0
            mine = [value for value in await values(client, "t", 0) if value and not value.startswith(b"other")]
            assert mine == [b"%04d" % n * 250 for n in range(40)]
            assert throttled
            assert node.broker.counters.produce_throttled > 0
            writer = next(iter(node.broker._producer._writers.values()))
            await until(lambda: writer.bytes_in_flight == 0)

    asyncio.run(main())


def test_what_follows_a_batch_that_met_a_full_disk_is_not_taken_before_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as (node,):
            await node.broker.create_topic("t", 1, 1)
            client = await node.client()
            store = node.node.store
            reserve, store._reserve = store._reserve, 2 * store._engine.free_bytes()
            store._measure(0)
            for sequence in (0, 1):  # the partition does not know this producer: it would take any sequence
                (answer,) = await client.produce(("t", 0, batch_of(b"%d" % sequence, producer=(7, 0, sequence))))
                assert answer.error_code == ErrorCode.KAFKA_STORAGE_ERROR
            store._reserve = reserve
            store._measure(0)
            (answer,) = await client.produce(("t", 0, batch_of(b"2", producer=(7, 0, 2))))
            assert answer.error_code == ErrorCode.KAFKA_STORAGE_ERROR
            for sequence in range(3):
                (answer,) = await client.produce(("t", 0, batch_of(b"%d" % sequence, producer=(7, 0, sequence))))
                assert (answer.error_code, answer.base_offset) == (0, sequence)
            assert await values(client, "t", 0) == [b"0", b"1", b"2"]

    asyncio.run(main())


def test_the_wrong_node_says_who_leads(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path, 3) as nodes:
            topic = await nodes[0].broker.create_topic("t", 1, 3)
            place = topic.partitions[0]
            leader = next(node for node in nodes if node.node.id == place.leader)
            for node in nodes:
                await until(
                    lambda node=node: node.broker._context.host.groups[place.group].leader is not None  # type: ignore[misc]
                )
                client = await node.client()
                for version in (9, 11):
                    (answer,) = await client.produce(("t", 0, batch_of(b"x")), version=version)
                    if node is leader:
                        assert answer.error_code == 0
                        continue
                    assert answer.error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER
                    if version >= 10:
                        assert answer.current_leader.leader_id == place.leader
                        assert answer.current_leader.leader_epoch > 0

    asyncio.run(main())


def leader_of(nodes: list[Served], group: int) -> Served | None:
    for node in nodes:
        replica = node.broker._context.host.groups.get(group) if node.node.core is not None else None
        if replica is not None and replica.leading:
            return node
    return None


async def at_leader(nodes: list[Served], group: int, request: Any) -> Any:
    """The only partition's answer, of whichever node leads now."""
    while True:
        await until(lambda: leader_of(nodes, group) is not None)
        leader = leader_of(nodes, group)
        assert leader is not None
        client = await leader.client()
        answer = (await client.ask(request, 9)).responses[0].partition_responses[0]
        if answer.error_code != ErrorCode.NOT_LEADER_OR_FOLLOWER:
            return answer


def test_too_few_replicas_in_sync_is_said_before_anything_is_done(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path, 3) as nodes:
            topic = await nodes[0].broker.create_topic("t", 1, 3, {"min.insync.replicas": "3"})
            group = topic.partitions[0].group

            async def answered(code: int, sequence: int) -> bool:
                request = produce_request(("t", 0, batch_of(b"x", producer=(1, 0, sequence))))
                return bool((await at_leader(nodes, group, request)).error_code == code)

            await until(lambda: answered(0, 0))
            await next(node for node in nodes if node is not leader_of(nodes, group)).node.kill()
            await until(lambda: answered(ErrorCode.NOT_ENOUGH_REPLICAS, 1))
            # what follows a refused batch is refused with it, not called out of order
            assert await answered(ErrorCode.NOT_ENOUGH_REPLICAS, 2)

    asyncio.run(main())


def test_an_outcome_that_is_not_known_is_repeated_to_the_original_offset(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path, 3, transfer_quiet=60.0) as nodes:
            topic = await nodes[0].broker.create_topic("t", 1, 3)
            group = topic.partitions[0].group
            first = produce_request(("t", 0, batch_of(b"x", producer=(1, 0, 0))))
            assert (await at_leader(nodes, group, first)).base_offset == 0
            leader = leader_of(nodes, group)
            assert leader is not None
            client = await leader.client()
            others = [node for node in nodes if node is not leader]
            batch = batch_of(b"y", producer=(1, 0, 1))
            killing = asyncio.gather(*(node.node.kill() for node in others))
            await asyncio.sleep(0)  # from here on they take nothing more
            (answer,) = await client.produce(("t", 0, batch), timeout_ms=5000)
            assert answer.error_code == ErrorCode.REQUEST_TIMED_OUT
            await killing
            machine = leader.broker._context.machine(group)
            tail = leader.broker._reads._tail  # what may be taken back must not be read from memory one day
            assert tail.read(machine, topic.partitions[0].id, 0, 2, 1) is None
            for node in others:
                await node.node.start()
            await until(lambda: leader_of(nodes, group) is not None)
            again = leader_of(nodes, group)
            assert again is not None
            produced = await again.broker.leader_side.append("t", 0, memoryview(batch), timeout=5.0)
            assert produced.base_offset == 1

    asyncio.run(main())
