"""Transactions over a socket, on a real node: what each API answers, in each version, and how it refuses."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from kafka.protocol import admin, producer

from raftbroker.kafka.errors import ErrorCode
from raftbroker.state.groups.ops import PartitionName
from raftbroker.state.groups.terms import GroupError
from tests.unit.broker.nodes import until
from tests.unit.broker.producers import transactional
from tests.unit.kafka.served import RESPONSES, Client, Served, served

NAMES = (
    ("AddPartitionsToTxn", producer),
    ("AddOffsetsToTxn", producer),
    ("EndTxn", producer),
    ("TxnOffsetCommit", producer),
    ("DescribeProducers", admin),
    ("DescribeTransactions", admin),
    ("ListTransactions", admin),
)


@pytest.fixture(autouse=True)
def _responses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, module in NAMES:
        kind = getattr(module, f"{name}Response")
        monkeypatch.setitem(RESPONSES, kind.API_KEY, kind)


class Transactor:
    """A transactional producer that speaks the protocol itself."""

    def __init__(self, client: Client, name: str = "tx") -> None:
        self.client = client
        self.name = name
        self.id = self.epoch = -1
        self.sequence = 0

    @property
    def ids(self) -> dict[str, Any]:
        return {"transactional_id": self.name, "producer_id": self.id, "producer_epoch": self.epoch}

    async def init(self, *, version: int = 4, **fields: Any) -> int:
        given: dict[str, Any] = {"transactional_id": self.name, "producer_id": -1, "producer_epoch": -1}
        answer = await self.client.producer_id(version=version, **given | fields)
        if not answer.error_code:
            self.id, self.epoch, self.sequence = answer.producer_id, answer.producer_epoch, 0
        return int(answer.error_code)

    async def add(self, *places: tuple[str, tuple[int, ...]], version: int = 3) -> dict[tuple[str, int], int]:
        kind = producer.AddPartitionsToTxnRequest
        request = kind(
            **{f"v3_and_below_{name}": value for name, value in self.ids.items()},
            v3_and_below_topics=[
                kind.AddPartitionsToTxnTopic(name=name, partitions=list(numbers)) for name, numbers in places
            ],
        )
        answer = await self.client.ask(request, version)
        return {
            (topic.name, one.partition_index): one.partition_error_code
            for topic in answer.results_by_topic_v3_and_below
            for one in topic.results_by_partition
        }

    async def commit_offsets(
        self, group: str, *offsets: tuple[str, int, int], version: int = 3, **fields: Any
    ) -> list[int]:
        kind = producer.TxnOffsetCommitRequest
        topic = kind.TxnOffsetCommitRequestTopic
        asked = [
            topic(
                name=name,
                partitions=[
                    topic.TxnOffsetCommitRequestPartition(
                        partition_index=number,
                        committed_offset=offset,
                        committed_leader_epoch=3,
                        committed_metadata="noted",
                    )
                ],
            )
            for name, number, offset in offsets
        ]
        given: dict[str, Any] = {"generation_id": -1, "member_id": "", "group_instance_id": None}
        answer = await self.client.ask(kind(**self.ids, group_id=group, topics=asked, **given | fields), version)
        return [one.error_code for topic in answer.topics for one in topic.partitions]

    async def add_group(self, group: str, *, version: int = 3) -> int:
        request = producer.AddOffsetsToTxnRequest(**self.ids, group_id=group)
        return int((await self.client.ask(request, version)).error_code)

    async def end(self, *, commit: bool, version: int = 3) -> int:
        answer = await self.client.ask(producer.EndTxnRequest(**self.ids, committed=commit), version)
        return int(answer.error_code)

    async def send(self, topic: str, partition: int, *values: bytes, **fields: Any) -> int:
        batch = transactional(self.id, self.epoch, self.sequence, *values)
        [answer] = await self.client.produce((topic, partition, batch), transactional_id=self.name, **fields)
        if not answer.error_code:
            self.sequence += len(values)
        return int(answer.error_code)


def led_everywhere(node: Served) -> bool:
    """Whether every coordinator shard has its leader; clients ask again until it has."""
    shards = node.broker.shards
    return bool(shards.led()) and len(shards.led()) == len(shards.all())


def run(tmp_path: Path, body: Callable[[Served, Client], Awaitable[None]]) -> None:
    async def main() -> None:
        async with served(tmp_path) as (node,):
            await node.broker.create_topic("t", 2, 1)
            await until(lambda: led_everywhere(node), 30.0)
            await body(node, await node.client())

    asyncio.run(main())


@pytest.mark.parametrize("version", range(4))
def test_a_transaction_over_the_wire(tmp_path: Path, version: int) -> None:
    async def body(node: Served, client: Client) -> None:
        one = Transactor(client)
        assert await one.init(version=version) == 0
        for commit in (True, False):
            assert await one.add(("t", (0, 1)), version=version) == {("t", 0): 0, ("t", 1): 0}
            assert await one.send("t", 0, b"%d" % commit) == 0
            [reading] = await client.fetch(("t", 0, 0 if commit else 2), isolation=1)
            assert (bytes(reading.records or b""), reading.last_stable_offset) == (b"", 0 if commit else 2)
            assert await one.end(commit=commit, version=version) == 0
            [reading] = await client.fetch(("t", 0, 0 if commit else 2), isolation=1, wait_ms=10_000, bytes_min=1)
            assert reading.last_stable_offset == reading.high_watermark == (2 if commit else 4)
            aborted = [(a.producer_id, a.first_offset) for a in reading.aborted_transactions or ()]
            assert aborted == ([] if commit else [(one.id, 2)])
        [reading] = await client.fetch(("t", 0, 0), isolation=0)
        assert not reading.aborted_transactions
        assert await one.end(commit=True, version=version) == ErrorCode.INVALID_TXN_STATE

    run(tmp_path, body)


def test_fencing_is_told_as_each_version_knows_it(tmp_path: Path) -> None:
    async def body(node: Served, client: Client) -> None:
        old, new = Transactor(client), Transactor(client)
        assert (await old.init(), await new.init()) == (0, 0)
        assert (new.id, new.epoch) == (old.id, old.epoch + 1)
        for version in range(4):
            code = ErrorCode.INVALID_PRODUCER_EPOCH if version < 2 else ErrorCode.PRODUCER_FENCED
            assert await old.add(("t", (0,)), version=version) == {("t", 0): code}
            assert await old.end(commit=True, version=version) == code
            request = producer.AddOffsetsToTxnRequest(**old.ids, group_id="g")
            assert (await client.ask(request, version)).error_code == code
        assert await old.send("t", 0, b"late") == ErrorCode.INVALID_PRODUCER_EPOCH
        going_on = {"producer_id": old.id, "producer_epoch": old.epoch}
        assert await old.init(version=4, **going_on) == ErrorCode.PRODUCER_FENCED
        assert await old.init(version=3, **going_on) == ErrorCode.INVALID_PRODUCER_EPOCH
        assert await new.init(producer_id=new.id, producer_epoch=new.epoch) == 0

    run(tmp_path, body)


def test_what_is_refused_and_how(tmp_path: Path) -> None:
    async def body(node: Served, client: Client) -> None:
        one = Transactor(client)
        code = ErrorCode.INVALID_PRODUCER_ID_MAPPING
        assert await one.add(("t", (0,))) == {("t", 0): code}
        assert await one.end(commit=True) == code
        assert await one.init(transaction_timeout_ms=0) == ErrorCode.INVALID_TRANSACTION_TIMEOUT
        assert await one.init(transaction_timeout_ms=10**9) == ErrorCode.INVALID_TRANSACTION_TIMEOUT
        assert await Transactor(client, "").init() == ErrorCode.INVALID_REQUEST
        assert await one.init() == 0
        assert await one.add(("t", (0, 7)), ("missing", (1,))) == {
            ("t", 0): ErrorCode.OPERATION_NOT_ATTEMPTED,
            ("t", 7): ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
            ("missing", 1): ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        }
        assert await one.end(commit=True) == ErrorCode.INVALID_TXN_STATE
        assert await one.send("t", 0, b"not in a transaction") == ErrorCode.INVALID_TXN_STATE
        request = producer.AddOffsetsToTxnRequest(**one.ids, group_id="")
        assert (await client.ask(request, 3)).error_code == ErrorCode.INVALID_GROUP_ID
        one.id += 1
        assert await one.send("t", 0, b"with another id") == ErrorCode.INVALID_PRODUCER_ID_MAPPING
        [answer] = await client.produce(("t", 0, transactional(one.id, 0, 0, b"without a name")))
        assert answer.error_code == ErrorCode.INVALID_RECORD

    run(tmp_path, body)


def test_what_comes_behind_a_batch_that_was_refused_is_refused_too(tmp_path: Path) -> None:
    """The partition knows nothing of the producer yet: it would take any sequence."""

    async def body(node: Served, client: Client) -> None:
        one = Transactor(client)
        await one.init()
        assert await one.send("t", 0, b"first") == ErrorCode.INVALID_TXN_STATE
        await one.add(("t", (0,)))
        one.sequence = 1
        assert await one.send("t", 0, b"second") == ErrorCode.INVALID_TXN_STATE
        one.sequence = 0
        assert await one.send("t", 0, b"first") == 0
        assert await one.send("t", 0, b"second") == 0

    run(tmp_path, body)


@pytest.mark.parametrize("version", range(4))
def test_offsets_count_once_the_transaction_is_committed(tmp_path: Path, version: int) -> None:
    async def body(node: Served, client: Client) -> None:
        one = Transactor(client)
        await one.init()

        async def committed() -> dict[tuple[str, int], tuple[int, str]]:
            answer = await node.broker.consumer_groups.offsets("g")
            return {(one.topic, one.partition): (one.offset, one.metadata) for one in answer.offsets}

        for number, commit in ((1, True), (2, False), (3, True)):
            assert await one.commit_offsets("g", ("t", 0, 9), version=version) == [ErrorCode.INVALID_TXN_STATE]
            assert await one.add_group("g", version=version) == 0
            assert await one.commit_offsets("h", ("t", 0, 9), version=version) == [ErrorCode.INVALID_TXN_STATE]
            offsets = ("t", 0, 10 * number), ("t", 1, number), ("missing", 0, 5)
            expected = [0, 0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]
            assert await one.commit_offsets("g", *offsets, version=version) == expected
            answer = await node.broker.consumer_groups.offsets("g", [PartitionName("t", 0)], stable=True)
            assert [one.error for one in answer.offsets] == [GroupError.UNSTABLE_OFFSET_COMMIT]
            before = await committed()
            assert before.get(("t", 0)) == (None if number == 1 else (10, "noted"))
            assert await one.end(commit=commit, version=version) == 0
            await completed(node)
            last = 1 if number == 2 else number
            assert await committed() == {("t", 0): (10 * last, "noted"), ("t", 1): (last, "noted")}
        one.epoch += 1
        assert await one.commit_offsets("g", ("t", 0, 9), version=version) == [ErrorCode.INVALID_PRODUCER_EPOCH]
        assert await one.commit_offsets("", ("t", 0, 9), version=version) == [ErrorCode.INVALID_GROUP_ID]

    run(tmp_path, body)


def test_a_consumer_that_is_no_member_any_more_commits_nothing(tmp_path: Path) -> None:
    async def body(node: Served, client: Client) -> None:
        one = Transactor(client)
        await one.init()
        await one.add_group("g")
        fields = {"generation_id": 4, "member_id": "gone"}
        assert await one.commit_offsets("g", ("t", 0, 9), **fields) == [ErrorCode.ILLEGAL_GENERATION]

    run(tmp_path, body)


async def completed(node: Served) -> None:
    async def complete() -> bool:
        view = await node.broker.transactions.describe("tx", timeout=5.0)
        return view.state.title.startswith("Complete")

    await until(complete)


def test_tools_see_transactions_and_producers(tmp_path: Path) -> None:
    async def body(node: Served, client: Client) -> None:
        one, idle = Transactor(client), Transactor(client, "idle")
        await one.init()
        await idle.init()
        await one.add(("t", (0, 1)))
        await one.send("t", 1, b"a", b"b")

        described = await client.ask(admin.DescribeTransactionsRequest(transactional_ids=["tx", "none"]), 0)
        open_, missing = described.transaction_states
        assert (open_.error_code, open_.transaction_state, open_.transaction_timeout_ms) == (0, "Ongoing", 60_000)
        assert (open_.producer_id, open_.producer_epoch) == (one.id, one.epoch)
        assert [(topic.topic, topic.partitions) for topic in open_.topics] == [("t", [0, 1])]
        assert abs(open_.transaction_start_time_ms - time.time() * 1000) < 60_000
        assert missing.error_code == ErrorCode.TRANSACTIONAL_ID_NOT_FOUND

        async def listed(version: int = 1, **fields: Any) -> tuple[list[str], list[str]]:
            given: dict[str, Any] = {"state_filters": [], "producer_id_filters": [], "duration_filter": -1}
            answer = await client.ask(admin.ListTransactionsRequest(**given | fields), version)
            assert answer.error_code == 0
            return sorted(one.transactional_id for one in answer.transaction_states), answer.unknown_state_filters

        assert await listed() == (["idle", "tx"], [])
        assert await listed(0, state_filters=["Ongoing", "Odd"]) == (["tx"], ["Odd"])
        assert await listed(state_filters=["Odd"]) == ([], ["Odd"])
        assert await listed(producer_id_filters=[idle.id]) == (["idle"], [])
        assert await listed(duration_filter=10**9) == ([], [])

        kind = admin.DescribeProducersRequest.TopicRequest
        asked = admin.DescribeProducersRequest(
            topics=[kind(name="t", partition_indexes=[0, 1, 5]), kind(name="missing", partition_indexes=[0])]
        )
        first, second, wrong, *others = [
            partition for topic in (await client.ask(asked, 0)).topics for partition in topic.partitions
        ]
        assert (first.error_code, first.active_producers) == (0, [])
        [known] = second.active_producers
        assert (known.producer_id, known.producer_epoch, known.last_sequence) == (one.id, one.epoch, 1)
        assert known.current_txn_start_offset == 0
        assert {p.error_code for p in (wrong, *others)} == {ErrorCode.UNKNOWN_TOPIC_OR_PARTITION}
        await one.end(commit=True)

        async def closed() -> bool:
            answer = await client.ask(asked, 0)
            [now] = answer.topics[0].partitions[1].active_producers
            return bool(now.current_txn_start_offset == -1)

        await until(closed)

    run(tmp_path, body)
