"""Webhooks over HTTP, on a real node, with a real receiver: routes, refusals, what arrives and in what order."""

import itertools
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from raftbroker.broker.broker import Broker
from tests.http.harness import Answer, Client, LoopThread
from tests.http.test_isolation import Composed
from tests.unit.broker.nodes import until
from tests.unit.broker.producers import TxnProducer

SECRET = "b7e1c4d09a5f4e2c8d3b6a1f"
_names = itertools.count(1)


class Receiver:
    """Keeps what it is sent; `answers` gives the status for each request."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.taken: list[dict[str, Any]] = []
        """Bodies that were answered with 200."""
        self.answers: Callable[[int, dict[str, Any]], int] = lambda number, body: 200
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                decoded = json.loads(body)
                with outer.lock:
                    outer.requests.append((dict(self.headers), body))
                    status = outer.answers(len(outer.requests), decoded)
                    if status == 200:
                        outer.taken.append(decoded)
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_request(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def offsets(self, partition: int = 0) -> list[int]:
        return [r["offset"] for body in self.taken if body["partition"] == partition for r in body["records"]]

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def wait(condition: Callable[[], Any], seconds: float = 15.0) -> Any:
    ends = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < ends, "it did not come about in time"
        time.sleep(0.02)
    return found


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    there = Receiver()
    yield there
    there.stop()


@pytest.fixture(autouse=True)
def _coordinated(thread: LoopThread, real_broker: Broker) -> None:
    thread.run(until(lambda: len(real_broker.shards.led()) == 4))


@pytest.fixture
def hook(real: Client) -> Iterator[str]:
    """The path of a webhook that is not there yet; deleted behind the test."""
    path = f"/v1/webhooks/hook-{next(_names)}"
    yield path
    real.ask("DELETE", path)


def put(client: Client, hook: str, **fields: Any) -> Answer:
    return client.ask("PUT", hook, fields)


def produce(client: Client, topic: str, *records: dict[str, Any], partition: int = 0) -> None:
    media = "application/vnd.kafka.json.v2+json"
    answer = client.ask("POST", f"/topics/{topic}/partitions/{partition}", {"records": list(records)}, {}, media)
    assert answer.status == 200, answer


def values(*found: Any) -> list[dict[str, Any]]:
    return [{"value": value} for value in found]


def test_records_arrive_signed_and_in_order(real: Client, topic: str, hook: str, receiver: Receiver) -> None:
    produce(real, topic, {"key": "k", "value": {"n": 1}}, *values(2, "three"))
    made = put(real, hook, topic=topic, url=receiver.url, secret=SECRET)
    assert made.status == 201, made
    wait(lambda: receiver.offsets() == [0, 1, 2])
    produce(real, topic, *values(*range(3, 50)))
    wait(lambda: receiver.offsets() == list(range(50)))
    first = receiver.taken[0]
    assert (first["webhook"], first["topic"], first["partition"]) == (hook.rpartition("/")[2], topic, 0)
    record = first["records"][0]
    assert record == {"offset": 0, "timestamp": record["timestamp"], "key": '"k"', "value": {"n": 1}, "headers": []}
    for headers, body in receiver.requests:
        assert verify_as_documented(SECRET, headers, body)
        assert headers["X-Raftbroker-Webhook"] == hook.rpartition("/")[2]
        assert headers["X-Raftbroker-Attempt"] == "1"
    shown = wait(lambda: (found := real.get(hook).json)["lag"] == 0 and found)
    assert shown["state"] == "running"
    fares = shown["deliveries"][0]
    assert (fares["partition"], fares["node"], fares["committed"], fares["delivered"]) == (0, 1, 50, 50)


def verify_as_documented(secret: str, headers: dict[str, str], body: bytes) -> bool:
    """The snippet of docs/webhooks.md, as it stands there."""
    text = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text()
    found = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert found is not None
    names: dict[str, Any] = {}
    exec(found.group(1), names)
    good = bool(names["verify"](secret, headers, body))
    assert not names["verify"](secret + "x", headers, body)
    assert not names["verify"](secret, headers, body + b" ")
    old = headers | {"X-Raftbroker-Timestamp": str(int(headers["X-Raftbroker-Timestamp"]) - 3600)}
    assert not names["verify"](secret, old, body)
    return good


def test_whatever_a_record_holds_can_be_shown(real: Client, topic: str, hook: str, receiver: Receiver) -> None:
    media = "application/vnd.kafka.binary.v2+json"
    body = {"records": [{"value": "/w=="}, {"key": "/w==", "value": "eyJh"}, {"value": None}]}
    assert real.ask("POST", f"/topics/{topic}/partitions/0", body, {}, media).status == 200
    assert put(real, hook, topic=topic, url=receiver.url, secret=SECRET).status == 201
    wait(lambda: receiver.offsets() == [0, 1, 2])
    shown = [{k: v for k, v in r.items() if k != "timestamp"} for b in receiver.taken for r in b["records"]]
    assert shown == [
        {"offset": 0, "key": None, "value_base64": "/w==", "headers": []},
        {"offset": 1, "key_base64": "/w==", "value_base64": "eyJh", "headers": []},
        {"offset": 2, "key": None, "value": None, "headers": []},
    ]


def test_a_batch_is_tried_again_until_it_is_taken(real: Client, topic: str, hook: str, receiver: Receiver) -> None:
    receiver.answers = lambda number, body: 503 if number <= 3 else 200
    made = put(real, hook, topic=topic, url=receiver.url, secret=SECRET, backoff_ms=10, backoff_ms_max=50, batch_size=4)
    assert made.status == 201
    produce(real, topic, *values(*range(10)))
    wait(lambda: receiver.offsets() == list(range(10)))
    tries = [(h["X-Raftbroker-Delivery"], h["X-Raftbroker-Attempt"]) for h, _ in receiver.requests[:4]]
    assert len({delivery for delivery, _ in tries}) == 1, "the same batch each time"
    assert [attempt for _, attempt in tries] == ["1", "2", "3", "4"]
    shown = wait(lambda: (found := real.get(hook).json)["lag"] == 0 and found)
    assert shown["last_error"] == "the receiver answered 503"
    assert shown["state"] == "running"


def test_what_is_not_taken_is_shown_as_lag(real: Client, topic: str, hook: str, receiver: Receiver) -> None:
    receiver.answers = lambda number, body: 500
    assert put(real, hook, topic=topic, url=receiver.url, secret=SECRET, backoff_ms=10).status == 201
    produce(real, topic, *values(1, 2, 3))
    shown = wait(lambda: (found := real.get(hook).json)["state"] == "failing" and found["lag"] == 3 and found)
    assert shown["last_error"] == "the receiver answered 500"
    assert shown["last_error_at"] > 0
    group = shown["consumer_group"]
    metrics = real.get("/metrics").body.decode()
    assert f'raftbroker_consumer_group_lag{{group="{group}",topic="{topic}",partition="0"}} 3' in metrics
    name = hook.rpartition("/")[2]
    failures = re.search(rf'raftbroker_webhook_failures{{webhook="{name}",partition="0"}} (\d+)', metrics)
    assert failures is not None
    assert int(failures[1]) > 0
    listed = next(one for one in real.get("/v1/webhooks").json["webhooks"] if one["name"] == shown["name"])
    assert listed["lag"] == 3
    receiver.answers = lambda number, body: 200
    wait(lambda: receiver.offsets() == [0, 1, 2])


def test_after_its_attempts_a_batch_goes_to_the_dead_letter_queue(
    real: Client, topic: str, hook: str, receiver: Receiver
) -> None:
    receiver.answers = lambda number, body: 422 if any(r["value"] == "bad" for r in body["records"]) else 200
    made = put(
        real,
        hook,
        topic=topic,
        url=receiver.url,
        secret=SECRET,
        batch_size=1,
        attempts=3,
        backoff_ms=10,
        dead_letter_queue=f"{topic}-dead",
    )
    assert made.status == 201, made
    produce(real, topic, *values("good", "bad", "fine"))
    wait(lambda: receiver.offsets() == [0, 2])
    assert len(receiver.requests) == 5
    found = real.post(f"/queues/{topic}-dead/receive", {"max_messages": 10}).json["messages"]
    assert [message["body"]["records"][0]["value"] for message in found] == ["bad"]
    assert found[0]["headers"] == {
        "webhook": hook.rpartition("/")[2],
        "topic": topic,
        "partition": "0",
        "offset": "1",
        "attempts": "3",
        "error": "the receiver answered 422",
    }
    assert wait(lambda: real.get(hook).json["lag"] == 0)
    assert real.get(hook).json["deliveries"][0]["dead"] == 1


def test_with_concurrency_each_key_stays_in_order(real: Client, topic: str, hook: str, receiver: Receiver) -> None:
    receiver.answers = lambda number, body: 503 if number % 4 == 0 else 200
    fields = {"batch_size": 2, "concurrency": 4, "backoff_ms": 10, "backoff_ms_max": 20}
    assert put(real, hook, topic=topic, url=receiver.url, secret=SECRET, paused=True, **fields).status == 201
    produce(real, topic, *({"key": f"k{n % 7}", "value": n} for n in range(70)))
    assert real.ask("POST", f"{hook}/resume").status == 200
    wait(lambda: sorted(receiver.offsets()) == list(range(70)))
    by_key: dict[str, list[int]] = {}
    for body in receiver.taken:
        for record in body["records"]:
            by_key.setdefault(record["key"], []).append(record["offset"])
    assert len(by_key) == 7
    assert all(offsets == sorted(offsets) for offsets in by_key.values())


def test_pause_and_resume(real: Client, topic: str, hook: str, receiver: Receiver) -> None:
    assert put(real, hook, topic=topic, url=receiver.url, secret=SECRET).status == 201
    produce(real, topic, *values(0))
    wait(lambda: receiver.offsets() == [0])
    assert wait(lambda: real.get(hook).json["lag"] == 0)
    assert real.ask("POST", f"{hook}/pause").json["state"] == "paused"
    produce(real, topic, *values(1, 2))
    time.sleep(0.3)
    assert receiver.offsets() == [0]
    assert real.get(hook).json["lag"] == 2
    assert real.ask("POST", f"{hook}/resume").json["paused"] is False
    wait(lambda: receiver.offsets() == [0, 1, 2])


def test_a_paused_webhook_can_be_put_somewhere_else(real: Client, topic: str, hook: str, receiver: Receiver) -> None:
    assert put(real, hook, topic=topic, url=receiver.url, secret=SECRET).status == 201
    produce(real, topic, *values(0, 1, 2))
    wait(lambda: receiver.offsets() == [0, 1, 2])
    assert wait(lambda: real.get(hook).json["lag"] == 0)
    group = real.ask("POST", f"{hook}/pause").json["consumer_group"]
    place = {"topic_name": topic, "partition_id": 0}
    moved = real.post(f"/v1/groups/{group}/reset-offsets", {"to": "offset", "value": 1, "partitions": [place]})
    assert moved.status == 200, moved
    real.ask("POST", f"{hook}/resume")
    wait(lambda: receiver.offsets() == [0, 1, 2, 1, 2])


def test_latest_begins_at_the_end_and_another_one_of_the_name_at_its_own(
    real: Client, topic: str, hook: str, receiver: Receiver
) -> None:
    produce(real, topic, *values(0, 1, 2))
    fields = {"topic": topic, "url": receiver.url, "secret": SECRET}
    assert put(real, hook, start="latest", **fields).status == 201
    produce(real, topic, *values(3, 4))
    wait(lambda: receiver.offsets() == [3, 4])
    assert put(real, hook, start="earliest", **fields).status == 200, "it is there: start counts for new ones"
    assert real.ask("DELETE", hook).status == 204
    assert real.get(hook).code == 40408
    receiver.taken.clear()
    assert put(real, hook, **fields).status == 201
    wait(lambda: receiver.offsets() == [0, 1, 2, 3, 4])


def test_what_was_deleted_before_it_was_sent_is_skipped(
    real: Client, topic: str, hook: str, receiver: Receiver
) -> None:
    produce(real, topic, *values(*range(6)))
    assert put(real, hook, topic=topic, url=receiver.url, secret=SECRET, paused=True).status == 201
    answer = real.post(f"/v1/topics/{topic}/partitions/0/delete_records", {"before_offset": 4})
    assert answer.status == 200, answer
    real.ask("POST", f"{hook}/resume")
    wait(lambda: receiver.offsets() == [4, 5])


def test_only_committed_records_are_sent(
    real: Client, thread: LoopThread, real_broker: Broker, topic: str, hook: str, receiver: Receiver
) -> None:
    producer = TxnProducer([Composed(real_broker)], f"of {topic}")

    async def transact(*sent: bytes) -> None:
        await producer.add((topic, 0))
        for value in sent:
            await producer.send(topic, 0, value)

    async def prepare() -> None:
        await producer.init()
        await transact(b"0")  # 0, and its marker at 1
        await producer.end(commit=True)
        await transact(b"1", b"2")  # 2, 3, and 4
        await producer.end(commit=False)
        await transact(b"5")  # 5, open

    thread.run(prepare())
    assert put(real, hook, topic=topic, url=receiver.url, secret=SECRET).status == 201
    wait(lambda: receiver.offsets() == [0])
    thread.run(producer.end(commit=True))
    wait(lambda: receiver.offsets() == [0, 5])
    thread.run(transact(b"7"))
    thread.run(producer.end(commit=False))
    wait(lambda: real.get(hook).json["lag"] == 0)
    assert receiver.offsets() == [0, 5]


def test_a_queues_messages_are_delivered_given_back_and_given_up(real: Client, hook: str, receiver: Receiver) -> None:
    queue = f"hooked-{next(_names)}"
    assert real.ask("PUT", f"/queues/{queue}", {"dead.letter.queue": f"{queue}-dead"}).status == 201
    receiver.answers = lambda number, body: 500 if any(m.get("body") == "bad" for m in body["messages"]) else 200
    made = put(
        real, hook, queue=queue, url=receiver.url, secret=SECRET, batch_size=1, attempts=2, backoff_ms=10, concurrency=2
    )
    assert made.status == 201, made
    sent = {"messages": [{"body": "good"}, {"body": "bad"}, {"body_base64": "/w=="}]}
    assert real.post(f"/queues/{queue}/messages", sent).status == 200
    wait(lambda: len(receiver.taken) == 2)
    got = [message for body in receiver.taken for message in body["messages"]]
    assert sorted(json.dumps(m.get("body", m.get("body_base64"))) for m in got) == ['"/w=="', '"good"']
    dead = wait(lambda: real.post(f"/queues/{queue}-dead/receive", {"max_messages": 5}).json["messages"])
    assert dead[0]["body"] == "bad"
    assert "the receiver answered 500" in dead[0]["dead_letter"]["reason"]
    shown = wait(lambda: (found := real.get(hook).json)["lag"] == 0 and found)
    assert (shown["queue"], shown["topic"], shown["deliveries"][0]["partition"]) == (queue, None, None)


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("topic", {"topic": None}),
        ("queue", {"topic": "", "queue": "never-made", "url": "https://example.invalid/"}),
        ("url", {"url": "ftp://example.com/"}),
        ("url", {"url": "http://10.0.0.1/"}),
        ("url", {"url": "http://169.254.169.254/latest/meta-data"}),
        ("url", {"url": "http://[::1]:8082/"}),
        ("secret", {"secret": "short"}),
        ("batch_size", {"batch_size": 0}),
        ("concurrency", {"concurrency": 17}),
        ("timeout_ms", {"timeout_ms": 1}),
        ("start", {"start": "middle"}),
        ("dead_letter_queue", {"dead_letter_queue": "no/name"}),
        ("colour", {"colour": "red"}),
    ],
)
def test_refusals_name_the_field(real: Client, topic: str, hook: str, field: str, fields: dict[str, Any]) -> None:
    given = {"topic": topic, "url": "https://93.184.216.34/", "secret": SECRET} | fields
    answer = put(real, hook, **{name: value for name, value in given.items() if value != ""})
    assert 400 <= answer.status < 500, answer
    assert field in answer.message
    assert SECRET not in answer.message
    assert real.get(hook).code == 40408


def test_what_is_not_there(real: Client, hook: str, receiver: Receiver) -> None:
    assert put(real, hook, topic="never-made", url=receiver.url, secret=SECRET).code == 40401
    for method, path in (("GET", hook), ("DELETE", hook), ("POST", f"{hook}/pause"), ("POST", f"{hook}/resume")):
        assert real.ask(method, path).code == 40408


def test_the_secret_is_never_shown_nor_logged(
    real: Client, topic: str, hook: str, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    receiver.answers = lambda number, body: 500
    answers = [put(real, hook, topic=topic, url=receiver.url, secret=SECRET, backoff_ms=10)]
    produce(real, topic, *values(1))
    wait(lambda: len(receiver.requests) > 2)
    answers += [real.get(hook), real.get("/v1/webhooks"), real.ask("POST", f"{hook}/pause"), real.get("/metrics")]
    assert all(SECRET.encode() not in answer.body for answer in answers)
    assert SECRET not in caplog.text
    assert put(real, hook, batch_size=7).json["batch_size"] == 7, "the secret stays as it was"
    receiver.answers = lambda number, body: 200
    real.ask("POST", f"{hook}/resume")
    wait(lambda: receiver.offsets() == [0])
    assert verify_as_documented(SECRET, *receiver.requests[-1])
