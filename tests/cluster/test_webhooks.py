"""A webhook on real processes: the node that delivers is killed, again and again, and every record arrives in order."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.cluster.dev import DevCluster, dev_cluster
from tests.cluster.workload import TOPIC, Account, create_topic, produce_while

pytestmark = pytest.mark.cluster

RECORDS_MIN = 10_000
KILLS = 6
SECRET = "c1a9e07d42b84f6f9d35"


class Receiver:
    def __init__(self) -> None:
        self.seen: dict[int, dict[int, Any]] = {}
        """partition -> offset -> value, in the order in which they came first"""
        self.requests = 0
        self.again = 0

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.requests += 1
        known = self.seen.setdefault(body["partition"], {})
        for record in body["records"]:
            if record["offset"] in known:
                assert known[record["offset"]] == record["value"]
                self.again += 1
            known.setdefault(record["offset"], record["value"])
        return web.Response()


@asynccontextmanager
async def receiving() -> AsyncIterator[tuple[Receiver, str]]:
    receiver = Receiver()
    app = web.Application(client_max_size=16 << 20)
    app.router.add_post("/hook", receiver.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield receiver, f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    finally:
        await runner.cleanup()


async def _look(cluster: DevCluster, session: aiohttp.ClientSession) -> dict[str, Any] | None:
    """The webhook as some node shows it; None while none does."""
    for url in cluster.urls:
        try:
            async with session.get(f"{url}/v1/webhooks/hook", timeout=aiohttp.ClientTimeout(10)) as answer:
                if answer.status == 200:
                    found: dict[str, Any] = await answer.json()
                    return found
        except (aiohttp.ClientError, TimeoutError):
            continue
    return None


async def _kill_runners(cluster: DevCluster, session: aiohttp.ClientSession) -> int:
    """Kills whoever runs the most deliveries, and waits until it is back; how many were killed."""
    killed = 0
    loop = asyncio.get_running_loop()
    while killed < KILLS:
        await asyncio.sleep(2.0)
        shown = await _look(cluster, session)
        nodes = [one["node"] for one in (shown or {}).get("deliveries", ()) if one["node"] is not None]
        if not nodes:
            continue
        victim = max(set(nodes), key=nodes.count)
        cluster.kill(victim)
        killed += 1
        await asyncio.sleep(0.7)
        await loop.run_in_executor(None, cluster.wait_ready, victim)
    return killed


async def _run(cluster: DevCluster) -> tuple[Account, Receiver, int]:
    async with receiving() as (receiver, url), aiohttp.ClientSession() as session:
        await create_topic(cluster.urls, 6, 3)
        hook = {"topic": TOPIC, "url": url, "secret": SECRET, "batch_size": 200, "backoff_ms": 50}
        async with session.put(f"{cluster.urls[0]}/v1/webhooks/hook", json=hook) as answer:
            assert answer.status == 201, await answer.text()
        account = Account()
        killing = asyncio.create_task(_kill_runners(cluster, session))
        await produce_while(cluster.urls, 6, RECORDS_MIN, lambda: not killing.done(), account)
        killed = await killing
        deadline = time.monotonic() + 60
        while (await _look(cluster, session) or {}).get("lag") != 0:
            assert time.monotonic() < deadline, await _look(cluster, session)
            await asyncio.sleep(0.2)
        return account, receiver, killed


def test_every_record_arrives_in_order_though_runners_are_killed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAFTBROKER_WEBHOOKS__ALLOWED_NETWORKS", "127.0.0.0/8")
    with dev_cluster(tmp_path, 3) as cluster:
        try:
            account, receiver, killed = asyncio.run(_run(cluster))
        except BaseException:
            with capsys.disabled():
                print(cluster.output())
            raise
    records = sum(map(len, receiver.seen.values()))
    with capsys.disabled():
        print(
            f"\n{killed} runners killed: {account.records} records acknowledged, {records} arrived in"
            f" {receiver.requests} requests, {receiver.again} again"
        )
    for partition, known in account.acknowledged.items():
        seen = receiver.seen[partition]
        assert known.items() <= seen.items()
        assert list(seen) == sorted(seen), "in order of their offsets when they come first"
        assert list(seen) == list(range(len(seen))), "and none is missing"
