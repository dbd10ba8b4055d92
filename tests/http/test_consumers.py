"""The v2 consumer API on a real node, whole; and beside a Kafka client in one group."""

import base64
import itertools
import time
from typing import Any
from urllib.parse import quote

import pytest

from raftbroker.broker.broker import Broker
from raftbroker.node import Node
from tests.http.harness import BINARY_V2, JSON_V2, STRING_V2, Client, LoopThread
from tests.unit.broker.nodes import until

V2 = "application/vnd.kafka.v2+json"
_names = itertools.count(1)


@pytest.fixture(autouse=True)
def _coordinated(thread: LoopThread, real_broker: Broker) -> None:
    async def led() -> None:
        face = real_broker.consumer_groups
        await until(lambda: face.elected("any") and len(real_broker.shards.led()) == len(real_broker.shards.all()))

    thread.run(led())


class Consumer:
    """An instance, through its own address."""

    def __init__(self, client: Client, group: str | None = None, **wanted: object) -> None:
        self.client = client
        self.group = group or f"group-{next(_names)}"
        body = {"auto.offset.reset": "earliest", "format": "json", **wanted}
        made = client.ask("POST", f"/consumers/{self.group}", body, media=V2)
        assert made.status == 200, made
        assert made.headers["content-type"] == V2
        self.name = made.json["instance_id"]
        self.path = f"/consumers/{self.group}/instances/{quote(self.name)}"
        assert made.json["base_uri"] == client.url + self.path
        self.media = f"application/vnd.kafka.{body['format']}.v2+json"

    def post(self, what: str, body: Any = None) -> int:
        answer = self.client.ask("POST", f"{self.path}/{what}", body, media=V2)
        assert answer.status == 204 or "error_code" in answer.json
        return 204 if answer.status == 204 else answer.code

    def get(self, what: str, body: Any = None) -> Any:
        answer = self.client.ask("GET", f"{self.path}/{what}", body, media=V2)
        assert answer.status == 200, answer
        return answer.json

    def records(self, count: int, **query: int) -> list[Any]:
        found: list[Any] = []
        asked = "&".join(f"{name}={value}" for name, value in {"timeout": 2_000, **query}.items())
        for _ in range(20):
            answer = self.client.get(f"{self.path}/records?{asked}", self.media)
            assert answer.status == 200, answer
            assert answer.headers["content-type"] == self.media
            found += answer.json
            if len(found) >= count:
                break
        assert len(found) == count
        return found

    def close(self) -> None:
        assert self.client.ask("DELETE", self.path).status == 204


def send(client: Client, topic: str, *values: object, partition: int = 0, media: str = JSON_V2) -> None:
    records = [{"value": value, "partition": partition} for value in values]
    answer = client.ask("POST", f"/topics/{topic}", {"records": records}, media=media)
    assert answer.status == 200, answer


def test_an_instances_whole_life(real: Client, topic: str) -> None:
    before = int(time.time() * 1000)
    record = {"key": {"id": 7}, "value": [1, None], "partition": 1, "headers": [{"name": "h", "value": "AQI="}]}
    real.ask("POST", f"/topics/{topic}", {"records": [record, {"value": "a", "partition": 0}]}, media=JSON_V2)
    one = Consumer(real, **{"auto.commit.enable": "false"})
    assert one.get("subscription") == {"topics": [], "topic_pattern": None}
    assert real.get(f"{one.path}/records").code == 40903
    assert one.post("subscription", {"topics": [topic]}) == 204
    assert one.get("subscription")["topics"] == [topic]
    found = sorted(one.records(2), key=lambda record: record["partition"])
    assert [(r["topic"], r["partition"], r["offset"], r["key"], r["value"]) for r in found] == [
        (topic, 0, 0, None, "a"),
        (topic, 1, 0, {"id": 7}, [1, None]),
    ]
    assert found[1]["headers"] == [{"name": "h", "value": "AQI="}]
    assert before <= found[1]["timestamp"] <= time.time() * 1000
    assert one.get("assignments") == {"partitions": [{"topic": topic, "partition": number} for number in range(3)]}
    assert one.get("offsets", {"partitions": [{"topic": topic, "partition": 1}]}) == {"offsets": []}
    assert one.post("offsets", {"offsets": [{"topic": topic, "partition": 1, "offset": 0}]}) == 204
    named = {"partitions": [{"topic": topic, "partition": 1}]}
    committed = {"topic": topic, "partition": 1, "offset": 1, "metadata": ""}
    assert one.get("offsets", named) == {"offsets": [committed]}
    assert one.post("offsets") == 204
    assert [(r["partition"], r["offset"]) for r in one.get("offsets")["offsets"]] == [(0, 1), (1, 1), (2, 0)]
    one.close()
    for method, what in (("DELETE", ""), ("GET", "/records"), ("GET", "/subscription")):
        assert real.ask(method, one.path + what).code == 40403


def test_positions(real: Client, topic: str) -> None:
    for number in range(3):
        send(real, topic, number)
        time.sleep(0.005)
    one = Consumer(real)
    one.post("subscription", {"topic_pattern": topic})
    first = one.records(3)
    here = {"topic": topic, "partition": 0}
    for body, expected in (
        ({"offsets": [{**here, "offset": 1}]}, [1, 2]),
        ({"timestamps": [{**here, "timestamp": first[2]["timestamp"]}]}, [2]),
        ({"timestamps": [{**here, "timestamp": "1999-01-01T00:00:00+00:00"}]}, [0, 1, 2]),
        ({"timestamps": [{**here, "timestamp": "2999-01-01T00:00:00Z"}]}, []),
    ):
        assert one.post("positions", body) == 204
        got = [record["value"] for record in real.get(f"{one.path}/records?timeout=300", one.media).json]
        assert got == expected
    assert one.post("positions/beginning", {"partitions": [here]}) == 204
    assert [record["value"] for record in one.records(3)] == [0, 1, 2]
    assert one.post("positions/beginning", {"partitions": [here]}) == 204
    assert one.post("positions/end", {"partitions": [here]}) == 204
    assert real.get(f"{one.path}/records?timeout=50", one.media).json == []
    assert one.post("positions", {}) == 42206
    assert one.post("positions", {"timestamps": [{**here, "timestamp": "yesterday"}]}) == 42206
    assert one.post("positions", {"offsets": [{"topic": topic, "partition": 9, "offset": 1}]}) == 40903
    one.close()


def test_assignments_and_their_refusals(real: Client, topic: str) -> None:
    send(real, topic, "x", partition=2)
    one = Consumer(real)
    mine = {"partitions": [{"topic": topic, "partition": 2}]}
    assert one.post("assignments", mine) == 204
    assert one.get("assignments") == mine
    assert [record["value"] for record in one.records(1)] == ["x"]
    assert one.post("subscription", {"topics": [topic]}) == 40903
    assert one.post("assignments", {"partitions": [{"topic": topic, "partition": 5}]}) == 40402
    assert one.post("assignments", {"partitions": [{"topic": "none", "partition": 0}]}) == 40401
    assert real.ask("DELETE", f"{one.path}/subscription").status == 204
    assert one.post("subscription", {"topics": [topic], "topic_pattern": "x"}) == 40002
    assert one.post("subscription", {"topic_pattern": "("}) == 40002
    assert one.post("subscription", {"topics": [topic]}) == 204
    assert one.post("assignments", mine) == 40903
    one.close()


def test_formats(real: Client, topic: str) -> None:
    send(real, topic, "tea", media=STRING_V2)
    send(real, topic, base64.b64encode(b"\xff\x00").decode(), media=BINARY_V2)
    send(real, topic, "more", media=STRING_V2)
    binary = Consumer(real, format="binary")
    binary.post("subscription", {"topics": [topic]})
    assert [base64.b64decode(record["value"]) for record in binary.records(3)] == [b"tea", b"\xff\x00", b"more"]
    assert real.get(f"{binary.path}/records", JSON_V2).code == 40601
    text = Consumer(real, format="string")
    text.post("subscription", {"topics": [topic]})
    assert [record["value"] for record in text.records(1)] == ["tea"]
    for _ in range(2):
        refused = real.get(f"{text.path}/records", STRING_V2)
        assert refused.code == 42207
        assert "offset 2" in refused.message
    text.post("positions", {"offsets": [{"topic": topic, "partition": 0, "offset": 2}]})
    assert [record["value"] for record in text.records(1)] == ["more"]
    for consumer in (binary, text):
        consumer.close()


def test_answers_are_bounded(real: Client, topic: str) -> None:
    send(real, topic, *("x" * 1000 for _ in range(20)))
    one = Consumer(real)
    one.post("subscription", {"topics": [topic]})
    sizes = []
    while sum(sizes) < 20:
        sizes.append(len(real.get(f"{one.path}/records?timeout=2000&max_bytes=5000", one.media).json))
    assert max(sizes) <= 5
    one.close()


@pytest.mark.parametrize(
    "wanted",
    [
        {"format": "avro"},
        {"auto.offset.reset": "middle"},
        {"auto.commit.enable": "perhaps"},
        {"fetch.min.bytes": "many"},
        {"consumer.request.timeout.ms": -1},
        {"isolation.level": "none"},
        {"name": ""},
        {"name": "n" * 256},
    ],
    ids=str,
)
def test_settings_that_are_refused(real: Client, wanted: dict[str, object]) -> None:
    answer = real.ask("POST", "/consumers/any", wanted, media=V2)
    assert answer.code == 42204
    assert next(iter(wanted)) in answer.message


def test_names(real: Client, topic: str) -> None:
    one = Consumer(real, group="named", name="a b")
    again = real.ask("POST", "/consumers/named", {"name": "a b"}, media=V2)
    assert again.code == 40902
    other = Consumer(real, group="other", name="a b")
    for consumer in (one, other):
        consumer.close()
    assert real.ask("POST", "/consumers/named", {"nam": "x"}, media=V2).code == 42206
    assert real.ask("POST", "/consumers/named", {}, media="text/plain").status == 415


def test_beside_a_kafka_client_in_one_group(real: Client, topic: str, node: Node) -> None:
    """They share the partitions, and each begins where the other has committed."""
    confluent_kafka = pytest.importorskip("confluent_kafka")
    one = Consumer(real, group=f"mixed-{topic}", **{"auto.commit.interval.ms": 1})
    one.post("subscription", {"topics": [topic]})
    for partition in range(3):
        send(real, topic, "first", partition=partition)
    one.records(3)
    kafka = confluent_kafka.Consumer(
        {
            "bootstrap.servers": node.config.kafka.listen,
            "group.id": one.group,
            "auto.offset.reset": "earliest",
            "auto.commit.interval.ms": 100,
        }
    )
    kafka.subscribe([topic])
    try:
        deadline = time.monotonic() + 30
        while len(kafka.assignment()) not in (1, 2):
            kafka.poll(0.2)
            real.get(f"{one.path}/records?timeout=50", one.media)
            assert time.monotonic() < deadline
        while len(one.get("assignments")["partitions"]) + len(kafka.assignment()) != 3:
            kafka.poll(0.1)
            assert time.monotonic() < deadline
        for partition in range(3):
            send(real, topic, "second", partition=partition)
        found: list[tuple[int, object]] = []
        while len(found) < 3:
            message = kafka.poll(0.1)
            if message is not None and message.error() is None:
                found.append((message.partition(), message.value()))
            answer = real.get(f"{one.path}/records?timeout=50", one.media)
            found += [(record["partition"], record["value"]) for record in answer.json]
            assert time.monotonic() < deadline
        assert sorted(partition for partition, _ in found) == [0, 1, 2]
        assert {value for _, value in found} == {b'"second"', "second"}
    finally:
        kafka.close()
    one.close()
