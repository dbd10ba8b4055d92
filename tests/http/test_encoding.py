"""Unit tests of encoding: what a request becomes when it reaches the broker, and how answers look. Over a stand-in."""

import base64
import json
from typing import Any

import pytest

from raftbroker.state.batch import Record, RecordDraft, decode_batch, encode_batch, parse_header, place_batch
from raftbroker.state.murmur2 import partition_for_key
from tests.http.harness import BINARY_V2, JSON_V2, STRING_V2, Client
from tests.http.stand_in import StandIn


def stored(broker: StandIn, topic: str, partition: int) -> list[Record]:
    return [record for batch in broker.logs.get((topic, partition), []) for record in decode_batch(batch)]


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


# --- v2 produce -------------------------------------------------------------------------------------------


def test_json_values_are_stored_as_they_were_sent(client: Client, broker: StandIn) -> None:
    body = b'{"records":[{"value": {"a" :  1.10, "b":"\\u00e9"} },{"value":null},{"value":"x"},{"key":7,"value":[]}]}'
    answer = client.post("/topics/one", body, JSON_V2)
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/vnd.kafka.v2+json"
    assert answer.json == {
        "offsets": [{"partition": 0, "offset": n, "error_code": None, "error": None} for n in range(4)],
        "key_schema_id": None,
        "value_schema_id": None,
    }
    records = stored(broker, "one", 0)
    assert [record.value for record in records] == [b'{"a" :  1.10, "b":"\\u00e9"}', None, b'"x"', b"[]"]
    assert [record.key for record in records] == [None, None, None, b"7"]


def test_json_keys_meet_whatever_their_whitespace(client: Client, broker: StandIn) -> None:
    for key in (b'{"a":1,"b":[1,2]}', b'{ "a": 1,\n "b": [1, 2] }'):
        client.post("/topics/orders", b'{"records":[{"key":' + key + b',"value":1}]}', JSON_V2)
    number = partition_for_key(b'{"a":1,"b":[1,2]}', 3)
    assert [record.key for record in stored(broker, "orders", number)] == [b'{"a":1,"b":[1,2]}'] * 2


def test_binary_and_string_formats(client: Client, broker: StandIn) -> None:
    header = {"name": "trace", "value": encoded(b"\x00\xff")}
    record = {"key": encoded(b"\x00k"), "value": encoded(b"\xff\xfe"), "headers": [header], "timestamp": 1234}
    assert client.post("/topics/one", {"records": [record]}, BINARY_V2).status == 200
    assert client.post("/topics/one", {"records": [{"key": "schlüssel", "value": "wert"}]}, STRING_V2).status == 200
    first, second = stored(broker, "one", 0)
    assert (first.key, first.value, first.headers, first.timestamp) == (
        b"\x00k",
        b"\xff\xfe",
        (("trace", b"\x00\xff"),),
        1234,
    )
    assert (second.key, second.value) == ("schlüssel".encode(), b"wert")
    assert second.timestamp > 1_700_000_000_000


def test_records_go_to_the_partition_they_name_or_that_of_their_key(client: Client, broker: StandIn) -> None:
    records: list[dict[str, Any]] = [{"key": f"k{n}", "value": str(n)} for n in range(30)]
    records.append({"value": "here", "partition": 2})
    answer = client.post("/topics/orders", {"records": records}, STRING_V2)
    for record, report in zip(records, answer.json["offsets"], strict=True):
        expected = record.get("partition", partition_for_key(record.get("key", "").encode(), 3))
        assert report["partition"] == expected
        found = stored(broker, "orders", expected)[report["offset"]]
        assert found.value == record["value"].encode()
    assert len(broker.produced) == 3


def test_records_without_a_key_stay_together_and_move_on(client: Client, broker: StandIn) -> None:
    body = {"records": [{"value": str(n)} for n in range(20)]}
    used = [client.post("/topics/orders", body, STRING_V2).json["offsets"][0]["partition"] for _ in range(3)]
    assert sorted(used) == [0, 1, 2]
    assert len(broker.produced) == 3


def test_an_idempotency_key_places_records_and_gives_the_same_offsets(client: Client, broker: StandIn) -> None:
    body = {"records": [{"value": str(n)} for n in range(12)]}
    first = client.post("/topics/orders", body, STRING_V2, Idempotency_Key="again")
    second = client.post("/topics/orders", body, STRING_V2, Idempotency_Key="again")
    assert first.json == second.json
    assert len({report["partition"] for report in first.json["offsets"]}) == 3
    keys = {idempotency.key for _, _, _, idempotency in broker.produced if idempotency is not None}
    prints = {idempotency.fingerprint for _, _, _, idempotency in broker.produced if idempotency is not None}
    assert len(keys) == 3
    assert len(prints) == 1
    client.post("/topics/orders", {"records": [{"value": "other"}]}, STRING_V2, Idempotency_Key="again")
    last = broker.produced[-1][3]
    assert last is not None
    assert last.fingerprint not in prints


def test_a_large_request_is_cut_into_batches_in_order(client: Client, broker: StandIn) -> None:
    body = {"records": [{"value": f"{n:04}" + "x" * 100_000} for n in range(25)]}
    answer = client.post("/topics/one", body, STRING_V2, Idempotency_Key="large")
    assert [report["offset"] for report in answer.json["offsets"]] == list(range(25))
    assert all(len(batch) <= 1 << 20 for _, _, batch, _ in broker.produced)
    assert len({idempotency.key for _, _, _, idempotency in broker.produced if idempotency is not None}) == 3
    assert [(record.value or b"")[:4] for record in stored(broker, "one", 0)] == [b"%04d" % n for n in range(25)]


@pytest.mark.parametrize(
    ("body", "type_", "status", "code", "says"),
    [
        (b"{", JSON_V2, 422, 42203, "JSON"),
        (b'{"records":[]}', JSON_V2, 422, 42206, "records"),
        (b'{"records":[{"valu":1}]}', JSON_V2, 422, 42206, "$.records[0]"),
        (b'{"records":[{"value":1,"partition":"0"}]}', JSON_V2, 422, 42206, "$.records[0].partition"),
        (b'{"records":[{"value":"%%%"}]}', BINARY_V2, 422, 42206, "$.records[0].value"),
        (b'{"records":[{"value":"\xff"}]}', JSON_V2, 422, 42203, "UTF-8"),
        (b'{"records":[{"value":' + b"[" * 5000, JSON_V2, 422, 42203, "deep"),
        (b'{"records":[{"value":1,"timestamp":-5}]}', JSON_V2, 422, 42206, "records[0].timestamp"),
        (b'{"records":[{"value":1,"partition":9}]}', JSON_V2, 404, 40402, "records[0].partition"),
        (b'{"records":[{"value":1,"partition":-1}]}', JSON_V2, 404, 40402, "records[0].partition"),
        (b'{"records":[{"value":1}]}', "application/json", 415, 415, "application/vnd.kafka.json.v2+json"),
        (b'{"records":[{"value":1}]}', JSON_V2 + "; charset=latin-1", 415, 415, "Content-Type"),
    ],
)
def test_bad_requests_name_what_is_wrong(
    client: Client, broker: StandIn, body: bytes, type_: str, status: int, code: int, says: str
) -> None:
    answer = client.post("/topics/orders", body, type_)
    assert (answer.status, answer.code) == (status, code)
    assert says in answer.message
    assert broker.produced == []


def test_a_partition_in_the_address_is_for_every_record(client: Client, broker: StandIn) -> None:
    path = "/topics/orders/partitions/1"
    answer = client.post(path, {"records": [{"value": 1}, {"value": 2, "partition": 1}]}, JSON_V2)
    assert [report["partition"] for report in answer.json["offsets"]] == [1, 1]
    assert client.post(path, {"records": [{"value": 1, "partition": 2}]}, JSON_V2).code == 42206
    assert client.post("/topics/orders/partitions/7", {"records": [{"value": 1}]}, JSON_V2).code == 40402
    assert client.post("/topics/orders/partitions/x", {"records": [{"value": 1}]}, JSON_V2).code == 40402
    assert client.post("/topics/none", {"records": [{"value": 1}]}, JSON_V2).code == 40401


@pytest.mark.parametrize("key", ["", "two words", "ü", "x" * 256])
def test_an_idempotency_key_is_checked(client: Client, key: str) -> None:
    answer = client.ask("POST", "/topics/one", {"records": [{"value": 1}]}, {"Idempotency-Key": key}, JSON_V2)
    assert answer.code == 40002
    assert "Idempotency-Key" in answer.message


# --- v3 produce -------------------------------------------------------------------------------------------

RECORDS = "/v3/clusters/stand-in/topics/orders/records"


def test_one_v3_record(client: Client, broker: StandIn) -> None:
    record = {
        "partition_id": 1,
        "headers": [{"name": "h", "value": encoded(b"\x01")}],
        "key": {"type": "BINARY", "data": encoded(b"\x00k")},
        "value": {"type": "JSON", "data": {"a": [1, "ü"]}},
        "timestamp": "2021-02-05T19:14:42.123+01:00",
    }
    answer = client.post(RECORDS, record)
    assert answer.status == 200
    assert answer.json == {
        "error_code": 200,
        "cluster_id": "stand-in",
        "topic_name": "orders",
        "partition_id": 1,
        "offset": 0,
        "timestamp": "2021-02-05T18:14:42.123000Z",
        "key": {"type": "BINARY", "size": 2},
        "value": {"type": "JSON", "size": len(json.dumps({"a": [1, "ü"]}))},
    }
    (found,) = stored(broker, "orders", 1)
    assert found.key == b"\x00k"
    assert json.loads(found.value or b"") == {"a": [1, "ü"]}
    assert found.headers == (("h", b"\x01"),)
    assert found.timestamp == 1612548882123


def test_several_v3_records_each_have_a_report(client: Client, broker: StandIn) -> None:
    lines = [
        b'{"partition_id":0,"value":{"type":"STRING","data":"a"}}',
        b'{"partition_id":0,"value":{"type":"STRING","data":5}}',
        b'{"partition_id":8,"value":{"type":"STRING","data":"b"}}{"partition_id":0}',
        b'\n{"partition_id":0,"value":{"type":"BINARY","data":"%"}}',
        b'{"partition_id":0,"value":{"type":"AVRO","data":1}} 77',
    ]
    answer = client.post(RECORDS, b"\n".join(lines))
    reports = [json.loads(line) for line in answer.body.splitlines()]
    codes = [report["error_code"] for report in reports]
    assert codes == [200, 42206, 40402, 200, 42206, 42206, 42203]
    assert "value.data" in reports[1]["message"]
    assert "$.value.type" in reports[5]["message"]
    assert [record.value for record in stored(broker, "orders", 0)] == [b"a", None]


def test_a_single_v3_record_that_fails_is_the_answer(client: Client) -> None:
    assert client.post(RECORDS, b"").code == 42206
    assert client.post(RECORDS, b"[]").code == 42203
    assert client.post(RECORDS, b'{"value":').code == 42203
    assert client.post(RECORDS, {"partition_id": 44}).status == 404
    assert client.post(RECORDS, {}, "text/plain").status == 415
    assert client.post(RECORDS.replace("orders", "none"), {}).code == 40401
    assert client.post(RECORDS.replace("stand-in", "other"), {}).status == 404
    assert client.post(RECORDS, {"producer_id": 1}).code == 42206
    assert client.post(RECORDS, {"timestamp": "2021-02-05T19:14:42"}).code == 42206
    assert client.post(RECORDS, {"timestamp": 10**17}).code == 42206


def test_producer_fields_are_passed_on(client: Client, broker: StandIn) -> None:
    record = {"partition_id": 0, "producer_id": 7, "producer_epoch": 2, "sequence": 41}
    assert client.post(RECORDS, record).status == 200
    header = parse_header(broker.produced[0][2])
    assert (header.producer_id, header.producer_epoch, header.base_sequence) == (7, 2, 41)


def test_a_v3_batch_matches_reports_by_id(client: Client, broker: StandIn) -> None:
    value = {"type": "STRING", "data": "v"}
    entries = [
        {"id": "a", "partition_id": 0, "value": value},
        {"id": "b", "partition_id": 5, "value": value},
        {"id": "c", "partition_id": 0, "nonsense": 1},
        {"id": "d", "partition_id": 0, "value": value},
    ]
    answer = client.post(RECORDS + ":batch", {"entries": entries})
    assert answer.status == 207
    assert [(one["id"], one["offset"]) for one in answer.json["successes"]] == [("a", 0), ("d", 1)]
    assert [(one["id"], one["error_code"]) for one in answer.json["failures"]] == [("b", 40402), ("c", 42206)]
    assert "entries[2]" in answer.json["failures"][1]["message"]
    for bad in ([], [{"value": value}], [{"id": "a"}, {"id": "a"}], [5]):
        assert client.post(RECORDS + ":batch", {"entries": bad}).status in (400, 422)


# --- direct reads -----------------------------------------------------------------------------------------

READ = "/topics/orders/partitions/0/records?timeout=0&offset="


def fill(broker: StandIn, *drafts: RecordDraft) -> None:
    log = broker.logs.setdefault(("orders", 0), [])
    end = parse_header(log[-1]).next_offset if log else 0
    log.append(place_batch(encode_batch(drafts, base_timestamp=1000), end, 1))


def test_records_are_read_in_the_format_that_is_asked_for(client: Client, broker: StandIn) -> None:
    fill(broker, RecordDraft(b'"k"', b'{"a": 1}', (("h", b"\x00"), ("none", None))), RecordDraft(None, None))
    headers = [{"name": "h", "value": "AA=="}, {"name": "none", "value": None}]
    common = {"topic": "orders", "partition": 0, "timestamp": 1000}
    last = {**common, "offset": 1, "key": None, "value": None, "headers": []}
    for accept, key, value in (
        (None, "k", {"a": 1}),
        (JSON_V2, "k", {"a": 1}),
        ("application/json", "k", {"a": 1}),
        (BINARY_V2, encoded(b'"k"'), encoded(b'{"a": 1}')),
        (f"{STRING_V2}, {JSON_V2};q=0.5", '"k"', '{"a": 1}'),
    ):
        answer = client.get(READ + "0", accept)
        assert answer.json == [{**common, "offset": 0, "key": key, "value": value, "headers": headers}, last]
        assert answer.headers["x-next-offset"] == "2"
    assert client.get(READ + "0", "text/html").code == 40601


def test_a_record_that_cannot_be_shown_ends_the_list_and_is_named(client: Client, broker: StandIn) -> None:
    bad = (b"not json", b'"\xff"', b"1 2", b"[" * 5000)
    fill(broker, RecordDraft(None, b"1"), *(RecordDraft(None, value) for value in bad), RecordDraft(None, b"2"))
    first = client.get(READ + "0")
    assert [record["offset"] for record in first.json] == [0]
    assert first.headers["x-next-offset"] == "1"
    for offset in range(1, 5):
        answer = client.get(f"{READ}{offset}")
        assert answer.code == 42207
        assert f"offset {offset}" in answer.message
        assert f"offset {offset + 1}" in answer.message
    assert [record["offset"] for record in client.get(READ + "5").json] == [5]
    assert len(client.get(READ + "0", BINARY_V2).json) == 6


def test_an_answer_is_bounded_and_says_where_to_go_on(client: Client, broker: StandIn) -> None:
    for _ in range(3):
        fill(broker, *(RecordDraft(None, b'"' + b"x" * 1000 + b'"') for _ in range(10)))
    seen: list[int] = []
    offset = 5
    while len(seen) < 25:
        answer = client.get(f"{READ}{offset}&max_bytes=5000")
        assert len(answer.body) <= 5000
        seen += [record["offset"] for record in answer.json]
        offset = int(answer.headers["x-next-offset"])
    assert seen == list(range(5, 30))
    assert len(client.get(READ + "0&max_records=7").json) == 7
    assert len(client.get(READ + "0&max_bytes=1").json) == 1


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("", "offset"),
        ("offset=x", "offset"),
        ("offset=-1", "offset"),
        ("offset=99999999999999999999", "offset"),
        ("offset=0&timestamp=5", "timestamp"),
        ("offset=0&timeout=soon", "timeout"),
        ("offset=0&timeout=999999999", "timeout"),
        ("offset=0&max_bytes=0", "max_bytes"),
        ("timestamp=later", "timestamp"),
    ],
)
def test_bad_read_parameters_are_named(client: Client, query: str, says: str) -> None:
    answer = client.get(f"/topics/orders/partitions/0/records?{query}")
    assert answer.code == 40002
    assert says in answer.message
