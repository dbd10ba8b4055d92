"""Unit tests of errors: each of the broker's has its status and code, and none shows our insides. Over a stand-in."""

import logging

import pytest

from raftbroker.broker import errors
from raftbroker.http.problems import CODES
from tests.http.harness import JSON_V2, Client
from tests.http.stand_in import StandIn

RECORD = {"records": [{"value": 1}]}
V3 = "/v3/clusters/stand-in/topics/orders/records"


def concrete(root: type[errors.BrokerError]) -> set[type[errors.BrokerError]]:
    return {root}.union(*(concrete(child) for child in root.__subclasses__()))


def test_every_error_of_the_broker_is_in_the_table() -> None:
    assert concrete(errors.BrokerError) - {errors.BrokerError} == set(CODES)


@pytest.mark.parametrize("kind", sorted(CODES, key=lambda kind: kind.__name__))
def test_an_error_becomes_its_answer_everywhere(
    client: Client, broker: StandIn, kind: type[errors.BrokerError]
) -> None:
    broker.fail_with = kind("the reason", field="somewhere")
    answers = [
        client.get("/topics/orders"),
        client.get("/topics/orders/partitions/0/records?offset=0"),
        client.get("/v3/clusters/stand-in/topics"),
        client.post("/v3/clusters/stand-in/topics", {"topic_name": "t"}),
        client.post("/topics/orders", RECORD, JSON_V2),
        client.post(V3, {"partition_id": 0}),
        client.get("/v1/cluster/health_overview"),
    ]
    for answer in answers:
        assert answer.code == CODES[kind]
        assert str(answer.code).startswith(str(answer.status))
        assert ("retry-after" in answer.headers) == (answer.status in (429, 503, 507))
        assert ("the reason" in answer.message) == (kind is not errors.Internal)
        assert answer.headers["x-request-id"]


def test_an_unknown_outcome_says_what_makes_it_safe(client: Client, broker: StandIn) -> None:
    broker.fail_with = errors.UnknownOutcome("the leader was lost")
    answer = client.post("/topics/orders", RECORD, JSON_V2)
    assert (answer.status, answer.code) == (500, 50003)
    assert "unknown" in answer.message
    assert "Idempotency-Key" in answer.message


def test_throttling_says_when_to_come_again(client: Client, broker: StandIn) -> None:
    broker.fail_with = errors.Throttled("too much", retry_after_ms=3200)
    answer = client.post("/topics/orders", RECORD, JSON_V2)
    assert (answer.status, answer.headers["retry-after"]) == (429, "4")


def test_what_nobody_foresaw_is_logged_once_and_says_nothing(
    client: Client, broker: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    broker.fail_with = ZeroDivisionError("a secret inside")
    with caplog.at_level(logging.ERROR, logger="raftbroker.http"):
        answer = client.ask("GET", "/topics", headers={"X-Request-Id": "find-me"})
    assert (answer.status, answer.code) == (500, 50002)
    assert "secret" not in answer.message
    assert "find-me" in answer.message
    (record,) = [record for record in caplog.records if record.name.startswith("raftbroker.http")]
    assert "find-me" in record.getMessage()
    assert record.exc_info is not None


def test_some_of_a_request_may_fail_alone(client: Client, broker: StandIn) -> None:
    original = broker.produce

    async def produce(topic: str, partition: int, batch: bytes, **rest: object) -> object:
        if partition == 1:
            raise errors.Unavailable("partition 1 has no leader")
        return await original(topic, partition, batch)

    broker.produce = produce  # type: ignore[assignment,method-assign]
    records = [{"value": n, "partition": n % 3} for n in range(6)]
    answer = client.post("/topics/orders", {"records": records}, JSON_V2)
    assert answer.status == 200
    assert [report["error_code"] for report in answer.json["offsets"]] == [None, 50302, None] * 2
    assert [report["offset"] for report in answer.json["offsets"]] == [0, None, 0, 1, None, 1]
    assert "no leader" in answer.json["offsets"][1]["error"]
    only = client.post("/topics/orders", {"records": [{"value": 1, "partition": 1}]}, JSON_V2)
    assert (only.status, only.code) == (503, 50302)


@pytest.mark.parametrize(
    ("method", "path", "status", "says"),
    [
        ("GET", "/nothing/here", 404, "/openapi.json"),
        ("GET", "/", 404, "/openapi.json"),
        ("PATCH", "/topics", 405, "GET"),
        ("DELETE", "/v3/clusters", 405, "GET"),
        ("GET", "/v3/clusters/other/topics", 404, "cluster"),
        ("GET", "/v3/clusters/stand-in/acls", 501, "yet"),
        ("GET", "/v3/clusters/stand-in/topics/orders/partitions/9", 404, "9"),
        ("GET", "/v3/clusters/stand-in/topics/orders/partitions/0/replicas/9", 404, "9"),
        ("GET", "/v3/clusters/stand-in/brokers/x", 404, "broker_id"),
        ("GET", "/v1/brokers/5", 404, "5"),
        ("POST", "/v1/raft/x/transfer_leadership", 404, "group"),
        ("POST", "/v1/raft/1/transfer_leadership?target=x", 400, "target"),
        ("GET", "/v3/clusters/stand-in/topics/orders/configs/no.such", 404, "no.such"),
    ],
)
def test_wrong_addresses_answer_in_the_same_form(
    client: Client, method: str, path: str, status: int, says: str
) -> None:
    answer = client.ask(method, path)
    assert answer.status == status
    assert str(answer.code).startswith(str(status))
    assert says in answer.message
    assert ("allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("topics", b"{", 42203),
        ("topics", b"[]", 42206),
        ("topics", b'{"topic_name":5}', 42206),
        ("topics", b'{"topic_name":"t","partition_count":5}', 42206),
        ("topics", b'{"topic_name":"t","configs":[{"name":"a","value":"1"},{"name":"a","value":"2"}]}', 40001),
        ("topics/orders/configs:alter", b'{"data":[{"name":"retention.ms"}]}', 40001),
        ("topics/orders/configs:alter", b'{"data":[{"name":"a","operation":"APPEND"}]}', 42206),
    ],
)
def test_bad_administration_bodies(client: Client, path: str, body: bytes, code: int) -> None:
    assert client.post(f"/v3/clusters/stand-in/{path}", body).code == code


def test_not_acceptable(client: Client) -> None:
    assert client.get("/v3/clusters", "application/xml").code == 40601
    assert client.get("/v3/clusters", "application/xml;q=0.9, */*;q=0.1").status == 200
    assert client.get("/topics", "application/json").headers["content-type"] == "application/json"
    assert client.get("/topics").headers["content-type"] == "application/vnd.kafka.v2+json"
