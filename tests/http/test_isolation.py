"""What readers over HTTP see of transactions, on a real node."""

from dataclasses import dataclass
from typing import Any

import pytest

from raftbroker.broker.broker import Broker
from tests.http.harness import STRING_V2, Client, LoopThread
from tests.unit.broker.nodes import batch_of
from tests.unit.broker.producers import TxnProducer


@dataclass
class Composed:
    broker: Broker
    core: object = "runs"


def values(client: Client, topic: str, query: str) -> tuple[list[Any], int]:
    answer = client.get(f"/topics/{topic}/partitions/0/records?{query}", STRING_V2)
    assert answer.status == 200, answer
    return [record["value"] for record in answer.json], int(answer.headers["x-next-offset"])


@pytest.fixture
def producer(thread: LoopThread, real_broker: Broker, topic: str) -> TxnProducer:
    """Has committed "a", aborted "b" and "c", and has "e" open; "d" belongs to no transaction."""
    made = TxnProducer([Composed(real_broker)], f"of {topic}")

    async def transact(*sent: bytes) -> None:
        await made.add((topic, 0))
        for value in sent:
            await made.send(topic, 0, value)

    async def prepare() -> None:
        await made.init()
        await transact(b"a")  # 0, and its marker at 1
        await made.end(commit=True)
        await transact(b"b", b"c")  # 2, 3, and 4
        await made.end(commit=False)
        await made.add((topic, 0))  # the transaction before is complete
        await real_broker.produce(topic, 0, batch_of(b"d"))  # 5
        await transact(b"e")  # 6

    thread.run(prepare())
    return made


def test_readers_see_what_is_committed_unless_they_ask_for_more(
    real: Client, thread: LoopThread, producer: TxnProducer, topic: str
) -> None:
    assert values(real, topic, "offset=earliest&timeout=0") == (["a", "d"], 6)
    assert values(real, topic, "offset=earliest&timeout=0&isolation=read_committed") == (["a", "d"], 6)
    everything = ["a", "b", "c", "d", "e"]
    assert values(real, topic, "offset=earliest&timeout=0&isolation=read_uncommitted") == (everything, 7)
    assert values(real, topic, "offset=3&timeout=0") == (["d"], 6)
    assert values(real, topic, "offset=6&timeout=0") == ([], 6)
    assert values(real, topic, "offset=latest&timeout=0") == ([], 6)
    assert values(real, topic, "offset=latest&timeout=0&isolation=read_uncommitted") == ([], 7)
    thread.run(producer.end(commit=True))
    assert values(real, topic, "offset=6&timeout=10000") == (["e"], 8)


def test_a_reader_goes_on_behind_what_does_not_count(
    real: Client, thread: LoopThread, producer: TxnProducer, topic: str
) -> None:
    """However little it asks for at a time: an empty list says that there is no record."""
    found: list[Any] = []
    offset = 0
    while True:
        page, offset = values(real, topic, f"offset={offset}&timeout=0&max_bytes=1&max_records=1")
        if not page:
            break
        found += page
    assert (found, offset) == (["a", "d"], 6)


def test_an_isolation_that_there_is_not_is_refused(real: Client, topic: str) -> None:
    answer = real.get(f"/topics/{topic}/partitions/0/records?offset=0&isolation=serializable", STRING_V2)
    assert (answer.status, answer.code) == (400, 40002)
    assert "read_uncommitted" in answer.json["message"]
