"""Webhooks on three whole nodes in this process, with a real receiver: whoever leads delivers, and leaders die."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from raftbroker.broker.broker import Broker
from raftbroker.broker.errors import Retriable, UnknownOutcome, UnknownWebhook
from raftbroker.broker.queue_views import MessageDraft
from raftbroker.broker.webhook_delivery import AddressRules, Sender
from raftbroker.http.webhook_poster import WebhookPoster
from raftbroker.state.webhooks import Change
from tests.unit.broker.nodes import TestNode, batch_of, cluster, until
from tests.unit.broker.test_queues_three import ready

SECRET = "0123456789abcdef"


class Receiver:
    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.failing = 0
        """Every so many requests one is refused; 0 for none."""
        self.count = 0
        self.at_once = 0
        self.at_once_max = 0
        self.seconds = 0.0

    async def handle(self, request: web.Request) -> web.Response:
        body = msgspec.json.decode(await request.read())
        self.count += 1
        if self.failing and self.count % self.failing == 0:
            return web.Response(status=503)
        self.at_once += 1
        self.at_once_max = max(self.at_once, self.at_once_max)
        self.taken.append(body)
        await asyncio.sleep(self.seconds)
        self.at_once -= 1
        return web.Response()

    def first_seen(self, partition: int) -> list[int]:
        """Offsets in the order in which they came first."""
        found = (r["offset"] for body in self.taken if body["partition"] == partition for r in body["records"])
        return list(dict.fromkeys(found))


@asynccontextmanager
async def hooked(directory: Path) -> AsyncIterator[tuple[list[TestNode], Receiver, str, Callable[[Broker], None]]]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/hook", receiver.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    rules = AddressRules(["127.0.0.0/8"])
    poster = WebhookPoster(rules)

    def equip(broker: Broker) -> None:
        broker.webhooks.sender = Sender(poster, rules, lambda: 1_700_000_000_000)

    try:
        async with cluster(directory, 3) as nodes:
            for node in nodes:
                equip(node.broker)
            await until(lambda: ready(nodes), seconds=30)
            yield nodes, receiver, f"http://127.0.0.1:{runner.addresses[0][1]}/hook", equip
    finally:
        await poster.close()
        await runner.cleanup()


async def insist(nodes: list[TestNode], call: Callable[[Broker], Awaitable[Any]]) -> Any:
    for turn in itertools.count():
        node = nodes[turn % len(nodes)]
        if node.core is not None:
            try:
                return await call(node.broker)
            except (Retriable, UnknownOutcome):
                pass
        assert turn < 1000
        await asyncio.sleep(0.05)


def running(nodes: list[TestNode]) -> dict[int, list[int]]:
    """partition -> the nodes that run its delivery"""
    found: dict[int, list[int]] = {}
    for node in nodes:
        if node.core is not None:
            for status in node.broker.webhooks.runners.statuses():
                found.setdefault(status.partition, []).append(node.id)
    return found


def test_every_record_is_delivered_in_order_though_its_runner_dies(tmp_path: Path) -> None:
    async def main() -> None:
        async with hooked(tmp_path) as (nodes, receiver, url, equip):
            await nodes[0].broker.create_topic("t", 3, 3)
            changes: dict[str, Change] = {"topic": "t", "url": url, "secret": SECRET, "batch_size": 7, "backoff_ms": 10}
            info, made = await nodes[1].broker.webhooks.put("hook", changes)
            assert made
            assert info.webhook.secret == ""
            receiver.failing = 5
            receiver.seconds = 0.002
            acknowledged: dict[int, int] = {0: 0, 1: 0, 2: 0}
            stop = asyncio.Event()

            async def produce(partition: int) -> None:
                number = 0
                while not stop.is_set():
                    batch = batch_of(*(b"%d" % n for n in range(number, number + 5)))
                    number += 5
                    produced = await insist(
                        nodes, lambda broker, batch=batch: broker.produce("t", partition, batch, timeout=5.0)
                    )
                    acknowledged[partition] = max(acknowledged[partition], produced.base_offset + 5)
                    await asyncio.sleep(0.01)

            producers = [asyncio.create_task(produce(partition)) for partition in range(3)]
            for turn in range(3):
                await asyncio.sleep(1.0)
                runners = running(nodes)
                assert all(len(found) == 1 for found in runners.values()), runners
                victim = nodes[runners[turn][0] - 1]
                await victim.kill()
                await asyncio.sleep(1.5)
                await victim.start()
                equip(victim.broker)
                await until(lambda victim=victim: victim.broker.readiness().ready, seconds=30)
            stop.set()
            await asyncio.gather(*producers)
            for partition, end in acknowledged.items():
                wanted = list(range(end))
                await until(lambda p=partition, w=wanted: receiver.first_seen(p)[: len(w)] == w, seconds=30)
            records = sum(len(body["records"]) for body in receiver.taken)
            distinct = sum(len(receiver.first_seen(partition)) for partition in range(3))
            print(f"{distinct} records in {len(receiver.taken)} requests, {records - distinct} of them again")
            await until(lambda: all_delivered(nodes), seconds=20)

    asyncio.run(main())


async def all_delivered(nodes: list[TestNode]) -> bool:
    info = await insist(nodes, lambda broker: broker.webhooks.get("hook"))
    return bool(info.lag == 0)


def test_any_node_takes_any_request_and_one_runs_each_delivery(tmp_path: Path) -> None:
    async def main() -> None:
        async with hooked(tmp_path) as (nodes, receiver, url, _):
            await nodes[0].broker.create_topic("t", 6, 3)
            await nodes[2].broker.webhooks.put("hook", {"topic": "t", "url": url, "secret": SECRET})
            await until(lambda: sorted(running(nodes)) == list(range(6)))
            assert all(len(found) == 1 for found in running(nodes).values())
            for node in nodes:
                info = await node.broker.webhooks.get("hook")
                assert sorted(run.partition for run in info.runs) == list(range(6)), "told by all, seen from any"
            assert (await nodes[0].broker.webhooks.pause("hook", True)).state == "paused"
            await until(lambda: running(nodes) == {})
            await nodes[1].broker.webhooks.pause("hook", False)
            await until(lambda: len(running(nodes)) == 6)
            for node in nodes:
                await node.broker.produce("t", node.id, batch_of(b"1"))
            await until(lambda: len(receiver.taken) == 3)
            await nodes[1].broker.webhooks.delete("hook")
            await until(lambda: running(nodes) == {})
            for node in nodes:
                try:
                    await node.broker.webhooks.get("hook")
                    raise AssertionError("it is still there")
                except UnknownWebhook:
                    assert await node.broker.consumer_groups.describe("webhook.hook") is None

    asyncio.run(main())


def test_a_queues_messages_are_delivered_though_their_runner_dies(tmp_path: Path) -> None:
    async def main() -> None:
        async with hooked(tmp_path) as (nodes, receiver, url, _):
            await nodes[0].broker.queues.put("q", {})
            changes: dict[str, Change] = {
                "queue": "q",
                "url": url,
                "secret": SECRET,
                "timeout_ms": 500,
                "batch_size": 3,
            }
            await nodes[0].broker.webhooks.put("hook", changes | {"concurrency": 2, "backoff_ms": 10})
            receiver.seconds = 0.02
            drafts = [MessageDraft(body=b"%d" % n, dedup_id=str(n)) for n in range(60)]
            await nodes[0].broker.queues.send("q", drafts)
            await until(lambda: len(receiver.taken) >= 3)
            victim = nodes[running(nodes)[-1][0] - 1]
            await victim.kill()
            rest = [node for node in nodes if node.core is not None]
            await until(
                lambda: {m["body"] for body in receiver.taken for m in body["messages"]} == set(range(60)), seconds=40
            )

            async def empty() -> bool:
                info = await insist(rest, lambda broker: broker.queues.get("q"))
                return bool(info.depth == 0)

            await until(empty, seconds=40)

    asyncio.run(main())
