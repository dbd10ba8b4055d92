"""Server-Sent Events and WebSockets on a real node: where they begin and go on, what passes, who may listen."""

import asyncio
import base64
import itertools
import json
import socket
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakKeyDictionary

import aiohttp
import pytest

from raftbroker.http.origins import allows
from raftbroker.node import Node
from tests.http.harness import BINARY_V2, JSON_V2, STRING_V2, Client, LoopThread, door
from tests.http.test_consumers import _coordinated as _coordinated
from tests.http.test_consumers import send
from tests.unit.broker.nodes import until

_names = itertools.count(1)


class Event(dict[str, str]):
    @property
    def value(self) -> Any:
        return json.loads(self["data"]).get("value")


class Events:
    """An event stream, read as the specification says."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer

    async def next(self) -> Event | None:
        """The next event that is not a comment; None at the end."""
        event = Event()
        async for raw in self.answer.content:
            line = raw.decode().rstrip("\n")
            if not line and "data" in event:
                return event
            name, colon, value = line.partition(":")
            if colon and name:
                value = value.removeprefix(" ")
                event[name] = f"{event['data']}\n{value}" if name == "data" and "data" in event else value
        return None

    async def records(self, count: int) -> list[Event]:
        found: list[Event] = []
        while len(found) < count:
            event = await self.next()
            assert event is not None
            if "event" not in event:
                found.append(event)
        return found


@asynccontextmanager
async def stream(url: str, query: str = "", last: str = "") -> AsyncIterator[Events]:
    headers = {"Last-Event-ID": last} if last else {}
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url + query, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        assert answer.content_type == "text/event-stream"
        yield Events(answer)


@asynccontextmanager
async def websocket(url: str, query: str = "", **more: Any) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.ws_connect(url + query, **more) as connected:
        yield connected


_early: WeakKeyDictionary[aiohttp.ClientWebSocketResponse, list[Any]] = WeakKeyDictionary()
"""Records that came while something else was waited for."""


async def message(connected: aiohttp.ClientWebSocketResponse, kind: str) -> Any:
    while True:
        found = await connected.receive_json(timeout=20)
        if found["type"] == kind:
            return found
        assert found["type"] in ("ready", "assigned", "committed", "records"), found
        if found["type"] == "records":
            _early.setdefault(connected, []).extend(found["records"])


async def down(connected: aiohttp.ClientWebSocketResponse, count: int) -> list[Any]:
    found: list[Any] = _early.pop(connected, [])
    while len(found) < count:
        found += (await message(connected, "records"))["records"]
    return found


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 60))


@pytest.fixture
def events(real: Client, topic: str) -> str:
    return f"{real.url}/topics/{topic}/events"


@pytest.fixture
def ws(real: Client, topic: str) -> str:
    return f"{real.url}/topics/{topic}/ws"


# --- server-sent events ---------------------------------------------------------------------------------------


def test_events_come_as_they_are_produced_and_a_stream_resumes(real: Client, topic: str, events: str) -> None:
    send(real, topic, "before", partition=1)

    async def main() -> None:
        async with stream(events) as one:
            ready = await one.next()
            assert ready is not None
            assert (ready["event"], ready["id"]) == ("ready", "0:0,1:1,2:0")
            assert json.loads(ready["data"]) == {"topic": topic, "positions": {"0": 0, "1": 1, "2": 0}}
            for number in range(4):
                send(real, topic, number, partition=number % 2)
            found = await one.records(4)
            assert sorted(event.value for event in found) == [0, 1, 2, 3]
            assert set(json.loads(found[0]["data"])) == {
                *("topic", "partition", "offset", "timestamp", "key", "value", "headers")
            }
        for position, event in enumerate(found[:3]):
            async with stream(events, last=event["id"]) as again:
                rest = await again.records(3 - position)
                assert sorted(e.value for e in rest) == sorted(e.value for e in found[position + 1 :])
        async with stream(events, "?last_event_id=" + found[3]["id"]) as again:
            send(real, topic, "after", partition=2)
            assert [event.value for event in await again.records(1)] == ["after"]

    run(main())


def test_where_a_stream_begins(real: Client, topic: str, events: str) -> None:
    for number in range(3):
        send(real, topic, number)
        time.sleep(0.01)
    stamp = real.get(f"/topics/{topic}/partitions/0/records?offset=1").json[0]["timestamp"]

    async def values(query: str, count: int) -> list[Any]:
        async with stream(events, query) as one:
            found = [event.value for event in await one.records(count)]
            if "limit" in query:
                assert await one.next() is None
            return found

    async def main() -> None:
        assert await values("?offset=earliest", 3) == [0, 1, 2]
        assert await values("?offset=earliest&limit=2", 2) == [0, 1]
        assert await values("?partitions=0&offset=2", 1) == [2]
        assert await values(f"?timestamp={stamp}&partitions=0,2", 2) == [1, 2]

    run(main())


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("?offset=3", 40002),
        ("?offset=middle", 40002),
        ("?partitions=a", 40002),
        ("?partitions=7", 40402),
        ("?last_event_id=0-1", 40002),
        ("?last_event_id=9:1", 40402),
        ("?format=avro", 40002),
        ("?limit=0", 40002),
        ("?group=g&partitions=1", 40002),
        ("?isolation=none", 40002),
    ],
)
def test_streams_that_are_refused(real: Client, topic: str, query: str, code: int) -> None:
    answer = real.get(f"/topics/{topic}/events{query}")
    assert answer.code == code
    assert real.get("/topics/no.such/events").code == 40401
    assert real.get(f"/topics/{topic}/ws").code == 40002


def test_filters_by_key_and_header(real: Client, topic: str, events: str) -> None:
    records = [
        {"key": key, "value": f"{key}{tag}", "partition": 0, "headers": [{"name": "tag", "value": encoded(tag)}]}
        for key in ("a", "b", "c")
        for tag in ("x", "y")
    ]
    real.ask("POST", f"/topics/{topic}", {"records": records}, media=STRING_V2)

    async def main() -> None:
        for query, expected in (
            ("&key=a&key=c", ["ax", "ay", "cx", "cy"]),
            ("&header=tag:x", ["ax", "bx", "cx"]),
            ("&header=tag:y&key=b", ["by"]),
        ):
            async with stream(events, f"?offset=earliest&format=string{query}&limit={len(expected)}") as one:
                assert [event.value for event in await one.records(len(expected))] == expected
        async with stream(events, "?offset=earliest&format=string&header=tag&header=tag:x&limit=3") as one:
            assert [event.value for event in await one.records(3)] == ["ax", "bx", "cx"]

    run(main())


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_what_cannot_be_shown_or_is_gone_is_told(real: Client, topic: str, events: str) -> None:
    send(real, topic, {"many": "lines"})
    real.ask("POST", f"/topics/{topic}", b'{"records": [{"value": {\n"a":\r\n1}, "partition": 0}]}', media=JSON_V2)
    send(real, topic, "not json", media=STRING_V2)
    send(real, topic, encoded("\0"), media=BINARY_V2)
    send(real, topic, "end")

    async def main() -> None:
        async with stream(events, "?partitions=0&offset=earliest") as one:
            await one.next()
            found = [await one.next() for _ in range(5)]
        kinds = [(event or {}).get("event") for event in found]
        assert kinds == [None, None, "unshowable", "unshowable", None]
        assert found[1] is not None
        assert found[2] is not None
        assert found[1].value == {"a": 1}
        assert (json.loads(found[2]["data"])["offset"], found[2]["id"]) == (2, "0:3")
        real.post(f"/v1/topics/{topic}/partitions/0/delete_records", {"before_offset": 4})
        async with stream(events, "?partitions=0&offset=1") as one:
            await one.next()
            gap = await one.next()
            assert gap is not None
            assert gap["event"] == "gap"
            told = json.loads(gap["data"])
            assert (told["partition"], told["first"], told["next"]) == (0, 1, 4)
            assert [event.value for event in await one.records(1)] == ["end"]

    run(main())


def test_a_topic_that_grows_and_one_that_goes(real: Client, topic: str, cluster: str, events: str) -> None:
    async def main() -> None:
        async with stream(events) as one:
            await one.next()
            real.ask("PATCH", f"{cluster}/topics/{topic}", {"partitions_count": 5})
            send(real, topic, "new", partition=4)
            assert [event.value for event in await one.records(1)] == ["new"]
            real.ask("DELETE", f"{cluster}/topics/{topic}")
            event = await one.next()
            while event is not None and event["event"] == "assigned":
                event = await one.next()
            assert event is not None
            assert (event["event"], json.loads(event["data"])["error_code"]) == ("error", 40401)
            assert await one.next() is None

    run(main())


def test_two_streams_of_a_group_share_the_topic_and_go_on(real: Client, topic: str, events: str) -> None:
    group = f"events-{next(_names)}"

    async def read(one: Events, found: list[Any]) -> None:
        while True:
            found += [event.value for event in await one.records(1)]

    async def main() -> None:
        founds: list[list[Any]] = [[], []]
        query = f"?group={group}&offset=earliest"
        async with stream(events, query) as one, stream(events, query) as two:
            reading = [asyncio.ensure_future(read(each, found)) for each, found in zip((one, two), founds, strict=True)]
            await members(real, group, 2)
            for number in range(30):
                send(real, topic, number, partition=number % 3)
                await asyncio.sleep(0.01)
            await until(lambda: sum(map(len, founds)) >= 30)
            await asyncio.sleep(0.2)
            for task in reading:
                task.cancel()
            assert all(founds)
            assert sorted(founds[0] + founds[1]) == list(range(30))
        await members(real, group, 0)

    run(main())


async def members(client: Client, group: str, count: int) -> None:
    """Returns once the group is stable with as many members."""
    cluster = client.get("/v3/clusters").json["data"][0]["cluster_id"]
    path = f"/v3/clusters/{cluster}/consumer-groups/{group}"
    for _ in range(300):
        found = client.get(path)
        if count == 0 and (found.status == 404 or found.json["state"] == "EMPTY"):
            return
        if found.status == 200 and found.json["state"] == "STABLE":
            data = client.get(f"{path}/consumers").json["data"]
            if len(data) == count and all(one["assignments"] for one in data):
                return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{group} did not come to have {count} members")


def test_a_stream_with_nothing_to_say_says_so_and_filtered_positions_are_told(
    thread: LoopThread, real: Client, topic: str, node: Node
) -> None:
    assert node.core is not None
    with door(thread, node.core.broker, push_heartbeat=0.1) as quick:

        async def main() -> None:
            async with stream(f"{quick.url}/topics/{topic}/events", "?partitions=1&offset=latest&key=nobody") as one:
                assert (await one.next() or {})["id"] == "1:0"
                assert (await one.answer.content.readline()) == b":\n"
                send(real, topic, "hidden", partition=1)
                event = await one.next()
                assert event is not None
                assert (event["event"], event["id"]) == ("position", "1:1")

        run(main())


def test_a_reader_that_reads_nothing_is_given_up(thread: LoopThread, real: Client, topic: str, node: Node) -> None:
    """And costs no more than what the system's buffers hold meanwhile."""
    for _ in range(16):
        send(real, topic, "x" * 1_000_000)
    assert node.core is not None
    with door(thread, node.core.broker, send_timeout=0.5) as strict, strict.raw() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(f"GET /topics/{topic}/events?offset=earliest HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        in_hand = 'raftbroker_http_in_hand{what="pushed streams"} '
        deadline = time.monotonic() + 10
        while f"{in_hand}1" not in strict.get("/metrics").body.decode():
            assert time.monotonic() < deadline
        while f"{in_hand}0" not in strict.get("/metrics").body.decode():
            assert time.monotonic() < deadline, "the stream goes on for ever"
            time.sleep(0.05)


# --- websockets -----------------------------------------------------------------------------------------------


def test_records_come_down_and_produce_goes_up(ws: str, topic: str) -> None:
    async def main() -> None:
        async with websocket(ws, "?offset=earliest") as one, websocket(ws) as other:
            assert (await message(one, "ready"))["positions"] == {"0": 0, "1": 0, "2": 0}
            await message(other, "ready")
            up = {"type": "produce", "id": 7, "idempotency_key": "k", "records": [{"value": {"n": 1}, "partition": 2}]}
            for _ in range(2):
                await one.send_json(up)
                produced = await message(one, "produced")
                assert produced["id"] == 7
                assert [(r["partition"], r["offset"], r["error_code"]) for r in produced["offsets"]] == [(2, 0, None)]
            for connected in (one, other):
                (record,) = await down(connected, 1)
                assert (record["topic"], record["partition"], record["value"]) == (topic, 2, {"n": 1})
            for wrong, code in (
                ("{", 42203),
                ('{"type": "dance"}', 42206),
                ('{"type": "produce", "id": "a", "records": [{"val": 1}]}', 42206),
                ('{"type": "produce", "id": "a", "records": [{"value": 1, "partition": 9}]}', 40402),
                ('{"type": "ack", "partition": 2, "offset": 0}', 40903),
                ('{"type": "credit", "records": 1}', 40903),
            ):
                await one.send_str(wrong)
                refused = await message(one, "error")
                assert refused["error_code"] == code
                assert refused["id"] == ("a" if '"a"' in wrong else None)

    run(main())


def test_a_compacted_topic_wants_keys(real: Client, cluster: str) -> None:
    config = {"name": "cleanup.policy", "value": "compact"}
    body = {"topic_name": "pushed-table", "replication_factor": 1, "configs": [config]}
    assert real.post(f"{cluster}/topics", body).status == 201

    async def main() -> None:
        async with websocket(f"{real.url}/topics/pushed-table/ws") as one:
            await one.send_json({"type": "produce", "id": 1, "records": [{"key": "k", "value": 1}, {"value": 2}]})
            refused = await message(one, "error")
            assert (refused["id"], refused["error_code"]) == (1, 42206)
            assert refused["message"].startswith("records[1].key is missing or null")
            await one.send_json({"type": "produce", "id": 2, "records": [{"key": "k", "value": None}]})
            assert (await message(one, "produced"))["offsets"][0]["offset"] == 0

    run(main())


def test_credits_bound_what_is_sent(real: Client, topic: str, ws: str) -> None:
    send(real, topic, *range(20))

    async def main() -> None:
        async with websocket(ws, "?offset=earliest&credits=3") as one:
            assert [record["value"] for record in await down(one, 3)] == [0, 1, 2]
            with pytest.raises(TimeoutError):
                await one.receive(timeout=0.5)

    run(main())

    async def more() -> None:
        async with websocket(ws, "?offset=earliest&credits=0") as one:
            await message(one, "ready")
            for expected in ([0], [1, 2, 3, 4, 5], [6]):
                await one.send_json({"type": "credit", "records": len(expected)})
                assert [record["value"] for record in await down(one, len(expected))] == expected
            await one.send_json({"type": "credit", "records": -1})
            assert (await message(one, "error"))["error_code"] == 40002

    run(more())


def test_what_is_acknowledged_is_committed_and_the_rest_comes_again(real: Client, topic: str, ws: str) -> None:
    group = f"ws-{next(_names)}"
    send(real, topic, *range(10))
    query = f"?group={group}&offset=earliest"

    async def main() -> None:
        async with websocket(ws, query) as one:
            assert [record["value"] for record in await down(one, 10)] == list(range(10))
            await one.send_json({"type": "ack", "partition": 0, "offset": 3})
            assert (await message(one, "committed"))["offsets"] == {"0": 4}
            await one.send_json({"type": "ack", "partition": 0, "offset": 10})
            assert (await message(one, "error"))["error_code"] == 40903
            await one.send_json({"type": "ack", "partition": 0, "offset": 5})
        async with websocket(ws, query) as one:
            again = await down(one, 4)
            assert [record["value"] for record in again] == [6, 7, 8, 9], "the last one was committed as it closed"

    run(main())


# --- who may listen -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "allowed", "expected"),
    [
        ("http://localhost:3000", ("loopback",), True),
        ("http://127.0.0.1", ("loopback",), True),
        ("http://127.9.9.9:80", ("loopback",), True),
        ("http://[::1]:8080", ("loopback",), True),
        ("http://node.example:8082", ("loopback",), True),
        ("https://evil.example", ("loopback",), False),
        ("http://localhost.evil.example", ("loopback",), False),
        ("http://127.0.0.1.evil.example", ("loopback",), False),
        ("http://evil@127.0.0.1", (), False),
        ("file://localhost", ("loopback",), False),
        ("http://[", ("loopback",), False),
        ("null", ("loopback",), False),
        ("", ("loopback",), False),
        ("http://localhost:3000", (), False),
        ("https://app.example", ("https://app.example",), True),
        ("https://APP.example", ("https://app.example",), True),
        ("http://app.example", ("https://app.example",), False),
        ("https://app.example:444", ("https://app.example",), False),
        ("null", ("*",), True),
    ],
)
def test_which_origins_are_allowed(origin: str, allowed: tuple[str, ...], expected: bool) -> None:
    assert allows(origin, allowed, "http://node.example:8082") is expected


def test_pages_of_other_sites_are_refused(real: Client, topic: str, ws: str) -> None:
    evil, own = {"Origin": "https://evil.example"}, {"Origin": "http://localhost:3000"}
    refused = real.ask("GET", f"/topics/{topic}/events?limit=1", headers=evil)
    assert refused.code == 40301
    assert "http.allowed_origins" in refused.message
    assert "access-control-allow-origin" not in refused.headers
    send(real, topic, 1)
    served = real.ask("GET", f"/topics/{topic}/events?offset=earliest&limit=1", headers=own)
    assert (served.status, served.headers["access-control-allow-origin"]) == (200, own["Origin"])

    async def main() -> None:
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            async with websocket(ws, headers=evil):
                pass
        assert caught.value.status == 403
        async with websocket(ws, headers=own) as one:
            await message(one, "ready")

    run(main())


def test_streams_end_in_order_when_the_node_stops(thread: LoopThread, topic: str, node: Node) -> None:
    assert node.core is not None

    async def main() -> None:
        async with stream(f"{url}/topics/{topic}/events") as one, websocket(f"{url}/topics/{topic}/ws") as other:
            await one.next()
            await message(other, "ready")
            gate.set()
            assert await one.next() is None
            found = await other.receive(timeout=10)
            assert (found.type, found.data) == (aiohttp.WSMsgType.CLOSE, aiohttp.WSCloseCode.GOING_AWAY)

    gate = asyncio.Event()

    async def both() -> None:
        reading = asyncio.ensure_future(main())
        await gate.wait()
        await asyncio.get_running_loop().run_in_executor(None, opened.__exit__, None, None, None)
        await reading

    opened = door(thread, node.core.broker)
    url = opened.__enter__().url
    run(both())
