"""Transactions on whole nodes in this process: commits, aborts, fencing, time-outs, and what comes late."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from raftbroker.broker import errors
from raftbroker.state.batch import parse_header
from raftbroker.state.transactions.ops import TxnError, TxnState
from tests.unit.broker.nodes import TestNode, batch_of, cluster, until
from tests.unit.broker.producers import Refused, TxnProducer, anywhere, fetch, read, transactional

Nodes = list[TestNode]


def run(tmp_path: Path, count: int, body: Callable[[Nodes], Awaitable[None]]) -> None:
    async def main() -> None:
        async with cluster(tmp_path, count, transfer_quiet=60.0) as nodes:
            await nodes[0].broker.create_topic("t", 3, min(count, 3))
            await nodes[0].broker.create_topic("u", 1, min(count, 3))
            await body(nodes)

    asyncio.run(main())


async def state_of(nodes: Nodes, name: str) -> TxnState:
    view = await anywhere(nodes, lambda node: node.broker.transactions.describe(name, timeout=5.0))
    return view.state


async def completed(nodes: Nodes, name: str) -> None:
    async def complete() -> bool:
        return await state_of(nodes, name) in (TxnState.COMPLETE_COMMIT, TxnState.COMPLETE_ABORT)

    await until(complete, 20.0)


async def kinds(nodes: Nodes, topic: str, partition: int) -> str:
    """What the batches of a partition are: c for a control batch, t for one of a transaction, . for another."""
    found = ""
    offset = 0
    while True:
        reading = await fetch(nodes, topic, partition, offset, committed=False)
        if not reading.batches:
            return found
        for batch in reading.batches:
            header = parse_header(batch)
            found += "c" if header.control else "t" if header.transactional else "."
            offset = header.next_offset


@pytest.mark.parametrize("count", [1, 3])
def test_what_is_committed_is_seen_whole_and_what_is_aborted_not_at_all(tmp_path: Path, count: int) -> None:
    async def body(nodes: Nodes) -> None:
        one, two = TxnProducer(nodes, "one"), TxnProducer(nodes, "two")
        await one.init()
        await two.init()
        await one.add(("t", 0), ("t", 1), ("u", 0))
        await two.add(("t", 0))
        assert await one.send("t", 0, b"1") == 0
        assert await two.send("t", 0, b"gone", b"gone too") == 1
        await nodes[0].broker.produce("t", 0, batch_of(b"plain"))
        await one.send("t", 1, b"2")
        await one.send("u", 0, b"3")
        await one.send("t", 0, b"4")
        reading = await fetch(nodes, "t", 0, 0, committed=True)
        assert (reading.batches, reading.last_stable, reading.high_watermark) == ([], 0, 5)
        assert await read(nodes, "t", 0, committed=False) == [b"1", b"gone", b"gone too", b"plain", b"4"]
        await one.end(commit=True)
        await completed(nodes, "one")
        assert await read(nodes, "t", 0, committed=True) == [b"1"]
        assert await read(nodes, "t", 1, committed=True) == [b"2"]
        assert await read(nodes, "u", 0, committed=True) == [b"3"]
        waiting = asyncio.ensure_future(fetch(nodes, "t", 0, 1, committed=True, wait=20.0))
        await two.end(commit=False)
        reading = await waiting
        assert (list(reading.aborted), reading.last_stable) == ([(two.id, 1)], 7)
        assert await read(nodes, "t", 0, committed=True) == [b"1", b"plain", b"4"]
        assert await read(nodes, "t", 0, committed=False) == [b"1", b"gone", b"gone too", b"plain", b"4"]
        assert await kinds(nodes, "t", 0) == "tt.tcc"

    run(tmp_path, count, body)


def test_one_transaction_follows_the_other_at_once(tmp_path: Path) -> None:
    async def body(nodes: Nodes) -> None:
        producer = TxnProducer(nodes, "one")
        await producer.init()
        for number in range(30):
            await producer.add(("t", number % 2), ("t", 2))
            await producer.send("t", number % 2, b"%d" % number)
            await producer.end(commit=number % 3 != 0)
        await completed(nodes, "one")
        expected = [b"%d" % number for number in range(30) if number % 3]
        seen = [value or b"" for number in (0, 1) for value in await read(nodes, "t", number, committed=True)]
        assert sorted(seen, key=int) == expected
        assert await kinds(nodes, "t", 0) == "tc" * 15
        assert await kinds(nodes, "t", 2) == "c" * 30

    run(tmp_path, 1, body)


def test_a_second_producer_fences_the_first_and_aborts_what_it_had_open(tmp_path: Path) -> None:
    async def body(nodes: Nodes) -> None:
        old, new = TxnProducer(nodes, "one"), TxnProducer(nodes, "one")
        await old.init()
        await old.add(("t", 0))
        await old.send("t", 0, b"old")
        await new.init()
        assert (new.id, new.epoch) == (old.id, old.epoch + 2)
        with pytest.raises(errors.FencedProducer):
            await old.send("t", 0, b"late")
        with pytest.raises(errors.FencedProducer):
            await old.send("t", 1, b"late")
        for refused in (old.add(("t", 0)), old.end(commit=True), old.init(go_on=True)):
            with pytest.raises(Refused, match="PRODUCER_FENCED"):
                await refused
        await new.add(("t", 0))
        await new.send("t", 0, b"new")
        await new.end(commit=True)
        await completed(nodes, "one")
        assert await read(nodes, "t", 0, committed=True) == [b"new"]
        await new.init(go_on=True)
        assert new.epoch == old.epoch + 3

    run(tmp_path, 1, body)


def test_a_transaction_ends_when_its_time_is_up(tmp_path: Path) -> None:
    async def body(nodes: Nodes) -> None:
        producer = TxnProducer(nodes, "one", timeout_ms=300)
        await producer.init()
        await producer.add(("t", 0))
        await producer.send("t", 0, b"gone")
        reading = await fetch(nodes, "t", 0, 0, committed=True, wait=20.0)
        assert (len(reading.batches), reading.last_stable) == (2, 2)
        await completed(nodes, "one")
        assert await read(nodes, "t", 0, committed=True) == []
        with pytest.raises(errors.FencedProducer):
            await producer.send("t", 0, b"late")
        with pytest.raises(Refused, match="PRODUCER_FENCED"):
            await producer.end(commit=True)
        with pytest.raises(errors.InvalidRequest, match="time-out"):
            await nodes[0].broker.transactions.init_producer("x", 900_001, timeout=5.0)

    run(tmp_path, 1, body)


def test_what_does_not_belong_to_an_open_transaction_is_refused(tmp_path: Path) -> None:
    async def body(nodes: Nodes) -> None:
        producer = TxnProducer(nodes, "one")
        await producer.init()
        with pytest.raises(errors.InvalidTransaction):
            await producer.send("t", 0, b"no transaction")
        producer.sequences.clear()
        await producer.add(("t", 0))
        with pytest.raises(errors.InvalidTransaction):
            await producer.send("t", 1, b"not added")
        with pytest.raises(errors.UnknownProducer):
            await producer.send_batch("t", 0, transactional(producer.id + 1, 0, 0, b"not its id"))
        with pytest.raises(errors.BadRecords, match="transactional id"):
            await nodes[0].broker.produce("t", 0, transactional(producer.id, 0, 0, b"without its coordinator"))
        await producer.send("t", 0, b"in")
        with pytest.raises(errors.InvalidTransaction, match="end the transaction first"):
            await nodes[0].broker.produce("t", 0, batch_of(b"outside", producer=(producer.id, producer.epoch, 1)))
        await producer.end(commit=True)
        await completed(nodes, "one")
        with pytest.raises(Refused, match="INVALID_TXN_STATE"):
            await producer.end(commit=False)
        await producer.end(commit=True)
        assert await kinds(nodes, "t", 0) == "tc"
        assert await kinds(nodes, "t", 1) == ""

    run(tmp_path, 1, body)


def test_a_batch_that_was_verified_and_comes_after_the_end_is_refused(tmp_path: Path) -> None:
    async def body(nodes: Nodes) -> None:
        [node] = nodes
        producer = TxnProducer(nodes, "one")
        await producer.init()
        await producer.add(("t", 0))
        batch = producer.batch("t", 0, b"late")
        number = await node.broker.transactions.verify("one", "t", 0, parse_header(batch), timeout=5.0)
        await producer.end(commit=False)
        await completed(nodes, "one")
        with pytest.raises(errors.InvalidTransaction, match="has ended"):
            await node.broker.leader_side.append("t", 0, memoryview(batch), timeout=5.0, transaction=number)
        assert await kinds(nodes, "t", 0) == "c"

    run(tmp_path, 1, body)


def test_a_deleted_topic_holds_nothing_up(tmp_path: Path) -> None:
    async def body(nodes: Nodes) -> None:
        producer = TxnProducer(nodes, "one")
        await producer.init()
        await producer.add(("t", 0), ("u", 0))
        await producer.send("t", 0, b"kept")
        await producer.send("u", 0, b"gone")
        await nodes[0].broker.delete_topic("u")
        await producer.end(commit=True)
        await completed(nodes, "one")
        assert await read(nodes, "t", 0, committed=True) == [b"kept"]

    run(tmp_path, 1, body)


def test_transactions_can_be_looked_at(tmp_path: Path) -> None:
    async def body(nodes: Nodes) -> None:
        [node] = nodes
        for name in ("one", "two"):
            producer = TxnProducer(nodes, name)
            await producer.init()
        await producer.add(("t", 1))
        await producer.send("t", 1, b"a", b"b")
        transactions = node.broker.transactions
        view = await transactions.describe("two", timeout=5.0)
        assert (view.state, view.producer_id, view.partitions) == (
            TxnState.ONGOING,
            producer.id,
            (producer.partition_id("t", 1),),
        )
        assert (await transactions.describe("three", timeout=5.0)).error is TxnError.TRANSACTIONAL_ID_NOT_FOUND
        assert {one.name for one in await transactions.list_here((), (), -1, timeout=5.0)} == {"one", "two"}
        [open_] = await transactions.list_here((TxnState.ONGOING,), (producer.id,), 0, timeout=5.0)
        assert (open_.name, open_.partitions) == ("two", ())
        [known] = transactions.producers_here("t", 1)
        assert known.state is not None
        assert known.ongoing is not None
        assert (known.producer_id, known.state.last_sequence, known.ongoing.first_offset) == (producer.id, 1, 0)

    run(tmp_path, 1, body)


@pytest.mark.parametrize("whom", ["coordinator", "partition"])
@pytest.mark.parametrize("commit", [True, False])
def test_what_is_decided_is_carried_out_though_a_leader_dies(tmp_path: Path, whom: str, commit: bool) -> None:
    async def body(nodes: Nodes) -> None:
        producer = TxnProducer(nodes, "one")
        await producer.init()
        await producer.add(("t", 0), ("t", 1), ("t", 2))
        for partition in range(3):
            await producer.send("t", partition, b"%d" % partition)
        if whom == "coordinator":
            victim = next(node for node in nodes if node.broker.shards.leads("one"))
        else:
            topic = await nodes[0].broker.describe_topic("t")
            coordinator = next(node for node in nodes if node.broker.shards.leads("one"))
            victim = next(
                node for node in nodes if node is not coordinator and node.id in {p.leader for p in topic.partitions}
            )
        if whom == "partition":
            await victim.kill()
            await producer.end(commit=commit)
        else:
            await producer.end(commit=commit)
            await victim.kill()
        await completed(nodes, "one")
        await victim.start()
        await until(lambda: victim.broker._context.control.topic("t") is not None)
        for partition in range(3):
            assert await read(nodes, "t", partition, committed=True) == ([b"%d" % partition] if commit else [])
            assert await kinds(nodes, "t", partition) == "tc"
        await producer.add(("t", 0))
        await producer.send("t", 0, b"more")
        await producer.end(commit=True)
        await completed(nodes, "one")
        assert (await read(nodes, "t", 0, committed=True))[-1] == b"more"

    run(tmp_path, 3, body)
