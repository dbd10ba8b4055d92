"""The HTTP interface over a real node: store, Raft groups and broker are the ones that run in production."""

import asyncio
import base64
import json
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from raftbroker.broker.broker import Broker
from raftbroker.config import load, split_address
from raftbroker.http.app import ROUTES
from raftbroker.http.route import Work
from raftbroker.node import Node
from raftbroker.state.murmur2 import partition_for_key
from tests.http.harness import BINARY_V2, JSON_V2, STRING_V2, Client, LoopThread, door
from tests.http.test_groups import join
from tests.ports import free_port


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def read_all(client: Client, topic: str, partition: int, accept: str = STRING_V2) -> list[dict[str, Any]]:
    """Everything in a partition, page by page, as a consumer would read it."""
    found: list[dict[str, Any]] = []
    offset = "earliest"
    while True:
        path = f"/topics/{topic}/partitions/{partition}/records?offset={offset}&timeout=0&max_bytes=100000"
        answer = client.get(path, accept)
        assert answer.status == 200, answer
        if not answer.json:
            return found
        found += answer.json
        offset = answer.headers["x-next-offset"]


# --- starting ---------------------------------------------------------------------------------------------


def test_kafka_clients_are_not_let_in_before_the_node_knows_its_cluster(thread: LoopThread, tmp_path: Path) -> None:
    """What it told them would be that it is alone and has no topics."""
    sets = [f"{door}.listen=127.0.0.1:{free_port()}" for door in ("http", "kafka", "peers")]
    members = [f"1@{sets[2].partition('=')[2]}", *(f"{other}@127.0.0.1:{free_port()}" for other in (2, 3))]
    sets += [f"node.data_dir={tmp_path}", f"cluster.initial={','.join(members)}"]

    async def main() -> None:
        node = Node(load(None, sets, {}))
        await node.start()
        try:
            for section, listening in (("http", True), ("kafka", False)):
                host, port = split_address(getattr(node.config, section).listen)
                try:
                    _, writer = await asyncio.open_connection(host, port)
                except ConnectionRefusedError:
                    assert not listening, section
                else:
                    writer.close()
                    assert listening, section
        finally:
            await node.stop()

    thread.run(main())


# --- topics -----------------------------------------------------------------------------------------------


def test_a_topics_life(real: Client, cluster: str) -> None:
    topics = f"{cluster}/topics"
    body = {
        "topic_name": "life",
        "partitions_count": 2,
        "replication_factor": 1,
        "configs": [{"name": "retention.ms", "value": "60000"}],
    }
    checked = real.post(topics, {**body, "validate_only": True})
    assert checked.status == 200
    assert real.get(f"{topics}/life").code == 40401
    made = real.post(topics, body)
    assert made.status == 201
    assert (made.json["partitions_count"], made.json["replication_factor"]) == (2, 1)
    assert made.json["metadata"]["self"].endswith(f"{topics}/life")
    again = real.post(topics, body)
    assert (again.status, again.code) == (409, 40902)
    assert "life" in [one["topic_name"] for one in real.get(topics).json["data"]]
    assert "life" in real.get("/topics").json
    grown = real.ask("PATCH", f"{topics}/life", {"partitions_count": 4})
    assert (grown.status, grown.json["partitions_count"]) == (200, 4)
    assert real.ask("PATCH", f"{topics}/life", {"partitions_count": 3}).code == 40002
    assert real.ask("DELETE", f"{topics}/life").status == 204
    assert real.ask("DELETE", f"{topics}/life").code == 40401
    assert real.get("/topics/life").code == 40401


def test_partitions_and_replicas_by_their_links(real: Client, cluster: str, topic: str, node: Node) -> None:
    listed = real.get(f"{cluster}/topics/{topic}/partitions").json
    assert [one["partition_id"] for one in listed["data"]] == [0, 1, 2]
    leader = listed["data"][1]["leader"]["related"]
    assert leader.startswith(real.url)
    assert leader.endswith("/replicas/1")
    replica = real.get(leader.removeprefix(real.url)).json
    assert (replica["broker_id"], replica["is_leader"], replica["is_in_sync"]) == (1, True, True)
    assert real.get(f"{cluster}/topics/{topic}/partitions/1/replicas").json["data"] == [replica]
    assert real.get(f"/topics/{topic}/partitions/1").json == {
        "partition": 1,
        "leader": 1,
        "replicas": [{"broker": 1, "leader": True, "in_sync": True}],
    }
    assert real.get(f"/topics/{topic}/partitions/3").code == 40402


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        ({"topic_name": ""}, 40002, "name"),
        ({"topic_name": "no spaces allowed"}, 40002, "name"),
        ({"topic_name": "x" * 300}, 40002, "name"),
        ({"topic_name": "t1", "partitions_count": 0}, 40002, "partition"),
        ({"topic_name": "t1", "partitions_count": 10**9}, 40002, "partition"),
        ({"topic_name": "t1", "replication_factor": 3}, 40002, "replication"),
        ({"topic_name": "t1", "configs": [{"name": "retention.mss", "value": "1"}]}, 40001, "retention.ms"),
        ({"topic_name": "t1", "configs": [{"name": "retention.ms", "value": "soon"}]}, 40001, "retention.ms"),
        ({"topic_name": "t1", "configs": [{"name": "cleanup.policy", "value": "shred"}]}, 40001, "compact"),
    ],
)
def test_topics_that_cannot_be(real: Client, cluster: str, body: dict[str, Any], code: int, says: str) -> None:
    answer = real.post(f"{cluster}/topics", body)
    assert answer.code == code
    assert says in answer.message


def test_configs_are_set_and_reset(real: Client, cluster: str, topic: str) -> None:
    path = f"{cluster}/topics/{topic}/configs"
    default = real.get(f"{path}/retention.ms").json
    assert (default["is_default"], default["source"]) == (True, "DEFAULT_CONFIG")
    assert real.ask("PUT", f"{path}/retention.ms", {"value": "5000000"}).status == 204
    changed = real.get(f"{path}/retention.ms").json
    assert (changed["value"], changed["is_default"]) == ("5000000", False)
    change = {"data": [{"name": "retention.ms", "operation": "DELETE"}, {"name": "segment.ms", "value": "9000000"}]}
    assert real.post(f"{path}:alter", change).status == 204
    found = {one["name"]: one for one in real.get(path).json["data"]}
    assert found["retention.ms"]["value"] == default["value"]
    assert found["segment.ms"]["value"] == "9000000"
    assert real.ask("DELETE", f"{path}/segment.ms").status == 204
    both = {"data": [{"name": "retention.ms", "value": "1"}, {"name": "nonsense", "value": "2"}]}
    refused = real.post(f"{path}:alter", both)
    assert refused.code == 40001
    assert "nonsense" in refused.message
    assert real.get(f"{path}/retention.ms").json["value"] == default["value"]
    assert real.ask("PUT", f"{path}/max.message.bytes", {"value": "-5"}).code == 40001


def test_a_config_is_set_only_where_it_is_as_expected(real: Client, cluster: str, topic: str) -> None:
    path = f"{cluster}/topics/{topic}/configs"
    one = f"{path}/retention.ms"
    default = real.get(one).json["value"]
    refused = real.ask("PUT", one, {"value": "7", "expected_value": "6"})
    assert refused.code == 40905
    assert f"retention.ms is '{default}', expected was '6'" in refused.message
    assert real.ask("PUT", one, {"value": "7", "expected_value": None}).status == 204
    assert real.ask("PUT", one, {"value": "8", "expected_value": None}).code == 40905
    assert real.ask("PUT", one, {"value": None, "expected_value": "7"}).status == 204
    assert real.ask("PUT", one, {"value": "9", "expected_value": default}).status == 204
    both: dict[str, Any] = {
        "data": [
            {"name": "retention.ms", "value": "10", "expected_value": "9"},
            {"name": "segment.ms", "value": "11", "expected_value": "12"},
        ]
    }
    assert real.post(f"{path}:alter", both).code == 40905
    assert real.post(f"{path}:alter", {**both, "validate_only": True}).code == 40905
    assert real.get(one).json["value"] == "9"
    both["data"][1]["expected_value"] = None
    assert real.post(f"{path}:alter", {**both, "validate_only": True}).status == 204
    assert real.get(one).json["value"] == "9"
    assert real.post(f"{path}:alter", both).status == 204
    assert [real.get(f"{path}/{name}").json["value"] for name in ("retention.ms", "segment.ms")] == ["10", "11"]
    assert real.ask("PUT", one, {"value": "7", "expected_value": "soon"}).code == 40001


# --- produce and read -------------------------------------------------------------------------------------


def test_records_come_back_as_they_were_sent(real: Client, topic: str) -> None:
    record = {
        "key": encoded(b"\x00key"),
        "value": encoded(bytes(range(256))),
        "headers": [{"name": "größe", "value": encoded(b"\xff")}, {"name": "none", "value": None}],
        "timestamp": 1_700_000_000_123,
        "partition": 1,
    }
    assert real.post(f"/topics/{topic}", {"records": [record]}, BINARY_V2).json["offsets"][0]["offset"] == 0
    (found,) = read_all(real, topic, 1, BINARY_V2)
    assert found == {**record, "topic": topic, "offset": 0}
    before = int(time.time() * 1000)
    real.post(f"/topics/{topic}", {"records": [{"value": {"ü": [1.50, None]}, "partition": 2}]}, JSON_V2)
    (plain,) = read_all(real, topic, 2, JSON_V2)
    assert plain["value"] == {"ü": [1.5, None]}
    assert before <= plain["timestamp"] <= int(time.time() * 1000)
    assert real.get(f"/topics/{topic}/partitions/2/offsets").json == {"beginning_offset": 0, "end_offset": 1}


def test_many_producers_at_once_get_offsets_without_gaps(real: Client, topic: str) -> None:
    acknowledged: dict[tuple[int, int], str] = {}

    def produce(worker: int) -> None:
        client = Client(real.url)
        for turn in range(12):
            values = [f"{worker}-{turn}-{n}" for n in range(40)]
            records = [{"key": value, "value": value} for value in values]
            reports = client.post(f"/topics/{topic}", {"records": records}, STRING_V2).json["offsets"]
            for value, report in zip(values, reports, strict=True):
                assert report["partition"] == partition_for_key(value.encode(), 3)
                acknowledged[report["partition"], report["offset"]] = value
        client.close()

    threads = [threading.Thread(target=produce, args=(worker,)) for worker in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(30)
    found = {
        (partition, record["offset"]): record["value"]
        for partition in range(3)
        for record in read_all(real, topic, partition)
    }
    assert len(acknowledged) == 4 * 12 * 40
    assert found == acknowledged
    for partition in range(3):
        offsets = sorted(offset for number, offset in found if number == partition)
        assert offsets == list(range(len(offsets)))


def test_the_same_key_gives_the_same_offsets_and_other_content_is_refused(real: Client, topic: str) -> None:
    body = {"records": [{"value": str(n)} for n in range(30)]}
    first = real.post(f"/topics/{topic}", body, STRING_V2, Idempotency_Key="k-1")
    for _ in range(3):
        assert real.post(f"/topics/{topic}", body, STRING_V2, Idempotency_Key="k-1").json == first.json
    assert sum(len(read_all(real, topic, partition)) for partition in range(3)) == 30
    other = real.post(f"/topics/{topic}", {"records": [{"value": "x"}] * 30}, STRING_V2, Idempotency_Key="k-1")
    assert (other.status, other.code) == (422, 42209)
    assert real.post(f"/topics/{topic}", body, STRING_V2, Idempotency_Key="k-2").json != first.json


def test_the_same_key_at_the_same_time_is_appended_once(real: Client, topic: str) -> None:
    body = {"records": [{"value": str(n), "partition": 0} for n in range(5)]}
    answers: list[Any] = []

    def produce() -> None:
        client = Client(real.url)
        answers.append(client.post(f"/topics/{topic}", body, STRING_V2, Idempotency_Key="race").json)
        client.close()

    threads = [threading.Thread(target=produce) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(30)
    assert answers == [answers[0]] * 8
    assert len(read_all(real, topic, 0)) == 5


def test_a_producers_sequence_is_kept(real: Client, cluster: str, topic: str) -> None:
    path = f"{cluster}/topics/{topic}/records"

    def send(sequence: int, epoch: int = 0) -> Any:
        value = {"type": "STRING", "data": str(sequence)}
        fields = {"producer_id": 7, "producer_epoch": epoch, "sequence": sequence}
        return real.post(path, {"partition_id": 0, "value": value, **fields})

    assert [send(n).json["offset"] for n in (0, 1, 2)] == [0, 1, 2]
    assert [send(n).json["offset"] for n in (1, 2)] == [1, 2]
    gap = send(9)
    assert (gap.status, gap.code) == (409, 40903)
    assert send(0, epoch=1).json["offset"] == 3
    assert send(3).code == 40903
    assert [record["value"] for record in read_all(real, topic, 0)] == ["0", "1", "2", "0"]


def test_a_compacted_topic_wants_keys(real: Client, cluster: str) -> None:
    body = {"topic_name": "table", "partitions_count": 2, "replication_factor": 1}
    config = {"name": "cleanup.policy", "value": "compact,delete"}
    assert real.post(f"{cluster}/topics", {**body, "configs": [config]}).status == 201
    records = [{"key": "", "value": "a"}, {"key": "k", "value": None}, {"value": "no key"}, {"key": None, "value": "b"}]
    for path in ("/topics/table", "/topics/table/partitions/1"):
        refused = real.post(path, {"records": records}, STRING_V2)
        assert (refused.status, refused.code) == (422, 42206)
        assert refused.message.startswith("records[2].key is missing or null, but topic 'table' is compacted")
        assert "nothing of this request was appended" in refused.message
    refused = real.post("/topics/table", {"records": [{"key": None, "value": 1}]}, JSON_V2)
    assert "records[0].key" in refused.message
    assert [end for number in (0, 1) for end in read_all(real, "table", number)] == []
    assert real.post("/topics/table/partitions/1", {"records": records[:2]}, STRING_V2).status == 200
    single = real.post(f"{cluster}/topics/table/records", {"value": {"type": "STRING", "data": "no key"}})
    assert (single.status, single.code, single.message.partition(",")[0]) == (422, 42206, "key is missing or null")
    entries = [
        {"id": "1", "value": {"type": "STRING", "data": "a"}},
        {
            "id": "2",
            "partition_id": 1,
            "key": {"type": "STRING", "data": "k"},
            "value": {"type": "STRING", "data": "b"},
        },
    ]
    batch = real.post(f"{cluster}/topics/table/records:batch", {"entries": entries})
    assert [one["id"] for one in batch.json["successes"]] == ["2"]
    assert [(one["id"], one["error_code"]) for one in batch.json["failures"]] == [("1", 42206)]
    assert [(one["key"], one["value"]) for one in read_all(real, "table", 1)] == [("", "a"), ("k", None), ("k", "b")]


def test_v3_records_and_batches(real: Client, cluster: str, topic: str) -> None:
    path = f"{cluster}/topics/{topic}/records"
    several = b"".join(
        json.dumps({"partition_id": 0, "value": {"type": "JSON", "data": {"n": n}}}).encode() for n in range(3)
    )
    reports = [json.loads(line) for line in real.post(path, several).body.splitlines()]
    assert [(report["error_code"], report["offset"]) for report in reports] == [(200, 0), (200, 1), (200, 2)]
    entries = [
        {"id": "good", "partition_id": 0, "key": {"type": "STRING", "data": "k"}},
        {"id": "bad", "partition_id": 17},
    ]
    batch = real.post(f"{path}:batch", {"entries": entries})
    assert batch.status == 207
    assert [(one["id"], one["offset"]) for one in batch.json["successes"]] == [("good", 3)]
    assert [(one["id"], one["error_code"]) for one in batch.json["failures"]] == [("bad", 40402)]
    values = [record["value"] for record in read_all(real, topic, 0)]
    assert values == ['{"n": 0}', '{"n": 1}', '{"n": 2}', None]


def test_max_records_is_reached_wherever_the_batches_end(real: Client, topic: str) -> None:
    """Few records are read with few bytes at first: large records and batch ends must not make the answer shorter."""
    expected: list[str] = []
    for size in (10, 3000, 700, 5000):
        values = [f"{len(expected) + n} ".ljust(size, "x") for n in range(3)]
        assert real.post(f"/topics/{topic}", {"records": [{"value": v, "partition": 0} for v in values]}, STRING_V2)
        expected += values
    for offset in range(12):
        for most in (1, 2, 4, 7, 12):
            path = f"/topics/{topic}/partitions/0/records?timeout=0&offset={offset}&max_records={most}"
            answer = real.get(path, STRING_V2)
            assert [record["value"] for record in answer.json] == expected[offset : offset + most]
            assert answer.headers["x-next-offset"] == str(min(12, offset + most))
            assert answer.headers["x-high-watermark"] == "12"


def test_records_larger_than_the_topic_takes(real: Client, cluster: str, topic: str) -> None:
    real.ask("PUT", f"{cluster}/topics/{topic}/configs/max.message.bytes", {"value": "2000"})
    fits = {"records": [{"value": "x" * 900, "partition": 0} for _ in range(8)]}
    assert real.post(f"/topics/{topic}", fits, STRING_V2).status == 200
    large = real.post(f"/topics/{topic}", {"records": [{"value": "x" * 3000, "partition": 0}]}, STRING_V2)
    assert (large.status, large.code) == (413, 413)
    assert "max.message.bytes" in large.message
    assert len(read_all(real, topic, 0)) == 8


def test_reading_from_anywhere(real: Client, topic: str) -> None:
    for n in range(10):
        record = {"value": str(n), "partition": 0, "timestamp": 1_000_000 + 1000 * n}
        real.post(f"/topics/{topic}", {"records": [record]}, STRING_V2)
    path = f"/topics/{topic}/partitions/0/records?timeout=0"

    def values(query: str) -> list[str]:
        answer = real.get(f"{path}&{query}", STRING_V2)
        assert answer.status == 200, answer
        return [record["value"] for record in answer.json]

    assert values("offset=7") == ["7", "8", "9"]
    assert values("offset=earliest&max_records=2") == ["0", "1"]
    assert values("offset=latest") == []
    assert values("offset=10") == []
    assert values("timestamp=1007500") == ["8", "9"]
    assert values("timestamp=0&max_records=1") == ["0"]
    assert values("timestamp=99000000") == []
    beyond = real.get(f"{path}&offset=11")
    assert (beyond.status, beyond.code) == (416, 416)
    assert real.get(path.replace("/0/", "/9/") + "&offset=0").code == 40402
    assert real.get("/topics/no-such/partitions/0/records?offset=0").code == 40401


def test_a_waiting_read_wakes_with_the_first_record(real: Client, topic: str) -> None:
    answers: list[Any] = []

    def read() -> None:
        client = Client(real.url)
        answers.append(client.get(f"/topics/{topic}/partitions/0/records?offset=0&timeout=20000", STRING_V2))
        client.close()

    waiting = threading.Thread(target=read)
    began = time.monotonic()
    waiting.start()
    time.sleep(0.2)
    real.post(f"/topics/{topic}", {"records": [{"value": "now", "partition": 0}]}, STRING_V2)
    waiting.join(20)
    assert [record["value"] for record in answers[0].json] == ["now"]
    assert time.monotonic() - began < 10


def test_records_are_deleted_below_an_offset(real: Client, topic: str) -> None:
    records = [{"value": str(n), "partition": 0} for n in range(10)]
    real.post(f"/topics/{topic}", {"records": records}, STRING_V2)
    path = f"/v1/topics/{topic}/partitions/0/delete_records"
    assert real.post(path, {"before_offset": 4}).json == {"log_start_offset": 4}
    assert real.get(f"/topics/{topic}/partitions/0/offsets").json == {"beginning_offset": 4, "end_offset": 10}
    assert [record["offset"] for record in read_all(real, topic, 0)] == [4, 5, 6, 7, 8, 9]
    gone = real.get(f"/topics/{topic}/partitions/0/records?offset=3")
    assert (gone.status, gone.code) == (416, 416)
    assert real.post(path, {"before_offset": 11}).status in (400, 416)
    assert real.post(path, {"before_offset": -1}).json == {"log_start_offset": 10}
    assert real.post(path, {"before": 1}).code == 42206


# --- the cluster ------------------------------------------------------------------------------------------


def test_the_cluster_says_how_it_is(real: Client, cluster: str, topic: str, node: Node) -> None:
    health = real.get("/v1/cluster/health_overview").json
    assert health["is_healthy"] is True
    assert (health["controller_id"], health["all_nodes"], health["nodes_down"]) == (1, [1], [])
    assert health["leaderless_partitions"] == health["under_replicated_partitions"] == []
    (one,) = real.get("/v1/brokers").json
    assert (one["id"], one["alive"], one["is_controller"]) == (1, True, True)
    assert one["http"] == node.config.http.listen
    assert real.get("/v1/brokers/1").json == one
    groups = real.get("/v1/raft").json
    assert groups[0]["group"] == 0
    for group in groups:
        assert group["leader"] == 1
        assert [(replica["node"], replica["role"]) for replica in group["replicas"]] == [(1, "leader")]
        assert group["replicas"][0]["damaged"] is None
    assert real.get("/brokers").json == {"brokers": [1]}
    assert real.get(f"{cluster}/brokers/1").json["broker_id"] == 1
    assert real.get(cluster).json["controller"]["related"].endswith("/brokers/1")
    assert real.get("/livez").status == real.get("/readyz").status == 200


def test_leadership_cannot_go_to_where_there_is_nobody(real: Client) -> None:
    assert real.ask("POST", "/v1/raft/12345/transfer_leadership").status == 404
    assert real.ask("POST", "/v1/raft/0/transfer_leadership?target=5").status == 404
    assert 400 <= real.ask("POST", "/v1/raft/0/transfer_leadership").status < 500


def test_metrics_of_a_real_node(real: Client, topic: str) -> None:
    real.post(f"/topics/{topic}", {"records": [{"value": "x", "partition": 0}]}, STRING_V2)
    text = real.get("/metrics").body.decode()
    assert f'raftbroker_partition_high_watermark{{topic="{topic}",partition="0"}} 1' in text
    assert 'raftbroker_raft_is_leader{group="0"} 1' in text
    assert "raftbroker_ready 1" in text
    resident = next(line for line in text.splitlines() if line.startswith("process_resident_memory_bytes "))
    assert 10_000_000 < float(resident.split()[1]) < 10_000_000_000


def a_message(real: Client, queue: str) -> str:
    """The id of a message in a new queue."""
    assert real.ask("PUT", f"/queues/{queue}").status == 201
    answer = real.post(f"/queues/{queue}/messages", {"messages": [{"body": "documented"}]})
    return str(answer.json["messages"][0]["id"])


def test_every_route_answers_as_it_is_documented(
    thread: LoopThread, real: Client, real_broker: Broker, cluster: str, topic: str
) -> None:
    """Each GET route, with real names in its path, answers 200 with a body of its documented type. What is pushed does
    not end; test_push.py reads it."""
    parts = {
        "consumer_group_id": "documented",
        "consumer_id": thread.run(join(real_broker, "documented", topic)),
        "queue": "documented",
        "message_id": a_message(real, "documented"),
        "cluster_id": cluster.rpartition("/")[2],
        "topic_name": topic,
        "partition_id": "0",
        "broker_id": "1",
        "config_name": "retention.ms",
        "instance": "reader",
        "webhook": "documented",
    }
    webhook = {"topic": topic, "url": "http://127.0.0.1:9/nobody", "secret": "0123456789abcdef"}
    put = real.ask("PUT", "/v1/webhooks/documented", webhook)
    assert put.status == 201, put
    made = real.post("/consumers/documented", {"name": "reader", "format": "json"}, JSON_V2)
    assert made.status == 200, made
    assigned = {"partitions": [{"topic": topic, "partition": 0}]}
    assert real.post("/consumers/documented/instances/reader/assignments", assigned, JSON_V2).status == 204
    for route in ROUTES:
        if route.method == "GET" and route.work is not Work.PUSH:
            query = "?offset=0&timeout=0" if route.path.endswith("/records") else ""
            answer = real.get(route.path.format(**parts) + query)
            assert answer.status == 200, (route.path, answer)
            if route.answer.type is not str:
                msgspec.json.decode(answer.body, type=route.answer.type)


def test_a_request_at_the_bound_of_a_real_node(thread: LoopThread, real_broker: Broker, topic: str) -> None:
    with door(thread, real_broker, body_bytes_max=200_000, records_max=100) as client:
        body = {"records": [{"value": "x" * 1000, "partition": 0}] * 100}
        assert client.post(f"/topics/{topic}", body, STRING_V2).status == 200
        assert client.post(f"/topics/{topic}", {"records": body["records"] * 2}, STRING_V2).status == 413
        assert len(read_all(client, topic, 0)) == 100
