"""Bounds: bodies, records, requests and bytes in hand, slow clients, stopping. Over a stand-in."""

import asyncio
import gzip
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from raftbroker.broker.errors import Unavailable
from tests.http.harness import JSON_V2, Answer, Client, LoopThread, door, options, serve
from tests.http.stand_in import StandIn

RECORD = {"records": [{"value": 1}]}
HEAD = f"POST /topics/one HTTP/1.1\r\nHost: x\r\nContent-Type: {JSON_V2}\r\n"


def body_of(size: int) -> bytes:
    return json.dumps({"records": [{"value": "x" * size}]}).encode()


def answer_of(connection: socket.socket) -> tuple[int, bytes]:
    """Status and body of one answer with a length."""
    head = _head(connection)
    lines = head.decode().split("\r\n")
    length = next(int(line.split(":")[1]) for line in lines if line.lower().startswith("content-length"))
    body = b""
    while len(body) < length:
        piece = connection.recv(length - len(body))
        assert piece
        body += piece
    return int(lines[0].split()[1]), body


def _head(connection: socket.socket) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        assert byte, head
        head += byte
    return head


def test_a_connection_too_many_is_told_so_and_others_go_on(thread: LoopThread, broker: StandIn) -> None:
    with door(thread, broker, connections_max=2) as client:
        assert client.get("/topics").status == 200
        with client.raw() as second:
            second.sendall(b"GET /topics HTTP/1.1\r\nHost: x\r\n\r\n")
            assert answer_of(second)[0] == 200
            with client.raw() as third:
                status, body = answer_of(third)
                assert (status, json.loads(body)["error_code"]) == (503, 50302)
                assert "http.connections_max" in json.loads(body)["message"]
                assert third.recv(1) == b""
            assert client.get("/topics").status == 200
        until(lambda: served_again(client))


def served_again(client: Client) -> bool:
    with client.raw() as another:
        another.sendall(b"GET /topics HTTP/1.1\r\nHost: x\r\n\r\n")
        return answer_of(another)[0] == 200


def test_a_body_has_a_bound_whether_its_length_is_told_or_not(thread: LoopThread, broker: StandIn) -> None:
    with door(thread, broker, body_bytes_max=10_000) as client:
        assert client.post("/topics/one", body_of(5_000), JSON_V2).status == 200
        answer = client.post("/topics/one", body_of(20_000), JSON_V2)
        assert (answer.status, answer.code) == (413, 413)
        assert "10000" in answer.message
        with client.raw() as connection:
            chunk = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
            connection.sendall(HEAD.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + chunk)
            assert answer_of(connection)[0] == 413
        bomb = gzip.compress(body_of(5_000_000))
        assert len(bomb) < 10_000
        squeezed = client.ask("POST", "/topics/one", bomb, {"Content-Encoding": "gzip"}, JSON_V2)
        assert squeezed.status == 413
        small = client.ask("POST", "/topics/one", gzip.compress(body_of(10)), {"Content-Encoding": "gzip"}, JSON_V2)
        assert small.status == 200
        broken = client.ask("POST", "/topics/one", b"not gzip", {"Content-Encoding": "gzip"}, JSON_V2)
        assert broken.status == 400
    assert len(broker.produced) == 2


def test_records_in_a_request_are_bounded(thread: LoopThread, broker: StandIn) -> None:
    with door(thread, broker, records_max=5) as client:
        answer = client.post("/topics/one", {"records": [{"value": n} for n in range(6)]}, JSON_V2)
        assert answer.status == 413
        assert "at most 5" in answer.message
        several = client.post("/v3/clusters/stand-in/topics/one/records", b"{}" * 6)
        assert several.status == 413


@contextmanager
def held_back(thread: LoopThread, broker: StandIn) -> Iterator[None]:
    """While this lasts no produce request ends."""
    gate = asyncio.Event()
    broker.produce_gate = gate
    try:
        yield
    finally:
        thread.loop.call_soon_threadsafe(gate.set)


def in_background(url: str, count: int, body: bytes) -> tuple[list[threading.Thread], list[Answer]]:
    answers: list[Answer] = []

    def post() -> None:
        client = Client(url)
        answers.append(client.post("/topics/one", body, JSON_V2))
        client.close()

    threads = [threading.Thread(target=post) for _ in range(count)]
    for one in threads:
        one.start()
    return threads, answers


def in_hand(client: Client, what: str) -> int:
    found = re.search(rf'raftbroker_http_in_hand{{what="{what}"}} (\d+)', client.get("/metrics").body.decode())
    assert found is not None
    return int(found[1])


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_requests_beyond_the_bound_are_refused_at_once_and_later_taken(thread: LoopThread, broker: StandIn) -> None:
    with door(thread, broker, requests_max=3) as client:
        with held_back(thread, broker):
            threads, answers = in_background(client.url, 3, body_of(10))
            until(lambda: in_hand(client, "requests at once") == 3)
            refused = client.post("/topics/one", RECORD, JSON_V2)
            assert refused.code == 429
            assert int(refused.headers["retry-after"]) >= 1
            assert client.get("/livez").status == 200
        for one in threads:
            one.join(10)
        assert [answer.status for answer in answers] == [200] * 3
        assert client.post("/topics/one", RECORD, JSON_V2).status == 200


def test_bytes_of_bodies_in_hand_are_bounded(thread: LoopThread, broker: StandIn) -> None:
    with door(thread, broker, body_bytes_max=50_000, body_bytes_in_flight_max=100_000) as client:
        with held_back(thread, broker):
            threads, answers = in_background(client.url, 2, body_of(45_000))
            until(lambda: in_hand(client, "bytes of request bodies") > 90_000)
            assert client.post("/topics/one", body_of(30_000), JSON_V2).status == 429
        for one in threads:
            one.join(10)
        assert [answer.status for answer in answers] == [200] * 2
        assert client.post("/topics/one", body_of(45_000), JSON_V2).status == 200
        assert in_hand(client, "bytes of request bodies") == 0


def test_a_failed_request_gives_back_what_it_held(thread: LoopThread, broker: StandIn) -> None:
    with door(thread, broker, body_bytes_max=50_000, body_bytes_in_flight_max=50_000) as client:
        broker.fail_with = Unavailable("not now")
        for _ in range(5):
            assert client.post("/topics/one", body_of(40_000), JSON_V2).status == 503
        for _ in range(5):
            assert client.post("/topics/one", b"x" * 40_000, JSON_V2).status == 422
        broker.fail_with = None
        assert client.post("/topics/one", body_of(40_000), JSON_V2).status == 200


def test_a_body_that_does_not_come_is_given_up(thread: LoopThread, broker: StandIn) -> None:
    with door(thread, broker, body_timeout=0.3) as client, client.raw() as connection:
        connection.sendall(HEAD.encode() + b"Content-Length: 100\r\n\r\n" + b"{")
        began = time.monotonic()
        status, body = answer_of(connection)
        assert status == 408
        assert json.loads(body)["error_code"] == 408
        assert 0.2 < time.monotonic() - began < 5


def test_a_client_that_leaves_in_the_middle_frees_its_place(thread: LoopThread, broker: StandIn) -> None:
    with door(thread, broker, requests_max=1) as client:
        with client.raw() as connection:
            connection.sendall(HEAD.encode() + b"Content-Length: 100\r\n\r\n" + b"{")
            until(lambda: in_hand(client, "requests at once") == 1)
            assert client.get("/topics").status == 429
        until(lambda: in_hand(client, "requests at once") == 0)
        assert client.get("/topics").status == 200


def test_a_client_that_reads_nothing_is_given_up(thread: LoopThread, broker: StandIn) -> None:
    with door(thread, broker, send_timeout=0.3, long_polls_max=1) as client:
        for _ in range(12):
            client.post("/topics/one", body_of(900_000), JSON_V2)
        path = "/topics/one/partitions/0/records?offset=0&max_bytes=16000000"
        with client.raw() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            until(lambda: in_hand(client, "reads that wait for records") == 1)
            assert client.get(path).status == 429
            until(lambda: in_hand(client, "reads that wait for records") == 0)
        assert b'/records",status="499"} 1' in client.get("/metrics").body


def test_large_headers_are_refused(client: Client) -> None:
    assert client.ask("GET", "/topics", headers={"X-Large": "x" * 100_000}).status == 400


def test_a_read_waits_for_a_record_and_no_longer_than_asked(thread: LoopThread, client: Client) -> None:
    path = "/topics/one/partitions/0/records?offset=latest&timeout="
    began = time.monotonic()
    empty = client.get(path + "200")
    assert empty.json == []
    assert empty.headers["x-next-offset"] == "0"
    assert 0.15 < time.monotonic() - began < 5
    began = time.monotonic()
    later = threading.Timer(0.2, lambda: Client(client.url).post("/topics/one", RECORD, JSON_V2))
    later.start()
    assert [record["value"] for record in client.get(path + "20000").json] == [1]
    assert time.monotonic() - began < 10
    later.join()


def test_stopping_ends_waiting_reads(thread: LoopThread, broker: StandIn) -> None:
    runner, url = thread.run(serve(broker, options()))
    answers: list[Answer] = []

    def read() -> None:
        answers.append(Client(url).get("/topics/one/partitions/0/records?offset=0&timeout=60000"))

    waiting = threading.Thread(target=read)
    waiting.start()
    watcher = Client(url)
    until(lambda: in_hand(watcher, "reads that wait for records") == 1)
    watcher.close()
    began = time.monotonic()
    thread.run(runner.cleanup())
    waiting.join(10)
    assert time.monotonic() - began < 5
    assert [answer.json for answer in answers] == [[]]


def test_request_ids_are_given_or_kept(client: Client) -> None:
    assert client.ask("GET", "/topics", headers={"X-Request-Id": "mine-1"}).headers["x-request-id"] == "mine-1"
    first, second = (client.get("/topics").headers["x-request-id"] for _ in range(2))
    assert first != second
    odd = client.ask("GET", "/topics", headers={"X-Request-Id": "x" * 500}).headers["x-request-id"]
    assert len(odd) == 16
