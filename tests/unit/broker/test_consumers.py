"""Consumers that nodes keep: alone, by turns with members of other kinds, through rebalances, deaths and idle times."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from raftbroker.broker.consumer import Consumer, ConsumerSettings
from raftbroker.broker.consumer_assign import Reading, assign
from raftbroker.broker.consumer_groups import OffsetToCommit
from raftbroker.broker.consumer_member import MemberSettings
from raftbroker.broker.consumer_reader import ELSEWHERE_MAX, Reset, Taken
from raftbroker.broker.errors import (
    BadRecords,
    GroupRefused,
    InstanceExists,
    InvalidRequest,
    OffsetOutOfRange,
    Throttled,
    UnknownInstance,
    UnknownTopic,
)
from raftbroker.broker.wire_consumers import (
    Assign,
    Close,
    Commit,
    Look,
    Poll,
    Seek,
    SeekTo,
    Subscribe,
    Unsubscribe,
)
from raftbroker.state.batch import RecordDraft, encode_batch
from tests.unit.broker.members import Member, settled
from tests.unit.broker.nodes import TestNode, batch_of, until
from tests.unit.broker.producers import TxnProducer
from tests.unit.broker.test_consumer_groups import coordinator, running, topic_cluster

MEMBER = MemberSettings(client_id="test", client_host="/test", session_ms=6_000, heartbeat_ms=100, rebalance_ms=10_000)
SETTINGS = ConsumerSettings(member=MEMBER, reset=Reset.EARLIEST, commit_every_ms=50)
MANUAL = msgspec.structs.replace(SETTINGS, auto_commit=False)


def named(name: str, settings: ConsumerSettings = SETTINGS) -> ConsumerSettings:
    member = msgspec.structs.replace(MEMBER, instance_id=name)
    return msgspec.structs.replace(settings, member=member)


async def produce(node: TestNode, partition: int, *values: str, topic: str = "t") -> None:
    await node.broker.produce(topic, partition, batch_of(*(value.encode() for value in values)))


def values(taken: Sequence[Taken]) -> list[str]:
    return [record.value.decode() for one in taken for record in one.records if record.value is not None]


async def drain(consumer: Consumer, count: int, bytes_max: int = 1 << 20) -> list[str]:
    found: list[str] = []
    async with asyncio.timeout(15):
        while len(found) < count:
            found += values(await consumer.poll(bytes_max, 1.0))
    return found


@asynccontextmanager
async def opened(node: TestNode, group: str = "g", settings: ConsumerSettings = SETTINGS) -> AsyncIterator[Consumer]:
    consumer = node.broker.consumers.open(group, settings)
    try:
        yield consumer
        await consumer.close("the test is over", all_processed=True)
    finally:
        await node.broker.consumers.release(consumer, "the test is over")


async def committed(node: TestNode, group: str = "g") -> dict[int, int]:
    return {item.partition: item.offset for item in (await node.broker.consumer_groups.offsets(group)).offsets}


# --- assignors ------------------------------------------------------------------------------------------------


def test_assignors_have_kafkas_outcome() -> None:
    """The examples of Kafka's own documentation of RangeAssignor and RoundRobinAssignor."""
    both = [Reading("C0", None, frozenset({"t0", "t1"})), Reading("C1", None, frozenset({"t0", "t1"}))]
    counts = {"t0": 3, "t1": 3}
    assert assign("range", both, counts) == {"C0": {"t0": (0, 1), "t1": (0, 1)}, "C1": {"t0": (2,), "t1": (2,)}}
    assert assign("roundrobin", both, counts) == {"C0": {"t0": (0, 2), "t1": (1,)}, "C1": {"t0": (1,), "t1": (0, 2)}}
    three = [
        Reading("C0", None, frozenset({"t0"})),
        Reading("C1", None, frozenset({"t0", "t1"})),
        Reading("C2", None, frozenset({"t0", "t1", "t2"})),
    ]
    assert assign("roundrobin", three, {"t0": 1, "t1": 2, "t2": 3}) == {
        "C0": {"t0": (0,)},
        "C1": {"t1": (0,)},
        "C2": {"t1": (1,), "t2": (0, 1, 2)},
    }
    assert assign("range", [], {"t0": 1}) == {}


def test_assignors_give_every_partition_to_one_subscriber() -> None:
    drawn = random.Random(7)
    for _ in range(300):
        counts = {f"t{number}": drawn.randrange(6) for number in range(drawn.randrange(5))}
        members = [
            Reading(
                f"m{number}",
                drawn.choice([None, f"i{number}"]),
                frozenset(drawn.sample([*counts, "gone"], drawn.randrange(len(counts) + 2))),
            )
            for number in range(drawn.randrange(1, 5))
        ]
        for protocol in ("range", "roundrobin"):
            given = assign(protocol, members, counts)
            dealt = [(topic, number) for has in given.values() for topic, numbers in has.items() for number in numbers]
            wanted = frozenset[str]().union(*(one.topics for one in members))
            assert sorted(dealt) == sorted((t, n) for t in wanted & counts.keys() for n in range(counts[t]))
            for one in members:
                assert one.topics >= {topic for topic, numbers in given[one.member_id].items() if numbers}


# --- on one node ----------------------------------------------------------------------------------------------


def test_a_consumer_reads_commits_and_is_made_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with topic_cluster(tmp_path, 1) as (node,):
            for partition in range(6):
                await produce(node, partition, f"{partition}a", f"{partition}b")
            async with opened(node) as consumer:
                with pytest.raises(GroupRefused, match="subscribe"):
                    await consumer.poll(1, 0.0)
                consumer.subscribe(["t"])
                found = await drain(consumer, 12)
                assert sorted(found) == sorted(f"{partition}{which}" for partition in range(6) for which in "ab")
                assert await committed(node) in ({}, dict.fromkeys(range(6), 0))
                waiting = asyncio.ensure_future(consumer.poll(1 << 20, 10.0))
                await asyncio.sleep(0.1)
                await produce(node, 3, "3c")
                assert values(await waiting) == ["3c"]
                assert await consumer.poll(1 << 20, 0.1) == []
            assert await committed(node) == {number: 3 if number == 3 else 2 for number in range(6)}
            await produce(node, 0, "0c")
            async with opened(node) as consumer:
                consumer.subscribe([], "t.?")
                assert await drain(consumer, 1) == ["0c"]

    asyncio.run(main())


def test_polls_are_bounded_and_fair(tmp_path: Path) -> None:
    async def main() -> None:
        async with topic_cluster(tmp_path, 1, partitions=2) as (node,):
            for partition in (0, 1):
                for turn in range(4):
                    await produce(node, partition, *(f"{partition}:{turn}:{n}" + "x" * 100 for n in range(10)))
            async with opened(node, settings=MANUAL) as consumer:
                consumer.subscribe(["t"])
                found: list[str] = []
                both = 0
                while len(found) < 80:
                    taken = await consumer.poll(1_000, 5.0)
                    assert 1 <= sum(len(one.records) for one in taken) <= 6
                    found += values(taken)
                    both += found[-1][0] == "1" and len(found) < 60
                assert both >= 2, "one partition waited for all of the other"
                for partition in "01":
                    mine = [value.split("x")[0] for value in found if value[0] == partition]
                    assert mine == [f"{partition}:{turn}:{n}" for turn in range(4) for n in range(10)]
                assert await committed(node) == {}
                await consumer.commit()
                assert await committed(node) == {0: 40, 1: 40}

    asyncio.run(main())


def test_seeks_while_a_poll_waits(tmp_path: Path) -> None:
    async def main() -> None:
        async with topic_cluster(tmp_path, 1, partitions=1) as (node,):
            await produce(node, 0, "a", "b", "c")
            async with opened(node, settings=MANUAL) as consumer:
                consumer.subscribe(["t"])
                assert await drain(consumer, 3) == ["a", "b", "c"]
                waiting = asyncio.ensure_future(consumer.poll(1 << 20, 10.0))
                await asyncio.sleep(0.05)
                consumer.seek({("t", 0): 1})
                assert values(await waiting) == ["b", "c"]
                await consumer.seek_to([("t", 0)], Reset.EARLIEST)
                assert values(await consumer.poll(1, 1.0)) == ["a"]
                await consumer.seek_to([("t", 0)], Reset.LATEST)
                assert await consumer.poll(1, 0.0) == []
                await consumer.seek_times({("t", 0): 0})
                assert values(await consumer.poll(1, 1.0)) == ["a"]
                with pytest.raises(GroupRefused, match="not assigned"):
                    consumer.seek({("t", 1): 0})
                consumer.seek({("t", 0): 99})
                assert values(await consumer.poll(1 << 20, 1.0)) == ["a", "b", "c"], "reset to the earliest"

    asyncio.run(main())


def test_records_that_cannot_be_read_are_told_and_can_be_passed(tmp_path: Path) -> None:
    async def main() -> None:
        async with topic_cluster(tmp_path, 1, partitions=1) as (node,):
            await produce(node, 0, "a")
            sound = bytearray(encode_batch([RecordDraft(value=b"never seen")], base_timestamp=1))
            sound[22] = 1  # says it is gzip, which it is not
            import google_crc32c

            sound[17:21] = google_crc32c.value(bytes(sound[21:])).to_bytes(4, "big")
            await node.broker.produce("t", 0, bytes(sound))
            await produce(node, 0, "c")
            async with opened(node, settings=MANUAL) as consumer:
                consumer.subscribe(["t"])
                assert await drain(consumer, 1) == ["a"]
                for _ in range(2):
                    with pytest.raises(BadRecords, match="Seek to offset 2"):
                        await consumer.poll(1 << 20, 1.0)
                consumer.seek({("t", 0): 2})
                assert values(await consumer.poll(1 << 20, 1.0)) == ["c"]

    asyncio.run(main())


def test_offsets_of_an_open_transaction_are_waited_for(tmp_path: Path) -> None:
    """Not taken for none, which would begin anew."""

    async def main() -> None:
        async with topic_cluster(tmp_path, 1, partitions=1) as (node,):
            await produce(node, 0, "a", "b")
            producer = TxnProducer([node], "mover")
            await producer.init()
            transactions, timeout = node.broker.transactions, 5.0
            ours = (producer.name, producer.id, producer.epoch)
            assert await transactions.add_group(*ours, "g", timeout=timeout) is None
            done = await node.broker.consumer_groups.txn_commit(
                "g", [OffsetToCommit("t", 0, 1)], producer_id=producer.id, producer_epoch=producer.epoch
            )
            assert done.error is None
            async with opened(node) as consumer:
                consumer.subscribe(["t"])
                await until(lambda: consumer._trouble is not None)
                with pytest.raises(Throttled, match="UNSTABLE"):
                    await consumer.poll(1 << 20, 0.5)
                assert await transactions.end(*ours, True, timeout=timeout) is None
                found: list[str] = []
                while not found:
                    try:
                        found = values(await consumer.poll(1 << 20, 0.5))
                    except Throttled:
                        await asyncio.sleep(0.05)
                assert found == ["b"]

    asyncio.run(main())


def test_manual_assignment(tmp_path: Path) -> None:
    async def main() -> None:
        async with topic_cluster(tmp_path, 1, partitions=2) as (node,):
            await produce(node, 0, "a")
            await produce(node, 1, "b")
            none = msgspec.structs.replace(MANUAL, reset=Reset.NONE)
            async with opened(node, settings=MANUAL) as consumer:
                with pytest.raises(UnknownTopic):
                    await consumer.assign([("nothing", 0)])
                await consumer.assign([("t", 1)])
                assert await drain(consumer, 1) == ["b"]
                with pytest.raises(GroupRefused, match="unsubscribe"):
                    consumer.subscribe(["t"])
                await consumer.commit({("t", 1): (1, "noted")})
                await consumer.unsubscribe()
                assert consumer.positions == {}
            assert await committed(node) == {1: 1}
            async with opened(node, settings=none) as consumer:
                await consumer.assign([("t", 0)])
                with pytest.raises(InvalidRequest, match="none"):
                    await consumer.poll(1, 1.0)
                await consumer.assign([("t", 1)])
                consumer.seek({("t", 1): 7})
                with pytest.raises(OffsetOutOfRange):
                    await consumer.poll(1, 1.0)

    asyncio.run(main())


def test_topics_that_come_and_grow_are_read(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            topic_cluster(tmp_path, 1, partitions=1) as (node,),
            opened(node) as consumer,
            opened(node) as other,
        ):
            consumer.subscribe([], "t|u")
            other.subscribe(["t", "later"])
            await until(lambda: len(consumer.positions) + len(other.positions) == 1)
            await node.broker.create_topic("u", 1, 1)
            await node.broker.create_topic("later", 1, 1)
            await node.broker.create_partitions("t", 4)
            expected = {("t", 0), ("t", 1), ("t", 2), ("t", 3), ("u", 0), ("later", 0)}
            both = lambda: [*consumer.positions, *other.positions]  # noqa: E731 - read twice just below
            await until(lambda: sorted(both()) == sorted(expected), 20.0)
            await node.broker.delete_topic("u")
            await until(lambda: sorted(both()) == sorted(expected - {("u", 0)}), 20.0)

    asyncio.run(main())


def test_an_idle_instance_is_closed_and_one_in_use_is_not(tmp_path: Path) -> None:
    async def main() -> None:
        async with topic_cluster(tmp_path, 1, partitions=1) as (node,):
            quick = msgspec.structs.replace(SETTINGS, idle_ms=1_500)
            consumers = node.broker.consumers
            await consumers.create("g", "idle", quick)
            await consumers.create("g", "busy", quick)
            with pytest.raises(InstanceExists):
                await consumers.create("g", "busy", quick)
            await consumers.ask("g", "idle", Subscribe(("t",), None), 5.0)
            await consumers.ask("g", "busy", Subscribe(("t",), None), 5.0)
            waiting = asyncio.ensure_future(consumers.ask("g", "busy", Poll(1 << 20, 3.0, ""), 10.0))
            await asyncio.sleep(3.2)
            assert (await waiting).taken == ()
            with pytest.raises(UnknownInstance):
                await consumers.ask("g", "idle", Look(), 5.0)
            assert (await consumers.ask("g", "busy", Close(), 5.0)).partitions == ()
            view = await node.broker.consumer_groups.describe("g")
            assert view is None or not view.members

    asyncio.run(main())


# --- in a group -----------------------------------------------------------------------------------------------


def test_members_of_both_kinds_share_a_group(tmp_path: Path) -> None:
    """Ours and others', whoever leads; each record is read by one of them, none is missed."""

    async def main() -> None:
        async with topic_cluster(tmp_path, 3) as nodes:
            first = Member(nodes, "kafka", session_ms=6_000)
            async with opened(nodes[1]) as one, opened(nodes[2]) as two:
                one.subscribe(["t"])
                await until(lambda: len(one.positions) == 6)
                async with running(first):
                    await until(lambda: len(first.mine) == 3 and len(one.positions) == 3, 15.0)
                    two.subscribe(["t"])
                    await until(lambda: len(first.mine) == len(one.positions) == len(two.positions) == 2, 15.0)
                    numbers = [number for _, number in (*one.positions, *two.positions)]
                    assert sorted([*numbers, *first.mine]) == list(range(6))
                await until(lambda: len(one.positions) == len(two.positions) == 3, 20.0)
            assert settled([first]) is False

    asyncio.run(main())


def test_a_rebalance_loses_and_repeats_nothing_of_what_is_acknowledged(tmp_path: Path) -> None:
    async def main() -> None:
        async with topic_cluster(tmp_path, 1) as (node,):

            async def feed() -> None:
                for number in range(60):
                    await produce(node, number % 6, f"{number % 6}:{number:03}")
                    await asyncio.sleep(0.05)

            async def read(consumer: Consumer, found: list[str], seconds: float) -> None:
                until_time = asyncio.get_running_loop().time() + seconds
                while asyncio.get_running_loop().time() < until_time:
                    found += values(await consumer.poll(1 << 20, 0.2))

            founds: list[list[str]] = [[], [], []]
            feeding = asyncio.ensure_future(feed())
            async with opened(node) as one:
                one.subscribe(["t"])
                reading = [asyncio.ensure_future(read(one, founds[0], 6.0))]
                await asyncio.sleep(0.7)
                async with opened(node) as two, opened(node) as three:
                    two.subscribe(["t"])
                    three.subscribe(["t"])
                    await asyncio.gather(read(two, founds[1], 2.0), read(three, founds[2], 2.0))
                await feeding
                await asyncio.gather(*reading)
                assert all(founds), "everyone read something"
                every = sorted(value for found in founds for value in found)
                assert every == sorted(f"{number % 6}:{number:03}" for number in range(60))
                for found in founds:
                    for partition in range(6):
                        mine = [value for value in found if value.startswith(f"{partition}:")]
                        assert mine == sorted(mine)

    asyncio.run(main())


def test_a_commit_after_the_partitions_have_gone_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with topic_cluster(tmp_path, 1) as (node,):
            for partition in range(6):
                await produce(node, partition, "a")
            async with opened(node, settings=MANUAL) as one, opened(node, settings=MANUAL) as two:
                one.subscribe(["t"])
                await drain(one, 6)
                two.subscribe(["t"])
                began = asyncio.get_running_loop().time()
                await until(lambda: len(two.positions) == 3, 15.0)
                assert asyncio.get_running_loop().time() - began > 4.0, "no time to commit what is in hand"
                await until(lambda: len(one.positions) == 3, 15.0)
                (gone, *_) = two.positions
                with pytest.raises(GroupRefused, match="not assigned"):
                    await one.commit({gone: (1, "")})
                assert await committed(node) == {}
                assert len(await drain(two, 3)) == 3, "what was not committed is read again"

    asyncio.run(main())


# --- on several nodes -----------------------------------------------------------------------------------------


def test_an_instance_is_reached_through_any_node(tmp_path: Path) -> None:
    async def main() -> None:
        async with topic_cluster(tmp_path, 3) as nodes:
            for partition in range(6):
                await produce(nodes[0], partition, f"{partition}a")
            await nodes[1].broker.consumers.create("g", "mine", named("mine", MANUAL))
            for node in nodes:
                with pytest.raises(InstanceExists):
                    await node.broker.consumers.create("g", "mine", named("mine"))
            ask = nodes[2].broker.consumers.ask
            assert (await ask("g", "mine", Subscribe(("t",), None), 5.0)).topics == ("t",)
            found: list[str] = []
            turn = 0
            while len(found) < 6:
                turn += 1
                shown = await nodes[turn % 3].broker.consumers.ask("g", "mine", Poll(100, 2.0, ""), 10.0)
                found += values(shown.taken)
            assert sorted(found) == [f"{number}a" for number in range(6)]
            await nodes[0].broker.consumers.ask("g", "mine", Commit((("t", 2, 1, "x"),)), 5.0)
            assert await committed(nodes[0]) == {2: 1}
            await ask("g", "mine", Seek((("t", 2, 0),)), 5.0)
            await ask("g", "mine", SeekTo((("t", 3),), end=False), 5.0)
            again = (await ask("g", "mine", Poll(1 << 20, 2.0, ""), 10.0)).taken
            assert sorted(values(again)) == ["2a", "3a"]
            await ask("g", "mine", Unsubscribe(), 5.0)
            await ask("g", "mine", Assign((("t", 0),)), 5.0)
            assert (await ask("g", "mine", Look(), 5.0)).partitions == (("t", 0),)
            await ask("g", "mine", Close(), 5.0)
            for node in nodes:
                with pytest.raises(UnknownInstance):
                    await node.broker.consumers.ask("g", "mine", Look(), 5.0)

    asyncio.run(main())


def test_partitions_that_live_on_other_nodes_are_waited_for_by_turns(tmp_path: Path) -> None:
    """More of them than are asked for at once; records come while it waits, and offsets that are gone are passed."""

    async def main() -> None:
        async with topic_cluster(tmp_path, 3) as nodes:
            count = 40
            await nodes[0].broker.create_topic("far", count, 1)
            for partition in range(count):
                await produce(nodes[0], partition, f"{partition}a", topic="far")
            async with opened(nodes[1], settings=MANUAL) as consumer:
                consumer.subscribe(["far"])
                found = await drain(consumer, count)
                assert sorted(found) == sorted(f"{partition}a" for partition in range(count))
                assert len(consumer._reader._elsewhere) > ELSEWHERE_MAX
                for partition in range(0, count, 7):
                    waiting = asyncio.ensure_future(consumer.poll(1 << 20, 10.0))
                    await asyncio.sleep(0.05)
                    await produce(nodes[2], partition, f"{partition}b", topic="far")
                    assert values(await waiting) == [f"{partition}b"]
                for partition in range(count):
                    await nodes[0].broker.delete_records("far", partition, -1)
                consumer.seek({("far", partition): 0 for partition in range(count)})
                assert await consumer.poll(1 << 20, 5.0) == []
                expected = {("far", n): 2 if n % 7 == 0 else 1 for n in range(count)}
                assert consumer.positions == expected

    asyncio.run(main())


def test_one_whose_node_dies_is_made_again_by_its_name(tmp_path: Path) -> None:
    """At once, without waiting for a session to end and without a rebalance; from what was committed."""

    async def main() -> None:
        async with topic_cluster(tmp_path, 3) as nodes:
            led = await coordinator(nodes)
            dying, other = [node for node in nodes if node is not led]
            for partition in range(6):
                await produce(led, partition, "a", "b")
            await dying.broker.consumers.create("g", "mine", named("mine", MANUAL))
            await led.broker.consumers.ask("g", "mine", Subscribe(("t",), None), 5.0)
            taken: list[Taken] = []
            while sum(len(one.records) for one in taken) < 12:
                taken += (await led.broker.consumers.ask("g", "mine", Poll(1 << 20, 5.0, ""), 15.0)).taken
            await led.broker.consumers.ask("g", "mine", Commit((("t", 0, 1, ""), ("t", 5, 2, ""))), 5.0)
            view = await led.broker.consumer_groups.describe("g")
            assert view is not None
            await dying.kill()
            with pytest.raises(UnknownInstance):
                await other.broker.consumers.ask("g", "mine", Look(), 5.0)
            await led.broker.consumers.create("g", "mine", named("mine", MANUAL))  # it remembers where it was
            await other.broker.consumers.ask("g", "mine", Subscribe(("t",), None), 5.0)
            began = asyncio.get_running_loop().time()
            found: list[tuple[int, int]] = []
            while len(found) < 9:
                shown = await other.broker.consumers.ask("g", "mine", Poll(1 << 20, 5.0, ""), 15.0)
                found += [(one.partition, record.offset) for one in shown.taken for record in one.records]
            assert asyncio.get_running_loop().time() - began < 5.0
            expected = {(number, offset) for number in range(6) for offset in (0, 1)} - {(0, 0), (5, 0), (5, 1)}
            assert set(found) == expected
            after = await led.broker.consumer_groups.describe("g")
            assert after is not None
            assert len(after.members) == 1

    asyncio.run(main())


def test_a_newer_consumer_of_the_same_name_takes_the_place(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            topic_cluster(tmp_path, 1) as (node,),
            opened(node, settings=named("one")) as older,
            opened(node, settings=named("one")) as newer,
        ):
            older.subscribe(["t"])
            await until(lambda: len(older.positions) == 6)
            newer.subscribe(["t"])
            await until(lambda: len(newer.positions) == 6)
            await until(lambda: bool(older.closed))
            with pytest.raises(GroupRefused, match="another consumer of this name"):
                await older.poll(1, 0.0)
            assert await newer.poll(1, 0.1) == []

    asyncio.run(main())
