"""Queues over HTTP, on a real node: every route, every refusal, what clients see on the wire."""

import itertools
import json
import socket
import threading
import time
from typing import Any

import pytest

from raftbroker.broker.broker import Broker
from tests.http.harness import Answer, Client, LoopThread
from tests.unit.broker.nodes import until

_names = itertools.count(1)


@pytest.fixture(autouse=True)
def _coordinated(thread: LoopThread, real_broker: Broker) -> None:
    """A node that has just started makes its coordinator shards a moment later."""
    thread.run(until(lambda: len(real_broker.shards.led()) == 4))


@pytest.fixture
def queue(real: Client) -> str:
    """The path of a new queue."""
    path = f"/queues/queue-{next(_names)}"
    assert real.ask("PUT", path).status == 201
    return path


def send(client: Client, queue: str, *messages: dict[str, Any]) -> list[str]:
    answer = client.post(f"{queue}/messages", {"messages": list(messages)})
    assert answer.status == 200, answer
    return [message["id"] for message in answer.json["messages"]]


def receive(client: Client, queue: str, **asked: Any) -> list[dict[str, Any]]:
    answer = client.post(f"{queue}/receive", {"max_messages": 100, **asked})
    assert answer.status == 200, answer
    messages: list[dict[str, Any]] = answer.json["messages"]
    return messages


def settle(client: Client, queue: str, verb: str, *messages: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    answer = client.post(f"{queue}/{verb}", {"lock_tokens": [m["lock_token"] for m in messages], **more})
    assert answer.status == 200, answer
    results: list[dict[str, Any]] = answer.json["results"]
    return results


def test_a_queues_life(real: Client) -> None:
    assert real.get("/queues/orders").code == 40406
    made = real.ask("PUT", "/queues/orders", {"lock.ms": 60_000, "dead.letter.queue": "orders-dead"})
    assert made.status == 201
    assert made.json["configs"] == {
        "lock.ms": 60_000,
        "max.deliveries": 10,
        "dead.letter.queue": "orders-dead",
        "retention.ms": 604_800_000,
        "dedup.window.ms": 300_000,
        "ordered.by.key": False,
    }
    changed = real.ask("PUT", "/queues/orders", {"lock.ms": None, "max.deliveries": 3})
    assert changed.status == 200
    assert changed.json["configs"]["lock.ms"] == 30_000
    assert changed.json["configs"]["dead.letter.queue"] == "orders-dead"
    assert abs(changed.json["created_at"] - time.time() * 1000) < 60_000
    send(real, "/queues/orders", {"body": 1}, {"body": 2, "delay_ms": 60_000})
    shown = real.get("/queues/orders").json
    assert (shown["depth"], shown["available"], shown["delayed"], shown["totals"]["sent"]) == (2, 1, 1, 2)
    assert 0 <= shown["oldest_age_ms"] < 30_000
    assert shown["rates"]["sent"] > 0
    assert {"orders", "orders-dead"} <= {one["name"] for one in real.get("/queues").json["queues"]}
    assert real.ask("POST", "/queues/orders/purge").json == {"count": 2}
    assert real.ask("DELETE", "/queues/orders").status == 204
    assert real.ask("DELETE", "/queues/orders").code == 40406


def test_bodies_come_as_they_were_sent(real: Client, queue: str) -> None:
    body = b'{"b": 1.50, "a": [null, "\\u00e9\xc3\xa9"]}'
    text = b'{"messages": [{"body": ' + body + b'}, {"body": null}, {"body_base64": "AP8="}]}'
    assert real.post(f"{queue}/messages", text).status == 200
    answer = real.post(f"{queue}/receive", {"max_messages": 10})
    assert b'"body":' + body in answer.body
    first, second, third = answer.json["messages"]
    assert "body_base64" not in first
    assert second["body"] is None
    assert (third["body_base64"], "body" in third) == ("AP8=", False)


def test_a_message_has_all_that_was_sent_with_it(real: Client, queue: str) -> None:
    (id_,) = send(real, queue, {"body": "x", "key": "k", "headers": {"source": "web", "n": "1"}, "priority": 9})
    (message,) = receive(real, queue, consumer="worker-1", lock_ms=90_000)
    now = time.time() * 1000
    assert (message["id"], message["key"], message["delivery_count"]) == (id_, "k", 1)
    assert message["headers"] == {"source": "web", "n": "1"}
    assert abs(message["timestamp"] - now) < 60_000
    assert 60_000 < message["locked_until"] - now < 91_000
    assert set(message) == {
        *("id", "body", "key", "headers", "timestamp", "delivery_count", "lock_token", "locked_until"),
    }
    fate = real.get(f"{queue}/messages/{id_}").json
    assert (fate["state"], fate["consumer"], fate["queue"]) == ("locked", "worker-1", queue.rpartition("/")[2])
    assert settle(real, queue, "ack", message) == [{"lock_token": message["lock_token"]}]
    fate = real.get(f"{queue}/messages/{id_}").json
    assert fate == {
        "queue": queue.rpartition("/")[2],
        "id": id_,
        "state": "consumed",
        "delivery_count": 1,
        "at": fate["at"],
        "consumer": "worker-1",
    }
    assert real.get(f"{queue}/messages/999999999").code == 40407


def test_each_token_has_its_result(real: Client, queue: str) -> None:
    send(real, queue, {"body": 1}, {"body": 2})
    one, two = receive(real, queue)
    assert settle(real, queue, "release", one) == [{"lock_token": one["lock_token"]}]
    for verb in ("ack", "reject", "extend"):
        results = settle(real, queue, verb, one, {"lock_token": "nonsense"})
        assert [result["error_code"] for result in results] == [40904, 40904]
        assert all(result["message"].startswith("lock_lost: ") for result in results)
    (extended,) = settle(real, queue, "extend", two, lock_ms=600_000)
    assert extended["locked_until"] > two["locked_until"]
    assert settle(real, queue, "ack", two, two) == [{"lock_token": two["lock_token"]}] * 2
    assert real.get(queue).json["totals"]["acknowledged"] == 1


def test_receive_waits_for_a_message(real: Client, queue: str) -> None:
    began = time.monotonic()
    assert receive(real, queue, wait_ms=300) == []
    assert time.monotonic() - began >= 0.3
    other = Client(real.url)
    timer = threading.Timer(0.2, send, (other, queue, {"body": "late"}))
    timer.start()
    (message,) = receive(real, queue, wait_ms=20_000)
    timer.join()
    other.close()
    assert message["body"] == "late"


def test_a_fate_is_waited_for(real: Client, queue: str) -> None:
    (id_,) = send(real, queue, {"body": 1})
    assert real.get(f"{queue}/messages/{id_}?wait_ms=100").json["state"] == "waiting"
    other = Client(real.url)
    timer = threading.Timer(0.2, receive, (other, queue))
    timer.start()
    assert real.get(f"{queue}/messages/{id_}?wait_ms=20000&state=waiting").json["state"] == "locked"
    timer.join()
    other.close()


def test_dead_messages_with_their_history_and_back(real: Client) -> None:
    assert real.ask("PUT", "/queues/strict", {"dead.letter.queue": "strict-dead", "max.deliveries": 1}).status == 201
    (id_,) = send(real, "/queues/strict", {"body": {"n": 1}, "receipt": {"queue": "told"}})
    (message,) = receive(real, "/queues/strict", consumer="w")
    settle(real, "/queues/strict", "reject", message, reason="no such customer")
    (dead,) = receive(real, "/queues/strict-dead", wait_ms=20_000)
    letter = dead["dead_letter"]
    assert (letter["queue"], letter["id"], letter["reason"]) == ("strict", id_, "no such customer")
    assert [(past["consumer"], past["end"]) for past in letter["history"]] == [("w", "rejected")]
    assert dead["body"] == {"n": 1}
    assert real.ask("PUT", "/queues/told").status in (200, 201)
    (receipt,) = receive(real, "/queues/told", wait_ms=20_000)
    assert (receipt["body"]["id"], receipt["body"]["state"]) == (id_, "dead")
    assert receipt["body"]["history"][0]["end"] == "rejected"
    settle(real, "/queues/strict-dead", "release", dead)
    assert real.post("/queues/strict/redrive", {"max_messages": 10}).json == {"count": 1}
    (back,) = receive(real, "/queues/strict", wait_ms=20_000)
    assert (back["body"], back["delivery_count"], "dead_letter" in back) == ({"n": 1}, 1, False)
    assert real.ask("POST", "/queues/strict/redrive").json == {"count": 0}
    assert real.post("/queues/strict/redrive", {"from": "nowhere"}).code == 40406


def test_peek_takes_nothing(real: Client, queue: str) -> None:
    send(real, queue, {"body": 1, "priority": 0}, {"body": 2, "priority": 9})
    for _ in range(2):
        found = real.get(f"{queue}/messages?max_messages=5").json["messages"]
        assert [message["body"] for message in found] == [2, 1]
        assert "lock_token" not in found[0]
    assert real.get(f"{queue}/messages?state=dead").json == {"messages": []}
    assert real.get(f"{queue}/messages?state=gone").code == 40002


def test_an_idempotency_key_makes_a_request_repeatable(real: Client, queue: str) -> None:
    body = {"messages": [{"body": 1}, {"body": 2}]}
    first = real.post(f"{queue}/messages", body, Idempotency_Key="k-1").json["messages"]
    again = real.post(f"{queue}/messages", body, Idempotency_Key="k-1").json["messages"]
    assert [one["id"] for one in again] == [one["id"] for one in first]
    assert [one["duplicate"] for one in first + again] == [False, False, True, True]
    assert real.post(f"{queue}/messages", {"messages": [{"body": 3}]}, Idempotency_Key="k-1").code == 42209
    send(real, queue, {"body": 4, "dedup_id": "d"}, {"body": 5, "dedup_id": "d"})
    assert real.get(queue).json["depth"] == 3


@pytest.mark.parametrize(
    ("verb", "body", "code", "named"),
    [
        ("messages", {"messages": [{}]}, 40002, "messages[0]"),
        ("messages", {"messages": [{"body": 1, "body_base64": "AA=="}]}, 40002, "messages[0]"),
        ("messages", {"messages": []}, 40002, "messages"),
        ("messages", {"messages": [{"body": 1}] * 1001}, 40002, "1000"),
        ("messages", {"messages": [{"body": 1, "priority": 10}]}, 40002, "priority"),
        ("messages", {"messages": [{"body": 1, "ttl_ms": 0}]}, 40002, "ttl_ms"),
        ("messages", {"messages": [{"body": 1, "delay_ms": -1}]}, 40002, "delay_ms"),
        ("messages", {"messages": [{"body": 1, "receipt": {}}]}, 40002, "receipt"),
        ("messages", {"messages": [{"body": 1, "receipt": {"url": ""}}]}, 40002, "receipt"),
        ("messages", {"messages": [{"body": 1, "receipt": {"url": "file:///x"}}]}, 40002, "receipt"),
        ("messages", {"messages": [{"body": 1, "colour": 1}]}, 42206, "colour"),
        ("messages", {"messages": [{"body": "x" * (1 << 20)}]}, 413, "messages[0]"),
        ("messages", b'{"messages": [', 42203, "JSON"),
        ("receive", {"max_messages": 0}, 40002, "max_messages"),
        ("receive", {"max_messages": 1001}, 40002, "max_messages"),
        ("receive", {"wait_ms": 600_000}, 40002, "wait_ms"),
        ("receive", {"lock_ms": 0}, 40002, "lock_ms"),
        ("receive", {"lock_ms": 1 << 40}, 40002, "lock_ms"),
        ("receive", {"consumer": ""}, 40002, "consumer"),
        ("receive", {"max_bytes": 0}, 40002, "max_bytes"),
        ("ack", {"lock_tokens": []}, 40002, "tokens"),
        ("ack", {"lock_tokens": ["x"] * 1001}, 40002, "1000"),
        ("ack", {}, 42206, "lock_tokens"),
        ("release", {"lock_tokens": ["x"], "delay_ms": -5}, 40002, "delay_ms"),
        ("reject", {"lock_tokens": ["x"], "reason": "r" * 501}, 40002, "reason"),
        ("extend", {"lock_tokens": ["x"], "lock_ms": 0}, 40002, "lock_ms"),
        ("redrive", {"max_messages": 0}, 40002, "max_messages"),
        ("redrive", {"from": "a/b"}, 40002, "a/b"),
    ],
)
def test_refusals_name_what_is_wrong(real: Client, queue: str, verb: str, body: Any, code: int, named: str) -> None:
    answer = real.post(f"{queue}/{verb}", body)
    assert answer.code == code
    assert named in answer.message


@pytest.mark.parametrize(
    ("configs", "code", "named"),
    [
        ({"lock.ms": 0}, 40001, "lock.ms"),
        ({"lock.ms": "1"}, 42206, "lock.ms"),
        ({"dead.letter.queue": "a b"}, 40002, "a b"),
        ({"lock_ms": 5}, 42206, "lock_ms"),
        ({"retention.ms": -2}, 40001, "retention.ms"),
    ],
)
def test_configs_are_refused_by_name(real: Client, queue: str, configs: Any, code: int, named: str) -> None:
    answer = real.ask("PUT", queue, configs)
    assert answer.code == code
    assert named in answer.message


def test_names_are_those_of_topics(real: Client) -> None:
    for name in ("a%20b", "x" * 250, "%2e"):
        for answer in (real.ask("PUT", f"/queues/{name}"), real.get(f"/queues/{name}")):
            assert answer.status in (400, 404)
    assert real.ask("PUT", "/queues/ordered", {"ordered.by.key": True}).status == 201
    send(real, "/queues/ordered", {"body": 1})
    assert real.ask("PUT", "/queues/ordered", {"ordered.by.key": False}).code == 40903


def test_unknown_queues_are_told_by_every_route(real: Client) -> None:
    tokens = {"lock_tokens": ["1-1-0000000000000001"]}
    answers: list[Answer] = [
        real.get("/queues/nix"),
        real.get("/queues/nix/messages"),
        real.get("/queues/nix/messages/1"),
        real.ask("DELETE", "/queues/nix"),
        real.post("/queues/nix/messages", {"messages": [{"body": 1}]}),
        real.post("/queues/nix/receive", {"wait_ms": 5000}),
        *(real.post(f"/queues/nix/{verb}", tokens) for verb in ("ack", "release", "reject", "extend")),
        real.ask("POST", "/queues/nix/purge"),
        real.ask("POST", "/queues/nix/redrive"),
    ]
    assert {answer.code for answer in answers} == {40406}
    assert all("PUT /queues/nix" in answer.message for answer in answers)


def test_what_a_client_that_left_was_to_get_goes_to_the_next(real: Client, queue: str) -> None:
    body = json.dumps({"wait_ms": 20_000}).encode()
    with real.raw() as connection:
        connection.sendall(
            f"POST {queue}/receive HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        time.sleep(0.3)
        connection.shutdown(socket.SHUT_RDWR)
    time.sleep(0.3)
    (id_,) = send(real, queue, {"body": 1})
    (message,) = receive(real, queue, wait_ms=10_000)
    assert message["id"] == id_


def test_metrics_of_queues(real: Client, queue: str) -> None:
    name = queue.rpartition("/")[2]
    send(real, queue, {"body": 1}, {"body": 2})
    settle(real, queue, "ack", *receive(real, queue, max_messages=1))
    text = real.get("/metrics").body.decode()
    for line in (
        f'raftbroker_queue_depth{{queue="{name}"}} 1',
        f'raftbroker_queue_available{{queue="{name}"}} 1',
        f'raftbroker_queue_sent_total{{queue="{name}"}} 2',
        f'raftbroker_queue_acknowledged_total{{queue="{name}"}} 1',
        "raftbroker_queues_not_shown 0",
    ):
        assert line in text
    assert f'raftbroker_queue_oldest_age_seconds{{queue="{name}"}}' in text
