"""v3 produce streamed both ways: reports while records still arrive, in order, each with its own outcome."""

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from raftbroker.broker.errors import UnknownTopic
from raftbroker.state.batch import decode_batch
from tests.http.harness import Client, LoopThread, door
from tests.http.stand_in import StandIn

HEAD = (
    "POST /v3/clusters/stand-in/topics/{topic}/records HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    "{more}Transfer-Encoding: chunked\r\n\r\n"
)


def record(value: str, partition: int = 0) -> bytes:
    return json.dumps({"partition_id": partition, "value": {"type": "STRING", "data": value}}).encode()


class Stream:
    """A chunked request under way, and the reports that have come back."""

    def __init__(self, connection: socket.socket, topic: str, more: str) -> None:
        self._connection = connection
        self._data = b""
        self._text = b""
        connection.sendall(HEAD.format(topic=topic, more=more).encode())

    def send(self, data: bytes) -> None:
        self._connection.sendall(b"%x\r\n%s\r\n" % (len(data), data))

    def end(self) -> None:
        self._connection.sendall(b"0\r\n\r\n")

    def _more(self) -> None:
        piece = self._connection.recv(65536)
        assert piece, self._data
        self._data += piece

    def status(self) -> int:
        while b"\r\n\r\n" not in self._data:
            self._more()
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        return int(head.split()[1])

    def _chunk(self) -> bytes:
        while b"\r\n" not in self._data:
            self._more()
        size, _, rest = self._data.partition(b"\r\n")
        length = int(size, 16)
        while len(rest) < length + 2:
            self._more()
            rest = self._data.partition(b"\r\n")[2]
        self._data = rest[length + 2 :]
        return rest[:length]

    def report(self) -> dict[str, Any] | None:
        """The next report; None at the end of the answer."""
        while b"\r\n" not in self._text:
            chunk = self._chunk()
            if not chunk:
                return None
            self._text += chunk
        line, _, self._text = self._text.partition(b"\r\n")
        found: dict[str, Any] = json.loads(line)
        return found

    def rest(self) -> list[dict[str, Any]]:
        reports = []
        while (report := self.report()) is not None:
            reports.append(report)
        return reports


@contextmanager
def stream(client: Client, topic: str = "orders", more: str = "") -> Iterator[Stream]:
    with client.raw() as connection:
        yield Stream(connection, topic, more)


def test_a_report_comes_before_the_next_record_is_sent(client: Client) -> None:
    with stream(client) as under_way:
        for number in range(3):
            under_way.send(record(f"v{number}"))
            if number == 0:
                assert under_way.status() == 200
            report = under_way.report()
            assert report is not None
            assert (report["error_code"], report["offset"]) == (200, number)
        under_way.end()
        assert under_way.report() is None


def test_many_records_in_odd_pieces_are_reported_in_order_and_batched(client: Client, broker: StandIn) -> None:
    data = b"".join(record(f"v{n}", n % 2) + (b"\n" if n % 3 else b"") for n in range(500))
    with stream(client) as under_way:
        for at in range(0, len(data), 1777):
            under_way.send(data[at : at + 1777])
        under_way.end()
        assert under_way.status() == 200
        reports = under_way.rest()
    assert [(report["partition_id"], report["offset"]) for report in reports] == [(n % 2, n // 2) for n in range(500)]
    assert len(broker.produced) < 200
    values = [one.value for batch in broker.logs["orders", 1] for one in decode_batch(batch)]
    assert values == [f"v{n}".encode() for n in range(1, 500, 2)]


def test_a_bad_record_fails_alone_and_bad_framing_ends_the_stream(client: Client, broker: StandIn) -> None:
    with stream(client) as under_way:
        under_way.send(record("a") + b'{"bad":1}' + record("b") + b"]" + record("c"))
        assert under_way.status() == 200
        assert [report["error_code"] for report in under_way.rest()] == [200, 42206, 200, 42203]
    with stream(client) as under_way:
        under_way.send(record("a")[:-3])
        under_way.end()
        assert under_way.status() == 200
        assert [report["error_code"] for report in under_way.rest()] == [42203]
    assert sum(len(log) for log in broker.logs.values()) in (1, 2)


def test_an_unknown_topic_is_refused_before_the_stream_begins(client: Client) -> None:
    with stream(client, "none") as under_way:
        assert under_way.status() == 404


def test_a_failure_in_the_middle_is_reported_for_each_record(client: Client, broker: StandIn) -> None:
    with stream(client) as under_way:
        under_way.send(record("a"))
        assert under_way.status() == 200
        assert under_way.report() is not None
        broker.fail_with = UnknownTopic("it was deleted")
        under_way.send(record("b") + record("c"))
        under_way.end()
        assert [report["error_code"] for report in under_way.rest()] == [40401, 40401]


def test_an_idempotency_key_counts_records_however_they_are_cut(client: Client, broker: StandIn) -> None:
    data = b"".join(json.dumps({"value": {"type": "JSON", "data": n}}).encode() for n in range(20))
    found = []
    for size in (7, 1000):
        with stream(client, more="Idempotency-Key: stream-1\r\n") as under_way:
            for at in range(0, len(data), size):
                under_way.send(data[at : at + size])
            under_way.end()
            assert under_way.status() == 200
            found.append([(report["partition_id"], report["offset"]) for report in under_way.rest()])
    assert found[0] == found[1]
    assert len(found[0]) == 20
    assert sum(len(log) for log in broker.logs.values()) == 20


def test_a_silent_stream_is_ended_with_a_report(thread: LoopThread, broker: StandIn) -> None:
    with door(thread, broker, body_timeout=0.3) as client, stream(client) as under_way:
        under_way.send(record("a"))
        assert under_way.status() == 200
        assert [report["error_code"] for report in under_way.rest()] == [200, 408]


def test_a_client_that_leaves_a_stream_frees_its_place(thread: LoopThread, broker: StandIn) -> None:
    with door(thread, broker, streams_max=1) as client:
        with stream(client) as under_way:
            under_way.send(record("a"))
            assert under_way.status() == 200
            with stream(client) as refused:
                assert refused.status() == 429
        deadline = time.monotonic() + 10
        while True:
            with stream(client) as again:
                again.end()
                if again.status() == 200:
                    break
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_fault_in_the_middle_cuts_the_answer_off(client: Client, broker: StandIn) -> None:
    with client.raw() as connection:
        under_way = Stream(connection, "orders", "")
        under_way.send(record("a"))
        assert under_way.status() == 200
        assert under_way.report() is not None
        broker.fail_with = ZeroDivisionError("nobody foresaw this")
        under_way.send(record("b"))
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(65536) == b""


def test_a_client_that_leaves_is_nothing_to_log(
    client: Client, broker: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    with stream(client) as under_way:
        under_way.send(record("a"))
        assert under_way.status() == 200
    with client.raw() as connection:
        connection.sendall(b"POST /topics/one HTTP/1.1\r\nHost: x\r\n")
        connection.sendall(b"Content-Type: application/vnd.kafka.json.v2+json\r\nContent-Length: 50\r\n\r\n{")
    deadline = time.monotonic() + 10
    while client.get("/metrics").body.count(b'status="499"') < 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [one.getMessage() for one in caplog.records if one.levelname == "ERROR"] == []
