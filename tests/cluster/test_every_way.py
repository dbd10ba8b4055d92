"""One topic read in every way at once while every node is killed in turn: each reader sees every record, in order.

A Kafka group, an HTTP group, Server-Sent Events, a WebSocket with acknowledgements and a webhook. At least once: what a
reader is given again must be what it was given before; nothing may be missing, and nothing may come too early.
"""

import asyncio
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.cluster.dev import DevCluster, dev_cluster
from tests.cluster.workload import TOPIC, Account, create_topic, produce_batch
from tests.ports import free_port

pytestmark = pytest.mark.cluster

PARTITIONS = 3
BATCH = 20
PAUSE_SECONDS = 0.05
ROUNDS = 2
CATCH_UP_SECONDS = 90.0
V2 = {"Content-Type": "application/vnd.kafka.v2+json"}


@dataclass
class Seen:
    """What one reader was given, by partition."""

    name: str
    records: dict[int, list[str]] = field(default_factory=lambda: {number: [] for number in range(PARTITIONS)})
    repeats: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    """Why it had to begin again."""

    def add(self, partition: int, offset: int, value: str) -> None:
        mine = self.records[partition]
        if offset < len(mine):
            self.repeats += 1
            assert mine[offset] == value, f"{self.name}: offset {offset} of partition {partition} was another record"
            return
        assert offset == len(mine), f"{self.name}: offset {offset} of partition {partition} where {len(mine)} was due"
        mine.append(value)

    @property
    def count(self) -> int:
        return sum(map(len, self.records.values()))


class AgainError(Exception):
    """The reader has to connect again."""


Read = Callable[[aiohttp.ClientSession, str, Seen], Coroutine[Any, Any, None]]


async def keep(read: Read, urls: list[str], seen: Seen) -> None:
    """Reads through one node after the other, for ever."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=25)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        for url in itertools.cycle(urls):
            try:
                await read(session, url, seen)
            except (aiohttp.ClientError, TimeoutError, AgainError) as error:
                seen.failures[type(error).__name__] += 1
            await asyncio.sleep(0.2)


# --- the readers ----------------------------------------------------------------------------------------------


class KafkaReader(threading.Thread):
    """librdkafka, in a group, with its own commits."""

    def __init__(self, addresses: list[str], seen: Seen) -> None:
        super().__init__(daemon=True)
        self._addresses = addresses
        self._seen = seen
        self.stopping = threading.Event()
        self.failed: BaseException | None = None

    def run(self) -> None:
        from confluent_kafka import Consumer

        consumer = Consumer(
            {
                "bootstrap.servers": ",".join(self._addresses),
                "group.id": "every-kafka",
                "auto.offset.reset": "earliest",
                "auto.commit.interval.ms": 500,
                "session.timeout.ms": 10_000,
                "log_level": 0,
            }
        )
        consumer.subscribe([TOPIC])
        try:
            while not self.stopping.is_set():
                message = consumer.poll(0.2)
                if message is None:
                    continue
                if message.error() is not None:
                    self._seen.failures[message.error().name()] += 1
                    continue
                self._seen.add(message.partition(), message.offset(), json.loads(message.value()))
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.failed = error
        finally:
            consumer.close()


async def read_as_instance(session: aiohttp.ClientSession, url: str, seen: Seen) -> None:
    """The v2 consumer API: made by name through whichever node, committed by hand; made again after any failure."""

    async def ask(method: str, path: str, body: Any = None) -> Any:
        async with session.request(method, f"{url}/consumers/every-http{path}", json=body, headers=V2) as answer:
            if answer.status not in (200, 204):
                raise AgainError(f"{answer.status} {await answer.text()}")
            return await answer.json(content_type=None) if answer.status == 200 else None

    settings = {"name": "reader", "format": "json", "auto.offset.reset": "earliest", "auto.commit.enable": "false"}
    here = "/instances/reader"
    await ask("POST", "", settings)
    try:
        await ask("POST", f"{here}/subscription", {"topics": [TOPIC]})
        while True:
            records = await ask("GET", f"{here}/records?timeout=1000")
            last: dict[int, int] = {}
            for record in records:
                seen.add(record["partition"], record["offset"], record["value"])
                last[record["partition"]] = record["offset"]
            if last:
                done = [{"topic": TOPIC, "partition": number, "offset": offset} for number, offset in last.items()]
                await ask("POST", f"{here}/offsets", {"offsets": done})
    except AgainError:
        await ask("DELETE", here)
        raise


def events_reader() -> Read:
    """An EventSource: remembers the last id, and nothing else."""
    last = ""

    async def read(session: aiohttp.ClientSession, url: str, seen: Seen) -> None:
        nonlocal last
        headers = {"Last-Event-ID": last} if last else {}
        async with session.get(f"{url}/topics/{TOPIC}/events?offset=earliest", headers=headers) as answer:
            if answer.status != 200:
                raise AgainError(await answer.text())
            event: dict[str, str] = {}
            async for raw in answer.content:
                name, _, text = raw.decode().rstrip("\n").partition(": ")
                if name:
                    event[name] = text
                    continue
                if "data" in event and "event" not in event:
                    record = json.loads(event["data"])
                    seen.add(record["partition"], record["offset"], record["value"])
                assert event.get("event", "ready") in ("ready", "position"), event
                last = event.get("id", last)
                event = {}
        raise AgainError("the stream has ended")

    return read


async def read_as_websocket(session: aiohttp.ClientSession, url: str, seen: Seen) -> None:
    async with session.ws_connect(
        f"{url}/topics/{TOPIC}/ws?group=every-ws&offset=earliest", heartbeat=10.0
    ) as connected:
        async for message in connected:
            told = json.loads(message.data)
            last: dict[int, int] = {}
            for record in told.get("records", ()):
                seen.add(record["partition"], record["offset"], record["value"])
                last[record["partition"]] = record["offset"]
            for partition, offset in last.items():
                await connected.send_json({"type": "ack", "partition": partition, "offset": offset})
    raise AgainError("the connection has ended")


@asynccontextmanager
async def webhook(urls: list[str], seen: Seen) -> AsyncIterator[None]:
    """A receiver, and the webhook that points to it."""

    async def take(request: web.Request) -> web.Response:
        body = await request.json()
        for record in body["records"]:
            seen.add(body["partition"], record["offset"], record["value"])
        return web.Response(status=204)

    app = web.Application()
    app.router.add_post("/", take)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    body = {"topic": TOPIC, "url": f"http://127.0.0.1:{port}/", "secret": "0123456789abcdef0123456789abcdef"}
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.put(f"{urls[0]}/v1/webhooks/every", json=body) as answer,
        ):
            assert answer.status in (200, 201), await answer.text()
        yield
    finally:
        await runner.cleanup()


# --- the whole ------------------------------------------------------------------------------------------------


async def produce(urls: list[str], going: Callable[[], bool], account: Account) -> None:
    turns: Iterator[str] = itertools.cycle(urls)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=40)) as session:
        while going():
            batch = list(itertools.islice(account.lines, BATCH))
            await produce_batch(session, turns, f"batch-{next(account.numbers)}", batch, account)
            await asyncio.sleep(PAUSE_SECONDS)


async def kill_in_turn(cluster: DevCluster) -> None:
    loop = asyncio.get_running_loop()
    await asyncio.sleep(3.0)
    for _ in range(ROUNDS):
        for victim in range(1, cluster.nodes + 1):
            cluster.kill(victim)
            await asyncio.sleep(0.7)
            await loop.run_in_executor(None, cluster.wait_ready, victim)
            await asyncio.sleep(3.0)


async def everything(cluster: DevCluster) -> tuple[Account, list[Seen]]:
    urls = cluster.urls
    await create_topic(urls, PARTITIONS, 3)
    account = Account()
    kafka, instance, events, socket, hook = every = [
        Seen(name) for name in ("Kafka group", "HTTP group", "events", "WebSocket", "webhook")
    ]
    thread = KafkaReader([f"127.0.0.1:{9091 + n + cluster.offset}" for n in range(1, cluster.nodes + 1)], kafka)
    thread.start()
    async with webhook(urls, hook):
        readers = [
            asyncio.create_task(keep(read_as_instance, urls, instance)),
            asyncio.create_task(keep(events_reader(), urls[1:] + urls[:1], events)),
            asyncio.create_task(keep(read_as_websocket, urls[2:] + urls[:2], socket)),
        ]
        killing = asyncio.create_task(kill_in_turn(cluster))
        try:
            await produce(urls, lambda: not killing.done(), account)
            await killing
            deadline = time.monotonic() + CATCH_UP_SECONDS
            while any(seen.count < account.records for seen in every) and time.monotonic() < deadline:
                for reader in readers:
                    if reader.done():
                        reader.result()
                if thread.failed is not None:
                    raise thread.failed
                await asyncio.sleep(0.1)
        finally:
            thread.stopping.set()
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)
            await asyncio.get_running_loop().run_in_executor(None, thread.join, 20)
    return account, every


def test_every_reader_sees_every_record_in_order_through_kills_of_every_node(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAFTBROKER_WEBHOOKS__ALLOWED_NETWORKS", "127.0.0.0/8")
    with dev_cluster(tmp_path, 3) as cluster:
        cluster.wait_whole()
        began = time.monotonic()
        try:
            account, every = asyncio.run(everything(cluster))
        except BaseException:
            with capsys.disabled():
                print(cluster.output())
            raise
        seconds = time.monotonic() - began
    with capsys.disabled():
        print(f"\n{account.records} records, {3 * ROUNDS} kills, {seconds:.0f} s")
        for seen in every:
            print(f"  {seen.name}: {seen.count} records, {seen.repeats} of them again, {dict(seen.failures)}")
    for seen in every:
        for partition, known in account.acknowledged.items():
            assert seen.records[partition] == [known[offset] for offset in range(len(known))], (seen.name, partition)
