"""ListOffsets, OffsetForLeaderEpoch and InitProducerId over a socket, on real nodes."""

import asyncio
import struct
from pathlib import Path

import cramjam
import google_crc32c
import pytest

from raftbroker.kafka.errors import ErrorCode
from raftbroker.state.batch import RecordDraft, encode_batch
from tests.unit.broker.nodes import batch_of, until
from tests.unit.kafka.served import served

LATEST, EARLIEST, MAX_TIMESTAMP = -1, -2, -3


def timed(*timestamps: int) -> bytes:
    return encode_batch([RecordDraft(value=b"x", timestamp=t) for t in timestamps], base_timestamp=timestamps[0])


def undecodable(batch: bytes, codec: int) -> bytes:
    """Sound by its header, but what it says is compressed is not."""
    changed = bytearray(batch)
    changed[22] |= codec
    struct.pack_into(">I", changed, 17, google_crc32c.value(bytes(changed[21:])))
    return bytes(changed)


@pytest.mark.parametrize("version", range(1, 8))
def test_first_last_and_by_time(tmp_path: Path, version: int) -> None:
    async def main() -> None:
        async with served(tmp_path) as (node,):
            topic = await node.broker.create_topic("t", 2, 1)
            for batch in (timed(100, 300, 200), timed(250), timed(400, 350)):
                await node.broker.produce("t", 0, batch)
            client = await node.client()
            term = node.broker._context.host.groups[topic.partitions[0].group].term

            async def asked(timestamp: int, partition: int = 0) -> tuple[int, int, int, int]:
                found = await client.offset("t", partition, timestamp, version=version)
                return found.error_code, found.offset, found.timestamp, found.leader_epoch

            epoch = term if version >= 4 else -1
            assert await asked(LATEST) == (0, 6, -1, epoch)
            assert await asked(EARLIEST) == (0, 0, -1, epoch)
            assert await asked(0) == (0, 0, 100, epoch)
            assert await asked(101) == (0, 1, 300, epoch)
            assert await asked(301) == (0, 4, 400, epoch)
            assert await asked(401) == (0, -1, -1, -1)
            assert await asked(MAX_TIMESTAMP) == (0, 4, 400, epoch)
            assert (await asked(LATEST, 1))[:2] == (0, 0)
            assert await asked(MAX_TIMESTAMP, 1) == (0, -1, -1, -1)
            assert (await asked(0, 2))[0] == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            assert (await asked(-9))[0] == ErrorCode.INVALID_REQUEST
            await node.broker.delete_records("t", 0, 5)
            assert await asked(EARLIEST) == (0, 5, -1, epoch)
            assert await asked(0) == (0, 5, 350, epoch)
            assert (await asked(MAX_TIMESTAMP))[1] == 5
            if version >= 4:
                found = await client.offset("t", 0, LATEST, version=version, epoch=term + 1)
                assert found.error_code == ErrorCode.UNKNOWN_LEADER_EPOCH

    asyncio.run(main())


@pytest.mark.parametrize("codec", [1, 2, 3, 4])
def test_a_batch_that_cannot_be_opened_is_found_at_its_beginning(tmp_path: Path, codec: int) -> None:
    async def main() -> None:
        async with served(tmp_path) as (node,):
            await node.broker.create_topic("t", 1, 1)
            client = await node.client()
            for batch in (timed(100), undecodable(timed(200, 300), codec), timed(250)):
                (answer,) = await client.produce(("t", 0, batch))
                assert answer.error_code == 0
            assert (await client.offset("t", 0, 150)).offset == 1
            assert (await client.offset("t", 0, MAX_TIMESTAMP)).offset == 1
            found = await node.broker.offset_for_timestamp("t", 0, 250)
            assert found is not None
            assert found.offset == 1
            assert (await client.offset("t", 0, 301)).offset == -1

    asyncio.run(main())


def test_a_batch_that_says_too_much_of_its_time_is_found_at_its_beginning(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as (node,):
            await node.broker.create_topic("t", 1, 1)
            client = await node.client()
            false = bytearray(timed(100, 110))
            struct.pack_into(">q", false, 35, 500)
            struct.pack_into(">I", false, 17, google_crc32c.value(bytes(false[21:])))
            for batch in (timed(90), bytes(false), timed(600)):
                await client.produce(("t", 0, batch))
            found = await client.offset("t", 0, 400)
            assert (found.offset, found.timestamp) == (1, 500)

    asyncio.run(main())


def test_compressed_batches_are_searched_by_time(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as (node,):
            await node.broker.create_topic("t", 1, 1)
            plain = timed(100, 200, 300)
            packed = bytearray(plain[:61] + bytes(cramjam.zstd.compress(plain[61:])))
            struct.pack_into(">i", packed, 8, len(packed) - 12)
            packed[22] |= 4
            struct.pack_into(">I", packed, 17, google_crc32c.value(bytes(packed[21:])))
            client = await node.client()
            await client.produce(("t", 0, bytes(packed)))
            assert (await client.offset("t", 0, 150)).offset == 1

    asyncio.run(main())


def test_where_a_leaders_time_ended(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path, 3, transfer_quiet=60.0) as nodes:
            topic = await nodes[0].broker.create_topic("t", 1, 3)
            group = topic.partitions[0].group
            replicas = [node.broker._context.host.groups[group] for node in nodes]

            def leading() -> int | None:
                return next((n for n, replica in enumerate(replicas) if replica.leading), None)

            await until(lambda: leading() is not None)
            ends: dict[int, int] = {}
            for length in (1, 2, 3):
                await nodes[0].broker.produce("t", 0, batch_of(*[b"x"] * length))
                position = leading()
                assert position is not None
                node = nodes[position]
                ends[replicas[position].term] = (await node.broker.offsets("t", 0)).end
                await node.broker.transfer_leadership(group)
                await until(lambda: leading() is not None)
            position = leading()
            assert position is not None
            client, term = await nodes[position].client(), replicas[position].term
            assert sorted(ends.values()) == [1, 3, 6]
            for version in (2, 3, 4):
                for epoch, end in ends.items():
                    found = await client.epoch_end("t", 0, epoch, current=term, version=version)
                    assert (found.error_code, found.leader_epoch, found.end_offset) == (0, epoch, end)
                present = await client.epoch_end("t", 0, term, version=version)
                assert (present.leader_epoch, present.end_offset) == (term, 6)
                future = await client.epoch_end("t", 0, term + 1, version=version)
                assert (future.error_code, future.leader_epoch, future.end_offset) == (0, -1, -1)
                fenced = await client.epoch_end("t", 0, term, current=term - 1, version=version)
                assert fenced.error_code == ErrorCode.FENCED_LEADER_EPOCH
            before = await client.epoch_end("t", 0, 0, current=term)
            assert (before.leader_epoch, before.end_offset) == (0, 0)
            other = nodes[(position + 1) % 3]
            elsewhere = await (await other.client()).epoch_end("t", 0, term)
            assert elsewhere.error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER

    asyncio.run(main())


def test_producer_ids_are_given_once(tmp_path: Path) -> None:
    async def main() -> None:
        given: list[int] = []
        async with served(tmp_path, 3) as nodes:
            for node in nodes:
                client = await node.client()
                for version in range(5):
                    answer = await client.producer_id(version=version)
                    assert (answer.error_code, answer.producer_epoch) == (0, 0)
                    given.append(answer.producer_id)
                again = await client.producer_id(producer_id=given[-1], producer_epoch=3)
                assert (again.error_code, again.producer_epoch) == (0, 0)
                given.append(again.producer_id)
        assert len(set(given)) == len(given)

    asyncio.run(main())


def test_a_block_of_producer_ids_is_used_up_before_another_is_asked_for(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as (node,):
            ids = await asyncio.gather(*(node.broker.producer_ids.take(10.0) for _ in range(2500)))
            assert len(set(ids)) == 2500
            assert max(ids) - min(ids) < 3000
            await node.node.kill()
            await node.node.start()
            await until(lambda: node.broker.readiness().ready)
            assert await node.broker.producer_ids.take(10.0) > max(ids)

    asyncio.run(main())
